//! Fetching ahead.

use crate::{
    fill::{Found, Want},
    observe::Counted,
    room::Effort,
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
        let effort = Effort { wait_until: None, since: Instant::now() };
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
                books.lru.touch(self.at);
                let unused = !books.entry(self.at).held();
                books.entry_mut(self.at).fetched_ahead = unused;
            }
            Ok(Found::Blank) | Err(_) => {}
        }
        self.inner.wake(&books);
    }
}
