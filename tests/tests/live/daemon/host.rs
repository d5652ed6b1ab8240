//! A host of its own for daemons, which are started as scripts start dockerd.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use anyhow::{Context, ensure};
use shoal_tests::command::{Said, command, run, run_with_input};
use shoal_tests::image;
use shoal_tests::lab::binary;
use shoal_tests::wait::until;

/// A network namespace for the daemons of a test, and a folder for their files; gone when dropped.
pub(super) struct Host {
    name: String,
    pub(super) folder: PathBuf,
}

impl Host {
    pub(super) fn new(name: &str) -> anyhow::Result<Self> {
        let host = Self { name: format!("shoal-{name}"), folder: PathBuf::from(format!("/tmp/shoal-daemon-{name}")) };
        host.remove();
        std::fs::create_dir_all(&host.folder)?;
        run("ip", &["netns", "add", &host.name])?.ok()?;
        host.run(&["ip", "link", "set", "lo", "up"])?.ok()?;
        Ok(host)
    }

    /// Takes what the daemons have left for their next start out of the kernel, then removes everything.
    fn remove(&self) {
        for entry in std::fs::read_dir(&self.folder).into_iter().flatten().flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            if entry.path().join("exec").exists() {
                drop(self.dockerd().and_then(|program| self.run(&self.words(&program, &name, &["--teardown"]))));
            }
        }
        drop(run("ip", &["netns", "del", &self.name]));
        drop(std::fs::remove_dir_all(&self.folder));
    }

    /// The command line of a daemon.
    fn words(&self, program: &str, name: &str, more: &[&str]) -> Vec<String> {
        let of = |ending: &str| self.path(&format!("{name}{ending}"));
        let named = [
            ("--data-root", of("/data")),
            ("--exec-root", of("/exec")),
            ("--pidfile", of(".pid")),
            ("--host", format!("unix://{}", of(".sock"))),
            ("--cgroup-parent", format!("/{}-{name}", self.name)),
            ("--config-file", of(".json")),
        ];
        let named = named.into_iter().flat_map(|(flag, value)| [flag.to_owned(), value]);
        std::iter::once(program.to_owned()).chain(named).chain(more.iter().map(|word| (*word).to_owned())).collect()
    }

    pub(super) fn path(&self, name: &str) -> String {
        self.folder.join(name).display().to_string()
    }

    pub(super) fn write(&self, name: &str, text: &str) -> anyhow::Result<String> {
        std::fs::write(self.folder.join(name), text)?;
        Ok(self.path(name))
    }

    /// Runs a program in the namespace.
    pub(super) fn run<S: AsRef<str>>(&self, words: &[S]) -> anyhow::Result<Said> {
        run_with_input(self.command(words), b"")
    }

    fn command<S: AsRef<str>>(&self, words: &[S]) -> Command {
        // Not `ip netns exec`, which hides the cgroups.
        let namespace = format!("--net=/run/netns/{}", self.name);
        let all: Vec<&str> = std::iter::once(namespace.as_str()).chain(words.iter().map(AsRef::as_ref)).collect();
        command("nsenter", &all)
    }

    /// A link to the binary with the name of docker's daemon.
    pub(super) fn dockerd(&self) -> anyhow::Result<String> {
        let link = self.folder.join("dockerd");
        if !link.exists() {
            std::os::unix::fs::symlink(std::fs::canonicalize(binary())?, &link)?;
        }
        Ok(link.display().to_string())
    }

    /// Starts a daemon as scripts start dockerd, and waits until it answers.
    pub(super) fn start(&self, name: &str, more: &[&str]) -> anyhow::Result<Daemon<'_>> {
        let (socket, file) =
            (format!("unix://{}", self.path(&format!("{name}.sock"))), self.path(&format!("{name}.json")));
        if !Path::new(&file).exists() {
            std::fs::write(&file, "{}")?;
        }
        let words = self.words(&self.dockerd()?, name, more);
        let log = std::fs::File::options().create(true).append(true).open(self.folder.join(format!("{name}.log")))?;
        let process = self.command(&words).stdout(Stdio::null()).stderr(log).spawn()?;
        let daemon = Daemon { host: self, name: name.to_owned(), socket, process };
        until(20, "an answer of the daemon", || daemon.docker(&["version"])?.ok().map(drop))
            .with_context(|| daemon.log())?;
        Ok(daemon)
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        self.remove();
        if !std::thread::panicking() {
            assert!(!self.folder.exists(), "{} is left", self.folder.display());
            let cgroups = std::fs::read_dir("/sys/fs/cgroup/memory").into_iter().flatten().flatten();
            let names: Vec<_> = cgroups.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
            let own = format!("{}-", self.name);
            assert!(!names.iter().any(|name| name.starts_with(&own)), "a cgroup is left: {names:?}");
        }
    }
}

/// A daemon on it.
pub(super) struct Daemon<'a> {
    host: &'a Host,
    pub(super) name: String,
    pub(super) socket: String,
    process: Child,
}

impl Daemon<'_> {
    pub(super) fn docker(&self, args: &[&str]) -> anyhow::Result<Said> {
        let all: Vec<&str> = ["-H", &self.socket].into_iter().chain(args.iter().copied()).collect();
        run("docker", &all)
    }

    pub(super) fn ok(&self, args: &[&str]) -> anyhow::Result<String> {
        self.docker(args)?.ok().with_context(|| format!("docker {args:?}: {}", self.log()))
    }

    pub(super) fn load_image(&self) -> anyhow::Result<()> {
        let import = command("docker", &["-H", &self.socket, "import", "-", image::NAME]);
        run_with_input(import, &image::busybox()?)?.ok().map(drop)
    }

    pub(super) fn log(&self) -> String {
        std::fs::read_to_string(self.host.folder.join(format!("{}.log", self.name))).unwrap_or_default()
    }

    pub(super) fn signal(&self, signal: &str) -> anyhow::Result<()> {
        let pid = std::fs::read_to_string(self.host.folder.join(format!("{}.pid", self.name)))?;
        run("kill", &[signal, pid.trim()])?.ok().map(drop)
    }

    pub(super) fn reload(&self, file: &str) -> anyhow::Result<()> {
        self.host.write(&format!("{}.json", self.name), file)?;
        self.signal("-HUP")
    }

    /// Stops it, and waits until it has ended.
    pub(super) fn stop(mut self) -> anyhow::Result<()> {
        self.signal("-TERM")?;
        let mut ended = None;
        until(30, "the end of the daemon", || {
            ended = self.process.try_wait()?;
            ended.map(drop).context("it runs")
        })
        .with_context(|| self.log())?;
        ensure!(ended.is_some_and(|status| status.success()), "{}", self.log());
        Ok(())
    }
}

impl Drop for Daemon<'_> {
    fn drop(&mut self) {
        if !matches!(self.process.try_wait(), Ok(Some(_))) {
            // After a failed test its containers must not outlive it.
            drop(self.docker(&["ps", "-aq"]).map(|said| {
                said.out.lines().for_each(|id| drop(self.docker(&["rm", "-f", id])));
            }));
            drop(self.signal("-TERM"));
            drop(self.process.wait());
        }
    }
}
