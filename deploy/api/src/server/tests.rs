//! The server over a real unix socket, with routes of its own.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use http::{HeaderValue, Method, StatusCode};
use shoal_proto::error::Failure;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::*;
use crate::hijack;
use crate::request::Request as ApiRequest;
use crate::router::route;
use crate::version::ApiVersion;

#[derive(Default)]
struct Probe {
    finished: AtomicUsize,
    cancelled: AtomicUsize,
    go_on: Notify,
}

struct CountDrop(Arc<Probe>);

impl Drop for CountDrop {
    fn drop(&mut self) {
        self.0.cancelled.fetch_add(1, Ordering::SeqCst);
    }
}

type Answer = Result<Response, ApiError>;

async fn hello(_: Arc<Probe>, request: ApiRequest) -> Answer {
    Ok(response::text(StatusCode::OK, format!("hello from {} {:?}", request.version, request.params)))
}

async fn asked(_: Arc<Probe>, request: ApiRequest) -> Answer {
    Ok(response::text(StatusCode::OK, format!("asked for {}.", request.query.text("filters"))))
}

async fn echo_json(_: Arc<Probe>, mut request: ApiRequest) -> Answer {
    response::json(&request.json::<serde_json::Value>().await?)
}

async fn refuses(_: Arc<Probe>, _: ApiRequest) -> Answer {
    Err(ApiError::invalid("not wanted"))
}

/// As an archive that is refused by the thread that unpacks it.
async fn refuses_on_a_thread(_: Arc<Probe>, request: ApiRequest) -> Answer {
    std::thread::spawn(move || drop(request.body)).join().expect("thread");
    Err(ApiError::invalid("not wanted"))
}

async fn panics(_: Arc<Probe>, _: ApiRequest) -> Answer {
    panic!("a defect")
}

async fn slow_change(probe: Arc<Probe>, _: ApiRequest) -> Answer {
    probe.go_on.notified().await;
    probe.finished.fetch_add(1, Ordering::SeqCst);
    Ok(response::no_content())
}

async fn endless(probe: Arc<Probe>, _: ApiRequest) -> Answer {
    let guard = CountDrop(probe);
    let first = futures::stream::iter([Ok(Bytes::from_static(b"begun\n"))]);
    let body = first.chain(futures::stream::pending()).inspect(move |_: &Result<Bytes, Failure>| {
        let _ = &guard;
    });
    Ok(response::stream("application/json", body))
}

async fn later(probe: Arc<Probe>, _: ApiRequest) -> Answer {
    probe.go_on.notified().await;
    Ok(response::text(StatusCode::OK, vec![b'x'; 300_000]))
}

/// Echoes its input in capitals, and says goodbye at the end of it; unless it is to be detached.
async fn echo(_: Arc<Probe>, mut request: ApiRequest) -> Answer {
    let options: serde_json::Value = request.json_or_default().await?;
    if options["Detach"] == true {
        return Ok(response::text(StatusCode::OK, "detached."));
    }
    let Some(upgrade) = request.upgrade.take() else { return Err(ApiError::invalid("no upgrade")) };
    Ok(hijack::take_over(hijack::RAW_STREAM, upgrade, |mut io| async move {
        let mut buffer = [0; 1024];
        while let Ok(read) = io.read(&mut buffer).await {
            if read == 0 {
                let _ = io.write_all(b"bye").await;
                break;
            }
            let _ = io.write_all(&buffer[..read].to_ascii_uppercase()).await;
        }
        let _ = io.shutdown().await;
    }))
}

struct Fixture {
    _folder: tempfile::TempDir,
    path: std::path::PathBuf,
    probe: Arc<Probe>,
    shutdown: CancellationToken,
    serving: tokio::task::JoinHandle<()>,
}

fn start() -> Fixture {
    let folder = tempfile::tempdir().expect("folder");
    let path = folder.path().join("api.sock");
    let listener = UnixListener::bind(&path).expect("socket");
    let probe = Arc::new(Probe::default());
    let routes = vec![
        route!(GET "/hello/{name}" => hello),
        route!(GET "/asked" => asked),
        route!(POST "/json" => echo_json),
        route!(GET "/panics" => panics),
        route!(POST "/refuses" => refuses),
        route!(POST "/refuses/on-a-thread" => refuses_on_a_thread),
        route!(POST "/slow" => slow_change),
        route!(GET "/events" => endless),
        route!(GET "/later" => later),
        route!(POST "/containers/{id}/attach" => echo),
        route!(POST "/exec/{id}/start" => echo),
    ];
    let name = HeaderValue::from_static("Shoal/test (linux)");
    let server = Server { context: Arc::clone(&probe), router: Router::new(routes), name, experimental: false };
    let shutdown = CancellationToken::new();
    let listeners = vec![Listener::Unix(listener, Some(path.clone()))];
    let serving = tokio::spawn(run(server, listeners, shutdown.clone()));
    Fixture { _folder: folder, path, probe, shutdown, serving }
}

