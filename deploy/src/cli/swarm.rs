//! `swarm`: make, join and change a cluster.

use std::io::BufRead as _;

use anyhow::Context as _;
use clap::{Args, Subcommand};
use serde_json::{Value, json};

use super::context::Context;
use super::exit::fail;
use super::look::{Look as _, set, set_some};
use super::output;
use super::parse::{csv, duration};

/// Manage the cluster
#[derive(Debug, Args)]
#[command(after_help = "Example, on the first machine and then on the others:
  shoal swarm init --advertise-addr 192.0.2.1
  shoal swarm join --token SWMTKN-1-… 192.0.2.1:2377")]
pub(crate) struct SwarmArgs {
    #[command(subcommand)]
    command: SwarmCommand,
}

#[derive(Debug, Subcommand)]
enum SwarmCommand {
    Ca(CaArgs),
    Init(Box<InitArgs>),
    Join(JoinArgs),
    JoinToken(JoinTokenArgs),
    Leave(LeaveArgs),
    Unlock(UnlockArgs),
    UnlockKey(UnlockKeyArgs),
    Update(UpdateArgs),
}

/// What `init` and `update` set on the cluster's spec.
#[derive(Debug, Clone, Default, Args)]
struct SpecFlags {
    /// Require an unlock key to start a stopped manager
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", value_name = "BOOL")]
    autolock: Option<bool>,
    /// Validity period for node certificates (default 2160h0m0s)
    #[arg(long, value_name = "DURATION", value_parser = duration::nanoseconds)]
    cert_expiry: Option<i64>,
    /// Dispatcher heartbeat period (default 1s)
    #[arg(long, value_name = "DURATION", value_parser = duration::nanoseconds)]
    dispatcher_heartbeat: Option<i64>,
    /// Certificate signing endpoints, as in protocol=cfssl,url=https://…
    #[arg(long, value_name = "SPEC")]
    external_ca: Vec<String>,
    /// Number of additional Raft snapshots to retain
    #[arg(long, value_name = "N")]
    max_snapshots: Option<u64>,
    /// Number of log entries between Raft snapshots (default 10000)
    #[arg(long, value_name = "N")]
    snapshot_interval: Option<u64>,
    /// Task history retention limit (default 5)
    #[arg(long, value_name = "N")]
    task_history_limit: Option<i64>,
}

impl SpecFlags {
    fn apply(&self, spec: &mut Value) -> anyhow::Result<()> {
        set_some(spec, "EncryptionConfig.AutoLockManagers", self.autolock);
        set_some(spec, "CAConfig.NodeCertExpiry", self.cert_expiry);
        set_some(spec, "Dispatcher.HeartbeatPeriod", self.dispatcher_heartbeat);
        set_some(spec, "Raft.KeepOldSnapshots", self.max_snapshots);
        set_some(spec, "Raft.SnapshotInterval", self.snapshot_interval);
        set_some(spec, "Orchestration.TaskHistoryRetentionLimit", self.task_history_limit);
        let authorities = self.external_ca.iter().map(|flag| external_ca(flag)).collect::<anyhow::Result<Vec<_>>>()?;
        super::look::set_list(spec, "CAConfig.ExternalCAs", authorities);
        Ok(())
    }
}

fn external_ca(flag: &str) -> anyhow::Result<Value> {
    let mut authority = json!({"Options": {}});
    for (key, value) in csv::pairs(flag).map_err(anyhow::Error::msg)? {
        let value = value.with_context(|| format!("invalid field '{key}' must be a key=value pair"))?;
        match key.as_str() {
            "protocol" => set(&mut authority, "Protocol", value),
            "url" => set(&mut authority, "URL", value),
            "cacert" => set(
                &mut authority,
                "CACert",
                std::fs::read_to_string(&value).with_context(|| format!("unable to read the CA cert file {value}"))?,
            ),
            _ => super::look::object_at(&mut authority, "Options").insert(key, Value::from(value)).map_or((), drop),
        }
    }
    if authority.text("Protocol").is_empty() || authority.text("URL").is_empty() {
        anyhow::bail!("the external-ca option needs a protocol= and a url= parameter");
    }
    Ok(authority)
}

/// Initialize a swarm
#[derive(Debug, Args)]
#[command(after_help = "Example:
  shoal swarm init --advertise-addr 192.0.2.1")]
