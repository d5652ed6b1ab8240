//! Whatever happens, in whatever order: what must always hold, holds; and once the accidents end, everything is as wanted.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::time::Duration;

use proptest::prelude::*;
use shoal_proto::control::{AttachmentWish, ControlRequest};
use shoal_proto::id::{NetworkId, NodeId, ServiceId};
use shoal_proto::object::NodeState;
use shoal_proto::spec::{
    Availability, FailureAction, IpamConfig, NetworkSpec, ServiceMode, ServiceSpec, UpdateConfig, UpdateOrder,
};
use shoal_proto::task_state::TaskState;

use crate::testing::{Fate, World, attachable, global, image, joining, on, overlay, port, replicated, with_task};

/// Something that happens.
#[derive(Debug, Clone)]
enum Event {
    Lose(u8),
    Back(u8),
    Drain(u8),
    Activate(u8),
    Label(u8, u8),
    Scale(u8),
    Image(u8),
    Break(u8),
    Mend,
    Remove(u8),
    Create(u8, u8),
    Stubborn(bool),
    RemoveNode(u8),
    Attach(u8, u8),
    Detach(u8, u8),
    Agents,
    Plan,
    Settle,
    Pass(u16),
    FailOver,
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        1 => (0..5u8).prop_map(Event::Lose),
        1 => (0..5u8).prop_map(Event::Back),
        1 => (0..5u8).prop_map(Event::Drain),
        1 => (0..5u8).prop_map(Event::Activate),
        1 => (0..5u8, 0..2u8).prop_map(|(node, label)| Event::Label(node, label)),
        1 => (0..7u8).prop_map(Event::Scale),
        1 => (0..4u8).prop_map(Event::Image),
        1 => (0..4u8).prop_map(Event::Break),
        1 => Just(Event::Mend),
        1 => (0..9u8).prop_map(Event::Remove),
        2 => (1..9u8, 0..7u8).prop_map(|(name, replicas)| Event::Create(name, replicas)),
        1 => any::<bool>().prop_map(Event::Stubborn),
        1 => (5..8u8).prop_map(Event::RemoveNode),
        3 => (0..8u8, 0..6u8).prop_map(|(node, container)| Event::Attach(node, container)),
        2 => (0..8u8, 0..6u8).prop_map(|(node, container)| Event::Detach(node, container)),
        3 => Just(Event::Settle),
        4 => Just(Event::Agents),
        4 => Just(Event::Plan),
        2 => (0..100u16).prop_map(Event::Pass),
        1 => Just(Event::FailOver),
    ]
}

struct Story {
    world: World,
    replicated: ServiceId,
    start_first: bool,
    global: ServiceId,
    network: NetworkId,
    tiny: NetworkId,
    wanted: u64,
}

fn story(start_first: bool, rollback: bool) -> Story {
    let mut world = World::new(5);
    let network = world.create_network(overlay("net"));
    let config = UpdateConfig {
        parallelism: 2,
        monitor: Duration::from_secs(5),
        order: if start_first { UpdateOrder::StartFirst } else { UpdateOrder::StopFirst },
        failure_action: if rollback { FailureAction::Rollback } else { FailureAction::Pause },
        ..UpdateConfig::default()
    };
    let mut spec = with_task(replicated("web", 4), |task| {
        task.networks = vec![on(network)];
        task.resources.reservations.memory_bytes = 1 << 30;
    });
    spec.endpoint.ports = vec![port(0, 80)];
    spec.update = Some(config.clone());
    let replicated = world.create(spec);
    let global = world.create(ServiceSpec {
        update: Some(config),
        ..with_task(global("agent"), |task| {
            task.networks = vec![on(network)];
            task.placement.constraints = vec!["node.labels.l!=1".into()];
        })
    });
    let ipam = IpamConfig { subnet: "10.77.0.0/28".parse().ok(), ..IpamConfig::default() };
    let tiny = world.create_network(NetworkSpec { ipam: vec![ipam], ..attachable("tiny") });
    world.settle();
    Story { world, replicated, start_first, global, network, tiny, wanted: 4 }
}

