//! Who touches which bytes of a buffer right now.

use crate::sync::lock;
use std::cell::Cell;
use std::marker::PhantomData;
use std::ops::Range;
use std::sync::{Condvar, Mutex, PoisonError};

/// A lock over byte ranges: many readers or one writer per byte.
///
/// Every operation of a worker and every access of the host holds its ranges while it touches bytes, so that safe
/// calls nothing orders are a race over *which* bytes are seen and never a data race. It is no substitute for
/// events: it keeps accesses apart and does not say which comes first.
///
/// The held spans stand in a short unsorted list under one mutex: few operations touch a buffer at once (one per
/// queue and host thread), so an acquisition is one pass over a handful of entries. Nothing is allocated once the
/// list has grown to that number. A thread that already holds a range never waits for another, so threads cannot
/// wait for one another in a circle.
pub(crate) struct RangeLock {
    held: Mutex<Held>,
    freed: Condvar,
}

struct Held {
    spans: Vec<Span>,
    /// The last owner number given out.
    owner: u64,
    /// Threads that sleep on `freed`.
    sleepers: usize,
}

/// Invariant: not empty; two spans of different owners overlap only if neither is exclusive.
struct Span {
    range: Range<u64>,
    exclusive: bool,
    owner: u64,
}

/// A range and whether it is for writing.
pub(crate) type Want = (Range<u64>, bool);

/// The range that was in use when the thread must not wait.
#[derive(Debug)]
pub(crate) struct InUse(pub(crate) Range<u64>);

/// Holds its ranges until dropped.
pub(crate) struct RangeGuard<'a> {
    lock: &'a RangeLock,
    owner: u64,
    /// Not `Send`: the count of held ranges is per thread.
    here: PhantomData<*const ()>,
}

thread_local! {
    static HELD_HERE: Cell<u32> = const { Cell::new(0) };
}

/// Whether this thread holds a range of any buffer, and so must not wait for another.
pub(crate) fn held_here() -> bool {
    HELD_HERE.get() > 0
}

impl RangeLock {
    pub(crate) fn new() -> Self {
        RangeLock {
            held: Mutex::new(Held { spans: Vec::with_capacity(16), owner: 0, sleepers: 0 }),
            freed: Condvar::new(),
        }
    }

    /// Takes all of `wants` at once, waiting while another owner is in the way.
    ///
    /// Ranges of one call may overlap one another. O(held spans).
    ///
    /// # Errors
    /// A range is in use and this thread already holds one, of whatever buffer.
    pub(crate) fn acquire(&self, wants: &[Want]) -> Result<RangeGuard<'_>, InUse> {
        let mut held = lock(&self.held);
        while let Some(blocked) = wants.iter().find(|want| held.blocks(want)) {
            if held_here() {
                return Err(InUse(blocked.0.clone()));
            }
            held.sleepers += 1;
            held = self.freed.wait(held).unwrap_or_else(PoisonError::into_inner);
            held.sleepers -= 1;
        }
        held.owner += 1;
        let owner = held.owner;
        for (range, exclusive) in wants.iter().filter(|(range, _)| !range.is_empty()) {
            held.spans.push(Span { range: range.clone(), exclusive: *exclusive, owner });
        }
        HELD_HERE.set(HELD_HERE.get() + 1);
        Ok(RangeGuard { lock: self, owner, here: PhantomData })
    }
}

impl Held {
    fn blocks(&self, (range, exclusive): &Want) -> bool {
        if range.is_empty() {
            return false;
        }
        let overlaps = |span: &Span| span.range.start < range.end && range.start < span.range.end;
        self.spans.iter().any(|span| (span.exclusive || *exclusive) && overlaps(span))
    }
}

impl Drop for RangeGuard<'_> {
    fn drop(&mut self) {
        HELD_HERE.set(HELD_HERE.get() - 1);
        let mut held = lock(&self.lock.held);
        held.spans.retain(|span| span.owner != self.owner);
        let wake = held.sleepers > 0;
        drop(held);
        if wake {
            self.lock.freed.notify_all();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

    #[test]
    fn a_thread_that_holds_a_range_does_not_wait() {
        let ranges = RangeLock::new();
        let outer = ranges.acquire(&[(0..8, false)]).unwrap();
        drop(ranges.acquire(&[(0..8, false)]).unwrap());
        drop(ranges.acquire(&[(8..9, true)]).unwrap());
        assert_eq!(ranges.acquire(&[(9..10, true), (7..9, true)]).err().unwrap().0, 7..9);
        drop(outer);
        drop(ranges.acquire(&[(7..9, true)]).unwrap());
    }

    #[test]
    fn one_call_may_overlap_itself() {
        let ranges = RangeLock::new();
        let guard = ranges.acquire(&[(0..8, false), (4..12, true)]).unwrap();
        assert!(ranges.acquire(&[(0..1, true)]).is_err());
        drop(guard);
        drop(ranges.acquire(&[(0..12, true)]).unwrap());
    }

    #[test]
    fn empty_ranges_are_in_nobodys_way() {
        let ranges = RangeLock::new();
        let _guard = ranges.acquire(&[(4..4, true)]).unwrap();
        drop(ranges.acquire(&[(0..8, true)]).unwrap());
    }

    #[test]
    fn writers_exclude_each_other() {
        let ranges = RangeLock::new();
        let cells: Vec<AtomicU64> = (0..64).map(|_| AtomicU64::new(0)).collect();
        std::thread::scope(|scope| {
            for thread in 0..4u64 {
                let (ranges, cells) = (&ranges, &cells);
                scope.spawn(move || {
                    for round in 0..500u64 {
                        let start = (thread * 7 + round * 13) % 56;
                        let _guard = ranges.acquire(&[(start..start + 8, true)]).unwrap();
                        for cell in &cells[start as usize..start as usize + 8] {
                            // Not one atomic addition on purpose: only exclusion keeps the count right.
                            let seen = cell.load(Relaxed);
                            std::hint::spin_loop();
                            cell.store(seen + 1, Relaxed);
                        }
                    }
                });
            }
        });
        assert_eq!(cells.iter().map(|cell| cell.load(Relaxed)).sum::<u64>(), 4 * 500 * 8);
    }
}
