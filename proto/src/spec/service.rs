//! Services and the tasks they are made of.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::Labels;
use super::container::ContainerSpec;
use super::network::{EndpointSpec, NetworkAttachmentSpec};

/// A service as its user made it.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct ServiceSpec {
    /// Unique name; a valid DNS label.
    pub name: String,
    /// User labels; changing them restarts nothing.
    pub labels: Labels,
    /// What each task runs. Shared with every task made from it.
    pub task: Arc<TaskSpec>,
    /// How many tasks, and where.
    pub mode: ServiceMode,
    /// How a change is rolled out; `None` is the defaults of [`UpdateConfig`].
    pub update: Option<UpdateConfig>,
    /// How a rollback is rolled out; `None` is the defaults of [`UpdateConfig`].
    pub rollback: Option<UpdateConfig>,
    /// How clients reach it.
    pub endpoint: EndpointSpec,
    /// Did the user name the networks beside the task's template, as before API 1.25? They are kept in the template, and
    /// shown where they were given.
    pub networks_beside: bool,
}

/// How many tasks a service has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ServiceMode {
    /// So many, in slots 1 to n.
    Replicated {
        /// The number of slots.
        replicas: u64,
    },
    /// One on every node that fits.
    Global,
}

impl Default for ServiceMode {
    fn default() -> Self {
        Self::Replicated { replicas: 1 }
    }
}

/// What one task runs and needs. Any change here (but placement that still fits) replaces the task.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct TaskSpec {
    /// The container.
    pub container: ContainerSpec,
    /// Limits and reservations.
    pub resources: Resources,
    /// What happens when it ends; `None` is the defaults of [`RestartPolicy`].
    pub restart: Option<RestartPolicy>,
    /// Where it may run.
    pub placement: Placement,
    /// Networks, in the order of the interfaces.
    pub networks: Vec<NetworkAttachmentSpec>,
    /// Log driver; `None` is the cluster's, then the node's default.
    pub log_driver: Option<LogDriver>,
    /// Counter: raising it replaces all tasks though nothing else changed.
    pub force_update: u64,
    /// OCI runtime or other marker of the API; empty is `container`.
    pub runtime: String,
}

/// A log driver and its options.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct LogDriver {
    /// Name, for example `json-file`.
    pub name: String,
    /// Options, for example `max-size`.
    pub options: BTreeMap<String, String>,
}

/// An amount of what a node has.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct ResourceAmount {
    /// Billionths of a core; 0 is no limit and no reservation.
    pub nano_cpus: i64,
    /// Bytes; 0 is no limit and no reservation.
    pub memory_bytes: i64,
    /// Processes (limit only); 0 is no limit.
    pub pids: i64,
    /// Counted generic resources by kind (reservation only). A named one is one of the kind `kind=name`: no node has any.
    pub generic: BTreeMap<String, i64>,
}

/// What a task may use, and what is set aside for it.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Resources {
    /// Enforced on the node by cgroups.
    pub limits: ResourceAmount,
    /// Counted by the scheduler.
    pub reservations: ResourceAmount,
    /// Memory and swap together in bytes; 0 is the default, -1 unlimited.
    pub memory_swap_bytes: i64,
}

/// When is an ended task replaced?
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RestartCondition {
    /// Never.
    None,
    /// Only after a failure.
    OnFailure,
    /// Always.
    #[default]
    Any,
}

impl RestartCondition {
    /// `none`, `on-failure` or `any`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::OnFailure => "on-failure",
            Self::Any => "any",
        }
    }
}

/// What happens when a task ends.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct RestartPolicy {
    /// When it is replaced.
    pub condition: RestartCondition,
    /// Least time before the replacement starts; grows for tasks that crash in a row.
    pub delay: Duration,
    /// Replacements in one window; 0 is no limit.
    pub max_attempts: u64,
    /// Window in which attempts count; zero is for ever.
    pub window: Duration,
    /// Did the user say zero, so that it is shown? Beside the window, and no `Option` of it: builds that know only the
    /// window have to read what this one writes.
    pub window_given: bool,
}

impl RestartPolicy {
    /// The window as its user said it; `None` when they did not.
    pub fn shown_window(&self) -> Option<Duration> {
        (self.window_given || !self.window.is_zero()).then_some(self.window)
    }
}

impl Default for RestartPolicy {
    fn default() -> Self {
        Self {
            condition: RestartCondition::Any,
            delay: Duration::from_secs(5),
            max_attempts: 0,
            window: Duration::ZERO,
            window_given: false,
        }
    }
}

/// Where a task may run.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Placement {
    /// All must hold; each is `key==value` or `key!=value`.
    pub constraints: Vec<String>,
    /// Spread descriptors in order, for example `node.labels.zone`.
    pub spread: Vec<String>,
    /// Most tasks of the service on one node; 0 is no limit.
    pub max_replicas: u64,
    /// Platforms that the image exists for; empty is any.
    pub platforms: Vec<Platform>,
}

/// Architecture and operating system, in Go's words (`amd64`, `linux`).
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Platform {
    /// Architecture; empty is any.
    pub architecture: String,
    /// Operating system; empty is any.
    pub os: String,
}

impl Platform {
    /// The same platform with the kernel's spelling of the architecture turned into Go's.
    #[must_use]
    pub fn normalized(&self) -> Self {
        let architecture = match self.architecture.to_ascii_lowercase().as_str() {
            "x86_64" | "x86-64" => "amd64".to_owned(),
            "aarch64" => "arm64".to_owned(),
            "armhf" | "armv7l" => "arm".to_owned(),
            other => other.to_owned(),
        };
        Self { architecture, os: self.os.to_ascii_lowercase() }
    }
}

/// What happens when an update fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum FailureAction {
    /// Stop where it is.
    #[default]
    Pause,
    /// Go on.
    Continue,
    /// Go back to the previous spec.
    Rollback,
}

impl FailureAction {
    /// `pause`, `continue` or `rollback`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Pause => "pause",
            Self::Continue => "continue",
            Self::Rollback => "rollback",
        }
    }
}

/// Is the old task stopped before or after the new one runs?
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum UpdateOrder {
    /// Before.
    #[default]
    StopFirst,
    /// After.
    StartFirst,
}

impl UpdateOrder {
    /// `stop-first` or `start-first`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::StopFirst => "stop-first",
            Self::StartFirst => "start-first",
        }
    }
}

/// How a change is rolled out.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct UpdateConfig {
    /// Slots changed at a time; 0 is all.
    pub parallelism: u64,
    /// Time between two batches.
    pub delay: Duration,
    /// What happens on failure.
    pub failure_action: FailureAction,
    /// Time after a task runs in which its failure counts against the update.
    pub monitor: Duration,
    /// Share of failed tasks, 0 to 1, above which the update has failed.
    pub max_failure_ratio: f32,
    /// Old task stopped before or after the new one runs.
    pub order: UpdateOrder,
}

/// Ratios are finite: the control API refuses others, so equality is total.
impl Eq for UpdateConfig {}

impl Default for UpdateConfig {
    fn default() -> Self {
        Self {
            parallelism: 1,
            delay: Duration::ZERO,
            failure_action: FailureAction::Pause,
            monitor: Duration::from_secs(5),
            max_failure_ratio: 0.0,
            order: UpdateOrder::StopFirst,
        }
    }
}
