//! The cheapest way to one hole that is large enough.

use alloc::collections::BinaryHeap;
use alloc::vec::Vec;
use core::cmp::Reverse;
use core::ops::Range;

use super::Plan;
use super::layout::{Item, Layout, highest_below, lowest};
use crate::request::align_up;
use crate::{AllocError, Fit, OffsetAllocator, Request};

impl<P> OffsetAllocator<P> {
    /// The cheapest moves found after which `request` fits into one hole: fewest bytes, then fewest moves.
    /// Empty when it fits already. See [`plan_room_into`](Self::plan_room_into).
    ///
    /// # Errors
    /// As [`plan_room_into`](Self::plan_room_into).
    pub fn plan_room(&self, request: Request) -> Result<Plan, AllocError> {
        let mut plan = Plan::default();
        self.plan_room_into(request, &mut plan)?;
        Ok(plan)
    }

    /// [`plan_room`](Self::plan_room) into a plan whose buffers are used again.
    ///
    /// Two ways are weighed. *Slide*: a window of neighbouring blocks is pushed together, to one side or
    /// to both, until its holes are one. *Evacuate*: the blocks of a window as long as the request go to
    /// holes elsewhere (best fit, longest first), those that find none are pushed aside within it. When
    /// neither is possible as things stand, everything slides down first and a window is evacuated then; and
    /// when that fails too, arenas of a dozen blocks are searched for any sequence of moves.
    /// Leased blocks are walls, alignments are kept.
    ///
    /// Without leases, and with no alignment above the grain, a plan is found whenever enough bytes are
    /// free. With them the question is bin packing: every search is bounded and may miss a plan in which
    /// blocks swap places. Measured against the exact optimum on random arenas of up to six blocks (see
    /// `tests/plan_optimum.rs`): 1.3 % more bytes in all, 3.2 % with mixed alignments. O(n log n) for n blocks.
    ///
    /// # Errors
    /// [`AllocError::OutOfMemory`] when no plan was found, and the errors of
    /// [`find`](Self::find) for requests no allocator could serve. The plan is then empty.
    pub fn plan_room_into(&self, request: Request, plan: &mut Plan) -> Result<(), AllocError> {
        plan.clear();
        plan.made_at = (self.owner, self.epoch);
        let fit = request.fit(self.grain)?;
        if fit.size <= self.counts.free && self.search_room(&fit, true, plan) {
            return Ok(());
        }
        Err(self.out_of_memory(request))
    }

    /// Fills `plan` and says whether one was found.
    pub(crate) fn search_room(&self, fit: &Fit, walls: bool, plan: &mut Plan) -> bool {
        let mut layout = core::mem::take(&mut plan.layout);
        let mut search = core::mem::take(&mut plan.search);
        layout.load(self, walls);
        let mut exact = core::mem::take(&mut plan.exact);
        let found = search.run(&mut layout, fit, plan)
            // The search rearranged its copy of the layout in vain.
            || { layout.load(self, walls); exact.run(&layout, fit, plan) };
        plan.exact = exact;
        plan.layout = layout;
        plan.search = search;
        found
    }
}

/// A run of neighbouring blocks that might make room; ordered by what moving all of it costs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Run {
    bytes: u64,
    moves: usize,
    from: usize,
    to: usize,
}

/// The state of a search, kept between searches for its buffers.
#[derive(Debug, Clone, Default)]
pub(super) struct Search {
    /// Runs still to be tried, cheapest first.
    runs: BinaryHeap<Reverse<Run>>,
    /// Non-empty gaps as (length, index), shortest first.
    gaps: Vec<(u64, usize)>,
    /// Blocks of the run at hand that leave it: (block, destination).
    leaving: Vec<(usize, u64)>,
    /// Gaps that took such blocks, in the order they did.
    taken: Vec<usize>,
    /// Per gap: where the rest of it starts once it took a block, else 0.
    rests: Vec<u64>,
    /// Blocks and gaps that may still be looked at before the search settles.
    steps: usize,
    /// Blocks of the run at hand, longest first.
    by_length: Vec<usize>,
    /// Blocks of the run at hand that stay in it, in address order.
    staying: Vec<Slide>,
}

/// Where a block that stays in its run can go.
#[derive(Debug, Clone, Copy)]
struct Slide {
    index: usize,
    down: u64,
    up: u64,
}

/// What a way of making room costs: bytes, then moves.
type Cost = (u64, usize);

impl Search {
    fn run(&mut self, layout: &mut Layout, fit: &Fit, plan: &mut Plan) -> bool {
        if layout.holds(fit) {
            return true;
        }
        let slide = self.best_slide(layout, fit);
        if self.evacuate(layout, fit, slide.map(|(cost, _)| cost), plan) {
            return true;
        }
        if let Some((_, run)) = slide
            && let Some((_, split)) = self.push_all_together(layout, fit, &run)
        {
            self.emit(layout, split, plan);
            return true;
        }
        layout.slide_down(u64::MAX, |_| true, |step| plan.push(step));
        if layout.holds(fit) || self.evacuate(layout, fit, None, plan) {
            return true;
        }
        plan.clear();
        false
    }

