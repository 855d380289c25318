//! `range-alloc`: best fit over a sorted list of free ranges.

use super::{Engine, Setup};
use range_alloc::RangeAllocator;
use std::ops::Range;

pub(crate) struct RangeAlloc(RangeAllocator<u64>);

impl Engine for RangeAlloc {
    const NAME: &'static str = "range-alloc";
    type Ticket = Extent;

    fn new(setup: &Setup) -> Self {
        Self(RangeAllocator::new(0..setup.capacity))
    }

    fn alloc(&mut self, bytes: u64) -> Option<Extent> {
        self.0.allocate_range(bytes).ok().map(|range| Extent::of(range.start, bytes))
    }

    fn free(&mut self, extent: Extent) {
        self.0.free_range(extent.range());
    }

    fn range(&self, extent: &Extent, _: u64) -> Range<u64> {
        extent.range()
    }
}

/// A range as a ticket; never empty, so that an `Option` of it has 16 bytes too.
pub(crate) struct Extent {
    offset: u64,
    bytes: std::num::NonZeroU64,
}

impl Extent {
    pub(crate) fn of(offset: u64, bytes: u64) -> Self {
        Self { offset, bytes: std::num::NonZeroU64::new(bytes).expect("rows ask for at least a byte") }
    }

    pub(crate) fn range(&self) -> Range<u64> {
        self.offset..self.offset + self.bytes.get()
    }
}
