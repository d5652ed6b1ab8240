//! Round trips of what the docker CLI sends.

use std::time::Duration;

use serde::Deserialize as _;
use serde_json::Value;
use shoal_proto::id::{ConfigId, NetworkId, SecretId};
use shoal_proto::spec::{
    ClusterSpec, EndpointMode, FailureAction, MountKind, PublishMode, RestartCondition, ServiceMode, ServiceSpec,
    UpdateOrder,
};

use super::convert::{self, Resolve};
use super::model;
use crate::error::ApiError;
use crate::fold::Folded;
use crate::request::strip_nulls;

struct Known;

impl Resolve for Known {
    fn network(&self, target: &str) -> Result<NetworkId, ApiError> {
        target.parse().map_err(|_| ApiError::not_found(format!("network {target} not found")))
    }
    fn secret(&self, id: &str, _: &str) -> Result<SecretId, ApiError> {
        id.parse().map_err(|_| ApiError::invalid(format!("secret {id} not found")))
    }
    fn config(&self, id: &str, _: &str) -> Result<ConfigId, ApiError> {
        id.parse().map_err(|_| ApiError::invalid(format!("config {id} not found")))
    }
}

fn parse(text: &str) -> model::ServiceSpec {
    let mut value: Value = serde_json::from_str(text).expect("fixture");
    strip_nulls(&mut value);
    model::ServiceSpec::deserialize(Folded(value)).expect("service spec")
}

fn convert(text: &str) -> Result<ServiceSpec, ApiError> {
    convert::service_spec(parse(text), &Known)
}

const EVERYTHING: &str = include_str!("fixtures/service_everything.json");
const PLAIN: &str = include_str!("fixtures/service_plain.json");
const GLOBAL: &str = include_str!("fixtures/service_global.json");

#[test]
fn everything_the_cli_can_ask_for_arrives() {
    let spec = convert(EVERYTHING).expect("spec");
    assert_eq!(spec.mode, ServiceMode::Replicated { replicas: 3 });
    let update = spec.update.as_ref().expect("update config");
    assert_eq!((update.parallelism, update.order), (2, UpdateOrder::StartFirst));
    assert_eq!((update.failure_action, update.monitor), (FailureAction::Rollback, Duration::from_secs(2)));
    assert_eq!(spec.endpoint.ports[1].mode, PublishMode::Host);
    let task = &spec.task;
    assert_eq!(task.resources.reservations.generic.get("gpu"), Some(&2));
    assert_eq!(task.placement.spread, ["node.labels.zone"]);
    assert_eq!(task.placement.max_replicas, 2);
    let restart = task.restart.as_ref().expect("restart policy");
    assert_eq!((restart.condition, restart.max_attempts), (RestartCondition::OnFailure, 3));
    let container = &task.container;
    assert_eq!(
        container.mounts.iter().map(|m| m.kind).collect::<Vec<_>>(),
        [MountKind::Volume, MountKind::Bind, MountKind::Tmpfs]
    );
    assert_eq!(container.mounts[2].tmpfs_mode, 0o700);
    assert_eq!(container.secrets[0].target.mode, 0o400);
    assert_eq!(container.ulimits[0].hard, 20);
    assert_eq!(container.init, Some(true));
}

/// Does everything that was sent come back? What was added is fine.
fn assert_contains(sent: &Value, shown: &Value, path: &str) {
    match (sent, shown) {
        (Value::Object(sent), Value::Object(shown)) => {
            for (name, value) in sent {
                let trivial = value.is_null() || *value == serde_json::json!({});
                match shown.get(name) {
                    Some(there) => assert_contains(value, there, &format!("{path}.{name}")),
                    None => assert!(trivial, "{path}.{name} was lost"),
                }
            }
        }
        (Value::Array(sent), Value::Array(shown)) => {
            assert_eq!(sent.len(), shown.len(), "{path} has another length");
            sent.iter().zip(shown).for_each(|(sent, shown)| assert_contains(sent, shown, &format!("{path}[]")));
        }
        (Value::Number(sent), Value::Number(shown)) => assert_eq!(sent.as_f64(), shown.as_f64(), "{path} changed"),
        _ => assert_eq!(sent, shown, "{path} changed"),
    }
}

