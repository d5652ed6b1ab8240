//! Sandboxes: made, put on networks, taken off, removed.

mod cluster;
mod note;

use std::collections::BTreeMap;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use shoal_engine_sys::netlink::address::{self, Address};
use shoal_engine_sys::netlink::link::{self, Mac, Veth};
use shoal_engine_sys::netns::{self, Namespace};
use shoal_proto::error::{ErrorKind, Failure};

use self::note::{note_endpoint, note_plain};
use super::addresses::parse_mac;
use super::core::Core;
use super::definition::{Bridge, GATEWAY_NETWORK};
use super::error::{Collected, NetworkError, Result};
use super::overlay::device::vanished;
use super::spares::Fresh;
use super::state::{Endpoint, LiveSandbox, SandboxKernel, SandboxRecord, State, Target, lock};
use super::types::{EndpointInfo, EndpointOptions, Sandbox, SandboxOptions, SandboxUser};

/// Beginning of the names of namespaces that belong to cluster networks.
pub(super) const OVERLAY_PREFIX: &str = "overlay-";
/// The same for the user namespaces of sandboxes.
pub(super) const USER_PREFIX: &str = "user-";
const MAX_ID: usize = 128;

fn check_id(id: &str) -> Result<()> {
    let good =
        !id.is_empty() && id.len() <= MAX_ID && id.bytes().all(|b| b.is_ascii_alphanumeric() || b"_-.".contains(&b));
    if !good || id.starts_with('.') || id.starts_with(OVERLAY_PREFIX) || id.starts_with(USER_PREFIX) {
        return Err(Failure::invalid(format!("invalid sandbox id {id:?}")).into());
    }
    Ok(())
}

/// Binds a namespace to a path, in place of what an earlier daemon may have left there.
fn bind_anew(path: &Path, bind: impl Fn(&Path) -> std::io::Result<()>) -> Result<()> {
    let again = |_| netns::unbind(path).and_then(|()| bind(path));
    bind(path).or_else(again).map_err(NetworkError::io(format!("bind {}", path.display())))
}

impl Core {
    /// Makes a namespace with its loopback link up.
    ///
    /// # Errors
    /// The id is in use, or the kernel refuses.
    pub(super) fn create_sandbox(&self, id: &str, options: SandboxOptions, user: &SandboxUser) -> Result<Sandbox> {
        check_id(id)?;
        if lock(&self.state).records.contains_key(id) {
            return Err(Failure::conflict(format!("container {id} has a network namespace already")).into());
        }
        self.prepare_netns_folder()?;
        let path = self.netns_folder().join(id);
        let Fresh { namespace, user, route, netfilter, names } = self.fresh_namespace(user)?;
        bind_anew(&path, |path| namespace.bind(path))?;
        let user = user.map(|user| {
            let path = self.user_path(id);
            bind_anew(&path, |path| user.bind(path)).map(|()| path)
        });
        let user = user.transpose().inspect_err(|_| drop(netns::unbind(&path)))?;
        let kernel = Mutex::new(SandboxKernel {
            route,
            rules: None,
            applied: Default::default(),
            unused: Some((names, netfilter)),
        });
        let live = LiveSandbox { path: path.clone(), kernel, server: Mutex::default() };
        let record =
            SandboxRecord { id: id.to_owned(), own_namespace: true, options, endpoints: Vec::new(), name_ports: None };
        self.disk.save_sandbox(&record)?;
        let mut state = lock(&self.state);
        state.records.insert(id.to_owned(), record);
        state.live.insert(id.to_owned(), Arc::new(live));
        Ok(Sandbox { id: id.to_owned(), path, user })
    }

    /// Where the user namespace of a sandbox is bound that has one.
    pub(super) fn user_path(&self, id: &str) -> PathBuf {
        self.netns_folder().join(format!("{USER_PREFIX}{id}"))
    }

    /// Puts a sandbox on a local network.
    ///
    /// # Errors
    /// Unknown sandbox or network, address or port in use, no address left, or the kernel refuses.
    pub(super) fn attach(&self, id: &str, network: &str, options: &EndpointOptions) -> Result<EndpointInfo> {
        let info = self.attach_local(id, network, options)?;
        match self.settle(id) {
            Ok(()) => Ok(info),
            Err(error) => {
                let _ = self.detach_endpoint(id, &info.endpoint_id);
                Err(error)
            }
        }
    }

