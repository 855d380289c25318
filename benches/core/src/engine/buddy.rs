//! `buddy_system_allocator`: powers of two of frames; a frame is the row's unit.

use super::range::Extent;
use super::{Engine, Setup};
use buddy_system_allocator::FrameAllocator;
use std::ops::Range;

pub(crate) struct Buddy {
    frames: FrameAllocator<40>,
    unit_log2: u32,
}

impl Engine for Buddy {
    const NAME: &'static str = "buddy_system_allocator";
    type Ticket = Extent;

    fn new(setup: &Setup) -> Self {
        let unit_log2 = setup.unit.trailing_zeros();
        let mut frames = FrameAllocator::new();
        frames.add_frame(0, (setup.capacity >> unit_log2) as usize);
        Self { frames, unit_log2 }
    }

    fn alloc(&mut self, bytes: u64) -> Option<Extent> {
        let first = self.frames.alloc((bytes >> self.unit_log2) as usize)?;
        Some(Extent::of((first as u64) << self.unit_log2, bytes))
    }

    fn free(&mut self, extent: Extent) {
        let range = extent.range();
        let frames = ((range.end - range.start) >> self.unit_log2) as usize;
        self.frames.dealloc((range.start >> self.unit_log2) as usize, frames);
    }

    fn range(&self, extent: &Extent, _: u64) -> Range<u64> {
        extent.range()
    }
}
