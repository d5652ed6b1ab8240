//! `service update` and `service rollback`.

use anyhow::bail;
use clap::Args;
use serde_json::{Value, json};

use super::create::{Resolved, capabilities, with_tag};
use super::flags::SpecFlags;
use super::references::{self, Kind};
use super::spec::{self, CONTAINER};
use crate::cli::client::escape;
use crate::cli::context::Context;
use crate::cli::look::{Look as _, object_at, set};
use crate::cli::output;
use crate::cli::parse::{limit, mount, pair, port, words};

/// Update a service
#[derive(Debug, Clone, Default, Args)]
#[command(after_help = "Examples:
  shoal service update --image web:2 --update-parallelism 2 --update-delay 5s web
  shoal service update --env-add COLOR=blue --publish-add 8081:81 web
  shoal service update --force web          start every task afresh")]
pub(crate) struct UpdateArgs {
    /// Service image
    #[arg(long)]
    image: Option<String>,
    /// Service command args
    #[arg(long, value_name = "COMMAND")]
    args: Option<String>,
    /// Force update even if no changes require it
    #[arg(long)]
    force: bool,
    /// Rollback to previous specification
    #[arg(long)]
    rollback: bool,
    /// Add or update an environment variable
    #[arg(long, value_name = "KEY=VALUE")]
    env_add: Vec<String>,
    /// Remove an environment variable
    #[arg(long, value_name = "KEY")]
    env_rm: Vec<String>,
    /// Add or update a service label
    #[arg(long, value_name = "KEY=VALUE")]
    label_add: Vec<String>,
    /// Remove a label by its key
    #[arg(long, value_name = "KEY")]
    label_rm: Vec<String>,
    /// Add or update a container label
    #[arg(long, value_name = "KEY=VALUE")]
    container_label_add: Vec<String>,
    /// Remove a container label by its key
    #[arg(long, value_name = "KEY")]
    container_label_rm: Vec<String>,
    /// Add or update a published port
    #[arg(long, value_name = "PORT")]
    publish_add: Vec<String>,
    /// Remove a published port by its target port
    #[arg(long, value_name = "PORT")]
    publish_rm: Vec<String>,
    /// Add a network
    #[arg(long, value_name = "NETWORK")]
    network_add: Vec<String>,
    /// Remove a network
    #[arg(long, value_name = "NETWORK")]
    network_rm: Vec<String>,
    /// Add or update a mount on a service
    #[arg(long, value_name = "MOUNT", value_parser = mount::mount)]
    mount_add: Vec<Value>,
    /// Remove a mount by its target path
    #[arg(long, value_name = "PATH")]
    mount_rm: Vec<String>,
    /// Add or update a placement constraint
    #[arg(long, value_name = "CONSTRAINT")]
    constraint_add: Vec<String>,
    /// Remove a constraint
    #[arg(long, value_name = "CONSTRAINT")]
    constraint_rm: Vec<String>,
    /// Add a placement preference
    #[arg(long, value_name = "PREFERENCE")]
    placement_pref_add: Vec<String>,
    /// Remove a placement preference
    #[arg(long, value_name = "PREFERENCE")]
    placement_pref_rm: Vec<String>,
    /// Add or update a secret on a service
    #[arg(long, value_name = "SECRET")]
    secret_add: Vec<String>,
    /// Remove a secret
    #[arg(long, value_name = "SECRET")]
    secret_rm: Vec<String>,
    /// Add or update a config file on a service
    #[arg(long, value_name = "CONFIG")]
    config_add: Vec<String>,
    /// Remove a configuration file
    #[arg(long, value_name = "CONFIG")]
    config_rm: Vec<String>,
    /// Add Linux capabilities
    #[arg(long, value_name = "CAP")]
    cap_add: Vec<String>,
    /// Drop Linux capabilities
    #[arg(long, value_name = "CAP")]
    cap_drop: Vec<String>,
    /// Add or update a custom DNS server
    #[arg(long, value_name = "IP")]
    dns_add: Vec<String>,
    /// Remove a custom DNS server
    #[arg(long, value_name = "IP")]
    dns_rm: Vec<String>,
    /// Add or update a DNS option
    #[arg(long, value_name = "OPTION")]
    dns_option_add: Vec<String>,
    /// Remove a DNS option
    #[arg(long, value_name = "OPTION")]
    dns_option_rm: Vec<String>,
    /// Add or update a custom DNS search domain
    #[arg(long, value_name = "DOMAIN")]
    dns_search_add: Vec<String>,
    /// Remove a DNS search domain
    #[arg(long, value_name = "DOMAIN")]
    dns_search_rm: Vec<String>,
    /// Add an additional supplementary user group to the container
    #[arg(long, value_name = "GROUP")]
    group_add: Vec<String>,
    /// Remove a previously added supplementary user group from the container
    #[arg(long, value_name = "GROUP")]
    group_rm: Vec<String>,
    /// Add a custom host-to-IP mapping ("host:ip")
    #[arg(long, value_name = "HOST:IP", value_parser = limit::extra_host)]
    host_add: Vec<(String, String)>,
    /// Remove a custom host-to-IP mapping ("host:ip")
    #[arg(long, value_name = "HOST:IP", value_parser = limit::extra_host)]
    host_rm: Vec<(String, String)>,
    /// Add or update a Sysctl option
    #[arg(long, value_name = "KEY=VALUE", value_parser = pair::check)]
    sysctl_add: Vec<String>,
    /// Remove a Sysctl option
    #[arg(long, value_name = "KEY")]
    sysctl_rm: Vec<String>,
    /// Add or update a ulimit option
    #[arg(long, value_name = "ULIMIT", value_parser = limit::ulimit)]
    ulimit_add: Vec<Value>,
    /// Remove a ulimit option
    #[arg(long, value_name = "NAME")]
    ulimit_rm: Vec<String>,
    /// Add a Generic resource
    #[arg(long, value_name = "NAME=N")]
    generic_resource_add: Vec<String>,
    /// Remove a Generic resource
    #[arg(long, value_name = "NAME")]
    generic_resource_rm: Vec<String>,
    #[command(flatten)]
    spec: SpecFlags,
    /// Service
    service: String,
}

