//! Where a thread is: in which module, and doing what. This decides whose its allocations are.

use std::cell::RefCell;
use std::sync::{Arc, Weak};
use std::thread::{self, ThreadId};

use crate::Category;
use crate::book::{NONE, Shared};

/// What a block made now on this thread is: innermost module and category.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Here {
    pub(crate) module: u32,
    pub(crate) category: Category,
}

/// What a guard says the thread is doing.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Doing {
    Forward,
    Recompute,
    Backward,
    Optimizer,
    Holding(Category),
}

/// An open guard of this thread.
struct Frame {
    guard: u64,
    doing: Doing,
    /// The module, of a scope or a context.
    module: u32,
}

/// One tracker's guards on this thread, in the order in which they were opened.
struct Place {
    tracker: u32,
    here: Here,
    frames: Vec<Frame>,
    shared: Weak<Shared>,
}

thread_local! {
    /// Of the trackers that have had a guard open on this thread. Nearly always one or none, so a list is quickest.
    static PLACES: RefCell<Vec<Place>> = const { RefCell::new(Vec::new()) };
    static ME: ThreadId = thread::current().id();
}

const OUTSIDE: Here = Here { module: NONE, category: Category::Activation };

/// Where this thread is, for a tracker. O(trackers with open guards on this thread).
#[inline]
pub(crate) fn here(tracker: u32) -> Here {
    let found = PLACES.try_with(|places| {
        let places = places.borrow();
        places.iter().find(|place| place.tracker == tracker).map(|place| place.here)
    });
    // A thread whose locals are gone already has no guard open.
    found.ok().flatten().unwrap_or(OUTSIDE)
}

/// Whether this thread is in a backward pass.
pub(crate) fn in_backward(tracker: u32) -> bool {
    with(tracker, |place| place.any(Doing::Backward)).unwrap_or(false)
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
            places.push(Place { tracker, here: OUTSIDE, frames: Vec::new(), shared });
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
    fn any(&self, doing: Doing) -> bool {
        self.frames.iter().any(|frame| frame.doing == doing)
    }

    /// Decides anew what this thread's allocations are, after a guard came or went. O(open guards).
    fn settle(&mut self) {
        let module = self.frames.iter().rev().find(|frame| frame.module != NONE);
        let told = self.frames.iter().rev().find_map(|frame| match frame.doing {
            Doing::Holding(category) => Some(category),
            _ => None,
        });
        let category = told.unwrap_or_else(|| match () {
            () if self.any(Doing::Optimizer) => Category::Optstate,
            () if self.any(Doing::Backward) && !self.any(Doing::Recompute) => Category::Temp,
            () => Category::Activation,
        });
        self.here = Here { module: module.map_or(NONE, |frame| frame.module), category };
    }
}

/// A thread ends: what was left open is closed, and said.
impl Drop for Place {
    fn drop(&mut self) {
        let Some(shared) = self.shared.upgrade() else { return };
        for frame in self.frames.iter().filter(|frame| frame.module != NONE) {
            shared.book().left_open(frame.guard);
        }
    }
}
