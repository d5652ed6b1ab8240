//! Cluster networks: from what the agent brings to what the kernel has.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use shoal_engine_sys::netlink::address::{self, Address};
use shoal_engine_sys::netlink::link::{self, Mac, Veth};
use shoal_proto::error::Failure;
use shoal_proto::id::NetworkId;
use shoal_proto::spec::Protocol;

use super::addresses::mac_of;
use super::core::{Core, Ingress};
use super::dns::zone::Zone;
use super::error::{Collected, NetworkError, Result};
use super::overlay::device::{Overlay, vanished};
use super::overlay::plan::{Action, Desired, Device, Observed, desired, plan};
use super::sandbox::OVERLAY_PREFIX;
use super::state::{Target, lock, own_names};
use super::types::{ClusterNetwork, ClusterNetworkState};

const DEFAULT_UNDERLAY_MTU: u32 = 1500;
/// As many sandboxes are brought in line one after the other; for more, so many threads are started.
const FEW: usize = 4;
const AT_ONCE: usize = 4;

/// How much of the cluster networks is looked at.
#[derive(Debug, Clone, Copy)]
pub(super) enum Scope<'a> {
    /// Everything, and the kernel is asked what it has.
    Kernel,
    /// These networks, and those that are not as they should be, from what the kernel was last seen or brought to have.
    Changed(&'a BTreeSet<NetworkId>),
}

impl Scope<'_> {
    fn has(self, id: NetworkId) -> bool {
        match self {
            Self::Kernel => true,
            Self::Changed(ids) => ids.contains(&id),
        }
    }
}

/// What a new state of the cluster changes.
#[derive(Debug)]
struct Changes {
    networks: BTreeSet<NetworkId>,
    /// Ports of the routing mesh, or who serves them?
    mesh: bool,
}

/// Changes of one network's tables: forwarding and neighbour entries, each with "put" or "remove".
#[derive(Debug, Default)]
struct Tables {
    forwarding: Vec<(Mac, IpAddr, bool)>,
    neighbours: Vec<(Ipv4Addr, Mac, bool)>,
}

impl Core {
    /// Replaces what is known of the cluster's networks, and brings the kernel in line.
    ///
    /// # Errors
    /// What could not be brought in line; the rest was.
    pub(super) fn apply_cluster(&self, new: ClusterNetworkState) -> Result<()> {
        let _applying = lock(&self.applying);
        let Changes { networks: changed, mesh } = self.take_cluster(Arc::new(new));
        let mut errors = Collected::default();
        errors.note(self.sync_overlays(Scope::Changed(&changed)));
        if *lock(&self.ingress_applied) != self.ingress() {
            errors.note(self.sync_ingress());
        }
        if mesh {
            errors.note(self.sync_mesh_ports());
            errors.note(self.sync_host_rules());
        }
        let affected = {
            let state = lock(&self.state);
            let on_changed =
                |target: &Target| matches!(target, Target::Cluster { network, .. } if changed.contains(network));
            let affected =
                state.records.values().filter(|record| record.endpoints.iter().any(|e| on_changed(&e.target)));
            affected.map(|record| record.id.clone()).collect::<Vec<_>>()
        };
        self.sync_sandboxes(&affected, &mut errors);
        errors.finish()
    }

    /// Brings sandboxes in line, several at once when there are many.
    fn sync_sandboxes(&self, ids: &[String], errors: &mut Collected) {
        if ids.len() <= FEW {
            ids.iter().for_each(|id| errors.note(self.sync_sandbox(id)));
            return;
        }
        let work = |ids: &[String]| ids.iter().map(|id| self.sync_sandbox(id)).collect::<Vec<_>>();
        std::thread::scope(|scope| {
            let parts: Vec<_> =
                ids.chunks(ids.len().div_ceil(AT_ONCE)).map(|part| scope.spawn(move || work(part))).collect();
            for part in parts {
                match part.join() {
                    Ok(results) => results.into_iter().for_each(|result| errors.note(result)),
                    Err(_) => errors.note::<(), _>(Err(Failure::unavailable("bringing sandboxes in line panicked"))),
                }
            }
        });
    }

