//! The sockets of a name server, and the tasks that serve them.

use std::io;
use std::net::{SocketAddr, SocketAddrV4, TcpListener, UdpSocket};
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use shoal_kit::entropy::Entropy;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::runtime::Handle;
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::answer::{Outcome, Transport, answer};
use super::forward;
use super::zone::View;
use crate::network::rules::sandbox::NAME_SERVER;

/// Queries of one sandbox that wait for others at a time; more are dropped, the client asks again.
const MAX_FORWARDED: usize = 256;
/// Streams of one sandbox at a time.
const MAX_STREAMS: usize = 64;
/// A stream without a query for so long is closed.
const IDLE: Duration = Duration::from_secs(10);

/// What the tasks of one server share.
#[derive(Debug)]
pub struct Shared {
    /// What the names mean.
    pub view: ArcSwap<View>,
    /// Whom to ask for other names; empty means the host's.
    pub servers: Vec<SocketAddr>,
    /// The host's name servers.
    pub host_servers: Arc<ArcSwap<Vec<SocketAddr>>>,
    /// For turns and ids.
    pub entropy: Entropy,
}

impl Shared {
    async fn forward(&self, query: &[u8], transport: Transport) -> Option<Vec<u8>> {
        let host = self.host_servers.load_full();
        let servers = if self.servers.is_empty() { host.as_slice() } else { self.servers.as_slice() };
        forward::ask(query, servers, transport, &self.entropy).await
    }
}

/// Sockets of a name server, opened in its sandbox.
#[derive(Debug)]
pub struct Sockets {
    datagrams: UdpSocket,
    streams: TcpListener,
}

impl Sockets {
    /// Opens both in the namespace of the calling thread, at these ports if they are free, or else at any.
    ///
    /// # Errors
    /// When the loopback link is down or no port is left.
    pub fn open(wanted: Option<(u16, u16)>) -> io::Result<Self> {
        let (udp, tcp) = wanted.unwrap_or_default();
        let at = |port| SocketAddrV4::new(NAME_SERVER, port);
        let datagrams = UdpSocket::bind(at(udp)).or_else(|_| UdpSocket::bind(at(0)))?;
        let streams = TcpListener::bind(at(tcp)).or_else(|_| TcpListener::bind(at(0)))?;
        datagrams.set_nonblocking(true)?;
        streams.set_nonblocking(true)?;
        Ok(Self { datagrams, streams })
    }

    /// The UDP and the TCP port.
    ///
    /// # Errors
    /// When the kernel does not tell.
    pub fn ports(&self) -> io::Result<(u16, u16)> {
        Ok((self.datagrams.local_addr()?.port(), self.streams.local_addr()?.port()))
    }
}

/// A running name server. It ends when this is dropped.
#[derive(Debug)]
pub struct NameServer {
    shared: Arc<Shared>,
    tasks: [JoinHandle<()>; 2],
}

impl Drop for NameServer {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

impl NameServer {
    /// Serves the sockets on this runtime.
    ///
    /// # Errors
    /// When the runtime does not take them.
    pub fn start(sockets: Sockets, shared: Arc<Shared>, runtime: &Handle) -> io::Result<Self> {
        let _inside = runtime.enter();
        let datagrams = Arc::new(tokio::net::UdpSocket::from_std(sockets.datagrams)?);
        let streams = tokio::net::TcpListener::from_std(sockets.streams)?;
        let tasks = [
            runtime.spawn(serve_datagrams(datagrams, Arc::clone(&shared))),
            runtime.spawn(serve_streams(streams, Arc::clone(&shared))),
        ];
        Ok(Self { shared, tasks })
    }

