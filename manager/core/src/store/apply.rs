//! Applying a batch: deterministic, whole or not at all, and without a way to panic on data.

use std::sync::Arc;

use shoal_proto::id::{NodeId, ServiceId, TaskId};
use shoal_proto::object::{Attachment, Cluster, Meta, Node, Service, Task};
use shoal_proto::spec::{Labels, LogDriver, TaskSpec};
use shoal_proto::task_state::TaskState;
use shoal_proto::template;
use shoal_proto::time::Timestamp;

use super::Store;
use super::log::Event;
use crate::change::{ApplyError, Change, Expect, NewTask, NodePatch, Object, ObjectKey, ServicePatch, TaskPatch};

/// What a batch did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Applied {
    /// Objects that are different now.
    pub changed: usize,
    /// Changes that did nothing, because they were old news.
    pub skipped: usize,
}

impl Store {
    /// Applies a batch as entry `version` of the log, written at `now`. Versions go up, gaps are allowed.
    ///
    /// # Errors
    /// When one change does not fit; then the store is as it was, but for nothing.
    pub fn apply(&mut self, version: u64, now: Timestamp, batch: &[Change]) -> Result<Applied, ApplyError> {
        if version <= self.version {
            return Err(ApplyError::OldEntry { version, at: self.version });
        }
        let mut next = self.clone();
        next.version = version;
        let mut applied = Applied::default();
        for change in batch {
            if next.apply_one(now, change)? {
                applied.changed += 1;
            } else {
                applied.skipped += 1;
            }
        }
        *self = next;
        Ok(applied)
    }

    /// Notes that entry `version` of the log was without changes, or refused.
    pub fn skip_to(&mut self, version: u64) {
        self.version = self.version.max(version);
    }

    /// Applies one change in place, without a version of its own: for a planner's scratch copy. The store may be half
    /// changed after an error.
    pub(crate) fn apply_scratch(&mut self, now: Timestamp, change: &Change) -> Result<bool, ApplyError> {
        self.apply_one(now, change)
    }

    fn apply_one(&mut self, now: Timestamp, change: &Change) -> Result<bool, ApplyError> {
        match change {
            Change::Put { object, expect } => {
                self.check(object.key(), *expect)?;
                self.put(now, object)
            }
            Change::Delete { key, expect } => {
                self.check(*key, *expect)?;
                self.delete(*key)
            }
            Change::NewTask(new) => self.new_task(now, new),
            Change::Task { id, patch } => self.patch_task(now, *id, patch),
            Change::Service { id, patch, expect } => {
                self.check(ObjectKey::Service(*id), *expect)?;
                self.patch_service(now, *id, patch)
            }
            Change::Node { id, patch, expect } => {
                self.check(ObjectKey::Node(*id), *expect)?;
                self.patch_node(now, *id, patch)
            }
        }
    }

    fn version_of(&self, key: ObjectKey) -> Option<u64> {
        match key {
            ObjectKey::Cluster(id) => {
                self.cluster.as_ref().filter(|cluster| cluster.id == id).map(|cluster| cluster.meta.version)
            }
            ObjectKey::Node(id) => self.nodes.get(&id).map(|node| node.meta.version),
            ObjectKey::Service(id) => self.services.get(&id).map(|service| service.meta.version),
            ObjectKey::Task(id) => self.tasks.get(&id).map(|task| task.meta.version),
            ObjectKey::Network(id) => self.networks.get(&id).map(|network| network.meta.version),
            ObjectKey::Secret(id) => self.secrets.get(&id).map(|secret| secret.meta.version),
            ObjectKey::Config(id) => self.configs.get(&id).map(|config| config.meta.version),
            ObjectKey::Attachment(id) => self.attachments.get(&id).map(|attachment| attachment.meta.version),
        }
    }

