//! The configuration of an image: the JSON document whose digest is the image's id.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use shoal_proto::time::Timestamp;

use super::digest::Digest;
use crate::model::{ContainerConfig, ImageConfig};

/// Bound of one document.
pub const LONGEST_DOCUMENT: u64 = 8 << 20;

/// What we read of a configuration. It is never written back: the bytes as they came are what the id is made of.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct Document {
    #[serde(deserialize_with = "crate::model::null_as_default")]
    pub(super) architecture: String,
    #[serde(deserialize_with = "crate::model::null_as_default")]
    pub(super) variant: String,
    #[serde(deserialize_with = "crate::model::null_as_default")]
    pub(super) os: String,
    #[serde(rename = "os.version", deserialize_with = "crate::model::null_as_default")]
    pub(super) os_version: String,
    pub(super) created: Option<String>,
    #[serde(deserialize_with = "crate::model::null_as_default")]
    pub(super) author: String,
    #[serde(deserialize_with = "crate::model::null_as_default")]
    pub(super) comment: String,
    #[serde(deserialize_with = "crate::model::null_as_default")]
    pub(super) docker_version: String,
    #[serde(deserialize_with = "crate::model::null_as_default")]
    pub(super) config: ImageConfig,
    /// The container that it was made of, as Docker keeps it.
    #[serde(deserialize_with = "crate::model::null_as_default")]
    pub(super) container: String,
    #[serde(deserialize_with = "crate::model::null_as_default")]
    pub(super) container_config: ContainerConfig,
    pub(super) rootfs: Option<RootFs>,
    #[serde(deserialize_with = "crate::model::null_as_default")]
    pub(super) history: Vec<HistoryEntry>,
}

/// The layers.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct RootFs {
    #[serde(rename = "type")]
    pub(super) kind: String,
    #[serde(deserialize_with = "crate::model::null_as_default")]
    pub(super) diff_ids: Vec<Digest>,
}

/// One step of how it was made.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct HistoryEntry {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) created: Option<String>,
    #[serde(skip_serializing_if = "String::is_empty", deserialize_with = "crate::model::null_as_default")]
    pub(super) author: String,
    #[serde(skip_serializing_if = "String::is_empty", deserialize_with = "crate::model::null_as_default")]
    pub(super) created_by: String,
    #[serde(skip_serializing_if = "String::is_empty", deserialize_with = "crate::model::null_as_default")]
    pub(super) comment: String,
    #[serde(skip_serializing_if = "std::ops::Not::not", deserialize_with = "crate::model::null_as_default")]
    pub(super) empty_layer: bool,
}

/// The document is not an image's.
#[derive(Debug, thiserror::Error)]
pub enum DocumentError {
    /// No JSON of that shape.
    #[error("invalid image JSON")]
    Json(#[from] serde_json::Error),
    /// No layers.
    #[error("invalid image JSON, no RootFS key")]
    NoLayers,
    /// Layers of an unknown kind.
    #[error("invalid image JSON, the RootFS type {0:?} is not supported")]
    Kind(String),
    /// It is something else at the same time (CVE-2021-41190).
    #[error("invalid image JSON, it has the fields of a manifest or an index")]
    Confused,
    /// For another system.
    #[error("image operating system {0:?} cannot be used on this platform")]
    System(String),
}

impl Document {
    /// Reads a configuration.
    ///
    /// # Errors
    /// When it is not one.
    pub fn parse(bytes: &[u8]) -> Result<Self, DocumentError> {
        /// Fields that other documents have.
        #[derive(Deserialize)]
        struct Foreign {
            manifests: Option<Value>,
            layers: Option<Value>,
        }
        let foreign: Foreign = serde_json::from_slice(bytes)?;
        if foreign.manifests.is_some() || foreign.layers.is_some() {
            return Err(DocumentError::Confused);
        }
        let document: Self = serde_json::from_slice(bytes)?;
        let Some(rootfs) = &document.rootfs else { return Err(DocumentError::NoLayers) };
        if rootfs.kind != "layers" {
            return Err(DocumentError::Kind(rootfs.kind.clone()));
        }
        if !document.os.is_empty() && document.os != "linux" {
            return Err(DocumentError::System(document.os));
        }
        Ok(document)
    }

    /// Digests of the uncompressed layers, the lowest first.
    pub fn layers(&self) -> &[Digest] {
        self.rootfs.as_ref().map_or(&[], |rootfs| &rootfs.diff_ids)
    }

    /// When it was made.
    pub fn created(&self) -> Timestamp {
        instant(self.created.as_deref())
    }
}

/// An instant of a document; none for what cannot be read, as Go's zero time.
pub(super) fn instant(text: Option<&str>) -> Timestamp {
    text.and_then(|text| Timestamp::parse(text).ok()).unwrap_or_default()
}

/// What a new image consists of.
#[derive(Debug)]
pub struct NewDocument<'a> {
    /// Defaults of containers.
    pub config: &'a ImageConfig,
    /// `amd64`.
    pub architecture: &'a str,
    /// `v8`, or empty.
    pub variant: &'a str,
    /// `linux`.
    pub os: &'a str,
    /// Now.
    pub created: Timestamp,
    /// Comment.
    pub comment: &'a str,
    /// Who made it.
    pub author: &'a str,
    /// The command whose work it is.
    pub created_by: &'a str,
    /// Layers.
    pub layers: &'a [Digest],
    /// The image that it was made of, if that was one.
    pub base: Option<&'a Document>,
    /// The container that it was made of, if it was one, and what ran there.
    pub container: Option<(&'a str, &'a ContainerConfig)>,
}

