//! Streams, execs, health, logs, numbers, events.

use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use shoal_engine::container::{AttachOptions, InputState, LogOptions, StopOptions, WaitCondition};
use shoal_engine::events::Delivery;
use shoal_engine::model::{ExecCreate, ExecStart, Filters, HealthConfig, HostConfig, LogConfig};
use shoal_proto::error::ErrorKind;
use shoal_proto::time::Timestamp;

use super::checks::{read_all, read_until};
use super::harness::{Host, request};

fn all_streams() -> AttachOptions {
    AttachOptions { stdin: true, stdout: true, stderr: true, stream: true, ..AttachOptions::default() }
}

pub(crate) async fn attach_before_the_start(host: Host) -> Host {
    let containers = host.engine.containers();
    let mut wanted = request(&["sh", "-c", "cat; echo end >&2"], HostConfig::default());
    (wanted.config.open_stdin, wanted.config.stdin_once) = (true, true);
    let id = containers.create(None, wanted).await.unwrap().id;
    let streams = containers.attach(&id, all_streams()).await.unwrap();
    assert!(!streams.tty);
    let mut input = streams.input.expect("input");
    // Typed before the start, as a fast client does.
    assert_eq!(input.write(Bytes::from_static(b"hello\n")).await.unwrap(), InputState::Open);
    containers.start(&id).await.unwrap();
    input.write(Bytes::from_static(b"world\n")).await.unwrap();
    input.close().await;
    assert_eq!(read_all(streams.output).await, "hello\nworld\nend\n");
    // Output of a program that ends at once is not missed either.
    for _ in 0..10 {
        let id = host.create("", &["echo", "quick"], HostConfig::default()).await;
        let streams = containers.attach(&id, all_streams()).await.unwrap();
        assert!(streams.input.is_none(), "it takes no input");
        containers.start(&id).await.unwrap();
        assert_eq!(read_all(streams.output).await, "quick\n");
    }
    let id = host.create("", &["nosuch"], HostConfig::default()).await;
    let streams = containers.attach(&id, all_streams()).await.unwrap();
    assert!(containers.start(&id).await.is_err());
    assert_eq!(read_all(streams.output).await, "", "the session ends with the failed start");
    host
}

pub(crate) async fn detach_keys_leave_it_running(host: Host) -> Host {
    let containers = host.engine.containers();
    let mut wanted = request(&["cat"], HostConfig::default());
    (wanted.config.open_stdin, wanted.config.tty) = (true, true);
    let id = containers.create(None, wanted).await.unwrap().id;
    containers.start(&id).await.unwrap();
    let streams = containers.attach(&id, all_streams()).await.unwrap();
    let mut input = streams.input.expect("input");
    assert_eq!(input.write(Bytes::from_static(b"a\x10")).await.unwrap(), InputState::Open);
    assert_eq!(input.write(Bytes::from_static(b"\x11")).await.unwrap(), InputState::Detached);
    drop(read_all(streams.output).await);
    assert_eq!(host.status(&id).await, "running");
    let wrong = AttachOptions { detach_keys: "ctrl-1".to_owned(), ..all_streams() };
    assert_eq!(containers.attach(&id, wrong).await.unwrap_err().kind, ErrorKind::InvalidArgument);
    host
}

pub(crate) async fn terminals(host: Host) -> Host {
    let containers = host.engine.containers();
    let mut wanted = request(&["sh", "-c", "read x; stty size; echo $TERM"], HostConfig::default());
    (wanted.config.open_stdin, wanted.config.tty) = (true, true);
    wanted.host_config.console_size = [20, 70];
    let id = containers.create(None, wanted).await.unwrap().id;
    let mut streams = containers.attach(&id, all_streams()).await.unwrap();
    assert!(streams.tty);
    containers.start(&id).await.unwrap();
    containers.resize(&id, 33, 111).await.unwrap();
    let mut input = streams.input.take().expect("input");
    input.write(Bytes::from_static(b"\n")).await.unwrap();
    let seen = read_until(&mut streams.output, "xterm").await;
    assert!(seen.contains("33 111"), "{seen:?}");
    host
}

fn exec(command: &[&str]) -> ExecCreate {
    ExecCreate {
        cmd: Some(command.iter().map(|word| (*word).to_owned()).collect()),
        attach_stdout: true,
        attach_stderr: true,
        ..ExecCreate::default()
    }
}

