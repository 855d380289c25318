//! Checking and committing single moves.

use core::ops::Range;

use crate::{AllocError, Handle, Move, MoveFault, OffsetAllocator, Plan};

impl<P> OffsetAllocator<P> {
    /// Whether a move can be made now: the block is where the move says, is not leased, and its destination
    /// is aligned and free but for the part the block itself covers.
    ///
    /// O(distance), counted in blocks and holes passed on the way.
    ///
    /// # Errors
    /// A stale or foreign handle, [`AllocError::Leased`], [`AllocError::BadMove`].
    pub fn check_move(&self, step: &Move) -> Result<(), AllocError> {
        self.destination(step).map(|_| ())
    }

    /// Records that a block has moved. The bytes are the caller's business; see
    /// [`Arena::apply`](crate::Arena::apply) for both together. O(distance) as
    /// [`check_move`](Self::check_move).
    ///
    /// # Errors
    /// As [`check_move`](Self::check_move).
    pub fn commit_move(&mut self, step: &Move) -> Result<(), AllocError> {
        let found = self.destination(step)?;
        let slot = step.handle.slot();
        // What the block leaves may be joined with the hole it goes to.
        let left = self.space.vacate(slot, step.src.clone());
        let node = self.space.nodes.hole(left);
        let there = node.offset <= step.dst && step.dst_range().end <= node.end();
        let hole = found.filter(|_| !there).unwrap_or(left);
        self.space.occupy(hole, step.dst, slot, step.len());
        self.counts.moves += 1;
        self.counts.moved_bytes = self.counts.moved_bytes.saturating_add(step.len());
        self.epoch += 1;
        Ok(())
    }

    /// Whether all moves of a plan can be made as it says: nothing has changed since it was made. O(1).
    ///
    /// # Errors
    /// [`AllocError::StalePlan`], [`AllocError::ForeignPlan`]; not for a plan without moves.
    pub(crate) fn check_plan(&self, plan: &Plan) -> Result<(), AllocError> {
        match plan.made_at {
            _ if plan.is_empty() => Ok(()),
            (owner, _) if owner != self.owner => Err(AllocError::ForeignPlan),
            (_, made) if made != self.epoch => Err(AllocError::StalePlan { made, now: self.epoch }),
            _ => Ok(()),
        }
    }

    /// The hole that has the part of the destination outside the block, `None` when there is no such part.
    fn destination(&self, step: &Move) -> Result<Option<u32>, AllocError> {
        let Move { handle, ref src, dst } = *step;
        let slot = self.slot(handle)?;
        let node = self.space.nodes.block(slot);
        if node.leases() > 0 {
            return Err(AllocError::Leased { handle, leases: node.leases() });
        }
        let range = self.space.block_range(slot);
        if *src != range {
            return Err(bad_move(handle, src, dst, MoveFault::NotAtSource));
        }
        let Some(end) = dst.checked_add(range.end - range.start).filter(|end| *end <= self.size) else {
            return Err(bad_move(handle, src, dst, MoveFault::OutOfBounds));
        };
        if !dst.is_multiple_of(1 << node.align_log2()) {
            return Err(bad_move(handle, src, dst, MoveFault::Misaligned));
        }
        // What must be free: the destination but for the block itself, on one side of the block.
        let (need, below) = match () {
            () if dst < src.start => (dst..end.min(src.start), true),
            () => (dst.max(src.end)..end, false),
        };
        if need.is_empty() || dst == src.start {
            return Ok(None);
        }
        let found = if below {
            self.space.downwards(node.prev).find(|span| span.range.start <= need.start)
        } else {
            self.space.upwards(node.next).find(|span| span.range.end >= need.end)
        };
        match found {
            Some(span) if span.range.start <= need.start && span.range.end >= need.end => {
                let hole = span.link.as_hole();
                hole.map(Some).ok_or_else(|| bad_move(handle, src, dst, MoveFault::Occupied))
            }
            _ => Err(bad_move(handle, src, dst, MoveFault::Occupied)),
        }
    }
}

