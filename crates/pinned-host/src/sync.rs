//! The synchronisation of this crate, in one place: std's, or loom's when its model checker runs (`--cfg loom`).

#[cfg(loom)]
pub(crate) use loom::sync::{Condvar, Mutex, MutexGuard, atomic};
#[cfg(not(loom))]
pub(crate) use std::sync::{Condvar, Mutex, MutexGuard, atomic};
// Not loom's, which cannot be shared as a trait object. What it would find, use after the last owner, is not what is modelled.
pub(crate) use std::sync::{Arc, PoisonError, Weak};

/// Locks `mutex` whether or not a holder panicked: every critical section of this crate leaves its data well-formed at each
/// step, and calls nothing of the user's.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
