//! The last changes, for those who follow the store.

use imbl::Vector;

use crate::change::{Object, ObjectKey};

/// Events kept. A follower that is further behind looks at everything again.
const CAPACITY: usize = 65_536;

/// One object's change.
#[derive(Debug, Clone, PartialEq)]
pub struct Event {
    /// Version of the batch it was part of.
    pub version: u64,
    /// The object before; `None` when it was made.
    pub before: Option<Object>,
    /// The object after; `None` when it was deleted.
    pub after: Option<Object>,
}

impl Event {
    /// The object's key; an event without any object does not exist.
    pub fn key(&self) -> Option<ObjectKey> {
        self.after.as_ref().or(self.before.as_ref()).map(Object::key)
    }
}

/// A bounded queue of events.
#[derive(Debug, Clone, Default)]
pub(crate) struct ChangeLog {
    events: Vector<Event>,
    /// Everything after this version is in the queue.
    floor: u64,
}

impl ChangeLog {
    /// A queue that begins after `version`.
    pub(crate) fn starting_at(version: u64) -> Self {
        Self { events: Vector::new(), floor: version }
    }

    pub(crate) fn push(&mut self, event: Event) {
        self.events.push_back(event);
        if self.events.len() > CAPACITY
            && let Some(oldest) = self.events.pop_front()
        {
            self.floor = oldest.version;
        }
    }

    pub(crate) fn since(&self, version: u64) -> Option<Vec<Event>> {
        if version < self.floor {
            return None;
        }
        let start = match self.events.binary_search_by(|event| {
            if event.version > version { std::cmp::Ordering::Greater } else { std::cmp::Ordering::Less }
        }) {
            Ok(index) | Err(index) => index,
        };
        Some(self.events.skip(start).iter().cloned().collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(version: u64) -> Event {
        Event { version, before: None, after: None }
    }

    fn versions(log: &ChangeLog, since: u64) -> Option<Vec<u64>> {
        log.since(since).map(|events| events.iter().map(|event| event.version).collect())
    }

    #[test]
    fn gives_what_came_after() {
        let mut log = ChangeLog::default();
        for version in [1, 2, 2, 5] {
            log.push(event(version));
        }
        assert_eq!(versions(&log, 0), Some(vec![1, 2, 2, 5]));
        assert_eq!(versions(&log, 1), Some(vec![2, 2, 5]));
        assert_eq!(versions(&log, 2), Some(vec![5]));
        assert_eq!(versions(&log, 4), Some(vec![5]));
        assert_eq!(versions(&log, 5), Some(vec![]));
    }

    #[test]
    fn forgets_whole_versions() {
        let mut log = ChangeLog::starting_at(9);
        assert_eq!(versions(&log, 8), None);
        for _ in 0..CAPACITY {
            log.push(event(10));
        }
        assert_eq!(log.since(9).map(|events| events.len()), Some(CAPACITY));
        log.push(event(11));
        assert_eq!(log.since(9), None, "a part of version 10 is gone");
        assert_eq!(versions(&log, 10), Some(vec![11]));
    }
}
