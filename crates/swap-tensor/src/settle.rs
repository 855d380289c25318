//! Waiting for what is in flight, and holding a device to less than its arena.

use crate::{
    DeviceIndex, SwapError, SwapPool,
    pool::Inner,
    request::Errand,
    room::{Effort, Why},
};
use pinned_host::Transfer;
use std::{sync::Arc, time::Instant};

impl<T: Transfer> SwapPool<T> {
    /// Blocks until every transfer of this pool that was asked for before is done, or has failed; not for what other threads ask for
    /// meanwhile. O(tensors) for each write to disk that it waits for.
    ///
    /// # Errors
    /// The first write-back that failed and that nobody was told of yet: its source is still valid. [`SwapError::Timeout`] when the
    /// disk tier ends nothing of that for as long as its deadline.
    pub fn settle(&self) -> Result<(), SwapError> {
        self.inner.settle()
    }

    /// [`settle`](Self::settle) for a task: a thread of the pool waits, from now on.
    pub fn settle_async(&self) -> Errand<Result<(), SwapError>> {
        let inner = Arc::clone(&self.inner);
        // Not a thread that serves wishes, for which this waits.
        self.inner.errand(move || inner.settle())
    }

    /// Changes the bytes that tensors may take on the first device, at most its arena; more than that counts as the arena. Returns the
    /// bytes that are still taken beyond it.
    ///
    /// What nobody uses leaves at once as far as it can, the rest as soon as its leases end and others need room: a lease that no
    /// longer fits is refused, not one that was given.
    ///
    /// # Errors
    /// A write-back fails. The budget holds all the same.
    pub fn set_device_budget(&self, bytes: u64) -> Result<u64, SwapError> {
        self.inner.set_budget(DeviceIndex::FIRST, bytes)
    }

    /// [`set_device_budget`](Self::set_device_budget) of another device.
    ///
    /// # Errors
    /// As there; [`SwapError::NoDevice`].
    pub fn set_device_budget_at(&self, device: DeviceIndex, bytes: u64) -> Result<u64, SwapError> {
        self.inner.check_device(device)?;
        self.inner.set_budget(device, bytes)
    }
}

impl<T: Transfer> Inner<T> {
    fn settle(&self) -> Result<(), SwapError> {
        self.movers.wait_hints();
        let mut books = self.lock();
        let end = books.begun;
        let (mut since, mut left) = (Instant::now(), usize::MAX);
        loop {
            books.reap();
            if let Some(event) = books.job_before(end) {
                books = self.wait_for(books, &event);
                continue;
            }
            let spills = books.spills_before(end);
            if spills == 0 {
                return books.fault.take().map_or(Ok(()), |(_, error)| Err(error));
            }
            if core::mem::replace(&mut left, spills) != spills {
                since = Instant::now();
            }
            let waited = since.elapsed();
            if waited >= self.patience {
                return Err(SwapError::Timeout { operation: "settle: write to disk", waited });
            }
            books = self.sleep(books, since + self.patience);
        }
    }

    fn set_budget(&self, on: DeviceIndex, bytes: u64) -> Result<u64, SwapError> {
        let mut books = self.lock();
        let device = &mut books.devices[on];
        device.budget = bytes.min(device.arena.allocator().size());
        let budget = device.budget;
        if let Some(schedule) = books.rules[on].schedule() {
            schedule.set_device_bytes(budget);
        }
        self.wake(&books);
        let (since, failures) = (Instant::now(), books.failures(on));
        let (mut books, left) = self.shrink(books, on, Effort { wait_until: None, since, why: Why::Lease });
        let fault = if books.failures(on) > failures { books.take_fault(on) } else { None };
        fault.map_or(left, Err)
    }
}