    /// After a sandbox came to new networks: what it sees of names and services, and its file.
    fn settle(&self, id: &str) -> Result<()> {
        self.sync_sandbox(id)?;
        self.save_sandbox(id)
    }

    /// Puts a sandbox on a local network; its own view of that is left to [`Self::settle`].
    fn attach_local(&self, id: &str, network: &str, options: &EndpointOptions) -> Result<EndpointInfo> {
        let (endpoint, bridge) = self.reserve(id, network, options)?;
        let Some(bridge) = bridge else { return Ok(endpoint.info) };
        let network_id = endpoint.info.network_id.clone();
        let work = || {
            self.plug(id, &endpoint, &bridge)?;
            self.adjust(id, &endpoint, options)?;
            lock(&self.state).rebuild_zone(&network_id);
            if !endpoint.info.ports.is_empty() {
                self.sync_host_rules()?;
                self.forget_connections(&endpoint.info.ports);
            }
            Ok(())
        };
        self.keep_if(work(), id, endpoint.info)
    }

    /// Gives a noted endpoint when its links work, and else takes it away again.
    fn keep_if(&self, worked: Result<()>, id: &str, endpoint: EndpointInfo) -> Result<EndpointInfo> {
        match worked {
            Ok(()) => Ok(endpoint),
            Err(error) => {
                let _ = self.detach_endpoint(id, &endpoint.endpoint_id);
                Err(error)
            }
        }
    }

    /// Chooses and notes everything about an endpoint, so that nobody else gets its address or ports.
    fn reserve(&self, id: &str, network: &str, options: &EndpointOptions) -> Result<(Endpoint, Option<Bridge>)> {
        let link = self.veth_name();
        let endpoint_id = self.fresh_id();
        self.at_home(|| {
            let mut state = lock(&self.state);
            let network = state.network(network)?.clone();
            if network.bridge.is_none() {
                return Ok((note_plain(&mut state, id, &network, endpoint_id)?, None));
            }
            if !options.ports.is_empty() && !self.options.local.rules {
                let message = "cannot publish ports: the daemon runs with --iptables=false, and its rules publish them";
                return Err(Failure::invalid(message).into());
            }
            let endpoint = note_endpoint(&mut state, id, &network, options, link, endpoint_id)?;
            Ok((endpoint, network.bridge))
        })?
    }

    /// Makes the link of a noted endpoint.
    fn plug(&self, id: &str, endpoint: &Endpoint, bridge: &Bridge) -> Result<()> {
        let live = self.live(id)?;
        let namespace = live.namespace().map_err(NetworkError::io(format!("open {}", live.path.display())))?;
        {
            let mut route = lock(&self.route);
            let master = link::find(&mut route, &bridge.link)?.ok_or_else(|| vanished(&bridge.link))?.index;
            let mac = parse_mac(&endpoint.info.mac)?;
            let veth = veth(endpoint, master, mac, &namespace, bridge.mtu, self.group);
            route.request(link::create_veth(&veth))?;
            if !bridge.icc {
                route.request(link::set_isolated(&endpoint.link, true))?;
            }
        }
        self.configure(id, &live, endpoint)
    }

    /// Sets up the link inside: address, and the default route if it goes through here.
    fn configure(&self, id: &str, live: &LiveSandbox, endpoint: &Endpoint) -> Result<()> {
        let gateway = {
            let state = lock(&self.state);
            let chosen = state.record(id).ok().and_then(|record| state.gateway(record));
            chosen.filter(|chosen| chosen.info.endpoint_id == endpoint.info.endpoint_id).and_then(|e| e.info.gateway)
        };
        let mut kernel = lock(&live.kernel);
        let name = &endpoint.info.interface;
        let index = link::find(&mut kernel.route, name)?.ok_or_else(|| vanished(name))?.index;
        let mut requests = vec![link::set_up(index)];
        let prefix_len = endpoint.info.prefix_len;
        requests.extend(endpoint.info.ip.map(|addr| address::add(Address { link: index, addr, prefix_len })));
        requests.extend(gateway.map(|gateway| address::put_route(address::default_route(gateway, index))));
        kernel.route.batch(&requests).into_iter().collect::<Result<(), _>>()?;
        Ok(())
    }

