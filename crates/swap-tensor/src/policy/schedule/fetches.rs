//! Which fetch comes next.

use super::{
    plan::Schedule,
    recording::{Op, Use},
    track::Track,
};
use std::{cmp::Reverse, collections::BinaryHeap};

/// Fetches whose time has come, by their use. Uses are counted on from step to step. Each fetch costs O(log
/// n) and no memory beyond what the most of them at a time need.
#[derive(Debug, Default)]
pub(super) struct Fetches {
    /// The planned fetch that is due next, and whether it is one for the next step already.
    due: usize,
    wrapped: bool,
    /// Uses of tensors that are not there against the plan, by when their fetch may begin.
    unplanned: BinaryHeap<Reverse<(u64, u64)>>,
    /// Uses whose fetch may begin now.
    ready: BinaryHeap<Reverse<u64>>,
}

impl Fetches {
    /// Starts anew, at the beginning of a step.
    pub(super) fn reset(&mut self, schedule: &Schedule) {
        (self.due, self.wrapped) = (0, false);
        self.unplanned.clear();
        self.ready.clear();
        self.ready.reserve(schedule.timed().len());
    }

    /// A new step begins, at `base`: what was for the old one is dropped.
    pub(super) fn mark(&mut self, base: u64) {
        if !core::mem::take(&mut self.wrapped) {
            self.due = 0;
        }
        self.ready.retain(|Reverse(use_at)| *use_at >= base);
        self.unplanned.retain(|Reverse((_, use_at))| *use_at >= base);
    }

    /// The tensor used at `use_at`, which counts on, is not on the device: unless the plan foresees that, it
    /// is fetched a short way ahead, since nobody has looked for a time when that harms nobody.
    pub(super) fn missing(&mut self, track: &Track, use_at: u64) {
        let schedule = track.schedule();
        let (ahead, next_step) = position(track, use_at);
        if matches!(schedule.event(ahead).op, Op::Leased(Use::Overwrite) | Op::Dropped) {
            return;
        }
        let to_come = |fetch: usize| match (next_step, self.wrapped) {
            (false, true) => false,
            (true, false) => true,
            _ => fetch >= self.due,
        };
        if !schedule.fetch_of(ahead).is_some_and(to_come) {
            let shortly = SHORTLY.min(schedule.events() / 8).max(1);
            self.unplanned.push(Reverse((use_at.saturating_sub(shortly), use_at)));
        }
    }

    /// The nearest use whose fetch may begin now. The caller takes it off with [`pop`](Self::pop).
    pub(super) fn peek(&mut self, track: &Track) -> Option<u64> {
        let (schedule, at) = (track.schedule(), i64::from(track.at()));
        let events = schedule.events() as i64;
        loop {
            let step = if self.wrapped { events } else { 0 };
            match schedule.timed().get(self.due) {
                Some(fetch) if fetch.start + step <= at => {
                    let use_at = track.base() + step as u64 + u64::from(fetch.use_at);
                    self.ready.push(Reverse(use_at));
                    self.due += 1;
                }
                None if !self.wrapped => (self.due, self.wrapped) = (0, true),
                _ => break,
            }
        }
        let now = track.base() + u64::from(track.at());
        while let Some(&Reverse((start, use_at))) = self.unplanned.peek()
            && start <= now
        {
            self.unplanned.pop();
            self.ready.push(Reverse(use_at));
        }
        self.ready.peek().map(|&Reverse(use_at)| use_at)
    }

    pub(super) fn pop(&mut self) {
        self.ready.pop();
    }

    pub(super) fn put_back(&mut self, use_at: u64) {
        self.ready.push(Reverse(use_at));
    }
}

/// The event of a use that counts on, and whether it is in the step after the present one.
pub(super) fn position(track: &Track, use_at: u64) -> (u32, bool) {
    let (ahead, events) = (use_at.saturating_sub(track.base()), track.schedule().events());
    ((ahead % events) as u32, ahead >= events)
}

/// Events ahead of its use at which a fetch that was not planned begins, in a step that is long enough: too early, and it takes the
/// room of what is needed sooner than what the plan would have evicted.
const SHORTLY: u64 = 16;