pub(crate) async fn exec_attached_and_detached(host: Host) -> Host {
    let containers = host.engine.containers();
    let id = host.start("target", &["sleep", "100"]).await;
    let command = ExecCreate {
        env: Some(vec!["GREETING=hello".to_owned()]),
        working_dir: "/tmp".to_owned(),
        user: "ann".to_owned(),
        attach_stdin: true,
        ..exec(&["sh", "-c", "echo $GREETING $PWD $(id -u) $HOME; cat; exit 9"])
    };
    let exec_id = containers.exec_create("target", command).await.unwrap();
    let before = containers.exec_inspect(&exec_id).await.unwrap();
    assert_eq!((before.running, before.exit_code, before.container_id.as_str()), (false, None, id.as_str()));
    let streams = containers.exec_start(&exec_id, ExecStart::default()).await.unwrap().expect("streams");
    let mut input = streams.input.expect("input");
    input.write(Bytes::from_static(b"typed\n")).await.unwrap();
    input.close().await;
    assert_eq!(read_all(streams.output).await, "hello /tmp 1000 /home/ann\ntyped\n");
    let code = containers.exec_inspect(&exec_id).await.unwrap().exit_code;
    assert_eq!(code, Some(9), "known when the output has ended");
    for _ in 0..30 {
        let exec_id = containers.exec_create("target", exec(&["sh", "-c", "exit 3"])).await.unwrap();
        let streams = containers.exec_start(&exec_id, ExecStart::default()).await.unwrap().expect("streams");
        read_all(streams.output).await;
        assert_eq!(containers.exec_inspect(&exec_id).await.unwrap().exit_code, Some(3));
    }
    let again = containers.exec_start(&exec_id, ExecStart::default()).await.unwrap_err();
    assert_eq!(again.kind, ErrorKind::Conflict);
    assert_eq!(host.inspect(&id).await.exec_ids, None, "those that have ended are not shown");
    let detached = containers.exec_create(&id, exec(&["sleep", "50"])).await.unwrap();
    assert_eq!(host.inspect(&id).await.exec_ids, Some(vec![detached.clone()]), "prepared");
    let start = ExecStart { detach: true, ..ExecStart::default() };
    assert!(containers.exec_start(&detached, start).await.unwrap().is_none());
    let running = containers.exec_inspect(&detached).await.unwrap();
    assert!(running.running && running.pid > 0, "{running:?}");
    assert_eq!(host.inspect(&id).await.exec_ids, Some(vec![detached.clone()]));
    let terminal = ExecCreate {
        tty: true,
        attach_stdin: true,
        console_size: Some([11, 44]),
        ..exec(&["sh", "-c", "sleep 0.2; stty size"])
    };
    let terminal = containers.exec_create(&id, terminal).await.unwrap();
    let streams =
        containers.exec_start(&terminal, ExecStart { tty: true, ..Default::default() }).await.unwrap().unwrap();
    assert!(streams.tty);
    assert_eq!(read_all(streams.output).await, "11 44\r\n");
    containers.stop(&id, StopOptions { signal: None, timeout_s: Some(0) }).await.unwrap();
    assert!(containers.exec_inspect(&detached).await.is_err(), "its container has ended");
    host
}

pub(crate) async fn exec_failures(host: Host) -> Host {
    let containers = host.engine.containers();
    let id = host.start("target", &["sleep", "100"]).await;
    let missing = containers.exec_create(&id, exec(&["nosuch"])).await.unwrap();
    let failure = containers.exec_start(&missing, ExecStart::default()).await.unwrap_err();
    assert!(failure.message.contains("executable file not found in $PATH"), "{failure}");
    assert_eq!(containers.exec_inspect(&missing).await.unwrap().exit_code, Some(127));
    assert_eq!(containers.exec_create(&id, exec(&[])).await.unwrap_err().message, "No exec command specified");
    containers.pause(&id).await.unwrap();
    assert!(containers.exec_create(&id, exec(&["true"])).await.unwrap_err().message.contains("is paused"));
    containers.unpause(&id).await.unwrap();
    containers.kill(&id, None).await.unwrap();
    let failure = containers.exec_create(&id, exec(&["true"])).await.unwrap_err();
    assert_eq!((failure.kind, failure.message), (ErrorKind::Conflict, format!("container {id} is not running")));
    assert_eq!(containers.exec_inspect("nope").await.unwrap_err().message, "No such exec instance: nope");
    host
}

