//! Buffers of a wgpu device, views of them, and what they hold.

use super::direct::Direct;
use super::native::lock;
use super::shared::Shared;
use super::{WgpuError, WgpuQueue};
use allocator_core::{DeviceBuffer, check_copy, check_range};
use pinned_host::{DeviceMemory, QueuedBuffer};
use std::num::NonZeroU64;
use std::ops::Range;
use std::sync::{Arc, Mutex};

/// Memory of a [`WgpuDevice`](crate::WgpuDevice): one `wgpu::Buffer` for storage and copies.
///
/// Cloning names the same memory. Offsets and lengths are multiples of 4 bytes, as wgpu asks.
///
/// `copy_within` checks and notes the move; moves that were noted are submitted together, in order, by the next
/// [`record`](pinned_host::Queue::record), transfer or drain on any queue of the device. Work that the user submits
/// to wgpu between `copy_within` and that call runs *before* the move.
#[derive(Clone)]
pub struct WgpuBuffer {
    memory: Arc<Memory>,
    queue: WgpuQueue,
}

impl WgpuBuffer {
    pub(super) fn new(memory: Memory, queue: WgpuQueue) -> Self {
        WgpuBuffer { memory: Arc::new(memory), queue }
    }

    pub(super) fn memory(&self) -> &Arc<Memory> {
        &self.memory
    }
}

impl DeviceBuffer for WgpuBuffer {
    type View<'a> = WgpuView<'a>;
    type Error = WgpuError;

    fn size(&self) -> u64 {
        self.memory.size
    }

    fn grain(&self) -> u64 {
        GRAIN
    }

    fn copy_within(&mut self, src: Range<u64>, dst: u64) -> Result<(), WgpuError> {
        check_copy(self.memory.size, GRAIN, &src, dst)?;
        self.queue.shared().note_move(&self.memory, src, dst)
    }

    fn view(&self, range: Range<u64>) -> Result<WgpuView<'_>, WgpuError> {
        check_range(self.memory.size, GRAIN, &range)?;
        Ok(WgpuView { memory: &self.memory, range, shared: self.queue.shared() })
    }
}

impl QueuedBuffer for WgpuBuffer {
    type Queue = WgpuQueue;

    fn queue(&self) -> &WgpuQueue {
        &self.queue
    }
}

impl core::fmt::Debug for WgpuBuffer {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("WgpuBuffer")
            .field("device", &self.memory.device)
            .field("size", &self.memory.size)
            .finish_non_exhaustive()
    }
}

/// A range of a [`WgpuBuffer`], for wgpu's own calls.
///
/// A view orders nothing. What is submitted to the device's queue after an upload or a `record` runs after it; keep
/// later work from the range while kernels use it, as a lease does.
#[derive(Clone)]
pub struct WgpuView<'a> {
    memory: &'a Memory,
    range: Range<u64>,
    shared: &'a Shared,
}

impl<'a> WgpuView<'a> {
    /// The whole buffer that the range is in.
    ///
    /// It must not be mapped, which its usage forbids, nor destroyed: then every operation on it fails.
    pub fn buffer(&self) -> &'a wgpu::Buffer {
        &self.memory.buffer
    }

    /// The viewed bytes of the buffer.
    pub fn range(&self) -> Range<u64> {
        self.range.clone()
    }

    /// The range as a storage binding, for a bind group.
    ///
    /// ```
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// use allocator_core::DeviceBuffer;
    /// use backend_vulkan::{WgpuDevice, WgpuError, wgpu};
    /// use pinned_host::Transfer;
    ///
    /// let device = match WgpuDevice::open() {
    ///     Ok(device) => device,
    ///     Err(error @ WgpuError::NoAdapter { .. }) => {
    ///         eprintln!("skipped: {error}");
    ///         return Ok(());
    ///     }
    ///     Err(error) => return Err(error.into()),
    /// };
    /// let buffer = device.buffer(4096)?;
    /// let view = buffer.view(1024..2048)?;
    /// let entry = wgpu::BindGroupEntry { binding: 0, resource: wgpu::BindingResource::Buffer(view.binding()?) };
    /// # let _ = entry;
    /// let error = buffer.view(4..2048)?.binding().unwrap_err().to_string();
    /// assert!(error.contains("min_storage_buffer_offset_alignment"), "{error}");
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`WgpuError::Misaligned`] names `min_storage_buffer_offset_alignment` (give blocks that alignment, see
    /// [`WgpuDevice::binding_alignment`](crate::WgpuDevice::binding_alignment)), [`WgpuError::Limit`]
    /// `max_storage_buffer_binding_size`; [`WgpuError::EmptyBinding`].
    pub fn binding(&self) -> Result<wgpu::BufferBinding<'a>, WgpuError> {
        let Range { start: offset, end } = self.range;
        let limits = &self.shared.limits;
        let align = u64::from(limits.min_storage_buffer_offset_alignment);
        if align > 1 && !offset.is_multiple_of(align) {
            return Err(WgpuError::Misaligned {
                limit: "min_storage_buffer_offset_alignment",
                offset,
                align,
            });
        }
        let (asked, allowed) = (end - offset, limits.max_storage_buffer_binding_size);
        if asked > allowed {
            return Err(WgpuError::Limit { limit: "max_storage_buffer_binding_size", asked, allowed });
        }
        let size = NonZeroU64::new(asked).ok_or(WgpuError::EmptyBinding { offset })?;
        Ok(wgpu::BufferBinding { buffer: &self.memory.buffer, offset, size: Some(size) })
    }
}

impl core::fmt::Debug for WgpuView<'_> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_tuple("WgpuView").field(&self.range).finish()
    }
}

/// A buffer's memory, shared by its clones and by moves not yet submitted.
pub(super) struct Memory {
    /// Before `buffer`, so that it goes while wgpu's device is still there.
    pub(super) direct: Option<Direct>,
    pub(super) buffer: wgpu::Buffer,
    /// Bytes, a multiple of the grain.
    pub(super) size: u64,
    /// Number of the device that made it.
    pub(super) device: u64,
    pub(super) _held: Held,
}

/// Bytes that a device's buffers hold.
#[derive(Default)]
pub(super) struct Usage(Mutex<DeviceMemory>);

impl Usage {
    pub(super) fn now(&self) -> DeviceMemory {
        *lock(&self.0)
    }

    pub(super) fn hold(self: &Arc<Self>, bytes: u64) -> Held {
        self.grow(bytes, false)
    }

    pub(super) fn hold_scratch(self: &Arc<Self>, bytes: u64) -> Held {
        self.grow(bytes, true)
    }

    fn grow(self: &Arc<Self>, bytes: u64, scratch: bool) -> Held {
        let mut memory = lock(&self.0);
        memory.current += bytes;
        memory.peak = memory.peak.max(memory.current);
        memory.scratch += if scratch { bytes } else { 0 };
        Held { usage: Arc::clone(self), bytes, scratch }
    }
}

/// Bytes that count as held until this is dropped.
pub(super) struct Held {
    usage: Arc<Usage>,
    bytes: u64,
    scratch: bool,
}

impl Drop for Held {
    fn drop(&mut self) {
        let mut memory = lock(&self.usage.0);
        memory.current -= self.bytes;
        memory.scratch -= if self.scratch { self.bytes } else { 0 };
    }
}

/// wgpu's `COPY_BUFFER_ALIGNMENT`: offsets and lengths of copies are multiples of it.
pub(super) const GRAIN: u64 = wgpu::COPY_BUFFER_ALIGNMENT;
