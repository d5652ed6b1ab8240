//! Hooks of every kind: when they run, where, with which rights, what they are told, and what comes of their failure.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;

use oci_spec::runtime::Hooks;
use serde_json::{Value, json};
use shoal_engine::runtime::spec;
use shoal_engine::shim::client::{Shim, ShimError};
use tokio_util::sync::CancellationToken;

use super::sandbox::{Backend, Running, Sandbox, assert_gone, eventually};

pub(crate) const TESTS: &[crate::Test] = &[
    ("hooks::each_kind_runs_in_its_place", each_kind_runs_in_its_place),
    ("hooks::one_that_fails_ends_the_start", one_that_fails_ends_the_start),
    ("hooks::one_that_takes_too_long_is_ended", one_that_takes_too_long_is_ended),
    ("hooks::one_that_never_ends_can_be_given_up", one_that_never_ends_can_be_given_up),
    ("hooks::one_after_the_end_that_never_ends_is_killed", one_after_the_end_that_never_ends_is_killed),
    ("hooks::one_that_never_ends_ends_with_the_daemon", one_that_never_ends_ends_with_the_daemon),
];

const KINDS: [&str; 6] = ["prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop"];

/// Notes its name, what it reads and where it runs.
const NOTE: &str = "#!/bin/sh
cat > $PLACE/state.$1
echo $1$WORD >> $PLACE/order
for name in mnt net; do readlink /proc/self/ns/$name; done > $PLACE/namespaces.$1
grep -E '^(CapEff|Seccomp):' /proc/self/status | cut -f2 > $PLACE/rights.$1
exit ${2:-0}
";

/// A sandbox with a program for hooks, on the host and in the container.
fn sandbox(backend: Backend) -> Sandbox {
    let sandbox = Sandbox::new(backend);
    for place in [sandbox.dir.path().join("note"), sandbox.rootfs().join("bin/note")] {
        fs::write(&place, NOTE).unwrap();
        fs::set_permissions(place, fs::Permissions::from_mode(0o755)).unwrap();
    }
    fs::create_dir(sandbox.rootfs().join("notes")).unwrap();
    sandbox
}

/// A hook of this kind: the one for the start runs in the container, all others see the host's files.
fn hook(sandbox: &Sandbox, kind: &str, word: &str, more: &[&str]) -> Value {
    let is_inside = kind == "startContainer";
    let program = if is_inside { "/bin/note".into() } else { sandbox.dir.path().join("note") };
    let place = if is_inside { "/notes".into() } else { sandbox.rootfs().join("notes") };
    let args: Vec<&str> = ["note", kind].into_iter().chain(more.iter().copied()).collect();
    let path = "PATH=/usr/bin:/bin".to_owned();
    json!({"path": program, "args": args, "env": [path, format!("PLACE={}", place.display()), format!("WORD={word}")]})
}

fn create(sandbox: &Sandbox, script: &str, hooks: &BTreeMap<&str, Vec<Value>>) -> Result<Running, ShimError> {
    let mut input = sandbox.input(&["sh", "-c", script]);
    input.annotations.insert("org.example.word".to_owned(), "told".to_owned());
    let hooks: Hooks = serde_json::from_value(json!(hooks)).unwrap();
    let created = sandbox.create_from(
        &input,
        |_| {},
        |spec| {
            spec.set_hooks(Some(hooks));
        },
    );
    if created.is_err() {
        assert_gone(&input.cgroup);
    }
    created
}

/// Runs it to its end, if it can be started.
fn finish(sandbox: &Sandbox, running: &Running) -> (Result<(), ShimError>, i32) {
    let (started, exit) = sandbox.wait_for(async {
        let started = running.shim.start().await;
        (started, running.shim.wait().await.unwrap())
    });
    assert_gone(&running.cgroup);
    (started, exit.code)
}

fn order(sandbox: &Sandbox) -> Vec<String> {
    let notes = fs::read_to_string(sandbox.rootfs().join("notes/order")).unwrap_or_default();
    notes.lines().map(str::to_owned).collect()
}

