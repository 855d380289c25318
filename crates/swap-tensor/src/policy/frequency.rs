//! The least frequently used goes first, and old uses fade.

use super::{EvictionPolicy, TensorKey, Tier, ranked::Ranked, seats::Seats};
use core::ops::ControlFlow;

/// Evicts what is used least, per tier: LFU with dynamic ageing.
///
/// A copy's rank is the tier's age when it was last used plus how often its tensor has been used; the lowest
/// goes first, among equals the one unused for longest. The age is the rank of the last that went, so what
/// was popular long ago is overtaken by what is used now. Uses are counted per tensor, across its stays in a
/// tier.
///
/// Size plays no part on purpose: the cost of a miss is the tensor's bytes, so the benefit per byte kept is
/// the number of uses. Where the cost is the same for every size, GDSF divides by the size instead.
///
/// Good where a few tensors are used over and over beside many that are used once. Where temporaries are most
/// of the bytes it is worse than [`Lru`](super::Lru): each new one ranks last, and is copied down although it
/// would soon be dropped.
///
/// Every call is O(log n) and a use allocates nothing; [`victims`](EvictionPolicy::victims) is O(log n) per
/// key offered. Source: M. Arlitt, L. Cherkasova, J. Dilley, R. Friedrich, T. Jin, "Evaluating Content
/// Management Techniques for Web Proxy Caches", SIGMETRICS Performance Evaluation Review 27(4), 2000, where
/// LFU-DA has the best byte hit rate.
#[derive(Debug, Default)]
pub struct Frequency {
    seats: Seats,
    tiers: [Aged; Tier::COUNT],
    /// Per key, how often it has been used.
    uses: Vec<u64>,
    /// Counts uses and entries: the larger, the more recent.
    now: u64,
    /// Keys taken off the heap while they are offered.
    offered: Vec<u32>,
}

/// One tier's order.
#[derive(Debug, Default)]
struct Aged {
    order: Ranked,
    /// Per key, the rank its copy has or, while it is held, will have.
    ranks: Vec<(u64, u64)>,
    /// The highest rank of a copy that went as the lowest of all.
    age: u64,
}

impl Frequency {
    /// Ranks the copies of `key` that are free anew: as used now.
    fn rank(&mut self, key: TensorKey, tier: Tier) {
        let uses = self.uses.get(key.index()).copied().unwrap_or(0);
        let aged = &mut self.tiers[tier.index()];
        let len = aged.ranks.len().max(key.index() + 1);
        aged.ranks.resize(len, (0, 0));
        aged.ranks[key.index()] = (aged.age.saturating_add(uses), self.now);
        if self.seats.get(key).is_free(tier) {
            aged.order.set(key.number(), aged.ranks[key.index()]);
        }
    }
}

impl EvictionPolicy for Frequency {
    fn name(&self) -> &'static str {
        "frequency"
    }

    fn fresh(&self) -> Box<dyn EvictionPolicy> {
        Box::new(Frequency::default())
    }

    fn entered(&mut self, tier: Tier, key: TensorKey, bytes: u64) {
        self.seats.enter(tier, key, bytes);
        self.now += 1;
        self.rank(key, tier);
    }

    fn left(&mut self, tier: Tier, key: TensorKey) {
        self.seats.leave(tier, key);
        let aged = &mut self.tiers[tier.index()];
        let lowest = aged.order.first();
        if let Some(rank) = aged.order.remove(key.number())
            && lowest == Some((rank, key.number()))
        {
            aged.age = aged.age.max(rank.0);
        }
    }

    fn used(&mut self, key: TensorKey) {
        let len = self.uses.len().max(key.index() + 1);
        self.uses.resize(len, 0);
        self.uses[key.index()] += 1;
        self.now += 1;
        let seat = self.seats.get(key);
        for tier in Tier::ALL.into_iter().filter(|&tier| seat.is_in(tier)) {
            self.rank(key, tier);
        }
    }

    fn forgotten(&mut self, key: TensorKey) {
        for aged in &mut self.tiers {
            aged.order.remove(key.number());
        }
        self.seats.forget(key);
        if let Some(uses) = self.uses.get_mut(key.index()) {
            *uses = 0;
        }
    }

    fn held(&mut self, key: TensorKey) {
        self.seats.hold(key, true);
        for aged in &mut self.tiers {
            aged.order.remove(key.number());
        }
    }

    fn released(&mut self, key: TensorKey) {
        self.seats.hold(key, false);
        let seat = self.seats.get(key);
        for tier in Tier::ALL.into_iter().filter(|&tier| seat.is_in(tier)) {
            let aged = &mut self.tiers[tier.index()];
            aged.order.set(key.number(), aged.ranks[key.index()]);
        }
    }

    fn victims(&mut self, tier: Tier, accept: &mut dyn FnMut(TensorKey) -> ControlFlow<()>) {
        let aged = &mut self.tiers[tier.index()];
        while let Some((_, key)) = aged.order.first() {
            aged.order.remove(key);
            self.offered.push(key);
            if accept(TensorKey::new(key)).is_break() {
                break;
            }
        }
        for key in self.offered.drain(..) {
            aged.order.set(key, aged.ranks[key as usize]);
        }
    }
}
