//! What is wanted of a node.

use serde::{Deserialize, Serialize};

use super::Labels;

/// Role of a node in the cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum NodeRole {
    /// Runs tasks only.
    #[default]
    Worker,
    /// Takes part in consensus, and runs tasks too.
    Manager,
}

impl NodeRole {
    /// `worker` or `manager`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Worker => "worker",
            Self::Manager => "manager",
        }
    }
}

/// May tasks be placed on a node?
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Availability {
    /// Yes.
    #[default]
    Active,
    /// No new ones; those that run stay.
    Pause,
    /// None; those that run move away.
    Drain,
}

impl Availability {
    /// `active`, `pause` or `drain`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::Pause => "pause",
            Self::Drain => "drain",
        }
    }
}

/// What the operator wants of a node.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct NodeSpec {
    /// Optional name; unlike the host name it is chosen by the operator.
    pub name: String,
    /// Operator's labels, matched by `node.labels.*` constraints.
    pub labels: Labels,
    /// The wanted role; what the node is now stands in its certificate.
    pub role: NodeRole,
    /// May tasks be placed here?
    pub availability: Availability,
}