    /// Notes the new state and its names. Returns what is not as before.
    fn take_cluster(&self, new: Arc<ClusterNetworkState>) -> Changes {
        let mut state = lock(&self.state);
        let old = state.cluster.replace(Arc::clone(&new));
        let before = |id: &NetworkId| old.as_ref().and_then(|old| old.networks.get(id));
        let mut changed = BTreeSet::new();
        // Everywhere the other nodes' addresses are the same, but a new one of this node's needs new devices.
        let underlay = |state: &ClusterNetworkState| (state.node_id, state.data_path_addr, state.data_path_port);
        if old.as_ref().is_some_and(|old| underlay(old) != underlay(&new)) {
            changed.extend(new.networks.keys());
        }
        for (id, network) in new.networks.iter().filter(|(id, network)| before(id) != Some(network)) {
            changed.insert(*id);
            let zone = Zone::of_cluster(network);
            state.zone(&id.to_string(), &network.record.name).store(Arc::new(zone));
            if before(id).is_none() {
                state.rebuild_zone(&id.to_string());
            }
        }
        for (id, network) in old.iter().flat_map(|old| &old.networks).filter(|(id, _)| !new.networks.contains_key(id)) {
            changed.insert(*id);
            // Servers that still read it see no names any more.
            for key in [id.to_string(), own_names(&id.to_string())] {
                if let Some(zone) = state.zones.remove(&key) {
                    zone.store(Arc::new(Zone::new(network.record.name.clone())));
                }
            }
        }
        changed.iter().for_each(|id| state.note_serving(*id));
        let published = old.as_ref().is_none_or(|old| old.published != new.published);
        if !changed.is_empty() || published {
            self.cluster_dirty.store(true, Ordering::Release);
        }
        let is_ingress = |id| new.networks.get(id).or_else(|| before(id)).is_some_and(|network| network.record.ingress);
        Changes { mesh: published || changed.iter().any(is_ingress), networks: changed }
    }

    fn overlay_path(&self, id: NetworkId) -> PathBuf {
        self.netns_folder().join(format!("{OVERLAY_PREFIX}{id}"))
    }

    /// Takes over the cluster networks that the daemon before left in the kernel.
    pub(super) fn adopt_overlays(&self) {
        let Ok(entries) = std::fs::read_dir(self.netns_folder()) else { return };
        for entry in entries.flatten() {
            let name = entry.file_name();
            let id = name.to_str().and_then(|name| name.strip_prefix(OVERLAY_PREFIX)).and_then(|id| id.parse().ok());
            let Some(id) = id else { continue };
            match Overlay::open(&entry.path(), DEFAULT_UNDERLAY_MTU - 50, self.group) {
                Ok(overlay) => {
                    lock(&self.overlays).insert(id, overlay);
                }
                Err(error) => {
                    tracing::warn!(network = %id, error = %Failure::from(error), "could not take over a cluster network");
                }
            }
        }
    }

    /// Largest packet of the underlay: of the link that has this node's underlay address.
    fn underlay_mtu(&self, addr: IpAddr) -> Result<u32> {
        let mut route = lock(&self.route);
        let found = address::list(&mut route)?.into_iter().find(|address| IpAddr::V4(address.addr) == addr);
        let Some(found) = found else { return Ok(DEFAULT_UNDERLAY_MTU) };
        let links = link::list(&mut route)?;
        // On loopback, which takes 65536, the networks are as on a wire.
        let mtu = links.iter().find(|link| link.index == found.link).map_or(DEFAULT_UNDERLAY_MTU, |link| link.mtu);
        Ok(if mtu > 9216 { DEFAULT_UNDERLAY_MTU } else { mtu })
    }

