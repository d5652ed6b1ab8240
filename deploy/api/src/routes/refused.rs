//! Routes of the API that are not offered: each says so, and what to do instead.

use std::sync::Arc;

use crate::context::Context;
use crate::error::ApiError;
use crate::request::Request;
use crate::response::{Response, json};
use crate::router::{Route, route};

type Answer = Result<Response, ApiError>;

/// The table of what is not offered.
pub(super) fn routes() -> Vec<Route<Context>> {
    vec![
        route!(POST "/session" => buildkit),
        route!(POST "/grpc" => buildkit),
        route!(POST "/build" => build),
        route!(POST "/build/prune" => nothing_to_prune),
        route!(POST "/build/cancel" => build),
        route!(POST "/auth" => registry_login),
        route!(GET "/images/search" => search),
        route!(POST "/images/{name...}/push" => push),
        route!(GET "/plugins" => no_plugins),
        route!(GET "/plugins/privileges" => plugin),
        route!(POST "/plugins/pull" => plugin),
        route!(POST "/plugins/create" => plugin),
        route!(GET "/plugins/{name...}/json" => no_such_plugin),
        route!(POST "/plugins/{name...}/enable" => plugin),
        route!(POST "/plugins/{name...}/disable" => plugin),
        route!(POST "/plugins/{name...}/upgrade" => plugin),
        route!(POST "/plugins/{name...}/push" => plugin),
        route!(POST "/plugins/{name...}/set" => plugin),
        route!(DELETE "/plugins/{name...}" => plugin),
        route!(PUT "/volumes/{name}" => cluster_volume),
    ]
}

async fn buildkit(_: Arc<Context>, _: Request) -> Answer {
    Err(ApiError::not_implemented(
        "this daemon has no BuildKit: build elsewhere, then `docker save` and `docker load` the image",
    ))
}

async fn build(_: Arc<Context>, _: Request) -> Answer {
    Err(ApiError::not_implemented(
        "build is not available yet: build the image elsewhere, then `docker save` and `docker load` it",
    ))
}

/// There are no builds, so there is no cache of them: `docker system prune` asks for this, too.
async fn nothing_to_prune(_: Arc<Context>, _: Request) -> Answer {
    json(&serde_json::json!({ "CachesDeleted": null, "SpaceReclaimed": 0 }))
}

async fn registry_login(_: Arc<Context>, _: Request) -> Answer {
    Err(ApiError::not_implemented("registries are not available yet, so there is nothing to log in to"))
}

async fn search(_: Arc<Context>, _: Request) -> Answer {
    Err(ApiError::not_implemented("registries are not available yet: there is nothing to search"))
}

async fn push(_: Arc<Context>, _: Request) -> Answer {
    Err(ApiError::not_implemented("push is not available yet: use `docker save` and `docker load`"))
}

async fn no_plugins(_: Arc<Context>, _: Request) -> Answer {
    json(&serde_json::json!([]))
}

/// `docker inspect NAME` asks for plugins last, and says "no such object" only after a "not found".
async fn no_such_plugin(_: Arc<Context>, request: Request) -> Answer {
    Err(ApiError::not_found(format!("plugin \"{}\" not found", request.id())))
}

async fn plugin(_: Arc<Context>, _: Request) -> Answer {
    Err(ApiError::not_implemented("plugins are not offered by Shoal"))
}

async fn cluster_volume(_: Arc<Context>, _: Request) -> Answer {
    Err(ApiError::not_implemented("cluster volumes are not offered by Shoal"))
}
