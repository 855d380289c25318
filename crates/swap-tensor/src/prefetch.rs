//! Fetching ahead: what the program wishes for, and what the schedule wants.

use crate::{
    DeviceIndex, SlotState, SwapError, SwapPool, Tensor,
    books::Books,
    device::Spot,
    entry::Busy,
    fill::{Found, Want},
    observe::Counted,
    policy::{Draft, State},
    pool::Inner,
    room::{Effort, Why},
    tensor::Token,
};
use pinned_host::Transfer;
use std::{
    sync::{Arc, atomic::Ordering},
    time::Instant,
};

impl<T: Transfer> SwapPool<T> {
    /// Starts to bring tensors to the first device ahead of their use, in order, and returns at once.
    ///
    /// A hint: what does not fit beside leased, pinned and already fetched tensors is skipped, and a failure shows
    /// when the tensor is leased.
    pub fn prefetch(&self, tensors: &[&Tensor<T>]) {
        self.wish(DeviceIndex::FIRST, tensors);
    }

    /// [`prefetch`](Self::prefetch) to another device. What only other devices have is copied to host memory for it, unless it is
    /// leased for writing there.
    ///
    /// # Errors
    /// [`SwapError::NoDevice`].
    pub fn prefetch_at(&self, device: DeviceIndex, tensors: &[&Tensor<T>]) -> Result<(), SwapError> {
        self.inner.check_device(device)?;
        self.wish(device, tensors);
        Ok(())
    }

    fn wish(&self, on: DeviceIndex, tensors: &[&Tensor<T>]) {
        self.inner.movers.wish(tensors.iter().map(|t| &t.token), on, self.inner.fetchers());
    }

    /// Takes back what [`prefetch`](Self::prefetch) was asked for, for whatever device, and nobody has begun; how many wishes those
    /// were. A fetch that has taken room goes on.
    pub fn cancel_prefetch(&self, tensors: &[&Tensor<T>]) -> usize {
        self.inner.movers.unwish(|token| tensors.iter().any(|tensor| Arc::ptr_eq(&tensor.token, token)))
    }

    /// Says that an iteration of the program begins: a training step, a token. With [`PoolBuilder::schedule`](crate::PoolBuilder::schedule) the leases of one
    /// iteration are the schedule of the next: what is needed farthest ahead leaves first, and what is needed next comes in just in
    /// time, without a [`prefetch`](Self::prefetch). Otherwise nothing happens.
    ///
    /// The first schedule is made while the second iteration runs, by a thread of the pool, and followed as soon as it is there. Where the program
    /// leaves the order, the pool's policy decides, until the next call. See [`policy::schedule`](crate::policy::schedule).
    ///
    /// ```
    /// use backend_cpu::CpuDevice;
    /// use swap_tensor::{DType, SwapPool, TensorSpec};
    ///
    /// let pool = SwapPool::builder(CpuDevice::new()?)
    ///     .device_memory(3 << 20)
    ///     .host_memory(8 << 20)
    ///     .schedule(true)
    ///     .build()?;
    /// let layers = (0..6u8)
    ///     .map(|i| pool.create(TensorSpec::new(format!("{i}"), DType::U8, [1 << 20])?, &vec![i; 1 << 20]))
    ///     .collect::<Result<Vec<_>, _>>()?;
    /// for _token in 0..4 {
    ///     pool.mark_step();
    ///     for layer in &layers {
    ///         layer.read()?.wait()?; // and compute, while the next one comes in
    ///     }
    /// }
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn mark_step(&self) {
        for on in self.inner.devices.indices() {
            let mut books = self.inner.lock();
            let draft = books.rules[on].mark_step();
            self.inner.poke(&mut books, on);
            drop(books);
            if let Some(draft) = draft {
                self.inner.make_schedule(on, draft);
            }
        }
    }

    /// What the pool goes by on the first device: a recorded step, or the policy because there is none, or none that fits; `None`
    /// without [`PoolBuilder::schedule`](crate::PoolBuilder::schedule).
    pub fn schedule_state(&self) -> Option<State> {
        self.inner.lock().rules[DeviceIndex::FIRST].state()
    }

    /// [`schedule_state`](Self::schedule_state) of another device: each records its own leases, and follows their order.
    ///
    /// # Errors
    /// [`SwapError::NoDevice`].
    pub fn schedule_state_at(&self, device: DeviceIndex) -> Result<Option<State>, SwapError> {
        self.inner.check_device(device)?;
        Ok(self.inner.lock().rules[device].state())
    }

    /// Blocks until everything asked for by [`prefetch`](Self::prefetch) before is on its way, or was given up.
    pub fn wait_prefetch(&self) {
        self.inner.movers.wait_hints();
    }
}

/// A tensor to fetch to a device, unless it is used there before its turn comes.
pub(crate) struct Wish<T: Transfer> {
    token: Arc<Token<T>>,
    on: DeviceIndex,
    /// How often it had been leased there when the wish came.
    uses: u64,
    _counted: Counted,
}

