//! One container in memory: its record, its process, and who waits for it.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use shoal_engine_sys::mount_tree::MountTree;
use shoal_proto::error::Failure;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::lifecycle::{self, Command, Input, Phase, Refusal};
use super::record::{MountKind, Record};
use super::streams::WaitingClient;
use crate::health::HealthState;
use crate::runtime::spec::ExecBasis;
use crate::shim::client::Shim;

/// What others wait for.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Progress {
    pub(crate) phase: Phase,
    /// Ends since this daemon knows the container. A failed start is none.
    pub(crate) ends: u64,
    pub(crate) exit_code: i32,
    pub(crate) error: String,
    pub(crate) removed: bool,
}

/// One container.
///
/// Locks: `operation` is held across a start, an end, a removal and other changes of its life, and serialises them; the
/// others are held for a look only, never across an await.
#[derive(Debug)]
pub(crate) struct Container {
    pub(crate) id: String,
    pub(crate) folder: PathBuf,
    pub(crate) operation: tokio::sync::Mutex<()>,
    record: Mutex<Record>,
    saving: Mutex<()>,
    progress: watch::Sender<Progress>,
    shim: Mutex<Option<Shim>>,
    /// What its execs take over; none when it was not looked for since the daemon found it running.
    exec_basis: Mutex<Option<Arc<ExecBasis>>>,
    pub(crate) waiting_clients: Mutex<Vec<WaitingClient>>,
    pub(crate) execs: Mutex<BTreeSet<String>>,
    pub(crate) health: Mutex<HealthState>,
    restart_timer: Mutex<Option<CancellationToken>>,
    starting: Mutex<Option<StartTokens>>,
    /// How many operations want no start of it.
    refused: AtomicU32,
    /// Read by those who look at its files, written by its start: its root must not be mounted twice.
    pub(crate) file_access: Arc<tokio::sync::RwLock<()>>,
    /// The files that those who look at them share while it does not run.
    pub(crate) opened_files: Mutex<Weak<MountTree>>,
    /// How many operations want it to outlast its own end, whatever its record says.
    kept: AtomicU32,
}

/// As long as this lives, a container is not removed by its own end. Not in the record: a daemon that dies meanwhile leaves
/// what the user asked for.
#[derive(Debug)]
pub(crate) struct Keep(Arc<Container>);

