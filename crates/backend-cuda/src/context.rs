//! What everything on one device shares: the CUDA context, the memory account, and whether the context is lost.

use crate::error::is_loss;
use crate::kernel::CopyKernel;
use crate::queue::QueueName;
use crate::{CudaError, driver};
use cudarc::driver as cu;
use cudarc::driver::sys::{self, CUresult};
use pinned_host::DeviceMemory;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

/// A CUDA context as one device value uses it.
pub(crate) struct Context {
    /// Retains the context; the caller's own, or one made here.
    safe: Arc<cu::CudaContext>,
    name: String,
    /// Whether the driver copies in batches, as far as it is known.
    pub(crate) batches: AtomicBool,
    /// The kernel that makes many copies, once it was asked for, or why there is none.
    kernel: OnceLock<Result<CopyKernel, CudaError>>,
    /// Why the driver did not launch it.
    kernel_refused: OnceLock<CudaError>,
    /// Whether something may run yet that could not be waited for.
    stray: AtomicBool,
    /// Whether it can be asked if a stream is being captured.
    capture: bool,
    /// The streams that are queues, so that each is one.
    queues: Mutex<Vec<QueueName>>,
    /// Whether waits for events sleep instead of spinning.
    pub(crate) blocking: bool,
    usage: Mutex<DeviceMemory>,
    /// What ended the context, once something did.
    lost: OnceLock<(&'static str, CUresult)>,
    /// The first error that nobody could be told of when it happened.
    late: Mutex<Option<CudaError>>,
}

impl Context {
    /// The primary context of a device.
    pub(crate) fn own(ordinal: usize, blocking: bool) -> Result<Arc<Self>, CudaError> {
        let safe = cu::CudaContext::new(ordinal).map_err(of("cuDevicePrimaryCtxRetain"))?;
        Self::over(safe, blocking)
    }

    /// A caller's context, as it is.
    pub(crate) fn over(safe: Arc<cu::CudaContext>, blocking: bool) -> Result<Arc<Self>, CudaError> {
        safe.check_err().map_err(of("an earlier call"))?;
        let name = safe.name().map_err(of("cuDeviceGetName"))?;
        Ok(Arc::new(Context {
            name,
            batches: AtomicBool::new(driver::has(driver::BATCH)),
            kernel: OnceLock::new(),
            kernel_refused: OnceLock::new(),
            stray: AtomicBool::new(false),
            capture: driver::has(driver::CAPTURE),
            queues: Mutex::default(),
            blocking,
            usage: Mutex::new(DeviceMemory::default()),
            lost: OnceLock::new(),
            late: Mutex::new(None),
            safe,
        }))
    }

    pub(crate) fn safe(&self) -> &Arc<cu::CudaContext> {
        &self.safe
    }

