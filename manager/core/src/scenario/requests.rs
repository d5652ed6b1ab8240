//! Bad input: a clear message, the right kind, nothing half made.

use std::time::Duration;

use shoal_proto::control::{ControlRequest, ControlResponse};
use shoal_proto::error::{ErrorKind, Failure};
use shoal_proto::id::NetworkId;
use shoal_proto::spec::{
    EndpointMode, FailureAction, IpamConfig, Mount, NetworkSpec, PublishMode, SecretReference, ServiceMode,
    ServiceSpec, TaskSpec, UpdateConfig,
};

use crate::testing::{World, on, overlay, port, replicated, with_task};

fn refusal(spec: ServiceSpec) -> Failure {
    let mut world = World::new(1);
    let before = world.store.version();
    let failure = world.request(ControlRequest::CreateService(Box::new(spec))).expect_err("refused");
    assert_eq!(world.store.version(), before, "nothing half made");
    failure
}

fn refuses_task(change: impl FnOnce(&mut TaskSpec), expected: &str) {
    let failure = refusal(with_task(replicated("web", 1), change));
    assert_eq!(failure.message, expected);
}

fn refuses(change: impl FnOnce(&mut ServiceSpec), expected: &str) {
    let mut spec = replicated("web", 1);
    change(&mut spec);
    assert_eq!(refusal(spec).message, expected);
}

#[test]
fn a_taken_name() {
    let mut world = World::new(0);
    world.create(replicated("web", 1));
    let failure = world.request(ControlRequest::CreateService(Box::new(replicated("web", 1)))).expect_err("taken");
    assert_eq!(failure.kind, ErrorKind::Conflict);
    assert_eq!(failure.message, "name conflicts with an existing object: service web already exists");
}

#[test]
fn names_images_and_numbers() {
    refuses(|spec| spec.name.clear(), "meta: name must be provided");
    refuses(|spec| spec.name = "a.b".into(), "name must be valid as a DNS name component: \"a.b\"");
    refuses(|spec| spec.name = "a".repeat(64), "name must be 63 characters or fewer");
    refuses_task(|task| task.container.image.clear(), "ContainerSpec: image reference must be provided");
    refuses_task(
        |task| task.container.image = "Not An Image".into(),
        "ContainerSpec: \"Not An Image\" is not a valid repository/tag",
    );
    refuses(
        |spec| spec.mode = ServiceMode::Replicated { replicas: 1_000_001 },
        "replicas must be at most 1000000, not 1000001",
    );
    refuses_task(
        |task| task.resources.limits.nano_cpus = -1_000_000_000,
        "invalid cpu value -1 of the limit: Must be at least 0.001",
    );
    refuses_task(
        |task| task.resources.reservations.nano_cpus = 999_999,
        "invalid cpu value 0.000999999 of the reservation: Must be at least 0.001",
    );
    refuses_task(
        |task| task.resources.limits.memory_bytes = 1,
        "invalid memory value 1 of the limit: Must be at least 4MiB",
    );
    refuses_task(
        |task| task.resources.reservations.memory_bytes = -5,
        "invalid memory value -5 of the reservation: Must be at least 4MiB",
    );
    refuses_task(|task| task.resources.limits.pids = -1, "invalid pids value -1 of the limit: cannot be negative");
    refuses_task(
        |task| task.resources.reservations.generic = [("gpu".to_owned(), -1)].into(),
        "invalid generic resource gpu=-1 of the reservation: a kind and a positive number are needed",
    );
    refuses_task(
        |task| task.resources.memory_swap_bytes = 1 << 30,
        "You should always set the Memory limit when using Memoryswap limit",
    );
    refuses_task(
        |task| task.container.oom_score_adj = 1001,
        "invalid value 1001, range for oom score adj is [-1000, 1000]",
    );
}

#[test]
fn placement() {
    refuses_task(
        |task| task.placement.constraints = vec!["node.role=manager".into()],
        "invalid constraint \"node.role=manager\": constraint expected one operator from ==, !=",
    );
    refuses(
        |spec| {
            *spec = with_task(spec.clone(), |task| task.placement.max_replicas = 1);
            spec.mode = ServiceMode::Global;
        },
        "replicas-max-per-node can only be used with replicated mode",
    );
}

