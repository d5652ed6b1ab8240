//! The cluster itself: inspect, init, join, leave, update, unlock.

use std::sync::Arc;

use http::StatusCode;
use shoal_proto::control::ControlRequest;
use shoal_proto::error::Failure;

use super::access::Cluster;
use super::{convert, gate, model};
use crate::context::Context;
use crate::error::ApiError;
use crate::node::LocalNodeState;
use crate::request::Request;
use crate::response::{Response, empty, json};

type Answer = Result<Response, ApiError>;

const MEMBER: &str = "This node is already part of a swarm. Use \"docker swarm leave\" to leave this swarm and join \
                      another one.";
const NOT_MEMBER: &str = "This node is not part of a swarm";

fn no_cluster() -> ApiError {
    Failure::unavailable("the cluster is not there yet: try again in a moment").into()
}

pub(crate) async fn inspect(context: Arc<Context>, _: Request) -> Answer {
    let cluster = Cluster::open(&context).await?;
    let object = cluster.cluster().ok_or_else(no_cluster)?;
    json(&model::Swarm {
        info: convert::cluster_info(object, &cluster),
        join_tokens: model::JoinTokens {
            worker: object.root_ca.worker_token.clone(),
            manager: object.root_ca.manager_token.clone(),
        },
    })
}

pub(crate) async fn init(context: Arc<Context>, mut request: Request) -> Answer {
    let mut body: model::InitBody = request.json_without_nulls().await?;
    gate::init(&mut body, request.version);
    let init = convert::init_request(body)?;
    let state = context.node.status().state;
    if state != LocalNodeState::Inactive && !init.force_new_cluster {
        return Err(Failure::unavailable(MEMBER).into());
    }
    let id = context.node.init(init).await?;
    context.membership_changed.notify_one();
    json(&id.to_string())
}

pub(crate) async fn join(context: Arc<Context>, mut request: Request) -> Answer {
    let body: model::JoinBody = request.json_without_nulls().await?;
    let join = convert::join_request(body)?;
    if context.node.status().state != LocalNodeState::Inactive {
        return Err(Failure::unavailable(MEMBER).into());
    }
    context.node.join(join).await?;
    context.membership_changed.notify_one();
    Ok(empty(StatusCode::OK))
}

pub(crate) async fn leave(context: Arc<Context>, request: Request) -> Answer {
    if context.node.status().state == LocalNodeState::Inactive {
        return Err(Failure::unavailable(NOT_MEMBER).into());
    }
    context.node.leave(request.query.flag("force")).await?;
    Ok(empty(StatusCode::OK))
}

pub(crate) async fn update(context: Arc<Context>, mut request: Request) -> Answer {
    let version = request.query.version("swarm")?;
    let body: model::ClusterSpec = request.json_without_nulls().await?;
    let cluster = Cluster::open(&context).await?;
    let object = cluster.cluster().ok_or_else(no_cluster)?;
    let change = ControlRequest::UpdateCluster {
        version,
        spec: Box::new(convert::cluster_spec(body, &object.spec, false)?),
        rotate_worker_token: request.query.flag("rotateWorkerToken"),
        rotate_manager_token: request.query.flag("rotateManagerToken"),
        rotate_unlock_key: request.query.flag("rotateManagerUnlockKey"),
    };
    cluster.control(change).await?;
    Ok(empty(StatusCode::OK))
}

pub(crate) async fn unlock_key(context: Arc<Context>, _: Request) -> Answer {
    Cluster::open(&context).await?;
    json(&model::UnlockBody { unlock_key: context.node.unlock_key().await? })
}

pub(crate) async fn unlock(context: Arc<Context>, mut request: Request) -> Answer {
    let body: model::UnlockBody = request.json_without_nulls().await?;
    match context.node.status().state {
        LocalNodeState::Locked => {}
        LocalNodeState::Inactive => return Err(Failure::unavailable(NOT_MEMBER).into()),
        _ => return Err(Failure::conflict("swarm is not locked").into()),
    }
    context.node.unlock(body.unlock_key).await?;
    context.membership_changed.notify_one();
    Ok(empty(StatusCode::OK))
}
