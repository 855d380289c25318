//! Pinned buffers with views, and who manages which address: what DeepSpeed's pinned-tensor manager promises.

use crate::sync::{Arc, Mutex, lock};
use crate::{HostError, HostPool, HostRegion, PinnedSlice, Wait};
use allocator_core::{RangeError, check_range};
use core::ops::Range;
use std::collections::BTreeMap;

/// Gives out buffers of a pool and knows which addresses are theirs. They are page-locked as far as the pool's
/// [`LockPolicy`](crate::LockPolicy) has it; [`PinnedBuffer::is_locked`] tells.
///
/// | DeepSpeed | here | what is different |
/// |---|---|---|
/// | `deepspeed_pin_tensor_t` | [`PinnedManager`] over any [`HostPool`] | a lock per request there; regions locked once here |
/// | `alloc(num_elem, dtype)` | [`allocate`](Self::allocate), [`allocate_of`](Self::allocate_of) | an error says what was refused and why; there the process ends |
/// | `alloc(num_elem, options)`, `new_cpu_locked_tensor(n, like)` | [`allocate_like`](Self::allocate_like) | |
/// | `free(tensor)` → `bool` | [`free`](Self::free) | views that are left stay valid; there they dangle |
/// | `free(addr)`, `free_cpu_locked_tensor_by_ptr` | [`free_ptr`](Self::free_ptr) | the same |
/// | `is_managed(tensor)` | [`manages`](Self::manages), [`is_managed_range`](Self::is_managed_range), [`is_managed`](Self::is_managed) | O(log n), there O(n) |
/// | `is_pinned(tensor)` | [`PinnedBuffer::is_locked`] | |
/// | a tensor dropped without `free` | [`PinnedBuffer`] frees with its last view | leaks there until the process ends |
/// | `NativePinnedMemory.pin(t)` | [`pin`](Self::pin) | |
/// | destructor frees all | [`free_all`](Self::free_all); dropping the manager and its buffers | never runs there |
/// | `ds_page_aligned_alloc`: a page | 4 KiB from 32 KiB on, else see [`PoolConfig`](crate::PoolConfig) | no page for each small one |
/// | the mutex of the process-wide manager | clones share one table | |
/// | `pin_memory_tracker` | [`HostPool::stats`], [`HostPool::memory_stats`] | what is freed is subtracted |
///
/// Clones are the same manager. Several managers may use one pool; each knows its own buffers only.
///
/// Source: `csrc/pin_memory/deepspeed_pin_tensor.cpp` and `deepspeed/utils/pin_memory.py`.
///
/// ```
/// use pinned_host::{LockPolicy, OsLocker, PinnedManager, PoolConfig};
///
/// let pool = PoolConfig::new(1 << 20).lock(LockPolicy::WithinAllowance).build(OsLocker)?;
/// let manager = PinnedManager::new(pool);
/// let mut gradients = manager.allocate_of::<f32>(1000)?;
/// for element in gradients.get_mut().unwrap().chunks_exact_mut(size_of::<f32>()) {
///     element.copy_from_slice(&1.5_f32.to_ne_bytes());
/// }
/// // In bytes: elements 500 to 1000.
/// let second_half = gradients.narrow(2000..4000)?;
/// assert!(manager.manages(&second_half) && manager.is_managed(second_half.as_ptr()));
///
/// assert!(manager.free(&gradients)); // no longer managed; the bytes stay while a view of them does
/// assert!(!manager.free(&gradients) && !manager.manages(&second_half));
/// assert_eq!(second_half.as_slice()[..4], 1.5_f32.to_ne_bytes());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct PinnedManager<R: HostRegion> {
    pool: HostPool<R>,
    table: Arc<Table>,
}

/// The first address of every managed buffer, and the one behind its last.
#[derive(Default)]
struct Table {
    ends: Mutex<BTreeMap<usize, usize>>,
}

impl<R: HostRegion> PinnedManager<R> {
    /// A manager of what is still to be taken from `pool`.
    pub fn new(pool: HostPool<R>) -> Self {
        PinnedManager { pool, table: Arc::default() }
    }

    /// The pool the buffers come from.
    pub fn pool(&self) -> &HostPool<R> {
        &self.pool
    }

    /// A buffer for `count` elements of `element_size` bytes, at least one of each. The contents are whatever was there before.
    /// O(log n) beside the pool's part.
    ///
    /// # Errors
    /// As [`HostPool::allocate`]; [`HostError::TooLarge`] also where the product overflows.
    pub fn allocate(&self, count: usize, element_size: usize) -> Result<PinnedBuffer<R>, HostError> {
        Ok(self.adopt(self.pool.allocate(self.bytes(count, element_size)?)?))
    }

