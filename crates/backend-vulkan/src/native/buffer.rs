//! Buffers on the device, their views, and copies within them.

use super::context::Context;
use super::error::STORAGE_RANGE;
use super::memory::Memory;
use super::record::Op;
use super::{VulkanError, VulkanQueue};
use allocator_core::{
    CopyCost, CopyWay, DeviceBuffer, Remap, bounce_pieces, check_copy, check_range, disjoint_steps,
};
use ash::vk;
use core::marker::PhantomData;
use core::ops::Range;
use pinned_host::QueuedBuffer;
use std::sync::Arc;

/// Bytes on a Vulkan device. Cloning names the same bytes; they are freed when the last clone is gone and no operation
/// of ours uses them.
///
/// Offsets and lengths are multiples of one byte: Vulkan's buffer copies know no alignment. `copy_within` adds to the
/// buffer's queue and submits nothing; an event recorded there does.
#[derive(Clone)]
pub struct VulkanBuffer {
    memory: Arc<Memory>,
    queue: VulkanQueue,
    /// Room for copies between ranges that overlap; belongs to `queue`, whose barriers order its uses.
    scratch: Arc<Memory>,
    cost: CopyCost,
}

impl VulkanBuffer {
    pub(super) fn new(memory: Arc<Memory>, queue: &VulkanQueue, scratch: &Arc<Memory>, barrier: u64) -> Self {
        let cost = CopyCost { start: barrier, scratch: scratch.size() };
        VulkanBuffer { memory, queue: queue.clone(), scratch: Arc::clone(scratch), cost }
    }

    /// The buffer's handle.
    ///
    /// Valid as long as a clone of this value; not to be destroyed. It may be used in the caller's own submissions under
    /// the order that events give. With queues of several families it is shared by all that the device was made with.
    pub fn native(&self) -> vk::Buffer {
        self.memory.buffer()
    }

    /// Whether its pages can be exchanged; see [`Remap`].
    pub fn is_sparse(&self) -> bool {
        self.memory.pages().is_some()
    }

    pub(super) fn memory(&self) -> &Arc<Memory> {
        &self.memory
    }

    pub(super) fn check_device(&self, context: &Context) -> Result<(), VulkanError> {
        let (theirs, ours) = (self.memory.context().id, context.id);
        if theirs == ours { Ok(()) } else { Err(VulkanError::Foreign { what: "buffer", theirs, ours }) }
    }
}

impl DeviceBuffer for VulkanBuffer {
    type View<'a> = VulkanView<'a>;
    type Error = VulkanError;

    fn size(&self) -> u64 {
        self.memory.size()
    }

    /// Memmove semantics, although Vulkan forbids overlap within a copy: pieces as long as the distance, or by way of the
    /// scratch, whichever costs less.
    fn copy_within(&mut self, src: Range<u64>, dst: u64) -> Result<(), VulkanError> {
        check_copy(self.size(), 1, &src, dst)?;
        if src.is_empty() || src.start == dst {
            return self.queue.context().check_lost();
        }
        let buffer = &*self.memory;
        let len = |range: &Range<u64>| range.end - range.start;
        match self.cost.way(len(&src), src.start.abs_diff(dst)) {
            CopyWay::Bounce => {
                let scratch = &self.scratch;
                let ops = bounce_pieces(src, dst, scratch.size()).flat_map(|(from, to)| {
                    let bytes = len(&from);
                    let out = Op::copy(buffer, from.start, scratch, 0, bytes);
                    [out, Op::copy(scratch, 0, buffer, to, bytes)]
                });
                self.queue.add(ops, &[&self.memory, scratch])
            }
            _ => {
                let ops = disjoint_steps(src, dst, 0)
                    .map(|(from, to)| Op::copy(buffer, from.start, buffer, to, len(&from)));
                self.queue.add(ops, &[&self.memory])
            }
        }
    }

    fn view(&self, range: Range<u64>) -> Result<VulkanView<'_>, VulkanError> {
        check_range(self.size(), 1, &range)?;
        Ok(VulkanView { memory: &self.memory, range, _buffer: PhantomData })
    }
}

impl QueuedBuffer for VulkanBuffer {
    type Queue = VulkanQueue;

