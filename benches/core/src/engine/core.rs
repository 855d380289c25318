//! Ours: `allocator-core` through its public interface.

use super::{Engine, Setup};
use allocator_core::{Handle, LowestOffset, OffsetAllocator, Request};
use std::hint::black_box;
use std::ops::Range;

/// As it comes.
pub(crate) struct Core(OffsetAllocator);

impl Core {
    pub(crate) fn allocator(&self) -> &OffsetAllocator {
        &self.0
    }

    pub(crate) fn allocator_mut(&mut self) -> &mut OffsetAllocator {
        &mut self.0
    }
}

impl Engine for Core {
    const NAME: &'static str = "allocator-core";
    type Ticket = Handle;

    fn new(setup: &Setup) -> Self {
        let made = OffsetAllocator::with_grain(setup.capacity, setup.unit);
        Self(made.expect("rows ask for arenas that are multiples of a power of two"))
    }

    fn alloc(&mut self, bytes: u64) -> Option<Handle> {
        self.0.allocate(Request::new(bytes)).ok()
    }

    fn free(&mut self, handle: Handle) {
        let freed = self.0.free(handle);
        debug_assert!(freed.is_ok(), "{freed:?}");
    }

    fn range(&self, handle: &Handle, _: u64) -> Range<u64> {
        self.0.block(*handle).map_or(0..0, |block| block.range)
    }
}

/// As it comes, and the block is asked for its offset at once: the other offset engines return it.
pub(crate) struct Located(Core);

impl Engine for Located {
    const NAME: &'static str = "allocator-core, offset asked";
    type Ticket = Handle;

    fn new(setup: &Setup) -> Self {
        Self(Core::new(setup))
    }

    fn alloc(&mut self, bytes: u64) -> Option<Handle> {
        let handle = self.0.alloc(bytes)?;
        black_box(self.0.0.block(handle).ok()?.range.start);
        Some(handle)
    }

    fn free(&mut self, handle: Handle) {
        self.0.free(handle);
    }

    fn range(&self, handle: &Handle, bytes: u64) -> Range<u64> {
        self.0.range(handle, bytes)
    }
}

/// The lowest offset that fits.
pub(crate) struct Lowest(OffsetAllocator<LowestOffset>);

impl Engine for Lowest {
    const NAME: &'static str = "allocator-core LowestOffset";
    type Ticket = Handle;

    fn new(setup: &Setup) -> Self {
        let made = OffsetAllocator::with_placement(setup.capacity, setup.unit, LowestOffset);
        Self(made.expect("rows ask for arenas that are multiples of a power of two"))
    }

    fn alloc(&mut self, bytes: u64) -> Option<Handle> {
        self.0.allocate(Request::new(bytes)).ok()
    }

    fn free(&mut self, handle: Handle) {
        let freed = self.0.free(handle);
        debug_assert!(freed.is_ok(), "{freed:?}");
    }

    fn range(&self, handle: &Handle, _: u64) -> Range<u64> {
        self.0.block(*handle).map_or(0..0, |block| block.range)
    }
}