    fn check(&self, key: ObjectKey, expect: Expect) -> Result<(), ApplyError> {
        let found = match expect {
            Expect::Any => return Ok(()),
            Expect::Absent | Expect::Version(_) => self.version_of(key),
        };
        match (expect, found) {
            (Expect::Absent, Some(_)) => Err(ApplyError::Exists { key }),
            (Expect::Version(_), None) => Err(ApplyError::Missing { key }),
            (Expect::Version(expected), Some(found)) if expected != found => {
                Err(ApplyError::Stale { key, expected, found })
            }
            _ => Ok(()),
        }
    }

    fn put(&mut self, now: Timestamp, object: &Object) -> Result<bool, ApplyError> {
        match object {
            Object::Cluster(cluster) => {
                let before = self.cluster.clone();
                if let Some(old) = before.as_ref().filter(|old| old.id != cluster.id) {
                    return Err(ApplyError::Exists { key: ObjectKey::Cluster(old.id) });
                }
                let after = Arc::new(Cluster {
                    meta: self.meta(now, before.as_ref().map(|old| &old.meta)),
                    ..Cluster::clone(cluster)
                });
                self.cluster = Some(Arc::clone(&after));
                self.record(before.map(Object::Cluster), Some(Object::Cluster(after)));
            }
            Object::Node(node) => return self.set_node(now, Node::clone(node)),
            Object::Service(service) => return self.set_service(now, Service::clone(service)),
            Object::Task(task) => return self.set_task(now, Task::clone(task)),
            Object::Network(network) => {
                let before = self.networks.get(&network.id).cloned();
                let mut after = (**network).clone();
                after.meta = self.meta(now, before.as_ref().map(|old| &old.meta));
                self.index.network_changed(before.as_deref(), Some(&after))?;
                let after = Arc::new(after);
                self.networks.insert(after.id, Arc::clone(&after));
                self.record(before.map(Object::Network), Some(Object::Network(after)));
            }
            Object::Secret(secret) => {
                let before = self.secrets.get(&secret.id).cloned();
                let mut after = (**secret).clone();
                after.meta = self.meta(now, before.as_ref().map(|old| &old.meta));
                self.index.secret_changed(before.as_deref(), Some(&after))?;
                let after = Arc::new(after);
                self.secrets.insert(after.id, Arc::clone(&after));
                self.record(before.map(Object::Secret), Some(Object::Secret(after)));
            }
            Object::Config(config) => {
                let before = self.configs.get(&config.id).cloned();
                let mut after = (**config).clone();
                after.meta = self.meta(now, before.as_ref().map(|old| &old.meta));
                self.index.config_changed(before.as_deref(), Some(&after))?;
                let after = Arc::new(after);
                self.configs.insert(after.id, Arc::clone(&after));
                self.record(before.map(Object::Config), Some(Object::Config(after)));
            }
            Object::Attachment(attachment) => self.put_attachment(now, attachment)?,
        }
        Ok(true)
    }

    /// An attachment needs its node and its network, for nobody would ever give it up that was made beside them.
    fn put_attachment(&mut self, now: Timestamp, attachment: &Attachment) -> Result<(), ApplyError> {
        let network = ObjectKey::Network(attachment.network);
        if self.networks.get(&attachment.network).is_none_or(|network| network.pending_delete) {
            return Err(ApplyError::Missing { key: network });
        }
        let node = ObjectKey::Node(attachment.node_id);
        if !self.nodes.contains_key(&attachment.node_id) {
            return Err(ApplyError::Missing { key: node });
        }
        let before = self.attachments.get(&attachment.id).cloned();
        let mut after = attachment.clone();
        after.meta = self.meta(now, before.as_ref().map(|old| &old.meta));
        let twin = self.attachment_of(after.node_id, after.network, &after.container_id);
        if let Some(twin) = twin.filter(|twin| twin.id != after.id) {
            return Err(ApplyError::Exists { key: ObjectKey::Attachment(twin.id) });
        }
        self.index.attachment_changed(before.as_deref(), Some(&after))?;
        let after = Arc::new(after);
        self.attachments.insert(after.id, Arc::clone(&after));
        self.record(before.map(Object::Attachment), Some(Object::Attachment(after)));
        Ok(())
    }

