//! Devices: where memory is.

use std::collections::BTreeMap;

use crate::place::{self, Here};
use crate::tracker::rounded;
use crate::{
    Attribution, Category, Held, MemoryStats, Owner, StorageId, TrackError, Tracker, Usage, Watch, When,
};

/// A device of a tracker: a name with figures.
#[derive(Debug, Clone)]
pub struct Device {
    pub(crate) tracker: Tracker,
    pub(crate) at: u32,
}

impl Device {
    /// Its name.
    #[must_use]
    pub fn name(&self) -> String {
        self.tracker.book().devices[self.at as usize].name.to_string()
    }

    /// Storages without an arena occupy multiples of this many bytes.
    #[must_use]
    pub fn rounding(&self) -> u64 {
        self.tracker.book().devices[self.at as usize].rounding
    }

    /// Tells of a storage of `bytes` bytes, in the category of what this thread is doing. Zero bytes are counted nowhere until
    /// they are resized. O(1).
    ///
    /// # Errors
    /// [`TrackError::Overflow`], [`TrackError::TooMany`].
    pub fn add(&self, bytes: u64) -> Result<StorageId, TrackError> {
        self.add_here(bytes, place::here(self.tracker.shared.number))
    }

    /// Tells of a storage of a given category. O(1).
    ///
    /// # Errors
    /// As [`add`](Self::add).
    pub fn add_as(&self, bytes: u64, category: Category) -> Result<StorageId, TrackError> {
        self.add_here(bytes, Here { category, ..place::here(self.tracker.shared.number) })
    }

    /// The same as [`add`](Self::add), until the guard is dropped.
    ///
    /// # Errors
    /// As [`add`](Self::add).
    pub fn hold(&self, bytes: u64) -> Result<Held, TrackError> {
        Ok(Held { id: self.add(bytes)?, tracker: self.tracker.clone() })
    }

    /// The same as [`add_as`](Self::add_as), until the guard is dropped.
    ///
    /// # Errors
    /// As [`add`](Self::add).
    pub fn hold_as(&self, bytes: u64, category: Category) -> Result<Held, TrackError> {
        Ok(Held { id: self.add_as(bytes, category)?, tracker: self.tracker.clone() })
    }

    /// A storage whose owner is known, until the guard is dropped. O(1).
    ///
    /// # Errors
    /// As [`add`](Self::add); [`TrackError::ForeignOwner`].
    pub fn hold_for(&self, bytes: u64, owner: &Owner) -> Result<Held, TrackError> {
        let mut book = self.tracker.book();
        owner.check(&book)?;
        let bytes = rounded(&book, self.at, bytes)?;
        let slot = book.add(self.at, bytes, owner.here)?;
        book.blocks.get_mut(slot).label = owner.label;
        let id = book.id(slot);
        drop(book);
        Ok(Held { id, tracker: self.tracker.clone() })
    }

    #[inline]
    fn add_here(&self, bytes: u64, here: Here) -> Result<StorageId, TrackError> {
        let mut book = self.tracker.book();
        let bytes = rounded(&book, self.at, bytes)?;
        let slot = book.add(self.at, bytes, here)?;
        Ok(book.id(slot))
    }

    /// Watches an arena of `size` bytes on this device: give [`Watch::observer`] to it.
    ///
    /// # Errors
    /// [`TrackError::TooMany`]; [`TrackError::Overflow`]: the device's arenas together span more than can be counted.
    pub fn watch(&self, size: u64) -> Result<Watch, TrackError> {
        let at = self.tracker.book().watch(self.at, size)?;
        Ok(Watch::new(self.tracker.clone(), at))
    }

    /// What it holds now, or held at its peak. O(1).
    #[must_use]
    pub fn usage(&self, when: When) -> Usage {
        let book = self.tracker.book();
        let device = &book.devices[self.at as usize];
        if when == When::Current { device.now } else { device.peak.usage }
    }

    /// Who holds it: by category, by module, and the `largest` largest storages. O(n + m log m) for n storages of the tracker and m of
    /// the device, under the tracker's lock.
    #[must_use]
    pub fn attribution(&self, when: When, largest: usize) -> Attribution {
        crate::attribution::collect(&self.tracker.book(), self.at, when, largest)
    }

    /// PyTorch's statistics of one device; [`MemoryStats::map`] has them under its keys.
    #[must_use]
    pub fn memory_stats(&self) -> MemoryStats {
        crate::stats::collect(&self.tracker.book().devices[self.at as usize])
    }

    /// The text of `torch.cuda.memory_summary` for this device. Its ID is the number that its name ends with, `cuda:3`, or else how
    /// many devices were made before it.
    #[must_use]
    pub fn memory_summary(&self, abbreviated: bool) -> String {
        let name = self.name();
        let id = name.rsplit_once(':').and_then(|(_, id)| id.parse().ok()).unwrap_or(self.at);
        crate::summary::text(&self.memory_stats(), id, abbreviated)
    }

    /// The peaks of [`memory_stats`](Self::memory_stats) start anew from what there is now.
    pub fn reset_peak_memory_stats(&self) {
        self.tracker.book().devices[self.at as usize].counts.reset_peak();
    }

    /// The sums and counters of [`memory_stats`](Self::memory_stats) start anew from zero.
    pub fn reset_accumulated_memory_stats(&self) {
        self.tracker.book().devices[self.at as usize].counts.reset_accumulated();
    }

    /// PyTorch's statistics as a sorted map. The same as `memory_stats().map()`.
    #[must_use]
    pub fn memory_stats_map(&self) -> BTreeMap<String, u64> {
        self.memory_stats().map()
    }
}
