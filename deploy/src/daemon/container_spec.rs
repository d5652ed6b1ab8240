//! A task as the engine's container: one pure translation.

use std::collections::BTreeMap;
use std::time::Duration;

use shoal_agent::executor::Dependencies;
use shoal_engine::model::{
    BindOptions, ClusterAttachment, ContainerConfig, CreateRequest, Empty, HealthConfig, HostConfig, InternalFile,
    InternalOptions, LogConfig, Mount, MountDriver, PortBinding, TmpfsOptions, Ulimit, VolumeOptions,
};
use shoal_proto::error::{Failure, chain};
use shoal_proto::id::NetworkId;
use shoal_proto::object::Task;
use shoal_proto::spec::{
    self, ConfigReference, ConfigSpec, ContainerSpec, FileTarget, MountKind, Protocol, PublishMode, SeccompMode,
    SecretReference, SecretSpec,
};
use shoal_proto::template::{Source, TemplateError};

use super::template::Values;

/// Driver and name of the networks that a task may be on.
pub(crate) type NetworkNames = BTreeMap<NetworkId, (String, String)>;

/// Why a task cannot become a container on this node.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SpecError {
    #[error(transparent)]
    Placeholder(#[from] TemplateError),
    #[error("cannot fill the {kind} {name}")]
    Template {
        kind: &'static str,
        name: String,
        #[source]
        source: TemplateError,
    },
    #[error("secret {name} has not reached this node")]
    MissingSecret { name: String },
    #[error("config {name} has not reached this node")]
    MissingConfig { name: String },
    #[error("{what} {value:?} of {name} is not a number")]
    NotANumber { what: &'static str, value: String, name: String },
    #[error("network {network} has not reached this node")]
    MissingNetwork { network: NetworkId },
}

/// With its causes: it is what `service ps` shows.
impl From<SpecError> for Failure {
    fn from(error: SpecError) -> Self {
        Self::invalid(chain(&error))
    }
}

/// The request that makes the task's container.
pub(crate) fn create_request(
    task: &Task,
    dependencies: &Dependencies,
    networks: &NetworkNames,
    values: &Values<'_>,
) -> Result<CreateRequest, SpecError> {
    let container = &task.spec.container;
    let mut config = config(task, values)?;
    let (network_mode, attachments) = attachments(task, networks)?;
    let mut host_config = host_config(task, values)?;
    host_config.network_mode = network_mode;
    for port in task.ports.iter().filter(|port| port.mode == PublishMode::Host) {
        let key = format!("{}/{}", port.target, protocol(port.protocol));
        let binding = PortBinding {
            host_port: if port.published == 0 { String::new() } else { port.published.to_string() },
            ..PortBinding::default()
        };
        config.exposed_ports.get_or_insert_default().insert(key.clone(), Empty {});
        let bindings = host_config.port_bindings.get_or_insert_default().entry(key).or_default();
        bindings.get_or_insert_default().push(binding);
    }
    let internal = InternalOptions {
        files: files(container, dependencies, values)?,
        attachments,
        task: Some(task.id),
        ..InternalOptions::default()
    };
    Ok(CreateRequest { config, host_config, internal, ..CreateRequest::default() })
}

fn config(task: &Task, values: &Values<'_>) -> Result<ContainerConfig, SpecError> {
    let container = &task.spec.container;
    let list = |texts: &[String]| (!texts.is_empty()).then(|| texts.to_vec());
    let mut labels = container.labels.clone();
    let swarm = [
        ("node.id", values.node_id.to_string()),
        ("service.id", task.service_id.to_string()),
        ("service.name", task.service_name.to_string()),
        ("task", String::new()),
        ("task.id", task.id.to_string()),
        ("task.name", task.name()),
    ];
    labels.extend(swarm.map(|(name, value)| (format!("com.docker.swarm.{name}"), value)));
    Ok(ContainerConfig {
        hostname: values.expand(&container.hostname)?,
        user: container.user.clone(),
        tty: container.tty,
        open_stdin: container.open_stdin,
        env: Some(container.env.iter().map(|pair| values.expand(pair)).collect::<Result<_, _>>()?),
        cmd: list(&container.args),
        entrypoint: list(&container.command),
        healthcheck: container.healthcheck.as_ref().map(healthcheck),
        image: container.image.clone(),
        working_dir: container.dir.clone(),
        labels,
        stop_signal: container.stop_signal.clone(),
        stop_timeout: container
            .stop_grace_period
            .map(|grace| i64::try_from(grace.as_millis().div_ceil(1000)).unwrap_or(i64::MAX)),
        ..ContainerConfig::default()
    })
}

fn healthcheck(check: &spec::Healthcheck) -> HealthConfig {
    HealthConfig {
        test: (!check.test.is_empty()).then(|| check.test.clone()),
        interval: nanos(check.interval),
        timeout: nanos(check.timeout),
        start_period: nanos(check.start_period),
        start_interval: nanos(check.start_interval),
        retries: i64::from(check.retries),
    }
}

fn nanos(duration: Option<Duration>) -> i64 {
    duration.map_or(0, |duration| i64::try_from(duration.as_nanos()).unwrap_or(i64::MAX))
}

fn host_config(task: &Task, values: &Values<'_>) -> Result<HostConfig, SpecError> {
    let (container, resources) = (&task.spec.container, &task.spec.resources);
    let list = |texts: &[String]| (!texts.is_empty()).then(|| texts.to_vec());
    let dns = container.dns.clone().unwrap_or_default();
    let (cpu_period, cpu_quota) = cpu_quota(resources.limits.nano_cpus);
    let driver = task.spec.log_driver.as_ref().or(task.default_log_driver.as_deref());
    let log_config = driver.map_or_else(LogConfig::default, |driver| LogConfig {
        kind: driver.name.clone(),
        config: driver.options.clone(),
    });
    Ok(HostConfig {
        log_config,
        cap_add: list(&container.capability_add),
        cap_drop: list(&container.capability_drop),
        dns: list(&dns.nameservers),
        dns_options: list(&dns.options),
        dns_search: list(&dns.search),
        extra_hosts: list(&extra_hosts(&container.hosts)),
        group_add: list(&container.groups),
        oom_score_adj: i64::from(container.oom_score_adj),
        readonly_rootfs: container.read_only,
        security_opt: list(&security_options(&container.privileges)),
        sysctls: (!container.sysctls.is_empty()).then(|| container.sysctls.clone()),
        // As in dockerd reservations are the scheduler's alone: no cgroup hears of them.
        memory: resources.limits.memory_bytes,
        memory_swap: resources.memory_swap_bytes,
        cpu_period,
        cpu_quota,
        pids_limit: (resources.limits.pids != 0).then_some(resources.limits.pids),
        ulimits: (!container.ulimits.is_empty()).then(|| container.ulimits.iter().map(ulimit).collect()),
        mounts: (!container.mounts.is_empty())
            .then(|| container.mounts.iter().map(|wanted| mount(wanted, values)).collect())
            .transpose()?,
        init: container.init,
        ..HostConfig::default()
    })
}

/// A limit in billionths of a core as period and quota in microseconds, as dockerd gives tasks theirs: unlike `NanoCpus`
/// they may ask for more than the node has, since the service was made for nodes of all sizes.
fn cpu_quota(nano_cpus: i64) -> (i64, i64) {
    const PERIOD: i64 = 100_000;
    /// The kernel takes no quota below this.
    const LEAST_QUOTA: i64 = 1_000;
    /// Nor a period above this. With it the least limit of a service, 0.001 cores, is just possible.
    const LONGEST_PERIOD: i64 = 1_000_000;
    let quota = |period: i64| i64::try_from(i128::from(nano_cpus) * i128::from(period) / 1_000_000_000).unwrap_or(0);
    match nano_cpus {
        ..=0 => (0, 0),
        _ if quota(PERIOD) < LEAST_QUOTA => (LONGEST_PERIOD, quota(LONGEST_PERIOD).max(LEAST_QUOTA)),
        _ => (PERIOD, quota(PERIOD)),
    }
}

/// Lines of a hosts file, `address name...`, as the engine's `name:address`.
fn extra_hosts(lines: &[String]) -> Vec<String> {
    lines
        .iter()
        .filter_map(|line| line.split_once(char::is_whitespace))
        .flat_map(|(addr, names)| names.split_whitespace().map(move |name| format!("{name}:{addr}")))
        .collect()
}

fn security_options(privileges: &spec::Privileges) -> Vec<String> {
    let mut options = Vec::new();
    if privileges.no_new_privileges {
        options.push("no-new-privileges".to_owned());
    }
    match &privileges.seccomp {
        SeccompMode::Default => {}
        SeccompMode::Unconfined => options.push("seccomp=unconfined".to_owned()),
        SeccompMode::Custom(profile) => options.push(format!("seccomp={profile}")),
    }
    if privileges.apparmor_disabled {
        options.push("apparmor=unconfined".to_owned());
    }
    if privileges.selinux_disabled {
        options.push("label=disable".to_owned());
    }
    options
}

fn ulimit(limit: &spec::Ulimit) -> Ulimit {
    Ulimit { name: limit.name.clone(), hard: limit.hard, soft: limit.soft }
}

fn mount(wanted: &spec::Mount, values: &Values<'_>) -> Result<Mount, SpecError> {
    let mut mount = Mount {
        source: values.expand(&wanted.source)?,
        target: values.expand(&wanted.target)?,
        read_only: wanted.read_only,
        ..Mount::default()
    };
    match wanted.kind {
        MountKind::Bind => {
            "bind".clone_into(&mut mount.kind);
            mount.bind_options = Some(BindOptions {
                propagation: wanted.propagation.clone(),
                non_recursive: wanted.non_recursive,
                ..BindOptions::default()
            });
        }
        MountKind::Volume => {
            "volume".clone_into(&mut mount.kind);
            let expanded = |pairs: &BTreeMap<String, String>| -> Result<Option<BTreeMap<String, String>>, SpecError> {
                let pairs = pairs.iter().map(|(name, value)| Ok((name.clone(), values.expand(value)?)));
                let pairs: BTreeMap<_, _> = pairs.collect::<Result<_, SpecError>>()?;
                Ok((!pairs.is_empty()).then_some(pairs))
            };
            let driver = MountDriver { name: wanted.volume_driver.clone(), options: expanded(&wanted.volume_options)? };
            mount.volume_options = Some(VolumeOptions {
                no_copy: wanted.no_copy,
                labels: expanded(&wanted.volume_labels)?,
                subpath: wanted.subpath.clone(),
                driver_config: (driver != MountDriver::default()).then_some(driver),
            });
        }
        MountKind::Tmpfs => {
            "tmpfs".clone_into(&mut mount.kind);
            mount.tmpfs_options = Some(TmpfsOptions {
                size_bytes: i64::try_from(wanted.tmpfs_size_bytes).unwrap_or(i64::MAX),
                mode: wanted.tmpfs_mode,
                ..TmpfsOptions::default()
            });
        }
    }
    Ok(mount)
}

/// The network mode, and a place on each cluster network.
fn attachments(task: &Task, networks: &NetworkNames) -> Result<(String, Vec<ClusterAttachment>), SpecError> {
    let mut mode = "default".to_owned();
    let mut attachments = Vec::new();
    for attachment in &task.networks {
        let network = attachment.network;
        let (driver, name) = networks.get(&network).ok_or(SpecError::MissingNetwork { network })?;
        match attachment.addr {
            Some(addr) => attachments.push(ClusterAttachment {
                network,
                network_name: name.clone(),
                addr: addr.addr(),
                prefix_len: addr.prefix_len(),
                task: task.id,
                service: Some(task.service_id),
                aliases: attachment.aliases.clone(),
            }),
            None => mode.clone_from(driver),
        }
    }
    Ok((mode, attachments))
}

/// The secrets and configs of a container on this node.
struct Payloads<'a> {
    container: &'a ContainerSpec,
    dependencies: &'a Dependencies,
    values: &'a Values<'a>,
}

