//! Modules, and scopes of their passes.

use std::marker::PhantomData;

use crate::book::Way;
use crate::place::{self, Doing};
use crate::{Category, ModState, StorageId, TrackError, Tracker};

/// A module of a tracker: a name whose passes are noted.
///
/// ```
/// use mem_tracker::{ModState, Tracker};
///
/// let tracker = Tracker::new();
/// let device = tracker.device("cpu")?;
/// let layer = tracker.module("Net.0")?;
/// {
///     let _scope = layer.forward();
///     let scratch = device.hold(1000)?;
///     drop(scratch);
/// }
/// let stats = &tracker.modules()[0];
/// assert_eq!(stats.local_peak("cpu"), 1000);
/// assert_eq!(stats.states(), [ModState::PeakForward, ModState::PreForward, ModState::PostForward]);
/// # Ok::<(), mem_tracker::TrackError>(())
/// ```
#[derive(Debug, Clone)]
pub struct Module {
    pub(crate) tracker: Tracker,
    pub(crate) at: u32,
}

impl Module {
    /// Its name.
    #[must_use]
    pub fn name(&self) -> String {
        self.tracker.book().module_name(self.at).unwrap_or_default()
    }

    /// The module below this one: `Net.blocks` has `Net.blocks.0`.
    ///
    /// # Errors
    /// As [`Tracker::module`].
    pub fn child(&self, name: &str) -> Result<Self, TrackError> {
        self.tracker.module(&format!("{}.{name}", self.name()))
    }

    /// Says which storages are its parameters: they become [`Category::Parameter`], and what they occupy now, each as often as it
    /// is named, is the module's `parameter_mem`, returned. Frozen ones are parameters too.
    ///
    /// # Errors
    /// A stale or foreign storage, and nothing changed.
    pub fn parameters(&self, storages: &[StorageId]) -> Result<u64, TrackError> {
        let mut book = self.tracker.book();
        let sum = book.own(storages, Category::Parameter)?;
        book.modules[self.at as usize].parameters = sum;
        Ok(sum)
    }

    /// The same for buffers.
    ///
    /// # Errors
    /// As [`parameters`](Self::parameters).
    pub fn buffers(&self, storages: &[StorageId]) -> Result<u64, TrackError> {
        let mut book = self.tracker.book();
        let sum = book.own(storages, Category::Buffer)?;
        book.modules[self.at as usize].buffers = sum;
        Ok(sum)
    }

    /// A forward pass through the module, until the scope is dropped. Inside a backward pass of this thread, a module that was
    /// entered before computes its activations once more: [`ModState::PreForwardAc`]. One that was not begins with
    /// [`ModState::PreForward`]; both end with [`ModState::PostForwardAc`], as in the original.
    pub fn forward(&self) -> Scope {
        self.open(Way::Forward { in_backward: place::in_backward(self.tracker.shared.number) })
    }

    /// The same, and notes what its inputs occupy, but for a recomputation.
    ///
    /// # Errors
    /// A stale or foreign storage; no scope was opened.
    pub fn forward_of(&self, inputs: &[StorageId]) -> Result<Scope, TrackError> {
        let sum = self.tracker.book().sum(inputs)?;
        let scope = self.forward();
        if scope.opened != ModState::PreForwardAc {
            self.tracker.book().modules[self.at as usize].inputs = sum;
        }
        Ok(scope)
    }

    /// A backward pass through the module, until the scope is dropped.
    pub fn backward(&self) -> Scope {
        self.open(Way::Backward)
    }

    fn open(&self, way: Way) -> Scope {
        let (guard, opened) = self.tracker.book().open(self.at, way, place::me());
        let doing = match opened {
            ModState::PreForward => Doing::Forward,
            ModState::PreForwardAc => Doing::Recompute,
            _ => Doing::Backward,
        };
        place::push(&self.tracker.shared, guard, doing, self.at);
        let tracker = self.tracker.clone();
        Scope { tracker, module: self.at, guard, opened, end: Some(way.end()), here: PhantomData }
    }
}

/// A pass through a module, from when it was made until it is dropped, on this thread.
///
/// What the thread makes meanwhile is the module's, unless an inner scope is open; what is held on any device meanwhile, by
/// whatever thread, can be the peak of this pass. Scopes may be dropped in any order, and not on another thread. One that a panic
/// drops is [abandoned](Self::abandon).
#[derive(Debug)]
#[must_use = "the pass ends when this is dropped"]
pub struct Scope {
    tracker: Tracker,
    module: u32,
    guard: u64,
    opened: ModState,
    /// The state with which it ends; `None` when it was given up.
    end: Option<ModState>,
    /// A scope belongs to the thread that opened it.
    here: PhantomData<*const ()>,
}

impl Scope {
    /// The state with which it was opened.
    #[must_use]
    pub fn opened(&self) -> ModState {
        self.opened
    }

    /// Ends the pass and notes what its outputs occupy, but for a recomputation or a backward pass.
    ///
    /// # Errors
    /// A stale or foreign storage; the pass has ended all the same.
    pub fn end(self, outputs: &[StorageId]) -> Result<(), TrackError> {
        let mut book = self.tracker.book();
        let sum = book.sum(outputs)?;
        if self.end == Some(ModState::PostForward) {
            book.modules[self.module as usize].outputs = sum;
        }
        Ok(())
    }

    /// Ends the pass without a state of its end: it was given up half-way.
    pub fn abandon(mut self) {
        self.end = None;
    }
}

impl Drop for Scope {
    fn drop(&mut self) {
        place::pop(self.tracker.shared.number, self.guard);
        // A pass that a panic cut short has not reached its end.
        let end = self.end.filter(|_| !std::thread::panicking());
        self.tracker.book().close(self.guard, end);
    }
}
