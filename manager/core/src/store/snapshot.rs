//! The store as a sequence of byte chunks, and back.
//!
//! ## Design notes
//! A chunk is bounded, so a snapshot of a million tasks is written and read as a stream. Tasks come by service, and
//! each chunk carries every spec once: on the way back they share it again.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use shoal_proto::codec::{self, DecodeError};
use shoal_proto::id::{NetworkId, NodeId, ServiceId, TaskId};
use shoal_proto::object::{Meta, NetworkAttachment, RestartTrack, Task, TaskStatus};
use shoal_proto::spec::{EndpointMode, Labels, LogDriver, PortConfig, TaskSpec};
use shoal_proto::task_state::TaskState;
use shoal_proto::time::Timestamp;

use super::Store;
use super::log::ChangeLog;
use crate::change::{ApplyError, Object};

/// Tasks in one chunk.
const TASKS: usize = 1_000;

#[derive(Debug, Serialize, Deserialize)]
enum Chunk {
    Header(Header),
    Object(Object),
    Tasks(Tasks),
    End { chunks: u64 },
}

/// What is not an object.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default)]
struct Header {
    version: u64,
    port_cursor: u16,
    vni_cursor: u32,
    subnet_cursor: u32,
    address_cursors: Vec<(NetworkId, u32)>,
}

#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default)]
struct Tasks {
    specs: Vec<Arc<TaskSpec>>,
    tasks: Vec<TaskRecord>,
}

/// A task with its spec replaced by a place in the chunk's list.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default)]
struct TaskRecord {
    id: TaskId,
    meta: Meta,
    service_id: ServiceId,
    service_name: String,
    slot: u64,
    node_id: Option<NodeId>,
    spec: usize,
    spec_version: u64,
    desired_state: TaskState,
    status: TaskStatus,
    networks: Vec<NetworkAttachment>,
    ports: Vec<PortConfig>,
    not_before: Timestamp,
    restart: RestartTrack,
    endpoint_mode: EndpointMode,
    by_update: bool,
    running_since: Timestamp,
    ended_at: Timestamp,
    #[serde(skip_serializing_if = "Option::is_none")]
    default_log_driver: Option<Arc<LogDriver>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    service_labels: Option<Arc<Labels>>,
}

impl TaskRecord {
    fn of(task: &Task, spec: usize) -> Self {
        let Task {
            id,
            meta,
            service_id,
            service_name,
            slot,
            node_id,
            spec: _,
            spec_version,
            desired_state,
            status,
            networks,
            ports,
            not_before,
            restart,
            endpoint_mode,
            by_update,
            running_since,
            ended_at,
            default_log_driver,
            service_labels,
        } = task.clone();
        let service_name = service_name.to_string();
        Self {
            id,
            meta,
            service_id,
            service_name,
            slot,
            node_id,
            spec,
            spec_version,
            desired_state,
            status,
            networks,
            ports,
            not_before,
            restart,
            endpoint_mode,
            by_update,
            running_since,
            ended_at,
            default_log_driver,
            service_labels,
        }
    }

    fn into_task(self, spec: Arc<TaskSpec>, service_name: Arc<str>) -> Task {
        Task {
            id: self.id,
            meta: self.meta,
            service_id: self.service_id,
            service_name,
            slot: self.slot,
            node_id: self.node_id,
            spec,
            spec_version: self.spec_version,
            desired_state: self.desired_state,
            status: self.status,
            networks: self.networks,
            ports: self.ports,
            not_before: self.not_before,
            restart: self.restart,
            endpoint_mode: self.endpoint_mode,
            by_update: self.by_update,
            running_since: self.running_since,
            ended_at: self.ended_at,
            default_log_driver: self.default_log_driver,
            service_labels: self.service_labels,
        }
    }
}

/// The chunks of a snapshot, one after the other. Holds the store as it was; writing may take its time.
pub struct SnapshotChunks {
    store: Store,
    stage: Stage,
    chunks: u64,
}

enum Stage {
    Header,
    Objects(std::vec::IntoIter<Object>),
    Tasks { after: Option<(ServiceId, u64, TaskId)> },
    End,
    Done,
}

impl Store {
    /// The whole store in bounded chunks.
    pub fn snapshot(&self) -> SnapshotChunks {
        SnapshotChunks { store: self.clone(), stage: Stage::Header, chunks: 0 }
    }

