//! The CUDA device: its queues, its buffers and its transfers.

use crate::context::Context;
use crate::memory::{Memory, Use};
use crate::plain::PlainCopies;
use crate::queue::Unrecorded;
use crate::{
    CudaBuffer, CudaError, CudaEvent, CudaLocker, CudaOptions, CudaQueue, DeviceInfo, Plain, Streams, choose,
};
use allocator_core::{RangeError, check_range};
use cudarc::driver as cu;
use cudarc::driver::sys;
use pinned_host::{DeviceMemory, Lane, Parking, Queue, Refused, SliceOf, Ticket, Transfer};
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, RwLockReadGuard};

/// A CUDA device: opened here, or made over a context and streams of the caller's (see [`CudaOptions`]).
///
/// Copies between host and device run on a stream for each direction, moves on a third. Events order everything; nothing
/// waits for the default stream. Buffers, events and tickets may outlive the device value; the context is released when
/// all are gone.
///
/// ```no_run
/// use backend_cuda::CudaDevice;
/// use pinned_host::{HostPool, PageLocker, Transfer};
///
/// let device = CudaDevice::new()?;
/// let pool = HostPool::new(vec![device.locker().lock(64 << 10)?], 64)?;
/// let mut buffer = device.buffer(1 << 20)?;
/// let mut slice = pool.allocate(4096)?;
/// slice.as_mut_slice().fill(1);
/// let slice = device.upload(slice, &mut buffer, 8192)?.wait()?;
/// let back = device.download(&buffer, 8192, slice)?.wait()?;
/// assert!(back.as_slice().iter().all(|&byte| byte == 1));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct CudaDevice {
    context: Arc<Context>,
    compute: CudaQueue,
    upload: CudaQueue,
    download: CudaQueue,
    /// Away from the paths under test.
    plain: PlainCopies,
    scratch: Option<Arc<Memory>>,
    locker: CudaLocker,
    parking: Parking<Self>,
    options: CudaOptions,
}

/// A caller's slice that was not made a buffer, and why.
#[derive(thiserror::Error)]
#[error("{error}")]
pub struct SliceRefused<T = u8> {
    /// The slice, as it was.
    pub slice: cu::CudaSlice<T>,
    /// Why.
    #[source]
    pub error: CudaError,
}

impl CudaDevice {
    /// The first device, with the default options.
    ///
    /// # Errors
    /// No library, no driver, no device, no memory.
    pub fn new() -> Result<Self, CudaError> {
        CudaOptions::new().open()
    }

    /// Every CUDA device of this machine that the process may see.
    ///
    /// # Errors
    /// No library, or no driver.
    pub fn list() -> Result<Vec<DeviceInfo>, CudaError> {
        choose::list()
    }

    pub(crate) fn assemble(
        context: Arc<Context>,
        streams: Option<Streams>,
        options: &CudaOptions,
    ) -> Result<Self, CudaError> {
        let (compute, upload, download) = match streams {
            None => (None, None, None),
            Some(Streams { compute, upload, download }) => (Some(compute), upload, download),
        };
        let queue = |stream: Option<Arc<cu::CudaStream>>, name| match stream {
            None => CudaQueue::make(&context, name),
            Some(stream) => Ok(CudaQueue::over(&context, stream, name)),
        };
        let compute = queue(compute, "compute")?;
        let upload = queue(upload, "upload")?;
        let download = queue(download, "download")?;
        let scratch = match options.scratch {
            0 => None,
            bytes => Some(Arc::new(Memory::new(&context, bytes, Use::Scratch, vec![compute.clone()])?)),
        };
        let locker = CudaLocker::new(&context, options.host_memory);
        let (parking, options) = (Parking::new(), options.clone());
        let plain = PlainCopies::new(&context);
        Ok(CudaDevice { context, compute, upload, download, plain, scratch, locker, parking, options })
    }

    /// The default compute queue; moves inside buffers run here.
    pub fn queue(&self) -> &CudaQueue {
        &self.compute
    }

    /// Another queue: a stream of its own.
    ///
    /// # Errors
    /// The driver gives no stream.
    pub fn new_queue(&self) -> Result<CudaQueue, CudaError> {
        CudaQueue::make(&self.context, "queue")
    }

    /// A stream of the caller's as a queue; one of the device's own streams as the queue it belongs to.
    ///
    /// The same stream is the same queue each time. While it is being captured into a graph, the queue refuses everything with
    /// [`CudaError::Capturing`].
    ///
    /// # Errors
    /// A stream of another context, or the per-thread default stream.
    pub fn wrap(&self, stream: &Arc<cu::CudaStream>) -> Result<CudaQueue, CudaError> {
        self.context.check_stream(stream)?;
        Ok(CudaQueue::over(&self.context, Arc::clone(stream), "wrapped"))
    }

