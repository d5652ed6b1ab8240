//! Which containers there are, and by which names.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError};

use shoal_proto::error::Failure;

use super::names;

/// Containers by id and name. Its lock is held for look-ups only, never across an operation.
#[derive(Debug)]
pub struct Registry<T> {
    tables: Mutex<Tables<T>>,
}

#[derive(Debug)]
struct Tables<T> {
    by_id: BTreeMap<String, Arc<T>>,
    /// Names, reserved ones included, and the ids that have them.
    names: HashMap<String, String>,
}

impl<T> Default for Registry<T> {
    fn default() -> Self {
        Self { tables: Mutex::new(Tables { by_id: BTreeMap::new(), names: HashMap::new() }) }
    }
}

impl<T> Registry<T> {
    fn tables(&self) -> std::sync::MutexGuard<'_, Tables<T>> {
        self.tables.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reserves a name for an id.
    ///
    /// # Errors
    /// The name is not allowed, or another container has it.
    pub fn reserve(&self, name: &str, id: &str) -> Result<(), Failure> {
        if !names::is_valid(name) {
            return Err(Failure::invalid(format!(
                "Invalid container name ({name}), only [a-zA-Z0-9][a-zA-Z0-9_.-] are allowed"
            )));
        }
        match self.tables().names.entry(name.to_owned()) {
            std::collections::hash_map::Entry::Vacant(free) => {
                free.insert(id.to_owned());
                Ok(())
            }
            std::collections::hash_map::Entry::Occupied(taken) if taken.get() == id => Ok(()),
            std::collections::hash_map::Entry::Occupied(taken) => Err(Failure::conflict(format!(
                "Conflict. The container name \"/{name}\" is already in use by container \"{}\". You have to remove (or \
                 rename) that container to be able to reuse that name.",
                taken.get()
            ))),
        }
    }

    /// Gives a name back, if that id has it.
    pub fn release(&self, name: &str, id: &str) {
        let mut tables = self.tables();
        if tables.names.get(name).is_some_and(|holder| holder == id) {
            tables.names.remove(name);
        }
    }

    /// Adds a container whose name was reserved.
    pub fn insert(&self, id: &str, container: Arc<T>) {
        self.tables().by_id.insert(id.to_owned(), container);
    }

    /// Removes a container; its name is free at once.
    pub fn remove(&self, id: &str, name: &str) -> Option<Arc<T>> {
        let mut tables = self.tables();
        if tables.names.get(name).is_some_and(|holder| holder == id) {
            tables.names.remove(name);
        }
        tables.by_id.remove(id)
    }

    /// All containers, by id.
    pub fn all(&self) -> Vec<Arc<T>> {
        self.tables().by_id.values().cloned().collect()
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.tables().by_id.len()
    }

    /// Are there none?
    pub fn is_empty(&self) -> bool {
        self.tables().by_id.is_empty()
    }

    /// By exact id.
    pub fn get(&self, id: &str) -> Option<Arc<T>> {
        self.tables().by_id.get(id).cloned()
    }

    /// By id, name, or unambiguous beginning of an id, in this order as dockerd.
    ///
    /// # Errors
    /// There is none, or more than one.
    pub fn find(&self, reference: &str) -> Result<Arc<T>, Failure> {
        let tables = self.tables();
        if let Some(found) = tables.by_id.get(reference) {
            return Ok(Arc::clone(found));
        }
        let name = reference.strip_prefix('/').unwrap_or(reference);
        if let Some(found) = tables.names.get(name).and_then(|id| tables.by_id.get(id)) {
            return Ok(Arc::clone(found));
        }
        let missing = || Failure::not_found(format!("No such container: {reference}"));
        if reference.is_empty() {
            return Err(missing());
        }
        let mut beginning = tables
            .by_id
            .range(reference.to_owned()..)
            .take_while(|(id, _)| id.starts_with(reference))
            .map(|(_, container)| container);
        let first = beginning.next().ok_or_else(missing)?;
        if beginning.next().is_some() {
            return Err(Failure::invalid(format!("multiple IDs found with provided prefix: {reference}")));
        }
        Ok(Arc::clone(first))
    }
}

#[cfg(test)]
mod tests {
    use shoal_proto::error::ErrorKind;

    use super::*;

    fn registry() -> Registry<&'static str> {
        let registry = Registry::default();
        for (id, name) in [("abc1", "web"), ("abc2", "db"), ("f00d", "abc3")] {
            registry.reserve(name, id).unwrap();
            registry.insert(id, Arc::new(id));
        }
        registry
    }

    #[test]
    fn found_by_id_name_and_beginning() {
        let registry = registry();
        for (reference, id) in [("abc1", "abc1"), ("web", "abc1"), ("/db", "abc2"), ("f0", "f00d"), ("abc3", "f00d")] {
            assert_eq!(*registry.find(reference).unwrap(), id, "{reference}");
        }
    }

    #[test]
    fn ambiguity_and_absence_are_told() {
        let registry = registry();
        assert_eq!(registry.find("abc").unwrap_err().kind, ErrorKind::InvalidArgument);
        for reference in ["nope", ""] {
            let failure = registry.find(reference).unwrap_err();
            assert_eq!(failure, Failure::not_found(format!("No such container: {reference}")));
        }
    }

    #[test]
    fn names_are_unique_until_given_back() {
        let registry = registry();
        let failure = registry.reserve("web", "other").unwrap_err();
        assert_eq!(
            failure.message,
            "Conflict. The container name \"/web\" is already in use by container \"abc1\". You have to remove (or rename) \
             that container to be able to reuse that name."
        );
        registry.release("web", "other");
        assert!(registry.reserve("web", "other").is_err());
        registry.remove("abc1", "web");
        assert!(registry.reserve("web", "other").is_ok());
        assert!(registry.reserve("-bad", "x").is_err());
    }
}