    pub(crate) fn ordinal(&self) -> usize {
        self.safe.ordinal()
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// Whether both are the same stream of the driver's: default streams of two contexts have the same handle.
    pub(crate) fn is_same_stream(a: &cu::CudaStream, b: &cu::CudaStream) -> bool {
        a.cu_stream() == b.cu_stream() && a.context().cu_ctx() == b.context().cu_ctx()
    }

    /// Whether both are the same context of the driver.
    pub(crate) fn is_same(&self, other: &cu::CudaContext) -> bool {
        self.safe.cu_ctx() == other.cu_ctx()
    }

    /// # Errors
    /// `what` belongs to another context.
    pub(crate) fn check_same(&self, what: &'static str, other: &cu::CudaContext) -> Result<(), CudaError> {
        if self.is_same(other) {
            return Ok(());
        }
        Err(CudaError::Foreign { what, theirs: other.ordinal(), ours: self.ordinal() })
    }

    /// # Errors
    /// The stream is of another context, or one that is another on every thread.
    pub(crate) fn check_stream(&self, stream: &cu::CudaStream) -> Result<(), CudaError> {
        self.check_same("stream", stream.context())?;
        if is_per_thread(stream) { Err(CudaError::PerThreadStream) } else { Ok(()) }
    }

    /// # Errors
    /// The stream is being captured into a graph: what is enqueued would run with the graph, or not at all, and every event
    /// recorded there would be none.
    pub(crate) fn check_capture(&self, stream: sys::CUstream) -> Result<(), CudaError> {
        if !self.capture {
            return Ok(());
        }
        let mut status = sys::CUstreamCaptureStatus::CU_STREAM_CAPTURE_STATUS_NONE;
        // SAFETY: the caller keeps the stream alive; the other points to a value of ours.
        self.call("cuStreamIsCapturing", || unsafe { sys::cuStreamIsCapturing(stream, &raw mut status) })?;
        match status {
            sys::CUstreamCaptureStatus::CU_STREAM_CAPTURE_STATUS_NONE => Ok(()),
            _ => Err(CudaError::Capturing),
        }
    }

    /// The kernel that makes many copies in one launch, which is loaded when it is first asked for.
    ///
    /// # Errors
    /// Why the driver does not take it, for good.
    pub(crate) fn kernel(&self) -> Result<&CopyKernel, &CudaError> {
        match self.kernel_refused.get() {
            Some(error) => Err(error),
            None => self.kernel.get_or_init(|| CopyKernel::load(self)).as_ref(),
        }
    }

    /// No launch of the kernel is tried any more.
    pub(crate) fn refuse_kernel(&self, error: CudaError) {
        // The first reason stays.
        let _ = self.kernel_refused.set(error);
    }

    /// What was enqueued could not be waited for, so that what it uses is kept.
    pub(crate) fn keep_stray(&self) {
        self.stray.store(true, Relaxed);
    }

    /// The queues there are, for [`CudaQueue::over`](crate::CudaQueue::over) to look up.
    pub(crate) fn queues(&self) -> MutexGuard<'_, Vec<QueueName>> {
        lock(&self.queues)
    }

    /// Calls the driver with this context current on the thread; `f` is not called once the context is lost.
    ///
    /// # Errors
    /// The loss, or what the call returned.
    pub(crate) fn call(&self, name: &'static str, f: impl FnOnce() -> CUresult) -> Result<(), CudaError> {
        self.check_lost()?;
        self.call_here(name, || self.call_raw(f))
    }

    /// Makes this context current on the thread, for calls by [`call_here`](Self::call_here).
    ///
    /// # Errors
    /// The loss, or what the driver said.
    pub(crate) fn enter(&self) -> Result<(), CudaError> {
        self.check_lost()?;
        self.call_here("cuCtxSetCurrent", || bind(self.safe.cu_ctx()))
    }

    /// Calls the driver on a thread on which this context is current.
    ///
    /// # Errors
    /// What the call returned.
    pub(crate) fn call_here(
        &self,
        name: &'static str,
        f: impl FnOnce() -> CUresult,
    ) -> Result<(), CudaError> {
        match f() {
            CUresult::CUDA_SUCCESS => Ok(()),
            code => Err(self.heard(name, code)),
        }
    }

    /// Calls the driver with this context current on the thread, lost or not.
    pub(crate) fn call_raw(&self, f: impl FnOnce() -> CUresult) -> CUresult {
        match bind(self.safe.cu_ctx()) {
            CUresult::CUDA_SUCCESS => f(),
            code => code,
        }
    }

    /// Waits: as [`call`](Self::call), lost or not, and once more if it is refused.
    pub(crate) fn insist(&self, name: &'static str, f: impl Fn() -> CUresult) -> Result<(), CudaError> {
        let again = |code| code != CUresult::CUDA_SUCCESS && !is_loss(code);
        self.repeat(name, again, f)
    }

