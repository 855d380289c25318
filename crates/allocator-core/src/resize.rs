//! Blocks and ranges that grow and shrink where they are.

use core::ops::Range;

use crate::allocator::check_size;
use crate::nodes::Link;
use crate::{
    AllocError, Arena, DeviceBuffer, Handle, OffsetAllocator, Placement, Request, ResizeError, check_range,
};

impl<P> OffsetAllocator<P> {
    /// Makes a block longer or shorter where it is, without moving anything: into the hole behind it, or leaving one.
    /// O(1). The handle stays, and so does the alignment.
    ///
    /// ```
    /// use allocator_core::{AllocError, OffsetAllocator, Request};
    ///
    /// let mut offsets = OffsetAllocator::new(100)?;
    /// let block = offsets.allocate(Request::new(40))?;
    /// assert_eq!(offsets.resize_block(block, 70)?, 0..70);
    /// offsets.allocate(Request::new(20))?;
    /// let error = AllocError::CannotGrow { handle: block, requested: 75, most: 70 };
    /// assert_eq!(offsets.resize_block(block, 75), Err(error));
    /// # Ok::<(), AllocError>(())
    /// ```
    ///
    /// # Errors
    /// A stale or foreign handle, [`ZeroSize`](AllocError::ZeroSize), [`SizeOverflow`](AllocError::SizeOverflow);
    /// [`CannotGrow`](AllocError::CannotGrow) when another block or the end is in the way; [`Leased`](AllocError::Leased)
    /// when a leased block is to become shorter.
    pub fn resize_block(&mut self, handle: Handle, size: u64) -> Result<Range<u64>, AllocError> {
        let slot = self.slot(handle)?;
        let fit = Request::new(size).fit(self.grain)?;
        let range = self.space.block_range(slot);
        let node = self.space.nodes.block(slot);
        if size < node.len && node.leases() > 0 {
            return Err(AllocError::Leased { handle, leases: node.leases() });
        }
        let behind = node.next.as_hole().map_or(range.end, |hole| self.space.nodes.hole(hole).end());
        if fit.size > behind - range.start {
            return Err(AllocError::CannotGrow { handle, requested: size, most: behind - range.start });
        }
        let (end, leased) = (range.start + fit.size, node.leases() > 0);
        let requested = node.len;
        if end != range.end {
            self.space.move_end(slot, range.end, end);
        }
        self.space.nodes.block_mut(slot).len = size;
        self.counts.requested = self.counts.requested - requested + size;
        // The sum on the way may not fit, what comes out does.
        self.counts.free = self.counts.free.wrapping_add(range.end).wrapping_sub(end);
        if leased {
            self.counts.leased_bytes = self.counts.leased_bytes - (range.end - range.start) + fit.size;
        }
        self.counts.high_water = self.counts.high_water.max(self.size - self.counts.free);
        self.epoch += 1;
        Ok(range.start..end)
    }

    /// Makes the whole range longer or shorter, at its end. O(1).
    ///
    /// The caller sees to the memory: before this when growing, after it when shrinking.
    ///
    /// ```
    /// use allocator_core::{AllocError, OffsetAllocator, Request};
    ///
    /// let mut offsets = OffsetAllocator::new(100)?;
    /// let block = offsets.allocate(Request::new(100))?;
    /// offsets.resize(150)?;
    /// offsets.allocate(Request::new(30))?;
    /// assert_eq!(offsets.resize(120), Err(AllocError::CannotShrink { size: 120, least: 130 }));
    /// assert_eq!(offsets.least_size(), 130);
    /// offsets.resize(offsets.least_size())?; // to the end of the last block
    /// assert_eq!(offsets.stats().free, 0);
    /// # Ok::<(), AllocError>(())
    /// ```
    ///
    /// # Errors
    /// [`BadSize`](AllocError::BadSize) as for a new allocator; [`CannotShrink`](AllocError::CannotShrink) when a block
    /// is in the way.
    pub fn resize(&mut self, size: u64) -> Result<(), AllocError> {
        self.check_resize(size)?;
        if size != self.size {
            self.space.move_top(self.size, size);
            self.counts.free = self.counts.free.wrapping_add(size).wrapping_sub(self.size);
            self.size = size;
            self.epoch += 1;
        }
        Ok(())
    }

    pub(crate) fn check_resize(&self, size: u64) -> Result<(), AllocError> {
        check_size(size, self.grain)?;
        let least = self.least_size();
        if size < least { Err(AllocError::CannotShrink { size, least }) } else { Ok(()) }
    }

    /// The end of the last block: the range cannot be shorter. At least one grain. O(1).
    #[must_use]
    pub fn least_size(&self) -> u64 {
        let last = match self.space.last().as_hole() {
            Some(hole) => Link::block(self.space.nodes.hole(hole).prev),
            None => self.space.last(),
        };
        last.as_block().map_or(self.grain, |slot| self.space.block_range(slot).end)
    }
}

impl<B: DeviceBuffer, P: Placement> Arena<B, P> {
    /// Makes a block longer or shorter where it is; see [`OffsetAllocator::resize_block`]. Returns the bytes that were
    /// asked for, where they are.
    ///
    /// Parameters keep naming the parts they did: a part beyond a shorter block's end is refused. O(1 + parameters of the
    /// block).
    ///
    /// # Errors
    /// As [`OffsetAllocator::resize_block`]; [`AllocError::Range`] when a parameter names bytes that would go.
    pub fn resize_block(&mut self, handle: Handle, size: u64) -> Result<Range<u64>, AllocError> {
        let before = self.allocator().block(handle)?;
        if let Some(end) = self.params_end(handle).filter(|end| *end > size) {
            check_range(size, 1, &(0..end))?;
        }
        self.allocator_mut().resize_block(handle, size)?;
        let after = self.allocator().block(handle)?;
        self.observe(|observer| observer.on_resize(&before, &after));
        Ok(after.used())
    }

