//! The disk store as the lower tier.

use crate::{
    SwapError,
    disk::{DiskBuf, DiskError, DiskStore, Extent, Failed, IoBuf, IoTicket},
};
use core::ops::Range;
use pinned_host::{SliceOf, Transfer};
use std::{
    sync::Arc,
    time::{Duration, Instant},
};

/// The tier.
#[derive(Debug, Clone)]
pub(crate) struct Lower(DiskStore);

/// A tensor's bytes in the tier: pieces in order, each read by itself and checked. Clones share the room, which goes with the
/// last.
#[derive(Clone)]
pub(crate) struct LowerCopy {
    pieces: Arc<[Piece]>,
}

/// A part of an extent.
pub(crate) struct Piece {
    store: DiskStore,
    extent: Extent,
    part: usize,
}

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
        let whole = self.extent.read_len(self.part).unwrap_or_default() as usize;
        let own = self.bytes() as usize;
        if whole <= most { whole.max(PAGED.min(most)) } else { own.max(1).next_multiple_of(grain as usize) }
    }

    /// Bytes of it.
    pub(crate) fn bytes(&self) -> u64 {
        self.extent.part(self.part).map_or(0, |part| part.end - part.start)
    }

    pub(crate) fn read<T: Transfer>(&self, slice: SliceOf<T>) -> Reading<T> {
        Reading(self.store.read(&self.extent, self.part, slice))
    }
}

impl Drop for Piece {
    fn drop(&mut self) {
        // A part of a pack: its bytes are dead from now on. Fails only for an extent that was never written.
        let _ = self.extent.discard(self.part);
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
        Lower(store)
    }

    /// Much I/O will use the mapping that `slice` is a piece of.
    pub(crate) fn register<T: Transfer>(&self, slice: SliceOf<T>) {
        self.0.register(slice);
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
        match wait(self.0.write_parts(&extent, slice, &parts)) {
            Ok(slice) => (Some(slice), Ok(self.copy(self.pieces(&extent, parts.len()).collect()))),
            Err(failed) => (failed.buffer, Err(disk_error(WRITE, failed.error))),
        }
    }

    /// Writes several tensors into one extent.
    pub(crate) fn write_pack(&self, contents: &[&[u8]]) -> Result<Vec<LowerCopy>, SwapError> {
        let mut parts = Vec::with_capacity(contents.len());
        let mut end = 0;
        for bytes in contents {
            parts.push(end..end + bytes.len() as u64);
            end += bytes.len() as u64;
        }
        let extent = self.reserve(end)?;
        let whole = (end as usize).next_multiple_of(PAGED);
        let mut buffer = DiskBuf::zeroed(whole).map_err(|error| disk_error(WRITE, error))?;
        for (part, bytes) in parts.iter().zip(contents) {
            buffer.as_mut_slice()[part.start as usize..part.end as usize].copy_from_slice(bytes);
        }
        wait(self.0.write_parts(&extent, buffer, &parts))
            .map_err(|failed| disk_error(WRITE, failed.error))?;
        Ok(self.pieces(&extent, parts.len()).map(|piece| self.copy(vec![piece])).collect())
    }

    /// Begins to write the first `bytes` bytes of `slice`, one piece.
    pub(crate) fn write_piece<T: Transfer>(
        &self,
        slice: SliceOf<T>,
        bytes: u64,
    ) -> Result<Writing<T>, SwapError> {
        let extent = self.reserve(bytes)?;
        let ticket = self.0.write(&extent, slice, bytes);
        Ok(Writing { ticket, piece: Piece { store: self.0.clone(), extent, part: 0 } })
    }

    /// The copy that these pieces are, in this order.
    pub(crate) fn copy(&self, pieces: Vec<Piece>) -> LowerCopy {
        LowerCopy { pieces: pieces.into() }
    }

    /// Bytes that are taken.
    pub(crate) fn bytes(&self) -> u64 {
        self.0.stats().reserved
    }

    fn pieces(&self, extent: &Extent, count: usize) -> impl Iterator<Item = Piece> {
        (0..count).map(|part| Piece { store: self.0.clone(), extent: extent.clone(), part })
    }

    fn reserve(&self, bytes: u64) -> Result<Extent, SwapError> {
        self.0.reserve(bytes).map_err(|source| match source {
            DiskError::Full { .. } => SwapError::DiskBudget { requested: bytes, source: Box::new(source) },
            other => disk_error("take room on disk", other),
        })
    }
}

/// Waits for a write for as long as it takes: only a thread of the pool does, which has nothing else to do, and the tensor's other
/// copy is as good as before.
fn wait<B: IoBuf>(ticket: IoTicket<B>) -> Result<B, Failed<B>> {
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
const PAGED: usize = 32 << 10;
const AGAIN: Duration = Duration::from_secs(1);

impl From<DiskError> for SwapError {
    /// An error of a store that is not a pool's doing, such as one that cannot be opened.
    fn from(error: DiskError) -> Self {
        disk_error("open a disk store", error)
    }
}
