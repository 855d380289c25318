//! How long somebody waits: a deadline, and a way to end it earlier from elsewhere.

use crate::sync::atomic::{AtomicBool, Ordering};
use crate::sync::{Arc, Mutex, Weak, lock};
use std::time::Instant;

/// How long to wait for room: as long as it takes, until a time, or until somebody calls it off.
///
/// ```
/// use pinned_host::{CancelToken, Wait};
/// use std::time::{Duration, Instant};
///
/// let token = CancelToken::new();
/// let wait = Wait::until(Instant::now() + Duration::from_secs(1)).or_cancelled_by(&token);
/// # let _ = wait;
/// ```
#[derive(Debug, Clone, Copy, Default)]
pub struct Wait<'a> {
    /// When to give up; `None`: never.
    pub deadline: Option<Instant>,
    /// What ends the wait before.
    pub cancel: Option<&'a CancelToken>,
}

impl<'a> Wait<'a> {
    /// For as long as it takes.
    pub fn forever() -> Self {
        Self::default()
    }

    /// Until `deadline`. What has come by then is still got after it.
    pub fn until(deadline: Instant) -> Self {
        Wait { deadline: Some(deadline), cancel: None }
    }

    /// The same, and no longer than until `token` is cancelled. What needs no wait is got all the same.
    pub fn or_cancelled_by(self, token: &'a CancelToken) -> Self {
        Wait { cancel: Some(token), ..self }
    }
}

impl From<Option<Instant>> for Wait<'_> {
    /// `None`: for as long as it takes.
    fn from(deadline: Option<Instant>) -> Self {
        Wait { deadline, cancel: None }
    }
}

/// Calls waits off, from any thread. Clones are the same token; it stays cancelled for ever.
///
/// Cancelling ends waits and work not yet begun; what a device has been given is left to end, under a
/// [`Ticket`](crate::Ticket).
#[derive(Clone, Default)]
pub struct CancelToken {
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    cancelled: AtomicBool,
    /// Who has somebody asleep that looks at the token when woken.
    sleepers: Mutex<Vec<Weak<dyn Wake>>>,
}

/// Has sleepers that look at their tokens when they are woken.
pub(crate) trait Wake: Send + Sync {
    fn wake_all(&self);
}

impl CancelToken {
    /// A token that is not cancelled.
    pub fn new() -> Self {
        Self::default()
    }

    /// Ends every wait that goes by this token, now and later.
    pub fn cancel(&self) {
        self.shared.cancelled.store(true, Ordering::SeqCst);
        let sleepers = core::mem::take(&mut *lock(&self.shared.sleepers));
        // Not under the lock: who is woken may lock it.
        sleepers.iter().filter_map(Weak::upgrade).for_each(|sleeper| sleeper.wake_all());
    }

    /// Whether [`cancel`](Self::cancel) was called.
    pub fn is_cancelled(&self) -> bool {
        self.shared.cancelled.load(Ordering::SeqCst)
    }

    /// Has `sleeper` woken by `cancel` until the guard is dropped.
    ///
    /// Who asks [`is_cancelled`](Self::is_cancelled) afterwards, under the lock that `wake_all` takes, misses nothing: either
    /// the flag is set by then, or the wake-up comes when it sleeps.
    pub(crate) fn watch(&self, sleeper: Weak<dyn Wake>) -> Watch<'_> {
        lock(&self.shared.sleepers).push(Weak::clone(&sleeper));
        Watch { token: self, sleeper }
    }
}

impl core::fmt::Debug for CancelToken {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("CancelToken").field("cancelled", &self.is_cancelled()).finish_non_exhaustive()
    }
}

/// Says that somebody is asleep.
pub(crate) struct Watch<'a> {
    token: &'a CancelToken,
    sleeper: Weak<dyn Wake>,
}

impl Drop for Watch<'_> {
    fn drop(&mut self) {
        let mut sleepers = lock(&self.token.shared.sleepers);
        if let Some(at) = sleepers.iter().position(|sleeper| sleeper.ptr_eq(&self.sleeper)) {
            sleepers.swap_remove(at);
        }
    }
}
