//! Images in and out as tars: load, save, import.

use std::path::{Path, PathBuf};
use std::pin::Pin;

use anyhow::Context as _;
use bytes::Bytes;
use clap::Args;
use futures::Stream;
use serde_json::Value;
use tokio::io::AsyncWriteExt as _;

use crate::cli::client::Request;
use crate::cli::client::stream::{Source, each_document};
use crate::cli::context::Context;
use crate::cli::exit::fail;
use crate::cli::look::Look as _;
use crate::cli::refused::PlatformOption;
use crate::cli::{output, terminal};

pub(crate) type Chunks = Pin<Box<dyn Stream<Item = std::io::Result<Bytes>> + Send>>;

/// A file's content, or standard input's for `-`.
async fn content(file: Option<&Path>) -> anyhow::Result<Chunks> {
    match file {
        Some(file) => {
            let open = tokio::fs::File::open(file).await.with_context(|| format!("open {}", file.display()))?;
            Ok(Box::pin(tokio_util::io::ReaderStream::with_capacity(open, 256 * 1024)))
        }
        None => Ok(stdin_stream()),
    }
}

/// Standard input as the body of a request.
pub(crate) fn stdin_stream() -> Chunks {
    let chunks = terminal::stdin_chunks();
    Box::pin(futures::stream::unfold(chunks, |mut chunks| async {
        chunks.recv().await.map(|chunk| (Ok(chunk), chunks))
    }))
}

/// Prints what the daemon says on its way; an error in the stream is the command's failure.
async fn follow(response: http::Response<hyper::body::Incoming>, quiet: bool) -> anyhow::Result<()> {
    each_document(response.into_body(), |document: Value| {
        let error = if document.text("errorDetail.message").is_empty() {
            document.text("error")
        } else {
            document.text("errorDetail.message")
        };
        if !error.is_empty() {
            return Err(fail(1, error));
        }
        if !document.text("stream").is_empty() {
            return if quiet { Ok(()) } else { output::text(document.text("stream")) };
        }
        match document.text("status") {
            "" => Ok(()),
            _ if quiet || !document.at("progressDetail").is_null() => Ok(()),
            status if document.text("id").is_empty() => output::line(status),
            status => output::line(format!("{}: {status}", document.text("id"))),
        }
    })
    .await
}

/// Load an image from a tar archive or STDIN
#[derive(Debug, Args)]
#[command(after_help = "Example; the tar is docker's (of 'save') or an OCI layout:
  shoal load -i web.tar")]
pub(crate) struct LoadArgs {
    /// Read from tar archive file, instead of STDIN
    #[arg(short, long, value_name = "FILE")]
    input: Option<PathBuf>,
    #[command(flatten)]
    platform: PlatformOption,
    /// Suppress the load output
    #[arg(short, long)]
    quiet: bool,
}

impl LoadArgs {
    /// Runs the command.
    pub(crate) async fn run(self, context: &Context) -> anyhow::Result<()> {
        self.platform.check()?;
        if self.input.is_none() && terminal::stdin_is_terminal() {
            return Err(fail(1, "requested load from stdin, but stdin is empty"));
        }
        let tar = content(self.input.as_deref()).await?;
        let response = context.client.post("/images/load").query("quiet", "1").tar(tar).send().await?;
        follow(response, false).await
    }
}

/// Import the contents from a tarball to create a filesystem image
#[derive(Debug, Args)]
#[command(after_help = "Example:
  shoal import --change 'CMD [\"sh\"]' rootfs.tar base:1
  tar -C rootfs -c . | shoal import - base:1")]
pub(crate) struct ImportArgs {
    /// Apply Dockerfile instruction to the created image
    #[arg(short, long, value_name = "INSTRUCTION")]
    change: Vec<String>,
    /// Set commit message for imported image
    #[arg(short, long)]
    message: Option<String>,
    /// Set platform if server is multi-platform capable
    #[arg(long)]
    platform: Option<String>,
    /// A tar, or - for STDIN
    #[arg(value_name = "file|-")]
    file: String,
    /// Name of the image
    #[arg(value_name = "REPOSITORY[:TAG]")]
    name: Option<String>,
}

impl ImportArgs {
    /// Runs the command.
    pub(crate) async fn run(self, context: &Context) -> anyhow::Result<()> {
        if self.file.starts_with("http://") || self.file.starts_with("https://") {
            return Err(fail(1, "import from a URL is not supported: fetch the file and give its path"));
        }
        let file = (self.file != "-").then(|| PathBuf::from(&self.file));
        let (repository, tag) = super::split_name(self.name.as_deref().unwrap_or_default());
        let mut request =
            context.client.post("/images/create").query("fromSrc", "-").query("repo", repository).query("tag", tag);
        request = request.query_some("message", self.message).query_some("platform", self.platform);
        for change in &self.change {
            request = request.query("changes", change);
        }
        let response = request.tar(content(file.as_deref()).await?).send().await?;
        follow(response, false).await
    }
}

/// Save one or more images to a tar archive (streamed to STDOUT by default)
#[derive(Debug, Args)]
#[command(after_help = "Example; 'shoal load' on another machine reads it:
  shoal save -o web.tar web:1")]
pub(crate) struct SaveArgs {
    /// Write to a file, instead of STDOUT
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
    #[command(flatten)]
    platform: PlatformOption,
    /// Images
    #[arg(required = true, value_name = "IMAGE")]
    images: Vec<String>,
}

impl SaveArgs {
    /// Runs the command.
    pub(crate) async fn run(self, context: &Context) -> anyhow::Result<()> {
        self.platform.check()?;
        let mut request = context.client.get("/images/get");
        for image in &self.images {
            request = request.query("names", image);
        }
        save_to(request, self.output.as_deref(), "save").await
    }
}

/// Writes the answer to a request, an archive, to a file or to standard output.
pub(crate) async fn save_to(request: Request<'_>, path: Option<&Path>, verb: &str) -> anyhow::Result<()> {
    if path.is_none() && terminal::stdout_is_terminal() {
        return Err(fail(1, format!("cowardly refusing to {verb} to a terminal. Use the -o flag or redirect")));
    }
    let mut source = Source::Body(request.send().await?.into_body());
    let Some(path) = path else {
        while let Some(chunk) = source.chunk().await? {
            use std::io::Write as _;
            std::io::stdout().lock().write_all(&chunk)?;
        }
        return Ok(());
    };
    // Written beside its place and renamed, so that a failure leaves no half of a tar.
    let partial = path.with_extension(format!("partial-{}", std::process::id()));
    match write(&mut source, &partial).await {
        Ok(()) => std::fs::rename(&partial, path).with_context(|| format!("write {}", path.display())),
        Err(error) => {
            let _ = std::fs::remove_file(&partial);
            Err(error)
        }
    }
}

async fn write(source: &mut Source, path: &Path) -> anyhow::Result<()> {
    let mut file = tokio::fs::File::create(path).await.with_context(|| format!("create {}", path.display()))?;
    while let Some(chunk) = source.chunk().await? {
        file.write_all(&chunk).await.with_context(|| format!("write {}", path.display()))?;
    }
    file.flush().await.with_context(|| format!("write {}", path.display()))
}
