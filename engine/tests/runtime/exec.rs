//! One more process in a running container.

use shoal_engine::runtime::spec::{self, SpecInput};
use shoal_engine::runtime::user::{self, ContainerUser};
use shoal_engine::shim::client::{AttachOptions, Shim, ShimError};
use shoal_engine::shim::config::{ExecConfig, WindowSize};

use super::sandbox::{Backend, Outcome, Running, Sandbox, read_all};

pub(crate) const TESTS: &[crate::Test] = &[
    ("exec::it_runs_inside", it_runs_inside),
    ("exec::it_is_as_confined_as_its_container", it_is_as_confined_as_its_container),
    ("exec::its_null_device_is_the_containers", its_null_device_is_the_containers),
    ("exec::a_profile_that_cannot_be_applied_is_an_error", a_profile_that_cannot_be_applied_is_an_error),
    ("exec::user_and_directory_are_its_own", user_and_directory_are_its_own),
    ("exec::what_cannot_run_says_why", what_cannot_run_says_why),
    ("exec::input_ends_when_the_client_says_so", input_ends_when_the_client_says_so),
    ("exec::it_can_have_a_terminal", it_can_have_a_terminal),
    ("exec::one_that_nobody_starts_ends", one_that_nobody_starts_ends),
    ("exec::it_ends_with_its_container", it_ends_with_its_container),
];

/// A running container to execute something in; its end ends it.
pub(crate) struct Box<'a> {
    sandbox: &'a Sandbox,
    input: SpecInput,
    pub(crate) running: Running,
}

impl<'a> Box<'a> {
    /// One that was made elsewhere.
    pub(crate) fn around(sandbox: &'a Sandbox, input: SpecInput, running: Running) -> Self {
        Self { sandbox, input, running }
    }

    pub(crate) fn new(sandbox: &'a Sandbox, change: impl FnOnce(&mut SpecInput)) -> Self {
        let mut input = sandbox.input(&["sleep", "100"]);
        change(&mut input);
        let running = sandbox.create(&input).unwrap();
        sandbox.wait_for(running.shim.start()).unwrap();
        Self { sandbox, input, running }
    }

    pub(crate) fn prepare(
        &self,
        args: &[&str],
        change: impl FnOnce(&mut ExecConfig, &mut ContainerUser, &mut String),
    ) -> Result<Shim, ShimError> {
        let basis = spec::ExecBasis::read(&self.running.dir.join("config.json")).unwrap();
        let args: Vec<String> = args.iter().map(|arg| (*arg).to_owned()).collect();
        let (mut user, mut cwd) = (ContainerUser::default(), "/".to_owned());
        let process = spec::exec_process(&basis, &args, &self.input.env, "/", &user, (false, false)).unwrap();
        let id = format!("e{}", self.running.dir.join("..").read_dir().unwrap().count());
        let mut config = ExecConfig {
            id: id.clone(),
            container_dir: self.running.dir.clone(),
            process,
            personality: basis.personality(),
            console_size: None,
            open_stdin: false,
            privileged: false,
        };
        change(&mut config, &mut user, &mut cwd);
        let terminal = config.console_size.is_some();
        config.process =
            spec::exec_process(&basis, &args, &self.input.env, &cwd, &user, (terminal, config.privileged)).unwrap();
        self.sandbox.wait_for(Shim::spawn_exec(&self.sandbox.program, &self.sandbox.shim_dir(&id), &config))
    }

    pub(crate) fn prepare_process(
        &self,
        args: &[&str],
        change: impl FnOnce(&mut oci_spec::runtime::Process),
    ) -> Result<Shim, ShimError> {
        let basis = spec::ExecBasis::read(&self.running.dir.join("config.json")).unwrap();
        let args: Vec<String> = args.iter().map(|arg| (*arg).to_owned()).collect();
        let user = ContainerUser::default();
        let mut process = spec::exec_process(&basis, &args, &self.input.env, "/", &user, (false, false)).unwrap();
        change(&mut process);
        let config = ExecConfig {
            id: "profile".to_owned(),
            container_dir: self.running.dir.clone(),
            process,
            personality: basis.personality(),
            console_size: None,
            open_stdin: false,
            privileged: false,
        };
        self.sandbox.wait_for(Shim::spawn_exec(&self.sandbox.program, &self.sandbox.shim_dir("profile"), &config))
    }

    pub(crate) fn exec(
        &self,
        args: &[&str],
        change: impl FnOnce(&mut ExecConfig, &mut ContainerUser, &mut String),
    ) -> Outcome {
        let shim = self.prepare(args, change).unwrap();
        self.sandbox.wait_for(async {
            let attachment = shim.attach(AttachOptions::default()).await.unwrap();
            shim.start().await.unwrap();
            read_all(attachment.output).await
        })
    }
}

