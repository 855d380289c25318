//! The disk store as the lower tier.

use crate::{
    SwapError,
    disk::{DiskBuf, DiskError, DiskStore, Extent, Failed, IoTicket},
};
use pinned_host::{SliceOf, Transfer};
use std::{sync::Arc, time::Instant};

/// The tier.
#[derive(Debug, Clone)]
pub(crate) struct Lower(DiskStore);

/// A tensor's bytes in the tier: pieces in order, each read by itself and checked. Cheap to clone; the room goes with the last.
#[derive(Debug, Clone)]
pub(crate) struct LowerCopy {
    pieces: Arc<[Piece]>,
}

/// A part of an extent.
#[derive(Debug)]
pub(crate) struct Piece {
    store: DiskStore,
    extent: Extent,
    part: usize,
    /// Whether others' bytes are in the extent, which count as dead once nobody wants them.
    packed: bool,
}

impl Drop for Piece {
    fn drop(&mut self) {
        if self.packed {
            // Can only fail for a part that is not there.
            let _ = self.extent.discard(self.part);
        }
    }
}

/// A read under way, which owns its memory.
pub(crate) struct Reading<T: Transfer> {
    ticket: IoTicket<SliceOf<T>>,
    begins: usize,
    bytes: usize,
}

/// A write under way, which owns its memory.
pub(crate) struct Writing<T: Transfer> {
    ticket: IoTicket<SliceOf<T>>,
    piece: Piece,
}
