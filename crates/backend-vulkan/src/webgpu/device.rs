//! The wgpu device: its buffers and its transfers.

use super::buffer::{GRAIN, Memory};
use super::flight::HostBytes;
use super::shared::Shared;
use super::{WgpuBuffer, WgpuError, WgpuEvent, WgpuOptions, WgpuQueue, copy};
use allocator_core::{DeviceBuffer, RangeError, check_range};
use pinned_host::{DeviceMemory, HostRegion, Lane, OsLocker, Parking, Refused, SliceOf, Ticket, Transfer};
use std::sync::Arc;

/// A device of wgpu's, opened here or the user's own, on whatever backend wgpu runs.
///
/// Host memory needs nothing of wgpu's, locked or not: it is copied through staging buffers that wgpu makes, on the
/// calling thread. [`upload`](Transfer::upload) has read its slice when it returns; what is longer than the staging
/// memory is copied inside the call until the rest fits. Where the device has no memory of its own, the host may copy
/// to and from the arena itself, see [`WgpuOptions::direct`]. See [`WgpuEvent`] for who polls.
///
/// ```
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use allocator_core::DeviceBuffer;
/// use backend_vulkan::{WgpuDevice, WgpuError};
/// use pinned_host::{HostPool, PageLocker, Transfer};
///
/// let device = match WgpuDevice::open() {
///     Ok(device) => device,
///     Err(error @ WgpuError::NoAdapter { .. }) => {
///         eprintln!("skipped: {error}");
///         return Ok(());
///     }
///     Err(error) => return Err(error.into()),
/// };
/// let pool = HostPool::new(vec![device.locker().lock(64 << 10)?], 64)?;
/// let mut buffer = device.buffer(1 << 20)?;
///
/// let mut slice = pool.allocate(4096)?;
/// slice.as_mut_slice().fill(7);
/// let sent = device.upload(slice, &mut buffer, 8192)?;
/// // Moves down by less than its length; wgpu runs it after the upload.
/// buffer.copy_within(8192..12288, 6144)?;
/// let back = device.download(&buffer, 6144, pool.allocate(4096)?)?.wait()?;
/// assert!(back.as_slice().iter().all(|&byte| byte == 7));
/// assert!(sent.is_done()?, "one queue: what came before the download has ended");
/// # Ok(())
/// # }
/// ```
pub struct WgpuDevice {
    queue: WgpuQueue,
    locker: OsLocker,
    parking: Parking<Self>,
}

/// What a device has done so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct WgpuCounters {
    /// Submissions to wgpu, those of plain reads and writes left out.
    pub submissions: u64,
    /// wgpu buffers made: for arenas, staging, scratch and plain reads and writes. Command encoders do not count:
    /// a submission cannot be made without one, and wgpu takes what is native of them from a pool.
    pub objects: u64,
}

impl WgpuDevice {
    /// Uses a device the user has, with the default settings; [`WgpuOptions::over`] has others.
    ///
    /// The device stays the user's in every way: it may be used, polled and submitted to beside this. No callback of
    /// it is set, neither for errors nor for its loss; errors are caught in scopes of the calling thread. Keep
    /// `wgpu::Device::destroy` from running while another thread is in a call of this device: wgpu then takes mapped
    /// memory away under it (gfx-rs/wgpu#10256).
    ///
    /// # Errors
    /// The device is lost, or has no memory for 4 bytes.
    pub fn new(device: wgpu::Device, queue: wgpu::Queue) -> Result<Self, WgpuError> {
        WgpuOptions::new().over(device, queue)
    }

    /// Opens the best adapter of this machine; [`WgpuOptions::open`] chooses.
    ///
    /// # Errors
    /// [`WgpuError::NoAdapter`], [`WgpuError::NoDevice`].
    pub fn open() -> Result<Self, WgpuError> {
        WgpuOptions::new().open()
    }

    pub(super) fn from_shared(shared: Arc<Shared>) -> Self {
        WgpuDevice { queue: WgpuQueue::new(shared), locker: OsLocker, parking: Parking::new() }
    }

    /// wgpu's device and queue, for the user's own work.
    pub fn native(&self) -> (&wgpu::Device, &wgpu::Queue) {
        let shared = self.shared();
        (&shared.device, &shared.queue)
    }

    /// The one queue.
    pub fn queue(&self) -> &WgpuQueue {
        &self.queue
    }

    /// What the offset of a block must be a multiple of, in bytes, so that it can be bound as storage:
    /// `min_storage_buffer_offset_alignment`.
    pub fn binding_alignment(&self) -> u64 {
        u64::from(self.shared().limits.min_storage_buffer_offset_alignment).max(GRAIN)
    }

    /// What was done so far, for tests and for the curious.
    pub fn counters(&self) -> WgpuCounters {
        let (submissions, objects) = self.shared().counted();
        WgpuCounters { submissions, objects }
    }

    fn shared(&self) -> &Arc<Shared> {
        self.queue.shared()
    }

