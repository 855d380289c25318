//! The policy that follows a schedule, and another one where there is none.

use super::{
    fetches::{self, Fetches},
    index::Index,
    plan::Schedule,
    recorder::{Draft, Recorder, Tensor},
    recording::{Op, Use},
    track::{REACH, Step, Track},
};
use crate::policy::{ByPriority, EvictionPolicy, NONE, Priority, TensorKey, Tier};
use core::ops::ControlFlow;
use std::sync::Arc;

/// Evicts what is needed farthest ahead and says what to fetch, once a program has marked the beginning of
/// two steps; until then, and whenever the program leaves the recorded order, another policy decides. See the
/// [module](super) for what counts as in order.
///
/// Beside what an [`EvictionPolicy`] is told it is told names ([`created`](Self::created)), how a lease uses
/// a tensor ([`leased`](Self::leased)) and where steps begin ([`mark_step`](Self::mark_step)). A lease costs
/// O(log n) for n events in a step and, once a step has been recorded, allocates nothing.
///
/// ```
/// use core::ops::ControlFlow;
/// use swap_tensor::policy::{EvictionPolicy, Lru, Scheduled, TensorKey, Tier, Use};
///
/// let mut policy = Scheduled::new(Box::new(Lru::default()), 200);
/// let keys = [0, 1, 2].map(TensorKey::new);
/// for (key, name) in keys.iter().zip(["a", "b", "c"]) {
///     policy.created(*key, name, 100);
/// }
/// assert!(policy.mark_step().is_none()); // nothing is recorded yet
/// for i in [0, 1, 1, 2, 1, 0] {
///     policy.leased(keys[i], Use::Read);
/// }
/// let draft = policy.mark_step().unwrap();
/// policy.adopt(draft.plan()); // the plan is computed without the pool's lock
///
/// policy.entered(Tier::Device, keys[0], 100);
/// policy.entered(Tier::Device, keys[1], 100);
/// policy.leased(keys[0], Use::Read);
/// policy.leased(keys[1], Use::Read); // once more, then `c`, and `a` after that
/// let fetch = policy.next_fetch(u64::MAX).unwrap();
/// assert_eq!(fetch.key, keys[2]);
/// policy.victims_for(&fetch, &mut |victim| {
///     assert_eq!(victim, keys[0]);
///     ControlFlow::Break(())
/// });
/// ```
#[derive(Debug)]
pub struct Scheduled {
    /// Told everything at all times, so that it can take over at once.
    inner: ByPriority,
    device_bytes: u64,
    tensors: Vec<Option<Tensor>>,
    recorder: Option<Recorder>,
    /// The schedule that is followed, unless it is lost, and another that may be the right one.
    active: Option<Track>,
    spare: Option<Track>,
    index: Index,
    fetches: Fetches,
    /// Steps in a row that ended before their schedule.
    cut: u32,
    /// The schedule was made for another device.
    resized: bool,
}

/// A tensor that should be fetched now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Fetch {
    /// The tensor.
    pub key: TensorKey,
    /// Its bytes.
    pub bytes: u64,
    /// The event it is needed for, counted on from step to step.
    pub use_at: u64,
}

/// What a [`Scheduled`] goes by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum State {
    /// No step has been marked: the inner policy.
    Unmarked,
    /// The first step is being recorded: the inner policy.
    Recording,
    /// The program is in the order of a schedule.
    Following,
    /// It is not, until the next mark: the inner policy.
    Lost,
}

impl Scheduled {
    /// Follows schedules for a device of `device_bytes`, and `policy`, one per priority, where there is none.
    pub fn new(policy: Box<dyn EvictionPolicy>, device_bytes: u64) -> Self {
        Scheduled {
            inner: ByPriority::new(policy),
            device_bytes,
            tensors: Vec::new(),
            recorder: None,
            active: None,
            spare: None,
            index: Index::new(),
            fetches: Fetches::default(),
            cut: 0,
            resized: false,
        }
    }

