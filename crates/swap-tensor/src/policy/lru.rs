//! The least recently used goes first.

use super::{EvictionPolicy, TensorKey, Tier, recency::Recency, seats::Seats};
use core::ops::ControlFlow;

/// Evicts what has not been used for longest, per tier. Entering a tier counts as a use, and so does the end
/// of a lease or pin. Every call is O(1); [`victims`](EvictionPolicy::victims) is O(1) per key offered.
///
/// The default, and a good one unless the order of uses is a loop that is a little too long for the tier:
/// then each use finds its tensor just evicted, and [`Scheduled`](super::Scheduled) is what helps.
#[derive(Debug, Default)]
pub struct Lru {
    seats: Seats,
    tiers: [Recency; Tier::COUNT],
}

impl Lru {
    /// Makes the free copies of `key` the newest of their tiers.
    fn touch(&mut self, key: TensorKey) {
        let seat = self.seats.get(key);
        for tier in Tier::ALL.into_iter().filter(|&tier| seat.is_free(tier)) {
            self.tiers[tier.index()].touch(key.number());
        }
    }

    fn remove(&mut self, key: TensorKey) {
        for tier in &mut self.tiers {
            tier.remove(key.number());
        }
    }
}

impl EvictionPolicy for Lru {
    fn name(&self) -> &'static str {
        "lru"
    }

    fn fresh(&self) -> Box<dyn EvictionPolicy> {
        Box::new(Lru::default())
    }

    fn entered(&mut self, tier: Tier, key: TensorKey, bytes: u64) {
        self.seats.enter(tier, key, bytes);
        if !self.seats.get(key).held {
            self.tiers[tier.index()].touch(key.number());
        }
    }

    fn left(&mut self, tier: Tier, key: TensorKey) {
        self.seats.leave(tier, key);
        self.tiers[tier.index()].remove(key.number());
    }

    fn used(&mut self, key: TensorKey) {
        self.touch(key);
    }

    fn forgotten(&mut self, key: TensorKey) {
        self.remove(key);
        self.seats.forget(key);
    }

    fn held(&mut self, key: TensorKey) {
        self.seats.hold(key, true);
        self.remove(key);
    }

    fn released(&mut self, key: TensorKey) {
        self.seats.hold(key, false);
        self.touch(key);
    }

    fn victims(&mut self, tier: Tier, accept: &mut dyn FnMut(TensorKey) -> ControlFlow<()>) {
        let _ = self.tiers[tier.index()].iter().try_for_each(|key| accept(TensorKey::new(key)));
    }
}
