//! Options of the local driver: what is to be mounted as the volume.

use std::collections::BTreeMap;

use shoal_proto::error::Failure;

/// Options that there are.
const KNOWN: [&str; 4] = ["type", "o", "device", "size"];

/// What a volume shows instead of its own directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct MountSource {
    /// File system.
    pub(super) kind: String,
    /// Device, or directory with option `bind`.
    pub(super) device: String,
    /// As for `mount -o`.
    pub(super) options: String,
}

/// Checks options as dockerd does. None when nothing is to be mounted.
///
/// # Errors
/// When one is unknown or another one is missing.
pub(super) fn parse(options: &BTreeMap<String, String>) -> Result<Option<MountSource>, Failure> {
    if let Some(unknown) = options.keys().find(|name| !KNOWN.contains(&name.as_str())) {
        return Err(Failure::invalid(format!("invalid option: {unknown:?}")));
    }
    if options.contains_key("size") {
        return Err(Failure::invalid("quota size requested but no quota support"));
    }
    for (option, needed) in [("device", &["type"][..]), ("type", &["device"]), ("o", &["device", "type"])] {
        if options.contains_key(option)
            && let Some(missing) = needed.iter().find(|name| !options.contains_key(**name))
        {
            return Err(Failure::invalid(format!("missing required option: {missing:?}")));
        }
    }
    let value = |name: &str| options.get(name).cloned().unwrap_or_default();
    let source = MountSource { kind: value("type"), device: value("device"), options: value("o") };
    Ok(options.contains_key("device").then_some(source))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(options: &[(&str, &str)]) -> Result<Option<MountSource>, String> {
        let options = options.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        parse(&options).map_err(|failure| failure.message)
    }

    #[test]
    fn options_are_checked_as_dockerd_does() {
        assert_eq!(with(&[]), Ok(None));
        let source = with(&[("type", "tmpfs"), ("device", "tmpfs"), ("o", "size=1m")]).unwrap().unwrap();
        assert_eq!((source.kind.as_str(), source.options.as_str()), ("tmpfs", "size=1m"));
        assert_eq!(with(&[("colour", "red")]).unwrap_err(), "invalid option: \"colour\"");
        assert_eq!(with(&[("type", "tmpfs")]).unwrap_err(), "missing required option: \"device\"");
        assert_eq!(with(&[("o", "bind")]).unwrap_err(), "missing required option: \"device\"");
        assert_eq!(with(&[("size", "1g")]).unwrap_err(), "quota size requested but no quota support");
    }
}