#[test]
fn a_preference_that_nobody_knows_is_taken_and_told() {
    let mut world = World::new(1);
    let spec = with_task(replicated("web", 1), |task| {
        task.placement.spread = vec!["datacenter".into(), "node.labels.zone".into()];
    });
    let reply = world.request(ControlRequest::CreateService(Box::new(spec))).expect("created");
    let ControlResponse::Service(service, warnings) = reply else { panic!("{reply:?}") };
    assert_eq!(service.spec.task.placement.spread.len(), 2);
    assert_eq!(warnings.len(), 1);
    assert!(warnings[0].starts_with("placement preference spread=datacenter is ignored"), "{warnings:?}");
}

#[test]
fn updates_and_rollbacks() {
    let config = |ratio| Some(UpdateConfig { max_failure_ratio: ratio, ..UpdateConfig::default() });
    for ratio in [-0.1, 1.1, f32::NAN] {
        refuses(
            |spec| spec.update = config(ratio),
            "TaskSpec: update-maxfailureratio cannot be less than 0 or bigger than 1",
        );
        refuses(
            |spec| spec.rollback = config(ratio),
            "TaskSpec: rollback-maxfailureratio cannot be less than 0 or bigger than 1",
        );
    }
    refuses(
        |spec| {
            let failure_action = FailureAction::Rollback;
            spec.rollback = Some(UpdateConfig { failure_action, ..UpdateConfig::default() });
        },
        "TaskSpec: rollback-failure-action cannot be rollback",
    );
    refuses(
        |spec| spec.update = Some(UpdateConfig { delay: Duration::MAX, ..UpdateConfig::default() }),
        "TaskSpec: update-delay cannot be longer than a year",
    );
}

#[test]
fn ports() {
    refuses(
        |spec| {
            spec.endpoint.mode = EndpointMode::Dnsrr;
            spec.endpoint.ports = vec![port(80, 80)];
        },
        "EndpointSpec: port published with ingress mode can't be used with dnsrr mode",
    );
    refuses(
        |spec| spec.endpoint.ports = vec![port(80, 80), port(80, 81)],
        "EndpointSpec: duplicate published ports provided",
    );
    refuses(
        |spec| spec.endpoint.ports = vec![port(80, 0)],
        "EndpointSpec: a published port needs a target port from 1 to 65535",
    );
    let mut world = World::new(1);
    let mut spec = replicated("web", 1);
    spec.endpoint.mode = EndpointMode::Dnsrr;
    spec.endpoint.ports = vec![shoal_proto::spec::PortConfig { mode: PublishMode::Host, ..port(80, 80) }];
    world.create(spec);
}

#[test]
fn references() {
    let missing = NetworkId::from_bits(77);
    let failure = refusal(with_task(replicated("web", 1), |task| task.networks = vec![on(missing)]));
    assert_eq!((failure.kind, failure.message), (ErrorKind::NotFound, format!("network {missing} not found")));
    refuses_task(
        |task| {
            let mut secret = SecretReference { name: "key".into(), ..SecretReference::default() };
            secret.target.name = "key".into();
            task.container.secrets = vec![secret];
        },
        "secret not found: key",
    );
    let mut world = World::new(0);
    let ingress = world.store.ingress_network().expect("the mesh").id;
    let spec = with_task(replicated("web", 1), |task| task.networks = vec![on(ingress)]);
    let failure = world.request(ControlRequest::CreateService(Box::new(spec))).expect_err("refused");
    assert_eq!(failure.message, "Service cannot be explicitly attached to the ingress network \"ingress\"");
    let net = world.create_network(overlay("net"));
    let spec = with_task(replicated("web", 1), |task| task.networks = vec![on(net), on(net)]);
    let failure = world.request(ControlRequest::CreateService(Box::new(spec))).expect_err("refused");
    assert_eq!(failure.message, "network net is given more than once");
}

#[test]
fn containers() {
    let mount = |target: &str| Mount { target: target.into(), source: "/srv".into(), ..Mount::default() };
    refuses_task(
        |task| task.container.mounts = vec![mount("data")],
        "invalid mount target, must be an absolute path: data",
    );
    refuses_task(
        |task| task.container.mounts = vec![mount("/data"), mount("/data")],
        "ContainerSpec: duplicate mount point: /data",
    );
    refuses_task(|task| task.container.env = vec!["=x".into()], "ContainerSpec: invalid environment variable: \"=x\"");
    refuses_task(
        |task| task.container.hostname = "{{.Node.Colour}}".into(),
        "ContainerSpec: invalid template \"{{.Node.Colour}}\": cannot evaluate {{.Node.Colour}}: \
         known are .Service.ID, .Service.Name, .Service.Labels.<name>, index .Service.Labels \"<name>\", .Node.ID, \
         .Node.Hostname, .Node.Platform.Architecture, .Node.Platform.OS, .Task.ID, .Task.Name and .Task.Slot",
    );
    refuses_task(
        |task| task.container.dir = "srv".into(),
        "the working directory 'srv' is invalid, it needs to be an absolute path",
    );
}

