//! Sets, chains and rules as netlink messages.

use std::net::Ipv4Addr;

use super::expression::{Expression, SetName};
use super::{Chain, Datum, Hook, Kind, Purpose, Rule, Set, Value, Values, Verdict};
use crate::netlink::{NLM_F_APPEND, NLM_F_CREATE, Request};

const SUBSYSTEM: u16 = 10 << 8;
pub(super) const NEWTABLE: u16 = SUBSYSTEM;
pub(super) const DELTABLE: u16 = SUBSYSTEM | 2;
pub(super) const NEWCHAIN: u16 = SUBSYSTEM | 3;
pub(super) const GETCHAIN: u16 = SUBSYSTEM | 4;
pub(super) const DELCHAIN: u16 = SUBSYSTEM | 5;
pub(super) const NEWRULE: u16 = SUBSYSTEM | 6;
pub(super) const GETRULE: u16 = SUBSYSTEM | 7;
pub(super) const DELRULE: u16 = SUBSYSTEM | 8;
pub(super) const NEWSET: u16 = SUBSYSTEM | 9;
pub(super) const GETSET: u16 = SUBSYSTEM | 10;
pub(super) const DELSET: u16 = SUBSYSTEM | 11;
pub(super) const NEWSETELEM: u16 = SUBSYSTEM | 12;
pub(super) const GETSETELEM: u16 = SUBSYSTEM | 13;
pub(super) const DELSETELEM: u16 = SUBSYSTEM | 14;
pub(super) const GETGEN: u16 = SUBSYSTEM | 16;
const BATCH_BEGIN: u16 = 16;
const BATCH_END: u16 = 17;

const FAMILY_IP: u8 = 2;
const SET_ANONYMOUS: u32 = 1;
const SET_CONSTANT: u32 = 2;
const SET_MAP: u32 = 8;
const TYPE_VERDICT: u32 = 0xffff_ff00;
const TYPE_INTEGER: u32 = 4;
const TYPE_ADDRESS: u32 = 7;
const KEY_ORDER: u8 = 0;
const DATA_ORDER: u8 = 1;
const HOST_ORDER: u32 = 1;
const NETWORK_ORDER: u32 = 2;
/// Elements in one message: its length is a 16-bit number.
const ELEMENTS_PER_MESSAGE: usize = 500;

pub(super) fn message(kind: u16, flags: u16, what: String) -> Request {
    Request::new(kind, flags, what).body(&[FAMILY_IP, 0, 0, 0])
}

/// The message that opens a transaction, valid only if nobody has changed anything since this generation.
pub(super) fn begin(generation: u32) -> Request {
    let mut request = Request::new(BATCH_BEGIN, 0, "begin a transaction").body(&[0, 0, 0, 10]);
    request.put_be32(1, generation);
    request
}

pub(super) fn end() -> Request {
    Request::new(BATCH_END, 0, "commit a transaction").body(&[0, 0, 0, 10])
}

pub(super) fn table(kind: u16, table: &str) -> Request {
    let (flags, verb) = if kind == NEWTABLE { (NLM_F_CREATE, "make") } else { (0, "remove") };
    message(kind, flags, format!("{verb} table {table}")).attr_str(1, table)
}

pub(super) fn new_chain(table: &str, name: &str, chain: &Chain) -> Request {
    let mut request =
        message(NEWCHAIN, NLM_F_CREATE, format!("make chain {name}")).attr_str(1, table).attr_str(3, name);
    if let Some(base) = chain.base {
        let hook = match base.hook {
            Hook::Prerouting => 0,
            Hook::Input => 1,
            Hook::Forward => 2,
            Hook::Output => 3,
            Hook::Postrouting => 4,
        };
        request.put_nest(4, |attrs| {
            attrs.put_be32(1, hook);
            attrs.put_be32(2, base.priority.cast_unsigned());
        });
        request.put_be32(5, 1);
        request.put_str(7, if base.purpose == Purpose::Nat { "nat" } else { "filter" });
    }
    request
}

pub(super) fn delete_chain(table: &str, name: &str) -> Request {
    message(DELCHAIN, 0, format!("remove chain {name}")).attr_str(1, table).attr_str(3, name)
}

pub(super) fn flush_chain(table: &str, name: &str) -> Request {
    message(DELRULE, 0, format!("flush chain {name}")).attr_str(1, table).attr_str(2, name)
}

impl Kind {
    fn number(self) -> u32 {
        match self {
            Self::Address => TYPE_ADDRESS,
            Self::Protocol => 12,
            Self::Port => 13,
            Self::Interface => 41,
        }
    }

    fn length(self) -> u32 {
        if self == Self::Interface { 16 } else { 4 }
    }
}

