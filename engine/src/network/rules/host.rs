//! The table of the host's namespace: forwarding between bridges, published ports, the routing mesh.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};

use ipnet::Ipv4Net;
use shoal_engine_sys::nft::{Action, Chain, Datum, Field, Hook, Kind, Match, Purpose, Rule, Ruleset, Set, Verdict};
use shoal_proto::spec::Protocol;

use super::{
    PRIORITY_DESTINATION, PRIORITY_FILTER, PRIORITY_RAW, PRIORITY_SOURCE, accept, balance, discard, service_key,
};
use crate::network::types::PublishedPort;

/// All that the host's rules follow from.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct HostRules {
    /// Bridges of local networks.
    pub bridges: Vec<BridgeRules>,
    /// Published ports of containers, and the container's address.
    pub published: Vec<(PublishedPort, Ipv4Addr)>,
    /// The host's link into the routing mesh; `None` when it has none.
    pub ingress: Option<String>,
    /// Ports of the routing mesh.
    pub mesh: Vec<MeshPort>,
    /// Where the turn of backends starts.
    pub rotation: u64,
}

/// A bridge.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BridgeRules {
    /// Its link.
    pub link: String,
    /// Its subnet.
    pub subnet: Ipv4Net,
    /// No way out?
    pub internal: bool,
    /// May containers talk to each other?
    pub icc: bool,
    /// Hide the containers' addresses?
    pub masquerade: bool,
}

/// A port of the routing mesh.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MeshPort {
    /// Protocol.
    pub protocol: Protocol,
    /// Port on every node.
    pub published: u16,
    /// Port in the containers.
    pub target: u16,
    /// Addresses of those that serve it, on the routing mesh.
    pub backends: Vec<Ipv4Addr>,
}

const SERVICE: [Field; 2] = [Field::Protocol, Field::Port];
const SERVICE_KIND: [Kind; 2] = [Kind::Protocol, Kind::Port];
const ENDPOINT_KIND: [Kind; 2] = [Kind::Address, Kind::Port];

fn from(link: &str) -> Match {
    Match::Interface(Field::Input, link.to_owned())
}

fn to(link: &str) -> Match {
    Match::Interface(Field::Output, link.to_owned())
}

fn not_to(link: &str) -> Match {
    Match::NotInterface(Field::Output, link.to_owned())
}

fn net(field: Field, net: &Ipv4Net) -> Match {
    Match::Subnet(field, net.network(), net.prefix_len())
}

fn loopback(field: Field) -> Match {
    Match::Subnet(field, Ipv4Addr::new(127, 0, 0, 0), 8)
}

fn jump(chain: &str) -> Action {
    Action::Verdict(Verdict::Jump(chain.to_owned()))
}

/// Chain names may not hold what link names may: a dash at the start, a colon.
fn chain_of(prefix: &str, link: &str) -> String {
    let clean: String = link.chars().map(|c| if c.is_ascii_alphanumeric() || c == '-' { c } else { '_' }).collect();
    format!("{prefix}_{clean}")
}

/// Ports of UDP and the backends that they led to before and do not now. UDP has no end of a connection: those that lead
/// there would go on doing so.
pub fn lost_backends(before: &[MeshPort], after: &[MeshPort]) -> BTreeMap<u16, BTreeSet<Ipv4Addr>> {
    let udp = |port: &&MeshPort| port.protocol == Protocol::Udp;
    let now: BTreeMap<u16, &[Ipv4Addr]> =
        after.iter().filter(udp).map(|port| (port.published, port.backends.as_slice())).collect();
    let mut lost = BTreeMap::new();
    for port in before.iter().filter(udp) {
        let kept = now.get(&port.published).copied().unwrap_or_default();
        let gone: BTreeSet<_> = port.backends.iter().filter(|addr| !kept.contains(addr)).copied().collect();
        if !gone.is_empty() {
            lost.insert(port.published, gone);
        }
    }
    lost
}

impl HostRules {
    /// The table; empty when there is nothing to rule.
    pub fn ruleset(&self) -> Ruleset {
        let mut ruleset = Ruleset::default();
        if self.bridges.is_empty() && self.mesh.is_empty() && self.ingress.is_none() {
            return ruleset;
        }
        self.ports(&mut ruleset);
        self.mesh(&mut ruleset);
        self.translation(&mut ruleset);
        self.forwarding(&mut ruleset);
        ruleset
    }

