//! Containers: everything that is a question and an answer.

use std::sync::Arc;

use http::StatusCode;
use serde_json::{Map, Value};
use shoal_engine::container::{ListOptions, RemoveOptions, StopOptions};
use shoal_engine::model::{CreateRequest, HostConfig, NetworkingConfig, UpdateRequest};
use shoal_engine::stats::Cgroups;

use super::checkpoints;
use crate::context::Context;
use crate::error::ApiError;
use crate::gate;
use crate::request::{Request, decode_value};
use crate::response::{Response, empty, json, json_status, no_content};

type Answer = Result<Response, ApiError>;

pub(super) async fn list(context: Arc<Context>, request: Request) -> Answer {
    let query = &request.query;
    let mut filters = query.filters()?;
    for old in ["since", "before"] {
        if let Some(value) = query.non_empty(old) {
            filters = filters.with(old, value);
        }
    }
    let limit = query.number::<i64>("limit")?.and_then(|limit| usize::try_from(limit).ok()).filter(|limit| *limit > 0);
    let options = ListOptions { all: query.flag("all"), limit, size: query.flag("size"), filters };
    let mut list = context.engine.containers().list(options).await?;
    gate::shown::containers(&mut list, request.version);
    json(&list)
}

/// Takes a member out of an object, however its name is spelt; one that is spelt exactly so wins.
fn take(members: &mut Map<String, Value>, name: &str) -> Value {
    let spellings: Vec<String> = members.keys().filter(|key| key.eq_ignore_ascii_case(name)).cloned().collect();
    let mut taken: Vec<_> = spellings.iter().filter_map(|key| Some((key == name, members.remove(key)?))).collect();
    taken.sort_by_key(|(exact, _)| !exact);
    taken.into_iter().next().map_or(Value::Null, |(_, value)| value)
}

/// The two objects that stand among the members of a container's configuration are decoded on their own.
fn create_request(mut body: Value) -> Result<CreateRequest, ApiError> {
    let mut other = |name: &str| body.as_object_mut().map_or(Value::Null, |members| take(members, name));
    let (host_config, networking_config, runtime) = (other("HostConfig"), other("NetworkingConfig"), other("Runtime"));
    let mut host_config = decode_value::<Option<HostConfig>>(host_config)?.unwrap_or_default();
    // Where docker-py puts it. dockerd passes over it there, which is not what was asked for.
    match runtime {
        Value::Null => {}
        Value::String(name) if host_config.runtime.is_empty() => host_config.runtime = name,
        Value::String(_) => {}
        _ => return Err(ApiError::invalid("Runtime is not a text: give the name of a runtime")),
    }
    Ok(CreateRequest {
        config: decode_value(body)?,
        host_config,
        networking_config: decode_value::<Option<NetworkingConfig>>(networking_config)?.unwrap_or_default(),
        ..CreateRequest::default()
    })
}

pub(super) async fn create(context: Arc<Context>, mut request: Request) -> Answer {
    let mut body = create_request(request.json().await?)?;
    body.platform = request.query.text("platform").to_owned();
    if body.config.image.is_empty() {
        return Err(ApiError::invalid("no image was given: the member Image is missing or empty"));
    }
    let told = gate::create(&mut body, request.version, Cgroups::of_host().is_unified())?;
    let mut created = context.engine.containers().create(request.query.non_empty("name"), body).await?;
    created.warnings.extend(told);
    json_status(StatusCode::CREATED, &created)
}

pub(super) async fn inspect(context: Arc<Context>, request: Request) -> Answer {
    let mut shown = context.engine.containers().inspect(request.id(), request.query.flag("size")).await?;
    gate::shown::container(&mut shown, request.version);
    json(&shown)
}

pub(super) async fn top(context: Arc<Context>, request: Request) -> Answer {
    json(&context.engine.containers().top(request.id(), request.query.text("ps_args")).await?)
}

pub(super) async fn start(context: Arc<Context>, request: Request) -> Answer {
    // As dockerd: what is longer than `null` and the like was a configuration of the host, once.
    let length = request.header("content-length").parse().unwrap_or(0_u64);
    if length > 7 || request.header("transfer-encoding").eq_ignore_ascii_case("chunked") {
        return Err(ApiError::invalid(
            "starting container with non-empty request body was deprecated since API v1.22 and removed in v1.24",
        ));
    }
    if !checkpoints::start_from(&context, &request).await? {
        context.engine.containers().start(request.id()).await?;
    }
    Ok(no_content())
}

fn stop_options(request: &Request) -> Result<StopOptions, ApiError> {
    let mut options = StopOptions { signal: request.query.non_empty("signal"), timeout_s: request.query.number("t")? };
    gate::stop(&mut options, request.version);
    Ok(options)
}

