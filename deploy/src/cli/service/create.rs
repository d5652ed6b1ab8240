//! `service create`.

use anyhow::bail;
use clap::Args;
use serde_json::{Value, json};

use super::flags::SpecFlags;
use super::references::{self, Kind};
use super::spec::{self, CONTAINER};
use crate::cli::context::Context;
use crate::cli::look::{Look as _, set, set_list};
use crate::cli::output;
use crate::cli::parse::{limit, mount, pair, port};

/// Create a new service
#[derive(Debug, Clone, Args)]
#[command(
    override_usage = "shoal service create [OPTIONS] IMAGE [COMMAND] [ARG...]",
    after_help = "Examples:
  shoal service create --name web --replicas 3 -p 8080:80 --network front nginx
  shoal service create --name db --mount type=volume,source=data,target=/var/lib/db \\
      --constraint node.labels.disk==ssd --secret db-password postgres
  shoal service create --mode global --name agent --limit-memory 64m agent:1"
)]
pub(crate) struct CreateArgs {
    /// Service name
    #[arg(long)]
    name: Option<String>,
    /// Service mode ("replicated", "global", "replicated-job", "global-job")
    #[arg(long, default_value = "replicated", value_parser = ["replicated", "global", "replicated-job", "global-job"])]
    mode: String,
    /// Publish a port on every node, as in 8080:80 or published=8080,target=80,mode=host
    #[arg(short, long, value_name = "PORT")]
    publish: Vec<String>,
    /// Network attachments
    #[arg(long, value_name = "NETWORK")]
    network: Vec<String>,
    /// Attach a filesystem mount, as in type=volume,source=data,target=/data
    #[arg(long, value_name = "MOUNT", value_parser = mount::mount)]
    mount: Vec<Value>,
    /// Set environment variables
    #[arg(short, long, value_name = "KEY=VALUE")]
    env: Vec<String>,
    /// Read in a file of environment variables
    #[arg(long, value_name = "FILE")]
    env_file: Vec<std::path::PathBuf>,
    /// Placement constraints, as in node.role==worker
    #[arg(long, value_name = "CONSTRAINT")]
    constraint: Vec<String>,
    /// Add a placement preference, as in spread=node.labels.zone
    #[arg(long, value_name = "PREFERENCE")]
    placement_pref: Vec<String>,
    /// Specify secrets to expose to the service
    #[arg(long, value_name = "SECRET")]
    secret: Vec<String>,
    /// Specify configurations to expose to the service
    #[arg(long, value_name = "CONFIG")]
    config: Vec<String>,
    /// Service labels
    #[arg(short, long, value_name = "KEY=VALUE")]
    label: Vec<String>,
    /// Container labels
    #[arg(long, value_name = "KEY=VALUE")]
    container_label: Vec<String>,
    /// Add Linux capabilities
    #[arg(long, value_name = "CAP")]
    cap_add: Vec<String>,
    /// Drop Linux capabilities
    #[arg(long, value_name = "CAP")]
    cap_drop: Vec<String>,
    /// Set custom DNS servers
    #[arg(long, value_name = "IP")]
    dns: Vec<String>,
    /// Set DNS options
    #[arg(long, value_name = "OPTION")]
    dns_option: Vec<String>,
    /// Set custom DNS search domains
    #[arg(long, value_name = "DOMAIN")]
    dns_search: Vec<String>,
    /// Set one or more supplementary user groups for the container
    #[arg(long, value_name = "GROUP")]
    group: Vec<String>,
    /// Set one or more custom host-to-IP mappings (host:ip)
    #[arg(long = "host", value_name = "HOST:IP", value_parser = limit::extra_host)]
    host: Vec<(String, String)>,
    /// Sysctl options
    #[arg(long, value_name = "KEY=VALUE", value_parser = pair::check)]
    sysctl: Vec<String>,
    /// Ulimit options, as in nofile=1024:2048
    #[arg(long, value_name = "ULIMIT", value_parser = limit::ulimit)]
    ulimit: Vec<Value>,
    /// User defined resources, as in gpu=1
    #[arg(long, value_name = "NAME=N")]
    generic_resource: Vec<String>,
    #[command(flatten)]
    spec: SpecFlags,
    /// Image, and the command with its arguments
    #[arg(required = true, trailing_var_arg = true, value_name = "IMAGE")]
    image: Vec<String>,
}

/// Ids of the objects that the flags name.
#[derive(Debug, Clone, Default)]
pub(super) struct Resolved {
    pub(super) networks: Vec<Value>,
    pub(super) secrets: Vec<Value>,
    pub(super) configs: Vec<Value>,
    /// Networks to leave; for updates.
    pub(super) removed_networks: Vec<String>,
}

impl CreateArgs {
    /// Runs the command.
    pub(crate) async fn run(self, context: &Context) -> anyhow::Result<()> {
        let resolved = Resolved {
            networks: references::networks(context, &self.network).await?,
            secrets: references::files(context, Kind::Secret, &self.secret).await?,
            configs: references::files(context, Kind::Config, &self.config).await?,
            removed_networks: Vec::new(),
        };
        let body = self.body(&resolved)?;
        let created = context.client.post("/services/create").body(body).json().await?;
        super::warn(&created);
        let id = created.text("ID");
        output::line(id)?;
        if self.spec.detach {
            return Ok(());
        }
        super::progress::wait(context, id, self.spec.quiet).await
    }

