//! A tensor's copy set, and what can be told from it alone.

use crate::{
    Residency, SlotState, SwapError, TensorSpec,
    device::{DeviceIndex, PerDevice},
    file::FileCopy,
    lower::LowerSlot,
    spill::Spill,
    tensor::Token,
    track::{Owner, Share},
};
use allocator_core::Handle;
use pinned_host::{SliceOf, Transfer};
use std::{
    sync::{Arc, Weak},
    time::Duration,
};

/// One tensor's copy set.
pub(crate) struct Entry<T: Transfer> {
    pub(crate) spec: Arc<TensorSpec>,
    /// Its other names.
    pub(crate) aliases: Vec<String>,
    /// Bytes of a device or host copy: the tensor's, rounded up to the devices' grain.
    pub(crate) padded: u64,
    /// Whether a tensor handle still names it.
    pub(crate) live: bool,
    /// Raised by every write; a copy is valid iff it has this version.
    pub(crate) version: u64,
    /// Where it is leased for writing.
    pub(crate) writer: Option<DeviceIndex>,
    pub(crate) devices: PerDevice<DeviceSlot>,
    pub(crate) host: HostSlot<T>,
    pub(crate) disk: LowerSlot,
    /// Its copy that is being written to the lower tier.
    pub(crate) spill: Spill,
    /// The number of the last such write.
    pub(crate) spill_number: u64,
    /// Its place in an attached file, which holds version 0.
    pub(crate) file: Option<FileCopy>,
    pub(crate) busy: Busy,
    /// Transfers in flight for it.
    pub(crate) jobs: u32,
    /// Whose its copies are to a memory tracker.
    pub(crate) owner: Owner,
    /// The tensor's handle, shared by all who hold it.
    pub(crate) token: Weak<Token<T>>,
}

/// What a thread does with a tensor's copies, so that nobody else begins to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Busy {
    /// Nothing.
    #[default]
    No,
    /// It brings the tensor to this device. Another device's copy can be used meanwhile.
    Fetch(DeviceIndex),
    /// It reads or replaces the host copy.
    Host,
}

/// The copy on one device, and who uses it there.
#[derive(Default)]
pub(crate) struct DeviceSlot {
    pub(crate) state: SlotState,
    /// `Some` iff the state holds room.
    pub(crate) block: Option<Handle>,
    /// While filling: every byte of the tensor's version is enqueued, so a queue can be ordered behind it.
    pub(crate) ordered: bool,
    /// A write-back is in flight after which the room is given back, unless somebody uses the tensor first.
    pub(crate) leaving: bool,
    /// Work that nobody can wait for reads or writes the block: it may not move, leave or be written.
    pub(crate) stuck: bool,
    pub(crate) readers: u32,
    pub(crate) pins: u32,
    /// Leases given so far: a wish to fetch it ahead is stale once this has moved.
    pub(crate) uses: u64,
    /// Fetched ahead and not used since.
    pub(crate) fetched_ahead: bool,
}

pub(crate) struct HostSlot<T: Transfer> {
    pub(crate) state: SlotState,
    /// `None` if the state holds no room, and while a transfer or a thread has the slice.
    pub(crate) slice: Option<SliceOf<T>>,
    /// What a memory tracker knows of it, as long as the state holds room.
    pub(crate) share: Share,
    /// Whether the policy of the host tier knows of it.
    pub(crate) entered: bool,
}

impl<T: Transfer> Entry<T> {
    /// A tensor without copies.
    pub(crate) fn new(spec: TensorSpec, padded: u64, devices: usize) -> Self {
        Entry {
            spec: Arc::new(spec),
            aliases: Vec::new(),
            padded,
            live: true,
            version: 0,
            writer: None,
            devices: PerDevice::each(devices, |_| DeviceSlot::default()),
            host: HostSlot { state: SlotState::Absent, slice: None, share: Share::default(), entered: false },
            disk: LowerSlot::default(),
            spill: Spill::No,
            spill_number: 0,
            file: None,
            busy: Busy::No,
            jobs: 0,
            owner: Owner::NOBODY,
            token: Weak::new(),
        }
    }

    /// Read leases on it, wherever they are.
    pub(crate) fn readers(&self) -> u32 {
        self.devices.values().map(|slot| slot.readers).sum()
    }

    /// Whether it is leased.
    pub(crate) fn is_leased(&self) -> bool {
        self.writer.is_some() || self.readers() > 0
    }

    /// Whether anything holds its room on a device.
    pub(crate) fn is_held_on(&self, on: DeviceIndex) -> bool {
        let slot = &self.devices[on];
        slot.readers > 0 || slot.pins > 0 || self.writer == Some(on)
    }