    /// The same, looked up anew only when everything is.
    fn known_underlay_mtu(&self, addr: IpAddr, scope: Scope<'_>) -> Result<u32> {
        match (scope, *lock(&self.underlay)) {
            (Scope::Changed(_), Some((known, mtu))) if known == addr => return Ok(mtu),
            _ => {}
        }
        let mtu = self.underlay_mtu(addr)?;
        *lock(&self.underlay) = Some((addr, mtu));
        Ok(mtu)
    }

    fn desired_overlays(&self, scope: Scope<'_>) -> Result<(BTreeMap<NetworkId, Desired>, BTreeSet<NetworkId>)> {
        let (cluster, in_use) = {
            let state = lock(&self.state);
            (state.cluster.clone(), state.cluster_networks_in_use())
        };
        let Some(cluster) = cluster else { return Ok((BTreeMap::new(), in_use)) };
        let mtu = self.known_underlay_mtu(cluster.data_path_addr, scope)?;
        let overlay = |network: &&ClusterNetwork| {
            network.record.driver == "overlay" && network.record.vni != 0 && scope.has(network.record.id)
        };
        let networks = cluster.networks.values().filter(overlay);
        Ok((networks.map(|network| (network.record.id, desired(&cluster, network, mtu))).collect(), in_use))
    }

    /// The networks that changed, those that are missing, and those that something went wrong with.
    fn due(&self, changed: &BTreeSet<NetworkId>) -> BTreeSet<NetworkId> {
        let cluster = lock(&self.state).cluster.clone();
        let overlays = lock(&self.overlays);
        let mut due = changed.clone();
        due.extend(overlays.iter().filter(|(_, overlay)| overlay.known.is_none()).map(|(id, _)| *id));
        let wanted = cluster.iter().flat_map(|cluster| cluster.networks.keys());
        due.extend(wanted.filter(|id| !overlays.contains_key(*id)));
        due
    }

    /// What the kernel has of the cluster networks in a scope, each asked for by itself so that nobody waits for all of them.
    fn observe_overlays(
        &self,
        scope: Scope<'_>,
        repaired: &mut usize,
        errors: &mut Collected,
    ) -> BTreeMap<NetworkId, Observed> {
        let ids: Vec<NetworkId> = lock(&self.overlays).keys().filter(|id| scope.has(**id)).copied().collect();
        let mut observed = BTreeMap::new();
        for id in ids {
            let mut overlays = lock(&self.overlays);
            let Some(overlay) = overlays.get_mut(&id) else { continue };
            // Put back when all that follows has gone well.
            let known = overlay.known.take().filter(|_| matches!(scope, Scope::Changed(_)));
            let found = match known {
                Some(known) => Ok(known),
                None => overlay.observe(|| self.overlay_ports(id), repaired),
            };
            match found {
                Ok(found) => {
                    observed.insert(id, found);
                }
                Err(error) => errors.note::<(), _>(Err(error)),
            }
        }
        observed
    }

    /// Names of the links that belong on a cluster network's bridge.
    fn overlay_ports(&self, id: NetworkId) -> BTreeSet<String> {
        let state = lock(&self.state);
        let on = |target: &Target| matches!(target, Target::Cluster { network, .. } if *network == id);
        let endpoints = state.records.values().flat_map(|record| &record.endpoints);
        let mut ports: BTreeSet<String> =
            endpoints.filter(|endpoint| on(&endpoint.target)).map(|endpoint| endpoint.link.clone()).collect();
        ports.insert(INGRESS_PORT.to_owned());
        ports
    }

