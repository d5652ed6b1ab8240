//! The agent's [`Executor`] on this node's engine.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::StreamExt;
use futures::stream::BoxStream;
use shoal_agent::assignments::NetworkView;
use shoal_agent::executor::{Controller, Dependencies, Executor, Exit, LogLine, LogOptions, Observed};
use shoal_engine::Engine;
use shoal_engine::container::{self, OutputKind, RemoveOptions, StopOptions, TaskContainer, WaitCondition};
use shoal_engine::network::{ClusterNetwork, ClusterNetworkState};
use shoal_kit::identity::NodeIdentity;
use shoal_proto::error::{ErrorKind, Failure};
use shoal_proto::id::TaskId;
use shoal_proto::object::{ContainerStatus, NodeDescription, Task};
use shoal_proto::spec::{Platform, PortConfig, Protocol, PublishMode, ResourceAmount};
use shoal_proto::time::Timestamp;
use tokio::sync::watch;

use super::container_spec::{NetworkNames, create_request};
use super::places::{Held, HeldPlaces};
use super::template::Values;

/// How often the health of a container that has a check is looked at, once it runs.
const HEALTH_POLL: Duration = Duration::from_millis(100);
/// The same while it is awaited: the task starts to count, and an update to go on, when it is healthy.
const STARTING_POLL: Duration = Duration::from_millis(20);

/// What all tasks of the node share.
#[derive(Debug)]
struct Shared {
    engine: Engine,
    identity: Arc<NodeIdentity>,
    data_path_addr: IpAddr,
    data_path_port: u16,
    networks: Mutex<NetworkNames>,
    /// Places of containers that are no tasks, once they are usable.
    held: watch::Sender<HeldPlaces>,
}

/// Runs the cluster's tasks on the engine.
#[derive(Debug, Clone)]
pub(crate) struct EngineExecutor {
    shared: Arc<Shared>,
}

impl EngineExecutor {
    pub(crate) fn new(
        engine: Engine,
        identity: Arc<NodeIdentity>,
        data_path_addr: IpAddr,
        data_path_port: u16,
    ) -> Self {
        let networks = Mutex::new(NetworkNames::new());
        let held = watch::Sender::new(None);
        Self { shared: Arc::new(Shared { engine, identity, data_path_addr, data_path_port, networks, held }) }
    }

    /// The places that containers which are no tasks have on cluster networks.
    pub(crate) fn held(&self) -> watch::Receiver<HeldPlaces> {
        self.shared.held.subscribe()
    }

    fn task_container(&self, task: TaskId) -> Option<TaskContainer> {
        self.shared.engine.list_task_containers().into_iter().find(|container| container.task == task)
    }
}

impl Executor for EngineExecutor {
    type Controller = TaskController;

    async fn describe(&self) -> Result<NodeDescription, Failure> {
        let info = self.shared.engine.info().await;
        let options = self.shared.engine.options();
        let credentials = self.shared.identity.current();
        let plugins = ["bridge", "host", "none", "overlay"].map(|driver| ("Network".to_owned(), driver.to_owned()));
        let logs =
            ["journald", "json-file", "local", "none", "syslog"].map(|driver| ("Log".to_owned(), driver.to_owned()));
        Ok(NodeDescription {
            hostname: options.hostname.clone(),
            platform: Platform { architecture: info.architecture, os: info.os_type },
            resources: ResourceAmount {
                nano_cpus: i64::try_from(info.ncpu).unwrap_or(i64::MAX).saturating_mul(1_000_000_000),
                memory_bytes: i64::try_from(info.mem_total).unwrap_or(i64::MAX),
                generic: options.generic_resources.clone(),
                ..ResourceAmount::default()
            },
            engine_version: options.version.clone(),
            engine_labels: options.labels.clone(),
            plugins: plugins.into_iter().chain(logs).chain([("Volume".to_owned(), "local".to_owned())]).collect(),
            data_path_addr: Some(self.shared.data_path_addr),
            trust_root_pem: credentials.material.trust_pem.clone(),
            ..NodeDescription::default()
        })
    }

