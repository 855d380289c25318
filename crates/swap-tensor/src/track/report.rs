//! What to say when a tier is full.

use super::on::Tiers;
use crate::{
    SlotState, SwapError, SwapPool,
    books::{Books, may_leave},
    device::{DeviceIndex, Spot},
    entry::Busy,
};
use allocator_core::{Handle, Request};
use mem_tracker::{Amount, Attribution, OutOfMemoryReport, When};
use pinned_host::Transfer;
use std::{collections::HashSet, fmt};

/// Why a tier had no room, and what would help: who holds what, what keeps it there, what is fragmented, and what moving and
/// swapping out would free.
///
/// Its text has a line for each of these. [`SwapPool::explain`] makes it of a refusal; it says how things stand then.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct OutOfMemory {
    /// What the tracker calls the tier.
    pub tier: String,
    /// Bytes that were wanted.
    pub requested: u64,
    /// Bytes that tensors may take there.
    pub budget: u64,
    /// Bytes that they take.
    pub taken: u64,
    /// Who holds it.
    pub holders: Attribution,
    /// What keeps it there.
    pub keepers: Keepers,
    /// Of a device: its arena, what in it is fragmented, and what moving blocks would reach.
    pub arena: Option<OutOfMemoryReport>,
}

/// The bytes of a tier's copies, by what keeps them there. Each copy counts once, as the first of these that it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Keepers {
    /// Under lease, on a device.
    pub leased: u64,
    /// Pinned to a device.
    pub pinned: u64,
    /// In use by a transfer or a thread, bad, or old and not yet gone.
    pub busy: u64,
    /// Idle, and the only good copy: it is written elsewhere before it goes.
    pub dirty: u64,
    /// Idle, with a good copy elsewhere: it goes at once.
    pub clean: u64,
}

impl Keepers {
    /// Bytes that nothing keeps: what swapping out would free.
    pub fn idle(&self) -> u64 {
        self.dirty + self.clean
    }
}

impl OutOfMemory {
    /// Whether swapping out what is idle makes room, as far as bytes tell; what is dirty needs room in the tier below.
    pub fn swapping_helps(&self) -> bool {
        let free = self.budget.saturating_sub(self.taken);
        self.requested > free && self.requested - free <= self.keepers.idle()
    }
}

impl fmt::Display for OutOfMemory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let free = Amount(self.budget.saturating_sub(self.taken));
        let budget = Amount(self.budget);
        match &self.arena {
            Some(arena) => {
                writeln!(f, "{arena}")?;
                if self.budget < arena.arena.size {
                    writeln!(f, "budget: tensors may take {budget} of the arena, of which {free} is free")?;
                }
            }
            None => {
                write!(f, "{} out of memory. Tried to allocate {}. ", self.tier, Amount(self.requested))?;
                writeln!(f, "Tensors may take {budget} there, of which {free} is free.")?;
                writeln!(f, "{}", self.holders)?;
            }
        }
        write!(f, "{}", self.keepers)
    }
}

/// `kept: 2.00 MiB leased, …; idle: …`.
impl fmt::Display for Keepers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [leased, pinned, busy] = [self.leased, self.pinned, self.busy].map(Amount);
        write!(f, "kept: {leased} leased, {pinned} pinned, {busy} in use by transfers; idle: ")?;
        let [clean, dirty] = [self.clean, self.dirty].map(Amount);
        write!(f, "{clean} that can go at once, {dirty} that has to be written elsewhere first")
    }
}

/// Why a copy stays where it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Keeper {
    Lease,
    Pin,
    Work,
    OnlyCopy,
    Nothing,
}

impl Keepers {
    fn count(&mut self, keeper: Keeper, bytes: u64) {
        let sum = match keeper {
            Keeper::Lease => &mut self.leased,
            Keeper::Pin => &mut self.pinned,
            Keeper::Work => &mut self.busy,
            Keeper::OnlyCopy => &mut self.dirty,
            Keeper::Nothing => &mut self.clean,
        };
        *sum += bytes;
    }
}

