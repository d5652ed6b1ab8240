//! Clients at a container's streams.

use std::time::Duration;

use shoal_engine::logs::remote::Buffer;
use shoal_engine::shim::client::{AttachEvent, AttachOptions};
use shoal_engine::shim::config::{LogFile, LogSink, WindowSize};

use super::sandbox::{Backend, Sandbox, read_all};

pub(crate) const TESTS: &[crate::Test] = &[
    ("attach::everybody_gets_everything", everybody_gets_everything),
    ("attach::input_reaches_the_process_and_ends", input_reaches_the_process_and_ends),
    ("attach::input_stays_open_for_the_next_client", input_stays_open_for_the_next_client),
    ("attach::a_stuck_client_stops_nothing", a_stuck_client_stops_nothing),
    ("attach::a_slow_client_loses_nothing", a_slow_client_loses_nothing),
    ("attach::a_terminal_is_a_terminal", a_terminal_is_a_terminal),
    (
        "attach::output_of_a_left_over_process_does_not_hold_the_end",
        output_of_a_left_over_process_does_not_hold_the_end,
    ),
];

fn everybody_gets_everything(backend: Backend) {
    let sandbox = Sandbox::new(backend);
    let running = sandbox.create(&sandbox.input(&["sh", "-c", "seq 5000; seq 3 >&2"])).unwrap();
    sandbox.wait_for(async {
        let all = AttachOptions::default();
        let one = running.shim.attach(all).await.unwrap();
        let two = running.shim.attach(all).await.unwrap();
        let errors = running.shim.attach(AttachOptions { stdout: false, ..all }).await.unwrap();
        running.shim.start().await.unwrap();
        let (one, two, errors) = tokio::join!(read_all(one.output), read_all(two.output), read_all(errors.output));
        let numbers: String = (1..=5000).map(|number| format!("{number}\n")).collect();
        assert_eq!((one.stdout.as_str(), one.stderr.as_str()), (numbers.as_str(), "1\n2\n3\n"));
        assert_eq!((one.stdout, one.stderr), (two.stdout, two.stderr));
        assert_eq!((errors.stdout.as_str(), errors.stderr.as_str()), ("", "1\n2\n3\n"));
    });
}

fn input_reaches_the_process_and_ends(backend: Backend) {
    let sandbox = Sandbox::new(backend);
    let created = sandbox.create_with(&sandbox.input(&["cat"]), |config| {
        config.open_stdin = true;
        config.stdin_once = true;
    });
    let running = created.unwrap();
    let outcome = sandbox.wait_for(async {
        let mut attachment = running.shim.attach(AttachOptions { stdin: true, ..Default::default() }).await.unwrap();
        attachment.input.write(b"before ").await.unwrap();
        running.shim.start().await.unwrap();
        attachment.input.write(b"after").await.unwrap();
        attachment.input.close().await.unwrap();
        read_all(attachment.output).await
    });
    assert_eq!((outcome.stdout.as_str(), outcome.exit.code), ("before after", 0));
    // A client that dies closes it as well.
    let created = sandbox.create_with(&sandbox.input(&["cat"]), |config| {
        config.open_stdin = true;
        config.stdin_once = true;
    });
    let running = created.unwrap();
    sandbox.wait_for(async {
        let attachment = running.shim.attach(AttachOptions { stdin: true, ..Default::default() }).await.unwrap();
        running.shim.start().await.unwrap();
        drop(attachment);
        assert_eq!(running.shim.wait().await.unwrap().code, 0);
    });
}

fn input_stays_open_for_the_next_client(backend: Backend) {
    let sandbox = Sandbox::new(backend);
    let running = sandbox.create_with(&sandbox.input(&["cat"]), |config| config.open_stdin = true).unwrap();
    let options = AttachOptions { stdin: true, ..Default::default() };
    sandbox.wait_for(async {
        running.shim.start().await.unwrap();
        for word in ["one", "two"] {
            let mut attachment = running.shim.attach(options).await.unwrap();
            attachment.input.write(word.as_bytes()).await.unwrap();
            assert_eq!(
                attachment.output.next().await.unwrap(),
                Some(AttachEvent::Stdout(word.as_bytes().to_vec().into()))
            );
        }
        running.shim.close_stdin().await.unwrap();
        assert_eq!(running.shim.wait().await.unwrap().code, 0);
    });
}