impl Payloads<'_> {
    fn secret(&self, reference: &SecretReference) -> Result<&SecretSpec, SpecError> {
        let found = self.dependencies.secrets.iter().find(|secret| secret.id == reference.id);
        let found = found.ok_or_else(|| SpecError::MissingSecret { name: reference.name.clone() })?;
        Ok(&found.spec)
    }

    fn config(&self, reference: &ConfigReference) -> Result<&ConfigSpec, SpecError> {
        let found = self.dependencies.configs.iter().find(|config| config.id == reference.id);
        let found = found.ok_or_else(|| SpecError::MissingConfig { name: reference.name.clone() })?;
        Ok(&found.spec)
    }

    /// What is to be in the file.
    fn contents(&self, data: &[u8], is_template: bool) -> Result<Vec<u8>, TemplateError> {
        if !is_template {
            return Ok(data.to_vec());
        }
        self.values.expand_payload(data, |source, name| self.find(source, name))
    }

    /// As in Swarm: another file is named as the container has it, and is not filled in its turn.
    fn find(&self, source: Source, name: &str) -> Result<String, TemplateError> {
        let missing = |kind| TemplateError::NoSuchFile { kind, name: name.to_owned() };
        let data = match source {
            Source::Variable => {
                let mut pairs = self.container.env.iter().filter_map(|pair| pair.split_once('='));
                let value = pairs.find(|(variable, _)| *variable == name).map_or("", |(_, value)| value);
                return self.values.expand(value);
            }
            Source::Secret => {
                let reference = self.container.secrets.iter().find(|one| one.target.name == name);
                &reference.and_then(|one| self.secret(one).ok()).ok_or_else(|| missing("secret"))?.data
            }
            Source::Config => {
                let reference = self.container.configs.iter().find(|one| one.target.name == name);
                &reference.and_then(|one| self.config(one).ok()).ok_or_else(|| missing("config"))?.data
            }
        };
        String::from_utf8(data.clone()).map_err(|_| TemplateError::NotText)
    }
}

