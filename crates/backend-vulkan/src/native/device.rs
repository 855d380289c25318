//! The Vulkan device: its queues, its buffers and its transfers.

use super::context::Context;
use super::event::Timeline;
use super::memory::{COPY_USAGE, Mapped, Memory, Use};
use super::queue::WeakQueue;
use super::record::Op;
use super::{
    Counters, DeviceInfo, ValidationLog, VulkanBuffer, VulkanError, VulkanEvent, VulkanLocker, VulkanOptions,
    VulkanQueue,
};
use allocator_core::{DeviceBuffer, RangeError, check_range};
use ash::vk;
use core::ptr::NonNull;
use pinned_host::{DeviceMemory, Event, Lane, Parking, Queue, Refused, SliceOf, Ticket, Transfer};
use std::sync::{Arc, Mutex, PoisonError};

/// A Vulkan device: opened here, or the caller's own (see [`VulkanOptions::adopt`]).
///
/// Copies between host and device run on a queue for each direction where the hardware has copy engines, on spare
/// queues of the compute family where it has those, and else on the one queue there is. Events are points on timeline
/// semaphores. Buffers, events and tickets may outlive the device value; the Vulkan device is destroyed when all are
/// gone.
///
/// ```no_run
/// use backend_vulkan::{VulkanDevice, VulkanError};
/// use pinned_host::{HostPool, PageLocker, Transfer};
///
/// let device = VulkanDevice::new()?;
/// let pool = HostPool::new(vec![device.locker().lock(64 << 10)?], 64)?;
/// let mut buffer = device.buffer(1 << 20)?;
/// let mut slice = pool.allocate(4096)?;
/// slice.as_mut_slice().fill(1);
/// let slice = device.upload(slice, &mut buffer, 8192)?.wait()?;
/// let back = device.download(&buffer, 8192, slice)?.wait()?;
/// assert!(back.as_slice().iter().all(|&byte| byte == 1));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct VulkanDevice {
    context: Arc<Context>,
    compute: VulkanQueue,
    upload: VulkanQueue,
    download: VulkanQueue,
    scratch: Arc<Memory>,
    locker: VulkanLocker,
    parking: Parking<Self>,
    made: Made,
    /// Queues made beside the three.
    more: Mutex<Vec<WeakQueue>>,
    /// For plain access to memory the host does not see; made at first use. The lock is held during any plain access, so
    /// that two of them never race.
    window: Mutex<Option<Arc<Memory>>>,
}

/// What buffers are made like.
#[derive(Debug, Clone, Copy)]
pub(super) struct Made {
    pub(super) sparse: bool,
    pub(super) usage: vk::BufferUsageFlags,
    /// Cost of a barrier in bytes.
    pub(super) barrier: u64,
    pub(super) plain_through_queue: bool,
}

impl VulkanDevice {
    /// The best device there is, with the default options.
    ///
    /// # Errors
    /// No loader, no driver, no device that can do what is needed.
    pub fn new() -> Result<Self, VulkanError> {
        VulkanOptions::new().open()
    }

    /// Every Vulkan device of this machine.
    ///
    /// # Errors
    /// No loader, or no driver.
    pub fn list() -> Result<Vec<DeviceInfo>, VulkanError> {
        let instance = super::instance::Instance::open(false)?;
        Ok(instance.devices()?.into_iter().map(|(_, info)| info).collect())
    }

