//! The periodic comparison of kernel and desired tables, restart, and the end.

use std::collections::BTreeSet;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;

use shoal_engine_sys::netlink::link::{self, Link};
use shoal_engine_sys::netlink::{Family, NetlinkSocket};
use shoal_engine_sys::netns;
use shoal_engine_sys::nft::{Ruleset, Verified, foreign};
use shoal_proto::error::Failure;

use super::cluster::Scope;
use super::core::Core;
use super::dns::forward::read_servers;
use super::dns::zone::Zone;
use super::error::{Collected, NetworkError, Result};
use super::overlay::device::Overlay;
use super::sandbox::{OVERLAY_PREFIX, USER_PREFIX};
use super::state::{LiveSandbox, SandboxKernel, SandboxRecord, State, Target, lock};
use super::types::NetworkStatus;

/// What one comparison found.
#[derive(Debug, Default)]
struct Findings {
    repaired: u64,
    problems: BTreeSet<String>,
}

impl Findings {
    fn note(&mut self, what: &str, result: Result<usize>) {
        match result {
            Ok(0) => {}
            Ok(count) => {
                tracing::info!(what, count, "repaired what somebody else had changed");
                self.repaired += count as u64;
            }
            Err(error) => {
                let message = format!("{what}: {}", Failure::from(error).message);
                self.problems.insert(message);
            }
        }
    }
}

impl Core {
    /// Compares everything now, and repairs.
    pub(super) fn resync(&self) -> NetworkStatus {
        let _applying = lock(&self.applying);
        self.read_host_servers();
        let mut findings = Findings::default();
        findings.note("forwarding", self.ensure_forwarding_if_needed());
        findings.note("bridges", self.resync_links());
        findings.note("cluster networks", self.sync_overlays(Scope::Kernel));
        findings.note("routing mesh", self.sync_ingress().map(usize::from));
        findings.note("rules", self.verify_host_rules());
        findings.note("rules of others", self.accept_in_foreign_chains());
        findings.note("sandboxes", self.verify_sandboxes());
        if self.cluster_dirty.swap(false, Ordering::AcqRel) {
            let cluster = lock(&self.state).cluster.clone();
            findings.note("state", cluster.map_or(Ok(0), |cluster| self.disk.save_cluster(&cluster).map(|()| 0)));
        }
        let repaired = self.repaired.fetch_add(findings.repaired, Ordering::Relaxed) + findings.repaired;
        let mut known = lock(&self.problems);
        for problem in findings.problems.difference(&known) {
            tracing::warn!(problem, "the network is not as it should be");
        }
        *known = findings.problems;
        NetworkStatus { repaired, problems: known.clone() }
    }

    /// Reads whom to ask for names that are not ours.
    pub(super) fn read_host_servers(&self) {
        let servers = if self.options.dns.is_empty() {
            read_servers(&self.options.resolv_conf)
        } else {
            self.options.dns.iter().map(|addr| std::net::SocketAddr::new(*addr, 53)).collect()
        };
        if **self.host_servers.load() != servers {
            self.host_servers.store(Arc::new(servers));
        }
    }

    fn ensure_forwarding_if_needed(&self) -> Result<usize> {
        let needed = lock(&self.state).bridges().next().is_some();
        if needed { self.ensure_forwarding().map(usize::from) } else { Ok(0) }
    }

    /// Puts missing bridges back, with their ports, and removes links that nobody knows.
    fn resync_links(&self) -> Result<usize> {
        // Links before knowledge: a link made in between is known by then.
        let links = link::list(&mut lock(&self.route))?;
        let mut count = 0;
        let missing: Vec<_> = {
            let state = lock(&self.state);
            let present = |name: &str| links.iter().any(|link| link.name == name && link.up);
            let missing =
                state.bridges().filter(|(_, bridge)| !present(&bridge.link)).map(|(_, bridge)| bridge.clone());
            missing.collect()
        };
        for bridge in &missing {
            count += usize::from(self.ensure_bridge(bridge)?);
        }
        let links = if missing.is_empty() { links } else { link::list(&mut lock(&self.route))? };
        let requests = {
            let state = lock(&self.state);
            let mut requests = misplaced_ports(&state, &links);
            requests.extend(self.garbage(&state, &links));
            requests
        };
        count += requests.len();
        let refusals = lock(&self.route).batch(&requests).into_iter().filter_map(std::result::Result::err);
        match refusals.filter(|error| !error.missing()).map(NetworkError::from).next() {
            Some(error) => Err(error),
            None => Ok(count),
        }
    }