    fn set_node(&mut self, now: Timestamp, mut after: Node) -> Result<bool, ApplyError> {
        let before = self.nodes.get(&after.id).cloned();
        after.meta = self.meta(now, before.as_ref().map(|old| &old.meta));
        self.index.node_changed(before.as_deref(), Some(&after))?;
        let after = Arc::new(after);
        self.nodes.insert(after.id, Arc::clone(&after));
        self.record(before.map(Object::Node), Some(Object::Node(after)));
        Ok(true)
    }

    fn set_service(&mut self, now: Timestamp, mut after: Service) -> Result<bool, ApplyError> {
        let before = self.services.get(&after.id).cloned();
        after.meta = self.meta(now, before.as_ref().map(|old| &old.meta));
        if let Some(old) = before.as_ref() {
            share_specs(&mut after, old);
        }
        self.index.service_changed(before.as_deref(), Some(&after))?;
        let after = Arc::new(after);
        self.services.insert(after.id, Arc::clone(&after));
        self.record(before.map(Object::Service), Some(Object::Service(after)));
        Ok(true)
    }

    fn set_task(&mut self, now: Timestamp, mut after: Task) -> Result<bool, ApplyError> {
        let before = self.tasks.get(&after.id).cloned();
        after.meta = self.meta(now, before.as_ref().map(|old| &old.meta));
        if let Some(service) = self.services.get(&after.service_id) {
            intern(&mut after.spec, &service.spec.task);
        }
        if let Some(name) = self.index.shared_names.get(&after.service_id)
            && *name == after.service_name
        {
            after.service_name = Arc::clone(name);
        }
        if after.status.state.is_terminal() {
            if after.ended_at == Timestamp::ZERO {
                after.ended_at = now;
            }
        } else if after.status.state == TaskState::Running && after.running_since == Timestamp::ZERO {
            after.running_since = now;
        }
        self.index.task_changed(before.as_deref(), Some(&after))?;
        let after = Arc::new(after);
        self.tasks.insert(after.id, Arc::clone(&after));
        self.record(before.map(Object::Task), Some(Object::Task(after)));
        Ok(true)
    }

    /// Kept with a task only where its placeholders want them: a million tasks must not carry what none of them reads.
    fn service_labels(&self, service: &Service) -> Option<Arc<Labels>> {
        let (labels, container) = (&service.spec.labels, &service.spec.task.container);
        let is_template = || {
            let secret = |id| self.secrets.get(id).is_some_and(|secret| secret.spec.is_template);
            let config = |id| self.configs.get(id).is_some_and(|config| config.spec.is_template);
            container.secrets.iter().any(|one| secret(&one.id)) || container.configs.iter().any(|one| config(&one.id))
        };
        let wanted = !labels.is_empty() && (template::uses_service_labels(container) || is_template());
        wanted.then(|| Arc::new(labels.clone()))
    }