    pub(super) fn assemble(context: Arc<Context>, options: &VulkanOptions) -> Result<Self, VulkanError> {
        let compute = VulkanQueue::new(&context, &context.queues.compute, "compute")?;
        let upload = VulkanQueue::new(&context, &context.queues.upload, "upload")?;
        let download = VulkanQueue::new(&context, &context.queues.download, "download")?;
        let scratch = options.scratch.unwrap_or(if context.is_cpu { SOFT_SCRATCH } else { HARD_SCRATCH });
        let scratch = Arc::new(Memory::new(&context, scratch, Use::Scratch, COPY_USAGE)?);
        let mut usage = COPY_USAGE | vk::BufferUsageFlags::STORAGE_BUFFER | options.usage;
        if context.can.device_address {
            usage |= vk::BufferUsageFlags::SHADER_DEVICE_ADDRESS;
        }
        let made = Made {
            sparse: options.sparse,
            usage,
            barrier: options.barrier_cost.unwrap_or(if context.is_cpu { SOFT_BARRIER } else { HARD_BARRIER }),
            plain_through_queue: options.plain_through_queue,
        };
        let locker = VulkanLocker::new(&context, options.host_memory);
        let device = VulkanDevice {
            context,
            compute,
            upload,
            download,
            scratch,
            locker,
            parking: Parking::new(),
            made,
            more: Mutex::new(Vec::new()),
            window: Mutex::new(None),
        };
        device.touch(&device.scratch)?;
        Ok(device)
    }

    /// The default compute queue; moves inside buffers run here.
    pub fn queue(&self) -> &VulkanQueue {
        &self.compute
    }

    /// Another queue on the compute queue's `VkQueue`, with a timeline of its own.
    ///
    /// # Errors
    /// The driver gives no semaphore or command pool.
    pub fn new_queue(&self) -> Result<VulkanQueue, VulkanError> {
        let queue = VulkanQueue::new(&self.context, &self.context.queues.compute, "queue")?;
        let mut more = self.more.lock().unwrap_or_else(PoisonError::into_inner);
        more.retain(|queue| queue.upgrade().is_some());
        more.push(queue.downgrade());
        Ok(queue)
    }

    /// An event for a point on a timeline semaphore of the caller's.
    ///
    /// # Safety
    /// The semaphore is a timeline semaphore of this device and lives until the device value and everything that waited
    /// for the event are gone; a signal that reaches `value` was submitted already, or comes from the host or from a
    /// `VkQueue` that is none of this device value's. (A submission that waits inside a `VkQueue` holds up what is behind
    /// it, the signal too if it is there.)
    pub unsafe fn event_of(&self, semaphore: vk::Semaphore, value: u64) -> VulkanEvent {
        VulkanEvent::new(&Timeline::foreign(&self.context, semaphore), value, false)
    }

    /// The handles, and a share in their life: for pipelines and descriptors beside ours, which need the device to destroy
    /// what they made.
    pub fn handle(&self) -> VulkanHandle {
        VulkanHandle(Arc::clone(&self.context))
    }

    /// The device's own handle; as [`handle`](Self::handle), valid while this value lives.
    pub fn native(&self) -> &ash::Device {
        &self.context.device
    }

    /// What the driver says about the device.
    pub fn info(&self) -> DeviceInfo {
        let devices = self.context.instance.devices().unwrap_or_default();
        let found = devices.into_iter().find(|(handle, _)| *handle == self.context.physical);
        found.map_or_else(|| self.context.instance.describe(0, self.context.physical), |(_, info)| info)
    }

    /// How much was submitted and made so far.
    pub fn counters(&self) -> Counters {
        self.context.counters()
    }

    /// What the validation layer said, if the device was opened with it.
    pub fn validation(&self) -> Option<&ValidationLog> {
        self.context.instance.log()
    }

    /// A buffer, sparse or not whatever the options say.
    fn make(&self, size: u64) -> Result<Memory, VulkanError> {
        let (context, usage) = (&self.context, self.made.usage);
        if !self.made.sparse {
            let ours = Memory::of_system(context, size, Use::Buffer, usage);
            return ours.unwrap_or_else(|| Memory::new(context, size, Use::Buffer, usage));
        }
        if !self.context.can.sparse {
            let device = self.context.name.clone();
            return Err(VulkanError::Unsupported { device, what: "sparse binding on its compute queue" });
        }
        Memory::sparse(context, size, usage)
    }

