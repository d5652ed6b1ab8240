//! Ports published on addresses of IPv6: connections are carried to the container's address of IPv4 by the daemon.
//!
//! ## Design notes
//! - The kernel translates addresses within one version only, and a container has none of version 6. dockerd runs a process
//!   for each such port; here it is a task. While the daemon is away nobody listens; the next one serves the ports again.
//! - The table of ports owns the socket, the task looks it up for each step: when the port is given back, it is free at once.

use std::cell::RefCell;
use std::collections::HashMap;
use std::future::poll_fn;
use std::io;
use std::net::{SocketAddr, SocketAddrV4};
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::{Arc, Weak};
use std::task::Poll;
use std::time::Duration;

use rustix::net::sockopt;
use shoal_engine_sys::netns::Namespace;
use shoal_proto::spec::Protocol;
use tokio::io::{AsyncWriteExt, ReadBuf};
use tokio::net::{TcpListener, TcpSocket, TcpStream, UdpSocket};
use tokio::runtime::Handle;
use tokio::sync::Semaphore;
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::Instant;

/// Connections, or senders of datagrams, that one port carries at a time. Further connections wait, datagrams are lost.
const MOST: usize = 1024;
/// How long the container may take to accept a connection.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long answers to datagrams are waited for, as in dockerd.
const ANSWERS: Duration = Duration::from_secs(90);
/// After an error that is not the client's.
const PAUSE: Duration = Duration::from_millis(100);
const LARGEST_DATAGRAM: usize = 65_535;
/// How long a client may go on after the container has said its last word.
const AFTER_THE_END: Duration = Duration::from_secs(60);
/// When a peer that says nothing is asked whether it is still there, and how often before it is not.
const SILENCE: Duration = Duration::from_secs(15);
const QUESTIONS: u32 = 9;

thread_local! {
    /// Room for one datagram, used without waiting.
    static DATAGRAM: RefCell<Box<[u8]>> = RefCell::new(vec![0; LARGEST_DATAGRAM].into_boxed_slice());
}

/// One port that is carried, as long as this lives.
#[derive(Debug)]
pub(super) struct Relay {
    target: SocketAddrV4,
    _socket: Socket,
    task: AbortHandle,
}

#[derive(Debug)]
#[expect(dead_code, reason = "held, and looked at by the task through a weak reference")]
enum Socket {
    Tcp(Arc<TcpListener>),
    Udp(Arc<UdpSocket>),
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// How containers are reached: from the daemon's network namespace, or from the one that counts as the host's.
#[derive(Debug, Clone, Default)]
pub(super) struct Dial {
    pub(super) namespace: Option<PathBuf>,
}

impl Dial {
    fn within<T: Send>(&self, open: impl FnOnce() -> io::Result<T> + Send) -> io::Result<T> {
        match &self.namespace {
            None => open(),
            Some(path) => Namespace::open(path)?.enter(open)?,
        }
    }

    async fn tcp(&self, target: SocketAddrV4) -> io::Result<TcpStream> {
        let socket = self.within(TcpSocket::new_v4)?;
        tokio::time::timeout(PATIENCE, socket.connect(target.into())).await?
    }

    async fn udp(&self, target: SocketAddrV4) -> io::Result<UdpSocket> {
        let socket = self.within(|| std::net::UdpSocket::bind("0.0.0.0:0"))?;
        socket.set_nonblocking(true)?;
        let socket = UdpSocket::from_std(socket)?;
        socket.connect(target).await?;
        Ok(socket)
    }
}

impl Relay {
    /// Begins to carry what comes to a bound socket.
    ///
    /// # Errors
    /// When the socket cannot be served.
    pub(super) fn start(
        socket: OwnedFd,
        protocol: Protocol,
        target: SocketAddrV4,
        dial: Dial,
        runtime: &Handle,
    ) -> io::Result<Self> {
        let _inside = runtime.enter();
        let (socket, task) = if protocol == Protocol::Udp {
            let socket = Arc::new(UdpSocket::from_std(socket.into())?);
            let task = runtime.spawn(carry_datagrams(Arc::downgrade(&socket), target, dial));
            (Socket::Udp(socket), task)
        } else {
            let socket = Arc::new(TcpListener::from_std(socket.into())?);
            let task = runtime.spawn(carry_connections(Arc::downgrade(&socket), target, dial));
            (Socket::Tcp(socket), task)
        };
        Ok(Self { target, _socket: socket, task: task.abort_handle() })
    }

