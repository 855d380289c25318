//! The last resort on small arenas: a bounded search through sequences of moves.

use alloc::collections::BinaryHeap;
use alloc::vec::Vec;
use core::cmp::Reverse;
use core::ops::Range;

use super::layout::{Layout, highest_below, lowest};
use super::{Move, Plan};
use crate::Fit;

/// Uniform-cost search over placements of all blocks, for what sliding and evacuating cannot do: blocks
/// that must swap places or cross a leased one. A step moves one block to the low or the high end of a
/// gap. Kept between searches for its buffers.
#[derive(Debug, Clone, Default)]
pub(super) struct Exact {
    /// Offsets of all blocks, one row per placement.
    rows: Vec<u64>,
    /// Per placement: the one it came from and the block that moved.
    origins: Vec<(usize, usize)>,
    /// Placements to go on from, cheapest first: bytes moved, moves, row.
    queue: BinaryHeap<Reverse<(u64, usize, usize)>>,
    /// Hash table of the rows gone on from; `usize::MAX` when empty.
    closed: Vec<usize>,
    /// Blocks in the address order of the row at hand.
    order: Vec<usize>,
    /// The way found, last move first.
    way: Vec<Move>,
}

impl Exact {
    /// Fills `plan` and says whether a way was found within the bounds.
    pub(super) fn run(&mut self, layout: &Layout, fit: &Fit, plan: &mut Plan) -> bool {
        let count = layout.len();
        if count > MOST_BLOCKS {
            return false;
        }
        self.rows.clear();
        self.rows.extend(layout.items.iter().map(|item| item.offset));
        self.origins.clear();
        self.origins.push((0, 0));
        self.queue.clear();
        self.queue.push(Reverse((0, 0, 0)));
        self.closed.clear();
        self.closed.resize(2 * MOST_CLOSED, usize::MAX);
        for _ in 0..MOST_CLOSED {
            let Some(Reverse((bytes, moves, row))) = self.next_open(count) else { return false };
            if self.is_goal(layout, fit, row) {
                self.trace(layout, row, plan);
                return true;
            }
            self.expand(layout, (bytes, moves), row);
        }
        false
    }

    /// The cheapest placement not gone on from yet, marked as gone on from.
    fn next_open(&mut self, count: usize) -> Option<Reverse<(u64, usize, usize)>> {
        while let Some(next) = self.queue.pop() {
            let row = next.0.2;
            let here = &self.rows[row * count..(row + 1) * count];
            let hash = here.iter().fold(0_u64, |hash, offset| (hash ^ offset).wrapping_mul(HASH_FACTOR));
            // At most half of the table is ever full, so the walk ends at an empty place.
            let mut at = (hash >> 32) as usize % self.closed.len();
            let known = loop {
                match self.closed[at] {
                    usize::MAX => break false,
                    other if self.rows[other * count..(other + 1) * count] == *here => break true,
                    _ => at = (at + 1) % self.closed.len(),
                }
            };
            if !known {
                self.closed[at] = row;
                return Some(next);
            }
        }
        None
    }

    /// Whether `fit` has room between the blocks of a placement, whose address order is found on the way.
    fn is_goal(&mut self, layout: &Layout, fit: &Fit, row: usize) -> bool {
        let count = layout.len();
        let offsets = &self.rows[row * count..(row + 1) * count];
        self.order.clear();
        self.order.extend(0..count);
        self.order.sort_unstable_by_key(|block| offsets[*block]);
        (0..=count).any(|gap| lowest(&self.gap(layout, row, gap, None), fit.size, fit.align).is_some())
    }

    /// Queues every placement one step away.
    fn expand(&mut self, layout: &Layout, (bytes, moves): (u64, usize), row: usize) {
        let count = layout.len();
        for place in 0..count {
            let block = self.order[place];
            let item = &layout.items[block];
            if item.wall {
                continue;
            }
            let from = self.rows[row * count + block];
            // The gaps above and below the block are one once it leaves: gap `place + 1` is skipped.
            for gap in (0..=count).filter(|gap| *gap != place + 1) {
                let gap = self.gap(layout, row, gap, Some(place));
                let Some(low) = lowest(&gap, item.len, item.align) else { continue };
                let high = highest_below(gap.end, item.len, item.align);
                let ends = [low, high];
                for dst in ends.into_iter().take(if low == high { 1 } else { 2 }) {
                    if dst == from || self.origins.len() >= MOST_ROWS {
                        continue;
                    }
                    let next = self.origins.len();
                    self.rows.extend_from_within(row * count..(row + 1) * count);
                    self.rows[next * count + block] = dst;
                    self.origins.push((row, block));
                    self.queue.push(Reverse((bytes.saturating_add(item.len), moves + 1, next)));
                }
            }
        }
    }

    /// The free bytes before the block that is `gap`-th in order, or after the last, in a placement; as if
    /// the block at `without` had left.
    fn gap(&self, layout: &Layout, row: usize, gap: usize, without: Option<usize>) -> Range<u64> {
        let count = layout.len();
        let offset = |place: usize| self.rows[row * count + self.order[place]];
        let end = |place: usize| offset(place) + layout.items[self.order[place]].len;
        let above = if without == Some(gap) { gap + 1 } else { gap };
        let upper = if above == count { layout.size } else { offset(above) };
        (gap.checked_sub(1).map_or(0, end))..upper
    }

    fn trace(&mut self, layout: &Layout, mut row: usize, plan: &mut Plan) {
        let count = layout.len();
        self.way.clear();
        while row != 0 {
            let (origin, block) = self.origins[row];
            let (from, dst) = (self.rows[origin * count + block], self.rows[row * count + block]);
            let item = &layout.items[block];
            self.way.push(Move { handle: item.handle, src: from..from + item.len, dst });
            row = origin;
        }
        self.way.drain(..).rev().for_each(|step| plan.push(step));
    }
}

/// Arenas with more blocks are not searched.
const MOST_BLOCKS: usize = 12;
/// Placements gone on from before the search gives up.
const MOST_CLOSED: usize = 1024;
/// Placements kept.
const MOST_ROWS: usize = 1 << 14;
/// Knuth's multiplicative hash.
const HASH_FACTOR: u64 = 0x9E37_79B9_7F4A_7C15;
