//! Vector clocks, and the last uses of every byte range.

use super::{Hazard, HazardKind, Operation, Place};
use pinned_host::Access;
use std::collections::BTreeMap;
use std::ops::Range;

/// What is known to have ended: per thread of work (the host and each queue) the number of its last operation that
/// happened before. Missing entries are 0.
#[derive(Debug, Clone, Default)]
pub(crate) struct Clock(Vec<u64>);

/// Index of the host in a clock.
pub(crate) const HOST: usize = 0;

/// Index of queue `queue` in a clock.
pub(crate) fn queue_slot(queue: usize) -> usize {
    queue + 1
}

impl Clock {
    pub(crate) fn get(&self, slot: usize) -> u64 {
        self.0.get(slot).copied().unwrap_or(0)
    }

    pub(crate) fn set(&mut self, slot: usize, time: u64) {
        if self.0.len() <= slot {
            self.0.resize(slot + 1, 0);
        }
        self.0[slot] = time;
    }

    /// Learns all that `other` knows.
    pub(crate) fn join(&mut self, other: &Clock) {
        if self.0.len() < other.0.len() {
            self.0.resize(other.0.len(), 0);
        }
        for (mine, theirs) in self.0.iter_mut().zip(&other.0) {
            *mine = (*mine).max(*theirs);
        }
    }
}

/// One use of bytes: by which thread of work, at what time of its own.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Use {
    pub(crate) slot: usize,
    pub(crate) time: u64,
    pub(crate) operation: Operation,
}

impl Use {
    fn is_known_to(&self, clock: &Clock) -> bool {
        clock.get(self.slot) >= self.time
    }
}

/// The last uses of the bytes of one place.
///
/// The keys are the starts of segments, each of which ends at its `end`; segments do not overlap, and bytes
/// in none were never used.
#[derive(Debug, Default)]
pub(crate) struct Shadow {
    segments: BTreeMap<u64, Segment>,
}

#[derive(Debug, Clone)]
struct Segment {
    end: u64,
    writer: Option<Use>,
    /// Readers since the last write, the latest of each slot.
    readers: Vec<Use>,
}

impl Shadow {
    /// Reports each use of `range` that conflicts with `access` and that `clock` does not know to have ended, at
    /// most once per earlier operation. O(log segments + segments in the range).
    pub(crate) fn check(
        &self,
        place: Place,
        range: &Range<u64>,
        access: Access,
        clock: &Clock,
        operation: Operation,
        found: &mut Vec<Hazard>,
    ) {
        if range.is_empty() {
            return;
        }
        let known = found.len();
        let writes = matches!(access, Access::Write);
        for (&start, segment) in self.overlapping(range) {
            let overlap = start.max(range.start)..segment.end.min(range.end);
            let mut report = |earlier: &Use, kind| {
                let again = found[known..].iter().any(|hazard| hazard.earlier == earlier.operation);
                if !earlier.is_known_to(clock) && !again {
                    found.push(Hazard {
                        kind,
                        place,
                        range: overlap.clone(),
                        operation,
                        earlier: earlier.operation,
                    });
                }
            };
            if let Some(writer) = &segment.writer {
                let kind = if writes { HazardKind::WriteAfterWrite } else { HazardKind::ReadAfterWrite };
                report(writer, kind);
            }
            if writes {
                segment.readers.iter().for_each(|reader| report(reader, HazardKind::WriteAfterRead));
            }
        }
    }

    /// Enters a use of `range`. O(log segments + segments in the range).
    pub(crate) fn enter(&mut self, range: &Range<u64>, access: Access, by: Use) {
        if range.is_empty() {
            return;
        }
        self.split(range.start);
        self.split(range.end);
        match access {
            Access::Write => {
                // All segments inside become one: the map does not grow with the number of writes.
                let inside: Vec<u64> = self.segments.range(range.clone()).map(|(&start, _)| start).collect();
                for start in inside {
                    self.segments.remove(&start);
                }
                self.segments
                    .insert(range.start, Segment { end: range.end, writer: Some(by), readers: Vec::new() });
            }
            _ => self.enter_read(range, by),
        }
    }

