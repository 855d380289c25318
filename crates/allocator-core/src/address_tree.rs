//! The holes by address, with the longest below each node: the lowest hole that fits in O(log n).

use alloc::vec;
use alloc::vec::Vec;
use core::ops::Range;

use crate::Fit;
use crate::tree_node::{BEYOND, Entry, FAN, LEAST, NONE, TreeNode};

/// A B+-tree over the holes: the leaves hold them, and each entry of an inner node knows the longest hole below it.
///
/// ```text
///            lows    0 │ 512               of each entry the lowest offset at or below it,
///           mosts   96 │ 40                and the longest hole
///            ┌──────────┴──────────┐
///     lows  0 │ 200          lows  512 │ 900
///    mosts 32 │ 96          mosts   40 │ 8          in a leaf: offset and length
/// ```
/// All leaves are equally deep, and every node but the root has at least [`LEAST`] entries: so the depth is O(log n) whatever
/// the order of requests, for those of an adversary too, and nothing on their way recurs. A hole is found by its slot, without
/// a search, and a change is told upwards until a node knew it: most stay in a leaf. Sources: Bayer and McCreight,
/// "Organization and Maintenance of Large Ordered Indexes", Acta Informatica 1 (1972), with all keys in the leaves as in Comer,
/// "The Ubiquitous B-Tree", Computing Surveys 11 (1979); the longest hole is the augmentation of an interval tree.
#[derive(Debug)]
pub(crate) struct AddressTree {
    nodes: Vec<TreeNode>,
    /// The leaf that each hole is in, by slot.
    leaves: Vec<u32>,
    root: u32,
    /// Levels of inner nodes above the leaves.
    height: u32,
    /// The first of a list of vacant nodes, linked upwards.
    vacant: u32,
}

impl Default for AddressTree {
    fn default() -> Self {
        AddressTree { nodes: vec![TreeNode::EMPTY], leaves: Vec::new(), root: 0, height: 0, vacant: NONE }
    }
}

impl AddressTree {
    /// The lowest offset at which `fit` fits, and the slot of the hole there.
    ///
    /// O(log n) without alignment; with it, O(log n) more at most for each hole that is long enough but not where it would
    /// be aligned.
    pub(crate) fn lowest(&self, fit: &Fit) -> Option<(u32, u64)> {
        let (mut index, mut level, mut from) = (self.root, self.height, 0);
        loop {
            let node = self.node(index);
            let Some(at) = node.long_enough(from, fit.size) else {
                if node.above == NONE {
                    return None;
                }
                from = self.node(node.above).find(index) + 1;
                (index, level) = (node.above, level + 1);
                continue;
            };
            let Entry { low, most, to } = node.entry(at);
            if level > 0 {
                (index, level, from) = (to, level - 1, 0);
                continue;
            }
            // A hole never ends beyond the range, so the sum does not overflow.
            if let Some(offset) = fit.lowest_in(&(low..low + most)) {
                return Some((to, offset));
            }
            from = at + 1;
        }
    }

    /// Makes room for so many holes, whose slots are below that number, so that later insertions allocate nothing.
    #[inline]
    pub(crate) fn cover(&mut self, holes: usize) {
        if holes > self.leaves.len() {
            self.leaves.resize(holes, NONE);
            // On each level there are at most 1 / `LEAST` of those below, or one: a geometric series.
            let nodes = 1 + holes / (LEAST - 1);
            self.nodes.reserve(nodes.saturating_sub(self.nodes.len()));
        }
    }

    /// Adds the hole in `slot`, which is covered and not there yet.
    pub(crate) fn insert(&mut self, slot: u32, offset: u64, len: u64) {
        let mut index = self.root;
        for _ in 0..self.height {
            let node = self.node(index);
            index = node.refs[node.rank(offset).saturating_sub(1)];
        }
        let mut entry = Entry { low: offset, most: len, to: slot };
        let (mut at, mut before) = (self.node(index).rank(offset), self.summary(index));
        for level in 0.. {
            if self.node(index).len() < FAN {
                self.node_mut(index).insert(at, entry);
                self.adopt(level, index, at..at + 1);
                return self.tell(index, before);
            }
            let upper = self.split(level, index);
            let (half, at_half) = if at > FAN / 2 { (upper, at - FAN / 2) } else { (index, at) };
            self.node_mut(half).insert(at_half, entry);
            self.adopt(level, half, at_half..at_half + 1);
            if index == self.root {
                self.root = self.take(TreeNode::EMPTY);
                self.height += 1;
                for (at, below) in [index, upper].into_iter().enumerate() {
                    let entry = self.summary(below);
                    self.node_mut(self.root).insert(at, entry);
                }
                return self.adopt(self.height, self.root, 0..2);
            }
            let above = self.node(index).above;
            at = self.node(above).find(index);
            before = self.summary(above);
            let lower = self.summary(index);
            self.node_mut(above).set(at, lower);
            (index, at, entry) = (above, at + 1, self.summary(upper));
        }
    }