    fn garbage(&self, state: &State, links: &[Link]) -> Vec<shoal_engine_sys::netlink::Request> {
        let mut known: BTreeSet<&str> = state.bridges().map(|(_, bridge)| bridge.link.as_str()).collect();
        known.extend(state.records.values().flat_map(|record| record.endpoints.iter().map(|e| e.link.as_str())));
        let ingress = self.ingress_link();
        known.insert(&ingress);
        let ours = |link: &&Link| link.group == self.group && matches!(link.kind.as_str(), "veth" | "bridge");
        let unknown = links.iter().filter(ours).filter(|link| !known.contains(link.name.as_str()));
        unknown.map(|link| link::delete(link.index)).collect()
    }

    fn verify_host_rules(&self) -> Result<usize> {
        let verified = lock(&self.rules).verify()?;
        self.sync_host_rules()?;
        Ok(usize::from(verified == Verified::Repaired))
    }

    fn accept_in_foreign_chains(&self) -> Result<usize> {
        let mut links: BTreeSet<String> = lock(&self.state).bridges().map(|(_, bridge)| bridge.link.clone()).collect();
        if lock(&self.state).cluster.as_ref().is_some_and(|cluster| cluster.networks.values().any(|n| n.record.ingress))
        {
            links.insert(self.ingress_link());
        }
        if !self.options.local.rules {
            links.clear();
        }
        Ok(foreign::accept_forwarding(lock(&self.rules).socket(), &self.owner, &links)?)
    }

    fn verify_sandboxes(&self) -> Result<usize> {
        let live: Vec<_> = lock(&self.state).live.iter().map(|(id, live)| (id.clone(), Arc::clone(live))).collect();
        let (mut count, mut errors) = (0, Collected::default());
        for (id, sandbox) in live {
            if let Some(rules) = &mut lock(&sandbox.kernel).rules {
                match rules.verify() {
                    Ok(verified) => count += usize::from(verified == Verified::Repaired),
                    Err(error) => errors.note::<(), _>(Err(error)),
                }
            }
            // What was put back is what was applied last; if a later application failed, it is made good here.
            errors.note(self.sync_sandbox(&id));
        }
        errors.finish().map(|()| count)
    }

    /// Takes over what the daemon before left: sandboxes with their name servers, ports, cluster networks.
    ///
    /// # Errors
    /// When the host's rules cannot be set.
    pub(super) fn take_over(&self) -> Result<()> {
        self.read_host_servers();
        self.ensure_local_networks()?;
        for record in self.disk.load_sandboxes() {
            if let Err(error) = self.take_over_sandbox(record) {
                tracing::warn!(error = %Failure::from(error), "could not take over a sandbox");
            }
        }
        self.adopt_overlays();
        self.take_over_names();
        let ids: Vec<_> = lock(&self.state).live.keys().cloned().collect();
        for id in ids {
            if let Err(error) = self.sync_sandbox(&id).and_then(|()| self.save_sandbox(&id)) {
                tracing::warn!(sandbox = id, error = %Failure::from(error), "a sandbox has no name server");
            }
        }
        self.sync_host_rules()
    }

    fn take_over_sandbox(&self, record: SandboxRecord) -> Result<()> {
        let path = self.netns_folder().join(&record.id);
        if record.own_namespace {
            if !netns::is_bound(&path) {
                // The machine was restarted: the namespace went with it.
                return self.disk.remove_sandbox(&record.id);
            }
            let what = || format!("open a socket in {}", path.display());
            let namespace = netns::Namespace::open(&path).map_err(NetworkError::io(what()))?;
            let route = namespace.enter(|| NetlinkSocket::open(Family::Route)).and_then(|opened| opened);
            let route = route.map_err(NetworkError::io(what()))?;
            let kernel = Mutex::new(SandboxKernel { route, rules: None, applied: Default::default(), unused: None });
            let live = LiveSandbox { path: path.clone(), kernel, server: Mutex::default() };
            lock(&self.state).live.insert(record.id.clone(), Arc::new(live));
        }
        let ports: Vec<_> = record.endpoints.iter().flat_map(|endpoint| endpoint.info.ports.clone()).collect();
        self.at_home(|| {
            let mut state = lock(&self.state);
            state.ports.take_again(&ports);
            state.records.insert(record.id.clone(), record);
        })
    }

