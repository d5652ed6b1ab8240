//! `/debug`: the inside of the daemon, in debug mode only, as with dockerd.
//!
//! ## Design notes
//! What dockerd has there is Go's: `vars`, and profiles in Go's own format. `vars` and the dump of what everything is doing
//! (`pprof/goroutine`) have a meaning here; profiles are refused, since tools of the system (`perf`) take them.

use std::sync::Arc;

use http::StatusCode;
use serde_json::json;

use crate::context::Context;
use crate::error::ApiError;
use crate::request::Request;
use crate::response::{self, Response, json as json_response};

type Answer = Result<Response, ApiError>;

const INDEX: &str =
    "/debug/vars: command line and process\n/debug/pprof/goroutine: what threads and containers are doing\n";

fn only_in_debug_mode(context: &Context) -> Result<(), ApiError> {
    if context.facts.load().debug { Ok(()) } else { Err(ApiError::not_found("page not found")) }
}

pub(super) async fn index(context: Arc<Context>, _: Request) -> Answer {
    only_in_debug_mode(&context)?;
    Ok(response::text(StatusCode::OK, INDEX))
}

pub(super) async fn vars(context: Arc<Context>, _: Request) -> Answer {
    only_in_debug_mode(&context)?;
    let words: Vec<String> = std::env::args_os().map(|word| word.to_string_lossy().into_owned()).collect();
    let pages = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let pages: Vec<u64> = pages.split_whitespace().filter_map(|number| number.parse().ok()).collect();
    let page = u64::try_from(rustix::param::page_size()).unwrap_or(4096);
    let bytes = |index: usize| pages.get(index).copied().unwrap_or_default() * page;
    json_response(&json!({ "cmdline": words, "memstats": { "Sys": bytes(0), "HeapSys": bytes(1) } }))
}

pub(super) async fn dump(context: Arc<Context>, _: Request) -> Answer {
    only_in_debug_mode(&context)?;
    let dump = Arc::clone(&context.dump);
    let text = tokio::task::spawn_blocking(move || dump()).await;
    Ok(response::text(StatusCode::OK, text.map_err(|error| shoal_proto::error::Failure::internal(&error))?))
}

pub(super) async fn profile(context: Arc<Context>, _: Request) -> Answer {
    only_in_debug_mode(&context)?;
    Err(ApiError::not_implemented("profiles of Go do not exist here: profile the process with `perf`"))
}
