//! Blocks and holes: one address order, and the holes by length and, where asked for, by address.

use core::ops::Range;

use crate::address_tree::AddressTree;
use crate::bins::{Bins, Class, Head};
use crate::nodes::{BlockNode, HoleNode, Link, MOST_SLOTS, NIL, Table};

/// Every byte of the range, in exactly one block or hole; no two holes are neighbours.
///
/// ```text
///   first ─► [block 7] ◄─► [hole 2] ◄─► [block 0] ◄─► [hole 5] ◄─ last
///            0..64         64..96       96..512       512..1024
/// ```
pub(crate) struct Space {
    pub(crate) blocks: Table<BlockNode>,
    pub(crate) holes: Table<HoleNode>,
    pub(crate) bins: Bins,
    /// The holes by address, if the placement asked for that.
    pub(crate) tree: Option<AddressTree>,
    pub(crate) first: Link,
    pub(crate) last: Link,
    /// Logarithm of the grain: classes count in grains.
    pub(crate) grain_log2: u32,
    /// Number of holes.
    count: u64,
    /// No hole is longer. Exact until the hole of that length goes.
    longest: u64,
    exact: bool,
}

/// A block or hole in address order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Span {
    pub(crate) link: Link,
    pub(crate) range: Range<u64>,
}

impl Space {
    /// One hole of `size` bytes.
    pub(crate) fn new(size: u64, grain: u64, by_address: bool) -> Self {
        let mut space = Self {
            blocks: Table::new(),
            holes: Table::new(),
            bins: Bins::new(size >> grain.trailing_zeros()),
            tree: by_address.then(AddressTree::default),
            first: Link::NIL,
            last: Link::NIL,
            grain_log2: grain.trailing_zeros(),
            count: 0,
            longest: 0,
            exact: true,
        };
        space.new_hole(Link::NIL, Link::NIL, 0, size);
        space
    }

    pub(crate) fn holes(&self) -> u64 {
        self.count
    }

    #[inline]
    pub(crate) fn class_of(&self, len: u64) -> Class {
        Class::of(len >> self.grain_log2)
    }

    /// Length of a block that was asked for with so many bytes.
    #[inline]
    pub(crate) fn rounded(&self, requested: u64) -> u64 {
        // It did not overflow when the block was made.
        let mask = (1 << self.grain_log2) - 1;
        requested.wrapping_add(mask) & !mask
    }

    /// The bytes of a live block.
    #[inline]
    pub(crate) fn block_range(&self, slot: u32) -> Range<u64> {
        let node = &self.blocks[slot];
        node.offset..node.offset + self.rounded(node.requested)
    }

    /// Holes of one size class: the lowest known, then the others, the latest made first.
    #[inline]
    pub(crate) fn in_class(&self, class: Class) -> impl Iterator<Item = (u32, &HoleNode)> {
        let head = self.bins.head(class);
        let mut rest = head.rest;
        let others = core::iter::from_fn(move || {
            let node = self.holes.get(rest)?;
            let item = (rest, node);
            rest = node.bin_next;
            Some(item)
        });
        self.holes.get(head.best).map(|node| (head.best, node)).into_iter().chain(others)
    }

    /// No hole is longer than this. O(1).
    #[inline]
    pub(crate) fn longest_bound(&self) -> u64 {
        self.longest
    }

    /// Length of the largest hole. O(1) while that is known, else O(holes of the longest class).
    pub(crate) fn largest_hole(&self) -> u64 {
        if self.exact {
            return self.longest;
        }
        let Some(class) = self.bins.longest() else { return 0 };
        self.in_class(class).map(|(_, node)| node.len).max().unwrap_or(0)
    }

    /// Makes the bound exact. O(holes of the longest class), and O(1) the next time.
    pub(crate) fn tighten(&mut self) {
        self.longest = self.largest_hole();
        self.exact = true;
    }

    /// Blocks and holes in address order from `from` upwards.
    pub(crate) fn upwards(&self, from: Link) -> impl Iterator<Item = Span> {
        let mut at = from;
        core::iter::from_fn(move || {
            let (span, _, next) = self.span(at)?;
            at = next;
            Some(span)
        })
    }

    /// Blocks and holes in descending address order from `from` downwards.
    pub(crate) fn downwards(&self, from: Link) -> impl Iterator<Item = Span> {
        let mut at = from;
        core::iter::from_fn(move || {
            let (span, prev, _) = self.span(at)?;
            at = prev;
            Some(span)
        })
    }

