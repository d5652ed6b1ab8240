//! The same daemon, asked in versions of the API of several ages.

use anyhow::{Context, ensure};
use serde_json::Value;
use shoal_tests::image::NAME;
use shoal_tests::lab::live;
use shoal_tests::wait::until;

use super::Daemon;

/// The newest version that the old dockerd speaks.
const OF_DOCKERD: u32 = 41;

/// Words for what is there: something, a number of bytes, the beginning of an id.
const ANY: &str = "ANY";
const SIZE: &str = "SIZE";
const SHORT: &str = "SHORT";
/// The list with the one network, as a query has it.
const NETWORKS: &str = "/networks?filters=%7B%22name%22%3A%5B%22aged%22%5D%7D";
const DEPRECATED: &str = "The container-wide MacAddress field is now deprecated";

/// Containers: name, minor version, members of the body, and what is said.
const MADE: &[(&str, u32, &str, &str)] = &[
    ("v24", 24, r#""HostConfig":{"AutoRemove":true}"#, ""),
    ("v39", 39, r#""HostConfig":{"PidsLimit":-1}"#, ""),
    ("v41", 41, r#""MacAddress":"02:42:ac:99:00:01","HostConfig":{"NetworkMode":"aged"}"#, r#""Warnings":[]"#),
    ("v43", 43, r#""MacAddress":"02:42:ac:99:00:02","HostConfig":{"NetworkMode":"aged"}"#, r#""Warnings":[]"#),
    ("v44", 44, r#""MacAddress":"02:42:ac:99:00:03","HostConfig":{"NetworkMode":"aged"}"#, DEPRECATED),
];

/// What is refused with 400: minor version, members of the body, and what is said.
const REFUSED: &[(u32, &str, &str)] = &[
    (41, r#""NetworkingConfig":{"EndpointsConfig":{"aged":{},"bridge":{}}}"#, "aged, bridge"),
    (42, r#""HostConfig":{"Mounts":[{"Type":"bind","TmpfsOptions":{}}]}"#, "TmpfsOptions must not be specified"),
    (47, r#""HostConfig":{"Mounts":[{"Type":"image","Source":"x","Target":"/x"}]}"#, "needs API v1.48 or newer"),
];

/// What is seen: minor version, path, where in the answer, and what is there; `None` is nothing.
const SEEN: &[(u32, &str, &str, Option<&str>)] = &[
    // Defaults that were others once.
    (41, "/containers/v24/json", "/HostConfig/AutoRemove", Some("false")),
    (41, "/containers/v39/json", "/HostConfig/IpcMode", Some(r#""shareable""#)),
    (41, "/containers/v39/json", "/HostConfig/PidsLimit", Some("null")),
    (41, "/containers/v41/json", "/HostConfig/IpcMode", Some(r#""private""#)),
    // A hardware address of the container, and of its place on a network.
    (41, "/containers/v41/json", "/Config/MacAddress", Some(r#""02:42:ac:99:00:01""#)),
    (41, "/containers/v41/json", "/NetworkSettings/Networks/aged/MacAddress", Some(r#""02:42:ac:99:00:01""#)),
    (51, "/containers/v43/json", "/NetworkSettings/Networks/aged/MacAddress", Some(r#""02:42:ac:99:00:02""#)),
    (51, "/containers/v44/json", "/Config/MacAddress", Some(r#""02:42:ac:99:00:03""#)),
    (51, "/containers/v44/json", "/NetworkSettings/Networks/aged/MacAddress", Some(r#""02:42:ac:99:00:03""#)),
    // Names of a container on a network were aliases; now they are names.
    (41, "/containers/v41/json", "/NetworkSettings/Networks/aged/Aliases/1", None),
    (41, "/containers/v41/json", "/NetworkSettings/Networks/aged/Aliases/0", Some(SHORT)),
    (51, "/containers/v41/json", "/NetworkSettings/Networks/aged/Aliases", Some("null")),
    (41, "/networks/", "/0/Driver", Some(ANY)),
    // The list of networks was with their containers.
    (27, NETWORKS, "/0/Containers/ID/Name", Some(ANY)),
    (28, NETWORKS, "/0/Containers", Some("{}")),
    (41, "/networks/aged", "/Containers/ID/Name", Some(ANY)),
    // Images.
    (41, "/images/IMAGE/json", "/VirtualSize", Some(SIZE)),
    (44, "/images/IMAGE/json", "/VirtualSize", None),
    (41, "/images/IMAGE/json", "/ContainerConfig/Tty", Some("false")),
    (45, "/images/IMAGE/json", "/ContainerConfig", None),
    (41, "/images/IMAGE/json", "/Config/AttachStdin", Some("false")),
    (50, "/images/IMAGE/json", "/Config/AttachStdin", None),
    (41, "/images/json", "/0/VirtualSize", Some(SIZE)),
    (44, "/images/json", "/0/VirtualSize", None),
    // Of one platform: `{"os":"plan9"}` is another one, and of old nobody was asked for it.
    (49, "/images/IMAGE/json?platform=%7B%22os%22%3A%22plan9%22%7D", "/message", Some(ANY)),
    (49, "/images/IMAGE/json?platform=%7B%22os%22%3A%22linux%22%7D", "/Os", Some(r#""linux""#)),
    (48, "/images/IMAGE/json?platform=%7B%22os%22%3A%22plan9%22%7D", "/Os", Some(r#""linux""#)),
    (48, "/images/IMAGE/history?platform=%7B%22os%22%3A%22plan9%22%7D", "/message", Some(ANY)),
    (41, "/images/json", "/0/Containers", Some("-1")),
    (51, "/images/json", "/0/Containers", Some("5")),
    // The daemon.
    (24, "/info", "/ExecutionDriver", Some(r#""<not supported>""#)),
    (24, "/info", "/SecurityOptions/0", Some(r#""seccomp""#)),
    (25, "/info", "/ExecutionDriver", None),
    (41, "/info", "/ContainerdCommit/Expected", Some(ANY)),
    (49, "/info", "/ContainerdCommit/Expected", None),
    (49, "/info", "/BridgeNfIptables", Some("false")),
    (50, "/info", "/BridgeNfIptables", None),
    (49, "/info", "/FirewallBackend/Driver", Some(r#""nftables""#)),
    (41, "/system/df", "/BuilderSize", Some("0")),
    (42, "/system/df", "/BuilderSize", None),
    (41, "/system/df?type=container", "/Images/0/VirtualSize", Some(SIZE)),
    (42, "/system/df?type=container", "/Images", Some("null")),
    (44, "/system/df", "/Images/0/VirtualSize", None),
    (42, "/system/df?type=bogus", "/message", Some(r#""unknown object type: bogus""#)),
    // Without it a stream of old has two samples, so that there is one before.
    (41, "/containers/v41/stats?stream=false&one-shot=true", "/precpu_stats/system_cpu_usage", None),
    (40, "/containers/v41/stats?stream=false&one-shot=true", "/precpu_stats/system_cpu_usage", Some(ANY)),
];

/// The answers, told apart: is that what is to be there?
fn is(wanted: Option<&str>, found: Option<&Value>, id: &str) -> anyhow::Result<bool> {
    Ok(match wanted {
        None => found.is_none(),
        Some(ANY) => found.is_some_and(|found| !found.is_null()),
        Some(SIZE) => found.and_then(Value::as_i64).is_some_and(|size| size > 0),
        Some(SHORT) => found.and_then(Value::as_str) == id.get(..12),
        Some(json) => found == Some(&serde_json::from_str(json)?),
    })
}

#[test]
fn each_version_has_its_own_answers() -> anyhow::Result<()> {
    if !live() {
        return Ok(());
    }
    let daemon = Daemon::up("versions")?;
    let speaks = |minor: u32| !daemon.is_dockerd || minor <= OF_DOCKERD;
    daemon.ok("network create aged")?;
    for (name, minor, members, warning) in MADE.iter().filter(|(_, minor, ..)| speaks(*minor)) {
        let body = format!(r#"{{"Image":"{NAME}","Cmd":["sleep","1000"],{members}}}"#);
        let path = format!("/containers/create?name={name}");
        let (status, text) = daemon.api_of(*minor, "POST", &path, body.as_bytes())?;
        ensure!(status == 201 && text.contains(warning), "{name}: {status} {text}");
        daemon.ok(&format!("start {name}"))?;
    }
    let id = daemon.ok("inspect v41 --format {{.Id}}")?;
    for (minor, path, place, wanted) in SEEN.iter().filter(|(minor, ..)| speaks(*minor)) {
        let (_, text) = daemon.api_of(*minor, "GET", &path.replace("IMAGE", NAME), b"")?;
        // Ids of answers are shown as this word.
        let answer: Value = serde_json::from_str(&text).with_context(|| format!("{path}: {text}"))?;
        let found = answer.pointer(place);
        ensure!(is(*wanted, found, &id)?, "1.{minor} {path} {place}: {found:?} instead of {wanted:?} in {text}");
    }
    for (minor, body, says) in REFUSED.iter().filter(|(minor, ..)| speaks(*minor)) {
        let body = format!(r#"{{"Image":"{NAME}",{body}}}"#);
        let (status, text) = daemon.api_of(*minor, "POST", "/containers/create", body.as_bytes())?;
        ensure!(status == 400 && text.contains(says), "1.{minor} {body}: {status} {text}");
    }
    prunes(&daemon)?;
    pulls(&daemon)?;
    daemon.down()
}

/// A volume with a name goes for clients of old alone; one without goes for all.
fn prunes(daemon: &Daemon) -> anyhow::Result<()> {
    daemon.ok("volume create named")?;
    if !daemon.is_dockerd {
        let (status, text) = daemon.api_of(42, "POST", "/volumes/prune", b"")?;
        ensure!(status == 200 && !text.contains("named"), "{status} {text}");
    }
    let (status, text) = daemon.api_of(41, "POST", "/volumes/prune", b"")?;
    ensure!(status == 200 && text.contains("named"), "{status} {text}");
    Ok(())
}

/// Clients read the tag from the first message of a pull, and wait for its event.
fn pulls(daemon: &Daemon) -> anyhow::Result<()> {
    if daemon.is_dockerd {
        // It asks a registry, which is not there.
        return Ok(());
    }
    let path = format!("/images/create?fromImage={}", NAME.replace(':', "&tag="));
    let (status, text) = daemon.api("POST", &path, b"")?;
    ensure!(status == 200 && text.starts_with(r#"{"status":"Pulling from library/page","id":"1"}"#), "{status} {text}");
    let (status, text) = daemon.api("POST", &format!("{path}&platform=linux/sparc"), b"")?;
    ensure!(status == 501, "the one that is here is of another platform: {status} {text}");
    // The CLI asks for what was before this second.
    until(10, "the pull is told", || {
        let told = daemon.ok("events --since 1 --until 0s --filter event=pull")?;
        ensure!(told.contains("image pull page:1 (name=page)"), "{told:?}");
        Ok(())
    })?;
    Ok(())
}
