//! A mapping: how it comes to be, is locked, touched and given back.

use super::{HugePages, numa, system};
use crate::process::Process;
use crate::{HostError, HostRegion, PagePin, in_pieces};
use core::num::NonZeroUsize;
use core::ops::Range;
use core::ptr::NonNull;
use std::io::ErrorKind;
use std::sync::Mutex;

/// A mapping of whole pages, zeroed when new. Dropping it unlocks and unmaps.
#[derive(Debug)]
pub struct OsRegion {
    base: NonNull<u8>,
    /// Bytes, whole pages.
    len: usize,
    touch_threads: Option<NonZeroUsize>,
    /// Held while the pages are locked, or can never be swapped.
    pin: Option<PagePin>,
    /// Who mapped it.
    process: Process,
    /// Whether a child of `fork` has nothing at these addresses.
    absent_in_children: bool,
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

    /// Whether the pages are locked by this process: `false` for one that a child of `fork` inherits.
    fn is_locked(&self) -> bool {
        self.pin.as_ref().is_some_and(PagePin::is_ours)
    }

    fn prepare(&self, offset: usize, bytes: usize) {
        let inside = offset.checked_add(bytes).filter(|end| *end <= self.len);
        if let Some(end) = inside
            && !self.is_locked()
            && self.is_here()
        {
            let _ = system::populate(self.base, offset..end);
        }
    }
}

// SAFETY: the value owns its mapping, which no thread is special to; all its methods take the address and length
// as they were made.
unsafe impl Send for OsRegion {}
// SAFETY: as above; through `&OsRegion` nothing is written but page tables.
unsafe impl Sync for OsRegion {}

impl OsRegion {
    /// `len` bytes from [`whole_pages`], neither touched nor locked.
    pub(super) fn map(
        len: usize,
        pages: HugePages,
        touch_threads: Option<NonZeroUsize>,
    ) -> Result<Self, HostError> {
        let bytes = len as u64;
        let base = system::map(len, pages).map_err(|source| match pages {
            HugePages::Explicit => HostError::HugePages { bytes, source },
            HugePages::Never | HugePages::Transparent => HostError::Map { bytes, source },
        })?;
        let process = Process::current();
        Ok(OsRegion { base, len, touch_threads, pin: None, process, absent_in_children: false })
    }

    pub(super) fn prefer(&mut self, node: u32) -> Result<(), HostError> {
        numa::prefer(self.base, self.len, node).map_err(|source| HostError::NumaPolicy { node, source })
    }

    /// Shares no page with a child of `fork`.
    pub(super) fn keep_from_children(&mut self) {
        self.absent_in_children = system::keep_from_children(self.base, self.len);
    }

    /// Locks all pages: first the right to them, which is refused before any is touched, then the touch, by several
    /// threads, then `mlock` as the witness that all are there. What a failure leaves ends with the region.
    pub(super) fn lock(&mut self) -> std::io::Result<()> {
        if system::lock_on_fault(self.base, self.len)? {
            // Whatever it failed for, the next call meets it too.
            self.populate(0..self.len, |_, _| {});
        }
        system::lock(self.base, self.len)?;
        self.pin = Some(PagePin::new(self.base, self.len));
        Ok(())
    }

    /// Makes all pages of the pool present, where a touch that finds none would kill.
    pub(super) fn fill(&mut self) -> Result<(), HostError> {
        let refused = Mutex::new(None);
        let region = &*self;
        region.populate(0..region.len, |error, piece| match error.kind() {
            // A kernel that cannot populate in one call: the mapping has its pages reserved, so a touch finds them.
            ErrorKind::InvalidInput => system::touch_huge(region.base, piece),
            _ => {
                refused.lock().unwrap_or_else(std::sync::PoisonError::into_inner).get_or_insert(error);
            }
        });
        match refused.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner) {
            Some(source) => Err(HostError::HugePages { bytes: self.len as u64, source }),
            None => {
                self.pin = Some(PagePin::new(self.base, self.len));
                Ok(())
            }
        }
    }

    /// Makes the pages of a range within the region present; `failed` hears of each piece that is not.
    fn populate(&self, range: Range<usize>, failed: impl Fn(std::io::Error, Range<usize>) + Sync) {
        let region = self;
        in_pieces(range, self.touch_threads, &|piece: Range<usize>| {
            if let Err(error) = system::populate(region.base, piece.clone()) {
                failed(error, piece);
            }
        });
    }

    /// Whether this process has the mapping.
    fn is_here(&self) -> bool {
        !self.absent_in_children || self.process == Process::current()
    }
}

impl Drop for OsRegion {
    fn drop(&mut self) {
        // Before the addresses can be another's.
        drop(self.pin.take());
        if self.is_here() {
            // SAFETY: `base` and `len` came from `system::map`, the mapping is this process's, and nobody uses the memory
            // any more.
            unsafe { system::unmap(self.base, self.len) }
        }
    }
}

/// `bytes` rounded up to what can be mapped.
pub(super) fn whole_pages(bytes: usize, explicit: bool) -> Result<usize, HostError> {
    if bytes == 0 {
        return Err(HostError::ZeroSize);
    }
    let page = if explicit { system::HUGE } else { system::page_size() };
    // No object is longer than `isize`.
    let len = bytes.checked_next_multiple_of(page).filter(|len| isize::try_from(*len).is_ok());
    len.ok_or_else(|| HostError::Map { bytes: bytes as u64, source: ErrorKind::OutOfMemory.into() })
}