    /// Checks that `buffer` is this device's and has `len` bytes from `at`.
    fn check(&self, buffer: &WgpuBuffer, at: u64, len: usize) -> Result<(), WgpuError> {
        let (theirs, ours) = (buffer.memory().device, self.shared().id);
        if theirs != ours {
            return Err(WgpuError::Foreign { what: "buffer", theirs, ours });
        }
        let (len, size) = (len as u64, buffer.size());
        let end = at.checked_add(len).ok_or(RangeError::OutOfBounds { start: at, len, size })?;
        Ok(check_range(size, GRAIN, &(at..end))?)
    }

    fn ticket(&self, slice: SliceOf<Self>, number: u64) -> Ticket<Self> {
        Ticket::new(slice, WgpuEvent::new(self.shared(), number), &self.parking)
    }
}

impl Transfer for WgpuDevice {
    type Error = WgpuError;
    type Event = WgpuEvent;
    type Queue = WgpuQueue;
    type Buffer = WgpuBuffer;
    type Locker = OsLocker;

    fn locker(&self) -> &OsLocker {
        &self.locker
    }

    /// 16 on a discrete GPU: an H200 moves 0.1 TB/s, and transfers 7 GB/s, which a processor copies. 1 where device and host share
    /// their memory.
    fn moves_per_transfer(&self) -> u32 {
        let discrete = self.native().0.adapter_info().device_type == wgpu::DeviceType::DiscreteGpu;
        if discrete { 16 } else { 1 }
    }

    /// A buffer of `size` bytes rounded up to 4, of zeroes.
    ///
    /// # Errors
    /// [`WgpuError::Limit`] names `max_buffer_size`, [`WgpuError::Memory`]; the device is lost.
    fn buffer(&self, size: u64) -> Result<WgpuBuffer, WgpuError> {
        let shared = self.shared();
        let allowed = shared.limits.max_buffer_size;
        let size = size.checked_next_multiple_of(GRAIN).ok_or(WgpuError::Limit {
            limit: "max_buffer_size",
            asked: size,
            allowed,
        })?;
        let (buffer, direct) = shared.make_arena(size.max(GRAIN))?;
        let memory = Memory { direct, buffer, size, device: shared.id, _held: shared.usage.hold(size) };
        Ok(WgpuBuffer::new(memory, self.queue.clone()))
    }

    fn lane(&self, _direction: Lane) -> &WgpuQueue {
        &self.queue
    }

    fn upload(
        &self,
        src: SliceOf<Self>,
        dst: &mut WgpuBuffer,
        at: u64,
    ) -> Result<Ticket<Self>, Refused<Self>> {
        self.parking.sweep();
        let sent = self
            .check(dst, at, src.len())
            .and_then(|()| copy::upload(self.shared(), src.as_slice(), dst.memory(), at));
        match sent {
            Ok(number) => Ok(self.ticket(src, number)),
            Err(error) => Err(Refused { slice: Some(src), error }),
        }
    }

    fn download(
        &self,
        src: &WgpuBuffer,
        from: u64,
        dst: SliceOf<Self>,
    ) -> Result<Ticket<Self>, Refused<Self>> {
        self.parking.sweep();
        if let Err(error) = self.check(src, from, dst.len()) {
            return Err(Refused { slice: Some(dst), error });
        }
        let base = dst.region().base().as_ptr().wrapping_add(dst.offset());
        // SAFETY: from here the slice belongs to a ticket, which gives it up only when its event is settled: to its
        // waiter, to the parking or, forgotten, to nobody. Where there is no ticket, `download` says below whether
        // the bytes are still in use.
        let bytes = unsafe { HostBytes::new(base, dst.len()) };
        match copy::download(self.shared(), src.memory(), from, bytes) {
            Ok(number) => Ok(self.ticket(dst, number)),
            Err((error, true)) => Err(Refused { slice: Some(dst), error }),
            Err((error, false)) => {
                std::mem::forget(dst);
                Err(Refused { slice: None, error })
            }
        }
    }

    fn parking(&self) -> &Parking<Self> {
        &self.parking
    }

    /// Arenas, staging and scratch as they were asked for; wgpu's own allocator may round up.
    fn memory(&self) -> DeviceMemory {
        self.shared().usage.now()
    }

    fn read_now(&self, src: &WgpuBuffer, from: u64, dst: &mut [u8]) -> Result<(), WgpuError> {
        self.check(src, from, dst.len())?;
        self.shared().plain.read(self.shared(), src.memory(), from, dst)
    }

    fn write_now(&self, dst: &mut WgpuBuffer, at: u64, src: &[u8]) -> Result<(), WgpuError> {
        self.check(dst, at, src.len())?;
        self.shared().plain.write(self.shared(), dst.memory(), at, src)
    }
}

impl core::fmt::Debug for WgpuDevice {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("WgpuDevice")
            .field("id", &self.shared().id)
            .field("memory", &self.memory())
            .field("counters", &self.counters())
            .finish_non_exhaustive()
    }
}
