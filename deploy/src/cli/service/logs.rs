//! `service logs`: the logs of all tasks of a service, or of one task, each line with the task that said it.

use std::collections::BTreeMap;
use std::io::Write as _;

use clap::Args;
use serde_json::Value;

use crate::cli::attach::copy_output;
use crate::cli::client::stream::{Channel, Demultiplexer, Source};
use crate::cli::client::{escape, is_not_found};
use crate::cli::context::Context;
use crate::cli::exit::fail;
use crate::cli::human::short_id;
use crate::cli::look::Look as _;
use crate::cli::parse::time;
use crate::cli::tasks::Names;

/// Fetch the logs of a service or task
#[derive(Debug, Args)]
#[command(after_help = "Example:
  shoal service logs -f --tail 10 web")]
pub(super) struct LogsArgs {
    /// Show extra details provided to logs
    #[arg(long)]
    details: bool,
    /// Follow log output
    #[arg(short, long)]
    follow: bool,
    /// Do not map IDs to Names in output
    #[arg(long)]
    no_resolve: bool,
    /// Do not include task IDs in output
    #[arg(long)]
    no_task_ids: bool,
    /// Do not truncate output
    #[arg(long)]
    no_trunc: bool,
    /// Do not neatly format logs
    #[arg(long)]
    raw: bool,
    /// Show logs since a time (2026-01-02T13:23:37Z) or for a span (42m)
    #[arg(long)]
    since: Option<String>,
    /// Number of lines to show from the end of the logs
    #[arg(short = 'n', long, default_value = "all")]
    tail: String,
    /// Show timestamps
    #[arg(short, long)]
    timestamps: bool,
    /// Service or task
    #[arg(value_name = "SERVICE|TASK")]
    target: String,
}

impl LogsArgs {
    /// Runs the command.
    pub(super) async fn run(self, context: &Context) -> anyhow::Result<()> {
        let (kind, object) = match context.object("services", &self.target).await {
            Ok(service) => ("services", service),
            Err(error) if is_not_found(&error) => match context.object("tasks", &self.target).await {
                Ok(task) => ("tasks", task),
                Err(error) if is_not_found(&error) => {
                    return Err(fail(1, format!("no such task or service: {}", self.target)));
                }
                Err(error) => return Err(error),
            },
            Err(error) => return Err(error),
        };
        let tty = object.truth("Spec.TaskTemplate.ContainerSpec.TTY") || object.truth("Spec.ContainerSpec.TTY");
        if tty && !self.raw {
            return Err(fail(1, "tty service logs only supported with --raw"));
        }
        let since = self
            .since
            .as_deref()
            .map(|since| time::instant(since, context.now()))
            .transpose()
            .map_err(anyhow::Error::msg)?;
        let request = context.client.get(format!("/{kind}/{}/logs", escape(object.text("ID"))));
        let request = request
            .query_if("stdout", true)
            .query_if("stderr", true)
            .query_if("follow", self.follow)
            .query_if("timestamps", self.timestamps);
        let request =
            request.query_some("since", since).query("tail", &self.tail).query_if("details", !self.raw || self.details);
        let body = Source::Body(request.send().await?.into_body());
        if self.raw {
            return copy_output(body, !tty).await;
        }
        self.formatted(context, body).await
    }

    async fn formatted(&self, context: &Context, mut source: Source) -> anyhow::Result<()> {
        let mut prefixes =
            Prefixes { names: Names::fetch(context, self.no_resolve).await?, known: BTreeMap::new(), width: 0 };
        let mut demultiplexer = Demultiplexer::default();
        while let Some(chunk) = source.chunk().await? {
            demultiplexer.push(&chunk);
            while let Some((channel, data)) = demultiplexer.next()? {
                if channel == Channel::SystemError {
                    anyhow::bail!("error from daemon in stream: {}", String::from_utf8_lossy(&data));
                }
                let line = self.line(context, &mut prefixes, &String::from_utf8_lossy(&data)).await;
                match channel {
                    Channel::Stderr => std::io::stderr().lock().write_all(line.as_bytes())?,
                    _ => std::io::stdout().lock().write_all(line.as_bytes())?,
                }
            }
            std::io::stdout().lock().flush()?;
        }
        Ok(())
    }

    /// `[timestamp ]details message` into `[timestamp ]web.1.abc@node    | message`.
    async fn line(&self, context: &Context, prefixes: &mut Prefixes, line: &str) -> String {
        let (timestamp, rest) = if self.timestamps { line.split_once(' ').unwrap_or((line, "")) } else { ("", line) };
        let (details, message) = rest.split_once(' ').unwrap_or((rest, ""));
        let details: BTreeMap<String, String> = details
            .split(',')
            .filter_map(|pair| pair.split_once('='))
            .map(|(key, value)| (unescape(key), unescape(value)))
            .collect();
        let task = details.get("com.docker.swarm.task.id").cloned().unwrap_or_default();
        let node = details.get("com.docker.swarm.node.id").cloned().unwrap_or_default();
        let prefix = prefixes.of(context, self, &task, &node).await;
        let extra: Vec<String> = details
            .iter()
            .filter(|(key, _)| !key.starts_with("com.docker.swarm."))
            .map(|(key, value)| format!("{key}={value}"))
            .collect();
        let extra = if self.details && !extra.is_empty() { format!("{} ", extra.join(",")) } else { String::new() };
        let space = if timestamp.is_empty() { "" } else { " " };
        format!("{timestamp}{space}{prefix}    | {extra}{message}")
    }
}

/// The names in front of lines, as wide as the widest so far.
struct Prefixes {
    names: Names,
    known: BTreeMap<String, String>,
    width: usize,
}

impl Prefixes {
    async fn of(&mut self, context: &Context, args: &LogsArgs, task: &str, node: &str) -> String {
        if !self.known.contains_key(task) {
            let object = context.object("tasks", task).await.unwrap_or(Value::Null);
            let mut name = if object.is_null() || args.no_resolve { task.to_owned() } else { self.names.task(&object) };
            if !args.no_task_ids && name != task {
                name = format!("{name}.{}", if args.no_trunc { task } else { short_id(task) });
            }
            let node = self.names.node(node).to_owned();
            let prefix = format!("{name}@{node}");
            self.width = self.width.max(prefix.len());
            self.known.insert(task.to_owned(), prefix);
        }
        let prefix = self.known.get(task).cloned().unwrap_or_default();
        format!("{prefix:<width$}", width = self.width)
    }
}

/// Details are escaped as in a URL's query.
fn unescape(text: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = text.as_bytes();
    while let Some((first, tail)) = rest.split_first() {
        let code = (*first == b'%').then(|| text_of(tail.get(..2))).flatten();
        match code {
            Some(byte) => {
                bytes.push(byte);
                rest = tail.get(2..).unwrap_or_default();
            }
            None => {
                bytes.push(if *first == b'+' { b' ' } else { *first });
                rest = tail;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

fn text_of(digits: Option<&[u8]>) -> Option<u8> {
    u8::from_str_radix(std::str::from_utf8(digits?).ok()?, 16).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn details_are_unescaped() {
        assert_eq!(unescape("a%20b+c%zz%4"), "a b c%zz%4");
    }
}
