//! A device: an arena that tensors share, with or without arithmetic.

use crate::store::{Room, Store};
use crate::tracking::Tracking;
use crate::{Category, Float, ModelError, Tensor};
use allocator_core::{Arena, DeviceBuffer, Handle, Stats};
use mem_tracker::{Phase, Tracker};
use pinned_host::Transfer;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

/// Memory that tensors live in, and whether anything is computed there. Cloning names the same device.
///
/// The same program runs on both kinds and makes the same allocations in the same order: one by [`computing`](Self::computing)
/// has numbers in its tensors, one by [`allocating`](Self::allocating) has blocks and nothing in them.
#[derive(Clone)]
pub struct Device {
    shared: Arc<Shared>,
}

struct Shared {
    store: Mutex<Box<dyn Store>>,
    computes: bool,
    tracking: OnceLock<Tracking>,
}

impl Device {
    /// A device that computes in `f32` on the host, in `bytes` of `device`'s memory.
    ///
    /// Numbers go to the host and back by the device's plain copies: fast where its memory is the host's, right everywhere.
    ///
    /// # Errors
    /// [`ModelError::Device`], [`ModelError::Alloc`]: no such buffer.
    pub fn computing<T: Transfer>(device: T, bytes: u64) -> Result<Self, ModelError> {
        let buffer = device.buffer(bytes).map_err(|refusal| ModelError::Device {
            what: "make an arena for",
            bytes,
            source: Box::new(refusal),
        })?;
        let arena = Arena::new(buffer).map_err(|source| ModelError::Alloc { bytes, source })?;
        Ok(Self::over(Room::of_numbers(arena, device), true))
    }

    /// A device that only allocates, in any arena.
    pub fn allocating<B: DeviceBuffer + Send + 'static>(arena: Arena<B>) -> Self {
        Self::over(Room::of_blocks(arena), false)
    }

    fn over(store: impl Store + 'static, computes: bool) -> Self {
        Device {
            shared: Arc::new(Shared {
                store: Mutex::new(Box::new(store)),
                computes,
                tracking: OnceLock::new(),
            }),
        }
    }

    /// Lets a tracker hear what this device allocates, as its device `name`: do it before the first tensor is made.
    ///
    /// # Errors
    /// [`ModelError::Tracker`] as [`Tracker::device`]; [`ModelError::Tracked`] the second time.
    pub fn track(&self, tracker: &Tracker, name: &str) -> Result<(), ModelError> {
        let mut store = self.store();
        let tracking = Tracking::new(tracker, name, store.stats().size)?;
        let observer = tracking.watch().observer();
        self.shared.tracking.set(tracking).map_err(|_| ModelError::Tracked)?;
        store.observe(Box::new(observer));
        Ok(())
    }

    /// What this thread makes until the guard is dropped is of this category, whatever it is doing. Guards are `None` where
    /// nobody tracks the device.
    #[must_use = "it ends when this is dropped"]
    pub fn holding(&self, category: Category) -> Option<Phase> {
        self.tracking().map(|tracking| tracking.tracker().category(category))
    }

    /// This thread runs backward until the guard is dropped.
    #[must_use = "it ends when this is dropped"]
    pub fn backward(&self) -> Option<Phase> {
        self.tracking().map(|tracking| tracking.tracker().backward())
    }

    /// This thread runs a step of an optimizer until the guard is dropped.
    #[must_use = "it ends when this is dropped"]
    pub fn optimizer_step(&self) -> Option<Phase> {
        self.tracking().map(|tracking| tracking.tracker().optimizer_step())
    }

    pub(crate) fn tracking(&self) -> Option<&Tracking> {
        self.shared.tracking.get()
    }

    /// Whether tensors have numbers in them.
    #[must_use]
    pub fn computes(&self) -> bool {
        self.shared.computes
    }

    /// The arena in numbers: its own count of live bytes, and the most there were. O(holes in a size class).
    #[must_use]
    pub fn stats(&self) -> Stats {
        self.store().stats()
    }

    /// Computes the elements of `out` from those of `inputs`, where this device computes; `out` starts as zeros.
    ///
    /// One operation to the tracker, computed or not. The closure sees every tensor as `f32`, an expanded one at full length.
    ///
    /// # Errors
    /// [`ModelError::Device`]; [`ModelError::Shape`] for an expanded `out`.
    pub fn compute<const N: usize>(
        &self,
        inputs: [&Tensor; N],
        out: &Tensor,
        kernel: impl FnOnce([&[f32]; N], &mut [f32]),
    ) -> Result<(), ModelError> {
        self.run(inputs, out, |out| Ok(vec![0.0; out.elements()]), kernel)
    }

    /// As [`compute`](Self::compute), but `out` starts as it is.
    ///
    /// # Errors
    /// As [`compute`](Self::compute).
    pub fn update<const N: usize>(
        &self,
        inputs: [&Tensor; N],
        out: &Tensor,
        kernel: impl FnOnce([&[f32]; N], &mut [f32]),
    ) -> Result<(), ModelError> {
        self.run(inputs, out, Tensor::values, kernel)
    }

    fn run<const N: usize>(
        &self,
        inputs: [&Tensor; N],
        out: &Tensor,
        start: impl FnOnce(&Tensor) -> Result<Vec<f32>, ModelError>,
        kernel: impl FnOnce([&[f32]; N], &mut [f32]),
    ) -> Result<(), ModelError> {
        if self.computes() {
            let mut read: [Vec<f32>; N] = [const { Vec::new() }; N];
            for (values, input) in read.iter_mut().zip(inputs) {
                *values = input.values()?;
            }
            let mut values = start(out)?;
            kernel(read.each_ref().map(Vec::as_slice), &mut values);
            out.set(&values)?;
        }
        if let Some(tracking) = self.tracking() {
            tracking.tracker().operation();
        }
        Ok(())
    }

    pub(crate) fn allocate(&self, bytes: u64) -> Result<Handle, ModelError> {
        self.store().allocate(bytes)
    }

    pub(crate) fn release(&self, handle: Handle) {
        // Refused only for a block that somebody leased, and nobody can.
        let _ = self.store().release(handle);
    }

    pub(crate) fn read(&self, handle: Handle, float: Float, elements: usize) -> Result<Vec<f32>, ModelError> {
        let mut bytes = vec![0; elements * float.bytes() as usize];
        self.store().read(handle, &mut bytes)?;
        Ok(float.decode(&bytes))
    }

    pub(crate) fn write(&self, handle: Handle, float: Float, values: &[f32]) -> Result<(), ModelError> {
        self.store().write(handle, &float.encode(values))
    }

    fn store(&self) -> MutexGuard<'_, Box<dyn Store>> {
        // Every section is one call that does all of it or nothing.
        self.shared.store.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl core::fmt::Debug for Device {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Device").field("computes", &self.computes()).finish_non_exhaustive()
    }
}
