//! Blocks and holes: one address order, and the holes by length and, where asked for, by address.

use core::ops::Range;

use crate::address_tree::AddressTree;
use crate::bins::{Bins, Class, Head};
use crate::nodes::{Link, NIL, Node, Nodes};

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
    /// Logarithm of the grain: classes count in grains.
    grain_log2: u32,
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
            nodes: Nodes::new(),
            bins: Bins::new(size >> grain.trailing_zeros()),
            tree: by_address.then(AddressTree::default),
            grain_log2: grain.trailing_zeros(),
            count: 0,
            longest: 0,
            exact: true,
        };
        space.cover();
        space.new_hole(Link::END, Link::END, 0, size);
        space
    }

    /// The lowest block or hole.
    pub(crate) fn first(&self) -> Link {
        self.nodes[NIL].next
    }

    /// The highest block or hole.
    pub(crate) fn last(&self) -> Link {
        self.nodes[NIL].prev
    }

    pub(crate) fn holes(&self) -> u64 {
        self.count
    }

    pub(crate) fn grain(&self) -> u64 {
        1 << self.grain_log2
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
        let node = &self.nodes[slot];
        node.offset..node.offset + self.rounded(node.len)
    }

    /// Holes of one size class: its low one, then the others, the latest made first.
    #[inline]
    pub(crate) fn in_class(&self, class: Class) -> impl Iterator<Item = (u32, &Node)> {
        let head = self.bins.head(class);
        let mut slots = [head.best, head.rest];
        core::iter::from_fn(move || {
            let [slot, next] = slots;
            if slot == NIL {
                return None;
            }
            let node = &self.nodes[slot];
            // The best one is in no list; its followers begin with the rest.
            slots = [next, if next == NIL { NIL } else { self.nodes[next].b }];
            Some((slot, node))
        })
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
        let mut longest = 0;
        for (_, node) in self.in_class(class) {
            longest = longest.max(node.len);
            // None is longer, and where all are equal this is the first.
            if longest == self.longest {
                break;
            }
        }
        longest
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

    /// What a link names, and its neighbours; nothing behind the ends.
    pub(crate) fn span(&self, link: Link) -> Option<(Span, Link, Link)> {
        let node = &self.nodes[link.slot()];
        let range = match link.as_block() {
            Some(slot) => self.block_range(slot),
            None => link.as_hole().map(|_| node.offset..node.end())?,
        };
        Some((Span { link, range }, node.prev, node.next))
    }

    /// A slot for a block.
    #[inline]
    pub(crate) fn take_block(&mut self) -> u32 {
        let slot = self.nodes.take_block();
        self.cover();
        slot
    }

    /// Lets the tree make room for every slot, of which about half are for holes.
    #[inline]
    fn cover(&mut self) {
        if let Some(tree) = &mut self.tree {
            tree.cover(self.nodes.len(), self.nodes.len() / 2 + 2);
        }
    }

    /// Puts the unlinked block `slot` into `hole` at `offset`; what is left below and above stays a hole.
    #[inline]
    pub(crate) fn occupy(&mut self, hole: u32, offset: u64, slot: u32, len: u64) {
        let block = Link::block(slot);
        let Node { offset: start, len: length, mut prev, mut next, .. } = self.nodes[hole];
        let (below, above) = (offset - start, start + length - (offset + len));
        if below == 0 {
            self.nodes[prev.slot()].next = block;
            if above == 0 {
                self.nodes[next.slot()].prev = block;
                self.drop_hole(hole);
            } else {
                self.nodes[hole].prev = block;
                self.resize_hole(hole, offset + len, above);
                next = Link::hole(hole);
            }
        } else {
            self.nodes[hole].next = block;
            self.resize_hole(hole, start, below);
            prev = Link::hole(hole);
            if above == 0 {
                self.nodes[next.slot()].prev = block;
            } else {
                next = Link::hole(self.new_hole(block, next, offset + len, above));
            }
        }
        let node = &mut self.nodes[slot];
        (node.offset, node.prev, node.next) = (offset, prev, next);
    }

    /// Turns a block's `range` into a hole, joined with the holes beside it; its slot is left to the caller. The hole.
    #[inline]
    pub(crate) fn vacate(&mut self, slot: u32, range: Range<u64>) -> u32 {
        let Node { prev, next, .. } = self.nodes[slot];
        if !prev.is_hole() {
            if !next.is_hole() {
                return self.new_hole(prev, next, range.start, range.end - range.start);
            }
            let end = self.nodes[next.slot()].end();
            self.nodes[next.slot()].prev = prev;
            self.nodes[prev.slot()].next = next;
            self.resize_hole(next.slot(), range.start, end - range.start);
            return next.slot();
        }
        let (mut end, mut beyond) = (range.end, next);
        if next.is_hole() {
            let above = &self.nodes[next.slot()];
            (end, beyond) = (above.end(), above.next);
            self.drop_hole(next.slot());
        }
        let start = self.nodes[prev.slot()].offset;
        self.nodes[prev.slot()].next = beyond;
        self.nodes[beyond.slot()].prev = prev;
        self.resize_hole(prev.slot(), start, end - start);
        prev.slot()
    }

    /// Moves the border between block `slot`, which ends at `from`, and the hole behind it to `end`; makes that hole, or
    /// ends it. The caller knows that the bytes are there.
    pub(crate) fn move_end(&mut self, slot: u32, from: u64, end: u64) {
        let next = self.nodes[slot].next;
        match next.as_hole() {
            Some(hole) if self.nodes[hole].end() == end => {
                let beyond = self.nodes[hole].next;
                self.nodes[slot].next = beyond;
                self.nodes[beyond.slot()].prev = Link::block(slot);
                self.drop_hole(hole);
            }
            Some(hole) => {
                let len = self.nodes[hole].end() - end;
                self.resize_hole(hole, end, len);
            }
            None if end < from => {
                self.new_hole(Link::block(slot), next, end, from - end);
            }
            None => {}
        }
    }

    /// Moves the end of the whole range, which is behind the last block.
    pub(crate) fn move_top(&mut self, size: u64, new: u64) {
        self.bins.fit(new >> self.grain_log2);
        let last = self.last();
        match last.as_hole() {
            Some(hole) if self.nodes[hole].offset == new => {
                let below = self.nodes[hole].prev;
                self.nodes[below.slot()].next = Link::END;
                self.nodes[NIL].prev = below;
                self.drop_hole(hole);
            }
            Some(hole) => {
                let offset = self.nodes[hole].offset;
                self.resize_hole(hole, offset, new - offset);
            }
            None if new > size => {
                self.new_hole(last, Link::END, size, new - size);
            }
            None => {}
        }
    }

    /// A new hole between its neighbours.
    fn new_hole(&mut self, prev: Link, next: Link, offset: u64, len: u64) -> u32 {
        let slot = self.nodes.take_hole();
        self.nodes[prev.slot()].next = Link::hole(slot);
        self.nodes[next.slot()].prev = Link::hole(slot);
        let node = &mut self.nodes[slot];
        (node.offset, node.len, node.prev, node.next) = (offset, len, prev, next);
        self.count += 1;
        self.enlist(slot, self.class_of(len), offset, len);
        self.heard_of(len);
        if let Some(tree) = &mut self.tree {
            tree.insert(slot, offset, len);
        }
        slot
    }

    /// Ends a hole, which its neighbours know of no more.
    #[inline]
    fn drop_hole(&mut self, slot: u32) {
        let Node { len, .. } = self.nodes[slot];
        self.delist(slot, self.class_of(len));
        self.exact &= len != self.longest;
        if let Some(tree) = &mut self.tree {
            tree.remove(slot);
        }
        self.count -= 1;
        if self.count == 0 {
            (self.longest, self.exact) = (0, true);
        }
        self.nodes.give_hole(slot);
    }

    /// Changes a hole that keeps its place among its neighbours.
    #[inline]
    fn resize_hole(&mut self, slot: u32, offset: u64, len: u64) {
        let node = &mut self.nodes[slot];
        let length = node.len;
        (node.offset, node.len) = (offset, len);
        let (from, to) = (self.class_of(length), self.class_of(len));
        if from != to {
            self.delist(slot, from);
            self.enlist(slot, to, offset, len);
        } else {
            let head = self.bins.head_mut(to);
            if head.best == slot {
                (head.low, head.len) = (offset, len);
            }
        }
        self.exact &= length != self.longest;
        self.heard_of(len);
        if let Some(tree) = &mut self.tree {
            tree.resize(slot, offset, len);
        }
    }

    #[inline]
    fn heard_of(&mut self, len: u64) {
        if len >= self.longest {
            (self.longest, self.exact) = (len, true);
        }
    }

    /// Puts a hole into its class: the lower of it and the best becomes the best, the other the first of the rest.
    #[inline(always)]
    fn enlist(&mut self, slot: u32, class: Class, offset: u64, len: u64) {
        let head = self.bins.head_mut(class);
        if head.best == NIL {
            self.bins.set_only(class, slot, offset, len);
            return;
        }
        let rest = head.rest;
        // Which of the two is lower cannot be foreseen: selections, no jump.
        let lower = offset < head.low;
        let other = if lower { head.best } else { slot };
        *head = Head {
            low: if lower { offset } else { head.low },
            len: if lower { len } else { head.len },
            best: if lower { slot } else { head.best },
            rest: other,
        };
        let node = &mut self.nodes[other];
        (node.a, node.b) = (NIL, rest);
        // Without a rest this goes to the sentinel, which has no use for it.
        self.nodes[rest].a = other;
    }

    #[inline(always)]
    fn delist(&mut self, slot: u32, class: Class) {
        let head = self.bins.head_mut(class);
        if head.best != slot {
            let Node { a, b, .. } = self.nodes[slot];
            if a == NIL {
                head.rest = b;
            } else {
                self.nodes[a].b = b;
            }
            self.nodes[b].a = a;
        } else if head.rest == NIL {
            self.bins.clear(class);
        } else {
            let best = head.rest;
            let Node { offset, len, b, .. } = self.nodes[best];
            *head = Head { low: offset, len, best, rest: b };
            self.nodes[b].a = NIL;
        }
    }
}