impl<T: Transfer> SwapPool<T> {
    /// Why a tier had no room for what a call was refused: [`SwapError::DeviceBudget`], [`SwapError::HostBudget`] or
    /// [`SwapError::DiskBudget`]. `None` for another error, and in a pool without a tracker
    /// ([`PoolBuilder::tracker`](crate::PoolBuilder::tracker)). O(tensors + blocks), and a search for moves.
    ///
    /// Of a device it counts as one of the tracker's `num_ooms`.
    ///
    /// ```
    /// use mem_tracker::Tracker;
    /// use std::time::Duration;
    /// use swap_tensor::{DType, SwapPool, TensorSpec, backends::CpuDevice};
    ///
    /// let builder = SwapPool::builder(CpuDevice::new()?).device_memory(1 << 20).host_memory(4 << 20);
    /// let pool = builder.name("cpu").tracker(Tracker::new()).deadline(Duration::ZERO).build()?;
    /// let tensor = |name| pool.create(TensorSpec::new(name, DType::U8, [400 << 10])?, &vec![0; 400 << 10]);
    /// let (a, b, c) = (tensor("h.0.w")?, tensor("h.1.w")?, tensor("h.2.w")?);
    /// a.pin()?;
    /// let lease = b.read()?;
    ///
    /// let refusal = c.read().err().expect("two of three fit");
    /// let why = pool.explain(&refusal).expect("it was for want of room");
    /// assert_eq!((why.keepers.pinned, why.keepers.leased, why.keepers.idle()), (400 << 10, 400 << 10, 0));
    /// assert!(!why.swapping_helps());
    /// let text = why.to_string();
    /// assert!(text.starts_with("cpu:0 out of memory. Tried to allocate 400.00 KiB."), "{text}");
    /// assert!(text.contains("by module: 400.00 KiB h.0, 400.00 KiB h.1\n"), "{text}");
    /// assert!(text.contains("missing: 176.00 KiB; swapping out what is idle frees 0 bytes"), "{text}");
    /// # drop(lease);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn explain(&self, refusal: &SwapError) -> Option<OutOfMemory> {
        let mut books = self.inner.lock();
        books.reap();
        let tiers = books.ledger.tiers()?;
        match *refusal {
            SwapError::DeviceBudget { device, requested, .. } if self.inner.check_device(device).is_ok() => {
                Some(books.full_device(tiers, device, requested))
            }
            SwapError::HostBudget { requested, .. } => {
                let stats = self.inner.host.stats();
                Some(OutOfMemory {
                    tier: tiers.host.name(),
                    requested,
                    budget: stats.budget,
                    taken: stats.in_use,
                    holders: tiers.host.attribution(When::Current, NAMED),
                    keepers: books.keepers(Books::kept_in_host),
                    arena: None,
                })
            }
            SwapError::DiskBudget { requested, .. } => {
                let (disk, lower) = (tiers.disk.as_ref()?, self.inner.lower.as_ref()?);
                Some(OutOfMemory {
                    tier: disk.name(),
                    requested,
                    budget: lower.capacity(),
                    taken: lower.bytes(),
                    holders: disk.attribution(When::Current, NAMED),
                    keepers: books.keepers(Books::kept_on_disk),
                    arena: None,
                })
            }
            _ => None,
        }
    }
}

impl<T: Transfer> Books<T> {
    fn full_device(&self, tiers: &Tiers<T>, on: DeviceIndex, requested: u64) -> OutOfMemory {
        let mut keepers = Keepers::default();
        let mut idle: HashSet<Handle> = HashSet::new();
        for (at, entry) in self.entries.iter().enumerate() {
            let Some(block) = entry.devices[on].block else { continue };
            let keeper = self.kept_on(Spot { at: at as u32, on });
            keepers.count(keeper, entry.padded);
            if matches!(keeper, Keeper::OnlyCopy | Keeper::Nothing) {
                idle.insert(block);
            }
        }
        let device = &self.devices[on];
        let may_leave = |block: &allocator_core::Block| idle.contains(&block.handle);
        let arena = tiers.devices[on].out_of_memory_where(
            device.arena.allocator(),
            Request::new(requested),
            may_leave,
        );
        OutOfMemory {
            tier: arena.holders.device.clone(),
            requested,
            budget: device.budget,
            taken: device.taken(),
            holders: arena.holders.clone(),
            keepers,
            arena: Some(arena),
        }
    }

    fn keepers(&self, why: impl Fn(&Self, u32) -> Option<(Keeper, u64)>) -> Keepers {
        let mut keepers = Keepers::default();
        let kept = (0..self.entries.len()).filter_map(|at| why(self, at as u32));
        kept.for_each(|(keeper, bytes)| keepers.count(keeper, bytes));
        keepers
    }

    /// Why a copy stays on a device.
    fn kept_on(&self, spot: Spot) -> Keeper {
        let (entry, slot) = (self.entry(spot.at), self.slot(spot));
        match () {
            () if slot.readers > 0 || entry.writer == Some(spot.on) => Keeper::Lease,
            () if slot.pins > 0 => Keeper::Pin,
            () if !may_leave(&self.devices, entry, spot.on) => Keeper::Work,
            () if self.valid_elsewhere(spot) => Keeper::Nothing,
            () => Keeper::OnlyCopy,
        }
    }

    /// Why a copy stays in host memory, and its bytes.
    fn kept_in_host(&self, at: u32) -> Option<(Keeper, u64)> {
        let entry = self.entry(at);
        let keeper = match () {
            () if !entry.host.state.holds_room() => return None,
            () if self.is_spare_in_host(at) => Keeper::Nothing,
            () if entry.host.slice.is_none() || entry.busy != Busy::No => Keeper::Work,
            () => Keeper::OnlyCopy,
        };
        Some((keeper, entry.padded))
    }

    /// Why a copy stays in the tier below, and its bytes.
    fn kept_on_disk(&self, at: u32) -> Option<(Keeper, u64)> {
        let entry = self.entry(at);
        entry.disk.copy()?;
        let twin = entry.host.state == SlotState::Valid || entry.device_with_it().is_some();
        let keeper = match () {
            () if entry.busy != Busy::No => Keeper::Work,
            () if twin => Keeper::Nothing,
            () => Keeper::OnlyCopy,
        };
        Some((keeper, entry.spec.bytes()))
    }
}

/// Storages that a report names.
const NAMED: usize = 5;
