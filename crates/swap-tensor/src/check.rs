//! The invariants of the books, checked from outside the code that keeps them.

use crate::{
    SlotState,
    books::{Books, JobKind},
    spill::Spill,
};
use pinned_host::{HostStats, Transfer};
use std::collections::HashSet;

impl<T: Transfer> Books<T> {
    /// The first invariant that does not hold, in words. O(tensors + blocks).
    ///
    /// It cannot see contents, nor whether the device ran in the right order: tags and the simulated device do.
    pub(crate) fn check(&self, host: &HostStats) -> Result<(), String> {
        self.arena.allocator().check().map_err(|e| format!("arena: {e}"))?;
        let (mut device, mut held, mut leaving) = (0, 0, 0);
        let (mut spills, mut spilling) = (0, 0);
        let mut blocks = HashSet::new();
        for (at, entry) in self.live() {
            let name = entry.spec.name();
            let (on_device, in_host) = (entry.device.state, entry.host.state);
            if on_device.holds_room() != entry.device.block.is_some() && on_device != SlotState::Lost {
                return Err(format!(
                    "{name}: device copy is {on_device}, its block {:?}",
                    entry.device.block
                ));
            }
            if let Some(block) = entry.device.block {
                if !blocks.insert(block) {
                    return Err(format!("{name}: shares a block with another tensor"));
                }
                let range = self.arena.range(block).map_err(|e| format!("{name}: {e}"))?;
                if range.end - range.start != entry.padded {
                    return Err(format!(
                        "{name}: {} bytes in a block of {}",
                        entry.padded,
                        range.end - range.start
                    ));
                }
                device += entry.padded;
            }
            held += if entry.held() { entry.padded } else { 0 };
            leaving += if entry.device.leaving { entry.padded } else { 0 };
            if entry.writer && entry.readers > 0 {
                return Err(format!("{name}: leased for writing and for reading"));
            }
            let jobs = self.jobs.iter().filter(|job| job.entry == at);
            let filling = jobs.clone().filter(|job| job.kind == JobKind::SwapIn).count();
            let writing = jobs.clone().filter(|job| job.kind == JobKind::WriteBack).count();
            if filling > 1 || writing > 1 || (filling + writing) as u32 != entry.jobs {
                return Err(format!(
                    "{name}: {filling} uploads and {writing} write-backs at once, {} counted",
                    entry.jobs
                ));
            }
            let lent = filling > 0 || entry.busy;
            if in_host == SlotState::Valid && entry.host.slice.is_none() && !lent {
                return Err(format!("{name}: a valid host copy without memory"));
            }
            if !in_host.holds_room() && entry.host.slice.is_some() {
                return Err(format!("{name}: host copy is {in_host} and holds memory"));
            }
            let valid = on_device == SlotState::Valid || entry.valid_below() || entry.padded == 0;
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
            spills += u32::from(entry.spill != Spill::No);
            spilling += if entry.spill == Spill::Host { entry.padded } else { 0 };
            let known_bad = [on_device, in_host, on_disk]
                .iter()
                .any(|s| matches!(s, SlotState::Torn | SlotState::Poisoned | SlotState::Lost));
            let new = entry.version == 0 && entry.file.is_none();
            let broken = entry.file.as_ref().is_some_and(|f| f.file.is_broken());
            if !valid && !known_bad && !entry.busy && !new && !broken {
                return Err(format!(
                    "{name}: no valid copy of version {}, and nothing says so (device {on_device}, host {in_host}, disk {on_disk})",
                    entry.version
                ));
            }
        }
        let arena = self.arena.stats();
        if device > arena.size - arena.free {
            return Err(format!(
                "tensors hold {device} bytes of the arena, {} are taken",
                arena.size - arena.free
            ));
        }
        if held != self.held || held > arena.size {
            return Err(format!(
                "{held} bytes are leased or pinned, {} are counted, the arena has {}",
                self.held, arena.size
            ));
        }
        // Those of tensors that are gone are counted, too.
        if spills > self.spills || spilling > self.spilling {
            return Err(format!(
                "{spills} tensors ({spilling} bytes in host memory) are being written to disk, {} ({}) are counted",
                self.spills, self.spilling
            ));
        }
        if leaving > self.leaving {
            return Err(format!("{leaving} bytes are leaving, {} are counted", self.leaving));
        }
        if host.in_use > host.capacity {
            return Err(format!(
                "{} bytes of the host tier are in use, it has {}",
                host.in_use, host.capacity
            ));
        }
        Ok(())
    }
}
