//! The table of blocks and holes, and the links that put them in address order.

use alloc::vec;
use alloc::vec::Vec;

/// No slot: that of the sentinel.
pub(crate) const NIL: u32 = 0;
/// The first slot for a block; every other one from here on is, see [`Nodes::take_block`].
pub(crate) const FIRST_BLOCK: u32 = 5;
/// Set in a [`Link`] to a hole.
const HOLE: u32 = 1 << 31;
/// Blocks at once at most: there is one hole more than blocks at most, one yet while a block moves, and the sentinel.
pub(crate) const MOST_BLOCKS: u32 = (HOLE - 3) / 2;

/// A neighbour in address order, whose kind is known without looking at it. Both ends of the order lead to the sentinel,
/// which counts as a block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Link(u32);

impl Link {
    pub(crate) const END: Link = Link(NIL);

    #[inline]
    pub(crate) const fn block(slot: u32) -> Link {
        Link(slot)
    }

    #[inline]
    pub(crate) const fn hole(slot: u32) -> Link {
        Link(slot | HOLE)
    }

    #[inline]
    pub(crate) const fn slot(self) -> u32 {
        self.0 & !HOLE
    }

    #[inline]
    pub(crate) const fn is_hole(self) -> bool {
        self.0 & HOLE != 0
    }

    /// The slot of a hole.
    #[inline]
    pub(crate) fn as_hole(self) -> Option<u32> {
        self.is_hole().then_some(self.slot())
    }

    /// The slot of a block; the sentinel is none.
    #[inline]
    pub(crate) fn as_block(self) -> Option<u32> {
        (!self.is_hole() && self != Link::END).then_some(self.0)
    }
}

/// A block, a hole, or a vacant slot of either: 32 bytes, so that two share a cache line and none lies in two.
///
/// A slot is one for blocks or for holes for ever, so that it can keep its generation.
#[derive(Debug, Clone)]
pub(crate) struct Node {
    pub(crate) offset: u64,
    /// Of a hole its length. Of a block the bytes asked for; it has as many, rounded up to the grain. 0 iff vacant.
    pub(crate) len: u64,
    pub(crate) prev: Link,
    /// Of a vacant slot the next vacant one.
    pub(crate) next: Link,
    /// Of a hole the one before it in the list of its size class. Of a block its leases in the upper bits, the logarithm of
    /// its alignment in the lower six.
    pub(crate) a: u32,
    /// Of a hole the next one in the list of its size class. Of a slot for blocks its generation: raised when the block is
    /// freed; at `u32::MAX` it is never given out again.
    pub(crate) b: u32,
}

/// Bits of a block's `a` for the alignment.
const ALIGN_BITS: u32 = 6;
/// Leases that can be counted.
pub(crate) const MOST_LEASES: u32 = u32::MAX >> ALIGN_BITS;

impl Node {
    const VACANT: Node = Node { offset: 0, len: 0, prev: Link::END, next: Link::END, a: 0, b: 0 };

    /// End of a hole.
    #[inline]
    pub(crate) fn end(&self) -> u64 {
        self.offset + self.len
    }

    /// Logarithm of a block's alignment.
    #[inline]
    pub(crate) fn align_log2(&self) -> u32 {
        self.a & ((1 << ALIGN_BITS) - 1)
    }

    /// Leases on a block.
    #[inline]
    pub(crate) fn leases(&self) -> u32 {
        self.a >> ALIGN_BITS
    }

    /// Both of a block.
    #[inline]
    pub(crate) fn set_block(&mut self, align_log2: u32, leases: u32) {
        self.a = align_log2 | leases << ALIGN_BITS;
    }
}

/// The nodes in one vector, the sentinel first, and two lists of vacant ones, the latest given back first.
#[derive(Debug, Clone)]
pub(crate) struct Nodes {
    nodes: Vec<Node>,
    vacant_blocks: u32,
    vacant_holes: u32,
}

impl Nodes {
    /// The sentinel, and slots for one hole, one beside the first block, and one more while a block moves.
    pub(crate) fn new() -> Self {
        let mut nodes = Nodes { nodes: vec![Node::VACANT], vacant_blocks: NIL, vacant_holes: NIL };
        for _ in 0..3 {
            let slot = nodes.grow();
            nodes.give_hole(slot);
        }
        nodes
    }

    /// How many slots there are.
    pub(crate) fn len(&self) -> usize {
        self.nodes.len()
    }

