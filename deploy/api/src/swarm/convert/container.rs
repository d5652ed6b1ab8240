//! The container of a task.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use shoal_engine::model::{HealthConfig, Ulimit as UlimitJson};
use shoal_proto::spec::{
    ConfigReference, ContainerSpec, DnsConfig, FileTarget, Healthcheck, Privileges, SeccompMode, SecretReference,
    Ulimit,
};

use super::{Resolve, duration, mount, nanoseconds, not_offered};
use crate::error::ApiError;
use crate::swarm::model;

/// The container of a task.
pub(super) fn container_spec(spec: model::ContainerSpec, resolve: &dyn Resolve) -> Result<ContainerSpec, ApiError> {
    if !matches!(spec.isolation.as_str(), "" | "default") {
        return Err(not_offered(&format!("ContainerSpec.Isolation {:?}", spec.isolation)));
    }
    let grace = |nanoseconds| duration("ContainerSpec.StopGracePeriod", nanoseconds);
    let score = spec.oom_score_adj;
    if !(-1000..=1000).contains(&score) {
        return Err(ApiError::invalid(format!("ContainerSpec.OomScoreAdj {score} is not between -1000 and 1000")));
    }
    Ok(ContainerSpec {
        image: spec.image,
        labels: spec.labels,
        command: spec.command,
        args: spec.args,
        hostname: spec.hostname,
        env: spec.env,
        dir: spec.dir,
        user: spec.user,
        groups: spec.groups,
        privileges: privileges(spec.privileges.unwrap_or_default())?,
        init: spec.init,
        tty: spec.tty,
        open_stdin: spec.open_stdin,
        read_only: spec.read_only,
        stop_signal: spec.stop_signal,
        stop_grace_period: spec.stop_grace_period.map(grace).transpose()?,
        mounts: spec.mounts.into_iter().map(mount::mount).collect::<Result<_, _>>()?,
        healthcheck: spec.healthcheck.map(healthcheck).transpose()?,
        hosts: spec.hosts,
        dns: spec.dns_config.map(|dns| DnsConfig {
            nameservers: dns.nameservers,
            search: dns.search,
            options: dns.options,
        }),
        secrets: spec.secrets.into_iter().map(|reference| secret(reference, resolve)).collect::<Result<_, _>>()?,
        configs: spec.configs.into_iter().map(|reference| config(reference, resolve)).collect::<Result<_, _>>()?,
        sysctls: spec.sysctls,
        capability_add: spec.capability_add,
        capability_drop: spec.capability_drop,
        ulimits: spec
            .ulimits
            .into_iter()
            .map(|limit| Ulimit { name: limit.name, soft: limit.soft, hard: limit.hard })
            .collect(),
        oom_score_adj: i32::try_from(score).unwrap_or(0),
    })
}

fn privileges(privileges: model::Privileges) -> Result<Privileges, ApiError> {
    if privileges.credential_spec.is_some() {
        return Err(not_offered("ContainerSpec.Privileges.CredentialSpec"));
    }
    let selinux = privileges.selinux_context.unwrap_or_default();
    let selinux_disabled = selinux.disable;
    // A label that is not applied would be a promise not kept.
    if (model::SelinuxContext { disable: false, ..selinux }) != model::SelinuxContext::default() {
        return Err(not_offered("ContainerSpec.Privileges.SELinuxContext other than Disable"));
    }
    Ok(Privileges {
        selinux_disabled,
        no_new_privileges: privileges.no_new_privileges,
        seccomp: seccomp(&privileges.seccomp.unwrap_or_default())?,
        apparmor_disabled: match privileges.app_armor.unwrap_or_default().mode.as_str() {
            "" | "default" => false,
            "disabled" => true,
            other => return Err(ApiError::invalid(format!("invalid AppArmor mode: {other:?}"))),
        },
    })
}

fn seccomp(seccomp: &model::Seccomp) -> Result<SeccompMode, ApiError> {
    match seccomp.mode.as_str() {
        "" | "default" => Ok(SeccompMode::Default),
        "unconfined" => Ok(SeccompMode::Unconfined),
        "custom" => {
            let profile = STANDARD.decode(&seccomp.profile).ok().and_then(|bytes| String::from_utf8(bytes).ok());
            profile
                .map(SeccompMode::Custom)
                .ok_or_else(|| ApiError::invalid("Seccomp.Profile is not base64 of a JSON text"))
        }
        other => Err(ApiError::invalid(format!("invalid seccomp mode: {other:?}"))),
    }
}

fn healthcheck(check: HealthConfig) -> Result<Healthcheck, ApiError> {
    let time = |member: &str, nanoseconds: i64| match nanoseconds {
        0 => Ok(None),
        given => duration(member, given).map(Some),
    };
    Ok(Healthcheck {
        interval: time("Healthcheck.Interval", check.interval)?,
        timeout: time("Healthcheck.Timeout", check.timeout)?,
        retries: u32::try_from(check.retries)
            .map_err(|_| ApiError::invalid("Healthcheck.Retries cannot be negative"))?,
        start_period: time("Healthcheck.StartPeriod", check.start_period)?,
        start_interval: time("Healthcheck.StartInterval", check.start_interval)?,
        test: check.test.unwrap_or_default(),
    })
}

