//! `network`.

use std::collections::BTreeMap;

use anyhow::{Context as _, bail};
use clap::{Args, Subcommand};
use serde_json::{Value, json};

use super::client::{Filters, escape};
use super::container::lifecycle::{self, PruneArgs};
use super::context::Context;
use super::exit::Failures;
use super::human::short_id;
use super::listing::{Listing, row, with_labels};
use super::look::{Look as _, set, set_list, set_some};
use super::output;
use super::parse::pair;
use super::refused;

const LISTING: Listing = Listing {
    headers: &[
        ("ID", "NETWORK ID"),
        ("Name", "NAME"),
        ("Driver", "DRIVER"),
        ("Scope", "SCOPE"),
        ("IPv4", "IPV4"),
        ("IPv6", "IPV6"),
        ("Internal", "INTERNAL"),
        ("CreatedAt", "CREATED AT"),
        ("Labels", "LABELS"),
    ],
    table: "{{.ID}}\t{{.Name}}\t{{.Driver}}\t{{.Scope}}",
    quiet: "{{.ID}}",
};

/// Manage networks
#[derive(Debug, Args)]
#[command(after_help = "Example:
  shoal network create -d overlay front
  shoal network connect front web")]
pub(crate) struct NetworkArgs {
    #[command(subcommand)]
    command: NetworkCommand,
}

#[derive(Debug, Subcommand)]
enum NetworkCommand {
    Connect(ConnectArgs),
    Create(Box<CreateArgs>),
    Disconnect(DisconnectArgs),
    Inspect(InspectArgs),
    #[command(alias = "list")]
    Ls(ListArgs),
    /// Remove all unused networks
    Prune(PruneArgs),
    #[command(alias = "remove")]
    Rm(RmArgs),
}

impl NetworkArgs {
    /// Runs the command.
    pub(crate) async fn run(self, context: &Context) -> anyhow::Result<()> {
        match self.command {
            NetworkCommand::Connect(args) => args.run(context).await,
            NetworkCommand::Create(args) => args.run(context).await,
            NetworkCommand::Disconnect(args) => args.run(context).await,
            NetworkCommand::Inspect(args) => args.run(context).await,
            NetworkCommand::Ls(args) => args.run(context).await,
            NetworkCommand::Prune(args) => {
                let warning = "This will remove all custom networks not used by at least one container.";
                args.run(context, "networks", warning, "NetworksDeleted").await
            }
            NetworkCommand::Rm(args) => args.run(context).await,
        }
    }
}

/// Create a network
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  shoal network create --subnet 172.30.0.0/16 backend
  shoal network create -d overlay --attachable front")]
struct CreateArgs {
    /// Driver to manage the Network
    #[arg(short, long, default_value = "bridge")]
    driver: String,
    /// Enable manual container attachment
    #[arg(long)]
    attachable: bool,
    /// Create swarm routing-mesh network
    #[arg(long)]
    ingress: bool,
    /// Restrict external access to the network
    #[arg(long)]
    internal: bool,
    /// Create a configuration only network
    #[arg(long)]
    config_only: bool,
    /// The network from which to copy the configuration
    #[arg(long, value_name = "NETWORK")]
    config_from: Option<String>,
    /// Control the network's scope
    #[arg(long)]
    scope: Option<String>,
    /// Subnet in CIDR format that represents a network segment
    #[arg(long, value_name = "CIDR", value_delimiter = ',')]
    subnet: Vec<String>,
    /// IPv4 or IPv6 Gateway for the master subnet
    #[arg(long, value_name = "IP", value_delimiter = ',')]
    gateway: Vec<String>,
    /// Allocate container ip from a sub-range
    #[arg(long, value_name = "CIDR", value_delimiter = ',')]
    ip_range: Vec<String>,
    /// Auxiliary IPv4 or IPv6 addresses used by Network driver
    #[arg(long, value_name = "NAME=IP")]
    aux_address: Vec<String>,
    /// IP Address Management Driver
    #[arg(long, default_value = "default", value_name = "DRIVER")]
    ipam_driver: String,
    /// Set IPAM driver specific options
    #[arg(long, value_name = "KEY=VALUE")]
    ipam_opt: Vec<String>,
    /// Enable or disable IPv4 address assignment
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", value_name = "BOOL")]
    ipv4: Option<bool>,
    /// Enable or disable IPv6 address assignment
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", value_name = "BOOL")]
    ipv6: Option<bool>,
    /// Set metadata on a network
    #[arg(long, value_name = "KEY=VALUE")]
    label: Vec<String>,
    /// Set driver specific options, as in encrypted or com.docker.network.driver.mtu=1400
    #[arg(short, long = "opt", value_name = "KEY=VALUE")]
    opt: Vec<String>,
    /// Name
    network: String,
}

