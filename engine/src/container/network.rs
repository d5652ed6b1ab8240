//! A container's networks: from what was asked for to what it got.

mod place;

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use shoal_proto::error::{ErrorKind, Failure};

pub(crate) use place::{given_back, hold, joins_cluster, lost, rename_places};

use super::instance::Container;
use super::record::Record;
use super::teardown::Teardowns;
use super::{endpoint, links, ports};
use crate::engine::Inner;
use crate::model::{EndpointSettings, NetworkingConfig};
use crate::network::{EndpointInfo, OverlayAttachment, PortPublish, Sandbox, SandboxOptions, SandboxUser};

/// Where a container's network is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Mode {
    /// In a namespace of its own, on these networks in this order.
    Own(Vec<String>),
    /// The host's.
    Host,
    /// That of another container.
    Shared(String),
}

/// The network that a mode names: `default` is the default bridge.
pub(crate) fn network_of(mode: &str) -> &str {
    match mode {
        "" | "default" => "bridge",
        other => other,
    }
}

/// Where a container's network is.
pub(crate) fn mode(record: &Record) -> Mode {
    let mode = record.host_config.network_mode.as_str();
    if let Some(other) = mode.strip_prefix("container:") {
        return Mode::Shared(other.to_owned());
    }
    if mode == "host" {
        return Mode::Host;
    }
    let primary = network_of(mode);
    let mut networks: Vec<String> = Vec::new();
    if record.networks.contains_key(primary) {
        networks.push(primary.to_owned());
    }
    let cluster = |name: &str| record.internal.attachments.iter().any(|attachment| attachment.network_name == name);
    networks.extend(record.networks.keys().filter(|name| *name != primary && !cluster(name)).cloned());
    networks.retain(|name| !cluster(name));
    Mode::Own(networks)
}

/// The networks of a new container, by name, with what was asked for on each.
///
/// # Errors
/// When networks are asked for that the mode excludes.
pub(crate) fn initial(
    mode: &str,
    disabled: bool,
    networking: &NetworkingConfig,
    on_cluster: &[String],
) -> Result<BTreeMap<String, EndpointSettings>, Failure> {
    let mut networks = BTreeMap::new();
    if disabled || mode.starts_with("container:") {
        return Ok(networks);
    }
    let mut asked = networking.endpoints_config.clone().unwrap_or_default();
    if let Some(settings) = asked.remove("default") {
        asked.insert("bridge".to_owned(), settings);
    }
    let exclusive = matches!(mode, "host" | "none");
    if exclusive && asked.keys().any(|name| name != mode) {
        return Err(Failure::conflict("container cannot be connected to network endpoints: host or none network mode"));
    }
    for (name, settings) in asked {
        let settings = settings.ok_or_else(|| Failure::invalid(format!("no EndpointSettings for {name}")))?;
        networks.insert(name, settings);
    }
    for name in on_cluster {
        networks.entry(name.clone()).or_default();
    }
    // As in dockerd the mode says where to go when nothing else does. (A task on cluster networks gets its way out by the
    // gateway bridge, not by the default bridge.)
    if networks.is_empty() {
        networks.insert(network_of(mode).to_owned(), EndpointSettings::default());
    }
    for (name, settings) in &networks {
        endpoint::check(name, settings)?;
    }
    Ok(networks)
}

/// Name servers and names of a container's namespace.
pub(crate) fn sandbox_options(inner: &Inner, record: &Record) -> SandboxOptions {
    let (host, defaults) = (&record.host_config, &inner.options.containers);
    let or = |mine: &Option<Vec<String>>, default: &Vec<String>| {
        mine.as_ref().filter(|mine| !mine.is_empty()).unwrap_or(default).clone()
    };
    SandboxOptions {
        name: record.name.clone(),
        dns: or(&host.dns, &defaults.dns),
        dns_search: or(&host.dns_search, &defaults.dns_search),
        dns_options: or(&host.dns_options, &defaults.dns_options),
        links: links::names(record),
    }
}

