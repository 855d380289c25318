//! Bytes by category.

use core::fmt;

use crate::{Amount, Category, Peaks};

/// Bytes held on one device, by category: what they occupy, and what was asked for.
///
/// A device may round (PyTorch's CUDA allocator to 512 bytes, an arena to its grain), so the two differ; what PyTorch's
/// tracker reports is what is [`allocated`](Self::allocated).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Usage {
    allocated: [u64; 7],
    requested: [u64; 7],
    /// Invariant: the sum of `allocated`, so no sum of theirs overflows.
    total: u64,
    total_requested: u64,
}

/// Bytes of one block. `requested <= allocated`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Bytes {
    pub(crate) allocated: u64,
    pub(crate) requested: u64,
}

impl Usage {
    /// Bytes that blocks of a category occupy.
    #[must_use]
    pub const fn allocated(&self, category: Category) -> u64 {
        self.allocated[category.index()]
    }

    /// Bytes that were asked for of those.
    #[must_use]
    pub const fn requested(&self, category: Category) -> u64 {
        self.requested[category.index()]
    }

    /// Bytes that all blocks occupy.
    #[must_use]
    #[inline]
    pub const fn total(&self) -> u64 {
        self.total
    }

    /// Bytes that were asked for of those.
    #[must_use]
    pub const fn total_requested(&self) -> u64 {
        self.total_requested
    }

    /// Whether nothing is held.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.total == 0
    }

    /// Every category with the bytes it occupies, in the order of reports.
    pub fn by_category(&self) -> impl Iterator<Item = (Category, u64)> {
        Category::ALL.into_iter().zip(self.allocated)
    }

    /// The sum of two that are parts of one, which fits.
    pub(crate) fn with(mut self, other: &Self) -> Self {
        for category in Category::ALL {
            let (allocated, requested) = (other.allocated(category), other.requested(category));
            self.add(category, Bytes { allocated, requested });
        }
        self
    }

    /// Adds a block; `false`, and nothing changed, when the total would not fit.
    #[inline]
    pub(crate) fn add(&mut self, category: Category, bytes: Bytes) -> bool {
        let Some(total) = self.total.checked_add(bytes.allocated) else { return false };
        self.total = total;
        self.total_requested += bytes.requested;
        self.allocated[category.index()] += bytes.allocated;
        self.requested[category.index()] += bytes.requested;
        true
    }

    /// Takes a block off that was added with this category.
    #[inline]
    pub(crate) fn sub(&mut self, category: Category, bytes: Bytes) {
        self.total -= bytes.allocated;
        self.total_requested -= bytes.requested;
        self.allocated[category.index()] -= bytes.allocated;
        self.requested[category.index()] -= bytes.requested;
    }
}

/// The categories that hold something: `4.00 MiB Parameter, 512 bytes Buffer`, or `nothing`.
impl fmt::Display for Usage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut between = "";
        for (category, bytes) in self.by_category().filter(|(_, bytes)| *bytes > 0) {
            write!(f, "{between}{} {category}", Amount(bytes))?;
            between = ", ";
        }
        if between.is_empty() { f.write_str("nothing") } else { Ok(()) }
    }
}

/// What a device held at a moment.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Moment {
    pub(crate) usage: Usage,
    /// The clock then.
    pub(crate) at: u64,
}

impl Moment {
    /// Whether this one takes the place of `other` as the most: see [`Peaks`]. A total order, so it does not matter in which
    /// order moments are compared.
    #[inline]
    pub(crate) fn beats(&self, other: &Self, peaks: Peaks) -> bool {
        let (total, most) = (self.usage.total, other.usage.total);
        match peaks {
            Peaks::EveryEvent => total > most || (total == most && self.at >= other.at),
            Peaks::AtOperations => total > most || (total == most && self.at < other.at),
        }
    }
}
