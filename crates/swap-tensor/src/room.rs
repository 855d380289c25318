//! Room on a device: free room first, then moves, then evictions, then waiting.

use crate::{
    SlotState, SwapError,
    books::{Books, Job, JobKind, may_leave, valid_elsewhere},
    device::{Device, DeviceBooks, DeviceIndex, Spot},
    lock::Guard,
    observe::{Kind, Reason, Step},
    order::Moved,
    policy::{Fetch, Tier},
    pool::Inner,
    rule::For,
    spill::Then,
};
use allocator_core::{AllocError, Handle, Request};
use pinned_host::{Access, Event, HostError, Lane, SliceOf, Transfer};
use std::{sync::Arc, time::Instant};

/// How far a search for room may go.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Effort {
    /// Whether to wait for other people's leases to end, and until when.
    pub(crate) wait_until: Option<Instant>,
    /// When the request came, for the error's sake.
    pub(crate) since: Instant,
    pub(crate) why: Why,
}

/// What room is wanted for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Why {
    /// A lease, or the budget: somebody waits.
    Lease,
    /// A tensor that the program wants fetched ahead.
    Wish,
    /// One that the schedule wants.
    Fetch(Fetch),
}

/// Who stays, as long as others can go.
#[derive(Debug, Clone, Copy)]
struct Spare {
    /// What was fetched ahead and not used since.
    fetched: bool,
    /// What has fewer bytes.
    below: u64,
}

/// What an attempt to evict one tensor came to.
enum Evicted {
    /// Its room is free.
    Freed,
    /// It is being written back; its room is free after that.
    Started,
    /// Host copies are being written to the lower tier first.
    Waiting,
    /// Nobody can go. The reason, if a candidate was refused by the host tier.
    Nobody(Option<SwapError>),
}