    /// Where it leads.
    pub(super) fn target(&self) -> SocketAddrV4 {
        self.target
    }
}

/// Ends, with all connections, when the socket is gone or the task is.
async fn carry_connections(listener: Weak<TcpListener>, target: SocketAddrV4, dial: Dial) {
    let free = Arc::new(Semaphore::new(MOST));
    let mut connections = JoinSet::new();
    loop {
        let Ok(permit) = Arc::clone(&free).acquire_owned().await else { return };
        while connections.try_join_next().is_some() {}
        let accepted = poll_fn(|context| match listener.upgrade() {
            None => Poll::Ready(None),
            Some(listener) => listener.poll_accept(context).map(Some),
        });
        let client = match accepted.await {
            None => return,
            Some(Ok((client, _))) => client,
            Some(Err(error)) => {
                tracing::debug!(%error, %target, "cannot accept a connection for a published port");
                tokio::time::sleep(PAUSE).await;
                continue;
            }
        };
        let dial = dial.clone();
        connections.spawn(async move {
            let _permit = permit;
            match dial.tcp(target).await {
                Ok(server) => carry(client, server).await,
                Err(error) => tracing::debug!(%error, %target, "a published port leads to nobody"),
            }
        });
    }
}

/// Carries one connection, half by half. Neither a peer that is gone without a word keeps it, nor a client that does not end
/// when the container has.
async fn carry(client: TcpStream, server: TcpStream) {
    keep_asking(&client);
    keep_asking(&server);
    let ((mut from_client, mut to_client), (mut from_server, mut to_server)) =
        (client.into_split(), server.into_split());
    let up = async {
        let _ends = tokio::io::copy(&mut from_client, &mut to_server).await;
        let _gone = to_server.shutdown().await;
    };
    let down = async {
        let _ends = tokio::io::copy(&mut from_server, &mut to_client).await;
        let _gone = to_client.shutdown().await;
    };
    tokio::pin!(up, down);
    tokio::select! {
        () = &mut up => down.await,
        () = &mut down => {
            let _over = tokio::time::timeout(AFTER_THE_END, up).await;
        }
    }
}

/// As docker's proxy does. A kernel that does not is none to carry on without.
fn keep_asking(stream: &TcpStream) {
    let _ = sockopt::set_socket_keepalive(stream, true);
    let _ = sockopt::set_tcp_keepidle(stream, SILENCE);
    let _ = sockopt::set_tcp_keepintvl(stream, SILENCE);
    let _ = sockopt::set_tcp_keepcnt(stream, QUESTIONS);
}

/// A sender of datagrams.
struct Sender {
    server: Arc<UdpSocket>,
    last: Instant,
    answers: AbortHandle,
}

/// The same for datagrams: each sender has a socket of its own towards the container, so that answers find the way back.
async fn carry_datagrams(socket: Weak<UdpSocket>, target: SocketAddrV4, dial: Dial) {
    let mut senders: HashMap<SocketAddr, Sender> = HashMap::new();
    let mut answers = JoinSet::new();
    let mut bytes = vec![0; LARGEST_DATAGRAM];
    loop {
        let received = poll_fn(|context| {
            let Some(socket) = socket.upgrade() else { return Poll::Ready(None) };
            let mut buffer = ReadBuf::new(&mut bytes);
            let from = socket.poll_recv_from(context, &mut buffer);
            from.map(|from| Some(from.map(|from| (from, buffer.filled().len()))))
        });
        let (from, length) = tokio::select! {
            Some(Ok(ended)) = answers.join_next() => {
                senders.remove(&ended);
                continue;
            }
            received = received => match received {
                None => return,
                Some(Ok(received)) => received,
                // What an earlier answer met.
                Some(Err(_)) => continue,
            },
        };
        if !senders.contains_key(&from) {
            // A new one is worth more than the one that was silent for longest.
            let oldest = (senders.len() >= MOST).then(|| senders.iter().min_by_key(|(_, sender)| sender.last));
            if let Some(oldest) = oldest.flatten().map(|(addr, _)| *addr)
                && let Some(sender) = senders.remove(&oldest)
            {
                sender.answers.abort();
            }
            let server = match dial.udp(target).await {
                Ok(server) => Arc::new(server),
                Err(error) => {
                    tracing::debug!(%error, %target, "a published port leads to nobody");
                    continue;
                }
            };
            let answers = answers.spawn(carry_answers(Arc::clone(&server), socket.clone(), from));
            senders.insert(from, Sender { server, last: Instant::now(), answers });
        }
        if let Some(sender) = senders.get_mut(&from) {
            sender.last = Instant::now();
            // Datagrams may be lost.
            let _lost = sender.server.send(&bytes[..length]).await;
        }
    }
}

/// Gives the sender back when there was no answer for long.
async fn carry_answers(server: Arc<UdpSocket>, socket: Weak<UdpSocket>, to: SocketAddr) -> SocketAddr {
    loop {
        let Ok(Ok(())) = tokio::time::timeout(ANSWERS, server.readable()).await else { return to };
        let Some(socket) = socket.upgrade() else { return to };
        let passed = DATAGRAM.with_borrow_mut(|bytes| {
            let length = server.try_recv(bytes)?;
            // Datagrams may be lost.
            let _lost = socket.try_send_to(&bytes[..length], to);
            Ok(())
        });
        match passed.map_err(|error: io::Error| error.kind()) {
            // Nobody listens, yet; or another woke it.
            Ok(()) | Err(io::ErrorKind::ConnectionRefused | io::ErrorKind::WouldBlock) => {}
            Err(_) => return to,
        }
    }
}