    /// Changes what the names mean.
    pub fn show(&self, view: View) {
        self.shared.view.store(Arc::new(view));
    }
}

async fn serve_datagrams(socket: Arc<tokio::net::UdpSocket>, shared: Arc<Shared>) {
    let slots = Arc::new(Semaphore::new(MAX_FORWARDED));
    let mut buffer = vec![0; 4096];
    loop {
        let (length, client) = match socket.recv_from(&mut buffer).await {
            Ok(received) => received,
            Err(error) => {
                // An earlier answer that nobody took; the socket itself goes on.
                tracing::debug!(%error, "name server's datagram socket");
                tokio::task::yield_now().await;
                continue;
            }
        };
        let query = &buffer[..length];
        let rotation = shared.entropy.next_u64();
        match answer(query, &shared.view.load(), rotation, Transport::Datagram) {
            Outcome::Ignore => {}
            Outcome::Answer(bytes) => {
                let _ = socket.send_to(&bytes, client).await;
            }
            Outcome::Forward(failure) => {
                let Ok(slot) = Arc::clone(&slots).try_acquire_owned() else { continue };
                let (socket, shared, query) = (Arc::clone(&socket), Arc::clone(&shared), query.to_vec());
                tokio::spawn(async move {
                    let bytes = shared.forward(&query, Transport::Datagram).await.unwrap_or(failure);
                    let _ = socket.send_to(&bytes, client).await;
                    drop(slot);
                });
            }
        }
    }
}

async fn serve_streams(listener: tokio::net::TcpListener, shared: Arc<Shared>) {
    let slots = Arc::new(Semaphore::new(MAX_STREAMS));
    loop {
        let Ok(slot) = Arc::clone(&slots).acquire_owned().await else { return };
        match listener.accept().await {
            Ok((stream, _)) => {
                let shared = Arc::clone(&shared);
                tokio::spawn(async move {
                    let _ = serve_stream(stream, &shared).await;
                    drop(slot);
                });
            }
            Err(error) => {
                tracing::debug!(%error, "name server's stream socket");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

async fn serve_stream(mut stream: tokio::net::TcpStream, shared: &Shared) -> io::Result<()> {
    loop {
        let mut length = [0; 2];
        timeout(IDLE, stream.read_exact(&mut length)).await??;
        let mut query = vec![0; usize::from(u16::from_be_bytes(length))];
        timeout(IDLE, stream.read_exact(&mut query)).await??;
        let outcome = answer(&query, &shared.view.load(), shared.entropy.next_u64(), Transport::Stream);
        let bytes = match outcome {
            Outcome::Ignore => return Ok(()),
            Outcome::Answer(bytes) => bytes,
            Outcome::Forward(failure) => shared.forward(&query, Transport::Stream).await.unwrap_or(failure),
        };
        let mut packet = u16::try_from(bytes.len()).unwrap_or(0).to_be_bytes().to_vec();
        packet.extend_from_slice(&bytes);
        timeout(IDLE, stream.write_all(&packet)).await??;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::network::dns::zone::Zone;
    use hickory_proto::op::{Message, MessageType, OpCode, Query, ResponseCode};
    use hickory_proto::rr::{Name, RecordType};

    fn query(name: &str) -> Vec<u8> {
        let mut message = Message::new(5, MessageType::Query, OpCode::Query);
        message.add_query(Query::query(Name::from_ascii(name).unwrap(), RecordType::A));
        message.to_vec().unwrap()
    }

    /// A server for other names on a random port, which knows none and says so.
    async fn upstream() -> SocketAddr {
        let socket = tokio::net::UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let addr = socket.local_addr().unwrap();
        tokio::spawn(async move {
            let mut buffer = [0; 512];
            while let Ok((length, client)) = socket.recv_from(&mut buffer).await {
                let request = Message::from_vec(&buffer[..length]).unwrap();
                let mut response = Message::error_msg(request.metadata.id, OpCode::Query, ResponseCode::NXDomain);
                response.queries = request.queries;
                socket.send_to(&response.to_vec().unwrap(), client).await.unwrap();
            }
        });
        addr
    }

    async fn ask(port: u16, name: &str) -> Message {
        let client = tokio::net::UdpSocket::bind("127.0.0.1:0").await.unwrap();
        client.send_to(&query(name), (NAME_SERVER, port)).await.unwrap();
        let mut buffer = [0; 512];
        let (length, _) = timeout(Duration::from_secs(5), client.recv_from(&mut buffer)).await.unwrap().unwrap();
        Message::from_vec(&buffer[..length]).unwrap()
    }

    #[tokio::test]
    async fn own_names_are_answered_and_others_forwarded() {
        let sockets = Sockets::open(None).unwrap();
        let (udp, tcp) = sockets.ports().unwrap();
        let mut zone = Zone::new("lan");
        zone.add("web", [10, 0, 0, 5].into());
        let view = View { zones: vec![Arc::new(ArcSwap::from_pointee(zone))], forward: true, ..View::default() };
        let shared = Arc::new(Shared {
            view: ArcSwap::from_pointee(view.clone()),
            servers: vec![upstream().await],
            host_servers: Arc::default(),
            entropy: Entropy::from_seed(1),
        });
        let server = NameServer::start(sockets, shared, &Handle::current()).unwrap();
        assert_eq!(ask(udp, "web.").await.answers.len(), 1);
        let other = ask(udp, "example.com.").await;
        assert_eq!((other.metadata.id, other.metadata.response_code), (5, ResponseCode::NXDomain));
        let mut stream = tokio::net::TcpStream::connect((NAME_SERVER, tcp)).await.unwrap();
        for _ in 0..2 {
            let bytes = query("web.lan.");
            stream.write_u16(u16::try_from(bytes.len()).unwrap()).await.unwrap();
            stream.write_all(&bytes).await.unwrap();
            let mut answer = vec![0; usize::from(stream.read_u16().await.unwrap())];
            stream.read_exact(&mut answer).await.unwrap();
            assert_eq!(Message::from_vec(&answer).unwrap().answers.len(), 1);
        }
        server.show(View { forward: false, ..view });
        assert_eq!(ask(udp, "example.com.").await.metadata.response_code, ResponseCode::ServFail);
    }
}
