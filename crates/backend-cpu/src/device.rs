//! The CPU device: its queues, its buffers and its transfers.

use crate::buffer::{CpuBuffer, Usage};
use crate::caches::{reading, writing};
use crate::host_bytes::HostBytes;
use crate::queue::{CpuQueue, Worker};
use crate::sync::lock;
use crate::work::Work;
use crate::{CpuError, CpuEvent};
use allocator_core::{DeviceBuffer, RangeError, check_range};
use pinned_host::{DeviceMemory, HostRegion, Lane, OsLocker, Parking, Refused, SliceOf, Ticket, Transfer};
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex};

/// Host memory as a device: buffers of ordinary pages, two copy lanes and a compute queue, each with a thread.
///
/// Transfers are memory copies that run beside the caller, at the speed of `memcpy`. Dropping the device ends the
/// work submitted and joins the threads; events, buffers and tickets may outlive it, new work is refused.
///
/// ```
/// use allocator_core::DeviceBuffer;
/// use backend_cpu::CpuDevice;
/// use pinned_host::{HostPool, Lane, PageLocker, Queue, Transfer};
///
/// let device = CpuDevice::new()?;
/// let pool = HostPool::new(vec![device.locker().lock(64 << 10)?], 64)?;
/// let mut buffer = device.buffer(1 << 20)?;
///
/// let mut slice = pool.allocate(4096)?;
/// slice.as_mut_slice().fill(1);
/// let sent = device.upload(slice, &mut buffer, 8192)?;
///
/// // A kernel after the upload, a download after the kernel.
/// device.queue().wait(sent.event())?;
/// let data = buffer.clone();
/// device.queue().launch(move || data.view(8192..12288)?.with_mut(|b: &mut [u16]| b.iter_mut().for_each(|x| *x += 1)))?;
/// device.lane(Lane::Download).wait(&device.queue().record()?)?;
/// let back = device.download(&buffer, 8192, pool.allocate(4096)?)?.wait()?;
/// assert!(back.as_slice().chunks(2).all(|pair| pair == 0x0102u16.to_le_bytes()));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct CpuDevice {
    id: u64,
    locker: OsLocker,
    upload: CpuQueue,
    download: CpuQueue,
    compute: CpuQueue,
    /// The threads of all queues that may still run.
    workers: Mutex<Vec<Worker>>,
    usage: Arc<Usage>,
    parking: Parking<Self>,
}

impl CpuDevice {
    /// A device with three threads: an upload lane, a download lane and a compute queue.
    ///
    /// # Errors
    /// The system gives no thread.
    pub fn new() -> Result<Self, CpuError> {
        let id = NEXT_ID.fetch_add(1, Relaxed);
        let (upload, uploader) = CpuQueue::spawn("upload", id)?;
        let (download, downloader) = CpuQueue::spawn("download", id)?;
        let (compute, computer) = CpuQueue::spawn("compute", id)?;
        Ok(CpuDevice {
            id,
            locker: OsLocker,
            upload,
            download,
            compute,
            workers: Mutex::new(vec![uploader, downloader, computer]),
            usage: Usage::new(id),
            parking: Parking::new(),
        })
    }

    /// The default compute queue; moves inside buffers run here.
    pub fn queue(&self) -> &CpuQueue {
        &self.compute
    }

    /// Another queue, with a thread that ends when the queue's last clone is dropped.
    ///
    /// # Errors
    /// The system gives no thread.
    pub fn new_queue(&self) -> Result<CpuQueue, CpuError> {
        let (queue, worker) = CpuQueue::spawn("queue", self.id)?;
        let mut workers = lock(&self.workers);
        workers.retain(|worker| !worker.is_finished());
        workers.push(worker);
        Ok(queue)
    }

    /// Checks that `buffer` is this device's and has `len` bytes from `at`.
    fn check(&self, buffer: &CpuBuffer, at: u64, len: usize) -> Result<Range<u64>, CpuError> {
        let theirs = buffer.memory().device();
        if theirs != self.id {
            return Err(CpuError::Foreign { what: "buffer", theirs, ours: self.id });
        }
        let (len, size) = (len as u64, buffer.size());
        let end = at.checked_add(len).ok_or(RangeError::OutOfBounds { start: at, len, size })?;
        check_range(size, 1, &(at..end))?;
        Ok(at..end)
    }