impl Drop for Keep {
    fn drop(&mut self) {
        self.0.kept.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A start that goes on.
#[derive(Debug, Clone)]
struct StartTokens {
    given_up: CancellationToken,
    over: CancellationToken,
}

/// Says to the others, as long as it lives, that a container is being started.
#[derive(Debug)]
pub(crate) struct Starting {
    container: Arc<Container>,
    tokens: StartTokens,
}

impl Starting {
    /// Cancelled when somebody does not want the container started any more.
    pub(crate) fn given_up(&self) -> &CancellationToken {
        &self.tokens.given_up
    }
}

impl Drop for Starting {
    fn drop(&mut self) {
        *locked(&self.container.starting) = None;
        self.tokens.over.cancel();
    }
}

/// As long as this lives, a container is not started.
#[derive(Debug)]
pub(crate) struct NoStart(Arc<Container>);

impl Drop for NoStart {
    fn drop(&mut self) {
        self.0.refused.fetch_sub(1, Ordering::SeqCst);
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Container {
    pub(crate) fn new(record: Record, folder: PathBuf) -> Arc<Self> {
        let progress = Progress {
            phase: record.state.phase,
            exit_code: record.state.exit_code,
            error: record.state.error.clone(),
            ..Progress::default()
        };
        Arc::new(Self {
            id: record.id.clone(),
            folder,
            operation: tokio::sync::Mutex::new(()),
            record: Mutex::new(record),
            saving: Mutex::new(()),
            progress: watch::Sender::new(progress),
            shim: Mutex::new(None),
            exec_basis: Mutex::new(None),
            waiting_clients: Mutex::default(),
            execs: Mutex::default(),
            health: Mutex::default(),
            restart_timer: Mutex::new(None),
            starting: Mutex::new(None),
            refused: AtomicU32::new(0),
            file_access: Arc::default(),
            opened_files: Mutex::default(),
            kept: AtomicU32::new(0),
        })
    }

    /// Keeps its own end from removing it.
    pub(crate) fn keep(self: &Arc<Self>) -> Keep {
        self.kept.fetch_add(1, Ordering::Relaxed);
        Keep(Arc::clone(self))
    }

    /// Begins a start. The caller has its turn.
    pub(crate) fn begin_start(self: &Arc<Self>) -> Starting {
        let tokens = StartTokens { given_up: CancellationToken::new(), over: CancellationToken::new() };
        *locked(&self.starting) = Some(tokens.clone());
        // After the tokens can be seen: whoever refuses does so before it looks for them.
        if self.refused.load(Ordering::SeqCst) > 0 {
            tokens.given_up.cancel();
        }
        Starting { container: Arc::clone(self), tokens }
    }

    /// Gives up the start that goes on, and lets none come.
    pub(crate) fn refuse_start(self: &Arc<Self>) -> NoStart {
        self.refused.fetch_add(1, Ordering::SeqCst);
        if let Some(tokens) = &*locked(&self.starting) {
            tokens.given_up.cancel();
        }
        NoStart(Arc::clone(self))
    }

    /// Tells when the start that goes on is over; nothing when none does.
    pub(crate) fn start_over(&self) -> Option<CancellationToken> {
        locked(&self.starting).as_ref().map(|tokens| tokens.over.clone())
    }

    /// The record. Look and let go.
    pub(crate) fn record(&self) -> MutexGuard<'_, Record> {
        locked(&self.record)
    }

    pub(crate) fn phase(&self) -> Phase {
        self.record().state.phase
    }

    /// Has it volumes, which must be given back when it ends?
    pub(crate) fn has_volumes(&self) -> bool {
        self.record().mounts.iter().any(|mount| mount.kind == MountKind::Volume)
    }

    pub(crate) fn name(&self) -> String {
        self.record().name.clone()
    }

    pub(crate) fn log_path(&self) -> PathBuf {
        super::log_source::json_file(&self.folder, &self.id)
    }

    /// Takes a step. Who waits is told by [`Self::tell`], once what follows is done.
    pub(crate) fn step(&self, input: Input) -> Result<Vec<Command>, Refusal> {
        let mut record = self.record();
        let mut wishes = record.wishes();
        wishes.auto_remove &= self.kept.load(Ordering::Relaxed) == 0;
        let (state, commands) = lifecycle::step(&record.state, wishes, input)?;
        record.state = state;
        Ok(commands)
    }

    /// Writes the record as it is now. False when the disk does not take it.
    pub(crate) fn save(&self) -> bool {
        let _one_at_a_time = locked(&self.saving);
        let record = self.record().clone();
        let saved = record.save(&self.folder);
        if let Err(error) = &saved {
            tracing::error!(container = %self.id, folder = %self.folder.display(), %error, "cannot save the container");
        }
        saved.is_ok()
    }

    /// The same on a thread that may wait for the disk.
    pub(crate) async fn store(self: &Arc<Self>) -> bool {
        let container = Arc::clone(self);
        let saved = tokio::task::spawn_blocking(move || container.save()).await;
        saved.unwrap_or_else(|error| {
            tracing::error!(container = %self.id, %error, "saving the container failed");
            false
        })
    }

    /// Tells those who wait. `ended` when a run has ended.
    pub(crate) fn tell(&self, ended: bool) {
        let (phase, exit_code, error) = {
            let record = self.record();
            (record.state.phase, record.state.exit_code, record.state.error.clone())
        };
        self.progress.send_modify(|progress| {
            (progress.phase, progress.exit_code, progress.error) = (phase, exit_code, error);
            progress.ends += u64::from(ended);
        });
    }

    /// Tells those who wait that it is gone.
    pub(crate) fn tell_removed(&self) {
        self.progress.send_modify(|progress| progress.removed = true);
    }

    pub(crate) fn progress(&self) -> watch::Receiver<Progress> {
        self.progress.subscribe()
    }

    /// Returns when it has no process any more, or is gone.
    pub(crate) async fn ended(&self) {
        let mut progress = self.progress();
        // The sender lives in `self`.
        let _never_closed =
            progress.wait_for(|progress| progress.removed || !progress.phase.has_process()).await.is_ok();
    }

    pub(crate) fn shim(&self) -> Option<Shim> {
        locked(&self.shim).clone()
    }

    pub(crate) fn set_shim(&self, shim: Option<Shim>) {
        if shim.is_none() {
            *locked(&self.exec_basis) = None;
        }
        *locked(&self.shim) = shim;
    }

    pub(crate) fn set_exec_basis(&self, basis: Arc<ExecBasis>) {
        *locked(&self.exec_basis) = Some(basis);
    }

    pub(crate) fn exec_basis(&self) -> Option<Arc<ExecBasis>> {
        locked(&self.exec_basis).clone()
    }

    /// The shim of a container that runs and is not frozen.
    ///
    /// # Errors
    /// It does not run. The text is dockerd's.
    pub(crate) fn running_shim(&self) -> Result<Shim, Failure> {
        let running = self.phase().has_process();
        let shim = if running { self.shim() } else { None };
        shim.ok_or_else(|| Failure::conflict(format!("container {} is not running", self.id)))
    }

    /// Replaces the timer of the next restart; the one before is cancelled.
    pub(crate) fn set_restart_timer(&self, timer: Option<CancellationToken>) {
        if let Some(before) = std::mem::replace(&mut *locked(&self.restart_timer), timer) {
            before.cancel();
        }
    }
}

#[cfg(test)]
mod tests {
    use shoal_proto::time::Timestamp;

    use super::super::record::tests::record;
    use super::*;

    #[test]
    fn a_kept_container_outlasts_its_end_and_its_record_says_what_was_asked_for() {
        let mut subject = record(&"3".repeat(64), "c");
        subject.host_config.auto_remove = true;
        let container = Container::new(subject, PathBuf::from("/nowhere"));
        let at = Timestamp::from_seconds(5);
        let launched = Input::Launched { pid: 7, at, by_user: true };
        let end = || Input::Ended { exit_code: 0, oom_killed: false, at };
        container.step(launched.clone()).unwrap();
        let kept = container.keep();
        assert!(!container.step(end()).unwrap().contains(&Command::Remove));
        assert!(container.record().host_config.auto_remove);
        drop(kept);
        container.step(launched).unwrap();
        assert!(container.step(end()).unwrap().contains(&Command::Remove));
    }
}
