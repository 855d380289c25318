//! One directory of a store: its file, and who has which bytes of it.

use super::{DiskError, Extent, files::Files, report::DriveReport, stats::Counters};
use allocator_core::{AllocError, Handle, OffsetAllocator, Request};
use core::ops::Range;
use rustix::fd::{AsFd, BorrowedFd};
use std::{
    path::Path,
    sync::{Arc, Mutex},
};

/// A directory's file. Whatever is in flight owns its drive: no descriptor is closed under an operation.
pub(super) struct Drive {
    /// Which of the store's it is.
    pub(super) index: usize,
    files: Files,
    room: Mutex<OffsetAllocator>,
    capacity: u64,
    counters: Arc<Counters>,
    report: Mutex<DriveReport>,
}

/// How bytes are to be transferred.
#[derive(Clone, Copy)]
pub(super) struct Way<'a> {
    pub(super) file: BorrowedFd<'a>,
    /// The same file through the page cache.
    #[cfg_attr(not(feature = "conformance"), allow(dead_code, reason = "faults are made with it"))]
    pub(super) buffered: BorrowedFd<'a>,
    /// How many of the bytes can go so.
    pub(super) len: usize,
    /// What their address, offset and length are multiples of; 1 through the page cache.
    pub(super) unit: usize,
}

impl Drive {
    pub(super) fn new(
        index: usize,
        files: Files,
        capacity: u64,
        counters: Arc<Counters>,
        report: DriveReport,
    ) -> Result<Arc<Self>, DiskError> {
        let refused = |error: AllocError| DiskError::Config { what: "capacity", why: error.to_string() };
        let room = OffsetAllocator::with_grain(capacity, files.unit()).map_err(refused)?;
        let (room, report) = (Mutex::new(room), Mutex::new(report));
        Ok(Arc::new(Drive { index, files, room, capacity, counters, report }))
    }

    /// Who does the I/O.
    #[cfg(target_os = "linux")]
    pub(super) fn path_taken(&self) -> super::IoPath {
        super::lock(&self.report).path
    }

    /// Adds to the report that something was refused.
    pub(super) fn note(&self, refusal: String) {
        super::lock(&self.report).refusals.push(refusal);
    }

    pub(super) fn report(&self) -> DriveReport {
        super::lock(&self.report).clone()
    }

    pub(super) fn path(&self) -> &Path {
        self.files.path()
    }

    pub(super) fn counters(&self) -> &Counters {
        &self.counters
    }

    pub(super) fn capacity(&self) -> u64 {
        self.capacity
    }

    /// Free bytes, and those of the largest hole.
    pub(super) fn free_bytes(&self) -> (u64, u64) {
        let stats = super::lock(&self.room).stats();
        (stats.free, stats.largest_hole)
    }

    /// Takes room for `len` bytes; `None` where there is no hole that large.
    pub(super) fn reserve(self: &Arc<Self>, len: u64) -> Result<Option<Extent>, DiskError> {
        if len == 0 {
            self.counters.reserved_one();
            return Ok(Some(Extent::new(Arc::clone(self), None, 0, 0)));
        }
        let mut room = super::lock(&self.room);
        let block = match room.allocate(Request::new(len)) {
            Ok(block) => block,
            Err(AllocError::OutOfMemory { .. } | AllocError::SizeOverflow { .. }) => return Ok(None),
            Err(error) => return Err(DiskError::Config { what: "extent", why: error.to_string() }),
        };
        // A block that was just made has a place.
        let start = room.block(block).map_or(0, |block| block.range.start);
        drop(room);
        self.counters.reserved_one();
        Ok(Some(Extent::new(Arc::clone(self), Some(block), start, len)))
    }

    pub(super) fn free(&self, block: Handle) {
        let freed = super::lock(&self.room).free(block);
        debug_assert!(freed.is_ok(), "an extent's room is its own until it is dropped: {freed:?}");
    }

    /// The whole units of I/O that cover a range of the file.
    pub(super) fn cover(&self, range: &Range<u64>) -> Range<u64> {
        let unit = self.files.unit();
        range.start / unit * unit..range.end.next_multiple_of(unit)
    }

    /// Whether bytes at `address` can go past the page cache.
    pub(super) fn is_direct_at(&self, address: usize) -> bool {
        self.files.direct().is_some() && address.is_multiple_of(self.files.alignment())
    }

    /// How `len` bytes between `address` and `offset` of the file are to go, or as many of them as can go at once.
    ///
    /// Whole units go past the page cache. What is left of them at the end, and everything from an address or at an offset
    /// that the device cannot take, goes through it. Both name the same file, in which no page belongs to two extents.
    pub(super) fn way(&self, offset: u64, address: usize, len: usize) -> Way<'_> {
        let (buffered, unit) = (self.files.buffered().as_fd(), self.files.unit());
        match self.files.direct() {
            Some(file) if self.is_direct_at(address) && offset.is_multiple_of(unit) && len as u64 >= unit => {
                let unit = unit as usize;
                Way { file: file.as_fd(), buffered, len: len / unit * unit, unit }
            }
            _ => Way { file: buffered, buffered, len, unit: 1 },
        }
    }

    /// Whether the page cache is gone past at all.
    pub(super) fn is_direct(&self) -> bool {
        self.files.direct().is_some()
    }
}
