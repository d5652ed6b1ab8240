//! The nodes that suit a group, ordered by preference: heaps of nodes below a tree of label values.

use std::cmp::Reverse;
use std::collections::binary_heap::PeekMut;
use std::collections::{BTreeMap, BinaryHeap};

use shoal_proto::object::Node;

use super::node::{Cluster, Needs};

/// A preference tree. Its leaves hold nodes.
pub(super) enum Tree {
    Leaf(BinaryHeap<Reverse<(u128, usize)>>),
    Branch {
        /// Tasks of the service below each branch; the one with the fewest is next.
        order: BinaryHeap<Reverse<(u64, usize)>>,
        branches: Vec<Tree>,
    },
}

impl Tree {
    /// Sorts the nodes that suit into a tree with a level for each spread descriptor.
    pub(super) fn grow(cluster: &Cluster, needs: &Needs, spread: &[String]) -> Self {
        let suitable = cluster.nodes.iter().enumerate().filter(|(_, candidate)| candidate.suits(needs));
        let members: Vec<usize> = suitable.map(|(index, _)| index).collect();
        Self::below(cluster, members, spread)
    }

    fn below(cluster: &Cluster, members: Vec<usize>, spread: &[String]) -> Self {
        let Some((descriptor, rest)) = spread.split_first() else {
            let entry = |index: usize| cluster.nodes.get(index).map(|candidate| Reverse((candidate.rank(), index)));
            return Self::Leaf(members.into_iter().filter_map(entry).collect());
        };
        let mut by_value: BTreeMap<&str, (u64, Vec<usize>)> = BTreeMap::new();
        for index in members {
            let Some(candidate) = cluster.nodes.get(index) else { continue };
            let (count, branch) = by_value.entry(value_of(descriptor, &candidate.node)).or_default();
            *count += u64::from(candidate.of_service());
            branch.push(index);
        }
        let mut order = BinaryHeap::with_capacity(by_value.len());
        let mut branches = Vec::with_capacity(by_value.len());
        for (count, branch) in by_value.into_values() {
            order.push(Reverse((count, branches.len())));
            branches.push(Self::below(cluster, branch, rest));
        }
        Self::Branch { order, branches }
    }

    /// The best node with room; its load is expected to grow by the one task it is taken for.
    pub(super) fn take(&mut self, cluster: &Cluster, needs: &Needs) -> Option<usize> {
        match self {
            Self::Leaf(heap) => loop {
                let mut best = heap.peek_mut()?;
                let Reverse((rank, index)) = &mut *best;
                let found = *index;
                match cluster.nodes.get(found).filter(|candidate| candidate.has_room(needs)) {
                    Some(_) => {
                        // One more task of the service, one more task.
                        *rank += (1 << 64) | (1 << 32);
                        return Some(found);
                    }
                    None => {
                        PeekMut::pop(best);
                    }
                }
            },
            Self::Branch { order, branches } => loop {
                let mut best = order.peek_mut()?;
                let Reverse((count, branch)) = &mut *best;
                match branches.get_mut(*branch).and_then(|branch| branch.take(cluster, needs)) {
                    Some(found) => {
                        *count += 1;
                        return Some(found);
                    }
                    None => {
                        PeekMut::pop(best);
                    }
                }
            },
        }
    }
}

/// Is it a descriptor that nodes can be spread over?
pub(crate) fn is_spread_descriptor(descriptor: &str) -> bool {
    label_of(descriptor).is_some() || descriptor == "node.hostname"
}

fn label_of(descriptor: &str) -> Option<(&str, bool)> {
    let (name, of_node) = match descriptor.strip_prefix("node.labels.") {
        Some(name) => (name, true),
        None => (descriptor.strip_prefix("engine.labels.")?, false),
    };
    (!name.is_empty()).then_some((name, of_node))
}

/// The node's value for a descriptor; a node that lacks the label belongs to the branch of the empty value.
fn value_of<'a>(descriptor: &str, node: &'a Node) -> &'a str {
    let description = node.description.as_ref();
    match label_of(descriptor) {
        Some((name, true)) => node.spec.labels.get(name).map_or("", String::as_str),
        Some((name, false)) => description.and_then(|d| d.engine_labels.get(name)).map_or("", String::as_str),
        None if descriptor == "node.hostname" => description.map_or("", |d| &d.hostname),
        None => "",
    }
}