    fn new_task(&mut self, now: Timestamp, new: &NewTask) -> Result<bool, ApplyError> {
        let service_key = ObjectKey::Service(new.service_id);
        let service = self.services.get(&new.service_id).ok_or(ApplyError::Missing { key: service_key })?;
        if service.spec_version != new.spec_version {
            return Err(ApplyError::Stale {
                key: service_key,
                expected: new.spec_version,
                found: service.spec_version,
            });
        }
        if self.tasks.contains_key(&new.id) {
            return Err(ApplyError::Exists { key: ObjectKey::Task(new.id) });
        }
        let service_name = match self.index.shared_names.get(&new.service_id) {
            Some(name) => Arc::clone(name),
            None => Arc::from(service.spec.name.as_str()),
        };
        let task = Task {
            id: new.id,
            meta: Meta::default(),
            service_id: new.service_id,
            service_name,
            slot: new.slot,
            node_id: new.node_id,
            spec: Arc::clone(&service.spec.task),
            spec_version: new.spec_version,
            desired_state: new.desired_state,
            status: new.status.clone(),
            networks: new.networks.clone(),
            ports: service.endpoint.ports.clone(),
            not_before: new.not_before,
            restart: new.restart.clone(),
            endpoint_mode: service.spec.endpoint.mode,
            by_update: new.by_update,
            running_since: Timestamp::ZERO,
            ended_at: Timestamp::ZERO,
            default_log_driver: self.default_log_driver(service),
            service_labels: self.service_labels(service),
        };
        self.set_task(now, task)
    }

    /// As in Swarm: taken when the task is made, so that a change of the cluster's default replaces no task.
    fn default_log_driver(&self, service: &Service) -> Option<Arc<LogDriver>> {
        if service.spec.task.log_driver.is_some() {
            return None;
        }
        self.cluster().and_then(|cluster| cluster.spec.default_log_driver.clone()).map(Arc::new)
    }

    fn patch_task(&mut self, now: Timestamp, id: TaskId, patch: &TaskPatch) -> Result<bool, ApplyError> {
        let Some(before) = self.tasks.get(&id) else { return Ok(false) };
        let status = patch.status.as_ref().filter(|new| {
            let old = &before.status;
            new.state >= old.state && !old.state.is_terminal() && *new != old
        });
        let desired = patch.desired_state.filter(|new| *new > before.desired_state);
        let node = patch.node_id.filter(|new| before.node_id != Some(*new));
        let networks = patch.networks.as_ref().filter(|new| **new != before.networks);
        if status.is_none() && desired.is_none() && node.is_none() && networks.is_none() {
            return Ok(false);
        }
        let mut after = Task::clone(before);
        if let Some(status) = status {
            after.status = status.clone();
        }
        if let Some(desired) = desired {
            after.desired_state = desired;
        }
        if let Some(node) = node {
            after.node_id = Some(node);
        }
        if let Some(networks) = networks {
            after.networks.clone_from(networks);
        }
        self.set_task(now, after)
    }

    fn patch_service(&mut self, now: Timestamp, id: ServiceId, patch: &ServicePatch) -> Result<bool, ApplyError> {
        let Some(before) = self.services.get(&id) else { return Ok(false) };
        let mut after = Service::clone(before);
        if let Some(endpoint) = &patch.endpoint {
            after.endpoint.clone_from(endpoint);
        }
        if let Some(status) = &patch.update_status {
            after.update_status = Some(status.clone());
        }
        if after == **before {
            return Ok(false);
        }
        self.set_service(now, after)
    }

    fn patch_node(&mut self, now: Timestamp, id: NodeId, patch: &NodePatch) -> Result<bool, ApplyError> {
        let Some(before) = self.nodes.get(&id) else { return Ok(false) };
        if patch.if_session_manager.is_some() && before.status.session_manager != patch.if_session_manager {
            return Ok(false);
        }
        let mut after = Node::clone(before);
        if let Some(spec) = &patch.spec {
            after.spec.clone_from(spec);
        }
        if let Some(status) = &patch.status {
            after.status.clone_from(status);
        }
        if let Some(description) = &patch.description {
            after.description = Some(description.clone());
        }
        if let Some(addr) = patch.ingress_address {
            after.ingress_address = addr;
        }
        if let Some(role) = patch.certificate_role {
            after.certificate_role = role;
        }
        if let Some(manager) = &patch.manager {
            after.manager.clone_from(manager);
        }
        if after == **before {
            return Ok(false);
        }
        self.set_node(now, after)
    }