impl Fixture {
    async fn connect(&self) -> UnixStream {
        UnixStream::connect(&self.path).await.expect("connect")
    }

    /// Sends a text, ends the input, and gives everything that comes back.
    async fn exchange(&self, text: &str) -> String {
        let mut stream = self.connect().await;
        stream.write_all(text.as_bytes()).await.expect("write");
        stream.shutdown().await.expect("shutdown");
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await.expect("read");
        String::from_utf8_lossy(&answer).into_owned()
    }
}

async fn within<F: Future>(future: F) -> F::Output {
    tokio::time::timeout(Duration::from_secs(10), future).await.expect("took longer than 10 s")
}

async fn until(condition: impl Fn() -> bool) {
    within(async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await;
}

#[tokio::test]
async fn versions_are_negotiated_and_headers_are_there() {
    let fixture = start();
    let answer = fixture.exchange("GET /v1.41/hello/a%2Db HTTP/1.1\r\nHost: d\r\n\r\n").await;
    assert!(answer.starts_with("HTTP/1.1 200 OK"), "{answer}");
    for header in ["api-version: 1.51", "docker-experimental: false", "ostype: linux", "server: Shoal/test (linux)"] {
        assert!(answer.to_ascii_lowercase().contains(&header.to_ascii_lowercase()), "{header}: {answer}");
    }
    assert!(answer.ends_with("hello from 1.41 [\"a-b\"]"), "{answer}");
    let answer = fixture.exchange("GET /hello/x HTTP/1.1\r\nHost: d\r\n\r\n").await;
    assert!(answer.contains("hello from 1.51"), "{answer}");
    let answer = fixture.exchange("GET /v1.99/hello/x HTTP/1.1\r\nHost: d\r\n\r\n").await;
    assert!(answer.starts_with("HTTP/1.1 400"), "{answer}");
    assert!(answer.contains("client version 1.99 is too new. Maximum supported API version is 1.51"), "{answer}");
}

#[tokio::test]
async fn errors_are_json_with_the_right_status() {
    let fixture = start();
    let answer = fixture.exchange("GET /nowhere HTTP/1.1\r\nHost: d\r\n\r\n").await;
    assert!(answer.starts_with("HTTP/1.1 404") && answer.contains(r#"{"message":"page not found"}"#), "{answer}");
    let answer = fixture.exchange("GET /panics HTTP/1.1\r\nHost: d\r\n\r\n").await;
    assert!(answer.starts_with("HTTP/1.1 500") && answer.contains("GET /panics"), "{answer}");
    let post = |body: &str, length: usize| {
        format!(
            "POST /json HTTP/1.1\r\nHost: d\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n{body}"
        )
    };
    let answer = fixture.exchange(&post(r#"{"a":"#, 5)).await;
    assert!(answer.starts_with("HTTP/1.1 400") && answer.contains("cut short"), "{answer}");
    let answer = fixture.exchange(&post("", 0)).await;
    assert!(answer.contains("got EOF while reading request body"), "{answer}");
    let text = "POST /json HTTP/1.1\r\nHost: d\r\nContent-Type: text/plain\r\nContent-Length: 2\r\n\r\n{}";
    assert!(fixture.exchange(text).await.contains("must be 'application/json'"));
    let long = "x".repeat(crate::request::JSON_LIMIT_BYTES + 1);
    let answer = fixture.exchange(&post(&long, long.len())).await;
    assert!(answer.starts_with("HTTP/1.1 413"), "{}", &answer[..200.min(answer.len())]);
}

#[tokio::test]
async fn a_body_that_is_cut_short_is_refused_also_when_its_end_comes_later() {
    let fixture = start();
    let head = "POST /json HTTP/1.1\r\nHost: d\r\nContent-Type: application/json\r\n";
    for rest in ["Content-Length: 100\r\n\r\n{\"a\":", "Transfer-Encoding: chunked\r\n\r\n5\r\n{\"a\":\r\n"] {
        let mut stream = fixture.connect().await;
        stream.write_all(format!("{head}{rest}").as_bytes()).await.expect("write");
        // The handler waits for the rest by now, and the answer is under way.
        tokio::time::sleep(Duration::from_millis(50)).await;
        stream.shutdown().await.expect("shutdown");
        let mut answer = Vec::new();
        within(stream.read_to_end(&mut answer)).await.expect("read");
        let answer = String::from_utf8_lossy(&answer);
        assert!(answer.starts_with("HTTP/1.1 400") && answer.contains("cut short"), "{answer}");
    }
}

#[tokio::test]
async fn a_client_that_still_sends_sees_the_refusal() {
    let fixture = start();
    for path in ["/refuses", "/refuses/on-a-thread"] {
        let mut stream = fixture.connect().await;
        let size = 20 << 20;
        let head = format!("POST {path} HTTP/1.1\r\nHost: d\r\nConnection: close\r\nContent-Length: {size}\r\n\r\n");
        stream.write_all(head.as_bytes()).await.expect("write");
        tokio::time::sleep(Duration::from_millis(50)).await;
        within(stream.write_all(&vec![b'x'; size])).await.expect("the body is read though nobody wants it");
        let mut answer = Vec::new();
        within(stream.read_to_end(&mut answer)).await.expect("read");
        assert!(String::from_utf8_lossy(&answer).contains("not wanted"), "{path}");
    }
}

#[tokio::test]
async fn a_client_that_has_sent_all_still_gets_the_answer() {
    let fixture = start();
    let probe = Arc::clone(&fixture.probe);
    let answer = tokio::spawn(async move {
        tokio::time::sleep(Duration::from_millis(300)).await;
        probe.go_on.notify_waiters();
    });
    let text = within(fixture.exchange("GET /later HTTP/1.1\r\nHost: d\r\n\r\n")).await;
    answer.await.expect("notifier");
    assert!(text.starts_with("HTTP/1.1 200 OK") && text.len() > 300_000, "{}", text.len());
}

#[tokio::test]
async fn a_client_that_is_gone_ends_its_stream() {
    let fixture = start();
    let mut stream = fixture.connect().await;
    stream.write_all(b"GET /events HTTP/1.1\r\nHost: d\r\n\r\n").await.expect("write");
    let mut seen = Vec::new();
    while !seen.ends_with(b"begun\n\r\n") {
        within(stream.read_buf(&mut seen)).await.expect("read");
    }
    drop(stream);
    until(|| fixture.probe.cancelled.load(Ordering::SeqCst) == 1).await;
}

#[tokio::test]
async fn a_change_is_finished_though_its_client_is_gone() {
    let fixture = start();
    let mut stream = fixture.connect().await;
    stream.write_all(b"POST /slow HTTP/1.1\r\nHost: d\r\nContent-Length: 0\r\n\r\n").await.expect("write");
    tokio::time::sleep(Duration::from_millis(100)).await;
    drop(stream);
    tokio::time::sleep(Duration::from_millis(100)).await;
    fixture.probe.go_on.notify_waiters();
    until(|| fixture.probe.finished.load(Ordering::SeqCst) == 1).await;
}

#[tokio::test]
async fn connections_are_taken_over_with_an_upgrade() {
    let fixture = start();
    let text =
        "POST /v1.41/containers/a/attach?stdin=1 HTTP/1.1\r\nHost: d\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n\r\n";
    let answer = within(fixture.exchange(&format!("{text}abc"))).await;
    assert!(answer.starts_with("HTTP/1.1 101 UPGRADED\r\n"), "{answer}");
    assert!(answer.contains("application/vnd.docker.raw-stream"), "{answer}");
    assert!(answer.ends_with("\r\n\r\nABCbye"), "{answer}");
}

#[tokio::test]
async fn old_clients_take_connections_over_without_asking() {
    let fixture = start();
    let head =
        "POST /exec/a/start HTTP/1.1\r\nHost: d\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}";
    take_over_without_asking(&fixture, head).await;
    take_over_without_asking(&fixture, &head.replace("Host: d", "Host: d\r\nConnection: close")).await;
    // A refusal stays what it is.
    let refused = fixture
        .exchange(
            "POST /containers/a/attach HTTP/1.1\r\nHost: d\r\nContent-Type: text/plain\r\nContent-Length: 1\r\n\r\nx",
        )
        .await;
    assert!(refused.starts_with("HTTP/1.1 400"), "{refused}");
}

async fn take_over_without_asking(fixture: &Fixture, head: &str) {
    let mut stream = fixture.connect().await;
    stream.write_all(head.as_bytes()).await.expect("write");
    let mut seen = Vec::new();
    while !seen.windows(4).any(|window| window == b"\r\n\r\n") {
        within(stream.read_buf(&mut seen)).await.expect("read");
    }
    let text = String::from_utf8_lossy(&seen).into_owned();
    assert!(text.starts_with("HTTP/1.1 200 OK\r\n"), "{text}");
    assert!(!text.to_ascii_lowercase().contains("upgrade") && !text.contains("transfer-encoding"), "{text}");
    for word in ["one", "two"] {
        stream.write_all(word.as_bytes()).await.expect("write");
        let mut buffer = [0; 3];
        within(stream.read_exact(&mut buffer)).await.expect("read");
        assert_eq!(buffer.to_ascii_lowercase(), word.as_bytes());
    }
    stream.shutdown().await.expect("shutdown");
    let mut rest = Vec::new();
    within(stream.read_to_end(&mut rest)).await.expect("read");
    assert_eq!(rest, b"bye");
}

#[tokio::test]
async fn a_refused_take_over_ends_the_connection_of_who_asked_for_it() {
    let fixture = start();
    for path in ["/containers/a/attach", "/exec/a/start"] {
        let mut stream = fixture.connect().await;
        let rest = "Connection: close\r\nContent-Type: text/plain\r\nContent-Length: 1\r\n\r\nx";
        stream.write_all(format!("POST {path} HTTP/1.1\r\nHost: d\r\n{rest}").as_bytes()).await.expect("write");
        let mut answer = Vec::new();
        // Without ending the input: it is the server that closes.
        within(stream.read_to_end(&mut answer)).await.expect("read");
        let answer = String::from_utf8_lossy(&answer);
        assert!(answer.starts_with("HTTP/1.1 400") && answer.contains("connection: close"), "{answer}");
    }
}

#[tokio::test]
async fn one_connection_serves_many_requests() {
    let fixture = start();
    let mut stream = fixture.connect().await;
    for round in 0..3 {
        let text = format!("GET /hello/n{round} HTTP/1.1\r\nHost: d\r\n\r\n");
        stream.write_all(text.as_bytes()).await.expect("write");
        let mut seen = Vec::new();
        let end = format!("[\"n{round}\"]");
        while !seen.ends_with(end.as_bytes()) {
            assert!(within(stream.read_buf(&mut seen)).await.expect("read") > 0);
        }
    }
}

/// Sends a request on a connection that has served others, and reads until the answer ends so.
async fn ask(stream: &mut UnixStream, text: &str, end: &str) -> String {
    stream.write_all(text.as_bytes()).await.expect("write");
    let mut seen = Vec::new();
    while !seen.ends_with(end.as_bytes()) {
        let read = within(stream.read_buf(&mut seen)).await.expect("read");
        assert!(read > 0, "{}", String::from_utf8_lossy(&seen));
    }
    String::from_utf8(seen).expect("text")
}

#[tokio::test]
async fn later_requests_need_not_encode_their_query_either() {
    let fixture = start();
    let mut stream = fixture.connect().await;
    let json = "POST /json HTTP/1.1\r\nHost: d\r\nContent-Type: application/json\r\n";
    for before in ["Content-Length: 5\r\n\r\n[\"a\"]", "Transfer-Encoding: chunked\r\n\r\n5\r\n[\"a\"]\r\n0\r\n\r\n"] {
        ask(&mut stream, &format!("{json}{before}"), "[\"a\"]\n").await;
        let text = "GET /asked?filters={\"name\":[\"a\"]} HTTP/1.1\r\nHost: d\r\n\r\n";
        let answer = ask(&mut stream, text, "asked for {\"name\":[\"a\"]}.").await;
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    }
    // Two in one piece, and one in two.
    let text =
        "GET /asked?filters={} HTTP/1.1\r\nHost: d\r\n\r\nGET /asked?filters={\"b\"} HTTP/1.1\r\nHost: d\r\n\r\n";
    ask(&mut stream, text, "asked for {\"b\"}.").await;
    stream.write_all(b"GET /asked?filters={\"c\"} HTT").await.expect("write");
    ask(&mut stream, "P/1.1\r\nHost: d\r\n\r\n", "asked for {\"c\"}.").await;
    stream.shutdown().await.expect("shutdown");
    within(stream.read_to_end(&mut Vec::new())).await.expect("an end");
}

#[tokio::test]
async fn old_clients_take_a_used_connection_over_too() {
    let fixture = start();
    let mut stream = fixture.connect().await;
    ask(&mut stream, "GET /hello/n HTTP/1.1\r\nHost: d\r\n\r\n", "[\"n\"]").await;
    let head = "POST /exec/a/start HTTP/1.1\r\nHost: d\r\nContent-Length: 0\r\n\r\n";
    let answer = ask(&mut stream, head, "\r\n\r\n").await;
    assert!(answer.starts_with("HTTP/1.1 200 OK") && !answer.contains("chunked"), "{answer}");
    ask(&mut stream, "in", "IN").await;
}

#[tokio::test]
async fn a_connection_that_was_not_taken_over_serves_on() {
    let fixture = start();
    let mut stream = fixture.connect().await;
    for upgrade in ["", "Connection: Upgrade\r\nUpgrade: tcp\r\n"] {
        let start = format!("POST /exec/a/start HTTP/1.1\r\nHost: d\r\n{upgrade}Content-Type: application/json\r\n");
        ask(&mut stream, &format!("{start}Content-Length: 15\r\n\r\n{{\"Detach\":true}}"), "detached.").await;
        ask(&mut stream, "GET /asked?filters={\"c\"} HTTP/1.1\r\nHost: d\r\n\r\n", "asked for {\"c\"}.").await;
    }
    let head = "POST /exec/a/start HTTP/1.1\r\nHost: d\r\nContent-Length: 0\r\n\r\n";
    let answer = ask(&mut stream, head, "\r\n\r\n").await;
    assert!(answer.starts_with("HTTP/1.1 200 OK") && !answer.contains("chunked"), "{answer}");
    ask(&mut stream, "in", "IN").await;
}

#[tokio::test]
async fn a_take_over_in_one_piece_with_another_request_does_not_take_its_answer() {
    let fixture = start();
    let mut stream = fixture.connect().await;
    let exec = "POST /exec/a/start HTTP/1.1\r\nHost: d\r\nContent-Length: 0\r\n\r\n";
    let after = "GET /asked?filters={\"c\"} HTTP/1.1\r\nHost: d\r\n\r\n";
    let text = format!("GET /hello/n HTTP/1.1\r\nHost: d\r\n\r\n{exec}{after}");
    // Without an upgrade this handler refuses; what matters is that it is asked without one, and that requests go on.
    let answers = ask(&mut stream, &text, "asked for {\"c\"}.").await;
    let mut statuses = answers.split("HTTP/1.1 ").skip(1).map(|answer| &answer[..3]);
    assert_eq!(
        (statuses.next(), statuses.next(), statuses.next()),
        (Some("200"), Some("400"), Some("200")),
        "{answers}"
    );
}

#[tokio::test]
async fn nothing_is_smuggled_past_in_a_body() {
    let fixture = start();
    // Taken for a head, this body would be changed on its way.
    let inner = "{\"k\": \"<\"}\r\n\r\n";
    let json = "POST /json HTTP/1.1\r\nHost: d\r\nContent-Type: application/json\r\n";
    for head in [
        format!("{json}X: y\nContent-Length: {}\r\n\r\n{inner}", inner.len()),
        format!("{json}Transfer-Encoding: gzip, chunked\r\n\r\n{:x}\r\n{inner}\r\n0\r\n\r\n", inner.len()),
    ] {
        let answer = within(fixture.exchange(&head)).await;
        assert!(answer.starts_with("HTTP/1.1 200") && answer.ends_with("{\"k\":\"<\"}\n"), "{answer}");
    }
    // Heads whose lines end with LF are answered while the client still waits.
    let mut stream = fixture.connect().await;
    ask(&mut stream, "GET /hello/n HTTP/1.1\nHost: d\n\n", "[\"n\"]").await;
}

#[tokio::test]
async fn shutdown_ends_streams_and_removes_the_socket() {
    let fixture = start();
    let mut stream = fixture.connect().await;
    stream.write_all(b"GET /events HTTP/1.1\r\nHost: d\r\n\r\n").await.expect("write");
    let mut seen = Vec::new();
    within(stream.read_buf(&mut seen)).await.expect("read");
    fixture.shutdown.cancel();
    within(fixture.serving).await.expect("server");
    assert!(!fixture.path.exists());
    let mut rest = Vec::new();
    let _ = within(stream.read_to_end(&mut rest)).await;
}

#[test]
fn header_names_the_newest_version() {
    assert_eq!(const_version(), ApiVersion::MAX.to_string());
}

#[test]
fn only_changes_outlive_their_client() {
    assert!(outlives_client(&Method::POST, "/containers/a/start"));
    assert!(outlives_client(&Method::DELETE, "/services/a"));
    assert!(!outlives_client(&Method::POST, "/containers/a/wait"));
    assert!(!outlives_client(&Method::GET, "/events"));
}
