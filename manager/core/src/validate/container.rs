//! What a task runs.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use shoal_proto::error::Failure;
use shoal_proto::spec::{ContainerSpec, FileTarget, Healthcheck, Labels, Mount, MountKind, Ulimit};
use shoal_proto::template;

use crate::store::Store;

/// `labels` are those of the service.
pub(super) fn check(container: &ContainerSpec, labels: &Labels, store: &Store) -> Result<(), Failure> {
    image(&container.image)?;
    mounts(&container.mounts)?;
    if let Some(check) = &container.healthcheck {
        healthcheck(check)?;
    }
    let bad_env = |pair: &&String| pair.is_empty() || pair.starts_with('=') || pair.contains('\0');
    if let Some(pair) = container.env.iter().find(bad_env) {
        return Err(Failure::invalid(format!("ContainerSpec: invalid environment variable: {pair:?}")));
    }
    if !container.dir.is_empty() && !is_absolute(&container.dir) {
        let dir = &container.dir;
        return Err(Failure::invalid(format!(
            "the working directory '{dir}' is invalid, it needs to be an absolute path"
        )));
    }
    if !(-1000..=1000).contains(&container.oom_score_adj) {
        let value = container.oom_score_adj;
        return Err(Failure::invalid(format!("invalid value {value}, range for oom score adj is [-1000, 1000]")));
    }
    capabilities(&container.capability_add)?;
    capabilities(&container.capability_drop)?;
    ulimits(&container.ulimits)?;
    templates(container, labels)?;
    secrets(container, store)?;
    configs(container, store)
}

/// Is it something that can name an image? `[host[:port]/]path[:tag][@digest]`.
fn image(reference: &str) -> Result<(), Failure> {
    if reference.is_empty() {
        return Err(Failure::invalid("ContainerSpec: image reference must be provided"));
    }
    if is_image_reference(reference) {
        Ok(())
    } else {
        Err(Failure::invalid(format!("ContainerSpec: {reference:?} is not a valid repository/tag")))
    }
}

fn is_image_reference(reference: &str) -> bool {
    let (name, digest) = match reference.split_once('@') {
        Some((name, digest)) => (name, Some(digest)),
        None => (reference, None),
    };
    let digest_fits = digest.is_none_or(|digest| {
        digest.split_once(':').is_some_and(|(algorithm, hex)| {
            !algorithm.is_empty() && hex.len() >= 32 && hex.bytes().all(|byte| byte.is_ascii_hexdigit())
        })
    });
    // A bare image id is accepted as well.
    if digest.is_none() && name.strip_prefix("sha256:").is_some_and(|hex| hex.bytes().all(|b| b.is_ascii_hexdigit())) {
        return true;
    }
    let last_slash = name.rfind('/').map_or(0, |at| at + 1);
    let (repository, tag) = match name.get(last_slash..).and_then(|last| last.find(':')) {
        Some(colon) => name.split_at(last_slash + colon),
        None => (name, ""),
    };
    let tag_fits = tag.is_empty()
        || (2..=129).contains(&tag.len())
            && tag.bytes().skip(1).all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte))
            && tag.as_bytes().get(1).is_some_and(|byte| byte.is_ascii_alphanumeric() || *byte == b'_');
    let mut components = repository.split('/').peekable();
    let first = components.peek().copied().unwrap_or_default();
    let is_host = repository.contains('/') && (first.contains(['.', ':']) || first == "localhost");
    let host_fits = |host: &str| {
        let port = host.split_once(':').map(|(_, port)| port);
        !host.is_empty()
            && host.bytes().all(|byte| byte.is_ascii_alphanumeric() || b".:-[]".contains(&byte))
            && port.is_none_or(|port| !port.is_empty())
    };
    let component_fits = |component: &str| {
        let edge = |byte: Option<u8>| byte.is_some_and(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit());
        edge(component.bytes().next())
            && edge(component.bytes().next_back())
            && component.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"._-".contains(&b))
    };
    let names_fit = components
        .enumerate()
        .all(|(index, component)| if index == 0 && is_host { host_fits(component) } else { component_fits(component) });
    digest_fits && tag_fits && names_fit && repository.len() <= 255
}

