//! The moments at which a module's memory is noted.

use core::fmt;

/// A moment of a module's life at which what the devices hold is noted.
///
/// The order here is that of a table; a module's own states come in the order in which it met them
/// ([`ModuleStats::states`](crate::ModuleStats::states)).
///
/// Source: `_ModState` of `torch/distributed/_tools/mem_tracker.py`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ModState {
    /// A forward pass through the module begins.
    PreForward,
    /// It ends.
    PostForward,
    /// The most that was held in between.
    PeakForward,
    /// A backward pass through the module begins.
    PreBackward,
    /// A backward pass begins to compute the module's activations once more.
    PreForwardAc,
    /// It has them.
    PostForwardAc,
    /// The backward pass through the module ends.
    PostBackward,
    /// The most that was held during the backward pass, recomputation included.
    PeakBackward,
}

impl ModState {
    /// Every state.
    pub const ALL: [Self; 8] = [
        Self::PreForward,
        Self::PostForward,
        Self::PeakForward,
        Self::PreBackward,
        Self::PreForwardAc,
        Self::PostForwardAc,
        Self::PostBackward,
        Self::PeakBackward,
    ];

    /// The name in reports, PyTorch's.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::PreForward => "Pre-Forward",
            Self::PostForward => "Post-Forward",
            Self::PeakForward => "Peak-Forward",
            Self::PreBackward => "Pre-Backward",
            Self::PreForwardAc => "Pre-Forward-AC",
            Self::PostForwardAc => "Post-Forward-AC",
            Self::PostBackward => "Post-Backward",
            Self::PeakBackward => "Peak-Backward",
        }
    }

    #[inline]
    pub(crate) const fn index(self) -> usize {
        self as usize
    }
}

impl fmt::Display for ModState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// Which of a device's two figures is meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum When {
    /// What is held now.
    Current,
    /// What was held when it was most, since the tracker was made or [`reset_peak`](crate::Tracker::reset_peak).
    Peak,
}

/// When a tracker looks whether more is held than ever before.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Peaks {
    /// After every event: no peak is missed. Of several moments at which equally much was held the latest counts, so that a
    /// block that gets its category right after it was made is counted with it.
    #[default]
    EveryEvent,
    /// At calls of [`Tracker::operation`](crate::Tracker::operation), as PyTorch's tracker does after each operator. Of several
    /// moments at which equally much was held the first counts. What comes and goes between two calls is not seen.
    AtOperations,
}