/// The namespace of a container that is about to start; `None` is the host's. Made here when it is its own.
#[tracing::instrument(level = "debug", skip_all)]
pub(crate) async fn namespace(inner: &Arc<Inner>, record: &Record) -> Result<Option<Sandbox>, Failure> {
    match mode(record) {
        Mode::Host => Ok(None),
        Mode::Own(_) => {
            inner.teardowns.of(&record.id).await;
            let (options, user) = (sandbox_options(inner, record), user_namespace(inner, record)?);
            Ok(Some(inner.networks.create_sandbox(&record.id, options, user).await?))
        }
        Mode::Shared(other) => {
            let other = inner.containers.find(&other)?;
            if !other.phase().has_process() {
                return Err(Failure::conflict(format!("cannot join network of a non running container: {}", other.id)));
            }
            if mode(&other.record()) == Mode::Host {
                return Ok(None);
            }
            // Without a namespace to join there is no start: the host's would be the wrong one.
            let missing = || Failure::conflict(format!("container {} has no network namespace to join", other.id));
            let sandbox = inner.networks.sandbox(&other.id).ok_or_else(missing)?;
            if inner.id_map(&record.host_config).is_some() {
                if sandbox.user.is_none() {
                    return Err(other_user_namespace("network", &other.id));
                }
                share_users(inner, record, sandbox.user.as_deref())?;
            }
            Ok(Some(sandbox))
        }
    }
}

/// The user namespace that a container's network is to belong to. As dockerd: whoever shares processes or IPC with another
/// container is in its user namespace, too.
fn user_namespace(inner: &Arc<Inner>, record: &Record) -> Result<SandboxUser, Failure> {
    let host = &record.host_config;
    if inner.id_map(host).is_none() {
        return Ok(SandboxUser::Host);
    }
    let Some(first) = sharers(inner, record)?.into_iter().next() else { return Ok(SandboxUser::Own) };
    let user = first.user.ok_or_else(|| other_user_namespace(first.what, &first.id))?;
    share_users(inner, record, Some(&user))?;
    Ok(SandboxUser::Of(user))
}

/// A container that another shares a namespace with.
struct Sharer {
    what: &'static str,
    id: String,
    user: Option<PathBuf>,
}

/// Those that it shares something with besides the network.
fn sharers(inner: &Arc<Inner>, record: &Record) -> Result<Vec<Sharer>, Failure> {
    let host = &record.host_config;
    let modes = [(&host.pid_mode, "PID namespace"), (&host.ipc_mode, "IPC namespace")];
    let shared = modes.into_iter().filter_map(|(mode, what)| Some((mode.strip_prefix("container:")?, what)));
    let look = |(other, what): (&str, &'static str)| {
        let other = owner(inner, &inner.containers.find(other)?);
        let user = inner.networks.sandbox(&other.id).and_then(|sandbox| sandbox.user);
        Ok(Sharer { what, id: other.id.clone(), user })
    };
    shared.map(look).collect()
}

/// Are all containers that processes or IPC are shared with in this user namespace?
fn share_users(inner: &Arc<Inner>, record: &Record, user: Option<&Path>) -> Result<(), Failure> {
    match sharers(inner, record)?.iter().find(|sharer| sharer.user.as_deref() != user) {
        None => Ok(()),
        Some(Sharer { what, id, .. }) => Err(Failure::conflict(format!(
            "cannot share the {what} of container {id}: it is in another user namespace"
        ))),
    }
}

fn other_user_namespace(what: &str, id: &str) -> Failure {
    Failure::conflict(format!("cannot share the {what} of container {id}: it is in the host's user namespace"))
}

/// The container whose namespace this one uses; itself mostly.
pub(crate) fn owner(inner: &Arc<Inner>, container: &Arc<Container>) -> Arc<Container> {
    let mode = mode(&container.record());
    match mode {
        Mode::Shared(other) => inner.containers.find(&other).unwrap_or_else(|_| Arc::clone(container)),
        _ => Arc::clone(container),
    }
}

