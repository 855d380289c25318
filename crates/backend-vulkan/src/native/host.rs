//! Host memory that the device reaches.

use super::context::Context;
use super::memory::{COPY_USAGE, Mapped, Memory, Use};
use super::{ImportProblem, VulkanError};
use core::any::TypeId;
use core::ptr::NonNull;
use pinned_host::{HostRegion, OsMemory, PageLocker};
use std::sync::Arc;

/// Makes host memory that one device reaches: the driver's, or the caller's, imported.
///
/// Clones make memory for the same device.
#[derive(Clone)]
pub struct VulkanLocker {
    context: Arc<Context>,
    kind: HostMemory,
}

/// Where [`VulkanLocker::lock`](PageLocker::lock) takes memory from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum HostMemory {
    /// On a software device, whose memory is the host's, pages of the operating system that nobody has to lock, huge where
    /// there are such; on hardware the driver's.
    #[default]
    Best,
    /// Host-visible memory of the driver: cached and coherent where there is such.
    Driver,
    /// Pages of the operating system, locked and then imported through `VK_EXT_external_memory_host`: present before the
    /// device sees them, and counted against the lock limit.
    ///
    /// Ordinary pages ([`OsMemory::for_drivers`]): the kernel joins and splits transparent huge pages, which imported ones are
    /// in the way of. For huge ones, [import](VulkanLocker::import) memory on
    /// [explicit huge pages](pinned_host::HugePages::Explicit).
    Imported,
}

/// Host memory with a Vulkan buffer over all of it.
///
/// Fork: on hardware a child has none of it. There it is not [locked](HostRegion::is_locked), and dropping it calls no driver.
pub struct VulkanRegion {
    memory: Arc<Memory>,
    base: NonNull<u8>,
    len: usize,
}

/// Host memory that was not imported, and why.
#[derive(thiserror::Error)]
#[error("{error}")]
pub struct ImportRefused<R> {
    /// The caller's memory, as it was.
    pub region: R,
    /// Why.
    #[source]
    pub error: VulkanError,
}

impl VulkanLocker {
    pub(super) fn new(context: &Arc<Context>, kind: HostMemory) -> Self {
        VulkanLocker { context: Arc::clone(context), kind }
    }

    /// Makes memory of the caller's one that the device copies from and to without another copy.
    ///
    /// # Errors
    /// The device has not `VK_EXT_external_memory_host`, start or length are off `minImportedHostPointerAlignment`, the
    /// region is memory of a Vulkan device already, or the driver refuses. The region comes back as it was.
    pub fn import<R: HostRegion>(&self, region: R) -> Result<VulkanRegion, ImportRefused<R>> {
        let (base, len) = (region.base(), region.len());
        if TypeId::of::<R>() == TypeId::of::<VulkanRegion>() {
            let (address, why) = (base.as_ptr().addr(), ImportProblem::NotTheHosts);
            return Err(ImportRefused { region, error: VulkanError::Import { address, bytes: len, why } });
        }
        // SAFETY: the region goes with the memory, below; its bytes are given to tickets only.
        let imported =
            unsafe { Memory::import(&self.context, (base, len), len as u64, Use::Host, COPY_USAGE) };
        match imported {
            Err(error) => Err(ImportRefused { region, error }),
            Ok(mut memory) => {
                memory.owns(Box::new(region));
                Ok(Self::pinned(memory, base, len))
            }
        }
    }

    fn driver(&self, bytes: usize) -> Result<VulkanRegion, VulkanError> {
        let region = self.region(Memory::new(&self.context, bytes as u64, Use::Host, COPY_USAGE)?, bytes)?;
        // SAFETY: all of the mapping, which nobody else has seen. The contents of new memory are undefined; a region's
        // bytes are not. It is the first touch of every page, too.
        unsafe { core::ptr::write_bytes(region.base.as_ptr(), 0, bytes) };
        region.memory.flush(0, bytes as u64)?;
        Ok(region)
    }

    fn region(&self, memory: Memory, len: usize) -> Result<VulkanRegion, VulkanError> {
        let Some(Mapped { base, .. }) = memory.mapped() else {
            return Err(VulkanError::Unsupported {
                device: self.context.name.clone(),
                what: "host-visible memory",
            });
        };
        Ok(Self::pinned(memory, base, len))
    }

