//! The table of all routes.

use crate::router::{Route, Router, route};

mod containers;
mod exec;
mod refused;
mod streams;
mod system;

/// Every route of the Docker Engine API: those that are served, and those that say why they are not.
pub(crate) fn router() -> Router {
    let mut routes = Vec::new();
    routes.extend(system_routes());
    routes.extend(container_routes());
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
        route!(DELETE "/containers/{id}" => containers::remove),
        route!(POST "/exec/{id}/start" => exec::start),
        route!(POST "/exec/{id}/resize" => exec::resize),
        route!(GET "/exec/{id}/json" => exec::inspect),
    ]
}
