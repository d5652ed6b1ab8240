//! Command line and config file together.

use std::path::PathBuf;

use clap::{Args as _, FromArgMatches as _};
use serde_json::json;

use super::directive::{DIRECTIVES, Effect};
use super::*;

fn parse(words: &[&str]) -> Result<DaemonOptions, clap::Error> {
    let command = DaemonOptions::augment_args(clap::Command::new("daemon"));
    let all = std::iter::once("daemon").chain(words.iter().copied());
    DaemonOptions::from_arg_matches(&command.try_get_matches_from(all)?)
}

fn with_file(json: &str, words: &[&str]) -> anyhow::Result<Options> {
    let folder = tempfile::tempdir().expect("folder");
    let path = folder.path().join("daemon.json");
    std::fs::write(&path, json).expect("write");
    let options = parse(words)?;
    settle(&DaemonOptions { config_file: Some(path), ..options })
}

fn refused(json: &str, words: &[&str]) -> String {
    format!("{:#}", with_file(json, words).expect_err("refused"))
}

#[test]
fn the_file_fills_what_the_command_line_leaves_open() {
    let file = r#"{"labels": ["zone=a"], "hosts": ["unix:///x.sock"], "runtimes": {"a": {"path": "/a"}}}"#;
    let settings = with_file(file, &["--data-root", "/data", "--add-runtime", "b=/b"]).expect("settings").settings;
    assert_eq!(settings.engine.data_root, PathBuf::from("/data"));
    assert_eq!(settings.engine.labels["zone"], "a");
    assert_eq!(settings.listen, vec![Listen::Unix("/x.sock".into())]);
    assert_eq!(settings.engine.runtimes.keys().collect::<Vec<_>>(), ["a", "b"]);
}