    fn take_over_names(&self) {
        let cluster = self.disk.load_cluster();
        let mut state = lock(&self.state);
        let ids: Vec<_> = state.networks.keys().cloned().collect();
        ids.iter().for_each(|id| state.rebuild_zone(id));
        let Some(cluster) = cluster else { return };
        for (id, network) in &cluster.networks {
            state.zone(&id.to_string(), &network.record.name).store(Arc::new(Zone::of_cluster(network)));
        }
        let ids: Vec<_> = cluster.networks.keys().copied().collect();
        state.cluster = Some(Arc::new(cluster));
        for id in ids {
            state.note_serving(id);
            state.rebuild_zone(&id.to_string());
        }
    }

    /// Keeps these sandboxes, destroys all others and every namespace that nobody knows.
    ///
    /// # Errors
    /// What could not be taken down; the rest was.
    pub(super) fn restore(&self, live: &BTreeSet<String>) -> Result<()> {
        let mut errors = Collected::default();
        let dead: Vec<_> = lock(&self.state).records.keys().filter(|id| !live.contains(*id)).cloned().collect();
        for id in dead {
            errors.note(self.destroy_sandbox(&id));
        }
        for entry in std::fs::read_dir(self.netns_folder()).into_iter().flatten().flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            let id = name.strip_prefix(USER_PREFIX).unwrap_or(&name);
            if !name.starts_with(OVERLAY_PREFIX) && !lock(&self.state).records.contains_key(id) {
                let path = entry.path();
                errors.note(netns::unbind(&path).map_err(NetworkError::io(format!("unbind {}", path.display()))));
            }
        }
        let _applying = lock(&self.applying);
        errors.note(self.sync_overlays(Scope::Kernel));
        errors.note(self.sync_ingress());
        errors.finish()
    }

    /// Takes everything of this instance down.
    ///
    /// # Errors
    /// What could not be taken down; the rest was.
    pub(super) fn purge(&self) -> Result<()> {
        let mut errors = Collected::default();
        errors.note(self.restore(&BTreeSet::new()));
        let _applying = lock(&self.applying);
        for (_, overlay) in std::mem::take(&mut *lock(&self.overlays)) {
            errors.note(Overlay::remove(overlay));
        }
        {
            let mut state = lock(&self.state);
            state.networks.clear();
            state.cluster = None;
            state.mesh.clear();
            state.ports = Default::default();
        }
        errors.note(lock(&self.rules).apply(&Ruleset::default()));
        errors.note(foreign::accept_forwarding(lock(&self.rules).socket(), &self.owner, &BTreeSet::new()));
        let links = link::list(&mut lock(&self.route));
        let ours = links.into_iter().flatten().filter(|link| link.group == self.group);
        let requests: Vec<_> = ours.map(|link| link::delete(link.index)).collect();
        for refusal in lock(&self.route).batch(&requests).into_iter().filter_map(std::result::Result::err) {
            if !refusal.missing() {
                errors.note::<(), _>(Err(refusal));
            }
        }
        let folder = self.netns_folder();
        errors.note(netns::remove_folder(&folder).map_err(NetworkError::io(format!("remove {}", folder.display()))));
        errors.note(self.disk.remove_transient());
        errors.finish()
    }
}

/// Ports of local networks that are not on their bridge, because that was made anew.
fn misplaced_ports(state: &State, links: &[Link]) -> Vec<shoal_engine_sys::netlink::Request> {
    let find = |name: &str| links.iter().find(|link| link.name == name);
    let mut requests = Vec::new();
    for endpoint in state.records.values().flat_map(|record| &record.endpoints) {
        let Target::Local(network) = &endpoint.target else { continue };
        let bridge = state.networks.get(network).and_then(|network| network.bridge.as_ref());
        let (Some(bridge), Some(port)) = (bridge, find(&endpoint.link)) else { continue };
        let Some(master) = find(&bridge.link).filter(|master| master.index != port.master) else { continue };
        requests.push(link::set_master(port.index, master.index));
        if !bridge.icc {
            requests.push(link::set_isolated(&endpoint.link, true));
        }
    }
    requests
}

/// Compares every so often until the controller is gone.
pub(super) async fn run(core: Weak<Core>, every: Duration) {
    let mut ticks = tokio::time::interval(every);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let Some(core) = core.upgrade() else { return };
        if let Err(error) = tokio::task::spawn_blocking(move || core.resync()).await {
            tracing::error!(%error, "the comparison with the kernel's network tables failed");
        }
    }
}
