//! The system calls of Unix behind a region.

use super::HugePages;
use core::ops::Range;
use core::ptr::{NonNull, null_mut};
#[cfg(target_os = "linux")]
use rustix::mm::{Advice, MlockFlags, madvise, mlock_with};
use rustix::mm::{MapFlags, ProtFlags, mlock, mmap_anonymous, munmap};
use std::io::{Error, ErrorKind, Result};

pub(super) fn page_size() -> usize {
    rustix::param::page_size()
}

/// A fresh mapping of `len` bytes, whole pages of the kind.
pub(super) fn map(len: usize, pages: HugePages) -> Result<NonNull<u8>> {
    match pages {
        HugePages::Explicit => map_explicit(len),
        HugePages::Transparent if len >= HUGE => map_aligned(len),
        HugePages::Transparent | HugePages::Never => {
            let base = anonymous(len, MapFlags::PRIVATE)?;
            #[cfg(target_os = "linux")]
            if pages == HugePages::Never {
                // SAFETY: the mapping just made, whose contents the advice does not change. A kernel without huge pages
                // refuses what it would have done anyway.
                let _ = unsafe { madvise(base.as_ptr().cast(), len, Advice::LinuxNoHugepage) };
            }
            Ok(base)
        }
    }
}

fn anonymous(len: usize, flags: MapFlags) -> Result<NonNull<u8>> {
    // SAFETY: a new private mapping at an address of the system's choice touches no memory in use.
    let start = unsafe { mmap_anonymous(null_mut(), len, ProtFlags::READ | ProtFlags::WRITE, flags) }?;
    NonNull::new(start.cast()).ok_or_else(|| ErrorKind::OutOfMemory.into())
}

fn map_aligned(len: usize) -> Result<NonNull<u8>> {
    let mapped = len.checked_add(HUGE).ok_or(ErrorKind::OutOfMemory)?;
    let start = anonymous(mapped, MapFlags::PRIVATE)?;
    let head = start.addr().get().next_multiple_of(HUGE) - start.addr().get();
    // SAFETY: `head` is at most `HUGE`, and `head + len` at most `mapped`: all within the new mapping. What
    // is unmapped is the rest of it before and behind `base..base + len`, which nobody has seen yet; the
    // advice changes no contents.
    unsafe {
        let base = start.byte_add(head);
        if head > 0 {
            let _ = munmap(start.as_ptr().cast(), head);
        }
        if head < HUGE {
            let _ = munmap(base.as_ptr().byte_add(len).cast(), HUGE - head);
        }
        #[cfg(target_os = "linux")]
        let _ = madvise(base.as_ptr().cast(), len, Advice::LinuxHugepage);
        Ok(base)
    }
}

#[cfg(target_os = "linux")]
fn map_explicit(len: usize) -> Result<NonNull<u8>> {
    anonymous(len, MapFlags::PRIVATE | MapFlags::HUGETLB | MapFlags::HUGE_2MB)
}

#[cfg(not(target_os = "linux"))]
fn map_explicit(_len: usize) -> Result<NonNull<u8>> {
    Err(Error::new(ErrorKind::Unsupported, "this system has no pool of huge pages"))
}

/// Locks the pages of a mapping and makes them present.
pub(super) fn lock(base: NonNull<u8>, len: usize) -> Result<()> {
    // SAFETY: locking changes no contents; the range is one mapping of the caller's.
    unsafe { mlock(base.as_ptr().cast(), len) }.map_err(Error::from)
}

/// Locks pages as they are touched, and takes them from the lock limit now; `false` where the system cannot.
#[cfg(target_os = "linux")]
pub(super) fn lock_on_fault(base: NonNull<u8>, len: usize) -> Result<bool> {
    use rustix::io::Errno;
    // SAFETY: as in `lock`.
    match unsafe { mlock_with(base.as_ptr().cast(), len, MlockFlags::ONFAULT) } {
        Ok(()) => Ok(true),
        // Before Linux 4.4, and where a sandbox has only the older call.
        Err(Errno::NOSYS | Errno::INVAL) => Ok(false),
        Err(errno) => Err(errno.into()),
    }
}

#[cfg(not(target_os = "linux"))]
pub(super) fn lock_on_fault(_base: NonNull<u8>, _len: usize) -> Result<bool> {
    Ok(false)
}

/// Makes the pages of `range`, which lies in the mapping at `base`, present: in one call, where the system can.
#[cfg(target_os = "linux")]
pub(super) fn populate(base: NonNull<u8>, range: Range<usize>) -> Result<()> {
    let page = page_size();
    let start = range.start / page * page;
    let len = range.end.next_multiple_of(page) - start;
    let populated = rustix::io::retry_on_intr(|| {
        // SAFETY: the range lies in the caller's mapping, which starts at a page and has whole pages; populating changes
        // no contents.
        unsafe { madvise(base.as_ptr().add(start).cast(), len, Advice::LinuxPopulateWrite) }
    });
    populated.map_err(Error::from)
}

#[cfg(not(target_os = "linux"))]
pub(super) fn populate(_base: NonNull<u8>, _range: Range<usize>) -> Result<()> {
    Ok(())
}

/// Touches each huge page of `range`, which lies in the mapping at `base`, that nobody has touched yet.
pub(super) fn touch_huge(base: NonNull<u8>, range: Range<usize>) {
    for at in range.step_by(HUGE) {
        // SAFETY: the byte lies in the caller's mapping, is zero and nobody else's yet.
        unsafe { base.as_ptr().add(at).write_volatile(0) };
    }
}

/// Shares no page of the mapping with a child of `fork`; whether the child has nothing there, instead of zeros.
#[cfg(target_os = "linux")]
pub(super) fn keep_from_children(base: NonNull<u8>, len: usize) -> bool {
    // SAFETY: one mapping of the caller's; the advice changes nothing in this process.
    let advise = |advice| unsafe { madvise(base.as_ptr().cast(), len, advice) };
    advise(Advice::LinuxWipeOnFork).is_err() && advise(Advice::LinuxDontFork).is_ok()
}

#[cfg(not(target_os = "linux"))]
pub(super) fn keep_from_children(_base: NonNull<u8>, _len: usize) -> bool {
    false
}

/// # Safety
/// The range is a whole mapping from [`map`] that nobody uses any more.
pub(super) unsafe fn unmap(base: NonNull<u8>, len: usize) {
    // SAFETY: the caller's promise. Unmapping unlocks.
    let _ = unsafe { munmap(base.as_ptr().cast(), len) };
}

/// Size and alignment of a huge page in bytes.
pub(super) const HUGE: usize = 2 << 20;
