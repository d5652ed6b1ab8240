//! Secrets and configs: the same shape.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{Driver, Labels, ObjectMeta};

#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(crate) struct Payload {
    #[serde(rename = "ID")]
    pub id: String,
    #[serde(flatten)]
    pub meta: ObjectMeta,
    pub spec: PayloadSpec,
}

#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(crate) struct PayloadSpec {
    pub name: String,
    pub labels: Labels,
    /// Base64. Secrets are never given back.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub data: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub driver: Option<Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub templating: Option<Driver>,
}
