//! Host memory that the device copies from and to by itself.

use crate::CudaError;
use crate::context::{Context, Restore};
use core::any::Any;
use core::ops::Range;
use core::ptr::NonNull;
use cudarc::driver::sys;
use pinned_host::{HostRegion, OsLocker, OsMemory, OsRegion, PageLocker, PagePin, SystemMemory, in_pieces};
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
    /// Pages of the operating system, made present by several threads and then registered with `cuMemHostRegister`: the way
    /// to much of it at once.
    ///
    /// Ordinary pages ([`OsMemory::for_drivers`]): the kernel joins and splits transparent huge pages, which registered ones
    /// are in the way of. For huge ones, [register](CudaLocker::register) memory on
    /// [explicit huge pages](pinned_host::HugePages::Explicit).
    Registered,
}

/// Host memory made by a [`CudaLocker`].
///
/// Fork: a child has none of it. There it is not [locked](HostRegion::is_locked), and dropping it calls no driver.
pub struct CudaRegion {
    base: NonNull<u8>,
    len: usize,
    backing: Backing,
    /// While the driver has the pages.
    pin: Option<PagePin>,
    context: Arc<Context>,
}

enum Backing {
    Driver,
    /// `None` once leaked.
    Registered(Option<Box<dyn HostRegion>>),
    Pageable(OsRegion),
}

/// Host memory that was not registered, and why.
#[derive(thiserror::Error)]
#[error("{error}")]
pub struct RegisterRefused<R> {
    /// The caller's memory, as it was.
    pub region: R,
    /// Why.
    #[source]
    pub error: CudaError,
}

impl CudaLocker {
    pub(crate) fn new(context: &Arc<Context>, kind: HostMemory) -> Self {
        CudaLocker { context: Arc::clone(context), kind }
    }

    /// Makes memory of the caller's one that the device copies from and to by itself (`cuMemHostRegister`).
    ///
    /// It is first made present by several threads, which registering would do with one. What is locked already, by `mlock` say, counts
    /// once in [`PinnedPages`](pinned_host::PinnedPages). Memory of the system is best made by [`OsMemory::for_drivers`]: the
    /// pages then stay where the device looks for them also if the process forks.
    ///
    /// # Errors
    /// The region is page-locked memory of a [`CudaLocker`] already, has more than 64 GiB, or the driver refuses: for what
    /// it has registered, for want of memory. The region comes back as it was.
    pub fn register<R: HostRegion>(&self, region: R) -> Result<CudaRegion, RegisterRefused<R>> {
        match self.pin(&region) {
            Ok(()) => {
                let (base, len) = (region.base(), region.len());
                Ok(self.region(base, len, Backing::Registered(Some(Box::new(region)))))
            }
            Err(error) => Err(RegisterRefused { region, error }),
        }
    }

    fn pin<R: HostRegion>(&self, region: &R) -> Result<(), CudaError> {
        let (base, len) = (region.base(), region.len());
        if len as u64 > MAX_REGISTERED {
            return Err(CudaError::Limit { limit: REGION, asked: len as u64, allowed: MAX_REGISTERED });
        }
        if (region as &dyn Any).downcast_ref::<CudaRegion>().is_some_and(HostRegion::is_locked) {
            let code = sys::CUresult::CUDA_ERROR_HOST_MEMORY_ALREADY_REGISTERED;
            return Err(CudaError::Driver { call: "cuMemHostRegister", code });
        }
        self.context.check_lost()?;
        in_pieces(0..len, None, &|piece: Range<usize>| region.prepare(piece.start, piece.len()));
        let made = self.context.call("cuMemHostRegister", || {
            // SAFETY: the range is mapped, and stays so until it is unregistered.
            unsafe { sys::cuMemHostRegister_v2(base.as_ptr().cast(), len, REGISTER_PORTABLE) }
        });
        made.map_err(|error| Self::refused(len, error))
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
        in_pieces(0..bytes, None, &|piece: Range<usize>| {
            // SAFETY: the pieces are disjoint parts of the allocation, which nobody else has seen.
            unsafe { core::ptr::write_bytes(region.base().as_ptr().add(piece.start), 0, piece.len()) };
        });
        Ok(region)
    }

