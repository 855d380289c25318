//! Numbers about an allocator, and the walk that proves its invariants.

use crate::bins::Class;
use crate::nodes::{Link, NIL};
use crate::{Inconsistency, OffsetAllocator};

/// An allocator in numbers; all lengths in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Stats {
    /// Length of the whole range.
    pub size: u64,
    /// Bytes in holes.
    pub free: u64,
    /// Bytes in blocks: `size - free`.
    pub live: u64,
    /// Bytes asked for by the live blocks; `live - requested` is lost to the grain.
    pub requested: u64,
    /// Length of the largest hole.
    pub largest_hole: u64,
    /// Number of live blocks.
    pub blocks: u64,
    /// Number of holes.
    pub holes: u64,
    /// The most `live` has ever been.
    pub high_water: u64,
    /// Number of live blocks with at least one lease.
    pub leased_blocks: u64,
    /// Bytes in them.
    pub leased_bytes: u64,
    /// Moves committed since the allocator was made.
    pub moves: u64,
    /// Bytes they moved, `u64::MAX` where that is more.
    pub moved_bytes: u64,
}

impl<P> OffsetAllocator<P> {
    /// The allocator in numbers. O(1), but for the largest hole once that was taken: O(holes in its size class).
    #[must_use]
    pub fn stats(&self) -> Stats {
        let counts = &self.counts;
        Stats {
            size: self.size,
            free: counts.free,
            live: self.size - counts.free,
            requested: counts.requested,
            largest_hole: self.space.largest_hole(),
            blocks: counts.blocks,
            holes: self.space.holes(),
            high_water: counts.high_water,
            leased_blocks: counts.leased_blocks,
            leased_bytes: counts.leased_bytes,
            moves: counts.moves,
            moved_bytes: counts.moved_bytes,
        }
    }

    /// Walks every structure and proves that they agree: address order, size classes, counters, slots.
    /// For tests: O(slots + size classes). It cannot see whether the bytes are where the blocks are.
    ///
    /// # Errors
    /// The first invariant that does not hold.
    pub fn check(&self) -> Result<(), Inconsistency> {
        let linked = self.check_order()?;
        let listed = self.check_classes()?;
        let rule = |holds: bool, rule, at| if holds { Ok(()) } else { Err(Inconsistency { rule, at }) };
        let space = &self.space;
        let live = space.nodes.blocks.iter().filter(|node| node.len > 0).count()
            + space.nodes.holes.iter().filter(|node| node.len > 0).count();
        let (blocks, holes) = (self.counts.blocks, space.holes());
        rule(live as u64 == linked, "a live slot is not in address order", linked)?;
        rule(holes == listed, "a hole is in no size class, or miscounted", listed)?;
        rule(blocks + holes == linked, "the number of blocks is wrong", blocks)?;
        let longest = self.holes().map(|hole| hole.end - hole.start).max().unwrap_or(0);
        rule(longest == space.largest_hole(), "the largest hole is wrong", longest)?;
        rule(longest <= space.longest_bound(), "a hole is longer than its bound", longest)?;
        if let Some(tree) = &space.tree {
            let known = |slot, offset, len| {
                let node = space.nodes.hole(slot);
                (node.offset, node.len) == (offset, len)
            };
            rule(tree.holds(known) == Some(holes), "the tree of holes is wrong", holes)?;
        }
        rule(self.counts.high_water >= self.size - self.counts.free, "high water below live", self.size)
    }

    /// Every byte in one node, neighbours linked both ways, sums as counted; the number of nodes.
    fn check_order(&self) -> Result<u64, Inconsistency> {
        let space = &self.space;
        let (mut end, mut before, mut nodes) = (0, Link::END, 0_u64);
        let (mut free, mut requested, mut leased) = (0, 0, (0, 0));
        let mut after_hole = false;
        for span in self.spans() {
            let rule = |holds: bool, rule| if holds { Ok(()) } else { Err(Inconsistency { rule, at: end }) };
            let slots = space.nodes.blocks.len() + space.nodes.holes.len();
            rule(nodes < slots as u64, "the address order has a cycle")?;
            rule(span.range.start == end, "a gap or an overlap between neighbours")?;
            rule(
                space.span(span.link).is_some_and(|(_, prev, _)| prev == before),
                "a neighbour is not linked back",
            )?;
            let len = span.range.end - span.range.start;
            rule(len > 0 && len.is_multiple_of(self.grain), "a length is zero or off the grain")?;
            let hole = span.link.as_hole().is_some();
            rule(!(hole && after_hole), "two holes side by side")?;
            if let Some(slot) = span.link.as_block() {
                let node = space.nodes.block(slot);
                rule(span.range.start.is_multiple_of(1 << node.align_log2()), "a block is misaligned")?;
                rule(node.generation < u32::MAX, "a block in a slot without generations")?;
                rule(node.len > 0 && len - node.len < self.grain, "a block wastes a grain")?;
                requested += node.len;
                leased.0 += u64::from(node.leases() > 0);
                leased.1 += if node.leases() > 0 { len } else { 0 };
            } else {
                free += len;
            }
            (end, before, nodes, after_hole) = (span.range.end, span.link, nodes + 1, hole);
        }
        let rule = |holds: bool, rule| if holds { Ok(()) } else { Err(Inconsistency { rule, at: end }) };
        rule(before == space.last(), "the last one is not the last")?;
        let counts = &self.counts;
        let rule = |holds: bool, rule| if holds { Ok(()) } else { Err(Inconsistency { rule, at: end }) };
        rule(end == self.size, "the nodes do not reach the end")?;
        rule(free == counts.free, "free bytes are miscounted")?;
        rule(requested == counts.requested, "requested bytes are miscounted")?;
        rule(leased == (counts.leased_blocks, counts.leased_bytes), "leases are miscounted")?;
        Ok(nodes)
    }

    /// Every listed hole in the list of its length, linked both ways; the number of listed holes.
    fn check_classes(&self) -> Result<u64, Inconsistency> {
        let space = &self.space;
        let rule = |holds: bool, rule, at| if holds { Ok(()) } else { Err(Inconsistency { rule, at }) };
        rule(space.bins.bits_hold(), "a size class bit is wrong", 0)?;
        let (mut listed, mut next) = (0, space.bins.at_or_above(Class::FIRST));
        while let Some(class) = next {
            let head = space.bins.head(class);
            let best = space.nodes.hole(head.best);
            let known = (best.offset, best.len) == (head.low, head.len);
            rule(known, "a size class does not know its low hole", head.low)?;
            let mut before = NIL;
            for (slot, node) in space.in_class(class) {
                rule(listed < space.holes(), "a size class has a cycle", node.offset)?;
                rule(node.len > 0, "a size class lists what is no hole", node.offset)?;
                rule(space.class_of(node.len) == class, "a hole in the wrong size class", node.offset)?;
                let best = slot == head.best;
                rule(
                    best || slot == head.rest || node.before == before,
                    "a size class is not linked back",
                    node.offset,
                )?;
                (before, listed) = (if best { NIL } else { slot }, listed + 1);
            }
            next = space.bins.at_or_above(class.above());
        }
        Ok(listed)
    }
}