/// Number of a concatenated type, six bits a part, and its length. A type of one part has its natural length.
fn type_of(kinds: &[Kind]) -> (u32, u32) {
    let number = kinds.iter().fold(0, |number, kind| number << 6 | kind.number());
    let length = match kinds {
        [Kind::Protocol] => 1,
        [Kind::Port] => 2,
        kinds => kinds.iter().map(|kind| kind.length()).sum(),
    };
    (number, length)
}

fn data_bytes(parts: &[Datum]) -> Vec<u8> {
    match parts {
        [Datum::Protocol(number)] => vec![*number],
        [Datum::Port(port)] => port.to_be_bytes().to_vec(),
        parts => parts.iter().flat_map(Datum::bytes).collect(),
    }
}

pub(super) fn new_set(table: &str, name: &str, set: &Set, id: u32) -> Request {
    let mut request = message(NEWSET, NLM_F_CREATE, format!("make set {name}")).attr_str(1, table).attr_str(2, name);
    request.put_be32(3, if set.values == Values::None { 0 } else { SET_MAP });
    let (key_type, key_length) = type_of(&set.key);
    request.put_be32(4, key_type);
    request.put_be32(5, key_length);
    match &set.values {
        Values::None => {}
        Values::Data(kinds) => {
            let (data_type, data_length) = type_of(kinds);
            request.put_be32(6, data_type);
            request.put_be32(7, data_length);
        }
        Values::Verdicts => request.put_be32(6, TYPE_VERDICT),
    }
    request.put_be32(10, id);
    if set.key == [Kind::Interface] {
        request.put(13, &byte_order(KEY_ORDER, HOST_ORDER));
    }
    request
}

/// What `nft list` needs to print a number or name the right way round; the kernel does not look at it.
fn byte_order(kind: u8, order: u32) -> [u8; 6] {
    let order = order.to_ne_bytes();
    [kind, 4, order[0], order[1], order[2], order[3]]
}

pub(super) fn delete_set(table: &str, name: &str) -> Request {
    message(DELSET, 0, format!("remove set {name}")).attr_str(1, table).attr_str(2, name)
}

fn put_verdict(request: &mut Request, verdict: &Verdict) {
    let code: i32 = match verdict {
        Verdict::Accept => 1,
        Verdict::Drop => 0,
        Verdict::Return => -5,
        Verdict::Jump(_) => -3,
    };
    request.put_nest(2, |attrs| {
        attrs.put_be32(1, code.cast_unsigned());
        if let Verdict::Jump(chain) = verdict {
            attrs.put_str(2, chain);
        }
    });
}

/// Messages that add (`NEWSETELEM`) or remove (`DELSETELEM`) elements.
pub(super) fn elements<'a>(
    kind: u16,
    table: &str,
    name: &str,
    elements: impl IntoIterator<Item = (&'a Vec<Datum>, &'a Value)>,
    out: &mut Vec<Request>,
) {
    let all: Vec<_> = elements.into_iter().collect();
    for part in all.chunks(ELEMENTS_PER_MESSAGE) {
        let flags = if kind == NEWSETELEM { NLM_F_CREATE } else { 0 };
        let mut request =
            message(kind, flags, format!("change elements of set {name}")).attr_str(1, table).attr_str(2, name);
        request.put_nest(3, |list| {
            for (key, value) in part {
                list.put_nest(1, |element| {
                    element.put_nest(1, |data| data.put(1, &data_bytes(key)));
                    match value {
                        _ if kind != NEWSETELEM => {}
                        Value::None => {}
                        Value::Data(parts) => element.put_nest(2, |data| data.put(1, &data_bytes(parts))),
                        Value::Verdict(verdict) => element.put_nest(2, |data| put_verdict(data, verdict)),
                    }
                });
            }
        });
        out.push(request);
    }
}

/// Messages for a rule: the maps of its own, and the rule.
pub(super) fn new_rule(table: &str, chain: &str, rule: &Rule, next_set: &mut u32, out: &mut Vec<Request>) {
    let expressions = rule.compile();
    let mut own = Vec::new();
    for expression in &expressions {
        if let Expression::Lookup { set: SetName::Own(addrs), .. } = expression {
            own_map(table, addrs, *next_set, out);
            own.push(*next_set);
            *next_set += 1;
        }
    }
    let mut own = own.into_iter();
    let mut request =
        message(NEWRULE, NLM_F_CREATE | NLM_F_APPEND, format!("add rule {rule}")).attr_str(1, table).attr_str(2, chain);
    request.put_nest(4, |list| {
        for expression in &expressions {
            let id = match expression {
                Expression::Lookup { set: SetName::Own(_), .. } => own.next(),
                _ => None,
            };
            list.put_nest(1, |element| {
                element.put_str(1, expression.name());
                element.put_nest(2, |attrs| expression.encode(attrs, id));
            });
        }
    });
    out.push(request);
}