    /// Binds the pages of a new sparse buffer, and waits: who uses it on another queue cannot know of the binding.
    fn bind_all(&self, memory: &Arc<Memory>) -> Result<(), VulkanError> {
        if let Some(pages) = memory.pages() {
            let binds = pages.all(&pages.lock());
            let info = vk::SparseBufferMemoryBindInfo::default().buffer(memory.buffer()).binds(&binds);
            self.compute.bind(info, memory)?;
            self.compute.drain()?;
        }
        Ok(())
    }

    /// Makes the pages of new memory present on a device that has them from the host's system, lazily: first touch
    /// happens here and not inside the first transfer.
    fn touch(&self, memory: &Arc<Memory>) -> Result<(), VulkanError> {
        if !self.context.is_cpu || memory.host().is_some() {
            return Ok(());
        }
        let buffer = memory.buffer();
        // SAFETY: the buffer is alive (added below as used) and has the usage for it; all of it is filled.
        let fill = |device: &ash::Device, commands| unsafe {
            device.cmd_fill_buffer(commands, buffer, 0, vk::WHOLE_SIZE, 0);
        };
        // SAFETY: as above.
        unsafe { self.compute.commands_with(&[memory], fill) }?;
        self.compute.drain()
    }

    fn check(&self, buffer: &VulkanBuffer, at: u64, len: usize) -> Result<(), VulkanError> {
        buffer.check_device(&self.context)?;
        let (len, size) = (len as u64, buffer.size());
        let end = at.checked_add(len).ok_or(RangeError::OutOfBounds { start: at, len, size })?;
        Ok(check_range(size, 1, &(at..end))?)
    }

    fn check_transfer(
        &self,
        buffer: &VulkanBuffer,
        at: u64,
        slice: &SliceOf<Self>,
    ) -> Result<(), VulkanError> {
        self.check(buffer, at, slice.len())?;
        let (theirs, ours) = (slice.region().memory().context().id, self.context.id);
        if theirs == ours { Ok(()) } else { Err(VulkanError::Foreign { what: "slice", theirs, ours }) }
    }

    /// What became of a transfer's operations: either they were submitted, or nothing was enqueued.
    fn ticket(
        &self,
        slice: SliceOf<Self>,
        recorded: Result<VulkanEvent, VulkanError>,
    ) -> Result<Ticket<Self>, Refused<Self>> {
        match recorded {
            Ok(event) => Ok(Ticket::new(slice, event, &self.parking)),
            Err(error) => Err(Refused { slice: Some(slice), error }),
        }
    }

    /// Host memory for plain access, and where the host sees it.
    fn window<'a>(
        &self,
        kept: &'a mut Option<Arc<Memory>>,
    ) -> Result<(&'a Arc<Memory>, NonNull<u8>), VulkanError> {
        let window = match kept {
            Some(window) => window,
            none => none.insert(Arc::new(Memory::new(&self.context, WINDOW, Use::Host, COPY_USAGE)?)),
        };
        let lacks =
            || VulkanError::Unsupported { device: self.context.name.clone(), what: "host-visible memory" };
        let base = window.mapped().ok_or_else(lacks)?.base;
        Ok((window, base))
    }

    /// Makes one copy between a buffer and a window, and waits for it.
    fn copy_now(&self, op: Op, buffer: &VulkanBuffer, window: &Arc<Memory>) -> Result<(), VulkanError> {
        let ops = [op, Op::ForHost].into_iter();
        self.compute.add_recorded(ops, &[buffer.memory(), window])?.synchronize()
    }

    /// Plain access by way of the window. It is kept for the next, unless something failed: work may use it still then.
    fn through_window(
        &self,
        kept: &mut Option<Arc<Memory>>,
        access: impl FnOnce(&Arc<Memory>, NonNull<u8>) -> Result<(), VulkanError>,
    ) -> Result<(), VulkanError> {
        let (window, base) = self.window(kept)?;
        let done = access(window, base);
        if done.is_err() {
            *kept = None;
        }
        done
    }
}

