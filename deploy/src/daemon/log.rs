//! The daemon's log: to standard error, as text or JSON, at a level that can change.

use anyhow::Context;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer, Registry, reload};

use super::options::Settings;

/// Changes the level.
#[derive(Debug, Clone)]
pub(crate) struct LogLevel(reload::Handle<EnvFilter, Registry>);

impl LogLevel {
    /// Takes the level of these settings.
    pub(crate) fn set(&self, level: &str) {
        if let Err(error) = filter(level).and_then(|filter| self.0.reload(filter).context("log filter")) {
            tracing::error!(error = format!("{error:#}"), "cannot change the log level");
        }
    }
}

/// The libraries' own chatter is of interest only when it is asked for by name, with `SHOAL_LOG`.
fn filter(level: &str) -> anyhow::Result<EnvFilter> {
    let default =
        format!("{level},openraft=warn,h2=warn,hyper=warn,tonic=warn,tower=warn,rustls=warn,libcontainer=warn");
    EnvFilter::try_from_env("SHOAL_LOG").or_else(|_| EnvFilter::try_new(default)).context("log filter")
}

/// Sets the log up, once in a process.
///
/// # Errors
/// When it is set up already.
pub(crate) fn init(settings: &Settings) -> anyhow::Result<LogLevel> {
    let (filter, handle) = reload::Layer::new(filter(&settings.log_level)?);
    // Its complaints about a log that takes nothing would go to where the log goes, and end the thread that they cannot be
    // written to: a full disk must cost lines only.
    let lines =
        tracing_subscriber::fmt::layer().with_writer(std::io::stderr).with_ansi(false).log_internal_errors(false);
    let lines = if settings.log_json { lines.json().flatten_event(true).boxed() } else { lines.boxed() };
    tracing_subscriber::registry()
        .with(filter)
        .with(lines)
        .try_init()
        .map_err(|error| anyhow::anyhow!("cannot set up the log: {error}"))?;
    Ok(LogLevel(handle))
}
