//! nftables: a table as a value, its text, and its way into the kernel.
//!
//! ## Design notes
//! A [`Ruleset`] is the whole table of one owner in one namespace. It is built as data, its text form
//! ([`Ruleset::to_text`], what `nft -f` reads) is what tests compare and people read, and [`Table::apply`] brings the
//! kernel from the last applied value to a new one in one transaction of raw netlink messages that hold only the
//! difference: no process is started, and a change of one element costs tens of microseconds however long the table is.
//! The test `the_kernel_reads_both_forms_alike` loads both forms and compares what the kernel lists.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::sync::Arc;

mod difference;
mod expression;
pub mod foreign;
mod table;
mod text;
mod wire;

pub use table::{Table, Verified};

/// A table of family `ip`: all of one owner's rules in one namespace. Parts are shared, so that a copy with one change
/// is cheap to make and to compare.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Ruleset {
    /// Sets and maps by name.
    pub sets: BTreeMap<String, Arc<Set>>,
    /// Chains by name.
    pub chains: BTreeMap<String, Arc<Chain>>,
}

impl Ruleset {
    /// Nothing in it?
    pub fn is_empty(&self) -> bool {
        self.sets.is_empty() && self.chains.is_empty()
    }

    /// Adds a set or map.
    pub fn set(&mut self, name: impl Into<String>, set: impl Into<Arc<Set>>) {
        self.sets.insert(name.into(), set.into());
    }

    /// Adds a chain.
    pub fn chain(&mut self, name: impl Into<String>, chain: impl Into<Arc<Chain>>) {
        self.chains.insert(name.into(), chain.into());
    }
}

/// What a part of a key or value is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// An IPv4 address.
    Address,
    /// A transport protocol's number.
    Protocol,
    /// A transport port.
    Port,
    /// A link's name.
    Interface,
}

/// A part of a key or value.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Datum {
    /// An IPv4 address.
    Address(Ipv4Addr),
    /// A transport protocol's number.
    Protocol(u8),
    /// A transport port.
    Port(u16),
    /// A link's name.
    Interface(String),
}

/// What a set holds besides its keys.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Values {
    /// Nothing: a plain set.
    None,
    /// Data of these kinds: a map.
    Data(Vec<Kind>),
    /// Verdicts: a verdict map.
    Verdicts,
}

/// What a key leads to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Value {
    /// Nothing: it is in the set.
    None,
    /// Data.
    Data(Vec<Datum>),
    /// A verdict.
    Verdict(Verdict),
}

/// A named set or map.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Set {
    /// Kinds of the key's parts.
    pub key: Vec<Kind>,
    /// What the keys lead to.
    pub values: Values,
    /// The elements.
    pub elements: BTreeMap<Vec<Datum>, Value>,
}

impl Set {
    /// A set of keys.
    pub fn of(key: &[Kind], keys: impl IntoIterator<Item = Vec<Datum>>) -> Self {
        let elements = keys.into_iter().map(|key| (key, Value::None)).collect();
        Self { key: key.to_vec(), values: Values::None, elements }
    }

    /// A map to data.
    pub fn map(key: &[Kind], value: &[Kind], elements: impl IntoIterator<Item = (Vec<Datum>, Vec<Datum>)>) -> Self {
        let elements = elements.into_iter().map(|(key, value)| (key, Value::Data(value))).collect();
        Self { key: key.to_vec(), values: Values::Data(value.to_vec()), elements }
    }

    /// A map to verdicts.
    pub fn verdicts(key: &[Kind], elements: impl IntoIterator<Item = (Vec<Datum>, Verdict)>) -> Self {
        let elements = elements.into_iter().map(|(key, verdict)| (key, Value::Verdict(verdict))).collect();
        Self { key: key.to_vec(), values: Values::Verdicts, elements }
    }
}

/// Where the packet goes next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// On, past the rest of this base chain.
    Accept,
    /// Nowhere.
    Drop,
    /// Back to the chain it came from.
    Return,
    /// To another chain, and back.
    Jump(String),
}

/// What a base chain does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// Lets pass or not.
    Filter,
    /// Translates addresses; sees the first packet of a connection only.
    Nat,
}

/// Where in the packet's way a base chain sits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hook {
    /// Came in, not routed yet.
    Prerouting,
    /// For this host.
    Input,
    /// For another host.
    Forward,
    /// From this host.
    Output,
    /// About to leave.
    Postrouting,
}

/// The attachment of a base chain. Its policy is to accept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Base {
    /// What it does.
    pub purpose: Purpose,
    /// Where.
    pub hook: Hook,
    /// Order among the chains of the hook, lowest first: raw -300, destination translation -100, filter 0, source
    /// translation 100.
    pub priority: i32,
}

/// A chain of rules.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Chain {
    /// Where it is attached; `None` for chains that are jumped to.
    pub base: Option<Base>,
    /// Its rules.
    pub rules: Vec<Rule>,
}

impl Chain {
    /// A chain attached to a hook.
    pub fn base(purpose: Purpose, hook: Hook, priority: i32, rules: Vec<Rule>) -> Self {
        Self { base: Some(Base { purpose, hook, priority }), rules }
    }

    /// A chain to jump to.
    pub fn regular(rules: Vec<Rule>) -> Self {
        Self { base: None, rules }
    }
}

/// What a packet must be like, and what happens to it then.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    /// All must hold.
    pub matches: Vec<Match>,
    /// What happens.
    pub action: Action,
}

impl Rule {
    /// A rule.
    pub fn new(matches: impl Into<Vec<Match>>, action: Action) -> Self {
        Self { matches: matches.into(), action }
    }
}

/// A part of a packet that a key is made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Field {
    /// Source address.
    Source,
    /// Destination address.
    Destination,
    /// Transport protocol.
    Protocol,
    /// Destination port.
    Port,
    /// Link it came in by.
    Input,
    /// Link it goes out by.
    Output,
}

/// A condition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Match {
    /// A link is this one.
    Interface(Field, String),
    /// A link is not this one.
    NotInterface(Field, String),
    /// An address is in this subnet.
    Subnet(Field, Ipv4Addr, u8),
    /// An address is not in this subnet.
    NotSubnet(Field, Ipv4Addr, u8),
    /// The key is in the set.
    In(Vec<Field>, String),
    /// The key is not in the set.
    NotIn(Vec<Field>, String),
    /// The transport protocol is this one.
    Protocol(u8),
    /// Protocol and destination port are these.
    Port(u8, u16),
    /// The destination is an address of this host.
    LocalDestination,
    /// It belongs to a known connection, or is related to one.
    Established,
    /// Its connection had its destination translated.
    Translated,
}

/// What happens to a packet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// A verdict.
    Verdict(Verdict),
    /// The verdict that a map gives for the key; the next rule when it gives none.
    Lookup(Vec<Field>, String),
    /// To another address, and port if given.
    Redirect(Ipv4Addr, Option<u16>),
    /// To the address and port that a map gives for the key.
    RedirectBy(Vec<Field>, String),
    /// To each of these addresses in turn, and to this port if given.
    Balance(Vec<Ipv4Addr>, Option<u16>),
    /// From the address of the link it leaves by.
    Masquerade,
    /// Refused with "port unreachable".
    Reject,
    /// Refused with a TCP reset. Wants a match of the protocol.
    Reset,
}
