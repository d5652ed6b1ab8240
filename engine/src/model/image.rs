//! Images over the API.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::container::{ContainerConfig, HealthConfig, StringSet};
use super::inspect::GraphDriver;
use super::model;

model! {
    /// What an image says about the containers made of it. Fields that Docker always writes are null when not set.
    pub struct ImageConfig {
        /// `user[:group]` that commands run as.
        pub user: String,
        /// Ports, `80/tcp`.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub exposed_ports: Option<StringSet>,
        /// `NAME=value`.
        pub env: Option<Vec<String>>,
        /// Command prefix.
        pub entrypoint: Option<Vec<String>>,
        /// Arguments, or the command when there is no entrypoint.
        pub cmd: Option<Vec<String>>,
        /// Paths that become anonymous volumes.
        pub volumes: Option<StringSet>,
        /// Working directory.
        pub working_dir: String,
        /// Labels.
        pub labels: Option<BTreeMap<String, String>>,
        /// Signal that asks to stop.
        #[serde(skip_serializing_if = "String::is_empty")]
        pub stop_signal: String,
        /// Windows only.
        #[serde(skip_serializing_if = "std::ops::Not::not")]
        pub args_escaped: bool,
        /// Health check.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub healthcheck: Option<HealthConfig>,
        /// Build triggers.
        pub on_build: Option<Vec<String>>,
        /// Shell of the shell form of instructions.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub shell: Option<Vec<String>>,
    }
}

impl From<&ContainerConfig> for ImageConfig {
    /// What of a container's configuration an image can have.
    fn from(config: &ContainerConfig) -> Self {
        Self {
            user: config.user.clone(),
            exposed_ports: config.exposed_ports.clone(),
            env: config.env.clone(),
            entrypoint: config.entrypoint.clone(),
            cmd: config.cmd.clone(),
            volumes: config.volumes.clone(),
            working_dir: config.working_dir.clone(),
            labels: (!config.labels.is_empty()).then(|| config.labels.clone()),
            stop_signal: config.stop_signal.clone(),
            args_escaped: config.args_escaped,
            healthcheck: config.healthcheck.clone(),
            on_build: config.on_build.clone(),
            shell: config.shell.clone(),
        }
    }
}

impl From<ImageConfig> for ContainerConfig {
    fn from(config: ImageConfig) -> Self {
        Self {
            user: config.user,
            exposed_ports: config.exposed_ports,
            env: config.env,
            entrypoint: config.entrypoint,
            cmd: config.cmd,
            volumes: config.volumes,
            working_dir: config.working_dir,
            labels: config.labels.unwrap_or_default(),
            stop_signal: config.stop_signal,
            args_escaped: config.args_escaped,
            healthcheck: config.healthcheck,
            on_build: config.on_build,
            shell: config.shell,
            ..Self::default()
        }
    }
}

model! {
    /// One image in full.
    pub struct ImageInspect {
        /// `sha256:` and the digest of the configuration.
        pub id: String,
        /// `name:tag` of each tag.
        pub repo_tags: Vec<String>,
        /// `name@digest` of each digest reference.
        pub repo_digests: Vec<String>,
        /// Id of the image it was made of here; empty when unknown.
        pub parent: String,
        /// Message of the import or commit.
        pub comment: String,
        /// RFC 3339.
        #[serde(skip_serializing_if = "String::is_empty")]
        pub created: String,
        /// Docker's version that made it.
        pub docker_version: String,
        /// Who made it.
        pub author: String,
        /// Defaults of containers.
        pub config: ImageConfig,
        /// The container that it was made of; for clients of old only.
        #[serde(skip)]
        pub container: String,
        /// What ran there; for clients of old only.
        #[serde(skip)]
        pub container_config: ContainerConfig,
        /// Processor architecture, in Go's words.
        pub architecture: String,
        /// Variant of it.
        #[serde(skip_serializing_if = "String::is_empty")]
        pub variant: String,
        /// Operating system.
        pub os: String,
        /// Version of it.
        #[serde(skip_serializing_if = "String::is_empty")]
        pub os_version: String,
        /// Bytes of all files in all layers.
        pub size: i64,
        /// Where the layers are.
        pub graph_driver: GraphDriver,
        /// Layers.
        #[serde(rename = "RootFS")]
        pub root_fs: RootFs,
        /// Known only here.
        pub metadata: ImageMetadata,
    }
}

