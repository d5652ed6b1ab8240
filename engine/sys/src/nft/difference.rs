//! The messages that lead from one ruleset to another.

use std::sync::Arc;

use super::wire;
use super::{Chain, Ruleset, Set};
use crate::netlink::Request;

/// Replaces whatever the table holds.
pub(super) fn replace(table: &str, wanted: &Ruleset) -> Vec<Request> {
    // Made first so that the removal finds one.
    let mut out = vec![
        wire::table(wire::NEWTABLE, table),
        wire::table(wire::DELTABLE, table),
        wire::table(wire::NEWTABLE, table),
    ];
    fill(table, &Ruleset::default(), wanted, &mut out);
    out
}

/// The difference, removals of rules and elements before additions; `None` when it needs [`replace`], because a chain
/// moved to another hook or a set changed its type. No messages when the two are equal.
pub(super) fn difference(table: &str, have: &Ruleset, wanted: &Ruleset) -> Option<Vec<Request>> {
    let moved =
        wanted.chains.iter().any(|(name, chain)| have.chains.get(name).is_some_and(|old| old.base != chain.base));
    let retyped = wanted
        .sets
        .iter()
        .any(|(name, set)| have.sets.get(name).is_some_and(|old| (&old.key, &old.values) != (&set.key, &set.values)));
    if moved || retyped {
        return None;
    }
    let mut out = Vec::new();
    fill(table, have, wanted, &mut out);
    Some(out)
}

fn fill(table: &str, have: &Ruleset, wanted: &Ruleset, out: &mut Vec<Request>) {
    let mut next_set = 1;
    for (name, chain) in wanted.chains.iter().filter(|(name, _)| !have.chains.contains_key(*name)) {
        out.push(wire::new_chain(table, name, chain));
    }
    for (name, set) in wanted.sets.iter().filter(|(name, _)| !have.sets.contains_key(*name)) {
        out.push(wire::new_set(table, name, set, next_set));
        next_set += 1;
    }
    for (name, old) in &have.chains {
        if !old.rules.is_empty() && wanted.chains.get(name).is_none_or(|new| changed_chain(old, new)) {
            out.push(wire::flush_chain(table, name));
        }
    }
    for (name, old) in &have.sets {
        let empty = Arc::new(Set { elements: std::collections::BTreeMap::new(), ..(**old).clone() });
        remove_elements(table, name, old, wanted.sets.get(name).unwrap_or(&empty), out);
    }
    for (name, new) in &wanted.sets {
        add_elements(table, name, have.sets.get(name), new, out);
    }
    for (name, new) in &wanted.chains {
        if have.chains.get(name).is_none_or(|old| changed_chain(old, new)) {
            for rule in &new.rules {
                wire::new_rule(table, name, rule, &mut next_set, out);
            }
        }
    }
    for name in have.sets.keys().filter(|name| !wanted.sets.contains_key(*name)) {
        out.push(wire::delete_set(table, name));
    }
    for name in have.chains.keys().filter(|name| !wanted.chains.contains_key(*name)) {
        out.push(wire::delete_chain(table, name));
    }
}

fn changed_chain(old: &Arc<Chain>, new: &Arc<Chain>) -> bool {
    !Arc::ptr_eq(old, new) && old.rules != new.rules
}

fn remove_elements(table: &str, name: &str, old: &Arc<Set>, new: &Arc<Set>, out: &mut Vec<Request>) {
    if Arc::ptr_eq(old, new) {
        return;
    }
    let gone = old.elements.iter().filter(|(key, value)| new.elements.get(*key) != Some(value));
    wire::elements(wire::DELSETELEM, table, name, gone, out);
}

fn add_elements(table: &str, name: &str, old: Option<&Arc<Set>>, new: &Arc<Set>, out: &mut Vec<Request>) {
    if old.is_some_and(|old| Arc::ptr_eq(old, new)) {
        return;
    }
    let fresh = new.elements.iter().filter(|(key, value)| old.and_then(|old| old.elements.get(*key)) != Some(value));
    wire::elements(wire::NEWSETELEM, table, name, fresh, out);
}
