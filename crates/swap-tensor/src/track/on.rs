//! A pool's tiers as its memory tracker knows them.

use crate::{
    PoolBuilder, SwapError, Tensor, TensorSpec,
    books::Books,
    device::{DeviceBooks, DeviceIndex, PerDevice},
    entry::Entry,
};
use allocator_core::{DeviceBuffer, Handle};
use mem_tracker::{Category, Device, Held, StorageId, TrackError, Tracker, Watch};
use pinned_host::{HostPool, HostStats, RegionOf, Transfer};
use std::sync::Arc;

/// Who is told, as the builder of a pool knows it.
#[derive(Default)]
pub(crate) struct Tracking(Option<Tracker>);

/// Whose a tensor's copies are; nobody's without a tracker.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Owner(Option<mem_tracker::Owner>);

/// The storage that stands for a copy in host memory or on disk, for as long as the copy has room there.
#[derive(Default)]
pub(crate) struct Share {
    held: Option<Held>,
    /// Of the storage; 0 without one.
    bytes: u64,
}

/// What a pool tells.
pub(crate) struct Ledger<T: Transfer>(Option<Tiers<T>>);

pub(super) struct Tiers<T: Transfer> {
    tracker: Tracker,
    pub(super) devices: PerDevice<Watch>,
    pub(super) host: Device,
    pub(super) disk: Option<Device>,
    /// Host memory, to see what of it is no copy's.
    memory: HostPool<RegionOf<T>>,
    /// Bytes of the shares in host memory.
    in_host: u64,
    /// Host memory that is no copy's any more and has not come back: a device may still use it. See [`Ledger::reaped`].
    astray: Held,
    stray_bytes: u64,
    /// Whether a copy has left host memory since somebody looked for what is astray, or something is.
    look: bool,
}

impl Owner {
    pub(crate) const NOBODY: Owner = Owner(None);
}

impl<T: Transfer> Ledger<T> {
    /// Makes the tracker hear every device's arena.
    pub(crate) fn open(
        tracking: &Tracking,
        name: &Arc<str>,
        devices: &mut PerDevice<DeviceBooks<T>>,
        memory: &HostPool<RegionOf<T>>,
        disk: bool,
    ) -> Result<Self, SwapError> {
        let Some(tracker) = &tracking.0 else { return Ok(Ledger(None)) };
        let watches = devices.as_ref().try_map(|on, device| {
            let known = tracker.device(&format!("{name}:{on}"))?;
            known.watch(device.arena.buffer().size())
        })?;
        for (watch, device) in watches.values().zip(devices.values_mut()) {
            device.arena.set_observer(Box::new(watch.observer()));
        }
        let host = tracker.device("host")?;
        let lost = tracker.owner(Category::Other, None, Some("memory of transfers that never ended"))?;
        let tiers = Tiers {
            tracker: tracker.clone(),
            devices: watches,
            astray: host.hold_for(0, &lost)?,
            host,
            disk: disk.then(|| tracker.device("disk")).transpose()?,
            memory: memory.clone(),
            in_host: 0,
            stray_bytes: 0,
            look: false,
        };
        Ok(Ledger(Some(tiers)))
    }

    pub(super) fn tiers(&self) -> Option<&Tiers<T>> {
        self.0.as_ref()
    }

    /// Who a tensor's copies belong to: the module is what its name has before the last dot.
    pub(crate) fn owner(&self, spec: &TensorSpec) -> Result<Owner, SwapError> {
        let Some(tiers) = &self.0 else { return Ok(Owner::NOBODY) };
        let (module, label) = match spec.name().rsplit_once('.') {
            Some((module, label)) => (Some(module), label),
            None => (None, spec.name()),
        };
        Ok(Owner(Some(tiers.tracker.owner(Category::Parameter, module, Some(label))?)))
    }

    /// A block of a device's arena is a tensor's copy from now on.
    pub(crate) fn on_device(&self, on: DeviceIndex, block: Handle, owner: Owner) {
        if let (Some(tiers), Some(owner)) = (&self.0, owner.0) {
            // Fails only for a block from before a reset of the tracker.
            let _ = tiers.devices[on].assign(block, &owner);
        }
    }

