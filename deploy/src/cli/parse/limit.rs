//! `--ulimit nofile=1024:2048`, `--add-host name:ip`, `--cap-add NET_ADMIN`.

use serde_json::{Value, json};
use shoal_proto::spec::Ulimit;

/// The API's `Ulimit` of `name=soft[:hard]`.
pub(crate) fn ulimit(text: &str) -> Result<Value, String> {
    let invalid =
        |why: &str| format!("invalid ulimit argument '{text}': {why} (want name=soft[:hard], as in nofile=1024:2048)");
    let (name, limits) = text.split_once('=').ok_or_else(|| invalid("no value"))?;
    if !Ulimit::NAMES.contains(&name) {
        return Err(invalid("unknown name"));
    }
    let (soft, hard) = limits.split_once(':').unwrap_or((limits, limits));
    let number =
        |text: &str| text.parse::<i64>().ok().filter(|limit| *limit >= -1).ok_or_else(|| invalid("not a number"));
    let (soft, hard) = (number(soft)?, number(hard)?);
    if hard != -1 && (soft == -1 || soft > hard) {
        return Err(invalid("the soft limit is above the hard limit"));
    }
    Ok(json!({"Name": name, "Soft": soft, "Hard": hard}))
}

/// A host's name and address of `name:ip` or `name=ip`; `host-gateway` stands for the host.
pub(crate) fn extra_host(text: &str) -> Result<(String, String), String> {
    let invalid = || format!("bad format for add-host: '{text}' (want name:ip)");
    let (name, address) = text.split_once('=').or_else(|| text.split_once(':')).ok_or_else(invalid)?;
    let bare = address.trim_start_matches('[').trim_end_matches(']');
    if name.is_empty() || (bare != "host-gateway" && bare.parse::<std::net::IpAddr>().is_err()) {
        return Err(invalid());
    }
    Ok((name.to_owned(), bare.to_owned()))
}

/// A capability by its full name: `net_admin` is `CAP_NET_ADMIN`.
pub(crate) fn capability(text: &str) -> String {
    let upper = text.trim().to_ascii_uppercase();
    if upper == "ALL" || upper.starts_with("CAP_") { upper } else { format!("CAP_{upper}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ulimits() {
        assert_eq!(ulimit("nofile=1024:2048"), Ok(json!({"Name": "nofile", "Soft": 1024, "Hard": 2048})));
        assert_eq!(ulimit("core=-1"), Ok(json!({"Name": "core", "Soft": -1, "Hard": -1})));
        for text in ["nofile", "weird=1", "nofile=2:1", "nofile=-2", "nofile=x"] {
            assert!(ulimit(text).is_err(), "{text}");
        }
    }

    #[test]
    fn hosts_and_capabilities() {
        assert_eq!(extra_host("db:10.0.0.1"), Ok(("db".to_owned(), "10.0.0.1".to_owned())));
        assert_eq!(extra_host("db=[::1]"), Ok(("db".to_owned(), "::1".to_owned())));
        assert_eq!(extra_host("db:host-gateway").unwrap().1, "host-gateway");
        assert!(extra_host("db").is_err() && extra_host(":1.2.3.4").is_err());
        assert_eq!(capability("net_admin"), "CAP_NET_ADMIN");
        assert_eq!(capability("cap_chown"), "CAP_CHOWN");
        assert_eq!(capability("all"), "ALL");
    }
}