#[test]
fn what_dockerd_refuses_is_refused_in_its_words() {
    assert!(
        refused(r#"{"foo": 1, "bar": {"x": 1}}"#, &[])
            .contains("directives don't match any configuration option: foo, x")
    );
    let both = refused(
        r#"{"debug": true, "hosts": ["unix:///x"], "icc": false, "labels": ["a=b"], "log-opts": {"max-size": "1m"}, "mtu": 1400}"#,
        &["--debug", "--label", "c=d", "--log-opt", "max-file=2", "--mtu", "1300", "--icc=false", "-H", "unix:///y"],
    );
    assert!(
        both.ends_with(
            "the following directives are specified both as a flag and in the configuration file: debug: (from flag: true, \
             from file: true), hosts: (from flag: [unix:///y], from file: [unix:///x]), icc: (from flag: false, from file: \
             false), labels: (from flag: [c=d], from file: [a=b]), log-opts: (from flag: map[max-file:2], from file: \
             map[max-size:1m]), mtu: (from flag: 1300, from file: 1400)"
        ),
        "{both}"
    );
    let proxy = refused(r#"{"proxies": {"http-proxy": "http://u:secret@a"}}"#, &["--http-proxy", "http://v:secret@b"]);
    assert!(proxy.contains("xxxxx:xxxxx@a") && !proxy.contains("secret"), "{proxy}");
}

#[test]
fn nonsense_is_refused_by_name() {
    let cases: [(&str, &[&str], &str); 24] = [
        ("{", &[], "daemon.json"),
        ("[]", &[], "expected an object"),
        (r#"{"debug": "yes"}"#, &[], "invalid value for debug: expected true or false, found yes"),
        (r#"{"userns-remap": "a:b:c"}"#, &[], "invalid user/group specification in --userns-remap: \"a:b:c\""),
        ("{}", &["--userns-remap", "nobody-of-this-name"], "user \"nobody-of-this-name\" has no entry in /etc/passwd"),
        ("{}", &["--cgroup-parent", "../../x"], "invalid cgroup-parent \"../../x\""),
        ("{}", &["--ipv6"], "--ipv6 is not offered"),
        ("{}", &["--authorization-plugin", "x"], "--authorization-plugin is not offered"),
        ("{}", &["-s", "btrfs"], "--storage-driver can only be overlay2"),
        ("{}", &["--label", "zone"], "bad attribute format: zone"),
        ("{}", &["--label", "a=1", "--label", "a=2"], "conflict labels for a=2 and a=1"),
        ("{}", &["-H", "tcp://example.org:2375"], "localhost"),
        ("{}", &["-H", "npipe://x"], "none of"),
        ("{}", &["-H", "tcp://0.0.0.0:2375"], "--tlsverify"),
        ("{}", &["--tlsverify", "--tlscert", "/c"], "tlscacert"),
        (r#"{"tlskey": "/k"}"#, &[], "tlsverify"),
        ("{}", &["--bip", "172.17.0.1"], "invalid bip"),
        ("{}", &["--bip", "172.17.0.1/16", "-b", "br0"], "you specified -b & --bip"),
        ("{}", &["--icc=false", "--iptables=false"], "--iptables=false with --icc=false"),
        ("{}", &["--log-level", "loud"], "invalid logging level: loud"),
        ("{}", &["--default-runtime", "crun"], "specified default runtime 'crun' does not exist"),
        ("{}", &["--exec-opt", "native.cgroupdriver=systemd"], "native.cgroupdriver=systemd is not offered"),
        ("{}", &["--default-address-pool", "base=10.0.0.0/16,size=8"], "invalid pools"),
        ("{}", &["--seccomp-profile", "/nonexistent"], "opening seccomp profile (/nonexistent) failed"),
    ];
    for (json, words, expected) in cases {
        let error = refused(json, words);
        assert!(error.contains(expected), "{error:?} does not name {expected:?}");
    }
    assert!(
        parse(&["--default-ulimit", "foo=1"])
            .is_err_and(|error| error.to_string().contains("invalid ulimit type: foo"))
    );
    let missing = DaemonOptions { config_file: Some("/nonexistent/daemon.json".into()), ..DaemonOptions::default() };
    assert!(settle(&missing).is_err());
}

#[test]
fn what_is_switched_off_is_as_good_as_not_said() {
    let file = r#"{"selinux-enabled": false, "userns-remap": "", "authorization-plugins": [], "storage-driver": "overlay2",
        "containerd": "/run/containerd/containerd.sock", "userland-proxy": false, "features": {"buildkit": true},
        "exec-opts": ["native.cgroupdriver=cgroupfs"], "builder": {"gc": {"enabled": true}}}"#;
    let options = with_file(file, &["--ip6tables=false", "--rootless=false"]).expect("options");
    let idle: Vec<_> = options.idle().into_iter().map(|(key, _)| key).collect();
    assert_eq!(idle, ["builder", "containerd", "ip6tables", "userland-proxy"]);
}

#[test]
fn a_reload_takes_what_can_change_and_names_the_rest() {
    let folder = tempfile::tempdir().expect("folder");
    let path = folder.path().join("daemon.json");
    let write = |text: &str| std::fs::write(&path, text).expect("write");
    write(r#"{"labels": ["a=1"], "data-root": "/one", "shutdown-timeout": 3}"#);
    let given = parse(&["--debug"]).expect("flags");
    let options = settle(&DaemonOptions { config_file: Some(path.clone()), ..given }).expect("options");
    write(r#"{"labels": ["a=2"], "data-root": "/two", "default-shm-size": "1m"}"#);
    let (next, late) = options.reload().expect("reload");
    assert_eq!(late, ["data-root"]);
    assert_eq!(next.settings.engine.labels["a"], "2");
    assert_eq!(next.settings.engine.data_root, PathBuf::from("/one"));
    assert_eq!(next.settings.engine.containers.shm_size_bytes, 1 << 20);
    assert_eq!(next.settings.shutdown_timeout, Some(std::time::Duration::from_secs(15)));
    assert!(next.settings.engine.debug, "from the command line");
    for bad in [r#"{"lables": []}"#, r#"{"debug": false}"#, "{", r#"{"bip": "x"}"#] {
        write(bad);
        assert!(next.reload().is_err(), "{bad}");
    }
}

#[test]
fn a_config_file_that_would_be_waited_for_is_refused() {
    let folder = tempfile::tempdir().expect("folder");
    let path = folder.path().join("daemon.json");
    std::fs::write(&path, "{}").expect("write");
    let options = settle(&DaemonOptions { config_file: Some(path.clone()), ..DaemonOptions::default() }).expect("file");
    std::fs::remove_file(&path).expect("remove");
    nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).expect("fifo");
    let (told, hears) = std::sync::mpsc::channel();
    // On a thread of its own: nobody ever writes into the pipe.
    std::thread::spawn(move || {
        let at_start = settle(&DaemonOptions { config_file: Some(path), ..DaemonOptions::default() });
        let _ = told.send([at_start.map(drop), options.reload().map(drop)]);
    });
    let results = hears.recv_timeout(std::time::Duration::from_secs(30)).expect("it waits for a writer");
    for result in results {
        let error = format!("{:#}", result.expect_err("refused"));
        assert!(error.ends_with("cannot read it: it is no regular file"), "{error}");
    }
}

#[test]
fn the_help_says_what_does_nothing() {
    let help = DaemonOptions::augment_args(clap::Command::new("daemon")).render_long_help().to_string();
    let words = help.split_whitespace().collect::<Vec<_>>().join(" ");
    for expected in [
        "--rootless[=<BOOL>] Not offered: the daemon runs as root",
        "--ipv6[=<BOOL>] Not offered: ",
        "--raw-logs[=<BOOL>] No effect: ",
        "Folder for everything that must survive a reboot",
    ] {
        assert!(words.contains(expected), "no {expected:?} in {help}");
    }
    assert!(!words.contains("Enable rootless mode"));
}

#[test]
fn every_directive_that_takes_effect_is_read() {
    let directives = json!({"bip": "172.17.0.1/16"}).as_object().cloned().expect("object");
    let reader = Reader::new(&directives);
    Settings::read(&reader, false).expect("settings");
    for directive in DIRECTIVES.iter().filter(|one| matches!(one.effect, Effect::Start | Effect::Reload)) {
        assert!(
            reader.asked.borrow().contains(directive.key),
            "{} is in the table, but nobody reads it",
            directive.key
        );
    }
}