struct InitArgs {
    /// Advertised address (format: <ip|interface>[:port])
    #[arg(long, value_name = "ADDRESS", default_value = "", hide_default_value = true)]
    advertise_addr: String,
    /// Listen address (format: <ip|interface>[:port])
    #[arg(long, value_name = "ADDRESS", default_value = "0.0.0.0:2377")]
    listen_addr: String,
    /// Availability of the node ("active", "pause", "drain")
    #[arg(long, default_value = "active", value_parser = ["active", "pause", "drain"])]
    availability: String,
    /// Address or interface to use for data path traffic (format: <ip|interface>)
    #[arg(long, value_name = "ADDRESS", default_value = "", hide_default_value = true)]
    data_path_addr: String,
    /// Port to use for data path traffic (1024 - 49151; 0 = 4789)
    #[arg(long, value_name = "PORT", default_value_t = 0)]
    data_path_port: u32,
    /// Default address pool in CIDR format
    #[arg(long, value_name = "CIDR")]
    default_addr_pool: Vec<String>,
    /// Default address pool subnet mask length
    #[arg(long, value_name = "N", default_value_t = 24)]
    default_addr_pool_mask_length: u32,
    /// Force create a new cluster from current state
    #[arg(long)]
    force_new_cluster: bool,
    #[command(flatten)]
    spec: SpecFlags,
}

impl InitArgs {
    fn body(&self) -> anyhow::Result<Value> {
        let mut body = json!({
            "ListenAddr": self.listen_addr,
            "AdvertiseAddr": self.advertise_addr,
            "DataPathAddr": self.data_path_addr,
            "DataPathPort": self.data_path_port,
            "DefaultAddrPool": self.default_addr_pool.iter().flat_map(|pools| pools.split(',')).collect::<Vec<_>>(),
            "SubnetSize": self.default_addr_pool_mask_length,
            "ForceNewCluster": self.force_new_cluster,
            "AutoLockManagers": self.spec.autolock.unwrap_or_default(),
            "Availability": self.availability,
            "Spec": {"Labels": {}},
        });
        let mut spec = body.at("Spec").clone();
        self.spec.apply(&mut spec)?;
        set(&mut body, "Spec", spec);
        Ok(body)
    }

    async fn run(self, context: &Context) -> anyhow::Result<()> {
        let answer = context.client.post("/swarm/init").body(self.body()?).json().await?;
        let node = answer.as_str().unwrap_or_default();
        output::line(format!("Swarm initialized: current node ({node}) is now a manager.\n"))?;
        print_join_command(context, node, "worker").await?;
        output::line(
            "To add a manager to this swarm, run 'shoal swarm join-token manager' and follow the instructions.\n",
        )?;
        if self.spec.autolock == Some(true) {
            let key = context.client.fetch("/swarm/unlockkey").await?;
            print_unlock(key.text("UnlockKey"))?;
        }
        Ok(())
    }
}

async fn print_join_command(context: &Context, node: &str, role: &str) -> anyhow::Result<()> {
    let node = context.object("nodes", node).await?;
    let swarm = context.client.fetch("/swarm").await?;
    let token = join_token(&swarm, role);
    let address = node.text("ManagerStatus.Addr");
    output::line(format!(
        "To add a {role} to this swarm, run the following command:\n\n    shoal swarm join --token {token} {address}\n"
    ))
}

fn join_token<'a>(swarm: &'a Value, role: &str) -> &'a str {
    swarm.text(if role == "manager" { "JoinTokens.Manager" } else { "JoinTokens.Worker" })
}

fn print_unlock(key: &str) -> anyhow::Result<()> {
    output::line(format!(
        "To unlock a swarm manager after it restarts, run the `shoal swarm unlock`\ncommand and provide the following key:\n\n    {key}\n\n\
         Remember to store this key in a password manager, since without it you\nwill not be able to restart the manager."
    ))
}

/// Join a swarm as a node and/or manager
#[derive(Debug, Args)]
#[command(after_help = "Example; the token is what 'shoal swarm join-token worker' prints on a manager:
  shoal swarm join --token SWMTKN-1-… 192.0.2.1:2377")]
