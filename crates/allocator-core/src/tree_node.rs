//! A node of the tree of holes: its entries in order of addresses.

/// A leaf or an inner node: a short list in order of addresses, one array for each thing that is looked for.
#[derive(Debug, Clone)]
pub(crate) struct TreeNode {
    /// The lowest offset of each entry; [`BEYOND`] behind the last.
    pub(crate) lows: [u64; FAN],
    /// The longest hole of each entry; 0 behind the last, which is never long enough.
    pub(crate) mosts: [u64; FAN],
    /// The slot of the hole, or the node below; [`NONE`] behind the last.
    pub(crate) refs: [u32; FAN],
    pub(crate) count: u32,
    /// The node above; [`NONE`] of the root.
    pub(crate) above: u32,
    /// The greatest of `mosts`.
    pub(crate) most: u64,
}

/// What a node knows of a hole, or of a node below.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) low: u64,
    pub(crate) most: u64,
    pub(crate) to: u32,
}

impl TreeNode {
    pub(crate) const EMPTY: TreeNode =
        TreeNode { lows: [BEYOND; FAN], mosts: [0; FAN], refs: [NONE; FAN], count: 0, above: NONE, most: 0 };

    #[inline]
    pub(crate) fn len(&self) -> usize {
        self.count as usize
    }

    #[inline]
    pub(crate) fn entry(&self, at: usize) -> Entry {
        Entry { low: self.lows[at], most: self.mosts[at], to: self.refs[at] }
    }

    /// How many entries begin at or below `offset`.
    #[inline]
    pub(crate) fn rank(&self, offset: u64) -> usize {
        // Selections, no jumps: which half cannot be foreseen.
        let (mut rank, mut half) = (0, FAN / 2);
        while half > 0 {
            rank += if self.lows[rank + half - 1] <= offset { half } else { 0 };
            half /= 2;
        }
        rank + usize::from(self.lows[rank] <= offset)
    }

    /// The entry that leads to a hole or node, which is there.
    #[inline]
    pub(crate) fn find(&self, to: u32) -> usize {
        // No jumps here either: all are compared, several at once.
        let found: u32 = (0..).zip(&self.refs).map(|(at, here)| if *here == to { at } else { 0 }).sum();
        found as usize
    }

    /// The first entry at or after `from` with a hole of at least `size`.
    #[inline]
    pub(crate) fn long_enough(&self, from: usize, size: u64) -> Option<usize> {
        self.mosts[from..].iter().position(|most| *most >= size).map(|at| from + at)
    }

    #[inline]
    pub(crate) fn longest(&self) -> u64 {
        let (chunks, _) = self.mosts.as_chunks::<4>();
        let mut lanes = [0; 4];
        for chunk in chunks {
            for (lane, most) in lanes.iter_mut().zip(chunk) {
                *lane = (*lane).max(*most);
            }
        }
        lanes.into_iter().fold(0, u64::max)
    }

    #[inline]
    pub(crate) fn set(&mut self, at: usize, entry: Entry) {
        let before = self.mosts[at];
        (self.lows[at], self.mosts[at], self.refs[at]) = (entry.low, entry.most, entry.to);
        if entry.most >= self.most {
            self.most = entry.most;
        } else if before == self.most {
            self.most = self.longest();
        }
    }

    /// Puts an entry before the one at `at`; there is room.
    #[inline]
    pub(crate) fn insert(&mut self, at: usize, entry: Entry) {
        let len = self.len();
        self.lows.copy_within(at..len, at + 1);
        self.mosts.copy_within(at..len, at + 1);
        self.refs.copy_within(at..len, at + 1);
        self.count += 1;
        (self.lows[at], self.mosts[at], self.refs[at]) = (entry.low, entry.most, entry.to);
        self.most = self.most.max(entry.most);
    }

    #[inline]
    pub(crate) fn remove(&mut self, at: usize) {
        let last = self.len() - 1;
        let gone = self.mosts[at];
        self.lows.copy_within(at + 1..last + 1, at);
        self.mosts.copy_within(at + 1..last + 1, at);
        self.refs.copy_within(at + 1..last + 1, at);
        self.count -= 1;
        (self.lows[last], self.mosts[last], self.refs[last]) = (BEYOND, 0, NONE);
        if gone == self.most {
            self.most = self.longest();
        }
    }

