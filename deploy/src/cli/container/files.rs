//! `commit`, `diff` and `export`.

use std::path::PathBuf;

use clap::Args;
use serde_json::Value;

use crate::cli::client::escape;
use crate::cli::context::Context;
use crate::cli::image::{save_to, split_name};
use crate::cli::look::Look as _;
use crate::cli::output;

/// Create a new image from a container's changes
#[derive(Debug, Args)]
#[command(after_help = "Example:
  shoal commit --change 'CMD [\"web\"]' -m 'with the tools' work web:2")]
pub(crate) struct CommitArgs {
    /// Author (e.g., "John Hannibal Smith <hannibal@a-team.com>")
    #[arg(short, long)]
    author: Option<String>,
    /// Apply Dockerfile instruction to the created image
    #[arg(short, long, value_name = "INSTRUCTION")]
    change: Vec<String>,
    /// Commit message
    #[arg(short, long)]
    message: Option<String>,
    /// Pause container during commit
    #[arg(short, long, num_args = 0..=1, require_equals = true, action = clap::ArgAction::Set, default_missing_value = "true", default_value = "true", value_name = "BOOL")]
    pause: bool,
    /// Container
    container: String,
    /// Name of the image
    #[arg(value_name = "REPOSITORY[:TAG]")]
    name: Option<String>,
}

impl CommitArgs {
    /// Runs the command.
    pub(crate) async fn run(self, context: &Context) -> anyhow::Result<()> {
        let (repository, tag) = split_name(self.name.as_deref().unwrap_or_default());
        let mut request = context.client.post("/commit").query("container", &self.container);
        request = request.query("repo", repository).query("tag", tag).query_some("author", self.author);
        request = request.query_some("comment", self.message).query("pause", if self.pause { "1" } else { "0" });
        for change in &self.change {
            request = request.query("changes", change);
        }
        output::line(request.json().await?.text("Id"))
    }
}

/// Inspect changes to files or directories on a container's filesystem
#[derive(Debug, Args)]
#[command(after_help = "A is for added, C for changed and D for deleted.

Example:
  shoal diff web")]
pub(crate) struct DiffArgs {
    /// Container
    container: String,
}

impl DiffArgs {
    /// Runs the command.
    pub(crate) async fn run(self, context: &Context) -> anyhow::Result<()> {
        let changes = context.client.fetch(format!("/containers/{}/changes", escape(&self.container))).await?;
        output::text(changes_text(changes.items("")))
    }
}

fn changes_text(changes: &[Value]) -> String {
    let letter = |kind| match kind {
        0 => "C",
        1 => "A",
        _ => "D",
    };
    changes.iter().map(|change| format!("{} {}\n", letter(change.number("Kind")), change.text("Path"))).collect()
}

/// Export a container's filesystem as a tar archive
#[derive(Debug, Args)]
#[command(after_help = "Volumes are not in it.

Example:
  shoal export -o web.tar web && shoal import web.tar web:flat")]
pub(crate) struct ExportArgs {
    /// Write to a file, instead of STDOUT
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Container
    container: String,
}

impl ExportArgs {
    /// Runs the command.
    pub(crate) async fn run(self, context: &Context) -> anyhow::Result<()> {
        let request = context.client.get(format!("/containers/{}/export", escape(&self.container)));
        save_to(request, self.output.as_deref(), "export").await
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn changes_have_dockers_letters() {
        let changes =
            [json!({"Path": "/a", "Kind": 0}), json!({"Path": "/a/b", "Kind": 1}), json!({"Path": "/c", "Kind": 2})];
        assert_eq!(changes_text(&changes), "C /a\nA /a/b\nD /c\n");
    }
}