impl UpdateArgs {
    /// Runs the command.
    pub(crate) async fn run(self, context: &Context) -> anyhow::Result<()> {
        let service = context.object("services", &self.service).await?;
        let mut body = service.at("Spec").clone();
        if !self.rollback {
            let resolved = Resolved {
                networks: references::networks(context, &self.network_add).await?,
                secrets: references::files(context, Kind::Secret, &self.secret_add).await?,
                configs: references::files(context, Kind::Config, &self.config_add).await?,
                removed_networks: references::ids_of_networks(context, &self.network_rm).await,
            };
            self.apply(&mut body, &resolved)?;
        }
        send(context, &service, body, self.rollback).await?;
        output::line(&self.service)?;
        if self.spec.detach {
            return Ok(());
        }
        if self.rollback {
            return super::progress::wait_for_rollback(context, service.text("ID"), self.spec.quiet).await;
        }
        super::progress::wait(context, service.text("ID"), self.spec.quiet).await
    }

    /// Changes a spec as the flags say.
    pub(super) fn apply(&self, body: &mut Value, resolved: &Resolved) -> anyhow::Result<()> {
        spec::apply(body, &self.spec)?;
        if let Some(image) = &self.image {
            set(body, &format!("{CONTAINER}.Image"), with_tag(image));
        }
        if let Some(arguments) = &self.args {
            set(body, &format!("{CONTAINER}.Args"), words::words(arguments).map_err(anyhow::Error::msg)?);
        }
        if self.force {
            let before = body.number("TaskTemplate.ForceUpdate");
            set(body, "TaskTemplate.ForceUpdate", before + 1);
        }
        self.texts(body)?;
        self.maps(body);
        self.objects(body, resolved);
        self.placement(body)?;
        self.ports(body)?;
        self.capabilities(body);
        Ok(())
    }