impl NewDocument<'_> {
    /// The JSON of the configuration, as an OCI image has it: what is not set is left out.
    ///
    /// # Errors
    /// Never in practice: all keys are strings.
    pub fn to_json(&self) -> Result<Vec<u8>, serde_json::Error> {
        let mut config = serde_json::to_value(self.config)?;
        if let Value::Object(fields) = &mut config {
            fields.retain(|_, value| !is_empty(value));
        }
        let created = self.created.to_string();
        let history = self.history(&created);
        let rootfs = RootFs { kind: "layers".to_owned(), diff_ids: self.layers.to_vec() };
        let mut document = Map::new();
        let mut put = |key: &str, value: Value| {
            if !is_empty(&value) {
                document.insert(key.to_owned(), value);
            }
        };
        put("architecture", self.architecture.into());
        put("author", self.author.into());
        put("comment", self.comment.into());
        put("created", created.into());
        put("os", self.os.into());
        put("variant", self.variant.into());
        if let Some((id, config)) = self.container {
            put("container", id.into());
            put("container_config", serde_json::to_value(config)?);
        }
        put("history", serde_json::to_value(history)?);
        put("rootfs", serde_json::to_value(rootfs)?);
        document.insert("config".to_owned(), config);
        serde_json::to_vec(&Value::Object(document))
    }

    /// The base's steps and one more.
    fn history(&self, created: &str) -> Vec<HistoryEntry> {
        let mut history = self.base.map(|base| base.history.clone()).unwrap_or_default();
        let told = |history: &[HistoryEntry]| history.iter().filter(|step| !step.empty_layer).count();
        let below = self.base.map_or(0, |base| base.layers().len());
        // An image that does not tell how its layers came.
        history.resize(history.len() + below.saturating_sub(told(&history)), HistoryEntry::default());
        history.push(HistoryEntry {
            created: Some(created.to_owned()),
            author: self.author.to_owned(),
            created_by: self.created_by.to_owned(),
            comment: self.comment.to_owned(),
            empty_layer: self.layers.len() == below,
        });
        history
    }
}

fn is_empty(value: &Value) -> bool {
    matches!(value, Value::Null) || value.as_str() == Some("")
}

/// This machine's architecture in Go's words.
pub fn host_architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        "x86" => "386",
        "powerpc64" => "ppc64le",
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        let config = ImageConfig { cmd: Some(vec!["sh".to_owned()]), ..ImageConfig::default() };
        let layers = [Digest::of(b"1"), Digest::of(b"2")];
        let made_in = ContainerConfig { tty: true, ..ContainerConfig::default() };
        let json = NewDocument {
            config: &config,
            architecture: "amd64",
            variant: "",
            os: "linux",
            created: Timestamp(1_500_000_000_120_000_000),
            comment: "Imported from -",
            author: "",
            created_by: "",
            layers: &layers,
            base: None,
            container: Some(("c1", &made_in)),
        }
        .to_json()
        .unwrap();
        let text = String::from_utf8(json.clone()).unwrap();
        assert!(text.contains(r#""config":{"Cmd":["sh"]}"#), "{text}");
        let document = Document::parse(&json).unwrap();
        assert_eq!(document.config, config);
        assert_eq!(document.layers(), layers);
        assert_eq!((document.container.as_str(), &document.container_config), ("c1", &made_in));
        assert_eq!(document.created(), Timestamp(1_500_000_000_120_000_000));
    }

    #[test]
    fn null_is_nothing() {
        let text =
            r#"{"os":"linux","config":null,"history":null,"created":null,"rootfs":{"type":"layers","diff_ids":null}}"#;
        let document = Document::parse(text.as_bytes()).unwrap();
        assert!(document.layers().is_empty());
        assert_eq!(document.created(), Timestamp::ZERO);
        let text = r#"{"config":{"Env":null,"Volumes":null,"Labels":null,"Healthcheck":null,"User":null},
            "created":"0001-01-01T00:00:00Z","rootfs":{"type":"layers"}}"#;
        assert_eq!(Document::parse(text.as_bytes()).unwrap().config, ImageConfig::default());
    }

    #[test]
    fn other_documents_are_refused() {
        for (text, message) in [
            ("[]", "invalid image JSON"),
            ("{}", "no RootFS key"),
            (r#"{"rootfs":{"type":"zip"}}"#, "\"zip\" is not supported"),
            (r#"{"rootfs":{"type":"layers"},"layers":[]}"#, "manifest"),
            (r#"{"rootfs":{"type":"layers"},"manifests":[]}"#, "manifest"),
            (r#"{"rootfs":{"type":"layers"},"os":"windows"}"#, "windows"),
            (r#"{"rootfs":{"type":"layers","diff_ids":["../../x"]}}"#, "invalid image JSON"),
        ] {
            let error = Document::parse(text.as_bytes()).unwrap_err();
            assert!(error.to_string().contains(message), "{text}: {error}");
        }
    }
}