impl Story {
    fn happen(&mut self, event: &Event) {
        let world = &mut self.world;
        let exists = |world: &World, id| world.store.service(id).is_some_and(|service| !service.pending_delete);
        let node = |number: &u8| u128::from(*number) + 1;
        match event {
            Event::Lose(number) => world.lose(node(number)),
            Event::Back(number) => world.back(node(number)),
            Event::Drain(number) => world.availability(node(number), Availability::Drain),
            Event::Activate(number) => world.availability(node(number), Availability::Active),
            Event::Label(number, value) => world.label(node(number), "l", &value.to_string()),
            Event::Scale(replicas) if exists(world, self.replicated) => {
                self.wanted = u64::from(*replicas);
                world.scale(self.replicated, self.wanted);
            }
            Event::Image(number) => {
                for id in [self.replicated, self.global] {
                    if exists(world, id) {
                        world.update(id, |spec| image(spec, &format!("web:{number}")));
                    }
                }
            }
            Event::Break(number) => {
                let fate = if number % 2 == 0 { Fate::Fails } else { Fate::Rejected };
                world.fates.insert(format!("web:{number}"), fate);
            }
            Event::Mend => world.fates.clear(),
            Event::Create(name, replicas) => {
                let mut spec = with_task(replicated(&format!("s{name}"), u64::from(*replicas)), |task| {
                    task.networks = vec![on(self.tiny)];
                    task.placement.max_replicas = 2;
                });
                spec.endpoint.ports = vec![port(8000 + u16::from(*name % 4), 80)];
                // A taken name or port is refused: that is an outcome, too.
                let _ = world.request(ControlRequest::CreateService(Box::new(spec)));
            }
            Event::Stubborn(stubborn) => world.stubborn = *stubborn,
            Event::RemoveNode(number) => {
                let id = NodeId::from_bits(node(number));
                if world.store.node(id).is_none() {
                    world.add_node(node(number));
                } else {
                    world.request(ControlRequest::RemoveNode { id, force: true }).expect("removed");
                }
            }
            Event::Attach(number, container) => {
                let last_addr = Some(Ipv4Addr::new(10, 77, 0, 2 + container));
                let wish = AttachmentWish { last_addr, ..joining("tiny", &format!("c{container}")) };
                // There may be no such node, or no room.
                let _ = world.attach(node(number), wish);
            }
            Event::Detach(number, container) => {
                let found =
                    world.store.attachment_of(NodeId::from_bits(node(number)), self.tiny, &format!("c{container}"));
                let ids: Vec<_> = found.map(|attachment| attachment.id).into_iter().collect();
                world.detach(node(number), &ids);
            }
            Event::Settle => world.settle(),
            Event::Remove(0) if exists(world, self.global) => world.remove(self.global),
            Event::Remove(number) => {
                let found = world.store.service_by_name(&format!("s{number}")).map(|service| service.id);
                found.into_iter().for_each(|id| world.remove(id));
            }
            Event::Scale(_) => {}
            Event::Agents => world.agents(),
            Event::Plan => {
                world.plan();
            }
            Event::Pass(seconds) => world.pass(u64::from(*seconds)),
            Event::FailOver => world.fail_over(),
        }
    }

    /// What holds at every moment.
    fn check(&self) {
        let store = &self.world.store;
        let mut used: BTreeSet<(NetworkId, Ipv4Addr)> = BTreeSet::new();
        let mut take = |network, addr| assert!(used.insert((network, addr)), "{addr} was given twice");
        for service in store.services() {
            service.endpoint.virtual_ips.iter().for_each(|vip| take(vip.network, vip.addr));
        }
        for task in store.tasks().filter(|task| !task.status.state.is_terminal()) {
            for attachment in &task.networks {
                take(attachment.network, attachment.addr.expect("an overlay address").addr());
            }
        }
        for attachment in store.attachments() {
            take(attachment.network, attachment.addr.addr());
            assert!(store.node(attachment.node_id).is_some(), "its node is gone");
        }
        if let Some(ingress) = store.ingress_network() {
            store.nodes().filter_map(|node| node.ingress_address).for_each(|addr| take(ingress.id, addr));
        }
        self.check_slots();
        crate::store::check_indexes(store);
    }

