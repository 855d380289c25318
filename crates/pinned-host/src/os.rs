//! Host memory from the operating system.

use crate::{HostError, HostRegion, LockLimit, PageLocker};
use core::ptr::NonNull;

/// Locks memory with the operating system alone: for devices that reach all host memory.
///
/// On Unix an anonymous mapping and `mlock`; from 2 MiB on, mappings start at a multiple of 2 MiB and huge pages
/// are asked for, which means fewer faults at first touch. Elsewhere memory comes from the heap, cannot be
/// locked, and nothing is tested.
///
/// Fork: the child sees a private copy of the memory, which is not locked there.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct OsLocker;

impl PageLocker for OsLocker {
    type Region = OsRegion;
    type Error = HostError;

    /// A locked, zeroed region: `bytes` rounded up to whole pages.
    ///
    /// Locking is the first touch of every page: slow, and best done once.
    ///
    /// # Errors
    /// [`HostError::LockLimit`] when the process may not lock that much, [`HostError::Map`] and
    /// [`HostError::Lock`] when the system refuses, [`HostError::ZeroSize`]. Nothing stays mapped or locked.
    fn lock(&self, bytes: usize) -> Result<OsRegion, HostError> {
        let mut region = OsRegion::map(bytes)?;
        let asked = region.len as u64;
        match region.lock() {
            Ok(()) => Ok(region),
            Err(source) => {
                // Gives back what a half-done lock holds, so that `locked` below is what others hold.
                drop(region);
                let LockLimit { soft, locked_now: locked, privileged, .. } = LockLimit::current();
                match soft {
                    Some(limit) if !privileged && locked.saturating_add(asked) > limit => {
                        Err(HostError::LockLimit { limit, asked, locked })
                    }
                    _ => Err(HostError::Lock { bytes: asked, source }),
                }
            }
        }
    }

    /// [`LockLimit::allowance`]: half of what could be locked.
    fn allowance(&self) -> Option<u64> {
        Some(LockLimit::current().allowance())
    }

    fn pageable(&self, bytes: usize) -> Option<Result<OsRegion, HostError>> {
        Some(OsRegion::map(bytes))
    }
}

/// A mapping of whole pages, zeroed when new. Dropping it unlocks and unmaps.
#[derive(Debug)]
pub struct OsRegion {
    base: NonNull<u8>,
    /// Bytes, whole pages.
    len: usize,
    locked: bool,
}

// SAFETY: the mapping is readable, writable, zeroed, never moved and unmapped only in `Drop`; its address is
// given out through `base` alone.
unsafe impl HostRegion for OsRegion {
    fn base(&self) -> NonNull<u8> {
        self.base
    }

    fn len(&self) -> usize {
        self.len
    }

    fn is_locked(&self) -> bool {
        self.locked
    }

    fn prepare(&self, offset: usize, bytes: usize) {
        if !self.locked && offset.checked_add(bytes).is_some_and(|end| end <= self.len) {
            system::populate(self.base, offset, bytes);
        }
    }
}

// SAFETY: the value owns its mapping, which no thread is special to; all its methods take the address and length
// as they were made.
unsafe impl Send for OsRegion {}
// SAFETY: as above; through `&OsRegion` nothing is written but page tables.
unsafe impl Sync for OsRegion {}

impl OsRegion {
    fn map(bytes: usize) -> Result<Self, HostError> {
        if bytes == 0 {
            return Err(HostError::ZeroSize);
        }
        let (base, len) =
            system::map(bytes).map_err(|source| HostError::Map { bytes: bytes as u64, source })?;
        Ok(OsRegion { base, len, locked: false })
    }

    fn lock(&mut self) -> std::io::Result<()> {
        system::lock(self.base, self.len)?;
        self.locked = true;
        Ok(())
    }
}

impl Drop for OsRegion {
    fn drop(&mut self) {
        // SAFETY: `base` and `len` came from `system::map` and nobody uses the memory any more.
        unsafe { system::unmap(self.base, self.len) }
    }
}

#[cfg(unix)]
mod system {
    use core::ptr::NonNull;
    #[cfg(target_os = "linux")]
    use rustix::mm::{Advice, madvise};
    use rustix::mm::{MapFlags, ProtFlags, mlock, mmap_anonymous, munmap};
    use std::io::{Error, ErrorKind, Result};

