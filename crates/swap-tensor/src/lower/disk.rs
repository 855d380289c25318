//! The disk store as the lower tier.

use super::packs::{Packs, Place};
use crate::{
    SwapError,
    disk::{DiskError, DiskStore, Extent, Failed, IoBuf, IoTicket},
};
use core::ops::Range;
use pinned_host::{SliceOf, Transfer};
use std::{
    sync::Arc,
    time::{Duration, Instant},
};

/// The tier.
#[derive(Debug, Clone)]
pub(crate) struct Lower {
    store: DiskStore,
    packs: Arc<Packs>,
}

/// A tensor's bytes in the tier: pieces in order, each read by itself and checked. Clones share the room, which goes with the
/// last.
#[derive(Clone)]
pub(crate) struct LowerCopy {
    pieces: Arc<[Piece]>,
}

/// What is read at once.
pub(crate) struct Piece(Arc<Place>);

/// A read under way, which owns its memory.
pub(crate) struct Reading<T: Transfer>(IoTicket<SliceOf<T>>);

/// A write under way, which owns its memory.
pub(crate) struct Writing<T: Transfer> {
    ticket: IoTicket<SliceOf<T>>,
    piece: Piece,
}

impl LowerCopy {
    pub(crate) fn pieces(&self) -> &[Piece] {
        &self.pieces
    }
}

impl Piece {
    /// Bytes of the buffer to read it with, at most `most`: whole units of I/O, from the start of a page, where there is room for
    /// that; else the piece's own, rounded up to a device's grain.
    pub(crate) fn buffer_bytes(&self, most: usize, grain: u64) -> usize {
        let whole = self.0.read_len() as usize;
        let own = self.bytes() as usize;
        if whole <= most { whole.max(PAGED.min(most)) } else { own.max(1).next_multiple_of(grain as usize) }
    }

    /// Bytes of it.
    pub(crate) fn bytes(&self) -> u64 {
        self.0.bytes()
    }

    pub(crate) fn read<T: Transfer>(&self, slice: SliceOf<T>) -> Reading<T> {
        Reading(self.0.read(slice))
    }
}

impl<T: Transfer> Reading<T> {
    /// The bytes of the piece, checked, at the start of the slice, and how many they are.
    pub(crate) fn wait(self, until: Instant, name: &str) -> Result<(SliceOf<T>, usize), SwapError> {
        let range = self.0.range();
        match self.0.wait(until) {
            Ok(mut slice) => {
                if range.start > 0 {
                    slice.as_mut_slice().copy_within(range.clone(), 0);
                }
                Ok((slice, range.len()))
            }
            Err(Failed { error: source @ DiskError::Corrupt { .. }, .. }) => {
                Err(SwapError::Corrupt { name: name.to_owned(), source: Box::new(source) })
            }
            Err(Failed { error, .. }) => Err(disk_error("read a tensor from disk", error)),
        }
    }
}

impl<T: Transfer> Writing<T> {
    /// The piece, once it is written, and its memory.
    pub(crate) fn wait(self) -> (Result<Piece, SwapError>, Option<SliceOf<T>>) {
        match wait(self.ticket) {
            Ok(slice) => (Ok(self.piece), Some(slice)),
            Err(failed) => (Err(disk_error(WRITE, failed.error)), failed.buffer),
        }
    }
}

impl Lower {
    pub(crate) fn new(store: DiskStore) -> Self {
        Lower { store, packs: Arc::default() }
    }

    /// Much I/O will use the mapping that `slice` is a piece of.
    pub(crate) fn register<T: Transfer>(&self, slice: SliceOf<T>) {
        self.store.register(slice);
    }

    /// Writes the first `bytes` bytes of `slice`, so that they can be read in pieces of `piece`.
    pub(crate) fn write<T: Transfer>(
        &self,
        slice: SliceOf<T>,
        bytes: u64,
        piece: u64,
    ) -> (Option<SliceOf<T>>, Result<LowerCopy, SwapError>) {
        let starts = (0..bytes).step_by(piece as usize);
        let parts: Vec<Range<u64>> = starts.map(|start| start..bytes.min(start + piece)).collect();
        let extent = match self.reserve(bytes) {
            Ok(extent) => extent,
            Err(error) => return (Some(slice), Err(error)),
        };
        match wait(self.store.write_parts(&extent, slice, &parts)) {
            Ok(slice) => {
                let places = Place::parts(&self.store, &extent);
                (Some(slice), Ok(self.copy(places.into_iter().map(Piece).collect())))
            }
            Err(failed) => (failed.buffer, Err(disk_error(WRITE, failed.error))),
        }
    }