/// Puts a container's namespace on its networks and publishes its ports. What it got goes into the record.
#[tracing::instrument(level = "debug", skip_all)]
pub(crate) async fn attach(inner: &Arc<Inner>, container: &Arc<Container>) -> Result<(), Failure> {
    let record = container.record().clone();
    let Mode::Own(networks) = mode(&record) else {
        host_endpoint(inner, container);
        return Ok(());
    };
    let mut publish = ports::publish_list(&record.config, &record.host_config)?;
    let mut got = Vec::new();
    if !record.internal.attachments.is_empty() {
        let attachments: Vec<_> =
            record.internal.attachments.iter().map(|asked| overlay(asked, &record.config.hostname)).collect();
        let ports = std::mem::take(&mut publish);
        let attach = || inner.networks.attach_cluster(&record.id, attachments.clone(), ports.clone());
        got = inner.teardowns.patiently(attach).await?;
    }
    for name in networks {
        let ports = std::mem::take(&mut publish);
        if inner.networks.has_network(&name) {
            let attach = || attach_one(inner, &record, &name, ports.clone());
            got.push(inner.teardowns.patiently(attach).await?);
        } else {
            got.extend(place::join(inner, container, &name, ports).await?);
        }
    }
    for endpoint in &got {
        let id = &endpoint.network_id;
        tell(inner, "connect", id, &endpoint.network_name, &record.id);
    }
    store(container, &got);
    Ok(())
}

async fn attach_one(
    inner: &Arc<Inner>,
    record: &Record,
    name: &str,
    publish: Vec<PortPublish>,
) -> Result<EndpointInfo, Failure> {
    let settings = record.networks.get(name).cloned().unwrap_or_default();
    let mut options = endpoint::options(&settings, &[&record.id[..12]])?;
    // The container's own is that of its first network.
    if options.mac.is_none()
        && !record.config.mac_address.is_empty()
        && name == network_of(&record.host_config.network_mode)
    {
        options.mac = Some(record.config.mac_address.clone());
    }
    options.hostname.clone_from(&record.config.hostname);
    // Nothing can be published where there is no address.
    options.ports = if name == "none" { Vec::new() } else { publish };
    inner.networks.attach(&record.id, name, options).await
}

fn overlay(attachment: &crate::model::ClusterAttachment, hostname: &str) -> OverlayAttachment {
    OverlayAttachment {
        network: attachment.network,
        addr: attachment.addr,
        task: Some(attachment.task),
        service: attachment.service,
        aliases: attachment.aliases.clone(),
        hostname: hostname.to_owned(),
    }
}

/// A container on the host's network shows the network, without an address.
fn host_endpoint(inner: &Arc<Inner>, container: &Arc<Container>) {
    let Ok(network) = inner.networks.inspect_network("host") else { return };
    let mut record = container.record();
    if let Some(settings) = record.networks.get_mut("host") {
        settings.network_id = network.id;
    }
}

/// Puts what a container got into its record. The gateway bridge of tasks is not shown, as in Docker.
fn store(container: &Arc<Container>, got: &[EndpointInfo]) {
    let mut record = container.record();
    record.ports = ports::published_map(&record.config, got.iter().flat_map(|endpoint| &endpoint.ports));
    for endpoint in got {
        // The gateway bridge is not asked for.
        let plain = record.internal.attachments.is_empty() && record.places.is_empty();
        let shown = plain || record.networks.contains_key(&endpoint.network_name);
        if shown {
            fill(record.networks.entry(endpoint.network_name.clone()).or_default(), endpoint);
        }
    }
}

pub(super) fn fill(settings: &mut EndpointSettings, endpoint: &EndpointInfo) {
    let text = |address: Option<Ipv4Addr>| address.map(|address| address.to_string()).unwrap_or_default();
    settings.network_id.clone_from(&endpoint.network_id);
    settings.endpoint_id.clone_from(&endpoint.endpoint_id);
    settings.gateway = text(endpoint.gateway);
    settings.ip_address = text(endpoint.ip);
    settings.ip_prefix_len = if endpoint.ip.is_some() { endpoint.prefix_len } else { 0 };
    settings.mac_address.clone_from(&endpoint.mac);
    settings.dns_names = (!endpoint.dns_names.is_empty()).then(|| endpoint.dns_names.clone());
}

/// Takes what a container got out of its record again; what was asked for stays.
pub(crate) fn forget(record: &mut Record) {
    record.ports.clear();
    for (name, settings) in &mut record.networks {
        let asked_mac = record.asked_macs.get(name).filter(|mac| !mac.is_empty());
        *settings = EndpointSettings {
            ipam_config: settings.ipam_config.take(),
            links: settings.links.take(),
            aliases: settings.aliases.take(),
            driver_opts: settings.driver_opts.take(),
            gw_priority: settings.gw_priority,
            network_id: std::mem::take(&mut settings.network_id),
            mac_address: asked_mac.cloned().unwrap_or_default(),
            ..EndpointSettings::default()
        };
    }
}

