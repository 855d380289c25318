//! Which copy is next used when, per tier and priority, while a schedule is followed.

use super::agenda::Agenda;
use crate::policy::{NONE, Priority, TensorKey, Tier, priority::Classes, seats::Seats};
use core::ops::ControlFlow;
use std::collections::VecDeque;

/// Where each tensor stands in the order of next uses. While no schedule is followed it only keeps what it is
/// told, and [`rebuild`](Self::rebuild) puts everything in place again. Each step is O(log n) and allocates
/// for new keys only.
#[derive(Debug)]
pub(super) struct Index {
    seats: Seats,
    ahead: Vec<Ahead>,
    classes: Classes<[Agenda; Tier::COUNT]>,
    /// Whose use each position is.
    key_at: Vec<u32>,
    /// Tensors whose use was passed over and is still awaited, in the order they were passed. What is no
    /// longer late stays in the row until its turn comes.
    late: VecDeque<(u32, TensorKey)>,
    /// Events of the step that is followed; `None` while none is.
    events: Option<u32>,
}

/// What lies ahead of one tensor.
#[derive(Debug, Clone, Copy)]
struct Ahead {
    /// The position of its next use, or `NONE`.
    next: u32,
    /// That position was passed over a moment ago.
    late: bool,
    priority: Priority,
}

impl Index {
    pub(super) fn new() -> Self {
        Index {
            seats: Seats::default(),
            ahead: Vec::new(),
            classes: Classes::new(),
            key_at: Vec::new(),
            late: VecDeque::with_capacity(64),
            events: None,
        }
    }

    pub(super) fn is_live(&self) -> bool {
        self.events.is_some()
    }

    /// Position of the next use, `NONE` if there is none, and whether it was passed over.
    pub(super) fn next(&self, key: TensorKey) -> (u32, bool) {
        let ahead = self.ahead(key);
        (ahead.next, ahead.late)
    }

    pub(super) fn priority(&self, key: TensorKey) -> Priority {
        self.ahead(key).priority
    }

    /// Whether the device has no copy and nobody is about to bring one in.
    pub(super) fn is_absent(&self, key: TensorKey) -> bool {
        let seat = self.seats.get(key);
        !seat.is_in(Tier::Device) && !seat.held
    }

    /// The keys there have been.
    pub(super) fn keys(&self) -> impl Iterator<Item = TensorKey> + use<> {
        (0..self.ahead.len() as u32).map(TensorKey::new)
    }

    pub(super) fn enter(&mut self, tier: Tier, key: TensorKey, bytes: u64) {
        self.change(key, |index| index.seats.enter(tier, key, bytes));
    }

    pub(super) fn leave(&mut self, tier: Tier, key: TensorKey) {
        self.change(key, |index| index.seats.leave(tier, key));
    }

    pub(super) fn hold(&mut self, key: TensorKey, held: bool) {
        self.change(key, |index| index.seats.hold(key, held));
    }

    pub(super) fn forget(&mut self, key: TensorKey) {
        self.change(key, |index| {
            index.seats.forget(key);
            *index.ahead_mut(key) = UNKNOWN;
        });
    }

    pub(super) fn set_priority(&mut self, key: TensorKey, priority: Priority) {
        self.change(key, |index| index.ahead_mut(key).priority = priority);
    }

    /// The tensor is next used at `next`. One without a use becomes the last of those to go.
    pub(super) fn set_next(&mut self, key: TensorKey, next: u32) {
        self.change(key, |index| {
            let ahead = index.ahead_mut(key);
            (ahead.next, ahead.late) = (next, false);
        });
    }

    /// The use at `at` was passed over. If it is the tensor's next, it is awaited as if it were the very next
    /// one.
    pub(super) fn pass_over(&mut self, key: TensorKey, at: u32) {
        if self.next(key) == (at, false) {
            self.change(key, |index| index.ahead_mut(key).late = true);
            self.late.push_back((at, key));
        }
    }

    /// The tensor passed over longest ago, if that was before `tail`: it is awaited no longer.
    pub(super) fn expire(&mut self, tail: u32) -> Option<(u32, TensorKey)> {
        loop {
            let &(at, key) = self.late.front()?;
            let awaited = self.next(key) == (at, true);
            if awaited && at >= tail {
                return None;
            }
            self.late.pop_front();
            if awaited {
                return Some((at, key));
            }
        }
    }

