//! The planner's own copy of where the blocks are, in address order, that it can rearrange.

use alloc::vec::Vec;
use core::ops::Range;

use super::Move;
use crate::request::{align_down, align_up};
use crate::{Fit, Handle, OffsetAllocator};

/// A block as the planner sees it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Item {
    pub(super) handle: Handle,
    pub(super) offset: u64,
    pub(super) len: u64,
    pub(super) align: u64,
    /// Leased: neither moves nor lets others pass.
    pub(super) wall: bool,
    /// Bytes in the blocks before this one.
    pub(super) before: u64,
}

impl Item {
    pub(super) fn end(&self) -> u64 {
        self.offset + self.len
    }

    /// The lowest offset it can slide down to, in steps of `step` bytes (a power of two) if there is one.
    fn lowest_above(&self, free_from: u64, step: Option<u64>) -> Option<u64> {
        let Some(step) = step else { return lowest(&(free_from..self.end()), self.len, self.align) };
        // Both are powers of two, so going down by a multiple of the larger keeps alignment and remainder.
        Some(self.offset - align_down(self.offset.checked_sub(free_from)?, step.max(self.align)))
    }

    pub(super) fn to(&self, dst: u64) -> Move {
        Move { handle: self.handle, src: self.offset..self.end(), dst }
    }
}

/// Blocks `0..n` in address order; gap `i` lies before block `i`, gap `n` after the last.
///
/// ```text
///   gap 0 │ block 0 │ gap 1 │ block 1 │ … │ block n-1 │ gap n        a gap may be empty
///         └──── run 0..2 ───────────┘
///   └────────── extent of run 0..2 ───────────┘                      what is between its neighbours
/// ```
#[derive(Debug, Clone, Default)]
pub(super) struct Layout {
    pub(super) items: Vec<Item>,
    pub(super) size: u64,
}

impl Layout {
    /// Copies the blocks of `allocator`; with `walls` off, leases are ignored. O(blocks + holes).
    pub(super) fn load<P>(&mut self, allocator: &OffsetAllocator<P>, walls: bool) {
        self.items.clear();
        self.size = allocator.size;
        let mut before = 0;
        for span in allocator.spans() {
            let Some(slot) = span.link.as_block() else { continue };
            let node = allocator.space.nodes.block(slot);
            let len = span.range.end - span.range.start;
            self.items.push(Item {
                handle: allocator.handle_of(slot),
                offset: span.range.start,
                len,
                align: 1 << node.align_log2(),
                wall: walls && node.leases() > 0,
                before,
            });
            before += len;
        }
    }

    /// Whether `fit` has room in a gap. O(blocks).
    pub(super) fn holds(&self, fit: &Fit) -> bool {
        (0..=self.len()).any(|gap| lowest(&self.gap(gap), fit.size, fit.align).is_some())
    }

    /// Moves every block that `may` move down as far as it goes, those of at least `granule` bytes by a multiple of
    /// it, and tells `emit` each move. O(blocks).
    pub(super) fn slide_down(
        &mut self,
        granule: u64,
        mut may: impl FnMut(&Item) -> bool,
        mut emit: impl FnMut(Move),
    ) {
        let granule = granule.checked_next_power_of_two();
        let mut free_from = 0;
        for item in &mut self.items {
            let step = granule.filter(|granule| item.len >= *granule);
            if !item.wall
                && let Some(dst) = item.lowest_above(free_from, step)
                && dst < item.offset
                && may(item)
            {
                emit(item.to(dst));
                item.offset = dst;
            }
            free_from = item.end();
        }
    }

    /// Length of the longest gap. O(blocks).
    pub(super) fn longest_gap(&self) -> u64 {
        let gaps = (0..=self.len()).map(|index| self.gap(index));
        gaps.map(|gap| gap.end - gap.start).max().unwrap_or(0)
    }

    pub(super) fn len(&self) -> usize {
        self.items.len()
    }

    /// The free bytes before block `index`, or after the last.
    pub(super) fn gap(&self, index: usize) -> Range<u64> {
        self.extent(index, index)
    }

    /// Everything between the neighbours of the run of blocks `from..to`: its blocks and the gaps around.
    pub(super) fn extent(&self, from: usize, to: usize) -> Range<u64> {
        let start = from.checked_sub(1).map_or(0, |below| self.items[below].end());
        let end = self.items.get(to).map_or(self.size, |above| above.offset);
        start..end
    }

    /// Bytes in the blocks of a run.
    pub(super) fn bytes(&self, from: usize, to: usize) -> u64 {
        let last = self.items.get(to.wrapping_sub(1)).map_or(0, |item| item.before + item.len);
        if to > from { last - self.items[from].before } else { 0 }
    }

    /// The next stretch of blocks without a wall at or after `from`, which may be empty.
    pub(super) fn segment(&self, from: usize) -> Range<usize> {
        let walls = self.items[from..].iter().position(|item| item.wall);
        from..walls.map_or(self.len(), |walls| from + walls)
    }

    /// All stretches between walls, in address order.
    pub(super) fn segments(&self) -> impl Iterator<Item = Range<usize>> {
        let mut from = Some(0);
        core::iter::from_fn(move || {
            let segment = self.segment(from?);
            from = (segment.end < self.len()).then_some(segment.end + 1);
            Some(segment)
        })
    }
}

/// Where a block fits lowest in `gap`.
pub(super) fn lowest(gap: &Range<u64>, size: u64, align: u64) -> Option<u64> {
    let offset = align_up(gap.start, align)?;
    (offset.checked_add(size)? <= gap.end).then_some(offset)
}

/// Where a block that ends at or below `limit` starts highest. The caller knows that it fits.
pub(super) fn highest_below(limit: u64, size: u64, align: u64) -> u64 {
    align_down(limit - size, align)
}
