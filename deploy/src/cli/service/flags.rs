//! The flags that `service create` and `service update` share, as docker 28 names them.

use clap::Args;

use crate::cli::parse::{duration, size};

/// What is set on a service's spec. `None` leaves the spec as it is.
#[derive(Debug, Clone, Default, Args)]
pub(crate) struct SpecFlags {
    /// Overwrite the default ENTRYPOINT of the image
    #[arg(long, value_name = "COMMAND")]
    pub(crate) entrypoint: Option<String>,
    /// Working directory inside the container
    #[arg(short, long, value_name = "DIR")]
    pub(crate) workdir: Option<String>,
    /// Username or UID (format: <name|uid>[:<group|gid>])
    #[arg(short, long)]
    pub(crate) user: Option<String>,
    /// Container hostname; may be a template, as in web-{{.Task.Slot}}
    #[arg(long)]
    pub(crate) hostname: Option<String>,
    /// Number of tasks
    #[arg(long, value_name = "N")]
    pub(crate) replicas: Option<u64>,
    /// Number of job tasks to run at the same time (default: --replicas)
    #[arg(long, value_name = "N")]
    pub(crate) max_concurrent: Option<u64>,
    /// Maximum number of tasks per node (0 = unlimited)
    #[arg(long, value_name = "N")]
    pub(crate) replicas_max_per_node: Option<u64>,
    /// Limit CPUs, as in 0.5
    #[arg(long, value_name = "DECIMAL", value_parser = size::nano_cpus)]
    pub(crate) limit_cpu: Option<i64>,
    /// Limit memory, as in 256m
    #[arg(long, value_name = "BYTES", value_parser = size::bytes)]
    pub(crate) limit_memory: Option<i64>,
    /// Limit maximum number of processes (0 = unlimited)
    #[arg(long, value_name = "N")]
    pub(crate) limit_pids: Option<i64>,
    /// Reserve CPUs: the task runs only where they are free
    #[arg(long, value_name = "DECIMAL", value_parser = size::nano_cpus)]
    pub(crate) reserve_cpu: Option<i64>,
    /// Reserve memory: the task runs only where it is free
    #[arg(long, value_name = "BYTES", value_parser = size::bytes)]
    pub(crate) reserve_memory: Option<i64>,
    /// Swap limit, memory plus swap: -1 for unlimited
    #[arg(long, value_name = "BYTES", value_parser = size::bytes_or_unlimited)]
    pub(crate) memory_swap: Option<i64>,
    /// Tune memory swappiness (0 to 100), -1 to leave it to the node
    #[arg(long, value_name = "N")]
    pub(crate) memory_swappiness: Option<i64>,
    /// Tune the host's OOM preferences (-1000 to 1000)
    #[arg(long, value_name = "N")]
    pub(crate) oom_score_adj: Option<i64>,
    /// Restart when condition is met ("none", "on-failure", "any") (default "any")
    #[arg(long, value_name = "CONDITION", value_parser = ["none", "on-failure", "any"])]
    pub(crate) restart_condition: Option<String>,
    /// Delay between restart attempts (default 5s)
    #[arg(long, value_name = "DURATION", value_parser = duration::nanoseconds)]
    pub(crate) restart_delay: Option<i64>,
    /// Maximum number of restarts before giving up
    #[arg(long, value_name = "N")]
    pub(crate) restart_max_attempts: Option<u64>,
    /// Window used to evaluate the restart policy
    #[arg(long, value_name = "DURATION", value_parser = duration::nanoseconds)]
    pub(crate) restart_window: Option<i64>,
    #[command(flatten)]
    pub(crate) update: UpdateFlags,
    #[command(flatten)]
    pub(crate) rollback: RollbackFlags,
    #[command(flatten)]
    pub(crate) health: HealthFlags,
    /// Time to wait before force killing a container (default 10s)
    #[arg(long, value_name = "DURATION", value_parser = duration::nanoseconds)]
    pub(crate) stop_grace_period: Option<i64>,
    /// Signal to stop the container
    #[arg(long, value_name = "SIGNAL")]
    pub(crate) stop_signal: Option<String>,
    /// Endpoint mode (vip or dnsrr) (default "vip")
    #[arg(long, value_name = "MODE", value_parser = ["vip", "dnsrr"])]
    pub(crate) endpoint_mode: Option<String>,
    /// Logging driver for the service
    #[arg(long, value_name = "DRIVER")]
    pub(crate) log_driver: Option<String>,
    /// Logging driver options, as in max-size=10m
    #[arg(long, value_name = "KEY=VALUE")]
    pub(crate) log_opt: Vec<String>,
    /// Use an init inside each service container to forward signals and reap processes
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", value_name = "BOOL")]
    pub(crate) init: Option<bool>,
    /// Mount the container's root filesystem as read only
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", value_name = "BOOL")]
    pub(crate) read_only: Option<bool>,
    /// Allocate a pseudo-TTY
    #[arg(short, long, num_args = 0..=1, require_equals = true, default_missing_value = "true", value_name = "BOOL")]
    pub(crate) tty: Option<bool>,
    /// Service container isolation mode (Windows only)
    #[arg(long, hide = true)]
    pub(crate) isolation: Option<String>,
    /// Credential spec for managed service account (Windows only)
    #[arg(long, hide = true)]
    pub(crate) credential_spec: Option<String>,
    /// Do not query a registry for the image's digest (Shoal never does; accepted for docker's scripts)
    #[arg(long, hide = true)]
    pub(crate) no_resolve_image: bool,
    /// Send registry authentication details (accepted for docker's scripts)
    #[arg(long, hide = true)]
    pub(crate) with_registry_auth: bool,
    /// Exit immediately instead of waiting for the service to converge
    #[arg(short, long)]
    pub(crate) detach: bool,
    /// Suppress progress output
    #[arg(short, long)]
    pub(crate) quiet: bool,
}

