//! Address space of this process: ranges that are reserved, and pages behind them.

use rustix::fs::{FallocateFlags, MemfdFlags};
use rustix::io;
use rustix::mm::{MapFlags, MprotectFlags, ProtFlags};
use std::ffi::c_void;
use std::ops::Range;
use std::os::fd::OwnedFd;

/// A reserved range of addresses. What lies in it changes only through it, and it is given back when dropped.
#[derive(Debug)]
pub(crate) struct Window {
    range: Range<u64>,
}

impl Window {
    /// Reserves `len` bytes, a multiple of the page size; no memory is used.
    pub(crate) fn reserve(len: u64) -> io::Result<Self> {
        let bytes = usize::try_from(len).map_err(|_| io::Errno::NOMEM)?;
        let flags = MapFlags::PRIVATE | MapFlags::NORESERVE;
        // SAFETY: the kernel chooses an address that nothing uses.
        let base =
            unsafe { rustix::mm::mmap_anonymous(std::ptr::null_mut(), bytes, ProtFlags::empty(), flags)? };
        let base = base as u64;
        Ok(Window { range: base..base + len })
    }

    pub(crate) fn range(&self) -> Range<u64> {
        self.range.clone()
    }

    /// Puts fresh, zeroed pages behind `range`.
    pub(crate) fn commit(&self, range: Range<u64>) -> io::Result<()> {
        let (at, len) = self.checked(range)?;
        let flags = MapFlags::PRIVATE | MapFlags::NORESERVE | MapFlags::FIXED;
        // SAFETY: the addresses are this window's, so nothing else is mapped over.
        unsafe { rustix::mm::mmap_anonymous(at, len, ProtFlags::READ | ProtFlags::WRITE, flags)? };
        Ok(())
    }

    /// Takes away what lies behind `range`, which stays reserved.
    pub(crate) fn decommit(&self, range: Range<u64>) -> io::Result<()> {
        let (at, len) = self.checked(range)?;
        let flags = MapFlags::PRIVATE | MapFlags::NORESERVE | MapFlags::FIXED;
        // SAFETY: as in `commit`.
        unsafe { rustix::mm::mmap_anonymous(at, len, ProtFlags::empty(), flags)? };
        Ok(())
    }

    /// Puts the pages of `file` from `offset` behind `range`, without access.
    pub(crate) fn map(&self, range: Range<u64>, file: &Pages, offset: u64) -> io::Result<()> {
        let (at, len) = self.checked(range)?;
        let flags = MapFlags::SHARED | MapFlags::FIXED;
        // SAFETY: as in `commit`; the file is anonymous and never shrinks.
        unsafe { rustix::mm::mmap(at, len, ProtFlags::empty(), flags, &file.file, offset)? };
        Ok(())
    }

    /// Makes mapped pages readable and writable, or neither. What a device may only read stays writable here, since
    /// the checks of the calls come before any access.
    pub(crate) fn open(&self, range: Range<u64>, open: bool) -> io::Result<()> {
        let (at, len) = self.checked(range)?;
        let flags = if open { MprotectFlags::READ | MprotectFlags::WRITE } else { MprotectFlags::empty() };
        // SAFETY: the addresses are this window's; who reads or writes there asks the books first.
        unsafe { rustix::mm::mprotect(at, len, flags) }
    }

    fn checked(&self, range: Range<u64>) -> io::Result<(*mut c_void, usize)> {
        if range.start < self.range.start || range.end > self.range.end || range.start >= range.end {
            return Err(io::Errno::INVAL);
        }
        let at = std::ptr::with_exposed_provenance_mut(range.start as usize);
        Ok((at, (range.end - range.start) as usize))
    }
}

impl Drop for Window {
    fn drop(&mut self) {
        let Range { start, end } = self.range;
        let at = std::ptr::with_exposed_provenance_mut(start as usize);
        // SAFETY: the range is this window's, and no call after this one reaches into it. A failure leaves it mapped.
        let _ = unsafe { rustix::mm::munmap(at, (end - start) as usize) };
    }
}

/// Pages without addresses, as an anonymous file that grows and has holes.
#[derive(Debug)]
pub(crate) struct Pages {
    file: OwnedFd,
    end: u64,
}

impl Pages {
    pub(crate) fn new() -> io::Result<Self> {
        Ok(Pages { file: rustix::fs::memfd_create("driver-sim", MemfdFlags::CLOEXEC)?, end: 0 })
    }

    /// Offset of `len` fresh bytes. Offsets are never handed out again.
    pub(crate) fn grow(&mut self, len: u64) -> io::Result<u64> {
        let end = self.end.checked_add(len).ok_or(io::Errno::FBIG)?;
        rustix::fs::ftruncate(&self.file, end)?;
        Ok(std::mem::replace(&mut self.end, end))
    }

    /// Gives the memory of `range` back.
    pub(crate) fn punch(&self, range: Range<u64>) -> io::Result<()> {
        let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        rustix::fs::fallocate(&self.file, flags, range.start, range.end - range.start)
    }
}
