//! What clients ask, and what they are answered.

use shoal_engine_sys::{pty, signal};

use super::connection::Mode;
use super::{KILL, SETTLED, Server};
use crate::runtime::Caller;
use crate::shim::config::WindowSize;
use crate::shim::protocol::{FailureKind, Phase, Request, Response, RuntimeFailure, ShimStatus, message};

const ESRCH: i32 = 3;

impl Server {
    pub(super) fn answer(&mut self, index: usize, request: &Request) -> Option<Response> {
        let result = match request {
            Request::Start => self.start(index),
            Request::Signal { signal, all } => self.signal(*signal, *all),
            Request::Resize { columns, rows } => self.resize(*columns, *rows),
            Request::CloseStdin => {
                self.streams.close_stdin();
                Ok(())
            }
            Request::Pause => self.running().and_then(|()| self.runtime.pause()),
            Request::Resume => self.running().and_then(|()| self.runtime.resume()),
            Request::Status => return Some(Response::Status(self.status())),
            Request::Wait => match &self.exit {
                Some(exit) => return Some(Response::Exited(exit.clone())),
                None => {
                    self.connections[index].become_mode(Mode::Waiting);
                    return None;
                }
            },
            Request::Attach { stdin, stdout, stderr } => return self.attach(index, *stdin, *stdout, *stderr),
        };
        Some(result.map_or_else(Response::Failed, |()| Response::Done))
    }

    fn attach(&mut self, index: usize, stdin: bool, stdout: bool, stderr: bool) -> Option<Response> {
        self.connections[index].become_mode(Mode::Attached { stdin, stdout, stderr });
        let connection = &mut self.connections[index];
        connection.send(message(&Response::Done));
        if let Some(exit) = &self.exit {
            connection.send(message(&Response::Exited(exit.clone())));
        }
        None
    }

    fn running(&self) -> Result<(), RuntimeFailure> {
        match self.phase {
            Phase::Running => Ok(()),
            Phase::Created => Err(RuntimeFailure::new(FailureKind::WrongState, "the process was not started yet")),
            Phase::Exited => Err(RuntimeFailure::new(FailureKind::WrongState, "the process has ended")),
        }
    }

    fn start(&mut self, index: usize) -> Result<(), RuntimeFailure> {
        if self.phase != Phase::Created || self.start_failure.is_some() {
            return Err(RuntimeFailure::new(FailureKind::WrongState, "the process was started before"));
        }
        let started = self.runtime.start(self.connections.get(index).map(Caller::new));
        let result = started.and_then(|pid| {
            if let Some(pid) = pid {
                self.adopt_terminal(true)?;
                self.adopt(pid)?;
            }
            Ok(())
        });
        match result {
            Ok(()) => {
                self.phase = Phase::Running;
                self.settles_at = Some(self.now().after(SETTLED));
            }
            Err(failure) => {
                self.never_started(failure.clone());
                return Err(failure);
            }
        }
        Ok(())
    }

    fn signal(&mut self, number: i32, all: bool) -> Result<(), RuntimeFailure> {
        if number == KILL {
            let now = self.now();
            self.killed_at.get_or_insert(now);
            if self.phase == Phase::Created && self.init.is_none() && self.ended.is_none() {
                // There is no process yet, and there shall be none.
                self.never_started(RuntimeFailure::new(FailureKind::WrongState, "it was killed before its start"));
                return Ok(());
            }
        }
        if all {
            return self.runtime.signal_all(number);
        }
        let gone = || RuntimeFailure::new(FailureKind::WrongState, "the process has ended");
        let (_, handle) = self.init.as_ref().filter(|_| self.ended.is_none()).ok_or_else(gone)?;
        signal::send(handle, number).map_err(|error| match error.raw_os_error() {
            Some(ESRCH) => gone(),
            _ => RuntimeFailure::other(format!("cannot send signal {number}: {error}")),
        })
    }

    fn resize(&mut self, columns: u16, rows: u16) -> Result<(), RuntimeFailure> {
        if !self.manner.terminal {
            return Err(RuntimeFailure::new(FailureKind::WrongState, "the process has no terminal"));
        }
        self.manner.console_size = Some(WindowSize { columns, rows });
        match self.streams.terminal() {
            Some(master) => pty::resize(master, columns, rows)
                .map_err(|error| RuntimeFailure::other(format!("cannot resize the terminal: {error}"))),
            // An exec that was not started yet: it gets this size then.
            None => Ok(()),
        }
    }

    fn status(&self) -> ShimStatus {
        ShimStatus {
            phase: self.phase,
            pid: self.init.as_ref().map_or(0, |(pid, _)| *pid),
            paused: self.phase == Phase::Running && self.runtime.is_paused(),
            exit: self.exit.clone(),
        }
    }
}
