//! What the creation of a container means in the client's version.

use std::collections::BTreeMap;

use shoal_engine::model::{CreateRequest, EndpointSettings, HostConfig, Mount};

use crate::error::ApiError;
use crate::version::ApiVersion;

const MAC_CONFLICT: &str = "conflicting options: mac-address and the network mode";
const MAC_MISMATCH: &str = "the container-wide MAC address must match the endpoint-specific MAC address for the main network, or be left empty";
const MAC_NOT_NAMED: &str = "unable to migrate container-wide MAC address to a specific network: HostConfig.NetworkMode must \
                             match the identity of a network in NetworkSettings.Networks";
const MAC_DEPRECATED: &str =
    "The container-wide MacAddress field is now deprecated. It should be specified in EndpointsConfig instead.";
const DRIVER_IGNORED: &str = "WARNING: the container-wide volume-driver configuration is ignored for volumes specified via \
                              'mount'. Use '--mount type=volume,volume-driver=...' instead";

/// Makes of a request what it means today; gives warnings. `unified`: are the host's cgroups of version 2?
///
/// # Errors
/// When it asks for what its version does not have, and ignoring that would be worse.
pub(crate) fn create(request: &mut CreateRequest, version: ApiVersion, unified: bool) -> Result<Vec<String>, ApiError> {
    defaults(request, version, unified);
    network_mode(request);
    limits(request, version);
    mounts(request, version)?;
    let mut warnings = Vec::new();
    if version.at_least(48) && ignores_volume_driver(&request.host_config) {
        warnings.push(DRIVER_IGNORED.to_owned());
    }
    networks(request, version)?;
    warnings.extend(hardware_address(request, version)?);
    Ok(warnings)
}

/// What is left open was something else once.
fn defaults(request: &mut CreateRequest, version: ApiVersion, unified: bool) {
    let host = &mut request.host_config;
    if !version.at_least(25) {
        // The client removes it.
        host.auto_remove = false;
    }
    if !version.at_least(40) && host.ipc_mode.is_empty() {
        "shareable".clone_into(&mut host.ipc_mode);
    }
    if !version.at_least(41) {
        request.platform.clear();
        if host.cgroupns_mode.is_empty() && !unified {
            "host".clone_into(&mut host.cgroupns_mode);
        }
    }
    if !version.at_least(42) {
        host.console_size = [0, 0];
    }
    if !version.at_least(43) {
        host.annotations = None;
    }
    if !version.at_least(44)
        && let Some(check) = &mut request.config.healthcheck
    {
        check.start_interval = 0;
    }
}

/// As dockerd since 26, for clients of every version: `default` is another word for the network that it stands for.
fn network_mode(request: &mut CreateRequest) {
    let mode = &mut request.host_config.network_mode;
    if matches!(mode.as_str(), "" | "default") {
        "bridge".clone_into(mode);
    }
    let endpoints = request.networking_config.endpoints_config.as_mut();
    if let Some(endpoints) = endpoints
        && let Some(of_default) = endpoints.remove("default")
    {
        endpoints.insert("bridge".to_owned(), of_default);
    }
}

fn limits(request: &mut CreateRequest, version: ApiVersion) {
    let host = &mut request.host_config;
    if version.at_least(42) {
        host.kernel_memory = 0;
    }
    if !version.at_least(40) {
        host.kernel_memory_tcp = 0;
    }
    // In every version: nothing and less than nothing are no limit.
    host.pids_limit = host.pids_limit.filter(|limit| *limit > 0);
}

fn mounts(request: &mut CreateRequest, version: ApiVersion) -> Result<(), ApiError> {
    request.writable_below = !version.at_least(44);
    for mount in request.host_config.mounts.iter_mut().flatten() {
        if version.at_least(42) {
            check_options(mount)?;
        } else {
            forget_options(mount, version);
        }
        let bind = mount.bind_options.as_ref().filter(|_| mount.kind == "bind");
        let refused = [
            (44, bind.is_some_and(|bind| bind.read_only_force_recursive), "BindOptions.ReadOnlyForceRecursive"),
            (45, mount.volume_options.as_ref().is_some_and(|one| !one.subpath.is_empty()), "VolumeOptions.Subpath"),
            (48, mount.kind == "image", "Mount type \"Image\""),
        ];
        for (since, asked, what) in refused {
            if asked && !version.at_least(since) {
                return Err(ApiError::invalid(format!("{what} needs API v1.{since} or newer")));
            }
        }
    }
    Ok(())
}

