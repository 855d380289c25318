//! Page-locked memory as cudarc's copies take it.

use crate::context::lock;
use crate::{CudaError, CudaQueue, CudaRegion};
use cudarc::driver as cu;
use cudarc::driver::{HostSlice, SyncOnDrop};
use pinned_host::PinnedSlice;
use std::sync::Mutex;

/// A pinned slice that cudarc's safe copies take (`HostSlice<u8>`), and that waits for them.
///
/// It belongs to one queue. Copies on that queue's stream are asynchronous: who reads or writes the bytes afterwards, or
/// drops the value, waits for the stream. A copy on another stream is waited for before it returns.
///
/// ```no_run
/// use allocator_core::DeviceBuffer;
/// use backend_cuda::{CudaDevice, CudaPinned};
/// use pinned_host::{HostPool, PageLocker, Transfer};
///
/// let device = CudaDevice::new()?;
/// let pool = HostPool::new(vec![device.locker().lock(64 << 10)?], 64)?;
/// let mut pinned = CudaPinned::new(pool.allocate(4096)?, device.queue());
/// pinned.as_mut_slice()?.fill(7);
/// let buffer = device.buffer(4096)?;
/// let stream = device.queue().stream();
/// stream.memcpy_htod(&pinned, &mut buffer.view(0..4096)?)?; // asynchronous
/// stream.memcpy_dtoh(&buffer.view(0..4096)?, &mut pinned)?;
/// assert!(pinned.as_slice()?.iter().all(|&byte| byte == 7)); // waits
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct CudaPinned {
    /// `None` once given back, or leaked.
    slice: Option<PinnedSlice<CudaRegion>>,
    queue: CudaQueue,
    /// Whether the queue's stream may have copies of it in flight.
    busy: Mutex<bool>,
}

impl CudaPinned {
    /// Makes a slice of a pool usable by cudarc, on one queue.
    pub fn new(slice: PinnedSlice<CudaRegion>, queue: &CudaQueue) -> Self {
        CudaPinned { slice: Some(slice), queue: queue.clone(), busy: Mutex::new(false) }
    }

    /// The bytes, once the copies of them have ended.
    ///
    /// # Errors
    /// They cannot be waited for.
    pub fn as_slice(&self) -> Result<&[u8], CudaError> {
        self.wait()?;
        Ok(self.slice.as_ref().map_or(&[], PinnedSlice::as_slice))
    }

    /// The bytes for writing, once the copies of them have ended.
    ///
    /// # Errors
    /// They cannot be waited for.
    pub fn as_mut_slice(&mut self) -> Result<&mut [u8], CudaError> {
        self.wait()?;
        Ok(self.slice.as_mut().map_or(&mut [], PinnedSlice::as_mut_slice))
    }

    /// The slice, once the copies of it have ended.
    ///
    /// # Errors
    /// They cannot be waited for ([`as_slice`](Self::as_slice) says why); the value comes back.
    pub fn into_inner(mut self) -> Result<PinnedSlice<CudaRegion>, CudaPinned> {
        match self.wait().ok().and_then(|()| self.slice.take()) {
            Some(slice) => Ok(slice),
            None => Err(self),
        }
    }

    fn wait(&self) -> Result<(), CudaError> {
        let mut busy = lock(&self.busy);
        if *busy {
            self.queue.context().wait_out(self.queue.raw())?;
            *busy = false;
        }
        Ok(())
    }

    /// What a copy on `stream` has to do when it is enqueued.
    fn start<'a>(&self, stream: &'a cu::CudaStream) -> SyncOnDrop<'a> {
        let ours = stream.cu_stream() == self.queue.raw();
        if ours {
            *lock(&self.busy) = true;
            return SyncOnDrop::Record(None);
        }
        // Nothing orders the two streams; a copy that cannot be waited for is as late here as anywhere.
        self.queue.context().late(self.wait());
        SyncOnDrop::sync_stream(stream)
    }
}

impl HostSlice<u8> for CudaPinned {
    fn len(&self) -> usize {
        self.slice.as_ref().map_or(0, PinnedSlice::len)
    }

    unsafe fn stream_synced_slice<'a>(&'a self, stream: &'a cu::CudaStream) -> (&'a [u8], SyncOnDrop<'a>) {
        (self.slice.as_ref().map_or(&[], PinnedSlice::as_slice), self.start(stream))
    }

    unsafe fn stream_synced_mut_slice<'a>(
        &'a mut self,
        stream: &'a cu::CudaStream,
    ) -> (&'a mut [u8], SyncOnDrop<'a>) {
        let sync = self.start(stream);
        (self.slice.as_mut().map_or(&mut [], PinnedSlice::as_mut_slice), sync)
    }
}

impl Drop for CudaPinned {
    fn drop(&mut self) {
        // What a copy may yet read or write is leaked.
        if self.wait().is_err() && !self.queue.context().is_lost() {
            core::mem::forget(self.slice.take());
        }
    }
}

impl core::fmt::Debug for CudaPinned {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("CudaPinned").field("slice", &self.slice).field("queue", &self.queue).finish()
    }
}
