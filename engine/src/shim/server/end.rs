//! The end: what is written down, what runs after it, and who is told.

use std::time::Duration;

use shoal_engine_sys::process::{self, Ended};
use shoal_proto::time::Timestamp;

use super::{Server, write_whole};
use crate::runtime::LastHook;
use crate::shim::config::{EXIT_FILE, ExitRecord};
use crate::shim::protocol::{Phase, Response, RuntimeFailure, message};
use crate::shim::say;

/// How long what runs after the end of a container may take that was killed, or could not be made: all of it together.
const AFTER_KILL: Duration = Duration::from_secs(5);

/// An end that is not told yet.
#[derive(Debug)]
pub(super) struct Ending {
    record: ExitRecord,
    hook: Option<Running>,
}

/// What runs after it.
#[derive(Debug)]
struct Running {
    hook: LastHook,
    until: Option<Timestamp>,
    is_killed: bool,
}

impl Server {
    /// The process has ended and its output is read: writes everything down, takes everything away.
    pub(super) fn conclude(&mut self) {
        let Some((ended, finished_at)) = self.ended else { return };
        self.read_the_rest();
        if let Some(mut log) = self.log.take() {
            let finished = log.finish(self.now());
            self.note_log(finished);
        }
        let failure = self.start_failure.take();
        let record = ExitRecord {
            code: failure.as_ref().map_or(ended.code(), RuntimeFailure::exit_code),
            signal: match ended {
                Ended::Signal(signal) if failure.is_none() => Some(signal),
                _ => None,
            },
            oom_killed: self.runtime.oom_kills() > 0,
            finished_at,
            error: failure.map(|failure| failure.message),
        };
        if let Err(failure) = self.runtime.delete() {
            say(&format!("cleaning up: {failure}"));
        }
        self.ending = Some(Ending { record, hook: None });
    }

    /// Goes on with what runs after the end. When nothing is left of that, everybody is told.
    pub(super) fn end_when_done(&mut self) {
        let (now, forced_at) = (self.now(), self.forced_at());
        let Some(ending) = &mut self.ending else { return };
        let is_forced = forced_at.is_some_and(|at| now >= at);
        if let Some(running) = &mut ending.hook {
            let is_late = running.until.is_some_and(|until| now >= until);
            if (is_forced || is_late) && !std::mem::replace(&mut running.is_killed, true) {
                running.hook.kill();
            }
            return;
        }
        let next = if is_forced { None } else { self.runtime.next_last_hook() };
        if let Some(hook) = next {
            let until = hook.timeout().map(|timeout| now.after(timeout));
            ending.hook = Some(Running { hook, until, is_killed: false });
            return;
        }
        if let Some(Ending { record, .. }) = self.ending.take() {
            self.take_leave(record);
        }
    }

    /// From when on nothing may run after the end any more.
    fn forced_at(&self) -> Option<Timestamp> {
        let (_, ended_at) = self.ended?;
        Some(self.killed_at?.max(ended_at).after(AFTER_KILL))
    }

    /// When what runs after the end is to be looked at again.
    pub(super) fn hook_deadline(&self) -> Option<Timestamp> {
        let running = self.ending.as_ref()?.hook.as_ref().filter(|running| !running.is_killed)?;
        running.until.into_iter().chain(self.forced_at()).min()
    }

    /// Takes note of a child's end, if it is what runs after the end.
    pub(super) fn hook_ended(&mut self, pid: u32, ended: Ended) -> bool {
        let Some(ending) = &mut self.ending else { return false };
        match ending.hook.take_if(|running| running.hook.pid() == pid) {
            Some(Running { hook, .. }) => {
                hook.note_end(ended);
                true
            }
            None => false,
        }
    }

    /// Nobody is served yet who could end what runs after a container that could not be made: it has its time.
    pub(super) fn run_last_hooks(&mut self) {
        let until = self.now().after(AFTER_KILL);
        while self.now() < until
            && let Some(hook) = self.runtime.next_last_hook()
        {
            let rest = until.since(self.now());
            match hook.ends_within(hook.timeout().map_or(rest, |timeout| timeout.min(rest))) {
                Ok(true) => {}
                Ok(false) | Err(_) => hook.kill(),
            }
            match process::wait_for(hook.pid()) {
                Ok(ended) => hook.note_end(ended),
                Err(error) => say(&format!("cannot wait for a hook: {error}")),
            }
        }
    }

    /// Tells everybody how it ended.
    fn take_leave(&mut self, record: ExitRecord) {
        if let Err(error) = write_whole(&self.dir, EXIT_FILE, &serde_json::to_vec(&record).unwrap_or_default()) {
            say(&format!("cannot write {EXIT_FILE}: {error}"));
        }
        self.phase = Phase::Exited;
        let farewell = message(&Response::Exited(record.clone()));
        for connection in &mut self.connections {
            if connection.awaits_exit() {
                connection.send(farewell.clone());
                connection.flush();
            }
        }
        self.exit = Some(record);
    }
}