fn files(
    container: &ContainerSpec,
    dependencies: &Dependencies,
    values: &Values<'_>,
) -> Result<Vec<InternalFile>, SpecError> {
    let payloads = Payloads { container, dependencies, values };
    let mut files = Vec::new();
    for reference in &container.secrets {
        let secret = payloads.secret(reference)?;
        let data = payloads.contents(&secret.data, secret.is_template).map_err(|source| SpecError::Template {
            kind: "secret",
            name: reference.name.clone(),
            // What it quotes is of the secret.
            source: source.without_text(),
        })?;
        files.push(file("/run/secrets", &reference.name, &reference.target, data)?);
    }
    for reference in &container.configs {
        let config = payloads.config(reference)?;
        let data = payloads.contents(&config.data, config.is_template).map_err(|source| SpecError::Template {
            kind: "config",
            name: reference.name.clone(),
            source: source.shortened(),
        })?;
        files.push(file("", &reference.name, &reference.target, data)?);
    }
    Ok(files)
}

fn file(folder: &str, name: &str, target: &FileTarget, data: Vec<u8>) -> Result<InternalFile, SpecError> {
    let number = |what: &'static str, value: &str| match value {
        "" => Ok(0),
        _ => value.parse().map_err(|_| SpecError::NotANumber { what, value: value.to_owned(), name: name.to_owned() }),
    };
    let wanted = if target.name.is_empty() { name } else { &target.name };
    let path = if wanted.starts_with('/') { wanted.to_owned() } else { format!("{folder}/{wanted}") };
    let (uid, gid) = (number("uid", &target.uid)?, number("gid", &target.gid)?);
    Ok(InternalFile { path, uid, gid, mode: target.mode, data })
}