fn is_absolute(path: &str) -> bool {
    path.starts_with('/') && !path.contains('\0')
}

fn mounts(mounts: &[Mount]) -> Result<(), Failure> {
    let mut seen = BTreeSet::new();
    for mount in mounts {
        let target = mount.target.as_str();
        if target.is_empty() {
            return Err(Failure::invalid("ContainerSpec: invalid mount target: a target must be provided"));
        }
        if !is_absolute(target) {
            return Err(Failure::invalid(format!("invalid mount target, must be an absolute path: {target}")));
        }
        if target.trim_end_matches('/').is_empty() {
            return Err(Failure::invalid("invalid mount target: it can't be '/'"));
        }
        if !seen.insert(target.trim_end_matches('/')) {
            return Err(Failure::invalid(format!("ContainerSpec: duplicate mount point: {target}")));
        }
        match mount.kind {
            MountKind::Bind if mount.source.is_empty() => {
                return Err(Failure::invalid("ContainerSpec: a bind mount needs a source"));
            }
            MountKind::Bind if !is_absolute(&mount.source) && !mount.source.starts_with("{{") => {
                let source = &mount.source;
                return Err(Failure::invalid(format!("invalid bind mount source, must be an absolute path: {source}")));
            }
            MountKind::Volume if mount.source.contains('/') && !mount.source.contains("{{") => {
                let source = &mount.source;
                return Err(Failure::invalid(format!(
                    "invalid volume mount source, must not be an absolute path: {source}"
                )));
            }
            MountKind::Volume
                if mount.subpath.split('/').any(|part| part == "..") || mount.subpath.starts_with('/') =>
            {
                return Err(Failure::invalid(format!("invalid volume subpath {:?}: must stay inside", mount.subpath)));
            }
            MountKind::Tmpfs if !mount.source.is_empty() => {
                return Err(Failure::invalid("invalid tmpfs mount: it must not have a source"));
            }
            MountKind::Bind | MountKind::Volume | MountKind::Tmpfs => {}
        }
    }
    Ok(())
}

fn healthcheck(check: &Healthcheck) -> Result<(), Failure> {
    match check.test.first().map(String::as_str) {
        None | Some("") => {}
        Some("NONE") if check.test.len() == 1 => {}
        Some("CMD" | "CMD-SHELL") if check.test.len() > 1 => {}
        Some(kind @ ("NONE" | "CMD" | "CMD-SHELL")) => {
            return Err(Failure::invalid(format!("ContainerSpec: healthcheck {kind} has the wrong number of words")));
        }
        Some(kind) => {
            return Err(Failure::invalid(format!("ContainerSpec: unknown healthcheck type {kind:?}")));
        }
    }
    let times = [
        ("Interval", check.interval),
        ("Timeout", check.timeout),
        ("StartPeriod", check.start_period),
        ("StartInterval", check.start_interval),
    ];
    for (name, value) in times {
        if value.is_some_and(|value| !value.is_zero() && value < Duration::from_millis(1)) {
            return Err(Failure::invalid(format!(
                "ContainerSpec: {name} in HealthConfig cannot be less than one millisecond"
            )));
        }
    }
    Ok(())
}

fn capabilities(names: &[String]) -> Result<(), Failure> {
    let fits =
        |name: &&String| !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
    match names.iter().find(|name| !fits(name)) {
        Some(name) => Err(Failure::invalid(format!("ContainerSpec: invalid capability {name:?}"))),
        None => Ok(()),
    }
}