    /// What was asked for of the link besides its address.
    fn adjust(&self, id: &str, endpoint: &Endpoint, options: &EndpointOptions) -> Result<()> {
        if options.link_local.is_empty() && options.sysctls.is_empty() {
            return Ok(());
        }
        let live = self.live(id)?;
        let name = &endpoint.info.interface;
        {
            let mut kernel = lock(&live.kernel);
            let index = link::find(&mut kernel.route, name)?.ok_or_else(|| vanished(name))?.index;
            for addr in &options.link_local {
                kernel.route.request(address::add(Address { link: index, addr: *addr, prefix_len: 16 }))?;
            }
        }
        let namespace = live.namespace().map_err(NetworkError::io(format!("open {}", live.path.display())))?;
        for (path, value) in &options.sysctls {
            let path = format!("/proc/sys/{}", path.replace("IFNAME", name));
            // What is below net/ shows the namespace of whoever opens it.
            namespace
                .enter(|| std::fs::write(&path, value))
                .and_then(|written| written)
                .map_err(|error| Failure::invalid(format!("cannot set {path} to {value:?}: {error}")))?;
        }
        Ok(())
    }

    /// A sandbox's namespace.
    ///
    /// # Errors
    /// When it has none.
    pub(super) fn live(&self, id: &str) -> Result<Arc<LiveSandbox>> {
        let state = lock(&self.state);
        state.live.get(id).cloned().ok_or_else(|| super::state::no_sandbox(id).into())
    }

    /// Takes a sandbox off a network, by the network's name or id.
    ///
    /// # Errors
    /// As dockerd's, when it is not on it.
    pub(super) fn detach(&self, id: &str, network: &str) -> Result<EndpointInfo> {
        let info = {
            let state = lock(&self.state);
            let wanted = state.network(network).map_or_else(|_| network.to_owned(), |found| found.id.clone());
            let record = state.record(id)?;
            let on = |endpoint: &&Endpoint| endpoint.info.network_id == wanted || endpoint.info.network_name == wanted;
            let found = record.endpoints.iter().find(on).map(|endpoint| endpoint.info.clone());
            found.ok_or_else(|| {
                let message = format!("container {id} is not connected to network {network}");
                Failure::new(ErrorKind::PermissionDenied, message)
            })?
        };
        self.detach_endpoint(id, &info.endpoint_id)?;
        let (idle, lacks_way) = {
            let state = lock(&self.state);
            (state.idle_gateway(id), state.lacks_way_out(id))
        };
        if let Some(idle) = idle {
            self.detach_endpoint(id, &idle)?;
        }
        if lacks_way {
            self.ensure_gateway_network()?;
            self.attach_local(id, GATEWAY_NETWORK, &EndpointOptions::default())?;
            self.settle(id)?;
        }
        Ok(info)
    }

    /// Takes an endpoint down. What fails is collected; the rest is done.
    ///
    /// # Errors
    /// What failed.
    pub(super) fn detach_endpoint(&self, id: &str, endpoint_id: &str) -> Result<()> {
        let mut errors = Collected::default();
        let find = |state: &State| {
            let record = state.records.get(id)?;
            record.endpoints.iter().find(|endpoint| endpoint.info.endpoint_id == endpoint_id).cloned()
        };
        let Some(endpoint) = find(&lock(&self.state)) else { return Ok(()) };
        if !endpoint.link.is_empty() {
            errors.note(self.unplug(&endpoint));
        }
        {
            let mut state = lock(&self.state);
            if let Some(record) = state.records.get_mut(id) {
                record.endpoints.retain(|other| other.info.endpoint_id != endpoint_id);
            }
            state.ports.give_back(&endpoint.info.ports);
            state.rebuild_zone(&endpoint.info.network_id);
        }
        errors.note(self.restore_default_route(id));
        errors.note(self.sync_sandbox(id));
        if !endpoint.info.ports.is_empty() {
            errors.note(self.sync_host_rules());
            self.forget_connections(&endpoint.info.ports);
        }
        errors.note(self.save_sandbox(id));
        errors.finish()
    }

    fn unplug(&self, endpoint: &Endpoint) -> Result<()> {
        let request = link::delete_by_name(&endpoint.link);
        let result = match &endpoint.target {
            Target::Local(_) => lock(&self.route).request(request),
            Target::Cluster { network, .. } => match lock(&self.overlays).get_mut(network) {
                Some(overlay) => overlay.route.request(request),
                None => Ok(()),
            },
        };
        match result {
            Err(error) if !error.missing() => Err(error.into()),
            _ => Ok(()),
        }
    }

