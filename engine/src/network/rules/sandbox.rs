//! The table of a sandbox: its name server, and the virtual addresses that its processes may call.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use shoal_engine_sys::nft::{Action, Chain, Datum, Field, Hook, Kind, Match, Purpose, Rule, Ruleset, Set, Verdict};

use super::{PRIORITY_DESTINATION, PRIORITY_FILTER, balance};

/// Address of the embedded name server, as in Docker.
pub const NAME_SERVER: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 11);

/// All that a sandbox's rules follow from.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct SandboxRules {
    /// Real UDP and TCP port of the name server; `None` when there is none. Port 53 itself is left to the container.
    pub names: Option<(u16, u16)>,
    /// Virtual addresses and who stands behind them.
    pub virtual_addresses: BTreeMap<Ipv4Addr, Vec<Ipv4Addr>>,
    /// Where the turn of backends starts.
    pub rotation: u64,
}

fn chain_of(addr: Ipv4Addr) -> String {
    format!("vip_{addr}").replace('.', "_")
}

impl SandboxRules {
    /// The table; empty when there is nothing to rule.
    pub fn ruleset(&self) -> Ruleset {
        let mut ruleset = Ruleset::default();
        if self.names.is_none() && self.virtual_addresses.is_empty() {
            return ruleset;
        }
        let mut rules = Vec::new();
        if let Some((udp, tcp)) = self.names {
            for (protocol, port) in [(17, udp), (6, tcp)] {
                let matches = [Match::Subnet(Field::Destination, NAME_SERVER, 32), Match::Port(protocol, 53)];
                rules.push(Rule::new(matches, Action::Redirect(NAME_SERVER, Some(port))));
            }
        }
        if !self.virtual_addresses.is_empty() {
            self.balancing(&mut ruleset);
            rules.push(Rule::new([], Action::Lookup(vec![Field::Destination], "virtual".to_owned())));
        }
        ruleset.chain("output", Chain::base(Purpose::Nat, Hook::Output, PRIORITY_DESTINATION, rules));
        ruleset
    }

    fn balancing(&self, ruleset: &mut Ruleset) {
        let (served, idle): (Vec<_>, Vec<_>) =
            self.virtual_addresses.iter().partition(|(_, behind)| !behind.is_empty());
        for (addr, backends) in &served {
            let turn = self.rotation.wrapping_add(u64::from(u32::from(**addr)));
            ruleset.chain(chain_of(**addr), Chain::regular(vec![Rule::new([], balance(backends, turn, None))]));
        }
        let lead = served.iter().map(|(addr, _)| (vec![Datum::Address(**addr)], Verdict::Jump(chain_of(**addr))));
        ruleset.set("virtual", Set::verdicts(&[Kind::Address], lead));
        ruleset.set("idle", Set::of(&[Kind::Address], idle.iter().map(|(addr, _)| vec![Datum::Address(**addr)])));
        let nobody = || Match::In(vec![Field::Destination], "idle".to_owned());
        let rules =
            vec![Rule::new([nobody(), Match::Protocol(6)], Action::Reset), Rule::new([nobody()], Action::Reject)];
        ruleset.chain("refuse", Chain::base(Purpose::Filter, Hook::Output, PRIORITY_FILTER, rules));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn golden(name: &str, rules: &SandboxRules) {
        crate::network::golden::check(&format!("sandbox-{name}.nft"), &rules.ruleset().to_text("shoal"));
    }

    #[test]
    fn nothing_needs_no_table() {
        assert!(SandboxRules::default().ruleset().is_empty());
    }

    #[test]
    fn a_name_server() {
        golden("names", &SandboxRules { names: Some((40001, 40002)), ..SandboxRules::default() });
    }

    #[test]
    fn virtual_addresses() {
        let ip = |last| Ipv4Addr::new(10, 0, 1, last);
        let virtual_addresses =
            BTreeMap::from([(ip(2), vec![ip(5), ip(6), ip(7)]), (ip(3), vec![ip(8)]), (ip(4), vec![])]);
        golden("virtual", &SandboxRules { names: Some((40001, 40002)), virtual_addresses, rotation: 7 });
    }

    #[test]
    fn every_rotation_has_all_backends() {
        let behind: Vec<_> = (1..=5).map(|last| Ipv4Addr::new(10, 0, 1, last)).collect();
        for rotation in 0..7 {
            let Action::Balance(mut turned, None) = balance(&behind, rotation, None) else { panic!("no balance") };
            turned.sort();
            assert_eq!(turned, behind);
        }
    }
}
