//! Links: names, and on the default bridge variables, by which one container finds another.
//!
//! ## Design notes
//! On networks with names a link is one more name that only this container knows, looked up when it is asked for. The default
//! bridge has no names: there a link is a line of the hosts file, written anew when the other container starts again, and
//! variables, which stay as they were at the start. As dockerd's.

use std::collections::BTreeMap;
use std::sync::Arc;

use shoal_proto::error::{ErrorKind, Failure};

use super::instance::Container;
use super::record::Record;
use super::{files, ports};
use crate::engine::Inner;
use crate::model::HostConfig;

/// The network without names.
const DEFAULT: &str = "bridge";

/// A link as asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Link {
    target: String,
    alias: String,
}

/// `container[:alias]`; names may have their slash, an alias all that `inspect` shows before it.
fn parse(text: &str) -> Result<Link, Failure> {
    let (target, alias) = text.split_once(':').unwrap_or((text, text));
    let (target, alias) = (target.trim_start_matches('/'), alias.rsplit('/').next().unwrap_or_default());
    if target.is_empty() || alias.is_empty() || alias.contains(':') {
        return Err(Failure::invalid(format!("bad format for links: {text}")));
    }
    Ok(Link { target: target.to_owned(), alias: alias.to_owned() })
}

fn parse_all(list: Option<&Vec<String>>) -> Result<Vec<Link>, Failure> {
    list.into_iter().flatten().map(|text| parse(text)).collect()
}

fn is_default(mode: &str) -> bool {
    matches!(mode, "" | "default" | DEFAULT)
}

/// Checks the links of a new container.
pub(super) fn check(inner: &Inner, host: &HostConfig) -> Result<(), Failure> {
    let links = parse_all(host.links.as_ref())?;
    if links.is_empty() {
        return Ok(());
    }
    let conflict = |what: &str| {
        let text =
            format!("conflicting options: {what} can't be used with links. This would result in undefined behavior");
        Err(Failure::invalid(text))
    };
    match host.network_mode.as_str() {
        "host" => return conflict("host type networking"),
        "none" => return conflict("no networking"),
        mode if mode.starts_with("container:") => return conflict("container type network"),
        _ => {}
    }
    for link in links {
        inner.containers.find(&link.target).map_err(|failure| {
            super::create::of_request(Failure {
                message: format!("could not get container for {}: {}", link.target, failure.message),
                ..failure
            })
        })?;
    }
    Ok(())
}

/// Checks the links of an endpoint.
pub(super) fn check_endpoint(links: Option<&Vec<String>>) -> Result<(), Failure> {
    parse_all(links).map(|_| ())
}

/// The names that only this container has for others, on networks with names.
pub(super) fn names(record: &Record) -> BTreeMap<String, String> {
    let of_host =
        (!is_default(&record.host_config.network_mode)).then_some(record.host_config.links.as_ref()).flatten();
    let of_endpoints = record.networks.iter().filter(|(name, _)| *name != DEFAULT).map(|(_, one)| one.links.as_ref());
    // Checked when they came.
    let all = std::iter::once(of_host).chain(of_endpoints).flat_map(|list| parse_all(list).unwrap_or_default());
    all.map(|link| (link.alias.to_ascii_lowercase(), link.target.to_ascii_lowercase())).collect()
}

/// Removes a link of a container on the default bridge: `container/alias`. What its process has of it in its environment stays.
///
/// # Errors
/// In dockerd's words, when there is none.
pub(super) async fn remove(inner: &Arc<Inner>, name: &str) -> Result<(), Failure> {
    let missing = || Failure::not_found(format!("No such container: {name}"));
    let Some((parent, alias)) = name.trim_start_matches('/').rsplit_once('/') else {
        inner.containers.find(name)?;
        let text = "Conflict, cannot remove the default link name of the container";
        return Err(Failure::new(ErrorKind::Internal, text));
    };
    let parent = inner.containers.find(parent).map_err(|_| missing())?;
    let _turn = parent.operation.lock().await;
    {
        let mut record = parent.record();
        let host = &mut record.host_config;
        let links = host.links.as_mut().filter(|_| is_default(&host.network_mode)).ok_or_else(missing)?;
        let before = links.len();
        links.retain(|text| !parse(text).is_ok_and(|link| link.alias == alias));
        if links.len() == before {
            return Err(missing());
        }
        if links.is_empty() {
            host.links = None;
        }
    }
    parent.store().await;
    if parent.phase().has_process() {
        files::rewrite_hosts(inner, &parent);
    }
    Ok(())
}