    fn pinned(mut memory: Memory, base: NonNull<u8>, len: usize) -> VulkanRegion {
        memory.pin(base, len);
        VulkanRegion { memory: Arc::new(memory), base, len }
    }
}

impl PageLocker for VulkanLocker {
    type Region = VulkanRegion;
    type Error = VulkanError;

    /// A zeroed region of exactly `bytes` bytes, or of whole pages where they are imported.
    ///
    /// # Errors
    /// A limit or budget of the device, the lock limit of the system where pages are imported, or a refusal.
    fn lock(&self, bytes: usize) -> Result<VulkanRegion, VulkanError> {
        let ours = (self.kind == HostMemory::Best)
            .then(|| Memory::of_system(&self.context, bytes as u64, Use::Host, COPY_USAGE))
            .flatten();
        match (ours, self.kind) {
            (Some(memory), _) => self.region(memory?, bytes),
            (None, HostMemory::Driver | HostMemory::Best) => self.driver(bytes),
            (None, HostMemory::Imported) => {
                let align = self.context.limits.import_align as usize;
                let bytes = bytes.checked_next_multiple_of(align).unwrap_or(bytes);
                self.import(IMPORTED.lock(bytes)?).map_err(|refused| refused.error)
            }
        }
    }

    /// Half of what is left of the budget of the heap that host memory comes from, where the device tells; half the lock
    /// limit where pages are imported.
    fn allowance(&self) -> Option<u64> {
        match self.kind {
            HostMemory::Imported => IMPORTED.allowance(),
            HostMemory::Driver | HostMemory::Best => Memory::host_budget(&self.context).map(|left| left / 2),
        }
    }

    /// The smaller of `maxMemoryAllocationSize` and `maxBufferSize`, rounded down to what any driver's rounding keeps.
    fn max_region(&self) -> usize {
        let limits = &self.context.limits;
        let most = limits.allocation.min(limits.buffer.unwrap_or(u64::MAX)) & !(ROUNDING - 1);
        usize::try_from(most).unwrap_or(usize::MAX)
    }
}

impl core::fmt::Debug for VulkanLocker {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("VulkanLocker").field("device", &self.context.id).field("kind", &self.kind).finish()
    }
}

// SAFETY: the memory is the mapping of `memory`, or the caller's region kept there: neither moves nor goes before the
// value; the driver's was zeroed, the region's is initialised by its own promise.
unsafe impl HostRegion for VulkanRegion {
    fn base(&self) -> NonNull<u8> {
        self.base
    }

    fn len(&self) -> usize {
        self.len
    }

    /// Whether the pages stay: always on hardware, whose driver pins them, and never on a software device, which does
    /// not; imported ones may have been locked before. Not in a child of `fork`.
    fn is_locked(&self) -> bool {
        self.memory.is_locked()
    }

    fn prepare(&self, offset: usize, bytes: usize) {
        if let Some(host) = self.memory.host() {
            host.prepare(offset, bytes);
        }
    }

    /// `nonCoherentAtomSize` where the memory is not coherent.
    fn atom(&self) -> usize {
        match self.memory.mapped() {
            Some(Mapped { coherent: false, .. }) => self.memory.context().limits.atom as usize,
            _ => self.memory.host().map_or(1, HostRegion::atom),
        }
    }
}

// SAFETY: the pointer is only given out, through `base`; the rest is thread-safe by itself.
unsafe impl Send for VulkanRegion {}
// SAFETY: as above.
unsafe impl Sync for VulkanRegion {}

impl VulkanRegion {
    pub(super) fn memory(&self) -> &Arc<Memory> {
        &self.memory
    }
}

impl core::fmt::Debug for VulkanRegion {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("VulkanRegion")
            .field("len", &self.len)
            .field("imported", &self.memory.host().is_some())
            .field("locked", &self.is_locked())
            .finish_non_exhaustive()
    }
}

impl<R> core::fmt::Debug for ImportRefused<R> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("ImportRefused").field("error", &self.error).finish_non_exhaustive()
    }
}

/// What is imported: pages that may be pinned for long.
const IMPORTED: OsMemory = OsMemory::for_drivers();
/// Drivers round allocations up to no more than this.
const ROUNDING: u64 = 64 << 10;
