//! The drivers of logs, and `logs` with each of them.

use std::collections::BTreeMap;
use std::os::unix::net::UnixDatagram;
use std::time::Duration;

use futures::StreamExt;
use shoal_engine::container::{LogOptions, OutputKind, WaitCondition};
use shoal_engine::model::{HostConfig, LogConfig};

use super::harness::{Host, request};

fn with(kind: &str, options: &[(&str, &str)]) -> HostConfig {
    let config: BTreeMap<_, _> =
        options.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    HostConfig { log_config: LogConfig { kind: kind.to_owned(), config }, ..HostConfig::default() }
}

fn numbers(text: &str) -> Vec<u64> {
    text.lines().filter_map(|line| line.strip_prefix("line ")?.trim().parse().ok()).collect()
}

/// Names of a container's files that are packed.
fn packed(host: &Host, id: &str) -> usize {
    let folder = host.options.data_root.join("containers").join(id);
    let names = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name());
    names.filter(|name| name.to_string_lossy().ends_with(".gz")).count()
}

pub(crate) async fn packed_files_are_read(host: Host) -> Host {
    let containers = host.engine.containers();
    for (kind, options) in [
        ("json-file", &[("max-size", "20k"), ("max-file", "6"), ("compress", "true")][..]),
        ("local", &[("max-size", "10k"), ("max-file", "6")][..]),
    ] {
        let script = "i=0; while [ $i -lt 600 ]; do echo line $i; i=$((i+1)); [ $((i % 100)) = 0 ] && sleep 0.05; done; echo oh >&2";
        let id = host.create("", &["sh", "-c", script], with(kind, options)).await;
        let ended = containers.begin_wait(&id, WaitCondition::NextExit).unwrap();
        containers.start(&id).await.unwrap();
        // Reads from the start while the files are rotated and packed.
        let follow = LogOptions { follow: true, ..LogOptions::default() };
        let mut stream = containers.logs(&id, follow).await.unwrap();
        let mut text = String::new();
        while let Some(frame) = stream.next().await {
            text.push_str(std::str::from_utf8(&frame.unwrap().data).unwrap());
        }
        ended.await;
        assert_eq!(numbers(&text), (0..600).collect::<Vec<_>>(), "{kind}: nothing is lost, nothing comes twice");
        assert!(packed(&host, &id) >= 1, "{kind}: no file was packed");
        let kept = numbers(&host.output(&id).await);
        assert!(kept.ends_with(&[598, 599]) && kept.windows(2).all(|two| two[0] + 1 == two[1]), "{kind}: {kept:?}");
        let tail = LogOptions { tail: Some(400.min(kept.len())), ..LogOptions::default() };
        let frames: Vec<_> = containers.logs(&id, tail).await.unwrap().collect().await;
        let first = frames[0].as_ref().unwrap();
        let expected = kept[kept.len() + 1 - frames.len()];
        assert_eq!(first.data, format!("line {expected}\n"), "{kind}");
        assert_eq!(host.output_of(&id, Some(OutputKind::Stderr)).await, "oh\n", "{kind}");
    }
    host
}

pub(crate) async fn services_get_what_logs_shows(host: Host) -> Host {
    let path = host.folder.path().join("syslog.sock");
    let service = UnixDatagram::bind(&path).unwrap();
    service.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    let address = format!("unixgram://{}", path.display());
    let options = [("syslog-address", address.as_str()), ("syslog-format", "rfc5424"), ("tag", "{{.Name}}")];
    let id = host.create("talker", &["sh", "-c", "echo hello; echo oh >&2; sleep 0.1"], with("syslog", &options)).await;
    let ended = host.engine.containers().begin_wait(&id, WaitCondition::NextExit).unwrap();
    host.engine.containers().start(&id).await.unwrap();
    ended.await;
    let mut heard = Vec::new();
    for _ in 0..2 {
        let mut buffer = [0; 1024];
        let length = service.recv(&mut buffer).unwrap();
        heard.push(String::from_utf8_lossy(&buffer[..length]).into_owned());
    }
    heard.sort();
    assert!(heard[0].starts_with("<27>1 2") && heard[0].ends_with(" talker - oh\n"), "{heard:?}");
    assert!(heard[1].starts_with("<30>1 2") && heard[1].ends_with(" talker - hello\n"), "{heard:?}");
    assert_eq!(host.output_of(&id, Some(OutputKind::Stdout)).await, "hello\n", "kept beside the service");
    let without = [options[0], ("cache-disabled", "true")];
    let id = host.create("", &["true"], with("syslog", &without)).await;
    let Err(failure) = host.engine.containers().logs(&id, LogOptions::default()).await else {
        panic!("there is nothing to read")
    };
    assert_eq!(failure.message, "configured logging driver does not support reading");
    host
}

