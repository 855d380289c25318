//! Host memory of the simulated device.

use super::state::{Region, Shared};
use super::{Call, Place, SimError};
use core::ptr::NonNull;
use pinned_host::{HostRegion, PageLocker};
use std::alloc::{Layout, alloc_zeroed, dealloc};
use std::sync::Arc;

/// Makes host memory for a [`SimDevice`](super::SimDevice): heap memory, counted against the simulated lock limit.
#[derive(Clone)]
pub struct SimLocker {
    shared: Arc<Shared>,
}

impl SimLocker {
    pub(crate) fn new(shared: &Arc<Shared>) -> Self {
        SimLocker { shared: Arc::clone(shared) }
    }

    fn region(&self, bytes: usize, locked: bool) -> Result<SimRegion, SimError> {
        let asked = bytes as u64;
        if asked == 0 {
            return Err(SimError::ZeroSize);
        }
        let number = self.shared.new_place_number();
        self.shared.with(|sim| {
            if locked {
                sim.admit(Call::Lock, asked)?;
                let limit = sim.lock_limit;
                if limit.is_some_and(|limit| sim.locked.saturating_add(asked) > limit) {
                    return Err(SimError::LockLimit { asked, locked: sim.locked, limit });
                }
            } else if sim.lost {
                return Err(SimError::DeviceLost);
            }
            let no_memory = SimError::OutOfMemory { asked, held: sim.memory.current, limit: None };
            let Ok(layout) = Layout::from_size_align(bytes, PAGE) else { return Err(no_memory) };
            // SAFETY: the layout has at least one byte.
            let Some(base) = NonNull::new(unsafe { alloc_zeroed(layout) }) else { return Err(no_memory) };
            sim.regions.insert(number, Region { bytes: asked, locked });
            sim.locked += if locked { asked } else { 0 };
            Ok(SimRegion { shared: Arc::clone(&self.shared), number, base, layout, locked })
        })
    }
}

impl PageLocker for SimLocker {
    type Region = SimRegion;
    type Error = SimError;

    fn lock(&self, bytes: usize) -> Result<SimRegion, SimError> {
        self.region(bytes, true)
    }

    fn allowance(&self) -> Option<u64> {
        self.shared.with(|sim| sim.lock_limit.map(|limit| limit.saturating_sub(sim.locked)))
    }

    fn pageable(&self, bytes: usize) -> Option<Result<SimRegion, SimError>> {
        Some(self.region(bytes, false))
    }
}

impl core::fmt::Debug for SimLocker {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("SimLocker").field("allowance", &self.allowance()).finish()
    }
}

/// Heap memory aligned to 4 KiB, known to the simulated device by number.
pub struct SimRegion {
    shared: Arc<Shared>,
    number: u64,
    base: NonNull<u8>,
    layout: Layout,
    locked: bool,
}

impl SimRegion {
    /// Its number on the device, as reports name it.
    pub fn number(&self) -> u64 {
        self.number
    }

    pub(crate) fn is_reached_by(&self, shared: &Shared) -> bool {
        self.shared.is_beside(shared)
    }
}

// SAFETY: a heap allocation of `layout`, zeroed, never moved, freed only in `Drop`; its address is given out through
// `base` alone.
unsafe impl HostRegion for SimRegion {
    fn base(&self) -> NonNull<u8> {
        self.base
    }

    fn len(&self) -> usize {
        self.layout.size()
    }

    fn is_locked(&self) -> bool {
        self.locked
    }
}

// SAFETY: the value owns its allocation, which no thread is special to, and reads nothing through it.
unsafe impl Send for SimRegion {}
// SAFETY: as above.
unsafe impl Sync for SimRegion {}

impl Drop for SimRegion {
    fn drop(&mut self) {
        self.shared.let_go(Place::Host(self.number));
        // SAFETY: allocated in `region` with this layout; nobody uses it any more, by the contract of `HostRegion`.
        unsafe { dealloc(self.base.as_ptr(), self.layout) };
    }
}

impl core::fmt::Debug for SimRegion {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("SimRegion")
            .field("number", &self.number)
            .field("len", &self.layout.size())
            .field("locked", &self.locked)
            .finish_non_exhaustive()
    }
}

const PAGE: usize = 4096;
