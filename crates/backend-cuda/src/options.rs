//! How a device is chosen, opened, or made over what the caller has.

use crate::context::Context;
use crate::{CudaDevice, CudaError, HostMemory, Select, choose, driver, kernel};
use cudarc::driver as cu;
use std::sync::Arc;

/// What kind of [`CudaDevice`] is wanted.
///
/// ```no_run
/// use backend_cuda::{CudaOptions, Select};
///
/// let device = CudaOptions::new().select(Select::parse("H200")).virtual_memory(true).open()?;
/// # Ok::<(), backend_cuda::CudaError>(())
/// ```
#[derive(Debug, Clone)]
pub struct CudaOptions {
    select: Select,
    pub(crate) virtual_memory: bool,
    pub(crate) granule: u64,
    pub(crate) reserve: u64,
    pub(crate) scratch: u64,
    pub(crate) step_cost: u64,
    pub(crate) kernel_copies: u64,
    pub(crate) host_memory: HostMemory,
    blocking: bool,
}

/// Streams of the caller's for [`CudaOptions::over_streams`].
///
/// None may be the per-thread default stream. While one is being captured into a graph, whatever would use it returns
/// [`CudaError::Capturing`], and nothing of this crate's becomes part of the graph. Take memory and give it back outside of
/// captures: buffers that go wait for their streams, which a capture forbids (they are leaked then, and the capture may be
/// spoilt).
#[derive(Debug, Clone)]
pub struct Streams {
    /// For moves; also the default for kernels.
    pub compute: Arc<cu::CudaStream>,
    /// For uploads; `None`: a new one.
    pub upload: Option<Arc<cu::CudaStream>>,
    /// For downloads; `None`: a new one.
    pub download: Option<Arc<cu::CudaStream>>,
}

impl CudaOptions {
    /// The first device, buffers by `cuMemAlloc`, host memory by `cuMemHostAlloc`.
    pub fn new() -> Self {
        CudaOptions {
            select: Select::default(),
            virtual_memory: false,
            granule: 0,
            reserve: 0,
            scratch: SCRATCH,
            step_cost: STEP_COST,
            kernel_copies: KERNEL_COPIES,
            host_memory: HostMemory::default(),
            blocking: false,
        }
    }

    /// Which device to open.
    #[must_use]
    pub fn select(mut self, select: Select) -> Self {
        self.select = select;
        self
    }

    /// Makes buffers of reserved addresses with physical pages behind them, so that whole pages can change places without
    /// a copy ([`Remap`](allocator_core::Remap)) and a buffer can grow and shrink in place.
    #[must_use]
    pub fn virtual_memory(mut self, on: bool) -> Self {
        self.virtual_memory = on;
        self
    }

    /// Bytes of a page of virtual buffers, rounded up to a power of two and to what the device has at least (default).
    ///
    /// Each page is one call of the driver when it is made and when it is mapped; a move of whole pages wants them small.
    #[must_use]
    pub fn granule(mut self, bytes: u64) -> Self {
        self.granule = bytes;
        self
    }

    /// Bytes of address space for each virtual buffer: how far it can grow (default: as large as it is made).
    #[must_use]
    pub fn reserve(mut self, bytes: u64) -> Self {
        self.reserve = bytes;
        self
    }

    /// Bytes of device memory for moves between ranges that overlap (default 32 MiB); 0: such moves are made in pieces as
    /// long as the distance, however short.
    #[must_use]
    pub fn scratch(mut self, bytes: u64) -> Self {
        self.scratch = bytes;
        self
    }

    /// How many bytes could be copied on the device in the time that one more copy takes to start, which decides how an
    /// overlapping move is made (default 4 MiB).
    ///
    /// From an H200: a copy takes some 4.5 µs to start and then runs at 1.8 TB/s beside the start of the next, so that steps of
    /// 4 MiB and the way through the scratch come out even.
    #[must_use]
    pub fn step_cost(mut self, bytes: u64) -> Self {
        self.step_cost = bytes;
        self
    }