fn bad_move(handle: Handle, src: &Range<u64>, dst: u64, fault: MoveFault) -> AllocError {
    let len = src.end.saturating_sub(src.start);
    AllocError::BadMove { handle, from: src.start, to: dst, len, fault }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Request;
    use alloc::vec::Vec;

    fn allocator(size: u64, sizes: &[u64]) -> (OffsetAllocator, Vec<Handle>) {
        let mut allocator = OffsetAllocator::new(size).unwrap();
        let handles = sizes.iter().map(|size| allocator.allocate(Request::new(*size)).unwrap()).collect();
        (allocator, handles)
    }

    fn to(allocator: &OffsetAllocator, handle: Handle, dst: u64) -> Move {
        Move { handle, src: allocator.block(handle).unwrap().range, dst }
    }

    fn fault(result: Result<(), AllocError>) -> MoveFault {
        match result {
            Err(AllocError::BadMove { fault, .. }) => fault,
            other => unreachable!("{other:?}"),
        }
    }

    #[test]
    fn every_destination_that_is_free_is_allowed_and_no_other() {
        // Blocks of 2, 3, 2 with a hole on each side, moved to every offset: exactly the free ones pass.
        for middle in 1..3 {
            for dst in (0..16).step_by(if cfg!(miri) { 3 } else { 1 }) {
                let (mut allocator, blocks) = allocator(14, &[1, 2, 1, 3, 2, 2]);
                allocator.free(blocks[0]).unwrap();
                allocator.free(blocks[2]).unwrap();
                allocator.free(blocks[4]).unwrap();
                let handle = blocks[2 * middle - 1];
                let step = to(&allocator, handle, dst);
                let free = dst + step.len() <= 14
                    && allocator
                        .blocks()
                        .filter(|other| other.handle != handle)
                        .all(|other| other.range.end <= dst || other.range.start >= dst + step.len());
                let before = allocator.stats();
                assert_eq!(allocator.check_move(&step).is_ok(), free, "{step:?}");
                assert_eq!(allocator.commit_move(&step).is_ok(), free);
                allocator.check().unwrap();
                let moved = allocator.block(handle).unwrap().range;
                assert_eq!(moved, if free { step.dst_range() } else { step.src.clone() });
                assert_eq!(allocator.stats().free, before.free);
            }
        }
    }

    #[test]
    fn each_fault_has_its_name() {
        let (mut allocator, blocks) = allocator(16, &[4, 4, 4]);
        let step = to(&allocator, blocks[2], 12);
        assert_eq!(fault(allocator.check_move(&to(&allocator, blocks[0], 2))), MoveFault::Occupied);
        assert_eq!(fault(allocator.check_move(&to(&allocator, blocks[0], 13))), MoveFault::OutOfBounds);
        assert_eq!(fault(allocator.check_move(&to(&allocator, blocks[0], u64::MAX))), MoveFault::OutOfBounds);
        allocator.commit_move(&step).unwrap();
        assert_eq!(fault(allocator.commit_move(&step)), MoveFault::NotAtSource);
        let inverted = Move { handle: blocks[2], src: core::ops::Range { start: 16, end: 12 }, dst: 0 };
        assert_eq!(fault(allocator.check_move(&inverted)), MoveFault::NotAtSource);
        let back = to(&allocator, blocks[2], 8);
        allocator.lease(blocks[2]).unwrap();
        assert_eq!(allocator.commit_move(&back), Err(AllocError::Leased { handle: blocks[2], leases: 1 }));
        allocator.unlease(blocks[2]).unwrap();
        allocator.free(blocks[2]).unwrap();
        assert_eq!(allocator.commit_move(&back), Err(AllocError::StaleHandle { handle: blocks[2] }));
        let aligned = allocator.allocate(Request::new(4).align(8)).unwrap();
        assert_eq!(fault(allocator.check_move(&to(&allocator, aligned, 12))), MoveFault::Misaligned);
    }

    #[test]
    fn blocks_end_at_the_limit_and_moves_need_no_slot() {
        let mut allocator = OffsetAllocator::with_limit(16, 1, crate::GoodFit, 2).unwrap();
        let one = allocator.allocate(Request::new(2)).unwrap();
        allocator.allocate(Request::new(2)).unwrap();
        let full = AllocError::TooManyBlocks { limit: 2 };
        assert_eq!(allocator.allocate(Request::new(2)), Err(full));
        allocator.commit_move(&to(&allocator, one, 8)).unwrap();
        allocator.check().unwrap();
        allocator.free(one).unwrap();
        assert!(allocator.allocate(Request::new(2)).is_ok());
    }
}
