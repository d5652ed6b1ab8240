//! What a client is shown in its version.

use serde::Serialize;
use serde_json::{Map, Value, json};
use shoal_engine::model::{ContainerInspect, ContainerSummary, ImageInspect, ImageSummary};
use shoal_proto::error::Failure;

use crate::version::ApiVersion;

/// What Go shows for an instant that is none.
const NO_INSTANT: &str = "0001-01-01T00:00:00Z";

/// A line for each container.
pub(crate) fn containers(list: &mut [ContainerSummary], version: ApiVersion) {
    if !version.at_least(46) {
        for container in list {
            container.host_config.annotations = None;
        }
    }
}

/// One container: until 1.44 its names on a network of its own were among its aliases.
pub(crate) fn container(shown: &mut ContainerInspect, version: ApiVersion) {
    // Of old they came with the first start.
    if version.at_least(45) || shown.state.started_at == NO_INSTANT {
        return;
    }
    let names = [shown.id.get(..12).unwrap_or_default().to_owned(), shown.config.hostname.clone()];
    let user_defined = |name: &str| !matches!(name, "" | "default" | "bridge" | "host" | "none");
    let networks = shown.network_settings.networks.iter_mut();
    for (_, endpoint) in networks.filter(|(name, _)| user_defined(name)) {
        let aliases = endpoint.aliases.get_or_insert_default();
        for name in &names {
            if !name.is_empty() && !aliases.contains(name) {
                aliases.push(name.clone());
            }
        }
    }
}

/// A line for each image.
pub(crate) fn images(list: Vec<ImageSummary>, version: ApiVersion) -> Result<Vec<Value>, Failure> {
    list.into_iter()
        .map(|mut image| {
            if !version.at_least(43) && image.repo_tags.is_empty() && image.repo_digests.is_empty() {
                image.repo_tags.push("<none>:<none>".to_owned());
                image.repo_digests.push("<none>@<none>".to_owned());
            }
            let size = image.size;
            let mut shown = members(&image)?;
            if !version.at_least(44) {
                shown.insert("VirtualSize".to_owned(), size.into());
            }
            Ok(Value::Object(shown))
        })
        .collect()
}

/// One image.
pub(crate) fn image(image: &ImageInspect, version: ApiVersion) -> Result<Value, Failure> {
    let mut shown = members(image)?;
    if !version.at_least(44) {
        shown.insert("VirtualSize".to_owned(), image.size.into());
        shown.entry("Created").or_insert_with(|| NO_INSTANT.into());
    }
    if !version.at_least(45) {
        shown.insert("Container".to_owned(), image.container.clone().into());
        shown.insert("ContainerConfig".to_owned(), Value::Object(members(&image.container_config)?));
    }
    if !version.at_least(50)
        && let Some(Value::Object(config)) = shown.get_mut("Config")
    {
        // A container's configuration was shown, with all that an image's does not have.
        for name in ["Hostname", "Domainname", "Image"] {
            config.insert(name.to_owned(), "".into());
        }
        for name in ["AttachStdin", "AttachStdout", "AttachStderr", "Tty", "OpenStdin", "StdinOnce"] {
            config.insert(name.to_owned(), false.into());
        }
    }
    Ok(Value::Object(shown))
}

fn members(value: &impl Serialize) -> Result<Map<String, Value>, Failure> {
    match serde_json::to_value(value).map_err(|error| Failure::internal(&error))? {
        Value::Object(members) => Ok(members),
        other => Err(Failure::invalid(format!("expected an object to show, not {other}"))),
    }
}

/// What is known of the daemon. `info` is as the newest version has it.
pub(crate) fn info(info: &mut Map<String, Value>, version: ApiVersion) {
    let mut insert = |name: &str, value: Value| info.insert(name.to_owned(), value);
    if version.at_least(49) {
        insert("FirewallBackend", json!({ "Driver": "nftables" }));
    } else {
        for name in ["ContainerdCommit", "RuncCommit", "InitCommit"] {
            insert(name, json!({ "ID": "", "Expected": "" }));
        }
    }
    if !version.at_least(50) {
        // Since 1.48 it says of this that it does not know; before, clients of old warned of it.
        let known = !version.at_least(48);
        insert("BridgeNfIptables", known.into());
        insert("BridgeNfIp6tables", known.into());
    }
    if !version.at_least(50) || info.get("DiscoveredDevices") == Some(&Value::Null) {
        info.remove("DiscoveredDevices");
    }
    let mut insert = |name: &str, value: Value| info.insert(name.to_owned(), value);
    if !version.at_least(42) {
        insert("KernelMemory", false.into());
        insert("KernelMemoryTCP", false.into());
    }
    if !version.at_least(25) {
        insert("ExecutionDriver", "<not supported>".into());
    }
    if !version.at_least(47)
        && let Some(Value::Object(registries)) = info.get_mut("RegistryConfig")
    {
        for name in ["AllowNondistributableArtifactsCIDRs", "AllowNondistributableArtifactsHostnames"] {
            registries.insert(name.to_owned(), Value::Null);
        }
    }
    if !version.at_least(39) {
        for name in ["KernelVersion", "OperatingSystem"] {
            let unknown = info.get(name).is_none_or(|value| value == "");
            if unknown {
                info.insert(name.to_owned(), "<unknown>".into());
            }
        }
    }
    if !version.at_least(25) {
        // Names alone: `name=seccomp,profile=builtin` was `seccomp`.
        for option in info.get_mut("SecurityOptions").and_then(Value::as_array_mut).into_iter().flatten() {
            let text = option.as_str().unwrap_or_default();
            let name = text.split(',').find_map(|part| part.strip_prefix("name=")).unwrap_or(text);
            *option = Value::String(name.to_owned());
        }
    }
}