    /// A buffer in memory of the caller's: an arena inside a program that already has its slice. Its offsets are bytes.
    ///
    /// Waits for the slice's stream first. The slice is dropped with the buffer's last clone, or given back by
    /// [`CudaBuffer::into_slice`].
    ///
    /// # Errors
    /// A slice of no bytes or of another context, or its stream cannot be waited for; the slice comes back.
    pub fn buffer_over<T: Plain>(&self, slice: cu::CudaSlice<T>) -> Result<CudaBuffer, SliceRefused<T>> {
        match Memory::over(&self.context, slice, self.streams()) {
            Ok(memory) => Ok(self.buffer_of(memory)),
            Err((slice, error)) => Err(SliceRefused { slice, error }),
        }
    }

    /// cudarc's context, for modules, kernels and slices beside ours.
    pub fn cuda(&self) -> &Arc<cu::CudaContext> {
        self.context.safe()
    }

    /// What the driver says about the device.
    ///
    /// # Errors
    /// The driver refuses.
    pub fn info(&self) -> Result<DeviceInfo, CudaError> {
        choose::describe(i32::try_from(self.context.ordinal()).unwrap_or(i32::MAX))
    }

    /// Bytes of device memory that are free now, and in all, whoever uses them.
    ///
    /// # Errors
    /// The driver refuses.
    pub fn available(&self) -> Result<(u64, u64), CudaError> {
        self.context.memory_info()
    }

    /// Whether many copies can go to the driver in one call, as far as it has said.
    pub fn has_batches(&self) -> bool {
        self.context.batches.load(Relaxed)
    }

    /// Loads the kernel that makes many copies in one launch ([`CudaOptions::kernel_copies`]), ahead of the first of them that come
    /// together: the driver compiles it, which takes some milliseconds. Once it is loaded this does nothing.
    ///
    /// Worth a call where the device is opened: otherwise the first compaction waits for the compiler, and with it whoever waits
    /// for room; and loading code may wait for kernels that run, which must not themselves wait for what this thread does next.
    /// `swap_tensor::backends::open_device` calls it.
    ///
    /// # Errors
    /// Why the driver does not take it, or did not launch it. It is not tried again, and copies are made in other ways.
    pub fn load_kernel(&self) -> Result<(), &CudaError> {
        self.context.kernel().map(|_| ())
    }

    /// How many driver events the device's three queues have made: no more once warm.
    pub fn events(&self) -> usize {
        [&self.compute, &self.upload, &self.download].into_iter().map(CudaQueue::events).sum()
    }

    /// Takes the first error that happened where nobody could be told: memory that the driver did not take back, say. It is
    /// leaked then, and nothing else is wrong.
    pub fn take_late_error(&self) -> Option<CudaError> {
        self.context.take_late()
    }

    /// Whether the context is lost: every call fails from then on.
    pub fn is_lost(&self) -> bool {
        self.context.is_lost()
    }

    /// The streams on which this device uses buffers and does not wait, each once.
    fn streams(&self) -> Vec<CudaQueue> {
        let mut streams: Vec<CudaQueue> = Vec::with_capacity(3);
        for queue in [&self.compute, &self.upload, &self.download] {
            if !streams.iter().any(|known| known.same_queue(queue)) {
                streams.push(queue.clone());
            }
        }
        streams
    }

    fn buffer_of(&self, memory: Memory) -> CudaBuffer {
        CudaBuffer::new(memory, &self.compute, self.scratch.as_ref(), &self.options)
    }

    /// Checks that `buffer` is in this context, whole, and has `len` bytes from `at`, which `lane` uses from now on (or
    /// nobody who does not wait); the address there, and what keeps it so until the use is enqueued.
    fn check<'a>(
        &self,
        buffer: &'a CudaBuffer,
        at: u64,
        len: usize,
        lane: Option<&CudaQueue>,
    ) -> Result<(sys::CUdeviceptr, RwLockReadGuard<'a, u64>), CudaError> {
        let memory = buffer.memory();
        self.context.check_same("buffer", memory.context().safe())?;
        memory.check()?;
        let held = memory.hold();
        let (len, size) = (len as u64, *held);
        let end = at.checked_add(len).ok_or(RangeError::OutOfBounds { start: at, len, size })?;
        check_range(size, 1, &(at..end))?;
        if let Some(lane) = lane {
            memory.lend_to(lane);
        }
        Ok((memory.base() + at, held))
    }

    /// What became of a transfer; `writes_host`: whether it is one to the host.
    fn ticket(
        &self,
        lane: &CudaQueue,
        writes_host: bool,
        slice: SliceOf<Self>,
        recorded: Result<CudaEvent, Unrecorded>,
    ) -> Result<Ticket<Self>, Refused<Self>> {
        match recorded {
            Ok(event) => Ok(Ticket::new(slice, event, &self.parking)),
            Err(Unrecorded::Refused(error)) => Err(Refused { slice: Some(slice), error }),
            // Its end is waited for, or nobody gets the memory again.
            Err(Unrecorded::Enqueued(error)) => match self.context.wait_out(lane.raw()) {
                Ok(()) => Err(Refused { slice: Some(slice), error }),
                Err(_) if self.is_lost() && !writes_host => Err(Refused { slice: Some(slice), error }),
                Err(_) => {
                    std::mem::forget(slice);
                    Err(Refused { slice: None, error })
                }
            },
        }
    }
}

