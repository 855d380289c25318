//! Buffers of the CPU device and views of them.

use crate::page_buffer::check_remap;
use crate::pages::{GRANULE, Pages};
use crate::queue::CpuQueue;
use crate::range_lock::{InUse, RangeGuard, RangeLock, Want};
use crate::work::Work;
use crate::{CpuError, sync};
use allocator_core::{DeviceBuffer, Remap, check_copy, check_range};
use bytemuck::{AnyBitPattern, Pod};
use pinned_host::{DeviceMemory, QueuedBuffer};
use std::ops::Range;
use std::sync::{Arc, Mutex};

/// Memory of a [`CpuDevice`](crate::CpuDevice): pages of the host that the device's queues work on.
///
/// Cloning names the same memory, which lives until the last clone is dropped and the last operation on it has
/// ended. `copy_within` enqueues a memmove on the device's compute queue.
///
/// Offsets and lengths are bytes, the grain is 1, the first byte is aligned to a page.
#[derive(Clone)]
pub struct CpuBuffer {
    memory: Arc<Memory>,
    queue: CpuQueue,
}

impl CpuBuffer {
    pub(crate) fn new(size: u64, queue: &CpuQueue, usage: &Arc<Usage>) -> Result<Self, CpuError> {
        Ok(CpuBuffer { memory: Arc::new(Memory::new(size, usage)?), queue: queue.clone() })
    }

    pub(crate) fn memory(&self) -> &Arc<Memory> {
        &self.memory
    }
}

impl DeviceBuffer for CpuBuffer {
    type View<'a> = CpuView<'a>;
    type Error = CpuError;

    fn size(&self) -> u64 {
        self.memory.size
    }

    fn copy_within(&mut self, src: Range<u64>, dst: u64) -> Result<(), CpuError> {
        check_copy(self.memory.size, 1, &src, dst)?;
        self.queue.submit(Work::Move { memory: Arc::clone(&self.memory), src, dst })
    }

    fn view(&self, range: Range<u64>) -> Result<CpuView<'_>, CpuError> {
        check_range(self.memory.size, 1, &range)?;
        Ok(CpuView { memory: &self.memory, range })
    }
}

/// Whole pages of 2 MiB change places, enqueued on the compute queue as a copy is, and with both ranges kept from
/// everybody else meanwhile. Where the system refuses, or cannot do it, the source is copied to the destination.
///
/// Addresses stay and their pages become others: as with [`PageBuffer`](crate::PageBuffer), not for memory that somebody
/// holds by its pages.
impl Remap for CpuBuffer {
    fn granule(&self) -> u64 {
        GRANULE as u64
    }

    fn remap(&mut self, src: Range<u64>, dst: u64) -> Result<(), CpuError> {
        check_remap(self.memory.size, &src, dst)?;
        self.queue.submit(Work::Remap { memory: Arc::clone(&self.memory), src, dst })
    }
}

impl QueuedBuffer for CpuBuffer {
    type Queue = CpuQueue;

    fn queue(&self) -> &CpuQueue {
        &self.queue
    }
}

impl core::fmt::Debug for CpuBuffer {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("CpuBuffer").field("size", &self.memory.size).finish_non_exhaustive()
    }
}

/// A range of a [`CpuBuffer`], with typed access to its bytes.
///
/// A view orders nothing: wait for the events of the work that wrote the range, and keep work that writes it from
/// starting, as a lease does. What [`with`](Self::with) and [`with_mut`](Self::with_mut) add is that unordered
/// work is kept apart from them, so that a missing wait shows as stale bytes and not as undefined behaviour.
///
/// Do not wait, inside the closure, for work that uses the same bytes: that work waits for the closure.
///
/// ```
/// use allocator_core::DeviceBuffer;
/// use backend_cpu::CpuDevice;
/// use pinned_host::Transfer;
///
/// let device = CpuDevice::new()?;
/// let buffer = device.buffer(64)?;
/// let view = buffer.view(16..32)?;
/// view.with_mut(|floats: &mut [f32]| floats.fill(0.5))?;
/// assert_eq!(view.with(|floats: &[f32]| floats.iter().sum::<f32>())?, 2.0);
/// assert!(buffer.view(17..21)?.with(|_: &[f32]| ()).is_err(), "misaligned");
/// # Ok::<(), backend_cpu::CpuError>(())
/// ```
#[derive(Clone)]
pub struct CpuView<'a> {
    memory: &'a Arc<Memory>,
    range: Range<u64>,
}