impl CreateArgs {
    async fn run(self, context: &Context) -> anyhow::Result<()> {
        let answer = context.client.post("/networks/create").body(self.body()?).json().await?;
        super::service::warn(&answer);
        output::line(answer.text("Id"))
    }

    fn body(&self) -> anyhow::Result<Value> {
        let mut body = json!({
            "Name": self.network, "Driver": self.driver, "CheckDuplicate": true, "Internal": self.internal, "Attachable": self.attachable,
            "Ingress": self.ingress, "ConfigOnly": self.config_only, "Labels": pair::map(&self.label), "Options": pair::map(&self.opt),
            "IPAM": {"Driver": self.ipam_driver, "Options": pair::map(&self.ipam_opt), "Config": self.pools()?},
        });
        set_some(&mut body, "Scope", self.scope.clone());
        set_some(&mut body, "EnableIPv4", self.ipv4);
        set_some(&mut body, "EnableIPv6", self.ipv6);
        if let Some(network) = &self.config_from {
            set(&mut body, "ConfigFrom", json!({"Network": network}));
        }
        Ok(body)
    }

    /// Every range, gateway and auxiliary address belongs to the subnet that holds it.
    fn pools(&self) -> anyhow::Result<Vec<Value>> {
        if self.subnet.is_empty()
            && !(self.gateway.is_empty() && self.ip_range.is_empty() && self.aux_address.is_empty())
        {
            bail!("every ip-range, gateway or aux-address must have a corresponding subnet");
        }
        let mut pools: Vec<(Subnet, Value)> = Vec::new();
        for subnet in &self.subnet {
            let parsed = Subnet::parse(subnet)?;
            if pools.iter().any(|(other, _)| other.overlaps(&parsed)) {
                bail!("multiple overlapping subnet configuration is not supported");
            }
            pools.push((parsed, json!({"Subnet": subnet})));
        }
        let mut place = |field: &str, text: &str, address: &str| {
            let address = Subnet::parse(address)?;
            let pool = pools.iter_mut().find(|(subnet, _)| subnet.contains(&address));
            let (_, pool) = pool.with_context(|| format!("no matching subnet for {} {text}", field.to_lowercase()))?;
            if !pool.at(field).is_null() && field != "AuxiliaryAddresses" {
                bail!("cannot configure multiple {}s ({text}) on the same subnet", field.to_lowercase());
            }
            match text.split_once('=') {
                Some((name, address)) => {
                    drop(super::look::object_at(pool, field).insert(name.to_owned(), Value::from(address)))
                }
                None => set(pool, field, text),
            }
            anyhow::Ok(())
        };
        for range in &self.ip_range {
            place("IPRange", range, range)?;
        }
        for gateway in &self.gateway {
            place("Gateway", gateway, gateway)?;
        }
        for auxiliary in &self.aux_address {
            let (_, address) =
                auxiliary.split_once('=').with_context(|| format!("aux-address '{auxiliary}' must be name=ip"))?;
            place("AuxiliaryAddresses", auxiliary, address)?;
        }
        Ok(pools.into_iter().map(|(_, pool)| pool).collect())
    }
}

/// An address with a mask, as a number, so that IPv4 and IPv6 are compared alike.
struct Subnet {
    v6: bool,
    first: u128,
    last: u128,
}

impl Subnet {
    fn parse(text: &str) -> anyhow::Result<Self> {
        let (address, length) = text.split_once('/').map_or((text, None), |(address, length)| (address, Some(length)));
        let invalid = || format!("invalid CIDR address: {text}");
        let (v6, number) = match address.parse().with_context(invalid)? {
            std::net::IpAddr::V4(address) => (false, u128::from(address.to_bits())),
            std::net::IpAddr::V6(address) => (true, address.to_bits()),
        };
        let width: u32 = if v6 { 128 } else { 32 };
        let length: u32 = length.map(str::parse).transpose().with_context(invalid)?.unwrap_or(width);
        if length > width {
            bail!(invalid());
        }
        let hosts = if width - length == 128 { u128::MAX } else { (1_u128 << (width - length)) - 1 };
        Ok(Self { v6, first: number & !hosts, last: number | hosts })
    }

