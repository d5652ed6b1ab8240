//! Documents of archives: Docker's `manifest.json`, and index and manifest of an OCI image layout.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::digest::Digest;

/// Media types that we write.
pub(super) const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
pub(super) const INDEX: &str = "application/vnd.oci.image.index.v1+json";
pub(super) const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
pub(super) const LAYER: &str = "application/vnd.oci.image.layer.v1.tar";

/// Media types that we read beside these.
const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
const DOCKER_INDEX: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
const DOCKER_CONFIG: &str = "application/vnd.docker.container.image.v1+json";

/// Annotation with the whole name of an image.
pub(super) const IMAGE_NAME: &str = "io.containerd.image.name";

/// Annotation with a tag, or a name.
pub(super) const REF_NAME: &str = "org.opencontainers.image.ref.name";

/// Points at a blob.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Descriptor {
    pub(super) media_type: String,
    pub(super) digest: String,
    pub(super) size: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) annotations: Option<BTreeMap<String, String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) platform: Option<Platform>,
}

/// What an image is made for.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Platform {
    pub(super) architecture: String,
    pub(super) os: String,
}

/// A document that points at others.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Node {
    /// To several images.
    Index(Vec<Descriptor>),
    /// To one.
    Manifest { config: Descriptor, layers: Vec<Descriptor> },
}

/// The document is no index and no manifest.
#[derive(Debug, thiserror::Error)]
pub(super) enum NodeError {
    #[error("invalid manifest")]
    Json(#[from] serde_json::Error),
    #[error("invalid manifest: schema version {0} is not supported")]
    Version(u32),
    #[error("invalid manifest: it has the fields of both an index and a manifest")]
    Confused,
    #[error("invalid manifest: media type {actual:?} where {expected:?} was announced")]
    MediaType { expected: String, actual: String },
    #[error("invalid manifest: {0:?} is neither an index nor a manifest")]
    Kind(String),
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Raw {
    schema_version: u32,
    #[serde(default)]
    media_type: Option<String>,
    manifests: Option<Vec<Descriptor>>,
    config: Option<Descriptor>,
    layers: Option<Vec<Descriptor>>,
    fs_layers: Option<serde_json::Value>,
}

impl Node {
    /// Reads one that was announced with this media type, empty if with none. What could be read as both kinds is
    /// refused (CVE-2021-41190).
    pub(super) fn parse(bytes: &[u8], announced: &str) -> Result<Self, NodeError> {
        let raw: Raw = serde_json::from_slice(bytes)?;
        if raw.schema_version != 2 {
            return Err(NodeError::Version(raw.schema_version));
        }
        let own = raw.media_type.unwrap_or_default();
        if !own.is_empty() && !announced.is_empty() && own != announced {
            return Err(NodeError::MediaType { expected: announced.to_owned(), actual: own });
        }
        let kind = if own.is_empty() { announced.to_owned() } else { own };
        let may_be = |types: [&str; 2]| kind.is_empty() || types.contains(&kind.as_str());
        match (raw.manifests, raw.config, raw.layers) {
            (Some(_), Some(_), _) | (Some(_), _, Some(_)) => Err(NodeError::Confused),
            _ if raw.fs_layers.is_some() => Err(NodeError::Confused),
            (Some(manifests), None, None) if may_be([INDEX, DOCKER_INDEX]) => Ok(Self::Index(manifests)),
            (None, Some(config), layers) if may_be([MANIFEST, DOCKER_MANIFEST]) => {
                Ok(Self::Manifest { config, layers: layers.unwrap_or_default() })
            }
            _ => Err(NodeError::Kind(kind)),
        }
    }
}

/// Is this an image, rather than something else that is kept like one?
pub(super) fn is_image(config: &Descriptor, layers: &[Descriptor]) -> bool {
    let known_config = config.media_type.is_empty() || [CONFIG, DOCKER_CONFIG].contains(&config.media_type.as_str());
    known_config
        && layers.iter().all(|layer| {
            layer.media_type.is_empty()
                || layer.media_type.starts_with("application/vnd.oci.image.layer.")
                || layer.media_type.starts_with("application/vnd.docker.image.rootfs.")
        })
}

/// One image of a Docker archive.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(super) struct ArchiveItem {
    pub(super) config: String,
    pub(super) repo_tags: Option<Vec<String>>,
    pub(super) layers: Option<Vec<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) parent: Option<Digest>,
}

/// A manifest as we write it.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct NewManifest {
    pub(super) schema_version: u32,
    pub(super) media_type: &'static str,
    pub(super) config: Descriptor,
    pub(super) layers: Vec<Descriptor>,
}

/// An index as we write it.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct NewIndex {
    pub(super) schema_version: u32,
    pub(super) media_type: &'static str,
    pub(super) manifests: Vec<Descriptor>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn documents_are_one_thing_only() {
        let index = br#"{"schemaVersion":2,"manifests":[]}"#;
        assert_eq!(Node::parse(index, "").unwrap(), Node::Index(Vec::new()));
        assert_eq!(Node::parse(index, INDEX).unwrap(), Node::Index(Vec::new()));
        for (text, announced) in [
            (r#"{"schemaVersion":2,"manifests":[],"layers":[]}"#, ""),
            (r#"{"schemaVersion":2,"manifests":[],"config":{}}"#, ""),
            (r#"{"schemaVersion":2,"manifests":[]}"#, MANIFEST),
            (r#"{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","config":{}}"#, ""),
            (r#"{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[]}"#, MANIFEST),
            (r#"{"schemaVersion":2,"config":{},"layers":[],"fsLayers":[]}"#, ""),
            (r#"{"schemaVersion":1}"#, ""),
            (r#"{"schemaVersion":2}"#, ""),
            ("[]", ""),
        ] {
            assert!(Node::parse(text.as_bytes(), announced).is_err(), "{text}");
        }
    }
}
