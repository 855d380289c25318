//! Where each tensor's copies are, as a policy was told: what the orders of this module share.

use super::{TensorKey, Tier};

/// Per key: its size, the tiers it is in, and whether it is held. O(1) each; grows to the largest key only.
#[derive(Debug, Default)]
pub(super) struct Seats {
    seats: Vec<Seat>,
}

/// What is known of one tensor.
#[derive(Debug, Default, Clone, Copy)]
pub(super) struct Seat {
    /// Bytes of a copy.
    pub(super) bytes: u64,
    /// Bit `i` is set iff a copy is in tier `i`.
    tiers: u8,
    /// Leased or pinned.
    pub(super) held: bool,
}

impl Seat {
    /// Whether a copy is in `tier`.
    pub(super) fn is_in(self, tier: Tier) -> bool {
        self.tiers & 1 << tier.index() != 0
    }

    /// Whether the copy in `tier` may be offered.
    pub(super) fn is_free(self, tier: Tier) -> bool {
        self.is_in(tier) && !self.held
    }
}

impl Seats {
    pub(super) fn get(&self, key: TensorKey) -> Seat {
        self.seats.get(key.index()).copied().unwrap_or_default()
    }

    pub(super) fn enter(&mut self, tier: Tier, key: TensorKey, bytes: u64) {
        let seat = self.seat(key);
        seat.bytes = bytes;
        seat.tiers |= 1 << tier.index();
    }

    pub(super) fn leave(&mut self, tier: Tier, key: TensorKey) {
        self.seat(key).tiers &= !(1 << tier.index());
    }

    pub(super) fn hold(&mut self, key: TensorKey, held: bool) {
        self.seat(key).held = held;
    }

    pub(super) fn forget(&mut self, key: TensorKey) {
        *self.seat(key) = Seat::default();
    }

    fn seat(&mut self, key: TensorKey) -> &mut Seat {
        let len = self.seats.len().max(key.index() + 1);
        self.seats.resize(len, Seat::default());
        &mut self.seats[key.index()]
    }
}
