//! The text form, as `nft -f` reads it.

use std::fmt::{self, Display, Write};

use super::{Action, Chain, Datum, Field, Hook, Kind, Match, Purpose, Rule, Ruleset, Set, Value, Values, Verdict};

impl Ruleset {
    /// The table as text.
    pub fn to_text(&self, table: &str) -> String {
        let mut text = format!("table ip {table} {{\n");
        for (name, set) in &self.sets {
            write_set(&mut text, name, set);
        }
        for (name, chain) in &self.chains {
            write_chain(&mut text, name, chain);
        }
        text.push_str("}\n");
        text
    }
}

fn line(text: &mut String, depth: usize, content: impl Display) {
    for _ in 0..depth {
        text.push('\t');
    }
    // Writing to a String cannot fail.
    let _ = writeln!(text, "{content}");
}

fn joined<T>(items: &[T], each: impl Fn(&T) -> String) -> String {
    items.iter().map(each).collect::<Vec<_>>().join(" . ")
}

fn write_set(text: &mut String, name: &str, set: &Set) {
    let key = joined(&set.key, |kind| kind.word().to_owned());
    let (word, types) = match &set.values {
        Values::None => ("set", key),
        Values::Data(kinds) => ("map", format!("{key} : {}", joined(kinds, |kind| kind.word().to_owned()))),
        Values::Verdicts => ("map", format!("{key} : verdict")),
    };
    line(text, 1, format_args!("{word} {name} {{"));
    line(text, 2, format_args!("type {types}"));
    if !set.elements.is_empty() {
        line(text, 2, "elements = {");
        for (key, value) in &set.elements {
            let key = joined(key, Datum::to_string);
            match value {
                Value::None => line(text, 3, format_args!("{key},")),
                Value::Data(data) => line(text, 3, format_args!("{key} : {},", joined(data, Datum::to_string))),
                Value::Verdict(verdict) => line(text, 3, format_args!("{key} : {verdict},")),
            }
        }
        line(text, 2, "}");
    }
    line(text, 1, "}");
}

fn write_chain(text: &mut String, name: &str, chain: &Chain) {
    line(text, 1, format_args!("chain {name} {{"));
    if let Some(base) = chain.base {
        let purpose = match base.purpose {
            Purpose::Filter => "filter",
            Purpose::Nat => "nat",
        };
        let hook = match base.hook {
            Hook::Prerouting => "prerouting",
            Hook::Input => "input",
            Hook::Forward => "forward",
            Hook::Output => "output",
            Hook::Postrouting => "postrouting",
        };
        line(text, 2, format_args!("type {purpose} hook {hook} priority {}; policy accept;", base.priority));
    }
    for rule in &chain.rules {
        line(text, 2, rule);
    }
    line(text, 1, "}");
}

impl Kind {
    fn word(self) -> &'static str {
        match self {
            Self::Address => "ipv4_addr",
            Self::Protocol => "inet_proto",
            Self::Port => "inet_service",
            Self::Interface => "ifname",
        }
    }
}

fn protocol(number: u8) -> String {
    match number {
        6 => "tcp".to_owned(),
        17 => "udp".to_owned(),
        132 => "sctp".to_owned(),
        other => other.to_string(),
    }
}

impl Display for Datum {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(addr) => addr.fmt(f),
            Self::Protocol(number) => f.write_str(&protocol(*number)),
            Self::Port(port) => port.fmt(f),
            Self::Interface(name) => write!(f, "\"{name}\""),
        }
    }
}

impl Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Accept => f.write_str("accept"),
            Self::Drop => f.write_str("drop"),
            Self::Return => f.write_str("return"),
            Self::Jump(chain) => write!(f, "jump {chain}"),
        }
    }
}

impl Field {
    fn word(self) -> &'static str {
        match self {
            Self::Source => "ip saddr",
            Self::Destination => "ip daddr",
            Self::Protocol => "meta l4proto",
            Self::Port => "th dport",
            Self::Input => "iifname",
            Self::Output => "oifname",
        }
    }
}

fn fields(fields: &[Field]) -> String {
    joined(fields, |field| field.word().to_owned())
}

impl Display for Match {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Interface(field, name) => write!(f, "{} \"{name}\"", field.word()),
            Self::NotInterface(field, name) => write!(f, "{} != \"{name}\"", field.word()),
            Self::Subnet(field, addr, 32) => write!(f, "{} {addr}", field.word()),
            Self::Subnet(field, addr, length) => write!(f, "{} {addr}/{length}", field.word()),
            Self::NotSubnet(field, addr, 32) => write!(f, "{} != {addr}", field.word()),
            Self::NotSubnet(field, addr, length) => write!(f, "{} != {addr}/{length}", field.word()),
            Self::In(key, set) => write!(f, "{} @{set}", fields(key)),
            Self::NotIn(key, set) => write!(f, "{} != @{set}", fields(key)),
            Self::Protocol(number) => write!(f, "meta l4proto {}", protocol(*number)),
            Self::Port(number, port) => write!(f, "{} dport {port}", protocol(*number)),
            Self::LocalDestination => f.write_str("fib daddr type local"),
            Self::Established => f.write_str("ct state established,related"),
            Self::Translated => f.write_str("ct status dnat"),
        }
    }
}

impl Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Verdict(verdict) => verdict.fmt(f),
            Self::Lookup(key, map) => write!(f, "{} vmap @{map}", fields(key)),
            Self::Redirect(addr, None) => write!(f, "dnat to {addr}"),
            Self::Redirect(addr, Some(port)) => write!(f, "dnat to {addr}:{port}"),
            Self::RedirectBy(key, map) => write!(f, "dnat ip to {} map @{map}", fields(key)),
            Self::Balance(backends, port) => {
                write!(f, "dnat to numgen inc mod {} map {{ ", backends.len())?;
                for (index, addr) in backends.iter().enumerate() {
                    write!(f, "{}{index} : {addr}", if index == 0 { "" } else { ", " })?;
                }
                f.write_str(" }")?;
                port.map_or(Ok(()), |port| write!(f, ":{port}"))
            }
            Self::Masquerade => f.write_str("masquerade"),
            Self::Reject => f.write_str("reject"),
            Self::Reset => f.write_str("reject with tcp reset"),
        }
    }
}

impl Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for condition in &self.matches {
            write!(f, "{condition} ")?;
        }
        self.action.fmt(f)
    }
}