fn note(sandbox: &Sandbox, what: &str, kind: &str) -> String {
    let path = sandbox.rootfs().join("notes").join(format!("{what}.{kind}"));
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path:?}: {error}"))
}

fn each_kind_runs_in_its_place(backend: Backend) {
    let sandbox = sandbox(backend);
    let two = |kind| ["1", "2"].map(|word| hook(&sandbox, kind, word, &[])).to_vec();
    let hooks: BTreeMap<&str, Vec<Value>> = KINDS.map(|kind| (kind, two(kind))).into();
    let script =
        "test -e /notes/state.startContainer && echo program >> /notes/order; until [ -e /end ]; do sleep 0.02; done";
    let running = create(&sandbox, script, &hooks).unwrap();
    let own = |kind: &str| fs::read_link(format!("/proc/self/ns/{kind}")).unwrap().display().to_string();
    let of =
        |kind: &str| fs::read_link(format!("/proc/{}/ns/{kind}", running.shim.pid())).unwrap().display().to_string();
    let (host, container) = ([own("mnt"), own("net")], [of("mnt"), of("net")]);
    let pid = running.shim.pid();
    // runc 1.1 runs what comes after the start already here.
    let mut created = order(&sandbox);
    created.retain(|word| !word.starts_with("poststart"));
    assert_eq!(
        created[..],
        KINDS[..3].iter().flat_map(|kind| [format!("{kind}1"), format!("{kind}2")]).collect::<Vec<_>>()[..]
    );
    sandbox.wait_for(running.shim.start()).unwrap();
    eventually("the program runs", || order(&sandbox).contains(&"program".to_owned()));
    eventually("it was told of", || order(&sandbox).contains(&"poststart2".to_owned()));
    fs::write(sandbox.rootfs().join("end"), "").unwrap();
    assert_eq!(sandbox.wait_for(running.shim.wait()).unwrap().code, 0);
    assert_gone(&running.cgroup);
    let mut all = order(&sandbox);
    let place = |word: &str| all.iter().position(|other| other == word).unwrap_or_else(|| panic!("{word} in {all:?}"));
    assert!(
        place("startContainer1") < place("startContainer2") && place("startContainer2") < place("program"),
        "{all:?}"
    );
    assert!(backend == Backend::Runc || place("startContainer2") < place("poststart1"), "{all:?}");
    assert!(place("poststart2") < place("poststop1") && place("poststop1") < place("poststop2"), "{all:?}");
    all.dedup();
    assert_eq!(all.len(), 13, "each of them once: {all:?}");
    for (kind, status) in KINDS.into_iter().zip(["creating", "creating", "creating", "created", "running", "stopped"]) {
        let state: Value = serde_json::from_str(&note(&sandbox, "state", kind)).unwrap();
        // The library takes itself for created, and runc 1.1 what is made for one that runs.
        let expected = state["status"] == status || (backend != Backend::Builtin && state["status"] == "created");
        assert!(expected, "{kind}: {state}");
        assert!(state["ociVersion"].is_string() && state["id"].as_str().unwrap().starts_with('t'), "{kind}: {state}");
        assert!(
            std::path::Path::new(state["bundle"].as_str().unwrap()).join("config.json").exists(),
            "{kind}: {state}"
        );
        assert_eq!(state["annotations"]["org.example.word"], "told", "{kind}: {state}");
        match kind {
            "prestart" | "createRuntime" | "poststart" => assert_eq!(state["pid"], pid, "{kind}: {state}"),
            "poststop" => assert!(state["pid"].as_u64().unwrap_or(0) == 0, "{state}"),
            _ => {}
        }
        let namespaces: Vec<String> = note(&sandbox, "namespaces", kind).lines().map(str::to_owned).collect();
        let inside = matches!(kind, "createContainer" | "startContainer");
        assert_eq!(namespaces[..], if inside { &container } else { &host }[..], "{kind}");
    }
    // The one that is a program of the image has no more rights than the container's own.
    assert_eq!(note(&sandbox, "rights", "startContainer"), "00000000a80425fb\n2\n");
}