    fn contains(&self, other: &Self) -> bool {
        self.v6 == other.v6 && self.first <= other.first && other.last <= self.last
    }

    fn overlaps(&self, other: &Self) -> bool {
        self.v6 == other.v6 && self.first <= other.last && other.first <= self.last
    }
}

/// Connect a container to a network
#[derive(Debug, Args)]
#[command(after_help = "Example:
  shoal network connect --alias db backend postgres1")]
struct ConnectArgs {
    /// Add network-scoped alias for the container
    #[arg(long, value_name = "NAME")]
    alias: Vec<String>,
    /// driver options for the network
    #[arg(long, value_name = "KEY=VALUE")]
    driver_opt: Vec<String>,
    /// Highest gw-priority provides the default gateway. Accepts positive and negative values
    #[arg(long, value_name = "N")]
    gw_priority: Option<i64>,
    /// Add a link-local address for the container
    #[arg(long, hide = true)]
    link_local_ip: Vec<String>,
    /// IPv4 address (e.g., 172.30.100.104)
    #[arg(long, value_name = "IP")]
    ip: Option<String>,
    /// IPv6 address (e.g., 2001:db8::33)
    #[arg(long, value_name = "IP")]
    ip6: Option<String>,
    /// Add link to another container
    #[arg(long, value_name = "CONTAINER")]
    link: Vec<String>,
    /// Network
    network: String,
    /// Container
    container: String,
}

impl ConnectArgs {
    async fn run(self, context: &Context) -> anyhow::Result<()> {
        let why = "link-local addresses are not offered";
        refused::check(&[("--link-local-ip", !self.link_local_ip.is_empty(), why)])?;
        let mut endpoint = json!({});
        set_some(&mut endpoint, "GwPriority", self.gw_priority);
        set_list(&mut endpoint, "Aliases", self.alias);
        set_list(&mut endpoint, "Links", self.link);
        set_some(&mut endpoint, "IPAMConfig.IPv4Address", self.ip);
        set_some(&mut endpoint, "IPAMConfig.IPv6Address", self.ip6);
        if !self.driver_opt.is_empty() {
            set(&mut endpoint, "DriverOpts", pair::map(&self.driver_opt));
        }
        let body = json!({"Container": self.container, "EndpointConfig": endpoint});
        context.client.post(format!("/networks/{}/connect", escape(&self.network))).body(body).done().await
    }
}

/// Disconnect a container from a network
#[derive(Debug, Args)]
#[command(after_help = "Example:
  shoal network disconnect backend web")]
struct DisconnectArgs {
    /// Force the container to disconnect from a network
    #[arg(short, long)]
    force: bool,
    /// Network
    network: String,
    /// Container
    container: String,
}

impl DisconnectArgs {
    async fn run(self, context: &Context) -> anyhow::Result<()> {
        let body = json!({"Container": self.container, "Force": self.force});
        context.client.post(format!("/networks/{}/disconnect", escape(&self.network))).body(body).done().await
    }
}

/// Display detailed information on one or more networks
#[derive(Debug, Args)]
#[command(after_help = "Example:
  shoal network inspect -f '{{range .IPAM.Config}}{{.Subnet}}{{end}}' front")]
struct InspectArgs {
    /// Format output: json, or a Go template
    #[arg(short, long)]
    format: Option<String>,
    /// Verbose output for diagnostics
    #[arg(short, long)]
    verbose: bool,
    /// Networks
    #[arg(required = true, value_name = "NETWORK")]
    networks: Vec<String>,
}

impl InspectArgs {
    async fn run(self, context: &Context) -> anyhow::Result<()> {
        let mut failures = Failures::default();
        let mut networks = Vec::new();
        for name in &self.networks {
            let request = context.client.get(format!("/networks/{}", escape(name))).query_if("verbose", self.verbose);
            networks.extend(failures.keep(request.json().await));
        }
        output::inspected(self.format.as_deref(), &networks)?;
        failures.finish()
    }
}

