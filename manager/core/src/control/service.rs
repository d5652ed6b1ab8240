//! Services: create, update, roll back, remove.

use std::sync::Arc;

use shoal_proto::error::Failure;
use shoal_proto::id::{IdSource, ServiceId};
use shoal_proto::object::{Service, UpdateState, UpdateStatus};
use shoal_proto::spec::ServiceSpec;
use shoal_proto::time::Timestamp;

use super::{Planned, Reply, check_version, name_conflict, one};
use crate::change::Change;
use crate::store::Store;
use crate::validate;

pub(super) fn create(store: &Store, spec: &ServiceSpec, ids: &mut dyn IdSource) -> Result<Planned, Failure> {
    validate::service(spec, store)?;
    if store.service_by_name(&spec.name).is_some() {
        return Err(name_conflict("service", &spec.name));
    }
    let id = ServiceId::generate(ids);
    let service = Service { id, spec: spec.clone(), spec_version: 1, ..Service::default() };
    Ok(one(Change::create(service), Reply::Service(id, validate::service_warnings(spec))))
}

fn find(store: &Store, id: ServiceId) -> Result<&Arc<Service>, Failure> {
    let found = store.service(id).filter(|service| !service.pending_delete);
    found.ok_or_else(|| Failure::not_found(format!("service {id} not found")))
}

/// The number for a new spec: rollbacks bring back an old spec, but never an old number.
fn next_spec_version(service: &Service) -> u64 {
    service.spec_version.max(service.previous_spec_version) + 1
}

fn changes_tasks(old: &ServiceSpec, new: &ServiceSpec) -> bool {
    old.task != new.task || old.endpoint != new.endpoint
}

pub(super) fn update(store: &Store, id: ServiceId, version: u64, spec: &ServiceSpec) -> Result<Planned, Failure> {
    let service = find(store, id)?;
    check_version(&service.meta, version)?;
    validate::service_update(service, spec, store)?;
    let mut updated = Service::clone(service);
    if changes_tasks(&service.spec, spec) {
        updated.spec_version = next_spec_version(service);
    }
    updated.previous_spec = Some(Arc::new(service.spec.clone()));
    updated.previous_spec_version = service.spec_version;
    updated.spec = spec.clone();
    // Clears a pause, too; the updater begins anew when tasks have to change.
    updated.update_status = None;
    Ok(one(Change::update(updated), Reply::Service(id, validate::service_warnings(spec))))
}

pub(super) fn roll_back(store: &Store, id: ServiceId, version: u64, now: Timestamp) -> Result<Planned, Failure> {
    let service = find(store, id)?;
    check_version(&service.meta, version)?;
    let Some(previous) = &service.previous_spec else {
        return Err(Failure::invalid(format!("service {id} does not have a previous spec")));
    };
    validate::service_update(service, previous, store)?;
    let mut updated = Service::clone(service);
    if changes_tasks(&service.spec, previous) {
        updated.spec_version = next_spec_version(service);
    }
    updated.previous_spec = Some(Arc::new(service.spec.clone()));
    updated.previous_spec_version = service.spec_version;
    updated.spec = (**previous).clone();
    updated.update_status = Some(UpdateStatus {
        state: UpdateState::RollbackStarted,
        started_at: now,
        message: "manually requested rollback".to_owned(),
        ..UpdateStatus::default()
    });
    Ok(one(Change::update(updated), Reply::Service(id, Vec::new())))
}

pub(super) fn remove(store: &Store, id: ServiceId) -> Result<Planned, Failure> {
    let mut removed = Service::clone(find(store, id)?);
    removed.pending_delete = true;
    Ok(one(Change::update(removed), Reply::Done))
}