    async fn apply_networks(&self, view: Arc<NetworkView>) -> Result<(), Failure> {
        let names = view
            .networks
            .iter()
            .map(|(id, entry)| (*id, (entry.record.driver.clone(), entry.record.name.clone())))
            .collect();
        *self.shared.networks.lock().unwrap_or_else(PoisonError::into_inner) = names;
        let networks = view
            .networks
            .iter()
            .map(|(id, entry)| {
                let network = ClusterNetwork {
                    record: entry.record.clone(),
                    endpoints: entry.endpoints.clone(),
                    services: entry.services.clone(),
                };
                (*id, network)
            })
            .collect::<BTreeMap<_, _>>();
        let state = ClusterNetworkState {
            node_id: self.shared.identity.node_id(),
            data_path_addr: self.shared.data_path_addr,
            data_path_port: self.shared.data_path_port,
            networks,
            published: view.published.clone(),
        };
        let held = Held::of(&view);
        // First off what they have lost, for the network may go with it.
        self.shared.engine.leave_lost_places(&held.places()).await;
        let applied = self.shared.engine.networks().apply_cluster(state).await;
        // What could not be put in place is said by who needs it.
        self.shared.held.send_replace(Some(Arc::new(held)));
        applied
    }

    fn controller(&self, task: Arc<Task>, dependencies: Dependencies) -> TaskController {
        TaskController { shared: Arc::clone(&self.shared), task, dependencies, id: String::new(), ports: Vec::new() }
    }

    async fn known_tasks(&self) -> Result<Vec<TaskId>, Failure> {
        Ok(self.shared.engine.list_task_containers().into_iter().map(|container| container.task).collect())
    }

    async fn remove_leftover(&self, task: TaskId) -> Result<(), Failure> {
        match self.task_container(task) {
            Some(container) => remove(&self.shared.engine, &container.id).await,
            None => Ok(()),
        }
    }

    async fn logs(
        &self,
        task: TaskId,
        options: LogOptions,
    ) -> Result<BoxStream<'static, Result<LogLine, Failure>>, Failure> {
        let found = self
            .task_container(task)
            .ok_or_else(|| Failure::not_found(format!("task {task} has no container here")))?;
        let instant = |instant: Timestamp| (instant != Timestamp::ZERO).then_some(instant);
        let options = container::LogOptions {
            stdout: options.stdout,
            stderr: options.stderr,
            follow: options.follow,
            since: instant(options.since),
            until: instant(options.until),
            tail: options.tail.and_then(|lines| usize::try_from(lines).ok()),
        };
        let lines = self.shared.engine.containers().logs(&found.id, options).await?;
        Ok(lines
            .map(|frame| {
                frame.map(|frame| LogLine {
                    stderr: frame.output == OutputKind::Stderr,
                    timestamp: frame.time,
                    line: frame.data.to_vec(),
                })
            })
            .boxed())
    }
}