pub(crate) async fn health_turns(host: Host) -> Host {
    let containers = host.engine.containers();
    let mut wanted = request(&["sleep", "100"], HostConfig::default());
    wanted.config.healthcheck = Some(HealthConfig {
        test: Some(vec!["CMD-SHELL".to_owned(), "echo checked; test ! -e /tmp/sick".to_owned()]),
        interval: 100_000_000,
        timeout: 2_000_000_000,
        retries: 2,
        ..HealthConfig::default()
    });
    let id = containers.create(Some("patient".to_owned()), wanted).await.unwrap().id;
    containers.start(&id).await.unwrap();
    let health = async || host.inspect(&id).await.state.health.unwrap_or_default();
    assert_eq!(health().await.status, "starting");
    host.until("healthy", async || health().await.status == "healthy").await;
    assert_eq!(health().await.log.unwrap()[0].output, "checked\n");
    let touch = containers.exec_create(&id, exec(&["touch", "/tmp/sick"])).await.unwrap();
    containers.exec_start(&touch, ExecStart { detach: true, ..ExecStart::default() }).await.unwrap();
    host.until("unhealthy", async || health().await.status == "unhealthy").await;
    assert!(health().await.failing_streak >= 2);
    let listed = containers
        .list(shoal_engine::container::ListOptions {
            filters: Filters::default().with("health", "unhealthy"),
            ..Default::default()
        })
        .await
        .unwrap();
    assert!(listed[0].status.ends_with("(unhealthy)"), "{}", listed[0].status);
    host
}

pub(crate) async fn logs_follow_until_the_end(host: Host) -> Host {
    let containers = host.engine.containers();
    let script = "i=0; while [ $i -lt 40 ]; do echo line $i; i=$((i+1)); sleep 0.01; done";
    let id = host.create("talker", &["sh", "-c", script], HostConfig::default()).await;
    containers.start(&id).await.unwrap();
    let follow = LogOptions { follow: true, ..LogOptions::default() };
    let frames: Vec<_> = containers.logs(&id, follow).await.unwrap().collect().await;
    let lines: Vec<_> = frames.into_iter().map(|frame| frame.unwrap().data).collect();
    let expected: Vec<_> = (0..40).map(|number| Bytes::from(format!("line {number}\n"))).collect();
    assert_eq!(lines, expected);
    let tail = LogOptions { tail: Some(3), ..LogOptions::default() };
    let frames: Vec<_> = containers.logs(&id, tail).await.unwrap().collect().await;
    assert_eq!(frames.len(), 3);
    let last = frames[2].as_ref().unwrap().clone();
    assert_eq!(&last.data[..], b"line 39\n");
    let since = LogOptions { since: Some(last.time), ..LogOptions::default() };
    assert_eq!(containers.logs(&id, since).await.unwrap().count().await, 1);
    let text = String::from_utf8(last.render(true, false).to_vec()).unwrap();
    assert!(text.len() == "2026-01-01T00:00:00.000000000Z line 39\n".len(), "{text}");
    let silent = HostConfig {
        log_config: LogConfig { kind: "none".to_owned(), ..LogConfig::default() },
        ..HostConfig::default()
    };
    let silent = host.create("", &["echo", "x"], silent).await;
    assert!(containers.logs(&silent, LogOptions::default()).await.is_err());
    host
}

pub(crate) async fn logs_rotate(host: Host) -> Host {
    let containers = host.engine.containers();
    let log = LogConfig {
        kind: "json-file".to_owned(),
        config: [("max-size".to_owned(), "4k".to_owned()), ("max-file".to_owned(), "50".to_owned())].into(),
    };
    let options = HostConfig { log_config: log, ..HostConfig::default() };
    let id = host.create("rotating", &["seq", "1", "500"], options).await;
    let ended = containers.begin_wait(&id, WaitCondition::NextExit).unwrap();
    containers.start(&id).await.unwrap();
    let follow = LogOptions { follow: true, ..LogOptions::default() };
    let followed: Vec<_> = containers.logs(&id, follow).await.unwrap().collect().await;
    assert_eq!(ended.await.status_code, 0);
    let expected: String = (1..=500).map(|number| format!("{number}\n")).collect();
    assert_eq!(host.output(&id).await, expected);
    assert_eq!(followed.len(), 500);
    let rotated = host.options.data_root.join("containers").join(&id).join(format!("{id}-json.log.1"));
    assert!(rotated.exists());
    host
}

