//! Another host on a link of this one.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsFd, AsRawFd};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use shoal_engine::container::RemoveOptions;
use shoal_engine::model::{HostConfig, PortBinding};
use shoal_engine_sys::netns::Namespace;

use super::harness::Host;

#[expect(clippy::disallowed_methods, reason = "the neighbour is set up by hand, as an administrator would")]
fn ip(words: &str) {
    let status = Command::new("ip").args(words.split(' ')).status().unwrap();
    assert!(status.success(), "ip {words}");
}

fn reaches(address: &str) -> bool {
    let address: SocketAddr = address.parse().unwrap();
    TcpStream::connect_timeout(&address, Duration::from_millis(700)).is_ok()
}

pub(crate) async fn what_is_published_on_loopback_is_for_this_host_alone(host: Host) -> Host {
    let (neighbour, ()) = Namespace::create(|| ()).unwrap();
    let handle = format!("/proc/{}/fd/{}", std::process::id(), neighbour.as_fd().as_raw_fd());
    ip("link add test0 type veth peer name test1");
    ip(&format!("link set test1 netns {handle}"));
    ip("addr add 10.99.0.1/24 dev test0");
    ip("link set test0 up");
    ip("link set lo up");
    neighbour
        .enter(|| {
            ip("addr add 10.99.0.2/24 dev test1");
            ip("link set test1 up");
            // Its own loopback is down and it takes such addresses from outside, as one that means harm sees to.
            shoal_engine_sys::netns::write_setting("ipv4/conf/test1/route_localnet", "1").unwrap();
            ip("route add 127.0.0.1/32 via 10.99.0.1");
        })
        .unwrap();
    let binding = |address: &str, port: &str| PortBinding { host_ip: address.to_owned(), host_port: port.to_owned() };
    let bindings = vec![binding("127.0.0.1", "8081"), binding("", "8082")];
    let wanted = HostConfig {
        network_mode: "bridge".to_owned(),
        port_bindings: Some(BTreeMap::from([("80/tcp".to_owned(), Some(bindings))])),
        ..HostConfig::default()
    };
    let id = host.create("served", &["httpd", "-f", "-p", "80", "-h", "/tmp"], wanted).await;
    host.engine.containers().start(&id).await.unwrap();
    host.until("this host reaches it", async || reaches("127.0.0.1:8081")).await;
    // The way is there.
    assert!(neighbour.enter(|| reaches("10.99.0.1:8082")).unwrap());
    assert!(!neighbour.enter(|| reaches("127.0.0.1:8081")).unwrap(), "a neighbour reaches what is on loopback");
    assert!(!neighbour.enter(|| reaches("10.99.0.1:8081")).unwrap());
    ip("link del test0");
    host
}

/// What a server at this address answers, nothing when there is none.
fn page(address: &str) -> String {
    let address: SocketAddr = address.parse().unwrap();
    let Ok(mut stream) = TcpStream::connect_timeout(&address, Duration::from_secs(2)) else { return String::new() };
    stream.set_read_timeout(Some(Duration::from_secs(2))).unwrap();
    let mut text = String::new();
    let _reset = stream.write_all(b"GET /content HTTP/1.0\r\n\r\n").and_then(|()| stream.read_to_string(&mut text));
    text
}

/// What comes back to a datagram.
fn echo(socket: &UdpSocket, address: &str) -> String {
    socket.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
    let mut bytes = [0; 64];
    let received = socket.send_to(b"hello", address).and_then(|_| socket.recv_from(&mut bytes));
    received.map_or_else(|_| String::new(), |(length, _)| String::from_utf8_lossy(&bytes[..length]).into_owned())
}

/// Published ports are open on addresses of both versions, though containers have one of version 4 only.
pub(crate) async fn ports_lead_in_over_version_6(host: Host) -> Host {
    ip("link set lo up");
    let binding = |address: &str, port: &str| PortBinding { host_ip: address.to_owned(), host_port: port.to_owned() };
    let ports = BTreeMap::from([
        ("80/tcp".to_owned(), Some(vec![binding("", "8083"), binding("::1", "8084"), binding("0.0.0.0", "8085")])),
        ("53/udp".to_owned(), Some(vec![binding("", "8083")])),
    ]);
    let wanted = HostConfig { network_mode: "bridge".to_owned(), port_bindings: Some(ports), ..HostConfig::default() };
    let id = host.create("served", &["httpd", "-f", "-p", "80", "-h", "/srv"], wanted).await;
    host.engine.containers().start(&id).await.unwrap();
    let inside = Namespace::open(&host.options.exec_root.join("netns").join(&id)).unwrap();
    let answering = inside.enter(|| UdpSocket::bind("0.0.0.0:53")).unwrap().unwrap();
    answering.set_read_timeout(Some(Duration::from_secs(1))).unwrap();
    let answering = Arc::new(answering);
    let server = Arc::downgrade(&answering);
    let server = std::thread::spawn(move || {
        let mut bytes = [0; 64];
        while let Some(socket) = server.upgrade() {
            if let Ok((length, from)) = socket.recv_from(&mut bytes) {
                let _gone = socket.send_to(&[b"heard ", &bytes[..length]].concat(), from);
            }
        }
    });
    let shown = host.inspect(&id).await.network_settings.ports;
    let shown: Vec<_> =
        shown["80/tcp"].iter().flatten().map(|one| format!("{} {}", one.host_ip, one.host_port)).collect();
    assert_eq!(shown, ["0.0.0.0 8083", ":: 8083", "::1 8084", "0.0.0.0 8085"]);
    let mut host = host;
    for _ in 0..2 {
        for address in ["127.0.0.1:8083", "[::1]:8083", "[::1]:8084", "127.0.0.1:8085"] {
            host.until(address, async || page(address).contains("from the image")).await;
        }
        assert_eq!(page("[::1]:8085") + &page("127.0.0.1:8084"), "", "published for one version only");
        let sender = UdpSocket::bind("[::1]:0").unwrap();
        host.until("answers to datagrams", async || echo(&sender, "[::1]:8083") == "heard hello").await;
        // The next daemon serves them as well.
        host = host.reopen().await;
    }
    drop(answering);
    server.join().unwrap();
    let remove = RemoveOptions { force: true, volumes: true, link: false };
    host.engine.containers().remove(&id, remove).await.unwrap();
    TcpListener::bind("[::]:8083").expect("the port is free again");
    UdpSocket::bind("[::]:8083").expect("the port is free again");
    host
}