    /// Writes several tensors into one extent.
    pub(crate) fn write_pack(&self, contents: &[&[u8]]) -> Result<Vec<LowerCopy>, SwapError> {
        let written = self.with_room(|| self.packs.write(&self.store, contents));
        let places = written.map_err(|source| full_or(WRITE, bytes_of(contents), source))?;
        Ok(places.into_iter().map(|place| self.copy(vec![Piece(place)])).collect())
    }

    /// Moves what is alive in packs that are mostly dead together, once more is dead than alive. I/O, so no lock may be held.
    pub(crate) fn tidy(&self) {
        self.packs.tidy(&self.store);
    }

    /// Begins to write the first `bytes` bytes of `slice`, one piece.
    pub(crate) fn write_piece<T: Transfer>(
        &self,
        slice: SliceOf<T>,
        bytes: u64,
    ) -> Result<Writing<T>, SwapError> {
        let extent = self.reserve(bytes)?;
        let ticket = self.store.write(&extent, slice, bytes);
        Ok(Writing { ticket, piece: Piece(Place::new(&self.store, extent, bytes)) })
    }

    /// The copy that these pieces are, in this order.
    pub(crate) fn copy(&self, pieces: Vec<Piece>) -> LowerCopy {
        LowerCopy { pieces: pieces.into() }
    }

    /// Bytes that are taken.
    pub(crate) fn bytes(&self) -> u64 {
        self.store.stats().reserved
    }

    /// Bytes there are.
    #[cfg(feature = "track")]
    pub(crate) fn capacity(&self) -> u64 {
        self.store.stats().capacity
    }

    fn reserve(&self, bytes: u64) -> Result<Extent, SwapError> {
        let reserved = self.with_room(|| self.store.reserve(bytes));
        reserved.map_err(|source| full_or("take room on disk", bytes, source))
    }

    /// Tries once more where the store is full and room can be made of what is dead in packs.
    fn with_room<R>(&self, attempt: impl Fn() -> Result<R, DiskError>) -> Result<R, DiskError> {
        match attempt() {
            Err(DiskError::Full { .. }) if self.packs.squeeze(&self.store) => attempt(),
            outcome => outcome,
        }
    }
}

fn bytes_of(contents: &[&[u8]]) -> u64 {
    contents.iter().map(|bytes| bytes.len() as u64).sum()
}

/// The error of a write of `requested` bytes.
fn full_or(operation: &'static str, requested: u64, source: DiskError) -> SwapError {
    match source {
        DiskError::Full { .. } => SwapError::DiskBudget { requested, source: Box::new(source) },
        other => disk_error(operation, other),
    }
}

/// Waits for a write for as long as it takes: only a thread of the pool does, which has nothing else to do, and the tensor's other
/// copy is as good as before.
pub(super) fn wait<B: IoBuf>(ticket: IoTicket<B>) -> Result<B, Failed<B>> {
    while !ticket.wait_until(Instant::now() + AGAIN) {}
    ticket.wait(Instant::now())
}

fn disk_error(operation: &'static str, source: DiskError) -> SwapError {
    match source {
        DiskError::NoSpace { requested, .. } => SwapError::DiskBudget { requested, source: Box::new(source) },
        DiskError::Timeout { waited, .. } => SwapError::Timeout { operation, waited },
        other => SwapError::Disk { operation, source: Box::new(other) },
    }
}

const WRITE: &str = "write a tensor to disk";
/// Slices of so many bytes begin with a page, as direct I/O wants them to.
pub(super) const PAGED: usize = 32 << 10;
const AGAIN: Duration = Duration::from_secs(1);

impl From<DiskError> for SwapError {
    /// An error of a store that is not a pool's doing, such as one that cannot be opened.
    fn from(error: DiskError) -> Self {
        disk_error("open a disk store", error)
    }
}