impl<T: Transfer> Wish<T> {
    /// A wish, unless the same one waits already.
    pub(crate) fn new(token: &Arc<Token<T>>, on: DeviceIndex) -> Option<Self> {
        if token.wished.fetch_or(on.bit(), Ordering::Relaxed) & on.bit() != 0 {
            return None;
        }
        let (uses, counted) = (token.slot_uses(on), token.inner.on(on).probe.wished());
        Some(Wish { token: Arc::clone(token), on, uses, _counted: counted })
    }

    pub(crate) fn token(&self) -> &Arc<Token<T>> {
        &self.token
    }

    /// It does not wait any more.
    pub(crate) fn forget(&self) {
        self.token.wished.fetch_and(!self.on.bit(), Ordering::Relaxed);
    }

    /// Brings the tensor in if that disturbs nobody, and if it was not used since the wish.
    pub(crate) fn serve(self) {
        self.forget();
        self.token.fetch_ahead(self.on, self.uses);
    }
}

impl<T: Transfer> Token<T> {
    fn slot_uses(&self, on: DeviceIndex) -> u64 {
        self.inner.lock().slot(Spot { at: self.at, on }).uses
    }

    fn fetch_ahead(&self, on: DeviceIndex, uses: u64) {
        let spot = Spot { at: self.at, on };
        let books = self.inner.lock();
        let entry = books.entry(self.at);
        let written = entry.writer.is_some();
        if written || entry.is_held_on(on) || entry.busy != Busy::No || books.slot(spot).uses != uses {
            return; // in use, on its way, or too late
        }
        let effort = Effort { wait_until: None, since: Instant::now(), why: Why::Wish };
        let (mut books, found) = self.inner.bring_in(books, spot, Want::Contents, effort);
        match found {
            Ok(Found::Fetched) => {
                books.slot_mut(spot).fetched_ahead = !books.entry(self.at).is_held_on(on);
                books.devices[on].counters.prefetches += 1;
                self.inner.on(on).probe.prefetched();
            }
            // It stays, whatever write-back it was waiting to leave after.
            Ok(Found::Here) => {
                books.stay(spot);
                books.slot_mut(spot).fetched_ahead = !books.entry(self.at).is_held_on(on);
            }
            Ok(Found::Blank) | Err(_) => {}
        }
        self.inner.wake(&books);
    }
}

impl<T: Transfer> Inner<T> {
    /// A lease came or went: what the device's schedule wants next may have room now.
    pub(crate) fn poke(&self, books: &mut Books<T>, on: DeviceIndex) {
        if let (true, Some(me)) = (books.rules[on].follows(), self.me.upgrade()) {
            self.movers.poke(&me);
        }
    }

    /// Makes a schedule for a device of what was recorded there and follows it, on a thread of the pool.
    pub(crate) fn make_schedule(&self, on: DeviceIndex, draft: Draft) {
        let Some(me) = self.me.upgrade() else { return };
        let work = move || {
            let schedule = draft.plan();
            let mut books = me.lock();
            if let Some(scheduled) = books.rules[on].schedule() {
                scheduled.adopt(schedule);
            }
            me.poke(&mut books, on);
        };
        if let Err(work) = self.movers.demand(Box::new(work)) {
            work();
        }
    }

    /// Begins the fetches that the schedules want, as far as there is room for them yet.
    pub(crate) fn fetch_scheduled(&self) {
        for on in self.devices.indices() {
            while self.fetch_next_scheduled(on) {}
        }
    }

    /// `false`: there is none, or no room for it yet.
    fn fetch_next_scheduled(&self, on: DeviceIndex) -> bool {
        let mut books = self.lock();
        books.reap();
        let Some(fetch) = books.rules[on].schedule().and_then(|schedule| schedule.next_fetch(u64::MAX))
        else {
            return false;
        };
        let spot = Spot { at: fetch.key.number(), on };
        let entry = books.entry(spot.at);
        let wanted = entry.live && books.slot(spot).state == SlotState::Absent && entry.has_source(on);
        if !wanted || entry.writer.is_some() || entry.is_held_on(on) || entry.busy != Busy::No {
            return true; // on its way, or not to be had: the next one
        }
        // Kept meanwhile, so that whoever drops the last handle does not miss that somebody is at it.
        let Some(token) = entry.token.upgrade() else { return true };
        let effort = Effort { wait_until: None, since: Instant::now(), why: Why::Fetch(fetch) };
        let (mut books, found) = self.bring_in(books, spot, Want::Contents, effort);
        let begun = match found {
            Ok(found) => {
                if found == Found::Fetched {
                    books.devices[on].counters.prefetches += 1;
                    self.on(on).probe.prefetched();
                }
                true
            }
            Err(
                SwapError::DeviceBudget { .. } | SwapError::HostBudget { .. } | SwapError::DiskBudget { .. },
            ) => {
                if let Some(schedule) = books.rules[on].schedule() {
                    schedule.put_back(fetch);
                }
                false
            }
            // Whoever leases it will meet that again, and be told.
            Err(_) => false,
        };
        self.wake(&books);
        drop(books);
        drop(token); // may be the last, and takes the lock
        begun
    }
}
