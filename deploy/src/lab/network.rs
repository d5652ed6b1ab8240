//! The switch and the cables.

use serde_json::Value;

use super::layout::{Host, Lab};
use super::namespace;
use super::tool::ip;
use crate::cli::look::Look as _;

/// Makes the switch and this machine's cable to it, unless they are there.
pub(super) fn ensure_switch(lab: &Lab) -> anyhow::Result<()> {
    namespace::ensure(&lab.switch(), None)?;
    let gateway = lab.gateway();
    namespace::inside(&lab.switch(), None, move || {
        if !links()?.contains(&"switch".to_owned()) {
            // Without a forwarding delay a new port works at once; without snooping broadcasts reach everyone.
            ip("link add switch type bridge stp_state 0 forward_delay 0 mcast_snooping 0")?;
            ip(&format!("address add {gateway}/24 dev switch"))?;
            ip("link set switch up")?;
        }
        Ok(())
    })?;
    let link = lab.root_link();
    if !links()?.contains(&link) {
        plug(lab, "root", &link, None)?;
        ip(&format!("address add {}/24 dev {link}", lab.root_address()))?;
        ip(&format!("link set {link} up"))?;
    }
    Ok(())
}

/// Makes a host's namespaces and its cable to the switch, unless they are there.
pub(super) fn ensure_host(lab: &Lab, host: &Host) -> anyhow::Result<()> {
    let path = lab.namespace(&host.name);
    namespace::ensure(&path, Some((&lab.uts(&host.name), &host.name)))?;
    let present = namespace::inside(&path, None, links)?;
    if present.contains(&"eth0".to_owned()) {
        return Ok(());
    }
    plug(lab, &host.name, "eth0", Some(&path))?;
    let (address, gateway) = (host.address, lab.gateway());
    namespace::inside(&path, None, move || {
        ip(&format!("address add {address}/24 dev eth0"))?;
        ip("link set eth0 up")?;
        ip(&format!("route add default via {gateway}")).map(drop)
    })
}

/// Makes a cable from a port of the switch, named `port`, to a link in another namespace (this machine's when `None`).
fn plug(lab: &Lab, port: &str, link: &str, namespace: Option<&std::path::Path>) -> anyhow::Result<()> {
    let target =
        namespace.map_or_else(|| format!("/proc/{}/ns/net", std::process::id()), |path| path.display().to_string());
    let words = format!("link add {port} type veth peer name {link} netns {target}");
    let port = port.to_owned();
    namespace::inside(&lab.switch(), None, move || {
        // A port without its other end is of a lab that was half taken down.
        let _ = ip(&format!("link delete {port}"));
        ip(&words)?;
        ip(&format!("link set {port} master switch up")).map(drop)
    })
}

/// Pulls a host's cable out of the switch or puts it back.
pub(super) fn set_cable(lab: &Lab, host: &Host, plugged: bool) -> anyhow::Result<()> {
    let words = format!("link set {} {}", host.name, if plugged { "up" } else { "down" });
    namespace::inside(&lab.switch(), None, move || ip(&words).map(drop))
}

/// The ports of the switch whose cables are pulled.
pub(super) fn cut_ports(lab: &Lab) -> anyhow::Result<Vec<String>> {
    namespace::inside(&lab.switch(), None, || {
        let list = list_links()?;
        let is_up = |link: &Value| link.texts("flags").iter().any(|flag| flag == "UP");
        Ok(list.items("").iter().filter(|link| !is_up(link)).map(|link| link.text("ifname").to_owned()).collect())
    })
}

fn list_links() -> anyhow::Result<Value> {
    Ok(serde_json::from_str(&ip("-json link show")?)?)
}

/// The names of the links in the calling thread's namespace.
pub(super) fn links() -> anyhow::Result<Vec<String>> {
    Ok(list_links()?.items("").iter().map(|link| link.text("ifname").to_owned()).collect())
}

/// Removes this machine's cable to the switch.
pub(super) fn remove_root_link(lab: &Lab) -> anyhow::Result<()> {
    let link = lab.root_link();
    if links()?.contains(&link) { ip(&format!("link delete {link}")).map(drop) } else { Ok(()) }
}

/// A subnet that neither this machine nor another lab uses.
pub(super) fn free_subnet() -> anyhow::Result<u8> {
    let taken: Vec<u8> = Lab::all().iter().map(|lab| lab.subnet).collect();
    let routes = ip("-4 route show table all")?;
    let links = links()?;
    let is_free = |subnet: &u8| {
        !taken.contains(subnet)
            && !routes.contains(&format!("10.201.{subnet}."))
            && !links.contains(&format!("shlab{subnet}"))
    };
    (0..=254)
        .find(is_free)
        .ok_or_else(|| anyhow::anyhow!("every subnet of 10.201.0.0/16 is in use: take another lab down first"))
}