    /// The device holds `bytes` from now on: the next mark makes a new schedule.
    pub fn set_device_bytes(&mut self, bytes: u64) {
        self.resized |= core::mem::replace(&mut self.device_bytes, bytes) != bytes;
    }

    /// What it goes by now.
    pub fn state(&self) -> State {
        match (&self.active, &self.recorder) {
            (Some(_), _) if self.index.is_live() => State::Following,
            (Some(_), _) => State::Lost,
            (None, Some(_)) => State::Recording,
            (None, None) => State::Unmarked,
        }
    }

    /// A tensor came to be under `key`. Its name is what tells it from others in every step. O(log n).
    pub fn created(&mut self, key: TensorKey, name: &str, bytes: u64) {
        let len = self.tensors.len().max(key.index() + 1);
        self.tensors.resize_with(len, || None);
        self.tensors[key.index()] = Some(Tensor { name: Arc::from(name), bytes, dropped: false });
        self.record(key, Op::Created);
        for track in [&mut self.active, &mut self.spare].into_iter().flatten() {
            track.bind(key, name);
        }
        self.renew(key);
    }

    /// The last handle of the tensor is gone. Its copies may stay a while; its name is free. O(log n).
    pub fn dropped(&mut self, key: TensorKey) {
        let Some(Some(Tensor { dropped: dropped @ false, .. })) = self.tensors.get_mut(key.index()) else {
            return;
        };
        *dropped = true;
        self.record(key, Op::Dropped);
        for track in [&mut self.active, &mut self.spare].into_iter().flatten() {
            track.unbind(key);
        }
        self.renew(key);
    }

    /// The tensor is leased. O(log n), or O(tensors) where it makes another schedule the right one.
    pub fn leased(&mut self, key: TensorKey, how: Use) {
        self.record(key, Op::Leased(how));
        self.inner.used(key);
        if let Some(spare) = &mut self.spare {
            spare.lease(key, how);
        }
        let Some(active) = &mut self.active else { return };
        match active.lease(key, how) {
            Step::On { at, passed } => {
                for at in passed {
                    if let Some(key) = active.key_at(at) {
                        self.index.pass_over(key, at);
                    }
                }
                let next = active.schedule().next(at);
                self.set_next(key, next);
            }
            Step::Again | Step::Aside => self.used_aside(key),
            Step::Lost if self.index.is_live() => self.follow(),
            Step::Lost => {}
        }
        if let Some(active) = &self.active {
            self.expire(active.at().saturating_sub(REACH));
        }
    }

    /// A step begins. If the one before is to be followed, its draft: [`plan`](Draft::plan) it without a lock
    /// and [`adopt`](Self::adopt) it. O(tensors).
    pub fn mark_step(&mut self) -> Option<Draft> {
        let renew = match &self.active {
            None => true,
            Some(track) if track.is_lost() => true,
            Some(track) => {
                self.cut = if track.is_through() { 0 } else { self.cut + 1 };
                self.cut >= 2 || track.is_outdated() || self.resized
            }
        };
        self.wrap();
        // The first mark ends nothing.
        let recording = self.recorder.get_or_insert_default().restart(renew)?;
        (self.cut, self.resized) = (0, false);
        Some(Draft::new(recording, self.device_bytes))
    }

    /// Follows `schedule` from now on, at the place to which the step has come meanwhile. The one followed
    /// before is kept beside it. O(tensors + leases since the mark).
    pub fn adopt(&mut self, schedule: Schedule) {
        if schedule.events() == 0 {
            return;
        }
        let mut track = Track::new(schedule);
        for (number, tensor) in self.tensors.iter().enumerate() {
            if let Some(Tensor { name, dropped: false, .. }) = tensor {
                track.bind(TensorKey::new(number as u32), name);
            }
        }
        if let Some(recorder) = &self.recorder {
            track.replay(&recorder.recording);
        }
        if let Some(before) = self.active.replace(track) {
            self.spare = Some(before);
        }
        self.follow();
    }