pub(super) async fn stop(context: Arc<Context>, request: Request) -> Answer {
    context.engine.containers().stop(request.id(), stop_options(&request)?).await?;
    Ok(no_content())
}

pub(super) async fn restart(context: Arc<Context>, request: Request) -> Answer {
    context.engine.containers().restart(request.id(), stop_options(&request)?).await?;
    Ok(no_content())
}

pub(super) async fn kill(context: Arc<Context>, request: Request) -> Answer {
    let signal = request.query.non_empty("signal");
    context.engine.containers().kill(request.id(), signal.as_deref()).await?;
    Ok(no_content())
}

pub(super) async fn pause(context: Arc<Context>, request: Request) -> Answer {
    context.engine.containers().pause(request.id()).await?;
    Ok(no_content())
}

pub(super) async fn unpause(context: Arc<Context>, request: Request) -> Answer {
    context.engine.containers().unpause(request.id()).await?;
    Ok(no_content())
}

pub(super) async fn rename(context: Arc<Context>, request: Request) -> Answer {
    let name = request.query.text("name");
    if name.is_empty() {
        return Err(ApiError::invalid("Neither old nor new names may be empty"));
    }
    context.engine.containers().rename(request.id(), name).await?;
    Ok(no_content())
}

pub(super) async fn update(context: Arc<Context>, mut request: Request) -> Answer {
    let mut body: UpdateRequest = request.json().await?;
    gate::update(&mut body, request.version);
    json(&context.engine.containers().update(request.id(), body).await?)
}

/// Height and width of a terminal, as `resize` gives them.
pub(super) fn terminal_size(request: &Request) -> Result<(u16, u16), ApiError> {
    let size = |key: &str| {
        let missing = || ApiError::invalid(format!("the parameter {key} (a number of characters) is missing"));
        request.query.number(key)?.ok_or_else(missing)
    };
    Ok((size("h")?, size("w")?))
}

pub(super) async fn resize(context: Arc<Context>, request: Request) -> Answer {
    let (height, width) = terminal_size(&request)?;
    context.engine.containers().resize(request.id(), height, width).await?;
    Ok(empty(StatusCode::OK))
}

pub(super) async fn remove(context: Arc<Context>, request: Request) -> Answer {
    let query = &request.query;
    let options = RemoveOptions { force: query.flag("force"), volumes: query.flag("v"), link: query.flag("link") };
    // A link is named by two names with a slash.
    context.engine.containers().remove(request.id(), options).await?;
    Ok(no_content())
}

pub(super) async fn prune(context: Arc<Context>, request: Request) -> Answer {
    json(&context.engine.containers().prune(request.query.filters()?).await?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_creation_is_read_whatever_the_case_of_its_members() {
        let body = r#"{"image":"a","Cmd":"sh","Labels":{"Image":"b"},"healthCheck":{"RETRIES":3},
            "hostConfig":{"pidsLimit":5,"restartpolicy":{"name":"always"}},
            "NetworkingConfig":{"endpointsConfig":{"net":{"ipamConfig":{"IPv4Address":"10.0.0.9"}}}}}"#;
        let made = create_request(serde_json::from_str(body).expect("json")).expect("request");
        assert_eq!((made.config.image.as_str(), made.config.labels["Image"].as_str()), ("a", "b"));
        assert_eq!(
            (made.config.cmd, made.config.healthcheck.expect("check").retries),
            (Some(vec!["sh".to_owned()]), 3)
        );
        assert_eq!((made.host_config.pids_limit, made.host_config.restart_policy.name.as_str()), (Some(5), "always"));
        let endpoints = made.networking_config.endpoints_config.expect("endpoints");
        let endpoint = endpoints["net"].as_ref().expect("settings");
        assert_eq!(endpoint.ipam_config.as_ref().expect("addresses").ipv4_address, "10.0.0.9");
        assert!(create_request(serde_json::json!({ "HostConfig": null, "Image": "a" })).is_ok());
        assert!(create_request(serde_json::json!([])).is_err());
        let beside = serde_json::json!({ "Runtime": "runc", "HostConfig": null });
        assert_eq!(create_request(beside).expect("request").host_config.runtime, "runc");
        assert!(create_request(serde_json::json!({ "Runtime": null })).is_ok());
        let error = create_request(serde_json::json!({ "Runtime": 5 })).expect_err("no text");
        assert!(error.message().contains("Runtime"), "{}", error.message());
        let twice = serde_json::json!({ "hostconfig": { "PidsLimit": 1 }, "HostConfig": { "PidsLimit": 2 } });
        assert_eq!(create_request(twice).expect("request").host_config.pids_limit, Some(2));
    }
}