/// What the disk is used for: until 1.41 with the size of what a builder kept.
pub(crate) fn disk_usage(usage: &mut Value, version: ApiVersion) {
    if !version.at_least(42) {
        usage["BuilderSize"] = json!(0);
    }
}

#[cfg(test)]
mod tests {
    use shoal_engine::model::EndpointSettings;

    use super::*;

    fn version(minor: u32) -> ApiVersion {
        ApiVersion::new(1, minor)
    }

    #[test]
    fn members_of_images_come_and_go() {
        let list =
            |minor| images(vec![ImageSummary { size: 7, ..ImageSummary::default() }], version(minor)).expect("list");
        assert_eq!((&list(43)[0]["VirtualSize"], list(44)[0].get("VirtualSize")), (&json!(7), None));
        assert_eq!((&list(42)[0]["RepoTags"], &list(43)[0]["RepoTags"]), (&json!(["<none>:<none>"]), &json!([])));
        assert_eq!(list(42)[0]["RepoDigests"], json!(["<none>@<none>"]));
        let of_container = ImageInspect { size: 7, container: "c1".to_owned(), ..ImageInspect::default() };
        let one = |minor| image(&of_container, version(minor)).expect("image");
        assert_eq!((&one(43)["VirtualSize"], one(44).get("VirtualSize")), (&json!(7), None));
        assert_eq!((&one(43)["Created"], one(44).get("Created")), (&json!(NO_INSTANT), None));
        assert_eq!((&one(44)["Container"], one(45).get("Container")), (&json!("c1"), None));
        assert_eq!((&one(44)["ContainerConfig"]["Tty"], one(45).get("ContainerConfig")), (&json!(false), None));
        assert_eq!((&one(49)["Config"]["Hostname"], one(50)["Config"].get("Hostname")), (&json!(""), None));
        assert_eq!((&one(49)["Config"]["StdinOnce"], one(50)["Config"].get("StdinOnce")), (&json!(false), None));
    }

    #[test]
    fn names_of_containers_were_aliases() {
        let aliases_at = |minor, network: &str, started_at: &str| {
            let mut shown = ContainerInspect { id: "0123456789abcdef".to_owned(), ..ContainerInspect::default() };
            started_at.clone_into(&mut shown.state.started_at);
            "web".clone_into(&mut shown.config.hostname);
            let settings = EndpointSettings { aliases: Some(vec!["web".to_owned()]), ..EndpointSettings::default() };
            shown.network_settings.networks.insert(network.to_owned(), settings);
            container(&mut shown, version(minor));
            shown.network_settings.networks[network].aliases.clone().expect("aliases")
        };
        let aliases = |minor, network: &str| aliases_at(minor, network, "2026-01-01T00:00:00Z");
        assert_eq!(aliases(44, "net"), ["web", "0123456789ab"]);
        assert_eq!(aliases_at(44, "net", NO_INSTANT), ["web"]);
        assert_eq!((aliases(45, "net"), aliases(44, "bridge")), (vec!["web".to_owned()], vec!["web".to_owned()]));
    }

    #[test]
    fn annotations_are_listed_since_1_46() {
        let listed = |minor| {
            let mut list = [ContainerSummary::default()];
            list[0].host_config.annotations = Some(Default::default());
            containers(&mut list, version(minor));
            list[0].host_config.annotations.is_some()
        };
        assert!(!listed(45) && listed(46));
    }

    #[test]
    fn info_of_each_age() {
        let of = |minor| {
            let mut all = json!({
                "RegistryConfig": {}, "OperatingSystem": "", "KernelVersion": "6", "ContainerdCommit": { "ID": "" },
                "DiscoveredDevices": [{ "Source": "cdi", "ID": "v.com/d=1" }], "SecurityOptions": ["name=seccomp,profile=builtin", "name=cgroupns"],
            });
            info(all.as_object_mut().expect("object"), version(minor));
            all
        };
        assert_eq!(
            (&of(24)["SecurityOptions"], &of(25)["SecurityOptions"][1]),
            (&json!(["seccomp", "cgroupns"]), &json!("name=cgroupns"))
        );
        assert_eq!((&of(24)["ExecutionDriver"], of(25).get("ExecutionDriver")), (&json!("<not supported>"), None));
        assert_eq!(
            (&of(38)["OperatingSystem"], &of(39)["OperatingSystem"], &of(38)["KernelVersion"]),
            (&json!("<unknown>"), &json!(""), &json!("6"))
        );
        assert_eq!((&of(41)["KernelMemory"], of(42).get("KernelMemory")), (&json!(false), None));
        assert_eq!(
            (&of(48)["ContainerdCommit"]["Expected"], of(49)["ContainerdCommit"].get("Expected")),
            (&json!(""), None)
        );
        assert_eq!((of(48).get("FirewallBackend"), &of(49)["FirewallBackend"]["Driver"]), (None, &json!("nftables")));
        assert_eq!(
            (&of(47)["BridgeNfIptables"], &of(48)["BridgeNfIptables"], of(50).get("BridgeNfIptables")),
            (&json!(true), &json!(false), None)
        );
        assert_eq!(
            (of(49).get("DiscoveredDevices"), &of(50)["DiscoveredDevices"][0]["ID"]),
            (None, &json!("v.com/d=1"))
        );
        let registries = |minor| of(minor)["RegistryConfig"].as_object().expect("object").len();
        assert_eq!((registries(46), registries(47)), (2, 0));
        let built = |minor| {
            let mut usage = json!({});
            disk_usage(&mut usage, version(minor));
            usage
        };
        assert_eq!((&built(41)["BuilderSize"], built(42).get("BuilderSize")), (&json!(0), None));
    }
}
