//! The books of a pool: which copy of which tensor is where, in what state, and who uses it.
//!
//! Everything here happens under the pool's one lock, in short sections: no wait, no I/O, no copy of payload. What
//! needs a device only *enqueues*.

use crate::{
    SlotState, SwapError, TensorSpec,
    device::{DeviceBooks, DeviceIndex, LOOK_FLOOR, PerDevice, Spot},
    entry::{Busy, DeviceSlot, Entry},
    leases::OpenLeases,
    observe::Counted,
    policy::Tier,
    rule::Rule,
    spares::Spares,
    spill::Spill,
    stats::Counters,
    track::Ledger,
};
use allocator_core::Handle;
use core::ops::Range;
use pinned_host::{Queue, Ticket, Transfer};
use std::{collections::HashMap, time::Instant};

/// Everything the lock guards.
pub(crate) struct Books<T: Transfer> {
    pub(crate) devices: PerDevice<DeviceBooks<T>>,
    /// Who leaves each device first; the first device's has the order of the host tier, too.
    pub(crate) rules: PerDevice<Rule>,
    pub(crate) entries: Vec<Entry<T>>,
    /// Numbers of entries that are not in use.
    vacant: Vec<u32>,
    pub(crate) names: HashMap<String, u32>,
    /// Host copies that may be given up.
    pub(crate) spares: Spares,
    /// Transfers in flight that own a host copy's memory.
    pub(crate) jobs: Vec<Job<T>>,
    /// How many of those, and of writes to the lower tier, have begun so far: the number of the next.
    pub(crate) begun: u64,
    /// Leases that are open now.
    pub(crate) open: OpenLeases,
    /// Tensors being written to the lower tier, and bytes of host memory that will be free after it.
    pub(crate) spills: u32,
    pub(crate) spilling: u64,
    /// The first write-back failure nobody has been told of yet, and the device whose copy was written; `None`: the host's.
    pub(crate) fault: Option<(Option<DeviceIndex>, SwapError)>,
    /// Threads that sleep until something changes.
    pub(crate) sleepers: u32,
    pub(crate) counters: Counters,
    /// What a memory tracker is told.
    pub(crate) ledger: Ledger<T>,
}

/// A transfer in flight between a host copy and a device.
pub(crate) struct Job<T: Transfer> {
    pub(crate) number: u64,
    pub(crate) spot: Spot,
    pub(crate) kind: JobKind,
    /// The version it carries.
    pub(crate) version: u64,
    pub(crate) ticket: Ticket<T>,
    pub(crate) _counted: Counted,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum JobKind {
    /// Host copy to device.
    SwapIn,
    /// Device to host copy.
    WriteBack,
}

impl<T: Transfer> Books<T> {
    pub(crate) fn new(devices: PerDevice<DeviceBooks<T>>, rules: PerDevice<Rule>, ledger: Ledger<T>) -> Self {
        Books {
            devices,
            rules,
            entries: Vec::new(),
            vacant: Vec::new(),
            names: HashMap::new(),
            spares: Spares::default(),
            jobs: Vec::new(),
            begun: 0,
            open: OpenLeases::new(),
            spills: 0,
            spilling: 0,
            fault: None,
            sleepers: 0,
            counters: Counters::default(),
            ledger,
        }
    }

    /// The entry of a live tensor or of a job: numbers come from [`insert`](Self::insert) only.
    pub(crate) fn entry(&self, at: u32) -> &Entry<T> {
        &self.entries[at as usize]
    }

    pub(crate) fn entry_mut(&mut self, at: u32) -> &mut Entry<T> {
        &mut self.entries[at as usize]
    }

    pub(crate) fn slot(&self, spot: Spot) -> &DeviceSlot {
        &self.entry(spot.at).devices[spot.on]
    }

    pub(crate) fn slot_mut(&mut self, spot: Spot) -> &mut DeviceSlot {
        &mut self.entry_mut(spot.at).devices[spot.on]
    }

    pub(crate) fn live(&self) -> impl Iterator<Item = (u32, &Entry<T>)> {
        self.entries.iter().enumerate().filter(|(_, e)| e.live).map(|(at, e)| (at as u32, e))
    }

    /// The number of what begins now.
    pub(crate) fn begin(&mut self) -> u64 {
        self.begun += 1;
        self.begun - 1
    }

