//! Rules as the kernel runs them: small instructions on registers.

use std::net::Ipv4Addr;

use super::{Action, Datum, Field, Match, Rule, Verdict};

/// An instruction. Registers are the kernel's numbers: 0 is the verdict, 1 to 4 hold 16 bytes, 8 to 23 name their
/// quarters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Expression {
    Meta { key: u32, register: u32 },
    Payload { base: u32, offset: u32, length: u32, register: u32 },
    Connection { key: u32, register: u32 },
    AddressType { register: u32 },
    Mask { mask: Vec<u8> },
    Compare { equal: bool, data: Vec<u8> },
    Lookup { set: SetName, result: Option<u32>, negate: bool },
    Data { register: u32, data: Vec<u8> },
    Verdict(Verdict),
    Translate { port_register: Option<u32> },
    Masquerade,
    Number { modulus: u32 },
    Reject { reset: bool },
}

/// The set that a lookup uses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum SetName {
    Named(String),
    /// The rule's own map: from numbers to these addresses.
    Own(Vec<Ipv4Addr>),
}

const NETWORK: u32 = 1;
const TRANSPORT: u32 = 2;
const META_IIFNAME: u32 = 6;
const META_OIFNAME: u32 = 7;
const META_L4PROTO: u32 = 16;
const CT_STATE: u32 = 0;
const CT_STATUS: u32 = 2;
const STATE_ESTABLISHED_RELATED: u32 = 6;
const STATUS_DST_NAT: u32 = 0x20;
const TYPE_LOCAL: u32 = 2;

/// The quarter register that is `quarters` after the start of register 1, by the name that `nft` gives it.
fn register(quarters: u32) -> u32 {
    if quarters == 0 { 1 } else { 8 + quarters }
}

impl Field {
    /// Quarters of a register that the field takes.
    fn quarters(self) -> u32 {
        if matches!(self, Self::Input | Self::Output) { 4 } else { 1 }
    }

    fn load(self, register: u32) -> Expression {
        match self {
            Self::Source => Expression::Payload { base: NETWORK, offset: 12, length: 4, register },
            Self::Destination => Expression::Payload { base: NETWORK, offset: 16, length: 4, register },
            Self::Port => Expression::Payload { base: TRANSPORT, offset: 2, length: 2, register },
            Self::Protocol => Expression::Meta { key: META_L4PROTO, register },
            Self::Input => Expression::Meta { key: META_IIFNAME, register },
            Self::Output => Expression::Meta { key: META_OIFNAME, register },
        }
    }
}

fn load_key(fields: &[Field], out: &mut Vec<Expression>) {
    let mut quarters = 0;
    for field in fields {
        out.push(field.load(register(quarters)));
        quarters += field.quarters();
    }
}

pub(super) fn interface_bytes(name: &str) -> Vec<u8> {
    let mut bytes = name.as_bytes().to_vec();
    bytes.resize(16, 0);
    bytes
}

impl Datum {
    /// The bytes in a register, filled up to whole quarters.
    pub(super) fn bytes(&self) -> Vec<u8> {
        let mut bytes = match self {
            Self::Address(addr) => addr.octets().to_vec(),
            Self::Protocol(number) => vec![*number],
            Self::Port(port) => port.to_be_bytes().to_vec(),
            Self::Interface(name) => interface_bytes(name),
        };
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        bytes
    }
}

fn subnet(field: Field, addr: Ipv4Addr, length: u8, equal: bool, out: &mut Vec<Expression>) {
    let mask = u32::MAX.checked_shl(32 - u32::from(length)).unwrap_or(0);
    let network = (u32::from(addr) & mask).to_be_bytes();
    let offset = if field == Field::Source { 12 } else { 16 };
    if length > 0 && length.is_multiple_of(8) {
        // Whole bytes need no mask: this is how nft itself writes it.
        let bytes = u32::from(length / 8);
        out.push(Expression::Payload { base: NETWORK, offset, length: bytes, register: 1 });
        out.push(Expression::Compare { equal, data: network[..usize::from(length / 8)].to_vec() });
        return;
    }
    out.push(field.load(1));
    out.push(Expression::Mask { mask: mask.to_be_bytes().to_vec() });
    out.push(Expression::Compare { equal, data: network.to_vec() });
}