    /// Never two tasks of one slot that are wanted to run, but in a start-first update.
    fn check_slots(&self) {
        let mut slots: BTreeMap<(ServiceId, u64, Option<NodeId>), u32> = BTreeMap::new();
        for task in self.world.store.tasks().filter(|task| task.desired_state <= TaskState::Running) {
            let node = task.node_id.filter(|_| task.slot == 0);
            *slots.entry((task.service_id, task.slot, node)).or_default() += 1;
        }
        let most = if self.start_first { 2 } else { 1 };
        assert!(slots.values().all(|count| *count <= most), "{}", self.world.show(self.replicated));
        // Of live nodes, none runs a task of a slot beside another one that was started after it was told to stop.
        if !self.start_first {
            for task in self.world.runnable(self.replicated).iter().filter(|t| t.desired_state == TaskState::Running) {
                let beside = self.world.store.tasks_of_slot(self.replicated, task.slot).find(|other| {
                    let node = other.node_id.and_then(|id| self.world.store.node(id));
                    other.id != task.id
                        && other.status.state == TaskState::Running
                        && other.running_since <= task.meta.created_at
                        && node.is_some_and(|node| {
                            node.status.state == NodeState::Ready && node.status.since < task.meta.created_at
                        })
                        && task.meta.created_at.after(Duration::from_secs(70)) > self.world.now
                });
                assert!(beside.is_none(), "{}", self.world.show(self.replicated));
            }
        }
    }

    /// The accidents are over, time passes: everything is as wanted.
    fn heal(&mut self) {
        self.world.fates.clear();
        self.world.stubborn = false;
        for number in 1..=5 {
            self.world.back(number);
            self.world.availability(number, Availability::Active);
        }
        for id in [self.replicated, self.global] {
            if self.world.store.service(id).is_some_and(|service| !service.pending_delete) {
                self.world.update(id, |spec| image(spec, "web:final"));
            }
        }
        for number in 1..9 {
            self.happen(&Event::Remove(number));
            for container in 0..6 {
                self.happen(&Event::Detach(number - 1, container));
            }
        }
        // A rollback takes back the whole spec, the scale included.
        if let ServiceMode::Replicated { replicas } = self.world.service(self.replicated).spec.mode {
            self.wanted = replicas;
        }
        for _ in 0..30 {
            self.world.run();
            self.world.pass(61);
        }
        self.world.run();
        assert_eq!(
            self.world.running(self.replicated).len() as u64,
            self.wanted,
            "{}",
            self.world.show(self.replicated)
        );
        assert_eq!(self.world.runnable(self.replicated).len() as u64, self.wanted);
        assert!(self.world.running(self.replicated).iter().all(|task| task.spec.container.image == "web:final"));
        if self.world.store.service(self.global).is_some() {
            let label = |id| self.world.store.node(id).and_then(|node| node.spec.labels.get("l").cloned());
            let expected = self.world.store.nodes().filter(|node| label(node.id).as_deref() != Some("1")).count();
            assert_eq!(self.world.running(self.global).len(), expected, "{}", self.world.show(self.global));
        }
        // Nothing leaks: gateway, two reserved, the virtual addresses, and the tasks.
        let tasks = self.world.store.tasks_on_network(self.network).count();
        let vips = self.world.store.services_on_network(self.network).count();
        let used = self.world.store.addresses(self.network).map(|space| space.used() as usize);
        assert_eq!(used, Some(3 + tasks + vips));
        assert_eq!(self.world.store.addresses(self.tiny).map(|space| space.used()), Some(3));
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn accidents_in_any_order(
        events in prop::collection::vec(event(), 0..60),
        start_first in any::<bool>(),
        rollback in any::<bool>(),
    ) {
        let mut story = story(start_first, rollback);
        for event in &events {
            story.happen(event);
            story.check();
        }
        story.heal();
        story.check();
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]

    /// A hub's differences lead to the same as the whole set.
    #[test]
    fn differences_add_up_to_the_whole(events in prop::collection::vec(event(), 0..40)) {
        use crate::dispatch::Hub;
        use shoal_proto::assignment::{AssignmentItem, AssignmentKey, AssignmentSet};
        type Known = BTreeMap<AssignmentKey, AssignmentItem>;

        fn take(known: &mut Known, set: AssignmentSet) {
            if set.complete {
                known.clear();
            }
            for key in set.remove {
                known.remove(&key);
            }
            known.extend(set.put.into_iter().map(|item| (item.key(), item)));
        }
        // What an agent does not learn from its manager does not count.
        fn plain(known: &Known) -> Known {
            let mut plain = known.clone();
            for item in plain.values_mut() {
                if let AssignmentItem::Task(task) = item {
                    let task = std::sync::Arc::make_mut(task);
                    task.meta = Default::default();
                    task.status = Default::default();
                    task.running_since = Default::default();
                    task.ended_at = Default::default();
                }
            }
            plain
        }

        let mut story = story(false, false);
        let mut hub = Hub::new(story.world.store.clone());
        let mut known: BTreeMap<NodeId, Known> = BTreeMap::new();
        let mut sequences: BTreeMap<NodeId, u64> = BTreeMap::new();
        for number in 1..=5 {
            let id = NodeId::from_bits(number);
            let set = hub.attach(id);
            sequences.insert(id, set.sequence);
            take(known.entry(id).or_default(), set);
        }
        for event in &events {
            story.happen(event);
            for (node, set) in hub.advance(&story.world.store) {
                let sequence = sequences.entry(node).or_default();
                *sequence += 1;
                prop_assert_eq!(set.sequence, *sequence);
                take(known.entry(node).or_default(), set);
            }
            for (node, known) in &known {
                let mut whole = Known::new();
                take(&mut whole, crate::dispatch::full(&story.world.store, *node));
                prop_assert_eq!(plain(known), plain(&whole));
            }
        }
    }
}

/// A service of the scheduler's test: replicas, memory in GiB, constraint, most on a node, host port.
type Wish = (u8, u8, Option<u8>, u8, Option<u8>);

fn wish() -> impl Strategy<Value = Wish> {
    (0..12u8, 0..5u8, prop::option::of(0..3u8), 0..4u8, prop::option::of(0..3u8))
}

fn wished(number: usize, (replicas, memory, label, most, host_port): Wish) -> ServiceSpec {
    let mut spec = with_task(replicated(&format!("s{number}"), u64::from(replicas)), |task| {
        task.resources.reservations.memory_bytes = i64::from(memory) << 30;
        task.placement.constraints = label.map(|label| format!("node.labels.l=={label}")).into_iter().collect();
        task.placement.max_replicas = u64::from(most);
        task.placement.spread = vec!["node.labels.l".into()];
    });
    let host = |number: u8| shoal_proto::spec::PortConfig {
        mode: shoal_proto::spec::PublishMode::Host,
        ..port(8000 + u16::from(number), 80)
    };
    spec.endpoint.ports = host_port.map(host).into_iter().collect();
    spec
}

/// What the tasks on each node hold.
#[derive(Default)]
struct Held {
    memory: i64,
    ports: BTreeSet<u16>,
    of_service: BTreeMap<ServiceId, u64>,
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]