/// Gives a container's namespace back, without waiting until it is gone.
#[tracing::instrument(level = "debug", skip_all)]
pub(crate) fn detach(inner: &Arc<Inner>, container: &Arc<Container>) {
    let (owns, networks) = {
        let record = container.record();
        let networks: Vec<_> =
            record.networks.iter().map(|(name, settings)| (settings.network_id.clone(), name.clone())).collect();
        (matches!(mode(&record), Mode::Own(_)), networks)
    };
    if owns {
        Teardowns::begin(inner, container);
        for (id, name) in networks.iter().filter(|(id, _)| !id.is_empty()) {
            tell(inner, "disconnect", id, name, &container.id);
        }
    }
    forget(&mut container.record());
}

/// Tells that a container joined or left a network.
pub(crate) fn tell(inner: &Inner, action: &str, network_id: &str, name: &str, container: &str) {
    // What is not this node's is the cluster's.
    let driver = inner.networks.inspect_network(network_id).map_or_else(|_| "overlay".to_owned(), |found| found.driver);
    let attributes = [("container", container), ("name", name), ("type", &driver)]
        .into_iter()
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .collect();
    inner.events.publish("network", action, network_id, attributes);
}

/// Joins one network more: at once when the container runs, else at its next start.
pub(crate) async fn connect(
    inner: &Arc<Inner>,
    container: &Arc<Container>,
    network: &str,
    settings: EndpointSettings,
) -> Result<(), Failure> {
    let _turn = container.operation.lock().await;
    check_mode(&mode(&container.record()))?;
    let found = match inner.networks.inspect_network(network) {
        Ok(found) => found,
        Err(failure) if failure.kind == ErrorKind::NotFound && inner.cluster.is_inside() => {
            check_alone(&container.record(), network)?;
            return place::connect(inner, container, network, settings).await;
        }
        Err(failure) => return Err(failure),
    };
    check_alone(&container.record(), &found.name)?;
    let (running, taken) = {
        let record = container.record();
        (record.state.phase.has_process(), record.networks.contains_key(&found.name))
    };
    if taken && running {
        return Err(Failure::new(
            ErrorKind::PermissionDenied,
            format!("endpoint with name {} already exists in network {}", container.name(), found.name),
        ));
    }
    endpoint::check(&found.name, &settings)?;
    {
        let mut record = container.record();
        record.asked_macs.insert(found.name.clone(), settings.mac_address.clone());
        record.networks.insert(found.name.clone(), settings);
    }
    if running {
        let record = container.record().clone();
        inner.networks.set_links(&container.id, links::names(&record));
        match attach_one(inner, &record, &found.name, Vec::new()).await {
            Ok(endpoint) => {
                if let Some(settings) = container.record().networks.get_mut(&found.name) {
                    fill(settings, &endpoint);
                }
                super::files::rewrite_hosts(inner, container);
                tell(inner, "connect", &found.id, &found.name, &container.id);
            }
            Err(failure) => {
                container.record().networks.remove(&found.name);
                return Err(failure);
            }
        }
    }
    container.store().await;
    Ok(())
}

/// May a container with such a network join others?
fn check_mode(mode: &Mode) -> Result<(), Failure> {
    match mode {
        Mode::Host => {
            Err(Failure::conflict("cannot connect container to network: it was created with host network mode"))
        }
        Mode::Shared(_) => Err(Failure::conflict(
            "container sharing network namespace with another container or host cannot be connected to any other network",
        )),
        Mode::Own(_) => Ok(()),
    }
}

/// The host's network and none at all go with no other.
fn check_alone(record: &Record, network: &str) -> Result<(), Failure> {
    let has_none = record.networks.contains_key("none");
    match network {
        "host" => {
            Err(Failure::invalid("container cannot be disconnected from host network or connected to host network"))
        }
        _ if network == "none" || has_none => Err(Failure::invalid(
            "container cannot be connected to multiple networks with one of the networks in private (none) mode",
        )),
        _ => Ok(()),
    }
}