    fn queue(&self) -> &VulkanQueue {
        &self.queue
    }
}

/// Whole pages of a sparse buffer change places by `vkQueueBindSparse`; no byte is copied.
///
/// The binding is ordered on the buffer's queue, and submitted at once. Its device address and handle stay as they are.
impl Remap for VulkanBuffer {
    /// The driver's page for sparse buffers; on a buffer that is not sparse, more bytes than it has, so that it has no
    /// whole granule.
    fn granule(&self) -> u64 {
        let beyond =
            || self.size().checked_add(1).and_then(u64::checked_next_power_of_two).unwrap_or(1 << 63);
        self.memory.pages().map_or_else(beyond, |pages| pages.page())
    }

    fn remap(&mut self, src: Range<u64>, dst: u64) -> Result<(), VulkanError> {
        check_copy(self.size(), 1, &src, dst)?;
        let len = src.end - src.start;
        let wrong = |why| VulkanError::Remap { src: src.start, len, dst, why };
        let Some(pages) = self.memory.pages() else { return Err(wrong("the buffer is not sparse")) };
        if [src.start, src.end, dst].iter().any(|at| at % pages.page() != 0) {
            return Err(wrong("an offset or the length is no multiple of the granule"));
        }
        if src.start.abs_diff(dst) < len {
            return Err(wrong("source and destination overlap"));
        }
        let mut table = pages.lock();
        let binds = pages.exchange(&table, &src, dst);
        if binds.is_empty() {
            return self.queue.context().check_lost();
        }
        let info = vk::SparseBufferMemoryBindInfo::default().buffer(self.memory.buffer()).binds(&binds);
        self.queue.bind(info, &self.memory)?;
        pages.exchanged(&mut table, &src, dst);
        Ok(())
    }
}

impl core::fmt::Debug for VulkanBuffer {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("VulkanBuffer")
            .field("size", &self.size())
            .field("sparse", &self.is_sparse())
            .finish_non_exhaustive()
    }
}

/// A range of a [`VulkanBuffer`] as shaders and commands name it.
///
/// Its lifetime guards the handle, not execution: who uses the range on a queue holds a lease or an event.
#[derive(Clone)]
pub struct VulkanView<'a> {
    memory: &'a Memory,
    range: Range<u64>,
    _buffer: PhantomData<&'a VulkanBuffer>,
}

impl VulkanView<'_> {
    /// The buffer.
    pub fn buffer(&self) -> vk::Buffer {
        self.memory.buffer()
    }

    /// First byte, from the start of the buffer.
    pub fn offset(&self) -> u64 {
        self.range.start
    }

    /// Length in bytes.
    pub fn size(&self) -> u64 {
        self.range.end - self.range.start
    }

    /// Address of the first byte in shaders; `None` where the device has no `bufferDeviceAddress` or it is not enabled.
    pub fn device_address(&self) -> Option<vk::DeviceAddress> {
        Some(self.memory.address()? + self.range.start)
    }

    /// The range as a storage buffer descriptor.
    ///
    /// # Errors
    /// It is longer than `maxStorageBufferRange`, empty, or its offset is no multiple of
    /// `minStorageBufferOffsetAlignment`: ask for blocks with that alignment.
    pub fn descriptor(&self) -> Result<vk::DescriptorBufferInfo, VulkanError> {
        let limits = &self.memory.context().limits;
        let (offset, asked) = (self.offset(), self.size());
        if asked == 0 {
            return Err(VulkanError::ZeroSize);
        }
        if asked > limits.storage_range {
            let (limit, allowed) = (STORAGE_RANGE, limits.storage_range);
            return Err(VulkanError::Limit { limit, asked, allowed });
        }
        if !offset.is_multiple_of(limits.storage_align) {
            let (limit, align) = ("minStorageBufferOffsetAlignment", limits.storage_align);
            return Err(VulkanError::Misaligned { limit, offset, align });
        }
        Ok(vk::DescriptorBufferInfo::default().buffer(self.buffer()).offset(offset).range(asked))
    }
}

impl core::fmt::Debug for VulkanView<'_> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_tuple("VulkanView").field(&self.range).finish()
    }
}
