//! `rlsf`: two-level segregated fit with headers in the memory itself.

use super::{Engine, Setup};
use crate::region::Region;
use std::alloc::Layout;
use std::ops::Range;
use std::ptr::NonNull;

pub(crate) struct Rlsf {
    // Dropped before the region it points into.
    tlsf: Box<rlsf::Tlsf<'static, u32, u32, 32, 32>>,
    region: Region,
}

impl Rlsf {
    fn over(region: Region) -> Self {
        let mut tlsf = Box::new(rlsf::Tlsf::new());
        let pool = NonNull::slice_from_raw_parts(region.base(), region.len());
        // SAFETY: the region is writable, nobody else uses it, and it is dropped after `tlsf`.
        let taken = unsafe { tlsf.insert_free_block_ptr(pool) };
        assert!(taken.is_some(), "rlsf takes the region");
        Self { tlsf, region }
    }
}

impl Engine for Rlsf {
    const NAME: &'static str = "rlsf (in-band)";
    type Ticket = NonNull<u8>;

    fn new(setup: &Setup) -> Self {
        Self::over(Region::new(setup.capacity))
    }

    fn renew(self, _: &Setup) -> Self {
        Self::over(self.region)
    }

    fn alloc(&mut self, bytes: u64) -> Option<NonNull<u8>> {
        self.tlsf.allocate(Layout::from_size_align(bytes as usize, 1).ok()?)
    }

    fn free(&mut self, block: NonNull<u8>) {
        // SAFETY: the block came from `alloc` with this alignment, and a ticket is given back once.
        unsafe { self.tlsf.deallocate(block, 1) };
    }

    fn range(&self, block: &NonNull<u8>, bytes: u64) -> Range<u64> {
        let start = (block.as_ptr() as usize - self.region.base().as_ptr() as usize) as u64;
        start..start + bytes
    }
}
