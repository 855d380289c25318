//! The writable tier below host memory, as the books see it: copies in pieces, each with its checksum.
//!
//! Without the feature `disk` there is none, and the types have no values.

#[cfg(all(feature = "disk", unix))]
mod disk;
#[cfg(not(all(feature = "disk", unix)))]
mod none;
#[cfg(all(feature = "disk", unix))]
mod packs;

#[cfg(all(feature = "disk", unix))]
pub(crate) use disk::{Lower, LowerCopy, Piece, Reading, Writing};
#[cfg(not(all(feature = "disk", unix)))]
pub(crate) use none::{Lower, LowerCopy, Piece, Reading, Writing};

use crate::{SlotState, track::Share};

/// A tensor's slot in the lower tier.
#[derive(Default)]
pub(crate) struct LowerSlot {
    pub(crate) state: SlotState,
    /// `Some` iff the state is Valid or Stale; and what a memory tracker knows of it.
    copy: Option<(LowerCopy, Share)>,
}

impl LowerSlot {
    /// The copy, if it is current.
    pub(crate) fn copy(&self) -> Option<&LowerCopy> {
        let current = self.copy.as_ref().filter(|_| self.state == SlotState::Valid);
        current.map(|(copy, _)| copy)
    }

    /// A write to it begins.
    pub(crate) fn begin(&mut self) {
        self.clear();
        self.state.step(SlotState::Reserved);
        self.state.step(SlotState::Filling);
    }

    /// The write is done, of the current version or of an older one.
    pub(crate) fn publish(&mut self, copy: LowerCopy, current: bool) {
        self.state.step(if current { SlotState::Valid } else { SlotState::Stale });
        self.copy = Some((copy, Share::default()));
        if !current {
            self.clear(); // worth nothing, and its room is
        }
    }

    /// What a memory tracker knows of the copy, if there is one.
    #[cfg(feature = "track")]
    pub(crate) fn share(&self) -> Option<&Share> {
        self.copy.as_ref().map(|(_, share)| share)
    }

    #[cfg(feature = "track")]
    pub(crate) fn share_mut(&mut self) -> Option<&mut Share> {
        self.copy.as_mut().map(|(_, share)| share)
    }

    /// The write failed, or what it wrote is not to be trusted.
    pub(crate) fn give_up(&mut self) {
        self.state.step(SlotState::Absent);
    }

    /// The tensor has a newer version.
    pub(crate) fn outdate(&mut self) {
        if self.state == SlotState::Valid {
            self.state.step(SlotState::Stale);
            self.clear();
        }
    }

    /// What was read from it failed its checksum.
    pub(crate) fn poison(&mut self) {
        if self.state == SlotState::Valid {
            self.state.step(SlotState::Poisoned);
            self.copy = None;
        }
    }

    /// Gives the room back, unless a write is under way.
    pub(crate) fn clear(&mut self) {
        self.copy = None;
        if matches!(self.state, SlotState::Valid | SlotState::Stale | SlotState::Poisoned) {
            self.state.step(SlotState::Absent);
        }
    }
}

/// Bytes of a pack of small tensors, about.
pub(crate) const PACK: u64 = 1 << 20;
