//! The accept loop of the cluster port: one TLS handshake per connection, with the configuration of that moment.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures::Stream;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_util::sync::CancellationToken;

use crate::identity::{CertificateSubject, NodeIdentity};

/// Bounds of the accept loop.
#[derive(Debug, Clone)]
pub struct ListenerOptions {
    /// A handshake that takes longer is given up.
    pub handshake_timeout: Duration,
    /// Connections at one time, half-open ones included; more are closed at once.
    pub max_connections: usize,
}

impl Default for ListenerOptions {
    fn default() -> Self {
        Self { handshake_timeout: Duration::from_secs(5), max_connections: 16_384 }
    }
}

/// Who is at the other end of a connection. Found in the extensions of every request.
#[derive(Debug, Clone)]
pub struct PeerInfo {
    /// Where the connection comes from.
    pub addr: SocketAddr,
    /// What its certificate says, verified against the cluster's roots; `None` when it showed none.
    pub subject: Option<Arc<CertificateSubject>>,
}

/// A connection whose handshake is done.
#[derive(Debug)]
pub struct PeerStream {
    stream: TlsStream<TcpStream>,
    info: PeerInfo,
    _permit: OwnedSemaphorePermit,
}

impl tonic::transport::server::Connected for PeerStream {
    type ConnectInfo = PeerInfo;

    fn connect_info(&self) -> PeerInfo {
        self.info.clone()
    }
}

impl AsyncRead for PeerStream {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for PeerStream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}

/// Connections whose handshake is done, as they come. Ends when the listener is told to stop.
#[derive(Debug)]
pub struct Incoming(mpsc::Receiver<io::Result<PeerStream>>);

impl Stream for Incoming {
    type Item = io::Result<PeerStream>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.0.poll_recv(cx)
    }
}

/// A bound cluster port.
#[derive(Debug)]
pub struct Listener {
    listener: TcpListener,
    identity: Arc<NodeIdentity>,
    options: ListenerOptions,
}

impl Listener {
    /// Binds the address. Port 0 picks a free one.
    ///
    /// # Errors
    /// When the address cannot be bound.
    pub fn bind(addr: SocketAddr, identity: Arc<NodeIdentity>, options: ListenerOptions) -> io::Result<Self> {
        let socket = if addr.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
        socket.set_reuseaddr(true)?;
        socket.bind(addr)?;
        Ok(Self { listener: socket.listen(4096)?, identity, options })
    }

    /// The address it is bound to.
    ///
    /// # Errors
    /// When the kernel does not tell.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Accepts until `stop`. Handshakes run beside each other, each in a task of its own.
    pub fn incoming(self, stop: CancellationToken) -> Incoming {
        let (sender, receiver) = mpsc::channel(256);
        tokio::spawn(self.accept_loop(sender, stop));
        Incoming(receiver)
    }

    async fn accept_loop(self, sender: mpsc::Sender<io::Result<PeerStream>>, stop: CancellationToken) {
        let slots = Arc::new(Semaphore::new(self.options.max_connections));
        loop {
            let accepted = tokio::select! {
                () = stop.cancelled() => return,
                () = sender.closed() => return,
                accepted = self.listener.accept() => accepted,
            };
            let (stream, addr) = match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    // Out of descriptors, or the peer gave up while it waited: neither must spin or end the loop.
                    tracing::warn!(%error, "accept on the cluster port");
                    tokio::time::sleep(Duration::from_millis(20)).await;
                    continue;
                }
            };
            let Ok(permit) = Arc::clone(&slots).try_acquire_owned() else {
                tracing::warn!(%addr, limit = self.options.max_connections, "too many connections: closed");
                continue;
            };
            let sender = sender.clone();
            let acceptor = TlsAcceptor::from(self.identity.current().server_config());
            let timeout = self.options.handshake_timeout;
            tokio::spawn(async move {
                if let Err(error) = tune(&stream) {
                    tracing::debug!(%addr, %error, "set socket options");
                }
                match tokio::time::timeout(timeout, acceptor.accept(stream)).await {
                    Ok(Ok(stream)) => {
                        if let Some(peer) = admitted(stream, addr, permit) {
                            let _ = sender.send(Ok(peer)).await;
                        }
                    }
                    Ok(Err(error)) => tracing::info!(%addr, %error, "TLS handshake failed"),
                    Err(_) => tracing::info!(%addr, "TLS handshake took too long"),
                }
            });
        }
    }
}

fn admitted(stream: TlsStream<TcpStream>, addr: SocketAddr, permit: OwnedSemaphorePermit) -> Option<PeerStream> {
    let subject = match stream.get_ref().1.peer_certificates().and_then(|chain| chain.first()) {
        None => None,
        Some(certificate) => match CertificateSubject::parse(certificate) {
            Ok(subject) => Some(Arc::new(subject)),
            Err(error) => {
                tracing::warn!(%addr, %error, "connection refused");
                return None;
            }
        },
    };
    Some(PeerStream { stream, info: PeerInfo { addr, subject }, _permit: permit })
}

/// No delay for small messages; dead peers are noticed by the kernel too.
pub(crate) fn tune(stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let socket = socket2::SockRef::from(stream);
    let keepalive = socket2::TcpKeepalive::new()
        .with_time(Duration::from_secs(15))
        .with_interval(Duration::from_secs(5))
        .with_retries(3);
    socket.set_tcp_keepalive(&keepalive)?;
    socket.set_tcp_user_timeout(Some(Duration::from_secs(15)))
}
