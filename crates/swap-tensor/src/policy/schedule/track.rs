//! How far a program has come in a schedule.

use super::{
    plan::Schedule,
    recording::{Op, Recording, Use},
};
use crate::policy::{NONE, TensorKey};
use core::ops::Range;

/// A schedule, the place in it, and which tensors have its names now. A lease costs O(log of the tensor's
/// uses).
#[derive(Debug)]
pub(super) struct Track {
    schedule: Schedule,
    /// The event expected next; all before are over or were passed over.
    at: u32,
    /// What `at` counts on from: the events of all steps before.
    base: u64,
    /// Stray leases since the last one in order.
    strays: u32,
    lost: bool,
    /// Leases of this step that the schedule did not foresee, or not so.
    unforeseen: u32,
    /// Per name of the schedule, the key that has it; `NONE` if no tensor does.
    key_of: Vec<u32>,
    /// Per key, its name in the schedule; `NONE` if it has no such name.
    name_of: Vec<u32>,
}

/// What a lease means for the place in a schedule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Step {
    /// The event at `at`; those of `passed` came before it and were not seen.
    On { at: u32, passed: Range<u32> },
    /// Late or repeated: the place stays.
    Again,
    /// A known tensor out of order, or one that is not known.
    Aside,
    /// One too many: the order is lost.
    Lost,
}

impl Track {
    /// At the beginning of `schedule`, with no tensors.
    pub(super) fn new(schedule: Schedule) -> Self {
        let key_of = vec![NONE; schedule.names()];
        Track { schedule, at: 0, base: 0, strays: 0, lost: false, unforeseen: 0, key_of, name_of: Vec::new() }
    }

    pub(super) fn schedule(&self) -> &Schedule {
        &self.schedule
    }

    pub(super) fn at(&self) -> u32 {
        self.at
    }

    pub(super) fn base(&self) -> u64 {
        self.base
    }

    pub(super) fn is_lost(&self) -> bool {
        self.lost
    }

    /// Whether the step has been gone through, but for a few events.
    pub(super) fn is_through(&self) -> bool {
        !self.lost && self.at + REACH >= self.schedule.len()
    }

    /// Whether more than a sixteenth of the step was not foreseen.
    pub(super) fn is_outdated(&self) -> bool {
        self.unforeseen > self.schedule.len() / 16
    }

    /// The tensor whose event is at `at`, if there is one.
    pub(super) fn key_at(&self, at: u32) -> Option<TensorKey> {
        let key = self.key_of[self.schedule.event(at).name as usize];
        (key != NONE).then(|| TensorKey::new(key))
    }

    /// The next lease of `key` from here on, or `NONE`.
    pub(super) fn first_use(&self, key: TensorKey) -> u32 {
        self.name(key).map_or(NONE, |name| self.schedule.first_from(name, self.at))
    }

    /// The use at `at` of this step or, if that is behind, the next, counted on from step to step.
    pub(super) fn counted(&self, at: u32, late: bool) -> u64 {
        let next_step = at < self.at && !late;
        self.base + u64::from(at) + if next_step { self.schedule.events() } else { 0 }
    }

    /// A tensor called `name` came to be.
    pub(super) fn bind(&mut self, key: TensorKey, name: &str) {
        if let Some(name) = self.schedule.find(name) {
            let before = core::mem::replace(&mut self.key_of[name as usize], key.number());
            if let Some(of) = self.name_of.get_mut(before as usize) {
                *of = NONE;
            }
            let len = self.name_of.len().max(key.index() + 1);
            self.name_of.resize(len, NONE);
            self.name_of[key.index()] = name;
        }
        self.pass();
    }

    /// The tensor is gone.
    pub(super) fn unbind(&mut self, key: TensorKey) {
        if let Some(name) = self.name(key) {
            self.key_of[name as usize] = NONE;
            self.name_of[key.index()] = NONE;
        }
        self.pass();
    }

    pub(super) fn lease(&mut self, key: TensorKey, how: Use) -> Step {
        let step = self.name(key).map_or(Step::Aside, |name| self.lease_name(name));
        let unforeseen = match step {
            // No fetch is planned for what is overwritten.
            Step::On { at, .. } => {
                how != Use::Overwrite && self.schedule.event(at).op == Op::Leased(Use::Overwrite)
            }
            Step::Again => false,
            Step::Aside | Step::Lost => true,
        };
        self.unforeseen += u32::from(unforeseen);
        step
    }

    /// Goes through what of the present step is over already.
    pub(super) fn replay(&mut self, recording: &Recording) {
        for event in &recording.events {
            let name = self.schedule.find(&recording.names[event.name as usize]);
            if let (Op::Leased(_), Some(name)) = (event.op, name) {
                self.lease_name(name);
            }
        }
    }

    /// A new step begins.
    pub(super) fn mark(&mut self) {
        self.base += self.schedule.events();
        (self.at, self.strays, self.lost, self.unforeseen) = (0, 0, false, 0);
        self.pass();
    }

    fn lease_name(&mut self, name: u32) -> Step {
        if self.lost {
            return Step::Lost;
        }
        match self.schedule.near(name, self.at, REACH) {
            Some(at) => {
                self.strays = 0;
                if at < self.at {
                    return Step::Again;
                }
                let passed = self.at..at;
                self.at = at + 1;
                self.pass();
                Step::On { at, passed }
            }
            None => {
                self.strays += 1;
                self.lost = self.strays > PATIENCE;
                if self.lost { Step::Lost } else { Step::Aside }
            }
        }
    }

    /// Steps over creations and drops that have happened, early or just now. A lease steps over them anyway.
    fn pass(&mut self) {
        while self.at < self.schedule.len() {
            let event = self.schedule.event(self.at);
            let bound = self.key_of[event.name as usize] != NONE;
            match event.op {
                Op::Created if bound => self.at += 1,
                Op::Dropped if !bound => self.at += 1,
                _ => return,
            }
        }
    }

    fn name(&self, key: TensorKey) -> Option<u32> {
        self.name_of.get(key.index()).copied().filter(|&name| name != NONE)
    }
}

/// Events by which a lease may come early or late.
pub(super) const REACH: u32 = 32;
/// Stray leases in a row that are let pass.
pub(super) const PATIENCE: u32 = 4;
