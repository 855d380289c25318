//! Host memory whose pages change places: a synchronous buffer for an arena.

use crate::CpuError;
use crate::caches::moving;
use crate::pages::{GRANULE, Pages};
use allocator_core::{DeviceBuffer, Remap, check_copy, check_range};
use core::ops::Range;

/// Host memory that an [`Arena`](allocator_core::Arena) compacts without copying: whole pages of 2 MiB change places.
///
/// **Synchronous**: every call is done when it returns, so views are plain slices. All memory is present from the
/// beginning, in huge pages where the system gives them; a remap gives none back, so nothing is faulted in again.
/// Dropping the buffer unmaps it.
///
/// [`remap`](Remap::remap) exchanges the page tables of two ranges with `mremap` (Linux 5.7 or newer), whether their
/// pages are huge or not. Elsewhere, and in a buffer made by [`fixed`](Self::fixed), it copies the source to the
/// destination: [`exchanges_pages`](Self::exchanges_pages) says which. The granule is 2 MiB in all cases. More in the
/// documentation of the [crate](crate).
///
/// # What must not be remapped
/// Memory that somebody holds by its pages: registered with a driver (`cuMemHostRegister`, imported into Vulkan), with
/// io_uring's fixed buffers, or under direct I/O in flight. The addresses would stay and their pages would be others.
///
/// ```
/// use allocator_core::{Arena, Request};
/// use backend_cpu::PageBuffer;
///
/// const MIB: u64 = 1 << 20;
/// let mut arena = Arena::new(PageBuffer::new(24 * MIB)?)?;
/// arena.set_remap(true);
/// // Aligned to the granule, a block can always move by whole pages.
/// let first = arena.allocate(Request::new(8 * MIB).align(2 * MIB))?;
/// let second = arena.allocate(Request::new(8 * MIB).align(2 * MIB))?;
/// let at = arena.range(second)?.start as usize;
/// arena.buffer_mut().bytes_mut()[at..at + 5].copy_from_slice(b"bytes");
///
/// arena.release(first)?;
/// assert_eq!(arena.compact(u64::MAX)?, 8 * MIB);
/// assert_eq!(arena.remapped_bytes(), 8 * MIB);
/// assert_eq!(&arena.buffer().bytes()[..5], b"bytes");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct PageBuffer {
    pages: Pages,
    size: u64,
}

impl PageBuffer {
    /// `size` zeroed bytes.
    ///
    /// # Errors
    /// [`CpuError::Memory`], [`CpuError::TooLarge`].
    pub fn new(size: u64) -> Result<Self, CpuError> {
        Self::with(size, Pages::new)
    }

    /// `size` zeroed bytes whose pages stay where they are, so that [`Remap`] copies.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    pub fn fixed(size: u64) -> Result<Self, CpuError> {
        Self::with(size, Pages::fixed)
    }

    /// Whether a remap exchanges pages. Buffers of less than two granules never do.
    #[must_use]
    pub fn exchanges_pages(&self) -> bool {
        self.pages.can_exchange()
    }

    /// All bytes.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        // SAFETY: the memory is as long, initialised, and written through `&mut self` only.
        unsafe { std::slice::from_raw_parts(self.pages.base(), self.size as usize) }
    }

    /// All bytes, to write to.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: as above, and `&mut self` is the only way to it.
        unsafe { std::slice::from_raw_parts_mut(self.pages.base(), self.size as usize) }
    }

    fn with(
        size: u64,
        make: impl FnOnce(usize) -> Result<Pages, pinned_host::HostError>,
    ) -> Result<Self, CpuError> {
        let bytes = usize::try_from(size).map_err(|_| CpuError::TooLarge { bytes: size })?;
        let pages = make(bytes).map_err(|source| CpuError::Memory { bytes: size, source })?;
        Ok(PageBuffer { pages, size })
    }
}

impl DeviceBuffer for PageBuffer {
    type View<'a> = &'a [u8];
    type Error = CpuError;

    fn size(&self) -> u64 {
        self.size
    }

    fn copy_within(&mut self, src: Range<u64>, dst: u64) -> Result<(), CpuError> {
        check_copy(self.size, 1, &src, dst)?;
        let range = src.start as usize..src.end as usize;
        Ok(moving(self.size).copy_within(self.bytes_mut(), range, dst as usize)?)
    }

    fn view(&self, range: Range<u64>) -> Result<&[u8], CpuError> {
        check_range(self.size, 1, &range)?;
        Ok(&self.bytes()[range.start as usize..range.end as usize])
    }
}

impl Remap for PageBuffer {
    fn granule(&self) -> u64 {
        GRANULE as u64
    }

    /// Exchanges the two ranges: three system calls for each 64 MiB, or half of the buffer if that is less; before Linux
    /// 6.17 for each granule. Where pages stay, copies `src` to `dst`.
    ///
    /// # Errors
    /// [`CpuError::Range`], [`CpuError::Overlap`]; [`CpuError::Exchange`] and [`CpuError::Scattered`] when the system,
    /// or the bound on what is asked of it, refuses. Nothing changed.
    fn remap(&mut self, src: Range<u64>, dst: u64) -> Result<(), CpuError> {
        check_remap(self.size, &src, dst)?;
        // SAFETY: the ranges were checked, and `&mut self` is the only way to their bytes.
        unsafe { self.pages.exchange(src, dst) }
    }
}

impl core::fmt::Debug for PageBuffer {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("PageBuffer")
            .field("size", &self.size)
            .field("exchanges_pages", &self.exchanges_pages())
            .finish()
    }
}

/// Checks that `src` and the range of its length at `dst` are whole granules of a buffer and do not overlap.
pub(crate) fn check_remap(size: u64, src: &Range<u64>, dst: u64) -> Result<(), CpuError> {
    check_copy(size, GRANULE as u64, src, dst)?;
    let len = src.end - src.start;
    if src.start.abs_diff(dst) < len {
        return Err(CpuError::Overlap { src: src.start, dst, len });
    }
    Ok(())
}
