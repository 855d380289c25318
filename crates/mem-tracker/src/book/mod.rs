//! What a tracker's one lock guards: blocks, devices, modules, open scopes.
//!
//! Nothing here asks what thread it runs on, and nothing here calls out.

mod blocks;
mod device;
mod events;
mod levels;
mod phases;
mod records;
mod scopes;
mod tenants;
mod watches;

use std::collections::HashMap;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

pub(crate) use blocks::{Block, Blocks};
pub(crate) use device::DeviceBook;
pub(crate) use levels::Levels;
pub(crate) use phases::Begun;
pub(crate) use records::Record;
pub use scopes::OpenScope;
pub(crate) use scopes::Way;
pub(crate) use watches::WatchBook;

use crate::warning::Warnings;
use crate::{Peaks, TrackError};

/// No module, no label.
pub(crate) const NONE: u32 = u32::MAX;

/// What every clone of a tracker shares.
#[derive(Debug)]
pub(crate) struct Shared {
    /// Tells trackers apart; repeats only after 2^32 of them.
    pub(crate) number: u32,
    book: Mutex<Book>,
}

impl Shared {
    pub(crate) fn new(peaks: Peaks) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        Self { number, book: Mutex::new(Book::new(number, peaks)) }
    }

    /// The books. Held for one event or one question; nothing that is called under it calls back.
    #[inline]
    pub(crate) fn book(&self) -> MutexGuard<'_, Book> {
        // No code under the lock panics; if it did, the figures would still be what they were.
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The state of a tracker.
#[derive(Debug)]
pub(crate) struct Book {
    /// Of the tracker, for names of storages.
    pub(crate) number: u32,
    pub(crate) peaks: Peaks,
    /// Rises with every event.
    pub(crate) clock: u64,
    pub(crate) blocks: Blocks,
    pub(crate) devices: Vec<DeviceBook>,
    pub(crate) levels: Levels,
    pub(crate) modules: Vec<Record>,
    by_name: HashMap<Arc<str>, u32>,
    pub(crate) watches: Vec<WatchBook>,
    /// Numbers of watches that nobody names.
    vacant_watches: Vec<u32>,
    labels: Vec<Arc<str>>,
    by_label: HashMap<Arc<str>, u32>,
    pub(crate) warnings: Warnings,
    /// Phases that are open, the one begun first at the front.
    pub(crate) phases: Vec<Begun>,
    next_guard: u64,
    /// Rises when module statistics are reset.
    era: u32,
    /// Calls of a module's state that are kept at least.
    pub(crate) keep: usize,
}

impl Book {
    fn new(number: u32, peaks: Peaks) -> Self {
        Self {
            number,
            peaks,
            clock: 0,
            blocks: Blocks::default(),
            devices: Vec::new(),
            levels: Levels::new(peaks),
            modules: Vec::new(),
            by_name: HashMap::new(),
            watches: Vec::new(),
            vacant_watches: Vec::new(),
            labels: Vec::new(),
            by_label: HashMap::new(),
            warnings: Warnings::default(),
            phases: Vec::new(),
            next_guard: 0,
            era: 0,
            keep: crate::Tracker::KEPT_CALLS,
        }
    }

    /// The number of a device, made when the name is new.
    pub(crate) fn device(&mut self, name: &str, rounding: Option<u64>) -> Result<u32, TrackError> {
        if let Some(at) = self.devices.iter().position(|device| &*device.name == name) {
            let has = self.devices[at].rounding;
            return match rounding {
                Some(asked) if asked != has => {
                    Err(TrackError::Rounding { device: name.to_owned(), rounding: has, asked })
                }
                _ => Ok(at as u32),
            };
        }
        let rounding = rounding.unwrap_or(1);
        if rounding == 0 {
            return Err(TrackError::Rounding { device: name.to_owned(), rounding: 1, asked: 0 });
        }
        let at = self.devices.len() as u64;
        if at >= MOST_DEVICES {
            return Err(TrackError::TooMany { what: "devices", limit: MOST_DEVICES });
        }
        self.devices.push(DeviceBook::new(name.into(), rounding));
        Ok(at as u32)
    }

    /// The number of a module, made when the name is new.
    pub(crate) fn module(&mut self, name: &str) -> Result<u32, TrackError> {
        if let Some(at) = self.by_name.get(name) {
            return Ok(*at);
        }
        let at = next_number(self.modules.len(), "modules")?;
        let name: Arc<str> = name.into();
        self.modules.push(Record::new(Arc::clone(&name)));
        self.by_name.insert(name, at);
        Ok(at)
    }

    /// The number of a label, made when it is new.
    pub(crate) fn label(&mut self, name: &str) -> Result<u32, TrackError> {
        if let Some(at) = self.by_label.get(name) {
            return Ok(*at);
        }
        let at = next_number(self.labels.len(), "labels")?;
        let name: Arc<str> = name.into();
        self.labels.push(Arc::clone(&name));
        self.by_label.insert(name, at);
        Ok(at)
    }

    pub(crate) fn label_name(&self, label: u32) -> Option<String> {
        self.labels.get(label as usize).map(|name| name.to_string())
    }

    pub(crate) fn module_name(&self, module: u32) -> Option<String> {
        self.modules.get(module as usize).map(|record| record.name.to_string())
    }

    /// A number for a guard; no two have the same.
    pub(crate) fn next_guard(&mut self) -> u64 {
        self.next_guard += 1;
        self.next_guard
    }
}

fn next_number(len: usize, what: &'static str) -> Result<u32, TrackError> {
    match u32::try_from(len) {
        Ok(at) if at != NONE => Ok(at),
        _ => Err(TrackError::TooMany { what, limit: u64::from(NONE) }),
    }
}

/// Snapshots have a row for each.
const MOST_DEVICES: u64 = 1 << 16;
