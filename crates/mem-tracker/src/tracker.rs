//! The tracker.

use std::fmt;
use std::sync::{Arc, MutexGuard};

use crate::book::{Begun, Book, Shared};
use crate::usage::Bytes;
use crate::{
    Category, Context, Device, Module, ModuleStats, OpenScope, Owner, Peaks, Phase, Snapshot, Storage,
    StorageId, TrackError, Units, Warning, When,
};

/// Knows who holds which bytes, on every device, now and at the peak.
///
/// Cloning is cheap; clones share everything, on any thread. See the [crate's documentation](crate) for how a program uses it.
#[derive(Clone)]
pub struct Tracker {
    pub(crate) shared: Arc<Shared>,
}

impl Default for Tracker {
    fn default() -> Self {
        Self::new()
    }
}

impl Tracker {
    /// A tracker that misses no peak: [`Peaks::EveryEvent`].
    #[must_use]
    pub fn new() -> Self {
        Self::with_peaks(Peaks::EveryEvent)
    }

    /// A tracker that looks for peaks when it is told to.
    #[must_use]
    pub fn with_peaks(peaks: Peaks) -> Self {
        Self { shared: Arc::new(Shared::new(peaks)) }
    }

    /// The device of a name, made when it is new: `cpu`, `cuda:0`. O(devices).
    ///
    /// # Errors
    /// [`TrackError::TooMany`].
    pub fn device(&self, name: &str) -> Result<Device, TrackError> {
        self.device_of(name, None)
    }

    /// The device of a name on which storages without an arena occupy multiples of `rounding` bytes: 512 is what PyTorch's
    /// tracker assumes for CUDA. Blocks of an arena occupy what the arena says.
    ///
    /// # Errors
    /// [`TrackError::Rounding`] when it is zero, or the device was made with another; [`TrackError::TooMany`].
    pub fn device_rounding(&self, name: &str, rounding: u64) -> Result<Device, TrackError> {
        self.device_of(name, Some(rounding))
    }

    fn device_of(&self, name: &str, rounding: Option<u64>) -> Result<Device, TrackError> {
        let at = self.book().device(name, rounding)?;
        Ok(Device { tracker: self.clone(), at })
    }

    /// The devices, in the order in which they were made.
    #[must_use]
    pub fn devices(&self) -> Vec<Device> {
        let count = self.book().devices.len() as u32;
        (0..count).map(|at| Device { tracker: self.clone(), at }).collect()
    }

    /// The module of a name, made when it is new. Names are paths: `Net.blocks.0`. Keep what this returns: it costs a map of
    /// strings, its scopes do not.
    ///
    /// # Errors
    /// [`TrackError::TooMany`].
    pub fn module(&self, name: &str) -> Result<Module, TrackError> {
        let at = self.book().module(name)?;
        Ok(Module { tracker: self.clone(), at })
    }

    /// This thread runs a backward pass until the guard is dropped: what it makes is [`Category::Temp`], and modules that run
    /// forward compute once more. A module's own [`backward`](Module::backward) scope says so too.
    pub fn backward(&self) -> Phase {
        Phase::new(self, crate::place::Doing::Backward)
    }

    /// This thread runs an optimizer's step until the guard is dropped: what it makes is [`Category::Optstate`].
    pub fn optimizer_step(&self) -> Phase {
        Phase::new(self, crate::place::Doing::Optimizer)
    }

    /// What this thread makes until the guard is dropped is of this category, whatever else it does.
    pub fn category(&self, category: Category) -> Phase {
        Phase::new(self, crate::place::Doing::Holding(category))
    }

    /// An operation has ended: looks whether more is held than ever. Only needed with [`Peaks::AtOperations`]. O(devices).
    pub fn operation(&self) {
        self.book().operation();
    }

    /// Ends a storage; the bytes it occupied. O(1).
    ///
    /// # Errors
    /// A stale or foreign storage; [`TrackError::InArena`] for a block of a watched arena, whose release ends it.
    pub fn remove(&self, storage: StorageId) -> Result<u64, TrackError> {
        let mut book = self.book();
        let slot = book.blocks.find_own(self.shared.number, storage)?;
        Ok(book.remove(slot).bytes.allocated)
    }

