//! Fetching ahead: one thread brings tensors in, in the order they were asked for.

use crate::{
    fill::{Found, Want},
    observe::Counted,
    room::Effort,
    tensor::Token,
};
use pinned_host::Transfer;
use std::{
    collections::VecDeque,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, atomic::Ordering},
    thread::JoinHandle,
    time::Instant,
};

/// The queue of wishes and the thread that serves it, started with the first wish.
pub(crate) struct Fetcher<T: Transfer> {
    shared: Arc<Shared<T>>,
    worker: Mutex<Option<JoinHandle<()>>>,
}

struct Shared<T: Transfer> {
    state: Mutex<State<T>>,
    changed: Condvar,
}

struct State<T: Transfer> {
    wishes: VecDeque<Wish<T>>,
    /// The worker is serving a wish it has taken off the queue.
    serving: bool,
    closed: bool,
}

/// A tensor to fetch, unless it is used before its turn comes.
struct Wish<T: Transfer> {
    token: Arc<Token<T>>,
    /// How often it had been leased when the wish came.
    uses: u64,
    _counted: Counted,
}

impl<T: Transfer> Fetcher<T> {
    pub(crate) fn new() -> Self {
        let state = State { wishes: VecDeque::new(), serving: false, closed: false };
        let shared = Shared { state: Mutex::new(state), changed: Condvar::new() };
        Fetcher { shared: Arc::new(shared), worker: Mutex::new(None) }
    }

    /// Adds wishes; one that is waiting already is not added again.
    pub(crate) fn ask<'a>(&self, tokens: impl Iterator<Item = &'a Arc<Token<T>>>)
    where
        T: 'a,
    {
        let mut state = self.shared.lock();
        for token in tokens {
            if !token.wished.swap(true, Ordering::Relaxed) {
                let (uses, counted) = (token.uses(), token.inner.probe.wished());
                state.wishes.push_back(Wish { token: Arc::clone(token), uses, _counted: counted });
            }
        }
        if state.wishes.is_empty() {
            return;
        }
        drop(state);
        self.start();
        self.shared.changed.notify_all();
    }

    /// Blocks until every wish has been served or given up.
    pub(crate) fn wait_idle(&self) {
        let mut state = self.shared.lock();
        while state.serving || !state.wishes.is_empty() {
            state = self.shared.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn start(&self) {
        let mut worker = self.worker.lock().unwrap_or_else(PoisonError::into_inner);
        if worker.is_some() {
            return;
        }
        let shared = Arc::clone(&self.shared);
        match std::thread::Builder::new().name("prefetch".into()).spawn(move || shared.serve()) {
            Ok(handle) => *worker = Some(handle),
            // A wish is a hint: without a thread nobody serves it.
            Err(_) => self.shared.lock().wishes.clear(),
        }
    }
}

impl<T: Transfer> Shared<T> {
    fn serve(&self) {
        let mut state = self.lock();
        loop {
            if state.closed {
                return;
            }
            if let Some(wish) = state.wishes.pop_front() {
                state.serving = true;
                drop(state);
                wish.token.wished.store(false, Ordering::Relaxed);
                wish.token.fetch_ahead(wish.uses);
                drop(wish);
                state = self.lock();
                state.serving = false;
                self.changed.notify_all();
            } else {
                state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, State<T>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<T: Transfer> Drop for Fetcher<T> {
    fn drop(&mut self) {
        let mut state = self.shared.lock();
        state.closed = true;
        let unserved = core::mem::take(&mut state.wishes);
        drop(state);
        drop(unserved);
        self.shared.changed.notify_all();
        let worker = self.worker.get_mut().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(worker) = worker {
            let _ = worker.join();
        }
    }
}

impl<T: Transfer> Token<T> {
    fn uses(&self) -> u64 {
        self.inner.lock().entry(self.at).uses
    }

    /// Brings the tensor in if that disturbs nobody, and if it was not used since the wish.
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
