//! The books of a pool: which copy of which tensor is where, in what state, and who uses it.
//!
//! Everything here happens under the pool's one lock, in short sections: no wait, no I/O, no copy of payload. What
//! needs the device only *enqueues*.

use crate::{
    Residency, SlotState, SwapError, TensorSpec,
    file::FileCopy,
    leases::OpenLeases,
    lower::LowerSlot,
    observe::{Counted, Probe},
    policy::{Tier, recency::Recency},
    rule::Rule,
    spill::Spill,
    stats::Counters,
    tensor::Token,
};
use allocator_core::{Arena, Handle, Plan};
use core::ops::Range;
use pinned_host::{Access, Hazards, Queue, SliceOf, Ticket, Transfer};
use std::{
    collections::HashMap,
    sync::{Arc, Weak},
    time::{Duration, Instant},
};

/// Everything the lock guards.
pub(crate) struct Books<T: Transfer> {
    pub(crate) arena: Arena<T::Buffer>,
    /// Who must wait for whom on which bytes of the arena's buffer.
    pub(crate) hazards: Hazards<T::Event>,
    pub(crate) entries: Vec<Entry<T>>,
    /// Numbers of entries that are not in use.
    vacant: Vec<u32>,
    pub(crate) names: HashMap<String, u32>,
    pub(crate) rule: Rule,
    /// Host copies, the one unused for longest first.
    pub(crate) host_lru: Recency,
    /// Transfers in flight that own a host copy's memory.
    pub(crate) jobs: Vec<Job<T>>,
    /// Work in flight that changes a block in place, moves and writes under a lease: the event behind it, and the block.
    pub(crate) changes: Vec<(T::Event, Handle)>,
    /// Number of changes at which those that have ended are looked for.
    look_at: usize,
    /// Accesses of moves whose end no event marks yet: nothing else is enqueued before one does.
    pub(crate) unsealed: Vec<(Range<u64>, Access)>,
    /// Tensors leased for writing now, and the queues their leases are on.
    pub(crate) writers: Vec<(u32, T::Queue)>,
    /// Leases that are open now.
    pub(crate) open: OpenLeases,
    /// Device bytes under lease or pin; never more than the arena.
    pub(crate) held: u64,
    /// Device bytes that write-backs in flight will give back.
    pub(crate) leaving: u64,
    /// Tensors being written to the lower tier, and bytes of host memory that will be free after it.
    pub(crate) spills: u32,
    pub(crate) spilling: u64,
    /// Device bytes that tensors may take: at most the arena.
    pub(crate) budget: u64,
    /// The first write-back failure nobody has been told of yet.
    pub(crate) fault: Option<SwapError>,
    /// Whether the device is gone.
    pub(crate) lost: bool,
    /// Threads that sleep until something changes.
    pub(crate) sleepers: u32,
    pub(crate) counters: Counters,
    pub(crate) probe: Probe<T::Event>,
    /// Scratch, kept so that a transfer allocates nothing.
    pub(crate) plan: Plan,
    pub(crate) waits: Vec<T::Event>,
    pub(crate) accesses: Vec<(Range<u64>, Access)>,
}

/// One tensor's copy set.
pub(crate) struct Entry<T: Transfer> {
    pub(crate) spec: Arc<TensorSpec>,
    /// Its other names.
    pub(crate) aliases: Vec<String>,
    /// Bytes of a device or host copy: the tensor's, rounded up to the device's grain.
    pub(crate) padded: u64,
    /// Whether a tensor handle still names it.
    pub(crate) live: bool,
    /// Raised by every write; a copy is valid iff it has this version.
    pub(crate) version: u64,
    pub(crate) readers: u32,
    pub(crate) writer: bool,
    pub(crate) pins: u32,
    pub(crate) device: DeviceSlot,
    pub(crate) host: HostSlot<T>,
    pub(crate) disk: LowerSlot,
    /// Its copy that is being written to the lower tier.
    pub(crate) spill: Spill,
    /// Its place in an attached file, which holds version 0.
    pub(crate) file: Option<FileCopy>,
    /// A thread is bringing it to the device, or reading its host copy: nobody else starts to.
    pub(crate) busy: bool,
    /// Leases given so far: a wish to fetch it ahead is stale once this has moved.
    pub(crate) uses: u64,
    /// Fetched ahead and not used since.
    pub(crate) fetched_ahead: bool,
    /// Transfers in flight for it.
    pub(crate) jobs: u32,
    /// The tensor's handle, shared by all who hold it.
    pub(crate) token: Weak<Token<T>>,
}

#[derive(Default)]
pub(crate) struct DeviceSlot {
    pub(crate) state: SlotState,
    /// `Some` iff the state holds room.
    pub(crate) block: Option<Handle>,
    /// While filling: every byte is enqueued, so a queue can be ordered behind it.
    pub(crate) ordered: bool,
    /// A write-back is in flight after which the room is given back, unless somebody uses the tensor first.
    pub(crate) leaving: bool,
    /// Work that nobody can wait for reads or writes the block: it may not move, leave or be written.
    pub(crate) stuck: bool,
}

