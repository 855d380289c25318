//! Device memory: the driver's, a caller's slice, or reserved addresses with pages behind them.

use crate::context::{Context, Restore, is_per_thread, lock};
use crate::pages::Pages;
use crate::{CudaError, CudaQueue, Plain};
use core::any::Any;
use cudarc::driver as cu;
use cudarc::driver::{DevicePtrMut, sys};
use pinned_host::Queue;
use std::sync::{Arc, Mutex, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

/// Device memory, freed when nothing uses it any more.
pub(crate) struct Memory {
    context: Arc<Context>,
    base: sys::CUdeviceptr,
    /// Length in bytes; fits `usize`. Changes only where there are pages.
    ///
    /// Held for reading from the check of a range until what uses it is enqueued, and for writing by who takes pages away or
    /// lets them change places: from before he waits for those that are enqueued until it is done.
    size: RwLock<u64>,
    backing: Backing,
    use_: Use,
    /// The streams on which this crate uses it.
    streams: Vec<CudaQueue>,
    /// Contexts, each once, of which streams that are not in `streams` may use it.
    lent: Mutex<Vec<Arc<cu::CudaContext>>>,
}

/// What memory is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Use {
    /// A buffer of the user's.
    Buffer,
    /// Room for moves.
    Scratch,
}

enum Backing {
    /// `cuMemAlloc`.
    Driver,
    /// A caller's, a `CudaSlice` of some type; `None` once given back.
    Slice(Option<Box<dyn Any + Send + Sync>>),
    /// Virtual memory management.
    Pages(Pages),
}

impl Memory {
    /// `size` bytes of the driver's; contents unspecified.
    ///
    /// # Errors
    /// [`CudaError::ZeroSize`], [`CudaError::Limit`], or the driver has none.
    pub(crate) fn new(
        context: &Arc<Context>,
        size: u64,
        use_: Use,
        streams: Vec<CudaQueue>,
    ) -> Result<Self, CudaError> {
        let bytes = check_size(size)?;
        let mut base = 0;
        // SAFETY: points to memory of ours.
        let made = context.call("cuMemAlloc", || unsafe { sys::cuMemAlloc_v2(&raw mut base, bytes) });
        made.map_err(|error| no_memory(context, use_.name(), size, error))?;
        Ok(Self::with(context, base, size, Backing::Driver, use_, streams))
    }

    /// Reserved addresses for `reserve` bytes, `size` of them with pages behind them.
    ///
    /// # Errors
    /// As [`new`](Self::new); and a device without virtual memory management.
    pub(crate) fn paged(
        context: &Arc<Context>,
        (size, reserve, granule): (u64, u64, u64),
        streams: Vec<CudaQueue>,
    ) -> Result<Self, CudaError> {
        if size == 0 {
            return Err(CudaError::ZeroSize);
        }
        check_size(size.max(reserve))?;
        let pages = Pages::new(context, size, reserve, granule)?;
        let base = pages.base();
        Ok(Self::with(context, base, size, Backing::Pages(pages), Use::Buffer, streams))
    }

    /// A caller's slice, whose work so far has ended.
    ///
    /// # Errors
    /// [`CudaError::ZeroSize`], another context, or its stream cannot be waited for; the slice comes back.
    pub(crate) fn over<T: Plain>(
        context: &Arc<Context>,
        mut slice: cu::CudaSlice<T>,
        streams: Vec<CudaQueue>,
    ) -> Result<Self, (cu::CudaSlice<T>, CudaError)> {
        let stream = Arc::clone(slice.stream());
        let ready = || {
            context.check_same("slice", stream.context())?;
            check_size(slice.num_bytes() as u64)?;
            context.stored()
        };
        if let Err(error) = ready() {
            return Err((slice, error));
        }
        // Allocated, filled and used in the order of its stream and events so far, from now on in that of ours. Its stream
        // waits for its events here, and we for the stream.
        let base = slice.device_ptr_mut(&stream).0;
        if let Err(error) = context.stored() {
            return Err((slice, error));
        }
        // Other threads may have used it on streams of theirs by the same name.
        let ended =
            if is_per_thread(&stream) { context.wait_all() } else { context.wait_out(stream.cu_stream()) };
        if let Err(error) = ended {
            return Err((slice, error));
        }
        let size = slice.num_bytes() as u64;
        Ok(Self::with(context, base, size, Backing::Slice(Some(Box::new(slice))), Use::Buffer, streams))
    }

    fn with(
        context: &Arc<Context>,
        base: sys::CUdeviceptr,
        size: u64,
        backing: Backing,
        use_: Use,
        streams: Vec<CudaQueue>,
    ) -> Self {
        let memory = Memory {
            context: Arc::clone(context),
            base,
            size: RwLock::new(size),
            backing,
            use_,
            streams,
            lent: Mutex::default(),
        };
        memory.count(0, memory.held());
        memory
    }

    pub(crate) fn context(&self) -> &Arc<Context> {
        &self.context
    }

    pub(crate) fn base(&self) -> sys::CUdeviceptr {
        self.base
    }

    /// Waits while it changes.
    pub(crate) fn size(&self) -> u64 {
        *self.hold()
    }

