//! The daemon itself: ping, version, info, events.

use std::sync::Arc;

use futures::StreamExt;
use http::{HeaderValue, StatusCode, header};
use serde_json::{Value, json};
use shoal_engine::container::ListOptions;
use shoal_engine::events::Delivery;
use shoal_engine::model::image::ImageListOptions;
use shoal_proto::error::Failure;

use super::images::count_users;
use super::streams::json_line;
use crate::context::{Context, DaemonFacts};
use crate::error::ApiError;
use crate::gate;
use crate::node::{LocalNodeState, LocalNodeStatus};
use crate::request::Request;
use crate::response::{self, Response, json as json_response};
use crate::swarm;
use crate::version::ApiVersion;

type Answer = Result<Response, ApiError>;

pub(super) async fn ping(context: Arc<Context>, _: Request) -> Answer {
    let status = context.node.status();
    let mut answer = response::text(StatusCode::OK, "OK");
    let headers = answer.headers_mut();
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache, no-store, must-revalidate"));
    headers.insert(header::PRAGMA, HeaderValue::from_static("no-cache"));
    // No BuildKit: the classic builder, whose route tells that it is not available.
    headers.insert("builder-version", HeaderValue::from_static("1"));
    headers.insert("swarm", HeaderValue::from_static(swarm_header(&status)));
    Ok(answer)
}

fn swarm_header(status: &LocalNodeStatus) -> &'static str {
    match status.state {
        LocalNodeState::Active if status.control_available => "active/manager",
        LocalNodeState::Active => "active/worker",
        other => other.as_str(),
    }
}

pub(super) async fn version(context: Arc<Context>, _: Request) -> Answer {
    let engine = context.engine.version();
    let product = &context.version;
    let experimental = context.facts.load().experimental;
    let (max, min) = (ApiVersion::MAX.to_string(), ApiVersion::MIN.to_string());
    let mut components = vec![json!({
        "Name": "Engine",
        "Version": product.version,
        "Details": {
            "ApiVersion": max,
            "Arch": engine.arch,
            "BuildTime": product.build_time,
            "Experimental": experimental.to_string(),
            "GitCommit": product.git_commit,
            "GoVersion": "",
            "KernelVersion": engine.kernel_version,
            "MinAPIVersion": min,
            "Os": engine.os,
        },
    })];
    let (runtime, runtime_version) = &engine.runtime;
    if !runtime.is_empty() {
        components.push(json!({ "Name": runtime, "Version": runtime_version, "Details": { "GitCommit": "" } }));
    }
    json_response(&json!({
        "Platform": { "Name": "Shoal" },
        "Components": components,
        "Version": product.version,
        "ApiVersion": max,
        "MinAPIVersion": min,
        "GitCommit": product.git_commit,
        "GoVersion": "",
        "Os": engine.os,
        "Arch": engine.arch,
        "KernelVersion": engine.kernel_version,
        "BuildTime": product.build_time,
    }))
}

pub(super) async fn info(context: Arc<Context>, request: Request) -> Answer {
    let engine = serde_json::to_value(context.engine.info().await).map_err(|error| Failure::internal(&error))?;
    let facts = context.facts.load();
    let [http_proxy, https_proxy, no_proxy] = &facts.proxies;
    let mut info = json!({
        "Plugins": {
            "Volume": ["local"],
            "Network": ["bridge", "host", "null", "overlay"],
            "Authorization": null,
            "Log": ["journald", "json-file", "local", "none", "syslog"],
        },
        "IndexServerAddress": "https://index.docker.io/v1/",
        "RegistryConfig": registry_config(&facts),
        "GenericResources": generic_resources(&facts),
        "HttpProxy": http_proxy,
        "HttpsProxy": https_proxy,
        "NoProxy": no_proxy,
        "ExperimentalBuild": facts.experimental,
        "Isolation": "",
        "ContainerdCommit": { "ID": "" },
        "RuncCommit": { "ID": "" },
        "InitCommit": { "ID": "" },
        "ProductLicense": "",
        "CDISpecDirs": context.engine.device_folders(),
        "DiscoveredDevices": discovered_devices(&context).await,
    });
    if let (Value::Object(info), Value::Object(engine)) = (&mut info, engine) {
        info.extend(engine);
        info.insert("ServerVersion".to_owned(), json!(context.version.version));
        info.insert("Debug".to_owned(), json!(facts.debug));
        info.insert("Warnings".to_owned(), warnings(info.get("Warnings"), &facts));
        info.insert("Swarm".to_owned(), swarm::info::info(&context).await);
        gate::shown::info(info, request.version);
    }
    json_response(&info)
}