    /// Takes the hole in `slot` out.
    pub(crate) fn remove(&mut self, slot: u32) {
        let mut index = self.leaves[slot as usize];
        let (at, mut before) = (self.node(index).find(slot), self.summary(index));
        self.node_mut(index).remove(at);
        for level in 0..self.height {
            if self.node(index).len() >= LEAST {
                return self.tell(index, before);
            }
            let above = self.node(index).above;
            before = self.summary(above);
            // A node above others has at least two entries.
            let at = self.node(above).find(index).min(self.node(above).len() - 2);
            self.settle(level, above, at);
            index = above;
        }
        if self.height > 0 && self.node(index).len() == 1 {
            self.root = self.node(index).refs[0];
            self.node_mut(self.root).above = NONE;
            self.height -= 1;
            self.give(index);
        }
    }

    /// Changes the hole in `slot`, whose place in the order stays.
    pub(crate) fn resize(&mut self, slot: u32, offset: u64, len: u64) {
        let index = self.leaves[slot as usize];
        let before = self.summary(index);
        let leaf = self.node_mut(index);
        leaf.set(leaf.find(slot), Entry { low: offset, most: len, to: slot });
        self.tell(index, before);
    }

    /// Whether every node is in order, full enough, and known to the one above; and how many holes there are. For tests:
    /// O(n).
    pub(crate) fn holds(&self, mut known: impl FnMut(u32, u64, u64) -> bool) -> Option<u64> {
        let mut last = None;
        let mut next = |slot, offset, len| {
            let ordered = last.replace(offset).is_none_or(|last| last < offset);
            ordered && known(slot, offset, len)
        };
        self.holds_below(NONE, self.summary(self.root), self.height, &mut next)
    }

    fn holds_below(
        &self,
        above: u32,
        entry: Entry,
        level: u32,
        known: &mut impl FnMut(u32, u64, u64) -> bool,
    ) -> Option<u64> {
        let index = entry.to;
        let node = self.nodes.get(index as usize)?;
        let least = if above != NONE { LEAST } else { 2 * usize::from(level > 0) };
        let sound = node.above == above
            && (least..=FAN).contains(&node.len())
            && self.summary(index) == entry
            && node.most == node.longest()
            && node.lows[node.len()..].iter().all(|low| *low == BEYOND)
            && node.mosts[node.len()..].iter().all(|most| *most == 0)
            && node.refs[node.len()..].iter().all(|to| *to == NONE);
        let mut count = 0;
        for entry in (0..node.len()).map(|at| node.entry(at)) {
            if level > 0 {
                count += self.holds_below(index, entry, level - 1, known)?;
            } else if self.leaves.get(entry.to as usize) == Some(&index)
                && known(entry.to, entry.low, entry.most)
            {
                count += 1;
            } else {
                return None;
            }
        }
        sound.then_some(count)
    }

    /// Tells the nodes above one what became of it, if they know it as it was `before`.
    #[inline]
    fn tell(&mut self, mut index: u32, mut before: Entry) {
        loop {
            let (entry, above) = (self.summary(index), self.node(index).above);
            if entry == before || above == NONE {
                return;
            }
            before = self.summary(above);
            let node = self.node_mut(above);
            node.set(node.find(index), entry);
            index = above;
        }
    }

    /// Lets the holes or nodes at some entries of a node know that they are there.
    #[inline]
    fn adopt(&mut self, level: u32, index: u32, entries: Range<usize>) {
        for at in entries {
            let to = self.node(index).refs[at];
            if level == 0 {
                self.leaves[to as usize] = index;
            } else {
                self.node_mut(to).above = index;
            }
        }
    }