#[test]
fn inspect_shows_what_create_was_given() {
    for text in [EVERYTHING, PLAIN, GLOBAL] {
        let spec = convert(text).expect("spec");
        let shown = serde_json::to_value(convert::service_spec_json(&spec)).expect("json");
        assert_contains(&serde_json::from_str(text).expect("fixture"), &shown, "spec");
    }
}

#[test]
fn what_is_shown_converts_back_to_the_same_spec() {
    for text in [EVERYTHING, PLAIN, GLOBAL] {
        let spec = convert(text).expect("spec");
        let shown = serde_json::to_string(&convert::service_spec_json(&spec)).expect("json");
        let again = convert(&shown).expect("spec");
        // Any difference would replace every task at the first `service scale`, which sends back what it was shown.
        assert_eq!(again, spec);
    }
}

#[test]
fn nothing_is_filled_in_unless_asked() {
    let spec = convert(PLAIN).expect("spec");
    assert_eq!((spec.update.clone(), spec.rollback.clone(), spec.task.restart.clone()), (None, None, None));
    let mut shown = convert::service_spec_json(&spec);
    assert!(shown.update_config.is_none() && shown.task_template.restart_policy.is_none());
    convert::insert_defaults(&mut shown);
    let update = shown.update_config.expect("update config");
    assert_eq!((update.parallelism, update.order.as_str()), (1, "stop-first"));
    let restart = shown.task_template.restart_policy.expect("restart policy");
    assert_eq!((restart.condition.as_str(), restart.delay), ("any", Some(5_000_000_000)));
    let container = shown.task_template.container_spec.expect("container");
    assert_eq!(container.stop_grace_period, Some(10_000_000_000));
}