/// A container that another is linked to on the default bridge.
#[derive(Debug, Clone)]
struct Linked {
    alias: String,
    address: String,
    record: Record,
}

/// Those of a container that is about to start, or runs.
fn linked(inner: &Inner, record: &Record) -> Result<Vec<Linked>, Failure> {
    if !is_default(&record.host_config.network_mode) {
        return Ok(Vec::new());
    }
    let find = |link: Link| {
        let other = inner.containers.find(&link.target)?.record().clone();
        let address = other.networks.get(DEFAULT).map(|endpoint| endpoint.ip_address.clone()).unwrap_or_default();
        if !other.state.phase.has_process() || address.is_empty() {
            return Err(Failure::conflict(format!(
                "Cannot link to a non running container: /{} AS /{}/{}",
                other.name, record.name, link.alias
            )));
        }
        Ok(Linked { alias: link.alias, address, record: other })
    };
    parse_all(record.host_config.links.as_ref())?.into_iter().map(find).collect()
}

/// Variables about the linked containers.
pub(super) fn environment(inner: &Inner, record: &Record) -> Result<Vec<String>, Failure> {
    Ok(linked(inner, record)?.iter().flat_map(|linked| variables(&record.name, linked)).collect())
}

fn variables(own: &str, linked: &Linked) -> Vec<String> {
    let (alias, address) = (linked.alias.replace('-', "_").to_ascii_uppercase(), &linked.address);
    let exposed =
        linked.record.config.exposed_ports.iter().flatten().filter_map(|(port, _)| ports::parse_port(port).ok());
    let mut exposed: Vec<(u16, &str)> = exposed
        .flat_map(|(first, last, protocol)| (first..=last).map(move |port| (port, ports::protocol_name(protocol))))
        .collect();
    // TCP first among equals, as dockerd sorts them.
    exposed.sort_unstable();
    let mut all = Vec::new();
    if let Some((port, protocol)) = exposed.first() {
        all.push(format!("{alias}_PORT={protocol}://{address}:{port}"));
    }
    for ((first, protocol), (last, of_last)) in runs(&exposed) {
        let prefix = format!("{alias}_PORT_{first}");
        let (name, end) = (protocol.to_ascii_uppercase(), of_last.to_ascii_uppercase());
        all.push(format!("{prefix}_{name}_START={protocol}://{address}:{first}"));
        all.push(format!("{prefix}_{name}_PORT_START={first}"));
        all.push(format!("{prefix}_{end}_END={of_last}://{address}:{last}"));
        all.push(format!("{prefix}_{end}_PORT_END={last}"));
    }
    for (port, protocol) in &exposed {
        let name = format!("{alias}_PORT_{port}_{}", protocol.to_ascii_uppercase());
        all.push(format!("{name}={protocol}://{address}:{port}"));
        all.push(format!("{name}_ADDR={address}"));
        all.push(format!("{name}_PORT={port}"));
        all.push(format!("{name}_PROTO={protocol}"));
    }
    all.push(format!("{alias}_NAME=/{own}/{}", linked.alias));
    let theirs = linked.record.config.env.iter().flatten().filter(|entry| entry.contains('='));
    let private = |entry: &&String| entry.starts_with("HOME=") || entry.starts_with("PATH=");
    all.extend(theirs.filter(|entry| !private(entry)).map(|entry| format!("{alias}_ENV_{entry}")));
    all
}

/// A port and its protocol.
type ExposedPort<'a> = (u16, &'a str);

/// First and last of three ports or more that follow each other, as dockerd finds them: of a number that is there for two
/// protocols both count, and the sum is what must not have a gap.
fn runs<'a>(exposed: &[ExposedPort<'a>]) -> Vec<(ExposedPort<'a>, ExposedPort<'a>)> {
    let mut found = Vec::new();
    let mut start = 0;
    while let Some(first) = exposed.get(start) {
        let follows = |(step, (port, _)): &(usize, &(u16, &str))| usize::from(*port) <= usize::from(first.0) + step;
        let length = exposed[start..].iter().enumerate().take_while(follows).count();
        match exposed.get(start + length - 1) {
            Some(last) if length > 2 => {
                found.push((*first, *last));
                start += length;
            }
            _ => start += 1,
        }
    }
    found
}