    /// A fresh mapping of at least `bytes` bytes, and its length.
    pub(super) fn map(bytes: usize) -> Result<(NonNull<u8>, usize)> {
        let too_long = || Error::from(ErrorKind::OutOfMemory);
        let len = bytes.checked_next_multiple_of(rustix::param::page_size()).ok_or_else(too_long)?;
        let huge = len >= HUGE;
        let mapped = if huge { len.checked_add(HUGE).ok_or_else(too_long)? } else { len };
        // SAFETY: a new private mapping at an address of the system's choice touches no memory in use.
        let start = unsafe {
            mmap_anonymous(
                core::ptr::null_mut(),
                mapped,
                ProtFlags::READ | ProtFlags::WRITE,
                MapFlags::PRIVATE,
            )
        }?;
        if !huge {
            return NonNull::new(start.cast()).map(|base| (base, len)).ok_or_else(too_long);
        }
        let head = start.addr().next_multiple_of(HUGE) - start.addr();
        // SAFETY: `head` is at most `HUGE`, and `head + len` at most `mapped`: all within the new mapping. What
        // is unmapped is the rest of it before and behind `base..base + len`, which nobody has seen yet; the
        // advice changes no contents.
        unsafe {
            let base = start.byte_add(head);
            if head > 0 {
                let _ = munmap(start, head);
            }
            if head < HUGE {
                let _ = munmap(base.byte_add(len), HUGE - head);
            }
            #[cfg(target_os = "linux")]
            let _ = madvise(base, len, Advice::LinuxHugepage);
            NonNull::new(base.cast()).map(|base| (base, len)).ok_or_else(too_long)
        }
    }

    pub(super) fn lock(base: NonNull<u8>, len: usize) -> Result<()> {
        // SAFETY: locking changes no contents; the range is one mapping of the caller's.
        unsafe { mlock(base.as_ptr().cast(), len) }.map_err(Error::from)
    }

    /// Makes pages present, where the system can do that in one call.
    pub(super) fn populate(base: NonNull<u8>, offset: usize, bytes: usize) {
        #[cfg(target_os = "linux")]
        {
            let page = rustix::param::page_size();
            let start = offset / page * page;
            // SAFETY: the caller checked that the range lies in its mapping, which starts at a page and has
            // whole pages; populating changes no contents.
            let _ = unsafe {
                madvise(
                    base.as_ptr().add(start).cast(),
                    (offset + bytes).next_multiple_of(page) - start,
                    Advice::LinuxPopulateWrite,
                )
            };
        }
        #[cfg(not(target_os = "linux"))]
        let _ = (base, offset, bytes);
    }

    /// # Safety
    /// The range is a whole mapping from [`map`] that nobody uses any more.
    pub(super) unsafe fn unmap(base: NonNull<u8>, len: usize) {
        // SAFETY: the caller's promise. Unmapping unlocks.
        let _ = unsafe { munmap(base.as_ptr().cast(), len) };
    }

    /// Size and alignment of a huge page in bytes.
    const HUGE: usize = 2 << 20;
}

/// The heap, where there is no `mlock`: compiles and holds memory, untested.
#[cfg(not(unix))]
mod system {
    use core::ptr::NonNull;
    use std::alloc::{Layout, alloc_zeroed, dealloc};
    use std::io::{Error, ErrorKind, Result};

    pub(super) fn map(bytes: usize) -> Result<(NonNull<u8>, usize)> {
        let layout = layout(bytes)?;
        // SAFETY: the layout has at least one byte.
        let base = unsafe { alloc_zeroed(layout) };
        NonNull::new(base).map(|base| (base, layout.size())).ok_or_else(|| ErrorKind::OutOfMemory.into())
    }

    pub(super) fn lock(_base: NonNull<u8>, _len: usize) -> Result<()> {
        Err(Error::new(ErrorKind::Unsupported, "this system's way to lock memory is not implemented"))
    }

    pub(super) fn populate(_base: NonNull<u8>, _offset: usize, _bytes: usize) {}

    /// # Safety
    /// The range is a whole allocation from [`map`] that nobody uses any more.
    pub(super) unsafe fn unmap(base: NonNull<u8>, len: usize) {
        if let Ok(layout) = layout(len) {
            // SAFETY: the caller's promise; `len` is a multiple of the page, so the layout is the one of `map`.
            unsafe { dealloc(base.as_ptr(), layout) };
        }
    }

    fn layout(bytes: usize) -> Result<Layout> {
        let padded = Layout::from_size_align(bytes, 4096).map(|layout| layout.pad_to_align());
        padded.map_err(|_| ErrorKind::OutOfMemory.into())
    }
}