    /// The cheapest run that makes room when its blocks are pushed together.
    fn best_slide(&mut self, layout: &Layout, fit: &Fit) -> Option<(Cost, Run)> {
        self.collect(layout, None, |from, to| {
            let extent = layout.extent(from, to);
            extent.end - extent.start - layout.bytes(from, to) >= fit.size
        });
        // With no alignment above the grain the first run tried is feasible.
        self.steps = STEPS_BASE + STEPS_PER_BLOCK * layout.len();
        while let Some(Reverse(run)) = self.runs.pop()
            && self.spend(run.moves)
        {
            if let Some((cost, _)) = self.push_all_together(layout, fit, &run) {
                return Some((cost, run));
            }
            self.extend(layout, run, None);
        }
        // Padding is in the way almost everywhere: take the cheapest whole stretch between two walls.
        let whole = layout.segments().filter_map(|segment| {
            let run = Run::new(layout, segment.start, segment.end);
            Some((self.push_all_together(layout, fit, &run)?.0, run))
        });
        whole.min()
    }

    /// Plans the cheapest evacuation below `bound`, if there is one.
    fn evacuate(&mut self, layout: &Layout, fit: &Fit, bound: Option<Cost>, plan: &mut Plan) -> bool {
        self.collect(layout, bound, |from, to| {
            lowest(&layout.extent(from, to), fit.size, fit.align).is_some()
        });
        if self.runs.is_empty() {
            return false;
        }
        self.gaps.clear();
        let gaps = (0..=layout.len()).map(|index| (layout.gap(index), index));
        self.gaps
            .extend(gaps.filter(|(gap, _)| !gap.is_empty()).map(|(gap, index)| (gap.end - gap.start, index)));
        self.gaps.sort_unstable();
        self.rests.clear();
        self.rests.resize(layout.len() + 1, 0);
        self.taken.clear();
        // Beside a slide that is known to work, an evacuation is only worth a short look.
        let blocks = if bound.is_some() { layout.len().min(WORTH_A_LOOK) } else { layout.len() };
        self.steps = STEPS_BASE + STEPS_PER_BLOCK * blocks;
        while let Some(Reverse(run)) = self.runs.pop()
            && self.spend(run.moves)
        {
            if let Some(split) = self.leave(layout, fit, &run) {
                self.emit(layout, split, plan);
                return true;
            }
            self.extend(layout, run, bound);
        }
        false
    }

    /// Takes from the steps left; false when there are not enough.
    fn spend(&mut self, steps: usize) -> bool {
        let left = self.steps.checked_sub(steps);
        self.steps = left.unwrap_or(0);
        left.is_some()
    }

    /// Collects, for each first block, the shortest run that meets `enough` and costs less than `bound`.
    /// `enough` must stay true as a run grows.
    fn collect(&mut self, layout: &Layout, bound: Option<Cost>, enough: impl Fn(usize, usize) -> bool) {
        let mut runs = core::mem::take(&mut self.runs).into_vec();
        runs.clear();
        for segment in layout.segments() {
            let mut to = segment.start;
            for from in segment.start..=segment.end {
                to = to.max(from);
                while to < segment.end && !enough(from, to) {
                    to += 1;
                }
                if !enough(from, to) {
                    break;
                }
                let run = Run::new(layout, from, to);
                if run.is_below(bound) {
                    runs.push(Reverse(run));
                }
            }
        }
        self.runs = runs.into();
    }

    /// Puts `run` with one more block above it back among the runs to be tried.
    fn extend(&mut self, layout: &Layout, run: Run, bound: Option<Cost>) {
        if layout.items.get(run.to).is_some_and(|item| !item.wall) {
            let longer = Run::new(layout, run.from, run.to + 1);
            if longer.is_below(bound) {
                self.runs.push(Reverse(longer));
            }
        }
    }

    /// Finds homes elsewhere for the blocks of `run`, longest first, and pushes those without one aside.
    fn leave(&mut self, layout: &Layout, fit: &Fit, run: &Run) -> Option<usize> {
        self.leaving.clear();
        for gap in self.taken.drain(..) {
            self.rests[gap] = 0;
        }
        self.staying.clear();
        self.by_length.clear();
        self.by_length.extend(run.from..run.to);
        self.by_length.sort_unstable_by_key(|index| (Reverse(layout.items[*index].len), *index));
        let extent = layout.extent(run.from, run.to);
        let mut slack = extent.end - extent.start - fit.size;
        for place in 0..self.by_length.len() {
            if self.steps == 0 {
                return None;
            }
            let index = self.by_length[place];
            let item = &layout.items[index];
            if let Some((gap, dst)) = self.home(layout, run, item) {
                self.leaving.push((index, dst));
                if self.rests[gap] == 0 {
                    self.taken.push(gap);
                }
                self.rests[gap] = dst + item.len;
            } else {
                slack = slack.checked_sub(item.len)?;
                self.staying.push(Slide { index, down: 0, up: 0 });
            }
        }
        self.staying.sort_unstable_by_key(|slide| slide.index);
        self.push_together(layout, fit, &extent).map(|(_, split)| split)
    }

