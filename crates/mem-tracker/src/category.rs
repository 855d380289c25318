//! What memory is held for.

use core::fmt;
use core::str::FromStr;

use crate::TrackError;

/// What a block of memory is held for, in the order in which reports name them.
///
/// Source: `_MemRefType` of `torch/distributed/_tools/mem_tracker.py`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Category {
    /// What a model learns.
    Parameter,
    /// What a model carries beside its parameters: running means, masks, tables.
    Buffer,
    /// Gradients of parameters.
    Gradient,
    /// What a forward pass makes, also when a backward pass makes it once more (checkpointing).
    Activation,
    /// What a backward pass makes and drops: gradients of activations, scratch.
    Temp,
    /// What an optimizer keeps, and what is made during its step.
    Optstate,
    /// Whatever was given to the tracker as it is: inputs, labels.
    Other,
}

impl Category {
    /// Every category, in the order of reports.
    pub const ALL: [Self; 7] = [
        Self::Parameter,
        Self::Buffer,
        Self::Gradient,
        Self::Activation,
        Self::Temp,
        Self::Optstate,
        Self::Other,
    ];

    /// The name in reports, PyTorch's.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Parameter => "Parameter",
            Self::Buffer => "Buffer",
            Self::Gradient => "Gradient",
            Self::Activation => "Activation",
            Self::Temp => "Temp",
            Self::Optstate => "Optstate",
            Self::Other => "Other",
        }
    }

    /// Its place in tables that have one entry for each.
    #[inline]
    pub(crate) const fn index(self) -> usize {
        self as usize
    }
}

impl fmt::Display for Category {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// Reads what [`name`](Category::name) writes.
impl FromStr for Category {
    type Err = TrackError;

    fn from_str(text: &str) -> Result<Self, TrackError> {
        let found = Self::ALL.into_iter().find(|category| category.name() == text);
        found.ok_or_else(|| TrackError::UnknownCategory { name: text.to_owned() })
    }
}
