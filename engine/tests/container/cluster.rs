//! Cluster networks on one node: what the kernel has follows the cluster's state, whoever meddles.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, UdpSocket};
use std::path::PathBuf;

use shoal_engine::network::{ClusterNetwork, ClusterNetworkState, OverlayAttachment, SandboxOptions, SandboxUser};
use shoal_engine_sys::netlink::link::{self, Link};
use shoal_engine_sys::netlink::{Family, NetlinkSocket, neighbour};
use shoal_engine_sys::netns::Namespace;
use shoal_proto::assignment::{EndpointOwner, EndpointRecord, NetworkRecord, ServiceRecord};
use shoal_proto::id::{AttachmentId, NetworkId, NodeId, ServiceId, TaskId};
use shoal_proto::spec::EndpointMode;

use super::harness::Host;

const HERE: u128 = 1;
const THERE: u128 = 2;
const VIRTUAL: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 2);

fn network() -> NetworkId {
    NetworkId::from_bits(77)
}

fn addr(last: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 77, 0, last)
}

fn underlay(node: u128) -> IpAddr {
    if node == HERE { [127, 0, 0, 1].into() } else { Ipv4Addr::new(192, 0, 2, node as u8).into() }
}

/// Endpoints by the last number of their address, and the nodes that they are on.
fn state(endpoints: &[(u8, u128)]) -> ClusterNetworkState {
    let endpoint = |(last, node): &(u8, u128)| {
        let owner = EndpointOwner::Task(TaskId::from_bits(u128::from(*last)));
        let record = EndpointRecord {
            network: network(),
            owner,
            addr: addr(*last),
            node: NodeId::from_bits(*node),
            node_addr: Some(underlay(*node)),
            service: Some(ServiceId::from_bits(5)),
            name: format!("web.{last}"),
            aliases: Vec::new(),
            serving: true,
        };
        (owner, record)
    };
    let service = ServiceRecord {
        network: network(),
        service: ServiceId::from_bits(5),
        name: "web".to_owned(),
        aliases: Vec::new(),
        mode: EndpointMode::Vip,
        virtual_ip: Some(VIRTUAL),
    };
    let record = NetworkRecord {
        id: network(),
        name: "mesh".to_owned(),
        driver: "overlay".to_owned(),
        subnet: Some("10.77.0.0/24".parse().unwrap()),
        gateway: None,
        vni: 7700,
        mtu: 0,
        internal: true,
        ingress: false,
        attachable: true,
        node_address: None,
    };
    ClusterNetworkState {
        node_id: NodeId::from_bits(HERE),
        data_path_addr: underlay(HERE),
        data_path_port: 4789,
        networks: [(
            network(),
            ClusterNetwork {
                record,
                endpoints: endpoints.iter().map(endpoint).collect(),
                services: [(ServiceId::from_bits(5), service)].into(),
            },
        )]
        .into(),
        published: BTreeMap::new(),
    }
}

async fn attach(host: &Host, id: &str, last: u8, hostname: &str) {
    let controller = host.engine.networks().controller().clone();
    controller.create_sandbox(id, SandboxOptions::default(), SandboxUser::Host).await.unwrap();
    let attachment = OverlayAttachment {
        network: network(),
        addr: addr(last),
        task: Some(TaskId::from_bits(u128::from(last))),
        service: Some(ServiceId::from_bits(5)),
        aliases: vec!["web".to_owned()],
        hostname: hostname.to_owned(),
    };
    controller.attach_cluster(id, vec![attachment], Vec::new()).await.unwrap();
}

fn netns(host: &Host, name: &str) -> PathBuf {
    host.options.exec_root.join("netns").join(name)
}

/// A socket among the links of the cluster network.
fn overlay(host: &Host) -> NetlinkSocket {
    let path = netns(host, &format!("overlay-{}", network()));
    Namespace::open(&path).unwrap().enter(|| NetlinkSocket::open(Family::Route).unwrap()).unwrap()
}

fn ports(socket: &mut NetlinkSocket) -> Vec<Link> {
    link::list(socket).unwrap().into_iter().filter(|link| link.kind == "veth").collect()
}

fn peers(socket: &mut NetlinkSocket) -> BTreeSet<IpAddr> {
    let device = link::find(socket, "vxlan0").unwrap().unwrap().index;
    neighbour::list_forwarding(socket, device).unwrap().into_iter().map(|(_, node)| node).collect()
}

