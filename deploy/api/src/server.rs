//! The accept loop, and what happens to each request before and after its handler.

use std::convert::Infallible;
use std::panic::AssertUnwindSafe;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use http::{HeaderValue, Method, header};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use shoal_proto::error::{Failure, chain};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::Semaphore;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{debug, warn};

mod activity;
mod connection;
mod framing;
mod sniff;
#[cfg(test)]
mod tests;

pub(crate) use self::activity::BodyWatch;
use self::activity::{Activity, GuardedBody};
pub(crate) use self::connection::ConnectionIo;
use self::connection::Transport;
use crate::body::RequestBody;
use crate::error::ApiError;
use crate::query::{self, Query};
use crate::request::Request;
use crate::response::{self, Response};
use crate::router::Router;
use crate::version::split_path;

/// Open connections of one listener; more wait in the kernel's queue.
const MAX_CONNECTIONS: usize = 4096;
/// As dockerd: time for a client to send the header of a request.
const HEADER_TIMEOUT: Duration = Duration::from_secs(300);
/// How long a shutdown waits for answers that are under way.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(3);
/// Pause after the kernel could not accept a connection (out of descriptors).
const ACCEPT_PAUSE: Duration = Duration::from_millis(200);

/// Where the API listens. The daemon binds the sockets; of unix sockets it also sets owner and mode.
#[derive(Debug)]
pub enum Listener {
    /// A unix socket; its file is removed at the end.
    Unix(UnixListener, Option<PathBuf>),
    /// Plain TCP: for tests, and for the loopback address.
    Tcp(TcpListener),
    /// TCP with TLS; the configuration decides which clients are let in.
    Tls(TcpListener, Arc<rustls::ServerConfig>),
}

/// Serves all listeners until the token is cancelled, then finishes the answers that are under way.
pub(crate) async fn run<C: Send + Sync + 'static>(
    server: Server<C>,
    listeners: Vec<Listener>,
    shutdown: CancellationToken,
) {
    let server = Arc::new(server);
    let connections = TaskTracker::new();
    let loops = listeners
        .into_iter()
        .map(|listener| accept_loop(listener, Arc::clone(&server), connections.clone(), shutdown.clone()));
    futures::future::join_all(loops).await;
    connections.close();
    connections.wait().await;
}

