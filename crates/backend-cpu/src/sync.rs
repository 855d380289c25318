//! The synchronisation both devices use, in one place.

use std::sync::{Mutex, MutexGuard, PoisonError};

/// Locks `mutex` whether or not a holder panicked: every critical section here leaves its data well-formed at
/// each step, and user code never runs inside one that could leave it otherwise.
pub(crate) fn lock<T: ?Sized>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Polls `done` for some ten microseconds, first busily and then yielding; returns whether it came true.
///
/// A transfer of a few kilobytes takes less time than putting a thread to sleep and waking it, so whoever waits
/// looks for a moment first. Most of the moment is spent yielding: on a machine with few cores the thread that
/// is waited for may need this very core.
pub(crate) fn spin_until(done: impl Fn() -> bool) -> bool {
    for _ in 0..SPINS {
        if done() {
            return true;
        }
        std::hint::spin_loop();
    }
    for _ in 0..YIELDS {
        if done() {
            return true;
        }
        std::thread::yield_now();
    }
    done()
}

const SPINS: u32 = 64;
const YIELDS: u32 = 32;