fn ulimits(ulimits: &[Ulimit]) -> Result<(), Failure> {
    for limit in ulimits {
        let name = &limit.name;
        if !Ulimit::NAMES.contains(&name.as_str()) {
            return Err(Failure::invalid(format!("invalid ulimit type: {name}")));
        }
        if limit.soft < -1 || limit.hard < -1 {
            return Err(Failure::invalid(format!("ulimit {name}: a limit cannot be negative, but for -1 (unlimited)")));
        }
        let unlimited = |value: i64| if value == -1 { i64::MAX } else { value };
        if unlimited(limit.soft) > unlimited(limit.hard) {
            return Err(Failure::invalid(format!(
                "ulimit soft limit must be less than or equal to hard limit: {name}: {} > {}",
                limit.soft, limit.hard
            )));
        }
    }
    Ok(())
}

fn templates(container: &ContainerSpec, labels: &Labels) -> Result<(), Failure> {
    for text in template::texts(container) {
        template::check(text, labels)
            .map_err(|reason| Failure::invalid(format!("ContainerSpec: invalid template {text:?}: {reason}")))?;
    }
    Ok(())
}

/// Files of secrets or configs: each has a place, no two the same, and none climbs out.
fn targets<'a>(kind: &str, files: impl Iterator<Item = (&'a str, &'a FileTarget)>) -> Result<(), Failure> {
    let mut seen: BTreeMap<&str, &str> = BTreeMap::new();
    for (name, file) in files {
        if name.is_empty() {
            return Err(Failure::invalid(format!("malformed {kind} reference")));
        }
        if file.name.is_empty() || file.name.contains('\0') {
            return Err(Failure::invalid(format!("malformed file {kind} reference, no target file name provided")));
        }
        if file.name.split('/').any(|part| part == "..") {
            let target = &file.name;
            return Err(Failure::invalid(format!(
                "malformed file {kind} reference, invalid target file name {target:?}"
            )));
        }
        for (what, id) in [("uid", &file.uid), ("gid", &file.gid)] {
            if !id.is_empty() && id.parse::<u32>().is_err() {
                return Err(Failure::invalid(format!("malformed file {kind} reference, invalid {what} {id:?}")));
            }
        }
        if let Some(other) = seen.insert(&file.name, name) {
            let target = &file.name;
            return Err(Failure::invalid(format!(
                "{kind} references '{other}' and '{name}' have a conflicting target: '{target}'"
            )));
        }
    }
    Ok(())
}

fn not_found(kind: &str, missing: &[&str]) -> Result<(), Failure> {
    match missing {
        [] => Ok(()),
        [one] => Err(Failure::invalid(format!("{kind} not found: {one}"))),
        many => Err(Failure::invalid(format!("{kind}s not found: {}", many.join(", ")))),
    }
}

fn secrets(container: &ContainerSpec, store: &Store) -> Result<(), Failure> {
    targets("secret", container.secrets.iter().map(|secret| (secret.name.as_str(), &secret.target)))?;
    let missing = container.secrets.iter().filter(|secret| store.secret(secret.id).is_none());
    not_found("secret", &missing.map(|secret| secret.name.as_str()).collect::<Vec<_>>())
}

