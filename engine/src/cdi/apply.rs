//! Laying what devices need over an OCI specification.

use std::os::unix::fs::{FileTypeExt, MetadataExt};

use oci_spec::OciSpecError;
use oci_spec::runtime::{
    Hook as OciHook, HookBuilder, Hooks, LinuxDevice, LinuxDeviceBuilder, LinuxDeviceCgroup, LinuxDeviceCgroupBuilder,
    LinuxDeviceType, Mount as OciMount, MountBuilder, Spec,
};
use shoal_proto::error::{Failure, chain};

use super::{DeviceNode, Edits, Hook, HookKind, Mount};

fn failed(reason: impl std::fmt::Display) -> Failure {
    Failure::invalid(format!("CDI device injection failed: {reason}"))
}

fn oci(error: OciSpecError) -> Failure {
    failed(chain(&error))
}

impl Edits {
    /// Lays them over a specification.
    ///
    /// # Errors
    /// When a device is not there, or something is asked for that is not done here.
    pub fn apply(&self, spec: &mut Spec) -> Result<(), Failure> {
        if self.intel_rdt.is_some() || self.net_devices.is_some() {
            return Err(failed("Intel RDT settings and network devices are not offered"));
        }
        let owner = self.apply_to_process(spec);
        self.apply_devices(spec, owner)?;
        let mut mounts = spec.mounts().clone().unwrap_or_default();
        for mount in &self.mounts {
            mounts.retain(|other| *other.destination() != mount.container_path);
            mounts.push(oci_mount(mount).map_err(oci)?);
        }
        // Parents first; the default ones keep their order among equals.
        mounts.sort_by_key(|mount| mount.destination().components().count());
        spec.set_mounts(Some(mounts));
        self.apply_hooks(spec)
    }

    /// Gives the process's user and group.
    fn apply_to_process(&self, spec: &mut Spec) -> (u32, u32) {
        let Some(process) = spec.process_mut() else { return (0, 0) };
        let mut env = process.env().clone().unwrap_or_default();
        for entry in &self.env {
            let name = entry.split_once('=').map_or(entry.as_str(), |(name, _)| name);
            env.retain(|other| other.split_once('=').is_none_or(|(other, _)| other != name));
            env.push(entry.clone());
        }
        process.set_env(Some(env));
        let user = process.user_mut();
        let mut groups = user.additional_gids().clone().unwrap_or_default();
        for gid in self.additional_gids.iter().filter(|gid| **gid != 0) {
            if !groups.contains(gid) {
                groups.push(*gid);
            }
        }
        if !groups.is_empty() {
            user.set_additional_gids(Some(groups));
        }
        (user.uid(), user.gid())
    }

    fn apply_devices(&self, spec: &mut Spec, owner: (u32, u32)) -> Result<(), Failure> {
        let Some(linux) = spec.linux_mut() else { return Ok(()) };
        let mut devices = linux.devices().clone().unwrap_or_default();
        let mut rules = linux.resources().as_ref().and_then(|all| all.devices().clone()).unwrap_or_default();
        for node in &self.device_nodes {
            let device = oci_device(node, owner)?;
            if matches!(device.typ(), LinuxDeviceType::B | LinuxDeviceType::C) {
                rules.push(rule(node, &device).map_err(oci)?);
            }
            devices.retain(|other| other.path() != device.path());
            devices.push(device);
        }
        linux.set_devices(Some(devices));
        if let Some(resources) = linux.resources_mut() {
            resources.set_devices(Some(rules));
        }
        Ok(())
    }

    fn apply_hooks(&self, spec: &mut Spec) -> Result<(), Failure> {
        if self.hooks.is_empty() {
            return Ok(());
        }
        let of = |kind: HookKind| -> Result<Option<Vec<OciHook>>, Failure> {
            let hooks = self.hooks.iter().filter(|hook| hook.kind == kind).map(oci_hook);
            let hooks = hooks.collect::<Result<Vec<_>, _>>().map_err(oci)?;
            Ok((!hooks.is_empty()).then_some(hooks))
        };
        let mut hooks = Hooks::default();
        hooks.set_prestart(of(HookKind::Prestart)?);
        hooks.set_create_runtime(of(HookKind::CreateRuntime)?);
        hooks.set_create_container(of(HookKind::CreateContainer)?);
        hooks.set_start_container(of(HookKind::StartContainer)?);
        hooks.set_poststart(of(HookKind::Poststart)?);
        hooks.set_poststop(of(HookKind::Poststop)?);
        spec.set_hooks(Some(hooks));
        Ok(())
    }
}

