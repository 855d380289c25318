//! Copying down what only devices have: because it is to leave them, or because another device wants it.

use crate::{
    SwapError,
    books::Books,
    device::Spot,
    lock::Guard,
    pool::Inner,
    room::Effort,
    spill::{Spill, Then},
};
use pinned_host::Transfer;
use std::time::Instant;

/// Tries to copy one tensor down, as far as they have come.
pub(crate) struct Descent {
    since: Instant,
    /// What becomes of the device copy then.
    then: Then,
    /// The copy that was tried last.
    from: Option<Spot>,
    /// Transfers of its device that had failed before.
    failures: u64,
    /// A write-back was enqueued.
    tried: bool,
}

impl Descent {
    pub(crate) fn new(since: Instant, then: Then) -> Self {
        Descent { since, then, from: None, failures: 0, tried: false }
    }

    /// Goes on with this copy.
    fn go_on<T: Transfer>(&mut self, books: &Books<T>, from: Spot) {
        if self.from.replace(from) != Some(from) {
            (self.failures, self.tried) = (books.failures(from.on), false);
        }
    }
}

impl<T: Transfer> Inner<T> {
    /// Has a tensor that only other devices have copied to host memory, or to the tier below where that has no room. Devices
    /// wait for no event of one another's: when this returns `Ok`, the copy below has landed.
    ///
    /// The caller has made the tensor busy, so that the copy is not given up before it was used.
    pub(crate) fn bring_down<'a>(
        &'a self,
        mut books: Guard<'a, T>,
        spot: Spot,
        effort: Effort,
    ) -> (Guard<'a, T>, Result<(), SwapError>) {
        let at = spot.at;
        let patient = Instant::now() + self.patience;
        let mut descent = Descent::new(Instant::now(), Then::Stay);
        loop {
            books.reap();
            let entry = books.entry(at);
            // A copy that another transfer has is not to be had before it ends.
            let lent = entry.jobs > 0 && entry.host.slice.is_none();
            if entry.valid_below() && !lent {
                return (books, Ok(()));
            }
            if let Some(event) = books.job_of(at) {
                books = self.wait_for(books, &event);
                continue;
            }
            if entry.spill != Spill::No && Instant::now() < patient {
                books = self.sleep(books, patient);
                continue;
            }
            let from = match entry.device_with_it() {
                // Only a hint comes while somebody writes elsewhere, and it is not worth the wait: a lease excludes all other writers.
                Some(_) if entry.writer.is_some_and(|on| on != spot.on) || entry.spill != Spill::No => {
                    let error = entry.leased(effort.since.elapsed());
                    return (books, Err(error));
                }
                Some(on) => Spot { at, on },
                None => {
                    let error = entry.no_valid_copy();
                    return (books, Err(error));
                }
            };
            let (guard, step) = self.descend(books, from, &mut descent);
            books = guard;
            match step {
                // The copy that was to be read is gone with its device: another look.
                Err(error) if error.is_device_lost() => {}
                Err(error) => return (books, Err(error)),
                Ok(()) => {}
            }
        }
    }

    /// The next step of copying a valid device copy down: enqueues it, or waits until there may be room for it. The caller looks
    /// at what came of it, and calls again.
    pub(crate) fn descend<'a>(
        &'a self,
        mut books: Guard<'a, T>,
        from: Spot,
        descent: &mut Descent,
    ) -> (Guard<'a, T>, Result<(), SwapError>) {
        let until = descent.since + self.patience;
        descent.go_on(&books, from);
        if core::mem::replace(&mut descent.tried, true) {
            if let Some(fault) = books.take_fault(from.on) {
                return (books, Err(fault));
            }
            // Somebody else was told, or wrote to the tensor meanwhile: another try.
            if Instant::now() >= until {
                let waited = descent.since.elapsed();
                return (books, Err(SwapError::Timeout { operation: "copy a tensor down", waited }));
            }
        }
        match self.write_back(&mut books, from) {
            Err(full @ SwapError::HostBudget { .. }) => {
                if books.failures(from.on) > descent.failures {
                    let error = books.take_fault(from.on).unwrap_or(full);
                    return (books, Err(error));
                }
                if Instant::now() >= until || !self.spill_for(&mut books, from, descent.then) {
                    return (books, Err(full));
                }
                // Host copies make way first, or the device copy goes below directly: another look when that is done.
                descent.tried = books.entry(from.at).spill == Spill::Device(from.on);
                (self.sleep(books, until), Ok(()))
            }
            sent => (books, sent),
        }
    }
}

#[cfg(all(test, feature = "cpu"))]
mod tests {
    use crate::{
        DType, DeviceIndex, SwapError, SwapPool, TensorSpec,
        device::Spot,
        room::{Effort, Why},
    };
    use backend_cpu::CpuDevice;
    use std::time::Instant;

    /// A fetch that was begun before the writer came: whatever it waited for, it does not read under the writer's hands.
    #[test]
    fn what_is_being_written_is_not_brought_down_for_another_device() {
        let builder = SwapPool::builder(CpuDevice::new().unwrap()).device_memory(1 << 16);
        let builder = builder.add_device(CpuDevice::new().unwrap(), 1 << 16).host_memory(1 << 20);
        let pool = builder.build().unwrap();
        let tensor = pool.create(TensorSpec::new("t", DType::U8, [4096]).unwrap(), &[1; 4096]).unwrap();
        let lease = tensor.write().unwrap();
        let effort = Effort { wait_until: None, since: Instant::now(), why: Why::Wish };
        let spot = Spot { at: tensor.at(), on: DeviceIndex::new(1) };
        let (books, down) = pool.inner.bring_down(pool.inner.lock(), spot, effort);
        assert!(matches!(down, Err(SwapError::Leased { writer: true, .. })), "{down:?}");
        drop(books);
        drop(lease);
        let (books, down) = pool.inner.bring_down(pool.inner.lock(), spot, effort);
        assert!(down.is_ok() && books.entry(tensor.at()).valid_below());
    }
}
