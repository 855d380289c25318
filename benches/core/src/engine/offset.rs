//! `offset-allocator`: Sebastian Aaltonen's OffsetAllocator in Rust; 32-bit units.

use super::{Engine, Setup};
use offset_allocator::{Allocation, Allocator};
use std::ops::Range;

pub(crate) struct Offset {
    allocator: Allocator<u32>,
    unit_log2: u32,
}

impl Engine for Offset {
    const NAME: &'static str = "offset-allocator";
    type Ticket = Allocation<u32>;

    fn new(setup: &Setup) -> Self {
        let unit_log2 = setup.unit.trailing_zeros();
        let units = setup.capacity >> unit_log2;
        let units = u32::try_from(units).expect("rows choose a unit that fits 32 bits");
        // A node for each block and each hole that may lie between two, and what it keeps back itself.
        let nodes = u32::try_from(2 * setup.live + 16).expect("rows have fewer blocks than 2^31");
        Self { allocator: Allocator::with_max_allocs(units, nodes), unit_log2 }
    }

    fn alloc(&mut self, bytes: u64) -> Option<Allocation<u32>> {
        self.allocator.allocate((bytes >> self.unit_log2) as u32)
    }

    fn free(&mut self, allocation: Allocation<u32>) {
        self.allocator.free(allocation);
    }

    fn range(&self, allocation: &Allocation<u32>, bytes: u64) -> Range<u64> {
        let start = u64::from(allocation.offset) << self.unit_log2;
        start..start + bytes
    }
}
