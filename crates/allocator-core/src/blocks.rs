//! The slab of nodes: every byte of the arena belongs to exactly one block or hole, in address order.

use alloc::vec::Vec;
use core::ops::Range;

/// No node.
pub(crate) const NIL: u32 = u32::MAX;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// On the list of vacant slots, or retired.
    Vacant,
    Hole,
    Block,
}

/// One block or hole.
#[derive(Debug, Clone)]
pub(crate) struct Node {
    pub(crate) offset: u64,
    pub(crate) len: u64,
    /// Bytes asked for (blocks).
    pub(crate) requested: u64,
    /// Lower neighbour, `NIL` at the start of the arena.
    pub(crate) prev: u32,
    /// Upper neighbour, `NIL` at the end; the next vacant slot when vacant.
    pub(crate) next: u32,
    /// Neighbours in the list of the hole's size class.
    pub(crate) bin_prev: u32,
    pub(crate) bin_next: u32,
    /// Raised when a block is freed. At `u32::MAX` the slot can be a hole but never a block again.
    pub(crate) generation: u32,
    pub(crate) leases: u32,
    /// Logarithm of the alignment (blocks).
    pub(crate) align_log2: u8,
    pub(crate) kind: Kind,
}

impl Node {
    pub(crate) fn end(&self) -> u64 {
        self.offset + self.len
    }

    pub(crate) fn range(&self) -> Range<u64> {
        self.offset..self.end()
    }

    pub(crate) fn align(&self) -> u64 {
        1 << self.align_log2
    }
}

/// Nodes in one vector, linked in address order:
///
/// ```text
///  first ─► [block 7] ◄─► [hole 2] ◄─► [block 0] ◄─► [hole 5]      no two holes are neighbours,
///           0..64         64..96       96..512       512..1024    no byte is in two nodes or in none
///  vacant ─► slot 3 ─► slot 1 ─► NIL
/// ```
pub(crate) struct Blocks {
    nodes: Vec<Node>,
    first: u32,
    /// Head of the list of vacant slots.
    vacant: u32,
    /// Length of that list.
    spare: u32,
    /// How many slots there may be.
    limit: u32,
}

impl Blocks {
    /// An arena of one hole, in slot 0.
    pub(crate) fn new(size: u64, limit: u32) -> Self {
        let mut blocks = Self { nodes: Vec::new(), first: 0, vacant: NIL, spare: 0, limit };
        let slot = blocks.take();
        blocks.node_mut(slot).kind = Kind::Hole;
        blocks.node_mut(slot).len = size;
        blocks
    }

    pub(crate) fn node(&self, slot: u32) -> &Node {
        &self.nodes[slot as usize]
    }

    pub(crate) fn node_mut(&mut self, slot: u32) -> &mut Node {
        &mut self.nodes[slot as usize]
    }

    /// The node in a slot that may not exist.
    pub(crate) fn get(&self, slot: u32) -> Option<&Node> {
        self.nodes.get(slot as usize)
    }

    pub(crate) fn first(&self) -> u32 {
        self.first
    }

    pub(crate) fn limit(&self) -> u32 {
        self.limit
    }

    /// Whether `count` slots can be taken.
    pub(crate) fn can_take(&self, count: u32) -> bool {
        self.spare >= count || u64::from(count - self.spare) + self.nodes.len() as u64 <= self.limit.into()
    }

    /// A slot fit for a block. Allocates only when no slot is vacant.
    pub(crate) fn take(&mut self) -> u32 {
        let slot = self.vacant;
        if slot != NIL {
            self.vacant = self.node(slot).next;
            self.spare -= 1;
            return slot;
        }
        let slot = self.nodes.len() as u32;
        self.nodes.push(Node {
            offset: 0,
            len: 0,
            requested: 0,
            prev: NIL,
            next: NIL,
            bin_prev: NIL,
            bin_next: NIL,
            generation: 0,
            leases: 0,
            align_log2: 0,
            kind: Kind::Vacant,
        });
        slot
    }

    /// Gives an unlinked slot back, or retires it when its generations are used up.
    pub(crate) fn give(&mut self, slot: u32) {
        let vacant = self.vacant;
        let node = self.node_mut(slot);
        node.kind = Kind::Vacant;
        if node.generation == u32::MAX {
            return;
        }
        node.next = vacant;
        self.vacant = slot;
        self.spare += 1;
    }

    /// Links `slot` between `prev` and `next`, either of which may be `NIL`.
    pub(crate) fn link(&mut self, prev: u32, slot: u32, next: u32) {
        self.node_mut(slot).prev = prev;
        self.node_mut(slot).next = next;
        self.join(prev, slot);
        self.join(slot, next);
    }

    /// Takes `slot` out of the address order.
    pub(crate) fn unlink(&mut self, slot: u32) {
        let Node { prev, next, .. } = *self.node(slot);
        self.join(prev, next);
    }

    /// Slots in address order from `from` upwards.
    pub(crate) fn upwards(&self, from: u32) -> impl Iterator<Item = (u32, &Node)> {
        let mut slot = from;
        core::iter::from_fn(move || {
            let node = self.get(slot)?;
            let item = (slot, node);
            slot = node.next;
            Some(item)
        })
    }

    /// Slots in descending address order from `from` downwards.
    pub(crate) fn downwards(&self, from: u32) -> impl Iterator<Item = (u32, &Node)> {
        let mut slot = from;
        core::iter::from_fn(move || {
            let node = self.get(slot)?;
            let item = (slot, node);
            slot = node.prev;
            Some(item)
        })
    }

    /// Nodes that are linked in address order: all slots but the vacant and the retired.
    pub(crate) fn slots(&self) -> &[Node] {
        &self.nodes
    }

    fn join(&mut self, prev: u32, next: u32) {
        if prev == NIL {
            self.first = next;
        } else {
            self.node_mut(prev).next = next;
        }
        if next != NIL {
            self.node_mut(next).prev = prev;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slot_with_no_generation_left_is_retired() {
        let mut blocks = Blocks::new(64, 8);
        let slot = blocks.take();
        blocks.give(slot);
        assert_eq!(blocks.take(), slot);
        blocks.node_mut(slot).generation = u32::MAX;
        blocks.give(slot);
        assert_ne!(blocks.take(), slot);
    }

    #[test]
    fn slots_end_at_the_limit() {
        let mut blocks = Blocks::new(64, 3);
        assert!(blocks.can_take(2) && !blocks.can_take(3));
        let (one, _two) = (blocks.take(), blocks.take());
        assert!(!blocks.can_take(1));
        blocks.give(one);
        assert!(blocks.can_take(1) && !blocks.can_take(2));
    }
}