    /// Events until the next lease of the tensor, as far as the schedule that is followed knows one.
    pub fn next_use(&self, key: TensorKey) -> Option<u64> {
        let track = self.followed()?;
        let (next, late) = self.index.next(key);
        let now = track.base() + u64::from(track.at());
        (next != NONE && track.schedule().is_lease(next))
            .then(|| track.counted(next, late).saturating_sub(now))
    }

    /// The tensor to fetch now, if there is one and it has at most `limit` bytes: what staging and lanes can
    /// still take. The nearest use comes first. Amortised O(log n).
    ///
    /// Room for it may be made of [`victims_for`](Self::victims_for) it, and of nothing else, so that it
    /// never evicts what is used before it; in the plan no fetch costs a byte more than fetching at the
    /// lease. One for which there is no room is [`put back`](Self::put_back) until the next lease.
    pub fn next_fetch(&mut self, limit: u64) -> Option<Fetch> {
        let track = self.active.as_ref().filter(|_| self.index.is_live())?;
        loop {
            let use_at = self.fetches.peek(track)?;
            let (at, _) = fetches::position(track, use_at);
            let key = track.key_at(at).filter(|&key| {
                let (next, late) = self.index.next(key);
                next == at && track.counted(next, late) == use_at && self.index.is_absent(key)
            });
            if let Some(key) = key
                && let Some(Some(tensor)) = self.tensors.get(key.index())
            {
                if tensor.bytes > limit {
                    return None;
                }
                self.fetches.pop();
                return Some(Fetch { key, bytes: tensor.bytes, use_at });
            }
            self.fetches.pop(); // it is there, or gone, or no longer wanted then
        }
    }

    /// The fetch could not begin: it is the next again, as long as it makes sense.
    pub fn put_back(&mut self, fetch: Fetch) {
        self.fetches.put_back(fetch.use_at);
    }

    /// Offers the copies on the device that may make room for `fetch`: those without a use ahead, and those
    /// used after it. None, if the order has been lost since.
    pub fn victims_for(&mut self, fetch: &Fetch, accept: &mut dyn FnMut(TensorKey) -> ControlFlow<()>) {
        let Some(track) = self.active.as_ref().filter(|_| self.index.is_live()) else { return };
        let beyond = fetch.use_at.saturating_sub(track.base());
        self.index.victims(Tier::Device, track.at(), Some(beyond), accept);
    }

    /// Gives a tensor a priority, until it is [`forgotten`](EvictionPolicy::forgotten).
    pub fn set_priority(&mut self, key: TensorKey, priority: Priority) {
        self.inner.set_priority(key, priority);
        self.index.set_priority(key, priority);
    }

    /// The priority of a tensor.
    pub fn priority(&self, key: TensorKey) -> Priority {
        self.index.priority(key)
    }

    /// The tensor is leased on a device that this is not the policy of.
    pub(crate) fn used_elsewhere(&mut self, key: TensorKey) {
        self.inner.used(key);
    }

    fn followed(&self) -> Option<&Track> {
        self.active.as_ref().filter(|_| self.index.is_live())
    }

    fn record(&mut self, key: TensorKey, op: Op) {
        if let (Some(recorder), Some(Some(tensor))) = (&mut self.recorder, self.tensors.get(key.index())) {
            recorder.record(key, tensor, op);
        }
    }

    /// A tensor's name has come or gone: its next use is another.
    fn renew(&mut self, key: TensorKey) {
        let next = self.active.as_ref().map_or(NONE, |track| track.first_use(key));
        self.set_next(key, next);
    }

    fn set_next(&mut self, key: TensorKey, next: u32) {
        self.index.set_next(key, next);
        self.watch(key);
    }