    /// A vacant slot for a block. Allocates only when there is none, for the hole that the block may leave behind as well: a
    /// release never allocates.
    #[inline]
    pub(crate) fn take_block(&mut self) -> u32 {
        let slot = self.vacant_blocks;
        if slot == NIL {
            let hole = self.grow();
            self.give_hole(hole);
            let slot = self.grow();
            debug_assert!(slot >= FIRST_BLOCK && (slot - FIRST_BLOCK).is_multiple_of(2));
            return slot;
        }
        self.vacant_blocks = self[slot].next.slot();
        slot
    }

    /// Ends the names of a block that nothing links to any more, and gives its slot back, or retires it.
    #[inline]
    pub(crate) fn give_block(&mut self, slot: u32) {
        let vacant = self.vacant_blocks;
        let node = &mut self[slot];
        (node.len, node.next) = (0, Link::block(vacant));
        // A live block is never at the last generation.
        node.b += 1;
        if node.b != u32::MAX {
            self.vacant_blocks = slot;
        }
    }

    /// A vacant slot for a hole: there is one, by what [`take_block`](Self::take_block) sees to.
    #[inline]
    pub(crate) fn take_hole(&mut self) -> u32 {
        let slot = self.vacant_holes;
        debug_assert!(slot != NIL, "there are more holes than blocks and two");
        self.vacant_holes = self[slot].next.slot();
        slot
    }

    /// Gives the slot of a hole back that nothing links to any more.
    #[inline]
    pub(crate) fn give_hole(&mut self, slot: u32) {
        let vacant = self.vacant_holes;
        let node = &mut self[slot];
        (node.len, node.next) = (0, Link::block(vacant));
        self.vacant_holes = slot;
    }

    /// The node in a slot that may not exist.
    #[inline]
    pub(crate) fn get(&self, slot: u32) -> Option<&Node> {
        self.nodes.get(slot as usize)
    }

    /// Every slot but the sentinel, vacant or not.
    pub(crate) fn slots(&self) -> impl Iterator<Item = u32> {
        1..self.nodes.len() as u32
    }

    #[cold]
    fn grow(&mut self) -> u32 {
        let slot = self.nodes.len() as u32;
        // Bounded by the number of blocks, but for retired slots: each stands for 2^32 releases.
        assert!(slot < HOLE, "there are more retired slots than anybody lives to see");
        self.nodes.push(Node::VACANT);
        slot
    }
}

impl core::ops::Index<u32> for Nodes {
    type Output = Node;

    #[inline]
    fn index(&self, slot: u32) -> &Node {
        &self.nodes[slot as usize]
    }
}

impl core::ops::IndexMut<u32> for Nodes {
    #[inline]
    fn index_mut(&mut self, slot: u32) -> &mut Node {
        &mut self.nodes[slot as usize]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cache_line_holds_two() {
        assert_eq!(size_of::<Node>(), 32);
    }

    #[test]
    fn links_know_their_kind() {
        let (block, hole) = (Link::block(7), Link::hole(7));
        assert_eq!((block.as_block(), block.as_hole(), block.slot()), (Some(7), None, 7));
        assert_eq!((hole.as_block(), hole.as_hole(), hole.slot()), (None, Some(7), 7));
        assert_eq!((Link::END.as_block(), Link::END.as_hole()), (None, None));
    }

    #[test]
    fn a_slot_with_no_generation_left_is_retired() {
        let mut nodes = Nodes::new();
        let slot = nodes.take_block();
        nodes.give_block(slot);
        assert_eq!((nodes.take_block(), nodes[slot].b), (slot, 1));
        nodes[slot].b = u32::MAX - 1;
        nodes.give_block(slot);
        let other = nodes.take_block();
        assert!(other != slot && other != NIL && nodes[other].b == 0);
        nodes.give_block(other);
        assert_eq!(nodes.take_block(), other);
    }

    #[test]
    fn slots_of_blocks_and_holes_are_not_mixed() {
        let mut nodes = Nodes::new();
        let (block, hole) = (nodes.take_block(), nodes.take_hole());
        nodes.give_hole(hole);
        nodes.give_block(block);
        assert_eq!((nodes.take_hole(), nodes.take_block()), (hole, block));
        assert!(nodes.take_hole() != hole && nodes.get(100).is_none());
    }

    #[test]
    fn leases_and_alignment_share_a_word() {
        let mut node = Node::VACANT;
        node.set_block(63, MOST_LEASES);
        assert_eq!((node.align_log2(), node.leases()), (63, MOST_LEASES));
        node.set_block(0, 1);
        assert_eq!((node.align_log2(), node.leases()), (0, 1));
    }
}