    fn delete(&mut self, key: ObjectKey) -> Result<bool, ApplyError> {
        let before = match key {
            ObjectKey::Cluster(_) => return Err(ApplyError::InUse { key, user: key }),
            ObjectKey::Node(id) => match self.nodes.get(&id).cloned() {
                Some(node) => {
                    if let Some(attachment) = self.attachments_of_node(id).next() {
                        return Err(ApplyError::InUse { key, user: ObjectKey::Attachment(attachment.id) });
                    }
                    self.nodes.remove(&id);
                    self.index.node_changed(Some(&node), None)?;
                    Object::Node(node)
                }
                None => return Ok(false),
            },
            ObjectKey::Service(id) => match self.delete_service(id)? {
                Some(service) => Object::Service(service),
                None => return Ok(false),
            },
            ObjectKey::Task(id) => match self.tasks.remove(&id) {
                Some(task) => {
                    self.index.task_changed(Some(&task), None)?;
                    Object::Task(task)
                }
                None => return Ok(false),
            },
            ObjectKey::Network(id) => {
                let service = self.services_on_network(id).next().map(|service| ObjectKey::Service(service.id));
                let task = self.tasks_on_network(id).next().map(|task| ObjectKey::Task(task.id));
                let attached = self.attachments_on_network(id).next().map(|found| ObjectKey::Attachment(found.id));
                if let Some(user) = task.or(service).or(attached) {
                    return Err(ApplyError::InUse { key, user });
                }
                let Some(network) = self.networks.remove(&id) else { return Ok(false) };
                self.index.network_changed(Some(&network), None)?;
                Object::Network(network)
            }
            ObjectKey::Secret(id) => match self.secrets.remove(&id) {
                Some(secret) => {
                    self.index.secret_changed(Some(&secret), None)?;
                    Object::Secret(secret)
                }
                None => return Ok(false),
            },
            ObjectKey::Config(id) => match self.configs.remove(&id) {
                Some(config) => {
                    self.index.config_changed(Some(&config), None)?;
                    Object::Config(config)
                }
                None => return Ok(false),
            },
            ObjectKey::Attachment(id) => match self.attachments.remove(&id) {
                Some(attachment) => {
                    self.index.attachment_changed(Some(&attachment), None)?;
                    Object::Attachment(attachment)
                }
                None => return Ok(false),
            },
        };
        self.record(Some(before), None);
        Ok(true)
    }

    fn delete_service(&mut self, id: ServiceId) -> Result<Option<Arc<Service>>, ApplyError> {
        if let Some(task) = self.tasks_of_service(id).next() {
            return Err(ApplyError::InUse { key: ObjectKey::Service(id), user: ObjectKey::Task(task.id) });
        }
        let Some(service) = self.services.remove(&id) else { return Ok(None) };
        self.index.service_changed(Some(&service), None)?;
        Ok(Some(service))
    }

    fn meta(&self, now: Timestamp, before: Option<&Meta>) -> Meta {
        Meta { version: self.version, created_at: before.map_or(now, |meta| meta.created_at), updated_at: now }
    }

    fn record(&mut self, before: Option<Object>, after: Option<Object>) {
        self.log.push(Event { version: self.version, before, after });
    }
}

/// Equal specs become one.
fn intern(spec: &mut Arc<TaskSpec>, known: &Arc<TaskSpec>) {
    if !Arc::ptr_eq(spec, known) && **spec == **known {
        *spec = Arc::clone(known);
    }
}

/// Lets a changed service share the task specs it had before.
fn share_specs(after: &mut Service, old: &Service) {
    intern(&mut after.spec.task, &old.spec.task);
    if let Some(previous) = &mut after.previous_spec {
        if let Some(known) = &old.previous_spec {
            if *previous == *known {
                *previous = Arc::clone(known);
                return;
            }
            if *known.task != *old.spec.task {
                intern(&mut Arc::make_mut(previous).task, &known.task);
            }
        }
        intern(&mut Arc::make_mut(previous).task, &old.spec.task);
    }
}