    /// Bytes up to which copies within the device's memory that come together are made by a kernel of this crate's, up to
    /// 170 in one launch (default 8 MiB, at most 1 GiB); 0: the driver makes every copy, and no kernel is loaded.
    ///
    /// From an H200: the driver takes some 4.5 µs to start a copy, also in a batch, in which 8 MiB are copied; so longer ones
    /// occupy the device whoever makes them. Where the driver does not take the kernel, nothing but time is lost;
    /// [`CudaDevice::load_kernel`] says why.
    #[must_use]
    pub fn kernel_copies(mut self, bytes: u64) -> Self {
        self.kernel_copies = bytes.min(kernel::MOST_BYTES);
        self
    }

    /// Where the host's end of transfers is.
    #[must_use]
    pub fn host_memory(mut self, kind: HostMemory) -> Self {
        self.host_memory = kind;
        self
    }

    /// Whether threads that wait for an event sleep until it fires (`CU_EVENT_BLOCKING_SYNC`), which costs some time on each
    /// wait, or spin as the driver likes, which may keep a processor busy (default).
    ///
    /// Waits for a whole queue, of which there are few, follow the context: `CudaContext::set_blocking_synchronize` of cudarc's.
    #[must_use]
    pub fn blocking_waits(mut self, on: bool) -> Self {
        self.blocking = on;
        self
    }

    /// Opens a device in its primary context, with a stream for each direction and one for moves and kernels.
    ///
    /// The context is shared with whatever else in the process uses the primary one. cudarc's event tracking is on for the
    /// handle of it that [`CudaDevice::cuda`] gives: slices that the caller makes from it are ordered between streams.
    ///
    /// # Errors
    /// No library, driver or device; a driver that lacks what this needs; no memory.
    pub fn open(&self) -> Result<CudaDevice, CudaError> {
        let ordinal = self.select.pick(&choose::list()?)?;
        CudaDevice::assemble(Context::own(ordinal, self.blocking)?, None, self)
    }

    /// The same in a context that the caller has and goes on using; the choice of a device, made already, is ignored.
    ///
    /// Event tracking stays as it is. If it is on, and these are the first streams made in the context, cudarc waits for
    /// the context once and begins to order the caller's slices between streams.
    ///
    /// # Errors
    /// As [`open`](Self::open); an error that cudarc kept from an earlier call of the caller's (then nothing was made, and
    /// trying again works).
    pub fn over_context(&self, context: &Arc<cu::CudaContext>) -> Result<CudaDevice, CudaError> {
        driver::init()?;
        CudaDevice::assemble(Context::over(Arc::clone(context), self.blocking)?, None, self)
    }

    /// The same on streams that the caller has and goes on using, all of one context.
    ///
    /// # Errors
    /// As [`over_context`](Self::over_context); streams of several contexts; the per-thread default stream.
    pub fn over_streams(&self, streams: Streams) -> Result<CudaDevice, CudaError> {
        driver::init()?;
        let context = Context::over(Arc::clone(streams.compute.context()), self.blocking)?;
        let all = [Some(&streams.compute), streams.upload.as_ref(), streams.download.as_ref()];
        all.into_iter().flatten().try_for_each(|stream| context.check_stream(stream))?;
        CudaDevice::assemble(context, Some(streams), self)
    }
}

impl Default for CudaOptions {
    fn default() -> Self {
        CudaOptions::new()
    }
}

impl From<Arc<cu::CudaStream>> for Streams {
    /// That stream for moves and kernels, and new ones for the two directions.
    fn from(compute: Arc<cu::CudaStream>) -> Self {
        Streams { compute, upload: None, download: None }
    }
}

/// Default scratch in bytes.
const SCRATCH: u64 = 32 << 20;
/// Default cost of starting a copy in bytes.
const STEP_COST: u64 = 4 << 20;
/// Default of the longest copy that the kernel makes, in bytes.
const KERNEL_COPIES: u64 = 8 << 20;