impl<T: Transfer> Inner<T> {
    /// A block of `bytes` for a tensor that is about to come to a device. May drop the lock and take it again.
    pub(crate) fn room<'a>(
        &'a self,
        mut books: Guard<'a, T>,
        on: DeviceIndex,
        bytes: u64,
        effort: Effort,
    ) -> (Guard<'a, T>, Result<Handle, SwapError>) {
        let request = Request::new(bytes);
        let prefetch = effort.why != Why::Lease;
        let mut failures = books.failures(on);
        let patient = Instant::now() + self.patience;
        // What was given up so far so that less need move.
        let mut spent = 0;
        loop {
            books.reap();
            if books.devices[on].lost {
                let error = self.lost(on);
                return (books, Err(error));
            }
            let mut dear = None;
            // Free bytes that the budget, which may be less than the arena, lets tensors have.
            let mut free = books.devices[on].spare();
            if free >= bytes {
                match books.devices[on].arena.allocate_in_place(request) {
                    Ok(block) => return (books, Ok(block)),
                    Err(AllocError::OutOfMemory { free: all, .. }) => free = free.min(all),
                    Err(other) => return (books, Err(other.into())),
                }
                // When something failed room is made in the surest way.
                let failed = books.failures(on) > failures;
                let worth = |books: &mut Books<T>, moved| {
                    dear = if failed {
                        None
                    } else {
                        self.cheaper(books, on, (moved, bytes, spent), effort.why)
                    };
                    dear.is_none()
                };
                match self.move_for(&mut books, on, request, worth) {
                    Ok(Moved::Made) => continue,
                    Ok(Moved::NotWorth | Moved::NoPlan) => {}
                    Err(error) => return (books, Err(error)),
                }
            }
            if books.failures(on) > failures {
                // Nobody listens to a fetch: it gives up, and the failure is kept for who does.
                if prefetch {
                    let error = self.full(&books, on, (bytes, free), effort);
                    return (books, Err(error));
                }
                // What could not be written out stays; what need not be may still go.
                failures = books.failures(on);
                if self.evict_clean(&mut books, on, effort.why) {
                    continue;
                }
                if let Some(fault) = books.take_fault(on) {
                    return (books, Err(fault));
                }
            }
            let mut refusal = None;
            let leaving = books.devices[on].leaving;
            if leaving == 0 || free + leaving < bytes {
                match (self.evict_one(&mut books, on, effort.why), dear) {
                    (Ok(Evicted::Freed | Evicted::Started), _) => {
                        spent += dear.unwrap_or(0);
                        continue;
                    }
                    // Then blocks move after all.
                    (_, Some(_)) => {
                        spent = u64::MAX;
                        continue;
                    }
                    (Ok(Evicted::Waiting), None) => {}
                    (Ok(Evicted::Nobody(why)), None) => refusal = why,
                    (Err(error), None) => return (books, Err(error)),
                }
            }
            // What is in flight may become room, or evictable, when it ends.
            if let Some(event) = books.job_in_flight(on) {
                books = self.wait_for(books, &event);
                continue;
            }
            if dear.is_some() {
                spent = u64::MAX;
                continue;
            }
            if books.spills > 0 && Instant::now() < patient {
                books = self.sleep(books, patient);
                continue;
            }
            if let Some(error) = refusal {
                return (books, Err(error));
            }
            match effort.wait_until {
                Some(until) if Instant::now() < until => books = self.sleep(books, until),
                _ => {
                    let error = self.full(&books, on, (bytes, free), effort);
                    return (books, Err(error));
                }
            }
        }
    }

    /// What it costs, in bytes that travel, to let one more tensor go, if that and what was `spent` so far is less than `moved`
    /// bytes within the device for room of `bytes`; `None`: those are worth it.
    ///
    /// Free room in many small holes can take moving nearly all of an arena. One tensor more that leaves, which a schedule would have
    /// leave soon anyway, makes a hole where it was. To give up no more than the moves would have cost is at most twice the best choice.
    fn cheaper(
        &self,
        books: &mut Books<T>,
        on: DeviceIndex,
        (moved, bytes, spent): (u64, u64, u64),
        why: Why,
    ) -> Option<u64> {
        let ratio = u64::from(self.on(on).transfer.moves_per_transfer().max(1));
        let below = |cost: u64| moved > cost.saturating_add(spent).saturating_mul(ratio);
        if !below(bytes) {
            return None;
        }
        let spare = Spare { fetched: !books.rules[on].follows(), below: self.keep_below };
        let (at, clean) = books.victim(on, why, spare, false)?;
        // It comes in again, and goes down first if it must.
        let cost = books.entry(at).padded.saturating_mul(if clean { 1 } else { 2 });
        below(cost).then_some(cost)
    }

    /// Evicts until tensors take no more than the budget, as far as nobody's lease is in the way. The bytes taken beyond it then.
    pub(crate) fn shrink<'a>(
        &'a self,
        mut books: Guard<'a, T>,
        on: DeviceIndex,
        effort: Effort,
    ) -> (Guard<'a, T>, Result<u64, SwapError>) {
        let failures = books.failures(on);
        loop {
            books.reap();
            let device = &books.devices[on];
            let over = device.taken().saturating_sub(device.budget);
            if over == 0 || books.failures(on) > failures {
                return (books, Ok(over));
            }
            if over > device.leaving {
                match self.evict_one(&mut books, on, effort.why) {
                    Ok(Evicted::Freed | Evicted::Started) => continue,
                    Ok(Evicted::Waiting | Evicted::Nobody(_)) => {}
                    Err(error) => return (books, Err(error)),
                }
            }
            if let Some(event) = books.job_in_flight(on) {
                books = self.wait_for(books, &event);
            } else if books.spills > 0 && Instant::now() < effort.since + self.patience {
                books = self.sleep(books, effort.since + self.patience);
            } else {
                return (books, Ok(over));
            }
        }
    }

    fn full(
        &self,
        books: &Books<T>,
        on: DeviceIndex,
        (requested, free): (u64, u64),
        effort: Effort,
    ) -> SwapError {
        let DeviceBooks { held: leased, budget: arena, .. } = books.devices[on];
        books.name_holders(SwapError::DeviceBudget {
            device: on,
            requested,
            leased,
            free,
            arena,
            waited: effort.since.elapsed(),
            holders: Vec::new(),
        })
    }

    /// Evicts the tensor that the policy offers first: a clean one at once, a dirty one by way of a write-back.
    fn evict_one(&self, books: &mut Books<T>, on: DeviceIndex, why: Why) -> Result<Evicted, SwapError> {
        let mut refusal = None;
        // What was fetched ahead goes late, and what is small last; neither for the sake of a fetch. A schedule knows what was
        // fetched for when.
        let fetched = !books.rules[on].follows();
        let passes = [
            Spare { fetched, below: self.keep_below },
            Spare { fetched: false, below: self.keep_below },
            Spare { fetched: false, below: 0 },
        ];
        for spare in passes.into_iter().take(if why == Why::Lease { 3 } else { 1 }) {
            while let Some((at, clean)) = books.victim(on, why, spare, refusal.is_some()) {
                let spot = Spot { at, on };
                if clean {
                    books.let_go(spot);
                    return Ok(Evicted::Freed);
                }
                match self.write_back(books, spot) {
                    Ok(()) => {
                        books.leave(spot);
                        return Ok(Evicted::Started);
                    }
                    Err(SwapError::HostBudget { .. }) if self.spill_for(books, spot, Then::Leave) => {
                        let leaves = books.slot(spot).leaving;
                        return Ok(if leaves { Evicted::Started } else { Evicted::Waiting });
                    }
                    // A clean tensor further up may still go.
                    Err(error @ SwapError::HostBudget { .. }) => {
                        if refusal.replace(error).is_some() {
                            break;
                        }
                    }
                    Err(error) => return Err(error),
                }
            }
        }
        Ok(Evicted::Nobody(refusal))
    }

    /// Evicts a tensor that has a valid copy elsewhere, whatever the policy would rather see go; whether there is one.
    fn evict_clean(&self, books: &mut Books<T>, on: DeviceIndex, why: Why) -> bool {
        let victim = books.victim(on, why, Spare { fetched: false, below: 0 }, true);
        victim.inspect(|&(at, _)| books.let_go(Spot { at, on })).is_some()
    }

    /// The host tier has no room for a copy of `spot`: makes some by way of the lower tier, or sends the device copy there
    /// directly, if the host has none that is needed later. `false`: there is no lower tier, or nothing to send.
    pub(crate) fn spill_for(&self, books: &mut Books<T>, spot: Spot, then: Then) -> bool {
        let padded = books.entry(spot.at).padded;
        let fits = padded <= self.host.max_slice() as u64;
        // What another device waits for goes the faster way.
        let direct = then == Then::Leave && books.outlasts_the_host(spot);
        let through_host = fits && (books.spilling >= padded || (!direct && self.spill_host(books)));
        through_host || self.spill_device(books, spot, then)
    }

    /// Enqueues the copy of a valid device copy to the host tier.
    pub(crate) fn write_back(&self, books: &mut Books<T>, spot: Spot) -> Result<(), SwapError> {
        let Spot { at, on } = spot;
        let slice = self.host_slice(books, at)?;
        let range = books.range(spot)?;
        let spec = Arc::clone(&books.entry(at).spec);
        let Device { transfer, probe, .. } = self.on(on);
        let _span = probe.enter(Step::WriteBack, spec.name(), range.end - range.start);
        let reading = (transfer.lane(Lane::Download), range.clone(), Access::Read);
        let sent = match self.order_one(books, on, reading, "order a write-back") {
            Ok(()) => {
                let started = Instant::now();
                let sent = transfer.download(books.devices[on].arena.buffer(), range.start, slice);
                sent.map(|ticket| (ticket, started)).map_err(|refused| {
                    if refused.slice.is_none() {
                        books.wall(spot); // enqueued all the same
                    }
                    SwapError::device("write a tensor back", refused.error)
                })
            }
            Err(error) => Err(error),
        };
        let entry = books.entry_mut(at);
        match sent {
            Ok((ticket, started)) => {
                entry.host.state.step(SlotState::Filling);
                entry.jobs += 1;
                let (version, bytes) = (entry.version, entry.padded);
                let device = &mut books.devices[on];
                device.hazards.after(&[(range, Access::Read)], ticket.event());
                device.counters.write_backs += 1;
                device.counters.downloaded_bytes += bytes;
                let counted = probe.transfer(Kind::Download, &spec, bytes, (ticket.event(), started));
                let number = books.begin();
                let kind = JobKind::WriteBack;
                books.jobs.push(Job { number, spot, kind, version, ticket, _counted: counted });
                Ok(())
            }
            Err(error) => {
                entry.host.state.step(SlotState::Absent);
                books.leave_host(at);
                probe.failed(Kind::Download, &spec, &error);
                books.note(on, &error);
                Err(error)
            }
        }
    }

    /// Memory for a host copy of `at`, whose slot becomes Reserved: its stale copy's, or new, or a clean copy's of another.
    pub(crate) fn host_slice(&self, books: &mut Books<T>, at: u32) -> Result<SliceOf<T>, SwapError> {
        let entry = books.entry_mut(at);
        if let Some(slice) = entry.host.slice.take() {
            if entry.host.state == SlotState::Valid {
                entry.host.state.step(SlotState::Stale);
            }
            entry.host.state.step(SlotState::Reserved);
            return Ok(slice);
        }
        let bytes = entry.padded;
        // What cannot be addressed cannot be allocated either.
        let len = usize::try_from(bytes).unwrap_or(usize::MAX);
        loop {
            match self.host.allocate(len) {
                Ok(slice) => {
                    let share = books.ledger.in_host(slice.taken(), books.entry(at).owner);
                    let host = &mut books.entry_mut(at).host;
                    host.state.step(SlotState::Reserved);
                    host.share = share;
                    return Ok(slice);
                }
                Err(HostError::Full { .. }) if books.drop_spare_host_copy() => {}
                Err(full @ (HostError::Full { .. } | HostError::TooLarge { .. })) => {
                    return Err(SwapError::HostBudget { requested: bytes, source: full });
                }
                Err(other) => {
                    return Err(SwapError::Host { purpose: "a host copy", source: Box::new(other) });
                }
            }
        }
    }
}