/// List networks
#[derive(Debug, Args)]
#[command(after_help = "Example:
  shoal network ls --filter driver=overlay")]
struct ListArgs {
    /// Filter output, as in driver=overlay
    #[arg(short, long, value_name = "NAME=VALUE")]
    filter: Vec<String>,
    /// Format output: table, json, or a Go template
    #[arg(long)]
    format: Option<String>,
    /// Do not truncate the output
    #[arg(long)]
    no_trunc: bool,
    /// Only display network IDs
    #[arg(short, long)]
    quiet: bool,
}

impl ListArgs {
    async fn run(self, context: &Context) -> anyhow::Result<()> {
        let networks = context.client.get("/networks").filters(&Filters::parse(&self.filter)?).json().await?;
        let mut sorted: BTreeMap<(String, String), &Value> = BTreeMap::new();
        for network in networks.items("") {
            sorted.insert((network.text("Name").to_owned(), network.text("Id").to_owned()), network);
        }
        let network_row = |network: &Value| {
            let id = network.text("Id");
            let row = row([
                ("ID", if self.no_trunc { id } else { short_id(id) }.to_owned()),
                ("Name", network.text("Name").to_owned()),
                ("Driver", network.text("Driver").to_owned()),
                ("Scope", network.text("Scope").to_owned()),
                ("IPv4", network.at("EnableIPv4").as_bool().unwrap_or(true).to_string()),
                ("IPv6", network.truth("EnableIPv6").to_string()),
                ("Internal", network.truth("Internal").to_string()),
                ("CreatedAt", network.text("Created").to_owned()),
            ]);
            with_labels(row, network.at("Labels"))
        };
        LISTING.print(self.format.as_deref(), self.quiet, sorted.into_values().map(network_row).collect())
    }
}

/// Remove one or more networks
#[derive(Debug, Args)]
#[command(after_help = "Example:
  shoal network rm front")]
struct RmArgs {
    /// Do not error if the network does not exist
    #[arg(short, long)]
    force: bool,
    /// Networks
    #[arg(required = true, value_name = "NETWORK")]
    networks: Vec<String>,
}

impl RmArgs {
    async fn run(self, context: &Context) -> anyhow::Result<()> {
        let force = self.force;
        lifecycle::each(&self.networks, |name| async move {
            match context.client.delete(format!("/networks/{}", escape(&name))).done().await {
                Err(error) if force && super::client::is_not_found(&error) => Ok(()),
                result => result,
            }
        })
        .await
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Create {
        #[command(flatten)]
        args: CreateArgs,
    }

    fn body(words: &[&str]) -> anyhow::Result<Value> {
        Create::try_parse_from(std::iter::once("create").chain(words.iter().copied())).unwrap().args.body()
    }

    #[test]
    fn bodies() {
        let overlay = body(&["-d", "overlay", "--attachable", "-o", "encrypted", "--label", "a=b", "front"]).unwrap();
        assert_eq!((overlay.text("Driver"), overlay.truth("Attachable")), ("overlay", true));
        assert_eq!(overlay.at("Options"), &json!({"encrypted": ""}));
        assert_eq!(overlay.at("IPAM"), &json!({"Driver": "default", "Options": {}, "Config": []}));
    }

    #[test]
    fn addresses_go_to_their_subnets() {
        let two = body(&[
            "--subnet",
            "10.1.0.0/16",
            "--subnet",
            "10.2.0.0/16",
            "--gateway",
            "10.2.0.1",
            "--ip-range",
            "10.1.5.0/24",
            "--aux-address",
            "x=10.1.0.9",
            "n",
        ])
        .unwrap();
        assert_eq!(
            two.at("IPAM.Config"),
            &json!([{"Subnet": "10.1.0.0/16", "IPRange": "10.1.5.0/24", "AuxiliaryAddresses": {"x": "10.1.0.9"}}, {"Subnet": "10.2.0.0/16", "Gateway": "10.2.0.1"}])
        );
        assert!(body(&["--gateway", "10.0.0.1", "n"]).is_err());
        assert!(body(&["--subnet", "10.1.0.0/16", "--gateway", "10.2.0.1", "n"]).is_err());
        assert!(body(&["--subnet", "10.1.0.0/16", "--subnet", "10.1.1.0/24", "n"]).is_err());
        assert!(body(&["--subnet", "nonsense", "n"]).is_err());
    }
}