/// What is at `/run/systemd` for this program alone: the harness gave it mounts of its own.
struct Journal {
    service: UnixDatagram,
    made: bool,
}

impl Journal {
    fn open() -> Self {
        let made = std::fs::create_dir("/run/systemd").is_ok();
        rustix::mount::mount("tmpfs", "/run/systemd", "tmpfs", rustix::mount::MountFlags::empty(), None).unwrap();
        std::fs::create_dir("/run/systemd/journal").unwrap();
        let service = UnixDatagram::bind("/run/systemd/journal/socket").unwrap();
        service.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        Self { service, made }
    }
}

impl Drop for Journal {
    fn drop(&mut self) {
        let _ = rustix::mount::unmount("/run/systemd", rustix::mount::UnmountFlags::DETACH);
        if self.made {
            let _ = std::fs::remove_dir("/run/systemd");
        }
    }
}

pub(crate) async fn the_journal_gets_messages_and_fields(host: Host) -> Host {
    let journal = Journal::open();
    let options = [("tag", "{{.Name}}"), ("env", "COLOUR"), ("mode", "non-blocking"), ("max-buffer-size", "64k")];
    let mut wanted = request(&["sh", "-c", "echo oh >&2; sleep 0.1"], with("journald", &options));
    wanted.config.env = Some(vec!["COLOUR=red".to_owned()]);
    let id = host.engine.containers().create(Some("scribe".to_owned()), wanted).await.unwrap().id;
    let ended = host.engine.containers().begin_wait(&id, WaitCondition::NextExit).unwrap();
    host.engine.containers().start(&id).await.unwrap();
    ended.await;
    let mut buffer = [0; 2048];
    let length = journal.service.recv(&mut buffer).unwrap();
    let text = String::from_utf8_lossy(&buffer[..length]).into_owned();
    for field in
        [&format!("CONTAINER_ID_FULL={id}\n"), "CONTAINER_TAG=scribe\n", "COLOUR=red\n", "PRIORITY=3\n", "MESSAGE=oh\n"]
    {
        assert!(text.contains(field), "{field} is not in {text}");
    }
    assert_eq!(host.output_of(&id, Some(OutputKind::Stderr)).await, "oh\n", "kept beside the journal");
    host
}

pub(crate) async fn a_service_that_is_not_there_fails_the_start(host: Host) -> Host {
    for (kind, options, text) in [
        ("syslog", &[("syslog-address", "unix:///nowhere/log")][..], "Unix syslog delivery error"),
        ("syslog", &[("syslog-address", "tcp://127.0.0.1:9")][..], "dial tcp 127.0.0.1:9: "),
        ("journald", &[][..], "journald is not enabled on this host"),
    ] {
        if kind == "journald" && std::path::Path::new("/run/systemd/journal/socket").exists() {
            continue;
        }
        let id = host.create("", &["true"], with(kind, options)).await;
        let failure = host.engine.containers().start(&id).await.unwrap_err();
        let expected = format!("failed to initialize logging driver: {text}");
        assert!(failure.message.contains(&expected), "{kind}: {failure}");
        assert_eq!(host.status(&id).await, "created");
    }
    host
}
