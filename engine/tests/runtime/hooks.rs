//! Hooks of every kind: when they run, where, with which rights, what they are told, and what comes of their failure.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;

use oci_spec::runtime::Hooks;
use serde_json::{Value, json};
use shoal_engine::shim::client::ShimError;

use super::sandbox::{Backend, Running, Sandbox, assert_gone, eventually};

pub(crate) const TESTS: &[crate::Test] = &[
    ("hooks::each_kind_runs_in_its_place", each_kind_runs_in_its_place),
    ("hooks::one_that_fails_ends_the_start", one_that_fails_ends_the_start),
    ("hooks::one_that_takes_too_long_is_ended", one_that_takes_too_long_is_ended),
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