#[test]
fn a_spec_of_two_mebibytes() {
    let failure = refusal(with_task(replicated("web", 1), |task| {
        task.container.env = vec![format!("A={}", "x".repeat(2 << 20))];
    }));
    assert!(failure.message.starts_with("service spec is too large: 2097"), "{failure}");
    assert!(failure.message.ends_with("bytes, at most 1572864 (1.5 MiB) are allowed"), "{failure}");
    assert_eq!(failure.kind, ErrorKind::InvalidArgument);
}

#[test]
fn networks() {
    let mut world = World::new(0);
    let mut refuses = |spec: NetworkSpec, expected: &str| {
        let failure = world.request(ControlRequest::CreateNetwork(Box::new(spec))).expect_err("refused");
        assert_eq!(failure.message, expected);
    };
    refuses(overlay("ingress"), "network with name ingress already exists");
    refuses(overlay("a b"), "name must be valid as a DNS name component: \"a b\"");
    refuses(
        NetworkSpec { driver: "macvlan".into(), ..overlay("net") },
        "invalid driver \"macvlan\": only overlay networks span the cluster",
    );
    refuses(NetworkSpec { ipv6: true, ..overlay("net") }, "IPv6 is not offered on overlay networks");
    let option = |name: &str, value: &str| NetworkSpec {
        driver_options: [(name.to_owned(), value.to_owned())].into(),
        ..overlay("net")
    };
    refuses(option("encrypted", ""), "encrypted overlay networks are not offered");
    refuses(option("colour", "blue"), "driver option colour is not offered on overlay networks: leave it out");
    refuses(
        option("com.docker.network.driver.mtu", "50"),
        "invalid value \"50\" of com.docker.network.driver.mtu: 576 to 65535 are allowed",
    );
    let ipam = |subnet: &str, change: fn(&mut IpamConfig)| {
        let mut ipam = IpamConfig { subnet: subnet.parse().ok(), ..IpamConfig::default() };
        change(&mut ipam);
        NetworkSpec { ipam: vec![ipam], ..overlay("net") }
    };
    refuses(ipam("10.9.0.0/30", |_| {}), "invalid subnet 10.9.0.0/30: a prefix length of 8 to 29 is needed");
    refuses(ipam("127.0.0.0/24", |_| {}), "invalid subnet 127.0.0.0/24: not a range of unicast addresses");
    refuses(
        ipam("10.9.0.0/24", |ipam| ipam.gateway = "10.8.0.1".parse().ok()),
        "gateway 10.8.0.1 is not an address of the subnet 10.9.0.0/24",
    );
    refuses(
        ipam("10.9.0.0/24", |ipam| ipam.range = "10.9.1.0/25".parse().ok()),
        "range 10.9.1.0/25 is not part of the subnet 10.9.0.0/24",
    );
}

#[test]
fn cluster_settings() {
    let mut world = World::new(0);
    let cluster = world.store.cluster().expect("a cluster").clone();
    let update = |version, change: fn(&mut shoal_proto::spec::ClusterSpec), rotate: bool| {
        let mut spec = cluster.spec.clone();
        change(&mut spec);
        ControlRequest::UpdateCluster {
            version,
            spec: Box::new(spec),
            rotate_worker_token: rotate,
            rotate_manager_token: false,
            rotate_unlock_key: false,
        }
    };
    let version = cluster.meta.version;
    let failure = world.request(update(version + 1, |_| {}, false)).expect_err("stale");
    assert_eq!(failure.kind, ErrorKind::StaleVersion);
    let failure = world.request(update(version, |spec| spec.auto_lock_managers = true, true)).expect_err("not offered");
    assert_eq!(failure.kind, ErrorKind::NotImplemented, "what is not enforced is not accepted");
    world.request(update(version, |_| {}, true)).expect("updated");
    let now = world.store.cluster().expect("a cluster").clone();
    assert_ne!(now.root_ca.worker_token, cluster.root_ca.worker_token);
    assert_eq!(now.root_ca.manager_token, cluster.root_ca.manager_token);
    world.request(update(now.meta.version, |_| {}, false)).expect("updated");
    assert_eq!(world.store.cluster().map(|cluster| cluster.unlock_key.clone()), Some(String::new()));
}