    fn header(&self) -> Header {
        let index = &self.index;
        Header {
            version: self.version,
            port_cursor: index.port_cursor,
            vni_cursor: index.vni_cursor,
            subnet_cursor: index.subnet_cursor,
            address_cursors: index.spaces.iter().map(|(id, space)| (*id, space.cursor)).collect(),
        }
    }

    /// Everything but tasks, in an order in which each finds what it refers to.
    fn small_objects(&self) -> Vec<Object> {
        let mut objects: Vec<Object> = self.cluster.iter().cloned().map(Object::Cluster).collect();
        objects.extend(self.networks.values().cloned().map(Object::Network));
        objects.extend(self.nodes.values().cloned().map(Object::Node));
        objects.extend(self.attachments.values().cloned().map(Object::Attachment));
        objects.extend(self.secrets.values().cloned().map(Object::Secret));
        objects.extend(self.configs.values().cloned().map(Object::Config));
        objects.extend(self.services.values().cloned().map(Object::Service));
        objects
    }

    fn task_chunk(&self, after: Option<(ServiceId, u64, TaskId)>) -> Option<(Tasks, (ServiceId, u64, TaskId))> {
        let start = after.map_or(std::ops::Bound::Unbounded, std::ops::Bound::Excluded);
        let mut chunk = Tasks::default();
        let mut places: BTreeMap<*const TaskSpec, usize> = BTreeMap::new();
        let mut last = None;
        for key in self.index.by_slot.range((start, std::ops::Bound::Unbounded)).take(TASKS) {
            last = Some(*key);
            let Some(task) = self.tasks.get(&key.2) else { continue };
            let place = *places.entry(Arc::as_ptr(&task.spec)).or_insert_with(|| {
                chunk.specs.push(Arc::clone(&task.spec));
                chunk.specs.len() - 1
            });
            chunk.tasks.push(TaskRecord::of(task, place));
        }
        last.map(|last| (chunk, last))
    }
}

impl Iterator for SnapshotChunks {
    type Item = Vec<u8>;

    fn next(&mut self) -> Option<Vec<u8>> {
        let chunk = loop {
            match &mut self.stage {
                Stage::Header => {
                    self.stage = Stage::Objects(self.store.small_objects().into_iter());
                    break Chunk::Header(self.store.header());
                }
                Stage::Objects(objects) => match objects.next() {
                    Some(object) => break Chunk::Object(object),
                    None => self.stage = Stage::Tasks { after: None },
                },
                Stage::Tasks { after } => match self.store.task_chunk(*after) {
                    Some((tasks, last)) => {
                        *after = Some(last);
                        break Chunk::Tasks(tasks);
                    }
                    None => self.stage = Stage::End,
                },
                Stage::End => {
                    self.stage = Stage::Done;
                    break Chunk::End { chunks: self.chunks };
                }
                Stage::Done => return None,
            }
        };
        self.chunks += 1;
        Some(codec::encode(&chunk))
    }
}

/// Why a snapshot could not be read.
#[derive(Debug, thiserror::Error)]
pub enum RestoreError {
    /// A chunk is malformed.
    #[error("chunk {number} of the snapshot is malformed")]
    Malformed {
        /// Its number, from 0.
        number: u64,
        /// What was wrong.
        #[source]
        source: DecodeError,
    },
    /// The objects contradict each other.
    #[error("chunk {number} of the snapshot contradicts the ones before")]
    Contradiction {
        /// Its number, from 0.
        number: u64,
        /// What was wrong.
        #[source]
        source: ApplyError,
    },
    /// A task refers to a spec that its chunk does not hold.
    #[error("chunk {number} of the snapshot lacks a task spec")]
    MissingSpec {
        /// Its number, from 0.
        number: u64,
    },
    /// The chunks end too early, or in the wrong order.
    #[error("the snapshot is incomplete after {chunks} chunks")]
    Incomplete {
        /// How many there were.
        chunks: u64,
    },
}

/// Reads a snapshot, chunk by chunk.
#[derive(Default)]
pub struct Restore {
    store: Store,
    header: Option<Header>,
    chunks: u64,
    complete: bool,
    specs: BTreeMap<ServiceId, Vec<Arc<TaskSpec>>>,
}

