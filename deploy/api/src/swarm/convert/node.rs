//! Nodes.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use shoal_proto::object::{Node, NodeDescription};
use shoal_proto::spec::{Availability, NodeRole, NodeSpec};

use super::task::amount_json;
use crate::error::ApiError;
use crate::swarm::model;

/// What an operator wants of a node.
pub(crate) fn node_spec(spec: model::NodeSpec) -> Result<NodeSpec, ApiError> {
    Ok(NodeSpec {
        name: spec.name,
        labels: spec.labels,
        role: match spec.role.to_ascii_lowercase().as_str() {
            "worker" => NodeRole::Worker,
            "manager" => NodeRole::Manager,
            other => return Err(ApiError::invalid(format!("invalid Role: {other:?}"))),
        },
        availability: match spec.availability.as_str() {
            "" => return Err(ApiError::invalid("invalid Availability: \"\"")),
            given => availability(given)?,
        },
    })
}

/// An availability; the empty text is `active`.
pub(super) fn availability(text: &str) -> Result<Availability, ApiError> {
    match text.to_ascii_lowercase().as_str() {
        "" | "active" => Ok(Availability::Active),
        "pause" => Ok(Availability::Pause),
        "drain" => Ok(Availability::Drain),
        other => Err(ApiError::invalid(format!("invalid Availability: {other:?}"))),
    }
}

/// A node as the API shows it. `manager` is the state of its manager; `None` for workers.
pub(crate) fn node(node: &Node, manager: Option<model::ManagerStatus>) -> model::Node {
    let status = &node.status;
    model::Node {
        id: node.id.to_string(),
        meta: (&node.meta).into(),
        spec: model::NodeSpec {
            name: node.spec.name.clone(),
            labels: node.spec.labels.clone(),
            role: node.spec.role.as_str().to_owned(),
            availability: node.spec.availability.as_str().to_owned(),
        },
        description: node.description.as_ref().map(description).unwrap_or_default(),
        status: model::NodeStatus {
            state: status.state.as_str().to_owned(),
            message: status.message.clone(),
            addr: status.addr.map(|addr| addr.to_string()).unwrap_or_default(),
        },
        manager_status: manager,
    }
}

fn description(description: &NodeDescription) -> model::NodeDescription {
    let plugins =
        description.plugins.iter().map(|(kind, name)| model::Plugin { kind: kind.clone(), name: name.clone() });
    model::NodeDescription {
        hostname: description.hostname.clone(),
        platform: model::Platform {
            architecture: description.platform.architecture.clone(),
            os: description.platform.os.clone(),
        },
        resources: amount_json(&description.resources),
        engine: model::EngineDescription {
            engine_version: description.engine_version.clone(),
            labels: description.engine_labels.clone(),
            plugins: plugins.collect(),
        },
        tls_info: model::TlsInfo {
            trust_root: description.trust_root_pem.clone(),
            cert_issuer_subject: STANDARD.encode(&description.issuer_subject),
            cert_issuer_public_key: STANDARD.encode(&description.issuer_public_key),
        },
    }
}