    /// Makes a storage longer or shorter, with 0 bytes too; its category stays. O(1).
    ///
    /// # Errors
    /// A stale or foreign storage; [`TrackError::Overflow`]; [`TrackError::InArena`] for a block of a watched arena, which
    /// occupies what that says.
    pub fn resize(&self, storage: StorageId, bytes: u64) -> Result<(), TrackError> {
        let mut book = self.book();
        let slot = book.blocks.find_own(self.shared.number, storage)?;
        let device = book.blocks.get(slot).device;
        let bytes = rounded(&book, device, bytes)?;
        book.resize(slot, bytes)
    }

    /// Says what a storage is held for from now on. O(1).
    ///
    /// # Errors
    /// A stale or foreign storage.
    pub fn retag(&self, storage: StorageId, category: Category) -> Result<(), TrackError> {
        let mut book = self.book();
        let slot = book.blocks.find(self.shared.number, storage)?;
        book.retag(slot, category);
        Ok(())
    }

    /// Says whose a storage is from now on: what it is held for, of which module, and what it is called. O(1).
    ///
    /// # Errors
    /// A stale or foreign storage; [`TrackError::ForeignOwner`].
    pub fn assign(&self, storage: StorageId, owner: &Owner) -> Result<(), TrackError> {
        let mut book = self.book();
        owner.check(&book)?;
        let slot = book.blocks.find(self.shared.number, storage)?;
        book.assign(slot, owner.here, owner.label);
        Ok(())
    }

    /// Calls a storage something, for reports that name the largest. Labels are kept for the tracker's life, each once.
    ///
    /// # Errors
    /// A stale or foreign storage; [`TrackError::TooMany`].
    pub fn label(&self, storage: StorageId, label: &str) -> Result<(), TrackError> {
        let mut book = self.book();
        let slot = book.blocks.find(self.shared.number, storage)?;
        let label = book.label(label)?;
        book.blocks.get_mut(slot).label = label;
        Ok(())
    }

    /// A storage as it stands. O(1).
    ///
    /// # Errors
    /// A stale or foreign storage.
    pub fn storage(&self, storage: StorageId) -> Result<Storage, TrackError> {
        let book = self.book();
        let block = book.blocks.get(book.blocks.find(self.shared.number, storage)?);
        Ok(Storage {
            id: storage,
            device: book.devices[block.device as usize].name.to_string(),
            category: block.category,
            allocated: block.bytes.allocated,
            requested: block.bytes.requested,
            module: book.module_name(block.module),
            label: book.label_name(block.label),
        })
    }

    /// What every device holds now, or held at its peak. O(devices).
    #[must_use]
    pub fn snapshot(&self, when: When) -> Snapshot {
        let book = self.book();
        let rows = book.devices.iter().map(|device| {
            let usage = if when == When::Current { device.now } else { device.peak.usage };
            (Arc::clone(&device.name), usage)
        });
        Snapshot::new(rows)
    }

    /// The text of PyTorch's `display_snapshot`: plain, or as a table.
    ///
    /// ```
    /// use mem_tracker::{Category, Tracker, Units, When};
    ///
    /// let tracker = Tracker::new();
    /// let _held = tracker.device("cpu")?.hold_as(133_120, Category::Parameter)?;
    /// let text = tracker.display_snapshot(When::Current, Units::KiB, false);
    /// assert!(text.starts_with("Device: cpu\n\tParameter: 130.0 KiB\n\tBuffer: 0.0 KiB\n"));
    /// # Ok::<(), mem_tracker::TrackError>(())
    /// ```
    #[must_use]
    pub fn display_snapshot(&self, when: When, units: Units, table: bool) -> String {
        let snapshot = self.snapshot(when);
        if table { snapshot.table(units) } else { snapshot.plain(units) }
    }

