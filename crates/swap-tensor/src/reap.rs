//! What has ended since the last look, and what it came to.

use crate::{
    SlotState, SwapError,
    books::{Books, Job, JobKind},
    observe::{Kind, Reason},
};
use allocator_core::Handle;
use pinned_host::{Event, Ticket, Transfer};

impl<T: Transfer> Books<T> {
    /// Takes note of every transfer, move and write that has ended. O(in flight).
    pub(crate) fn reap(&mut self) {
        self.probe.look();
        self.reap_changes();
        let mut i = 0;
        while i < self.jobs.len() {
            if matches!(self.jobs[i].ticket.is_done(), Ok(false)) {
                i += 1;
            } else {
                let job = self.jobs.swap_remove(i);
                self.finish(job);
            }
        }
    }

    /// Changes come before transfers: a transfer that read a torn block must not publish it.
    pub(crate) fn reap_changes(&mut self) {
        let mut i = 0;
        while i < self.changes.len() {
            match self.changes[i].0.query() {
                Ok(false) => i += 1,
                Ok(true) => {
                    self.changes.swap_remove(i);
                }
                Err(error) => {
                    let (_, block) = self.changes.swap_remove(i);
                    self.note(&SwapError::device("change a block", error));
                    self.tear(block);
                }
            }
        }
    }

    /// Whether work in flight still changes `block`.
    pub(crate) fn is_changing(&self, block: Option<Handle>) -> bool {
        self.changes.iter().any(|&(_, changed)| Some(changed) == block)
    }

    /// A move of `block`, or a write to it, was cut half-way.
    pub(crate) fn tear(&mut self, block: Handle) {
        let Some(at) = self.entries.iter().position(|e| e.device.block == Some(block)) else { return };
        self.spoil(at as u32);
        self.recover(at as u32);
    }

    /// The device copy's contents are not to be trusted any more.
    pub(crate) fn spoil(&mut self, at: u32) {
        let slot = &mut self.entry_mut(at).device;
        if slot.state.can_become(SlotState::Torn) {
            slot.state.step(SlotState::Torn);
        }
    }

    /// A bad device copy that nobody uses goes if a good copy lies below.
    pub(crate) fn recover(&mut self, at: u32) {
        let entry = self.entry(at);
        let bad = matches!(entry.device.state, SlotState::Torn | SlotState::Poisoned);
        if bad && entry.idle() && entry.jobs == 0 && entry.valid_below() {
            self.release_device(at);
        }
    }

    fn finish(&mut self, job: Job<T>) {
        let at = job.entry;
        self.entry_mut(at).jobs -= 1;
        match job.kind {
            JobKind::SwapIn => self.finish_swap_in(at, job.ticket),
            JobKind::WriteBack => self.finish_write_back(at, job.version, job.ticket),
        }
        self.recover(at);
        self.dispose_if_done(at);
    }

    fn finish_swap_in(&mut self, at: u32, ticket: Ticket<T>) {
        match ticket.wait() {
            Ok(slice) => {
                let entry = self.entry_mut(at);
                entry.host.slice = Some(slice);
                if entry.device.state == SlotState::Filling {
                    entry.device.state.step(SlotState::Valid);
                }
            }
            Err(failed) => {
                let entry = self.entry_mut(at);
                match failed.slice {
                    Some(slice) => entry.host.slice = Some(slice),
                    None => entry.host.state.step(SlotState::Lost),
                }
                if entry.device.state == SlotState::Filling {
                    entry.device.state.step(SlotState::Torn);
                }
                if self.entry(at).host.state == SlotState::Lost {
                    self.leave_host(at);
                }
                self.counters.failed_transfers += 1;
                let error = SwapError::device("upload", failed.error);
                self.probe.failed(Kind::Upload, &self.entry(at).spec, &error);
                self.note(&error);
            }
        }
    }

    fn finish_write_back(&mut self, at: u32, version: u64, ticket: Ticket<T>) {
        let leaving = self.entry(at).device.leaving;
        self.stay(at);
        match ticket.wait() {
            Ok(slice) => {
                // What the copy read had been written before it ran: by now that is known to be good or bad.
                self.reap_changes();
                let entry = self.entry_mut(at);
                let bad = matches!(entry.device.state, SlotState::Torn | SlotState::Poisoned);
                if bad && entry.version == version {
                    entry.host.state.step(SlotState::Absent);
                    self.leave_host(at);
                    return;
                }
                entry.host.slice = Some(slice);
                let current = entry.version == version;
                entry.host.state.step(if current { SlotState::Valid } else { SlotState::Stale });
                self.enter_host(at);
                let entry = self.entry_mut(at);
                if leaving
                    && current
                    && entry.idle()
                    && entry.device.state == SlotState::Valid
                    && self.release_device(at)
                {
                    self.counters.evictions += 1;
                    let entry = self.entry(at);
                    self.probe.evicted(&entry.spec, entry.padded, Reason::WrittenBack);
                }
            }
            Err(failed) => {
                // The source stays valid; a slice that did not come back is leaked and its room with it.
                drop(failed.slice);
                self.entry_mut(at).host.state.step(SlotState::Absent);
                self.leave_host(at);
                self.counters.failed_transfers += 1;
                let error = SwapError::device("write a tensor back", failed.error);
                self.probe.failed(Kind::Download, &self.entry(at).spec, &error);
                self.note(&error);
                self.fault.get_or_insert(error);
            }
        }
    }

    /// Looks at an error: a lost device loses every copy on it.
    pub(crate) fn note(&mut self, error: &SwapError) {
        if !error.is_device_lost() || self.lost {
            return;
        }
        self.lost = true;
        for entry in &mut self.entries {
            // A bad copy stays known as bad: what was read from it must not be published.
            let bad = matches!(entry.device.state, SlotState::Torn | SlotState::Poisoned);
            if entry.device.state.holds_room() && !bad {
                entry.device.state.step(SlotState::Lost);
            }
        }
    }
}
