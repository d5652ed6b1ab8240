//! Local networks in Docker's shape, and the filters of lists.

use std::collections::BTreeMap;

use shoal_proto::error::Failure;
use shoal_proto::time::Timestamp;

use super::definition::{GATEWAY_NETWORK, LocalNetwork};
use super::state::{State, Target};
use crate::model::Filters;
use crate::model::network::{Ipam, IpamPool, NetworkContainer, NetworkInspect};

impl LocalNetwork {
    /// The network without its containers.
    pub(super) fn inspect(&self) -> NetworkInspect {
        let pool = self.bridge.as_ref().map(|bridge| IpamPool {
            subnet: bridge.subnet.to_string(),
            ip_range: if bridge.range_given { bridge.range.to_string() } else { String::new() },
            gateway: bridge.gateway.to_string(),
            auxiliary_addresses: Some(&bridge.reserved)
                .filter(|reserved| !reserved.is_empty())
                .map(|reserved| reserved.iter().map(|(name, addr)| (name.clone(), addr.to_string())).collect()),
        });
        let ipam_options = match &self.bridge {
            Some(bridge) if !self.is_predefined() => bridge.ipam_options.clone(),
            _ => None,
        };
        NetworkInspect {
            name: self.name.clone(),
            id: self.id.clone(),
            created: self.created.to_string(),
            scope: "local".to_owned(),
            driver: self.driver.as_str().to_owned(),
            enable_ipv4: true,
            ipam: Ipam { driver: "default".to_owned(), options: ipam_options, config: pool.map(|pool| vec![pool]) },
            internal: self.internal,
            attachable: self.attachable,
            options: self.options.clone(),
            labels: self.labels.clone(),
            ..NetworkInspect::default()
        }
    }
}

/// The containers on a network, by container id.
pub(super) fn containers(state: &State, network_id: &str) -> BTreeMap<String, NetworkContainer> {
    let show = |id: &str, name: &str, endpoint: &super::state::Endpoint| {
        let info = &endpoint.info;
        let container = NetworkContainer {
            name: name.to_owned(),
            endpoint_id: info.endpoint_id.clone(),
            mac_address: info.mac.clone(),
            ipv4_address: info.ip.map(|addr| format!("{addr}/{}", info.prefix_len)).unwrap_or_default(),
            ipv6_address: String::new(),
        };
        (id.to_owned(), container)
    };
    let on = state.on_network(network_id);
    on.map(|(record, endpoint)| show(&record.id, &record.options.name, endpoint)).collect()
}

/// Does a network pass the filters?
///
/// # Errors
/// Unknown filter or value.
pub(super) fn passes(network: &LocalNetwork, state: &State, filters: &Filters) -> Result<bool, Failure> {
    filters.check(&["dangling", "driver", "id", "label", "name", "scope", "type"])?;
    let kind = filters.get("type").collect::<Vec<_>>();
    if let Some(other) = kind.iter().find(|kind| !matches!(**kind, "custom" | "builtin")) {
        return Err(Failure::invalid(format!("invalid filter: 'type'='{other}'")));
    }
    let builtin = if network.is_predefined() { "builtin" } else { "custom" };
    if let Some(dangling) = filters.boolean("dangling")? {
        let unused = !network.is_predefined() && !state.is_used(&network.id);
        if dangling != unused {
            return Ok(false);
        }
    }
    Ok(filters.matches_exactly("driver", network.driver.as_str())
        && filters.matches_exactly("scope", "local")
        && filters.matches("id", &network.id)
        && filters.matches("name", &network.name)
        && filters.matches_labels("label", &network.labels)
        && (kind.is_empty() || kind.contains(&builtin)))
}

/// Is a network to be removed by a prune with these filters?
///
/// # Errors
/// Unknown filter or value.
pub(super) fn prunable(
    network: &LocalNetwork,
    state: &State,
    filters: &Filters,
    now: Timestamp,
) -> Result<bool, Failure> {
    filters.check(&["label", "label!", "until"])?;
    let mut old_enough = true;
    for until in filters.get("until") {
        old_enough &= network.created <= parse_until(until, now)?;
    }
    let excluded = filters.contains("label!") && filters.matches_labels("label!", &network.labels);
    Ok(!network.is_predefined()
        && network.name != GATEWAY_NETWORK
        && !state.is_used(&network.id)
        && old_enough
        && !excluded
        && filters.matches_labels("label", &network.labels))
}

/// Reads an instant: RFC 3339, seconds since the epoch, or a duration back from now (`24h`, `10m`, `90s`).
fn parse_until(text: &str, now: Timestamp) -> Result<Timestamp, Failure> {
    if let Ok(instant) = Timestamp::parse(text) {
        return Ok(instant);
    }
    if let Ok(seconds) = text.parse::<f64>() {
        #[expect(clippy::cast_possible_truncation, reason = "saturates, which is what is wanted")]
        return Ok(Timestamp((seconds * 1e9) as i64));
    }
    let invalid = || Failure::invalid(format!("failed to parse value {text:?} of filter until"));
    let (mut nanos, mut number) = (0f64, String::new());
    let mut letters = text.chars().peekable();
    while let Some(letter) = letters.next() {
        if letter.is_ascii_digit() || letter == '.' {
            number.push(letter);
            continue;
        }
        let unit = match (letter, letters.peek()) {
            ('m', Some('s')) => {
                letters.next();
                1e6
            }
            ('h', _) => 3600e9,
            ('m', _) => 60e9,
            ('s', _) => 1e9,
            _ => return Err(invalid()),
        };
        nanos += number.parse::<f64>().map_err(|_| invalid())? * unit;
        number.clear();
    }
    if !number.is_empty() || text.is_empty() {
        return Err(invalid());
    }
    #[expect(clippy::cast_possible_truncation, reason = "saturates, which is what is wanted")]
    Ok(Timestamp(now.0.saturating_sub(nanos as i64)))
}

/// The containers of a cluster network on this node, by container id.
pub(super) fn cluster_containers(state: &State, network_id: &str) -> BTreeMap<String, NetworkContainer> {
    let mut all = containers(state, network_id);
    all.retain(|id, _| {
        let on = |endpoint: &super::state::Endpoint| matches!(endpoint.target, Target::Cluster { .. });
        state.records.get(id).is_some_and(|record| record.endpoints.iter().any(on))
    });
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn instants_are_read_in_all_forms() {
        let now = Timestamp::from_seconds(100_000);
        assert_eq!(parse_until("1h30m", now).unwrap(), Timestamp::from_seconds(100_000 - 5400));
        assert_eq!(parse_until("1.5s", now).unwrap(), Timestamp(100_000_000_000_000 - 1_500_000_000));
        assert_eq!(parse_until("500ms", now).unwrap(), Timestamp(100_000_000_000_000 - 500_000_000));
        assert_eq!(parse_until("1000", now).unwrap(), Timestamp::from_seconds(1000));
        assert_eq!(parse_until("1970-01-01T00:00:10Z", now).unwrap(), Timestamp::from_seconds(10));
        for text in ["", "h", "5", "5x", "1h5"] {
            assert_eq!(parse_until(text, now).is_ok(), text == "5", "{text:?}");
        }
    }
}