pub(crate) async fn stats_and_top(host: Host) -> Host {
    let containers = host.engine.containers();
    let id = host.start("worker", &["sh", "-c", "sleep 100 & while :; do :; done"]).await;
    tokio::time::sleep(Duration::from_millis(100)).await;
    let stats = containers.stats(&id, false).await.unwrap();
    assert!(stats.cpu_stats.cpu_usage.total_usage > stats.precpu_stats.cpu_usage.total_usage, "{stats:?}");
    assert!(stats.cpu_stats.system_cpu_usage > stats.precpu_stats.system_cpu_usage);
    assert!(stats.memory_stats.usage > 0 && stats.memory_stats.limit > 0);
    assert_eq!(stats.pids_stats.current, 2);
    assert_eq!((stats.name.as_str(), stats.id.as_str()), ("/worker", id.as_str()));
    let streamed: Vec<_> = containers.stats_stream(&id).await.unwrap().take(2).collect().await;
    assert_eq!(streamed[1].preread, streamed[0].read);
    let top = containers.top(&id, "").await.unwrap();
    let since = Filters::default().with("event", "top");
    let mut events = host.engine.events().subscribe(Some(Timestamp(1)), None, since).unwrap();
    let Some(Delivery::Event(event)) = events.next().await else { panic!("no event") };
    assert_eq!((event.action.as_str(), event.id.as_str()), ("top", id.as_str()));
    assert_eq!(top.titles, ["UID", "PID", "PPID", "C", "STIME", "TTY", "TIME", "CMD"]);
    assert_eq!(top.processes.len(), 2);
    let pid = host.inspect(&id).await.state.pid.to_string();
    assert_eq!(top.processes[0][1], pid);
    assert_eq!(top.processes[1][2], pid);
    assert_eq!(top.processes[1][7], "sleep 100");
    containers.kill(&id, None).await.unwrap();
    assert_eq!(containers.top(&id, "").await.unwrap_err().message, format!("container {id} is not running"));
    assert_eq!(containers.stats(&id, true).await.unwrap().memory_stats.usage, 0);
    host
}

pub(crate) async fn events_tell_the_story(host: Host) -> Host {
    let filters = Filters::default().with("type", "container");
    let mut events = host.engine.events().subscribe(Some(Timestamp(1)), None, filters).unwrap();
    let options = HostConfig { auto_remove: true, ..HostConfig::default() };
    let id = host.create("actor", &["sh", "-c", "read line; exit 4"], options).await;
    let containers = host.engine.containers();
    let removed = containers.begin_wait(&id, WaitCondition::Removed).unwrap();
    let attach = AttachOptions { stdout: true, stream: true, ..AttachOptions::default() };
    drop(containers.attach(&id, attach).await.unwrap());
    containers.start(&id).await.unwrap();
    removed.await;
    for action in ["create", "attach", "start", "die", "destroy"] {
        let Some(Delivery::Event(event)) = events.next().await else { panic!("no event {action}") };
        assert_eq!((event.action.as_str(), event.id.as_str(), event.from.as_str()), (action, id.as_str(), "bb"));
        assert_eq!(event.actor.attributes["name"], "actor");
        if action == "die" {
            assert_eq!(event.actor.attributes["exitCode"], "4");
        }
    }
    host
}