    /// Gives something back: as [`call`](Self::call), lost or not. What cannot be given back is leaked.
    ///
    /// Tried again only where it was refused for want of memory: any other error may be that of earlier work, returned by a
    /// call that has done what it was asked, and nothing is freed twice.
    pub(crate) fn give_back(&self, name: &'static str, f: impl Fn() -> CUresult) -> Result<(), CudaError> {
        self.repeat(name, |code| code == CUresult::CUDA_ERROR_OUT_OF_MEMORY, f)
    }

    fn repeat(
        &self,
        name: &'static str,
        again: impl Fn(CUresult) -> bool,
        f: impl Fn() -> CUresult,
    ) -> Result<(), CudaError> {
        let mut code = self.call_raw(&f);
        if again(code) {
            code = self.call_raw(&f);
        }
        if code == CUresult::CUDA_SUCCESS { Ok(()) } else { Err(self.heard(name, code)) }
    }

    /// Waits for everything that was submitted in the context.
    pub(crate) fn wait_all(&self) -> Result<(), CudaError> {
        self.insist("cuCtxSynchronize", sync)
    }

    /// Waits for everything that was submitted in a context that may be another.
    pub(crate) fn wait_elsewhere(&self, safe: &cu::CudaContext) -> Result<(), CudaError> {
        if self.is_same(safe) {
            return self.wait_all();
        }
        match synchronize(safe) {
            CUresult::CUDA_SUCCESS => Ok(()),
            code => Err(CudaError::Elsewhere { code }),
        }
    }

    /// Waits for everything that was submitted to `stream`, which the caller keeps alive.
    pub(crate) fn wait_out(&self, stream: sys::CUstream) -> Result<(), CudaError> {
        // SAFETY: the caller's promise.
        self.insist("cuStreamSynchronize", || unsafe { sys::cuStreamSynchronize(stream) })
    }

    /// Keeps the first error of those that nobody can be told of when they happen; whether there was none. That a lost
    /// context takes nothing back is no news.
    pub(crate) fn late(&self, outcome: Result<(), CudaError>) -> bool {
        match outcome {
            Ok(()) => true,
            Err(error) => {
                if !self.is_lost() {
                    lock(&self.late).get_or_insert(error);
                }
                false
            }
        }
    }

    /// The error behind a code, and the note that the context is lost if it says so.
    ///
    /// `CUDA_ERROR_UNKNOWN` says so if the context cannot be waited for either and the answer is the same: that is how a
    /// device that fell off the bus answers everything, at once. Where it is no loss, this waits.
    pub(crate) fn heard(&self, call: &'static str, code: CUresult) -> CudaError {
        let unknown = CUresult::CUDA_ERROR_UNKNOWN;
        if is_loss(code) || code == unknown && !self.is_lost() && self.call_raw(sync) == unknown {
            let _ = self.lost.set((call, code));
        }
        self.check_lost().err().unwrap_or(CudaError::Driver { call, code })
    }

    pub(crate) fn check_lost(&self) -> Result<(), CudaError> {
        match self.lost.get() {
            None => Ok(()),
            Some(&(call, code)) => Err(CudaError::DeviceLost { call, code }),
        }
    }

    pub(crate) fn is_lost(&self) -> bool {
        self.lost.get().is_some()
    }

    /// The error that cudarc kept from an earlier call that could not return it: the next safe call would.
    pub(crate) fn stored(&self) -> Result<(), CudaError> {
        self.safe.check_err().map_err(|error| self.heard("an earlier call", error.0))
    }

    pub(crate) fn take_late(&self) -> Option<CudaError> {
        lock(&self.late).take()
    }

    pub(crate) fn account(&self) -> MutexGuard<'_, DeviceMemory> {
        lock(&self.usage)
    }

    /// Free and total device memory in bytes.
    pub(crate) fn memory_info(&self) -> Result<(u64, u64), CudaError> {
        let (mut free, mut total) = (0, 0);
        // SAFETY: both point to memory of ours.
        self.call("cuMemGetInfo", || unsafe { sys::cuMemGetInfo_v2(&raw mut free, &raw mut total) })?;
        Ok((free as u64, total as u64))
    }

