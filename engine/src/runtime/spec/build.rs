//! Putting a specification together.

use std::collections::HashMap;

use oci_spec::runtime::{
    Linux, LinuxBuilder, LinuxNamespace, LinuxNamespaceBuilder, LinuxNamespaceType, RootBuilder, Spec, SpecBuilder,
};

use super::{BuiltSpec, NamespaceMode, SeccompChoice, SpecError, SpecInput, devices, mounts, process, sysctl};
use crate::runtime::capabilities;
use crate::runtime::seccomp::{self, Filter};

/// Builds the specification.
///
/// # Errors
/// When the description asks for what cannot be had.
pub fn build(input: &SpecInput) -> Result<BuiltSpec, SpecError> {
    let capabilities = capabilities::choose(input)?;
    let filter = filter(input, &capabilities)?;
    let linux = linux(input)?;
    let spec = SpecBuilder::default()
        .version("1.2.0")
        .root(RootBuilder::default().path(&input.rootfs).readonly(input.read_only_root).build()?)
        .process(process::init_process(input, &capabilities)?)
        .mounts(mounts::plan(input)?)
        .linux(linux);
    let mut spec: Spec = spec.build()?;
    let private_name = input.uts == NamespaceMode::Private;
    spec.set_hostname((private_name && !input.hostname.is_empty()).then(|| input.hostname.clone()));
    spec.set_domainname((private_name && !input.domainname.is_empty()).then(|| input.domainname.clone()));
    if !private_name && !input.domainname.is_empty() {
        return Err(SpecError::Namespace("a domain name needs a UTS namespace of its own".to_owned()));
    }
    spec.set_hooks(None);
    if !input.annotations.is_empty() {
        spec.set_annotations(Some(input.annotations.clone().into_iter().collect::<HashMap<_, _>>()));
    }
    Ok(BuiltSpec { spec, filter })
}

fn filter(input: &SpecInput, capabilities: &[String]) -> Result<Option<std::sync::Arc<Filter>>, SpecError> {
    Ok(match &input.seccomp {
        // As dockerd does: privileged containers are unconfined unless a profile was named.
        SeccompChoice::Unconfined => None,
        SeccompChoice::Default if input.privileged => None,
        SeccompChoice::Default => Some(seccomp::default_filter(capabilities)?),
        SeccompChoice::Profile(profile) => Some(std::sync::Arc::new(Filter::compile(profile, capabilities)?)),
    })
}

fn linux(input: &SpecInput) -> Result<Linux, SpecError> {
    input.limits.validate()?;
    let mut resources = input.limits.to_oci()?;
    resources.set_devices(Some(devices::rules(input)?));
    let linux = LinuxBuilder::default()
        .namespaces(namespaces(input)?)
        .resources(resources)
        .cgroups_path(&input.cgroup)
        .devices(devices::list(input)?)
        .masked_paths(hidden(input, input.masked_paths.as_deref(), mounts::MASKED_PATHS))
        .readonly_paths(hidden(input, input.read_only_paths.as_deref(), mounts::READ_ONLY_PATHS));
    let mut linux = linux.build()?;
    let sysctls = sysctl::plan(input)?;
    linux.set_sysctl((!sysctls.is_empty()).then_some(sysctls));
    if let Some((_, map)) = &input.user_namespace {
        let (uids, gids) = map.to_oci()?;
        linux.set_uid_mappings(Some(uids));
        linux.set_gid_mappings(Some(gids));
    }
    linux.set_rootfs_propagation(mounts::root_propagation(input).map(str::to_owned));
    Ok(linux)
}

fn hidden(input: &SpecInput, asked: Option<&[String]>, default: &[&str]) -> Vec<String> {
    match asked {
        Some(paths) => paths.to_vec(),
        None if input.privileged => Vec::new(),
        None => default.iter().map(|path| (*path).to_owned()).collect(),
    }
}

fn namespaces(input: &SpecInput) -> Result<Vec<LinuxNamespace>, SpecError> {
    let wanted = [
        (LinuxNamespaceType::Mount, &NamespaceMode::Private),
        (LinuxNamespaceType::Network, &input.network),
        (LinuxNamespaceType::Uts, &input.uts),
        (LinuxNamespaceType::Pid, &input.pid),
        (LinuxNamespaceType::Ipc, &input.ipc),
        (LinuxNamespaceType::Cgroup, &input.cgroup_namespace),
    ];
    let mut namespaces = Vec::with_capacity(wanted.len());
    for (kind, mode) in wanted {
        let namespace = LinuxNamespaceBuilder::default().typ(kind);
        match mode {
            NamespaceMode::Host => {}
            NamespaceMode::Private => namespaces.push(namespace.build()?),
            NamespaceMode::Join(path) => namespaces.push(namespace.path(path).build()?),
        }
    }
    if let Some((path, _)) = &input.user_namespace {
        namespaces.push(LinuxNamespaceBuilder::default().typ(LinuxNamespaceType::User).path(path).build()?);
    }
    Ok(namespaces)
}
