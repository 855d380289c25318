//! What the disk store refuses and what fails there, with what, how much and where.

use super::ExtentState;
use core::ops::Range;
use std::{io, path::PathBuf, time::Duration};

/// The error of the disk store. Offsets and lengths are bytes.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DiskError {
    /// A configuration that cannot work.
    #[error("disk store: {what}: {why}")]
    Config {
        /// The setting.
        what: &'static str,
        /// What is wrong with it.
        why: String,
    },
    /// The file of a directory could not be made ready.
    #[error("{}: cannot {operation}: {source}", path.display())]
    Setup {
        /// The directory.
        path: PathBuf,
        /// What was being done.
        operation: &'static str,
        /// The system's error.
        source: io::Error,
    },
    /// The file system of a directory has less free room than the store is to have there.
    #[error("{}: no room for {requested} bytes: the file system has {free} free", path.display())]
    FileSystemFull {
        /// The directory.
        path: PathBuf,
        /// Bytes the store was to have there.
        requested: u64,
        /// Bytes the file system has left for this user.
        free: u64,
    },
    /// The store has no room for an extent.
    #[error(
        "no disk room for {requested} bytes: {free} of {capacity} are free, the largest hole has {largest}"
    )]
    Full {
        /// Bytes wanted, rounded up to the unit of I/O.
        requested: u64,
        /// Free bytes, of all directories.
        free: u64,
        /// The largest hole, in any directory.
        largest: u64,
        /// Bytes of the store.
        capacity: u64,
    },
    /// A read or write failed. What was not written is not lost: the buffer has it still.
    #[error("{}: cannot {operation} {requested} bytes at byte {offset} ({done} done): {source}", path.display())]
    Io {
        /// The directory of the file.
        path: PathBuf,
        /// `"read"` or `"write"`.
        operation: &'static str,
        /// Where in the file the request that failed began.
        offset: u64,
        /// How much it asked for.
        requested: u64,
        /// How much of it was done before.
        done: u64,
        /// The system's error.
        source: io::Error,
    },
    /// The file system, or a quota, has no room for a write. The buffer still has the bytes.
    #[error("{}: no space to write {requested} bytes at byte {offset} ({done} done): {source}", path.display())]
    NoSpace {
        /// The directory of the file.
        path: PathBuf,
        /// Where in the file the request that failed began.
        offset: u64,
        /// How much it asked for.
        requested: u64,
        /// How much of it was done before.
        done: u64,
        /// The system's error.
        source: io::Error,
    },
    /// What was read is not what was written.
    #[error(
        "{}: {length} bytes at byte {offset} are damaged: CRC32C {found:#010x}, {expected:#010x} was written",
        path.display()
    )]
    Corrupt {
        /// The directory of the file.
        path: PathBuf,
        /// Where in the file the part begins.
        offset: u64,
        /// Its length.
        length: u64,
        /// The checksum it was written with.
        expected: u32,
        /// The checksum of what came back.
        found: u32,
    },
    /// A buffer too short for what is to be read into it or written from it, or bytes that an extent has no room for.
    #[error("{given} bytes given, {needed} needed")]
    Length {
        /// Bytes there are.
        given: u64,
        /// Bytes there should be.
        needed: u64,
    },
    /// Parts of an extent that overlap, are out of order or end beyond what is written.
    #[error("part {}..{} follows byte {after} in {length} bytes", part.start, part.end)]
    Parts {
        /// The part.
        part: Range<u64>,
        /// Where the one before ends.
        after: u64,
        /// Bytes that are written.
        length: u64,
    },
    /// A part that the extent has not, or has discarded.
    #[error("no part {part}: the extent has {parts}")]
    NoPart {
        /// The part asked for.
        part: usize,
        /// How many were written.
        parts: usize,
    },
    /// An extent that cannot be used so: it is written once, and read after that succeeded.
    #[error("cannot {operation} an extent that is {state}")]
    State {
        /// `"read"` or `"write"`.
        operation: &'static str,
        /// What the extent is.
        state: ExtentState,
    },
    /// An extent of another store.
    #[error("the extent belongs to another disk store")]
    ForeignExtent,
    /// More requests wait for one direction of a directory than may.
    #[error("{}: {queued} requests wait already", path.display())]
    Busy {
        /// The directory.
        path: PathBuf,
        /// Requests that wait.
        queued: usize,
    },
    /// The operation did not end in time. It still has its buffer, and the extent its room, until it does.
    #[error("{}: the {operation} of {bytes} bytes has not ended within {waited:?}", path.display())]
    Timeout {
        /// The directory of the file.
        path: PathBuf,
        /// `"read"` or `"write"`.
        operation: &'static str,
        /// Bytes of the request.
        bytes: u64,
        /// How long was waited.
        waited: Duration,
    },
    /// The store was closed, or its I/O thread gave up, before the request was done.
    #[error("the disk store was closed before the {operation} was done")]
    Closed {
        /// `"read"` or `"write"`.
        operation: &'static str,
    },
    /// Memory for a buffer could not be had.
    #[error("no memory for a buffer of {bytes} bytes")]
    NoMemory {
        /// Bytes wanted.
        bytes: usize,
    },
}

/// A request that failed, and its buffer.
#[derive(Debug, thiserror::Error)]
#[error("{error}")]
pub struct Failed<B> {
    /// The buffer, unless the operation has not ended: then it keeps the buffer until it does.
    pub buffer: Option<B>,
    /// Why.
    #[source]
    pub error: DiskError,
}