    fn enter_read(&mut self, range: &Range<u64>, by: Use) {
        let mut gaps = Vec::new();
        let mut at = range.start;
        for (&start, segment) in self.segments.range_mut(range.clone()) {
            if at < start {
                gaps.push(at..start);
            }
            match segment.readers.iter_mut().find(|reader| reader.slot == by.slot) {
                // Work of one slot is ordered, so its latest read stands for all before.
                Some(reader) => *reader = by,
                None => segment.readers.push(by),
            }
            at = segment.end;
        }
        if at < range.end {
            gaps.push(at..range.end);
        }
        for gap in gaps {
            self.segments.insert(gap.start, Segment { end: gap.end, writer: None, readers: vec![by] });
        }
    }

    /// Makes `at` a boundary of segments.
    fn split(&mut self, at: u64) {
        if let Some((_, segment)) = self.segments.range_mut(..at).next_back()
            && at < segment.end
        {
            let upper = segment.clone();
            segment.end = at;
            self.segments.insert(at, upper);
        }
    }

    fn overlapping(&self, range: &Range<u64>) -> impl Iterator<Item = (&u64, &Segment)> {
        let first = match self.segments.range(..=range.start).next_back() {
            Some((&start, segment)) if segment.end > range.start => start,
            _ => range.start,
        };
        self.segments.range(first..range.end.max(first))
    }
}

#[cfg(test)]
mod tests {
    use super::super::Call;
    use super::*;

    fn used(slot: usize, time: u64) -> Use {
        let operation = Operation { number: 100 * slot as u64 + time, call: Call::Upload, queue: Some(slot) };
        Use { slot, time, operation }
    }

    fn check(
        shadow: &Shadow,
        range: Range<u64>,
        access: Access,
        clock: &Clock,
    ) -> Vec<(HazardKind, Range<u64>)> {
        let mut found = Vec::new();
        shadow.check(Place::Buffer(0), &range, access, clock, used(9, 9).operation, &mut found);
        found.into_iter().map(|hazard| (hazard.kind, hazard.range)).collect()
    }

    #[test]
    fn conflicts_are_found_until_the_clock_knows() {
        let mut shadow = Shadow::default();
        shadow.enter(&(0..100), Access::Write, used(1, 1));
        shadow.enter(&(50..60), Access::Read, used(2, 3));
        let mut clock = Clock::default();
        assert_eq!(check(&shadow, 90..200, Access::Read, &clock), [(HazardKind::ReadAfterWrite, 90..100)]);
        clock.set(1, 1);
        assert_eq!(check(&shadow, 0..200, Access::Read, &clock), []);
        assert_eq!(check(&shadow, 0..200, Access::Write, &clock), [(HazardKind::WriteAfterRead, 50..60)]);
        clock.set(2, 2);
        assert_eq!(check(&shadow, 59..60, Access::Write, &clock), [(HazardKind::WriteAfterRead, 59..60)]);
        clock.set(2, 3);
        assert_eq!(check(&shadow, 0..200, Access::Write, &clock), []);
    }

    #[test]
    fn a_write_ends_the_history_of_its_bytes_only() {
        let mut shadow = Shadow::default();
        shadow.enter(&(0..30), Access::Write, used(1, 1));
        shadow.enter(&(10..20), Access::Write, used(2, 1));
        let mut clock = Clock::default();
        clock.set(2, 1);
        assert_eq!(check(&shadow, 10..20, Access::Write, &clock), []);
        assert_eq!(check(&shadow, 9..11, Access::Write, &clock), [(HazardKind::WriteAfterWrite, 9..10)]);
        assert_eq!(check(&shadow, 0..30, Access::Read, &clock), [(HazardKind::ReadAfterWrite, 0..10)]);
        assert_eq!(check(&shadow, 15..15, Access::Write, &Clock::default()), []);
    }

    #[test]
    fn reads_of_untouched_bytes_are_remembered() {
        let mut shadow = Shadow::default();
        shadow.enter(&(10..20), Access::Write, used(1, 1));
        shadow.enter(&(0..30), Access::Read, used(2, 1));
        let mut clock = Clock::default();
        clock.set(1, 1);
        assert_eq!(check(&shadow, 25..40, Access::Write, &clock), [(HazardKind::WriteAfterRead, 25..30)]);
        assert_eq!(check(&shadow, 0..10, Access::Write, &clock), [(HazardKind::WriteAfterRead, 0..10)]);
    }

    #[test]
    fn joining_takes_the_later_of_each() {
        let (mut a, mut b) = (Clock::default(), Clock::default());
        a.set(0, 5);
        b.set(2, 3);
        b.set(0, 4);
        a.join(&b);
        assert_eq!((a.get(0), a.get(1), a.get(2), a.get(7)), (5, 0, 3, 0));
    }
}
