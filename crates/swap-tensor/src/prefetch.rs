//! Fetching ahead: what the program wishes for, and what the schedule wants.

use crate::{
    SlotState, SwapError,
    books::Books,
    device::{DeviceIndex, Spot},
    entry::Busy,
    fill::{Found, Want},
    observe::Counted,
    policy::Draft,
    pool::Inner,
    room::{Effort, Why},
    tensor::Token,
};
use pinned_host::Transfer;
use std::{
    sync::{Arc, atomic::Ordering},
    time::Instant,
};

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