/// Leaves a network.
pub(crate) async fn disconnect(
    inner: &Arc<Inner>,
    container: &Arc<Container>,
    network: &str,
    force: bool,
) -> Result<(), Failure> {
    let _turn = container.operation.lock().await;
    let found = match inner.networks.inspect_network(network) {
        Ok(found) => found,
        Err(failure) => return place::disconnect(inner, container, network, force, failure).await,
    };
    let running = container.phase().has_process();
    if !container.record().networks.contains_key(&found.name) {
        return Err(Failure::conflict(format!(
            "container {} is not connected to network {}",
            container.id, found.name
        )));
    }
    if running {
        let left = inner.networks.detach(&container.id, &found.name).await;
        if let Err(failure) = left
            && !force
        {
            return Err(failure);
        }
        tell(inner, "disconnect", &found.id, &found.name, &container.id);
    }
    {
        let mut record = container.record();
        record.networks.remove(&found.name);
        record.asked_macs.remove(&found.name);
    }
    if running {
        super::files::rewrite_hosts(inner, container);
    }
    container.store().await;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::record::tests::record;
    use super::*;

    fn asked(names: &[&str]) -> NetworkingConfig {
        let endpoints = names.iter().map(|name| ((*name).to_owned(), Some(EndpointSettings::default()))).collect();
        NetworkingConfig { endpoints_config: Some(endpoints) }
    }

    fn names(mode: &str, asks: &NetworkingConfig) -> Vec<String> {
        initial(mode, false, asks, &[]).unwrap().into_keys().collect()
    }

    #[test]
    fn modes_imply_their_network() {
        assert_eq!(names("default", &asked(&[])), ["bridge"]);
        assert_eq!(names("none", &asked(&[])), ["none"]);
        assert_eq!(names("lan", &asked(&["lan", "wan"])), ["lan", "wan"]);
        assert_eq!(names("lan", &asked(&["wan"])), ["wan"], "others were named");
        assert_eq!(names("bridge", &asked(&["wan"])), ["wan"]);
        assert_eq!(names("default", &asked(&["default"])), ["bridge"]);
        assert!(names("container:x", &asked(&[])).is_empty());
        assert!(initial("host", false, &asked(&["lan"]), &[]).is_err());
    }

    #[test]
    fn tasks_on_the_cluster_need_no_default_bridge() {
        let networks = initial("default", false, &asked(&[]), &["web".to_owned()]).unwrap();
        assert_eq!(networks.into_keys().collect::<Vec<_>>(), ["web"]);
    }

    #[test]
    fn the_primary_network_comes_first() {
        let mut subject = record(&"7".repeat(64), "c");
        subject.host_config.network_mode = "lan".to_owned();
        subject.networks = initial("lan", false, &asked(&["a", "lan", "z"]), &[]).unwrap();
        assert_eq!(mode(&subject), Mode::Own(vec!["lan".to_owned(), "a".to_owned(), "z".to_owned()]));
        subject.host_config.network_mode = "host".to_owned();
        assert_eq!(mode(&subject), Mode::Host);
    }

    #[test]
    fn an_end_keeps_what_was_asked_for() {
        let mut subject = record(&"7".repeat(64), "c");
        let settings = EndpointSettings {
            aliases: Some(vec!["db".to_owned()]),
            ip_address: "172.18.0.2".to_owned(),
            endpoint_id: "e".to_owned(),
            network_id: "n".to_owned(),
            mac_address: "02:42:ac:12:00:02".to_owned(),
            ..EndpointSettings::default()
        };
        subject.networks.insert("lan".to_owned(), settings.clone());
        subject.networks.insert("wan".to_owned(), settings);
        subject.asked_macs.insert("wan".to_owned(), "02:42:ac:12:00:02".to_owned());
        forget(&mut subject);
        let settings = &subject.networks["lan"];
        assert_eq!((settings.ip_address.as_str(), settings.endpoint_id.as_str()), ("", ""));
        assert_eq!((settings.mac_address.as_str(), subject.networks["wan"].mac_address.len()), ("", 17));
        assert_eq!((settings.network_id.as_str(), settings.aliases.as_deref()), ("n", Some(&["db".to_owned()][..])));
    }
}