impl Transfer for CudaDevice {
    type Error = CudaError;
    type Event = CudaEvent;
    type Queue = CudaQueue;
    type Buffer = CudaBuffer;
    type Locker = CudaLocker;

    fn locker(&self) -> &CudaLocker {
        &self.locker
    }

    /// 16: an H200 moves 0.88 TB/s by way of the scratch, and transfers 55 GB/s.
    fn moves_per_transfer(&self) -> u32 {
        16
    }

    /// What is locked is so for every context of the process (`CU_MEMHOSTALLOC_PORTABLE`), and what is not is the system's.
    fn reaches(&self, _other: &Self) -> bool {
        true
    }

    /// A buffer of exactly `size` bytes, on whole pages where the options ask for virtual memory.
    ///
    /// # Errors
    /// No memory, no virtual memory management, or the driver refuses.
    fn buffer(&self, size: u64) -> Result<CudaBuffer, CudaError> {
        let CudaOptions { virtual_memory, reserve, granule, .. } = self.options;
        let memory = if virtual_memory {
            Memory::paged(&self.context, (size, reserve, granule), self.streams())?
        } else {
            Memory::new(&self.context, size, Use::Buffer, self.streams())?
        };
        Ok(self.buffer_of(memory))
    }

    fn lane(&self, direction: Lane) -> &CudaQueue {
        match direction {
            Lane::Upload => &self.upload,
            Lane::Download => &self.download,
        }
    }

    fn upload(
        &self,
        src: SliceOf<Self>,
        dst: &mut CudaBuffer,
        at: u64,
    ) -> Result<Ticket<Self>, Refused<Self>> {
        self.parking.sweep();
        let (to, held) = match self.check(dst, at, src.len(), Some(&self.upload)) {
            Ok(to) => to,
            Err(error) => return Err(Refused { slice: Some(src), error }),
        };
        let (from, bytes) = (src.as_ptr().cast(), src.len());
        let recorded = self.upload.submit("cuMemcpyHtoDAsync", false, |stream| {
            // SAFETY: the slice belongs to a ticket from here on, until the event behind the copy has fired; the range was
            // checked, and the memory waits for the lane before it goes.
            unsafe { sys::cuMemcpyHtoDAsync_v2(to, from, bytes, stream) }
        });
        drop(held);
        self.ticket(&self.upload, false, src, recorded)
    }

    fn download(
        &self,
        src: &CudaBuffer,
        from: u64,
        mut dst: SliceOf<Self>,
    ) -> Result<Ticket<Self>, Refused<Self>> {
        self.parking.sweep();
        let (from, held) = match self.check(src, from, dst.len(), Some(&self.download)) {
            Ok(from) => from,
            Err(error) => return Err(Refused { slice: Some(dst), error }),
        };
        let (to, bytes) = (dst.as_mut_ptr().cast(), dst.len());
        let recorded = self.download.submit("cuMemcpyDtoHAsync", true, |stream| {
            // SAFETY: as in `upload`.
            unsafe { sys::cuMemcpyDtoHAsync_v2(to, from, bytes, stream) }
        });
        drop(held);
        self.ticket(&self.download, true, dst, recorded)
    }

    fn parking(&self) -> &Parking<Self> {
        &self.parking
    }

    fn memory(&self) -> DeviceMemory {
        *self.context.account()
    }

    /// On a stream of its own, through the driver's handling of pageable memory. Page-locked memory is filled from a copy of
    /// its size: what is borrowed cannot be kept from its owner if the wait fails.
    fn read_now(&self, src: &CudaBuffer, from: u64, dst: &mut [u8]) -> Result<(), CudaError> {
        // Held until it has ended, as is `dst`.
        let (from, _held) = self.check(src, from, dst.len(), None)?;
        if dst.is_empty() {
            return self.context.check_lost();
        }
        self.plain.read(src.memory(), from, dst)
    }

    /// As [`read_now`](Transfer::read_now).
    fn write_now(&self, dst: &mut CudaBuffer, at: u64, src: &[u8]) -> Result<(), CudaError> {
        let (to, _held) = self.check(dst, at, src.len(), None)?;
        if src.is_empty() {
            return self.context.check_lost();
        }
        self.plain.write(dst.memory(), to, src)
    }
}

impl core::fmt::Debug for CudaDevice {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("CudaDevice")
            .field("ordinal", &self.context.ordinal())
            .field("name", &self.context.name())
            .field("lost", &self.is_lost())
            .finish_non_exhaustive()
    }
}

impl<T> core::fmt::Debug for SliceRefused<T> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("SliceRefused").field("error", &self.error).finish_non_exhaustive()
    }
}