async fn discovered_devices(context: &Context) -> Value {
    let devices = context.engine.devices().await;
    let shown: Vec<Value> = devices.iter().map(|name| json!({ "Source": "cdi", "ID": name })).collect();
    if shown.is_empty() { Value::Null } else { Value::Array(shown) }
}

fn registry_config(facts: &DaemonFacts) -> Value {
    let index = |name: &str, mirrors: &[String], secure: bool| {
        (name.to_owned(), json!({ "Name": name, "Mirrors": mirrors, "Secure": secure, "Official": secure }))
    };
    let insecure = facts.insecure_hosts.iter().map(|name| index(name, &[], false));
    let indexes: serde_json::Map<_, _> =
        std::iter::once(index("docker.io", &facts.mirrors, true)).chain(insecure).collect();
    json!({
        "InsecureRegistryCIDRs": facts.insecure_subnets,
        "IndexConfigs": indexes,
        "Mirrors": facts.mirrors,
    })
}

fn generic_resources(facts: &DaemonFacts) -> Value {
    let discrete = |(kind, value): (&String, &i64)| json!({ "DiscreteResourceSpec": { "Kind": kind, "Value": value } });
    if facts.generic_resources.is_empty() {
        Value::Null
    } else {
        facts.generic_resources.iter().map(discrete).collect()
    }
}

fn warnings(of_engine: Option<&Value>, facts: &DaemonFacts) -> Value {
    let of_engine = of_engine.and_then(Value::as_array).into_iter().flatten().cloned();
    let all: Vec<Value> = facts.warnings.iter().map(|text| json!(text)).chain(of_engine).collect();
    if all.is_empty() { Value::Null } else { Value::Array(all) }
}

pub(super) async fn events(context: Arc<Context>, request: Request) -> Answer {
    let (since, until) = (request.query.instant("since")?, request.query.instant("until")?);
    if let (Some(since), Some(until)) = (since, until)
        && since > until
    {
        let (since, until) = (request.query.text("since"), request.query.text("until"));
        return Err(ApiError::invalid(format!("`since` time ({since}) cannot be after `until` time ({until})")));
    }
    let events = context.engine.events().subscribe(since, until, request.query.filters()?)?;
    let lines = events.filter_map(|delivery| async move {
        match delivery {
            Delivery::Event(event) => Some(json_line(&event)),
            Delivery::Lost(count) => {
                tracing::warn!(count, "a client reads events too slowly: some were not sent to it");
                None
            }
        }
    });
    Ok(response::stream("application/json", lines))
}

/// What can be asked for alone.
const USAGES: [&str; 4] = ["container", "image", "volume", "build-cache"];

/// What the engine keeps on the disk, measured now.
pub(super) async fn disk_usage(context: Arc<Context>, request: Request) -> Answer {
    let wanted = if request.version.at_least(42) { request.query.all("type") } else { Vec::new() };
    if let Some(unknown) = wanted.iter().find(|kind| !USAGES.contains(&kind.as_str())) {
        return Err(ApiError::invalid(format!("unknown object type: {unknown}")));
    }
    let wants = |kind: &str| wanted.is_empty() || wanted.iter().any(|given| given == kind);
    let mut usage = json!({ "LayersSize": 0, "Images": null, "Containers": null, "Volumes": null, "BuildCache": null });
    if wants("image") {
        let options = ImageListOptions { all: true, shared_size: true, ..ImageListOptions::default() };
        let mut images = context.engine.images().list(&options)?;
        count_users(&context, &mut images).await?;
        usage["LayersSize"] = json!(context.engine.images().layers_usage().bytes);
        usage["Images"] = json!(gate::shown::images(images, request.version)?);
    }
    if wants("container") {
        let options = ListOptions { all: true, size: true, ..ListOptions::default() };
        let mut containers = context.engine.containers().list(options).await?;
        gate::shown::containers(&mut containers, request.version);
        usage["Containers"] = json!(containers);
    }
    if wants("volume") {
        usage["Volumes"] = json!(context.engine.volumes().usage().await?);
    }
    if wants("build-cache") {
        usage["BuildCache"] = json!([]);
    }
    gate::shown::disk_usage(&mut usage, request.version);
    json_response(&usage)
}
