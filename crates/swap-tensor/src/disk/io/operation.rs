//! One system call's worth of a read or write.

use crate::disk::{drive::Way, fault::Mark, request::Direction};
use core::ptr::NonNull;
use rustix::fd::{AsRawFd, RawFd};
use std::io;

/// Bytes in memory, bytes in a file, and which way they go. It borrows the piece it is of, and with it both.
pub(in crate::disk) struct Operation<'a> {
    direction: Direction,
    address: NonNull<u8>,
    offset: u64,
    way: Way<'a>,
}

impl<'a> Operation<'a> {
    /// The caller owns the way's length of bytes from `address` on, by a borrow that lasts for `'a`.
    pub(super) fn new(direction: Direction, address: NonNull<u8>, offset: u64, way: Way<'a>) -> Self {
        Operation { direction, address, offset, way }
    }

    /// Bytes asked for.
    pub(in crate::disk) fn len(&self) -> usize {
        self.way.len
    }

    /// Whether it goes through the page cache.
    pub(in crate::disk) fn is_buffered(&self) -> bool {
        self.way.unit == 1
    }

    /// Makes the call, and blocks until it has ended.
    pub(in crate::disk) fn run(&self, mark: Mark) -> io::Result<usize> {
        if let Some(error) = mark.error() {
            return Err(error);
        }
        let len = mark.limit(self.way.len, self.way.unit);
        // SAFETY: whoever made this owns `len` bytes from there on while it lives, and only they use them.
        let memory = unsafe { core::slice::from_raw_parts_mut(self.address.as_ptr(), len) };
        let moved = match self.direction {
            Direction::Read => rustix::io::pread(self.way.file, memory, self.offset)?,
            Direction::Write => rustix::io::pwrite(self.way.file, memory, self.offset)?,
        };
        if mark.flips() {
            self.flip(moved);
        }
        Ok(moved)
    }

    /// Makes one bit of what was transferred wrong: in memory after a read, in the file after a write.
    pub(super) fn flip(&self, moved: usize) {
        if moved == 0 {
            return;
        }
        let at = moved / 2;
        // SAFETY: as in `run`; `at` lies below `moved`, which is at most the length.
        let byte = unsafe { &mut *self.address.as_ptr().add(at) };
        match self.direction {
            Direction::Read => *byte ^= 0x10,
            Direction::Write => {
                // Failing, it has flipped nothing: the simulator is then kinder than it was told to be.
                let _ = rustix::io::pwrite(self.way.buffered, &[*byte ^ 0x10], self.offset + at as u64);
            }
        }
    }

    pub(super) fn direction(&self) -> Direction {
        self.direction
    }

    pub(super) fn file(&self) -> RawFd {
        self.way.file.as_raw_fd()
    }

    pub(super) fn address(&self) -> NonNull<u8> {
        self.address
    }

    pub(super) fn offset(&self) -> u64 {
        self.offset
    }

    pub(super) fn unit(&self) -> usize {
        self.way.unit
    }
}