impl Drop for Box<'_> {
    fn drop(&mut self) {
        self.sandbox.wait_for(async {
            let _ = self.running.shim.signal(9, true).await;
            let _ = self.running.shim.wait().await;
        });
    }
}

fn it_runs_inside(backend: Backend) {
    let sandbox = Sandbox::new(backend);
    let container = Box::new(&sandbox, |_| {});
    let script = "hostname; ps | grep -c 'sleep 100'; for n in mnt net uts pid ipc cgroup; do readlink /proc/self/ns/$n; done; exit 9";
    let outcome = container.exec(&["sh", "-c", script], |_, _, _| {});
    assert_eq!(outcome.exit.code, 9, "{outcome:?}");
    let lines: Vec<&str> = outcome.stdout.lines().collect();
    assert_eq!(lines[0], "box");
    for (kind, line) in ["mnt", "net", "uts", "pid", "ipc", "cgroup"].into_iter().zip(&lines[2..]) {
        let of = std::fs::read_link(format!("/proc/{}/ns/{kind}", container.running.shim.pid())).unwrap();
        assert_eq!(*line, of.to_str().unwrap(), "{kind}");
    }
    // It is in the container's cgroup, so its end takes it along.
    let shim = container.prepare(&["sleep", "50"], |_, _, _| {}).unwrap();
    sandbox.wait_for(shim.start()).unwrap();
    let pid = sandbox.wait_for(shim.status()).unwrap().pid;
    let procs =
        std::fs::read_to_string(format!("/sys/fs/cgroup/pids{}/cgroup.procs", container.running.cgroup)).unwrap();
    assert!(procs.lines().any(|line| line == pid.to_string()), "{pid} in {procs}");
    sandbox.wait_for(shim.signal(15, false)).unwrap();
    assert_eq!(sandbox.wait_for(shim.wait()).unwrap().code, 143);
}

fn it_is_as_confined_as_its_container(backend: Backend) {
    let sandbox = Sandbox::new(backend);
    let container = Box::new(&sandbox, |input| input.no_new_privileges = true);
    let script = "grep -E '^(Seccomp|NoNewPrivs|CapEff|CapBnd|CapInh):' /proc/self/status | cut -f2; ls /proc/self/fd | wc -l; unshare -m true 2>&1";
    let outcome = container.exec(&["sh", "-c", script], |_, _, _| {});
    let lines: Vec<&str> = outcome.stdout.lines().collect();
    let default = "00000000a80425fb";
    // Three descriptors, and the one that ls opens.
    assert_eq!(lines[..6], ["0000000000000000", default, default, "1", "2", "4"], "{outcome:?}");
    assert!(lines[6].contains("Operation not permitted"));
    let outcome =
        container.exec(&["sh", "-c", "grep -E '^(Seccomp|CapEff):' /proc/self/status | cut -f2"], |config, _, _| {
            config.privileged = true;
        });
    let lines: Vec<&str> = outcome.stdout.lines().collect();
    assert_ne!(lines[0], default, "{outcome:?}");
    if backend != Backend::Runc {
        assert_eq!(lines[1], "0");
    }
}

/// The host's `/dev/null` would lead to the host's `/dev`.
fn its_null_device_is_the_containers(backend: Backend) {
    // runc does this for a container's first process only.
    if backend == Backend::Runc {
        return;
    }
    let sandbox = Sandbox::new(backend);
    let container = Box::new(&sandbox, |_| {});
    // Which file system they are on.
    let outcome = container.exec(&["stat", "-L", "-c", "%d %t:%T", "/proc/self/fd/0", "/dev/null"], |_, _, _| {});
    let lines: Vec<&str> = outcome.stdout.lines().collect();
    assert_eq!(lines.len(), 2, "{outcome:?}");
    assert_eq!(lines[0], lines[1]);
    assert!(lines[0].ends_with(" 1:3"), "{outcome:?}");
}

fn a_profile_that_cannot_be_applied_is_an_error(backend: Backend) {
    // The others apply it themselves.
    if backend == Backend::Runc {
        return;
    }
    let sandbox = Sandbox::new(backend);
    let container = Box::new(&sandbox, |_| {});
    let shim = container.prepare_process(&["true"], |process| {
        process.set_apparmor_profile(Some("shoal-test-no-such-profile".to_owned()));
    });
    let refused = sandbox.wait_for(shim.unwrap().start()).unwrap_err();
    assert!(refused.to_string().contains("shoal-test-no-such-profile"), "{refused}");
}

