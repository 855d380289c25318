//! Names of what is held.

use core::fmt;

use crate::{Category, TrackError, Tracker};

/// The name of a storage: memory that is counted once, however many tensors and views share it.
///
/// Once it is removed, the name is an error for ever, never another storage.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct StorageId {
    pub(crate) tracker: u32,
    pub(crate) slot: u32,
    /// When it was made: no two storages of a tracker have the same.
    pub(crate) born: u64,
}

impl fmt::Debug for StorageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "StorageId({self})")
    }
}

/// `event@tracker`, short enough for a log line.
impl fmt::Display for StorageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}", self.born, self.tracker)
    }
}

/// A storage as it stands.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Storage {
    /// Its name.
    pub id: StorageId,
    /// Name of its device.
    pub device: String,
    /// What it is held for.
    pub category: Category,
    /// Bytes it occupies.
    pub allocated: u64,
    /// Bytes that were asked for.
    pub requested: u64,
    /// The innermost module whose scope was open on the thread that made it.
    pub module: Option<String>,
    /// What the program called it.
    pub label: Option<String>,
}

/// A storage that is held until this is dropped: put it beside the memory it stands for.
///
/// ```
/// let tracker = mem_tracker::Tracker::new();
/// let host = tracker.device("cpu")?;
/// let held = host.hold(4096)?;
/// assert_eq!(host.usage(mem_tracker::When::Current).total(), 4096);
/// drop(held);
/// assert!(host.usage(mem_tracker::When::Current).is_empty());
/// # Ok::<(), mem_tracker::TrackError>(())
/// ```
#[derive(Debug)]
pub struct Held {
    pub(crate) tracker: Tracker,
    pub(crate) id: StorageId,
}

impl Held {
    /// The storage's name.
    #[must_use]
    pub fn id(&self) -> StorageId {
        self.id
    }

    /// Makes it longer or shorter; see [`Tracker::resize`].
    ///
    /// # Errors
    /// As [`Tracker::resize`].
    pub fn resize(&self, bytes: u64) -> Result<(), TrackError> {
        self.tracker.resize(self.id, bytes)
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        // After a reset it is gone already.
        let _ = self.tracker.remove(self.id);
    }
}
