//! Signals: stop, reload, dump.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::SyncSender;

use shoal_api::Dump;
use shoal_kit::clock::{Clock, SystemClock};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;

use super::dump;

/// The signals that the daemon hears.
#[derive(Debug)]
pub(crate) struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
    dump: Signal,
}

impl Signals {
    /// Listens from now on: none of them ends the process any more.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub(crate) fn listen() -> std::io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hangup: signal(SignalKind::hangup())?,
            dump: signal(SignalKind::user_defined1())?,
        })
    }

    /// The first signal to stop asks for an orderly stop; a second one ends the process at once, as dockerd's third does.
    pub(crate) async fn obey(
        mut self,
        shutdown: CancellationToken,
        reload: SyncSender<()>,
        describe: Dump,
        folder: PathBuf,
    ) {
        let mut asked = 0;
        loop {
            tokio::select! {
                _ = self.terminate.recv() => {}
                _ = self.interrupt.recv() => {}
                _ = self.hangup.recv() => {
                    // Full: a reload that has yet to begin will see what is new.
                    let _asked = reload.try_send(());
                    continue;
                }
                _ = self.dump.recv() => {
                    let (describe, folder) = (Arc::clone(&describe), folder.clone());
                    tokio::task::spawn_blocking(move || write_dump(&describe, &folder));
                    continue;
                }
            }
            asked += 1;
            if asked > 1 {
                tracing::warn!("told to stop again: ending at once");
                std::process::exit(1);
            }
            shutdown.cancel();
        }
    }
}

fn write_dump(describe: &Dump, folder: &std::path::Path) {
    match dump::write(folder, &SystemClock.now().to_string(), &describe()) {
        Ok(path) => tracing::info!(file = %path.display(), "stacks written"),
        Err(error) => tracing::error!(%error, folder = %folder.display(), "cannot write stacks"),
    }
}