    /// A copy has taken so many bytes of host memory.
    pub(crate) fn in_host(&mut self, bytes: u64, owner: Owner) -> Share {
        let Some(tiers) = &mut self.0 else { return Share::default() };
        let share = Share::of(&tiers.host, bytes, owner);
        tiers.in_host += share.bytes;
        share
    }

    /// A copy in host memory is none any more.
    pub(crate) fn left_host(&mut self, share: Share) {
        if let (Some(tiers), true) = (&mut self.0, share.bytes > 0) {
            tiers.in_host -= share.bytes;
            tiers.look = true;
        }
    }

    /// Transfers were looked at. What is in use of host memory and no copy's belongs to those that failed and of which the device
    /// cannot say whether it still uses their memory: it counts as what it is until it comes back.
    pub(crate) fn reaped(&mut self) {
        let Some(tiers) = self.0.as_mut().filter(|tiers| tiers.look) else { return };
        let in_use = tiers.memory.memory_stats().active_bytes.current;
        let stray = in_use.saturating_sub(tiers.in_host);
        if stray != tiers.stray_bytes {
            // Fails only after a reset of the tracker, and host memory cannot be more than can be counted.
            let _ = tiers.astray.resize(stray);
            tiers.stray_bytes = stray;
        }
        tiers.look = stray > 0;
    }
}

impl Share {
    fn of(device: &Device, bytes: u64, owner: Owner) -> Self {
        // A tracker refuses what no machine has: more bytes or storages than can be counted.
        let held = owner.0.and_then(|owner| device.hold_for(bytes, &owner).ok());
        Share { bytes: if held.is_some() { bytes } else { 0 }, held }
    }
}

impl<T: Transfer> Books<T> {
    /// A copy on disk may have been published.
    pub(crate) fn tell_disk(&mut self, at: u32) {
        let entry = &mut self.entries[at as usize];
        let (bytes, owner) = (entry.spec.bytes(), entry.owner);
        let disk = self.ledger.0.as_ref().and_then(|tiers| tiers.disk.as_ref());
        if let (Some(disk), Some(share)) = (disk, entry.disk.share_mut()) {
            *share = Share::of(disk, bytes, owner);
        }
    }

    /// What a tensor's copies are held for from now on.
    fn set_category(&mut self, at: u32, category: Category) {
        let entry = &mut self.entries[at as usize];
        let (Some(tiers), Some(owner)) = (&self.ledger.0, &mut entry.owner.0) else { return };
        *owner = owner.with_category(category);
        let shares = [Some(&entry.host.share), entry.disk.share()];
        for held in shares.into_iter().flatten().filter_map(|share| share.held.as_ref()) {
            // As in `on_device`.
            let _ = tiers.tracker.assign(held.id(), owner);
        }
        let owner = entry.owner;
        for (on, slot) in self.entries[at as usize].devices.iter() {
            slot.block.iter().for_each(|&block| self.ledger.on_device(on, block, owner));
        }
    }

    /// What is told adds up to what is held.
    pub(crate) fn check_told(&self, host: &HostStats) -> Result<(), String> {
        let Some(tiers) = &self.ledger.0 else { return Ok(()) };
        let told: u64 = self.entries.iter().map(|entry| entry.host.share.bytes).sum();
        let (counted, stray) = (tiers.in_host, tiers.stray_bytes);
        // What is astray may have come back just now.
        if told != counted || !(counted..=counted + stray).contains(&host.in_use) {
            return Err(format!(
                "{told} bytes of host memory are told, {counted} and {stray} counted, {} in use",
                host.in_use
            ));
        }
        Ok(())
    }

