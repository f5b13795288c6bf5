//! What a rendering has left to use up.

use std::cell::Cell;
use std::hash::{BuildHasher, RandomState};

use super::{Fault, Result};

/// How much one rendering may use.
#[derive(Clone, Copy, Debug)]
pub(in crate::chat) struct Budget {
    /// Steps: expressions, statements, items visited, stretches of text read.
    pub steps: u64,
    /// Bytes of all strings, lists and mappings that are made, whether or not they live to the end.
    pub bytes: u64,
}

/// Bytes of text that are read for one step.
const BYTES_PER_STEP: usize = 64;

/// Counts down a [`Budget`]. Everything is paid for before it is made.
pub(super) struct Meter {
    steps: Cell<u64>,
    bytes: Cell<u64>,
    /// Of mapping keys. Random, so that nobody can prepare keys that collide.
    hasher: RandomState,
}

/// What one slot of a list costs in bytes: a value, and its share of the list's growth.
pub(super) const SLOT: usize = 48;

impl Meter {
    pub fn new(budget: Budget) -> Self {
        Self { steps: Cell::new(budget.steps), bytes: Cell::new(budget.bytes), hasher: RandomState::new() }
    }

    pub fn step(&self) -> Result<()> {
        self.steps(1)
    }

    pub fn steps(&self, count: usize) -> Result<()> {
        let left = self.steps.get().checked_sub(count as u64);
        self.steps.set(left.ok_or_else(|| Fault::limit("takes too many steps"))?);
        Ok(())
    }

    /// Pays for reading that many bytes.
    pub fn read(&self, bytes: usize) -> Result<()> {
        if bytes < BYTES_PER_STEP { Ok(()) } else { self.steps(bytes / BYTES_PER_STEP) }
    }

    /// Pays for making that many bytes.
    pub fn bytes(&self, count: usize) -> Result<()> {
        let left = self.bytes.get().checked_sub(count as u64);
        self.bytes.set(left.ok_or_else(|| Fault::limit("makes too much text or too large lists"))?);
        Ok(())
    }

    /// Pays for that many slots of a list.
    pub fn slots(&self, count: usize) -> Result<()> {
        self.bytes(count.saturating_mul(SLOT))
    }

    pub fn hash(&self, value: impl std::hash::Hash) -> u64 {
        self.hasher.hash_one(value)
    }
}