    /// The tightest gap outside `run` that takes `item`, and where: `(gap, offset)`.
    fn home(&mut self, layout: &Layout, run: &Run, item: &Item) -> Option<(usize, u64)> {
        let place = |gap: Range<u64>| Some((gap.end - gap.start, lowest(&gap, item.len, item.align)?));
        let first = self.gaps.partition_point(|(len, _)| *len < item.len);
        let (mut whole, mut seen) = (None, 0);
        for (_, gap) in self.gaps[first..].iter().take(SCAN + self.taken.len() + run.moves) {
            seen += 1;
            let inside = (run.from..=run.to).contains(gap);
            if !inside && self.rests[*gap] == 0 {
                whole = place(layout.gap(*gap)).map(|(len, dst)| (len, dst, *gap));
                if whole.is_some() {
                    break;
                }
            }
        }
        self.spend(seen);
        let rests = self.taken.iter().rev().take(SCAN).filter_map(|gap| {
            let (len, dst) = place(self.rests[*gap]..layout.gap(*gap).end)?;
            Some((len, dst, *gap))
        });
        rests.chain(whole).min().map(|(_, dst, gap)| (gap, dst))
    }

    fn push_all_together(&mut self, layout: &Layout, fit: &Fit, run: &Run) -> Option<(Cost, usize)> {
        self.leaving.clear();
        self.staying.clear();
        self.staying.extend((run.from..run.to).map(|index| Slide { index, down: 0, up: 0 }));
        self.push_together(layout, fit, &layout.extent(run.from, run.to))
    }

    /// Pushes the staying blocks apart so that `fit` has room between the first `split` of them, which go
    /// down, and the others, which go up. The cheapest split; of equal ones that with the most going down.
    fn push_together(&mut self, layout: &Layout, fit: &Fit, extent: &Range<u64>) -> Option<(Cost, usize)> {
        let cost = |item: &Item, dst: u64| if dst == item.offset { (0, 0) } else { (item.len, 1) };
        let (mut limit, mut bytes, mut moves) = (extent.end, 0, 0);
        for slide in self.staying.iter_mut().rev() {
            let item = &layout.items[slide.index];
            limit = highest_below(limit, item.len, item.align);
            slide.up = limit;
            let up = cost(item, limit);
            (bytes, moves) = (bytes + up.0, moves + up.1);
        }
        let (mut from, mut best) = (extent.start, None);
        for split in 0..=self.staying.len() {
            let until = self.staying.get(split).map_or(extent.end, |slide| slide.up);
            let fits = from <= until && lowest(&(from..until), fit.size, fit.align).is_some();
            if fits && best.is_none_or(|(least, _)| (bytes, moves) <= least) {
                best = Some(((bytes, moves), split));
            }
            let Some(slide) = self.staying.get_mut(split) else { break };
            let item = &layout.items[slide.index];
            // Its own aligned offset is at or above `from`, so rounding up cannot pass it.
            slide.down = align_up(from, item.align).unwrap_or(item.offset);
            from = slide.down + item.len;
            let (up, down) = (cost(item, slide.up), cost(item, slide.down));
            (bytes, moves) = (bytes - up.0 + down.0, moves - up.1 + down.1);
        }
        best
    }

    /// Writes down what the last `push_together` (and `leave`) decided, in an order that can be executed.
    fn emit(&self, layout: &Layout, split: usize, plan: &mut Plan) {
        for (index, dst) in &self.leaving {
            plan.push(layout.items[*index].to(*dst));
        }
        let (down, up) = self.staying.split_at(split);
        let down = down.iter().map(|slide| (slide.index, slide.down));
        let up = up.iter().rev().map(|slide| (slide.index, slide.up));
        for (index, dst) in down.chain(up) {
            let item = &layout.items[index];
            if dst != item.offset {
                plan.push(item.to(dst));
            }
        }
    }
}

impl Run {
    fn new(layout: &Layout, from: usize, to: usize) -> Self {
        Self { bytes: layout.bytes(from, to), moves: to - from, from, to }
    }

    fn is_below(&self, bound: Option<Cost>) -> bool {
        bound.is_none_or(|bound| (self.bytes, self.moves) < bound)
    }
}

/// Blocks for whose number of steps the search looks for something cheaper than a slide it has found.
const WORTH_A_LOOK: usize = 64;

/// Gaps of fitting length, and rests of gaps, tried for one block before it is taken to have no home.
const SCAN: usize = 64;
/// Blocks and gaps looked at before a search settles, so that planning stays linear: this many …
const STEPS_BASE: usize = 4096;
/// … and this many more per block of the arena.
const STEPS_PER_BLOCK: usize = 8;
