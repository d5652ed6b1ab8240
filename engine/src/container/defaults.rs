//! What the daemon gives to containers that do not say themselves.

use shoal_proto::error::Failure;

use super::validate;
use crate::model::{ContainerConfig, HostConfig};
use crate::options::{ContainerDefaults, EngineOptions};

const JSON_FILE: &str = "json-file";

/// The log driver of containers that name none.
pub(crate) fn log_driver(options: &EngineOptions) -> &str {
    let kind = options.containers.log.kind.as_str();
    if kind.is_empty() { JSON_FILE } else { kind }
}

/// Fills in the defaults that are kept with the container. The others (init, name servers, seccomp, privileges) hold when it is
/// started, as in dockerd.
pub(crate) fn fill_in(defaults: &ContainerDefaults, host: &mut HostConfig) {
    let default_driver = if defaults.log.kind.is_empty() { JSON_FILE } else { &defaults.log.kind };
    if host.log_config.kind.is_empty() {
        default_driver.clone_into(&mut host.log_config.kind);
    }
    if host.log_config.kind == default_driver {
        for (name, value) in &defaults.log.config {
            host.log_config.config.entry(name.clone()).or_insert_with(|| value.clone());
        }
    }
    for (mine, default) in
        [(&mut host.ipc_mode, &defaults.ipc_mode), (&mut host.cgroupns_mode, &defaults.cgroupns_mode)]
    {
        if mine.is_empty() {
            mine.clone_from(default);
        }
    }
    if host.shm_size == 0 {
        host.shm_size = defaults.shm_size_bytes;
    }
    for limit in &defaults.ulimits {
        if !host.ulimits.iter().flatten().any(|have| have.name == limit.name) {
            host.ulimits.get_or_insert_default().push(limit.clone());
        }
    }
}

/// Could a container have the defaults?
///
/// # Errors
/// With what is wrong, in the words that a container would be refused with.
pub(crate) fn check(options: &EngineOptions) -> Result<(), Failure> {
    let mut host = HostConfig::default();
    fill_in(&options.containers, &mut host);
    host.dns = Some(options.containers.dns.clone());
    host.runtime.clone_from(&options.default_runtime);
    validate::host_config(options, &ContainerConfig::default(), &host).map(|_| ())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{LogConfig, Ulimit};
    use crate::options::SeccompDefault;

    fn ulimit(name: &str, soft: i64) -> Ulimit {
        Ulimit { name: name.to_owned(), soft, hard: 100 }
    }

    fn log(kind: &str, options: &[(&str, &str)]) -> LogConfig {
        let config = options.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        LogConfig { kind: kind.to_owned(), config }
    }

    #[test]
    fn what_is_said_beats_the_default() {
        let defaults = ContainerDefaults {
            log: log("", &[("max-size", "1m"), ("max-file", "3")]),
            ulimits: vec![ulimit("nofile", 10), ulimit("core", 0)],
            shm_size_bytes: 1 << 20,
            ipc_mode: "shareable".to_owned(),
            ..ContainerDefaults::default()
        };
        let mut host = HostConfig {
            log_config: log("json-file", &[("max-file", "7")]),
            ulimits: Some(vec![ulimit("nofile", 20)]),
            ipc_mode: "host".to_owned(),
            ..HostConfig::default()
        };
        fill_in(&defaults, &mut host);
        assert_eq!(host.log_config, log("json-file", &[("max-size", "1m"), ("max-file", "7")]));
        assert_eq!(host.ulimits, Some(vec![ulimit("nofile", 20), ulimit("core", 0)]));
        assert_eq!((host.ipc_mode.as_str(), host.shm_size), ("host", 1 << 20));
        let mut plain = HostConfig { ulimits: Some(Vec::new()), ..HostConfig::default() };
        fill_in(&ContainerDefaults::default(), &mut plain);
        assert_eq!(plain.ulimits, Some(Vec::new()), "what is empty is shown as empty");
        let mut silent = HostConfig { log_config: log("none", &[]), ..HostConfig::default() };
        fill_in(&defaults, &mut silent);
        assert_eq!(silent.log_config, log("none", &[]), "options of another driver");
    }

    #[test]
    fn defaults_that_no_container_could_have_are_refused() {
        let refused = |containers: ContainerDefaults| {
            check(&EngineOptions { containers, ..EngineOptions::default() }).expect_err("refused").message
        };
        let unknown = refused(ContainerDefaults { log: log("carrier-pigeon", &[]), ..Default::default() });
        assert!(unknown.contains("carrier-pigeon"), "{unknown}");
        let option = refused(ContainerDefaults { log: log("", &[("colour", "red")]), ..Default::default() });
        assert!(option.contains("colour"), "{option}");
        let seccomp = SeccompDefault::Profile { path: "/p.json".into(), text: "{".to_owned() };
        let profile = refused(ContainerDefaults { seccomp, ..Default::default() });
        assert!(profile.contains("seccomp"), "{profile}");
        assert!(check(&EngineOptions { default_runtime: "nowhere".to_owned(), ..Default::default() }).is_err());
        assert!(check(&EngineOptions::default()).is_ok());
    }
}