async fn remove(engine: &Engine, id: &str) -> Result<(), Failure> {
    match engine.containers().remove(id, RemoveOptions { force: true, volumes: true, link: false }).await {
        Err(failure) if failure.kind == ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

/// Runs one task as a container.
pub(crate) struct TaskController {
    shared: Arc<Shared>,
    task: Arc<Task>,
    dependencies: Dependencies,
    /// The container; empty until one exists.
    id: String,
    ports: Vec<PortConfig>,
}

impl TaskController {
    fn found(&mut self) -> Option<TaskContainer> {
        let found = self.shared.engine.find_task_container(self.task.id, &self.task.name())?;
        self.id.clone_from(&found.id);
        Some(found)
    }

    async fn create(&self) -> Result<String, Failure> {
        let networks = self.shared.networks.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let options = self.shared.engine.options();
        let values = Values {
            task: &self.task,
            node_id: self.shared.identity.node_id(),
            node_hostname: &options.hostname,
            architecture: std::env::consts::ARCH,
            os: std::env::consts::OS,
        };
        let request = create_request(&self.task, &self.dependencies, &networks, &values)?;
        Ok(self.shared.engine.containers().create(Some(self.task.name()), request).await?.id)
    }

    /// The numbers that the engine chose for ports in host mode.
    async fn read_ports(&mut self) -> Result<(), Failure> {
        if !self.task.ports.iter().any(|port| port.mode == PublishMode::Host) {
            return Ok(());
        }
        let inspected = self.shared.engine.containers().inspect(&self.id, false).await?;
        self.ports.clear();
        for port in self.task.ports.iter().filter(|port| port.mode == PublishMode::Host) {
            let key = format!("{}/{}", port.target, Protocol::as_str(port.protocol));
            let bindings = inspected.network_settings.ports.get(&key).cloned().flatten().unwrap_or_default();
            let published =
                bindings.iter().find_map(|binding| binding.host_port.parse().ok()).unwrap_or(port.published);
            self.ports.push(PortConfig { published, ..port.clone() });
        }
        Ok(())
    }

    fn exit(&self, found: &TaskContainer) -> Exit {
        let reason = if found.oom_killed { "out of memory".to_owned() } else { found.error.clone() };
        Exit { container: status(found), reason }
    }
}

fn status(found: &TaskContainer) -> ContainerStatus {
    let runs = matches!(found.status.as_str(), "running" | "paused" | "restarting");
    ContainerStatus {
        container_id: found.id.clone(),
        pid: found.pid,
        exit_code: if runs { None } else { found.exit_code },
    }
}

impl Controller for TaskController {
    async fn observe(&mut self) -> Result<Observed, Failure> {
        let Some(found) = self.found() else { return Ok(Observed::Absent) };
        Ok(match found.status.as_str() {
            "created" => Observed::Created(status(&found)),
            "running" | "paused" | "restarting" => {
                self.read_ports().await?;
                Observed::Running(status(&found))
            }
            _ => Observed::Exited(self.exit(&found)),
        })
    }

    async fn prepare(&mut self) -> Result<ContainerStatus, Failure> {
        if self.found().is_none() {
            self.id = self.create().await?;
        }
        Ok(ContainerStatus { container_id: self.id.clone(), ..ContainerStatus::default() })
    }

    async fn start(&mut self) -> Result<ContainerStatus, Failure> {
        match self.shared.engine.containers().start(&self.id).await {
            Err(failure) if failure.kind != ErrorKind::NotModified => return Err(failure),
            _ => {}
        }
        self.read_ports().await?;
        Ok(self.found().map(|found| status(&found)).unwrap_or_default())
    }

    async fn healthy(&mut self) -> Result<(), Failure> {
        loop {
            let found = self.found().ok_or_else(|| Failure::not_found("container is gone"))?;
            match (found.status.as_str(), found.health.as_str()) {
                // It ended already: let `wait` say how.
                ("running", "" | "healthy" | "none") | ("exited" | "dead", _) => return Ok(()),
                (_, "unhealthy") => {
                    self.shutdown().await?;
                    return Err(Failure::unavailable("task: unhealthy container"));
                }
                _ => tokio::time::sleep(STARTING_POLL).await,
            }
        }
    }

    async fn wait(&mut self) -> Result<Exit, Failure> {
        let ended = self.shared.engine.containers().begin_wait(&self.id, WaitCondition::NotRunning)?;
        let checked = self.found().is_some_and(|found| !matches!(found.health.as_str(), "" | "none"));
        tokio::pin!(ended);
        loop {
            tokio::select! {
                _ = &mut ended => break,
                () = tokio::time::sleep(HEALTH_POLL), if checked => {}
            }
            if self.found().is_some_and(|found| found.health == "unhealthy" && found.status == "running") {
                self.shutdown().await?;
                return Err(Failure::unavailable("task: unhealthy container"));
            }
        }
        let found = self.found().ok_or_else(|| Failure::not_found("container is gone"))?;
        Ok(self.exit(&found))
    }

    async fn shutdown(&mut self) -> Result<ContainerStatus, Failure> {
        if self.found().is_none() {
            return Ok(ContainerStatus::default());
        }
        match self.shared.engine.containers().stop(&self.id, StopOptions::default()).await {
            Err(failure) if !matches!(failure.kind, ErrorKind::NotModified | ErrorKind::NotFound) => Err(failure),
            _ => Ok(self.found().map(|found| status(&found)).unwrap_or_default()),
        }
    }

    async fn remove(&mut self) -> Result<(), Failure> {
        if self.found().is_none() { Ok(()) } else { remove(&self.shared.engine, &self.id).await }
    }

    fn ports(&self) -> Vec<PortConfig> {
        self.ports.clone()
    }
}
