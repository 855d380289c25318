//! Buffers of the simulated device and views of them.

use super::queue::SimQueue;
use super::run::Work;
use super::state::{Shared, Store};
use super::{Call, Place, SimError};
use allocator_core::{DeviceBuffer, check_copy, check_range};
use pinned_host::{Access, QueuedBuffer};
use std::ops::Range;
use std::sync::Arc;

/// Memory of a [`SimDevice`](super::SimDevice). Cloning names the same memory; fresh bytes are poison.
#[derive(Clone)]
pub struct SimBuffer {
    owner: Arc<Owner>,
    queue: SimQueue,
}

impl SimBuffer {
    pub(crate) fn new(size: u64, queue: &SimQueue) -> Result<Self, SimError> {
        let shared = queue.shared();
        let number = shared.new_place_number();
        shared.with(|sim| {
            sim.admit(Call::Buffer, size)?;
            let (held, limit) = (sim.memory.current, sim.memory_limit);
            let full = SimError::OutOfMemory { asked: size, held, limit };
            if limit.is_some_and(|limit| held.saturating_add(size) > limit) {
                return Err(full);
            }
            let Ok(len) = usize::try_from(size) else { return Err(full) };
            let mut bytes = Vec::new();
            if bytes.try_reserve_exact(len).is_err() {
                return Err(full);
            }
            bytes.resize(len, FRESH);
            sim.buffers.insert(number, Store { bytes, written: Default::default() });
            sim.memory.current += size;
            sim.memory.peak = sim.memory.peak.max(sim.memory.current);
            Ok(())
        })?;
        Ok(SimBuffer {
            owner: Arc::new(Owner { shared: Arc::clone(shared), number, size }),
            queue: queue.clone(),
        })
    }

    pub(crate) fn owner(&self) -> &Arc<Owner> {
        &self.owner
    }

    /// Its number on the device, as reports name it.
    pub fn number(&self) -> u64 {
        self.owner.number
    }
}

impl DeviceBuffer for SimBuffer {
    type View<'a> = SimView<'a>;
    type Error = SimError;

    fn size(&self) -> u64 {
        self.owner.size
    }

    fn grain(&self) -> u64 {
        self.owner.shared.grain
    }

    fn copy_within(&mut self, src: Range<u64>, dst: u64) -> Result<(), SimError> {
        check_copy(self.size(), self.grain(), &src, dst)?;
        let (place, len) = (self.owner.place(), src.end - src.start);
        let touches = [(place, src.clone(), Access::Read), (place, dst..dst + len, Access::Write)];
        let work = Work::Move { buffer: Arc::clone(&self.owner), src, dst };
        self.owner.shared.with(|sim| {
            let fate = sim.admit(Call::CopyWithin, len)?.fate;
            sim.submit(self.queue.number(), Call::CopyWithin, &touches, fate, work);
            Ok(())
        })
    }

    fn view(&self, range: Range<u64>) -> Result<SimView<'_>, SimError> {
        check_range(self.size(), self.grain(), &range)?;
        Ok(SimView { owner: &self.owner, range })
    }
}

impl QueuedBuffer for SimBuffer {
    type Queue = SimQueue;

    fn queue(&self) -> &SimQueue {
        &self.queue
    }
}

impl core::fmt::Debug for SimBuffer {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        let Owner { number, size, .. } = &*self.owner;
        f.debug_struct("SimBuffer").field("number", number).field("size", size).finish_non_exhaustive()
    }
}

/// A range of a [`SimBuffer`]: declares a kernel's accesses and reads or writes the bytes as the host.
#[derive(Clone)]
pub struct SimView<'a> {
    owner: &'a Arc<Owner>,
    range: Range<u64>,
}

impl SimView<'_> {
    /// The viewed bytes of the buffer.
    pub fn range(&self) -> Range<u64> {
        self.range.clone()
    }

    /// Declares that a kernel reads the range.
    pub fn read(&self) -> Touch {
        self.touch(Access::Read)
    }

    /// Declares that a kernel writes the range.
    pub fn write(&self) -> Touch {
        self.touch(Access::Write)
    }

    /// The bytes as they are now, read by the host. Checked as such: the host must have waited for their writers.
    ///
    /// # Errors
    /// A fault, a lost device.
    pub fn bytes(&self) -> Result<Vec<u8>, SimError> {
        // Within the buffer, so it fits.
        let mut bytes = vec![0; (self.range.end - self.range.start) as usize];
        self.owner.read_now(self.range.start, &mut bytes)?;
        Ok(bytes)
    }

    fn touch(&self, access: Access) -> Touch {
        Touch { owner: Arc::clone(self.owner), range: self.range.clone(), access }
    }
}

impl core::fmt::Debug for SimView<'_> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_tuple("SimView").field(&self.range).finish()
    }
}

/// A range that a kernel uses, and how; made by [`SimView::read`] and [`SimView::write`].
#[derive(Clone)]
pub struct Touch {
    pub(crate) owner: Arc<Owner>,
    pub(crate) range: Range<u64>,
    pub(crate) access: Access,
}

impl core::fmt::Debug for Touch {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_tuple("Touch").field(&self.owner.place()).field(&self.range).field(&self.access).finish()
    }
}

/// Keeps a buffer's bytes in the device's state; shared by clones and by operations in flight.
pub(crate) struct Owner {
    pub(crate) shared: Arc<Shared>,
    pub(crate) number: u64,
    size: u64,
}

impl Owner {
    pub(crate) fn place(&self) -> Place {
        Place::Buffer(self.number)
    }

    pub(crate) fn read_now(&self, from: u64, dst: &mut [u8]) -> Result<(), SimError> {
        let range = from..from + dst.len() as u64;
        self.shared.with(|sim| {
            sim.admit(Call::ReadNow, dst.len() as u64)?;
            let operation = sim.host_access(Call::ReadNow, &[(self.place(), range.clone(), Access::Read)]);
            sim.note_poison(operation, self.number, &range);
            if let Some(store) = sim.buffers.get(&self.number) {
                dst.copy_from_slice(store.slice(&range));
            }
            Ok(())
        })
    }

    pub(crate) fn write_now(&self, at: u64, src: &[u8]) -> Result<(), SimError> {
        let range = at..at + src.len() as u64;
        self.shared.with(|sim| {
            sim.admit(Call::WriteNow, src.len() as u64)?;
            sim.host_access(Call::WriteNow, &[(self.place(), range.clone(), Access::Write)]);
            if let Some(store) = sim.buffers.get_mut(&self.number) {
                store.slice_mut(&range).copy_from_slice(src);
                store.written.insert(&range);
            }
            Ok(())
        })
    }
}

impl Drop for Owner {
    fn drop(&mut self) {
        self.shared.let_go(self.place());
    }
}

/// What fresh bytes hold.
const FRESH: u8 = 0xdb;