/// `tcp`, `udp` or `sctp`.
pub(crate) fn protocol(protocol: Protocol) -> &'static str {
    protocol.as_str()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use shoal_proto::id::{ConfigId, NodeId, SecretId, ServiceId, TaskId};
    use shoal_proto::object::{Config, NetworkAttachment, Secret};
    use shoal_proto::spec::{PortConfig, TaskSpec};

    use super::*;

    fn task(container: ContainerSpec) -> Task {
        Task {
            id: TaskId::from_bits(1),
            service_id: ServiceId::from_bits(2),
            service_name: "web".into(),
            slot: 3,
            spec: Arc::new(TaskSpec { container, ..TaskSpec::default() }),
            ..Task::default()
        }
    }

    fn translate(task: &Task, dependencies: &Dependencies, names: &NetworkNames) -> Result<CreateRequest, SpecError> {
        let values =
            Values { task, node_id: NodeId::from_bits(9), node_hostname: "m1", architecture: "x86_64", os: "linux" };
        create_request(task, dependencies, names, &values)
    }

    #[test]
    fn labels_and_placeholders_are_those_of_swarm() {
        let container = ContainerSpec { env: vec!["SLOT={{.Task.Slot}}".to_owned()], ..ContainerSpec::default() };
        let request = translate(&task(container), &Dependencies::default(), &NetworkNames::new()).expect("request");
        assert_eq!(request.config.env, Some(vec!["SLOT=3".to_owned()]));
        assert_eq!(request.config.labels["com.docker.swarm.service.name"], "web");
        assert_eq!(request.config.labels["com.docker.swarm.task.name"], "web.3.0000000000000000000000001");
        assert_eq!(request.host_config.network_mode, "default");
    }

    #[test]
    fn limits_become_quotas_and_reservations_nothing() {
        let mut task = task(ContainerSpec::default());
        let resources = &mut Arc::make_mut(&mut task.spec).resources;
        resources.limits.nano_cpus = 64_000_000_000;
        resources.limits.memory_bytes = 8 << 20;
        resources.reservations.memory_bytes = 1 << 30;
        let host = translate(&task, &Dependencies::default(), &NetworkNames::new()).expect("request").host_config;
        assert_eq!((host.nano_cpus, host.cpu_period, host.cpu_quota), (0, 100_000, 6_400_000));
        assert_eq!((host.memory, host.memory_reservation), (8 << 20, 0));
        assert_eq!(cpu_quota(0), (0, 0));
        assert_eq!(cpu_quota(500_000_000), (100_000, 50_000));
        assert_eq!(cpu_quota(10_000_000), (100_000, 1_000));
        assert_eq!(cpu_quota(9_000_000), (1_000_000, 9_000));
        assert_eq!(cpu_quota(1_000_000), (1_000_000, 1_000));
    }

    #[test]
    fn the_log_driver_is_the_tasks_then_the_clusters() {
        let driver = |name: &str| spec::LogDriver { name: name.to_owned(), ..spec::LogDriver::default() };
        let mut task = task(ContainerSpec::default());
        task.default_log_driver = Some(Arc::new(driver("none")));
        let kind = |task: &Task| {
            let request = translate(task, &Dependencies::default(), &NetworkNames::new()).expect("request");
            request.host_config.log_config.kind
        };
        assert_eq!(kind(&task), "none");
        Arc::make_mut(&mut task.spec).log_driver = Some(driver("json-file"));
        assert_eq!(kind(&task), "json-file");
    }

    #[test]
    fn a_secret_becomes_a_file_and_a_missing_one_an_error() {
        let id = SecretId::from_bits(5);
        let reference = SecretReference { id, name: "password".to_owned(), ..SecretReference::default() };
        let task = task(ContainerSpec { secrets: vec![reference], ..ContainerSpec::default() });
        assert!(matches!(
            translate(&task, &Dependencies::default(), &NetworkNames::new()),
            Err(SpecError::MissingSecret { .. })
        ));
        let spec = SecretSpec { data: b"xyzzy".to_vec(), ..SecretSpec::default() };
        let secret = Arc::new(Secret { id, spec, ..Secret::default() });
        let dependencies = Dependencies { secrets: vec![secret], configs: Vec::new() };
        let request = translate(&task, &dependencies, &NetworkNames::new()).expect("request");
        let file = &request.internal.files[0];
        assert_eq!(
            (file.path.as_str(), file.mode, file.data.as_slice()),
            ("/run/secrets/password", 0o444, &b"xyzzy"[..])
        );
    }

    #[test]
    fn templates_are_filled_with_what_the_container_has() {
        let (key, page) = (SecretId::from_bits(5), ConfigId::from_bits(6));
        let target = |name: &str| FileTarget { name: name.to_owned(), ..FileTarget::default() };
        let container = ContainerSpec {
            env: vec!["TIER=front-{{.Task.Slot}}".to_owned()],
            secrets: vec![SecretReference { id: key, name: "key".to_owned(), target: target("token") }],
            configs: vec![ConfigReference { id: page, name: "page".to_owned(), target: target("/page") }],
            ..ContainerSpec::default()
        };
        let with = |secret: &str, secret_is_template, text: &str, is_template| {
            let data = secret.as_bytes().to_vec();
            let secret = SecretSpec { data, is_template: secret_is_template, ..SecretSpec::default() };
            let config = ConfigSpec { data: text.as_bytes().to_vec(), is_template, ..ConfigSpec::default() };
            let dependencies = Dependencies {
                secrets: vec![Arc::new(Secret { id: key, spec: secret, ..Secret::default() })],
                configs: vec![Arc::new(Config { id: page, spec: config, ..Config::default() })],
            };
            let request = translate(&task(container.clone()), &dependencies, &NetworkNames::new());
            request.map(|request| String::from_utf8(request.internal.files[1].data.clone()).expect("text"))
        };
        let filled = |text: &str, is_template| with("{{xyzzy}}", false, text, is_template);
        let text = "{{.Service.Name}} {{secret \"token\"}} {{env \"TIER\"}} {{env \"NONE\"}}";
        assert_eq!(filled(text, false).expect("plain"), text);
        assert_eq!(filled(text, true).expect("template"), "web {{xyzzy}} front-3 ");
        let why = |refused: Result<String, SpecError>| Failure::from(refused.expect_err("filled")).message;
        let other = "cannot fill the config page: the container has no secret \"other\"";
        assert_eq!(why(filled("{{secret \"other\"}}", true)), other);
        assert!(why(filled("{{.Nonsense}}", true)).starts_with("cannot fill the config page: cannot evaluate {{.Nons"));
        assert!(why(filled(&format!("{{{{{}}}}}", "x".repeat(10_000)), true)).len() < 500);
        // Nothing of a secret.
        let unknown = "cannot fill the secret key: the action at byte 5 is not known";
        assert_eq!(why(with("pass {{xyzzy}}", true, "", false)), unknown);
        let none = "cannot fill the secret key: the container has no secret of a name in it";
        assert_eq!(why(with("{{secret \"xyzzy\"}}", true, "", false)), none);
        // Not more than there is room for.
        let many = "{{secret \"token\"}}".repeat(4);
        assert_eq!(with(&"x".repeat(393_216), false, &many, true).expect("as much as can be").len(), 3 << 19);
        let long = "cannot fill the config page: it would be longer than 1572864 bytes";
        assert_eq!(why(with(&"x".repeat(393_217), false, &many, true)), long);
    }

    #[test]
    fn host_ports_are_bound_and_mesh_ports_are_not() {
        let host = PortConfig { target: 80, published: 8080, mode: PublishMode::Host, ..PortConfig::default() };
        let mesh = PortConfig { target: 81, published: 8081, ..PortConfig::default() };
        let task = Task { ports: vec![host, mesh], ..task(ContainerSpec::default()) };
        let request = translate(&task, &Dependencies::default(), &NetworkNames::new()).expect("request");
        let bindings = request.host_config.port_bindings.expect("bindings");
        assert_eq!(bindings.keys().collect::<Vec<_>>(), ["80/tcp"]);
    }

    #[test]
    fn the_host_network_is_a_mode_and_an_overlay_an_attachment() {
        let (host, overlay) = (NetworkId::from_bits(1), NetworkId::from_bits(2));
        let names = NetworkNames::from([
            (host, ("host".to_owned(), "host".to_owned())),
            (overlay, ("overlay".to_owned(), "app".to_owned())),
        ]);
        let on = |network, addr: Option<&str>| Task {
            networks: vec![NetworkAttachment {
                network,
                addr: addr.map(|addr| addr.parse().expect("address")),
                aliases: Vec::new(),
            }],
            ..task(ContainerSpec::default())
        };
        let request = translate(&on(host, None), &Dependencies::default(), &names).expect("request");
        assert_eq!(request.host_config.network_mode, "host");
        let request = translate(&on(overlay, Some("10.0.1.5/24")), &Dependencies::default(), &names).expect("request");
        assert_eq!(request.internal.attachments[0].addr.to_string(), "10.0.1.5");
        assert!(translate(&on(NetworkId::from_bits(3), None), &Dependencies::default(), &names).is_err());
    }
}
