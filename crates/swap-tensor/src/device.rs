//! The devices of a pool: how they are named, and what each has of its own.

use crate::{SwapError, observe::Probe, pool::Inner, stats::DeviceCounters};
use allocator_core::{Arena, Handle, Plan};
use core::{
    fmt,
    ops::{Index, IndexMut, Range},
};
use pinned_host::{Access, Hazards, Transfer};

/// Which device of a pool: they count in the order in which the [`PoolBuilder`](crate::PoolBuilder) was given them.
///
/// An index says nothing of the pool it is for: each call refuses one beyond its pool's devices ([`SwapError::NoDevice`]).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct DeviceIndex(u8);

impl DeviceIndex {
    /// The device that a pool was begun with; the only one, unless more were added.
    pub const FIRST: DeviceIndex = DeviceIndex(0);

    /// The most devices that a pool can have.
    pub const MOST: usize = 64;

    /// The device after `before` others.
    pub const fn new(before: u8) -> Self {
        DeviceIndex(before)
    }

    /// How many devices come before it.
    pub const fn index(self) -> usize {
        self.0 as usize
    }

    /// Its bit in a set of devices.
    pub(crate) const fn bit(self) -> u64 {
        1 << self.0
    }
}

impl fmt::Display for DeviceIndex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// A tensor's slot on one device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Spot {
    /// The tensor's number.
    pub(crate) at: u32,
    pub(crate) on: DeviceIndex,
}

/// One value for each device. The first lies inline: a pool of one device allocates nothing for it.
#[derive(Debug)]
pub(crate) struct PerDevice<V> {
    first: V,
    rest: Box<[V]>,
}

impl<V> PerDevice<V> {
    pub(crate) fn new(first: V, rest: Vec<V>) -> Self {
        debug_assert!(rest.len() < DeviceIndex::MOST);
        PerDevice { first, rest: rest.into_boxed_slice() }
    }

    /// So many values, each made for its device.
    pub(crate) fn each(devices: usize, mut make: impl FnMut(DeviceIndex) -> V) -> Self {
        let first = make(DeviceIndex::FIRST);
        PerDevice::new(first, (1..devices).map(|before| make(DeviceIndex(before as u8))).collect())
    }

    /// The value that each becomes, unless one cannot.
    pub(crate) fn try_map<U, E>(
        self,
        mut make: impl FnMut(DeviceIndex, V) -> Result<U, E>,
    ) -> Result<PerDevice<U>, E> {
        let first = make(DeviceIndex::FIRST, self.first)?;
        let rest = self.rest.into_iter().zip(1..);
        let rest = rest.map(|(value, before)| make(DeviceIndex(before), value)).collect::<Result<_, _>>()?;
        Ok(PerDevice::new(first, rest))
    }

    pub(crate) fn as_ref(&self) -> PerDevice<&V> {
        PerDevice::new(&self.first, self.rest.iter().collect())
    }

    pub(crate) fn len(&self) -> usize {
        1 + self.rest.len()
    }

    /// The devices, in order.
    pub(crate) fn indices(&self) -> impl DoubleEndedIterator<Item = DeviceIndex> + use<V> {
        (0..self.len()).map(|before| DeviceIndex(before as u8))
    }

    pub(crate) fn values(&self) -> impl Iterator<Item = &V> {
        core::iter::once(&self.first).chain(&self.rest)
    }

    pub(crate) fn values_mut(&mut self) -> impl Iterator<Item = &mut V> {
        core::iter::once(&mut self.first).chain(&mut self.rest)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (DeviceIndex, &V)> {
        self.indices().zip(self.values())
    }
}

// Indices that a caller brings are compared with the pool's devices where they come in.
impl<V> Index<DeviceIndex> for PerDevice<V> {
    type Output = V;