    fn registered(&self, bytes: usize) -> Result<CudaRegion, CudaError> {
        let memory = OsMemory::for_drivers();
        let pages = memory.pageable(bytes).unwrap_or_else(|| memory.lock(bytes))?;
        self.register(pages).map_err(|refused| refused.error)
    }

    fn region(&self, base: NonNull<u8>, len: usize, backing: Backing) -> CudaRegion {
        let pin = match backing {
            Backing::Driver | Backing::Registered(_) => Some(PagePin::new(base, len)),
            Backing::Pageable(_) => None,
        };
        CudaRegion { base, len, backing, pin, context: Arc::clone(&self.context) }
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
            return Err(CudaError::Limit { limit: REGION, asked, allowed });
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
        self.pin.as_ref().is_some_and(PagePin::is_ours)
    }

    fn prepare(&self, offset: usize, bytes: usize) {
        if let Backing::Pageable(pages) = &self.backing {
            pages.prepare(offset, bytes);
        }
    }

    /// That of the memory that was registered.
    fn atom(&self) -> usize {
        match &self.backing {
            Backing::Registered(Some(pages)) => pages.atom(),
            _ => 1,
        }
    }
}

// SAFETY: the value owns its memory, which no thread is special to; the pointer is only given out.
unsafe impl Send for CudaRegion {}
// SAFETY: as above.
unsafe impl Sync for CudaRegion {}

impl Drop for CudaRegion {
    fn drop(&mut self) {
        // Pageable memory goes by itself.
        let Some(pin) = self.pin.take() else { return };
        if !pin.is_ours() {
            // In a child of `fork` the driver does not work and has nothing to give back, the context included.
            return core::mem::forget(Arc::clone(&self.context));
        }
        let (context, base) = (&self.context, self.base.as_ptr().cast());
        let _restored = Restore::new();
        let gone = match &self.backing {
            // A copy that was under way may still write it: it stays until the process ends.
            _ if context.is_lost() => false,
            Backing::Driver => {
                // SAFETY: from `cuMemHostAlloc`; tickets in flight own slices of the region, so nothing uses it.
                context.late(context.give_back("cuMemFreeHost", || unsafe { sys::cuMemFreeHost(base) }))
            }
            Backing::Registered(_) => {
                // SAFETY: registered by `register`; as above.
                context.late(
                    context.give_back("cuMemHostUnregister", || unsafe { sys::cuMemHostUnregister(base) }),
                )
            }
            Backing::Pageable(_) => true,
        };
        // Pages that the driver still counts as its own are never given to anybody else, and stay pinned.
        if !gone {
            core::mem::forget(pin);
            if let Backing::Registered(pages) = &mut self.backing {
                core::mem::forget(pages.take());
            }
        }
    }
}

impl core::fmt::Debug for CudaRegion {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("CudaRegion").field("len", &self.len).field("locked", &self.is_locked()).finish()
    }
}

impl<R> core::fmt::Debug for RegisterRefused<R> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("RegisterRefused").field("error", &self.error).finish_non_exhaustive()
    }
}

const PORTABLE: u32 = sys::CU_MEMHOSTALLOC_PORTABLE;
const WRITE_COMBINED: u32 = sys::CU_MEMHOSTALLOC_WRITECOMBINED;
const REGISTER_PORTABLE: u32 = sys::CU_MEMHOSTREGISTER_PORTABLE;
/// Bytes of the largest registration that is tried.
const MAX_REGISTERED: u64 = 64 << 30;
/// What `max_region` limits.
const REGION: &str = "one region of host memory";
