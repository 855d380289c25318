//! The lock on the books, and who is told when something under it changed.
//!
//! Threads sleep on a condition variable. Tasks leave a waker, which is only called once the lock is free again: an executor
//! may drop what a woken task held, a lease among it, and that takes the lock.

use crate::{books::Books, pool::Inner};
use pinned_host::Transfer;
use std::{
    ops::{Deref, DerefMut},
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    task::Waker,
    time::Instant,
};

/// The pool's books, locked.
///
/// The fields go in this order: the lock is given up before anybody is woken.
pub(crate) struct Guard<'a, T: Transfer> {
    books: MutexGuard<'a, Books<T>>,
    after: WakeAfter<'a>,
}

impl<T: Transfer> Deref for Guard<'_, T> {
    type Target = Books<T>;

    fn deref(&self) -> &Books<T> {
        &self.books
    }
}

impl<T: Transfer> DerefMut for Guard<'_, T> {
    fn deref_mut(&mut self) -> &mut Books<T> {
        &mut self.books
    }
}

/// Calls, when dropped, the wakers of tasks that were told of a change.
struct WakeAfter<'a>(&'a Tasks);

impl Drop for WakeAfter<'_> {
    fn drop(&mut self) {
        self.0.call();
    }
}

/// Tasks that wait for the books to change.
#[derive(Default)]
pub(crate) struct Tasks {
    lists: Mutex<Lists>,
    /// Whether a task waits, so that nobody looks when none does. Set under the books' lock.
    waiting: AtomicBool,
    /// Whether a task is to be called once the books' lock is free.
    told: AtomicBool,
}

#[derive(Default)]
struct Lists {
    waiting: Vec<Waker>,
    told: Vec<Waker>,
}

impl Tasks {
    /// Adds a task, which is told of the next change. Under the books' lock, or the change may have been missed.
    fn wait(&self, waker: &Waker) {
        self.waiting.store(true, Ordering::Relaxed);
        let mut lists = self.lists();
        if !lists.waiting.iter().any(|known| known.will_wake(waker)) {
            lists.waiting.push(waker.clone());
        }
    }

    /// Something changed: under the books' lock.
    fn tell(&self) {
        if self.waiting.load(Ordering::Relaxed) {
            let mut lists = self.lists();
            let mut waiting = core::mem::take(&mut lists.waiting);
            lists.told.append(&mut waiting);
            lists.waiting = waiting;
            self.waiting.store(false, Ordering::Relaxed);
            self.told.store(true, Ordering::Release);
        }
    }

    /// Calls the tasks that were told.
    fn call(&self) {
        if self.told.load(Ordering::Acquire) && self.told.swap(false, Ordering::AcqRel) {
            let told = core::mem::take(&mut self.lists().told);
            told.into_iter().for_each(Waker::wake);
        }
    }

    fn lists(&self) -> MutexGuard<'_, Lists> {
        self.lists.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<T: Transfer> Inner<T> {
    pub(crate) fn lock(&self) -> Guard<'_, T> {
        // Sections under the lock do not panic; if one ever did, the books may be read but are checked by `check`.
        let books = self.books.lock().unwrap_or_else(PoisonError::into_inner);
        Guard { books, after: WakeAfter(&self.tasks) }
    }

    /// Sleeps until something changes, at the latest at `until`. May return for no reason.
    pub(crate) fn sleep<'a>(&'a self, mut books: Guard<'a, T>, until: Instant) -> Guard<'a, T> {
        if self.tasks.told.load(Ordering::Relaxed) {
            drop(books);
            return self.lock(); // nobody is left unwoken while this thread sleeps
        }
        let left = until.saturating_duration_since(Instant::now());
        books.sleepers += 1;
        let Guard { books, after } = books;
        let (mut books, _) = self.changed.wait_timeout(books, left).unwrap_or_else(PoisonError::into_inner);
        books.sleepers -= 1;
        Guard { books, after }
    }

    /// The task is woken by the next change.
    pub(crate) fn wake_at_change(&self, _books: &Guard<'_, T>, waker: &Waker) {
        self.tasks.wait(waker);
    }

    /// Wakes whoever waits for a change, tasks once the lock is free.
    pub(crate) fn wake(&self, books: &Books<T>) {
        if books.sleepers > 0 {
            self.changed.notify_all();
        }
        self.tasks.tell();
    }
}