/// Asks a sandbox's name server for the address of a name.
fn resolve(host: &Host, id: &str, name: &str) -> Option<Ipv4Addr> {
    let mut query = vec![0, 7, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    for label in name.split('.') {
        query.push(u8::try_from(label.len()).unwrap());
        query.extend_from_slice(label.as_bytes());
    }
    query.extend_from_slice(&[0, 0, 1, 0, 1]);
    let namespace = Namespace::open(&netns(host, id)).unwrap();
    let answer = namespace.enter(|| {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.set_read_timeout(Some(std::time::Duration::from_secs(2))).unwrap();
        socket.send_to(&query, "127.0.0.11:53").unwrap();
        let mut answer = [0; 512];
        let length = socket.recv(&mut answer).unwrap();
        answer[..length].to_vec()
    });
    let answer = answer.unwrap();
    // One answer, whose last four bytes are the address.
    (answer[7] >= 1).then(|| Ipv4Addr::from(*answer.last_chunk::<4>().unwrap()))
}

pub(crate) async fn tables_follow_the_state(host: Host) -> Host {
    let controller = host.engine.networks().controller().clone();
    controller.apply_cluster(state(&[(5, HERE), (6, HERE), (9, THERE)])).await.unwrap();
    attach(&host, "one", 5, "box1").await;
    attach(&host, "two", 6, "box2").await;
    let mut socket = overlay(&host);
    assert_eq!(peers(&mut socket), [underlay(THERE)].into());
    // Moved, from what is known without asking the kernel; gone; and back.
    controller.apply_cluster(state(&[(5, HERE), (6, HERE), (9, 3)])).await.unwrap();
    assert_eq!(peers(&mut socket), [underlay(3)].into());
    controller.apply_cluster(state(&[(5, HERE), (6, HERE)])).await.unwrap();
    assert!(peers(&mut socket).is_empty());
    controller.apply_cluster(state(&[(5, HERE), (6, HERE), (9, THERE)])).await.unwrap();
    assert_eq!(peers(&mut socket), [underlay(THERE)].into());
    // Somebody takes a port off the bridge, and an entry out of the tables.
    let port = ports(&mut socket).remove(0);
    assert_ne!(port.master, 0);
    socket.request(link::take_off(&port.name)).unwrap();
    let device = link::find(&mut socket, "vxlan0").unwrap().unwrap().index;
    for (mac, node) in neighbour::list_forwarding(&mut socket, device).unwrap() {
        socket.request(neighbour::remove_forwarding(device, mac, node)).unwrap();
    }
    controller.resync().await;
    assert!(ports(&mut socket).iter().all(|found| found.master == port.master));
    assert_eq!(peers(&mut socket), [underlay(THERE)].into());
    for id in ["one", "two"] {
        controller.destroy_sandbox(id).await.unwrap();
    }
    controller.apply_cluster(ClusterNetworkState { networks: BTreeMap::new(), ..state(&[]) }).await.unwrap();
    host
}

fn with_guest(mut state: ClusterNetworkState) -> ClusterNetworkState {
    let owner = EndpointOwner::Attachment(AttachmentId::from_bits(8));
    let record = EndpointRecord {
        network: network(),
        owner,
        addr: addr(9),
        node: NodeId::from_bits(THERE),
        node_addr: Some(underlay(THERE)),
        service: None,
        name: "guest".to_owned(),
        aliases: vec!["alias".to_owned()],
        serving: false,
    };
    state.networks.values_mut().for_each(|network| drop(network.endpoints.insert(owner, record.clone())));
    state
}

pub(crate) async fn a_lost_place_is_known_and_left(host: Host) -> Host {
    let controller = host.engine.networks().controller().clone();
    controller.apply_cluster(state(&[(5, HERE)])).await.unwrap();
    attach(&host, "task", 5, "box").await;
    controller.create_sandbox("guest", SandboxOptions::default(), SandboxUser::Host).await.unwrap();
    let place = OverlayAttachment {
        network: network(),
        addr: addr(7),
        task: None,
        service: None,
        aliases: Vec::new(),
        hostname: String::new(),
    };
    controller.attach_cluster("guest", vec![place], Vec::new()).await.unwrap();
    let held = |last| BTreeSet::from([("guest".to_owned(), network(), addr(last))]);
    assert_eq!(controller.lost_places(&held(7)), []);
    // That of a task is not looked for; one at another address is lost.
    let lost = [("guest".to_owned(), "mesh".to_owned())];
    assert_eq!(
        (controller.lost_places(&held(8)), controller.lost_places(&BTreeSet::new())),
        (lost.to_vec(), lost.to_vec())
    );
    let others = BTreeSet::from([("other".to_owned(), network(), addr(7))]);
    host.engine.leave_lost_places(&others).await;
    assert_eq!(controller.endpoints("guest"), []);
    assert_eq!(controller.endpoints("task").len(), 1);
    assert!(!host.engine.needs_place("guest", network()), "there is no such container");
    for id in ["task", "guest"] {
        controller.destroy_sandbox(id).await.unwrap();
    }
    controller.apply_cluster(ClusterNetworkState { networks: BTreeMap::new(), ..state(&[]) }).await.unwrap();
    host
}

pub(crate) async fn names_lead_to_services_and_neighbours(host: Host) -> Host {
    let controller = host.engine.networks().controller().clone();
    controller.apply_cluster(state(&[(5, HERE), (6, HERE)])).await.unwrap();
    attach(&host, "one", 5, "box1").await;
    attach(&host, "two", 6, "box2").await;
    assert_eq!(resolve(&host, "two", "web"), Some(VIRTUAL));
    assert_eq!(resolve(&host, "two", "web.5"), Some(addr(5)));
    assert_eq!(resolve(&host, "two", "box1"), Some(addr(5)));
    assert_eq!(resolve(&host, "one", "one"), Some(addr(5)));
    // A container elsewhere that is no task, with its aliases.
    controller.apply_cluster(with_guest(state(&[(5, HERE), (6, HERE)]))).await.unwrap();
    for name in ["guest", "alias", "alias.mesh"] {
        assert_eq!(resolve(&host, "two", name), Some(addr(9)), "{name}");
    }
    // An address is free for the next at once, though the link of the last may still be there.
    controller.destroy_sandbox("one").await.unwrap();
    assert_eq!(resolve(&host, "two", "box1"), None);
    attach(&host, "three", 5, "box3").await;
    assert_eq!(resolve(&host, "two", "box3"), Some(addr(5)));
    let mut socket = overlay(&host);
    let bridge = link::find(&mut socket, "br0").unwrap().unwrap().index;
    assert_eq!(ports(&mut socket).iter().filter(|port| port.master == bridge).count(), 2);
    host.until("the link of the last is gone", async || {
        controller.resync().await;
        ports(&mut socket).len() == 2
    })
    .await;
    for id in ["two", "three"] {
        controller.destroy_sandbox(id).await.unwrap();
    }
    controller.apply_cluster(ClusterNetworkState { networks: BTreeMap::new(), ..state(&[]) }).await.unwrap();
    host
}
