//! Fetching ahead: what the program wishes for, and what the schedule wants.

use crate::{
    SlotState, SwapError,
    books::Books,
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

/// A tensor to fetch, unless it is used before its turn comes.
pub(crate) struct Wish<T: Transfer> {
    token: Arc<Token<T>>,
    /// How often it had been leased when the wish came.
    uses: u64,
    _counted: Counted,
}

impl<T: Transfer> Wish<T> {
    pub(crate) fn new(token: &Arc<Token<T>>) -> Self {
        let (uses, counted) = (token.uses(), token.inner.probe.wished());
        Wish { token: Arc::clone(token), uses, _counted: counted }
    }

    pub(crate) fn token(&self) -> &Arc<Token<T>> {
        &self.token
    }

    /// Brings the tensor in if that disturbs nobody, and if it was not used since the wish.
    pub(crate) fn serve(self) {
        self.token.wished.store(false, Ordering::Relaxed);
        self.token.fetch_ahead(self.uses);
    }
}

impl<T: Transfer> Token<T> {
    fn uses(&self) -> u64 {
        self.inner.lock().entry(self.at).uses
    }

    fn fetch_ahead(&self, uses: u64) {
        let books = self.inner.lock();
        let entry = books.entry(self.at);
        if entry.held() || entry.busy || entry.uses != uses {
            return; // in use, on its way, or too late
        }
        let effort = Effort { wait_until: None, since: Instant::now(), why: Why::Wish };
        let (mut books, found) = self.inner.bring_in(books, self.at, Want::Contents, effort);
        match found {
            Ok(Found::Fetched) => {
                let unused = !books.entry(self.at).held();
                books.entry_mut(self.at).fetched_ahead = unused;
                books.counters.prefetches += 1;
                self.inner.probe.prefetched();
            }
            // It stays, whatever write-back it was waiting to leave after.
            Ok(Found::Here) => {
                books.stay(self.at);
                let unused = !books.entry(self.at).held();
                books.entry_mut(self.at).fetched_ahead = unused;
            }
            Ok(Found::Blank) | Err(_) => {}
        }
        self.inner.wake(&books);
    }
}

impl<T: Transfer> Inner<T> {
    /// A lease came or went: what the schedule wants next may have room now.
    pub(crate) fn poke(&self, books: &mut Books<T>) {
        if let (true, Some(me)) = (books.rule.follows(), self.me.upgrade()) {
            self.movers.poke(&me);
        }
    }

    /// Makes a schedule of what was recorded and follows it, on a thread of the pool.
    pub(crate) fn make_schedule(&self, draft: Draft) {
        let Some(me) = self.me.upgrade() else { return };
        let work = move || {
            let schedule = draft.plan();
            let mut books = me.lock();
            if let Some(scheduled) = books.rule.schedule() {
                scheduled.adopt(schedule);
            }
            me.poke(&mut books);
        };
        if let Err(work) = self.movers.demand(Box::new(work)) {
            work();
        }
    }

    /// Begins the next fetch that the schedule wants. `false`: there is none, or no room for it yet.
    pub(crate) fn fetch_scheduled(&self) -> bool {
        let mut books = self.lock();
        books.reap();
        let Some(fetch) = books.rule.schedule().and_then(|schedule| schedule.next_fetch(u64::MAX)) else {
            return false;
        };
        let at = fetch.key.number();
        let entry = books.entry(at);
        let wanted = entry.live && entry.device.state == SlotState::Absent && entry.valid_below();
        if !wanted || entry.held() || entry.busy {
            return true; // on its way, or not to be had: the next one
        }
        // Kept meanwhile, so that whoever drops the last handle does not miss that somebody is at it.
        let Some(token) = entry.token.upgrade() else { return true };
        let effort = Effort { wait_until: None, since: Instant::now(), why: Why::Fetch(fetch) };
        let (mut books, found) = self.bring_in(books, at, Want::Contents, effort);
        let begun = match found {
            Ok(found) => {
                if found == Found::Fetched {
                    books.counters.prefetches += 1;
                    self.probe.prefetched();
                }
                true
            }
            Err(
                SwapError::DeviceBudget { .. } | SwapError::HostBudget { .. } | SwapError::DiskBudget { .. },
            ) => {
                if let Some(schedule) = books.rule.schedule() {
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