    /// Moves the upper half of a full node into a new one.
    #[cold]
    fn split(&mut self, level: u32, index: u32) -> u32 {
        let upper = TreeNode { above: self.node(index).above, ..TreeNode::EMPTY };
        let upper = self.take(upper);
        self.shift(level, index, upper, FAN / 2);
        upper
    }

    /// Joins the nodes of two neighbouring entries, the first at `at`, one of which has too few, or shares theirs out evenly.
    #[cold]
    fn settle(&mut self, level: u32, above: u32, at: usize) {
        let [low, high] = [0, 1].map(|next| self.node(above).refs[at + next]);
        let sum = self.node(low).len() + self.node(high).len();
        if sum <= FAN {
            self.shift(level, low, high, sum);
            self.node_mut(above).remove(at + 1);
            self.give(high);
        } else {
            self.shift(level, low, high, sum / 2);
            let entry = self.summary(high);
            self.node_mut(above).set(at + 1, entry);
        }
        let entry = self.summary(low);
        self.node_mut(above).set(at, entry);
    }

    /// Parts the entries of two neighbours anew, so that the lower one has `count`.
    fn shift(&mut self, level: u32, low: u32, high: u32, count: usize) {
        let from = self.node(low).len();
        if let Ok([lower, upper]) = self.nodes.get_disjoint_mut([low as usize, high as usize]) {
            lower.part(upper, count);
        }
        if count < from {
            self.adopt(level, high, 0..from - count);
        } else {
            self.adopt(level, low, from..count);
        }
    }

    /// What the node above knows of one.
    #[inline]
    fn summary(&self, index: u32) -> Entry {
        let node = self.node(index);
        Entry { low: node.lows[0], most: node.most, to: index }
    }

    fn take(&mut self, node: TreeNode) -> u32 {
        let index = self.vacant;
        if index == NONE {
            self.nodes.push(node);
            return self.nodes.len() as u32 - 1;
        }
        self.vacant = self.node(index).above;
        *self.node_mut(index) = node;
        index
    }

    fn give(&mut self, index: u32) {
        self.node_mut(index).above = self.vacant;
        self.vacant = index;
    }

    #[inline]
    fn node(&self, index: u32) -> &TreeNode {
        &self.nodes[index as usize]
    }

