//! Page-locked memory as cudarc's copies take it.

use crate::context::{Context, Restore, lock};
use crate::{CudaError, CudaQueue, CudaRegion};
use cudarc::driver as cu;
use cudarc::driver::{HostSlice, SyncOnDrop};
use pinned_host::PinnedSlice;
use std::sync::{Arc, Mutex, PoisonError};

/// A pinned slice that cudarc's safe copies take (`HostSlice<u8>`), and that waits for them.
///
/// It belongs to one queue. Copies on that queue's stream are asynchronous: who reads or writes the bytes afterwards, or
/// drops the value, waits for the stream. Copies on another stream are asynchronous too, and cost more: whoever comes
/// after them waits for everything in that stream's context.
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
    busy: Mutex<Busy>,
}

/// Where copies of a slice may be in flight.
///
/// Only what has the value to itself may strike anything off: a copy is entered before it is enqueued, so who merely shares
/// it can have waited too early.
#[derive(Clone, Default)]
struct Busy {
    /// On the queue's stream.
    ours: bool,
    /// On other streams of these contexts, each once.
    elsewhere: Vec<Arc<cu::CudaContext>>,
}

impl CudaPinned {
    /// Makes a slice of a pool usable by cudarc, on one queue.
    pub fn new(slice: PinnedSlice<CudaRegion>, queue: &CudaQueue) -> Self {
        CudaPinned { slice: Some(slice), queue: queue.clone(), busy: Mutex::default() }
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
        self.settle()?;
        Ok(self.slice.as_mut().map_or(&mut [], PinnedSlice::as_mut_slice))
    }

    /// The slice, once the copies of it have ended.
    ///
    /// # Errors
    /// They cannot be waited for ([`as_slice`](Self::as_slice) says why); the value comes back.
    pub fn into_inner(mut self) -> Result<PinnedSlice<CudaRegion>, CudaPinned> {
        match self.settle().ok().and_then(|()| self.slice.take()) {
            Some(slice) => Ok(slice),
            None => Err(self),
        }
    }

    /// Waits for all copies that were entered when this was called.
    fn wait(&self) -> Result<(), CudaError> {
        // Not under the lock: it may take long.
        let busy = lock(&self.busy).clone();
        self.wait_for(&busy)
    }

    /// The same, and nothing is in flight any more.
    fn settle(&mut self) -> Result<(), CudaError> {
        self.wait()?;
        *self.busy.get_mut().unwrap_or_else(PoisonError::into_inner) = Busy::default();
        Ok(())
    }

    fn wait_for(&self, busy: &Busy) -> Result<(), CudaError> {
        if busy.ours {
            self.queue.context().wait_out(self.queue.raw())?;
        }
        busy.elsewhere.iter().try_for_each(|context| self.queue.context().wait_elsewhere(context))
    }

    /// Enters a copy that is about to be enqueued on `stream`.
    ///
    /// Not with cudarc's `SyncOnDrop::Sync`: that waits for nothing where the context has kept an unrelated error.
    fn start(&self, stream: &cu::CudaStream) -> SyncOnDrop<'static> {
        let ours = Context::is_same_stream(stream, self.queue.inner());
        let before = {
            let mut busy = lock(&self.busy);
            let before = busy.clone();
            let context = stream.context();
            if ours {
                busy.ours = true;
            } else if !busy.elsewhere.iter().any(|known| known.cu_ctx() == context.cu_ctx()) {
                busy.elsewhere.push(Arc::clone(context));
            }
            before
        };
        // Nothing orders two streams; a copy that cannot be waited for is as late here as anywhere.
        if !before.elsewhere.is_empty() || !ours {
            self.queue.context().late(self.wait_for(&before));
        }
        SyncOnDrop::Record(None)
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
        // What this ends is struck off; what it cannot wait for stays, and is waited for again.
        let ours = Context::is_same_stream(stream, self.queue.inner());
        let alone = self.busy.get_mut().is_ok_and(|busy| ours && busy.elsewhere.is_empty());
        if !alone {
            let settled = self.settle();
            self.queue.context().late(settled);
        }
        let sync = self.start(stream);
        (self.slice.as_mut().map_or(&mut [], PinnedSlice::as_mut_slice), sync)
    }
}

impl Drop for CudaPinned {
    fn drop(&mut self) {
        let _restored = Restore::new();
        // What a copy may yet read or write is leaked; of a lost context nobody can say that it does not.
        if self.settle().is_err() {
            core::mem::forget(self.slice.take());
        }
    }
}

impl core::fmt::Debug for CudaPinned {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("CudaPinned").field("slice", &self.slice).field("queue", &self.queue).finish()
    }
}