fn configs(container: &ContainerSpec, store: &Store) -> Result<(), Failure> {
    targets("config", container.configs.iter().map(|config| (config.name.as_str(), &config.target)))?;
    let missing = container.configs.iter().filter(|config| store.config(config.id).is_none());
    not_found("config", &missing.map(|config| config.name.as_str()).collect::<Vec<_>>())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn image_references_are_recognised() {
        let digest = format!("busybox@sha256:{}", "a".repeat(64));
        for reference in [
            "busybox",
            "busybox:1.36",
            "library/busybox:latest",
            "localhost:5000/a/b:v1",
            "example.com/a_b/c--d:V1.0_x",
            &digest,
            &format!("example.com:443/x:1@sha256:{}", "0".repeat(64)),
            &format!("sha256:{}", "b".repeat(64)),
        ] {
            assert!(is_image_reference(reference), "{reference}");
        }
        for reference in [
            " ",
            "BusyBox",
            "busybox:",
            "busybox:a b",
            "-a",
            "a/",
            "/a",
            "a//b",
            "a@sha256:xyz",
            "a@",
            "a:-x",
            "a:b:c",
            "host:/a",
        ] {
            assert!(!is_image_reference(reference), "{reference}");
        }
    }

    fn mount(kind: MountKind, source: &str, target: &str) -> Mount {
        Mount { kind, source: source.into(), target: target.into(), ..Mount::default() }
    }

    #[test]
    fn mounts_are_checked() {
        let good = [
            mount(MountKind::Bind, "/srv", "/data"),
            mount(MountKind::Volume, "v", "/v"),
            mount(MountKind::Volume, "", "/anonymous"),
            mount(MountKind::Tmpfs, "", "/tmp"),
            mount(MountKind::Bind, "{{.Node.Hostname}}", "/templated"),
        ];
        assert_eq!(mounts(&good), Ok(()));
        for bad in [
            mount(MountKind::Bind, "srv", "/data"),
            mount(MountKind::Bind, "", "/data"),
            mount(MountKind::Bind, "/srv", "data"),
            mount(MountKind::Bind, "/srv", ""),
            mount(MountKind::Bind, "/srv", "//"),
            mount(MountKind::Volume, "/srv", "/data"),
            mount(MountKind::Tmpfs, "x", "/data"),
            Mount { subpath: "a/../..".into(), ..mount(MountKind::Volume, "v", "/data") },
        ] {
            assert!(mounts(std::slice::from_ref(&bad)).is_err(), "{bad:?}");
        }
        let twice = [mount(MountKind::Volume, "a", "/x"), mount(MountKind::Volume, "b", "/x/")];
        assert!(mounts(&twice).unwrap_err().message.contains("duplicate mount point: /x/"));
    }

    #[test]
    fn health_checks_are_checked() {
        let check = |words: &[&str]| {
            let test = words.iter().map(|word| (*word).to_owned()).collect();
            healthcheck(&Healthcheck { test, ..Healthcheck::default() })
        };
        assert!(check(&[]).is_ok());
        assert!(check(&["NONE"]).is_ok());
        assert!(check(&["CMD-SHELL", "true"]).is_ok());
        assert!(check(&["CMD"]).is_err());
        assert!(check(&["true"]).is_err());
        let short = Healthcheck { interval: Some(Duration::from_micros(1)), ..Healthcheck::default() };
        assert!(healthcheck(&short).is_err());
    }

    #[test]
    fn limits_of_processes_are_checked() {
        let limit = |name: &str, soft, hard| ulimits(&[Ulimit { name: name.into(), soft, hard }]);
        assert!(limit("nofile", 1024, 2048).is_ok());
        assert!(limit("nofile", 1024, -1).is_ok());
        assert!(limit("nofile", -1, 1024).is_err());
        assert!(limit("nofile", 2, 1).is_err());
        assert!(limit("nofile", -2, 1).is_err());
        assert!(limit("files", 1, 1).is_err());
    }

    #[test]
    fn file_targets_are_checked() {
        let file = |name: &str| FileTarget { name: name.into(), ..FileTarget::default() };
        let check = |files: &[(&str, FileTarget)]| targets("secret", files.iter().map(|(name, file)| (*name, file)));
        assert!(check(&[("a", file("a")), ("b", file("dir/b"))]).is_ok());
        assert_eq!(
            check(&[("a", file("x")), ("b", file("x"))]).unwrap_err().message,
            "secret references 'a' and 'b' have a conflicting target: 'x'"
        );
        for bad in [
            ("", file("x")),
            ("a", file("")),
            ("a", file("../x")),
            ("a", FileTarget { uid: "root".into(), ..file("x") }),
        ] {
            assert!(check(&[bad]).is_err());
        }
    }
}
