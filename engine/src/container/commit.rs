//! An image of a container as it is now.

use std::sync::Arc;

use shoal_proto::error::Failure;

use super::instance::Container;
use super::lifecycle::Phase;
use super::{merge, stop};
use crate::engine::Inner;
use crate::image::Digest;
use crate::image::commit::NewImageRequest;
use crate::model::{ContainerConfig, ImageConfig};

/// What is asked of a commit.
#[derive(Debug, Clone, Default)]
pub struct CommitRequest {
    /// Repository; empty for an image without name.
    pub repository: String,
    /// Tag; empty is `latest`.
    pub tag: String,
    /// Who made it.
    pub author: String,
    /// Comment.
    pub comment: String,
    /// Freeze the container meanwhile, if it runs?
    pub pause: bool,
    /// Dockerfile instructions.
    pub changes: Vec<String>,
    /// Defaults of containers; what is missing there comes from the container, everything without it.
    pub config: Option<ContainerConfig>,
}

/// Makes the image. What was begun is finished though the caller leaves: a container must not stay frozen.
pub(crate) async fn commit(
    inner: &Arc<Inner>,
    container: &Arc<Container>,
    request: CommitRequest,
) -> Result<Digest, Failure> {
    let (inner, container) = (Arc::clone(inner), Arc::clone(container));
    let work = tokio::spawn(async move { carry_out(&inner, &container, request).await });
    work.await.map_err(|error| Failure::internal(&error))?
}

async fn carry_out(inner: &Arc<Inner>, container: &Arc<Container>, request: CommitRequest) -> Result<Digest, Failure> {
    let new = plan(inner, container, &request)?;
    // As dockerd: one that does not run, or is frozen already, needs no pause.
    let paused = request.pause && stop::pause(inner, container).await.is_ok();
    let images = inner.images.clone();
    let made = tokio::task::spawn_blocking(move || images.commit(&new)).await;
    let made = made.unwrap_or_else(|error| Err(Failure::internal(&error)));
    let told = made.map(|(id, name)| {
        let id_text = id.to_string();
        let more = [("comment", request.comment.as_str()), ("imageID", &id_text), ("imageRef", &name)];
        super::tell(inner, container, "commit", &more);
        id
    });
    if paused && let Err(failure) = stop::unpause(inner, container).await {
        tracing::warn!(container = %container.id, error = failure.message, "cannot go on after a commit");
    }
    told
}

fn plan(inner: &Arc<Inner>, container: &Arc<Container>, request: &CommitRequest) -> Result<NewImageRequest, Failure> {
    let record = container.record().clone();
    match record.state.phase {
        Phase::Dead => {
            return Err(Failure::conflict(format!("You cannot commit container {} which is Dead", container.id)));
        }
        Phase::Removing => {
            let message = format!("You cannot commit container {} which is being removed", container.id);
            return Err(Failure::conflict(message));
        }
        _ => {}
    }
    let mut config = ImageConfig::from(request.config.as_ref().unwrap_or(&record.config));
    inner.images.check_commit(&request.repository, &request.tag, &mut config, &request.changes)?;
    let merged = merge::merge(ContainerConfig::from(config), &ImageConfig::from(&record.config))?;
    Ok(NewImageRequest {
        repository: request.repository.clone(),
        tag: request.tag.clone(),
        author: request.author.clone(),
        comment: request.comment.clone(),
        created_by: record.config.cmd.iter().flatten().cloned().collect::<Vec<_>>().join(" "),
        config: ImageConfig::from(&merged),
        container: record.id,
        container_config: record.config,
        image: record.image,
        layers: record.layers,
    })
}