/// How an update rolls.
#[derive(Debug, Clone, Default, Args)]
pub(crate) struct UpdateFlags {
    /// Maximum number of tasks updated simultaneously (0 to update all at once) (default 1)
    #[arg(long, value_name = "N")]
    pub(crate) update_parallelism: Option<u64>,
    /// Delay between updates (default 0s)
    #[arg(long, value_name = "DURATION", value_parser = duration::nanoseconds)]
    pub(crate) update_delay: Option<i64>,
    /// Duration after each task update to monitor for failure (default 5s)
    #[arg(long, value_name = "DURATION", value_parser = duration::nanoseconds)]
    pub(crate) update_monitor: Option<i64>,
    /// Action on update failure ("pause", "continue", "rollback") (default "pause")
    #[arg(long, value_name = "ACTION", value_parser = ["pause", "continue", "rollback"])]
    pub(crate) update_failure_action: Option<String>,
    /// Failure rate to tolerate during an update (default 0)
    #[arg(long, value_name = "RATIO")]
    pub(crate) update_max_failure_ratio: Option<f64>,
    /// Update order ("start-first", "stop-first") (default "stop-first")
    #[arg(long, value_name = "ORDER", value_parser = ["start-first", "stop-first"])]
    pub(crate) update_order: Option<String>,
}

/// How a rollback rolls.
#[derive(Debug, Clone, Default, Args)]
pub(crate) struct RollbackFlags {
    /// Maximum number of tasks rolled back simultaneously (0 to roll back all at once) (default 1)
    #[arg(long, value_name = "N")]
    pub(crate) rollback_parallelism: Option<u64>,
    /// Delay between task rollbacks (default 0s)
    #[arg(long, value_name = "DURATION", value_parser = duration::nanoseconds)]
    pub(crate) rollback_delay: Option<i64>,
    /// Duration after each task rollback to monitor for failure (default 5s)
    #[arg(long, value_name = "DURATION", value_parser = duration::nanoseconds)]
    pub(crate) rollback_monitor: Option<i64>,
    /// Action on rollback failure ("pause", "continue") (default "pause")
    #[arg(long, value_name = "ACTION", value_parser = ["pause", "continue"])]
    pub(crate) rollback_failure_action: Option<String>,
    /// Failure rate to tolerate during a rollback (default 0)
    #[arg(long, value_name = "RATIO")]
    pub(crate) rollback_max_failure_ratio: Option<f64>,
    /// Rollback order ("start-first", "stop-first") (default "stop-first")
    #[arg(long, value_name = "ORDER", value_parser = ["start-first", "stop-first"])]
    pub(crate) rollback_order: Option<String>,
}

/// How a container's health is checked; shared with `run`.
#[derive(Debug, Clone, Default, Args)]
pub(crate) struct HealthFlags {
    /// Command to run to check health
    #[arg(long, value_name = "COMMAND")]
    pub(crate) health_cmd: Option<String>,
    /// Time between running the check
    #[arg(long, value_name = "DURATION", value_parser = duration::nanoseconds)]
    pub(crate) health_interval: Option<i64>,
    /// Maximum time to allow one check to run
    #[arg(long, value_name = "DURATION", value_parser = duration::nanoseconds)]
    pub(crate) health_timeout: Option<i64>,
    /// Start period for the container to initialize before counting retries towards unstable
    #[arg(long, value_name = "DURATION", value_parser = duration::nanoseconds)]
    pub(crate) health_start_period: Option<i64>,
    /// Time between running the check during the start period
    #[arg(long, value_name = "DURATION", value_parser = duration::nanoseconds)]
    pub(crate) health_start_interval: Option<i64>,
    /// Consecutive failures needed to report unhealthy
    #[arg(long, value_name = "N")]
    pub(crate) health_retries: Option<i64>,
    /// Disable any container-specified HEALTHCHECK
    #[arg(long)]
    pub(crate) no_healthcheck: bool,
}
