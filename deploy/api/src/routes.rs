//! The table of all routes.

use crate::context::Context;
use crate::router::{Router, route};
use crate::swarm::{cluster, configs, logs, nodes, secrets, services, tasks};

/// A line of this table.
type Route = crate::router::Route<Context>;

mod checkpoints;
mod containers;
mod debug;
mod exec;
mod files;
mod images;
mod networks;
mod refused;
pub(crate) mod streams;
mod system;
mod volumes;

/// Every route of the Docker Engine API: those that are served, and those that say why they are not.
pub(crate) fn router() -> Router<Context> {
    let mut routes = Vec::new();
    routes.extend(system_routes());
    routes.extend(container_routes());
    routes.extend(file_routes());
    routes.extend(image_routes());
    routes.extend(network_and_volume_routes());
    routes.extend(cluster_routes());
    routes.extend(object_routes());
    routes.extend(refused::routes());
    Router::new(routes)
}

fn system_routes() -> Vec<Route> {
    vec![
        route!(GET "/_ping" => system::ping),
        route!(HEAD "/_ping" => system::ping),
        route!(GET "/version" => system::version),
        route!(GET "/info" => system::info),
        route!(GET "/events" => system::events),
        route!(GET "/system/df" => system::disk_usage),
        route!(GET "/debug/vars" => debug::vars),
        route!(GET "/debug/pprof" => debug::index),
        route!(GET "/debug/pprof/" => debug::index),
        route!(GET "/debug/pprof/goroutine" => debug::dump),
        route!(GET "/debug/pprof/{profile}" => debug::profile),
    ]
}

fn container_routes() -> Vec<Route> {
    vec![
        route!(GET "/containers/json" => containers::list),
        route!(POST "/containers/create" => containers::create),
        route!(POST "/containers/prune" => containers::prune),
        route!(GET "/containers/{id}/json" => containers::inspect),
        route!(GET "/containers/{id}/top" => containers::top),
        route!(GET "/containers/{id}/stats" => streams::stats),
        route!(GET "/containers/{id}/logs" => streams::logs),
        route!(POST "/containers/{id}/attach" => streams::attach),
        route!(GET "/containers/{id}/attach/ws" => streams::attach_websocket),
        route!(POST "/containers/{id}/start" => containers::start),
        route!(POST "/containers/{id}/stop" => containers::stop),
        route!(POST "/containers/{id}/restart" => containers::restart),
        route!(POST "/containers/{id}/kill" => containers::kill),
        route!(POST "/containers/{id}/pause" => containers::pause),
        route!(POST "/containers/{id}/unpause" => containers::unpause),
        route!(POST "/containers/{id}/rename" => containers::rename),
        route!(POST "/containers/{id}/update" => containers::update),
        route!(POST "/containers/{id}/resize" => containers::resize),
        route!(POST "/containers/{id}/wait" => streams::wait),
        route!(POST "/containers/{id}/exec" => exec::create),
        route!(POST "/containers/{id}/checkpoints" => checkpoints::create),
        route!(GET "/containers/{id}/checkpoints" => checkpoints::list),
        route!(DELETE "/containers/{id}/checkpoints/{checkpoint}" => checkpoints::remove),
        // A link is named by two names with a slash.
        route!(DELETE "/containers/{id...}" => containers::remove),
        route!(POST "/exec/{id}/start" => exec::start),
        route!(POST "/exec/{id}/resize" => exec::resize),
        route!(GET "/exec/{id}/json" => exec::inspect),
    ]
}

fn file_routes() -> Vec<Route> {
    vec![
        route!(HEAD "/containers/{id}/archive" => files::stat),
        route!(GET "/containers/{id}/archive" => files::archive),
        route!(PUT "/containers/{id}/archive" => files::extract),
        route!(GET "/containers/{id}/export" => files::export),
        route!(GET "/containers/{id}/changes" => files::changes),
        route!(POST "/commit" => files::commit),
    ]
}

fn image_routes() -> Vec<Route> {
    vec![
        route!(GET "/images/json" => images::list),
        route!(GET "/images/get" => images::save_many),
        route!(POST "/images/create" => images::create),
        route!(POST "/images/load" => images::load),
        route!(POST "/images/prune" => images::prune),
        route!(GET "/images/{name...}/json" => images::inspect),
        route!(GET "/images/{name...}/history" => images::history),
        route!(GET "/images/{name...}/get" => images::save_one),
        route!(POST "/images/{name...}/tag" => images::tag),
        route!(DELETE "/images/{name...}" => images::remove),
        route!(GET "/distribution/{name...}/json" => images::distribution),
    ]
}

fn network_and_volume_routes() -> Vec<Route> {
    vec![
        route!(GET "/networks" => networks::list),
        // As dockerd, which has no other route that ends so.
        route!(GET "/networks/" => networks::list),
        route!(POST "/networks/create" => networks::create),
        route!(POST "/networks/prune" => networks::prune),
        route!(GET "/networks/{id...}" => networks::inspect),
        route!(DELETE "/networks/{id...}" => networks::remove),
        route!(POST "/networks/{id...}/connect" => networks::connect),
        route!(POST "/networks/{id...}/disconnect" => networks::disconnect),
        route!(GET "/volumes" => volumes::list),
        route!(POST "/volumes/create" => volumes::create),
        route!(POST "/volumes/prune" => volumes::prune),
        route!(GET "/volumes/{name}" => volumes::inspect),
        route!(DELETE "/volumes/{name}" => volumes::remove),
    ]
}

fn cluster_routes() -> Vec<Route> {
    vec![
        route!(GET "/swarm" => cluster::inspect),
        route!(POST "/swarm/init" => cluster::init),
        route!(POST "/swarm/join" => cluster::join),
        route!(POST "/swarm/leave" => cluster::leave),
        route!(POST "/swarm/update" => cluster::update),
        route!(GET "/swarm/unlockkey" => cluster::unlock_key),
        route!(POST "/swarm/unlock" => cluster::unlock),
        route!(GET "/nodes" => nodes::list),
        route!(GET "/nodes/{id}" => nodes::inspect),
        route!(POST "/nodes/{id}/update" => nodes::update),
        route!(DELETE "/nodes/{id}" => nodes::remove),
    ]
}

fn object_routes() -> Vec<Route> {
    vec![
        route!(GET "/services" => services::list),
        route!(POST "/services/create" => services::create),
        route!(GET "/services/{id}" => services::inspect),
        route!(DELETE "/services/{id}" => services::remove),
        route!(POST "/services/{id}/update" => services::update),
        route!(GET "/services/{id}/logs" => logs::of_service),
        route!(GET "/tasks" => tasks::list),
        route!(GET "/tasks/{id}" => tasks::inspect),
        route!(GET "/tasks/{id}/logs" => logs::of_task),
        route!(GET "/secrets" => secrets::list),
        route!(POST "/secrets/create" => secrets::create),
        route!(GET "/secrets/{id}" => secrets::inspect),
        route!(DELETE "/secrets/{id}" => secrets::remove),
        route!(POST "/secrets/{id}/update" => secrets::update),
        route!(GET "/configs" => configs::list),
        route!(POST "/configs/create" => configs::create),
        route!(GET "/configs/{id}" => configs::inspect),
        route!(DELETE "/configs/{id}" => configs::remove),
        route!(POST "/configs/{id}/update" => configs::update),
    ]
}