    /// Enters a tensor without copies under its name.
    pub(crate) fn insert(&mut self, spec: TensorSpec, grain: u64) -> Result<u32, SwapError> {
        if self.names.contains_key(spec.name()) {
            return Err(SwapError::DuplicateName { name: spec.name().to_owned() });
        }
        let Some(padded) = spec.bytes().checked_next_multiple_of(grain) else {
            return Err(SwapError::Shape {
                name: spec.name().to_owned(),
                dtype: spec.dtype(),
                shape: spec.shape().to_vec(),
            });
        };
        let name = spec.name().to_owned();
        let owner = self.ledger.owner(&spec)?;
        let entry = Entry { owner, ..Entry::new(spec, padded, self.devices.len()) };
        let at = match self.vacant.pop() {
            Some(at) => {
                self.entries[at as usize] = entry;
                at
            }
            None => {
                self.entries.push(entry);
                (self.entries.len() - 1) as u32
            }
        };
        self.rules.values_mut().for_each(|rule| rule.created(at, &name, padded));
        self.names.insert(name, at);
        Ok(at)
    }

    /// The last handle of a tensor is gone: its room goes as soon as no transfer uses it.
    pub(crate) fn retire(&mut self, at: u32) {
        let entry = &mut self.entries[at as usize];
        entry.live = false;
        self.names.remove(entry.spec.name());
        for alias in entry.aliases.drain(..) {
            self.names.remove(&alias);
        }
        for on in self.devices.indices() {
            self.unpin_all(Spot { at, on });
            self.rules[on].dropped(at);
        }
        self.dispose_if_done(at);
    }

    fn unpin_all(&mut self, spot: Spot) {
        if core::mem::take(&mut self.slot_mut(spot).pins) > 0 {
            self.let_room_go(spot);
        }
    }

    /// A lease or a pin came to hold the room.
    pub(crate) fn hold_room(&mut self, spot: Spot) {
        self.devices[spot.on].held += self.entry(spot.at).padded;
        self.rules[spot.on].held(spot.at);
    }

    /// A lease or a pin ended: if it was the last there, nothing holds the room any more.
    pub(crate) fn let_room_go(&mut self, spot: Spot) {
        let entry = self.entry(spot.at);
        if !entry.is_held_on(spot.on) {
            self.devices[spot.on].held -= entry.padded;
            self.rules[spot.on].released(spot.at);
        }
    }

    /// Gives back everything a retired entry holds, once it is idle.
    pub(crate) fn dispose_if_done(&mut self, at: u32) {
        let entry = self.entry(at);
        let used = entry.jobs > 0 || entry.is_leased();
        if entry.live || used || entry.busy != Busy::No || entry.spill != Spill::No {
            return;
        }
        let entry = self.entry_mut(at);
        entry.disk.clear();
        entry.file = None;
        let left = self.devices.indices().filter(|&on| !self.release_device(Spot { at, on })).count();
        if left > 0 {
            return; // still in use by work whose end cannot be known; the number stays taken
        }
        self.drop_host_copy(at);
        self.rules.values_mut().for_each(|rule| rule.forgotten(at));
        self.vacant.push(at);
    }

    /// Gives the room of an unused copy on a device back. Work still in flight on it is ordered by the hazards. `false`: the
    /// block is a wall, because a lease is on it or some use of it never ended properly.
    pub(crate) fn release_device(&mut self, spot: Spot) -> bool {
        let Spot { at, on } = spot;
        let (device, entry) = (&mut self.devices[on], &mut self.entries[at as usize]);
        let slot = &mut entry.devices[on];
        let Some(block) = slot.block else { return true };
        if device.arena.release(block).is_err() {
            return false;
        }
        slot.block = None;
        slot.ordered = false;
        if slot.state != SlotState::Lost {
            slot.state.step(SlotState::Absent);
        }
        if slot.leaving {
            slot.leaving = false;
            device.leaving -= entry.padded;
        }
        slot.fetched_ahead = false;
        self.rules[on].left(Tier::Device, at);
        true
    }

