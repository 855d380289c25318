//! The heap, where there is no `mlock`: compiles and holds memory, untested.

use super::HugePages;
use core::ops::Range;
use core::ptr::NonNull;
use std::alloc::{Layout, alloc_zeroed, dealloc};
use std::io::{Error, ErrorKind, Result};

pub(super) fn page_size() -> usize {
    4096
}

pub(super) fn map(len: usize, pages: HugePages) -> Result<NonNull<u8>> {
    if pages == HugePages::Explicit {
        return Err(Error::new(ErrorKind::Unsupported, "this system's huge pages are not implemented"));
    }
    // SAFETY: the layout has at least one byte.
    let base = unsafe { alloc_zeroed(layout(len)?) };
    NonNull::new(base).ok_or_else(|| ErrorKind::OutOfMemory.into())
}

pub(super) fn lock_on_fault(_base: NonNull<u8>, _len: usize) -> Result<bool> {
    Ok(false)
}

pub(super) fn lock(_base: NonNull<u8>, _len: usize) -> Result<()> {
    Err(Error::new(ErrorKind::Unsupported, "this system's way to lock memory is not implemented"))
}

pub(super) fn touch_huge(_base: NonNull<u8>, _range: Range<usize>) {}

pub(super) fn populate(_base: NonNull<u8>, _range: Range<usize>) -> Result<()> {
    Ok(())
}

pub(super) fn keep_from_children(_base: NonNull<u8>, _len: usize) -> bool {
    false
}

/// # Safety
/// The range is a whole allocation from [`map`] that nobody uses any more.
pub(super) unsafe fn unmap(base: NonNull<u8>, len: usize) {
    if let Ok(layout) = layout(len) {
        // SAFETY: the caller's promise; the layout is the one of `map`.
        unsafe { dealloc(base.as_ptr(), layout) };
    }
}

fn layout(len: usize) -> Result<Layout> {
    Layout::from_size_align(len, 4096).map_err(|_| ErrorKind::OutOfMemory.into())
}

pub(super) const HUGE: usize = 2 << 20;
