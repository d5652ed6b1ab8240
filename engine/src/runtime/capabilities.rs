//! Which capabilities a container has.

use super::spec::{CapabilityChange, SpecError, SpecInput};

/// dockerd's default set.
pub const DEFAULT: &[&str] = &[
    "CAP_AUDIT_WRITE",
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_FOWNER",
    "CAP_FSETID",
    "CAP_KILL",
    "CAP_MKNOD",
    "CAP_NET_BIND_SERVICE",
    "CAP_NET_RAW",
    "CAP_SETFCAP",
    "CAP_SETGID",
    "CAP_SETPCAP",
    "CAP_SETUID",
    "CAP_SYS_CHROOT",
];

/// Every capability the kernel knows, by its number.
pub const NAMES: &[&str] = &[
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_DAC_READ_SEARCH",
    "CAP_FOWNER",
    "CAP_FSETID",
    "CAP_KILL",
    "CAP_SETGID",
    "CAP_SETUID",
    "CAP_SETPCAP",
    "CAP_LINUX_IMMUTABLE",
    "CAP_NET_BIND_SERVICE",
    "CAP_NET_BROADCAST",
    "CAP_NET_ADMIN",
    "CAP_NET_RAW",
    "CAP_IPC_LOCK",
    "CAP_IPC_OWNER",
    "CAP_SYS_MODULE",
    "CAP_SYS_RAWIO",
    "CAP_SYS_CHROOT",
    "CAP_SYS_PTRACE",
    "CAP_SYS_PACCT",
    "CAP_SYS_ADMIN",
    "CAP_SYS_BOOT",
    "CAP_SYS_NICE",
    "CAP_SYS_RESOURCE",
    "CAP_SYS_TIME",
    "CAP_SYS_TTY_CONFIG",
    "CAP_MKNOD",
    "CAP_LEASE",
    "CAP_AUDIT_WRITE",
    "CAP_AUDIT_CONTROL",
    "CAP_SETFCAP",
    "CAP_MAC_OVERRIDE",
    "CAP_MAC_ADMIN",
    "CAP_SYSLOG",
    "CAP_WAKE_ALARM",
    "CAP_BLOCK_SUSPEND",
    "CAP_AUDIT_READ",
    "CAP_PERFMON",
    "CAP_BPF",
    "CAP_CHECKPOINT_RESTORE",
];

/// Every capability that this process could hand on: those in its bounding set. A capability that the machine's owner
/// took from the daemon cannot be given to a container, and `ALL` does not ask for it (as dockerd does).
pub fn all() -> Vec<String> {
    let bounding = bounding_set();
    let held = |(number, name): (usize, &&str)| (bounding >> number & 1 == 1).then(|| (*name).to_owned());
    let mut names: Vec<String> = NAMES.iter().enumerate().filter_map(held).collect();
    names.sort_unstable();
    names
}

/// A set of capabilities by number, as bits; names that are not capabilities are left out.
pub fn bits<'a>(names: impl IntoIterator<Item = &'a str>) -> u64 {
    let number = |name: &str| NAMES.iter().position(|known| *known == name);
    names.into_iter().filter_map(number).fold(0, |bits, number| bits | 1 << number)
}

fn bounding_set() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("CapBnd:"));
    line.and_then(|text| u64::from_str_radix(text.trim(), 16).ok()).unwrap_or(0)
}

/// The capabilities of a container, sorted: the default set with what is added and dropped, as dockerd computes it.
pub(super) fn choose(input: &SpecInput) -> Result<Vec<String>, SpecError> {
    if input.privileged {
        return Ok(all());
    }
    let CapabilityChange { add, drop } = &input.capabilities;
    let add = normalize(add)?;
    let drop = normalize(drop)?;
    let mut chosen: Vec<String> = match (add.is_empty() && drop.is_empty(), contains_all(&add), contains_all(&drop)) {
        (true, _, _) => return Ok(DEFAULT.iter().map(|name| (*name).to_owned()).collect()),
        (_, true, _) => all(),
        (_, _, true) => Vec::new(),
        _ => DEFAULT.iter().map(|name| (*name).to_owned()).collect(),
    };
    chosen.extend(add.into_iter().filter(|name| name != "ALL"));
    // Dropping ALL and adding some leaves those; otherwise a capability that is dropped is dropped.
    if !contains_all(&drop) {
        chosen.retain(|name| !drop.contains(name));
    }
    chosen.sort_unstable();
    chosen.dedup();
    Ok(chosen)
}

/// The full name of a capability that does not exist; `None` for one that does, and for `ALL`.
pub fn unknown(name: &str) -> Option<String> {
    let upper = name.to_ascii_uppercase();
    let full = if upper.starts_with("CAP_") { upper } else { format!("CAP_{upper}") };
    (full != "CAP_ALL" && !NAMES.contains(&full.as_str())).then_some(full)
}

fn contains_all(names: &[String]) -> bool {
    names.iter().any(|name| name == "ALL")
}

fn normalize(names: &[String]) -> Result<Vec<String>, SpecError> {
    names
        .iter()
        .map(|name| {
            let upper = name.to_ascii_uppercase();
            if upper == "ALL" || upper == "CAP_ALL" {
                return Ok("ALL".to_owned());
            }
            let full = if upper.starts_with("CAP_") { upper } else { format!("CAP_{upper}") };
            if NAMES.contains(&full.as_str()) { Ok(full) } else { Err(SpecError::UnknownCapability(name.clone())) }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chosen(add: &[&str], drop: &[&str]) -> Vec<String> {
        let own = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        let capabilities = CapabilityChange { add: own(add), drop: own(drop) };
        choose(&SpecInput { capabilities, ..SpecInput::default() }).unwrap()
    }

    #[test]
    fn the_default_is_dockers() {
        assert_eq!(chosen(&[], &[]), DEFAULT);
        assert_eq!(DEFAULT.len(), 14);
    }

    #[test]
    fn names_are_taken_with_and_without_prefix_in_any_case() {
        let with = chosen(&["net_admin"], &["CAP_chown"]);
        assert!(with.contains(&"CAP_NET_ADMIN".to_owned()) && !with.contains(&"CAP_CHOWN".to_owned()));
        assert_eq!(with.len(), 14);
    }

    #[test]
    fn all_means_all() {
        assert_eq!(chosen(&["NET_RAW"], &["ALL"]), ["CAP_NET_RAW"]);
        assert_eq!(chosen(&[], &["all"]), Vec::<String>::new());
        let most = chosen(&["ALL"], &["SYS_ADMIN"]);
        assert!(!most.contains(&"CAP_SYS_ADMIN".to_owned()) && most.len() > 14);
    }

    #[test]
    fn nonsense_is_refused() {
        let capabilities = CapabilityChange { add: vec!["FLY".to_owned()], drop: Vec::new() };
        let error = choose(&SpecInput { capabilities, ..SpecInput::default() }).unwrap_err();
        assert_eq!(error.to_string(), "invalid capability: \"FLY\"");
    }
}