    /// Nothing is placed where it does not fit, and nothing waits that would fit.
    #[test]
    fn placement_is_sound_and_complete(
        labels in prop::collection::vec(0..3u8, 0..6),
        wishes in prop::collection::vec(wish(), 0..8),
    ) {
        let mut world = World::new(labels.len() as u128);
        for (index, label) in labels.iter().enumerate() {
            world.label(index as u128 + 1, "l", &label.to_string());
        }
        for (number, wish) in wishes.iter().enumerate() {
            world.create(wished(number, *wish));
        }
        world.run();
        let mut held: BTreeMap<NodeId, Held> = world.store.nodes().map(|node| (node.id, Held::default())).collect();
        for task in world.store.tasks().filter(|task| task.status.state == TaskState::Running) {
            let node = task.node_id.expect("a node");
            let on_node = held.get_mut(&node).expect("known");
            on_node.memory += task.spec.resources.reservations.memory_bytes;
            prop_assert!(on_node.memory <= 8 << 30);
            for port in &task.ports {
                prop_assert!(on_node.ports.insert(port.published), "a port twice on a node");
            }
            let count = on_node.of_service.entry(task.service_id).or_default();
            *count += 1;
            let most = task.spec.placement.max_replicas;
            prop_assert!(most == 0 || *count <= most);
            let node = world.store.node(node).expect("known");
            prop_assert!(crate::constraint::all_match(&task.spec.placement.constraints, node));
        }
        for task in world.store.tasks().filter(|task| task.status.state != TaskState::Running) {
            prop_assert!(task.status.error.starts_with("no suitable node: "), "{}", task.status.error);
            for (id, on_node) in &held {
                let node = world.store.node(*id).expect("known");
                let most = task.spec.placement.max_replicas;
                let fits = crate::constraint::all_match(&task.spec.placement.constraints, node)
                    && on_node.memory + task.spec.resources.reservations.memory_bytes <= 8 << 30
                    && !task.ports.iter().any(|port| on_node.ports.contains(&port.published))
                    && (most == 0 || on_node.of_service.get(&task.service_id).copied().unwrap_or(0) < most);
                prop_assert!(!fits, "it would fit on {}", id);
            }
        }
    }

