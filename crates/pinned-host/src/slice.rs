//! A piece of a pool's memory, owned by one.

use crate::HostRegion;
use crate::pool::{Place, Shelf};
use crate::sync::Arc;
use core::ptr::NonNull;

/// Exclusive owner of a piece of a [`HostPool`](crate::HostPool)'s memory.
///
/// Dropping it gives the piece back, without a heap allocation, and wakes who waits for room. It keeps its
/// region alive: the pool may go first. For memory in flight see [`Ticket`](crate::Ticket), which owns the slice
/// until the device is done.
pub struct PinnedSlice<R: HostRegion> {
    shelf: Arc<Shelf<R>>,
    /// Invariant: `shelf` keeps it alive, and where it is, while a block of it lives.
    region: NonNull<R>,
    place: Place,
    /// Invariant: `offset..offset + len` lies within the region and belongs to the block at `place`.
    offset: usize,
    len: usize,
    /// What the block takes beyond `len`: less than a grain, and what was cut off.
    slack: u32,
}

impl<R: HostRegion> PinnedSlice<R> {
    pub(crate) fn new(
        shelf: Arc<Shelf<R>>,
        region: NonNull<R>,
        place: Place,
        offset: usize,
        len: usize,
        bytes: u64,
    ) -> Self {
        let slack = (bytes - len as u64) as u32;
        let slice = PinnedSlice { shelf, region, place, offset, len, slack };
        debug_assert!(offset + len <= slice.region().len());
        slice
    }

    /// Cuts the slice off after `len` bytes, at least one, or 4 GiB before its end if that is farther; longer than it is does
    /// nothing. The memory behind goes back to the pool with the rest.
    ///
    /// ```
    /// use pinned_host::{HostError, OsLocker, PoolConfig};
    ///
    /// let pool = PoolConfig::new(1 << 20).build(OsLocker)?;
    /// let mut slice = pool.allocate(8192)?;
    /// slice.truncate(5000); // whole sectors were read, so many bytes count
    /// assert_eq!((slice.len(), slice.as_slice().len()), (5000, 5000));
    /// assert_eq!(slice.taken(), 8192);
    /// drop(slice);
    /// assert_eq!(pool.stats().in_use, 0);
    /// # Ok::<(), HostError>(())
    /// ```
    pub fn truncate(&mut self, len: usize) {
        let wished = self.len - self.len.min(len.max(1));
        let cut = u32::try_from(wished).unwrap_or(u32::MAX).min(u32::MAX - self.slack);
        self.len -= cut as usize;
        self.slack += cut;
    }

    /// Length in bytes: exactly what was asked for, at least 1, unless it was [cut](Self::truncate).
    // A slice of no bytes is never given, so `is_empty` would always say `false`.
    #[allow(clippy::len_without_is_empty)]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Bytes it takes of its pool, rounding included: its part of [`HostStats::in_use`](crate::HostStats::in_use).
    pub fn taken(&self) -> u64 {
        self.len as u64 + u64::from(self.slack)
    }

    /// First byte. Valid until the slice is dropped or forgotten, and derived from the region's own pointer:
    /// moving the slice does not invalidate it.
    pub fn as_ptr(&self) -> *const u8 {
        self.first().cast_const()
    }

    /// First byte, for writing. As [`as_ptr`](Self::as_ptr).
    pub fn as_mut_ptr(&mut self) -> *mut u8 {
        self.first()
    }

    /// The bytes.
    pub fn as_slice(&self) -> &[u8] {
        // SAFETY: the region's bytes are initialised and live as long as this slice; `offset..offset + len` lies
        // within them and belongs to this slice alone, so nobody writes while `self` is borrowed.
        unsafe { core::slice::from_raw_parts(self.first(), self.len) }
    }

    /// The bytes, for writing.
    pub fn as_mut_slice(&mut self) -> &mut [u8] {
        // SAFETY: as in `as_slice`; and `&mut self` excludes every other access to this slice's bytes.
        unsafe { core::slice::from_raw_parts_mut(self.first(), self.len) }
    }

    /// Whether the pages are locked.
    pub fn is_locked(&self) -> bool {
        self.region().is_locked()
    }

    /// The region it is a piece of: a backend finds its native handle there.
    pub fn region(&self) -> &R {
        // SAFETY: `shelf` keeps it alive, and nobody has it for writing.
        unsafe { self.region.as_ref() }
    }

    /// Where in its region it starts, in bytes.
    pub fn offset(&self) -> usize {
        self.offset
    }

    fn first(&self) -> *mut u8 {
        // SAFETY: `offset` lies within the region, one allocation that `shelf` keeps alive.
        unsafe { self.region().base().as_ptr().add(self.offset) }
    }
}

// SAFETY: it owns its bytes alone, and what else it has is of types that may be sent and shared: a region is both.
unsafe impl<R: HostRegion> Send for PinnedSlice<R> {}
// SAFETY: as above; through `&PinnedSlice` bytes are only read.
unsafe impl<R: HostRegion> Sync for PinnedSlice<R> {}

impl<R: HostRegion> Drop for PinnedSlice<R> {
    fn drop(&mut self) {
        self.shelf.free(self.place, self.region.as_ptr(), self.offset as u64, self.taken());
    }
}

impl<R: HostRegion> AsRef<[u8]> for PinnedSlice<R> {
    fn as_ref(&self) -> &[u8] {
        self.as_slice()
    }
}

impl<R: HostRegion> AsMut<[u8]> for PinnedSlice<R> {
    fn as_mut(&mut self) -> &mut [u8] {
        self.as_mut_slice()
    }
}

impl<R: HostRegion> core::fmt::Debug for PinnedSlice<R> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("PinnedSlice")
            .field("region", &self.region().base())
            .field("offset", &self.offset)
            .field("len", &self.len)
            .finish_non_exhaustive()
    }
}
