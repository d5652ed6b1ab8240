//! Commands and flags of docker's that there are none of here, each refused by its name and with what to do instead.

use clap::Args;

use super::exit::fail;

/// What is typed after a command that is not there.
#[derive(Debug, Args)]
#[command(disable_help_flag = true, after_help = "Example: there is none yet.")]
pub(crate) struct RefusedArgs {
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, hide = true)]
    _rest: Vec<String>,
}

impl RefusedArgs {
    /// Says so.
    pub(crate) fn run(self, message: &str) -> anyhow::Result<()> {
        Err(fail(1, message))
    }
}

pub(crate) const BUILD: &str =
    "build is not available yet: build the image elsewhere, then bring it in with 'shoal load'";
pub(crate) const PULL: &str =
    "pull is not available yet: bring the image in with 'shoal load -i file.tar' or 'shoal import file.tar name'";
pub(crate) const PUSH: &str = "push is not available yet: 'shoal save' writes a file that 'shoal load' reads elsewhere";
pub(crate) const REGISTRY: &str = "registries are not available yet";
pub(crate) const STACK: &str = "stacks are not available yet: create the services with 'shoal service create'";
pub(crate) const CLUSTER_VOLUME: &str = "cluster volumes are not offered";
pub(crate) const CONTEXTS: &str = "contexts are not offered: name the daemon with -H or SHOAL_HOST";
pub(crate) const NOT_OFFERED: &str = "this command of docker's is not offered";

/// Fails for the first of some flags that was given.
pub(crate) fn check(flags: &[(&str, bool, &str)]) -> anyhow::Result<()> {
    match flags.iter().find(|(_, given, _)| *given) {
        Some((flag, _, why)) => Err(fail(1, format!("{flag} is not available: {why}"))),
        None => Ok(()),
    }
}

/// Why an image's platform cannot be chosen.
pub(crate) const ONE_PLATFORM: &str = "an image here is of one platform";

/// A choice of platform, for images that have several
#[derive(Debug, Clone, Default, Args)]
pub(crate) struct PlatformOption {
    /// Platform of an image that has several
    #[arg(long, value_name = "OS/ARCH", hide = true)]
    platform: Option<String>,
}

impl PlatformOption {
    /// Fails when it was given.
    pub(crate) fn check(&self) -> anyhow::Result<()> {
        check(&[("--platform", self.platform.is_some(), ONE_PLATFORM)])
    }
}

/// Flags of `run` and `create` that are for other systems, or for later
#[derive(Debug, Clone, Default, Args)]
pub(crate) struct RunFlags {
    /// CPU count (Windows only)
    #[arg(long, hide = true)]
    cpu_count: Option<String>,
    /// CPU percent (Windows only)
    #[arg(long, hide = true)]
    cpu_percent: Option<String>,
    /// Maximum IO bandwidth limit for the system drive (Windows only)
    #[arg(long, hide = true)]
    io_maxbandwidth: Option<String>,
    /// Maximum IOps limit for the system drive (Windows only)
    #[arg(long, hide = true)]
    io_maxiops: Option<String>,
    /// Container isolation technology
    #[arg(long, hide = true)]
    isolation: Option<String>,
    /// Kernel memory limit
    #[arg(long, hide = true)]
    kernel_memory: Option<String>,
    /// GPU devices to add to the container
    #[arg(long, hide = true)]
    gpus: Vec<String>,
    /// Container IPv4/IPv6 link-local addresses
    #[arg(long, hide = true)]
    link_local_ip: Vec<String>,
    /// Bind mount Docker API socket and required auth
    #[arg(long, hide = true)]
    use_api_socket: bool,
    /// Skip image verification; there is none
    #[arg(long, hide = true)]
    disable_content_trust: bool,
    /// Pull image before creating (always, missing, never)
    #[arg(long, value_name = "WHEN", value_parser = ["always", "missing", "never"])]
    pull: Option<String>,
    /// Suppress the pull output
    #[arg(short, long)]
    quiet: bool,
}

impl RunFlags {
    /// Fails for what was given and cannot be had.
    pub(crate) fn check(&self) -> anyhow::Result<()> {
        let windows = "it is for Windows containers";
        let isolation = self.isolation.as_deref().is_some_and(|kind| !matches!(kind, "" | "default"));
        // They would have no effect, and need none.
        let _ = (self.quiet, self.disable_content_trust);
        check(&[
            ("--cpu-count", self.cpu_count.is_some(), windows),
            ("--cpu-percent", self.cpu_percent.is_some(), windows),
            ("--io-maxbandwidth", self.io_maxbandwidth.is_some(), windows),
            ("--io-maxiops", self.io_maxiops.is_some(), windows),
            ("--isolation", isolation, windows),
            ("--kernel-memory", self.kernel_memory.is_some(), "the kernel has no such limit any more"),
            ("--gpus", !self.gpus.is_empty(), "GPUs are not offered; name their device files with --device"),
            ("--link-local-ip", !self.link_local_ip.is_empty(), "link-local addresses are not offered"),
            ("--use-api-socket", self.use_api_socket, "mount the socket with -v /run/shoal/shoal.sock:/run/shoal.sock"),
            (
                "--pull always",
                self.pull.as_deref() == Some("always"),
                "there is no pull yet; 'shoal load' brings images in",
            ),
        ])
    }
}

/// Flags of `volume create` for cluster volumes
#[derive(Debug, Clone, Default, Args)]
pub(crate) struct ClusterVolumeFlags {
    #[arg(long, hide = true)]
    availability: Option<String>,
    #[arg(long, hide = true)]
    group: Option<String>,
    #[arg(long, hide = true)]
    limit_bytes: Option<String>,
    #[arg(long, hide = true)]
    required_bytes: Option<String>,
    #[arg(long, hide = true)]
    scope: Option<String>,
    #[arg(long, hide = true)]
    secret: Vec<String>,
    #[arg(long, hide = true)]
    sharing: Option<String>,
    #[arg(long, hide = true)]
    topology_preferred: Vec<String>,
    #[arg(long, hide = true)]
    topology_required: Vec<String>,
    #[arg(long = "type", hide = true)]
    access_type: Option<String>,
}

impl ClusterVolumeFlags {
    /// Fails for the first that was given.
    pub(crate) fn check(&self) -> anyhow::Result<()> {
        check(&[
            ("--availability", self.availability.is_some(), CLUSTER_VOLUME),
            ("--group", self.group.is_some(), CLUSTER_VOLUME),
            ("--limit-bytes", self.limit_bytes.is_some(), CLUSTER_VOLUME),
            ("--required-bytes", self.required_bytes.is_some(), CLUSTER_VOLUME),
            ("--scope", self.scope.is_some(), CLUSTER_VOLUME),
            ("--secret", !self.secret.is_empty(), CLUSTER_VOLUME),
            ("--sharing", self.sharing.is_some(), CLUSTER_VOLUME),
            ("--topology-preferred", !self.topology_preferred.is_empty(), CLUSTER_VOLUME),
            ("--topology-required", !self.topology_required.is_empty(), CLUSTER_VOLUME),
            ("--type", self.access_type.is_some(), CLUSTER_VOLUME),
        ])
    }
}
