//! The invariants of the books, checked from outside the code that keeps them.

use crate::{
    SlotState,
    books::{Books, JobKind},
    device::{DeviceIndex, Spot},
    entry::{Busy, Entry},
    spill::Spill,
};
use pinned_host::{HostStats, Transfer};
use std::collections::HashSet;

impl<T: Transfer> Books<T> {
    /// The first invariant that does not hold, in words. O(tensors + blocks), for each device.
    ///
    /// It cannot see contents, nor whether a device ran in the right order: tags and the simulated device do.
    pub(crate) fn check(&self, host: &HostStats) -> Result<(), String> {
        let (mut spills, mut spilling) = (0, 0);
        for (at, entry) in self.live() {
            self.check_leases(entry)?;
            self.check_transfers(at, entry)?;
            self.check_copies(entry)?;
            self.check_shares(entry)?;
            spills += u32::from(entry.spill != Spill::No);
            spilling += if entry.spill == Spill::Host { entry.padded } else { 0 };
        }
        for on in self.devices.indices() {
            self.check_device(on).map_err(|broken| format!("device {on}: {broken}"))?;
        }
        // Those of tensors that are gone are counted, too.
        if spills > self.spills || spilling > self.spilling {
            return Err(format!(
                "{spills} tensors ({spilling} bytes in host memory) are being written to disk, {} ({}) are counted",
                self.spills, self.spilling
            ));
        }
        if host.in_use > host.capacity {
            return Err(format!(
                "{} bytes of the host tier are in use, it has {}",
                host.in_use, host.capacity
            ));
        }
        self.check_told(host)
    }

    /// The arena, and what the copies in it come to.
    fn check_device(&self, on: DeviceIndex) -> Result<(), String> {
        let device = &self.devices[on];
        device.arena.allocator().check().map_err(|e| format!("arena: {e}"))?;
        let (mut taken, mut held, mut leaving) = (0, 0, 0);
        let mut blocks = HashSet::new();
        for (at, entry) in self.live() {
            let slot = &entry.devices[on];
            let name = entry.spec.name();
            if slot.state.holds_room() != slot.block.is_some() && slot.state != SlotState::Lost {
                return Err(format!("{name}: copy is {}, its block {:?}", slot.state, slot.block));
            }
            if let Some(block) = slot.block {
                if !blocks.insert(block) {
                    return Err(format!("{name}: shares a block with another tensor"));
                }
                let range = self.range(Spot { at, on }).map_err(|e| format!("{name}: {e}"))?;
                let bytes = range.end - range.start;
                if bytes != entry.padded {
                    return Err(format!("{name}: {} bytes in a block of {bytes}", entry.padded));
                }
                taken += entry.padded;
            }
            held += if entry.is_held_on(on) { entry.padded } else { 0 };
            leaving += if slot.leaving { entry.padded } else { 0 };
        }
        let arena = device.arena.stats();
        if taken > arena.size - arena.free {
            return Err(format!(
                "tensors hold {taken} bytes of the arena, {} are taken",
                arena.size - arena.free
            ));
        }
        if held != device.held || held > arena.size {
            return Err(format!(
                "{held} bytes are leased or pinned, {} are counted, the arena has {}",
                device.held, arena.size
            ));
        }
        if leaving > device.leaving {
            return Err(format!("{leaving} bytes are leaving, {} are counted", device.leaving));
        }
        Ok(())
    }

    /// One writer, or readers, on whatever devices, and nobody reads an old copy. Who has only claimed one waits for the new
    /// contents: `load` can come in between.
    fn check_leases(&self, entry: &Entry<T>) -> Result<(), String> {
        let name = entry.spec.name();
        if entry.writer.is_some() && entry.readers() > 0 {
            return Err(format!("{name}: leased for writing and for reading"));
        }
        let old = |(on, slot): (DeviceIndex, &crate::entry::DeviceSlot)| {
            (slot.state == SlotState::Stale && self.open.is_open(&entry.spec, on)).then_some(on)
        };
        match entry.devices.iter().find_map(old) {
            Some(on) => Err(format!("{name}: an old copy on device {on} is leased")),
            None => Ok(()),
        }
    }