/// What the client of the golden asked for, asked here: the same keys, the same nulls.
pub(crate) async fn inspect_has_dockers_shape(host: Host) -> Host {
    let golden: serde_json::Value = serde_json::from_str(include_str!("../goldens/c2.json")).unwrap();
    let mut wanted = request(&["sleep", "100"], serde_json::from_value(golden["HostConfig"].clone()).unwrap());
    wanted.config = serde_json::from_value(golden["Config"].clone()).unwrap();
    wanted.config.image = "bb".to_owned();
    wanted.host_config.runtime = String::new();
    let containers = host.engine.containers();
    let id = containers.create(None, wanted).await.unwrap().id;
    containers.start(&id).await.unwrap();
    host.until("checked", async || {
        host.inspect(&id).await.state.health.is_some_and(|health| health.log.is_some_and(|log| !log.is_empty()))
    })
    .await;
    let ours = serde_json::to_value(host.inspect(&id).await).unwrap();
    let mut differences = Vec::new();
    compare("", &golden, &ours, &mut differences);
    assert!(differences.is_empty(), "{differences:#?}");
    let listed = containers.list(Default::default()).await.unwrap();
    let golden: serde_json::Value = serde_json::from_str(include_str!("../goldens/list.json")).unwrap();
    compare("list", &golden[0], &serde_json::to_value(&listed[0]).unwrap(), &mut differences);
    assert!(differences.is_empty(), "{differences:#?}");
    host
}

fn compare(path: &str, golden: &serde_json::Value, ours: &serde_json::Value, differences: &mut Vec<String>) {
    use serde_json::Value;
    // Gone since API 1.41, or only there when asked for.
    const OLD: &[&str] = &["KernelMemory", "KernelMemoryTCP", "SizeRootFs", "LowerDir"];
    match (golden, ours) {
        (Value::Object(golden), Value::Object(ours)) => {
            for (key, value) in golden.iter().filter(|(key, _)| !OLD.contains(&key.as_str())) {
                match ours.get(key) {
                    Some(other) => compare(&format!("{path}.{key}"), value, other, differences),
                    None => differences.push(format!("{path}.{key} is missing")),
                }
            }
        }
        (Value::Array(golden), Value::Array(ours)) => {
            if let (Some(golden), Some(ours)) = (golden.first(), ours.first()) {
                compare(&format!("{path}[]"), golden, ours, differences);
            }
        }
        _ => {
            if std::mem::discriminant(golden) != std::mem::discriminant(ours) {
                differences.push(format!("{path}: dockerd gives {golden}, we {ours}"));
            }
        }
    }
}

/// Who reads nothing until the process is long gone: the process does not wait, and everything is there.
pub(crate) async fn slow_readers_lose_nothing(host: Host) -> Host {
    const LINES: usize = 400_000;
    let count = format!("i=0; seq {LINES}; exit 6");
    let check = |text: String| {
        assert_eq!(text.lines().count(), LINES);
        assert!(text.lines().enumerate().all(|(index, line)| line == (index + 1).to_string()), "a piece is missing");
    };
    let containers = host.engine.containers();
    let id = host.create("talker", &["sh", "-c", &count], HostConfig::default()).await;
    let streams = containers.attach(&id, all_streams()).await.unwrap();
    containers.start(&id).await.unwrap();
    assert_eq!(containers.wait(&id, WaitCondition::NotRunning).await.unwrap().status_code, 6);
    // Longer than a shim waits for who reads nothing.
    tokio::time::sleep(Duration::from_millis(2500)).await;
    check(read_all(streams.output).await);
    host.start("target", &["sleep", "100"]).await;
    let command = ExecCreate { attach_stdout: true, ..exec(&["sh", "-c", &count]) };
    let exec_id = containers.exec_create("target", command).await.unwrap();
    let streams = containers.exec_start(&exec_id, ExecStart::default()).await.unwrap().unwrap();
    host.until("the exec ended", async || containers.exec_inspect(&exec_id).await.unwrap().exit_code == Some(6)).await;
    tokio::time::sleep(Duration::from_millis(2500)).await;
    check(read_all(streams.output).await);
    host
}

pub(crate) async fn execs_read_the_specification_once(host: Host) -> Host {
    let id = host.start("kept", &["sleep", "1000"]).await;
    let folder = host.options.exec_root.join("shim").join(&id);
    let (file, aside) = (folder.join("config.json"), folder.join("aside.json"));
    let look = "grep CapEff /proc/self/status";
    std::fs::rename(&file, &aside).unwrap();
    let first = host.exec(&id, look).await;
    assert!(first.contains("00000000a80425fb"), "{first}");
    // Another daemon looks once.
    std::fs::rename(&aside, &file).unwrap();
    let host = host.reopen().await;
    assert_eq!(host.exec(&id, look).await, first);
    std::fs::remove_file(&file).unwrap();
    assert_eq!(host.exec(&id, look).await, first);
    host
}
