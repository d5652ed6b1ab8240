//! Prometheus metrics at `--metrics-addr`, with dockerd's names where they have a meaning here.

use std::convert::Infallible;
use std::fmt::{Display, Write};
use std::net::SocketAddr;
use std::sync::atomic::Ordering;

use anyhow::Context;
use bytes::Bytes;
use http::{Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use shoal_engine::Engine;
use shoal_engine::metrics::{Action, BUCKETS_S, Snapshot, Step};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;

/// Clients at a time; more wait.
const CLIENTS: usize = 16;

/// Binds the socket.
///
/// # Errors
/// When somebody else has it.
pub(crate) async fn bind(addr: SocketAddr) -> anyhow::Result<TcpListener> {
    let listener = TcpListener::bind(addr).await.with_context(|| format!("cannot serve metrics at {addr}"))?;
    tracing::info!(%addr, "metrics are served");
    Ok(listener)
}

/// Serves `/metrics` until told to stop.
pub(crate) async fn serve(listener: TcpListener, engine: Engine, shutdown: CancellationToken) {
    let clients = std::sync::Arc::new(tokio::sync::Semaphore::new(CLIENTS));
    loop {
        let Ok(permit) = std::sync::Arc::clone(&clients).acquire_owned().await else { return };
        let stream = tokio::select! {
            () = shutdown.cancelled() => return,
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => stream,
                Err(error) => {
                    tracing::warn!(%error, "cannot accept a client of the metrics");
                    tokio::time::sleep(std::time::Duration::from_millis(100)).await;
                    continue;
                }
            },
        };
        let (engine, shutdown) = (engine.clone(), shutdown.clone());
        tokio::spawn(async move {
            tokio::select! {
                () = shutdown.cancelled() => {}
                () = connection(stream, engine) => {}
            }
            drop(permit);
        });
    }
}

async fn connection(stream: TcpStream, engine: Engine) {
    let service = hyper::service::service_fn(move |request: Request<Incoming>| {
        let engine = engine.clone();
        async move { Ok::<_, Infallible>(answer(&request, &engine).await) }
    });
    let served = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
    if let Err(error) = served {
        tracing::debug!(%error, "a client of the metrics left");
    }
}

async fn answer(request: &Request<Incoming>, engine: &Engine) -> Response<Full<Bytes>> {
    let (status, text) = match request.uri().path() {
        "/metrics" => (StatusCode::OK, render(engine).await),
        _ => (StatusCode::NOT_FOUND, "404 page not found\n".to_owned()),
    };
    let mut response = Response::new(Full::new(Bytes::from(text)));
    *response.status_mut() = status;
    let kind = header::HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
    response.headers_mut().insert(header::CONTENT_TYPE, kind);
    response
}

async fn render(engine: &Engine) -> String {
    let (info, counted) = (engine.info().await, engine.metrics());
    let mut page = Page::default();
    page.head(
        "engine_daemon_container_actions_seconds",
        "histogram",
        "The number of seconds it takes to process each container action",
    );
    for action in Action::ALL {
        page.histogram("engine_daemon_container_actions_seconds", action.as_str(), &counted.action(action).snapshot());
    }
    page.head(
        "shoal_container_start_step_seconds",
        "summary",
        "The number of seconds it takes to do each part of a container's start",
    );
    for step in Step::ALL {
        let (seen, labels) = (counted.step(step).snapshot(), [("step", step.as_str())]);
        page.line("shoal_container_start_step_seconds_sum", &labels, seen.sum_s);
        page.line("shoal_container_start_step_seconds_count", &labels, seen.count);
    }
    page.head("engine_daemon_container_states_containers", "gauge", "The count of containers in various states");
    for (state, count) in
        [("paused", info.containers_paused), ("running", info.containers_running), ("stopped", info.containers_stopped)]
    {
        page.line("engine_daemon_container_states_containers", &[("state", state)], count);
    }
    page.one(
        "engine_daemon_engine_cpus_cpus",
        "gauge",
        "The number of cpus that the host system of the engine has",
        info.ncpu,
    );
    page.head(
        "engine_daemon_engine_info",
        "gauge",
        "The information related to the engine and the OS it is running on",
    );
    let labels = [
        ("architecture", info.architecture.as_str()),
        ("commit", ""),
        ("daemon_id", &info.id),
        ("graphdriver", &info.driver),
        ("kernel", &info.kernel_version),
        ("os", &info.operating_system),
        ("os_type", &info.os_type),
        ("os_version", &info.os_version),
        ("version", &info.server_version),
    ];
    page.line("engine_daemon_engine_info", &labels, 1);
    page.one(
        "engine_daemon_engine_memory_bytes",
        "gauge",
        "The number of bytes of memory that the host system of the engine has",
        info.mem_total,
    );
    page.one(
        "engine_daemon_events_subscribers_total",
        "gauge",
        "The number of current subscribers to events",
        engine.events().listeners(),
    );
    page.one("engine_daemon_events_total", "counter", "The number of events logged", engine.events().published());
    let checks = counted.health_checks.load(Ordering::Relaxed);
    let failed = counted.health_checks_failed.load(Ordering::Relaxed);
    page.one("engine_daemon_health_checks_failed_total", "counter", "The total number of failed health checks", failed);
    page.one("engine_daemon_health_checks_total", "counter", "The total number of health checks", checks);
    process(&mut page);
    page.0
}

