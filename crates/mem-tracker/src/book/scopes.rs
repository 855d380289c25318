//! Scopes of modules: opened, closed, left open.

use std::thread::ThreadId;

use super::Book;
use super::levels::Level;
use crate::{Category, ModState, Peaks, StorageId, TrackError, Warning};

/// Which way a scope goes through its module.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Way {
    Forward { in_backward: bool },
    Backward,
}

impl Way {
    /// The state with which it ends. As in the original, what runs forward inside a backward pass has computed once more, also a
    /// module that was never entered before.
    pub(crate) const fn end(self) -> ModState {
        match self {
            Self::Forward { in_backward: false } => ModState::PostForward,
            Self::Forward { in_backward: true } => ModState::PostForwardAc,
            Self::Backward => ModState::PostBackward,
        }
    }
}

/// A scope that is open.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct OpenScope {
    /// The module.
    pub module: String,
    /// The state with which it was opened.
    pub state: ModState,
    /// The thread that opened it.
    pub thread: ThreadId,
}

impl Book {
    /// Opens a scope and returns its guard's number and the state it opened with. O(devices), and O(open scopes) for a backward
    /// pass and what it computes again.
    pub(crate) fn open(&mut self, module: u32, way: Way, thread: ThreadId) -> (u64, ModState) {
        let guard = self.next_guard();
        let record = &mut self.modules[module as usize];
        let (opened, peak) = match way {
            // The original's rule: what runs forward inside a backward pass and is known computes once more.
            Way::Forward { in_backward: true } if record.entered => (ModState::PreForwardAc, None),
            Way::Forward { .. } => (ModState::PreForward, Some(ModState::PeakForward)),
            Way::Backward => (ModState::PreBackward, Some(ModState::PeakBackward)),
        };
        record.entered = true;
        let raises = match peak {
            Some(peak) => Some((peak, record.begin(peak, &self.devices, self.clock, self.keep))),
            // Of the pass that it is for, and of no earlier one: while none has begun there is nothing to raise.
            None => record
                .backward()
                .or_else(|| self.levels.backward(module, self.era))
                .map(|call| (ModState::PeakBackward, call)),
        };
        record.note(opened, &self.devices, self.clock, self.keep);
        if let Some((ModState::PeakBackward, call)) = raises.filter(|_| peak.is_some()) {
            self.levels.retarget(module, call, &mut self.modules, self.era);
        }
        self.levels.push(guard, (module, self.era), opened, raises, thread);
        if peak.is_none() && self.peaks == Peaks::EveryEvent {
            // What is held already counts to the backward call that it raises; others have noted it just now.
            for (at, device) in self.devices.iter().enumerate() {
                self.levels.look(at, &device.now, self.clock);
            }
        }
        (guard, opened)
    }

    /// Closes a scope, with the state of its end where that was reached. O(devices), and O(later scopes x devices) for a scope that
    /// is not the last.
    pub(crate) fn close(&mut self, guard: u64, end: Option<ModState>) {
        let Some(level) = self.levels.close(guard, &mut self.modules, self.era) else { return };
        if level.era != self.era {
            let warning = Warning::ScopeOutlivedReset { module: self.name_of(&level), state: level.opened };
            return self.warnings.note(warning);
        }
        if let Some(end) = end {
            self.modules[level.module as usize].note(end, &self.devices, self.clock, self.keep);
        }
    }

    /// A thread ended with a scope open.
    pub(crate) fn left_open(&mut self, guard: u64) {
        let Some(level) = self.levels.close(guard, &mut self.modules, self.era) else { return };
        let (module, state, thread) = (self.name_of(&level), level.opened, level.thread);
        self.warnings.note(Warning::ScopeLeftOpen { module, state, thread });
    }

    /// Puts storages into a category and sums what they occupy, each as often as it is named.
    pub(crate) fn own(&mut self, storages: &[StorageId], category: Category) -> Result<u64, TrackError> {
        let sum = self.sum(storages)?;
        for storage in storages {
            let slot = self.blocks.find(self.number, *storage)?;
            self.retag(slot, category);
        }
        Ok(sum)
    }

    /// Bytes that storages occupy, each as often as it is named.
    pub(crate) fn sum(&self, storages: &[StorageId]) -> Result<u64, TrackError> {
        storages.iter().try_fold(0_u64, |sum, storage| {
            let block = self.blocks.get(self.blocks.find(self.number, *storage)?);
            Ok(sum.saturating_add(block.bytes.allocated))
        })
    }

    /// The open scopes, the one opened first at the front.
    pub(crate) fn open_scopes(&self) -> Vec<OpenScope> {
        let scope = |level: &Level| OpenScope {
            module: self.name_of(level),
            state: level.opened,
            thread: level.thread,
        };
        self.levels.iter().map(scope).collect()
    }

    /// Tells modules' records what their open scopes have seen so far.
    pub(crate) fn settle(&mut self) {
        self.levels.settle(&mut self.modules, self.era);
    }

    /// Keeps the last `keep` calls of each module's state from now on.
    pub(crate) fn keep_calls(&mut self, keep: usize) {
        self.keep = keep.max(1);
        self.modules.iter_mut().for_each(|record| record.keep(self.keep));
    }

    /// Forgets every call of every module.
    pub(crate) fn reset_modules(&mut self) {
        self.era = self.era.wrapping_add(1);
        self.modules.iter_mut().for_each(super::Record::reset);
    }

    fn name_of(&self, level: &Level) -> String {
        self.module_name(level.module).unwrap_or_default()
    }
}
