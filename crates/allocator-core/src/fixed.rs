//! Blocks at offsets that the caller chooses.

use crate::{AllocError, Arena, DeviceBuffer, Handle, OffsetAllocator, Placement, Request, Spot};

impl<P> OffsetAllocator<P> {
    /// Takes the bytes from `offset` on, if they are free: for what must lie where it lies, such as a range that a driver
    /// keeps for itself, or blocks that are restored as they were recorded. The placement is not asked.
    ///
    /// O(1 + blocks and holes above `offset`); nothing is kept for it while it is not used.
    ///
    /// ```
    /// use allocator_core::{AllocError, OffsetAllocator, Request};
    ///
    /// let mut offsets = OffsetAllocator::new(100)?;
    /// let kept = offsets.allocate_at(60, Request::new(10))?;
    /// assert_eq!(offsets.block(kept)?.range, 60..70);
    /// assert_eq!(offsets.allocate_at(65, Request::new(20)), Err(AllocError::Occupied { offset: 65, size: 20 }));
    /// assert_eq!(offsets.stats().largest_hole, 60);
    /// # Ok::<(), AllocError>(())
    /// ```
    ///
    /// # Errors
    /// [`Occupied`](AllocError::Occupied) unless all of the bytes are in one hole; [`Unaligned`](AllocError::Unaligned)
    /// for an offset that is no multiple of the grain and of the request's alignment; and what
    /// [`allocate`](Self::allocate) says of the request.
    pub fn allocate_at(&mut self, offset: u64, request: Request) -> Result<Handle, AllocError> {
        let fit = request.fit(self.grain)?;
        if !offset.is_multiple_of(fit.align) {
            return Err(AllocError::Unaligned { offset, align: fit.align });
        }
        let occupied = AllocError::Occupied { offset, size: fit.size };
        let end = offset.checked_add(fit.size).ok_or(occupied)?;
        // The first from above that does not lie above the offset is the one the offset lies in.
        let found = self.space.downwards(self.space.last()).find(|span| span.range.start <= offset);
        let hole = found.filter(|span| end <= span.range.end).and_then(|span| span.link.as_hole());
        self.take(Spot { slot: hole.ok_or(occupied)?, offset }, &fit, request.size)
    }
}

impl<B: DeviceBuffer, P: Placement> Arena<B, P> {
    /// Takes the bytes from `offset` on; see [`OffsetAllocator::allocate_at`]. Never moves a block, and a later move may take
    /// this one elsewhere: what must stay is leased.
    ///
    /// # Errors
    /// As [`OffsetAllocator::allocate_at`].
    pub fn allocate_at(&mut self, offset: u64, request: Request) -> Result<Handle, AllocError> {
        let handle = self.allocator_mut().allocate_at(offset, request)?;
        let block = self.allocator().block(handle)?;
        self.observe(|observer| observer.on_alloc(&block));
        Ok(handle)
    }
}
