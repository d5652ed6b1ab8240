//! The cluster's part of the API.

use serde_json::{Value, json};

use crate::context::Context;
use crate::node::LocalNodeStatus;

pub(crate) mod convert;
pub(crate) mod model;

#[cfg(test)]
mod convert_tests;

/// The `Swarm` block of `info`.
pub(crate) async fn info(context: &Context) -> Value {
    let status = context.node.status().await;
    info_of(&status)
}

fn info_of(status: &LocalNodeStatus) -> Value {
    let remote: Vec<Value> = status
        .remote_managers
        .iter()
        .map(|manager| {
            json!({
                "NodeID": manager.node_id.map(|id| id.to_string()).unwrap_or_default(),
                "Addr": manager.addr,
            })
        })
        .collect();
    json!({
        "NodeID": status.node_id.map(|id| id.to_string()).unwrap_or_default(),
        "NodeAddr": status.node_addr.map(|addr| addr.to_string()).unwrap_or_default(),
        "LocalNodeState": status.state.as_str(),
        "ControlAvailable": status.control_available,
        "Error": status.error,
        "RemoteManagers": if remote.is_empty() { Value::Null } else { Value::Array(remote) },
    })
}
