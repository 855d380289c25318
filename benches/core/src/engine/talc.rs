//! `talc`: bins and boundary tags in the memory itself.

use super::{Engine, Setup};
use crate::region::Region;
use std::alloc::Layout;
use std::ops::Range;
use std::ptr::NonNull;
use talc::DefaultBinning;
use talc::source::Manual;

pub(crate) struct Talc {
    // Dropped before the region it points into.
    talc: talc::base::Talc<Manual, DefaultBinning>,
    region: Region,
}

/// A block and its length, which talc wants back.
pub(crate) struct Piece {
    block: NonNull<u8>,
    bytes: usize,
}

impl Talc {
    fn over(region: Region) -> Self {
        let mut talc = talc::base::Talc::new(Manual);
        // SAFETY: the region is writable, nobody else uses it, and it is dropped after `talc`.
        let claimed = unsafe { talc.claim(region.base().as_ptr(), region.len()) };
        assert!(claimed.is_some(), "talc claims the region");
        Self { talc, region }
    }
}

impl Engine for Talc {
    const NAME: &'static str = "talc (in-band)";
    type Ticket = Piece;

    fn new(setup: &Setup) -> Self {
        Self::over(Region::new(setup.capacity))
    }

    fn renew(self, _: &Setup) -> Self {
        Self::over(self.region)
    }

    fn alloc(&mut self, bytes: u64) -> Option<Piece> {
        let bytes = bytes as usize;
        let layout = Layout::from_size_align(bytes, 1).ok()?;
        // SAFETY: rows ask for at least one byte.
        let block = unsafe { self.talc.allocate(layout) }?;
        Some(Piece { block, bytes })
    }

    fn free(&mut self, piece: Piece) {
        // SAFETY: the length was a layout's when the block was made.
        let layout = unsafe { Layout::from_size_align_unchecked(piece.bytes, 1) };
        // SAFETY: the block came from `alloc` with this layout, and a ticket is given back once.
        unsafe { self.talc.deallocate(piece.block.as_ptr(), layout) };
    }

    fn range(&self, piece: &Piece, bytes: u64) -> Range<u64> {
        let start = (piece.block.as_ptr() as usize - self.region.base().as_ptr() as usize) as u64;
        start..start + bytes
    }
}