    /// Brings the tables of the cluster networks in line. Returns how many steps that took.
    ///
    /// # Errors
    /// What could not be done; the rest was.
    pub(super) fn sync_overlays(&self, scope: Scope<'_>) -> Result<usize> {
        let due;
        let scope = match scope {
            Scope::Kernel => scope,
            Scope::Changed(changed) => {
                due = self.due(changed);
                Scope::Changed(&due)
            }
        };
        let (desired, in_use) = self.desired_overlays(scope)?;
        let mut errors = Collected::default();
        let mut count = 0;
        let observed = self.observe_overlays(scope, &mut count, &mut errors);
        let actions = plan(&desired, &observed, &in_use);
        count += actions.len();
        let mut overlays = lock(&self.overlays);
        let mut tables: BTreeMap<NetworkId, Tables> = BTreeMap::new();
        let mut failed = BTreeSet::new();
        for action in actions {
            let done = self.carry_out(action, &mut overlays, &mut tables);
            failed.extend(done.is_err().then(|| action.network()));
            errors.note(done);
        }
        for (id, tables) in tables {
            if let Some(overlay) = overlays.get_mut(&id) {
                let done = overlay.change(&tables.forwarding, &tables.neighbours);
                failed.extend(done.is_err().then_some(id));
                errors.note(done);
            }
        }
        for (id, wanted) in desired.iter().filter(|(id, _)| !failed.contains(*id)) {
            if let Some(overlay) = overlays.get_mut(id) {
                overlay.known = Some(wanted.as_observed());
            }
        }
        errors.finish().map(|()| count)
    }

    /// Carries out a step; changes of tables are only gathered, removals before additions as planned.
    fn carry_out(
        &self,
        action: Action,
        overlays: &mut BTreeMap<NetworkId, Overlay>,
        tables: &mut BTreeMap<NetworkId, Tables>,
    ) -> Result<()> {
        match action {
            Action::RemoveNetwork(id) => overlays.remove(&id).map_or(Ok(()), Overlay::remove)?,
            Action::RemoveDevice(id) => overlays.get_mut(&id).map_or(Ok(()), Overlay::remove_device)?,
            Action::CreateNetwork(id, device) => self.create_overlay(id, device, overlays)?,
            Action::CreateDevice(id, device) => {
                if let Some(overlay) = overlays.get_mut(&id) {
                    overlay.create_device(&mut lock(&self.route), device)?;
                }
            }
            Action::RemoveForwarding(id, mac, node) => {
                tables.entry(id).or_default().forwarding.push((mac, node, false))
            }
            Action::PutForwarding(id, mac, node) => tables.entry(id).or_default().forwarding.push((mac, node, true)),
            Action::RemoveNeighbour(id, addr) => tables.entry(id).or_default().neighbours.push((addr, [0; 6], false)),
            Action::PutNeighbour(id, addr, mac) => tables.entry(id).or_default().neighbours.push((addr, mac, true)),
        }
        Ok(())
    }

    fn create_overlay(&self, id: NetworkId, device: Device, overlays: &mut BTreeMap<NetworkId, Overlay>) -> Result<()> {
        if let std::collections::btree_map::Entry::Vacant(entry) = overlays.entry(id) {
            self.prepare_netns_folder()?;
            // The host's port on the routing mesh was on the bridge before this one, if there was any.
            *lock(&self.ingress_applied) = None;
            entry.insert(Overlay::open(&self.overlay_path(id), device.mtu, self.group)?);
        }
        Ok(())
    }

    /// The network of the routing mesh, this node's address on it, and the prefix length of its subnet.
    fn ingress(&self) -> Option<Ingress> {
        let state = lock(&self.state);
        let network = state.cluster.as_ref()?.networks.values().find(|network| network.record.ingress)?;
        Some((network.record.id, network.record.node_address?, network.record.subnet?.prefix_len()))
    }

    /// Brings the host's link into the routing mesh in line. Returns whether anything was changed.
    ///
    /// # Errors
    /// The kernel's.
    pub(super) fn sync_ingress(&self) -> Result<bool> {
        let wanted = self.ingress();
        *lock(&self.ingress_applied) = None;
        let changed = self.put_ingress(wanted)?;
        *lock(&self.ingress_applied) = wanted;
        Ok(changed)
    }