    fn index(&self, on: DeviceIndex) -> &V {
        match on.index() {
            0 => &self.first,
            before => &self.rest[before - 1],
        }
    }
}

impl<V> IndexMut<DeviceIndex> for PerDevice<V> {
    fn index_mut(&mut self, on: DeviceIndex) -> &mut V {
        match on.index() {
            0 => &mut self.first,
            before => &mut self.rest[before - 1],
        }
    }
}

/// A device, and what can be used of it without the lock.
pub(crate) struct Device<T: Transfer> {
    /// A clone of the arena's buffer, for copies made without the lock.
    pub(crate) buffer: T::Buffer,
    /// The queue moves run on, and leases by default.
    pub(crate) queue: T::Queue,
    /// An event of this device, long fired: another device's queue cannot wait for it.
    pub(crate) origin: T::Event,
    pub(crate) probe: Probe<T::Event>,
    /// Last: everything above may still have work on it.
    pub(crate) transfer: T,
}

/// What the books have of one device.
pub(crate) struct DeviceBooks<T: Transfer> {
    pub(crate) arena: Arena<T::Buffer>,
    /// Who must wait for whom on which bytes of the arena's buffer.
    pub(crate) hazards: Hazards<T::Event>,
    /// Work in flight that changes a block in place, moves and writes under a lease: the event behind it, and the block.
    pub(crate) changes: Vec<(T::Event, Handle)>,
    /// Number of changes at which those that have ended are looked for.
    pub(crate) look_at: usize,
    /// Accesses of moves whose end no event marks yet: nothing else is enqueued before one does.
    pub(crate) unsealed: Vec<(Range<u64>, Access)>,
    /// Tensors leased for writing now, and the queues their leases are on.
    pub(crate) writers: Vec<(u32, T::Queue)>,
    /// Bytes under lease or pin; never more than the arena.
    pub(crate) held: u64,
    /// Bytes that write-backs in flight will give back.
    pub(crate) leaving: u64,
    /// Bytes that tensors may take: at most the arena.
    pub(crate) budget: u64,
    /// Whether the device is gone.
    pub(crate) lost: bool,
    pub(crate) counters: DeviceCounters,
    pub(crate) probe: Probe<T::Event>,
    /// Scratch, kept so that a transfer allocates nothing.
    pub(crate) plan: Plan,
    pub(crate) waits: Vec<T::Event>,
    pub(crate) accesses: Vec<(Range<u64>, Access)>,
}

impl<T: Transfer> DeviceBooks<T> {
    pub(crate) fn new(arena: Arena<T::Buffer>, probe: Probe<T::Event>) -> Self {
        DeviceBooks {
            budget: arena.allocator().size(),
            arena,
            hazards: Hazards::new(),
            changes: Vec::new(),
            look_at: LOOK_FLOOR,
            unsealed: Vec::new(),
            writers: Vec::new(),
            held: 0,
            leaving: 0,
            lost: false,
            counters: DeviceCounters::default(),
            probe,
            plan: Plan::default(),
            waits: Vec::new(),
            accesses: Vec::new(),
        }
    }

    /// Bytes that tensors take.
    pub(crate) fn taken(&self) -> u64 {
        self.arena.allocator().size() - self.arena.total_free()
    }

    /// Bytes that tensors may take and have not taken.
    pub(crate) fn spare(&self) -> u64 {
        self.budget.saturating_sub(self.taken())
    }

    /// Whether no lease, and no work that nobody can wait for, holds the block in place.
    pub(crate) fn is_free_to_go(&self, block: Option<Handle>) -> bool {
        block.is_some_and(|block| self.arena.block(block).is_ok_and(|b| b.leases == 0))
    }

    /// Whether work in flight still changes `block`.
    pub(crate) fn is_changing(&self, block: Option<Handle>) -> bool {
        self.changes.iter().any(|&(_, changed)| Some(changed) == block)
    }
}

impl<T: Transfer> Inner<T> {
    pub(crate) fn on(&self, on: DeviceIndex) -> &Device<T> {
        &self.devices[on]
    }

    /// Refuses a device that the pool has not.
    pub(crate) fn check_device(&self, on: DeviceIndex) -> Result<(), SwapError> {
        let devices = self.devices.len();
        if on.index() < devices { Ok(()) } else { Err(SwapError::NoDevice { device: on, devices }) }
    }

    pub(crate) fn lost(&self, on: DeviceIndex) -> SwapError {
        SwapError::Device {
            operation: "use the device",
            kind: pinned_host::ErrorKind::DeviceLost,
            source: format!("device {on} of the pool was lost earlier").into(),
        }
    }
}

/// Fewer changes are not worth looking at before somebody asks.
pub(crate) const LOOK_FLOOR: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_found_by_their_device_and_come_in_order() {
        let mut values = PerDevice::each(3, |on| 10 * on.index());
        assert_eq!((values.len(), values.iter().collect::<Vec<_>>().len()), (3, 3));
        for (on, value) in values.iter() {
            assert_eq!((*value, values[on]), (10 * on.index(), *value));
        }
        values[DeviceIndex::new(2)] = 7;
        values.values_mut().for_each(|value| *value += 1);
        assert_eq!(values.values().copied().collect::<Vec<_>>(), [1, 11, 8]);
        assert_eq!(PerDevice::each(1, |_| ()).indices().collect::<Vec<_>>(), [DeviceIndex::FIRST]);
    }
}