    /// Each copy of a tensor is told, with its bytes and its owner.
    pub(crate) fn check_shares(&self, entry: &Entry<T>) -> Result<(), String> {
        let Some(tiers) = &self.ledger.0 else { return Ok(()) };
        let name = entry.spec.name();
        let wrong = |tier: &str| Err(format!("{name}: the tracker is told otherwise of its copy in {tier}"));
        let Some(owner) = entry.owner.0 else { return wrong("any tier") };
        // One the tracker knows no more was there before it was reset, which is the program's affair.
        let good = |id: Result<StorageId, TrackError>, bytes: u64| {
            let storage = id.and_then(|id| tiers.tracker.storage(id));
            storage.map_or(true, |known| known.allocated == bytes && known.category == owner.category())
        };
        let told = |share: Option<&Share>, least: u64| {
            let share = share.and_then(|share| Some((share.held.as_ref()?.id(), share.bytes)));
            share.is_some_and(|(id, bytes)| bytes >= least && good(Ok(id), bytes))
        };
        if entry.host.state.holds_room() != told(Some(&entry.host.share), entry.padded) {
            return wrong("host memory");
        }
        if entry.disk.copy().is_some() != told(entry.disk.share(), entry.spec.bytes()) {
            return wrong("the tier below");
        }
        let blocks = entry.devices.iter().filter_map(|(on, slot)| Some((on, slot.block?)));
        for (on, block) in blocks {
            if !good(tiers.devices[on].storage(block), entry.padded) {
                return wrong(&format!("device {on}"));
            }
        }
        Ok(())
    }
}

impl<T: Transfer> PoolBuilder<T> {
    /// Tells `tracker` whose every copy is, in every tier. Default: nobody is told.
    ///
    /// The arena of device `i` is the tracker's device `NAME:i` with the pool's [name](Self::name), copies in host memory are on its
    /// device `host`, and those in the tier below on `disk`; of pools with one tracker, what has one name adds up. The module of a
    /// tensor is its name up to the last dot, the rest its label; what it is held for is
    /// [`Category::Parameter`], until [`Tensor::set_category`] says otherwise. Attached files are no memory, and in no figure.
    ///
    /// After each call the figures are those of [`Stats`](crate::Stats): [`device_bytes`](crate::Stats::device_bytes) for each
    /// device, [`host_bytes`](crate::Stats::host_bytes) for `host`, on `disk` the bytes of tensors, without what its units and packs
    /// add. Names of modules stay with the tracker when their tensors are gone.
    ///
    /// ```
    /// use mem_tracker::{Category, Tracker, When};
    /// use swap_tensor::{DType, SwapPool, TensorSpec, backends::CpuDevice};
    ///
    /// let tracker = Tracker::new();
    /// let builder = SwapPool::builder(CpuDevice::new()?).device_memory(1 << 20).host_memory(4 << 20);
    /// let pool = builder.name("cpu").tracker(tracker.clone()).build()?;
    /// let spec = TensorSpec::new("h.0.attn.weight", DType::U8, [600 << 10])?;
    /// let weight = pool.create(spec, &vec![1; 600 << 10])?;
    /// let moment = pool.create(TensorSpec::new("adam.h.0", DType::U8, [600 << 10])?, &vec![0; 600 << 10])?;
    /// moment.set_category(Category::Optstate);
    ///
    /// let (device, host) = (tracker.device("cpu:0")?, tracker.device("host")?);
    /// assert_eq!(host.usage(When::Current).allocated(Category::Optstate), 600 << 10);
    /// weight.write()?.write_now(&vec![2; 600 << 10])?;
    /// moment.read()?; // the weight makes way
    /// assert_eq!(device.usage(When::Current).allocated(Category::Optstate), 600 << 10);
    /// assert_eq!(device.attribution(When::Peak, 1).below("adam").total(), 600 << 10);
    /// assert_eq!(host.attribution(When::Current, 1).below("h").allocated(Category::Parameter), 600 << 10);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn tracker(mut self, tracker: Tracker) -> Self {
        self.tracking = Tracking(Some(tracker));
        self
    }
}

impl<T: Transfer> Tensor<T> {
    /// What its copies are held for, to the pool's memory tracker: [`Category::Parameter`] until somebody says otherwise. Does
    /// nothing in a pool without one ([`PoolBuilder::tracker`]).
    pub fn set_category(&self, category: Category) {
        self.token.inner.lock().set_category(self.at(), category);
    }

    /// What its copies are held for; `None` in a pool without a tracker.
    pub fn category(&self) -> Option<Category> {
        let books = self.token.inner.lock();
        books.entry(self.at()).owner.0.map(|owner| owner.category())
    }
}
