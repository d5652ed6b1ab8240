//! Secrets.

use std::sync::Arc;

use http::StatusCode;
use shoal_proto::control::{ControlRequest, ControlResponse};

use super::access::{Cluster, unexpected};
use super::{convert, find, gate, model};
use crate::context::Context;
use crate::error::ApiError;
use crate::request::Request;
use crate::response::{Response, empty, json, json_status, no_content};

type Answer = Result<Response, ApiError>;

pub(crate) async fn list(context: Arc<Context>, request: Request) -> Answer {
    let filters = request.query.filters()?;
    filters.check(&["id", "label", "name", "names"])?;
    let cluster = Cluster::open(&context).await?;
    let secrets = cluster.secrets().filter(|secret| {
        filters.matches_prefix("id", &secret.id.to_string())
            && filters.matches_prefix("name", &secret.spec.name)
            && filters.matches_exactly("names", &secret.spec.name)
            && filters.matches_labels("label", &secret.spec.labels)
    });
    json(&secrets.map(|secret| convert::secret(secret)).collect::<Vec<_>>())
}

pub(crate) async fn inspect(context: Arc<Context>, request: Request) -> Answer {
    let cluster = Cluster::open(&context).await?;
    json(&convert::secret(find::secret(&cluster, request.id())?))
}

pub(crate) async fn create(context: Arc<Context>, mut request: Request) -> Answer {
    let cluster = Cluster::open(&context).await?;
    let mut body: model::PayloadSpec = request.json_without_nulls().await?;
    gate::payload(&mut body, request.version);
    match cluster.control(ControlRequest::CreateSecret(convert::secret_spec(body)?)).await? {
        ControlResponse::Secret(secret) => {
            json_status(StatusCode::CREATED, &serde_json::json!({ "ID": secret.id.to_string() }))
        }
        other => Err(unexpected(&other)),
    }
}

pub(crate) async fn update(context: Arc<Context>, mut request: Request) -> Answer {
    let version = request.query.version("secret")?;
    let mut body: model::PayloadSpec = request.json_without_nulls().await?;
    gate::payload(&mut body, request.version);
    let cluster = Cluster::open(&context).await?;
    let secret = find::secret(&cluster, request.id())?;
    let given = convert::secret_spec(body)?;
    let renamed = !given.name.is_empty() && given.name != secret.spec.name;
    if renamed || (!given.data.is_empty() && given.data != secret.spec.data) {
        return Err(ApiError::invalid("only updates to Labels are allowed"));
    }
    let (id, labels) = (secret.id, given.labels);
    cluster.control(ControlRequest::UpdateSecret { id, version, labels }).await?;
    Ok(empty(StatusCode::OK))
}

pub(crate) async fn remove(context: Arc<Context>, request: Request) -> Answer {
    let cluster = Cluster::open(&context).await?;
    let id = find::secret(&cluster, request.id())?.id;
    cluster.control(ControlRequest::RemoveSecret(id)).await?;
    Ok(no_content())
}