model! {
    /// The layers of an image.
    pub struct RootFs {
        /// Always `layers`.
        #[serde(rename = "Type")]
        pub kind: String,
        /// Digest of each uncompressed layer, the lowest first.
        #[serde(skip_serializing_if = "Vec::is_empty")]
        pub layers: Vec<String>,
    }
}

model! {
    /// What this engine knows about an image beside its content.
    pub struct ImageMetadata {
        /// When it was tagged last, RFC 3339; Go's zero time for never.
        pub last_tag_time: String,
    }
}

model! {
    /// One image in a list.
    pub struct ImageSummary {
        /// `sha256:` and the digest of the configuration.
        pub id: String,
        /// Id of the image it was made of here; empty when unknown.
        pub parent_id: String,
        /// `name:tag` of each tag.
        pub repo_tags: Vec<String>,
        /// `name@digest` of each digest reference.
        pub repo_digests: Vec<String>,
        /// Seconds.
        pub created: i64,
        /// Bytes of all files in all layers.
        pub size: i64,
        /// Bytes of layers that another image has, too; -1 when not asked for.
        pub shared_size: i64,
        /// Labels; null when there are none.
        pub labels: Option<BTreeMap<String, String>>,
        /// Containers that use it; -1 when not counted.
        pub containers: i64,
    }
}

/// How images are listed.
#[derive(Debug, Clone, Default)]
pub struct ImageListOptions {
    /// Intermediate images, too?
    pub all: bool,
    /// `dangling`, `label`, `reference`, `before`, `since`, `until`.
    pub filters: super::Filters,
    /// Compute the shared sizes?
    pub shared_size: bool,
}

model! {
    /// One step of an image's history.
    pub struct ImageHistoryItem {
        /// The image after this step, `<missing>` when not known here.
        pub id: String,
        /// Seconds.
        pub created: i64,
        /// The instruction.
        pub created_by: String,
        /// Tags of that image.
        pub tags: Option<Vec<String>>,
        /// Bytes of its layer.
        pub size: i64,
        /// Message.
        pub comment: String,
    }
}

model! {
    /// One thing that a removal did: either field is set.
    pub struct ImageDeleteItem {
        /// A reference that is gone.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub untagged: Option<String>,
        /// An image or layer that is gone.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub deleted: Option<String>,
    }
}

model! {
    /// What a prune of images did.
    pub struct ImagesPruneReport {
        /// Null when nothing was removed.
        pub images_deleted: Option<Vec<ImageDeleteItem>>,
        /// Bytes.
        pub space_reclaimed: u64,
    }
}

/// One line of the progress that `load` and `import` write.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ProgressMessage {
    /// Plain text for the user.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stream: Option<String>,
    /// What is going on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub status: Option<String>,
    /// How far it is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub progress_detail: Option<ProgressDetail>,
    /// A bar, for clients of old.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub progress: Option<String>,
    /// The layer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// The end: it failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error_detail: Option<ProgressError>,
    /// The same text, for clients of old.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// Position in a transfer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct ProgressDetail {
    /// Bytes so far.
    #[serde(skip_serializing_if = "is_zero")]
    pub current: u64,
    /// Bytes in all.
    #[serde(skip_serializing_if = "is_zero")]
    pub total: u64,
}

/// Why it failed.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct ProgressError {
    /// The text.
    pub message: String,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde's signature")]
fn is_zero(number: &u64) -> bool {
    *number == 0
}

impl ProgressMessage {
    /// A line of text.
    pub fn text(text: impl Into<String>) -> Self {
        Self { stream: Some(text.into()), ..Self::default() }
    }

    /// A bare status.
    pub fn status(status: impl Into<String>) -> Self {
        Self { status: Some(status.into()), ..Self::default() }
    }

    /// The last line after a failure.
    pub fn failed(message: impl Into<String>) -> Self {
        let message = message.into();
        Self { error: Some(message.clone()), error_detail: Some(ProgressError { message }), ..Self::default() }
    }
}