    fn check_transfers(&self, at: u32, entry: &Entry<T>) -> Result<(), String> {
        let name = entry.spec.name();
        let jobs = self.jobs.iter().filter(|job| job.spot.at == at);
        let filling = jobs.clone().filter(|job| job.kind == JobKind::SwapIn).count();
        let writing = jobs.filter(|job| job.kind == JobKind::WriteBack).count();
        if filling > 1 || writing > 1 || (filling + writing) as u32 != entry.jobs {
            return Err(format!(
                "{name}: {filling} uploads and {writing} write-backs at once, {} counted",
                entry.jobs
            ));
        }
        let lent = filling > 0 || entry.busy != Busy::No;
        let in_host = entry.host.state;
        if in_host == SlotState::Valid && entry.host.slice.is_none() && !lent {
            return Err(format!("{name}: a valid host copy without memory"));
        }
        if !in_host.holds_room() && entry.host.slice.is_some() {
            return Err(format!("{name}: host copy is {in_host} and holds memory"));
        }
        if self.is_spare_in_host(at) && !self.spares.has(at) {
            return Err(format!("{name}: a {in_host} host copy can be spared, and nobody would find it"));
        }
        let on_disk = entry.disk.state;
        if (on_disk == SlotState::Filling) != (entry.spill != Spill::No) {
            return Err(format!(
                "{name}: its disk copy is {on_disk}, and {:?} is being written",
                entry.spill
            ));
        }
        if on_disk == SlotState::Valid && entry.disk.copy().is_none() {
            return Err(format!("{name}: a valid disk copy without room"));
        }
        Ok(())
    }

    /// A valid copy on any device or below, or something that says why there is none.
    fn check_copies(&self, entry: &Entry<T>) -> Result<(), String> {
        let valid = entry.device_with_it().is_some() || entry.valid_below() || entry.padded == 0;
        let (in_host, on_disk) = (entry.host.state, entry.disk.state);
        let mut states = entry.devices.values().map(|slot| slot.state).chain([in_host, on_disk]);
        let known_bad = states.any(|s| matches!(s, SlotState::Torn | SlotState::Poisoned | SlotState::Lost));
        let new = entry.version == 0 && entry.file.is_none();
        let broken = entry.file.as_ref().is_some_and(|f| f.file.is_broken());
        if valid || known_bad || entry.busy != Busy::No || new || broken {
            return Ok(());
        }
        let devices: Vec<_> = entry.devices.values().map(|slot| slot.state.to_string()).collect();
        Err(format!(
            "{}: no valid copy of version {}, and nothing says so (devices: {}; host {in_host}, disk {on_disk})",
            entry.spec.name(),
            entry.version,
            devices.join(", ")
        ))
    }
}

#[cfg(all(test, feature = "cpu"))]
mod tests {
    use crate::{
        DType, DeviceIndex, Mode, SlotState, SwapPool, TensorSpec,
        claim::Claim,
        device::Spot,
        fill::Want,
        room::{Effort, Why},
    };
    use backend_cpu::CpuDevice;
    use std::time::Instant;

    /// As when `load` had begun before the reader came, and ends while the reader waits for it.
    #[test]
    fn who_waits_for_new_contents_does_not_read_the_old_copy_and_who_reads_it_is_found_out() {
        let builder = SwapPool::builder(CpuDevice::new().unwrap()).device_memory(1 << 16);
        let pool = builder.host_memory(1 << 20).build().unwrap();
        let tensor = pool.create(TensorSpec::new("t", DType::U8, [4096]).unwrap(), &[1; 4096]).unwrap();
        tensor.read().unwrap().wait().unwrap();
        let (inner, spot) = (&pool.inner, Spot { at: tensor.at(), on: DeviceIndex::FIRST });
        let effort = Effort { wait_until: None, since: Instant::now(), why: Why::Lease };
        let claim = Claim { spot, mode: Mode::Read, want: Want::Contents, queue: pool.queue() };
        let mut books = inner.claim(inner.lock(), &[claim], effort).unwrap_or_else(|e| panic!("{e}"));
        books.outdate(spot.at, None);
        assert_eq!(books.slot(spot).state, SlotState::Stale, "the claim keeps its room");
        drop(books);
        pool.check().unwrap();
        let (mut books, range) = inner.occupy(inner.lock(), claim, effort);
        assert!(range.is_ok() && books.slot(spot).state != SlotState::Stale);
        inner.unclaim(&mut books, spot, Mode::Read);
        drop(books);

        let lease = tensor.read().unwrap();
        lease.wait().unwrap();
        inner.lock().slot_mut(spot).state.step(SlotState::Stale);
        assert!(pool.check().unwrap_err().contains("t: an old copy on device 0 is leased"));
    }
}