impl CpuView<'_> {
    /// The viewed bytes of the buffer.
    pub fn range(&self) -> Range<u64> {
        self.range.clone()
    }

    /// Address of the first viewed byte, for foreign kernels.
    ///
    /// It stays valid while a clone of the buffer lives. Whoever uses it is on their own: ranges locked by
    /// [`with`](Self::with) and by the device's operations know nothing of it.
    pub fn as_ptr(&self) -> *mut u8 {
        self.memory.at(self.range.start)
    }

    /// Runs `f` on the bytes as a slice of `T`, shared with other readers.
    ///
    /// # Errors
    /// The range is no whole, aligned slice of `T`; the bytes are being written and this thread already holds
    /// a range.
    pub fn with<T: AnyBitPattern, R>(&self, f: impl FnOnce(&[T]) -> R) -> Result<R, CpuError> {
        if self.range.is_empty() {
            return Ok(f(&[]));
        }
        let _guard = self.memory.acquire(&[(self.range.clone(), false)])?;
        // SAFETY: the range lies within the region, whose bytes are initialised; while the guard lives nobody
        // writes them, and the reference ends before the guard does.
        let bytes = unsafe { std::slice::from_raw_parts(self.as_ptr(), self.len()) };
        let elements = bytemuck::try_cast_slice(bytes).map_err(|_| self.cast_error::<T>())?;
        Ok(f(elements))
    }

    /// Runs `f` on the bytes as a mutable slice of `T`, alone.
    ///
    /// # Errors
    /// The range is no whole, aligned slice of `T`; the bytes are in use and this thread already holds a range.
    pub fn with_mut<T: Pod, R>(&self, f: impl FnOnce(&mut [T]) -> R) -> Result<R, CpuError> {
        if self.range.is_empty() {
            return Ok(f(&mut []));
        }
        let _guard = self.memory.acquire(&[(self.range.clone(), true)])?;
        // SAFETY: the range lies within the region, whose bytes are initialised; while the guard lives nobody
        // else touches them, and the reference ends before the guard does.
        let bytes = unsafe { std::slice::from_raw_parts_mut(self.as_ptr(), self.len()) };
        let elements = bytemuck::try_cast_slice_mut(bytes).map_err(|_| self.cast_error::<T>())?;
        Ok(f(elements))
    }

    fn len(&self) -> usize {
        // Fits: the region it lies in has a `usize` length.
        (self.range.end - self.range.start) as usize
    }

    fn cast_error<T>(&self) -> CpuError {
        CpuError::Cast {
            start: self.range.start,
            end: self.range.end,
            type_name: std::any::type_name::<T>(),
            size: size_of::<T>(),
            align: align_of::<T>(),
        }
    }
}

impl core::fmt::Debug for CpuView<'_> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_tuple("CpuView").field(&self.range).finish()
    }
}

/// The bytes of a buffer, shared by its clones and by the operations in flight.
pub(crate) struct Memory {
    pages: Pages,
    size: u64,
    ranges: RangeLock,
    usage: Arc<Usage>,
}

impl Memory {
    fn new(size: u64, usage: &Arc<Usage>) -> Result<Self, CpuError> {
        let bytes = usize::try_from(size).map_err(|_| CpuError::TooLarge { bytes: size })?;
        let pages = Pages::new(bytes).map_err(|source| CpuError::Memory { bytes: size, source })?;
        usage.grow(size);
        Ok(Memory { pages, size, ranges: RangeLock::new(), usage: Arc::clone(usage) })
    }

    /// Address of byte `offset`, which is at most `size`.
    pub(crate) fn at(&self, offset: u64) -> *mut u8 {
        debug_assert!(offset <= self.size);
        self.pages.base().wrapping_add(offset as usize)
    }

    /// Its length in bytes.
    pub(crate) fn size(&self) -> u64 {
        self.size
    }

    pub(crate) fn pages(&self) -> &Pages {
        &self.pages
    }

    /// Takes ranges for as long as bytes are touched.
    pub(crate) fn acquire(&self, wants: &[Want]) -> Result<RangeGuard<'_>, CpuError> {
        self.ranges
            .acquire(wants)
            .map_err(|InUse(range)| CpuError::InUse { start: range.start, end: range.end })
    }

    /// Number of the device that made the buffer.
    pub(crate) fn device(&self) -> u64 {
        self.usage.device
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        self.usage.shrink(self.size);
    }
}

/// Bytes that the buffers of one device hold.
pub(crate) struct Usage {
    pub(crate) device: u64,
    memory: Mutex<DeviceMemory>,
}

impl Usage {
    pub(crate) fn new(device: u64) -> Arc<Self> {
        Arc::new(Usage { device, memory: Mutex::new(DeviceMemory::default()) })
    }

    pub(crate) fn now(&self) -> DeviceMemory {
        *sync::lock(&self.memory)
    }

    fn grow(&self, bytes: u64) {
        let mut memory = sync::lock(&self.memory);
        memory.current += bytes;
        memory.peak = memory.peak.max(memory.current);
    }

    fn shrink(&self, bytes: u64) {
        sync::lock(&self.memory).current -= bytes;
    }
}
