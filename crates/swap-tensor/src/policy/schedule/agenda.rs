//! Copies by when they are next used, the farthest first.

use super::bits::Bits;
use crate::policy::{NONE, recency::Recency};

/// The copies of one tier. Those with a use ahead stand at its position, of which each is one tensor's alone;
/// those without stand in the order of their last use.
///
/// Seen from position `p` of a step of `n` events, the farthest use is the last below `p`: it is in the next
/// step.
/// ```text
/// 0 ....... p ........ n
/// <- 1st ---|<- 2nd --    farthest_first
/// ```
#[derive(Debug, Default)]
pub(super) struct Agenda {
    uses: Bits,
    idle: Recency,
}

impl Agenda {
    /// Empties it, for a step of `events`.
    pub(super) fn reset(&mut self, events: usize) {
        self.uses.reset(events);
        self.idle.clear();
    }

    /// Adds tensor `number`, next used at `next`, or never if that is `NONE`; then it is the last of those to
    /// go.
    pub(super) fn insert(&mut self, number: u32, next: u32) {
        match next {
            NONE => self.idle.touch(number),
            next => self.uses.insert(next),
        }
    }

    /// Takes it out. `next` is what it was inserted with.
    pub(super) fn remove(&mut self, number: u32, next: u32) {
        match next {
            NONE => {
                self.idle.remove(number);
            }
            next => self.uses.remove(next),
        }
    }

    /// The tensors without a use ahead, the one unused for longest first.
    pub(super) fn idle(&self) -> impl Iterator<Item = u32> + '_ {
        self.idle.iter()
    }

    /// Positions of the next uses as seen from `from`, in a step of `events`, the farthest first.
    pub(super) fn farthest_first(&self, from: u32, events: u32) -> impl Iterator<Item = u32> + '_ {
        let next_step = self.descending(0, from);
        next_step.chain(self.descending(from, events))
    }

    fn descending(&self, start: u32, end: u32) -> impl Iterator<Item = u32> + '_ {
        let mut end = end;
        core::iter::from_fn(move || {
            end = self.uses.last_below(end).filter(|&position| position >= start)?;
            Some(end)
        })
    }
}