    /// Parts its entries and those of the next node in order anew, so that this one has `count`.
    pub(crate) fn part(&mut self, upper: &mut TreeNode, count: usize) {
        fn part<T: Copy>(lower: &mut [T; FAN], upper: &mut [T; FAN], from: usize, to: usize, none: T) {
            if to < from {
                let more = from - to;
                upper.copy_within(..FAN - more, more);
                upper[..more].copy_from_slice(&lower[to..from]);
                lower[to..from].fill(none);
            } else {
                let more = to - from;
                lower[from..to].copy_from_slice(&upper[..more]);
                upper.copy_within(more.., 0);
                upper[FAN - more..].fill(none);
            }
        }
        let from = self.len();
        part(&mut self.lows, &mut upper.lows, from, count, BEYOND);
        part(&mut self.mosts, &mut upper.mosts, from, count, 0);
        part(&mut self.refs, &mut upper.refs, from, count, NONE);
        upper.count = self.count + upper.count - count as u32;
        self.count = count as u32;
        (self.most, upper.most) = (self.longest(), upper.longest());
    }
}

/// Entries of a node, a power of two.
pub(crate) const FAN: usize = 32;
/// Entries of every node but the root at least.
pub(crate) const LEAST: usize = FAN / 2;
/// No hole begins there: it would have no room.
pub(crate) const BEYOND: u64 = u64::MAX;
/// No node, and no slot.
pub(crate) const NONE: u32 = u32::MAX;

#[cfg(test)]
mod tests {
    use super::*;

    /// A node of so many entries: offsets in tens, lengths that rise and fall, references from 100 on.
    fn node(count: usize) -> TreeNode {
        let mut node = TreeNode::EMPTY;
        for at in 0..count {
            let (low, most) = (10 * at as u64, 1 + (at as u64 * 7) % 13);
            node.insert(at, Entry { low, most, to: 100 + at as u32 });
        }
        node
    }

    #[test]
    fn finds_by_offset_by_length_and_by_reference() {
        for count in (0..=FAN).step_by(if cfg!(miri) { 16 } else { 1 }) {
            let node = node(count);
            for offset in (0..10 * FAN as u64 + 10).step_by(5) {
                assert_eq!(node.rank(offset), count.min(offset as usize / 10 + 1));
            }
            assert!((0..count).all(|at| node.find(100 + at as u32) == at));
            for (from, size) in (0..=count).flat_map(|from| [1, 6, 12, 13, 14].map(|size| (from, size))) {
                let expected = (from..count).find(|at| node.entry(*at).most >= size);
                assert_eq!(node.long_enough(from, size), expected);
            }
            assert_eq!(node.most, node.longest());
        }
    }

    #[test]
    fn entries_move_between_two_nodes_in_order() {
        let step = if cfg!(miri) { 16 } else { 1 };
        let counts = || (0..=FAN).step_by(step);
        for (count, to) in counts().flat_map(|count| counts().map(move |to| (count, to))) {
            let (mut lower, mut upper) = (node(FAN), node(FAN));
            while upper.len() > FAN - count {
                upper.remove(0);
            }
            while lower.len() > count {
                lower.remove(lower.len() - 1);
            }
            lower.part(&mut upper, to);
            let whole = node(FAN);
            assert_eq!((lower.len(), upper.len()), (to, FAN - to));
            for at in 0..FAN {
                let entry = if at < to { lower.entry(at) } else { upper.entry(at - to) };
                assert_eq!(entry, whole.entry(at));
            }
            assert_eq!(lower.most.max(upper.most), whole.most);
            let behind = (BEYOND, 0, NONE);
            for node in [lower, upper] {
                let rest = node.len()..FAN;
                assert!(rest.into_iter().all(|at| (node.lows[at], node.mosts[at], node.refs[at]) == behind));
            }
        }
    }
}
