//! Blocks and holes together: the address order, and the holes by size class.

use crate::bins::{Bins, Class};
use crate::blocks::{Blocks, Kind, NIL, Node};

/// The nodes and the size classes of the holes among them, kept in step.
pub(crate) struct Space {
    pub(crate) blocks: Blocks,
    pub(crate) bins: Bins,
    /// Logarithm of the grain: classes count in grains.
    grain_log2: u32,
    holes: u64,
}

impl Space {
    pub(crate) fn new(size: u64, grain: u64, limit: u32) -> Self {
        let mut space = Self {
            blocks: Blocks::new(size, limit),
            bins: Bins::new(),
            grain_log2: grain.trailing_zeros(),
            holes: 0,
        };
        space.enlist(0);
        space
    }

    pub(crate) fn holes(&self) -> u64 {
        self.holes
    }

    pub(crate) fn class_of(&self, len: u64) -> Class {
        Class::of(len >> self.grain_log2)
    }

    /// Holes of one size class, latest freed first.
    pub(crate) fn in_class(&self, class: Class) -> impl Iterator<Item = (u32, &Node)> {
        let mut slot = self.bins.head(class);
        core::iter::from_fn(move || {
            let node = self.blocks.get(slot)?;
            let item = (slot, node);
            slot = node.bin_next;
            Some(item)
        })
    }

    /// Length of the largest hole. O(holes in the longest class).
    pub(crate) fn largest_hole(&self) -> u64 {
        let Some(class) = self.bins.longest() else { return 0 };
        self.in_class(class).map(|(_, node)| node.len).max().unwrap_or(0)
    }

    /// Puts the unlinked `slot` into `hole` at `offset`; what is left below and above stays a hole.
    /// Takes at most one more slot.
    pub(crate) fn occupy(&mut self, hole: u32, offset: u64, slot: u32, len: u64) {
        self.delist(hole);
        let Node { offset: start, len: length, prev, next, .. } = *self.blocks.node(hole);
        let (below, above) = (offset - start, start + length - (offset + len));
        match (below > 0, above > 0) {
            (false, false) => {
                self.blocks.link(prev, slot, next);
                self.blocks.give(hole);
            }
            (false, true) => {
                self.blocks.link(prev, slot, hole);
                self.set_hole(hole, offset + len, above);
            }
            (true, _) => {
                self.blocks.link(hole, slot, next);
                self.set_hole(hole, start, below);
                if above > 0 {
                    let rest = self.blocks.take();
                    self.blocks.link(slot, rest, next);
                    self.set_hole(rest, offset + len, above);
                }
            }
        }
        let node = self.blocks.node_mut(slot);
        node.kind = Kind::Block;
        node.offset = offset;
        node.len = len;
    }

    /// Turns the range of the block in `slot` into a hole, joined with the holes beside it, and unlinks
    /// `slot`, which is left to the caller. Takes a slot only when there is no hole beside it.
    pub(crate) fn vacate(&mut self, slot: u32) {
        let hole = self.join_holes(slot);
        if hole == NIL {
            let Node { offset, len, prev, next, .. } = *self.blocks.node(slot);
            let hole = self.blocks.take();
            self.blocks.link(prev, hole, next);
            self.set_hole(hole, offset, len);
        }
    }

    /// Frees the block in `slot` and the slot itself, which may live on as the hole. Never takes a slot,
    /// so freeing cannot fail.
    pub(crate) fn free(&mut self, slot: u32) {
        let hole = self.join_holes(slot);
        if hole == NIL {
            let Node { offset, len, .. } = *self.blocks.node(slot);
            self.set_hole(slot, offset, len);
        } else {
            self.blocks.give(slot);
        }
    }

    /// Gives the range of the block in `slot` to the holes beside it and unlinks `slot`; the joined
    /// hole, or `NIL` (and nothing done) when there is none.
    fn join_holes(&mut self, slot: u32) -> u32 {
        let Node { offset, len, prev, next, .. } = *self.blocks.node(slot);
        let (below, above) = (self.hole_at(prev), self.hole_at(next));
        match (below, above) {
            (None, None) => NIL,
            (Some(start), None) => {
                self.delist(prev);
                self.blocks.unlink(slot);
                self.set_hole(prev, start, offset + len - start);
                prev
            }
            (None, Some(_)) => {
                self.delist(next);
                let end = self.blocks.node(next).end();
                self.blocks.unlink(slot);
                self.set_hole(next, offset, end - offset);
                next
            }
            (Some(start), Some(_)) => {
                self.delist(prev);
                self.delist(next);
                let end = self.blocks.node(next).end();
                self.blocks.unlink(slot);
                self.blocks.unlink(next);
                self.blocks.give(next);
                self.set_hole(prev, start, end - start);
                prev
            }
        }
    }

    /// Offset of the hole in `slot`, if it is one.
    fn hole_at(&self, slot: u32) -> Option<u64> {
        let node = self.blocks.get(slot)?;
        (node.kind == Kind::Hole).then_some(node.offset)
    }

    /// Makes the linked, unlisted `slot` a hole and lists it.
    fn set_hole(&mut self, slot: u32, offset: u64, len: u64) {
        let node = self.blocks.node_mut(slot);
        node.kind = Kind::Hole;
        node.offset = offset;
        node.len = len;
        self.enlist(slot);
    }

    fn enlist(&mut self, slot: u32) {
        let class = self.class_of(self.blocks.node(slot).len);
        let head = self.bins.head(class);
        let node = self.blocks.node_mut(slot);
        node.bin_prev = NIL;
        node.bin_next = head;
        if head != NIL {
            self.blocks.node_mut(head).bin_prev = slot;
        }
        self.bins.set_head(class, slot);
        self.holes += 1;
    }

    fn delist(&mut self, slot: u32) {
        let Node { len, bin_prev, bin_next, .. } = *self.blocks.node(slot);
        if bin_next != NIL {
            self.blocks.node_mut(bin_next).bin_prev = bin_prev;
        }
        if bin_prev == NIL {
            let class = self.class_of(len);
            self.bins.set_head(class, bin_next);
        } else {
            self.blocks.node_mut(bin_prev).bin_next = bin_next;
        }
        self.holes -= 1;
    }
}
