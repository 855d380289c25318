//! What is asked of an allocator, and what it gives.

use core::ops::Range;

use crate::{AllocError, Handle};

/// A request for room: `Request::new(100).align(16)`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Request {
    /// Bytes wanted, at least 1. Rounded up to the grain; the block remembers what was asked.
    pub size: u64,
    /// Alignment in bytes, a power of two. Below the grain it has no effect.
    pub align: u64,
    /// How long the block is expected to live: a hint to the placement.
    pub lifetime: Lifetime,
}

impl Request {
    /// A request for `size` bytes at any offset the grain allows.
    #[must_use]
    #[inline]
    pub const fn new(size: u64) -> Self {
        Self { size, align: 1, lifetime: Lifetime::Unknown }
    }

    /// The same request at multiples of `align` bytes, a power of two.
    #[must_use]
    pub const fn align(self, align: u64) -> Self {
        Self { align, ..self }
    }

    /// The same request with a hint about its lifetime.
    #[must_use]
    pub const fn lifetime(self, lifetime: Lifetime) -> Self {
        Self { lifetime, ..self }
    }

    /// Rounds to `grain` (a power of two) and refuses what no allocator could serve.
    #[inline]
    pub(crate) fn fit(self, grain: u64) -> Result<Fit, AllocError> {
        if self.size == 0 {
            return Err(AllocError::ZeroSize);
        }
        if !self.align.is_power_of_two() {
            return Err(AllocError::BadAlign { align: self.align });
        }
        let Some(size) = align_up(self.size, grain) else {
            return Err(AllocError::SizeOverflow { size: self.size, grain });
        };
        Ok(Fit { size, align: self.align.max(grain), lifetime: self.lifetime })
    }
}

/// How long a block is expected to live.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Lifetime {
    /// Nothing is known. Such blocks go where long-lived ones go.
    #[default]
    Unknown,
    /// Gone soon (activations, staging): goes up, to the high end of its hole.
    Short,
    /// Here to stay (weights): goes down, to the low end of its hole.
    Long,
}

/// A request rounded to an allocator's grain: what a [`Placement`](crate::Placement) has to place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Fit {
    /// Bytes the block will occupy, a multiple of the grain.
    pub size: u64,
    /// Alignment in bytes: a power of two, at least the grain.
    pub align: u64,
    /// The hint of the request.
    pub lifetime: Lifetime,
}

impl Fit {
    /// The lowest offset at which the block fits into `hole`.
    #[must_use]
    #[inline]
    pub fn lowest_in(&self, hole: &Range<u64>) -> Option<u64> {
        let offset = align_up(hole.start, self.align)?;
        (offset.checked_add(self.size)? <= hole.end).then_some(offset)
    }

    /// The highest offset at which the block fits into `hole`.
    #[must_use]
    #[inline]
    pub fn highest_in(&self, hole: &Range<u64>) -> Option<u64> {
        let offset = align_down(hole.end.checked_sub(self.size)?, self.align);
        (offset >= hole.start).then_some(offset)
    }
}

/// A live block, as it stands now. A copy: it does not follow later moves, its handle does.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Block {
    /// The block's name.
    pub handle: Handle,
    /// The bytes it occupies: a multiple of the grain.
    pub range: Range<u64>,
    /// The bytes that were asked for.
    pub requested: u64,
    /// Its alignment in bytes; moves keep it.
    pub align: u64,
    /// Leases on it now; above zero it neither moves nor leaves.
    pub leases: u32,
}

impl Block {
    /// The bytes that were asked for, where they are now: `offset..offset + requested`.
    #[must_use]
    pub fn used(&self) -> Range<u64> {
        self.range.start..self.range.start + self.requested
    }
}

/// Rounds up to a multiple of `align`, a power of two; `None` when that overflows.
#[inline]
pub(crate) fn align_up(value: u64, align: u64) -> Option<u64> {
    Some(align_down(value.checked_add(align - 1)?, align))
}

/// Rounds down to a multiple of `align`, a power of two.
#[inline]
pub(crate) fn align_down(value: u64, align: u64) -> u64 {
    value & !(align - 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_round_to_the_grain_and_bad_ones_are_typed() {
        let fit = Request::new(5).align(2).fit(4).unwrap();
        assert_eq!((fit.size, fit.align), (8, 4));
        assert_eq!(Request::new(0).fit(1), Err(AllocError::ZeroSize));
        assert_eq!(Request::new(1).align(0).fit(1), Err(AllocError::BadAlign { align: 0 }));
        assert_eq!(Request::new(1).align(48).fit(1), Err(AllocError::BadAlign { align: 48 }));
        let size = u64::MAX - 2;
        assert_eq!(Request::new(size).fit(256), Err(AllocError::SizeOverflow { size, grain: 256 }));
    }

    #[test]
    fn a_fit_knows_both_ends_of_a_hole() {
        let fit = Request::new(8).align(16).fit(1).unwrap();
        assert_eq!(fit.lowest_in(&(1..64)), Some(16));
        assert_eq!(fit.highest_in(&(1..64)), Some(48));
        assert_eq!(fit.lowest_in(&(1..23)), None);
        assert_eq!(fit.highest_in(&(1..23)), None);
        let huge = Request::new(1).align(1 << 63).fit(1).unwrap();
        assert_eq!(huge.lowest_in(&(1..u64::MAX)), Some(1 << 63));
        assert_eq!(huge.lowest_in(&(u64::MAX - 9..u64::MAX)), None);
        assert_eq!(huge.highest_in(&(7..9)), None);
    }
}
