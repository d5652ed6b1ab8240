//! Which containers a list shows.

use std::collections::BTreeSet;

use shoal_proto::error::Failure;
use shoal_proto::time::Timestamp;

use super::lifecycle::Phase;
use super::record::Record;
use super::{ports, status};
use crate::image::Digest;
use crate::model::{ContainerSummary, Filters, SummaryHostConfig, SummaryNetworkSettings};

const FILTERS: &[&str] = &[
    "ancestor",
    "before",
    "expose",
    "exited",
    "health",
    "id",
    "isolation",
    "is-task",
    "label",
    "name",
    "network",
    "publish",
    "since",
    "status",
    "volume",
];
const STATES: &[&str] = &["created", "running", "paused", "restarting", "removing", "exited", "dead"];

/// When a container was made, and its id.
pub type Creation = (Timestamp, String);
/// An image and its layers.
pub type Ancestor = (Digest, Vec<Digest>);

/// A list's filters, made ready to be asked about one container after the other.
#[derive(Debug)]
pub struct Selection<'a> {
    filters: &'a Filters,
    all: bool,
    before: Option<Creation>,
    since: Option<Creation>,
    exited: BTreeSet<i32>,
    is_task: Option<bool>,
    /// Images that `ancestor` names, with their layers.
    ancestors: Option<Vec<Ancestor>>,
}

impl<'a> Selection<'a> {
    /// Checks the filters. `find` gives the creation of a container, `image` an image with its layers.
    ///
    /// # Errors
    /// A filter is wrong, or names a container that does not exist.
    pub fn new(
        filters: &'a Filters,
        all: bool,
        find: &dyn Fn(&str) -> Result<Creation, Failure>,
        image: &dyn Fn(&str) -> Option<Ancestor>,
    ) -> Result<Self, Failure> {
        filters.check(FILTERS)?;
        if let Some(wrong) = filters.get("status").find(|status| !STATES.contains(status)) {
            return Err(Failure::invalid(format!("invalid filter 'status={wrong}'")));
        }
        for (name, allowed) in
            [("health", &["none", "starting", "healthy", "unhealthy"][..]), ("isolation", &["default", ""][..])]
        {
            if let Some(wrong) = filters.get(name).find(|value| !allowed.contains(value)) {
                return Err(Failure::invalid(format!("invalid filter '{name}={wrong}'")));
            }
        }
        for name in ["publish", "expose"] {
            filters.get(name).try_for_each(|port| ports::parse_port(port).map(|_| ()))?;
        }
        let exited = filters
            .get("exited")
            .map(|code| code.parse().map_err(|_| Failure::invalid(format!("invalid filter 'exited={code}'"))))
            .collect::<Result<_, _>>()?;
        let reference = |name| filters.get(name).next().map(find).transpose();
        Ok(Self {
            filters,
            all: all || filters.get("status").next().is_some(),
            before: reference("before")?,
            since: reference("since")?,
            exited,
            is_task: filters.boolean("is-task")?,
            ancestors: filters.contains("ancestor").then(|| filters.get("ancestor").filter_map(image).collect()),
        })
    }

    /// Is this container shown? `health` is empty without a check.
    pub fn includes(&self, record: &Record, health: &str, limited: bool) -> bool {
        let state = &record.state;
        (self.all || limited || state.phase.is_running())
            && self.filters.matches_prefix("id", &record.id)
            && self.name_matches(&record.name)
            && self.filters.matches_labels("label", &record.config.labels)
            && self.filters.matches_exactly("status", state.phase.as_str())
            && self.filters.matches_exactly("health", if health.is_empty() { "none" } else { health })
            && self.is_task.is_none_or(|wanted| wanted == record.internal.task.is_some())
            && self.before.as_ref().is_none_or(|(at, id)| record.created < *at && record.id != *id)
            && self.since.as_ref().is_none_or(|(at, id)| record.created > *at && record.id != *id)
            && self.exit_matches(record)
            && self.ancestor_matches(record)
            && self.network_matches(record)
            && self.volume_matches(record)
            && self.ports_match(record)
    }

    fn name_matches(&self, name: &str) -> bool {
        self.filters.matches("name", name) || self.filters.matches("name", &format!("/{name}"))
    }

    fn exit_matches(&self, record: &Record) -> bool {
        let state = &record.state;
        self.exited.is_empty()
            || (!state.phase.is_running()
                && state.started_at != Timestamp::ZERO
                && self.exited.contains(&state.exit_code))
    }

    fn ancestor_matches(&self, record: &Record) -> bool {
        self.ancestors.as_ref().is_none_or(|images| {
            images
                .iter()
                .any(|(id, layers)| *id == record.image || (!layers.is_empty() && record.layers.starts_with(layers)))
        })
    }

    fn network_matches(&self, record: &Record) -> bool {
        !self.filters.contains("network")
            || self.filters.get("network").any(|wanted| {
                record.networks.iter().any(|(name, endpoint)| {
                    name == wanted || (!endpoint.network_id.is_empty() && endpoint.network_id.starts_with(wanted))
                })
            })
    }

    fn volume_matches(&self, record: &Record) -> bool {
        !self.filters.contains("volume")
            || self.filters.get("volume").any(|wanted| {
                record.mounts.iter().any(|mount| {
                    mount.destination == wanted
                        || (!mount.volume.is_empty() && mount.volume == wanted)
                        || mount.source == wanted
                })
            })
    }

