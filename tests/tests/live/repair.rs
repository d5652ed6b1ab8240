//! What somebody else breaks on a node is put right again.

use anyhow::ensure;
use shoal_tests::lab::{Lab, live};
use shoal_tests::wait::until;

use crate::service::{PAGE, converged, fetch, node_address};

#[test]
fn flushed_tables_come_back() -> anyhow::Result<()> {
    if !live() {
        return Ok(());
    }
    let lab = Lab::up("flush", 1, 2)?;
    let hosts = ["m1", "w1", "w2"];
    lab.load_image(&hosts)?;
    lab.ok("m1", "network create -d overlay app")?;
    lab.service("m1", "web", "--replicas 2 -p 8080:80 --network app", &["sh", "-c", PAGE])?;
    lab.service("m1", "client", "--mode global --network app", &["sleep", "1000"])?;
    converged(&lab, "m1", "web", "2/2")?;
    converged(&lab, "m1", "client", "3/3")?;
    let url = format!("http://{}:8080/", node_address(&lab, "w1")?);
    let client = lab.ok("w1", "ps -q --filter label=com.docker.swarm.service.name=client")?;
    let pid = lab.ok("w1", &format!("inspect --format {{{{.State.Pid}}}} {client}"))?;
    let through_mesh = || fetch(&lab, "m1", &url).map(drop);
    let inside = || {
        let get = "timeout 2 wget -q -O - http://web/";
        lab.docker("w1", &["exec", &client, "sh", "-c", get])?.ok().map(drop)
    };
    until(10, "the page through the mesh", through_mesh)?;
    until(10, "the page through the virtual address", inside)?;

    // The node's own rules.
    lab.on("w1", &["nft", "flush", "ruleset"])?.ok()?;
    let took = until(10, "the mesh after a flush on the node", || {
        ensure!(!lab.on("w1", &["nft", "list", "ruleset"])?.ok()?.is_empty(), "no rule yet");
        through_mesh()
    })?;
    eprintln!("rules of the node were back after {took:?}");

    // Those in a container's network namespace.
    let in_sandbox = |words: &[&str]| {
        let mut all = vec!["nsenter", "-t", pid.as_str(), "-n", "nft"];
        all.extend(words);
        lab.on("w1", &all)?.ok()
    };
    in_sandbox(&["flush", "ruleset"])?;
    let took = until(10, "the virtual address after a flush in the container", || {
        ensure!(!in_sandbox(&["list", "ruleset"])?.is_empty(), "no rule yet");
        inside()
    })?;
    eprintln!("rules of the container were back after {took:?}");
    lab.down()
}