    /// Follows no schedule from now on.
    pub(super) fn stop(&mut self) {
        self.events = None;
        self.late.clear();
    }

    /// Follows one of `events`; `next` tells each tensor's next use. O(keys + events).
    pub(super) fn rebuild(&mut self, events: u32, mut next: impl FnMut(TensorKey) -> u32) {
        self.stop();
        for class in self.classes.iter_mut() {
            class.iter_mut().for_each(|agenda| agenda.reset(events as usize));
        }
        self.key_at.clear();
        self.key_at.resize(events as usize, NONE);
        self.events = Some(events);
        for key in self.keys() {
            let ahead = self.ahead_mut(key);
            (ahead.next, ahead.late) = (next(key), false);
            self.put(key);
        }
    }

    /// Offers the free copies of `tier` as seen from position `from`: in each priority those without a use
    /// ahead, then the farthest use first, and what is late at the very end. Where `beyond` is given, only
    /// those used after that position, which is counted on into the next step.
    pub(super) fn victims(
        &mut self,
        tier: Tier,
        from: u32,
        beyond: Option<u64>,
        accept: &mut dyn FnMut(TensorKey) -> ControlFlow<()>,
    ) {
        let Some(events) = self.events else { return };
        let key_at = &self.key_at;
        let seen = |at: u32| u64::from(at) + if at < from { u64::from(events) } else { 0 };
        for class in self.classes.iter_mut() {
            let agenda = &class[tier.index()];
            let used =
                agenda.farthest_first(from, events).take_while(|&at| beyond.is_none_or(|b| seen(at) > b));
            let mut keys = agenda.idle().chain(used.map(|at| key_at[at as usize]));
            if keys.try_for_each(|key| accept(TensorKey::new(key))).is_break() {
                return;
            }
        }
        if beyond.is_none() {
            let late = self
                .late
                .iter()
                .filter(|&&(at, key)| self.next(key) == (at, true) && self.seats.get(key).is_free(tier));
            let _ = late.map(|&(_, key)| key).try_for_each(accept);
        }
    }

    /// Takes the tensor out of the order, changes it, and puts it where it belongs then.
    fn change(&mut self, key: TensorKey, change: impl FnOnce(&mut Self)) {
        if self.is_live() {
            let (ahead, seat) = (self.ahead(key), self.seats.get(key));
            for tier in Tier::ALL.into_iter().filter(|&tier| seat.is_free(tier) && !ahead.late) {
                self.agenda(ahead.priority, tier).remove(key.number(), ahead.next);
            }
        }
        change(self);
        if self.is_live() {
            self.put(key);
        }
    }

    fn put(&mut self, key: TensorKey) {
        let (ahead, seat) = (self.ahead(key), self.seats.get(key));
        if ahead.late {
            return;
        }
        if let Some(of) = self.key_at.get_mut(ahead.next as usize) {
            *of = key.number();
        }
        for tier in Tier::ALL.into_iter().filter(|&tier| seat.is_free(tier)) {
            self.agenda(ahead.priority, tier).insert(key.number(), ahead.next);
        }
    }

    fn agenda(&mut self, priority: Priority, tier: Tier) -> &mut Agenda {
        let events = self.events.unwrap_or(0) as usize;
        let class = self.classes.of(priority, || {
            let mut agendas: [Agenda; Tier::COUNT] = Default::default();
            agendas.iter_mut().for_each(|agenda| agenda.reset(events));
            agendas
        });
        &mut class[tier.index()]
    }

    fn ahead(&self, key: TensorKey) -> Ahead {
        self.ahead.get(key.index()).copied().unwrap_or(UNKNOWN)
    }

    fn ahead_mut(&mut self, key: TensorKey) -> &mut Ahead {
        let len = self.ahead.len().max(key.index() + 1);
        self.ahead.resize(len, UNKNOWN);
        &mut self.ahead[key.index()]
    }
}

const UNKNOWN: Ahead = Ahead { next: NONE, late: false, priority: Priority::NORMAL };
