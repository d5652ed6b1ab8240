//! The `Swarm` block of `info`.

use serde_json::{Value, json};
use shoal_proto::spec::NodeRole;

use super::convert;
use crate::context::Context;
use crate::node::LocalNodeStatus;

/// The `Swarm` block of `info`. It never fails: a manager without a leader shows what the node itself knows.
pub(crate) async fn info(context: &Context) -> Value {
    let status = context.node.status();
    let mut info = local(&status);
    if !status.control_available {
        return info;
    }
    if let (Some(manager), Value::Object(info)) = (context.node.manager(), &mut info) {
        let store = manager.local();
        let managers = store.nodes().filter(|node| node.spec.role == NodeRole::Manager).count();
        info.insert("Nodes".to_owned(), json!(store.nodes().len()));
        info.insert("Managers".to_owned(), json!(managers));
        if let Some(cluster) = store.cluster() {
            info.insert("Cluster".to_owned(), json!(convert::cluster_info(cluster, &store)));
        }
    }
    info
}

fn local(status: &LocalNodeStatus) -> Value {
    let remote = status.remote_managers.iter().map(|manager| {
        json!({
            "NodeID": manager.node_id.map(|id| id.to_string()).unwrap_or_default(),
            "Addr": manager.addr,
        })
    });
    let remote: Vec<Value> = remote.collect();
    json!({
        "NodeID": status.node_id.map(|id| id.to_string()).unwrap_or_default(),
        "NodeAddr": status.node_addr.map(|addr| addr.to_string()).unwrap_or_default(),
        "LocalNodeState": status.state.as_str(),
        "ControlAvailable": status.control_available,
        "Error": status.error,
        "RemoteManagers": if remote.is_empty() { Value::Null } else { Value::Array(remote) },
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::node::LocalNodeState;

    #[test]
    fn a_standalone_node_is_inactive() {
        let info = local(&LocalNodeStatus::default());
        assert_eq!(info["LocalNodeState"], "inactive");
        assert_eq!(info["RemoteManagers"], Value::Null);
        let locked = LocalNodeStatus { state: LocalNodeState::Locked, ..LocalNodeStatus::default() };
        assert_eq!(local(&locked)["LocalNodeState"], "locked");
    }
}
