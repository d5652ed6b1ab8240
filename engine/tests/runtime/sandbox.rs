//! What every test needs: a root file system made of busybox, a shim, and a clean end.

use std::future::Future;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use oci_spec::runtime::Spec;
use shoal_engine::runtime::spec::{self, SpecInput};
use shoal_engine::shim::client::{AttachEvent, AttachOptions, Shim, ShimError, ShimProgram};
use shoal_engine::shim::config::{ExitRecord, LogSink, RuntimeKind, ShimConfig};

/// Which runtime makes the containers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Backend {
    Builtin,
    Libcontainer,
    Runc,
}

impl Backend {
    pub(crate) const ALL: [Self; 3] = [Self::Builtin, Self::Libcontainer, Self::Runc];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Builtin => "builtin",
            Self::Libcontainer => "libcontainer",
            Self::Runc => "runc",
        }
    }

    fn kind(self) -> RuntimeKind {
        match self {
            Self::Builtin => RuntimeKind::Builtin,
            Self::Libcontainer => RuntimeKind::Libcontainer,
            Self::Runc => RuntimeKind::Binary { path: PathBuf::from(RUNC), args: Vec::new() },
        }
    }
}

const RUNC: &str = "/usr/sbin/runc";
const BUSYBOX: &str = "/bin/busybox";

/// A directory with a root file system, and shims below it. Its end removes everything.
pub(crate) struct Sandbox {
    pub(crate) backend: Backend,
    pub(crate) dir: tempfile::TempDir,
    pub(crate) program: ShimProgram,
    runtime: tokio::runtime::Runtime,
}

/// A container that was created, with the names a test needs.
pub(crate) struct Running {
    pub(crate) shim: Shim,
    pub(crate) dir: PathBuf,
    pub(crate) cgroup: String,
}