fn one_that_fails_ends_the_start(backend: Backend) {
    for kind in KINDS {
        let sandbox = sandbox(backend);
        let mut hooks: BTreeMap<&str, Vec<Value>> = BTreeMap::new();
        for other in KINDS {
            hooks.insert(other, vec![hook(&sandbox, other, "", if other == kind { &["3"] } else { &[] })]);
        }
        hooks.get_mut(kind).unwrap().push(hook(&sandbox, kind, "-after", &[]));
        let created = create(&sandbox, "echo program >> /notes/order; exit 5", &hooks);
        let failed = match (kind, created) {
            ("prestart" | "createRuntime" | "createContainer", created) => created.map(drop),
            // What was created could be started, or that failed already.
            (_, Err(error)) => Err(error),
            (_, Ok(running)) => {
                let (started, code) = finish(&sandbox, &running);
                assert!(code == 5 || kind != "poststop", "its end is not another one for that");
                started
            }
        };
        let all = order(&sandbox);
        let reached = |kind: &str| all.iter().any(|other| other == kind);
        assert!(reached(kind), "{kind}: {all:?}");
        if kind == "poststop" {
            failed.unwrap();
            // runc gives up there; nothing depends on the order of what cleans up.
            assert!(backend == Backend::Runc || reached("poststop-after"), "{all:?}");
            continue;
        }
        // What fails behind its back runc does not tell.
        match failed {
            Ok(()) => assert!(backend == Backend::Runc && kind == "startContainer", "{kind}: {all:?}"),
            Err(error) => assert!(error.to_string().contains("hook"), "{kind}: {error}"),
        }
        assert!(!reached(&format!("{kind}-after")), "{kind}: {all:?}");
        let later = KINDS.iter().skip_while(|other| **other != kind).skip(1).take_while(|other| **other != "poststop");
        for other in later.filter(|other| backend != Backend::Runc || **other != "poststart") {
            assert!(!reached(other), "{other} after {kind}: {all:?}");
        }
        assert!(!reached("program") || kind == "poststart", "{kind}: {all:?}");
    }
}

fn one_that_takes_too_long_is_ended(backend: Backend) {
    let kinds = ["createRuntime", "createContainer"];
    for kind in if backend == Backend::Builtin { &kinds[..] } else { &kinds[..1] } {
        let sandbox = sandbox(backend);
        let slow = json!({"path": "/bin/sleep", "args": ["sleep", "1000"], "timeout": 1});
        let error = create(&sandbox, "true", &[(*kind, vec![slow])].into()).err().unwrap().to_string();
        assert!(error.contains("hook") || error.contains("timeout"), "{kind}: {error}");
    }
}

/// A hook that never ends, with a process of its own beside it, and whether they are there.
struct Endless {
    sandbox: Sandbox,
    seconds: String,
    is_inside: bool,
}

impl Endless {
    fn new(backend: Backend, kind: &str) -> Self {
        // Found again by a number that no other process has among its words.
        let seconds = (500_000_000 + std::process::id()).to_string();
        Self { sandbox: sandbox(backend), seconds, is_inside: kind == "startContainer" }
    }

    fn hook(&self) -> Value {
        let notes = if self.is_inside { "/notes".into() } else { self.sandbox.rootfs().join("notes") };
        let script = format!("sleep {} & echo > {}/begun; wait", self.seconds, notes.display());
        json!({"path": "/bin/sh", "args": ["sh", "-c", script], "env": ["PATH=/bin"]})
    }