fn oci_device(node: &DeviceNode, (uid, gid): (u32, u32)) -> Result<LinuxDevice, Failure> {
    let path = node.host_path();
    let metadata =
        std::fs::metadata(path).map_err(|error| failed(format_args!("{}: {}", path.display(), chain(&error))));
    let found = || -> Result<LinuxDeviceType, Failure> {
        match metadata.as_ref().map_err(Clone::clone)?.file_type() {
            kind if kind.is_char_device() => Ok(LinuxDeviceType::C),
            kind if kind.is_block_device() => Ok(LinuxDeviceType::B),
            kind if kind.is_fifo() => Ok(LinuxDeviceType::P),
            _ => Err(failed(format_args!("{} is not a device", path.display()))),
        }
    };
    let kind = match node.kind.as_str() {
        "" => found()?,
        "b" => LinuxDeviceType::B,
        "c" => LinuxDeviceType::C,
        "u" => LinuxDeviceType::U,
        "p" => LinuxDeviceType::P,
        other => return Err(failed(format_args!("{}: unknown device type {other:?}", path.display()))),
    };
    let (major, minor) = match (node.major, node.minor, kind) {
        (Some(major), Some(minor), _) => (major, minor),
        (_, _, LinuxDeviceType::P) => (0, 0),
        _ => {
            let number = metadata.as_ref().map_err(Clone::clone)?.rdev();
            (i64::from(rustix::fs::major(number)), i64::from(rustix::fs::minor(number)))
        }
    };
    let mode = node.file_mode.or_else(|| metadata.as_ref().ok().map(|metadata| metadata.mode() & 0o7777));
    let device = LinuxDeviceBuilder::default().path(&node.path).typ(kind).major(major).minor(minor);
    let device = device.file_mode(mode.unwrap_or(0o666)).uid(node.uid.unwrap_or(uid)).gid(node.gid.unwrap_or(gid));
    device.build().map_err(oci)
}

fn rule(node: &DeviceNode, device: &LinuxDevice) -> Result<LinuxDeviceCgroup, OciSpecError> {
    let access = if node.permissions.is_empty() { "rwm" } else { node.permissions.as_str() };
    let rule = LinuxDeviceCgroupBuilder::default().allow(true).typ(device.typ()).access(access);
    rule.major(device.major()).minor(device.minor()).build()
}

fn oci_mount(mount: &Mount) -> Result<OciMount, OciSpecError> {
    let mut options = mount.options.clone();
    let kind = if mount.kind.is_empty() { "bind" } else { mount.kind.as_str() };
    if kind == "bind" && !options.iter().any(|option| option == "bind" || option == "rbind") {
        options.push("rbind".to_owned());
    }
    let built = MountBuilder::default().destination(&mount.container_path).source(&mount.host_path);
    built.typ(kind).options(options).build()
}

fn oci_hook(hook: &Hook) -> Result<OciHook, OciSpecError> {
    let mut built = HookBuilder::default().path(&hook.path);
    if !hook.args.is_empty() {
        built = built.args(hook.args.clone());
    }
    if !hook.env.is_empty() {
        built = built.env(hook.env.clone());
    }
    if let Some(timeout) = hook.timeout {
        built = built.timeout(timeout);
    }
    built.build()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::spec::{SpecInput, build};

    #[test]
    fn everything_asked_for_is_in_the_specification() {
        let input = SpecInput { args: vec!["sh".to_owned()], env: vec!["A=1".to_owned()], ..SpecInput::default() };
        let mut spec = build(&input).unwrap().spec;
        let edits: Edits = serde_json::from_value(serde_json::json!({
            "env": ["A=2", "B=3"],
            "deviceNodes": [{"path": "/dev/nil", "hostPath": "/dev/null", "permissions": "rw"}],
            "mounts": [{"hostPath": "/lib", "containerPath": "/x/y", "options": ["ro", "nosuid"]}],
            "hooks": [{"hookName": "createContainer", "path": "/bin/true", "timeout": 3}],
            "additionalGids": [44],
        }))
        .unwrap();
        edits.apply(&mut spec).unwrap();
        let process = spec.process().as_ref().unwrap();
        assert_eq!(process.env().as_deref().unwrap(), ["HOME=/root", "A=2", "B=3"]);
        assert_eq!(process.user().additional_gids().as_deref(), Some(&[44][..]));
        let linux = spec.linux().as_ref().unwrap();
        let device = linux.devices().as_ref().unwrap().last().unwrap();
        assert_eq!((device.path().to_str(), device.major(), device.minor()), (Some("/dev/nil"), 1, 3));
        let rule = linux.resources().as_ref().unwrap().devices().as_ref().unwrap().last().unwrap();
        assert_eq!((rule.allow(), rule.access().as_deref(), rule.minor()), (true, Some("rw"), Some(3)));
        let mount = spec.mounts().as_ref().unwrap().iter().find(|one| one.destination().ends_with("x/y")).unwrap();
        assert_eq!(mount.options().as_deref().unwrap(), ["ro", "nosuid", "rbind"]);
        let hooks = spec.hooks().as_ref().unwrap().create_container().as_ref().unwrap();
        assert_eq!((hooks.len(), hooks[0].timeout()), (1, Some(3)));
        let missing = DeviceNode { path: "/dev/nosuch".into(), ..DeviceNode::default() };
        let edits = Edits { device_nodes: vec![missing], ..Edits::default() };
        assert!(edits.apply(&mut spec).unwrap_err().message.contains("/dev/nosuch"));
    }
}
