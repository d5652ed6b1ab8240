//! `cp`: files between a container and this machine.

mod pack;
mod plan;
mod unpack;

use std::io::Write as _;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use base64::Engine as _;
use clap::Args;
use serde_json::Value;

use plan::{Base, Place, directory_and_base};

use crate::cli::client::escape;
use crate::cli::client::stream::Source;
use crate::cli::context::Context;
use crate::cli::exit::fail;
use crate::cli::image::stdin_stream;
use crate::cli::look::Look as _;
use crate::cli::{human, output, terminal};

/// Bits of Go's `os.FileMode`.
const DIRECTORY: i64 = 1 << 31;
const LINK: i64 = 1 << 27;
/// Devices, pipes and sockets.
const SPECIAL: i64 = 1 << 26 | 1 << 25 | 1 << 24 | 1 << 21;

/// Copy files/folders between a container and the local filesystem
#[derive(Debug, Args)]
#[command(
    override_usage = "shoal cp [OPTIONS] CONTAINER:SRC_PATH DEST_PATH|-\n       shoal cp [OPTIONS] SRC_PATH|- CONTAINER:DEST_PATH",
    after_help = "Use '-' as the source to read a tar archive from stdin and extract it to a directory in a container, or as the
destination to stream a tar archive of a container source to stdout.

Examples:
  shoal cp web:/etc/nginx/nginx.conf .
  shoal cp site/. web:/usr/share/nginx/html"
)]
pub(crate) struct CopyArgs {
    /// Archive mode (copy all uid/gid information)
    #[arg(short, long)]
    archive: bool,
    /// Always follow symbol link in SRC_PATH
    #[arg(short = 'L', long)]
    follow_link: bool,
    /// Suppress progress output during copy
    #[arg(short, long)]
    quiet: bool,
    /// What to copy
    #[arg(value_name = "SOURCE", allow_hyphen_values = true)]
    source: String,
    /// Where to
    #[arg(value_name = "DESTINATION", allow_hyphen_values = true)]
    destination: String,
}

impl CopyArgs {
    /// Runs the command.
    pub(crate) async fn run(self, context: &Context) -> anyhow::Result<()> {
        match (in_container(&self.source), in_container(&self.destination)) {
            (Some(_), Some(_)) => Err(fail(1, "copying between containers is not supported")),
            (None, None) => Err(fail(1, "must specify at least one container source")),
            (Some((container, path)), None) => self.copy_out(context, container, path).await,
            (None, Some((container, path))) => self.copy_in(context, container, path).await,
        }
    }

    async fn copy_out(&self, context: &Context, container: &str, path: &str) -> anyhow::Result<()> {
        let mut path = path.to_owned();
        let mut source = Base::default();
        if self.follow_link
            && let Some(stat) = stat(context, container, &path).await?
            && stat.number("mode") & LINK != 0
        {
            source.renamed = Some(directory_and_base(&path).1);
            stat.text("linkTarget").clone_into(&mut path);
        }
        let request = context.client.get(format!("/containers/{}/archive", escape(container))).query("path", &path);
        if self.destination == "-" {
            let mut body = Source::Body(request.send().await?.into_body());
            while let Some(chunk) = body.chunk().await? {
                std::io::stdout().lock().write_all(&chunk)?;
            }
            return Ok(());
        }
        let destination = plan::absolute(&self.destination)?;
        let above = directory_and_base(&destination).0;
        if !Path::new(&above).is_dir() {
            return Err(fail(1, format!("invalid output path: directory \"{above}\" does not exist")));
        }
        let response = request.send().await?;
        let stat = path_stat(response.headers()).context("the daemon does not say what it sends")?;
        (source.path, source.is_directory) = (path, stat.number("mode") & DIRECTORY != 0);
        // Links at the end are followed, as far as they lead.
        let place = match std::fs::metadata(&destination) {
            Ok(found) => Place { path: destination.clone(), exists: true, is_directory: found.is_dir() },
            Err(_) => Place { path: destination.clone(), exists: false, is_directory: false },
        };
        let plan = plan::plan(&source, &place)?;
        let bytes = unpack::unpack(response.into_body(), plan).await?;
        self.say(bytes, &destination);
        Ok(())
    }

    async fn copy_in(&self, context: &Context, container: &str, path: &str) -> anyhow::Result<()> {
        let mut place = Place { path: path.to_owned(), exists: false, is_directory: false };
        let mut found = stat(context, container, path).await?;
        if let Some(link) = found.as_ref().filter(|stat| stat.number("mode") & LINK != 0) {
            link.text("linkTarget").clone_into(&mut place.path);
            found = stat(context, container, &place.path).await?;
        }
        if let Some(stat) = found {
            let mode = stat.number("mode");
            if mode & SPECIAL != 0 {
                let message = format!("destination \"{container}:{path}\" must be a directory or a regular file");
                return Err(fail(1, message));
            }
            (place.exists, place.is_directory) = (true, mode & DIRECTORY != 0);
        }
        let request = context.client.put(format!("/containers/{}/archive", escape(container)));
        let request = request.query("noOverwriteDirNonDir", "true").query_if("copyUIDGID", self.archive);
        if self.source == "-" {
            if !place.is_directory {
                return Err(fail(1, format!("destination \"{container}:{path}\" must be a directory")));
            }
            return request.query("path", &place.path).tar(stdin_stream()).done().await;
        }
        let source = plan::local(&self.source, self.follow_link)?;
        let plan = plan::plan(&source, &place)?;
        let (stream, bytes) = pack::pack(PathBuf::from(&source.path), plan.name(&source));
        request.query("path", &plan.directory).tar(stream).done().await?;
        self.say(bytes.load(std::sync::atomic::Ordering::Relaxed), &format!("{container}:{path}"));
        Ok(())
    }

    fn say(&self, bytes: u64, destination: &str) {
        if !self.quiet && terminal::stdout_is_terminal() {
            let size = human::decimal_size3(i64::try_from(bytes).unwrap_or(i64::MAX));
            output::note(format!("Successfully copied {size} to {destination}"));
        }
    }
}

/// The container and the path in it, when an argument is `CONTAINER:PATH`.
fn in_container(argument: &str) -> Option<(&str, &str)> {
    if argument.starts_with('/') || argument.starts_with('.') {
        return None;
    }
    argument.split_once(':').filter(|(container, _)| !container.is_empty())
}

/// What the daemon knows about a path; `None` when there is nothing, or nothing to be told without asking for the content.
async fn stat(context: &Context, container: &str, path: &str) -> anyhow::Result<Option<Value>> {
    let request = context.client.head(format!("/containers/{}/archive", escape(container))).query("path", path);
    Ok(request.send().await.ok().and_then(|response| path_stat(response.headers())))
}

fn path_stat(headers: &http::HeaderMap) -> Option<Value> {
    let text = headers.get("x-docker-container-path-stat")?;
    let json = base64::engine::general_purpose::STANDARD.decode(text).ok()?;
    serde_json::from_slice(&json).ok()
}