    /// As [`allocate`](Self::allocate), but waits for room.
    ///
    /// # Errors
    /// As [`HostPool::allocate_until`], and as [`allocate`](Self::allocate).
    pub fn allocate_until(
        &self,
        count: usize,
        element_size: usize,
        wait: &Wait<'_>,
    ) -> Result<PinnedBuffer<R>, HostError> {
        Ok(self.adopt(self.pool.allocate_until(self.bytes(count, element_size)?, wait)?))
    }

    /// A buffer for `count` elements of a type, aligned for it. It is of bytes all the same, as are its ranges:
    /// `bytemuck::cast_slice_mut` makes elements of them.
    ///
    /// # Errors
    /// As [`allocate`](Self::allocate); [`HostError::BadAlign`] where the device's memory is not aligned so far.
    pub fn allocate_of<T>(&self, count: usize) -> Result<PinnedBuffer<R>, HostError> {
        let bytes = self.bytes(count, size_of::<T>())?;
        let slice = self.pool.allocate_aligned(bytes, align_of::<T>())?;
        if !slice.as_ptr().addr().is_multiple_of(align_of::<T>()) {
            return Err(HostError::BadAlign { align: align_of::<T>() as u64 });
        }
        Ok(self.adopt(slice))
    }

    /// A buffer as long as `other`.
    ///
    /// # Errors
    /// As [`allocate`](Self::allocate).
    pub fn allocate_like(&self, other: &impl AsRef<[u8]>) -> Result<PinnedBuffer<R>, HostError> {
        self.allocate(other.as_ref().len(), 1)
    }

    /// A pinned copy of `bytes`.
    ///
    /// # Errors
    /// As [`allocate`](Self::allocate).
    pub fn pin(&self, bytes: &[u8]) -> Result<PinnedBuffer<R>, HostError> {
        let mut slice = self.pool.allocate(bytes.len())?;
        slice.as_mut_slice().copy_from_slice(bytes);
        Ok(self.adopt(slice))
    }

    /// Manages a slice, such as one that a transfer gave back; [`PinnedBuffer::into_slice`] is the way back.
    pub fn adopt(&self, slice: PinnedSlice<R>) -> PinnedBuffer<R> {
        let range = 0..slice.len();
        let base = slice.as_ptr().addr();
        lock(&self.table.ends).insert(base, base + slice.len());
        let entry = Entry { base, table: Arc::clone(&self.table) };
        PinnedBuffer { root: Arc::new(Root { entry, slice }), range }
    }

    /// Ends the management of the buffer that `buffer` views, if the view starts where the buffer does, however short it is;
    /// whether that was so. Its bytes go back when the last view of it is dropped. O(log n).
    pub fn free(&self, buffer: &PinnedBuffer<R>) -> bool {
        let Entry { base, table } = &buffer.root.entry;
        buffer.range.start == 0 && Arc::ptr_eq(table, &self.table) && lock(&table.ends).remove(base).is_some()
    }

    /// The same by the address of the first byte.
    pub fn free_ptr<T>(&self, first: *const T) -> bool {
        lock(&self.table.ends).remove(&first.addr()).is_some()
    }

    /// Whether a byte is in a managed buffer. O(log n).
    pub fn is_managed<T>(&self, pointer: *const T) -> bool {
        self.is_managed_range(pointer, 1)
    }

    /// Whether so many bytes from `first` on are all in *one* managed buffer. O(log n).
    pub fn is_managed_range<T>(&self, first: *const T, bytes: usize) -> bool {
        let first = first.addr();
        let ends = lock(&self.table.ends);
        let found = ends.range(..=first).next_back();
        found.is_some_and(|(_, end)| first < *end && bytes <= *end - first)
    }

    /// Whether a view is of a buffer that this manager manages. O(log n).
    pub fn manages(&self, buffer: &PinnedBuffer<R>) -> bool {
        let Entry { base, table } = &buffer.root.entry;
        Arc::ptr_eq(table, &self.table) && lock(&table.ends).contains_key(base)
    }

    /// Managed buffers and the bytes that were asked for them. O(n).
    pub fn managed(&self) -> (usize, u64) {
        let ends = lock(&self.table.ends);
        (ends.len(), ends.iter().map(|(base, end)| (end - base) as u64).sum())
    }