async fn accept_loop<C: Send + Sync + 'static>(
    listener: Listener,
    server: Arc<Server<C>>,
    connections: TaskTracker,
    shutdown: CancellationToken,
) {
    let permits = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    loop {
        let accepted = tokio::select! {
            () = shutdown.cancelled() => break,
            accepted = accept(&listener, &permits) => accepted,
        };
        match accepted {
            Ok((permit, accepted)) => {
                let (server, shutdown) = (Arc::clone(&server), shutdown.clone());
                connections.spawn(async move {
                    match accepted {
                        Accepted::Ready(stream) => serve_connection(stream, server, shutdown).await,
                        Accepted::Tls(stream, acceptor) => match acceptor.accept(stream).await {
                            Ok(stream) => serve_connection(Box::new(stream), server, shutdown).await,
                            Err(error) => debug!(%error, "API client did not complete the TLS handshake"),
                        },
                    }
                    drop(permit);
                });
            }
            Err(error) => {
                warn!(%error, "API cannot accept a connection");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
    if let Listener::Unix(_, Some(path)) = &listener {
        // Another daemon may have taken the path over in the meantime; removing is best effort.
        let _ = tokio::fs::remove_file(path).await;
    }
}

enum Accepted {
    Ready(Box<dyn Transport>),
    Tls(tokio::net::TcpStream, TlsAcceptor),
}

async fn accept(
    listener: &Listener,
    permits: &Arc<Semaphore>,
) -> std::io::Result<(tokio::sync::OwnedSemaphorePermit, Accepted)> {
    let permit = Arc::clone(permits).acquire_owned().await.map_err(std::io::Error::other)?;
    let accepted = match listener {
        Listener::Unix(listener, _) => Accepted::Ready(Box::new(listener.accept().await?.0)),
        Listener::Tcp(listener) => {
            let (stream, _) = listener.accept().await?;
            stream.set_nodelay(true)?;
            Accepted::Ready(Box::new(stream))
        }
        Listener::Tls(listener, config) => {
            let (stream, _) = listener.accept().await?;
            stream.set_nodelay(true)?;
            Accepted::Tls(stream, TlsAcceptor::from(Arc::clone(config)))
        }
    };
    Ok((permit, accepted))
}

async fn serve_connection<C: Send + Sync + 'static>(
    stream: Box<dyn Transport>,
    server: Arc<Server<C>>,
    shutdown: CancellationToken,
) {
    let activity = Arc::new(Activity::default());
    let io = ConnectionIo::new(stream, Arc::clone(&activity));
    let service = service_fn(move |request| {
        let (server, guard, watch) = (Arc::clone(&server), activity.begin(), BodyWatch::new(&activity));
        async move {
            let response = server.answer(request, watch).await;
            Ok::<_, Infallible>(response.map(|body| GuardedBody { body, _guard: guard }))
        }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIMEOUT)
        .half_close(false)
        .serve_connection(TokioIo::new(io), service)
        .with_upgrades();
    tokio::pin!(connection);
    let ended = tokio::select! {
        ended = &mut connection => ended,
        () = shutdown.cancelled() => {
            connection.as_mut().graceful_shutdown();
            match tokio::time::timeout(DRAIN_TIMEOUT, connection).await {
                Ok(ended) => ended,
                Err(_) => return,
            }
        }
    };
    if let Err(error) = ended {
        debug!(error = chain(&error), "API connection ended");
    }
}

/// What all connections share. `C` is what every handler has at hand.
pub(crate) struct Server<C> {
    pub context: Arc<C>,
    pub router: Router<C>,
    /// Value of the `Server` header.
    pub name: HeaderValue,
    /// Are experimental features offered? Clients hide commands by this.
    pub experimental: bool,
}

impl<C: Send + Sync + 'static> Server<C> {
    async fn answer(&self, request: http::Request<Incoming>, watch: BodyWatch) -> Response {
        let (method, path) = (request.method().clone(), request.uri().path().to_owned());
        let result = match AssertUnwindSafe(self.dispatch(request, watch)).catch_unwind().await {
            Ok(result) => result,
            Err(_) => Err(Failure::new(
                shoal_proto::error::ErrorKind::Internal,
                format!("the daemon failed while it answered {method} {path}; its log says where"),
            )
            .into()),
        };
        let mut answer = result.unwrap_or_else(|error| {
            if error.status().is_server_error() {
                warn!(%method, path, status = error.status().as_u16(), error = error.message(), "API request failed");
            } else {
                debug!(%method, path, status = error.status().as_u16(), error = error.message(), "API request refused");
            }
            response::error(&error)
        });
        self.stamp(&mut answer);
        answer
    }

    async fn dispatch(&self, mut request: http::Request<Incoming>, watch: BodyWatch) -> Result<Response, ApiError> {
        let decoded = query::decode(request.uri().path(), false);
        let (version, path) = split_path(&decoded);
        let version = version.check()?;
        let method = request.method().clone();
        debug!(%method, path, %version, "API request");
        let Some((handler, params)) = self.router.find(&method, path) else {
            return Err(ApiError::not_found("page not found"));
        };
        let wants_upgrade = request.headers().contains_key(header::UPGRADE);
        let upgrade = wants_upgrade.then(|| hyper::upgrade::on(&mut request));
        let query = Query::parse(request.uri().query().unwrap_or(""));
        let outlives_client = outlives_client(&method, path);
        let (parts, body) = request.into_parts();
        let body = RequestBody::new(body, watch);
        let request = Request { params, query, headers: parts.headers, version, body, upgrade };
        let answer = handler(Arc::clone(&self.context), request);
        if !outlives_client {
            return answer.await;
        }
        match tokio::spawn(answer).await {
            Ok(result) => result,
            Err(error) => match error.try_into_panic() {
                Ok(panic) => std::panic::resume_unwind(panic),
                Err(_) => Err(Failure::unavailable("the daemon is shutting down").into()),
            },
        }
    }

    /// Headers that every response carries.
    fn stamp(&self, response: &mut Response) {
        let headers = response.headers_mut();
        headers.insert("api-version", HeaderValue::from_static(const_version()));
        headers
            .insert("docker-experimental", HeaderValue::from_static(if self.experimental { "true" } else { "false" }));
        headers.insert("ostype", HeaderValue::from_static(std::env::consts::OS));
        headers.insert(header::SERVER, self.name.clone());
    }
}

/// The text of [`crate::ApiVersion::MAX`], checked by a test.
const fn const_version() -> &'static str {
    "1.51"
}

/// A change that was begun is carried through though its client went away: half a container start would leave more
/// behind than a whole one. Reading and waiting end with the client.
fn outlives_client(method: &Method, path: &str) -> bool {
    !matches!(*method, Method::GET | Method::HEAD) && !path.ends_with("/wait")
}