pub(crate) struct HostSlot<T: Transfer> {
    pub(crate) state: SlotState,
    /// `None` if the state holds no room, and while a transfer or a thread has the slice.
    pub(crate) slice: Option<SliceOf<T>>,
}

/// A transfer in flight between a host copy and the device.
pub(crate) struct Job<T: Transfer> {
    pub(crate) entry: u32,
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
    pub(crate) fn new(arena: Arena<T::Buffer>, probe: Probe<T::Event>, rule: Rule) -> Self {
        Books {
            budget: arena.allocator().size(),
            arena,
            hazards: Hazards::new(),
            entries: Vec::new(),
            vacant: Vec::new(),
            names: HashMap::new(),
            rule,
            host_lru: Recency::default(),
            jobs: Vec::new(),
            changes: Vec::new(),
            look_at: LOOK_FLOOR,
            unsealed: Vec::new(),
            writers: Vec::new(),
            open: OpenLeases::new(),
            held: 0,
            leaving: 0,
            spills: 0,
            spilling: 0,
            fault: None,
            lost: false,
            sleepers: 0,
            counters: Counters::default(),
            probe,
            plan: Plan::default(),
            waits: Vec::new(),
            accesses: Vec::new(),
        }
    }

    /// The entry of a live tensor or of a job: numbers come from [`insert`](Self::insert) only.
    pub(crate) fn entry(&self, at: u32) -> &Entry<T> {
        &self.entries[at as usize]
    }

    pub(crate) fn entry_mut(&mut self, at: u32) -> &mut Entry<T> {
        &mut self.entries[at as usize]
    }

    pub(crate) fn live(&self) -> impl Iterator<Item = (u32, &Entry<T>)> {
        self.entries.iter().enumerate().filter(|(_, e)| e.live).map(|(at, e)| (at as u32, e))
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
        let entry = Entry {
            spec: Arc::new(spec),
            aliases: Vec::new(),
            padded,
            live: true,
            version: 0,
            readers: 0,
            writer: false,
            pins: 0,
            device: DeviceSlot::default(),
            host: HostSlot { state: SlotState::Absent, slice: None },
            disk: LowerSlot::default(),
            spill: Spill::No,
            file: None,
            busy: false,
            uses: 0,
            fetched_ahead: false,
            jobs: 0,
            token: Weak::new(),
        };
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
        self.rule.created(at, &name, padded);
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
        if entry.pins > 0 {
            entry.pins = 0;
            if entry.readers == 0 && !entry.writer {
                self.held -= self.entry(at).padded;
                self.rule.released(at);
            }
        }
        self.rule.dropped(at);
        self.dispose_if_done(at);
    }

    /// Gives back everything a retired entry holds, once it is idle.
    pub(crate) fn dispose_if_done(&mut self, at: u32) {
        let entry = self.entry(at);
        let used = entry.jobs > 0 || entry.readers > 0 || entry.writer;
        if entry.live || used || entry.busy || entry.spill != Spill::No {
            return;
        }
        let entry = self.entry_mut(at);
        entry.disk.clear();
        entry.file = None;
        if !self.release_device(at) {
            return; // still in use by work whose end cannot be known; the number stays taken
        }
        self.drop_host_copy(at);
        self.rule.forgotten(at);
        self.vacant.push(at);
    }

    /// Gives the device room of an unused tensor back. Work still in flight on it is ordered by the hazards. `false`: the
    /// block is a wall, because a lease is on it or some use of it never ended properly.
    pub(crate) fn release_device(&mut self, at: u32) -> bool {
        let entry = &mut self.entries[at as usize];
        let Some(block) = entry.device.block else { return true };
        if self.arena.release(block).is_err() {
            return false;
        }
        entry.device.block = None;
        entry.device.ordered = false;
        if entry.device.state != SlotState::Lost {
            entry.device.state.step(SlotState::Absent);
        }
        if entry.device.leaving {
            entry.device.leaving = false;
            self.leaving -= entry.padded;
        }
        entry.fetched_ahead = false;
        self.rule.left(Tier::Device, at);
        true
    }

    /// Takes the block for a tensor without one.
    pub(crate) fn settle_in(&mut self, at: u32, block: Handle) {
        let entry = &mut self.entries[at as usize];
        entry.device.block = Some(block);
        entry.device.state.step(SlotState::Reserved);
        self.rule.entered(Tier::Device, at, entry.padded);
    }

    /// The host copy is complete.
    pub(crate) fn enter_host(&mut self, at: u32) {
        if !self.host_lru.remove(at) {
            self.rule.entered(Tier::Host, at, self.entry(at).padded);
        }
        self.host_lru.touch(at);
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
        if self.host_lru.remove(at) {
            self.rule.left(Tier::Host, at);
        }
    }

    /// Whether no lease, and no work that nobody can wait for, holds the block in place.
    pub(crate) fn is_free_to_go(&self, block: Option<Handle>) -> bool {
        block.is_some_and(|block| self.arena.block(block).is_ok_and(|b| b.leases == 0))
    }

