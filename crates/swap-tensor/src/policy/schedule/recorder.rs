//! What a policy that follows schedules writes down.

use super::{
    plan::Schedule,
    recording::{Op, Recording},
};
use crate::policy::{NONE, TensorKey};
use std::sync::Arc;

/// A recorded step whose schedule is still to be computed: that takes a while, and no lock.
#[derive(Debug)]
#[must_use = "the step is followed only once its schedule is adopted"]
pub struct Draft {
    recording: Recording,
    device_bytes: u64,
}

impl Draft {
    pub(super) fn new(recording: Recording, device_bytes: u64) -> Self {
        Draft { recording, device_bytes }
    }

    /// Computes the schedule. O(n log n) for n events, about a microsecond each.
    pub fn plan(self) -> Schedule {
        Schedule::new(self.recording, self.device_bytes)
    }
}

/// A tensor of the pool.
#[derive(Debug)]
pub(super) struct Tensor {
    pub(super) name: Arc<str>,
    pub(super) bytes: u64,
    /// Its handles are gone, its number is not free yet.
    pub(super) dropped: bool,
}

/// The recording of the present step.
#[derive(Debug, Default)]
pub(super) struct Recorder {
    pub(super) recording: Recording,
    /// Per key, its name's number in the recording.
    names: Vec<u32>,
    /// It went on for too long to be a step.
    endless: bool,
}

impl Recorder {
    pub(super) fn record(&mut self, key: TensorKey, tensor: &Tensor, op: Op) {
        if self.endless {
            return;
        }
        let len = self.names.len().max(key.index() + 1);
        self.names.resize(len, NONE);
        let name = &mut self.names[key.index()];
        if *name == NONE {
            *name = self.recording.intern(&tensor.name);
        }
        self.recording.push(op, *name, tensor.bytes);
        if self.recording.len() == MOST_EVENTS {
            self.recording = Recording::new();
            self.endless = true;
        }
    }

    pub(super) fn forget(&mut self, key: TensorKey) {
        if let Some(name) = self.names.get_mut(key.index()) {
            *name = NONE;
        }
    }

    /// Ends the step. If it is `wanted` and was one, its recording is taken out; another begins.
    pub(super) fn restart(&mut self, wanted: bool) -> Option<Recording> {
        let taken = (wanted && !self.endless && !self.recording.is_empty()).then(|| {
            let next = self.recording.empty_like();
            core::mem::replace(&mut self.recording, next)
        });
        self.recording.clear();
        self.names.fill(NONE);
        self.endless = false;
        taken
    }
}

/// More events than this are no step: a program that marks one and never another must not be recorded for
/// ever.
const MOST_EVENTS: usize = 1 << 20;
