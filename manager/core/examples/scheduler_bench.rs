//! How fast are tasks placed? `cargo run --release -p shoal-manager-core --example scheduler_bench [nodes] [tasks]`
//!
//! Placing is timed alone (tasks that have their addresses and wait for a node), then the whole way of a service from
//! its creation to a plan, and the plan's way into the store.

use std::sync::Arc;
use std::time::{Duration, Instant};

use shoal_manager_core::change::{Change, NewTask};
use shoal_manager_core::control::{Context, plan_request};
use shoal_manager_core::dispatch::Hub;
use shoal_manager_core::reconcile::{Dirty, plan_all};
use shoal_manager_core::store::Store;
use shoal_proto::control::{ControlRequest, Report};
use shoal_proto::id::{ClusterId, NetworkId, NodeId, SequentialIds, ServiceId, TaskId};
use shoal_proto::object::{Cluster, Network, Node, NodeDescription, NodeState, NodeStatus, Service, TaskStatus};
use shoal_proto::spec::{
    ContainerSpec, IpamConfig, NetworkAttachmentSpec, NetworkSpec, NodeSpec, Platform, ResourceAmount, ServiceMode,
    ServiceSpec, TaskSpec,
};
use shoal_proto::task_state::TaskState;
use shoal_proto::time::Timestamp;

const NOW: Timestamp = Timestamp::from_seconds(1_000_000);

fn node(number: u64) -> Node {
    let labels = [("zone".to_owned(), format!("z{}", number % 7)), ("disk".to_owned(), "ssd".to_owned())];
    Node {
        id: NodeId::from_bits(u128::from(number + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c834)),
        spec: NodeSpec { labels: labels.into(), ..NodeSpec::default() },
        description: Some(NodeDescription {
            hostname: format!("n{number}"),
            platform: Platform { architecture: "x86_64".into(), os: "linux".into() },
            resources: ResourceAmount {
                nano_cpus: 64_000_000_000,
                memory_bytes: 256 << 30,
                ..ResourceAmount::default()
            },
            ..NodeDescription::default()
        }),
        status: NodeStatus { state: NodeState::Ready, ..NodeStatus::default() },
        ..Node::default()
    }
}

fn service(number: u64, replicas: u64, change: &dyn Fn(&mut TaskSpec)) -> Service {
    let container = ContainerSpec { image: "web:1".into(), ..ContainerSpec::default() };
    let mut task = TaskSpec { container, ..TaskSpec::default() };
    change(&mut task);
    Service {
        id: ServiceId::from_bits(u128::from(number + 1) << 64),
        spec: ServiceSpec {
            name: format!("web{number}"),
            task: Arc::new(task),
            mode: ServiceMode::Replicated { replicas },
            ..ServiceSpec::default()
        },
        spec_version: 1,
        ..Service::default()
    }
}

fn store(nodes: u64) -> Store {
    let mut changes = vec![Change::create(Cluster { id: ClusterId::from_bits(1), ..Cluster::default() })];
    changes.extend((0..nodes).map(|number| Change::create(node(number))));
    let mut store = Store::new();
    apply(&mut store, &changes);
    store
}

fn apply(store: &mut Store, changes: &[Change]) {
    if let Err(error) = store.apply(store.version() + 1, NOW, changes) {
        eprintln!("a change does not fit: {error}");
        std::process::exit(1);
    }
}

fn pending(service: &Service, number: u64, task: u64) -> Change {
    let status = TaskStatus { state: TaskState::Pending, ..TaskStatus::default() };
    let bits = u128::from(number * 1_000_000 + task + 1).wrapping_mul(0xd6e8_feb8_6659_fd93_a076_1d64_78bd_642f);
    Change::NewTask(Box::new(NewTask {
        id: TaskId::from_bits(bits),
        service_id: service.id,
        slot: task + 1,
        spec_version: 1,
        desired_state: TaskState::Running,
        status,
        ..NewTask::default()
    }))
}

fn timed<T>(work: impl FnOnce() -> T) -> (T, Duration) {
    #[expect(clippy::disallowed_methods, reason = "a benchmark measures real time")]
    let start = Instant::now();
    let result = work();
    (result, start.elapsed())
}

fn rate(count: usize, time: Duration) -> f64 {
    #[expect(clippy::cast_precision_loss, reason = "only shown")]
    let count = count as f64;
    count / time.as_secs_f64()
}

fn place(title: &str, nodes: u64, tasks: u64, services: u64, change: &dyn Fn(&mut TaskSpec)) {
    let mut store = store(nodes);
    let each = tasks / services;
    let mut changes = Vec::new();
    for number in 0..services {
        let service = service(number, each, change);
        changes.push(Change::create(service.clone()));
        changes.extend((0..each).map(|task| pending(&service, number, task)));
    }
    let (_, filling) = timed(|| apply(&mut store, &changes));
    let groups = store.services().map(|service| service.id).collect();
    let dirty = Dirty { groups, ..Dirty::default() };
    let mut best = Duration::MAX;
    let mut plan = None;
    for _ in 0..5 {
        let (made, time) = timed(|| plan_all(&store, &dirty, NOW, &mut SequentialIds::default()));
        best = best.min(time);
        plan = Some(made);
    }
    let changes = plan.map(|plan| plan.changes).unwrap_or_default();
    let (_, applying) = timed(|| apply(&mut store, &changes));
    println!(
        "{title}: {} placements in {best:?}: {:.0} placements/s (made at {:.0}/s, applied at {:.0}/s)",
        changes.len(),
        rate(changes.len(), best),
        rate(changes.len(), filling),
        rate(changes.len(), applying),
    );
    let total: u32 = store.nodes().filter_map(|node| store.node_usage(node.id)).map(|usage| usage.active).sum();
    assert_eq!(u64::from(total), each * services, "not everything was placed");
}

