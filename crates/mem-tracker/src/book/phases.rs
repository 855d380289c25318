//! Phases that are open, to say which were forgotten.

use std::thread::ThreadId;

use super::Book;
use crate::Warning;

/// A phase that has begun.
#[derive(Debug)]
pub(crate) struct Begun {
    guard: u64,
    pub(crate) phase: &'static str,
    pub(crate) thread: ThreadId,
}

impl Book {
    /// A phase begins; the number of its guard.
    pub(crate) fn begin_phase(&mut self, phase: &'static str, thread: ThreadId) -> u64 {
        let guard = self.next_guard();
        self.phases.push(Begun { guard, phase, thread });
        guard
    }

    /// It ends. O(open phases).
    pub(crate) fn end_phase(&mut self, guard: u64) -> Option<Begun> {
        let at = self.phases.iter().rposition(|begun| begun.guard == guard)?;
        Some(self.phases.remove(at))
    }

    /// A thread ended with a phase open.
    pub(crate) fn phase_left_open(&mut self, guard: u64) {
        if let Some(Begun { phase, thread, .. }) = self.end_phase(guard) {
            self.warnings.note(Warning::PhaseLeftOpen { phase, thread });
        }
    }
}