/// How a container ended, and what it wrote.
#[derive(Debug)]
pub(crate) struct Outcome {
    pub(crate) exit: ExitRecord,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Sandbox {
    pub(crate) fn is_possible(backend: Backend) -> bool {
        let program = if backend == Backend::Runc { RUNC } else { BUSYBOX };
        rustix::process::geteuid().is_root() && Path::new(program).exists() && Path::new(BUSYBOX).exists()
    }

    pub(crate) fn new(backend: Backend) -> Self {
        Self::new_in(backend, &std::env::temp_dir())
    }

    pub(crate) fn new_in(backend: Backend, place: &Path) -> Self {
        let dir = tempfile::Builder::new().prefix("shoal-runtime-").tempdir_in(place).unwrap();
        // tempdir is 0700; users in the container must get to their root.
        std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
        let rootfs = dir.path().join("rootfs");
        for part in ["bin", "etc", "proc", "sys", "dev", "tmp", "root", "home/web", "sbin"] {
            std::fs::create_dir_all(rootfs.join(part)).unwrap();
        }
        std::fs::set_permissions(rootfs.join("tmp"), std::fs::Permissions::from_mode(0o1777)).unwrap();
        std::fs::copy(BUSYBOX, rootfs.join("bin/busybox")).unwrap();
        for applet in [
            "sh", "cat", "ls", "id", "true", "false", "sleep", "echo", "stat", "mount", "dd", "head", "tail", "tr",
            "wc", "hostname", "ps", "kill", "yes", "stty", "readlink", "mkdir", "touch", "rm", "umount", "mknod",
            "chmod", "find", "grep", "env", "test", "pwd", "seq", "tty", "unshare", "printf", "ulimit", "dmesg",
            "date", "ln", "cut",
        ] {
            symlink("busybox", rootfs.join("bin").join(applet)).unwrap();
        }
        std::fs::write(rootfs.join("etc/passwd"), "root:x:0:0::/root:/bin/sh\nweb:x:1000:1001::/home/web:/bin/sh\n")
            .unwrap();
        std::fs::write(rootfs.join("etc/group"), "root:x:0:\nweb:x:1001:\nlogs:x:40:web\n").unwrap();
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let program = ShimProgram::open(Path::new("/proc/self/exe")).unwrap();
        Self { backend, dir, program, runtime }
    }

    pub(crate) fn rootfs(&self) -> PathBuf {
        self.dir.path().join("rootfs")
    }

    pub(crate) fn wait_for<T>(&self, future: impl Future<Output = T>) -> T {
        self.runtime.block_on(future)
    }

    /// A description of a container that runs these words.
    pub(crate) fn input(&self, args: &[&str]) -> SpecInput {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let id = format!("t{:08x}{:08x}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        SpecInput {
            cgroup: format!("/shoal-test/{id}"),
            id,
            rootfs: self.rootfs(),
            args: args.iter().map(|arg| (*arg).to_owned()).collect(),
            env: vec!["PATH=/sbin:/bin".to_owned()],
            hostname: "box".to_owned(),
            ..SpecInput::default()
        }
    }

    pub(crate) fn config(&self, input: &SpecInput) -> ShimConfig {
        ShimConfig {
            id_map: None,
            restore: None,
            subpaths: Default::default(),
            images: Default::default(),
            id: input.id.clone(),
            runtime: self.backend.kind(),
            terminal: input.terminal,
            console_size: None,
            open_stdin: false,
            stdin_once: false,
            log: LogSink::None,
            rootfs: None,
            cgroup: input.cgroup.clone(),
        }
    }

    pub(crate) fn shim_dir(&self, id: &str) -> PathBuf {
        self.dir.path().join("exec-root/shim").join(id)
    }

    pub(crate) fn create(&self, input: &SpecInput) -> Result<Running, ShimError> {
        self.create_with(input, |_| {})
    }

    pub(crate) fn create_with(
        &self,
        input: &SpecInput,
        change: impl FnOnce(&mut ShimConfig),
    ) -> Result<Running, ShimError> {
        self.create_from(input, change, |_| {})
    }

    /// The same with a specification that says what a description cannot.
    pub(crate) fn create_from(
        &self,
        input: &SpecInput,
        change: impl FnOnce(&mut ShimConfig),
        change_spec: impl FnOnce(&mut Spec),
    ) -> Result<Running, ShimError> {
        let mut built = spec::build(input).unwrap();
        change_spec(&mut built.spec);
        let mut config = self.config(input);
        change(&mut config);
        let dir = self.shim_dir(&input.id);
        let shim = self.wait_for(Shim::spawn(&self.program, &dir, &config, built))?;
        Ok(Running { shim, dir, cgroup: input.cgroup.clone() })
    }

    /// Creates, starts, and reads everything until the end.
    pub(crate) fn run(&self, input: &SpecInput) -> Outcome {
        let running = self.create(input).unwrap();
        self.finish(&running)
    }

    /// Starts what was created, and reads everything until the end.
    pub(crate) fn finish(&self, running: &Running) -> Outcome {
        let outcome = self.wait_for(async {
            let attachment = running.shim.attach(AttachOptions::default()).await.unwrap();
            running.shim.start().await.unwrap();
            read_all(attachment.output).await
        });
        assert_gone(&running.cgroup);
        outcome
    }

    /// What `sh -c script` writes in a container like this, which must succeed.
    pub(crate) fn shell(&self, script: &str, change: impl FnOnce(&mut SpecInput)) -> String {
        let mut input = self.input(&["sh", "-c", script]);
        change(&mut input);
        let outcome = self.run(&input);
        assert_eq!(outcome.exit.code, 0, "{script}: {outcome:?}");
        outcome.stdout
    }

    /// What such a container says when it must not succeed.
    pub(crate) fn shell_fails(&self, script: &str, change: impl FnOnce(&mut SpecInput)) -> Outcome {
        let mut input = self.input(&["sh", "-c", script]);
        change(&mut input);
        let outcome = self.run(&input);
        assert_ne!(outcome.exit.code, 0, "{script}: {outcome:?}");
        outcome
    }
}

impl Drop for Sandbox {
    /// A test that failed leaves containers: they end with it.
    fn drop(&mut self) {
        for entry in std::fs::read_dir(self.dir.path().join("exec-root/shim")).into_iter().flatten().flatten() {
            let Ok(bytes) = std::fs::read(entry.path().join("bundle.json")) else { continue };
            let Ok(config) = serde_json::from_slice::<ShimConfig>(&bytes) else { continue };
            if let Ok(cgroup) = shoal_engine::cgroup::Cgroup::open(&config.cgroup) {
                cgroup.signal_all(9);
                let _ = cgroup.thaw();
            }
        }
    }
}

/// All output of an attachment until the process has ended.
pub(crate) async fn read_all(mut output: shoal_engine::shim::client::AttachOutput) -> Outcome {
    let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
    loop {
        match output.next().await.unwrap() {
            Some(AttachEvent::Stdout(bytes)) => stdout.extend_from_slice(&bytes),
            Some(AttachEvent::Stderr(bytes)) => stderr.extend_from_slice(&bytes),
            Some(AttachEvent::Exited(exit)) => {
                let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
                return Outcome { exit, stdout: text(&stdout), stderr: text(&stderr) };
            }
            None => panic!("the shim closed the stream: {:?}", String::from_utf8_lossy(&stdout)),
        }
    }
}

/// Waits until no hierarchy has the cgroup any more: the shim removes it after it has told of the end.
pub(crate) fn assert_gone(cgroup: &str) {
    eventually(&format!("{cgroup} is gone"), || {
        let hierarchies = std::fs::read_dir("/sys/fs/cgroup").unwrap();
        !hierarchies.flatten().any(|entry| entry.path().join(cgroup.trim_start_matches('/')).exists())
    });
}

/// Waits for a level.
pub(crate) fn eventually(what: &str, mut level: impl FnMut() -> bool) {
    for _ in 0..1000 {
        if level() {
            return;
        }
        std::thread::park_timeout(std::time::Duration::from_millis(10));
    }
    panic!("waited ten seconds for this: {what}");
}
