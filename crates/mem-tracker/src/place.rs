//! Where a thread is: in which module, and doing what. This decides whose its allocations are.

use std::cell::RefCell;
use std::sync::{Arc, Weak};
use std::thread::{self, ThreadId};

use crate::Category;
use crate::book::{NONE, Shared};

/// What a block made now on this thread is: innermost module and category.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Here {
    pub(crate) module: u32,
    pub(crate) category: Category,
}

/// What a guard says the thread is doing.
#[derive(Clone, Copy)]
pub(crate) enum Doing {
    Forward,
    Recompute,
    Backward,
    Optimizer,
    Holding(Category),
    /// What another thread was doing.
    As(Work),
}

impl Doing {
    /// What errors and warnings call it.
    pub(crate) const fn name(&self) -> &'static str {
        match self {
            Self::Forward => "a forward pass",
            Self::Recompute => "a recomputation",
            Self::Backward => "a backward pass",
            Self::Optimizer => "an optimizer's step",
            Self::Holding(_) => "a category",
            Self::As(_) => "work for another thread",
        }
    }
}

/// What all open guards of a thread together say.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Work {
    module: u32,
    told: Option<Category>,
    optimizer: bool,
    backward: bool,
    recompute: bool,
}

/// An open guard of this thread.
struct Frame {
    guard: u64,
    doing: Doing,
    /// The module, of a scope.
    module: u32,
}

/// One tracker's guards on this thread, in the order in which they were opened.
struct Place {
    tracker: u32,
    /// What they say. Invariant: `here` follows from it.
    work: Work,
    here: Here,
    frames: Vec<Frame>,
    shared: Weak<Shared>,
}

thread_local! {
    /// Of the trackers that have had a guard open on this thread. Nearly always one or none, so a list is quickest.
    static PLACES: RefCell<Vec<Place>> = const { RefCell::new(Vec::new()) };
    static ME: ThreadId = thread::current().id();
}

/// Where this thread is, for a tracker. O(trackers with open guards on this thread).
#[inline]
pub(crate) fn here(tracker: u32) -> Here {
    let found = PLACES.try_with(|places| {
        let places = places.borrow();
        places.iter().find(|place| place.tracker == tracker).map(|place| place.here)
    });
    // A thread whose locals are gone already has no guard open.
    found.ok().flatten().unwrap_or(Work::NONE.here())
}

/// What this thread is doing, for a tracker.
pub(crate) fn work(tracker: u32) -> Work {
    with(tracker, |place| place.work).unwrap_or(Work::NONE)
}

/// Whether this thread is in a backward pass.
pub(crate) fn in_backward(tracker: u32) -> bool {
    work(tracker).backward
}

/// This thread.
pub(crate) fn me() -> ThreadId {
    ME.try_with(|me| *me).unwrap_or_else(|_| thread::current().id())
}

/// A guard was opened on this thread.
pub(crate) fn push(shared: &Arc<Shared>, guard: u64, doing: Doing, module: u32) {
    let frame = Frame { guard, doing, module };
    let _ = PLACES.try_with(|places| {
        let mut places = places.borrow_mut();
        let at = places.iter().position(|place| place.tracker == shared.number);
        let at = at.unwrap_or_else(|| {
            // Those of trackers that are gone make way.
            places.retain(|place| place.shared.strong_count() > 0);
            let (tracker, shared) = (shared.number, Arc::downgrade(shared));
            let (work, here) = (Work::NONE, Work::NONE.here());
            places.push(Place { tracker, work, here, frames: Vec::new(), shared });
            places.len() - 1
        });
        places[at].frames.push(frame);
        places[at].settle();
    });
}

/// A guard of this thread was closed. Guards may be closed in any order.
pub(crate) fn pop(tracker: u32, guard: u64) {
    with(tracker, |place| {
        if let Some(at) = place.frames.iter().rposition(|frame| frame.guard == guard) {
            place.frames.remove(at);
            place.settle();
        }
    });
}

fn with<R>(tracker: u32, run: impl FnOnce(&mut Place) -> R) -> Option<R> {
    PLACES
        .try_with(|places| {
            let mut places = places.borrow_mut();
            places.iter_mut().find(|place| place.tracker == tracker).map(run)
        })
        .ok()
        .flatten()
}

impl Place {
    /// Decides anew what this thread's allocations are, after a guard came or went. O(open guards).
    fn settle(&mut self) {
        self.work = self.frames.iter().fold(Work::NONE, Work::then);
        self.here = self.work.here();
    }
}

impl Work {
    /// No guard is open.
    const NONE: Self = Self { module: NONE, told: None, optimizer: false, backward: false, recompute: false };

    /// With one more guard, opened later.
    fn then(mut self, frame: &Frame) -> Self {
        if frame.module != NONE {
            self.module = frame.module;
        }
        match frame.doing {
            Doing::Forward => {}
            Doing::Recompute => self.recompute = true,
            Doing::Backward => self.backward = true,
            Doing::Optimizer => self.optimizer = true,
            Doing::Holding(category) => self.told = Some(category),
            Doing::As(work) => {
                self.module = if work.module == NONE { self.module } else { work.module };
                self.told = work.told.or(self.told);
                self.optimizer |= work.optimizer;
                self.backward |= work.backward;
                self.recompute |= work.recompute;
            }
        }
        self
    }

    fn here(&self) -> Here {
        let category = match self.told {
            Some(category) => category,
            None if self.optimizer => Category::Optstate,
            None if self.backward && !self.recompute => Category::Temp,
            None => Category::Activation,
        };
        Here { module: self.module, category }
    }
}

/// A thread ends: what was left open is closed, and said.
impl Drop for Place {
    fn drop(&mut self) {
        let Some(shared) = self.shared.upgrade() else { return };
        for frame in &self.frames {
            if frame.module == NONE {
                shared.book().phase_left_open(frame.guard);
            } else {
                shared.book().left_open(frame.guard);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Tracker;

    /// A thread that outlives many trackers keeps nothing of them.
    #[test]
    fn trackers_that_are_gone_make_way() {
        let kept = Tracker::new();
        let _phase = kept.backward();
        for _ in 0..100 {
            drop(Tracker::new().backward());
        }
        let places = PLACES.with(|places| places.borrow().len());
        assert!(places <= 2, "{places} trackers are remembered");
        assert_eq!(here(kept.shared.number).category, Category::Temp);
    }
}
