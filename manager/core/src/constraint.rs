//! Placement constraints: `key==value` and `key!=value`.

use std::fmt;
use std::net::IpAddr;

use ipnet::IpNet;
use shoal_proto::object::Node;
use shoal_proto::spec::Platform;

/// What a constraint looks at.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Key {
    Id,
    Hostname,
    Ip,
    Role,
    Os,
    Architecture,
    NodeLabel(String),
    EngineLabel(String),
}

/// One constraint, ready to be matched.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Constraint {
    text: String,
    key: Key,
    equal: bool,
    value: String,
}

/// Why a text is no constraint. The wording is swarmkit's where it has one.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidConstraint {
    /// Neither `==` nor `!=`.
    #[error("constraint expected one operator from ==, !=")]
    Operator,
    /// The left side is no key.
    #[error("key '{0}' is invalid")]
    Key(String),
    /// The left side looks like a key, but nothing of that name can be matched.
    #[error(
        "key '{0}' is unknown: use node.id, node.hostname, node.ip, node.role, node.platform.os, node.platform.arch, \
         node.labels.<name> or engine.labels.<name>"
    )]
    UnknownKey(String),
    /// The right side cannot be compared with.
    #[error("value '{0}' is invalid")]
    Value(String),
}

impl fmt::Display for Constraint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// As swarmkit's `^[a-z_][a-z0-9\-_.]+$`, case-insensitive; and `/`, which labels of reverse domains use.
fn is_key(text: &str) -> bool {
    let mut bytes = text.bytes();
    let starts_well = bytes.next().is_some_and(|b| b.is_ascii_alphabetic() || b == b'_');
    starts_well && text.len() > 1 && bytes.all(|b| b.is_ascii_alphanumeric() || b"-_./".contains(&b))
}

/// As swarmkit's value pattern: it lets characters of regular expressions pass, but compares them as they are.
fn is_value(text: &str) -> bool {
    !text.is_empty()
        && text.chars().all(|c| c.is_ascii_alphanumeric() || c.is_ascii_whitespace() || ":-_.*()?+[]\\^$|/".contains(c))
}

fn parse_key(text: &str) -> Result<Key, InvalidConstraint> {
    if !is_key(text) {
        return Err(InvalidConstraint::Key(text.to_owned()));
    }
    let lower = text.to_ascii_lowercase();
    // Label names keep their case, the words before them do not matter.
    let label = |prefix: &str| {
        let name = lower.starts_with(prefix).then(|| text[prefix.len()..].to_owned());
        name.filter(|name| !name.is_empty())
    };
    Ok(match lower.as_str() {
        "node.id" => Key::Id,
        "node.hostname" => Key::Hostname,
        "node.ip" => Key::Ip,
        "node.role" => Key::Role,
        "node.platform.os" => Key::Os,
        "node.platform.arch" => Key::Architecture,
        _ => match (label("node.labels."), label("engine.labels.")) {
            (Some(name), _) => Key::NodeLabel(name),
            (None, Some(name)) => Key::EngineLabel(name),
            (None, None) => return Err(InvalidConstraint::UnknownKey(text.to_owned())),
        },
    })
}

impl Constraint {
    /// Reads a constraint.
    ///
    /// # Errors
    /// When the text is none.
    pub fn parse(text: &str) -> Result<Self, InvalidConstraint> {
        let split = |operator: &str| text.split_once(operator).map(|(key, value)| (key.trim(), value.trim()));
        let (key, equal, value) = match (split("=="), split("!=")) {
            (Some((key, value)), _) => (key, true, value),
            (None, Some((key, value))) => (key, false, value),
            (None, None) => return Err(InvalidConstraint::Operator),
        };
        let key = parse_key(key)?;
        if !is_value(value) {
            return Err(InvalidConstraint::Value(value.to_owned()));
        }
        if key == Key::Ip && value.parse::<IpAddr>().is_err() && value.parse::<IpNet>().is_err() {
            return Err(InvalidConstraint::Value(value.to_owned()));
        }
        let value = if key == Key::Architecture { normal_architecture(value) } else { value.to_owned() };
        Ok(Self { text: text.trim().to_owned(), key, equal, value })
    }

    /// Does the node satisfy it? A label that a node lacks counts as empty.
    pub fn matches(&self, node: &Node) -> bool {
        let description = node.description.as_ref();
        let same = |text: &str| text.eq_ignore_ascii_case(&self.value);
        let label = |labels: Option<&shoal_proto::spec::Labels>, name: &str| {
            same(labels.and_then(|labels| labels.get(name)).map_or("", String::as_str))
        };
        let holds = match &self.key {
            Key::Id => same(&node.id.to_string()),
            Key::Hostname => same(description.map_or("", |d| &d.hostname)),
            Key::Ip => self.matches_address(node.status.addr),
            Key::Role => same(node.certificate_role.as_str()),
            Key::Os => same(description.map_or("", |d| &d.platform.os)),
            Key::Architecture => same(&normal_architecture(description.map_or("", |d| &d.platform.architecture))),
            Key::NodeLabel(name) => label(Some(&node.spec.labels), name),
            Key::EngineLabel(name) => label(description.map(|d| &d.engine_labels), name),
        };
        holds == self.equal
    }