/// Since 1.42 options that belong to another type are refused.
fn check_options(mount: &Mount) -> Result<(), ApiError> {
    let strange = [
        ("VolumeOptions", mount.kind != "volume" && mount.volume_options.is_some()),
        ("BindOptions", mount.kind != "bind" && mount.bind_options.is_some()),
        ("TmpfsOptions", mount.kind != "tmpfs" && mount.tmpfs_options.is_some()),
    ];
    match strange.iter().find(|(_, given)| *given) {
        Some((name, _)) => {
            Err(ApiError::invalid(format!("{name} must not be specified on mount type {:?}", mount.kind)))
        }
        None => Ok(()),
    }
}

/// Before, they were ignored, but for those of binds.
fn forget_options(mount: &mut Mount, version: ApiVersion) {
    if let Some(bind) = &mut mount.bind_options {
        bind.create_mountpoint = false;
        bind.non_recursive &= version.at_least(40);
    }
    mount.volume_options = mount.volume_options.take().filter(|_| mount.kind == "volume");
    mount.tmpfs_options = mount.tmpfs_options.take().filter(|_| mount.kind == "tmpfs");
}

fn ignores_volume_driver(host: &HostConfig) -> bool {
    let chosen = |mount: &Mount| {
        let options = mount.volume_options.as_ref();
        options.and_then(|options| options.driver_config.as_ref()).is_some_and(|driver| !driver.name.is_empty())
    };
    let mut mounts = host.mounts.iter().flatten();
    !host.volume_driver.is_empty() && mounts.any(|mount| mount.kind == "volume" && !chosen(mount))
}

type Endpoints = BTreeMap<String, Option<EndpointSettings>>;

fn networks(request: &mut CreateRequest, version: ApiVersion) -> Result<(), ApiError> {
    let Some(endpoints) = &mut request.networking_config.endpoints_config else { return Ok(()) };
    if !version.at_least(44) && endpoints.len() > 1 {
        let names: Vec<&str> = endpoints.keys().map(String::as_str).collect();
        return Err(ApiError::invalid(format!(
            "Container cannot be created with multiple network endpoints: {}",
            names.join(", ")
        )));
    }
    if !version.at_least(48) {
        for endpoint in endpoints.values_mut().flatten() {
            endpoint.gw_priority = 0;
        }
    }
    Ok(())
}

/// Until 1.43 a hardware address was the container's; since 1.44 it is that of its place on a network.
fn hardware_address(request: &mut CreateRequest, version: ApiVersion) -> Result<Option<String>, ApiError> {
    let asked = request.config.mac_address.clone();
    let endpoints = &mut request.networking_config.endpoints_config;
    if asked.is_empty() {
        if !version.at_least(44) {
            for endpoint in endpoints.iter_mut().flatten().filter_map(|(_, endpoint)| endpoint.as_mut()) {
                endpoint.mac_address.clear();
            }
        }
        return Ok(None);
    }
    let mode = request.host_config.network_mode.as_str();
    if mode == "host" || mode.starts_with("container:") {
        return Err(ApiError::invalid(MAC_CONFLICT));
    }
    if version.at_least(44) {
        if mode != "none" {
            let endpoint = main_endpoint(endpoints.get_or_insert_default(), mode, version)?;
            if !endpoint.mac_address.is_empty() && endpoint.mac_address != asked {
                return Err(ApiError::invalid(MAC_MISMATCH));
            }
            endpoint.mac_address = asked;
        }
        request.config.mac_address.clear();
        return Ok(Some(MAC_DEPRECATED.to_owned()));
    }
    if mode == "none" {
        return Err(ApiError::invalid(MAC_CONFLICT));
    }
    main_endpoint(endpoints.get_or_insert_default(), mode, version)?.mac_address = asked;
    Ok(None)
}

