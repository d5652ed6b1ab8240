//! Many agents in one process: each joins with a token, gets its certificate, holds a session and reports statuses, over
//! the real protocol and mTLS. Only the containers are pretended.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::StreamExt;
use futures::stream::BoxStream;
use shoal_agent::assignments::NetworkView;
use shoal_agent::executor::{Controller, Dependencies, Executor, Exit, LogLine, LogOptions, Observed};
use shoal_agent::{Agent, AgentOptions};
use shoal_kit::ca_client::{self, JoinRequest};
use shoal_kit::clock::{Clock, SystemClock};
use shoal_kit::entropy::Entropy;
use shoal_kit::identity::NodeIdentity;
use shoal_kit::tls::{DialOptions, lazy_channel};
use shoal_proto::error::{Failure, chain};
use shoal_proto::id::TaskId;
use shoal_proto::object::{ContainerStatus, NodeDescription, Task};
use shoal_proto::spec::{Availability, Platform, PortConfig, ResourceAmount};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Joins under way at a time.
const JOINS_AT_ONCE: usize = 64;

/// Which agents to run.
#[derive(Debug, Clone)]
pub(crate) struct FakeAgentsOptions {
    /// Managers, `host:port`.
    pub(crate) remotes: Vec<String>,
    /// A worker token.
    pub(crate) token: String,
    /// How many.
    pub(crate) count: usize,
}

/// Joins them all, tells how long that took, and runs them until shutdown.
///
/// # Errors
/// When the token is malformed, or a join is refused.
pub(crate) async fn run(
    options: FakeAgentsOptions,
    shutdown: CancellationToken,
    joined: impl FnOnce(Duration) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let token = options.token.parse()?;
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let entropy = Entropy::from_system();
    let request = JoinRequest {
        token,
        remotes: options.remotes.clone(),
        availability: Availability::Active,
        timeout: Duration::from_secs(30),
    };
    let tracker = TaskTracker::new();
    let mut joins = futures::stream::iter(0..options.count)
        .map(|number| {
            let (request, clock) = (request.clone(), Arc::clone(&clock));
            async move {
                let issued = ca_client::join(&request, &clock).await?;
                anyhow::Ok((number, Arc::new(NodeIdentity::in_memory(clock, issued.material)?)))
            }
        })
        .buffer_unordered(JOINS_AT_ONCE);
    let begin = tokio::time::Instant::now();
    while let Some(issued) = joins.next().await {
        let (number, identity) = issued?;
        let dialer_identity = Arc::clone(&identity);
        let agent_options = AgentOptions {
            dialer: Arc::new(move |addr| {
                lazy_channel(&dialer_identity, addr, DialOptions::default())
                    .map_err(|error| Failure::unavailable(chain(&error)))
            }),
            managers: options.remotes.clone(),
            clock: Arc::clone(&clock),
            entropy: entropy.clone(),
        };
        let (agent, _handle) = Agent::new(agent_options, Arc::new(FakeExecutor::new(number, &identity)));
        tracker.spawn(agent.run(shutdown.clone()));
    }
    joined(begin.elapsed())?;
    shutdown.cancelled().await;
    tracker.close();
    tracker.wait().await;
    Ok(())
}

type Containers = Arc<Mutex<HashMap<TaskId, bool>>>;

/// An engine that remembers which containers it would run.
struct FakeExecutor {
    hostname: String,
    trust_root_pem: String,
    containers: Containers,
}

impl FakeExecutor {
    fn new(number: usize, identity: &NodeIdentity) -> Self {
        Self {
            hostname: format!("fake-{number}"),
            trust_root_pem: identity.current().material.trust_pem.clone(),
            containers: Containers::default(),
        }
    }
}

impl Executor for FakeExecutor {
    type Controller = FakeController;

    async fn describe(&self) -> Result<NodeDescription, Failure> {
        Ok(NodeDescription {
            hostname: self.hostname.clone(),
            platform: Platform { architecture: std::env::consts::ARCH.to_owned(), os: "linux".to_owned() },
            resources: ResourceAmount { nano_cpus: 8_000_000_000, memory_bytes: 16 << 30, ..ResourceAmount::default() },
            engine_version: env!("CARGO_PKG_VERSION").to_owned(),
            trust_root_pem: self.trust_root_pem.clone(),
            ..NodeDescription::default()
        })
    }

    async fn apply_networks(&self, _view: Arc<NetworkView>) -> Result<(), Failure> {
        Ok(())
    }

    fn controller(&self, task: Arc<Task>, _dependencies: Dependencies) -> FakeController {
        FakeController { task: task.id, containers: Arc::clone(&self.containers) }
    }

    async fn known_tasks(&self) -> Result<Vec<TaskId>, Failure> {
        Ok(self.containers.lock().unwrap_or_else(PoisonError::into_inner).keys().copied().collect())
    }

    async fn remove_leftover(&self, task: TaskId) -> Result<(), Failure> {
        self.containers.lock().unwrap_or_else(PoisonError::into_inner).remove(&task);
        Ok(())
    }

    async fn logs(
        &self,
        _task: TaskId,
        _options: LogOptions,
    ) -> Result<BoxStream<'static, Result<LogLine, Failure>>, Failure> {
        Ok(futures::stream::empty().boxed())
    }
}

/// Pretends to run one task, for ever.
struct FakeController {
    task: TaskId,
    containers: Containers,
}

impl FakeController {
    fn set(&self, running: bool) {
        self.containers.lock().unwrap_or_else(PoisonError::into_inner).insert(self.task, running);
    }

    fn status(&self, exit_code: Option<i32>) -> ContainerStatus {
        ContainerStatus { container_id: self.task.to_string(), pid: 0, exit_code }
    }
}

impl Controller for FakeController {
    async fn observe(&mut self) -> Result<Observed, Failure> {
        let known = self.containers.lock().unwrap_or_else(PoisonError::into_inner).get(&self.task).copied();
        Ok(match known {
            None => Observed::Absent,
            Some(true) => Observed::Running(self.status(None)),
            Some(false) => Observed::Exited(Exit { container: self.status(Some(0)), reason: String::new() }),
        })
    }

    async fn prepare(&mut self) -> Result<ContainerStatus, Failure> {
        Ok(self.status(None))
    }

    async fn start(&mut self) -> Result<ContainerStatus, Failure> {
        self.set(true);
        Ok(self.status(None))
    }

    async fn healthy(&mut self) -> Result<(), Failure> {
        Ok(())
    }

    async fn wait(&mut self) -> Result<Exit, Failure> {
        std::future::pending().await
    }

    async fn shutdown(&mut self) -> Result<ContainerStatus, Failure> {
        self.set(false);
        Ok(self.status(Some(0)))
    }

    async fn remove(&mut self) -> Result<(), Failure> {
        self.containers.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.task);
        Ok(())
    }

    fn ports(&self) -> Vec<PortConfig> {
        Vec::new()
    }
}
