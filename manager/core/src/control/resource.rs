//! Networks, secrets and configs: create, update their labels, remove.

use shoal_proto::error::Failure;
use shoal_proto::id::{ConfigId, IdSource, NetworkId, SecretId};
use shoal_proto::object::{Config, Network, Secret, Service};
use shoal_proto::spec::{ConfigSpec, Labels, NetworkSpec, SecretSpec};

use super::{Planned, Reply, check_version, name_conflict, one};
use crate::change::{Change, ObjectKey};
use crate::store::Store;
use crate::validate;

/// The networks every cluster begins with: the routing mesh, and the predefined `host` and `bridge`.
pub fn initial_networks(ids: &mut dyn IdSource) -> Vec<Change> {
    let mut network = |name: &str, driver: &str, ingress: bool| {
        let spec = NetworkSpec { name: name.into(), driver: driver.into(), ingress, ..NetworkSpec::default() };
        let id = NetworkId::generate(ids);
        Change::create(Network { id, spec, predefined: !ingress, ..Network::default() })
    };
    vec![network("ingress", "overlay", true), network("host", "host", false), network("bridge", "bridge", false)]
}

pub(super) fn create_network(store: &Store, spec: &NetworkSpec, ids: &mut dyn IdSource) -> Result<Planned, Failure> {
    let spec = NetworkSpec {
        driver: if spec.driver.is_empty() { "overlay".to_owned() } else { spec.driver.clone() },
        ..spec.clone()
    };
    validate::network(&spec, store)?;
    if store.network_by_name(&spec.name).is_some() {
        return Err(Failure::conflict(format!("network with name {} already exists", spec.name)));
    }
    let id = NetworkId::generate(ids);
    let network = Network { id, spec, ..Network::default() };
    Ok(one(Change::create(network), Reply::Network(id)))
}

pub(super) fn remove_network(store: &Store, id: NetworkId) -> Result<Planned, Failure> {
    let network = store.network(id).filter(|network| !network.pending_delete);
    let network = network.ok_or_else(|| Failure::not_found(format!("network {id} not found")))?;
    validate::network_removal(network, store)?;
    let in_use = store.services_on_network(id).next().is_some()
        || store.tasks_on_network(id).next().is_some()
        || (network.spec.ingress && store.nodes().any(|node| node.ingress_address.is_some()));
    let change = if in_use {
        Change::update(Network { pending_delete: true, ..Network::clone(network) })
    } else {
        Change::delete(ObjectKey::Network(id))
    };
    Ok(one(change, Reply::Done))
}

pub(super) fn create_secret(store: &Store, spec: &SecretSpec, ids: &mut dyn IdSource) -> Result<Planned, Failure> {
    validate::secret(spec, store)?;
    if store.secret_by_name(&spec.name).is_some() {
        return Err(name_conflict("secret", &spec.name));
    }
    let id = SecretId::generate(ids);
    Ok(one(Change::create(Secret { id, spec: spec.clone(), ..Secret::default() }), Reply::Secret(id)))
}

pub(super) fn update_secret(store: &Store, id: SecretId, version: u64, labels: &Labels) -> Result<Planned, Failure> {
    let secret = store.secret(id).ok_or_else(|| Failure::not_found(format!("secret {id} not found")))?;
    check_version(&secret.meta, version)?;
    let mut updated = Secret::clone(secret);
    updated.spec.labels.clone_from(labels);
    Ok(one(Change::update(updated), Reply::Secret(id)))
}

pub(super) fn remove_secret(store: &Store, id: SecretId) -> Result<Planned, Failure> {
    let secret = store.secret(id).ok_or_else(|| Failure::not_found(format!("secret {id} not found")))?;
    refuse_if_used("secret", &secret.spec.name, store.services_using_secret(id).map(|service| &**service))?;
    Ok(one(Change::delete(ObjectKey::Secret(id)), Reply::Done))
}

pub(super) fn create_config(store: &Store, spec: &ConfigSpec, ids: &mut dyn IdSource) -> Result<Planned, Failure> {
    validate::config(spec, store)?;
    if store.config_by_name(&spec.name).is_some() {
        return Err(name_conflict("config", &spec.name));
    }
    let id = ConfigId::generate(ids);
    Ok(one(Change::create(Config { id, spec: spec.clone(), ..Config::default() }), Reply::Config(id)))
}

pub(super) fn update_config(store: &Store, id: ConfigId, version: u64, labels: &Labels) -> Result<Planned, Failure> {
    let config = store.config(id).ok_or_else(|| Failure::not_found(format!("config {id} not found")))?;
    check_version(&config.meta, version)?;
    let mut updated = Config::clone(config);
    updated.spec.labels.clone_from(labels);
    Ok(one(Change::update(updated), Reply::Config(id)))
}

pub(super) fn remove_config(store: &Store, id: ConfigId) -> Result<Planned, Failure> {
    let config = store.config(id).ok_or_else(|| Failure::not_found(format!("config {id} not found")))?;
    refuse_if_used("config", &config.spec.name, store.services_using_config(id).map(|service| &**service))?;
    Ok(one(Change::delete(ObjectKey::Config(id)), Reply::Done))
}

fn refuse_if_used<'a>(kind: &str, name: &str, users: impl Iterator<Item = &'a Service>) -> Result<(), Failure> {
    let users: Vec<&str> = users.map(|service| service.spec.name.as_str()).collect();
    let services = if users.len() == 1 { "service" } else { "services" };
    if users.is_empty() {
        return Ok(());
    }
    Err(Failure::invalid(format!("{kind} '{name}' is in use by the following {services}: {}", users.join(", "))))
}