/// The place that the network mode speaks of; made when there is none at all.
fn main_endpoint<'a>(
    endpoints: &'a mut Endpoints,
    mode: &str,
    version: ApiVersion,
) -> Result<&'a mut EndpointSettings, ApiError> {
    if let Some(of_default) = endpoints.remove("default") {
        endpoints.insert("bridge".to_owned(), of_default);
    }
    let name = if matches!(mode, "" | "default") { "bridge" } else { mode };
    // Of old there was one, whatever it was called.
    let key = match endpoints.keys().next() {
        None => name.to_owned(),
        Some(only) if !version.at_least(44) => only.clone(),
        Some(_) if endpoints.contains_key(name) => name.to_owned(),
        Some(_) => return Err(ApiError::invalid(MAC_NOT_NAMED)),
    };
    Ok(endpoints.entry(key).or_default().get_or_insert_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What becomes of a body: the request, and its warnings.
    fn gated(minor: u32, body: &str) -> Result<(CreateRequest, Vec<String>), String> {
        let mut request: CreateRequest = serde_json::from_str(body).expect("request");
        "linux/amd64".clone_into(&mut request.platform);
        match create(&mut request, ApiVersion::new(1, minor), false) {
            Ok(warnings) => Ok((request, warnings)),
            Err(error) => Err(error.message().to_owned()),
        }
    }

    fn host(minor: u32, body: &str) -> HostConfig {
        gated(minor, &format!(r#"{{"HostConfig":{body}}}"#)).expect("request").0.host_config
    }

    #[test]
    fn defaults_are_those_of_the_version() {
        let modes = |minor| {
            let host = host(minor, "{}");
            (host.ipc_mode, host.cgroupns_mode)
        };
        assert_eq!(modes(39), ("shareable".to_owned(), "host".to_owned()));
        assert_eq!(modes(40), (String::new(), "host".to_owned()));
        assert_eq!(modes(41), (String::new(), String::new()));
        assert_eq!(host(39, r#"{"IpcMode":"private"}"#).ipc_mode, "private");
        let mut request = CreateRequest::default();
        create(&mut request, ApiVersion::new(1, 40), true).expect("request");
        assert!(request.host_config.cgroupns_mode.is_empty(), "there is no default of old for these cgroups");
    }

    #[test]
    fn the_default_network_has_a_name() {
        for minor in [24, 43, 51] {
            for given in [r"{}", r#"{"NetworkMode":""}"#, r#"{"NetworkMode":"default"}"#] {
                assert_eq!(host(minor, given).network_mode, "bridge");
            }
            assert_eq!(host(minor, r#"{"NetworkMode":"none"}"#).network_mode, "none");
        }
        let body = r#"{"NetworkingConfig":{"EndpointsConfig":{"default":{"GwPriority":5}}}}"#;
        let endpoints = gated(51, body).expect("request").0.networking_config.endpoints_config.expect("endpoints");
        assert_eq!(endpoints.keys().collect::<Vec<_>>(), ["bridge"]);
    }

    #[test]
    fn members_count_from_their_version_on() {
        let removes = |minor| host(minor, r#"{"AutoRemove":true}"#).auto_remove;
        assert!(!removes(24) && removes(25));
        let platform = |minor| gated(minor, "{}").expect("request").0.platform;
        assert_eq!((platform(40).as_str(), platform(41).as_str()), ("", "linux/amd64"));
        let size = |minor| host(minor, r#"{"ConsoleSize":[24,80]}"#).console_size;
        assert_eq!((size(41), size(42)), ([0, 0], [24, 80]));
        let annotated = |minor| host(minor, r#"{"Annotations":{"a":"b"}}"#).annotations.is_some();
        assert!(!annotated(42) && annotated(43));
        let interval = |minor| {
            let (request, _) = gated(minor, r#"{"Healthcheck":{"StartInterval":9000000}}"#).expect("request");
            request.config.healthcheck.expect("health check").start_interval
        };
        assert_eq!((interval(43), interval(44)), (0, 9_000_000));
        let kernel = |minor| {
            let host = host(minor, r#"{"KernelMemory":5,"KernelMemoryTCP":6}"#);
            (host.kernel_memory, host.kernel_memory_tcp)
        };
        assert_eq!((kernel(39), kernel(40), kernel(42)), ((5, 0), (5, 6), (0, 6)));
        let limit = |text: &str| host(51, &format!(r#"{{"PidsLimit":{text}}}"#)).pids_limit;
        assert_eq!((limit("0"), limit("-1"), limit("7")), (None, None, Some(7)));
    }

    #[test]
    fn options_of_mounts() {
        let mount = |minor, mount: &str| {
            gated(minor, &format!(r#"{{"HostConfig":{{"Mounts":[{mount}]}}}}"#))
                .map(|(request, _)| (request.writable_below, request.host_config.mounts.expect("mounts").remove(0)))
        };
        let bind = r#"{"Type":"bind","BindOptions":{"NonRecursive":true,"CreateMountpoint":true},"TmpfsOptions":{}}"#;
        let options = |minor| {
            let (_, mount) = mount(minor, bind).expect("mount");
            assert!(mount.tmpfs_options.is_none());
            let bind = mount.bind_options.expect("options");
            (bind.non_recursive, bind.create_mountpoint)
        };
        assert_eq!((options(39), options(41)), ((false, false), (true, false)));
        assert_eq!(mount(42, bind).expect_err("taken"), "TmpfsOptions must not be specified on mount type \"bind\"");
        assert!(
            mount(43, r#"{"Type":"tmpfs"}"#).expect("mount").0 && !mount(44, r#"{"Type":"tmpfs"}"#).expect("mount").0
        );
        for (since, asked, what) in [
            (
                44,
                r#"{"Type":"bind","BindOptions":{"ReadOnlyForceRecursive":true}}"#,
                "BindOptions.ReadOnlyForceRecursive",
            ),
            (45, r#"{"Type":"volume","VolumeOptions":{"Subpath":"a"}}"#, "VolumeOptions.Subpath"),
            (48, r#"{"Type":"image"}"#, "Mount type \"Image\""),
        ] {
            assert_eq!(mount(since - 1, asked).expect_err(what), format!("{what} needs API v1.{since} or newer"));
            assert!(mount(since, asked).is_ok(), "{what}");
        }
    }

    #[test]
    fn one_network_until_1_43() {
        let body = r#"{"NetworkingConfig":{"EndpointsConfig":{"a":{"GwPriority":5},"b":null}}}"#;
        assert_eq!(
            gated(43, body).expect_err("taken"),
            "Container cannot be created with multiple network endpoints: a, b"
        );
        let priority = |minor| {
            let (request, _) = gated(minor, body).expect("request");
            let endpoints = request.networking_config.endpoints_config.expect("endpoints");
            endpoints["a"].as_ref().expect("settings").gw_priority
        };
        assert_eq!((priority(44), priority(47), priority(48)), (0, 0, 5));
    }

    #[test]
    fn a_hardware_address_belongs_to_a_place_on_a_network() {
        let found = |minor, body: &str| {
            gated(minor, body).map(|(request, warnings)| {
                let endpoints = request.networking_config.endpoints_config.unwrap_or_default();
                let macs = endpoints.into_iter().map(|(name, one)| (name, one.unwrap_or_default().mac_address));
                (request.config.mac_address, macs.collect::<Vec<_>>(), warnings.len())
            })
        };
        let of = |name: &str, mac: &str| vec![(name.to_owned(), mac.to_owned())];
        let wide = r#"{"MacAddress":"m"}"#;
        assert_eq!(found(43, wide), Ok(("m".to_owned(), of("bridge", "m"), 0)));
        assert_eq!(found(44, wide), Ok((String::new(), of("bridge", "m"), 1)));
        let both = r#"{"MacAddress":"m","HostConfig":{"NetworkMode":"a"},"NetworkingConfig":{"EndpointsConfig":{"a":{"MacAddress":"n"}}}}"#;
        assert_eq!(found(43, both), Ok(("m".to_owned(), of("a", "m"), 0)));
        assert_eq!(found(44, both), Err(MAC_MISMATCH.to_owned()));
        let own = r#"{"NetworkingConfig":{"EndpointsConfig":{"a":{"MacAddress":"n"}}}}"#;
        assert_eq!(found(43, own), Ok((String::new(), of("a", ""), 0)));
        assert_eq!(found(44, own), Ok((String::new(), of("a", "n"), 0)));
        let other =
            r#"{"MacAddress":"m","HostConfig":{"NetworkMode":"a"},"NetworkingConfig":{"EndpointsConfig":{"b":{}}}}"#;
        assert_eq!(found(43, other), Ok(("m".to_owned(), of("b", "m"), 0)));
        assert_eq!(found(44, other), Err(MAC_NOT_NAMED.to_owned()));
        let none = r#"{"MacAddress":"m","HostConfig":{"NetworkMode":"none"}}"#;
        assert_eq!(found(43, none), Err(MAC_CONFLICT.to_owned()));
        assert_eq!(found(44, none), Ok((String::new(), Vec::new(), 1)));
        assert_eq!(
            found(51, r#"{"MacAddress":"m","HostConfig":{"NetworkMode":"host"}}"#),
            Err(MAC_CONFLICT.to_owned())
        );
    }

    #[test]
    fn a_volume_driver_that_is_ignored_is_told() {
        let body = r#"{"HostConfig":{"VolumeDriver":"local","Mounts":[{"Type":"volume"}]}}"#;
        let warnings = |minor| gated(minor, body).expect("request").1;
        assert_eq!((warnings(47), warnings(48)), (Vec::new(), vec![DRIVER_IGNORED.to_owned()]));
    }
}