impl<T: Transfer> Books<T> {
    /// The first tensor that may leave a device, as the policy has it, and whether it is clean.
    fn victim(&mut self, on: DeviceIndex, why: Why, spare: Spare, clean_only: bool) -> Option<(u32, bool)> {
        let Books { rules, entries, devices, .. } = self;
        let whose = match &why {
            Why::Fetch(fetch) => For::Fetch(fetch),
            Why::Lease | Why::Wish => For::Lease,
        };
        rules[on].first(Tier::Device, whose, |at| {
            let entry = &entries[at as usize];
            let slot = &entry.devices[on];
            let may_go = may_leave(devices, entry, on)
                && entry.padded >= spare.below
                && !(spare.fetched && slot.fetched_ahead);
            if !may_go {
                return None;
            }
            let clean = valid_elsewhere(devices, entry, on);
            (clean || !clean_only).then_some((at, clean))
        })
    }

    /// Gives up a device copy of which a valid one lies elsewhere.
    fn let_go(&mut self, spot: Spot) {
        self.release_device(spot);
        self.count_eviction(spot, Reason::Clean);
    }

    /// The event of a transfer in flight, if there is one: write-backs that make room on this device first, then other transfers
    /// of it, then those of other devices.
    pub(crate) fn job_in_flight(&self, on: DeviceIndex) -> Option<T::Event> {
        let worth = |job: &&Job<T>| match job.spot.on == on {
            true if self.slot(job.spot).leaving => 0,
            true => 1,
            false => 2,
        };
        self.jobs.iter().min_by_key(worth).map(|job| job.ticket.event().clone())
    }

