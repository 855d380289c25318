//! Blocks and holes: one address order, and the holes by length and, where asked for, by address.

use core::ops::Range;

use crate::address_tree::AddressTree;
use crate::bins::{Bins, Class};
use crate::nodes::{BlockNode, HoleNode, Link, NIL, Nodes};

/// Every byte of the range, in exactly one block or hole; no two holes are neighbours.
///
/// ```text
///   sentinel ◄─► [block 7] ◄─► [hole 2] ◄─► [block 1] ◄─► [hole 5] ◄─► sentinel
///                0..64         64..96       96..512       512..1024
/// ```
pub(crate) struct Space {
    pub(crate) nodes: Nodes,
    pub(crate) bins: Bins,
    /// The holes by address, if the placement asked for that.
    pub(crate) tree: Option<AddressTree>,
    /// One less than the grain.
    mask: u64,
    /// Number of holes.
    count: u64,
    /// No hole is longer. Exact while the hole in the slot `long` is of that length.
    longest: u64,
    long: u32,
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
            nodes: Nodes::new(),
            bins: Bins::new(size, grain),
            tree: by_address.then(AddressTree::default),
            mask: grain - 1,
            count: 0,
            longest: 0,
            long: NIL,
        };
        space.cover();
        space.new_hole(NIL, NIL, 0, size);
        space
    }

    /// The lowest block or hole.
    pub(crate) fn first(&self) -> Link {
        self.nodes.block(NIL).next
    }

    /// The highest block or hole.
    pub(crate) fn last(&self) -> Link {
        self.nodes.block(NIL).prev
    }

    pub(crate) fn holes(&self) -> u64 {
        self.count
    }

    pub(crate) fn grain(&self) -> u64 {
        self.mask + 1
    }

    #[inline]
    pub(crate) fn class_of(&self, len: u64) -> Class {
        self.bins.class_of(len)
    }

    /// Length of a block that was asked for with so many bytes.
    #[inline]
    pub(crate) fn rounded(&self, requested: u64) -> u64 {
        // It did not overflow when the block was made.
        requested.wrapping_add(self.mask) & !self.mask
    }

    /// The bytes of a live block.
    #[inline]
    pub(crate) fn block_range(&self, slot: u32) -> Range<u64> {
        let node = self.nodes.block(slot);
        node.offset..node.offset + self.rounded(node.len)
    }

    /// Holes of one size class: its low one, then the others, the latest made first.
    #[inline]
    pub(crate) fn in_class(&self, class: Class) -> impl Iterator<Item = (u32, &HoleNode)> {
        let head = self.bins.head(class);
        let mut slots = [head.best, head.rest];
        core::iter::from_fn(move || {
            let [slot, next] = slots;
            if slot == NIL {
                return None;
            }
            let node = self.nodes.hole(slot);
            // The best one is in no list; its followers begin with the rest.
            slots = [next, if next == NIL { NIL } else { self.nodes.hole(next).after }];
            Some((slot, node))
        })
    }

    /// No hole is longer than this. O(1).
    #[inline]
    pub(crate) fn longest_bound(&self) -> u64 {
        self.longest
    }

    /// Length of the largest hole. O(1) while that is known, else O(holes of the longest class).
    #[inline]
    pub(crate) fn largest_hole(&self) -> u64 {
        if self.is_exact() { self.longest } else { self.nodes.hole(self.find_longest()).len }
    }

    #[inline]
    fn is_exact(&self) -> bool {
        self.nodes.hole(self.long).len == self.longest
    }

    /// Makes the bound exact, and returns it. O(holes of the longest class), and O(1) the next time.
    #[inline]
    pub(crate) fn tighten(&mut self) -> u64 {
        if !self.is_exact() {
            self.long = self.find_longest();
            self.longest = self.nodes.hole(self.long).len;
        }
        self.longest
    }

    /// The slot of a hole of which none is longer; the sentinel's, of no length, if there is no hole.
    #[cold]
    fn find_longest(&self) -> u32 {
        let Some(class) = self.bins.longest() else { return NIL };
        let mut longest = NIL;
        for (slot, node) in self.in_class(class) {
            if node.len > self.nodes.hole(longest).len {
                longest = slot;
            }
            // None is longer, and where all are equal this is the first.
            if node.len == self.longest {
                break;
            }
        }
        longest
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

    /// What a link names, and its neighbours; nothing behind the ends.
    pub(crate) fn span(&self, link: Link) -> Option<(Span, Link, Link)> {
        if let Some(slot) = link.as_hole() {
            let node = self.nodes.hole(slot);
            let span = Span { link, range: node.offset..node.end() };
            return Some((span, Link::block(node.prev), Link::block(node.next)));
        }
        let slot = link.as_block()?;
        let node = self.nodes.block(slot);
        Some((Span { link, range: self.block_range(slot) }, node.prev, node.next))
    }

    /// A new slot for a block, and room for what its release may need.
    pub(crate) fn grow(&mut self) -> u32 {
        let slot = self.nodes.grow();
        self.cover();
        slot
    }

    /// Lets the tree make room for every hole there may be.
    fn cover(&mut self) {
        if let Some(tree) = &mut self.tree {
            tree.cover(self.nodes.most_holes());
        }
    }

    /// Puts the unlinked block `slot` into `hole` at `offset`; what is left below and above stays a hole. The block's node.
    #[inline]
    pub(crate) fn occupy(&mut self, hole: u32, offset: u64, slot: u32, len: u64) -> &mut BlockNode {
        let HoleNode { offset: start, len: length, prev, next, .. } = *self.nodes.hole(hole);
        let (end, top) = (offset + len, start + length);
        let links = if offset == start {
            self.nodes.block_mut(prev).next = Link::block(slot);
            if end == top {
                self.nodes.block_mut(next).prev = Link::block(slot);
                self.drop_hole(hole, length);
                (Link::block(prev), Link::block(next))
            } else {
                self.nodes.hole_mut(hole).prev = slot;
                self.resize_hole(hole, length, end, top - end);
                (Link::block(prev), Link::hole(hole))
            }
        } else {
            self.occupy_above(hole, offset, slot, len)
        };
        let node = self.nodes.block_mut(slot);
        (node.offset, node.prev, node.next) = (offset, links.0, links.1);
        node
    }

    /// [`occupy`](Self::occupy) where something is left below; what the block is to be linked to.
    #[inline(never)]
    fn occupy_above(&mut self, hole: u32, offset: u64, slot: u32, len: u64) -> (Link, Link) {
        let HoleNode { offset: start, len: length, next, .. } = *self.nodes.hole(hole);
        let (end, top) = (offset + len, start + length);
        self.nodes.hole_mut(hole).next = slot;
        self.resize_hole(hole, length, start, offset - start);
        if end == top {
            self.nodes.block_mut(next).prev = Link::block(slot);
            (Link::hole(hole), Link::block(next))
        } else {
            (Link::hole(hole), Link::hole(self.new_hole(slot, next, end, top - end)))
        }
    }

    /// Turns a block's `range` into a hole, joined with the holes beside it; its slot is left to the caller. The hole.
    #[inline]
    pub(crate) fn vacate(&mut self, slot: u32, range: Range<u64>) -> u32 {
        let BlockNode { prev, next, .. } = *self.nodes.block(slot);
        let (hole, length, start, end) = match (prev.as_hole(), next.as_hole()) {
            (None, None) => {
                let (prev, next) = (prev.beside_hole(), next.beside_hole());
                return self.new_hole(prev, next, range.start, range.end - range.start);
            }
            (None, Some(above)) => {
                let node = self.nodes.hole_mut(above);
                let HoleNode { offset, len, .. } = *node;
                node.prev = prev.beside_hole();
                self.nodes.block_mut(prev.beside_hole()).next = next;
                (above, len, range.start, offset + len)
            }
            (Some(below), above) => {
                let (mut end, mut beyond) = (range.end, next);
                if let Some(above) = above {
                    let HoleNode { offset, len, next, .. } = *self.nodes.hole(above);
                    (end, beyond) = (offset + len, Link::block(next));
                    self.drop_hole(above, len);
                }
                let beyond = beyond.beside_hole();
                self.nodes.block_mut(beyond).prev = prev;
                let node = self.nodes.hole_mut(below);
                node.next = beyond;
                (below, node.len, node.offset, end)
            }
        };
        self.resize_hole(hole, length, start, end - start);
        self.heard_of(hole, end - start);
        hole
    }

    /// Moves the border between block `slot`, which ends at `from`, and the hole behind it to `end`; makes that hole, or
    /// ends it. The caller knows that the bytes are there.
    pub(crate) fn move_end(&mut self, slot: u32, from: u64, end: u64) {
        let next = self.nodes.block(slot).next;
        match next.as_hole() {
            Some(hole) => {
                let HoleNode { offset, len, next: beyond, .. } = *self.nodes.hole(hole);
                if offset + len == end {
                    self.nodes.block_mut(slot).next = Link::block(beyond);
                    self.nodes.block_mut(beyond).prev = Link::block(slot);
                    self.drop_hole(hole, len);
                } else {
                    let longer = offset + len - end;
                    self.resize_hole(hole, len, end, longer);
                    self.heard_of(hole, longer);
                }
            }
            None if end < from => {
                self.new_hole(slot, next.beside_hole(), end, from - end);
            }
            None => {}
        }
    }

    /// Moves the end of the whole range, which is behind the last block.
    pub(crate) fn move_top(&mut self, size: u64, new: u64) {
        self.bins.fit(new);
        let last = self.last();
        match last.as_hole() {
            Some(hole) => {
                let HoleNode { offset, len, prev: below, .. } = *self.nodes.hole(hole);
                if offset == new {
                    self.nodes.block_mut(below).next = Link::END;
                    self.nodes.block_mut(NIL).prev = Link::block(below);
                    self.drop_hole(hole, len);
                } else {
                    self.resize_hole(hole, len, offset, new - offset);
                    self.heard_of(hole, new - offset);
                }
            }
            None if new > size => {
                self.new_hole(last.beside_hole(), NIL, size, new - size);
            }
            None => {}
        }
    }

    /// A new hole between its neighbours.
    #[inline(always)]
    fn new_hole(&mut self, prev: u32, next: u32, offset: u64, len: u64) -> u32 {
        let slot = self.nodes.take_hole();
        self.nodes.block_mut(prev).next = Link::hole(slot);
        self.nodes.block_mut(next).prev = Link::hole(slot);
        let node = self.nodes.hole_mut(slot);
        (node.offset, node.len, node.prev, node.next) = (offset, len, prev, next);
        self.count += 1;
        let class = self.class_of(len);
        self.bins.put(&mut self.nodes.holes, class, slot, offset, len);
        self.heard_of(slot, len);
        if let Some(tree) = &mut self.tree {
            tree.insert(slot, offset, len);
        }
        slot
    }

    /// Ends a hole, which its neighbours know of no more.
    #[inline(always)]
    fn drop_hole(&mut self, slot: u32, len: u64) {
        let class = self.class_of(len);
        self.bins.take(&mut self.nodes.holes, class, slot);
        if let Some(tree) = &mut self.tree {
            tree.remove(slot);
        }
        self.count -= 1;
        self.nodes.give_hole(slot);
    }

    /// Changes a hole of `length` that keeps its place among its neighbours. If it may be longer now, the caller
    /// calls [`heard_of`](Self::heard_of).
    #[inline(always)]
    fn resize_hole(&mut self, slot: u32, length: u64, offset: u64, len: u64) {
        let (from, to) = (self.class_of(length), self.class_of(len));
        let holes = &mut self.nodes.holes[..];
        let node = &mut holes[slot as usize];
        (node.offset, node.len) = (offset, len);
        if from != to {
            self.bins.take(holes, from, slot);
            self.bins.put(holes, to, slot, offset, len);
        } else {
            let head = self.bins.head_mut(to);
            if head.best == slot {
                (head.low, head.len) = (offset, len);
            }
        }
        if let Some(tree) = &mut self.tree {
            tree.resize(slot, offset, len);
        }
    }

    #[inline]
    fn heard_of(&mut self, slot: u32, len: u64) {
        if len >= self.longest {
            (self.longest, self.long) = (len, slot);
        }
    }
}
