//! Joins the hosts of a lab to one cluster, over their HTTP APIs.

use std::time::Duration;

use anyhow::Context as _;
use serde_json::{Value, json};
use tokio::time::Instant;

use super::daemon::client;
use super::layout::{Host, Lab, Role};
use crate::cli::client::Client;
use crate::cli::exit::fail;
use crate::cli::look::Look as _;
use crate::cli::output;

const POLL: Duration = Duration::from_millis(50);
const READY_DEADLINE: Duration = Duration::from_secs(60);

/// The cluster's port on every manager.
pub(super) const PORT: u16 = 2377;

/// Makes the cluster on the first manager and joins all others, except those that are in it already.
pub(super) async fn ensure(lab: &Lab) -> anyhow::Result<()> {
    let managers: Vec<&Host> = lab.hosts.iter().filter(|host| host.role == Role::Manager).collect();
    let Some(first) = managers.first() else {
        return Err(fail(1, "a cluster needs a manager: give --managers 1 or more, or --no-cluster"));
    };
    let api = client(lab, first);
    if state(&api).await? == "inactive" {
        let address = first.address.to_string();
        let body = json!({"ListenAddr": format!("0.0.0.0:{PORT}"), "AdvertiseAddr": address, "DataPathAddr": address, "Availability": "active", "Spec": {}});
        api.post("/swarm/init").body(body).done().await.with_context(|| format!("swarm init on {}", first.name))?;
        output::line(format!("{}: cluster made", first.name))?;
    }
    let swarm = wait_for_tokens(&api).await?;
    // One manager after the other: each changes who votes.
    for host in managers.iter().skip(1) {
        join(lab, host, first, swarm.text("JoinTokens.Manager")).await?;
    }
    let workers = lab.hosts.iter().filter(|host| host.role == Role::Worker);
    futures::future::try_join_all(workers.map(|host| join(lab, host, first, swarm.text("JoinTokens.Worker")))).await?;
    wait_until_ready(lab, &api).await
}

/// `inactive`, `pending`, `active`, `error` or `locked`.
async fn state(api: &Client) -> anyhow::Result<String> {
    Ok(api.fetch("/info").await?.text("Swarm.LocalNodeState").to_owned())
}

/// The tokens are there as soon as the first manager leads.
pub(super) async fn wait_for_tokens(api: &Client) -> anyhow::Result<Value> {
    let deadline = Instant::now() + READY_DEADLINE;
    loop {
        let error = match api.fetch("/swarm").await {
            Ok(swarm) if !swarm.text("JoinTokens.Worker").is_empty() => return Ok(swarm),
            Ok(_) => "no join tokens yet".to_owned(),
            Err(error) => format!("{error:#}"),
        };
        if Instant::now() >= deadline {
            return Err(fail(1, format!("the first manager gives no join tokens: {error}")));
        }
        tokio::time::sleep(POLL).await;
    }
}

async fn join(lab: &Lab, host: &Host, first: &Host, token: &str) -> anyhow::Result<()> {
    let api = client(lab, host);
    if state(&api).await? != "inactive" {
        return Ok(());
    }
    let address = host.address.to_string();
    let body = json!({
        "ListenAddr": format!("0.0.0.0:{PORT}"), "AdvertiseAddr": address, "DataPathAddr": address,
        "RemoteAddrs": [format!("{}:{PORT}", first.address)], "JoinToken": token, "Availability": "active",
    });
    api.post("/swarm/join").body(body).done().await.with_context(|| format!("swarm join on {}", host.name))?;
    output::line(format!("{}: joined as {}", host.name, if host.role == Role::Manager { "manager" } else { "worker" }))
}

/// Waits until every host is a node that is ready, and every manager votes.
async fn wait_until_ready(lab: &Lab, api: &Client) -> anyhow::Result<()> {
    let deadline = Instant::now() + READY_DEADLINE;
    loop {
        let missing = match api.fetch("/nodes").await {
            Ok(nodes) => lab.hosts.iter().filter_map(|host| missing(host, nodes.items(""))).collect::<Vec<_>>(),
            Err(error) => vec![format!("{error:#}")],
        };
        if missing.is_empty() {
            return Ok(());
        }
        if Instant::now() >= deadline {
            return Err(fail(
                1,
                format!("the cluster is not ready after {} s: {}", READY_DEADLINE.as_secs(), missing.join("; ")),
            ));
        }
        tokio::time::sleep(POLL).await;
    }
}

/// What a host still lacks.
fn missing(host: &Host, nodes: &[Value]) -> Option<String> {
    let of_host = |node: &&Value| node.text("Description.Hostname") == host.name;
    // A host that left and joined again has an old node that is down.
    let ready = |node: &&Value| node.text("Status.State") == "ready";
    let reachable = |node: &&Value| host.role == Role::Worker || node.text("ManagerStatus.Reachability") == "reachable";
    match nodes.iter().filter(of_host).find(ready) {
        None => Some(format!("{} is not a ready node", host.name)),
        Some(node) if !reachable(&node) => Some(format!("{} is not a reachable manager", host.name)),
        Some(_) => None,
    }
}

/// The cluster's nodes as the first manager that answers sees them.
pub(super) async fn nodes(lab: &Lab) -> Vec<Value> {
    for host in lab.hosts.iter().filter(|host| host.role == Role::Manager) {
        let api = client(lab, host);
        if let Ok(Ok(nodes)) = tokio::time::timeout(Duration::from_secs(3), api.fetch("/nodes")).await {
            return nodes.items("").to_vec();
        }
    }
    Vec::new()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_is_said() {
        let host = Host { name: "m1".to_owned(), role: Role::Manager, address: std::net::Ipv4Addr::LOCALHOST };
        let node = |state: &str, reachability: &str| json!({"Description": {"Hostname": "m1"}, "Status": {"State": state}, "ManagerStatus": {"Reachability": reachability}});
        assert!(missing(&host, &[]).is_some());
        assert!(missing(&host, &[node("down", "reachable")]).is_some());
        assert!(missing(&host, &[node("ready", "unknown")]).is_some());
        assert!(missing(&host, &[node("down", ""), node("ready", "reachable")]).is_none());
    }
}
