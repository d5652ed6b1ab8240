//! Kernel parameters of a container's namespaces.

use std::collections::HashMap;

use super::{NamespaceMode, SpecError, SpecInput};

const IPC_PARAMETERS: &[&str] =
    &["kernel.msgmax", "kernel.msgmnb", "kernel.msgmni", "kernel.sem", "kernel.shmall", "kernel.shmmax"];
const MORE_IPC_PARAMETERS: &[&str] = &["kernel.shmmni", "kernel.shm_rmid_forced"];

/// All parameters to set; refuses those that would change the host.
pub(super) fn plan(input: &SpecInput) -> Result<HashMap<String, String>, SpecError> {
    let mut plan = HashMap::new();
    if input.default_network_sysctls && input.network != NamespaceMode::Host {
        // As dockerd 20.10 and later do.
        plan.insert("net.ipv4.ip_unprivileged_port_start".to_owned(), "0".to_owned());
        plan.insert("net.ipv4.ping_group_range".to_owned(), "0 2147483647".to_owned());
    }
    for (name, value) in &input.sysctls {
        let name = name.replace('/', ".");
        check(&name, value, input).map_err(SpecError::Sysctl)?;
        plan.insert(name, value.clone());
    }
    Ok(plan)
}

fn check(name: &str, value: &str, input: &SpecInput) -> Result<(), String> {
    // Nothing that could become another path or another line (CVE-2022-0811 was a `+` and what follows it).
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
    if name.is_empty() || !name.bytes().all(plain) || name.split('.').any(str::is_empty) {
        return Err(format!("invalid sysctl name \"{name}\""));
    }
    if value.bytes().any(|byte| byte == b'+' || byte.is_ascii_control()) {
        return Err(format!("invalid value for sysctl \"{name}\""));
    }
    let (owner, mode) = if name.starts_with("net.") {
        ("network", &input.network)
    } else if name.starts_with("fs.mqueue.") || IPC_PARAMETERS.contains(&name) || MORE_IPC_PARAMETERS.contains(&name) {
        ("IPC", &input.ipc)
    } else if name == "kernel.domainname" || name == "kernel.hostname" {
        ("UTS", &input.uts)
    } else {
        return Err(format!("sysctl \"{name}\" is not in a separate kernel namespace"));
    };
    if *mode == NamespaceMode::Host {
        return Err(format!("sysctl \"{name}\" is not allowed in the host's {owner} namespace"));
    }
    Ok(())
}