    /// Makes the arena longer or shorter, at its end, with a buffer that `run` makes so: `run` gets the buffer and the new
    /// size in bytes. O(1) beside `run`.
    ///
    /// # Errors
    /// [`ResizeError::Alloc`] as [`OffsetAllocator::resize`], and `run` was not called; [`ResizeError::Run`] with what `run`
    /// returned, and nothing changed; [`ResizeError::Differs`] when the buffer came out at another size than `run` was told:
    /// the arena then has that size, down to the grain, but never less than its blocks need. Should the buffer be shorter than
    /// that, the blocks beyond its end are lost.
    #[cfg_attr(feature = "conformance", doc = "```")]
    #[cfg_attr(not(feature = "conformance"), doc = "```ignore")]
    /// use allocator_core::conformance::VecBuffer;
    /// use allocator_core::{Arena, DeviceBuffer, Request};
    ///
    /// let mut arena = Arena::new(VecBuffer::new(100))?;
    /// let weights = arena.allocate(Request::new(80))?;
    /// arena.resize(300, |buffer, size| {
    ///     // A buffer of the driver's would be made longer in place, this one is copied.
    ///     let mut longer = VecBuffer::new(size as usize);
    ///     longer.write(0, buffer.read(0..buffer.size())?)?;
    ///     *buffer = longer;
    ///     Ok::<(), allocator_core::RangeError>(())
    /// })?;
    /// arena.allocate(Request::new(200))?;
    /// assert_eq!(arena.range(weights)?, 0..80);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn resize<E>(
        &mut self,
        size: u64,
        run: impl FnOnce(&mut B, u64) -> Result<(), E>,
    ) -> Result<(), ResizeError<E>> {
        self.allocator().check_resize(size)?;
        run(self.buffer_mut(), size).map_err(ResizeError::Run)?;
        let found = self.buffer().size();
        let kept = match found {
            found if found == size => size,
            found => (found & !(self.allocator().grain() - 1)).max(self.allocator().least_size()),
        };
        self.allocator_mut().resize(kept)?;
        if found == size { Ok(()) } else { Err(ResizeError::Differs { told: size, found, kept }) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::AllocError;

    #[test]
    fn a_block_grows_into_the_hole_behind_it_and_no_further() {
        let mut offsets = OffsetAllocator::with_grain(64, 4).unwrap();
        let (one, two) =
            (offsets.allocate(Request::new(6)).unwrap(), offsets.allocate(Request::new(8)).unwrap());
        assert_eq!(offsets.resize_block(one, 8), Ok(0..8));
        let most = AllocError::CannotGrow { handle: one, requested: 9, most: 8 };
        assert_eq!(offsets.resize_block(one, 9), Err(most));
        assert_eq!(offsets.resize_block(two, 56), Ok(8..64));
        assert_eq!((offsets.stats().free, offsets.stats().holes, offsets.stats().high_water), (0, 0, 64));
        // Shorter leaves a hole, shorter still makes it longer, longer takes it back.
        for (size, end) in [(40, 48), (3, 12), (5, 16), (56, 64), (1, 12)] {
            assert_eq!(offsets.resize_block(two, size), Ok(8..end));
            offsets.check().unwrap();
            assert_eq!(offsets.stats().requested, 8 + size);
        }
        offsets.lease(two).unwrap();
        assert_eq!(offsets.resize_block(two, 9), Ok(8..20));
        assert_eq!(offsets.stats().leased_bytes, 12);
        assert_eq!(offsets.resize_block(two, 8), Err(AllocError::Leased { handle: two, leases: 1 }));
        assert_eq!(offsets.resize_block(two, 0), Err(AllocError::ZeroSize));
        offsets.free(one).unwrap();
        assert_eq!(offsets.resize_block(one, 8), Err(AllocError::StaleHandle { handle: one }));
        offsets.check().unwrap();
    }

    #[test]
    fn the_range_grows_and_shrinks_to_its_last_block() {
        let mut offsets = OffsetAllocator::with_grain(64, 4).unwrap();
        assert_eq!(offsets.least_size(), 4);
        let block = offsets.allocate(Request::new(60)).unwrap();
        assert_eq!(offsets.resize(56), Err(AllocError::CannotShrink { size: 56, least: 60 }));
        assert_eq!(offsets.resize(61), Err(AllocError::BadSize { size: 61, grain: 4 }));
        for size in [60, 1 << 40, 60, 64, 128] {
            offsets.resize(size).unwrap();
            offsets.check().unwrap();
            let stats = offsets.stats();
            assert_eq!((stats.size, stats.free, stats.largest_hole), (size, size - 60, size - 60));
        }
        // What was found before is found no more.
        let found = offsets.find(Request::new(8)).unwrap();
        offsets.resize(60).unwrap();
        assert!(matches!(offsets.commit(found), Err(AllocError::StaleCandidate { .. })));
        offsets.free(block).unwrap();
        offsets.resize(4).unwrap();
        assert!(offsets.holes().eq(core::iter::once(0..4)));
        offsets.check().unwrap();
    }
}