#[test]
fn what_is_not_offered_is_refused_by_name() {
    let cases = [
        (r#"{"Mode":{"ReplicatedJob":{}},"TaskTemplate":{"ContainerSpec":{}}}"#, 501, "Mode.ReplicatedJob"),
        (r#"{"Mode":{"GlobalJob":{}},"TaskTemplate":{"ContainerSpec":{}}}"#, 501, "Mode.GlobalJob"),
        (r#"{"Mode":{"Global":{},"Replicated":{}},"TaskTemplate":{"ContainerSpec":{}}}"#, 400, "only one service mode"),
        (r#"{"TaskTemplate":{}}"#, 400, "ContainerSpec"),
        (r#"{"TaskTemplate":{"ContainerSpec":{"Isolation":"hyperv"}}}"#, 501, "Isolation"),
        (r#"{"TaskTemplate":{"ContainerSpec":{"Privileges":{"CredentialSpec":{"File":"x"}}}}}"#, 501, "CredentialSpec"),
        (
            r#"{"TaskTemplate":{"ContainerSpec":{"Mounts":[{"Type":"cluster","Source":"v","Target":"/v"}]}}}"#,
            501,
            "cluster",
        ),
        (r#"{"TaskTemplate":{"ContainerSpec":{"Mounts":[{"Type":"floppy","Target":"/v"}]}}}"#, 400, "MountType"),
        (r#"{"TaskTemplate":{"ContainerSpec":{"StopGracePeriod":-1}}}"#, 400, "StopGracePeriod"),
        (r#"{"TaskTemplate":{"ContainerSpec":{}},"UpdateConfig":{"MaxFailureRatio":2}}"#, 400, "MaxFailureRatio"),
        (r#"{"TaskTemplate":{"ContainerSpec":{}},"UpdateConfig":{"Order":"sideways"}}"#, 400, "sideways"),
        (r#"{"TaskTemplate":{"ContainerSpec":{}},"RollbackConfig":{"FailureAction":"rollback"}}"#, 400, "rollback"),
        (r#"{"TaskTemplate":{"ContainerSpec":{}},"EndpointSpec":{"Ports":[{"TargetPort":70000}]}}"#, 400, "70000"),
        (r#"{"TaskTemplate":{"ContainerSpec":{}},"EndpointSpec":{"Ports":[{"PublishedPort":80}]}}"#, 400, "TargetPort"),
        (
            r#"{"TaskTemplate":{"ContainerSpec":{},"Networks":[{"Target":"nowhere"}]}}"#,
            404,
            "network nowhere not found",
        ),
        (r#"{"TaskTemplate":{"ContainerSpec":{},"RestartPolicy":{"Condition":"maybe"}}}"#, 400, "maybe"),
        (
            r#"{"TaskTemplate":{"ContainerSpec":{},"Networks":[{"Target":"net","DriverOpts":{"com.docker.network.endpoint.ifname":"b"}}]}}"#,
            501,
            "DriverOpts \"com.docker",
        ),
        (
            r#"{"TaskTemplate":{"ContainerSpec":{"Privileges":{"SELinuxContext":{"Disable":true,"User":"u"}}}}}"#,
            501,
            "SELinuxContext",
        ),
        (
            r#"{"TaskTemplate":{"ContainerSpec":{},"Resources":{"Reservations":{"GenericResources":[
                {"DiscreteResourceSpec":{"Kind":"a=b","Value":1}}]}}}}"#,
            400,
            "without '='",
        ),
    ];
    for (text, status, part) in cases {
        let error = convert(text).expect_err(text);
        assert_eq!(error.status(), status, "{text}: {}", error.message());
        assert!(error.message().contains(part), "{text}: {}", error.message());
    }
}

/// What docker-py's tests send, and look for in what is shown.
#[test]
fn what_was_given_is_shown_where_it_was_given() {
    let (a, b) = (NetworkId::from_bits(1).to_string(), NetworkId::from_bits(2).to_string());
    let text = format!(
        r#"{{"Networks":[{{"Target":"{a}","DriverOpts":{{"foo":"bar"}}}},{{"Target":"{b}"}}],
            "TaskTemplate":{{"RestartPolicy":{{"Condition":"on-failure","Window":0}},
                "ContainerSpec":{{"Privileges":{{"SELinuxContext":{{"Disable":true}}}}}},
                "Resources":{{"Reservations":{{"GenericResources":[
                    {{"DiscreteResourceSpec":{{"Kind":"gpu","Value":2}}}},
                    {{"NamedResourceSpec":{{"Kind":"mpi","Value":"latest"}}}}]}}}}}}}}"#
    );
    let spec = convert(&text).expect("spec");
    assert_eq!(spec.task.networks.len(), 2, "tasks are on them all the same");
    let shown = serde_json::to_value(convert::service_spec_json(&spec)).expect("json");
    assert_eq!(shown["Networks"][0]["DriverOpts"]["foo"], "bar");
    let task = &shown["TaskTemplate"];
    assert!(task.get("Networks").is_none());
    assert_eq!(task["RestartPolicy"]["Window"], 0);
    assert_eq!(task["ContainerSpec"]["Privileges"]["SELinuxContext"]["Disable"], true);
    let resources = &task["Resources"]["Reservations"]["GenericResources"];
    assert_eq!(resources[0]["DiscreteResourceSpec"]["Value"], 2);
    assert_eq!(
        (&resources[1]["NamedResourceSpec"]["Kind"], &resources[1]["NamedResourceSpec"]["Value"]),
        (&"mpi".into(), &"latest".into())
    );

    let inside =
        format!(r#"{{"TaskTemplate":{{"ContainerSpec":{{}},"RestartPolicy":{{}},"Networks":[{{"Target":"{a}"}}]}}}}"#);
    let shown = serde_json::to_value(convert::service_spec_json(&convert(&inside).expect("spec"))).expect("json");
    assert_eq!(shown["TaskTemplate"]["Networks"][0]["Target"], *a);
    assert!(shown.get("Networks").is_none() && shown["TaskTemplate"]["RestartPolicy"].get("Window").is_none());
}

#[test]
fn secrets_and_configs_may_be_templates() {
    let body = |templating: &str| -> model::PayloadSpec {
        serde_json::from_str(&format!(r#"{{"Name":"c","Data":"","Templating":{templating}}}"#)).expect("body")
    };
    let spec = convert::config_spec(body(r#"{"Name":"golang"}"#)).expect("config");
    assert!(spec.is_template);
    let config = shoal_proto::object::Config { spec, ..Default::default() };
    assert_eq!(convert::config(&config).spec.templating.expect("shown").name, "golang");
    let secret =
        shoal_proto::object::Secret { spec: convert::secret_spec(body("null")).expect("secret"), ..Default::default() };
    assert_eq!(convert::secret(&secret).spec.templating, None);
    let refused = convert::secret_spec(body(r#"{"Name":"jinja"}"#)).expect_err("accepted");
    assert!(refused.message().contains("jinja"), "{}", refused.message());
    let optional = |options: &str| body(&format!(r#"{{"Name":"golang","Options":{options}}}"#));
    let refused = convert::config_spec(optional(r#"{"a":"b"}"#)).expect_err("accepted");
    assert!(refused.message().contains("ConfigSpec.Templating.Options"), "{}", refused.message());
    assert!(convert::config_spec(optional("{}")).is_ok());
}

#[test]
fn a_new_cluster_has_a_new_root_and_an_old_one_keeps_it() {
    let of = |number: u32, base: &ClusterSpec, is_new| {
        let text = format!(r#"{{"CAConfig":{{"ForceRotate":{number}}}}}"#);
        convert::cluster_spec(serde_json::from_str(&text).expect("body"), base, is_new)
    };
    let made = of(6, &ClusterSpec::default(), true).expect("new");
    assert_eq!(made.force_rotate, 6);
    assert_eq!(of(6, &made, false), Ok(made.clone()));
    assert_eq!(of(0, &made, false), Ok(made.clone()), "nothing was said");
    assert_eq!(of(7, &made, false).expect_err("rotated").status(), 501);
}

#[test]
fn both_clis_begin_a_cluster_with_the_defaults() {
    for text in [include_str!("fixtures/swarm_init_28.json"), include_str!("fixtures/swarm_init_20.json")] {
        let mut value: Value = serde_json::from_str(text).expect("fixture");
        strip_nulls(&mut value);
        let request =
            convert::init_request(model::InitBody::deserialize(Folded(value)).expect("body")).expect("request");
        assert_eq!(request.spec, ClusterSpec::default());
        assert_eq!(request.pools, shoal_proto::spec::AddressPools::default());
        assert_eq!(request.listen_addr, "0.0.0.0:2377");
    }
}

#[test]
fn settings_that_would_have_no_effect_are_refused() {
    let base = ClusterSpec::default();
    let update = |text: &str| convert::cluster_spec(serde_json::from_str(text).expect("body"), &base, false);
    let shown = r#"{"Raft":{"ElectionTick":10,"HeartbeatTick":1},"EncryptionConfig":{"AutoLockManagers":false}}"#;
    assert_eq!(update(shown), Ok(base.clone()), "what inspect shows comes back");
    let cases = [
        (r#"{"Raft":{"ElectionTick":20}}"#, 501, "ElectionTick"),
        (r#"{"Raft":{"HeartbeatTick":-1}}"#, 400, "HeartbeatTick"),
        (r#"{"EncryptionConfig":{"AutoLockManagers":true}}"#, 501, "autolock"),
    ];
    for (text, status, part) in cases {
        let refused = update(text).expect_err(text);
        assert_eq!(refused.status(), status, "{text}");
        assert!(refused.message().contains(part), "{text}: {}", refused.message());
    }
    let init = |text: &str| convert::init_request(serde_json::from_str(text).expect("body"));
    assert_eq!(init(r#"{"AutoLockManagers":true}"#).expect_err("accepted").status(), 501);
}

#[test]
fn options_of_networks_that_would_have_no_effect_are_refused() {
    let create = |text: &str| convert::network_spec(serde_json::from_str(text).expect("body"));
    // As the stock CLI sends it.
    let plain = r#"{"Name":"n","Driver":"overlay","IPAM":{"Driver":"default","Options":{},"Config":[]},"Options":{}}"#;
    assert!(create(plain).is_ok());
    let refused = create(r#"{"Name":"n","Driver":"overlay","IPAM":{"Options":{"a":"b"}}}"#).expect_err("accepted");
    assert_eq!((refused.status().as_u16(), refused.message().contains("\"a\"")), (501, true));
}

#[test]
fn an_update_keeps_what_it_leaves_out() {
    let base =
        ClusterSpec { task_history_limit: 9, heartbeat_period: Duration::from_secs(2), ..ClusterSpec::default() };
    let spec = model::ClusterSpec {
        orchestration: model::Orchestration { task_history_retention_limit: Some(0) },
        ..model::ClusterSpec::default()
    };
    let updated = convert::cluster_spec(spec, &base, false).expect("spec");
    assert_eq!(updated, ClusterSpec { task_history_limit: 0, ..base });
}

#[test]
fn a_default_endpoint_is_a_virtual_address() {
    assert_eq!(convert(PLAIN).expect("spec").endpoint.mode, EndpointMode::Vip);
}