    fn ports_match(&self, record: &Record) -> bool {
        // As in dockerd: `publish` asks for ports of the host, `expose` for the container's.
        let running = record.state.phase.has_process();
        let published: Vec<String> = record
            .ports
            .iter()
            .filter(|_| running)
            .flat_map(|(port, to)| to.iter().flatten().map(move |binding| (port, &binding.host_port)))
            .filter_map(|(port, host)| Some(format!("{host}/{}", port.split_once('/')?.1)))
            .collect();
        let exposed = || record.config.exposed_ports.iter().flatten().map(|(port, _)| port.as_str());
        let any_of =
            |name: &str, of: &dyn Fn(&str) -> bool| !self.filters.contains(name) || self.filters.get(name).any(of);
        any_of("publish", &|wanted| ports::matches(wanted, published.iter().map(String::as_str)))
            && any_of("expose", &|wanted| ports::matches(wanted, exposed()))
    }
}

/// A line of the list. `image` is the name to show.
pub fn summarize(record: &Record, image: String, health: &str, now: Timestamp) -> ContainerSummary {
    let state = &record.state;
    let words: Vec<&str> =
        std::iter::once(record.path.as_str()).chain(record.args.iter().map(String::as_str)).collect();
    ContainerSummary {
        id: record.id.clone(),
        names: vec![format!("/{}", record.name)],
        image,
        image_id: record.image.to_string(),
        command: words.iter().map(|word| quoted(word)).collect::<Vec<_>>().join(" "),
        created: record.created.0.div_euclid(1_000_000_000),
        ports: if state.phase.has_process() { ports::summary(&record.ports) } else { Vec::new() },
        size_rw: 0,
        size_root_fs: 0,
        labels: record.config.labels.clone(),
        state: state.phase.as_str().to_owned(),
        status: status::describe(state, health, now),
        host_config: SummaryHostConfig {
            network_mode: record.host_config.network_mode.clone(),
            annotations: record.host_config.annotations.clone(),
        },
        network_settings: SummaryNetworkSettings { networks: record.networks.clone() },
        mounts: record.mounts.iter().map(super::record::MountRecord::point).collect(),
    }
}

/// As dockerd shows arguments: those with a space in single quotes.
fn quoted(word: &str) -> String {
    if word.contains(' ') { format!("'{word}'") } else { word.to_owned() }
}

/// The exit statuses and states count only what is over.
pub fn may_be_pruned(phase: Phase) -> bool {
    !phase.is_running() && phase != Phase::Removing
}

#[cfg(test)]
mod tests {
    use super::super::lifecycle::State;
    use super::super::record::tests::record;
    use super::*;
    use crate::model::EndpointSettings;

    fn shown(record: &Record, filters: &Filters, all: bool) -> bool {
        let selection = Selection::new(
            filters,
            all,
            &|name| match name {
                "old" => Ok((Timestamp::from_seconds(1), "old".to_owned())),
                _ => Err(Failure::not_found(format!("No such container: {name}"))),
            },
            &|name| (name == "bb").then(|| (record.image, Vec::new())),
        )
        .unwrap();
        selection.includes(record, "healthy", false)
    }

    fn running() -> Record {
        let mut subject = record(&"5".repeat(64), "web-1");
        subject.state =
            State { phase: Phase::Running, pid: 5, started_at: Timestamp::from_seconds(5), ..State::default() };
        subject.config.labels.insert("tier".to_owned(), "front".to_owned());
        let endpoint = EndpointSettings { network_id: "abcdef".to_owned(), ..EndpointSettings::default() };
        subject.networks.insert("lan".to_owned(), endpoint);
        let binding = crate::model::PortBinding { host_port: "8080".to_owned(), ..Default::default() };
        subject.ports.insert("80/tcp".to_owned(), Some(vec![binding]));
        subject
    }

    #[test]
    fn each_filter_chooses() {
        let subject = running();
        let filter = |name: &str, value: &str| Filters::default().with(name, value);
        for (name, yes, no) in [
            ("id", "555", "4"),
            ("name", "web", "db"),
            ("name", "^/web-1$", "^web$"),
            ("label", "tier=front", "tier=back"),
            ("status", "running", "exited"),
            ("health", "healthy", "starting"),
            ("network", "lan", "wan"),
            ("network", "abc", "fff"),
            ("volume", "/b", "/c"),
            ("publish", "8080", "80"),
            ("is-task", "false", "true"),
            ("ancestor", "bb", "other"),
        ] {
            assert!(shown(&subject, &filter(name, yes), false), "{name}={yes}");
            assert!(!shown(&subject, &filter(name, no), false), "{name}={no}");
        }
        assert!(shown(&subject, &filter("since", "old"), false));
        assert!(!shown(&subject, &filter("before", "old"), false));
    }

    #[test]
    fn the_stopped_are_shown_when_asked_for() {
        let mut subject = running();
        subject.state =
            State { phase: Phase::Exited, exit_code: 3, started_at: Timestamp::from_seconds(5), ..State::default() };
        assert!(!shown(&subject, &Filters::default(), false));
        assert!(shown(&subject, &Filters::default(), true));
        assert!(shown(&subject, &Filters::default().with("status", "exited"), false));
        assert!(shown(&subject, &Filters::default().with("exited", "3"), true));
        assert!(!shown(&subject, &Filters::default().with("exited", "0"), true));
    }

    #[test]
    fn wrong_filters_are_refused() {
        let none = |_: &str| Err(Failure::not_found("none"));
        for (name, value) in
            [("colour", "red"), ("status", "asleep"), ("exited", "x"), ("before", "nobody"), ("publish", "x")]
        {
            let filters = Filters::default().with(name, value);
            assert!(Selection::new(&filters, false, &none, &|_| None).is_err(), "{name}={value}");
        }
    }
}
