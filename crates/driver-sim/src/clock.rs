//! Vector clocks, and the last uses of every byte range.
//!
//! The idea is that of `backend-cpu`'s simulated device; the code is kept apart on purpose, as a witness shares none
//! with what it watches.

use std::collections::BTreeMap;
use std::ops::Range;

/// How an operation uses bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Access {
    Read,
    Write,
}

/// A call that used bytes, or whose work did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Operation {
    /// In the order of the calls; the first is 1.
    pub(crate) number: u64,
    /// The function called.
    pub(crate) call: &'static str,
    /// Number of its stream; `None`: the host.
    pub(crate) stream: Option<u64>,
}

impl core::fmt::Display for Operation {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        let Operation { number, call, stream } = self;
        match stream {
            Some(0) => write!(f, "{call} (operation {number}, default stream)"),
            Some(stream) => write!(f, "{call} (operation {number}, stream {stream})"),
            None => write!(f, "{call} (operation {number}, by the host)"),
        }
    }
}

/// An earlier use that an access should have been ordered after.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Conflict {
    /// What the access does to the earlier one.
    pub(crate) kind: ConflictKind,
    /// The bytes that both use.
    pub(crate) range: Range<u64>,
    pub(crate) earlier: Operation,
}

/// The order that does not hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ConflictKind {
    ReadAfterWrite,
    WriteAfterRead,
    WriteAfterWrite,
}

impl core::fmt::Display for ConflictKind {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str(match self {
            ConflictKind::ReadAfterWrite => "read after write",
            ConflictKind::WriteAfterRead => "write after read",
            ConflictKind::WriteAfterWrite => "write after write",
        })
    }
}

/// What is known to have ended: per thread of work (the host and each lane) the number of its last operation that
/// happened before. Missing entries are 0.
#[derive(Debug, Clone, Default)]
pub(crate) struct Clock(Vec<u64>);

/// Index of the host in a clock.
pub(crate) const HOST: usize = 0;

/// Index of lane `lane` in a clock.
pub(crate) fn lane_slot(lane: usize) -> usize {
    lane + 1
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
    pub(crate) fn is_known_to(&self, clock: &Clock) -> bool {
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
    /// Each use of `range` that conflicts with `access` and that `clock` does not know to have ended, at most once
    /// per earlier operation. O(log segments + segments in the range).
    pub(crate) fn conflicts(&self, range: &Range<u64>, access: Access, clock: &Clock) -> Vec<Conflict> {
        let mut found: Vec<Conflict> = Vec::new();
        if range.is_empty() {
            return found;
        }
        let writes = access == Access::Write;
        for (&start, segment) in self.overlapping(range) {
            let overlap = start.max(range.start)..segment.end.min(range.end);
            let mut report = |earlier: &Use, kind| {
                let again = found.iter().any(|conflict| conflict.earlier == earlier.operation);
                if !earlier.is_known_to(clock) && !again {
                    found.push(Conflict { kind, range: overlap.clone(), earlier: earlier.operation });
                }
            };
            if let Some(writer) = &segment.writer {
                let kind = if writes { ConflictKind::WriteAfterWrite } else { ConflictKind::ReadAfterWrite };
                report(writer, kind);
            }
            if writes {
                segment.readers.iter().for_each(|reader| report(reader, ConflictKind::WriteAfterRead));
            }
        }
        found
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
            Access::Read => self.enter_read(range, by),
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
    use super::*;

    fn used(slot: usize, time: u64) -> Use {
        let operation =
            Operation { number: 100 * slot as u64 + time, call: "call", stream: Some(slot as u64) };
        Use { slot, time, operation }
    }

    fn check(
        shadow: &Shadow,
        range: Range<u64>,
        access: Access,
        clock: &Clock,
    ) -> Vec<(ConflictKind, Range<u64>)> {
        shadow.conflicts(&range, access, clock).into_iter().map(|found| (found.kind, found.range)).collect()
    }

    #[test]
    fn conflicts_are_found_until_the_clock_knows() {
        let mut shadow = Shadow::default();
        shadow.enter(&(0..100), Access::Write, used(1, 1));
        shadow.enter(&(50..60), Access::Read, used(2, 3));
        let mut clock = Clock::default();
        assert_eq!(check(&shadow, 90..200, Access::Read, &clock), [(ConflictKind::ReadAfterWrite, 90..100)]);
        clock.set(1, 1);
        assert_eq!(check(&shadow, 0..200, Access::Read, &clock), []);
        assert_eq!(check(&shadow, 0..200, Access::Write, &clock), [(ConflictKind::WriteAfterRead, 50..60)]);
        clock.set(2, 2);
        assert_eq!(check(&shadow, 59..60, Access::Write, &clock), [(ConflictKind::WriteAfterRead, 59..60)]);
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
        assert_eq!(check(&shadow, 9..11, Access::Write, &clock), [(ConflictKind::WriteAfterWrite, 9..10)]);
        assert_eq!(check(&shadow, 0..30, Access::Read, &clock), [(ConflictKind::ReadAfterWrite, 0..10)]);
        assert_eq!(check(&shadow, 15..15, Access::Write, &Clock::default()), []);
    }

    #[test]
    fn reads_of_untouched_bytes_are_remembered() {
        let mut shadow = Shadow::default();
        shadow.enter(&(10..20), Access::Write, used(1, 1));
        shadow.enter(&(0..30), Access::Read, used(2, 1));
        let mut clock = Clock::default();
        clock.set(1, 1);
        assert_eq!(check(&shadow, 25..40, Access::Write, &clock), [(ConflictKind::WriteAfterRead, 25..30)]);
        assert_eq!(check(&shadow, 0..10, Access::Write, &clock), [(ConflictKind::WriteAfterRead, 0..10)]);
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