impl Restore {
    /// Nothing read yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes the next chunk.
    ///
    /// # Errors
    /// When it is malformed or does not fit to the ones before; then the snapshot is unusable.
    pub fn push(&mut self, bytes: &[u8]) -> Result<(), RestoreError> {
        let number = self.chunks;
        let chunk: Chunk = codec::decode(bytes).map_err(|source| RestoreError::Malformed { number, source })?;
        if self.complete || (self.header.is_some() == matches!(chunk, Chunk::Header(_))) {
            return Err(RestoreError::Incomplete { chunks: number });
        }
        self.chunks += 1;
        let contradiction = |source| RestoreError::Contradiction { number, source };
        match chunk {
            Chunk::Header(header) => self.header = Some(header),
            Chunk::Object(object) => self.store.restore_object(object).map_err(contradiction)?,
            Chunk::Tasks(chunk) => {
                for record in chunk.tasks {
                    let spec = chunk.specs.get(record.spec).ok_or(RestoreError::MissingSpec { number })?;
                    let spec = self.shared_spec(record.service_id, spec);
                    let name = self.store.shared_name(record.service_id, &record.service_name);
                    let task = Arc::new(record.into_task(spec, name));
                    self.store.restore_object(Object::Task(task)).map_err(contradiction)?;
                }
            }
            Chunk::End { chunks } if chunks == number => self.complete = true,
            Chunk::End { .. } => return Err(RestoreError::Incomplete { chunks: number }),
        }
        Ok(())
    }

    /// The store that the chunks held.
    ///
    /// # Errors
    /// When the last chunk was not seen.
    pub fn finish(self) -> Result<Store, RestoreError> {
        let incomplete = RestoreError::Incomplete { chunks: self.chunks };
        let (Some(header), true) = (self.header, self.complete) else { return Err(incomplete) };
        let mut store = self.store;
        store.version = header.version;
        store.log = ChangeLog::starting_at(header.version);
        store.index.port_cursor = header.port_cursor;
        store.index.vni_cursor = header.vni_cursor;
        store.index.subnet_cursor = header.subnet_cursor;
        for (id, cursor) in header.address_cursors {
            if let Some(space) = store.index.spaces.get_mut(&id) {
                space.cursor = cursor;
            }
        }
        Ok(store)
    }

    /// The spec in the form that tasks of the service already share.
    fn shared_spec(&mut self, service: ServiceId, spec: &Arc<TaskSpec>) -> Arc<TaskSpec> {
        let known = self.specs.entry(service).or_insert_with(|| {
            self.store.services.get(&service).map(|service| Arc::clone(&service.spec.task)).into_iter().collect()
        });
        if let Some(same) = known.iter().find(|known| Arc::ptr_eq(known, spec) || ***known == **spec) {
            return Arc::clone(same);
        }
        known.push(Arc::clone(spec));
        Arc::clone(spec)
    }
}

impl Store {
    fn shared_name(&self, service: ServiceId, name: &str) -> Arc<str> {
        match self.index.shared_names.get(&service) {
            Some(shared) if **shared == *name => Arc::clone(shared),
            _ => Arc::from(name),
        }
    }

    /// Puts an object back as it was, version and times included.
    fn restore_object(&mut self, object: Object) -> Result<(), ApplyError> {
        match object {
            Object::Cluster(cluster) => self.cluster = Some(cluster),
            Object::Node(node) => {
                self.index.node_changed(None, Some(&node))?;
                self.nodes.insert(node.id, node);
            }
            Object::Service(mut service) => {
                if let Some(previous) = &service.previous_spec
                    && !Arc::ptr_eq(&previous.task, &service.spec.task)
                    && previous.task == service.spec.task
                {
                    let mut shared = (**previous).clone();
                    shared.task = Arc::clone(&service.spec.task);
                    Arc::make_mut(&mut service).previous_spec = Some(Arc::new(shared));
                }
                self.index.service_changed(None, Some(&service))?;
                self.services.insert(service.id, service);
            }
            Object::Task(task) => {
                self.index.task_changed(None, Some(&task))?;
                self.tasks.insert(task.id, task);
            }
            Object::Network(network) => {
                self.index.network_changed(None, Some(&network))?;
                self.networks.insert(network.id, network);
            }
            Object::Secret(secret) => {
                self.index.secret_changed(None, Some(&secret))?;
                self.secrets.insert(secret.id, secret);
            }
            Object::Config(config) => {
                self.index.config_changed(None, Some(&config))?;
                self.configs.insert(config.id, config);
            }
            Object::Attachment(attachment) => {
                self.index.attachment_changed(None, Some(&attachment))?;
                self.attachments.insert(attachment.id, attachment);
            }
        }
        Ok(())
    }
}
