//! The holes by address, with the longest below each: the lowest hole that fits in O(log n).

use alloc::vec::Vec;

use crate::Fit;

/// A treap over the holes: a search tree by offset, and a heap by priorities that look random.
///
/// ```text
///              (offset 512, len 40, most 96)            most = the longest hole at or below the node
///               ┌──────────┴──────────┐
///   (offset 64, len 32, most 96)     (offset 900, len 8, most 8)
///               └─ (offset 200, len 96, most 96)
/// ```
/// Expected depth O(log n), which is also that of the recursion. Priorities are drawn from the slots, so whoever chooses
/// which blocks to free in knowledge of them can make it deeper: it is not for requests of an adversary. Source: Seidel and Aragon, "Randomized Search Trees", Algorithmica 16 (1996); the
/// augmentation is that of an interval tree. Nodes have the slots of the holes they stand for.
#[derive(Debug, Clone)]
pub(crate) struct AddressTree {
    nodes: Vec<TreeNode>,
    root: u32,
}

#[derive(Debug, Clone)]
struct TreeNode {
    offset: u64,
    len: u64,
    /// The longest of this hole and those below it in the tree.
    most: u64,
    left: u32,
    right: u32,
}

impl Default for AddressTree {
    fn default() -> Self {
        AddressTree { nodes: Vec::new(), root: NIL }
    }
}

impl AddressTree {
    /// The lowest offset at which `fit` fits, and the slot of the hole there.
    ///
    /// O(log n) without alignment; with it, O(log n) more for each hole that is long enough but not where it would be
    /// aligned.
    pub(crate) fn lowest(&self, fit: &Fit) -> Option<(u32, u64)> {
        self.lowest_below(self.root, fit)
    }

    /// Makes room for the holes of so many slots, so that later insertions allocate nothing.
    #[inline]
    pub(crate) fn cover(&mut self, slots: usize) {
        if slots > self.nodes.len() {
            self.nodes.resize(slots, TreeNode { offset: 0, len: 0, most: 0, left: NIL, right: NIL });
        }
    }

    /// Adds the hole in `slot`, which is not there yet.
    pub(crate) fn insert(&mut self, slot: u32, offset: u64, len: u64) {
        let node = TreeNode { offset, len, most: len, left: NIL, right: NIL };
        self.cover(slot as usize + 1);
        self.nodes[slot as usize] = node;
        self.root = self.inserted(self.root, slot);
    }

    /// Takes the hole at `offset` out.
    pub(crate) fn remove(&mut self, offset: u64) {
        self.root = self.removed(self.root, offset);
    }

    /// Changes the hole at `before`, whose place in the order stays.
    pub(crate) fn resize(&mut self, before: u64, offset: u64, len: u64) {
        self.resized(self.root, before, offset, len);
    }

    /// Whether every node is in order, knows the longest below it, and is not above one of higher priority; and how many
    /// nodes there are. For tests: O(n).
    pub(crate) fn holds(&self, mut known: impl FnMut(u32, u64, u64) -> bool) -> Option<u64> {
        let (mut count, mut last) = (0, None);
        let most = self.walk(self.root, &mut |slot, node| {
            let ordered = last.is_none_or(|last| last < node.offset);
            (count, last) = (count + 1, Some(node.offset));
            ordered && known(slot, node.offset, node.len)
        });
        most.map(|_| count)
    }

    fn lowest_below(&self, at: u32, fit: &Fit) -> Option<(u32, u64)> {
        let node = self.nodes.get(at as usize).filter(|node| node.most >= fit.size)?;
        if let Some(found) = self.lowest_below(node.left, fit) {
            return Some(found);
        }
        // A hole never ends beyond the range, so the sum does not overflow.
        if let Some(offset) = fit.lowest_in(&(node.offset..node.offset + node.len)) {
            return Some((at, offset));
        }
        self.lowest_below(node.right, fit)
    }

    fn inserted(&mut self, at: u32, slot: u32) -> u32 {
        if at == NIL {
            return slot;
        }
        if priority(slot) > priority(at) {
            let (left, right) = self.split(at, self.node(slot).offset);
            let node = self.node_mut(slot);
            (node.left, node.right) = (left, right);
            self.update(slot);
            return slot;
        }
        if self.node(slot).offset < self.node(at).offset {
            let left = self.inserted(self.node(at).left, slot);
            self.node_mut(at).left = left;
        } else {
            let right = self.inserted(self.node(at).right, slot);
            self.node_mut(at).right = right;
        }
        self.update(at);
        at
    }

    /// Parts the tree below `at` into what lies below `offset` and what lies above.
    fn split(&mut self, at: u32, offset: u64) -> (u32, u32) {
        if at == NIL {
            return (NIL, NIL);
        }
        let parts = if self.node(at).offset < offset {
            let (low, high) = self.split(self.node(at).right, offset);
            self.node_mut(at).right = low;
            (at, high)
        } else {
            let (low, high) = self.split(self.node(at).left, offset);
            self.node_mut(at).left = high;
            (low, at)
        };
        self.update(at);
        parts
    }