    /// Whether anything holds its room on any device.
    pub(crate) fn is_held(&self) -> bool {
        self.is_leased() || self.devices.values().any(|slot| slot.pins > 0)
    }

    /// Neither leased nor pinned on a device, nor being worked with.
    pub(crate) fn is_idle_on(&self, on: DeviceIndex) -> bool {
        !self.is_held_on(on) && self.busy == Busy::No && self.spill == Spill::No
    }

    /// Neither leased nor pinned on any device, nor being worked with.
    pub(crate) fn is_idle(&self) -> bool {
        !self.is_held() && self.busy == Busy::No && self.spill == Spill::No
    }

    /// Whether what a thread does with its copies is in the way of a use on a device.
    pub(crate) fn is_busy_for(&self, on: DeviceIndex) -> bool {
        let slot = &self.devices[on];
        let usable = slot.state == SlotState::Valid || (slot.state == SlotState::Filling && slot.ordered);
        match self.busy {
            Busy::No => false,
            Busy::Fetch(to) => to == on || !usable,
            Busy::Host => true,
        }
    }

    pub(crate) fn file_is_valid(&self) -> bool {
        self.version == 0 && self.file.as_ref().is_some_and(|f| !f.file.is_broken())
    }

    /// Whether the current version can be read without a device copy.
    pub(crate) fn valid_below(&self) -> bool {
        self.host.state == SlotState::Valid || self.disk.copy().is_some() || self.file_is_valid()
    }

    /// A device that has the current version.
    pub(crate) fn device_with_it(&self) -> Option<DeviceIndex> {
        self.devices.iter().find(|(_, slot)| slot.state == SlotState::Valid).map(|(on, _)| on)
    }

    /// Whether the current version can be had from elsewhere than this device, as far as is known.
    pub(crate) fn has_source(&self, on: DeviceIndex) -> bool {
        self.valid_below()
            || self.devices.iter().any(|(other, slot)| other != on && slot.state == SlotState::Valid)
    }

    /// Whether new contents may come in from the host now.
    pub(crate) fn may_load(&self) -> bool {
        !self.is_leased() && self.busy == Busy::No && self.jobs == 0 && self.spill == Spill::No
    }

    pub(crate) fn residency(&self) -> Residency {
        let any = |states: &[SlotState]| self.devices.values().any(|slot| states.contains(&slot.state));
        match () {
            () if self.padded == 0 || any(&[SlotState::Valid]) => Residency::Device,
            () if any(&[SlotState::Reserved, SlotState::Filling]) => Residency::SwappingIn,
            () if self.host.state == SlotState::Valid => Residency::Host,
            () if self.disk.copy().is_some() => Residency::Disk,
            () if self.file_is_valid() => Residency::File,
            () => Residency::Nowhere,
        }
    }

    pub(crate) fn no_valid_copy(&self) -> SwapError {
        // Of several devices the first that had a copy.
        let states = self.devices.values().map(|slot| slot.state);
        SwapError::NoValidCopy {
            name: self.spec.name().to_owned(),
            device: states.into_iter().find(|&state| state != SlotState::Absent).unwrap_or_default(),
            host: self.host.state,
            disk: self.disk.state,
        }
    }

    pub(crate) fn leased(&self, waited: Duration) -> SwapError {
        SwapError::Leased {
            name: self.spec.name().to_owned(),
            readers: self.readers(),
            writer: self.writer.is_some(),
            waited,
            holders: Vec::new(),
        }
    }
}

#[cfg(all(test, feature = "cpu"))]
mod tests {
    use super::*;
    use crate::DType;
    use backend_cpu::CpuDevice;

    #[test]
    fn a_fetch_keeps_others_from_fetching_but_not_from_a_copy_that_is_there() {
        let spec = TensorSpec::new("t", DType::U8, [8]).unwrap();
        let mut entry: Entry<CpuDevice> = Entry::new(spec, 8, 2);
        let (first, second) = (DeviceIndex::FIRST, DeviceIndex::new(1));
        let busy = |entry: &Entry<CpuDevice>| [first, second].map(|on| entry.is_busy_for(on));
        assert_eq!(busy(&entry), [false, false]);
        entry.busy = Busy::Fetch(second);
        assert_eq!(busy(&entry), [true, true], "the first has nothing to lease");
        entry.devices[first].state = SlotState::Valid;
        assert_eq!(busy(&entry), [false, true]);
        entry.devices[first].state = SlotState::Filling;
        assert_eq!(busy(&entry), [true, true]);
        entry.devices[first].ordered = true;
        assert_eq!(busy(&entry), [false, true]);
        entry.busy = Busy::Host;
        assert_eq!(busy(&entry), [true, true]);
    }
}
