//! Containers whose processes come from a checkpoint.
//!
//! CRIU makes them: with namespaces, mounts and all, in a cgroup, network namespace and root file system that we make as for
//! any start. It ends when they run; they are the shim's then, which is a subreaper. From there on nothing is different
//! from a container of the built-in runtime.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use oci_spec::runtime::{LinuxNamespaceType, Spec};
use shoal_engine_sys::process::{self, Ended, Fork, SingleThread};
use shoal_engine_sys::{namespace, signal};

use super::builtin::{Builtin, enter_cgroup, read_spec};
use super::caller::{Waited, wait_for};
use super::launch::read_report;
use super::{Caller, ChildStreams, Created, LastHook, Runtime, SpecPart, end_maker, pipe};
use crate::checkpoint::{self, Places};
use crate::shim::config::{Restore, SPEC_FILE, ShimConfig};
use crate::shim::protocol::{FailureKind, RuntimeFailure};

/// One of them.
#[derive(Debug)]
pub(crate) struct Restored {
    dir: PathBuf,
    config: ShimConfig,
    restore: Restore,
    streams: Option<ChildStreams>,
    /// What is done with it once it is there.
    runtime: Builtin,
}

impl Restored {
    pub(crate) fn new(dir: &Path, config: &ShimConfig, restore: &Restore) -> Self {
        Self {
            dir: dir.to_owned(),
            config: config.clone(),
            restore: restore.clone(),
            streams: None,
            runtime: Builtin::new(dir, config),
        }
    }

    /// Becomes CRIU. Returns only when that fails.
    fn become_criu(&self, streams: &[OwnedFd; 3]) -> Result<std::convert::Infallible, RuntimeFailure> {
        let spec = read_spec(&self.dir)?;
        let root = spec.root().as_ref().ok_or_else(|| RuntimeFailure::other("the specification has no root"))?.path();
        let places = Places::of(&self.dir, &self.config).map_err(cannot("find the container's mounts"))?;
        let network = places.network().map(std::fs::File::open).transpose();
        let network = network.map_err(cannot("open the network namespace"))?.map(OwnedFd::from);
        SpecPart::read(&self.dir.join(SPEC_FILE))?
            .linux
            .mount_rootfs(&self.config)
            .map_err(cannot("mount the root file system"))?;
        // What it forks is in this cgroup, and sees it as the root when that is wanted.
        self.enter_cgroup(&spec)?;
        let descriptors = streams.each_ref().map(AsRawFd::as_raw_fd);
        let paths = (root.as_path(), self.dir.as_path());
        let number = network.as_ref().map(AsRawFd::as_raw_fd);
        let arguments = checkpoint::restore_arguments(&self.restore, &places, paths, descriptors, number);
        for descriptor in streams.iter().chain(&network) {
            rustix::io::fcntl_setfd(descriptor, rustix::io::FdFlags::empty())
                .map_err(|error| cannot("hand over descriptors")(error.into()))?;
        }
        signal::reset();
        let text = |text: Vec<u8>| CString::new(text).map_err(|_| RuntimeFailure::other("a path contains a null byte"));
        let program = text(self.restore.criu.as_os_str().as_bytes().to_vec())?;
        let mut words = vec![program.clone()];
        for argument in arguments {
            words.push(text(argument.into_vec())?);
        }
        let mut path = b"PATH=".to_vec();
        path.extend(checkpoint::search_path(&self.restore.criu).into_vec());
        Err(cannot("run CRIU")(process::execute(&program, &words, &[text(path)?])))
    }

    fn enter_cgroup(&self, spec: &Spec) -> Result<(), RuntimeFailure> {
        let linux = spec.linux().as_ref().ok_or_else(|| RuntimeFailure::other("the specification is not for Linux"))?;
        enter_cgroup(&self.config, linux)?;
        let own = |kind| linux.namespaces().iter().flatten().any(|one| one.typ() == kind && one.path().is_none());
        if own(LinuxNamespaceType::Cgroup) {
            namespace::new_cgroup_namespace().map_err(cannot("make a cgroup namespace"))?;
        }
        Ok(())
    }
}

impl Runtime for Restored {
    /// Keeps the streams: processes that are restored run at once.
    fn create(&mut self, streams: ChildStreams, _caller: Option<Caller<'_>>) -> Result<Created, RuntimeFailure> {
        self.streams = Some(streams);
        Ok(Created { pid: None, took: None })
    }

    fn start(&mut self, caller: Option<Caller<'_>>) -> Result<Option<u32>, RuntimeFailure> {
        let Some(ChildStreams::Pipes { stdin, stdout, stderr }) = self.streams.take() else {
            return Err(RuntimeFailure::new(FailureKind::WrongState, "no streams to restore"));
        };
        let streams = [stdin, stdout, stderr];
        let (outcome, outcome_end) = pipe()?;
        let forked = SingleThread::prove().and_then(|single| single.fork());
        let Fork::Parent(criu) = forked.map_err(cannot("fork"))? else {
            let failure = match self.become_criu(&streams) {
                Ok(never) => match never {},
                Err(failure) => failure,
            };
            let bytes = serde_json::to_vec(&failure).unwrap_or_default();
            // Nobody is left to tell when this fails, too.
            let _ = io::Write::write_all(&mut std::fs::File::from(outcome_end), &bytes);
            process::exit_now(1);
        };
        drop((streams, outcome_end));
        read_report(outcome, None)?;
        let handle = namespace::open_process(criu).map_err(cannot("watch CRIU"))?;
        if wait_for(handle.as_fd(), caller, None).map_err(cannot("wait for CRIU"))? == Waited::GivenUp {
            // All that it has made by now is in the cgroup, or goes with its own end.
            end_maker(criu);
            self.signal_all(rustix::process::Signal::KILL.as_raw())?;
            return Err(RuntimeFailure::new(FailureKind::WrongState, "the start was given up"));
        }
        match process::wait_for(criu).map_err(cannot("wait for CRIU"))? {
            Ended::Code(0) => checkpoint::restored(&self.dir).map(Some).map_err(cannot("find the restored process")),
            ended => {
                let told = checkpoint::told(&checkpoint::restore_log(&self.dir));
                Err(RuntimeFailure::other(told.unwrap_or_else(|| format!("CRIU ended with {ended:?}"))))
            }
        }
    }

    fn abandon(&mut self) {
        self.streams = None;
    }

    fn pause(&mut self) -> Result<(), RuntimeFailure> {
        self.runtime.pause()
    }

    fn resume(&mut self) -> Result<(), RuntimeFailure> {
        self.runtime.resume()
    }

    fn is_paused(&self) -> bool {
        self.runtime.is_paused()
    }

    fn signal_all(&mut self, signal: i32) -> Result<(), RuntimeFailure> {
        self.runtime.signal_all(signal)
    }

    fn oom_kills(&self) -> u64 {
        self.runtime.oom_kills()
    }

    fn delete(&mut self) -> Result<(), RuntimeFailure> {
        self.runtime.delete()
    }

    fn next_last_hook(&mut self) -> Option<LastHook> {
        self.runtime.next_last_hook()
    }
}

fn cannot(what: &'static str) -> impl Fn(io::Error) -> RuntimeFailure {
    move |error| RuntimeFailure::new(FailureKind::CannotApply, format!("cannot {what}: {error}"))
}
