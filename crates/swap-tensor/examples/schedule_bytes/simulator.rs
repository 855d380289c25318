//! A pool reduced to arithmetic: which copy is on the device, and the bytes that would travel.

use crate::trace::{Op, Trace};
use core::ops::ControlFlow;
use swap_tensor::policy::{EvictionPolicy, Scheduled, TensorKey, Tier, Use};

/// Bytes that travelled in the counted steps, and the leases that found nothing.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Bytes {
    pub(crate) up: u64,
    pub(crate) down: u64,
    /// Leases that had to wait for bytes.
    pub(crate) waits: u64,
}

impl Bytes {
    pub(crate) fn total(self) -> u64 {
        self.up + self.down
    }
}

impl core::iter::Sum for Bytes {
    fn sum<I: Iterator<Item = Bytes>>(steps: I) -> Bytes {
        steps.fold(Bytes::default(), |a, b| Bytes {
            up: a.up + b.up,
            down: a.down + b.down,
            waits: a.waits + b.waits,
        })
    }
}

/// How often a trace is run. The last time is not counted: it only shows an oracle what comes.
pub(crate) const STEPS: usize = 5;
/// The steps that repeat themselves: the first is recorded, and the second begins with what that one left behind.
pub(crate) const STEADY: core::ops::Range<usize> = 2..4;

/// The device under a policy, leases one at a time, no fragmentation. A number is a tensor's key.
pub(crate) struct Simulator<'a> {
    trace: &'a Trace,
    pub(crate) policy: Scheduled,
    capacity: u64,
    used: u64,
    on_device: Vec<bool>,
    dirty: Vec<bool>,
    /// Fetched ahead and not used since; no more than `look_ahead` bytes in all.
    fetched: Vec<bool>,
    fetched_bytes: u64,
    look_ahead: u64,
    bytes: Bytes,
}

impl<'a> Simulator<'a> {
    pub(crate) fn new(trace: &'a Trace, policy: Box<dyn EvictionPolicy>, look_ahead: u64) -> Self {
        let (capacity, tensors) = (trace.device_bytes(), trace.bytes.len());
        Simulator {
            trace,
            policy: Scheduled::new(policy, capacity),
            capacity,
            used: 0,
            on_device: vec![false; tensors],
            dirty: vec![false; tensors],
            fetched: vec![false; tensors],
            fetched_bytes: 0,
            look_ahead,
            bytes: Bytes::default(),
        }
    }

    /// Runs all steps but the last, and tells what each moved; whether their beginnings are marked decides
    /// whether schedules are made.
    pub(crate) fn run(mut self, marked: bool) -> Vec<Bytes> {
        let steps = (0..STEPS - 1).map(|step| {
            if marked && let Some(draft) = self.policy.mark_step() {
                self.policy.adopt(draft.plan());
            }
            let ops = if step == 0 { &self.trace.first } else { &self.trace.again };
            ops.iter().for_each(|&op| self.step(op));
            core::mem::take(&mut self.bytes)
        });
        steps.collect()
    }

    fn step(&mut self, op: Op) {
        match op {
            Op::Create { tensor } => {
                let name = format!("tensor.{tensor}");
                self.policy.created(key(tensor), &name, self.trace.bytes[tensor]);
            }
            Op::Lease { tensor, how } => self.lease(tensor, how),
            Op::Drop { tensor } => {
                if self.on_device[tensor] {
                    self.leave(tensor);
                }
                self.dirty[tensor] = false;
                self.policy.forgotten(key(tensor));
            }
        }
        self.fetch();
    }

    fn lease(&mut self, tensor: usize, how: Use) {
        self.policy.held(key(tensor));
        if !self.on_device[tensor] {
            let (used, capacity, bytes) = (self.used, self.capacity, self.trace.bytes[tensor]);
            let victims =
                self.choose(used + bytes, capacity, |policy, accept| policy.victims(Tier::Device, accept));
            for victim in victims.expect("whoever is not leased may go") {
                self.evict(victim);
            }
            if how != Use::Overwrite {
                self.bytes.up += bytes;
                self.bytes.waits += 1;
            }
            self.enter(tensor);
        }
        if core::mem::take(&mut self.fetched[tensor]) {
            self.fetched_bytes -= self.trace.bytes[tensor];
        }
        self.dirty[tensor] |= how != Use::Read;
        self.policy.leased(key(tensor), how);
        self.policy.released(key(tensor));
    }

    /// Fetches what is due, as far as the look-ahead allows.
    fn fetch(&mut self) {
        while let Some(fetch) = self.policy.next_fetch(self.look_ahead - self.fetched_bytes) {
            let (used, capacity) = (self.used, self.capacity);
            let victims = self
                .choose(used + fetch.bytes, capacity, |policy, accept| policy.victims_for(&fetch, accept));
            let Some(victims) = victims else {
                self.policy.put_back(fetch);
                return;
            };
            victims.into_iter().for_each(|victim| self.evict(victim));
            let tensor = fetch.key.index();
            self.bytes.up += fetch.bytes;
            self.enter(tensor);
            self.fetched[tensor] = true;
            self.fetched_bytes += fetch.bytes;
        }
    }

    /// Those who go so that what would be `needed` fits; `None` if not enough may.
    fn choose(
        &mut self,
        mut needed: u64,
        capacity: u64,
        offer: impl FnOnce(&mut Scheduled, &mut dyn FnMut(TensorKey) -> ControlFlow<()>),
    ) -> Option<Vec<usize>> {
        let mut victims = Vec::new();
        if needed > capacity {
            let (bytes, on_device) = (&self.trace.bytes, &self.on_device);
            offer(&mut self.policy, &mut |key| {
                assert!(on_device[key.index()], "{key:?} was offered and is not there");
                victims.push(key.index());
                needed -= bytes[key.index()];
                if needed > capacity { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
            });
        }
        (needed <= capacity).then_some(victims)
    }

    fn evict(&mut self, tensor: usize) {
        if core::mem::take(&mut self.dirty[tensor]) {
            self.bytes.down += self.trace.bytes[tensor];
        }
        self.leave(tensor);
    }

    fn enter(&mut self, tensor: usize) {
        self.used += self.trace.bytes[tensor];
        assert!(self.used <= self.capacity, "the device overflows");
        self.on_device[tensor] = true;
        self.policy.entered(Tier::Device, key(tensor), self.trace.bytes[tensor]);
    }

    fn leave(&mut self, tensor: usize) {
        self.used -= self.trace.bytes[tensor];
        self.on_device[tensor] = false;
        if core::mem::take(&mut self.fetched[tensor]) {
            self.fetched_bytes -= self.trace.bytes[tensor];
        }
        self.policy.left(Tier::Device, key(tensor));
    }
}

fn key(tensor: usize) -> TensorKey {
    TensorKey::new(tensor as u32)
}