    /// Makes a bad copy's room ready for new contents, which whoever asked will write. `false` if somebody else still uses it.
    pub(crate) fn reuse_room(&mut self, at: u32) -> bool {
        if !self.is_free_to_go(self.entry(at).device.block) {
            return false;
        }
        let entry = &mut self.entries[at as usize];
        entry.device.ordered = false;
        for state in [SlotState::Absent, SlotState::Reserved, SlotState::Filling] {
            entry.device.state.step(state);
        }
        true
    }

    /// Work that nobody can wait for uses the block: it stays where it is for good.
    pub(crate) fn wall(&mut self, at: u32) {
        let slot = &mut self.entries[at as usize].device;
        if let (Some(block), false) = (slot.block, slot.stuck) {
            slot.stuck = self.arena.lease(block).is_ok();
        }
    }

    /// A use of the tensor: its room is not given back after a write-back in flight.
    pub(crate) fn stay(&mut self, at: u32) {
        let entry = &mut self.entries[at as usize];
        if core::mem::take(&mut entry.device.leaving) {
            self.leaving -= entry.padded;
        }
    }

    /// An event was recorded on `queue`. If it fails, work under any write lease on that queue may be what failed: the first
    /// event after a failure reports it, and no later one.
    pub(crate) fn witness(&mut self, event: &T::Event, queue: &T::Queue) {
        for (at, of) in &self.writers {
            if let (true, Some(block)) = (of.same_queue(queue), self.entries[*at as usize].device.block) {
                self.changes.push((event.clone(), block));
            }
        }
        if self.changes.len() >= self.look_at {
            self.reap_changes();
            self.look_at = (2 * self.changes.len()).max(LOOK_FLOOR);
        }
    }

    /// Work on `queue` failed, and nobody can say whose.
    pub(crate) fn spoil_writers(&mut self, queue: &T::Queue) {
        let writers = core::mem::take(&mut self.writers);
        for (at, _) in writers.iter().filter(|(_, of)| of.same_queue(queue)) {
            self.spoil(*at);
        }
        self.writers = writers;
    }

    /// The range of a tensor's device copy.
    pub(crate) fn range(&self, at: u32) -> Result<Range<u64>, SwapError> {
        match self.entry(at).device.block {
            Some(block) => Ok(self.arena.range(block)?),
            None => Ok(0..0),
        }
    }
}

impl<T: Transfer> Books<T> {
    /// Names, in a refusal because of leases, those that have been open for longest.
    pub(crate) fn name_holders(&self, mut error: SwapError) -> SwapError {
        let now = Instant::now();
        match &mut error {
            SwapError::DeviceBudget { holders, .. } => *holders = self.open.oldest(None, NAMED, now),
            SwapError::Leased { name, holders, .. } => *holders = self.open.oldest(Some(name), NAMED, now),
            _ => {}
        }
        error
    }
}

impl<T: Transfer> Entry<T> {
    /// Neither leased nor pinned, nor being brought in.
    pub(crate) fn idle(&self) -> bool {
        self.readers == 0 && !self.writer && self.pins == 0 && !self.busy && self.spill == Spill::No
    }

    /// Whether anything holds its device room.
    pub(crate) fn held(&self) -> bool {
        self.readers > 0 || self.writer || self.pins > 0
    }

    pub(crate) fn file_is_valid(&self) -> bool {
        self.version == 0 && self.file.as_ref().is_some_and(|f| !f.file.is_broken())
    }

    /// Whether the current version can be read without the device copy.
    pub(crate) fn valid_below(&self) -> bool {
        self.host.state == SlotState::Valid || self.disk.copy().is_some() || self.file_is_valid()
    }

    /// Whether new contents may come in from the host now.
    pub(crate) fn may_load(&self) -> bool {
        self.readers == 0 && !self.writer && !self.busy && self.jobs == 0 && self.spill == Spill::No
    }

    pub(crate) fn residency(&self) -> Residency {
        match self.device.state {
            _ if self.padded == 0 => Residency::Device,
            SlotState::Valid => Residency::Device,
            SlotState::Reserved | SlotState::Filling => Residency::SwappingIn,
            _ if self.host.state == SlotState::Valid => Residency::Host,
            _ if self.disk.copy().is_some() => Residency::Disk,
            _ if self.file_is_valid() => Residency::File,
            _ => Residency::Nowhere,
        }
    }

    pub(crate) fn no_valid_copy(&self) -> SwapError {
        SwapError::NoValidCopy {
            name: self.spec.name().to_owned(),
            device: self.device.state,
            host: self.host.state,
            disk: self.disk.state,
        }
    }

    pub(crate) fn leased(&self, waited: Duration) -> SwapError {
        SwapError::Leased {
            name: self.spec.name().to_owned(),
            readers: self.readers,
            writer: self.writer,
            waited,
            holders: Vec::new(),
        }
    }
}

/// Holders that a refusal names.
const NAMED: usize = 3;
/// Fewer changes are not worth looking at before somebody asks.
const LOOK_FLOOR: usize = 64;