fn a_stuck_client_stops_nothing(backend: Backend) {
    let sandbox = Sandbox::new(backend);
    let path = sandbox.dir.path().join("x-json.log");
    let created = sandbox.create_with(&sandbox.input(&["seq", "600000"]), |config| {
        config.log = LogSink::JsonFile {
            file: LogFile { path: path.clone(), max_size_bytes: None, max_file: 1, compress: false },
            attributes: Vec::new(),
            buffer: Buffer::Blocking,
        };
    });
    let running = created.unwrap();
    sandbox.wait_for(async {
        let stuck = running.shim.attach(AttachOptions::default()).await.unwrap();
        running.shim.start().await.unwrap();
        let exit = tokio::time::timeout(Duration::from_secs(20), running.shim.wait()).await.expect("it ends").unwrap();
        assert_eq!(exit.code, 0);
        drop(stuck);
    });
    let log = std::fs::read_to_string(path).unwrap();
    assert_eq!(log.lines().count(), 600_000, "the log has every line");
}

fn a_slow_client_loses_nothing(backend: Backend) {
    let sandbox = Sandbox::new(backend);
    let running = sandbox.create(&sandbox.input(&["seq", "600000"])).unwrap();
    sandbox.wait_for(async {
        let mut slow = running.shim.attach(AttachOptions::default()).await.unwrap();
        running.shim.start().await.unwrap();
        let mut bytes = 0;
        let mut pieces = 0;
        while let Some(AttachEvent::Stdout(piece)) = slow.output.next().await.unwrap() {
            bytes += piece.len();
            pieces += 1;
            if pieces % 10 == 0 {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        }
        assert_eq!(bytes, 4_088_895);
    });
}

fn a_terminal_is_a_terminal(backend: Backend) {
    let sandbox = Sandbox::new(backend);
    let mut input = sandbox.input(&["sh", "-c", "tty; test -t 0 && test -t 1 && test -t 2 && stty size; read x; echo [$x]; stty size; ls -l /dev/console | cut -c1; exit 3"]);
    input.terminal = true;
    let created = sandbox.create_with(&input, |config| {
        config.open_stdin = true;
        config.console_size = Some(WindowSize { columns: 90, rows: 25 });
    });
    let running = created.unwrap();
    let outcome = sandbox.wait_for(async {
        let mut attachment = running.shim.attach(AttachOptions { stdin: true, ..Default::default() }).await.unwrap();
        running.shim.start().await.unwrap();
        let mut seen = String::new();
        while !seen.contains("25 90") {
            let Some(AttachEvent::Stdout(bytes)) = attachment.output.next().await.unwrap() else { panic!("{seen}") };
            seen.push_str(&String::from_utf8_lossy(&bytes));
        }
        assert!(seen.starts_with("/dev/pts/0") || seen.starts_with("/dev/console"), "{seen}");
        running.shim.resize(70, 20).await.unwrap();
        attachment.input.write(b"typed\n").await.unwrap();
        read_all(attachment.output).await
    });
    assert!(outcome.stdout.contains("typed\r\n[typed]\r\n20 70\r\nc\r\n"), "{outcome:?}");
    assert_eq!((outcome.stderr.as_str(), outcome.exit.code), ("", 3));
    // A shell that is hung up ends.
    let mut input = sandbox.input(&["sh"]);
    input.terminal = true;
    let running = sandbox.create_with(&input, |config| config.open_stdin = true).unwrap();
    sandbox.wait_for(async {
        let mut attachment = running.shim.attach(AttachOptions { stdin: true, ..Default::default() }).await.unwrap();
        running.shim.start().await.unwrap();
        let ended = running.shim.wait();
        tokio::pin!(ended);
        // Again and again: what is typed before the shell reads by itself is lost when it changes the terminal's mode.
        let exit = loop {
            attachment.input.write(b"\x04").await.unwrap();
            match tokio::time::timeout(std::time::Duration::from_millis(100), &mut ended).await {
                Ok(exit) => break exit.unwrap(),
                Err(_) => continue,
            }
        };
        assert_eq!(exit.code, 0);
    });
}

fn output_of_a_left_over_process_does_not_hold_the_end(backend: Backend) {
    let sandbox = Sandbox::new(backend);
    // In the host's PID namespace the first process's end does not end the others: the shim does.
    let mut input = sandbox.input(&["sh", "-c", "sleep 1000 & echo begun; exit 2"]);
    input.pid = shoal_engine::runtime::spec::NamespaceMode::Host;
    let running = sandbox.create(&input).unwrap();
    let outcome = sandbox.finish(&running);
    assert_eq!((outcome.stdout.as_str(), outcome.exit.code), ("begun\n", 2));
}
