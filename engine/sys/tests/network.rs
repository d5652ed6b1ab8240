//! Netlink and nftables against the kernel, in network namespaces made for it.
#![expect(clippy::unwrap_used, reason = "tests")]

use std::io::Write;
use std::net::{IpAddr, Ipv4Addr};
use std::process::Stdio;

use shoal_engine_sys::netlink::address::{self, Address};
use shoal_engine_sys::netlink::link::{self, Veth, Vxlan};
use shoal_engine_sys::netlink::{Family, NetlinkSocket, neighbour};
use shoal_engine_sys::netns::Namespace;
use shoal_engine_sys::nft::{
    Action, Chain, Datum, Field, Hook, Kind, Match, Purpose, Rule, Ruleset, Set, Table, Verdict, Verified, foreign,
};

fn root() -> bool {
    let root = rustix::process::geteuid().is_root();
    if !root {
        eprintln!("SKIPPED: needs root");
    }
    root
}

#[expect(clippy::disallowed_methods, reason = "a test runs nft as an oracle")]
fn nft(args: &[&str], input: &str) -> String {
    let mut child = std::process::Command::new("nft")
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{}\n{input}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// What nft lists, without the order of elements, which is the hash table's.
fn listing() -> Vec<String> {
    let mut words: Vec<String> =
        nft(&["-nn", "list", "ruleset"], "").split([' ', '\n', '\t', ',']).map(str::to_owned).collect();
    words.sort();
    words.retain(|word| !word.is_empty());
    words
}

fn ip(text: &str) -> Ipv4Addr {
    text.parse().unwrap()
}

#[expect(clippy::too_many_lines, reason = "one value that names every kind of rule")]
fn everything() -> Ruleset {
    let mut ruleset = Ruleset::default();
    let (address, protocol, port) = (Kind::Address, Kind::Protocol, Kind::Port);
    let backend = |addr: &str, port| vec![Datum::Address(ip(addr)), Datum::Port(port)];
    ruleset.set(
        "published",
        Set::map(
            &[protocol, port],
            &[address, port],
            [
                (vec![Datum::Protocol(6), Datum::Port(8080)], backend("172.17.0.2", 80)),
                (vec![Datum::Protocol(17), Datum::Port(53)], backend("172.17.0.3", 53)),
            ],
        ),
    );
    ruleset.set(
        "published_at",
        Set::map(
            &[address, protocol, port],
            &[address, port],
            [(vec![Datum::Address(ip("127.0.0.1")), Datum::Protocol(6), Datum::Port(81)], backend("10.0.0.9", 8))],
        ),
    );
    ruleset.set(
        "mesh",
        Set::verdicts(&[protocol, port], [(vec![Datum::Protocol(6), Datum::Port(3)], Verdict::Jump("m".to_owned()))]),
    );
    ruleset.set("addresses", Set::of(&[address], [vec![Datum::Address(ip("10.1.2.3"))]]));
    ruleset.set("ports", Set::of(&[port], [vec![Datum::Port(99)]]));
    ruleset.set("interfaces", Set::of(&[Kind::Interface], [vec![Datum::Interface("br-0123456789a".to_owned())]]));
    ruleset.set(
        "to",
        Set::verdicts(&[Kind::Interface], [(vec![Datum::Interface("lo".to_owned())], Verdict::Jump("m2".to_owned()))]),
    );
    ruleset.chain(
        "m",
        Chain::regular(vec![Rule::new(
            [Match::Protocol(6)],
            Action::Balance(vec![ip("10.0.0.5"), ip("10.0.0.6"), ip("10.0.0.7")], Some(80)),
        )]),
    );
    ruleset.chain("m2", Chain::regular(vec![Rule::new([], Action::Verdict(Verdict::Return))]));
    ruleset.chain(
        "raw",
        Chain::base(
            Purpose::Filter,
            Hook::Prerouting,
            -300,
            vec![Rule::new(
                [
                    Match::In(vec![Field::Input], "interfaces".to_owned()),
                    Match::Subnet(Field::Destination, ip("127.0.0.0"), 8),
                ],
                Action::Verdict(Verdict::Drop),
            )],
        ),
    );
    ruleset.chain(
        "nat",
        Chain::base(
            Purpose::Nat,
            Hook::Output,
            -100,
            vec![
                Rule::new(
                    [Match::LocalDestination],
                    Action::RedirectBy(
                        vec![Field::Destination, Field::Protocol, Field::Port],
                        "published_at".to_owned(),
                    ),
                ),
                Rule::new([], Action::RedirectBy(vec![Field::Protocol, Field::Port], "published".to_owned())),
                Rule::new([], Action::Lookup(vec![Field::Protocol, Field::Port], "mesh".to_owned())),
                Rule::new(
                    [Match::Subnet(Field::Destination, ip("127.0.0.11"), 32), Match::Port(17, 53)],
                    Action::Redirect(ip("127.0.0.11"), Some(40001)),
                ),
                Rule::new(
                    [Match::Subnet(Field::Destination, ip("10.0.0.2"), 32)],
                    Action::Redirect(ip("10.0.0.3"), None),
                ),
                Rule::new(
                    [Match::Subnet(Field::Destination, ip("10.0.0.4"), 32)],
                    Action::Balance(vec![ip("10.0.0.5"), ip("10.0.0.6")], None),
                ),
            ],
        ),
    );
    ruleset.chain(
        "source",
        Chain::base(
            Purpose::Nat,
            Hook::Postrouting,
            100,
            vec![
                Rule::new(
                    [
                        Match::Subnet(Field::Source, ip("172.17.0.0"), 16),
                        Match::NotInterface(Field::Output, "shoal0".to_owned()),
                    ],
                    Action::Masquerade,
                ),
                Rule::new(
                    [
                        Match::Interface(Field::Output, "shoal0".to_owned()),
                        Match::NotSubnet(Field::Source, ip("172.17.16.0"), 20),
                        Match::Translated,
                    ],
                    Action::Masquerade,
                ),
            ],
        ),
    );
    ruleset.chain(
        "filter",
        Chain::base(
            Purpose::Filter,
            Hook::Input,
            0,
            vec![
                Rule::new([Match::Established], Action::Verdict(Verdict::Accept)),
                Rule::new([], Action::Lookup(vec![Field::Input], "to".to_owned())),
                Rule::new([Match::NotIn(vec![Field::Source], "addresses".to_owned())], Action::Reject),
                Rule::new([Match::Protocol(6), Match::In(vec![Field::Port], "ports".to_owned())], Action::Reset),
            ],
        ),
    );
    ruleset
}

#[test]
fn the_kernel_reads_both_forms_alike() {
    if !root() {
        return;
    }
    let ruleset = everything();
    let (_, text) = Namespace::create(|| {
        nft(&["-f", "-"], &ruleset.to_text("shoal"));
        listing()
    })
    .unwrap();
    let (_, raw) = Namespace::create(|| {
        let mut table = Table::new(NetlinkSocket::open(Family::Netfilter).unwrap(), "shoal");
        assert!(table.apply(&ruleset).unwrap());
        assert!(!table.apply(&ruleset).unwrap(), "applied twice");
        listing()
    })
    .unwrap();
    assert_eq!(text, raw);
    assert!(text.len() > 100);
}

/// Rulesets that differ in every way two can differ.
fn variants() -> Vec<Ruleset> {
    let full = everything();
    let mut less = full.clone();
    less.chains.remove("source");
    less.sets.remove("published");
    less.chain("nat", Chain::base(Purpose::Nat, Hook::Output, -100, vec![]));
    less.set("mesh", Set::verdicts(&[Kind::Protocol, Kind::Port], []));
    less.chains.remove("m");
    let mut values = full.clone();
    values.set(
        "published",
        Set::map(
            &[Kind::Protocol, Kind::Port],
            &[Kind::Address, Kind::Port],
            [(vec![Datum::Protocol(6), Datum::Port(8080)], vec![Datum::Address(ip("172.17.0.99")), Datum::Port(81)])],
        ),
    );
    let mut moved = full.clone();
    moved.chain("raw", Chain::base(Purpose::Filter, Hook::Forward, -1, vec![]));
    moved.set("ports", Set::of(&[Kind::Address], []));
    moved.chain("filter", Chain::base(Purpose::Filter, Hook::Input, 0, vec![]));
    let many = (1..=1200u32).map(|n| Ipv4Addr::from(0x0a00_0000 + n)).collect();
    let mut large = full.clone();
    large.chain("m", Chain::regular(vec![Rule::new([Match::Protocol(6)], Action::Balance(many, Some(80)))]));
    vec![Ruleset::default(), full, less, values, moved, large]
}

#[test]
fn every_change_leads_to_what_a_fresh_load_gives() {
    if !root() {
        return;
    }
    let variants = variants();
    let fresh: Vec<_> = variants
        .iter()
        .map(|ruleset| {
            let load = || {
                Table::new(NetlinkSocket::open(Family::Netfilter).unwrap(), "shoal").apply(ruleset).unwrap();
                listing()
            };
            Namespace::create(load).unwrap().1
        })
        .collect();
    for from in &variants {
        for (to, expected) in variants.iter().zip(&fresh) {
            let listed = Namespace::create(|| {
                let mut table = Table::new(NetlinkSocket::open(Family::Netfilter).unwrap(), "shoal");
                table.apply(from).unwrap();
                table.apply(to).unwrap();
                listing()
            });
            assert_eq!(&listed.unwrap().1, expected, "{}\n->\n{}", from.to_text("t"), to.to_text("t"));
        }
    }
}

#[test]
fn tampering_is_found_and_undone_and_strangers_are_left_alone() {
    if !root() {
        return;
    }
    Namespace::create(|| {
        let mut table = Table::new(NetlinkSocket::open(Family::Netfilter).unwrap(), "shoal");
        table.apply(&everything()).unwrap();
        assert_eq!(table.verify().unwrap(), Verified::Intact);
        let good = listing();
        for tampering in [
            "flush ruleset",
            "flush chain ip shoal nat",
            "add element ip shoal ports { 7 }",
            "delete element ip shoal published { tcp . 8080 }",
            "delete table ip shoal",
            "add chain ip shoal extra",
        ] {
            nft(&["-f", "-"], tampering);
            assert_eq!(table.verify().unwrap(), Verified::Repaired, "{tampering}");
            assert_eq!(listing(), good, "{tampering}");
            assert_eq!(table.verify().unwrap(), Verified::Intact);
        }
        nft(&["-f", "-"], "add table ip other; add chain ip other c");
        assert_eq!(table.verify().unwrap(), Verified::Intact, "a stranger's table is none of ours");
        // Nothing is wanted any more, and then that is what must be there.
        table.apply(&Ruleset::default()).unwrap();
        assert_eq!(table.verify().unwrap(), Verified::Intact);
        nft(&["-f", "-"], "add table ip shoal; add chain ip shoal extra");
        assert_eq!(table.verify().unwrap(), Verified::Repaired);
        table.apply(&everything()).unwrap();
        assert_eq!(table.verify().unwrap(), Verified::Intact);
        nft(&["-f", "-"], "flush table ip shoal");
        let mut less = everything();
        less.chain("m2", Chain::regular(vec![]));
        assert!(table.apply(&less).unwrap(), "a change on top of tampering");
        nft(&["-f", "-"], "delete table ip other");
        let after = listing();
        let mut second = Table::new(NetlinkSocket::open(Family::Netfilter).unwrap(), "shoal");
        second.apply(&less).unwrap();
        assert_eq!(listing(), after);
    })
    .unwrap();
}

#[test]
fn a_dropping_policy_of_others_is_overridden_at_the_end_of_their_chain() {
    if !root() {
        return;
    }
    Namespace::create(|| {
        nft(&["-f", "-"], "table ip filter { chain FORWARD { type filter hook forward priority 0; policy drop; ct state invalid drop; }; }");
        let mut socket = NetlinkSocket::open(Family::Netfilter).unwrap();
        let links = ["shoal0".to_owned()].into();
        assert_eq!(foreign::accept_forwarding(&mut socket, "shoal", &links).unwrap(), 2);
        assert_eq!(foreign::accept_forwarding(&mut socket, "shoal", &links).unwrap(), 0);
        assert_eq!(foreign::accept_forwarding(&mut socket, "shoal_2", &["b".to_owned()].into()).unwrap(), 2);
        let text = nft(&["list", "ruleset"], "");
        let at = |part: &str| text.find(part).unwrap_or_else(|| panic!("no {part} in {text}"));
        assert!(at("invalid drop") < at("iifname \"shoal0\" accept comment \"shoal from shoal0\""));
        assert!(text.contains("oifname \"shoal0\" accept"));
        assert_eq!(foreign::accept_forwarding(&mut socket, "shoal", &[].into()).unwrap(), 2);
        assert_eq!(foreign::accept_forwarding(&mut socket, "shoal_2", &[].into()).unwrap(), 2);
        assert!(!nft(&["list", "ruleset"], "").contains("accept"));
    })
    .unwrap();
}

#[test]
fn links_addresses_routes_and_forwarding_entries_come_back_as_they_were_put() {
    if !root() {
        return;
    }
    let (inner, ()) = Namespace::create(|| ()).unwrap();
    let (_outer, ()) = Namespace::create(|| {
        let mut socket = NetlinkSocket::open(Family::Route).unwrap();
        let mac = [2, 0x42, 10, 0, 0, 1];
        socket.request(link::create_bridge("br0", Some(mac), 1400, 77)).unwrap();
        let again = socket.request(link::create_bridge("br0", None, 1400, 77)).unwrap_err();
        assert!(again.exists(), "{again}");
        let bridge = link::find(&mut socket, "br0").unwrap().unwrap();
        assert_eq!(
            (bridge.kind.as_str(), bridge.mac, bridge.mtu, bridge.group, bridge.up),
            ("bridge", mac, 1400, 77, true)
        );
        use std::os::fd::AsFd;
        let veth = Veth {
            name: "v0",
            master: bridge.index,
            peer_name: "eth0",
            peer_mac: Some([2, 0x42, 10, 0, 0, 2]),
            peer_netns: inner.as_fd(),
            mtu: 1400,
            group: 77,
        };
        socket.request(link::create_veth(&veth)).unwrap();
        socket.request(link::set_isolated("v0", true)).unwrap();
        assert_eq!(link::find(&mut socket, "v0").unwrap().unwrap().master, bridge.index);
        assert_eq!(link::find(&mut socket, "nothing").unwrap(), None);
        let vxlan = Vxlan {
            name: "vxlan0",
            vni: 4097,
            local: IpAddr::V4(ip("10.9.9.9")),
            port: 4790,
            mtu: 1350,
            netns: inner.as_fd(),
            group: 77,
        };
        let address = Address { link: bridge.index, addr: ip("10.9.9.9"), prefix_len: 24 };
        socket.request(address::add(address)).unwrap();
        assert!(address::list(&mut socket).unwrap().contains(&address));
        socket.request(link::create_vxlan(&vxlan)).unwrap();
    })
    .unwrap();
    let mut socket = inner.enter(|| NetlinkSocket::open(Family::Route).unwrap()).unwrap();
    let eth0 = link::find(&mut socket, "eth0").unwrap().unwrap();
    assert_eq!((eth0.mac, eth0.up, eth0.mtu), ([2, 0x42, 10, 0, 0, 2], false, 1400));
    let route = address::default_route(ip("10.0.0.1"), eth0.index);
    let results = socket.batch(&[
        link::set_up(eth0.index),
        address::add(Address { link: eth0.index, addr: ip("10.0.0.2"), prefix_len: 24 }),
        link::delete_by_name("none"),
        address::put_route(route),
    ]);
    assert!(results[0].is_ok() && results[1].is_ok() && results[3].is_ok(), "{results:?}");
    assert!(results[2].as_ref().unwrap_err().missing());
    assert!(address::list_routes(&mut socket).unwrap().contains(&route));
    let vxlan = link::find(&mut socket, "vxlan0").unwrap().unwrap();
    assert_eq!((vxlan.vni, vxlan.vxlan_port, vxlan.vxlan_local), (4097, 4790, Some(IpAddr::V4(ip("10.9.9.9")))));
    let mac = [2, 0x42, 10, 1, 0, 5];
    let (peer, other) = (IpAddr::V4(ip("10.9.9.8")), IpAddr::V4(ip("10.9.9.7")));
    socket.request(neighbour::put_forwarding(vxlan.index, mac, other)).unwrap();
    socket.request(neighbour::put_forwarding(vxlan.index, mac, peer)).unwrap();
    socket.request(neighbour::put(vxlan.index, ip("10.1.0.5"), mac)).unwrap();
    assert_eq!(neighbour::list_forwarding(&mut socket, vxlan.index).unwrap(), [(mac, peer)]);
    assert_eq!(neighbour::list(&mut socket, vxlan.index).unwrap(), [(ip("10.1.0.5"), mac)]);
    socket.request(neighbour::remove_forwarding(vxlan.index, mac, peer)).unwrap();
    socket.request(neighbour::remove(vxlan.index, ip("10.1.0.5"))).unwrap();
    assert_eq!(neighbour::list_forwarding(&mut socket, vxlan.index).unwrap(), []);
    assert_eq!(neighbour::list(&mut socket, vxlan.index).unwrap(), []);
}
