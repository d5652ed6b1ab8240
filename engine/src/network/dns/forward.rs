//! Queries that others must answer.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;
use std::time::Duration;

use shoal_kit::entropy::Entropy;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};
use tokio::time::timeout;

use super::answer::Transport;

/// How long one name server has.
const PATIENCE: Duration = Duration::from_secs(3);
const MAX_SERVERS: usize = 3;
const SERVFAIL: u8 = 2;
const REFUSED: u8 = 5;

/// Asks the servers one after the other. `None` when none gave an answer.
pub async fn ask(query: &[u8], servers: &[SocketAddr], transport: Transport, entropy: &Entropy) -> Option<Vec<u8>> {
    let mut failed = None;
    for server in servers.iter().take(MAX_SERVERS) {
        let answer = match transport {
            Transport::Datagram => timeout(PATIENCE, by_datagram(query, *server, entropy)).await,
            Transport::Stream => timeout(PATIENCE, by_stream(query, *server)).await,
        };
        match answer {
            Ok(Ok(answer)) => match answer.get(3).map(|flags| flags & 0x0f) {
                Some(SERVFAIL | REFUSED) | None => failed = Some(answer),
                Some(_) => return Some(answer),
            },
            Ok(Err(error)) => tracing::debug!(%server, %error, "name server failed"),
            Err(_) => tracing::debug!(%server, "name server did not answer"),
        }
    }
    failed
}

async fn by_datagram(query: &[u8], server: SocketAddr, entropy: &Entropy) -> std::io::Result<Vec<u8>> {
    let local: IpAddr = if server.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { [0u16; 8].into() };
    // A fresh port and a fresh id for each query: forging an answer means guessing both.
    let socket = UdpSocket::bind((local, 0)).await?;
    socket.connect(server).await?;
    let mut id = [0; 2];
    entropy.fill(&mut id);
    let mut packet = query.to_vec();
    let original = [packet.first().copied().unwrap_or_default(), packet.get(1).copied().unwrap_or_default()];
    packet.get_mut(..2).ok_or(std::io::ErrorKind::InvalidData)?.copy_from_slice(&id);
    socket.send(&packet).await?;
    let mut buffer = vec![0; 65536];
    loop {
        let length = socket.recv(&mut buffer).await?;
        if length >= 12 && buffer[..2] == id {
            buffer.truncate(length);
            buffer[..2].copy_from_slice(&original);
            return Ok(buffer);
        }
    }
}

async fn by_stream(query: &[u8], server: SocketAddr) -> std::io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect(server).await?;
    let length = u16::try_from(query.len()).map_err(|_| std::io::ErrorKind::InvalidInput)?;
    let mut packet = length.to_be_bytes().to_vec();
    packet.extend_from_slice(query);
    stream.write_all(&packet).await?;
    let mut length = [0; 2];
    stream.read_exact(&mut length).await?;
    let mut answer = vec![0; usize::from(u16::from_be_bytes(length))];
    stream.read_exact(&mut answer).await?;
    Ok(answer)
}

/// The name servers of a resolver configuration.
pub fn servers_of(resolv_conf: &str) -> Vec<SocketAddr> {
    let server = |line: &str| {
        let mut words = line.split_whitespace();
        let addr = (words.next()? == "nameserver").then(|| words.next()).flatten()?;
        addr.split('%').next()?.parse().ok().map(|addr: IpAddr| SocketAddr::new(addr, 53))
    };
    resolv_conf.lines().filter_map(server).collect()
}

/// The name servers of a resolver configuration in a file; none when it cannot be read.
pub fn read_servers(path: &Path) -> Vec<SocketAddr> {
    std::fs::read_to_string(path).map(|text| servers_of(&text)).unwrap_or_default()
}