impl Transfer for VulkanDevice {
    type Error = VulkanError;
    type Event = VulkanEvent;
    type Queue = VulkanQueue;
    type Buffer = VulkanBuffer;
    type Locker = VulkanLocker;

    fn locker(&self) -> &VulkanLocker {
        &self.locker
    }

    /// 4 on a discrete GPU: an H200 moves 0.16 TB/s, barriers and submissions counted, and transfers 40 GB/s. 1 where device and
    /// host share their memory.
    fn moves_per_transfer(&self) -> u32 {
        if self.info().kind == crate::DeviceKind::Discrete { 4 } else { 1 }
    }

    /// A buffer in device-local memory, for copies and storage bindings, with a device address where there are such.
    ///
    /// # Errors
    /// `maxBufferSize`, `maxMemoryAllocationSize`, the memory budget, or the driver's refusal.
    fn buffer(&self, size: u64) -> Result<VulkanBuffer, VulkanError> {
        self.reap();
        let memory = Arc::new(self.make(size)?);
        self.bind_all(&memory)?;
        self.touch(&memory)?;
        Ok(VulkanBuffer::new(memory, &self.compute, &self.scratch, self.made.barrier))
    }

    fn lane(&self, direction: Lane) -> &VulkanQueue {
        match direction {
            Lane::Upload => &self.upload,
            Lane::Download => &self.download,
        }
    }

    fn upload(
        &self,
        src: SliceOf<Self>,
        dst: &mut VulkanBuffer,
        at: u64,
    ) -> Result<Ticket<Self>, Refused<Self>> {
        self.parking.sweep();
        let host = src.region().memory();
        let (from, bytes) = (src.offset() as u64, src.len() as u64);
        let ready = self.check_transfer(dst, at, &src).and_then(|()| host.flush(from, bytes));
        if let Err(error) = ready {
            return Err(Refused { slice: Some(src), error });
        }
        let op = Op::copy(host, from, dst.memory(), at, bytes);
        let recorded = self.upload.add_recorded([op].into_iter(), &[dst.memory()]);
        self.ticket(src, recorded)
    }

    fn download(
        &self,
        src: &VulkanBuffer,
        from: u64,
        dst: SliceOf<Self>,
    ) -> Result<Ticket<Self>, Refused<Self>> {
        self.parking.sweep();
        let host = dst.region().memory();
        let (at, bytes) = (dst.offset() as u64, dst.len() as u64);
        // What the host wrote there must not reach memory after what the device writes.
        let ready = self.check_transfer(src, from, &dst).and_then(|()| host.flush(at, bytes));
        if let Err(error) = ready {
            return Err(Refused { slice: Some(dst), error });
        }
        let ops = [Op::copy(src.memory(), from, host, at, bytes), Op::ForHost];
        let recorded = self.download.add_recorded(ops.into_iter(), &[src.memory()]);
        let recorded = match host.mapped() {
            Some(Mapped { coherent: false, .. }) => recorded.map(|event| event.and_see(host, at, bytes)),
            _ => recorded,
        };
        self.ticket(dst, recorded)
    }

    fn parking(&self) -> &Parking<Self> {
        &self.parking
    }

    fn memory(&self) -> DeviceMemory {
        self.reap();
        *self.context.account()
    }

