//! The tables of blocks and holes, and the links that put both in address order.

use alloc::vec::Vec;

/// No entry of a table.
pub(crate) const NIL: u32 = u32::MAX;
/// Set in a [`Link`] to a hole.
const HOLE: u32 = 1 << 31;
/// Entries of a table at most: what a [`Link`] can name, less [`NIL`].
pub(crate) const MOST_SLOTS: u32 = HOLE - 1;

/// A neighbour in address order: a block, a hole or nobody. Its kind is known without looking at it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Link(u32);

impl Link {
    pub(crate) const NIL: Link = Link(NIL);

    pub(crate) const fn block(slot: u32) -> Link {
        Link(slot)
    }

    pub(crate) const fn hole(slot: u32) -> Link {
        Link(slot | HOLE)
    }

    #[inline]
    pub(crate) fn as_block(self) -> Option<u32> {
        (self.0 & HOLE == 0).then_some(self.0)
    }

    #[inline]
    pub(crate) fn as_hole(self) -> Option<u32> {
        (self.0 & HOLE != 0 && self.0 != NIL).then_some(self.0 & !HOLE)
    }
}

/// A live block, or a vacant slot: 32 bytes, so that two share a cache line and none lies in two.
#[derive(Debug, Clone)]
pub(crate) struct BlockNode {
    pub(crate) offset: u64,
    /// Bytes asked for; the block has as many, rounded up to the grain. 0 iff the slot is vacant.
    pub(crate) requested: u64,
    pub(crate) prev: Link,
    /// The next vacant slot, as a block, when vacant.
    pub(crate) next: Link,
    /// Raised when the block is freed. At `u32::MAX` the slot is retired.
    pub(crate) generation: u32,
    /// Leases in the upper bits, the logarithm of the alignment in the lower six.
    meta: u32,
}

/// Bits of `meta` for the alignment.
const ALIGN_BITS: u32 = 6;
/// Leases that can be counted.
pub(crate) const MOST_LEASES: u32 = u32::MAX >> ALIGN_BITS;

impl BlockNode {
    const VACANT: BlockNode =
        BlockNode { offset: 0, requested: 0, prev: Link::NIL, next: Link::NIL, generation: 0, meta: 0 };

    pub(crate) fn align_log2(&self) -> u32 {
        self.meta & ((1 << ALIGN_BITS) - 1)
    }

    pub(crate) fn leases(&self) -> u32 {
        self.meta >> ALIGN_BITS
    }

    /// Both at once: alignments of blocks never change, and a new block has no leases.
    pub(crate) fn set(&mut self, align_log2: u32, leases: u32) {
        self.meta = align_log2 | leases << ALIGN_BITS;
    }
}

/// A hole, or a vacant slot.
#[derive(Debug, Clone)]
pub(crate) struct HoleNode {
    pub(crate) offset: u64,
    /// 0 iff the slot is vacant.
    pub(crate) len: u64,
    pub(crate) prev: Link,
    pub(crate) next: Link,
    /// Neighbours in the list of the hole's size class, unless it is the best of its class; `bin_next` is the next vacant
    /// slot when vacant.
    pub(crate) bin_prev: u32,
    pub(crate) bin_next: u32,
}

impl HoleNode {
    const VACANT: HoleNode =
        HoleNode { offset: 0, len: 0, prev: Link::NIL, next: Link::NIL, bin_prev: NIL, bin_next: NIL };

    #[inline]
    pub(crate) fn end(&self) -> u64 {
        self.offset + self.len
    }
}

/// An entry of a [`Table`]: knows how to be vacant.
pub(crate) trait Entry: Clone {
    /// A new slot.
    const NEW: Self;
    /// Makes a vacant slot point to the next vacant one.
    fn set_vacant(&mut self, next: u32);
    /// The next vacant slot.
    fn next_vacant(&self) -> u32;
    /// Whether the slot may never be used again.
    fn is_retired(&self) -> bool;
}

impl Entry for BlockNode {
    const NEW: Self = BlockNode::VACANT;

    #[inline]
    fn set_vacant(&mut self, next: u32) {
        self.requested = 0;
        self.next = Link(next);
    }

    #[inline]
    fn next_vacant(&self) -> u32 {
        self.next.0
    }

    #[inline]
    fn is_retired(&self) -> bool {
        self.generation == u32::MAX
    }
}