struct JoinArgs {
    /// Token for entry into the swarm
    #[arg(long)]
    token: String,
    /// Advertised address (format: <ip|interface>[:port])
    #[arg(long, value_name = "ADDRESS", default_value = "", hide_default_value = true)]
    advertise_addr: String,
    /// Listen address (format: <ip|interface>[:port])
    #[arg(long, value_name = "ADDRESS", default_value = "0.0.0.0:2377")]
    listen_addr: String,
    /// Availability of the node ("active", "pause", "drain")
    #[arg(long, default_value = "active", value_parser = ["active", "pause", "drain"])]
    availability: String,
    /// Address or interface to use for data path traffic (format: <ip|interface>)
    #[arg(long, value_name = "ADDRESS", default_value = "", hide_default_value = true)]
    data_path_addr: String,
    /// A manager's address
    #[arg(value_name = "HOST:PORT")]
    remote: String,
}

impl JoinArgs {
    async fn run(self, context: &Context) -> anyhow::Result<()> {
        let body = json!({
            "ListenAddr": self.listen_addr,
            "AdvertiseAddr": self.advertise_addr,
            "DataPathAddr": self.data_path_addr,
            "RemoteAddrs": [self.remote],
            "JoinToken": self.token,
            "Availability": self.availability,
        });
        context.client.post("/swarm/join").body(body).done().await?;
        let info = context.client.fetch("/info").await?;
        let role = if info.truth("Swarm.ControlAvailable") { "manager" } else { "worker" };
        output::line(format!("This node joined a swarm as a {role}."))
    }
}

/// Manage join tokens
#[derive(Debug, Args)]
#[command(after_help = "Example:
  shoal swarm join-token worker
  shoal swarm join-token --rotate -q manager     the old token stops working")]
struct JoinTokenArgs {
    /// Only display token
    #[arg(short, long)]
    quiet: bool,
    /// Rotate join token
    #[arg(long)]
    rotate: bool,
    /// Role of the node that joins
    #[arg(value_name = "worker|manager")]
    role: String,
}

impl JoinTokenArgs {
    async fn run(self, context: &Context) -> anyhow::Result<()> {
        if !["worker", "manager"].contains(&self.role.as_str()) {
            return Err(fail(1, format!("unknown role {} (worker or manager)", self.role)));
        }
        if self.rotate {
            let swarm = context.client.fetch("/swarm").await?;
            let flag = if self.role == "manager" { "rotateManagerToken" } else { "rotateWorkerToken" };
            let request = context
                .client
                .post("/swarm/update")
                .query("version", swarm.number("Version.Index"))
                .query(flag, "true");
            request.body(swarm.at("Spec").clone()).done().await?;
            if !self.quiet {
                output::line(format!("Successfully rotated {} join token.\n", self.role))?;
            }
        }
        if self.quiet {
            let swarm = context.client.fetch("/swarm").await?;
            return output::line(join_token(&swarm, &self.role));
        }
        let info = context.client.fetch("/info").await?;
        print_join_command(context, info.text("Swarm.NodeID"), &self.role).await
    }
}

/// Leave the swarm
#[derive(Debug, Args)]
#[command(after_help = "Example:
  shoal swarm leave")]
struct LeaveArgs {
    /// Force this node to leave the swarm, ignoring warnings
    #[arg(short, long)]
    force: bool,
}

/// Update the swarm
#[derive(Debug, Args)]
#[command(
    arg_required_else_help = true,
    after_help = "Example:
  shoal swarm update --task-history-limit 2 --cert-expiry 720h"
)]
struct UpdateArgs {
    #[command(flatten)]
    spec: SpecFlags,
}

impl UpdateArgs {
    async fn run(self, context: &Context) -> anyhow::Result<()> {
        let swarm = context.client.fetch("/swarm").await?;
        let mut spec = swarm.at("Spec").clone();
        let locked = spec.truth("EncryptionConfig.AutoLockManagers");
        self.spec.apply(&mut spec)?;
        context.client.post("/swarm/update").query("version", swarm.number("Version.Index")).body(spec).done().await?;
        output::line("Swarm updated.")?;
        if !locked && self.spec.autolock == Some(true) {
            let key = context.client.fetch("/swarm/unlockkey").await?;
            print_unlock(key.text("UnlockKey"))?;
        }
        Ok(())
    }
}