    /// After an endpoint is gone, the default route goes through the next one.
    fn restore_default_route(&self, id: &str) -> Result<()> {
        let chosen = {
            let state = lock(&self.state);
            let Some(record) = state.records.get(id).filter(|record| record.own_namespace) else { return Ok(()) };
            state.gateway(record).map(|endpoint| (endpoint.info.gateway, endpoint.info.interface.clone()))
        };
        let (Some((Some(gateway), name)), Ok(live)) = (chosen, self.live(id)) else { return Ok(()) };
        let mut kernel = lock(&live.kernel);
        let index = link::find(&mut kernel.route, &name)?.ok_or_else(|| vanished(&name))?.index;
        Ok(kernel.route.request(address::put_route(address::default_route(gateway, index)))?)
    }

    /// Takes a sandbox off all networks and removes its namespace.
    ///
    /// # Errors
    /// What failed; the rest was done.
    pub(super) fn destroy_sandbox(&self, id: &str) -> Result<()> {
        let (record, live) = {
            let mut state = lock(&self.state);
            (state.records.get(id).cloned(), state.live.remove(id))
        };
        let Some(record) = record else { return Ok(()) };
        let mut errors = Collected::default();
        if let Some(live) = &live {
            *lock(&live.server) = None;
        }
        // Links to a bridge go with the namespace, in the kernel's own time and many at once; to ask for it takes it 30 ms
        // each, in which it lets nobody else change a link. What somebody still holds, the next comparison removes.
        for endpoint in record.endpoints.iter().filter(|endpoint| !endpoint.link.is_empty()) {
            match &endpoint.target {
                Target::Local(_) if record.own_namespace => {}
                // The address can come back at once on another link of this network, so this one leaves the bridge now.
                Target::Cluster { network, .. } if record.own_namespace => {
                    errors.note(self.take_off_overlay(*network, &endpoint.link));
                }
                _ => errors.note(self.unplug(endpoint)),
            }
        }
        let ports: Vec<_> = record.endpoints.iter().flat_map(|endpoint| endpoint.info.ports.clone()).collect();
        {
            let mut state = lock(&self.state);
            state.records.remove(id);
            state.ports.give_back(&ports);
            for endpoint in &record.endpoints {
                state.rebuild_zone(&endpoint.info.network_id);
            }
        }
        if !ports.is_empty() {
            errors.note(self.sync_host_rules());
            self.forget_connections(&ports);
        }
        if record.own_namespace {
            let path = self.netns_folder().join(id);
            for path in [path, self.user_path(id)] {
                errors.note(netns::unbind(&path).map_err(NetworkError::io(format!("unbind {}", path.display()))));
            }
        }
        errors.note(self.disk.remove_sandbox(id));
        errors.finish()
    }

    /// Names that only this container knows, from its next attachment on.
    pub(super) fn set_links(&self, id: &str, links: BTreeMap<String, String>) {
        if let Some(record) = lock(&self.state).records.get_mut(id) {
            record.options.links = links;
        }
    }

    /// Gives the container a new name.
    pub(super) fn rename(&self, id: &str, name: &str) {
        let mut state = lock(&self.state);
        let Some(record) = state.records.get_mut(id) else { return };
        let old = std::mem::replace(&mut record.options.name, name.to_owned());
        let mut networks = Vec::new();
        let has_own_name = |target: &Target| matches!(target, Target::Local(_) | Target::Cluster { task: None, .. });
        for endpoint in record.endpoints.iter_mut().filter(|endpoint| has_own_name(&endpoint.target)) {
            endpoint.info.dns_names.iter_mut().filter(|known| **known == old).for_each(|known| name.clone_into(known));
            networks.push(endpoint.info.network_id.clone());
        }
        networks.iter().for_each(|network| state.rebuild_zone(network));
        drop(state);
        if let Err(error) = self.save_sandbox(id) {
            tracing::warn!(error = %Failure::from(error), "the new name is not kept over a restart");
        }
    }
}

fn veth<'a>(endpoint: &'a Endpoint, master: u32, mac: Mac, peer: &'a Namespace, mtu: u32, group: u32) -> Veth<'a> {
    Veth {
        name: &endpoint.link,
        master,
        peer_name: &endpoint.info.interface,
        peer_mac: Some(mac),
        peer_netns: peer.as_fd(),
        mtu,
        group,
    }
}