    /// The size, which stays as it is, and the pages where they are, until this is dropped. A thread may hold it once.
    pub(crate) fn hold(&self) -> RwLockReadGuard<'_, u64> {
        // A panic elsewhere leaves a number that was right when it was stored.
        self.size.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// The size, and until it is dropped nobody enqueues what uses the memory, other than through a view.
    pub(crate) fn hold_alone(&self) -> RwLockWriteGuard<'_, u64> {
        self.size.write().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn pages(&self) -> Option<&Pages> {
        match &self.backing {
            Backing::Pages(pages) => Some(pages),
            _ => None,
        }
    }

    /// # Errors
    /// [`CudaError::Broken`].
    pub(crate) fn check(&self) -> Result<(), CudaError> {
        self.pages().map_or(Ok(()), Pages::check)
    }

    /// Streams of `to` that may not be ours use it from now on.
    pub(crate) fn lend(&self, to: &Arc<cu::CudaContext>) {
        let mut lent = lock(&self.lent);
        if !lent.iter().any(|known| known.cu_ctx() == to.cu_ctx()) {
            lent.push(Arc::clone(to));
        }
    }

    /// `queue` uses it from now on: a lane of another device in the same context, say.
    pub(crate) fn lend_to(&self, queue: &CudaQueue) {
        if !self.streams.iter().any(|known| known.same_queue(queue)) {
            self.lend(queue.inner().context());
        }
    }

    /// Grows or shrinks what has pages behind it; see [`CudaBuffer::resize`](crate::CudaBuffer::resize).
    pub(crate) fn resize(&self, size: u64) -> Result<(), CudaError> {
        let Some(pages) = self.pages() else {
            let why = "the buffer's memory is not virtual";
            return Err(CudaError::Remap { src: 0, len: self.size(), dst: size, why });
        };
        check_size(size)?;
        let mut held = self.hold_alone();
        let (before, after) = pages.resize(&self.context, size, || self.wait_out())?;
        *held = size;
        self.count(before, after);
        Ok(())
    }

    /// The slice of a caller's, given back once nothing uses it; else the memory as it is.
    pub(crate) fn into_slice<T: Plain>(mut this: Arc<Self>) -> Result<cu::CudaSlice<T>, Arc<Self>> {
        if let Some(memory) = Arc::get_mut(&mut this)
            && matches!(&memory.backing, Backing::Slice(Some(slice)) if slice.is::<cu::CudaSlice<T>>())
            && (memory.context.late(memory.wait_out()) || memory.context.is_lost())
            && let Backing::Slice(slice) = &mut memory.backing
            && let Some(Ok(slice)) = slice.take().map(|slice| slice.downcast())
        {
            return Ok(*slice);
        }
        Err(this)
    }

    /// Waits until nothing enqueued here uses it, and nothing of those it was lent to.
    fn wait_out(&self) -> Result<(), CudaError> {
        // Not under the lock: it may take long.
        let lent = lock(&self.lent).clone();
        lent.iter().try_for_each(|context| self.context.wait_elsewhere(context))?;
        if lent.iter().any(|context| self.context.is_same(context)) {
            return Ok(());
        }
        self.streams.iter().try_for_each(|queue| self.context.wait_out(queue.raw()))
    }

    /// Bytes of device memory taken.
    fn held(&self) -> u64 {
        self.pages().map_or(self.size(), Pages::bytes)
    }

    fn count(&self, before: u64, after: u64) {
        let mut usage = self.context.account();
        usage.current = usage.current - before + after;
        usage.peak = usage.peak.max(usage.current);
        if self.use_ == Use::Scratch {
            usage.scratch = usage.scratch - before + after;
        }
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        let _restored = Restore::new();
        let (context, held) = (&self.context, self.held());
        let ended = context.late(self.wait_out()) || context.is_lost();
        if !ended {
            context.keep_stray();
        }
        match &mut self.backing {
            // What may yet be in use is leaked.
            Backing::Slice(slice) if !ended => std::mem::forget(slice.take()),
            _ if !ended => {}
            Backing::Slice(_) => {}
            Backing::Pages(pages) => pages.free(context),
            Backing::Driver => {
                // SAFETY: made by `new`, and nothing uses it any more.
                context.late(context.give_back("cuMemFree", || unsafe { sys::cuMemFree_v2(self.base) }));
            }
        }
        self.count(held, 0);
    }
}

impl Use {
    fn name(self) -> &'static str {
        match self {
            Use::Buffer => "a buffer",
            Use::Scratch => "the scratch of moves",
        }
    }
}

/// A refusal for want of memory, with the numbers.
pub(crate) fn no_memory(context: &Context, what: &'static str, bytes: u64, error: CudaError) -> CudaError {
    match error {
        CudaError::Driver { call, code: code @ sys::CUresult::CUDA_ERROR_OUT_OF_MEMORY } => {
            let free = context.memory_info().ok().map(|(free, _)| free);
            CudaError::Memory { what, bytes, free, call, code }
        }
        error => error,
    }
}

fn check_size(size: u64) -> Result<usize, CudaError> {
    if size == 0 {
        return Err(CudaError::ZeroSize);
    }
    // So that no offset or sum of two lengths overflows anywhere.
    let allowed = (isize::MAX as u64) / 4;
    let bytes = usize::try_from(size).ok().filter(|_| size <= allowed);
    bytes.ok_or(CudaError::Limit { limit: "the address space", asked: size, allowed })
}