    fn ports(&self, ruleset: &mut Ruleset) {
        let backend =
            |port: &PublishedPort, addr: Ipv4Addr| vec![Datum::Address(addr), Datum::Port(port.container_port)];
        let (everywhere, somewhere): (Vec<_>, Vec<_>) =
            // Those of version 6 are relayed.
            self.published.iter().filter(|(port, _)| port.host_ip.is_ipv4()).partition(|(port, _)| port.host_ip.is_unspecified());
        let everywhere = everywhere
            .into_iter()
            .map(|(port, addr)| (service_key(port.protocol, port.host_port), backend(port, *addr)));
        ruleset.set("published", Set::map(&SERVICE_KIND, &ENDPOINT_KIND, everywhere));
        let somewhere = somewhere.into_iter().filter_map(|(port, addr)| {
            let IpAddr::V4(host_ip) = port.host_ip else { return None };
            let mut key = vec![Datum::Address(host_ip)];
            key.extend(service_key(port.protocol, port.host_port));
            Some((key, backend(port, *addr)))
        });
        let key = [Kind::Address, Kind::Protocol, Kind::Port];
        ruleset.set("published_at", Set::map(&key, &ENDPOINT_KIND, somewhere));
        let at = vec![Field::Destination, Field::Protocol, Field::Port];
        ruleset.chain(
            "ports",
            Chain::regular(vec![
                Rule::new([], Action::RedirectBy(at, "published_at".to_owned())),
                Rule::new([], Action::RedirectBy(SERVICE.to_vec(), "published".to_owned())),
                Rule::new([], Action::Lookup(SERVICE.to_vec(), "mesh".to_owned())),
            ]),
        );
    }

    fn mesh(&self, ruleset: &mut Ruleset) {
        let name = |port: &MeshPort| format!("mesh_{}_{}", port.protocol.as_str(), port.published);
        let (served, idle): (Vec<_>, Vec<_>) = self.mesh.iter().partition(|port| !port.backends.is_empty());
        for port in &served {
            let rule = Rule::new(
                [Match::Protocol(super::protocol_number(port.protocol))],
                balance(&port.backends, self.rotation, Some(port.target)),
            );
            ruleset.chain(name(port), Chain::regular(vec![rule]));
        }
        let lead = served.iter().map(|port| (service_key(port.protocol, port.published), Verdict::Jump(name(port))));
        ruleset.set("mesh", Set::verdicts(&SERVICE_KIND, lead));
        let refuse = idle.iter().map(|port| service_key(port.protocol, port.published));
        ruleset.set("mesh_idle", Set::of(&SERVICE_KIND, refuse));
        let idle = || Match::In(SERVICE.to_vec(), "mesh_idle".to_owned());
        ruleset.chain(
            "input",
            Chain::base(
                Purpose::Filter,
                Hook::Input,
                PRIORITY_FILTER,
                vec![Rule::new([Match::Protocol(6), idle()], Action::Reset), Rule::new([idle()], Action::Reject)],
            ),
        );
    }

    fn translation(&self, ruleset: &mut Ruleset) {
        // What is published on loopback is for this host alone. Before translation, which would lead a neighbour's packet for a
        // loopback address to the container, and before our links, which route these addresses.
        let guard = discard([Match::NotInterface(Field::Input, "lo".to_owned()), loopback(Field::Destination)]);
        ruleset.chain("guard", Chain::base(Purpose::Filter, Hook::Prerouting, PRIORITY_RAW, vec![guard]));
        for (name, hook) in [("prerouting", Hook::Prerouting), ("output", Hook::Output)] {
            let rule = Rule::new([Match::LocalDestination], jump("ports"));
            ruleset.chain(name, Chain::base(Purpose::Nat, hook, PRIORITY_DESTINATION, vec![rule]));
        }
        let mut rules = Vec::new();
        for bridge in &self.bridges {
            let own = net(Field::Source, &bridge.subnet);
            // Back into the subnet that it came from, and from loopback, the answer must come this way.
            rules.push(Rule::new([to(&bridge.link), own.clone(), Match::Translated], Action::Masquerade));
            rules.push(Rule::new([to(&bridge.link), loopback(Field::Source)], Action::Masquerade));
            if bridge.masquerade && !bridge.internal {
                rules.push(Rule::new([own, not_to(&bridge.link)], Action::Masquerade));
            }
        }
        rules.extend(self.ingress.as_deref().map(|link| Rule::new([to(link), Match::Translated], Action::Masquerade)));
        ruleset.chain("postrouting", Chain::base(Purpose::Nat, Hook::Postrouting, PRIORITY_SOURCE, rules));
    }