    /// Takes the block for a tensor without one.
    pub(crate) fn settle_in(&mut self, spot: Spot, block: Handle) {
        let slot = self.slot_mut(spot);
        slot.block = Some(block);
        slot.state.step(SlotState::Reserved);
        self.ledger.on_device(spot.on, block, self.entry(spot.at).owner);
        let padded = self.entry(spot.at).padded;
        self.rules[spot.on].entered(Tier::Device, spot.at, padded);
    }

    /// The tensor has a newer version than any copy but, perhaps, that on one device.
    pub(crate) fn outdate(&mut self, at: u32, but: Option<DeviceIndex>) {
        let entry = self.entry_mut(at);
        entry.version += 1;
        entry.disk.outdate();
        for on in entry.devices.indices().filter(|&on| Some(on) != but) {
            let slot = &mut entry.devices[on];
            slot.ordered = false; // what is enqueued there is older
            if slot.state == SlotState::Valid {
                slot.state.step(SlotState::Stale);
            }
        }
        self.drop_stale(at);
    }

    /// Gives the room of old copies back, where nothing holds it and no transfer uses it.
    pub(crate) fn drop_stale(&mut self, at: u32) {
        if self.entry(at).jobs > 0 {
            return;
        }
        for on in self.devices.indices() {
            let spot = Spot { at, on };
            if self.slot(spot).state == SlotState::Stale && !self.entry(at).is_held_on(on) {
                self.release_device(spot);
            }
        }
    }

    /// The host copy is complete.
    pub(crate) fn enter_host(&mut self, at: u32) {
        let entry = self.entry_mut(at);
        let padded = entry.padded;
        if !core::mem::replace(&mut entry.host.entered, true) {
            self.rules[DeviceIndex::FIRST].entered(Tier::Host, at, padded);
        }
        self.twinned(at);
    }

    /// Gives the host copy up, and its memory back unless a transfer has it.
    pub(crate) fn drop_host_copy(&mut self, at: u32) {
        let entry = &mut self.entries[at as usize];
        entry.host.slice = None;
        if entry.host.state != SlotState::Absent {
            entry.host.state = SlotState::Absent;
        }
        self.leave_host(at);
    }

    /// The host copy is none any more, whatever becomes of its memory.
    pub(crate) fn leave_host(&mut self, at: u32) {
        let share = core::mem::take(&mut self.entry_mut(at).host.share);
        self.ledger.left_host(share);
        self.spares.remove(at);
        if core::mem::take(&mut self.entry_mut(at).host.entered) {
            self.rules[DeviceIndex::FIRST].left(Tier::Host, at);
        }
    }

    /// Whether the current version can be read from elsewhere, and is known to be good there.
    pub(crate) fn valid_elsewhere(&self, spot: Spot) -> bool {
        valid_elsewhere(&self.devices, self.entry(spot.at), spot.on)
    }

    /// Whether no lease, and no work that nobody can wait for, holds the copy in place.
    pub(crate) fn is_free_to_go(&self, spot: Spot) -> bool {
        self.devices[spot.on].is_free_to_go(self.slot(spot).block)
    }

    /// Whether work in flight still changes the copy.
    pub(crate) fn is_changing(&self, spot: Spot) -> bool {
        self.devices[spot.on].is_changing(self.slot(spot).block)
    }

    /// Makes a bad copy's room ready for new contents, which whoever asked will write. `false` if somebody else still uses it.
    pub(crate) fn reuse_room(&mut self, spot: Spot) -> bool {
        if !self.is_free_to_go(spot) {
            return false;
        }
        let slot = self.slot_mut(spot);
        slot.ordered = false;
        for state in [SlotState::Absent, SlotState::Reserved, SlotState::Filling] {
            slot.state.step(state);
        }
        true
    }

    /// Work that nobody can wait for uses the block: it stays where it is for good.
    pub(crate) fn wall(&mut self, spot: Spot) {
        let slot = &mut self.entries[spot.at as usize].devices[spot.on];
        if let (Some(block), false) = (slot.block, slot.stuck) {
            slot.stuck = self.devices[spot.on].arena.lease(block).is_ok();
        }
    }

    /// A use of the copy: its room is not given back after a write-back in flight.
    pub(crate) fn stay(&mut self, spot: Spot) {
        let entry = &mut self.entries[spot.at as usize];
        if core::mem::take(&mut entry.devices[spot.on].leaving) {
            self.devices[spot.on].leaving -= entry.padded;
        }
    }