    /// A lease that moved nothing on: if the tensor was awaited, it has come.
    fn used_aside(&mut self, key: TensorKey) {
        let (next, late) = self.index.next(key);
        match &self.active {
            Some(track) if late => self.set_next(key, track.schedule().next(next)),
            // Without a use ahead it becomes the one used last.
            _ => self.index.set_next(key, next),
        }
    }

    /// If the tensor is not on the device, its next use may need a fetch.
    fn watch(&mut self, key: TensorKey) {
        let Some(track) = self.active.as_ref().filter(|_| self.index.is_live()) else { return };
        let (next, late) = self.index.next(key);
        if next != NONE && self.index.is_absent(key) {
            self.fetches.missing(track, track.counted(next, late));
        }
    }

    /// Awaits no longer what was passed over before `tail`.
    fn expire(&mut self, tail: u32) {
        while let Some((at, key)) = self.index.expire(tail) {
            let next = self.active.as_ref().map_or(NONE, |track| track.schedule().next(at));
            self.set_next(key, next);
        }
    }

    /// Ends the step: what of it is left is passed over, and the next one begins where it began.
    fn wrap(&mut self) {
        if let Some(track) = self.followed() {
            for at in track.at()..track.schedule().len() {
                if let Some(key) = self.active.as_ref().and_then(|track| track.key_at(at)) {
                    self.index.pass_over(key, at);
                }
            }
        }
        if let Some(spare) = &mut self.spare {
            spare.mark();
        }
        if let Some(active) = &mut self.active {
            active.mark();
            self.fetches.mark(active.base());
        }
        if self.index.is_live() {
            while let Some((_, key)) = self.index.expire(u32::MAX) {
                self.renew(key);
            }
        } else {
            self.follow();
        }
    }

    /// Follows the active schedule, or the spare if only its order is not lost, or none.
    fn follow(&mut self) {
        let lost = |track: &Option<Track>| track.as_ref().is_none_or(Track::is_lost);
        if lost(&self.active) && !lost(&self.spare) {
            core::mem::swap(&mut self.active, &mut self.spare);
        }
        let Some(track) = self.active.as_ref().filter(|track| !track.is_lost()) else {
            self.index.stop();
            return;
        };
        self.fetches.reset(track.schedule());
        self.index.rebuild(track.schedule().len(), |key| track.first_use(key));
        for key in self.index.keys() {
            self.watch(key);
        }
    }
}

impl EvictionPolicy for Scheduled {
    fn name(&self) -> &'static str {
        "scheduled"
    }

    fn fresh(&self) -> Box<dyn EvictionPolicy> {
        Box::new(Scheduled::new(self.inner.fresh(), self.device_bytes))
    }

    fn entered(&mut self, tier: Tier, key: TensorKey, bytes: u64) {
        self.inner.entered(tier, key, bytes);
        self.index.enter(tier, key, bytes);
    }

    fn left(&mut self, tier: Tier, key: TensorKey) {
        self.inner.left(tier, key);
        self.index.leave(tier, key);
        if tier == Tier::Device {
            self.watch(key);
        }
    }

    fn used(&mut self, key: TensorKey) {
        self.leased(key, Use::Read);
    }

    fn forgotten(&mut self, key: TensorKey) {
        self.dropped(key);
        self.inner.forgotten(key);
        self.index.forget(key);
        if let Some(tensor) = self.tensors.get_mut(key.index()) {
            *tensor = None;
        }
        if let Some(recorder) = &mut self.recorder {
            recorder.forget(key);
        }
    }

    fn held(&mut self, key: TensorKey) {
        self.inner.held(key);
        self.index.hold(key, true);
    }

    fn released(&mut self, key: TensorKey) {
        self.inner.released(key);
        self.index.hold(key, false);
    }

    fn victims(&mut self, tier: Tier, accept: &mut dyn FnMut(TensorKey) -> ControlFlow<()>) {
        match self.active.as_ref().filter(|_| self.index.is_live()) {
            Some(track) => self.index.victims(tier, track.at(), None, accept),
            None => self.inner.victims(tier, accept),
        }
    }
}
