//! Finds a node by its parent and its name: an open-addressing table of node numbers, four bytes a slot.

use std::hash::{BuildHasher, Hasher, RandomState};

const EMPTY: u32 = u32::MAX;
const REMOVED: u32 = u32::MAX - 1;

/// Keyed with random numbers, so that no tar can be made whose names collide.
pub struct Names {
    slots: Vec<u32>,
    used: usize,
    state: RandomState,
}

impl Names {
    pub fn new() -> Self {
        Names { slots: vec![EMPTY; 64], used: 0, state: RandomState::new() }
    }

    fn hash(&self, parent: u32, name: &[u8]) -> usize {
        let mut hasher = self.state.build_hasher();
        hasher.write_u32(parent);
        hasher.write(name);
        hasher.finish() as usize
    }

    fn slot(&self, parent: u32, name: &[u8], matches: impl Fn(u32) -> bool) -> Option<usize> {
        let mask = self.slots.len() - 1;
        let mut at = self.hash(parent, name) & mask;
        loop {
            match self.slots[at] {
                EMPTY => return None,
                REMOVED => {}
                node if matches(node) => return Some(at),
                _ => {}
            }
            at = (at + 1) & mask;
        }
    }

    pub fn find(&self, parent: u32, name: &[u8], matches: impl Fn(u32) -> bool) -> Option<u32> {
        self.slot(parent, name, matches).map(|at| self.slots[at])
    }

    /// Puts in a name that is not there; `key` gives parent and name of the nodes that are.
    pub fn insert<'n>(&mut self, parent: u32, name: &[u8], node: u32, key: impl Fn(u32) -> (u32, &'n [u8])) {
        if (self.used + 1) * 4 > self.slots.len() * 3 {
            let double = vec![EMPTY; self.slots.len() * 2];
            let old = std::mem::replace(&mut self.slots, double);
            self.used = 0;
            for node in old.into_iter().filter(|n| *n < REMOVED) {
                let (parent, name) = key(node);
                self.put(parent, name, node);
            }
        }
        self.put(parent, name, node);
    }

    fn put(&mut self, parent: u32, name: &[u8], node: u32) {
        let mask = self.slots.len() - 1;
        let mut at = self.hash(parent, name) & mask;
        while self.slots[at] != EMPTY {
            at = (at + 1) & mask;
        }
        self.slots[at] = node;
        self.used += 1;
    }

    /// The name leads to `new` from now on.
    pub fn replace(&mut self, parent: u32, name: &[u8], old: u32, new: u32) {
        if let Some(at) = self.slot(parent, name, |n| n == old) {
            self.slots[at] = new;
        }
    }

    pub fn remove(&mut self, parent: u32, name: &[u8], node: u32) {
        if let Some(at) = self.slot(parent, name, |n| n == node) {
            self.slots[at] = REMOVED;
        }
    }
}