fn own_map(table: &str, addrs: &[Ipv4Addr], id: u32, out: &mut Vec<Request>) {
    let mut request = message(NEWSET, NLM_F_CREATE, "make a rule's map".to_owned()).attr_str(1, table);
    request.put_str(2, "__map%d");
    request.put_be32(3, SET_ANONYMOUS | SET_CONSTANT | SET_MAP);
    request.put_be32(4, TYPE_INTEGER);
    request.put_be32(5, 4);
    request.put_be32(6, TYPE_ADDRESS);
    request.put_be32(7, 4);
    request.put_be32(10, id);
    request.put_nest(9, |description| {
        description.put_be32(1, u32::try_from(addrs.len()).unwrap_or(u32::MAX));
    });
    request.put(13, &[byte_order(KEY_ORDER, HOST_ORDER), byte_order(DATA_ORDER, NETWORK_ORDER)].concat());
    out.push(request);
    let numbered: Vec<_> = (0u32..).zip(addrs).collect();
    for part in numbered.chunks(ELEMENTS_PER_MESSAGE) {
        let mut request = message(NEWSETELEM, NLM_F_CREATE, "fill a rule's map".to_owned()).attr_str(1, table);
        request.put_str(2, "__map%d");
        request.put_be32(4, id);
        request.put_nest(3, |list| {
            for (number, addr) in part {
                list.put_nest(1, |element| {
                    element.put_nest(1, |data| data.put(1, &number.to_ne_bytes()));
                    element.put_nest(2, |data| data.put(1, &addr.octets()));
                });
            }
        });
        out.push(request);
    }
}

impl Expression {
    fn name(&self) -> &'static str {
        match self {
            Self::Meta { .. } => "meta",
            Self::Payload { .. } => "payload",
            Self::Connection { .. } => "ct",
            Self::AddressType { .. } => "fib",
            Self::Mask { .. } => "bitwise",
            Self::Compare { .. } => "cmp",
            Self::Lookup { .. } => "lookup",
            Self::Data { .. } | Self::Verdict(_) => "immediate",
            Self::Translate { .. } => "nat",
            Self::Masquerade => "masq",
            Self::Number { .. } => "numgen",
            Self::Reject { .. } => "reject",
        }
    }

    /// Writes the attributes. `own` is the number of the rule's own map.
    fn encode(&self, attrs: &mut Request, own: Option<u32>) {
        let mut numbers = |values: &[(u16, u32)]| {
            for (kind, value) in values {
                attrs.put_be32(*kind, *value);
            }
        };
        match self {
            Self::Meta { key, register } => numbers(&[(2, *key), (1, *register)]),
            Self::Payload { base, offset, length, register } => {
                numbers(&[(1, *register), (2, *base), (3, *offset), (4, *length)]);
            }
            Self::Connection { key, register } => numbers(&[(2, *key), (1, *register)]),
            // The type (3) of the destination address (2).
            Self::AddressType { register } => numbers(&[(1, *register), (2, 3), (3, 2)]),
            Self::Mask { mask } => {
                numbers(&[(1, 1), (2, 1), (3, u32::try_from(mask.len()).unwrap_or(4))]);
                attrs.put_nest(4, |data| data.put(1, mask));
                attrs.put_nest(5, |data| data.put(1, &vec![0; mask.len()]));
            }
            Self::Compare { equal, data } => {
                numbers(&[(1, 1), (2, u32::from(!equal))]);
                attrs.put_nest(3, |nest| nest.put(1, data));
            }
            Self::Lookup { set, result, negate } => encode_lookup(attrs, set, *result, *negate, own),
            Self::Data { register, data } => {
                numbers(&[(1, *register)]);
                attrs.put_nest(2, |nest| nest.put(1, data));
            }
            Self::Verdict(verdict) => {
                numbers(&[(1, 0)]);
                attrs.put_nest(2, |data| put_verdict(data, verdict));
            }
            Self::Translate { port_register } => {
                numbers(&[(1, 1), (2, u32::from(FAMILY_IP)), (3, 1), (4, 1)]);
                if let Some(register) = port_register {
                    attrs.put_be32(5, *register);
                    attrs.put_be32(6, *register);
                }
            }
            Self::Masquerade => {}
            Self::Number { modulus } => numbers(&[(1, 1), (2, *modulus), (3, 0), (4, 0)]),
            Self::Reject { reset } => {
                numbers(&[(1, u32::from(*reset))]);
                attrs.put(2, &[if *reset { 0 } else { 3 }]);
            }
        }
    }
}

fn encode_lookup(attrs: &mut Request, set: &SetName, result: Option<u32>, negate: bool, own: Option<u32>) {
    match set {
        SetName::Named(name) => attrs.put_str(1, name),
        SetName::Own(_) => {
            attrs.put_str(1, "__map%d");
            attrs.put_be32(4, own.unwrap_or_default());
        }
    }
    attrs.put_be32(2, 1);
    if let Some(register) = result {
        attrs.put_be32(3, register);
    }
    if negate {
        attrs.put_be32(5, 1);
    }
}
