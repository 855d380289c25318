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
        plan.clear();
        let mut layout = core::mem::take(&mut plan.layout);
        layout.load(self, true);
        let mut left = budget;
        layout.slide_down(
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
        plan.layout.slide_down(|_| true, drop);
        plan.layout.longest_gap()
    }
}