    fn matches_address(&self, addr: Option<IpAddr>) -> bool {
        let Some(addr) = addr else { return false };
        match (self.value.parse::<IpAddr>(), self.value.parse::<IpNet>()) {
            (Ok(wanted), _) => wanted == addr,
            (_, Ok(net)) => net.contains(&addr),
            _ => false,
        }
    }
}

fn normal_architecture(architecture: &str) -> String {
    Platform { architecture: architecture.to_owned(), os: String::new() }.normalized().architecture
}

/// Reads the constraints of a spec. One that cannot be read (it was stored by a later version) matches no node.
pub fn parse_all(texts: &[String]) -> Result<Vec<Constraint>, InvalidConstraint> {
    texts.iter().map(|text| Constraint::parse(text)).collect()
}

/// Does the node satisfy all constraints of a spec?
pub fn all_match(texts: &[String], node: &Node) -> bool {
    texts.iter().all(|text| Constraint::parse(text).is_ok_and(|constraint| constraint.matches(node)))
}

/// Does the image exist for the node's platform? Empty means any; a node that has not described itself has none.
pub fn platform_fits(platforms: &[Platform], node: &Node) -> bool {
    if platforms.is_empty() {
        return true;
    }
    let Some(description) = &node.description else { return false };
    let have = description.platform.normalized();
    platforms.iter().map(Platform::normalized).any(|wanted| {
        (wanted.architecture.is_empty() || wanted.architecture == have.architecture)
            && (wanted.os.is_empty() || wanted.os == have.os)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use shoal_proto::id::NodeId;
    use shoal_proto::object::{NodeDescription, NodeStatus};
    use shoal_proto::spec::{NodeRole, NodeSpec};

    fn node() -> Node {
        Node {
            id: NodeId::from_bits(7),
            spec: NodeSpec { labels: [("zone".into(), "A".into())].into(), ..NodeSpec::default() },
            description: Some(NodeDescription {
                hostname: "Web-1".into(),
                platform: Platform { architecture: "x86_64".into(), os: "linux".into() },
                engine_labels: [("com.example/disk".into(), "ssd".into())].into(),
                ..NodeDescription::default()
            }),
            status: NodeStatus { addr: Some("10.1.2.3".parse().unwrap()), ..NodeStatus::default() },
            certificate_role: NodeRole::Manager,
            ..Node::default()
        }
    }

    fn holds(text: &str) -> bool {
        Constraint::parse(text).unwrap().matches(&node())
    }

    #[test]
    fn every_key_can_be_matched() {
        for text in [
            "node.id == 0000000000000000000000007",
            "node.hostname==WEB-1",
            "node.ip==10.1.2.3",
            "node.ip == 10.1.0.0/16",
            "node.ip != 10.2.0.0/16",
            "node.role==manager",
            "node.role != worker",
            "node.platform.os==Linux",
            "node.platform.arch==amd64",
            "node.platform.arch==x86_64",
            "node.platform.arch!=arm64",
            "node.labels.zone==a",
            "NODE.LABELS.zone==a",
            "node.labels.rack!=a",
            "engine.labels.com.example/disk==SSD",
        ] {
            assert!(holds(text), "{text}");
        }
        for text in ["node.hostname!=web-1", "node.labels.rack==a", "node.labels.ZONE==a", "node.ip==10.1.2.4"] {
            assert!(!holds(text), "{text}");
        }
    }

    #[test]
    fn a_node_that_said_nothing_matches_only_what_is_not() {
        let silent = Node::default();
        assert!(!Constraint::parse("node.hostname==web").unwrap().matches(&silent));
        assert!(Constraint::parse("node.hostname!=web").unwrap().matches(&silent));
        assert!(!Constraint::parse("node.ip==10.0.0.1").unwrap().matches(&silent));
    }

    #[test]
    fn what_is_no_constraint_is_refused_in_swarms_words() {
        let message = |text: &str| Constraint::parse(text).unwrap_err().to_string();
        assert_eq!(message("node.role=manager"), "constraint expected one operator from ==, !=");
        assert_eq!(message(""), "constraint expected one operator from ==, !=");
        assert_eq!(message("1node==x"), "key '1node' is invalid");
        assert_eq!(message("node.role!==manager"), "key 'node.role!' is invalid");
        assert_eq!(message("node.role=="), "value '' is invalid");
        assert_eq!(message("node.role==\u{e4}"), "value '\u{e4}' is invalid");
        assert_eq!(message("node.ip==10.0.0.0/40"), "value '10.0.0.0/40' is invalid");
        assert!(message("node.colour==red").starts_with("key 'node.colour' is unknown"));
        assert!(message("node.labels.==red").starts_with("key 'node.labels.' is unknown"));
    }

    #[test]
    fn platforms_are_compared_in_one_spelling() {
        let platform = |architecture: &str, os: &str| Platform { architecture: architecture.into(), os: os.into() };
        assert!(platform_fits(&[], &Node::default()));
        assert!(platform_fits(&[platform("amd64", "linux")], &node()));
        assert!(platform_fits(&[platform("arm64", "linux"), platform("", "linux")], &node()));
        assert!(!platform_fits(&[platform("arm64", "linux")], &node()));
        assert!(!platform_fits(&[platform("amd64", "linux")], &Node::default()));
    }
}