    /// The spec to create.
    pub(super) fn body(&self, resolved: &Resolved) -> anyhow::Result<Value> {
        let (image, arguments) = self.image.split_first().map_or(("", &[][..]), |(image, rest)| (image.as_str(), rest));
        let mode = match self.mode.as_str() {
            "global" => json!({"Global": {}}),
            "global-job" => json!({"GlobalJob": {}}),
            "replicated-job" => {
                let total = self.spec.replicas.unwrap_or(1);
                json!({"ReplicatedJob": {"TotalCompletions": total, "MaxConcurrent": total}})
            }
            _ => json!({"Replicated": {}}),
        };
        let mut body = json!({
            "Name": self.name.as_deref().unwrap_or_default(),
            "Labels": pair::map(&self.label),
            "Mode": mode,
            "TaskTemplate": {"ContainerSpec": {"Image": with_tag(image)}},
            "EndpointSpec": {"Mode": "vip"},
        });
        spec::apply(&mut body, &self.spec)?;
        self.container(&mut body, arguments, resolved)?;
        self.placement(&mut body)?;
        let mut ports = Vec::new();
        for flag in &self.publish {
            ports.extend(port::service_ports(flag).map_err(anyhow::Error::msg)?);
        }
        set_list(&mut body, "EndpointSpec.Ports", ports);
        set_list(&mut body, "TaskTemplate.Networks", resolved.networks.clone());
        if body.text("EndpointSpec.Mode") == "dnsrr"
            && body.items("EndpointSpec.Ports").iter().any(|port| port.text("PublishMode") == "ingress")
        {
            bail!("EndpointSpec: port published with ingress mode can't be used with dnsrr mode");
        }
        Ok(body)
    }

    fn container(&self, body: &mut Value, arguments: &[String], resolved: &Resolved) -> anyhow::Result<()> {
        let mut list = |field: &str, values: Vec<Value>| set_list(body, &format!("{CONTAINER}.{field}"), values);
        let texts = |values: &[String]| values.iter().map(|value| Value::from(value.as_str())).collect::<Vec<_>>();
        list("Args", texts(arguments));
        list("Env", texts(&pair::environment(&self.env, &self.env_file)?));
        list("Mounts", self.mount.clone());
        list("Groups", texts(&self.group));
        list("Hosts", self.host.iter().map(|(name, address)| Value::from(format!("{address} {name}"))).collect());
        list("Secrets", resolved.secrets.clone());
        list("Configs", resolved.configs.clone());
        list("Ulimits", self.ulimit.clone());
        list("DNSConfig.Nameservers", texts(&self.dns));
        list("DNSConfig.Search", texts(&self.dns_search));
        list("DNSConfig.Options", texts(&self.dns_option));
        let (add, drop) = capabilities(&self.cap_add, &self.cap_drop);
        list("CapabilityAdd", texts(&add));
        list("CapabilityDrop", texts(&drop));
        let mut map = |field: &str, pairs: &[String]| {
            if !pairs.is_empty() {
                set(body, &format!("{CONTAINER}.{field}"), pair::map(pairs));
            }
        };
        map("Labels", &self.container_label);
        map("Sysctls", &self.sysctl);
        Ok(())
    }

    fn placement(&self, body: &mut Value) -> anyhow::Result<()> {
        set_list(body, "TaskTemplate.Placement.Constraints", self.constraint.clone());
        let preferences =
            self.placement_pref.iter().map(|flag| spec::preference(flag)).collect::<anyhow::Result<Vec<_>>>()?;
        set_list(body, "TaskTemplate.Placement.Preferences", preferences);
        let generic = self
            .generic_resource
            .iter()
            .map(|flag| spec::generic_resource(flag))
            .collect::<anyhow::Result<Vec<_>>>()?;
        set_list(body, "TaskTemplate.Resources.Reservations.GenericResources", generic);
        Ok(())
    }
}

/// An image's name with a tag: `latest` when it has neither a tag nor a digest, as docker writes it into specs.
pub(super) fn with_tag(image: &str) -> String {
    let (_, tag) = crate::cli::image::split_name(image);
    let is_id = image.len() == 64 && image.chars().all(|character| character.is_ascii_hexdigit());
    if !tag.is_empty() || image.contains('@') || is_id { image.to_owned() } else { format!("{image}:latest") }
}

/// Capabilities by their full names, sorted and once each; what is both added and dropped is added, and `ALL` stands for
/// every other, as in docker.
pub(super) fn capabilities(add: &[String], drop: &[String]) -> (Vec<String>, Vec<String>) {
    let names = |flags: &[String]| {
        let names: std::collections::BTreeSet<String> = flags.iter().map(|flag| limit::capability(flag)).collect();
        if names.contains("ALL") { std::collections::BTreeSet::from(["ALL".to_owned()]) } else { names }
    };
    let (add, drop) = (names(add), names(drop));
    let drop = drop.into_iter().filter(|name| !add.contains(name)).collect();
    (add.into_iter().collect(), drop)
}
