//! The synchronisation both devices use, in one place.

use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

/// Locks `mutex` whether or not a holder panicked: every critical section here leaves its data well-formed at
/// each step, and user code never runs inside one that could leave it otherwise.
pub(crate) fn lock<T: ?Sized>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Polls `done` for a moment; returns whether it came true.
///
/// A short transfer may be over before a thread has gone to sleep, so whoever waits looks first. It does not yield
/// meanwhile: a yield enters the kernel. On a single core the one that is waited for cannot run while another spins, so nobody does.
pub(crate) fn spin_until(done: impl Fn() -> bool) -> bool {
    let spins = if has_many_cores() { SPINS } else { 0 };
    for _ in 0..spins {
        if done() {
            return true;
        }
        std::hint::spin_loop();
    }
    done()
}

fn has_many_cores() -> bool {
    static MANY: OnceLock<bool> = OnceLock::new();
    *MANY.get_or_init(|| std::thread::available_parallelism().is_ok_and(|cores| cores.get() > 1))
}

const SPINS: u32 = 2000;