    fn texts(&self, body: &mut Value) -> anyhow::Result<()> {
        let hosts = |pairs: &[(String, String)]| {
            pairs.iter().map(|(name, address)| format!("{address} {name}")).collect::<Vec<_>>()
        };
        let whole = |entry: &Value| entry.as_str().unwrap_or_default().to_owned();
        let key = |entry: &Value| pair::split(entry.as_str().unwrap_or_default()).0;
        let mut edit = |path: &str, add: &[String], remove: &[String], key: &dyn Fn(&Value) -> String| {
            let add = add.iter().map(|entry| Value::from(entry.as_str())).collect();
            merge(body, &format!("{CONTAINER}.{path}"), add, remove, key);
        };
        let added = pair::environment(&self.env_add, &[])?;
        edit("Env", &added, &self.env_rm, &key);
        edit("Groups", &self.group_add, &self.group_rm, &whole);
        edit("DNSConfig.Nameservers", &self.dns_add, &self.dns_rm, &whole);
        edit("DNSConfig.Options", &self.dns_option_add, &self.dns_option_rm, &whole);
        edit("DNSConfig.Search", &self.dns_search_add, &self.dns_search_rm, &whole);
        edit("Hosts", &hosts(&self.host_add), &hosts(&self.host_rm), &whole);
        Ok(())
    }

    fn maps(&self, body: &mut Value) {
        let mut edit = |path: &str, add: &[String], remove: &[String]| {
            if add.is_empty() && remove.is_empty() {
                return;
            }
            let map = object_at(body, path);
            map.retain(|key, _| !remove.contains(key));
            map.extend(pair::map(add));
        };
        edit("Labels", &self.label_add, &self.label_rm);
        edit(&format!("{CONTAINER}.Labels"), &self.container_label_add, &self.container_label_rm);
        edit(&format!("{CONTAINER}.Sysctls"), &self.sysctl_add, &self.sysctl_rm);
    }

    fn objects(&self, body: &mut Value, resolved: &Resolved) {
        let field = |name: &'static str| move |entry: &Value| entry.text(name).to_owned();
        merge(body, &format!("{CONTAINER}.Mounts"), self.mount_add.clone(), &self.mount_rm, &field("Target"));
        merge(body, &format!("{CONTAINER}.Ulimits"), self.ulimit_add.clone(), &self.ulimit_rm, &field("Name"));
        if !(resolved.networks.is_empty() && resolved.removed_networks.is_empty()) {
            move_networks(body);
        }
        merge(body, "TaskTemplate.Networks", resolved.networks.clone(), &resolved.removed_networks, &field("Target"));
        let files = [
            (Kind::Secret, "Secrets", &resolved.secrets, &self.secret_rm),
            (Kind::Config, "Configs", &resolved.configs, &self.config_rm),
        ];
        for (kind, list, add, remove) in files {
            let path = format!("{CONTAINER}.{list}");
            merge(body, &path, Vec::new(), remove, &field(kind.name_field()));
            merge(body, &path, add.clone(), &[], &field("File.Name"));
        }
    }

