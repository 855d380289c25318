//! Memory that I/O reads and writes: what may be lent to the kernel, and a buffer of one's own.

use crate::disk::DiskError;
use core::ptr::NonNull;
use pinned_host::{HostRegion, PinnedSlice};
use std::alloc::{Layout, alloc_zeroed, dealloc};

/// Memory that can be lent to the kernel while something else owns it.
///
/// # Safety
/// [`memory`](Self::memory) gives the same bytes each time, wherever the value is moved to. They are initialised, valid for
/// reads and writes while the value lives, and meanwhile nobody reaches them but through it. The bytes of
/// [`region`](Self::region) include them, and stay mapped where they are while the value lives.
pub unsafe trait IoBuf: Send + 'static {
    /// The bytes.
    fn memory(&mut self) -> NonNull<[u8]>;

    /// The mapping they are a piece of, which is what [`register`](crate::disk::DiskStore::register) registers.
    fn region(&mut self) -> NonNull<[u8]> {
        self.memory()
    }
}

// SAFETY: a slice owns its bytes alone, and keeps them, with their region, where they are until it is dropped.
unsafe impl<R: HostRegion> IoBuf for PinnedSlice<R> {
    fn memory(&mut self) -> NonNull<[u8]> {
        NonNull::from(self.as_mut_slice())
    }

    fn region(&mut self) -> NonNull<[u8]> {
        let region = PinnedSlice::region(self);
        NonNull::slice_from_raw_parts(region.base(), region.len())
    }
}

/// Bytes that begin on a page of 4 KiB, which direct I/O can use as they are.
///
/// ```
/// let mut buffer = swap_tensor::disk::DiskBuf::zeroed(10_000)?;
/// buffer.as_mut_slice()[9_999] = 1;
/// assert_eq!(buffer.as_slice().iter().sum::<u8>(), 1);
/// # Ok::<(), swap_tensor::disk::DiskError>(())
/// ```
pub struct DiskBuf {
    first: NonNull<u8>,
    len: usize,
}

impl DiskBuf {
    /// `bytes` zeros.
    ///
    /// # Errors
    /// [`DiskError::NoMemory`].
    pub fn zeroed(bytes: usize) -> Result<Self, DiskError> {
        let layout = layout(bytes).ok_or(DiskError::NoMemory { bytes })?;
        // SAFETY: the layout has at least one byte.
        let first = unsafe { alloc_zeroed(layout) };
        let first = NonNull::new(first).ok_or(DiskError::NoMemory { bytes })?;
        Ok(DiskBuf { first, len: bytes })
    }

    /// The bytes.
    pub fn as_slice(&self) -> &[u8] {
        // SAFETY: `len` initialised bytes from `first` on belong to this buffer.
        unsafe { core::slice::from_raw_parts(self.first.as_ptr(), self.len) }
    }

    /// The bytes, for writing.
    pub fn as_mut_slice(&mut self) -> &mut [u8] {
        // SAFETY: as in `as_slice`; `&mut self` excludes every other access.
        unsafe { core::slice::from_raw_parts_mut(self.first.as_ptr(), self.len) }
    }
}

// SAFETY: it owns its bytes alone, on the heap, until it is dropped.
unsafe impl IoBuf for DiskBuf {
    fn memory(&mut self) -> NonNull<[u8]> {
        NonNull::slice_from_raw_parts(self.first, self.len)
    }
}

// SAFETY: it owns its bytes alone.
unsafe impl Send for DiskBuf {}
// SAFETY: through `&DiskBuf` bytes are only read.
unsafe impl Sync for DiskBuf {}

impl Drop for DiskBuf {
    fn drop(&mut self) {
        if let Some(layout) = layout(self.len) {
            // SAFETY: allocated by `zeroed` with the layout of this length.
            unsafe { dealloc(self.first.as_ptr(), layout) }
        }
    }
}

impl core::fmt::Debug for DiskBuf {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("DiskBuf").field("len", &self.len).finish_non_exhaustive()
    }
}

/// Whole pages, at least one; `None` where no allocation is that large.
fn layout(bytes: usize) -> Option<Layout> {
    let whole = bytes.max(1).checked_next_multiple_of(PAGE)?;
    Layout::from_size_align(whole, PAGE).ok()
}

const PAGE: usize = 4096;
