//! Lanes for spans that overlap: what a trace shows on one thread must nest.

use std::{cmp::Reverse, collections::BinaryHeap};

/// A lane for each span, the lowest that is free: no two spans of a lane overlap, and there are no more lanes than spans at
/// once. `spans` are begins and ends, sorted by begin. O(n log n).
pub(super) fn apart(spans: impl IntoIterator<Item = (u64, u64)>) -> Vec<usize> {
    let mut taken = BinaryHeap::new();
    let mut free = BinaryHeap::new();
    let mut lanes = 0;
    let choose = |(begin, end)| {
        while let Some(&Reverse((until, lane))) = taken.peek() {
            if until > begin {
                break;
            }
            taken.pop();
            free.push(Reverse(lane));
        }
        let lane = free.pop().map_or_else(
            || {
                lanes += 1;
                lanes - 1
            },
            |Reverse(lane)| lane,
        );
        taken.push(Reverse((end, lane)));
        lane
    };
    spans.into_iter().map(choose).collect()
}

/// A lane for each span such that two of one lane overlap only if one lies within the other. `spans` are begins and ends,
/// sorted by begin, and the longer first where two begin at once. O(n × lanes).
pub(super) fn nested(spans: impl IntoIterator<Item = (u64, u64)>) -> Vec<usize> {
    // Of each lane: the ends of the spans that are open, outermost first.
    let mut lanes: Vec<Vec<u64>> = Vec::new();
    let choose = |(begin, end)| {
        let fits = |open: &mut Vec<u64>| {
            while open.last().is_some_and(|&until| until <= begin) {
                open.pop();
            }
            open.last().is_none_or(|&until| end <= until)
        };
        let lane = lanes.iter_mut().position(fits).unwrap_or(lanes.len());
        if lane == lanes.len() {
            lanes.push(Vec::new());
        }
        lanes[lane].push(end);
        lane
    };
    spans.into_iter().map(choose).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn overlap(a: (u64, u64), b: (u64, u64)) -> bool {
        a.0 < b.1 && b.0 < a.1
    }

    fn within(a: (u64, u64), b: (u64, u64)) -> bool {
        (b.0 <= a.0 && a.1 <= b.1) || (a.0 <= b.0 && b.1 <= a.1)
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]
        #[test]
        fn what_shares_a_lane_is_apart_or_nests(ops in prop::collection::vec((0u64..60, 0u64..20), 0..60)) {
            let mut spans: Vec<_> = ops.into_iter().map(|(begin, len)| (begin, begin + len)).collect();
            spans.sort_by_key(|&(begin, end)| (begin, Reverse(end)));
            let (apart, nested) = (apart(spans.iter().copied()), nested(spans.iter().copied()));
            for (i, &a) in spans.iter().enumerate() {
                for (j, &b) in spans.iter().enumerate().skip(i + 1) {
                    prop_assert!(!(apart[i] == apart[j] && overlap(a, b)), "{a:?} and {b:?}");
                    prop_assert!(nested[i] != nested[j] || !overlap(a, b) || within(a, b), "{a:?} and {b:?}");
                }
            }
            // As few lanes as there are spans at once.
            let at_once = |at: u64| spans.iter().filter(|s| s.0 == at || (s.0 < at && at < s.1)).count();
            let most = spans.iter().map(|&(begin, _)| at_once(begin)).max().unwrap_or(0);
            let lanes = apart.iter().max().map_or(0, |lane| lane + 1);
            prop_assert!(lanes <= most, "{lanes} lanes for {most} at once");
        }
    }

    #[test]
    fn what_nests_stays_together_and_what_crosses_does_not() {
        assert_eq!(nested([(0, 10), (1, 5), (2, 3), (5, 10), (8, 12)]), [0, 0, 0, 0, 1]);
        assert_eq!(apart([(0, 10), (1, 5), (5, 6), (10, 11)]), [0, 1, 1, 0]);
    }
}
