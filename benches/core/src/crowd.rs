//! An engine and its live blocks, where the row decides as it goes.

use crate::engine::{Engine, Seat, Setup};
use crate::rng::Rng;
use crate::stream::Lengths;

/// Blocks in no order, so that any can leave in O(1).
pub(crate) struct Crowd<E: Engine> {
    pub(crate) engine: E,
    pub(crate) blocks: Vec<(Seat<E::Ticket>, u32)>,
    /// Bytes asked for by the blocks.
    live: u64,
    pub(crate) capacity: u64,
}

impl<E: Engine> Crowd<E> {
    pub(crate) fn new(setup: Setup) -> Self {
        Self { engine: E::new(&setup), blocks: Vec::new(), live: 0, capacity: setup.capacity }
    }

    pub(crate) fn add(&mut self, bytes: u32) -> bool {
        let Some(ticket) = self.engine.alloc(bytes.into()) else { return false };
        self.blocks.push((Seat(Some(ticket)), bytes));
        self.live += u64::from(bytes);
        true
    }

    pub(crate) fn evict(&mut self, rng: &mut Rng) {
        if self.blocks.is_empty() {
            return;
        }
        let (seat, bytes) = self.blocks.swap_remove(rng.below(self.blocks.len()));
        if let Some(ticket) = seat.0 {
            self.engine.free(ticket);
        }
        self.live -= u64::from(bytes);
    }

    pub(crate) fn in_use(&self) -> f64 {
        self.live as f64 / self.capacity as f64
    }

    /// Fills the arena until a request fails, then frees random blocks down to `load` (0 to 1), `turns` times.
    /// What is free is then scattered all over the arena.
    pub(crate) fn churn(&mut self, rng: &mut Rng, lengths: Lengths, load: f64, turns: usize) {
        for _ in 0..turns {
            while self.add(lengths.next(rng)) {}
            while self.in_use() > load {
                self.evict(rng);
            }
        }
    }
}
