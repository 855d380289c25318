//! The tables of blocks and holes, and the links that put them in address order.

use alloc::vec::Vec;

/// No slot: that of the sentinel.
pub(crate) const NIL: u32 = 0;
/// The first slot for a block.
pub(crate) const FIRST_BLOCK: u32 = 1;
/// Set in a [`Link`] to a hole.
const HOLE: u32 = 1 << 31;
/// Blocks at once at most: there is one hole more than blocks at most, one yet while a block moves, and the sentinel.
pub(crate) const MOST_BLOCKS: u32 = HOLE - 3;

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

    /// The slot of a block or of the sentinel: what lies beside a hole.
    #[inline]
    pub(crate) const fn beside_hole(self) -> u32 {
        debug_assert!(self.0 & HOLE == 0);
        self.0
    }

    /// The slot of a hole.
    #[inline]
    pub(crate) fn as_hole(self) -> Option<u32> {
        (self.0 & HOLE != 0).then_some(self.0 & !HOLE)
    }

    /// The slot of a block; the sentinel is none.
    #[inline]
    pub(crate) fn as_block(self) -> Option<u32> {
        (self.0 & HOLE == 0 && self != Link::END).then_some(self.0)
    }
}

/// A block or a vacant slot for one: 32 bytes, so that two share a cache line and none lies in two.
#[derive(Debug, Clone)]
#[repr(align(32))]
pub(crate) struct BlockNode {
    pub(crate) offset: u64,
    /// The bytes asked for; it has as many, rounded up to the grain. 0 iff vacant.
    pub(crate) len: u64,
    pub(crate) prev: Link,
    /// Of a vacant slot the next vacant one.
    pub(crate) next: Link,
    /// The leases in the upper bits, the logarithm of the alignment in the lower six.
    shared: u32,
    /// Raised when the block is freed; at `u32::MAX` the slot is never given out again.
    pub(crate) generation: u32,
}

/// A hole or a vacant slot for one: as large as a block's.
#[derive(Debug, Clone)]
#[repr(align(32))]
pub(crate) struct HoleNode {
    pub(crate) offset: u64,
    /// 0 iff vacant.
    pub(crate) len: u64,
    /// The block before it, or the sentinel: no two holes are neighbours.
    pub(crate) prev: u32,
    /// The block behind it, or the sentinel. Of a vacant slot the next vacant one.
    pub(crate) next: u32,
    /// The one before it in the list of its size class; of the first one anything.
    pub(crate) before: u32,
    /// The next one in the list of its size class.
    pub(crate) after: u32,
}

/// Bits of [`BlockNode::shared`] for the alignment.
const ALIGN_BITS: u32 = 6;
/// Leases that can be counted.
pub(crate) const MOST_LEASES: u32 = u32::MAX >> ALIGN_BITS;

impl BlockNode {
    const VACANT: BlockNode =
        BlockNode { offset: 0, len: 0, prev: Link::END, next: Link::END, shared: 0, generation: 0 };

    /// Logarithm of the alignment.
    #[inline]
    pub(crate) fn align_log2(&self) -> u32 {
        self.shared & ((1 << ALIGN_BITS) - 1)
    }

    /// Leases on it.
    #[inline]
    pub(crate) fn leases(&self) -> u32 {
        self.shared >> ALIGN_BITS
    }

    /// Sets both.
    #[inline]
    pub(crate) fn share(&mut self, align_log2: u32, leases: u32) {
        self.shared = align_log2 | leases << ALIGN_BITS;
    }
}

impl HoleNode {
    const VACANT: HoleNode = HoleNode { offset: 0, len: 0, prev: NIL, next: NIL, before: NIL, after: NIL };

    #[inline]
    pub(crate) fn end(&self) -> u64 {
        self.offset + self.len
    }
}

/// The nodes in two tables, each behind a sentinel, and two lists of vacant slots, the latest given back first.
///
/// Apart, because a program touches all of its blocks, and of the slots for holes as many as it ever has holes.
#[derive(Debug, Clone)]
pub(crate) struct Nodes {
    pub(crate) blocks: Vec<BlockNode>,
    pub(crate) holes: Vec<HoleNode>,
    vacant_block: u32,
    vacant_hole: u32,
}

impl Nodes {
    pub(crate) fn new() -> Self {
        let mut nodes = Nodes { blocks: Vec::new(), holes: Vec::new(), vacant_block: NIL, vacant_hole: NIL };
        nodes.grow();
        // Above all others and of no length, so that it need not be told apart.
        nodes.holes.push(HoleNode { offset: u64::MAX, ..HoleNode::VACANT });
        nodes
    }

    /// How many slots for holes there may be, the sentinel's included: a release never allocates one.
    #[inline]
    pub(crate) fn most_holes(&self) -> usize {
        // One more than blocks, and one yet while a block moves.
        self.blocks.len() + 2
    }

    /// A vacant slot for a block, if there is one.
    #[inline]
    pub(crate) fn take_block(&mut self) -> Option<u32> {
        let slot = self.vacant_block;
        if slot == NIL {
            return None;
        }
        self.vacant_block = self.block(slot).next.beside_hole();
        Some(slot)
    }

