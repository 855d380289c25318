//! What a thread is doing beside modules, and how another thread goes on with it.

use std::marker::PhantomData;

use crate::Tracker;
use crate::book::NONE;
use crate::place::{self, Doing, Work};

/// What this thread is doing beside modules, until it is dropped: a backward pass, an optimizer's step, a category.
///
/// Phases may be dropped in any order, and not on another thread. One that is forgotten goes on until its thread ends:
/// [`Tracker::check_closed`] names it. An explicit category ([`Tracker::category`]) comes before an
/// optimizer's step, and that before a backward pass.
#[derive(Debug)]
#[must_use = "the phase ends when this is dropped"]
pub struct Phase {
    tracker: Tracker,
    guard: u64,
    /// A phase belongs to the thread that began it.
    here: PhantomData<*const ()>,
}

impl Phase {
    pub(crate) fn new(tracker: &Tracker, doing: Doing) -> Self {
        let guard = tracker.book().begin_phase(doing.name(), place::me());
        place::push(&tracker.shared, guard, doing, NONE);
        Self { tracker: tracker.clone(), guard, here: PhantomData }
    }
}

impl Drop for Phase {
    fn drop(&mut self) {
        place::pop(self.tracker.shared.number, self.guard);
        self.tracker.book().end_phase(self.guard);
    }
}

/// What a thread was doing when this was made: its innermost module and its phases. A thread that works for it enters this, and
/// what it makes counts as if the first one had made it; scopes and phases that it opens itself come on top.
///
/// ```
/// use mem_tracker::{Category, Tracker};
///
/// let tracker = Tracker::new();
/// let layer = tracker.module("Net.0")?;
/// let _backward = layer.backward();
/// let context = tracker.context();
/// let made = std::thread::spawn(move || {
///     let _working = context.enter();
///     let device = context.tracker().device("cpu")?;
///     let scratch = device.add(64)?;
///     context.tracker().storage(scratch)
/// });
/// let made = made.join().unwrap()?;
/// assert_eq!((made.category, made.module.as_deref()), (Category::Temp, Some("Net.0")));
/// # Ok::<(), mem_tracker::TrackError>(())
/// ```
#[derive(Debug, Clone)]
pub struct Context {
    tracker: Tracker,
    work: Work,
}

impl Context {
    pub(crate) fn new(tracker: &Tracker) -> Self {
        Self { tracker: tracker.clone(), work: place::work(tracker.shared.number) }
    }

    /// The tracker.
    #[must_use]
    pub fn tracker(&self) -> &Tracker {
        &self.tracker
    }

    /// This thread works for the one that made this, until the guard is dropped. No scope is opened by it.
    pub fn enter(&self) -> Phase {
        Phase::new(&self.tracker, Doing::As(self.work))
    }
}