    /// The room of the copy is given back after the write-back in flight.
    pub(crate) fn leave(&mut self, spot: Spot) {
        let entry = &mut self.entries[spot.at as usize];
        entry.devices[spot.on].leaving = true;
        self.devices[spot.on].leaving += entry.padded;
    }

    /// An event was recorded on `queue`. If it fails, work under any write lease on that queue may be what failed: the first
    /// event after a failure reports it, and no later one.
    pub(crate) fn witness(&mut self, on: DeviceIndex, event: &T::Event, queue: &T::Queue) {
        let device = &mut self.devices[on];
        for (at, of) in &device.writers {
            let block = self.entries[*at as usize].devices[on].block;
            if let (true, Some(block)) = (of.same_queue(queue), block) {
                device.changes.push((event.clone(), block));
            }
        }
        if device.changes.len() >= device.look_at {
            self.reap_changes(on);
            let device = &mut self.devices[on];
            device.look_at = (2 * device.changes.len()).max(LOOK_FLOOR);
        }
    }

    /// Work on `queue` failed, and nobody can say whose.
    pub(crate) fn spoil_writers(&mut self, on: DeviceIndex, queue: &T::Queue) {
        let writers = core::mem::take(&mut self.devices[on].writers);
        for (at, _) in writers.iter().filter(|(_, of)| of.same_queue(queue)) {
            self.spoil(Spot { at: *at, on });
        }
        self.devices[on].writers = writers;
    }

    /// A transfer down failed, of a device's copy or of the host's; its source is as good as before.
    pub(crate) fn fail(&mut self, on: Option<DeviceIndex>, error: SwapError) {
        match on {
            Some(on) => self.devices[on].counters.failed_transfers += 1,
            None => self.counters.failed_transfers += 1,
        }
        self.fault.get_or_insert((on, error));
    }

    /// How many transfers failed that have to do with a device.
    pub(crate) fn failures(&self, on: DeviceIndex) -> u64 {
        self.devices[on].counters.failed_transfers + self.counters.failed_transfers
    }

    /// The failure that nobody has been told of yet, if it has to do with a device.
    pub(crate) fn take_fault(&mut self, on: DeviceIndex) -> Option<SwapError> {
        self.fault.take_if(|(of, _)| of.is_none_or(|of| of == on)).map(|(_, error)| error)
    }

    /// The range of a copy on its device.
    pub(crate) fn range(&self, spot: Spot) -> Result<Range<u64>, SwapError> {
        match self.slot(spot).block {
            Some(block) => Ok(self.devices[spot.on].arena.range(block)?),
            None => Ok(0..0),
        }
    }

    /// Names, in a refusal because of leases, those that have been open for longest.
    pub(crate) fn name_holders(&self, mut error: SwapError) -> SwapError {
        let now = Instant::now();
        match &mut error {
            SwapError::DeviceBudget { device, holders, .. } => {
                *holders = self.open.oldest(|lease| lease.device == *device, NAMED, now);
            }
            SwapError::Leased { name, holders, .. } => {
                *holders = self.open.oldest(|lease| lease.tensor.name() == name, NAMED, now);
            }
            _ => {}
        }
        error
    }
}

/// Whether a device copy is valid and nobody uses it or works with it: only for want of another copy could it not leave.
pub(crate) fn may_leave<T: Transfer>(
    devices: &PerDevice<DeviceBooks<T>>,
    entry: &Entry<T>,
    on: DeviceIndex,
) -> bool {
    let slot = &entry.devices[on];
    let unused = entry.is_idle_on(on) && entry.jobs == 0 && devices[on].is_free_to_go(slot.block);
    slot.state == SlotState::Valid && unused
}

/// [`Books::valid_elsewhere`], for who has borrowed a part of the books.
pub(crate) fn valid_elsewhere<T: Transfer>(
    devices: &PerDevice<DeviceBooks<T>>,
    entry: &Entry<T>,
    on: DeviceIndex,
) -> bool {
    let known = |(other, slot): (DeviceIndex, &DeviceSlot)| {
        other != on && slot.state == SlotState::Valid && !devices[other].is_changing(slot.block)
    };
    entry.valid_below() || entry.devices.iter().any(known)
}

/// Holders that a refusal names.
const NAMED: usize = 3;
