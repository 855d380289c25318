//! The union of intervals, told as they begin and end.

use std::time::{Duration, Instant};

/// The union of intervals that begin and end in about the order of time.
#[derive(Default)]
pub(super) struct Union {
    /// Intervals that have begun and not ended.
    open: u32,
    /// `Some` iff `open` is not zero: when the current stretch began.
    since: Option<Instant>,
    /// The latest end.
    until: Option<Instant>,
    pub(super) total: Duration,
}

impl Union {
    pub(super) fn begin(&mut self, at: Instant) {
        // A stretch that is over was counted.
        let from = self.until.map_or(at, |until| at.max(until));
        self.since = Some(self.since.map_or(from, |since| since.min(from)));
        self.open += 1;
    }

    pub(super) fn end(&mut self, at: Instant) {
        let until = self.until.map_or(at, |until| at.max(until));
        self.until = Some(until);
        self.open -= 1;
        if self.open == 0
            && let Some(since) = self.since.take()
        {
            self.total += until.saturating_duration_since(since);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(zero: Instant, times: &[(u64, bool)]) -> Union {
        let mut union = Union::default();
        for &(time, begins) in times {
            let at = zero + Duration::from_millis(time);
            if begins { union.begin(at) } else { union.end(at) }
        }
        union
    }

    #[test]
    fn what_overlaps_counts_once_and_gaps_do_not_count() {
        let zero = Instant::now();
        let total = |times: &[(u64, bool)]| at(zero, times).total.as_millis();
        assert_eq!(total(&[(0, true), (10, false), (20, true), (25, false)]), 15);
        assert_eq!(total(&[(0, true), (5, true), (8, false), (12, false)]), 12);
        // Told late: it began while the stretch before lasted, or before what opened this one.
        assert_eq!(total(&[(0, true), (10, false), (4, true), (15, false)]), 15);
        assert_eq!(total(&[(6, true), (2, true), (8, false), (9, false)]), 7);
        // Two threads that saw ends a moment apart came the other way round.
        assert_eq!(total(&[(0, true), (0, true), (10, false), (9, false)]), 10);
        assert_eq!(at(zero, &[(0, true), (3, true), (4, false)]).total, Duration::ZERO);
    }
}
