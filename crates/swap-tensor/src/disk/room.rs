//! Room for bytes in a directory's file, and what has been written there.

use super::{DiskError, drive::Drive, parts::Part};
use allocator_core::Handle;
use core::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard};

/// Room of a [`DiskStore`](super::DiskStore) for bytes that are written once, together, and read in parts.
///
/// Clones name the same room. It goes back when the last one is dropped and no read or write of it is in flight any more.
#[derive(Clone)]
pub struct Extent(pub(super) Arc<Room>);

/// What an extent is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum ExtentState {
    /// Nothing has been written.
    Empty,
    /// A write has begun and not ended.
    Writing,
    /// Everything is written, and can be read.
    Written,
    /// The write failed: what is there can never be read.
    Failed,
}

impl core::fmt::Display for ExtentState {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str(match self {
            ExtentState::Empty => "not written",
            ExtentState::Writing => "being written",
            ExtentState::Written => "written",
            ExtentState::Failed => "only partly written",
        })
    }
}

/// Room in the file of a drive.
pub(super) struct Room {
    pub(super) drive: Arc<Drive>,
    /// `None` for an extent of no bytes.
    block: Option<Handle>,
    /// First byte in the file.
    pub(super) start: u64,
    /// Bytes asked for.
    len: u64,
    contents: Mutex<Contents>,
}

struct Contents {
    state: ExtentState,
    parts: Box<[Part]>,
    /// Bytes of discarded parts.
    dead: u64,
}

impl Extent {
    pub(super) fn new(drive: Arc<Drive>, block: Option<Handle>, start: u64, len: u64) -> Self {
        let contents = Contents { state: ExtentState::Empty, parts: Box::default(), dead: 0 };
        Extent(Arc::new(Room { drive, block, start, len, contents: Mutex::new(contents) }))
    }

    /// Bytes it was reserved for.
    #[allow(clippy::len_without_is_empty, reason = "how much room there is says nothing about contents")]
    pub fn len(&self) -> u64 {
        self.0.len
    }

    /// What it is.
    pub fn state(&self) -> ExtentState {
        self.0.contents().state
    }

    /// How many parts were written; 0 unless [`Written`](ExtentState::Written).
    pub fn parts(&self) -> usize {
        self.0.contents().parts.len()
    }

    /// Where in the extent a part lies, and `None` if there is no such part.
    pub fn part(&self, part: usize) -> Option<Range<u64>> {
        self.0.contents().parts.get(part).map(|part| part.range.clone())
    }

    /// Bytes of buffer with which [`read`](super::DiskStore::read) reads a part without the page cache, where that can be
    /// done at all: the whole units of I/O that cover it. A buffer of the part's own length does as well, only slower.
    pub fn read_len(&self, part: usize) -> Option<u64> {
        let range = self.part(part)?;
        let cover = self.0.drive.cover(&self.0.place(&range));
        Some(cover.end - cover.start)
    }

    /// The directory it is in.
    pub fn directory(&self) -> &std::path::Path {
        self.0.drive.path()
    }

    /// Says that a part will not be read again; returns the bytes of those that still may be.
    ///
    /// The room of one part is not used again: it counts as [`dead_bytes`](super::DiskStats::dead_bytes) until the extent
    /// is dropped, which is worth it once little is left alive.
    ///
    /// # Errors
    /// [`DiskError::NoPart`] if it never was, or has been discarded.
    pub fn discard(&self, part: usize) -> Result<u64, DiskError> {
        let mut contents = self.0.contents();
        let parts = contents.parts.len();
        let found = contents.parts.get_mut(part).filter(|part| !part.dead);
        let found = found.ok_or(DiskError::NoPart { part, parts })?;
        found.dead = true;
        let bytes = found.bytes();
        contents.dead += bytes;
        self.0.drive.counters().dead(bytes);
        Ok(contents.parts.iter().filter(|part| !part.dead).map(Part::bytes).sum())
    }
}

impl core::fmt::Debug for Extent {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        let room = &self.0;
        f.debug_struct("Extent")
            .field("directory", &room.drive.path())
            .field("start", &room.start)
            .field("len", &room.len)
            .field("state", &self.state())
            .finish_non_exhaustive()
    }
}

impl Room {
    /// Where in the file a range of the extent is.
    pub(super) fn place(&self, range: &Range<u64>) -> Range<u64> {
        self.start + range.start..self.start + range.end
    }

    /// A write of the extent begins: it is the only one there will be.
    pub(super) fn begin_write(&self, bytes: u64) -> Result<(), DiskError> {
        let mut contents = self.contents();
        if contents.state != ExtentState::Empty {
            return Err(DiskError::State { operation: "write", state: contents.state });
        }
        if bytes > self.len {
            return Err(DiskError::Length { given: self.len, needed: bytes });
        }
        contents.state = ExtentState::Writing;
        Ok(())
    }

    /// The write has ended well: all of it is published at once.
    pub(super) fn end_write(&self, parts: Box<[Part]>) {
        let mut contents = self.contents();
        contents.parts = parts;
        contents.state = ExtentState::Written;
    }

    /// The write has ended otherwise: nothing is ever published, unless it had not even begun and may be tried again.
    pub(super) fn end_write_badly(&self, begun: bool) {
        self.contents().state = if begun { ExtentState::Failed } else { ExtentState::Empty };
    }

    /// A part that may be read.
    pub(super) fn readable(&self, part: usize) -> Result<Part, DiskError> {
        let contents = self.contents();
        if contents.state != ExtentState::Written {
            return Err(DiskError::State { operation: "read", state: contents.state });
        }
        let found = contents.parts.get(part).filter(|part| !part.dead);
        found.cloned().ok_or(DiskError::NoPart { part, parts: contents.parts.len() })
    }

    fn contents(&self) -> MutexGuard<'_, Contents> {
        super::lock(&self.contents)
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        let dead = self.contents().dead;
        self.drive.counters().buried(dead);
        if let Some(block) = self.block {
            self.drive.free(block);
        }
    }
}
