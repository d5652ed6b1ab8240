//! Another host on a link of this one.

use std::collections::BTreeMap;
use std::net::{SocketAddr, TcpStream};
use std::os::fd::{AsFd, AsRawFd};
use std::process::Command;
use std::time::Duration;

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
