//! Power cuts spelled out: what is not synced may go one way or another, and a test may try each of them.
//!
//! Choices are independent of one another: each unsynced change of names is kept or lost, each file has one of the
//! lengths it had since its last sync, and each sector one of its versions. [`SimDisk::crash`] draws among the same.

use std::sync::{Arc, Mutex};

use super::{Names, Node, SimDisk, State, hold};

impl State {
    /// Every file that may be there after a power cut, once.
    fn reachable(&self) -> Vec<Node> {
        let mut nodes: Vec<Node> = Vec::new();
        let pending = self.pending.iter().flat_map(|change| &change.entries);
        for node in self.stable.values().chain(pending.filter_map(|(_, node)| node.as_ref())) {
            if !nodes.iter().any(|known| Arc::ptr_eq(known, node)) {
                nodes.push(Arc::clone(node));
            }
        }
        nodes
    }
}

impl SimDisk {
    /// In how many ways each thing may go when the power is cut now. Those with one way only are among them.
    #[must_use]
    pub fn choices(&self) -> Vec<u32> {
        let state = hold(&self.state);
        let names = state.pending.iter().map(|_| 2);
        let files = state.reachable();
        names.chain(files.iter().flat_map(|node| hold(node).choices().collect::<Vec<_>>())).collect()
    }

    /// What a power cut leaves that goes as `picks` says: one number for each of [`SimDisk::choices`], below it.
    /// This disk goes on unharmed.
    #[must_use]
    pub fn crash_as(&self, picks: &[u32]) -> Self {
        let state = hold(&self.state);
        let mut names = state.stable.clone();
        let (of_names, of_files) = picks.split_at(state.pending.len().min(picks.len()));
        for (change, pick) in state.pending.iter().zip(of_names) {
            if *pick != 0 {
                change.apply(&mut names);
            }
        }
        let mut of_files = of_files.iter().copied();
        let left: Vec<(Node, Node)> = state
            .reachable()
            .into_iter()
            .map(|node| {
                let left = hold(&node).after_choices(&mut of_files);
                (node, Arc::new(Mutex::new(left)))
            })
            .collect();
        let names: Names = names
            .into_iter()
            .filter_map(|(name, node)| {
                let (_, left) = left.iter().find(|(known, _)| Arc::ptr_eq(known, &node))?;
                Some((name, Arc::clone(left)))
            })
            .collect();
        let disk = Self::with(state.dirs.clone(), names.clone(), names, Vec::new(), state.capacity);
        hold(&disk.state).syncs_ignored = state.syncs_ignored;
        disk
    }
}