fn bits(load: Expression, mask: u32, out: &mut Vec<Expression>) {
    out.push(load);
    out.push(Expression::Mask { mask: mask.to_ne_bytes().to_vec() });
    out.push(Expression::Compare { equal: false, data: vec![0; 4] });
}

fn protocol(number: u8, out: &mut Vec<Expression>) {
    out.push(Field::Protocol.load(1));
    out.push(Expression::Compare { equal: true, data: vec![number] });
}

impl Match {
    fn compile(&self, out: &mut Vec<Expression>) {
        match self {
            Self::Interface(field, name) | Self::NotInterface(field, name) => {
                out.push(field.load(1));
                let equal = matches!(self, Self::Interface(..));
                out.push(Expression::Compare { equal, data: interface_bytes(name) });
            }
            Self::Subnet(field, addr, length) => subnet(*field, *addr, *length, true, out),
            Self::NotSubnet(field, addr, length) => subnet(*field, *addr, *length, false, out),
            Self::In(fields, set) | Self::NotIn(fields, set) => {
                load_key(fields, out);
                let negate = matches!(self, Self::NotIn(..));
                out.push(Expression::Lookup { set: SetName::Named(set.clone()), result: None, negate });
            }
            Self::Protocol(number) => protocol(*number, out),
            Self::Port(number, port) => {
                protocol(*number, out);
                out.push(Field::Port.load(1));
                out.push(Expression::Compare { equal: true, data: port.to_be_bytes().to_vec() });
            }
            Self::LocalDestination => {
                out.push(Expression::AddressType { register: 1 });
                out.push(Expression::Compare { equal: true, data: TYPE_LOCAL.to_ne_bytes().to_vec() });
            }
            Self::Established => {
                bits(Expression::Connection { key: CT_STATE, register: 1 }, STATE_ESTABLISHED_RELATED, out);
            }
            Self::Translated => bits(Expression::Connection { key: CT_STATUS, register: 1 }, STATUS_DST_NAT, out),
        }
    }
}

fn translate(port: Option<u16>, out: &mut Vec<Expression>) {
    if let Some(port) = port {
        out.push(Expression::Data { register: 2, data: port.to_be_bytes().to_vec() });
    }
    out.push(Expression::Translate { port_register: port.map(|_| 2) });
}

impl Action {
    fn compile(&self, out: &mut Vec<Expression>) {
        match self {
            Self::Verdict(verdict) => out.push(Expression::Verdict(verdict.clone())),
            Self::Lookup(fields, map) => {
                load_key(fields, out);
                out.push(Expression::Lookup { set: SetName::Named(map.clone()), result: Some(0), negate: false });
            }
            Self::Redirect(addr, port) => {
                out.push(Expression::Data { register: 1, data: addr.octets().to_vec() });
                translate(*port, out);
            }
            Self::RedirectBy(fields, map) => {
                load_key(fields, out);
                out.push(Expression::Lookup { set: SetName::Named(map.clone()), result: Some(1), negate: false });
                out.push(Expression::Translate { port_register: Some(register(1)) });
            }
            Self::Balance(backends, port) => {
                out.push(Expression::Number { modulus: u32::try_from(backends.len()).unwrap_or(u32::MAX) });
                out.push(Expression::Lookup { set: SetName::Own(backends.clone()), result: Some(1), negate: false });
                translate(*port, out);
            }
            Self::Masquerade => out.push(Expression::Masquerade),
            Self::Reject => out.push(Expression::Reject { reset: false }),
            Self::Reset => out.push(Expression::Reject { reset: true }),
        }
    }
}

impl Rule {
    pub(super) fn compile(&self) -> Vec<Expression> {
        let mut out = Vec::with_capacity(8);
        for condition in &self.matches {
            condition.compile(&mut out);
        }
        self.action.compile(&mut out);
        out
    }
}