    fn start(
        &self,
        lane: &CpuQueue,
        slice: SliceOf<Self>,
        work: impl FnOnce(HostBytes) -> Work,
    ) -> Result<Ticket<Self>, Refused<Self>> {
        self.parking.sweep();
        let base = slice.region().base().as_ptr().wrapping_add(slice.offset());
        // SAFETY: from here the slice belongs to a ticket, which gives it up only after the event behind this work
        // has fired: to its waiter, to the parking or, forgotten, to nobody.
        let bytes = unsafe { HostBytes::new(base, slice.len()) };
        match lane.submit_recorded(work(bytes)) {
            Ok(event) => Ok(Ticket::new(slice, event, &self.parking)),
            Err(error) => Err(Refused { slice: Some(slice), error }),
        }
    }
}

impl Transfer for CpuDevice {
    type Error = CpuError;
    type Event = CpuEvent;
    type Queue = CpuQueue;
    type Buffer = CpuBuffer;
    type Locker = OsLocker;

    fn locker(&self) -> &OsLocker {
        &self.locker
    }

    /// Host memory is one for all.
    fn reaches(&self, _other: &Self) -> bool {
        true
    }

    fn buffer(&self, size: u64) -> Result<CpuBuffer, CpuError> {
        CpuBuffer::new(size, &self.compute, &self.usage)
    }

    fn lane(&self, direction: Lane) -> &CpuQueue {
        match direction {
            Lane::Upload => &self.upload,
            Lane::Download => &self.download,
        }
    }

    fn upload(
        &self,
        src: SliceOf<Self>,
        dst: &mut CpuBuffer,
        at: u64,
    ) -> Result<Ticket<Self>, Refused<Self>> {
        if let Err(error) = self.check(dst, at, src.len()) {
            return Err(Refused { slice: Some(src), error });
        }
        let dst = Arc::clone(dst.memory());
        self.start(&self.upload, src, |src| Work::Upload { src, dst, at })
    }

    fn download(
        &self,
        src: &CpuBuffer,
        from: u64,
        dst: SliceOf<Self>,
    ) -> Result<Ticket<Self>, Refused<Self>> {
        if let Err(error) = self.check(src, from, dst.len()) {
            return Err(Refused { slice: Some(dst), error });
        }
        let src = Arc::clone(src.memory());
        self.start(&self.download, dst, |dst| Work::Download { src, from, dst })
    }

    fn parking(&self) -> &Parking<Self> {
        &self.parking
    }

    fn memory(&self) -> DeviceMemory {
        self.usage.now()
    }

    fn read_now(&self, src: &CpuBuffer, from: u64, dst: &mut [u8]) -> Result<(), CpuError> {
        let range = self.check(src, from, dst.len())?;
        let _guard = src.memory().acquire(&[(range, false)])?;
        // SAFETY: the range was checked, the guard keeps writers from it, and `dst` is no part of a buffer unless
        // it came from `with_mut`, whose range the guard would have refused.
        unsafe { reading(dst.len()).copy_raw(src.memory().at(from), dst.as_mut_ptr(), dst.len()) };
        Ok(())
    }

    fn write_now(&self, dst: &mut CpuBuffer, at: u64, src: &[u8]) -> Result<(), CpuError> {
        let range = self.check(dst, at, src.len())?;
        let _guard = dst.memory().acquire(&[(range, true)])?;
        // SAFETY: the range was checked, the guard keeps others from it, and `src` is no part of it: a slice lent by
        // `with` keeps its own range held as long as it lives, so the guard could not have been had.
        unsafe { writing(dst.size(), src.len()).copy_raw(src.as_ptr(), dst.memory().at(at), src.len()) };
        Ok(())
    }
}

impl Drop for CpuDevice {
    fn drop(&mut self) {
        let workers = std::mem::take(&mut *lock(&self.workers));
        for worker in &workers {
            worker.close();
        }
        // A kernel may own the device. Joining there could wait for work that waits for that kernel; the workers end
        // by themselves all the same.
        if workers.iter().any(Worker::is_this_thread) {
            return;
        }
        for worker in workers {
            worker.join();
        }
    }
}

impl core::fmt::Debug for CpuDevice {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("CpuDevice")
            .field("id", &self.id)
            .field("memory", &self.memory())
            .finish_non_exhaustive()
    }
}

static NEXT_ID: AtomicU64 = AtomicU64::new(1);