fn file_target(member: &str, file: Option<model::FileTarget>) -> Result<FileTarget, ApiError> {
    let file = file.ok_or_else(|| ApiError::invalid(format!("{member}: a File target is needed")))?;
    if file.name.is_empty() {
        return Err(ApiError::invalid(format!("{member}: File.Name must not be empty")));
    }
    let or_root = |text: String| if text.is_empty() { "0".to_owned() } else { text };
    Ok(FileTarget { name: file.name, uid: or_root(file.uid), gid: or_root(file.gid), mode: file.mode })
}

fn secret(reference: model::SecretReference, resolve: &dyn Resolve) -> Result<SecretReference, ApiError> {
    Ok(SecretReference {
        id: resolve.secret(&reference.secret_id, &reference.secret_name)?,
        target: file_target("ContainerSpec.Secrets", reference.file)?,
        name: reference.secret_name,
    })
}

fn config(reference: model::ConfigReference, resolve: &dyn Resolve) -> Result<ConfigReference, ApiError> {
    if reference.runtime.is_some() {
        return Err(not_offered("ContainerSpec.Configs.Runtime"));
    }
    Ok(ConfigReference {
        id: resolve.config(&reference.config_id, &reference.config_name)?,
        target: file_target("ContainerSpec.Configs", reference.file)?,
        name: reference.config_name,
    })
}

/// The container as the API shows it.
pub(super) fn container_spec_json(spec: &ContainerSpec) -> model::ContainerSpec {
    let target = |target: &FileTarget| {
        let FileTarget { name, uid, gid, mode } = target.clone();
        Some(model::FileTarget { name, uid, gid, mode })
    };
    model::ContainerSpec {
        image: spec.image.clone(),
        labels: spec.labels.clone(),
        command: spec.command.clone(),
        args: spec.args.clone(),
        hostname: spec.hostname.clone(),
        env: spec.env.clone(),
        dir: spec.dir.clone(),
        user: spec.user.clone(),
        groups: spec.groups.clone(),
        privileges: privileges_json(&spec.privileges),
        init: spec.init,
        stop_signal: spec.stop_signal.clone(),
        tty: spec.tty,
        open_stdin: spec.open_stdin,
        read_only: spec.read_only,
        mounts: spec.mounts.iter().map(mount::mount_json).collect(),
        stop_grace_period: spec.stop_grace_period.map(nanoseconds),
        healthcheck: spec.healthcheck.as_ref().map(healthcheck_json),
        hosts: spec.hosts.clone(),
        dns_config: spec.dns.as_ref().map(|dns| model::DnsConfig {
            nameservers: dns.nameservers.clone(),
            search: dns.search.clone(),
            options: dns.options.clone(),
        }),
        secrets: spec
            .secrets
            .iter()
            .map(|secret| model::SecretReference {
                file: target(&secret.target),
                secret_id: secret.id.to_string(),
                secret_name: secret.name.clone(),
            })
            .collect(),
        configs: spec
            .configs
            .iter()
            .map(|config| model::ConfigReference {
                file: target(&config.target),
                runtime: None,
                config_id: config.id.to_string(),
                config_name: config.name.clone(),
            })
            .collect(),
        isolation: "default".to_owned(),
        sysctls: spec.sysctls.clone(),
        capability_add: spec.capability_add.clone(),
        capability_drop: spec.capability_drop.clone(),
        ulimits: spec
            .ulimits
            .iter()
            .map(|limit| UlimitJson { name: limit.name.clone(), hard: limit.hard, soft: limit.soft })
            .collect(),
        oom_score_adj: spec.oom_score_adj.into(),
    }
}

fn privileges_json(privileges: &Privileges) -> Option<model::Privileges> {
    if *privileges == Privileges::default() {
        return None;
    }
    let seccomp = match &privileges.seccomp {
        SeccompMode::Default => None,
        SeccompMode::Unconfined => Some(model::Seccomp { mode: "unconfined".to_owned(), profile: String::new() }),
        SeccompMode::Custom(profile) => {
            Some(model::Seccomp { mode: "custom".to_owned(), profile: STANDARD.encode(profile) })
        }
    };
    Some(model::Privileges {
        credential_spec: None,
        selinux_context: privileges
            .selinux_disabled
            .then(|| model::SelinuxContext { disable: true, ..model::SelinuxContext::default() }),
        seccomp,
        app_armor: privileges.apparmor_disabled.then(|| model::AppArmor { mode: "disabled".to_owned() }),
        no_new_privileges: privileges.no_new_privileges,
    })
}

fn healthcheck_json(check: &Healthcheck) -> HealthConfig {
    let time = |time: Option<std::time::Duration>| time.map_or(0, nanoseconds);
    HealthConfig {
        test: (!check.test.is_empty()).then(|| check.test.clone()),
        interval: time(check.interval),
        timeout: time(check.timeout),
        start_period: time(check.start_period),
        start_interval: time(check.start_interval),
        retries: check.retries.into(),
    }
}