    /// What a link names, and its neighbours.
    pub(crate) fn span(&self, link: Link) -> Option<(Span, Link, Link)> {
        if let Some(slot) = link.as_block() {
            let node = &self.blocks[slot];
            return Some((Span { link, range: self.block_range(slot) }, node.prev, node.next));
        }
        let node = &self.holes[link.as_hole()?];
        Some((Span { link, range: node.offset..node.end() }, node.prev, node.next))
    }

    /// Puts the unlinked block `slot` into `hole` at `offset`; what is left below and above stays a hole.
    #[inline]
    pub(crate) fn occupy(&mut self, hole: u32, offset: u64, slot: u32, len: u64) {
        let block = Link::block(slot);
        let HoleNode { offset: start, len: length, prev, next, .. } = self.holes[hole];
        let (below, above) = (offset - start, start + length - (offset + len));
        let (prev, next) = match (below > 0, above > 0) {
            (false, false) => {
                self.set_next(prev, block);
                self.set_prev(next, block);
                self.drop_hole(hole);
                (prev, next)
            }
            (false, true) => {
                self.set_next(prev, block);
                self.holes[hole].prev = block;
                self.resize_hole(hole, offset + len, above);
                (prev, Link::hole(hole))
            }
            (true, false) => {
                self.set_prev(next, block);
                self.holes[hole].next = block;
                self.resize_hole(hole, start, below);
                (Link::hole(hole), next)
            }
            (true, true) => {
                self.holes[hole].next = block;
                self.resize_hole(hole, start, below);
                let rest = self.new_hole(block, next, offset + len, above);
                (Link::hole(hole), Link::hole(rest))
            }
        };
        let node = &mut self.blocks[slot];
        (node.offset, node.prev, node.next) = (offset, prev, next);
    }

    /// Turns a block's `range` into a hole, joined with the holes beside it; its slot is left to the caller. The hole.
    #[inline]
    pub(crate) fn vacate(&mut self, slot: u32, range: Range<u64>) -> u32 {
        let BlockNode { prev, next, .. } = self.blocks[slot];
        match (prev.as_hole(), next.as_hole()) {
            (None, None) => self.new_hole(prev, next, range.start, range.end - range.start),
            (Some(below), None) => {
                let start = self.holes[below].offset;
                self.holes[below].next = next;
                self.set_prev(next, Link::hole(below));
                self.resize_hole(below, start, range.end - start);
                below
            }
            (None, Some(above)) => {
                let end = self.holes[above].end();
                self.holes[above].prev = prev;
                self.set_next(prev, Link::hole(above));
                self.resize_hole(above, range.start, end - range.start);
                above
            }
            (Some(below), Some(above)) => {
                let (start, end, beyond) =
                    (self.holes[below].offset, self.holes[above].end(), self.holes[above].next);
                self.drop_hole(above);
                self.holes[below].next = beyond;
                self.set_prev(beyond, Link::hole(below));
                self.resize_hole(below, start, end - start);
                below
            }
        }
    }

    /// Gives the first `bytes` of the hole behind a block to the block before it, or takes them back: moves the border
    /// between block `slot` and what follows to `end`. The caller knows that the bytes are there.
    pub(crate) fn move_end(&mut self, slot: u32, from: u64, end: u64) {
        let next = self.blocks[slot].next;
        match next.as_hole() {
            Some(hole) if self.holes[hole].end() == end => {
                let beyond = self.holes[hole].next;
                self.blocks[slot].next = beyond;
                self.set_prev(beyond, Link::block(slot));
                self.drop_hole(hole);
            }
            Some(hole) => {
                let len = self.holes[hole].end() - end;
                self.resize_hole(hole, end, len);
            }
            None if end < from => {
                let hole = self.new_hole(Link::block(slot), next, end, from - end);
                self.blocks[slot].next = Link::hole(hole);
            }
            None => {}
        }
    }

    /// Moves the end of the whole range, which is behind the last block.
    pub(crate) fn move_top(&mut self, size: u64, new: u64) {
        self.bins.fit(new >> self.grain_log2);
        match self.last.as_hole() {
            Some(hole) if self.holes[hole].offset == new => {
                let below = self.holes[hole].prev;
                self.set_next(below, Link::NIL);
                self.drop_hole(hole);
            }
            Some(hole) => {
                let offset = self.holes[hole].offset;
                self.resize_hole(hole, offset, new - offset);
            }
            None if new > size => {
                let last = self.last;
                self.new_hole(last, Link::NIL, size, new - size);
            }
            None => {}
        }
    }

