//! Host memory that the device copies from and to by itself.

use crate::CudaError;
use crate::context::{Context, Restore};
use core::ptr::NonNull;
use cudarc::driver::sys;
use pinned_host::{HostRegion, OsLocker, OsRegion, PageLocker, SystemMemory};
use std::sync::Arc;

/// Makes page-locked host memory that every CUDA context of the process copies from and to.
///
/// Clones make memory of the same kind.
#[derive(Clone)]
pub struct CudaLocker {
    context: Arc<Context>,
    kind: HostMemory,
}

/// Where [`CudaLocker::lock`](PageLocker::lock) takes memory from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum HostMemory {
    /// `cuMemHostAlloc`: the driver's, portable and cached.
    #[default]
    Driver,
    /// The same, write-combined: past the host's cache, so that uploads disturb it less and every **read** by the host is
    /// slow. For memory that is only ever written and uploaded.
    WriteCombined,
    /// Pages of the operating system, huge where there are such, made present by several threads and then registered with
    /// `cuMemHostRegister`: the way to much of it at once.
    Registered,
}

/// Host memory made by a [`CudaLocker`].
pub struct CudaRegion {
    base: NonNull<u8>,
    len: usize,
    backing: Backing,
    context: Arc<Context>,
}

enum Backing {
    Driver,
    /// `None` once leaked.
    Registered(Option<OsRegion>),
    Pageable(OsRegion),
}

impl CudaLocker {
    pub(crate) fn new(context: &Arc<Context>, kind: HostMemory) -> Self {
        CudaLocker { context: Arc::clone(context), kind }
    }

    fn driver(&self, bytes: usize, flags: u32) -> Result<CudaRegion, CudaError> {
        let mut base = core::ptr::null_mut();
        let made = self.context.call("cuMemHostAlloc", || {
            // SAFETY: points to a value of ours.
            unsafe { sys::cuMemHostAlloc(&raw mut base, bytes, PORTABLE | flags) }
        });
        made.map_err(|error| Self::refused(bytes, error))?;
        let Some(base) = NonNull::new(base.cast::<u8>()) else {
            let code = sys::CUresult::CUDA_ERROR_OUT_OF_MEMORY;
            return Err(Self::refused(bytes, CudaError::Driver { call: "cuMemHostAlloc", code }));
        };
        let region = self.region(base, bytes, Backing::Driver);
        // The driver does not say what new memory holds; a region's bytes are initialised.
        in_pieces(bytes, &|from, len| {
            // SAFETY: the pieces are disjoint parts of the allocation, which nobody else has seen.
            unsafe { core::ptr::write_bytes(region.base().as_ptr().add(from), 0, len) };
        });
        Ok(region)
    }

    fn registered(&self, bytes: usize) -> Result<CudaRegion, CudaError> {
        let pages = OsLocker.pageable(bytes).unwrap_or_else(|| OsLocker.lock(bytes))?;
        // Registering is the first touch of every page otherwise, by one thread.
        in_pieces(pages.len(), &|from, len| pages.prepare(from, len));
        let (base, len) = (pages.base(), pages.len());
        let made = self.context.call("cuMemHostRegister", || {
            // SAFETY: the range is mapped, and stays so until it is unregistered.
            unsafe { sys::cuMemHostRegister_v2(base.as_ptr().cast(), len, REGISTER_PORTABLE) }
        });
        made.map_err(|error| Self::refused(len, error))?;
        Ok(self.region(base, len, Backing::Registered(Some(pages))))
    }

    fn region(&self, base: NonNull<u8>, len: usize, backing: Backing) -> CudaRegion {
        CudaRegion { base, len, backing, context: Arc::clone(&self.context) }
    }

    fn refused(bytes: usize, error: CudaError) -> CudaError {
        match error {
            CudaError::Driver { call, code: code @ sys::CUresult::CUDA_ERROR_OUT_OF_MEMORY } => {
                let available = SystemMemory::current().map(|memory| memory.available);
                CudaError::HostMemory { bytes: bytes as u64, available, call, code }
            }
            error => error,
        }
    }
}

impl PageLocker for CudaLocker {
    type Region = CudaRegion;
    type Error = CudaError;

    /// A zeroed region of exactly `bytes` bytes, or of whole pages where they are registered.
    ///
    /// Slow, and best done once.
    ///
    /// # Errors
    /// More than [`max_region`](PageLocker::max_region), no memory, or the driver refuses; nothing stays locked.
    fn lock(&self, bytes: usize) -> Result<CudaRegion, CudaError> {
        if bytes == 0 {
            return Err(CudaError::ZeroSize);
        }
        if bytes > self.max_region() {
            let (asked, allowed) = (bytes as u64, self.max_region() as u64);
            return Err(CudaError::Limit { limit: "one region of host memory", asked, allowed });
        }
        self.context.check_lost()?;
        match self.kind {
            HostMemory::Driver => self.driver(bytes, 0),
            HostMemory::WriteCombined => self.driver(bytes, WRITE_COMBINED),
            HostMemory::Registered => self.registered(bytes),
        }
    }