fn one_that_nobody_starts_ends(backend: Backend) {
    let sandbox = Sandbox::new(backend);
    let container = Box::new(&sandbox, |_| {});
    let shim = container.prepare(&["true"], |_, _, _| {}).unwrap();
    let dir = shim.dir().to_owned();
    drop(shim);
    super::sandbox::eventually("it has ended", || {
        shoal_engine::shim::config::ExitRecord::read(&dir).unwrap().is_some_and(|exit| exit.error.is_some())
    });
}

fn user_and_directory_are_its_own(backend: Backend) {
    let sandbox = Sandbox::new(backend);
    let container = Box::new(&sandbox, |_| {});
    let script = "id -u; id -g; grep ^Groups: /proc/self/status | cut -f2; pwd; echo $HOME; echo x > /dev/stderr";
    let outcome = container.exec(&["sh", "-c", script], |_, user, cwd| {
        *user = user::resolve_at(&sandbox.rootfs(), "web", &[]).unwrap();
        *cwd = "/home/web".to_owned();
    });
    assert_eq!(outcome.stdout.replace(" \n", "\n"), "1000\n1001\n40 1001\n/home/web\n/home/web\n");
    assert_eq!(outcome.stderr, "x\n");
}

fn what_cannot_run_says_why(backend: Backend) {
    let sandbox = Sandbox::new(backend);
    let container = Box::new(&sandbox, |_| {});
    let refused = |args: &[&str], wanted_cwd: &str| {
        let shim = container.prepare(args, |_, _, cwd| *cwd = wanted_cwd.to_owned()).unwrap();
        let error = sandbox.wait_for(shim.start()).unwrap_err();
        let exit = sandbox.wait_for(shim.wait()).unwrap();
        assert_eq!(exit.code, error.exit_code());
        error
    };
    let error = refused(&["nope"], "/");
    assert!(error.to_string().contains("executable file not found in $PATH"), "{error}");
    assert_eq!(error.exit_code(), 127);
    let error = refused(&["/etc/passwd"], "/");
    assert!(error.to_string().contains("permission denied"), "{error}");
    assert_eq!(error.exit_code(), 126);
    let error = refused(&["true"], "/nowhere");
    assert!(error.to_string().contains("/nowhere"), "{error}");
}

fn input_ends_when_the_client_says_so(backend: Backend) {
    let sandbox = Sandbox::new(backend);
    let container = Box::new(&sandbox, |_| {});
    let shim = container.prepare(&["wc", "-c"], |config, _, _| config.open_stdin = true).unwrap();
    let outcome = sandbox.wait_for(async {
        let mut attachment = shim.attach(AttachOptions { stdin: true, ..Default::default() }).await.unwrap();
        // More than pipe and shim keep: the writer waits for the reader.
        let (input, output) = tokio::join!(
            async {
                for _ in 0..100 {
                    attachment.input.write(&[b'x'; 10_000]).await.unwrap();
                }
                attachment.input.close().await
            },
            async {
                shim.start().await.unwrap();
                read_all(attachment.output).await
            }
        );
        input.unwrap();
        output
    });
    assert_eq!((outcome.stdout.trim(), outcome.exit.code), ("1000000", 0));
}

fn it_can_have_a_terminal(backend: Backend) {
    let sandbox = Sandbox::new(backend);
    let container = Box::new(&sandbox, |_| {});
    let shim = container
        .prepare(&["sh", "-c", "tty; stty size; read line; stty size; echo got $line"], |config, _, _| {
            config.console_size = Some(WindowSize { columns: 100, rows: 30 });
        })
        .unwrap();
    let outcome = sandbox.wait_for(async {
        let mut attachment = shim.attach(AttachOptions { stdin: true, ..Default::default() }).await.unwrap();
        shim.start().await.unwrap();
        shim.resize(120, 40).await.unwrap();
        attachment.input.write(b"hello\n").await.unwrap();
        read_all(attachment.output).await
    });
    assert!(outcome.stdout.contains("/dev/pts/"), "{outcome:?}");
    assert!(outcome.stdout.contains("40 120\r\ngot hello\r\n"), "{outcome:?}");
}

fn it_ends_with_its_container(backend: Backend) {
    let sandbox = Sandbox::new(backend);
    let container = Box::new(&sandbox, |_| {});
    let shim = container.prepare(&["sleep", "100"], |_, _, _| {}).unwrap();
    sandbox.wait_for(async {
        shim.start().await.unwrap();
        container.running.shim.signal(9, false).await.unwrap();
        assert_eq!(shim.wait().await.unwrap().code, 137);
        container.running.shim.wait().await.unwrap();
    });
    let late = container.prepare(&["true"], |_, _, _| {}).unwrap();
    assert!(sandbox.wait_for(late.start()).is_err());
}
