//! What has ended since the last look, and what it came to.

use crate::{
    SlotState, SwapError,
    books::{Books, Job, JobKind},
    device::{DeviceIndex, Spot},
    observe::{Kind, Reason},
};
use allocator_core::Handle;
use pinned_host::{Event, Ticket, Transfer};

impl<T: Transfer> Books<T> {
    /// Takes note of every transfer, move and write that has ended. O(in flight).
    pub(crate) fn reap(&mut self) {
        for on in self.devices.indices() {
            self.devices[on].probe.look();
            self.reap_changes(on);
        }
        let mut i = 0;
        while i < self.jobs.len() {
            if matches!(self.jobs[i].ticket.is_done(), Ok(false)) {
                i += 1;
            } else {
                let job = self.jobs.swap_remove(i);
                self.finish(job);
            }
        }
        self.ledger.reaped();
    }

    /// Changes come before transfers: a transfer that read a torn block must not publish it.
    pub(crate) fn reap_changes(&mut self, on: DeviceIndex) {
        let mut i = 0;
        while i < self.devices[on].changes.len() {
            let changes = &mut self.devices[on].changes;
            match changes[i].0.query() {
                Ok(false) => i += 1,
                Ok(true) => {
                    changes.swap_remove(i);
                }
                Err(error) => {
                    let (_, block) = changes.swap_remove(i);
                    self.note(on, &SwapError::device("change a block", error));
                    self.tear(on, block);
                }
            }
        }
    }

    /// A move of `block`, or a write to it, was cut half-way.
    pub(crate) fn tear(&mut self, on: DeviceIndex, block: Handle) {
        let Some(at) = self.entries.iter().position(|e| e.devices[on].block == Some(block)) else { return };
        let spot = Spot { at: at as u32, on };
        self.spoil(spot);
        self.recover(spot);
    }

    /// The copy's contents are not to be trusted any more.
    pub(crate) fn spoil(&mut self, spot: Spot) {
        let slot = self.slot_mut(spot);
        if slot.state.can_become(SlotState::Torn) {
            slot.state.step(SlotState::Torn);
        }
    }

    /// A bad copy on a device that nobody uses goes if a good one lies elsewhere.
    pub(crate) fn recover(&mut self, spot: Spot) {
        let (entry, slot) = (self.entry(spot.at), self.slot(spot));
        let bad = matches!(slot.state, SlotState::Torn | SlotState::Poisoned);
        if bad && entry.is_idle_on(spot.on) && entry.jobs == 0 && entry.has_source(spot.on) {
            self.release_device(spot);
        }
    }

    fn finish(&mut self, job: Job<T>) {
        let Spot { at, on } = job.spot;
        self.entry_mut(at).jobs -= 1;
        match job.kind {
            JobKind::SwapIn => self.finish_swap_in(job.spot, job.version, job.ticket),
            JobKind::WriteBack => self.finish_write_back(job.spot, job.version, job.ticket),
        }
        self.recover(Spot { at, on });
        self.drop_stale(at);
        self.dispose_if_done(at);
    }

    fn finish_swap_in(&mut self, spot: Spot, version: u64, ticket: Ticket<T>) {
        match ticket.wait() {
            Ok(slice) => {
                let entry = self.entry_mut(spot.at);
                entry.host.slice = Some(slice);
                // Another device may have written the tensor meanwhile.
                let current = entry.version == version;
                let slot = &mut entry.devices[spot.on];
                if slot.state == SlotState::Filling {
                    slot.state.step(if current { SlotState::Valid } else { SlotState::Stale });
                }
                self.twinned(spot.at);
            }
            Err(failed) => {
                let entry = self.entry_mut(spot.at);
                match failed.slice {
                    Some(slice) => entry.host.slice = Some(slice),
                    None => entry.host.state.step(SlotState::Lost),
                }
                let slot = &mut entry.devices[spot.on];
                if slot.state == SlotState::Filling {
                    slot.state.step(SlotState::Torn);
                }
                if self.entry(spot.at).host.state == SlotState::Lost {
                    self.leave_host(spot.at);
                }
                self.devices[spot.on].counters.failed_transfers += 1;
                let error = SwapError::device("upload", failed.error);
                self.devices[spot.on].probe.failed(Kind::Upload, &self.entry(spot.at).spec, &error);
                self.note(spot.on, &error);
            }
        }
    }

    fn finish_write_back(&mut self, spot: Spot, version: u64, ticket: Ticket<T>) {
        let Spot { at, on } = spot;
        let leaving = self.slot(spot).leaving;
        self.stay(spot);
        match ticket.wait() {
            Ok(slice) => {
                // What the copy read had been written before it ran: by now that is known to be good or bad.
                self.reap_changes(on);
                let bad = matches!(self.slot(spot).state, SlotState::Torn | SlotState::Poisoned);
                let entry = self.entry_mut(at);
                if bad && entry.version == version {
                    entry.host.state.step(SlotState::Absent);
                    self.leave_host(at);
                    return;
                }
                entry.host.slice = Some(slice);
                let current = entry.version == version;
                entry.host.state.step(SlotState::Valid);
                self.enter_host(at);
                if !current {
                    self.outdate_host(at);
                }
                if leaving
                    && current
                    && self.entry(at).is_idle_on(on)
                    && self.slot(spot).state == SlotState::Valid
                    && self.release_device(spot)
                {
                    self.count_eviction(spot, Reason::WrittenBack);
                }
            }
            Err(failed) => {
                // The source stays valid; a slice that did not come back is leaked and its room with it.
                drop(failed.slice);
                self.entry_mut(at).host.state.step(SlotState::Absent);
                self.leave_host(at);
                let error = SwapError::device("write a tensor back", failed.error);
                self.devices[on].probe.failed(Kind::Download, &self.entry(at).spec, &error);
                self.note(on, &error);
                self.fail(Some(on), error);
            }
        }
    }

    /// Gives the room of all device copies of an idle tensor back, because the program asked. `false` if some stay: work whose
    /// end cannot be known is on them.
    pub(crate) fn evict_everywhere(&mut self, at: u32) -> bool {
        let mut gone = true;
        for on in self.devices.indices() {
            let spot = Spot { at, on };
            if self.slot(spot).state.holds_room() {
                match self.release_device(spot) {
                    true => self.count_eviction(spot, Reason::Asked),
                    false => gone = false,
                }
            }
        }
        gone
    }

    /// A copy on a device went.
    pub(crate) fn count_eviction(&mut self, spot: Spot, why: Reason) {
        let (device, entry) = (&mut self.devices[spot.on], &self.entries[spot.at as usize]);
        device.counters.evictions += 1;
        device.probe.evicted(&entry.spec, entry.padded, why);
    }

    /// [`note`](Self::note), for an error that goes on.
    pub(crate) fn noted(&mut self, on: DeviceIndex, error: SwapError) -> SwapError {
        self.note(on, &error);
        error
    }

    /// Looks at an error of a device: one that is lost loses every copy on it. The other devices go on.
    pub(crate) fn note(&mut self, on: DeviceIndex, error: &SwapError) {
        if !error.is_device_lost() || self.devices[on].lost {
            return;
        }
        self.devices[on].lost = true;
        for entry in &mut self.entries {
            // A bad copy stays known as bad: what was read from it must not be published.
            let state = &mut entry.devices[on].state;
            if state.holds_room() && !matches!(state, SlotState::Torn | SlotState::Poisoned) {
                state.step(SlotState::Lost);
            }
        }
    }
}
