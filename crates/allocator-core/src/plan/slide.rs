//! Compaction: every block down, as far as it goes.

use super::Plan;
use crate::{AllocError, OffsetAllocator, Request};

impl<P> OffsetAllocator<P> {
    /// Everything down: each block to the lowest offset its alignment and the leased blocks below it
    /// allow, in address order. O(blocks + holes).
    ///
    /// Between two leased blocks one hole is left, at the upper end (and the padding alignment asks for).
    /// Source: DeepSpeed's `ContiguousMemoryAllocator._defragment_memory`, whose moves these are, one per
    /// block.
    #[must_use]
    pub fn plan_slide(&self) -> Plan {
        self.plan_compact(u64::MAX)
    }

    /// The part of [`plan_slide`](Self::plan_slide) that moves at most `budget` bytes. O(blocks + holes).
    ///
    /// A block longer than what is left of the budget stays where it is, and the blocks above it move down
    /// towards it: a small budget still makes progress while any block fits it. Called again and again,
    /// with a budget of at least the largest block, it ends where `plan_slide` does; then the plan is empty.
    #[must_use]
    pub fn plan_compact(&self, budget: u64) -> Plan {
        let mut plan = Plan::default();
        self.plan_compact_into(budget, &mut plan);
        plan
    }

    /// [`plan_compact`](Self::plan_compact) into a plan whose buffers are used again.
    pub fn plan_compact_into(&self, budget: u64, plan: &mut Plan) {
        self.plan_compact_pages_into(u64::MAX, budget, plan);
    }

    /// [`plan_compact`](Self::plan_compact) for a buffer whose pages can change places: every block of at least
    /// `granule` bytes moves by a multiple of it, so that its whole granules can be
    /// [remapped](crate::remap_or_copy).
    ///
    /// The price is a hole of less than a granule before each such block, which only smaller blocks can use: in the
    /// end the largest hole is up to that much per large block below it smaller than after `plan_compact`. Blocks
    /// [aligned](Request::align) to the granule move so by themselves and cost nothing more. `granule` is rounded up
    /// to a power of two.
    #[must_use]
    pub fn plan_compact_pages(&self, granule: u64, budget: u64) -> Plan {
        let mut plan = Plan::default();
        self.plan_compact_pages_into(granule, budget, &mut plan);
        plan
    }

    /// [`plan_compact_pages`](Self::plan_compact_pages) into a plan whose buffers are used again.
    pub fn plan_compact_pages_into(&self, granule: u64, budget: u64, plan: &mut Plan) {
        plan.clear();
        plan.made_at = (self.owner, self.epoch);
        let mut layout = core::mem::take(&mut plan.layout);
        layout.load(self, true);
        let mut left = budget;
        layout.slide_down(
            granule,
            |item| left.checked_sub(item.len).inspect(|rest| left = *rest).is_some(),
            |step| plan.push(step),
        );
        plan.layout = layout;
    }

    /// The whole slide, if it makes room for `request`.
    pub(crate) fn plan_slide_for(&self, request: Request, plan: &mut Plan) -> Result<(), AllocError> {
        let fit = request.fit(self.grain)?;
        self.plan_compact_into(u64::MAX, plan);
        if plan.layout.holds(&fit) {
            return Ok(());
        }
        plan.clear();
        Err(self.out_of_memory(request))
    }

    /// Length of the longest hole after everything slid down; with `walls` off, leases are ignored.
    pub(crate) fn reachable(&self, walls: bool, plan: &mut Plan) -> u64 {
        plan.layout.load(self, walls);
        plan.layout.slide_down(u64::MAX, |_| true, drop);
        plan.layout.longest_gap()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec::Vec;

    /// Blocks of 1 to 40 bytes, every third of which is gone.
    fn scattered(seed: u64, align: impl Fn(u64) -> u64) -> OffsetAllocator {
        let mut random = seed.wrapping_mul(2) + 1;
        let mut next = |below: u64| {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            random % below
        };
        let mut allocator = OffsetAllocator::new(1000).unwrap();
        let mut blocks = Vec::new();
        loop {
            let size = 1 + next(40);
            match allocator.allocate(Request::new(size).align(align(size))) {
                Ok(block) => blocks.push(block),
                Err(_) => break,
            }
        }
        for (number, block) in blocks.iter().enumerate() {
            match number % 11 {
                0 | 3 | 6 | 9 => drop(allocator.free(*block).unwrap()),
                7 => drop(allocator.lease(*block).unwrap()),
                _ => {}
            }
        }
        allocator
    }

    #[test]
    fn large_blocks_move_by_granules_and_compaction_ends() {
        for seed in 1..SEEDS {
            let mut allocator = scattered(seed, |size| if size % 5 == 0 { 4 } else { 1 });
            let plan = allocator.plan_compact_pages(16, u64::MAX);
            assert!(plan.bytes() <= allocator.plan_slide().bytes(), "no block moves that would not slide");
            for step in plan.moves() {
                assert!(step.dst < step.src.start);
                assert!(step.len() < 16 || (step.src.start - step.dst).is_multiple_of(16), "{step:?}");
                allocator.commit_move(step).unwrap();
            }
            allocator.check().unwrap();
            assert!(allocator.plan_compact_pages(16, u64::MAX).is_empty());
            // No hole before a large block that it could have gone down by a granule.
            let holes: Vec<_> = allocator.holes().collect();
            for block in allocator.blocks().filter(|block| block.leases == 0) {
                let before = holes.iter().find(|hole| hole.end == block.range.start);
                let most = if block.range.end - block.range.start < 16 { 4 } else { 16 };
                assert!(before.is_none_or(|hole| hole.end - hole.start < most), "{block:?} after {before:?}");
            }
        }
    }

    #[test]
    fn blocks_aligned_to_the_granule_slide_as_ever() {
        for seed in 1..SEEDS {
            let allocator = scattered(seed, |size| if size < 16 { 1 } else { 16 });
            assert_eq!(allocator.plan_compact_pages(16, u64::MAX), allocator.plan_slide());
            assert_eq!(allocator.plan_compact_pages(16, 60), allocator.plan_compact(60));
            assert_eq!(allocator.plan_compact_pages(0, 60), allocator.plan_compact(60));
        }
    }

    /// Interpretation is slow, and depth is the native runs' business.
    const SEEDS: u64 = if cfg!(miri) { 4 } else { 200 };
}