    fn removed(&mut self, at: u32, offset: u64) -> u32 {
        if at == NIL {
            return NIL;
        }
        let TreeNode { offset: here, left, right, .. } = *self.node(at);
        if here == offset {
            return self.merge(left, right);
        }
        if offset < here {
            let left = self.removed(left, offset);
            self.node_mut(at).left = left;
        } else {
            let right = self.removed(right, offset);
            self.node_mut(at).right = right;
        }
        self.update(at);
        at
    }

    /// Joins two trees, all of `low` lying below all of `high`.
    fn merge(&mut self, low: u32, high: u32) -> u32 {
        if low == NIL || high == NIL {
            return if low == NIL { high } else { low };
        }
        if priority(low) > priority(high) {
            let right = self.merge(self.node(low).right, high);
            self.node_mut(low).right = right;
            self.update(low);
            low
        } else {
            let left = self.merge(low, self.node(high).left);
            self.node_mut(high).left = left;
            self.update(high);
            high
        }
    }

    fn resized(&mut self, at: u32, before: u64, offset: u64, len: u64) {
        if at == NIL {
            return;
        }
        let TreeNode { offset: here, left, right, .. } = *self.node(at);
        if here == before {
            let node = self.node_mut(at);
            (node.offset, node.len) = (offset, len);
        } else {
            self.resized(if before < here { left } else { right }, before, offset, len);
        }
        self.update(at);
    }

    fn walk(&self, at: u32, visit: &mut impl FnMut(u32, &TreeNode) -> bool) -> Option<u64> {
        if at == NIL {
            return Some(0);
        }
        let node = self.node(at);
        let left = self.walk(node.left, visit)?;
        if !visit(at, node) {
            return None;
        }
        let right = self.walk(node.right, visit)?;
        let heap =
            [node.left, node.right].into_iter().all(|below| below == NIL || priority(below) <= priority(at));
        (heap && node.most == node.len.max(left).max(right)).then_some(node.most)
    }

    #[inline]
    fn update(&mut self, at: u32) {
        let TreeNode { len, left, right, .. } = *self.node(at);
        self.node_mut(at).most = len.max(self.most(left)).max(self.most(right));
    }

    #[inline]
    fn most(&self, at: u32) -> u64 {
        if at == NIL { 0 } else { self.node(at).most }
    }

    #[inline]
    fn node(&self, at: u32) -> &TreeNode {
        &self.nodes[at as usize]
    }

    #[inline]
    fn node_mut(&mut self, at: u32) -> &mut TreeNode {
        &mut self.nodes[at as usize]
    }
}

/// No node.
const NIL: u32 = u32::MAX;

/// A priority that has nothing to do with the order of addresses: a bijection, so no two are equal.
#[inline]
fn priority(slot: u32) -> u32 {
    let mixed = (slot ^ slot >> 16).wrapping_mul(0x7FEB_352D);
    let mixed = (mixed ^ mixed >> 15).wrapping_mul(0x846C_A68B);
    mixed ^ mixed >> 16
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Request;
    use alloc::collections::BTreeMap;

    #[test]
    fn agrees_with_a_sorted_map() {
        let mut tree = AddressTree::default();
        let mut map: BTreeMap<u64, (u32, u64)> = BTreeMap::new();
        let mut state = 7_u64;
        let mut draw = |bound: u64| {
            state = state.wrapping_mul(0x5851_F42D_4C95_7F2D).wrapping_add(0x1405_7B7E_F767_814F);
            (state >> 33) % bound
        };
        for step in 0..if cfg!(miri) { 40 } else { 5000_u32 } {
            let offset = draw(500) * 100;
            if let Some((_, len)) = map.get_mut(&offset) {
                if draw(3) == 0 {
                    *len = 1 + draw(99);
                    tree.resize(offset, offset, *len);
                } else {
                    map.remove(&offset);
                    tree.remove(offset);
                }
            } else {
                let len = 1 + draw(99);
                map.insert(offset, (step, len));
                tree.insert(step, offset, len);
            }
            assert_eq!(
                tree.holds(|slot, at, len| map.get(&at) == Some(&(slot, len))),
                Some(map.len() as u64)
            );
            let request = Request::new(1 + draw(99)).align(1 << draw(5));
            let fit = request.fit(1).unwrap();
            let expected =
                map.iter().find_map(|(at, (slot, len))| Some((*slot, fit.lowest_in(&(*at..*at + *len))?)));
            assert_eq!(tree.lowest(&fit), expected);
        }
    }

    #[test]
    fn stays_shallow_whatever_the_order() {
        let mut tree = AddressTree::default();
        let count = if cfg!(miri) { 200 } else { 100_000 };
        for slot in 0..count {
            tree.insert(slot, u64::from(slot) * 8, 4);
        }
        fn depth(tree: &AddressTree, at: u32) -> u32 {
            if at == NIL {
                return 0;
            }
            let node = tree.node(at);
            1 + depth(tree, node.left).max(depth(tree, node.right))
        }
        assert!(depth(&tree, tree.root) < 60, "{}", depth(&tree, tree.root));
    }
}
