//! How a disk store is to be.

use super::{DiskError, DiskStore};
use std::{
    path::{Path, PathBuf},
    time::Duration,
};

/// A store to be opened: where, how large, and how its I/O is done.
///
/// ```
/// use swap_tensor::disk::{DiskConfig, DiskError, IoChoice};
///
/// let store = DiskConfig::new(std::env::temp_dir(), 8 << 20).chunk(256 << 10).io(IoChoice::Auto).open()?;
/// println!("{}", store.path());
/// assert_eq!(store.stats().capacity, 8 << 20);
/// # Ok::<(), DiskError>(())
/// ```
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct DiskConfig {
    /// Where the files are, one in each. Several drives are used at once; directories of one drive gain nothing.
    pub directories: Vec<PathBuf>,
    /// Bytes of the store, divided evenly over the directories, each share rounded up to whole pages.
    pub capacity: u64,
    /// The most that one operation transfers, in bytes; 1 MiB by default. A multiple of 4,096, at most 1 GiB.
    pub chunk: u64,
    /// Operations in flight for each direction of each directory; 16 by default, at most 1,024.
    pub depth: usize,
    /// Threads for each direction of each directory where threads do the I/O: 8 by default. With io_uring there is one.
    pub threads: usize,
    /// Requests that may wait for each direction of each directory; 1,024 by default.
    pub queue: usize,
    /// Which path to take.
    pub io: IoChoice,
    /// Whether to go past the page cache where that can be done; it is by default.
    pub direct: bool,
    /// How long closing the store waits for operations in flight; 30 s by default. What has not ended by then ends by itself,
    /// with its memory and its file.
    pub grace: Duration,
    #[cfg(feature = "conformance")]
    pub(super) faults: super::FaultPlan,
}

/// Which path I/O takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum IoChoice {
    /// io_uring where it works, threads elsewhere.
    #[default]
    Auto,
    /// io_uring, or an error that says why not.
    Uring,
    /// Threads that call `pread` and `pwrite`.
    Threads,
}

impl DiskConfig {
    /// A store of `capacity` bytes in `directory`.
    pub fn new(directory: impl AsRef<Path>, capacity: u64) -> Self {
        DiskConfig {
            directories: vec![directory.as_ref().to_owned()],
            capacity,
            chunk: 1 << 20,
            depth: 16,
            threads: 8,
            queue: 1024,
            io: IoChoice::Auto,
            direct: true,
            grace: Duration::from_secs(30),
            #[cfg(feature = "conformance")]
            faults: super::FaultPlan::default(),
        }
    }

    /// And in this directory too.
    #[must_use]
    pub fn and(mut self, directory: impl AsRef<Path>) -> Self {
        self.directories.push(directory.as_ref().to_owned());
        self
    }

    /// The most that one operation transfers, in bytes.
    #[must_use]
    pub fn chunk(self, chunk: u64) -> Self {
        DiskConfig { chunk, ..self }
    }

    /// Operations in flight for each direction of each directory.
    #[must_use]
    pub fn depth(self, depth: usize) -> Self {
        DiskConfig { depth, ..self }
    }

    /// Threads for each direction of each directory, where threads do the I/O.
    #[must_use]
    pub fn threads(self, threads: usize) -> Self {
        DiskConfig { threads, ..self }
    }

    /// Requests that may wait for each direction of each directory.
    #[must_use]
    pub fn queue(self, queue: usize) -> Self {
        DiskConfig { queue, ..self }
    }

    /// Which path to take.
    #[must_use]
    pub fn io(self, io: IoChoice) -> Self {
        DiskConfig { io, ..self }
    }

    /// Whether to go past the page cache where that can be done.
    #[must_use]
    pub fn direct(self, direct: bool) -> Self {
        DiskConfig { direct, ..self }
    }

    /// How long closing the store waits for operations in flight.
    #[must_use]
    pub fn grace(self, grace: Duration) -> Self {
        DiskConfig { grace, ..self }
    }

    /// With simulated faults, on whichever path is taken.
    #[cfg(feature = "conformance")]
    #[must_use]
    pub fn faults(self, faults: super::FaultPlan) -> Self {
        DiskConfig { faults, ..self }
    }

    /// Makes the files, reserves their room and finds out which path works. The same as [`DiskStore::open`].
    ///
    /// # Errors
    /// As there.
    pub fn open(self) -> Result<DiskStore, DiskError> {
        DiskStore::open(self)
    }

    /// Refuses what cannot work.
    pub(super) fn check(&self) -> Result<(), DiskError> {
        let refuse = |what, why: String| Err(DiskError::Config { what, why });
        if self.directories.is_empty() {
            return refuse("directories", "there is none".to_owned());
        }
        if self.capacity == 0 || self.capacity > MOST_BYTES {
            return refuse("capacity", format!("{} bytes: at least 1, at most 2^62", self.capacity));
        }
        if self.chunk == 0 || self.chunk > MOST_CHUNK || !self.chunk.is_multiple_of(4096) {
            return refuse("chunk", format!("{} bytes: a multiple of 4096, at most 1 GiB", self.chunk));
        }
        for (what, given) in [("depth", self.depth), ("threads", self.threads)] {
            if given == 0 || given > MOST_DEPTH {
                return refuse(what, format!("{given}: at least 1, at most {MOST_DEPTH}"));
            }
        }
        if self.queue == 0 {
            return refuse("queue", "0: nothing could be asked for".to_owned());
        }
        Ok(())
    }
}

const MOST_BYTES: u64 = 1 << 62;
const MOST_CHUNK: u64 = 1 << 30;
const MOST_DEPTH: usize = 1024;