    /// What is held now is the peak: what entering PyTorch's tracker does.
    pub fn reset_peak(&self) {
        self.book().reset_peak();
    }

    /// Every module that was entered since the statistics were reset, in natural order of the names: `b.2` before `b.10`. The
    /// calls that are kept ([`keep_calls`](Self::keep_calls)) are copied under the tracker's lock, O(modules x calls); the rest is
    /// done after.
    #[must_use]
    pub fn modules(&self) -> Vec<ModuleStats> {
        let copied = crate::modules::copy(&mut self.book());
        crate::modules::collect(copied)
    }

    /// The text of PyTorch's `display_modulewise_snapshots`: modules whose names have at most `depth` parts, plain or as
    /// tables.
    #[must_use]
    pub fn display_modulewise_snapshots(&self, depth: usize, units: Units, table: bool) -> String {
        crate::modules::display(&self.modules(), depth, units, table)
    }

    /// Keeps at least the last `calls` calls of each module's state, one at least and at most twice as many, and drops those before.
    /// A call takes 136 bytes for each state and device; `usize::MAX` keeps all. O(modules).
    ///
    /// [`ModuleStats::dropped_calls`] says how many were dropped, and calls keep their numbers.
    pub fn keep_calls(&self, calls: usize) {
        self.book().keep_calls(calls);
    }

    /// How many calls are kept at least where [`keep_calls`](Self::keep_calls) does not say.
    pub const KEPT_CALLS: usize = 8;

    /// What this thread is doing, to go on with it on another one.
    #[must_use]
    pub fn context(&self) -> Context {
        Context::new(self)
    }

    /// Forgets the calls of every module, and gives back what memory they took beyond the usual, not what is held nor what they own. Iterations may follow one another without it.
    /// Scopes that are open go on, and their end is not recorded: [`Warning::ScopeOutlivedReset`].
    pub fn reset_mod_stats(&self) {
        self.book().reset_modules();
    }

    /// Forgets everything but devices, modules' names and watched arenas: what is held, peaks, statistics, warnings. Names of
    /// storages become errors; an arena that frees a block from before is a [`Warning::UnknownBlock`].
    pub fn reset(&self) {
        self.book().reset();
    }

    /// The scopes that are open, on whatever thread, the one opened first at the front.
    #[must_use]
    pub fn open_scopes(&self) -> Vec<OpenScope> {
        self.book().open_scopes()
    }

    /// Whether every scope was closed and every phase ended, on whatever thread: call it between two iterations.
    ///
    /// # Errors
    /// [`TrackError::ScopesOpen`], [`TrackError::PhasesOpen`].
    pub fn check_closed(&self) -> Result<(), TrackError> {
        let book = self.book();
        let scopes = book.open_scopes();
        if let Some(OpenScope { module, state, .. }) = scopes.first() {
            return Err(TrackError::ScopesOpen { open: scopes.len(), module: module.clone(), state: *state });
        }
        match book.phases.first() {
            None => Ok(()),
            Some(&Begun { phase, thread, .. }) => {
                Err(TrackError::PhasesOpen { open: book.phases.len(), phase, thread })
            }
        }
    }

    /// What went wrong where no error could be returned: the latest of each kind, and how many there were.
    #[must_use]
    pub fn warnings(&self) -> Vec<(Warning, u64)> {
        self.book().warnings.list()
    }

    #[inline]
    pub(crate) fn book(&self) -> MutexGuard<'_, Book> {
        self.shared.book()
    }
}

impl fmt::Debug for Tracker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tracker").field("number", &self.shared.number).finish_non_exhaustive()
    }
}

/// What a storage without an arena occupies.
#[inline]
pub(crate) fn rounded(book: &Book, device: u32, requested: u64) -> Result<Bytes, TrackError> {
    let device = &book.devices[device as usize];
    match requested.checked_next_multiple_of(device.rounding) {
        Some(allocated) => Ok(Bytes { allocated, requested }),
        None => Err(TrackError::Overflow {
            device: device.name.to_string(),
            bytes: requested,
            held: device.now.total(),
        }),
    }
}