/// Unlock swarm
#[derive(Debug, Args)]
#[command(after_help = "Example; asks for the key that 'shoal swarm unlock-key' printed:
  shoal swarm unlock")]
struct UnlockArgs {}

impl UnlockArgs {
    async fn run(self, context: &Context) -> anyhow::Result<()> {
        if super::terminal::stdin_is_terminal() {
            output::text("Please enter unlock key: ")?;
        }
        let mut key = String::new();
        std::io::stdin().lock().read_line(&mut key).context("read the key")?;
        context.client.post("/swarm/unlock").body(json!({"UnlockKey": key.trim()})).done().await
    }
}

/// Manage the unlock key
#[derive(Debug, Args)]
#[command(after_help = "Example:
  shoal swarm unlock-key --rotate")]
struct UnlockKeyArgs {
    /// Only display token
    #[arg(short, long)]
    quiet: bool,
    /// Rotate unlock key
    #[arg(long)]
    rotate: bool,
}

impl UnlockKeyArgs {
    async fn run(self, context: &Context) -> anyhow::Result<()> {
        if self.rotate {
            let swarm = context.client.fetch("/swarm").await?;
            if !swarm.truth("Spec.EncryptionConfig.AutoLockManagers") {
                return Err(fail(1, "cannot rotate because autolock is not turned on"));
            }
            let request = context.client.post("/swarm/update").query("version", swarm.number("Version.Index"));
            request.query("rotateManagerUnlockKey", "true").body(swarm.at("Spec").clone()).done().await?;
            if !self.quiet {
                output::line("Successfully rotated manager unlock key.\n")?;
            }
        }
        let key = context.client.fetch("/swarm/unlockkey").await?;
        let key = key.text("UnlockKey");
        if key.is_empty() {
            return Err(fail(1, "no unlock key is set"));
        }
        if self.quiet { output::line(key) } else { print_unlock(key) }
    }
}

/// Display the root CA certificate
#[derive(Debug, Args)]
#[command(after_help = "Example:
  shoal swarm ca > root.pem")]
struct CaArgs {}

impl SwarmArgs {
    /// Runs the command.
    pub(crate) async fn run(self, context: &Context) -> anyhow::Result<()> {
        match self.command {
            SwarmCommand::Ca(CaArgs {}) => {
                let swarm = context.client.fetch("/swarm").await?;
                output::line(swarm.text("TLSInfo.TrustRoot").trim_end())
            }
            SwarmCommand::Init(args) => args.run(context).await,
            SwarmCommand::Join(args) => args.run(context).await,
            SwarmCommand::JoinToken(args) => args.run(context).await,
            SwarmCommand::Leave(args) => {
                context.client.post("/swarm/leave").query_if("force", args.force).done().await?;
                output::line("Node left the swarm.")
            }
            SwarmCommand::Unlock(args) => args.run(context).await,
            SwarmCommand::UnlockKey(args) => args.run(context).await,
            SwarmCommand::Update(args) => args.run(context).await,
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Init {
        #[command(flatten)]
        args: InitArgs,
    }

    #[test]
    fn the_body_of_init() {
        let words = [
            "init",
            "--advertise-addr",
            "10.0.0.1",
            "--cert-expiry",
            "1h",
            "--autolock",
            "--default-addr-pool",
            "10.1.0.0/16,10.2.0.0/16",
        ];
        let body = Init::try_parse_from(words).unwrap().args.body().unwrap();
        let want = json!({
            "ListenAddr": "0.0.0.0:2377", "AdvertiseAddr": "10.0.0.1", "DataPathAddr": "", "DataPathPort": 0,
            "DefaultAddrPool": ["10.1.0.0/16", "10.2.0.0/16"], "SubnetSize": 24, "ForceNewCluster": false, "AutoLockManagers": true, "Availability": "active",
            "Spec": {"Labels": {}, "EncryptionConfig": {"AutoLockManagers": true}, "CAConfig": {"NodeCertExpiry": 3_600_000_000_000_i64}}
        });
        assert_eq!(body, want);
    }

    #[test]
    fn external_authorities() {
        assert_eq!(
            external_ca("protocol=cfssl,url=https://ca,profile=node").unwrap(),
            json!({"Protocol": "cfssl", "URL": "https://ca", "Options": {"profile": "node"}})
        );
        assert!(external_ca("protocol=cfssl").is_err());
    }
}