impl Entry for HoleNode {
    const NEW: Self = HoleNode::VACANT;

    #[inline]
    fn set_vacant(&mut self, next: u32) {
        self.len = 0;
        self.bin_next = next;
    }

    #[inline]
    fn next_vacant(&self) -> u32 {
        self.bin_next
    }

    #[inline]
    fn is_retired(&self) -> bool {
        false
    }
}

/// Entries in one vector, and a list of the vacant ones, the latest given back first.
#[derive(Debug, Clone)]
pub(crate) struct Table<E> {
    entries: Vec<E>,
    /// Head of the list of vacant slots.
    vacant: u32,
}

impl<E: Entry> Table<E> {
    pub(crate) const fn new() -> Self {
        Table { entries: Vec::new(), vacant: NIL }
    }

    /// Whether a slot can be taken with `limit` of them at most.
    #[inline]
    pub(crate) fn can_take(&self, limit: u32) -> bool {
        self.vacant != NIL || self.entries.len() < limit as usize
    }

    /// A vacant slot. Allocates only when there is none, which [`can_take`](Self::can_take) bounds.
    #[inline]
    pub(crate) fn take(&mut self) -> u32 {
        let slot = self.vacant;
        if slot != NIL {
            self.vacant = self[slot].next_vacant();
            return slot;
        }
        let slot = self.entries.len() as u32;
        self.entries.push(E::NEW);
        slot
    }

    /// Gives a slot back, which nothing names any more, or retires it.
    #[inline]
    pub(crate) fn give(&mut self, slot: u32) {
        let vacant = self.vacant;
        let entry = &mut self[slot];
        if entry.is_retired() {
            entry.set_vacant(NIL);
            return;
        }
        entry.set_vacant(vacant);
        self.vacant = slot;
    }

    /// The entry in a slot that may not exist.
    #[inline]
    pub(crate) fn get(&self, slot: u32) -> Option<&E> {
        self.entries.get(slot as usize)
    }

    /// Every slot there is, vacant or not.
    pub(crate) fn all(&self) -> &[E] {
        &self.entries
    }
}

impl<E> core::ops::Index<u32> for Table<E> {
    type Output = E;

    #[inline]
    fn index(&self, slot: u32) -> &E {
        &self.entries[slot as usize]
    }
}

impl<E> core::ops::IndexMut<u32> for Table<E> {
    #[inline]
    fn index_mut(&mut self, slot: u32) -> &mut E {
        &mut self.entries[slot as usize]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cache_line_holds_two() {
        assert_eq!((size_of::<BlockNode>(), size_of::<HoleNode>()), (32, 32));
    }

    #[test]
    fn links_know_their_kind() {
        let (block, hole) = (Link::block(7), Link::hole(7));
        assert_eq!((block.as_block(), block.as_hole()), (Some(7), None));
        assert_eq!((hole.as_block(), hole.as_hole()), (None, Some(7)));
        assert_eq!((Link::NIL.as_block(), Link::NIL.as_hole()), (None, None));
        assert_eq!(Link::hole(MOST_SLOTS - 1).as_hole(), Some(MOST_SLOTS - 1));
    }

    #[test]
    fn a_slot_with_no_generation_left_is_retired() {
        let mut blocks = Table::<BlockNode>::new();
        let slot = blocks.take();
        blocks.give(slot);
        assert_eq!(blocks.take(), slot);
        blocks[slot].generation = u32::MAX;
        blocks.give(slot);
        assert_ne!(blocks.take(), slot);
        assert_eq!(blocks[slot].requested, 0);
    }

    #[test]
    fn slots_end_at_the_limit() {
        let mut blocks = Table::<BlockNode>::new();
        assert!(blocks.can_take(2));
        let one = blocks.take();
        blocks.take();
        assert!(!blocks.can_take(2) && blocks.can_take(3));
        blocks.give(one);
        assert!(blocks.can_take(2));
    }

    #[test]
    fn leases_and_alignment_share_a_word() {
        let mut node = BlockNode::NEW;
        node.set(63, MOST_LEASES);
        assert_eq!((node.align_log2(), node.leases()), (63, MOST_LEASES));
        node.set(0, 1);
        assert_eq!((node.align_log2(), node.leases()), (0, 1));
    }
}