    /// Networks that come and go never overlap, and numbers are never shared.
    #[test]
    fn subnets_never_overlap(steps in prop::collection::vec((0..12u8, any::<bool>(), prop::option::of(0..40u8)), 0..60)) {
        let mut world = World::new(0);
        let mut cluster = (**world.store.cluster().expect("a cluster")).clone();
        cluster.pools.pools = vec!["10.0.0.0/21".parse().expect("a pool"), "10.1.0.0/23".parse().expect("a pool")];
        world.apply(&[crate::change::Change::update(cluster)]);
        for (number, settle, own) in steps {
            let name = format!("n{number}");
            let known = world.store.network_by_name(&name).map(|network| network.id);
            if let Some(id) = known {
                world.request(ControlRequest::RemoveNetwork(id)).expect("unused");
            } else {
                let subnet = own.and_then(|own| format!("10.0.{}.{}/26", own / 4, own % 4 * 64).parse().ok());
                let ipam = subnet.map(|subnet| IpamConfig { subnet: Some(subnet), ..IpamConfig::default() });
                let spec = NetworkSpec { ipam: ipam.into_iter().collect(), ..overlay(&name) };
                // A full pool or an overlap is refused.
                let _ = world.request(ControlRequest::CreateNetwork(Box::new(spec)));
            }
            if settle {
                world.settle();
            }
            let mut taken: Vec<(u32, u32, u32)> = world
                .store
                .networks()
                .filter_map(|network| network.allocation.as_ref())
                .map(|a| (a.subnet.network().into(), a.subnet.broadcast().into(), a.vni))
                .collect();
            taken.sort_unstable();
            prop_assert!(taken.windows(2).all(|pair| pair[0].1 < pair[1].0), "{:?}", taken);
            let vnis: BTreeSet<u32> = taken.iter().map(|(_, _, vni)| *vni).collect();
            prop_assert_eq!(vnis.len(), taken.len());
        }
    }

    /// Two plans of one store both came through: each slot is left with one task.
    #[test]
    fn a_plan_that_came_through_twice_leaves_one_task_a_slot(
        replicas in 1..8u64,
        lost in prop::option::of(1..4u128),
        start_between in any::<bool>(),
    ) {
        use crate::reconcile::{Dirty, plan_all};
        let mut world = World::new(4);
        world.settle();
        let web = world.create(replicated("web", replicas));
        let agent = world.create(global("agent"));
        if let Some(number) = lost {
            world.run();
            world.lose(number);
        }
        let store = world.store.clone();
        for _ in 0..2 {
            let plan = plan_all(&store, &Dirty::all(), world.now, &mut world.ids);
            world.apply(&plan.changes);
        }
        if start_between {
            world.agents();
        }
        for _ in 0..5 {
            world.run();
            world.pass(61);
        }
        world.run();
        for (id, wanted) in [(web, replicas), (agent, if lost.is_some() { 3 } else { 4 })] {
            prop_assert_eq!(world.running(id).len() as u64, wanted, "{}", world.show(id));
            prop_assert_eq!(world.runnable(id).len() as u64, wanted, "{}", world.show(id));
        }
    }

    /// A healthy update never takes away more than its parallelism, and gets done, whoever leads.
    #[test]
    fn updates_keep_to_their_parallelism(
        replicas in 1..10u64,
        parallelism in 0..4u64,
        delay in 0..3u64,
        start_first in any::<bool>(),
        leaders in prop::collection::vec(any::<bool>(), 80),
    ) {
        let mut world = World::new(4);
        let mut spec = replicated("web", replicas);
        spec.update = Some(UpdateConfig {
            parallelism,
            delay: Duration::from_secs(delay),
            monitor: Duration::ZERO,
            order: if start_first { UpdateOrder::StartFirst } else { UpdateOrder::StopFirst },
            ..UpdateConfig::default()
        });
        let web = world.create(spec);
        world.run();
        world.update(web, |spec| image(spec, "web:2"));
        let away = if parallelism == 0 { replicas } else { parallelism };
        for fails in leaders {
            world.plan();
            if fails {
                world.fail_over();
            }
            let serving = world.running(web).len() as u64;
            let least = if start_first { replicas } else { replicas.saturating_sub(away) };
            prop_assert!(serving >= least, "{} of {}: {}", serving, replicas, world.show(web));
            let extra = if start_first { away } else { 0 };
            prop_assert!(world.runnable(web).len() as u64 <= replicas + extra);
            world.agents();
            world.pass(1);
        }
        for _ in 0..3 * replicas {
            world.run();
            world.pass(3);
        }
        world.run();
        prop_assert_eq!(world.update_state(web), "completed");
        prop_assert!(world.running(web).iter().all(|task| task.spec_version == 2));
        prop_assert_eq!(world.running(web).len() as u64, replicas);
    }
}