    fn placement(&self, body: &mut Value) -> anyhow::Result<()> {
        let whole = |entry: &Value| entry.as_str().unwrap_or_default().to_owned();
        let constraints = self.constraint_add.iter().map(|entry| Value::from(entry.as_str())).collect();
        merge(body, "TaskTemplate.Placement.Constraints", constraints, &self.constraint_rm, &whole);
        let add = self.placement_pref_add.iter().map(|flag| spec::preference(flag)).collect::<anyhow::Result<_>>()?;
        let remove: Vec<String> = self.placement_pref_rm.iter().map(|flag| pair::split(flag).1).collect();
        let descriptor = |entry: &Value| entry.text("Spread.SpreadDescriptor").to_owned();
        merge(body, "TaskTemplate.Placement.Preferences", add, &remove, &descriptor);
        let add =
            self.generic_resource_add.iter().map(|flag| spec::generic_resource(flag)).collect::<anyhow::Result<_>>()?;
        let kind = |entry: &Value| entry.text("DiscreteResourceSpec.Kind").to_owned();
        merge(body, "TaskTemplate.Resources.Reservations.GenericResources", add, &self.generic_resource_rm, &kind);
        Ok(())
    }

    fn ports(&self, body: &mut Value) -> anyhow::Result<()> {
        let mut add = Vec::new();
        for flag in &self.publish_add {
            add.extend(port::service_ports(flag).map_err(anyhow::Error::msg)?);
        }
        let mut remove = Vec::new();
        for flag in &self.publish_rm {
            remove.extend(port::service_ports(flag).map_err(anyhow::Error::msg)?.iter().map(target_port));
        }
        merge(body, "EndpointSpec.Ports", Vec::new(), &remove, &target_port);
        merge(body, "EndpointSpec.Ports", add, &[], &published_port);
        let clash = |ports: &[Value]| {
            ports.iter().enumerate().any(|(index, port)| {
                port.number("PublishedPort") > 0
                    && ports.iter().take(index).any(|other| {
                        other.number("PublishedPort") == port.number("PublishedPort")
                            && other.text("Protocol") == port.text("Protocol")
                    })
            })
        };
        if clash(body.items("EndpointSpec.Ports")) {
            bail!("conflicting port mapping: a published port may appear once");
        }
        Ok(())
    }

    fn capabilities(&self, body: &mut Value) {
        if self.cap_add.is_empty() && self.cap_drop.is_empty() {
            return;
        }
        let (add, drop) = capabilities(&self.cap_add, &self.cap_drop);
        let current = |field: &str| body.texts(&format!("{CONTAINER}.{field}"));
        let (added, dropped) = (current("CapabilityAdd"), current("CapabilityDrop"));
        // As docker does: to add what was dropped (or drop what was added) takes that back and does nothing more.
        let next = |old: &[String], new: &[String], taken_back: &[String], other: &[String]| {
            let kept = old.iter().filter(|name| !taken_back.contains(name));
            let new = new.iter().filter(|name| !other.contains(name));
            kept.chain(new).cloned().collect::<std::collections::BTreeSet<_>>().into_iter().collect::<Vec<_>>()
        };
        let (next_add, next_drop) = (next(&added, &add, &drop, &dropped), next(&dropped, &drop, &add, &added));
        set(body, &format!("{CONTAINER}.CapabilityAdd"), next_add);
        set(body, &format!("{CONTAINER}.CapabilityDrop"), next_drop);
    }
}

/// Into the task's template, when they stand beside it as before API 1.25: networks there hide the others.
fn move_networks(body: &mut Value) {
    let Some(beside) = body.as_object_mut().and_then(|body| body.remove("Networks")) else { return };
    if body.items("TaskTemplate.Networks").is_empty() {
        set(body, "TaskTemplate.Networks", beside);
    }
}

/// Removes entries by key, then puts `add` in, each in the place of the entry with the same key.
fn merge(body: &mut Value, path: &str, add: Vec<Value>, remove: &[String], key: &dyn Fn(&Value) -> String) {
    if add.is_empty() && remove.is_empty() {
        return;
    }
    let mut entries = body.items(path).to_vec();
    entries.retain(|entry| !remove.contains(&key(entry)));
    for entry in add {
        match entries.iter_mut().find(|old| key(old) == key(&entry)) {
            Some(old) => *old = entry,
            None => entries.push(entry),
        }
    }
    set(body, path, entries);
}

fn target_port(port: &Value) -> String {
    format!("{}/{}", port.number("TargetPort"), port.text("Protocol"))
}