    async fn has_begun(&self) {
        while !self.sandbox.rootfs().join("notes/begun").exists() {
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
    }

    fn is_there(&self) -> bool {
        let words = |entry: fs::DirEntry| fs::read(entry.path().join("cmdline")).unwrap_or_default();
        let number = self.seconds.as_bytes();
        fs::read_dir("/proc")
            .unwrap()
            .flatten()
            .any(|entry| words(entry).windows(number.len()).any(|part| part == number))
    }

    /// Creates and starts a container with this hook, which is given up as soon as the hook runs.
    fn give_up(&self, kind: &str) -> Result<Shim, ShimError> {
        let (input, dir, mut built, config) = self.container(kind);
        let hooks: Hooks = serde_json::from_value(json!({kind: [self.hook()]})).unwrap();
        built.spec.set_hooks(Some(hooks));
        let given_up = CancellationToken::new();
        let result = self.sandbox.wait_for(async {
            let start = async {
                let shim = Shim::spawn_unless(&self.sandbox.program, &dir, &config, built, &given_up).await?;
                shim.start_unless(&given_up).await.map(|()| shim)
            };
            tokio::join!(start, async {
                self.has_begun().await;
                given_up.cancel();
            })
            .0
        });
        if result.is_err() {
            assert_gone(&input.cgroup);
        }
        result
    }

    fn container(
        &self,
        kind: &str,
    ) -> (spec::SpecInput, std::path::PathBuf, spec::BuiltSpec, shoal_engine::shim::config::ShimConfig) {
        let script = if kind == "poststop" { "true" } else { "exec sleep 1000" };
        let input = self.sandbox.input(&["sh", "-c", script]);
        let (dir, built) = (self.sandbox.shim_dir(&input.id), spec::build(&input).unwrap());
        let config = self.sandbox.config(&input);
        (input, dir, built, config)
    }
}

fn one_that_never_ends_can_be_given_up(backend: Backend) {
    for kind in &KINDS[..5] {
        let endless = Endless::new(backend, kind);
        match endless.give_up(kind) {
            Err(error) => {
                let told = error.to_string();
                assert!(told.contains("given up") || backend != Backend::Builtin, "{kind}: {told}");
            }
            // runc does not wait for what runs in the container.
            Ok(shim) => {
                assert!(backend == Backend::Runc && *kind == "startContainer", "{kind}");
                endless.sandbox.wait_for(shim.signal(9, true)).unwrap();
                endless.sandbox.wait_for(shim.wait()).unwrap();
            }
        }
        eventually(&format!("nothing of the {kind} hook is left"), || !endless.is_there());
    }
}

fn one_after_the_end_that_never_ends_is_killed(backend: Backend) {
    let endless = Endless::new(backend, "poststop");
    let running = create(&endless.sandbox, "true", &[("poststop", vec![endless.hook()])].into()).unwrap();
    let exit = endless.sandbox.wait_for(async {
        running.shim.start().await.unwrap();
        endless.has_begun().await;
        // Meanwhile the shim serves everybody.
        running.shim.status().await.unwrap();
        // The process itself is gone.
        running.shim.signal(9, false).await.unwrap_err();
        running.shim.wait().await.unwrap()
    });
    assert_eq!(exit.code, 0, "the end of the hook is not that of the container");
    assert_gone(&running.cgroup);
    eventually("nothing of the hook is left", || !endless.is_there());
}

fn one_that_never_ends_ends_with_the_daemon(backend: Backend) {
    let endless = Endless::new(backend, "createRuntime");
    let (input, dir, mut built, config) = endless.container("createRuntime");
    let hooks: Hooks = serde_json::from_value(json!({"createRuntime": [endless.hook()]})).unwrap();
    built.spec.set_hooks(Some(hooks));
    endless.sandbox.wait_for(async {
        tokio::select! {
            _ = Shim::spawn(&endless.sandbox.program, &dir, &config, built) => panic!("it was made"),
            // The end of the wait is the end of the connection, as with a daemon that is killed.
            () = endless.has_begun() => {}
        }
    });
    assert_gone(&input.cgroup);
    eventually("nothing of the hook is left", || !endless.is_there());
}