fn whole_way(nodes: u64, tasks: u64) {
    let mut store = store(nodes);
    apply(&mut store, &[Change::create(service(0, tasks, &|_| {}))]);
    let mut ids = SequentialIds::default();
    let (plan, time) = timed(|| plan_all(&store, &Dirty::all(), NOW, &mut ids));
    println!("create to plan: {} tasks in {time:?}: {:.0} tasks/s", plan.changes.len(), rate(plan.changes.len(), time));
    let batches = plan.into_batches();
    let (_, time) = timed(|| batches.iter().for_each(|batch| apply(&mut store, batch)));
    println!("plan to store, in {} batches: {time:?}", batches.len());
    let (plan, time) = timed(|| plan_all(&store, &Dirty::all(), NOW, &mut ids));
    println!("a pass over everything that finds {} changes: {time:?}", plan.changes.len());
    let (bytes, time) = timed(|| store.snapshot().map(|chunk| chunk.len()).sum::<usize>());
    println!("snapshot: {bytes} bytes in {time:?}");
}

/// Every task of the store reports once; how long until each node's session knows what concerns it.
fn fan_out(title: &str, nodes: u64, tasks: u64, networked: bool) {
    let mut store = store(nodes);
    let network = NetworkId::from_bits(7);
    let spec = NetworkSpec { name: "net".into(), driver: "overlay".into(), ..NetworkSpec::default() };
    let ipam = IpamConfig { subnet: "10.128.0.0/9".parse().ok(), ..IpamConfig::default() };
    let spec = NetworkSpec { ipam: vec![ipam], ..spec };
    let service = service(0, tasks, &|task| {
        if networked {
            task.networks = vec![NetworkAttachmentSpec { target: network, ..NetworkAttachmentSpec::default() }];
        }
    });
    apply(&mut store, &[Change::create(Network { id: network, spec, ..Network::default() }), Change::create(service)]);
    let mut hub = Hub::new(store.clone());
    store.nodes().for_each(|node| drop(hub.attach(node.id)));
    for batch in plan_all(&store, &Dirty::all(), NOW, &mut SequentialIds::default()).into_batches() {
        apply(&mut store, &batch);
    }
    let (sets, time) = timed(|| hub.advance(&store));
    let items: usize = sets.iter().map(|(_, set)| set.put.len()).sum();
    println!("{title}: new tasks told to {} nodes, {items} items in {time:?}", sets.len());
    let reports: Vec<Report> = store
        .tasks()
        .filter_map(|task| {
            let status = TaskStatus { state: TaskState::Running, message: "started".into(), ..TaskStatus::default() };
            task.node_id.map(|node| Report::Task { node, id: task.id, status })
        })
        .collect();
    let context = Context { now: NOW, reachable_managers: &[], voters: &[] };
    let (planned, time) =
        timed(|| plan_request(&store, &ControlRequest::Report(reports), context, &mut SequentialIds::default()));
    let changes = planned.map(|planned| planned.changes).unwrap_or_default();
    let (_, applying) = timed(|| apply(&mut store, &changes));
    let (sets, told) = timed(|| hub.advance(&store));
    let items: usize = sets.iter().map(|(_, set)| set.put.len()).sum();
    println!(
        "{title}: {} reports judged in {time:?}, applied in {applying:?}; {} nodes told {items} items in {told:?}",
        changes.len(),
        sets.len()
    );
}

fn main() {
    let mut arguments = std::env::args().skip(1).map(|text| text.parse::<u64>().unwrap_or(0));
    let nodes = arguments.next().filter(|nodes| *nodes > 0).unwrap_or(1_000);
    let tasks = arguments.next().filter(|tasks| *tasks > 0).unwrap_or(100_000);
    println!("{nodes} nodes, {tasks} tasks, one core");
    place("one service", nodes, tasks, 1, &|_| {});
    place("100 services with reservations and constraints", nodes, tasks, 100.min(tasks), &|task| {
        task.resources.reservations.nano_cpus = 100_000_000;
        task.resources.reservations.memory_bytes = 64 << 20;
        task.placement.constraints =
            vec!["node.labels.disk==ssd".into(), "node.platform.arch==amd64".into(), "node.role!=manager".into()];
    });
    place("one service spread over zones", nodes, tasks, 1, &|task| {
        task.placement.spread = vec!["node.labels.zone".into()];
    });
    whole_way(nodes, tasks);
    fan_out("no network", nodes, tasks / 10, false);
    fan_out("one network for all", nodes.min(100), tasks / 100, true);
}