/// Entries of the hosts file, `names:address`. Who does not run has none.
pub(super) fn hosts(inner: &Inner, record: &Record) -> Vec<String> {
    let Ok(links) = parse_all(record.host_config.links.as_ref()) else { return Vec::new() };
    let one = |link: Link| {
        let alone =
            HostConfig { links: Some(vec![format!("{}:{}", link.target, link.alias)]), ..record.host_config.clone() };
        linked(inner, &Record { host_config: alone, ..record.clone() }).ok()?.pop()
    };
    let entry = |linked: Linked| {
        let mut names = vec![linked.alias, linked.record.config.hostname, linked.record.name];
        names.dedup();
        names.retain(|name| !name.is_empty());
        format!("{}:{}", names.join(" "), linked.address)
    };
    links.into_iter().filter_map(one).map(entry).collect()
}

/// A container has started: those that are linked to it find it where it is now.
pub(super) fn tell_dependents(inner: &Arc<Inner>, container: &Arc<Container>) {
    for other in inner.containers.all() {
        let links = {
            let record = other.record();
            if record.state.phase.has_process() { record.host_config.links.clone() } else { None }
        };
        let leads_here = |link: &Link| inner.containers.find(&link.target).is_ok_and(|found| found.id == container.id);
        let depends = parse_all(links.as_ref()).unwrap_or_default().iter().any(leads_here);
        if depends && other.id != container.id {
            files::rewrite_hosts(inner, &other);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::record::tests::record;
    use super::*;
    use crate::model::EndpointSettings;

    #[test]
    fn links_are_read() {
        let link = |target: &str, alias: &str| Link { target: target.to_owned(), alias: alias.to_owned() };
        assert_eq!(parse("db").unwrap(), link("db", "db"));
        assert_eq!(parse("/db:/web/store").unwrap(), link("db", "store"));
        for text in ["", ":x", "db:", "a:b:c"] {
            assert!(parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn networks_with_names_have_aliases_of_ones_own() {
        let mut subject = record(&"1".repeat(64), "web");
        subject.host_config.links = Some(vec!["db:store".to_owned()]);
        assert!(names(&subject).is_empty(), "the default bridge has no names");
        subject.host_config.network_mode = "lan".to_owned();
        let settings = EndpointSettings { links: Some(vec!["Cache:fast".to_owned()]), ..EndpointSettings::default() };
        subject.networks.insert("lan".to_owned(), settings);
        let found: Vec<_> = names(&subject).into_iter().collect();
        let expected = [("fast", "cache"), ("store", "db")];
        assert_eq!(found, expected.map(|(alias, target)| (alias.to_owned(), target.to_owned())));
    }

    #[test]
    fn ports_that_follow_each_other_have_a_start_and_an_end() {
        let mut other = record(&"2".repeat(64), "db");
        let ports = ["100-103/tcp", "100/udp", "200/tcp", "201/tcp"];
        other.config.exposed_ports = Some(ports.map(|port| (port.to_owned(), Default::default())).into());
        let linked = Linked { alias: "db".to_owned(), address: "172.17.0.2".to_owned(), record: other };
        let all = variables("web", &linked);
        let of_runs: Vec<_> = all.iter().filter(|text| text.contains("START=") || text.contains("END=")).collect();
        assert_eq!(
            of_runs,
            [
                "DB_PORT_100_TCP_START=tcp://172.17.0.2:100",
                "DB_PORT_100_TCP_PORT_START=100",
                "DB_PORT_100_TCP_END=tcp://172.17.0.2:103",
                "DB_PORT_100_TCP_PORT_END=103",
            ]
        );
        assert_eq!(all.iter().filter(|text| text.contains("_PROTO=")).count(), 7, "{all:?}");
    }

    #[test]
    fn variables_are_dockerds() {
        let mut other = record(&"2".repeat(64), "db");
        other.config.exposed_ports = Some([("5432/tcp".to_owned(), Default::default())].into());
        other.config.env = Some(vec!["PATH=/bin".to_owned(), "USER=me".to_owned()]);
        let linked = Linked { alias: "my-db".to_owned(), address: "172.17.0.2".to_owned(), record: other };
        assert_eq!(
            variables("web", &linked),
            [
                "MY_DB_PORT=tcp://172.17.0.2:5432",
                "MY_DB_PORT_5432_TCP=tcp://172.17.0.2:5432",
                "MY_DB_PORT_5432_TCP_ADDR=172.17.0.2",
                "MY_DB_PORT_5432_TCP_PORT=5432",
                "MY_DB_PORT_5432_TCP_PROTO=tcp",
                "MY_DB_NAME=/web/my-db",
                "MY_DB_ENV_USER=me",
            ]
        );
    }
}