    /// A new hole between its neighbours.
    fn new_hole(&mut self, prev: Link, next: Link, offset: u64, len: u64) -> u32 {
        debug_assert!(self.holes.can_take(MOST_SLOTS), "there are no more holes than blocks and two");
        let slot = self.holes.take();
        self.set_next(prev, Link::hole(slot));
        self.set_prev(next, Link::hole(slot));
        let node = &mut self.holes[slot];
        (node.offset, node.len, node.prev, node.next) = (offset, len, prev, next);
        self.count += 1;
        self.enlist(slot, self.class_of(len), offset);
        self.heard_of(len);
        if let Some(tree) = &mut self.tree {
            tree.insert(slot, offset, len);
        }
        slot
    }

    /// Ends a hole, which its neighbours know of no more.
    #[inline]
    fn drop_hole(&mut self, slot: u32) {
        let HoleNode { offset, len, .. } = self.holes[slot];
        self.delist(slot, self.class_of(len));
        self.exact &= len != self.longest;
        if let Some(tree) = &mut self.tree {
            tree.remove(offset);
        }
        self.count -= 1;
        if self.count == 0 {
            (self.longest, self.exact) = (0, true);
        }
        self.holes.give(slot);
    }

    /// Changes a hole that keeps its place among its neighbours.
    #[inline]
    fn resize_hole(&mut self, slot: u32, offset: u64, len: u64) {
        let HoleNode { offset: before, len: length, .. } = self.holes[slot];
        let (from, to) = (self.class_of(length), self.class_of(len));
        let node = &mut self.holes[slot];
        (node.offset, node.len) = (offset, len);
        if from != to {
            self.delist(slot, from);
            self.enlist(slot, to, offset);
        } else if self.bins.head(to).best == slot {
            self.bins.head_mut(to).low = offset;
        }
        self.exact &= length != self.longest || len > length;
        self.heard_of(len);
        if let Some(tree) = &mut self.tree {
            tree.resize(before, offset, len);
        }
    }

    #[inline]
    fn heard_of(&mut self, len: u64) {
        if len >= self.longest {
            (self.longest, self.exact) = (len, true);
        }
    }

    /// Puts a hole into its class: the lower of it and the best becomes the best, the other the first of the rest.
    #[inline]
    fn enlist(&mut self, slot: u32, class: Class, offset: u64) {
        let head = self.bins.head_mut(class);
        if head.best == NIL {
            self.bins.set_only(class, slot, offset);
            return;
        }
        let (best, other) = if offset < head.low { (slot, head.best) } else { (head.best, slot) };
        let rest = head.rest;
        *head = Head { low: offset.min(head.low), best, rest: other };
        let node = &mut self.holes[other];
        (node.bin_prev, node.bin_next) = (NIL, rest);
        if rest != NIL {
            self.holes[rest].bin_prev = other;
        }
    }

    #[inline]
    fn delist(&mut self, slot: u32, class: Class) {
        let head = self.bins.head_mut(class);
        if head.best != slot {
            let HoleNode { bin_prev, bin_next, .. } = self.holes[slot];
            if bin_prev == NIL {
                head.rest = bin_next;
            } else {
                self.holes[bin_prev].bin_next = bin_next;
            }
            if bin_next != NIL {
                self.holes[bin_next].bin_prev = bin_prev;
            }
        } else if head.rest == NIL {
            self.bins.clear(class);
        } else {
            let best = head.rest;
            let HoleNode { offset, bin_next, .. } = self.holes[best];
            *head = Head { low: offset, best, rest: bin_next };
            if bin_next != NIL {
                self.holes[bin_next].bin_prev = NIL;
            }
        }
    }

    #[inline]
    fn set_next(&mut self, link: Link, next: Link) {
        if let Some(slot) = link.as_block() {
            self.blocks[slot].next = next;
        } else if let Some(slot) = link.as_hole() {
            self.holes[slot].next = next;
        } else {
            self.first = next;
        }
    }

    #[inline]
    fn set_prev(&mut self, link: Link, prev: Link) {
        if let Some(slot) = link.as_block() {
            self.blocks[slot].prev = prev;
        } else if let Some(slot) = link.as_hole() {
            self.holes[slot].prev = prev;
        } else {
            self.last = prev;
        }
    }
}
