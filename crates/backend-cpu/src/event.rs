//! Events: points on the timeline of a queue.

use crate::CpuError;
use crate::queue::Shared;
use crate::sync::{lock, spin_until};
use pinned_host::Event;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Condvar, Mutex, PoisonError};

/// A point on the timeline of one [`CpuQueue`](crate::CpuQueue): it fires when the queue has ended the operations
/// submitted before it.
///
/// Asking costs one atomic load, cloning one reference count. Events outlive their queue and their device: a device
/// that is dropped ends its queues first.
///
/// An operation that fails (a kernel that panics or returns an error) is reported by the **first event recorded
/// after it** on its queue, every time that event is asked; later events speak of later work only. Waiting for an
/// event on another queue orders work and does not pass failures on.
#[derive(Clone)]
pub struct CpuEvent {
    queue: Arc<Shared>,
    /// Operations up to this one were reported by an earlier event.
    from: u64,
    /// The last operation this event waits for.
    value: u64,
}

impl CpuEvent {
    pub(crate) fn new(queue: &Arc<Shared>, from: u64, value: u64) -> Self {
        CpuEvent { queue: Arc::clone(queue), from, value }
    }

    /// Number of the device whose queue recorded the event.
    pub(crate) fn device(&self) -> u64 {
        self.queue.device
    }

    pub(crate) fn has_fired(&self) -> bool {
        self.queue.timeline.reached(self.value)
    }

    /// Blocks until the point is reached, whatever the operations before it came to.
    pub(crate) fn await_fired(&self) {
        self.queue.await_value(self.value);
    }
}

impl Event for CpuEvent {
    type Error = CpuError;

    fn query(&self) -> Result<bool, CpuError> {
        if !self.has_fired() {
            return Ok(false);
        }
        self.queue.timeline.outcome(self.from, self.value).map(|()| true)
    }

    fn synchronize(&self) -> Result<(), CpuError> {
        if !self.has_fired() {
            if self.queue.is_mine() {
                return Err(CpuError::WaitsForItself { operation: self.value });
            }
            self.await_fired();
        }
        self.queue.timeline.outcome(self.from, self.value)
    }

    fn covers(&self, earlier: &Self) -> bool {
        Arc::ptr_eq(&self.queue, &earlier.queue) && self.value >= earlier.value
    }

    fn is_settled(&self) -> bool {
        self.has_fired()
    }
}

impl core::fmt::Debug for CpuEvent {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("CpuEvent")
            .field("device", &self.device())
            .field("value", &self.value)
            .field("fired", &self.has_fired())
            .finish()
    }
}

/// How far one queue has come.
pub(crate) struct Timeline {
    /// Number of operations that have ended; operations end in order.
    done: AtomicU64,
    /// How many threads sleep on `fired`, or are about to.
    sleepers: AtomicUsize,
    gate: Mutex<()>,
    fired: Condvar,
    /// Is set iff `failures` is not empty: keeps the common case at one load.
    has_failures: AtomicBool,
    /// Ascending by operation.
    failures: Mutex<Vec<(u64, Arc<CpuError>)>>,
}

impl Timeline {
    pub(crate) fn new() -> Self {
        Timeline {
            done: AtomicU64::new(0),
            sleepers: AtomicUsize::new(0),
            gate: Mutex::new(()),
            fired: Condvar::new(),
            has_failures: AtomicBool::new(false),
            failures: Mutex::new(Vec::new()),
        }
    }

    pub(crate) fn fail(&self, operation: u64, error: CpuError) {
        lock(&self.failures).push((operation, Arc::new(error)));
        self.has_failures.store(true, SeqCst);
    }

    /// Ends operation `value`; what the worker wrote before is visible to whoever sees the value reached.
    pub(crate) fn complete(&self, value: u64) {
        self.done.store(value, SeqCst);
        // Either this load sees the sleeper, or the sleeper's check of `done` sees the store: both are SeqCst.
        if self.sleepers.load(SeqCst) > 0 {
            drop(lock(&self.gate));
            self.fired.notify_all();
        }
    }

    pub(crate) fn reached(&self, value: u64) -> bool {
        self.done.load(SeqCst) >= value
    }

    pub(crate) fn await_value(&self, value: u64) {
        if spin_until(|| self.reached(value)) {
            return;
        }
        self.sleepers.fetch_add(1, SeqCst);
        let mut gate = lock(&self.gate);
        while !self.reached(value) {
            gate = self.fired.wait(gate).unwrap_or_else(PoisonError::into_inner);
        }
        drop(gate);
        self.sleepers.fetch_sub(1, SeqCst);
    }

    /// The first failure among the operations `from + 1 ..= value`.
    fn outcome(&self, from: u64, value: u64) -> Result<(), CpuError> {
        if !self.has_failures.load(SeqCst) {
            return Ok(());
        }
        let failures = lock(&self.failures);
        let first = failures.partition_point(|(operation, _)| *operation <= from);
        match failures.get(first) {
            Some((operation, source)) if *operation <= value => {
                Err(CpuError::Operation { operation: *operation, source: Arc::clone(source) })
            }
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fires_at_its_value_and_not_before() {
        let queue = Shared::unattended();
        let event = CpuEvent::new(&queue, 0, 2);
        queue.timeline.complete(1);
        assert!(!event.query().unwrap());
        assert!(!event.is_settled());
        queue.timeline.complete(2);
        assert!(event.query().unwrap());
        event.synchronize().unwrap();
    }

    #[test]
    fn only_the_first_event_after_a_failure_reports_it() {
        let queue = Shared::unattended();
        queue.timeline.fail(2, CpuError::Closed);
        queue.timeline.complete(4);
        assert!(CpuEvent::new(&queue, 0, 1).query().unwrap());
        let hit = CpuEvent::new(&queue, 1, 3);
        assert!(matches!(hit.query(), Err(CpuError::Operation { operation: 2, .. })));
        assert!(matches!(hit.synchronize(), Err(CpuError::Operation { operation: 2, .. })));
        assert!(hit.is_settled(), "a failed operation has ended");
        assert!(CpuEvent::new(&queue, 3, 4).query().unwrap());
    }

    #[test]
    fn covers_follows_one_timeline() {
        let (a, b) = (Shared::unattended(), Shared::unattended());
        let (early, late) = (CpuEvent::new(&a, 0, 1), CpuEvent::new(&a, 1, 2));
        assert!(late.covers(&early) && late.covers(&late) && !early.covers(&late));
        assert!(!CpuEvent::new(&b, 0, 9).covers(&early));
    }

    #[test]
    fn a_sleeping_waiter_is_woken() {
        let timeline = Timeline::new();
        std::thread::scope(|scope| {
            let waiter = scope.spawn(|| timeline.await_value(1));
            // Let the waiter outlast its spin in most runs; the outcome must be the same in all of them.
            for _ in 0..10_000 {
                std::thread::yield_now();
            }
            timeline.complete(1);
            waiter.join().unwrap();
        });
    }
}
