//! Numbers ordered by a rank that changes: a binary heap that knows where each number stands in it.

use super::NONE;

/// How much a number is worth: compared first by what comes first. The lowest leads.
pub(super) type Rank = (u64, u64);

/// A heap of numbers, the lowest rank at its head. Each step is O(log n) and allocates only for a number
/// larger than any before, or when there are more than ever.
#[derive(Debug, Default)]
pub(super) struct Ranked {
    /// A binary heap: no entry ranks below its parent, at `(i - 1) / 2`.
    heap: Vec<(Rank, u32)>,
    /// `heap[place[n]].1 == n`, or `NONE` where `n` is not in it.
    place: Vec<u32>,
}

impl Ranked {
    /// Puts `number` in, or gives it another rank.
    pub(super) fn set(&mut self, number: u32, rank: Rank) {
        let len = self.place.len().max(number as usize + 1);
        self.place.resize(len, NONE);
        let at = match self.place[number as usize] {
            NONE => {
                self.heap.push((rank, number));
                self.heap.len() - 1
            }
            at => {
                self.heap[at as usize].0 = rank;
                at as usize
            }
        };
        self.settle(at);
    }

    /// Takes `number` out, and tells the rank it had.
    pub(super) fn remove(&mut self, number: u32) -> Option<Rank> {
        let at = *self.place.get(number as usize)?;
        if at == NONE {
            return None;
        }
        let (rank, _) = self.heap.swap_remove(at as usize);
        self.place[number as usize] = NONE;
        if (at as usize) < self.heap.len() {
            self.settle(at as usize);
        }
        Some(rank)
    }

    /// The lowest rank, and whose it is.
    pub(super) fn first(&self) -> Option<(Rank, u32)> {
        self.heap.first().copied()
    }

    /// Moves the entry at `at` to where it belongs, up or down.
    fn settle(&mut self, mut at: usize) {
        while at > 0 && self.heap[at] < self.heap[(at - 1) / 2] {
            self.swap(at, (at - 1) / 2);
            at = (at - 1) / 2;
        }
        loop {
            let children = 2 * at + 1..(2 * at + 3).min(self.heap.len());
            match children.min_by_key(|&child| self.heap[child]) {
                Some(child) if self.heap[child] < self.heap[at] => {
                    self.swap(at, child);
                    at = child;
                }
                _ => break,
            }
        }
        self.place[self.heap[at].1 as usize] = at as u32;
    }

    fn swap(&mut self, a: usize, b: usize) {
        self.heap.swap(a, b);
        for at in [a, b] {
            self.place[self.heap[at].1 as usize] = at as u32;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]
        #[test]
        fn the_lowest_rank_leads(ops in prop::collection::vec((any::<bool>(), 0u32..20, 0u64..9, 0u64..9), 0..300)) {
            let (mut ranked, mut model) = (Ranked::default(), BTreeMap::new());
            for (set, number, a, b) in ops {
                if set {
                    ranked.set(number, (a, b));
                    model.insert(number, (a, b));
                } else {
                    prop_assert_eq!(ranked.remove(number), model.remove(&number));
                }
                let lowest = model.iter().map(|(&number, &rank)| (rank, number)).min();
                prop_assert_eq!(ranked.first(), lowest);
            }
        }
    }
}
