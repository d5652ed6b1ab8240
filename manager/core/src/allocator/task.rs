//! Addresses of tasks: `NEW` becomes `PENDING`.

use std::collections::BTreeMap;
use std::sync::Arc;

use ipnet::Ipv4Net;
use shoal_proto::id::{NetworkId, ServiceId, TaskId};
use shoal_proto::object::{Network, NetworkAttachment, Service, Task, TaskStatus};
use shoal_proto::task_state::TaskState;

use super::{free_address, incomplete_reason, is_managed, uses_ingress};
use crate::change::TaskPatch;
use crate::draft::Draft;

/// Gives their addresses to the new tasks of a service, as far as there are any.
pub(crate) fn allocate_tasks(draft: &mut Draft<'_>, service: ServiceId) {
    let tasks: Vec<TaskId> = draft.store.tasks_unallocated_of(service).collect();
    let mut incomplete = None;
    let mut refused = false;
    // Once a network is full it stays full for this pass.
    let mut full: BTreeMap<NetworkId, String> = BTreeMap::new();
    for id in tasks {
        let Some(task) = draft.store.task(id).cloned() else { continue };
        let reason = incomplete.get_or_insert_with(|| {
            draft.store.service(service).and_then(|known| incomplete_reason(&draft.store, known))
        });
        let allocated = match reason {
            Some(reason) => Err(reason.clone()),
            None => allocate(draft, &task, &mut full),
        };
        match allocated {
            Ok(networks) => {
                let status = TaskStatus {
                    state: TaskState::Pending,
                    timestamp: draft.now,
                    message: waiting_message(&task),
                    ..TaskStatus::default()
                };
                let networks = (networks != task.networks).then_some(networks);
                draft.patch_task(id, TaskPatch { status: Some(status), networks, ..TaskPatch::default() });
            }
            Err(reason) => {
                if !refused {
                    draft.wait(Some(service), Some(id), reason.clone());
                }
                refused = true;
                refuse(draft, &task, &reason);
            }
        }
    }
}

/// What the scheduler's queue shows.
const PENDING_MESSAGE: &str = "pending task scheduling";

/// The first status of a task: one that needs no addresses is ready for the scheduler at once.
pub(crate) fn first_status(draft: &Draft<'_>, service: &Service) -> TaskStatus {
    let plain = service.spec.task.networks.is_empty() && service.spec.endpoint.ports.is_empty();
    let (state, message) =
        if plain { (TaskState::Pending, PENDING_MESSAGE.to_owned()) } else { (TaskState::New, String::new()) };
    TaskStatus { state, timestamp: draft.now, message, ..TaskStatus::default() }
}

/// Restarted tasks keep the words on why they were restarted.
fn waiting_message(task: &Task) -> String {
    if task.status.message.is_empty() || task.restart.crash_streak < 2 {
        PENDING_MESSAGE.to_owned()
    } else {
        task.status.message.clone()
    }
}

fn refuse(draft: &mut Draft<'_>, task: &Task, reason: &str) {
    if task.status.error != reason {
        let status = TaskStatus { timestamp: draft.now, error: reason.to_owned(), ..task.status.clone() };
        draft.set_status(task.id, status);
    }
}

fn allocate(
    draft: &Draft<'_>,
    task: &Task,
    full: &mut BTreeMap<NetworkId, String>,
) -> Result<Vec<NetworkAttachment>, String> {
    let store = &draft.store;
    let mut attachments = Vec::new();
    let service = store.service(task.service_id).filter(|service| service.spec_version == task.spec_version);
    if uses_ingress(&task.ports) || service.is_some_and(|service| uses_ingress(&service.spec.endpoint.ports)) {
        let ingress = store.ingress_network().filter(|network| !network.pending_delete);
        let ingress = ingress.ok_or("service needs ingress network, but no ingress network is present")?;
        attachments.push(attach(draft, ingress, Vec::new(), full)?);
    }
    for wanted in &task.spec.networks {
        let network = store.network(wanted.target).ok_or_else(|| format!("network {} not found", wanted.target))?;
        attachments.push(attach(draft, network, wanted.aliases.clone(), full)?);
    }
    Ok(attachments)
}

fn attach(
    draft: &Draft<'_>,
    network: &Arc<Network>,
    aliases: Vec<String>,
    full: &mut BTreeMap<NetworkId, String>,
) -> Result<NetworkAttachment, String> {
    let mut attachment = NetworkAttachment { network: network.id, addr: None, aliases };
    if !is_managed(network) {
        return Ok(attachment);
    }
    if let Some(reason) = full.get(&network.id) {
        return Err(reason.clone());
    }
    let addr = free_address(draft.base(), &draft.store, network).inspect_err(|reason| {
        full.insert(network.id, reason.clone());
    })?;
    let prefix = network.allocation.as_ref().map_or(32, |allocation| allocation.subnet.prefix_len());
    attachment.addr = Ipv4Net::new(addr, prefix).ok();
    Ok(attachment)
}
