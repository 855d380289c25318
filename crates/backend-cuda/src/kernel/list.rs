//! What a launch is given: the copies, as the kernel reads them.

use crate::turn::Piece;
use core::ffi::c_void;

/// The kernel's parameters.
pub(super) struct List {
    copies: [Copy; MOST],
    count: u32,
}

/// One copy, in the layout that the kernel's text describes.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default)]
struct Copy {
    src: u64,
    dst: u64,
    bytes: u32,
    /// Pieces of this copy and of all before it.
    pieces: u32,
}

impl List {
    /// The first [`MOST`] of `pieces`; of each its first [`MOST_BYTES`].
    pub(super) fn of(pieces: &[Piece]) -> List {
        let mut list = List { copies: [Copy::default(); MOST], count: pieces.len().min(MOST) as u32 };
        let mut before = 0;
        for (copy, piece) in list.copies.iter_mut().zip(pieces) {
            let bytes = piece.len.min(MOST_BYTES) as u32;
            before += bytes.div_ceil(PIECE);
            *copy = Copy { src: piece.src, dst: piece.dst, bytes, pieces: before };
        }
        list
    }

    /// Blocks that the launch needs: one for each piece.
    pub(super) fn blocks(&self) -> u32 {
        // Below 2^24, for as many copies as there can be.
        self.copies[..self.count as usize].last().map_or(0, |copy| copy.pieces)
    }

    /// Pointers to the two parameters, good as long as the list stays where it is.
    pub(super) fn parameters(&self) -> (*const c_void, *const c_void) {
        (self.copies.as_ptr().cast(), (&raw const self.count).cast())
    }

    /// The bytes of the two parameters, one after the other.
    #[cfg(test)]
    pub(super) fn bytes(&self) -> Vec<u8> {
        let (copies, count) = self.parameters();
        // SAFETY: both point into the list, whose copies have no padding.
        let (copies, count) = unsafe {
            (
                core::slice::from_raw_parts(copies.cast::<u8>(), 4080),
                core::slice::from_raw_parts(count.cast(), 4),
            )
        };
        [copies, count].concat()
    }
}

/// Most copies of a launch: what 4 KiB of parameters hold, which every device takes.
pub(crate) const MOST: usize = 170;
/// Longest copy of a launch.
pub(crate) const MOST_BYTES: u64 = 1 << 30;
/// Threads of a block.
pub(super) const THREADS: u32 = 256;
/// Bytes that one block copies at most: four words of 16 for each thread.
const PIECE: u32 = 16 << 10;

const _: () = assert!(size_of::<Copy>() == 24 && MOST * size_of::<Copy>() == 4080);