    pub(crate) fn attribute(&self, which: sys::CUdevice_attribute) -> Result<i32, CudaError> {
        let (mut value, device) = (0, self.safe.cu_device());
        // SAFETY: points to memory of ours; the device is the context's.
        self.call("cuDeviceGetAttribute", || unsafe {
            sys::cuDeviceGetAttribute(&raw mut value, which, device)
        })?;
        Ok(value)
    }
}

/// Waits for everything that was submitted in a context, which may not be ours, and leaves the thread with the context it
/// had. Not by cudarc's `synchronize`, which waits for nothing where an earlier, unrelated call left an error behind.
pub(crate) fn synchronize(safe: &cu::CudaContext) -> CUresult {
    let _restored = Restore::new();
    match bind(safe.cu_ctx()) {
        CUresult::CUDA_SUCCESS => sync(),
        code => code,
    }
}

/// Waits for the thread's current context.
fn sync() -> CUresult {
    // SAFETY: takes nothing.
    unsafe { sys::cuCtxSynchronize() }
}

impl Drop for Context {
    fn drop(&mut self) {
        let Some(Ok(kernel)) = self.kernel.take() else { return };
        // All that it copied between has gone before, and was waited for.
        if !*self.stray.get_mut() {
            let _restored = Restore::new();
            kernel.unload(self);
        }
    }
}

/// Gives the thread back the context it had, when dropped.
///
/// For what runs where no caller asked for CUDA, as in `Drop`: elsewhere ours stays current, as cudarc's calls leave theirs.
pub(crate) struct Restore(Option<sys::CUcontext>);

impl Restore {
    pub(crate) fn new() -> Self {
        let mut current = core::ptr::null_mut();
        // SAFETY: points to memory of ours.
        let asked = unsafe { sys::cuCtxGetCurrent(&raw mut current) };
        Restore((asked == CUresult::CUDA_SUCCESS).then_some(current))
    }
}

impl Drop for Restore {
    fn drop(&mut self) {
        let Some(before) = self.0 else { return };
        let mut current = core::ptr::null_mut();
        // SAFETY: points to memory of ours.
        let asked = unsafe { sys::cuCtxGetCurrent(&raw mut current) };
        if asked == CUresult::CUDA_SUCCESS && current != before {
            // SAFETY: it was current on this thread a moment ago, and null takes ours away. Should it have been destroyed
            // since by its owner, the driver refuses, and ours stays.
            let _ = unsafe { sys::cuCtxSetCurrent(before) };
        }
    }
}

/// Makes a context, which the caller keeps alive, current on this thread.
///
/// Not by cudarc's `bind_to_thread`, which returns what an earlier, unrelated call left behind.
fn bind(context: sys::CUcontext) -> CUresult {
    let mut current = core::ptr::null_mut();
    // SAFETY: points to memory of ours.
    match unsafe { sys::cuCtxGetCurrent(&raw mut current) } {
        CUresult::CUDA_SUCCESS if current == context => CUresult::CUDA_SUCCESS,
        // SAFETY: the context is alive.
        CUresult::CUDA_SUCCESS => unsafe { sys::cuCtxSetCurrent(context) },
        code => code,
    }
}

/// Whether the handle stands for a stream that every thread has for itself.
pub(crate) fn is_per_thread(stream: &cu::CudaStream) -> bool {
    stream.cu_stream().addr() == PER_THREAD
}

/// The error of a safe call of cudarc's.
pub(crate) fn of(call: &'static str) -> impl Fn(cu::DriverError) -> CudaError {
    move |error| CudaError::of(call, error.0)
}

pub(crate) fn lock<T: ?Sized>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Every critical section leaves its data whole at each step, so a panic elsewhere spoils nothing.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// `CU_STREAM_PER_THREAD`.
const PER_THREAD: usize = 2;