    /// Half of the memory that is available: the driver locks past `RLIMIT_MEMLOCK`, and what it locks nobody can swap.
    fn allowance(&self) -> Option<u64> {
        SystemMemory::current().map(|memory| memory.available / 2)
    }

    /// 64 GiB of registered memory, a size chosen here: a registration that is very large fails where several smaller ones do
    /// not. (A copy may not cross from one to the next.) Of the driver's own memory all that can be addressed: it refuses what
    /// it does not have.
    fn max_region(&self) -> usize {
        let most = isize::MAX as usize;
        match self.kind {
            HostMemory::Registered => usize::try_from(MAX_REGISTERED).unwrap_or(most),
            HostMemory::Driver | HostMemory::WriteCombined => most,
        }
    }

    /// The driver copies pageable memory by way of buffers of its own: slower, and the caller may be made to wait.
    fn pageable(&self, bytes: usize) -> Option<Result<CudaRegion, CudaError>> {
        let made = OsLocker.pageable(bytes)?.map_err(CudaError::Host);
        Some(made.map(|pages| self.region(pages.base(), pages.len(), Backing::Pageable(pages))))
    }
}

impl core::fmt::Debug for CudaLocker {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("CudaLocker")
            .field("device", &self.context.ordinal())
            .field("kind", &self.kind)
            .finish()
    }
}

// SAFETY: the memory is the driver's until `Drop` gives it back, or the pages kept in `backing`; it was zeroed or is a
// region, whose bytes are initialised by its own promise. Its address is given out through `base` alone.
unsafe impl HostRegion for CudaRegion {
    fn base(&self) -> NonNull<u8> {
        self.base
    }

    fn len(&self) -> usize {
        self.len
    }

    fn is_locked(&self) -> bool {
        !matches!(self.backing, Backing::Pageable(_))
    }

    fn prepare(&self, offset: usize, bytes: usize) {
        if let Backing::Pageable(pages) = &self.backing {
            pages.prepare(offset, bytes);
        }
    }
}

// SAFETY: the value owns its memory, which no thread is special to; the pointer is only given out.
unsafe impl Send for CudaRegion {}
// SAFETY: as above.
unsafe impl Sync for CudaRegion {}

impl Drop for CudaRegion {
    fn drop(&mut self) {
        let (context, base) = (&self.context, self.base.as_ptr().cast());
        let _restored = Restore::new();
        match &mut self.backing {
            // A copy that was under way may still write it: it stays until the process ends.
            Backing::Driver if context.is_lost() => {}
            Backing::Registered(pages) if context.is_lost() => core::mem::forget(pages.take()),
            Backing::Driver => {
                // SAFETY: from `cuMemHostAlloc`; tickets in flight own slices of the region, so nothing uses it.
                context.late(context.give_back("cuMemFreeHost", || unsafe { sys::cuMemFreeHost(base) }));
            }
            Backing::Registered(pages) => {
                // SAFETY: registered by `registered`; as above.
                let done =
                    context.give_back("cuMemHostUnregister", || unsafe { sys::cuMemHostUnregister(base) });
                // Pages that the driver still counts as its own are never given to anybody else.
                if !context.late(done) {
                    core::mem::forget(pages.take());
                }
            }
            Backing::Pageable(_) => {}
        }
    }
}

impl core::fmt::Debug for CudaRegion {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("CudaRegion").field("len", &self.len).field("locked", &self.is_locked()).finish()
    }
}

/// Calls `f` on all of `bytes` in pieces, by as many threads as are worth it.
fn in_pieces(bytes: usize, f: &(impl Fn(usize, usize) + Sync)) {
    let processors = std::thread::available_parallelism().map_or(1, usize::from);
    let threads = processors.min(MOST_THREADS).min(bytes / WORTH_A_THREAD).max(1);
    let piece = bytes.div_ceil(threads).next_multiple_of(HUGE_PAGE);
    std::thread::scope(|scope| {
        let mut from = 0;
        while from + piece < bytes {
            let worker = std::thread::Builder::new().spawn_scoped(scope, move || f(from, piece));
            if worker.is_err() {
                f(from, piece);
            }
            from += piece;
        }
        f(from, bytes - from);
    });
}

const PORTABLE: u32 = sys::CU_MEMHOSTALLOC_PORTABLE;
const WRITE_COMBINED: u32 = sys::CU_MEMHOSTALLOC_WRITECOMBINED;
const REGISTER_PORTABLE: u32 = sys::CU_MEMHOSTREGISTER_PORTABLE;
/// Bytes of the largest registration that is tried.
const MAX_REGISTERED: u64 = 64 << 30;
/// Bytes that a thread of its own is worth.
const WORTH_A_THREAD: usize = 64 << 20;
const MOST_THREADS: usize = 16;
/// Pieces begin at huge pages, so that no two threads fault in the same one.
const HUGE_PAGE: usize = 2 << 20;