    fn forwarding(&self, ruleset: &mut Ruleset) {
        let (mut inward, mut outward) = (Vec::new(), Vec::new());
        let lead = |link: &str, chain: String| (vec![Datum::Interface(link.to_owned())], Verdict::Jump(chain));
        for bridge in &self.bridges {
            let (name, link) = (chain_of("to", &bridge.link), bridge.link.as_str());
            let neighbours = if bridge.icc { accept([from(link)]) } else { discard([from(link)]) };
            let strangers = if bridge.internal { vec![] } else { vec![accept([Match::Translated])] };
            let mut rules = vec![accept([Match::Established])];
            rules.extend(strangers);
            rules.extend([neighbours, discard([])]);
            ruleset.chain(name.clone(), Chain::regular(rules));
            inward.push(lead(link, name));
            if bridge.internal {
                let name = chain_of("from", link);
                ruleset.chain(name.clone(), Chain::regular(vec![discard([not_to(link)])]));
                outward.push(lead(link, name));
            }
        }
        if let Some(link) = &self.ingress {
            let rules = vec![accept([Match::Established]), accept([Match::Translated]), discard([])];
            ruleset.chain("to_ingress", Chain::regular(rules));
            ruleset.chain("from_ingress", Chain::regular(vec![accept([Match::Established]), discard([])]));
            inward.push(lead(link, "to_ingress".to_owned()));
            outward.push(lead(link, "from_ingress".to_owned()));
        }
        ruleset.set("inward", Set::verdicts(&[Kind::Interface], inward));
        ruleset.set("outward", Set::verdicts(&[Kind::Interface], outward));
        let rules = vec![
            Rule::new([], Action::Lookup(vec![Field::Input], "outward".to_owned())),
            Rule::new([], Action::Lookup(vec![Field::Output], "inward".to_owned())),
        ];
        ruleset.chain("forward", Chain::base(Purpose::Filter, Hook::Forward, PRIORITY_FILTER, rules));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bridge(link: &str, subnet: &str) -> BridgeRules {
        let subnet = subnet.parse().unwrap();
        BridgeRules { link: link.to_owned(), subnet, internal: false, icc: true, masquerade: true }
    }

    fn golden(name: &str, rules: &HostRules) {
        crate::network::golden::check(&format!("host-{name}.nft"), &rules.ruleset().to_text("shoal"));
    }

    #[test]
    fn nothing_needs_no_table() {
        assert!(HostRules::default().ruleset().is_empty());
    }

    #[test]
    fn one_bridge() {
        golden("bridge", &HostRules { bridges: vec![bridge("shoal0", "172.17.0.0/16")], ..HostRules::default() });
    }

    #[test]
    fn published_ports() {
        let port = |host: [u8; 4], host_port, protocol| PublishedPort {
            host_ip: Ipv4Addr::from(host).into(),
            host_port,
            container_port: 80,
            protocol,
        };
        let published = vec![
            (port([0; 4], 8080, Protocol::Tcp), Ipv4Addr::new(172, 17, 0, 2)),
            (port([0; 4], 8080, Protocol::Udp), Ipv4Addr::new(172, 17, 0, 2)),
            (port([127, 0, 0, 1], 8081, Protocol::Tcp), Ipv4Addr::new(172, 17, 0, 3)),
            (port([0; 4], 9000, Protocol::Sctp), Ipv4Addr::new(172, 17, 0, 3)),
        ];
        golden(
            "ports",
            &HostRules { bridges: vec![bridge("shoal0", "172.17.0.0/16")], published, ..HostRules::default() },
        );
    }

    #[test]
    fn kinds_of_bridges() {
        let closed = BridgeRules { internal: true, ..bridge("br-internal", "172.18.0.0/16") };
        let silent = BridgeRules { icc: false, ..bridge("shoal_gwbridge", "172.19.0.0/16") };
        let routed = BridgeRules { masquerade: false, ..bridge("br.routed", "10.1.2.0/25") };
        golden("bridges", &HostRules { bridges: vec![closed, silent, routed], ..HostRules::default() });
    }

    #[test]
    fn backends_of_udp_that_went_are_known() {
        let port = |protocol, published, backends: &[u8]| MeshPort {
            protocol,
            published,
            target: 53,
            backends: backends.iter().map(|last| Ipv4Addr::new(10, 0, 0, *last)).collect(),
        };
        let before = [
            port(Protocol::Udp, 53, &[5, 6]),
            port(Protocol::Udp, 54, &[7]),
            port(Protocol::Udp, 55, &[8]),
            port(Protocol::Tcp, 80, &[5]),
        ];
        let after = [port(Protocol::Udp, 53, &[6, 9]), port(Protocol::Udp, 55, &[8])];
        let lost = lost_backends(&before, &after);
        let gone = |last| BTreeSet::from([Ipv4Addr::new(10, 0, 0, last)]);
        assert_eq!(lost, BTreeMap::from([(53, gone(5)), (54, gone(7))]));
        assert!(lost_backends(&after, &after).is_empty());
    }

    #[test]
    fn the_routing_mesh() {
        let mesh = |published, backends: &[u8]| MeshPort {
            protocol: Protocol::Tcp,
            published,
            target: 80,
            backends: backends.iter().map(|last| Ipv4Addr::new(10, 0, 0, *last)).collect(),
        };
        let rules = HostRules {
            bridges: vec![bridge("shoal_gwbridge", "172.18.0.0/16")],
            ingress: Some("shoal_ingress".to_owned()),
            mesh: vec![mesh(30000, &[5, 6, 7]), mesh(30001, &[8]), mesh(30002, &[])],
            rotation: 1,
            ..HostRules::default()
        };
        golden("mesh", &rules);
    }
}