    /// Through the host's own view of the memory where there is one, and otherwise through the compute queue.
    fn read_now(&self, src: &VulkanBuffer, from: u64, dst: &mut [u8]) -> Result<(), VulkanError> {
        self.check(src, from, dst.len())?;
        self.context.check_lost()?;
        if dst.is_empty() {
            return Ok(());
        }
        let mut kept = self.window.lock().unwrap_or_else(PoisonError::into_inner);
        // SAFETY: the range lies in the mapping of the buffer or of the window, alive here. The caller has waited for every
        // write to it, each submission ends with a barrier for the host, and the lock keeps other plain accesses away.
        let read = |at: *mut u8, to: &mut [u8]| unsafe {
            core::ptr::copy_nonoverlapping(at, to.as_mut_ptr(), to.len());
        };
        if let Some(at) = self.seen(src, from) {
            read(at, dst);
            return Ok(());
        }
        self.through_window(&mut kept, |window, base| {
            let mut from = from;
            for piece in dst.chunks_mut(WINDOW as usize) {
                let bytes = piece.len() as u64;
                self.copy_now(Op::copy(src.memory(), from, window, 0, bytes), src, window)?;
                window.invalidate(0, bytes)?;
                read(base.as_ptr(), piece);
                from += bytes;
            }
            Ok(())
        })
    }

    fn write_now(&self, dst: &mut VulkanBuffer, at: u64, src: &[u8]) -> Result<(), VulkanError> {
        self.check(dst, at, src.len())?;
        self.context.check_lost()?;
        if src.is_empty() {
            return Ok(());
        }
        let mut kept = self.window.lock().unwrap_or_else(PoisonError::into_inner);
        // SAFETY: as in `read_now`; what is submitted from now on sees what the host wrote before.
        let write = |to: *mut u8, from: &[u8]| unsafe {
            core::ptr::copy_nonoverlapping(from.as_ptr(), to, from.len());
        };
        if let Some(to) = self.seen(dst, at) {
            write(to, src);
            return Ok(());
        }
        self.through_window(&mut kept, |window, base| {
            let mut at = at;
            for piece in src.chunks(WINDOW as usize) {
                let bytes = piece.len() as u64;
                write(base.as_ptr(), piece);
                window.flush(0, bytes)?;
                self.copy_now(Op::copy(window, 0, dst.memory(), at, bytes), dst, window)?;
                at += bytes;
            }
            Ok(())
        })
    }
}

impl VulkanDevice {
    /// Where the host sees a place of a buffer, if it does.
    fn seen(&self, buffer: &VulkanBuffer, at: u64) -> Option<*mut u8> {
        let mapped = buffer.memory().mapped().filter(|_| !self.made.plain_through_queue)?;
        Some(mapped.base.as_ptr().wrapping_add(at as usize))
    }

    fn reap(&self) {
        for queue in [&self.compute, &self.upload, &self.download] {
            queue.reap();
        }
        let more = self.more.lock().unwrap_or_else(PoisonError::into_inner);
        more.iter().filter_map(WeakQueue::upgrade).for_each(|queue| queue.reap());
    }
}

/// Vulkan's own handles of a device, which lives at least as long. Cloning is cheap.
#[derive(Clone)]
pub struct VulkanHandle(Arc<Context>);

impl VulkanHandle {
    /// The device.
    pub fn device(&self) -> &ash::Device {
        &self.0.device
    }

    /// The instance.
    pub fn instance(&self) -> &ash::Instance {
        self.0.instance.raw()
    }

    /// The physical device.
    pub fn physical(&self) -> vk::PhysicalDevice {
        self.0.physical
    }
}

impl core::fmt::Debug for VulkanHandle {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_tuple("VulkanHandle").field(&self.0.name).finish()
    }
}

impl core::fmt::Debug for VulkanDevice {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("VulkanDevice")
            .field("id", &self.context.id)
            .field("name", &self.context.name)
            .finish_non_exhaustive()
    }
}

/// Bytes of host memory for plain access where the host does not see the device's: what is longer goes through it in
/// pieces, for making memory costs more than a submission does.
const WINDOW: u64 = 1 << 20;
/// Costs of a barrier in bytes: measured on Mesa's software driver, and on an H200 (some 4 µs, at 190 GB/s).
const SOFT_BARRIER: u64 = 32 << 10;
const HARD_BARRIER: u64 = 768 << 10;
/// Bytes of scratch.
const SOFT_SCRATCH: u64 = 1 << 20;
const HARD_SCRATCH: u64 = 16 << 20;