    /// The event of a transfer in flight that began before number `end`.
    pub(crate) fn job_before(&self, end: u64) -> Option<T::Event> {
        self.jobs.iter().find(|job| job.number < end).map(|job| job.ticket.event().clone())
    }

    /// The event of the transfer in flight for one tensor.
    pub(crate) fn job_of(&self, at: u32) -> Option<T::Event> {
        self.jobs.iter().find(|job| job.spot.at == at).map(|job| job.ticket.event().clone())
    }
}

impl<T: Transfer> Inner<T> {
    /// Waits for an event with the lock dropped.
    pub(crate) fn wait_for<'a>(&'a self, books: Guard<'a, T>, event: &T::Event) -> Guard<'a, T> {
        drop(books);
        // A failure is found again, with its owner, when the job is reaped.
        let _ = event.synchronize();
        let mut books = self.lock();
        books.reap();
        books
    }
}

#[cfg(all(test, feature = "cpu"))]
mod tests {
    use super::Why;
    use crate::{DType, DeviceIndex, SwapPool, TensorSpec};
    use backend_cpu::CpuDevice;

    const UNIT: u64 = 1 << 16;

    #[test]
    fn blocks_move_unless_it_is_cheaper_that_one_leaves() {
        let builder = SwapPool::builder(CpuDevice::new().unwrap()).device_memory(4 * UNIT);
        let pool = builder.host_memory(4 * UNIT).build().unwrap();
        let [a, b] = ["a", "b"].map(|name| {
            let spec = TensorSpec::new(name, DType::U8, [UNIT]).unwrap();
            pool.create(spec, &[1; UNIT as usize]).unwrap()
        });
        let cheaper = |moved: u64, bytes: u64, spent: u64| {
            let (inner, mut books) = (&pool.inner, pool.inner.lock());
            let units = (moved * UNIT, bytes * UNIT, spent.saturating_mul(UNIT));
            inner.cheaper(&mut books, DeviceIndex::FIRST, units, Why::Lease).map(|cost| cost / UNIT)
        };
        assert_eq!(cheaper(10, 1, 0), None, "nobody is there");
        a.read().unwrap().wait().unwrap();
        assert_eq!(cheaper(10, 1, 0), Some(1), "it comes in again");
        assert_eq!(cheaper(10, 10, 0), None, "no more than the room itself");
        assert_eq!(cheaper(1, 1, 0), None);
        assert_eq!([8, 9, u64::MAX].map(|spent| cheaper(10, 1, spent)), [Some(1), None, None]);
        drop(a.write().unwrap());
        pool.settle().unwrap();
        assert_eq!([cheaper(10, 1, 0), cheaper(2, 1, 0)], [Some(2), None], "it goes down first");
        let _lease = a.read().unwrap();
        assert_eq!(cheaper(10, 1, 0), None, "it cannot leave");
        b.read().unwrap().wait().unwrap();
        assert_eq!(cheaper(10, 1, 0), Some(1));
    }
}