    /// Ends the names of a block that nothing links to any more, and gives its slot back, or retires it.
    #[inline]
    pub(crate) fn give_block(&mut self, slot: u32) {
        let vacant = self.vacant_block;
        let node = self.block_mut(slot);
        (node.len, node.next) = (0, Link::block(vacant));
        // A live block is never at the last generation.
        node.generation += 1;
        if node.generation != u32::MAX {
            self.vacant_block = slot;
        }
    }

    /// A vacant slot for a hole: there is room for one, by what [`grow`](Self::grow) sees to.
    #[inline]
    pub(crate) fn take_hole(&mut self) -> u32 {
        let slot = self.vacant_hole;
        if slot == NIL {
            return self.grow_holes();
        }
        self.vacant_hole = self.hole(slot).next;
        slot
    }

    /// Gives the slot of a hole back that nothing links to any more.
    #[inline]
    pub(crate) fn give_hole(&mut self, slot: u32) {
        let vacant = self.vacant_hole;
        let node = self.hole_mut(slot);
        (node.len, node.next) = (0, vacant);
        self.vacant_hole = slot;
    }

    #[inline]
    pub(crate) fn block(&self, slot: u32) -> &BlockNode {
        &self.blocks[slot as usize]
    }

    #[inline]
    pub(crate) fn block_mut(&mut self, slot: u32) -> &mut BlockNode {
        &mut self.blocks[slot as usize]
    }

    #[inline]
    pub(crate) fn hole(&self, slot: u32) -> &HoleNode {
        &self.holes[slot as usize]
    }

    #[inline]
    pub(crate) fn hole_mut(&mut self, slot: u32) -> &mut HoleNode {
        &mut self.holes[slot as usize]
    }

    /// A new slot for a block, and room for as many holes as there may be then. All that allocates.
    pub(crate) fn grow(&mut self) -> u32 {
        let slot = self.blocks.len() as u32;
        // Bounded by the number of blocks, but for retired slots: each stands for 2^32 releases.
        assert!(slot <= MOST_BLOCKS, "there are more retired slots than anybody lives to see");
        self.blocks.push(BlockNode::VACANT);
        self.holes.reserve(self.most_holes() - self.holes.len());
        slot
    }

    #[cold]
    fn grow_holes(&mut self) -> u32 {
        let slot = self.holes.len() as u32;
        debug_assert!(self.holes.len() < self.most_holes(), "there are more holes than blocks and two");
        self.holes.push(HoleNode::VACANT);
        slot
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cache_line_holds_two() {
        assert_eq!((size_of::<BlockNode>(), align_of::<BlockNode>()), (32, 32));
        assert_eq!((size_of::<HoleNode>(), align_of::<HoleNode>()), (32, 32));
    }

    #[test]
    fn links_know_their_kind() {
        let (block, hole) = (Link::block(7), Link::hole(7));
        assert_eq!((block.as_block(), block.as_hole(), block.beside_hole()), (Some(7), None, 7));
        assert_eq!((hole.as_block(), hole.as_hole()), (None, Some(7)));
        assert_eq!((Link::END.as_block(), Link::END.as_hole()), (None, None));
    }

    #[test]
    fn a_slot_with_no_generation_left_is_retired() {
        let mut nodes = Nodes::new();
        let slot = nodes.grow();
        nodes.give_block(slot);
        assert_eq!((nodes.take_block(), nodes.block(slot).generation), (Some(slot), 1));
        nodes.block_mut(slot).generation = u32::MAX - 1;
        nodes.give_block(slot);
        assert_eq!(nodes.take_block(), None);
        let other = nodes.grow();
        assert!(other != slot && other != NIL && nodes.block(other).generation == 0);
        nodes.give_block(other);
        assert_eq!(nodes.take_block(), Some(other));
    }

    #[test]
    fn slots_are_taken_again_and_those_of_holes_without_growth() {
        let mut nodes = Nodes::new();
        for round in 1..100 {
            assert_eq!((nodes.take_block(), nodes.grow()), (None, round));
            let room = nodes.holes.capacity();
            while nodes.holes.len() < nodes.most_holes() {
                nodes.take_hole();
            }
            assert_eq!(nodes.holes.capacity(), room);
        }
        for slot in [7, 3] {
            nodes.give_hole(slot);
            nodes.give_block(slot);
        }
        assert_eq!([nodes.take_hole(), nodes.take_hole()], [3, 7]);
        assert_eq!([nodes.take_block(), nodes.take_block()], [Some(3), Some(7)]);
    }

    #[test]
    fn leases_and_alignment_share_a_word() {
        let mut node = BlockNode::VACANT;
        node.share(63, MOST_LEASES);
        assert_eq!((node.align_log2(), node.leases()), (63, MOST_LEASES));
        node.share(0, 1);
        assert_eq!((node.align_log2(), node.leases()), (0, 1));
    }
}