    /// Ends the management of every buffer and gives idle regions back; returns how many buffers there were. The bytes of
    /// those that have views left go back with the last of them.
    pub fn free_all(&self) -> usize {
        let freed = core::mem::take(&mut *lock(&self.table.ends)).len();
        self.pool.trim(0);
        freed
    }

    fn bytes(&self, count: usize, element_size: usize) -> Result<usize, HostError> {
        let too_large = || HostError::TooLarge { asked: u64::MAX, capacity: self.pool.max_slice() as u64 };
        count.checked_mul(element_size).ok_or_else(too_large)
    }
}

impl<R: HostRegion> Clone for PinnedManager<R> {
    fn clone(&self) -> Self {
        PinnedManager { pool: self.pool.clone(), table: Arc::clone(&self.table) }
    }
}

impl<R: HostRegion> core::fmt::Debug for PinnedManager<R> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        let (buffers, bytes) = self.managed();
        f.debug_struct("PinnedManager")
            .field("buffers", &buffers)
            .field("bytes", &bytes)
            .field("pool", &self.pool)
            .finish()
    }
}

/// A view of pinned memory; clones and [`narrow`](Self::narrow) make others of the same memory, which is freed with the last.
///
/// Several views can be read; only one that is alone can be written.
pub struct PinnedBuffer<R: HostRegion> {
    root: Arc<Root<R>>,
    /// Within the slice.
    range: Range<usize>,
}

/// In this order: an address is forgotten before it can be another's.
struct Root<R: HostRegion> {
    entry: Entry,
    slice: PinnedSlice<R>,
}

/// A buffer's line in the table, if it is still there.
struct Entry {
    base: usize,
    table: Arc<Table>,
}

impl Drop for Entry {
    fn drop(&mut self) {
        lock(&self.table.ends).remove(&self.base);
    }
}

impl<R: HostRegion> PinnedBuffer<R> {
    /// Length in bytes.
    pub fn len(&self) -> usize {
        self.range.len()
    }

    /// Whether it has no bytes, as a narrowed view can.
    pub fn is_empty(&self) -> bool {
        self.range.is_empty()
    }

    /// First byte. Valid while a view of the memory lives.
    pub fn as_ptr(&self) -> *const u8 {
        self.as_slice().as_ptr()
    }

    /// The bytes.
    pub fn as_slice(&self) -> &[u8] {
        &self.root.slice.as_slice()[self.range.clone()]
    }

    /// The bytes for writing, if this is the only view.
    pub fn get_mut(&mut self) -> Option<&mut [u8]> {
        let root = Arc::get_mut(&mut self.root)?;
        Some(&mut root.slice.as_mut_slice()[self.range.clone()])
    }

    /// A view of part of it, in **bytes** from its own beginning.
    ///
    /// # Errors
    /// The range does not lie in the view.
    pub fn narrow(&self, range: Range<usize>) -> Result<Self, RangeError> {
        check_range(self.len() as u64, 1, &(range.start as u64..range.end as u64))?;
        let start = self.range.start;
        Ok(PinnedBuffer { root: Arc::clone(&self.root), range: start + range.start..start + range.end })
    }

    /// Whether the pages are locked.
    pub fn is_locked(&self) -> bool {
        self.root.slice.is_locked()
    }

    /// Whether other views of the memory are left.
    pub fn is_shared(&self) -> bool {
        Arc::strong_count(&self.root) > 1
    }

    /// The whole slice it is a view of, managed no longer: what a transfer takes.
    ///
    /// # Errors
    /// Other views are left; this one comes back.
    pub fn into_slice(self) -> Result<PinnedSlice<R>, Self> {
        let PinnedBuffer { root, range } = self;
        match Arc::try_unwrap(root) {
            Ok(Root { entry, slice }) => {
                drop(entry);
                Ok(slice)
            }
            Err(root) => Err(PinnedBuffer { root, range }),
        }
    }
}

impl<R: HostRegion> Clone for PinnedBuffer<R> {
    fn clone(&self) -> Self {
        PinnedBuffer { root: Arc::clone(&self.root), range: self.range.clone() }
    }
}

impl<R: HostRegion> AsRef<[u8]> for PinnedBuffer<R> {
    fn as_ref(&self) -> &[u8] {
        self.as_slice()
    }
}

impl<R: HostRegion> core::fmt::Debug for PinnedBuffer<R> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("PinnedBuffer").field("range", &self.range).field("of", &self.root.slice).finish()
    }
}
