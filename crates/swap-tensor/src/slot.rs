//! The state of one copy of a tensor in one tier.

use core::fmt;

/// Where a copy stands. A tensor's *copy set* is one of these per tier; "resident", "swapping in" or "on disk"
/// are derived from it ([`Residency`]).
///
/// | from | event | to |
/// |---|---|---|
/// | Absent | room taken | Reserved |
/// | Reserved | copy enqueued or started | Filling |
/// | Reserved | given up | Absent |
/// | Filling | done, of the tensor's version | Valid |
/// | Filling | done, of an older version | Stale |
/// | Filling | failed, or cut half-way with no way back | Absent, Torn |
/// | Valid | newer version elsewhere | Stale |
/// | Valid, Stale, Torn, Poisoned | room given back, uses still in flight | Draining |
/// | Valid, Stale, Torn, Poisoned, Draining | room given back | Absent |
/// | Stale | room used again for a newer version | Reserved |
/// | Valid | a move or a write was cut half-way | Torn |
/// | Valid | checksum failed | Poisoned |
/// | any | the device is gone, or may use the memory for ever | Lost |
/// | Lost, in host memory | other room taken for a newer version | Reserved |
///
/// The same table holds in every tier. On disk Filling is a write of the host or the device copy, which stays valid until the
/// write is complete and its checksum kept; a copy that turns Stale gives its room back at once.
///
/// Everything else is refused by [`SlotState::can_become`], and checked in debug builds at each step.
/// Source: the state machines of KVBM, vLLM, LMCache and PatrickStar, made one per tier.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub enum SlotState {
    /// No room is held.
    #[default]
    Absent,
    /// Room is held and counted; nothing is in it yet.
    Reserved,
    /// A copy into it is under way.
    Filling,
    /// It holds the tensor's current version.
    Valid,
    /// It holds an older version.
    Stale,
    /// It is being given back; uses of it are still in flight.
    Draining,
    /// A move or a write into it was cut half-way: contents unknown.
    Torn,
    /// Its checksum failed.
    Poisoned,
    /// Its device is gone; in host memory: a device may use the memory for ever, so it was given up.
    Lost,
}

impl SlotState {
    /// Whether the table allows a step from `self` to `next`.
    pub const fn can_become(self, next: SlotState) -> bool {
        use SlotState::*;
        matches!(
            (self, next),
            (Absent | Stale, Reserved)
                | (Reserved, Filling | Absent)
                | (Filling, Valid | Stale | Absent | Torn)
                | (Valid, Stale | Torn | Poisoned)
                | (Valid | Stale | Torn | Poisoned, Draining | Absent)
                | (Draining, Absent)
                | (Lost, Reserved)
                | (_, Lost)
        )
    }

    /// Whether bytes of the tier are held in this state.
    pub const fn holds_room(self) -> bool {
        !matches!(self, SlotState::Absent | SlotState::Lost)
    }

    /// Takes the step to `next`.
    pub(crate) fn step(&mut self, next: SlotState) {
        debug_assert!(self.can_become(next), "a slot cannot go from {self} to {next}");
        *self = next;
    }
}

impl fmt::Display for SlotState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            SlotState::Absent => "absent",
            SlotState::Reserved => "reserved",
            SlotState::Filling => "filling",
            SlotState::Valid => "valid",
            SlotState::Stale => "stale",
            SlotState::Draining => "draining",
            SlotState::Torn => "torn",
            SlotState::Poisoned => "poisoned",
            SlotState::Lost => "lost",
        })
    }
}

/// Where a tensor's current version can be read, fastest tier first: derived from its copy set.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Residency {
    /// On the device.
    Device,
    /// On its way to the device.
    SwappingIn,
    /// In host memory.
    Host,
    /// On disk, in the pool's lower tier.
    Disk,
    /// In the attached file.
    File,
    /// Nowhere: see [`SwapError::NoValidCopy`](crate::SwapError::NoValidCopy).
    Nowhere,
}

#[cfg(test)]
mod tests {
    use super::SlotState::{self, *};

    const ALL: [SlotState; 9] = [Absent, Reserved, Filling, Valid, Stale, Draining, Torn, Poisoned, Lost];

    #[test]
    fn lost_is_left_only_for_other_room_and_every_other_state_can_end() {
        for from in ALL {
            assert!(from.can_become(Lost));
            assert!(!Lost.can_become(from) || matches!(from, Lost | Reserved));
            let mut reached = vec![from];
            while let Some(next) = ALL
                .into_iter()
                .find(|&n| n != Lost && !reached.contains(&n) && reached.iter().any(|r| r.can_become(n)))
            {
                reached.push(next);
            }
            assert!(from == Lost || reached.contains(&Absent), "{from} never ends");
        }
    }

    #[test]
    fn a_copy_is_published_only_after_it_was_filled() {
        for from in ALL {
            assert_eq!(from.can_become(Valid), from == Filling);
        }
    }
}