    fn put_ingress(&self, wanted: Option<Ingress>) -> Result<bool> {
        let name = self.ingress_link();
        let found = link::find(&mut lock(&self.route), &name)?;
        let Some((network, addr, prefix_len)) = wanted else {
            let Some(found) = found else { return Ok(false) };
            lock(&self.route).request(link::delete(found.index))?;
            return Ok(true);
        };
        if let Some(found) = found {
            let own = Address { link: found.index, addr, prefix_len };
            let addressed = address::list(&mut lock(&self.route))?.contains(&own);
            if addressed && found.up && found.mac == mac_of(addr) && self.ingress_is_plugged(network)? {
                return Ok(false);
            }
            lock(&self.route).request(link::delete(found.index))?;
        }
        self.ensure_forwarding()?;
        self.plug_ingress(network, &name, addr, prefix_len)?;
        self.link_settings(&name)?;
        Ok(true)
    }

    /// Is there a port for the host on the network's bridge? Not if the network was made anew.
    fn ingress_is_plugged(&self, network: NetworkId) -> Result<bool> {
        let mut overlays = lock(&self.overlays);
        let Some(overlay) = overlays.get_mut(&network) else { return Ok(false) };
        Ok(link::find(&mut overlay.route, INGRESS_PORT)?.is_some_and(|port| port.master == overlay.bridge && port.up))
    }

    fn plug_ingress(&self, network: NetworkId, name: &str, addr: Ipv4Addr, prefix_len: u8) -> Result<()> {
        {
            let mut overlays = lock(&self.overlays);
            let overlay = overlays.get_mut(&network).ok_or_else(|| {
                NetworkError::Refused(Failure::unavailable("the network of the routing mesh is not ready on this node"))
            })?;
            let mtu = link::find(&mut overlay.route, "br0")?.ok_or_else(|| vanished("br0"))?.mtu;
            let veth = Veth {
                name: INGRESS_PORT,
                master: overlay.bridge,
                peer_name: name,
                peer_mac: Some(mac_of(addr)),
                peer_netns: self.home.as_fd(),
                mtu,
                group: self.group,
            };
            overlay.route.request(link::create_veth(&veth))?;
        }
        let mut route = lock(&self.route);
        let index = link::find(&mut route, name)?.ok_or_else(|| vanished(name))?.index;
        let requests = [link::set_up(index), address::add(Address { link: index, addr, prefix_len })];
        route.batch(&requests).into_iter().collect::<Result<(), _>>()?;
        Ok(())
    }

    /// Holds the ports of the routing mesh, and lets go of those that are no more.
    fn sync_mesh_ports(&self) -> Result<()> {
        let wanted: BTreeSet<(Protocol, u16)> = {
            let state = lock(&self.state);
            let published = state.cluster.iter().flat_map(|cluster| cluster.published.values());
            let ports = published.flat_map(|record| record.ports.iter().map(|port| (port.protocol, port.published)));
            ports.filter(|(_, port)| *port != 0).collect()
        };
        self.at_home(|| {
            let mut state = lock(&self.state);
            let state = &mut *state;
            state.mesh.retain(|(protocol, port)| {
                let keep = wanted.contains(&(*protocol, *port));
                if !keep {
                    state.ports.give_back_mesh(*protocol, *port);
                }
                keep
            });
            for (protocol, port) in wanted {
                if state.mesh.contains(&(protocol, port)) {
                    continue;
                }
                match state.ports.take_mesh(protocol, port) {
                    Ok(()) => {
                        state.mesh.insert((protocol, port));
                    }
                    // It works all the same: translation comes before local delivery.
                    Err(why) => tracing::debug!(why, "a port of the routing mesh is not held"),
                }
            }
        })
    }
}

/// Name of the host's port on the bridge of the routing mesh.
const INGRESS_PORT: &str = "host0";
