//! How full a tier is over time: sums added to ranges, and where it was last too full.

use core::ops::Range;

/// A row of numbers. Both steps are O(log length).
///
/// A binary tree over the row: `most[node]` is the greatest number below the node as far as the node and what
/// is below it know; what was added to a whole node stands in `added` of the node only.
#[derive(Debug)]
pub(super) struct Profile {
    leaves: usize,
    most: Vec<i64>,
    added: Vec<i64>,
}

impl Profile {
    pub(super) fn new(values: &[i64]) -> Self {
        let leaves = values.len().next_power_of_two();
        let mut most = vec![i64::MIN / 2; 2 * leaves];
        most[leaves..leaves + values.len()].copy_from_slice(values);
        for node in (1..leaves).rev() {
            most[node] = most[2 * node].max(most[2 * node + 1]);
        }
        Profile { leaves, most, added: vec![0; 2 * leaves] }
    }

    /// Adds `amount` to every number of `range`.
    pub(super) fn add(&mut self, range: Range<usize>, amount: i64) {
        self.add_below(1, 0..self.leaves, &range, amount);
    }

    /// The last place of `range` whose number is above `limit`.
    pub(super) fn last_above(&self, range: Range<usize>, limit: i64) -> Option<usize> {
        self.search(1, 0..self.leaves, &range, limit)
    }

    fn add_below(&mut self, node: usize, span: Range<usize>, range: &Range<usize>, amount: i64) {
        if range.end <= span.start || span.end <= range.start {
            return;
        }
        if range.start <= span.start && span.end <= range.end {
            self.most[node] += amount;
            self.added[node] += amount;
            return;
        }
        let middle = span.start.midpoint(span.end);
        self.add_below(2 * node, span.start..middle, range, amount);
        self.add_below(2 * node + 1, middle..span.end, range, amount);
        self.most[node] = self.added[node] + self.most[2 * node].max(self.most[2 * node + 1]);
    }

    fn search(&self, node: usize, span: Range<usize>, range: &Range<usize>, limit: i64) -> Option<usize> {
        if range.end <= span.start || span.end <= range.start || self.most[node] <= limit {
            return None;
        }
        if node >= self.leaves {
            return Some(span.start);
        }
        let (middle, limit) = (span.start.midpoint(span.end), limit - self.added[node]);
        let later = self.search(2 * node + 1, middle..span.end, range, limit);
        later.or_else(|| self.search(2 * node, span.start..middle, range, limit))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]
        #[test]
        fn it_answers_as_a_row_does(
            row in prop::collection::vec(-20i64..20, 1..70),
            ops in prop::collection::vec((any::<usize>(), any::<usize>(), -9i64..9, -30i64..30), 0..60),
        ) {
            let mut row = row;
            let mut profile = Profile::new(&row);
            for (a, b, amount, limit) in ops {
                let (a, b) = (a % (row.len() + 1), b % (row.len() + 1));
                let range = a.min(b)..a.max(b);
                profile.add(range.clone(), amount);
                row[range].iter_mut().for_each(|x| *x += amount);
                let range = (a / 2)..row.len();
                let last = range.clone().rev().find(|&i| row[i] > limit);
                prop_assert_eq!(profile.last_above(range, limit), last);
            }
        }
    }
}