/// What every Prometheus client tells of its own process.
fn process(page: &mut Page) {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    // Behind the name, which may hold spaces: state is field 3.
    let fields: Vec<f64> = stat
        .rsplit_once(") ")
        .map(|(_, rest)| rest.split(' ').map(|field| field.trim().parse().unwrap_or(0.0)).collect())
        .unwrap_or_default();
    let field = |number: usize| fields.get(number - 3).copied().unwrap_or(0.0);
    #[expect(clippy::cast_precision_loss, reason = "small numbers")]
    let (tick, page_size) = (rustix::param::clock_ticks_per_second() as f64, rustix::param::page_size() as f64);
    let boot = std::fs::read_to_string("/proc/stat").unwrap_or_default();
    let boot: f64 = boot.lines().find_map(|line| line.strip_prefix("btime ")?.parse().ok()).unwrap_or(0.0);
    let files = std::fs::read_dir("/proc/self/fd").map_or(0, Iterator::count);
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile).current.unwrap_or(u64::MAX);
    page.one(
        "process_cpu_seconds_total",
        "counter",
        "Total user and system CPU time spent in seconds.",
        (field(14) + field(15)) / tick,
    );
    page.one("process_max_fds", "gauge", "Maximum number of open file descriptors.", limit);
    page.one("process_open_fds", "gauge", "Number of open file descriptors.", files);
    page.one("process_resident_memory_bytes", "gauge", "Resident memory size in bytes.", field(24) * page_size);
    page.one(
        "process_start_time_seconds",
        "gauge",
        "Start time of the process since unix epoch in seconds.",
        boot + field(22) / tick,
    );
    page.one("process_threads", "gauge", "Number of threads.", field(20));
    page.one("process_virtual_memory_bytes", "gauge", "Virtual memory size in bytes.", field(23));
}

/// Prometheus' text format.
#[derive(Debug, Default)]
struct Page(String);

impl Page {
    fn head(&mut self, name: &str, kind: &str, help: &str) {
        let _ = writeln!(self.0, "# HELP {name} {help}\n# TYPE {name} {kind}");
    }

    fn line(&mut self, name: &str, labels: &[(&str, &str)], value: impl Display) {
        let escape = |text: &str| text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
        let labels: Vec<_> = labels.iter().map(|(name, value)| format!("{name}=\"{}\"", escape(value))).collect();
        let labels = if labels.is_empty() { String::new() } else { format!("{{{}}}", labels.join(",")) };
        let _ = writeln!(self.0, "{name}{labels} {value}");
    }

    fn one(&mut self, name: &str, kind: &str, help: &str, value: impl Display) {
        self.head(name, kind, help);
        self.line(name, &[], value);
    }

    fn histogram(&mut self, name: &str, action: &str, seen: &Snapshot) {
        let bucket = format!("{name}_bucket");
        for (bound, count) in BUCKETS_S.iter().zip(seen.cumulative) {
            self.line(&bucket, &[("action", action), ("le", &bound.to_string())], count);
        }
        self.line(&bucket, &[("action", action), ("le", "+Inf")], seen.count);
        self.line(&format!("{name}_sum"), &[("action", action)], seen.sum_s);
        self.line(&format!("{name}_count"), &[("action", action)], seen.count);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_text_format_is_prometheus() {
        let mut page = Page::default();
        page.one("a_total", "counter", "How many.", 3);
        page.line("b", &[("name", "say \"hi\"\n")], 1.5);
        let seen = Snapshot { cumulative: [1; BUCKETS_S.len()], count: 2, sum_s: 12.5 };
        page.histogram("h", "start", &seen);
        assert!(page.0.starts_with(
            "# HELP a_total How many.\n# TYPE a_total counter\na_total 3\nb{name=\"say \\\"hi\\\"\\n\"} 1.5\n"
        ));
        assert!(page.0.contains("h_bucket{action=\"start\",le=\"0.005\"} 1\n"));
        assert!(page.0.ends_with(
            "h_bucket{action=\"start\",le=\"+Inf\"} 2\nh_sum{action=\"start\"} 12.5\nh_count{action=\"start\"} 2\n"
        ));
    }
}