/// Ports published at a fixed place are the same when the place is; others when the target is.
fn published_port(port: &Value) -> String {
    match port.number("PublishedPort") {
        0 => format!("target {}", target_port(port)),
        published => format!("published {published}/{}", port.text("Protocol")),
    }
}

/// Sends a new spec for a service, and shows the daemon's warnings.
pub(super) async fn send(context: &Context, service: &Value, body: Value, rollback: bool) -> anyhow::Result<()> {
    let request = context.client.post(format!("/services/{}/update", escape(service.text("ID"))));
    let request = request
        .query("version", service.number("Version.Index"))
        .query_some("rollback", rollback.then_some("previous"));
    let answer = request.body(body).json().await?;
    super::warn(&answer);
    Ok(())
}

/// Revert changes to a service's configuration
#[derive(Debug, Clone, Args)]
#[command(after_help = "Example:
  shoal service rollback web       back to the spec before the last update")]
pub(crate) struct RollbackArgs {
    /// Exit immediately instead of waiting for the service to converge
    #[arg(short, long)]
    detach: bool,
    /// Suppress progress output
    #[arg(short, long)]
    quiet: bool,
    /// Service
    service: String,
}

impl RollbackArgs {
    /// Runs the command.
    pub(crate) async fn run(self, context: &Context) -> anyhow::Result<()> {
        let service = context.object("services", &self.service).await?;
        send(context, &service, service.at("Spec").clone(), true).await?;
        output::line(&self.service)?;
        if self.detach {
            return Ok(());
        }
        super::progress::wait_for_rollback(context, service.text("ID"), self.quiet).await
    }
}

/// Scale one or multiple replicated services
#[derive(Debug, Clone, Args)]
#[command(after_help = "Example:
  shoal service scale web=8 worker=20")]
pub(crate) struct ScaleArgs {
    /// Exit immediately instead of waiting for the services to converge
    #[arg(short, long)]
    detach: bool,
    /// Services and their numbers of tasks
    #[arg(required = true, value_name = "SERVICE=REPLICAS", value_parser = replicas)]
    services: Vec<(String, u64)>,
}

fn replicas(text: &str) -> Result<(String, u64), String> {
    let invalid = || format!("invalid scale specifier '{text}' (want service=number, as in web=5)");
    let (name, number) = text.split_once('=').filter(|(name, _)| !name.is_empty()).ok_or_else(invalid)?;
    Ok((name.to_owned(), number.parse().map_err(|_| invalid())?))
}

impl ScaleArgs {
    /// Runs the command.
    pub(crate) async fn run(self, context: &Context) -> anyhow::Result<()> {
        let mut failures = crate::cli::exit::Failures::default();
        let mut scaled = Vec::new();
        for (name, replicas) in &self.services {
            if let Some(id) = failures.keep(scale(context, name, *replicas).await) {
                output::line(format!("{name} scaled to {replicas}"))?;
                scaled.push((name, id));
            }
        }
        if !self.detach {
            for (name, id) in scaled {
                if self.services.len() > 1 {
                    output::line(format!("{name}:"))?;
                }
                failures.keep(super::progress::wait(context, &id, false).await);
            }
        }
        failures.finish()
    }
}

async fn scale(context: &Context, name: &str, replicas: u64) -> anyhow::Result<String> {
    let service = context.object("services", name).await?;
    let mut body = service.at("Spec").clone();
    let path = if body.at("Mode.Replicated").is_object() {
        "Mode.Replicated.Replicas"
    } else if body.at("Mode.ReplicatedJob").is_object() {
        "Mode.ReplicatedJob.TotalCompletions"
    } else {
        bail!("{name}: scale can only be used with replicated or replicated-job mode");
    };
    set(&mut body, path, json!(replicas));
    send(context, &service, body, false).await?;
    Ok(service.text("ID").to_owned())
}