    #[inline]
    fn node_mut(&mut self, index: u32) -> &mut TreeNode {
        &mut self.nodes[index as usize]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Request;
    use alloc::collections::BTreeMap;

    fn numbers(seed: u64) -> impl FnMut(u64) -> u64 {
        let mut state = seed;
        move |bound| {
            state = state.wrapping_mul(0x5851_F42D_4C95_7F2D).wrapping_add(0x1405_7B7E_F767_814F);
            (state >> 33) % bound
        }
    }

    /// Nodes that are in use.
    fn used(tree: &AddressTree) -> usize {
        let next = |index: &u32| Some(tree.node(*index).above).filter(|index| *index != NONE);
        let vacant = core::iter::successors(Some(tree.vacant).filter(|index| *index != NONE), next);
        tree.nodes.len() - vacant.count()
    }

    /// Whether it is as deep and as large as may be, and in order.
    fn check(tree: &AddressTree, holes: usize) {
        assert_eq!(tree.holds(|_, _, _| true), Some(holes as u64));
        let deepest = if holes < 2 { 0 } else { (holes as u64 / 2).ilog(LEAST as u64) };
        assert!(tree.height <= deepest, "{} levels above the leaves for {holes} holes", tree.height);
        assert!(used(tree) <= 1 + holes / (LEAST - 1));
    }

    /// Random changes to holes of which each has its own 100 bytes, so that `slots` bounds their number.
    fn agree(slots: u64, steps: u32, every: u32) {
        let mut tree = AddressTree::default();
        tree.cover(slots as usize);
        let room = (tree.nodes.capacity(), tree.leaves.capacity());
        let mut map: BTreeMap<u64, (u64, u64)> = BTreeMap::new();
        let mut draw = numbers(7);
        for step in 0..steps {
            // Growing, then about steady, then shrinking.
            let keep = [7, 3, 1][(step * 3 / steps) as usize];
            let slot = draw(slots);
            let (offset, len) = (slot * 100 + draw(50), 1 + draw(50));
            match map.get_mut(&slot) {
                Some(hole) if draw(8) < keep => {
                    *hole = (offset, len);
                    tree.resize(slot as u32, offset, len);
                }
                Some(_) => {
                    map.remove(&slot);
                    tree.remove(slot as u32);
                }
                None if draw(8) <= keep => {
                    map.insert(slot, (offset, len));
                    tree.insert(slot as u32, offset, len);
                }
                None => {}
            }
            if step % every == 0 {
                let known = |slot, at, len| map.get(&u64::from(slot)) == Some(&(at, len));
                assert_eq!(tree.holds(known), Some(map.len() as u64));
                check(&tree, map.len());
            }
            let request = Request::new(1 + draw(60)).align(1 << draw(9));
            let fit = request.fit(1).unwrap();
            let fits = |(slot, (at, len)): (&u64, &(u64, u64))| {
                Some((*slot as u32, fit.lowest_in(&(*at..at + len))?))
            };
            assert_eq!(tree.lowest(&fit), map.iter().find_map(fits));
        }
        assert_eq!((tree.nodes.capacity(), tree.leaves.capacity()), room);
    }

    #[test]
    fn agrees_with_a_sorted_map() {
        let (slots, steps, every) = if cfg!(miri) { (60, 120, 20) } else { (500, 20_000, 1) };
        agree(slots, steps, every);
        if !cfg!(miri) {
            agree(12_000, 60_000, 2_000);
        }
    }

    /// Inserts in this order, checks, and removes all but every `keep`th of them, in the same order.
    fn grow_and_thin(slots: impl Iterator<Item = u32> + Clone, keep: u32) {
        let mut tree = AddressTree::default();
        let count = slots.clone().count();
        tree.cover(count);
        let room = tree.nodes.capacity();
        for round in 0..2 {
            for slot in slots.clone().filter(|slot| round == 0 || slot % keep != 0) {
                tree.insert(slot, u64::from(slot) * 8, 4);
            }
            check(&tree, count);
            for slot in slots.clone().filter(|slot| slot % keep != 0) {
                tree.remove(slot);
            }
            check(&tree, count.div_ceil(keep as usize));
        }
        assert_eq!(tree.nodes.capacity(), room);
        slots.filter(|slot| slot % keep == 0).for_each(|slot| tree.remove(slot));
        check(&tree, 0);
    }

    #[test]
    fn stays_shallow_and_small_whatever_the_order() {
        let (count, keeps) = if cfg!(miri) { (60, &[7][..]) } else { (100_000, &[2, 3, 31, 1000][..]) };
        for keep in keeps.iter().copied() {
            // From both ends towards the middle.
            grow_and_thin((0..count).map(|at| if at % 2 == 0 { at / 2 } else { count - 1 - at / 2 }), keep);
            if !cfg!(miri) {
                grow_and_thin(0..count, keep);
                grow_and_thin((0..count).rev(), keep);
            }
        }
    }

    #[test]
    fn passes_holes_that_are_long_enough_and_not_aligned() {
        let mut tree = AddressTree::default();
        let count = if cfg!(miri) { 70 } else { 5000 };
        tree.cover(count as usize);
        for slot in 0..count {
            tree.insert(slot, u64::from(slot) * 64 + 1, 40);
        }
        let fit = Request::new(32).align(64).fit(1).unwrap();
        assert_eq!(tree.lowest(&fit), None);
        for slot in [count - 1, count / 2, 0] {
            tree.resize(slot, u64::from(slot) * 64, 40);
            assert_eq!(tree.lowest(&fit), Some((slot, u64::from(slot) * 64)));
        }
        check(&tree, count as usize);
    }

    #[test]
    fn reaches_the_ends_of_all_offsets() {
        let mut tree = AddressTree::default();
        tree.cover(4);
        tree.insert(3, u64::MAX - 1, 1);
        tree.insert(0, 0, u64::MAX - 2);
        let fit = |size| Request::new(size).fit(1).unwrap();
        assert_eq!(tree.lowest(&fit(u64::MAX - 2)), Some((0, 0)));
        tree.remove(0);
        assert_eq!(tree.lowest(&fit(1)), Some((3, u64::MAX - 1)));
        assert_eq!(tree.lowest(&fit(2)), None);
    }
}
