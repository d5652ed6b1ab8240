//! Changes that leave its life alone: another name, other limits.

use std::sync::Arc;

use shoal_proto::error::{ErrorKind, Failure};

use super::instance::Container;
use super::lifecycle::Phase;
use super::{network, validate};
use crate::engine::Inner;
use crate::model::{UpdateRequest, UpdateResponse};

/// Gives it another name.
pub(crate) async fn rename(inner: &Arc<Inner>, container: &Arc<Container>, name: &str) -> Result<(), Failure> {
    let name = name.strip_prefix('/').unwrap_or(name);
    if name.is_empty() {
        return Err(Failure::invalid("Neither old nor new names may be empty"));
    }
    let _turn = container.operation.lock().await;
    let old = container.name();
    if old == name {
        return Err(Failure::invalid("Renaming a container with the same name as its current name"));
    }
    inner.containers.reserve(name, &container.id).map_err(|failure| {
        // As dockerd, which has the slash before a name in its words.
        let message = failure.message.replace(&format!("name ({name})"), &format!("name (/{name})"));
        Failure::new(failure.kind, format!("Error when allocating new name: {message}"))
    })?;
    name.clone_into(&mut container.record().name);
    inner.containers.release(&old, &container.id);
    container.store().await;
    inner.networks.rename(&container.id, name);
    network::rename_places(inner, container);
    super::tell(inner, container, "rename", &[("oldName", &format!("/{old}"))]);
    Ok(())
}

/// Changes its limits and restart policy.
pub(crate) async fn update(
    inner: &Arc<Inner>,
    container: &Arc<Container>,
    request: &UpdateRequest,
) -> Result<UpdateResponse, Failure> {
    let _turn = container.operation.lock().await;
    if matches!(container.phase(), Phase::Removing | Phase::Dead) {
        return Err(Failure::conflict(format!(
            "cannot update a removed container {}: container is marked for removal and cannot be \"update\"",
            container.id
        )));
    }
    let before = container.record().host_config.clone();
    if before.auto_remove && !matches!(&*request.restart_policy.name, "" | "no") {
        return Err(Failure::conflict(format!(
            "Cannot update container {}: Restart policy cannot be updated because AutoRemove is enabled for the container",
            container.id
        )));
    }
    let mut host = before.clone();
    let warnings = validate::update(&mut host, request)?;
    container.record().host_config = host.clone();
    if container.phase().has_process() {
        let applied = super::launch::apply_limits(inner, container, &host).await;
        if let Err(message) = applied {
            container.record().host_config = before;
            return Err(Failure::new(
                ErrorKind::Internal,
                format!("cannot update container {}: {message}", container.id),
            ));
        }
    }
    container.store().await;
    super::tell(inner, container, "update", &[]);
    Ok(UpdateResponse { warnings: (!warnings.is_empty()).then_some(warnings) })
}
