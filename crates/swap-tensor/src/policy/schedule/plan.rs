//! The schedule of a step: computed once, by simulating it.

use super::{
    recording::{Event, Op, Recording},
    simulate::{Simulation, Totals},
    timing::{self, Timed},
};
use crate::policy::NONE;

/// What is known of a step that repeats itself: when each tensor is next used, and what must be fetched when.
///
/// Computed by simulating the step twice on a device of so many bytes, without fragmentation, and keeping the
/// second, whose beginning is the first one's end. O(n log n) for n events; deterministic.
/// ```
/// use swap_tensor::policy::{Recording, Schedule, Use};
///
/// // Three layers, of which the device holds two, forwards and backwards; `b` is used twice in a row.
/// let mut step = Recording::new();
/// for layer in ["a", "b", "b", "c", "b", "a"] {
///     step.leased(layer, 100, Use::Read);
/// }
/// let schedule = Schedule::new(step, 200);
/// assert_eq!((schedule.uploaded(), schedule.downloaded()), (200, 0)); // `a` and `c` change places
/// let fetch = schedule.fetches().next().unwrap();
/// assert_eq!((fetch.name, fetch.use_at, fetch.earliest), ("c", 3, 2)); // when `b` is leased, `a` may go
/// ```
#[derive(Debug)]
pub struct Schedule {
    recording: Recording,
    device_bytes: u64,
    /// Positions of the events of name `i` are `places[starts[i]..starts[i + 1]]`, ascending.
    starts: Vec<u32>,
    places: Vec<u32>,
    unused: Unused,
    /// Per event: the next lease or awaited drop of the same tensor, in this step or the next; `NONE` if
    /// there is none.
    next: Vec<u32>,
    /// By `start`, then by use.
    fetches: Vec<Timed>,
    /// Per event: the fetch for it in `fetches`.
    fetch_of: Vec<u32>,
    /// Names of the tensors that leave, by fetch.
    leave: Vec<u32>,
    totals: Totals,
}

/// A fetch that a [`Schedule`] foresees.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct PlannedFetch<'a> {
    /// The tensor.
    pub name: &'a str,
    /// Its bytes.
    pub bytes: u64,
    /// The position of the lease it is for.
    pub use_at: u64,
    /// Events of the step after which it may begin; negative: so many before the end of the step before.
    pub earliest: i64,
    /// The tensors that make way for it.
    pub victims: Vec<&'a str>,
}

/// What to do about a tensor that is not used again before it is dropped.
///
/// To copy it down for the room is wasted if the room comes back soon by itself; and it costs half of what
/// another tensor costs, which must come back. Neither is better in every program, so a schedule takes what
/// moves less in its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Unused {
    /// It goes as if it were needed when it is dropped.
    ToDrop,
    /// It goes before any other.
    First,
}

impl Unused {
    /// Whether a tensor is kept for an event.
    fn awaits(self, op: Op) -> bool {
        match op {
            Op::Leased(_) => true,
            Op::Dropped => self == Unused::ToDrop,
            Op::Created => false,
        }
    }
}

impl Schedule {
    /// The schedule of a step on a device of `device_bytes`.
    ///
    /// A tensor larger than the device is left out, and so is what cannot happen again: the creation of a
    /// tensor that lives on when the step ends, and all of one that ends its life in the step and is not made
    /// anew. O(n log n) for n events, 100 bytes or so for each.
    pub fn new(mut recording: Recording, device_bytes: u64) -> Self {
        recording.keep_what_recurs();
        let mut schedule = Schedule {
            device_bytes,
            starts: Vec::new(),
            places: Vec::new(),
            unused: Unused::ToDrop,
            next: Vec::new(),
            fetches: Vec::new(),
            fetch_of: vec![NONE; recording.events.len()],
            leave: Vec::new(),
            totals: Totals::default(),
            recording,
        };
        schedule.sort_by_name();
        let costs = [Unused::ToDrop, Unused::First].map(|unused| {
            schedule.link(unused);
            (Simulation::run(&schedule).totals.bytes(), unused)
        });
        // The first of equals.
        schedule.link(if costs[1].0 < costs[0].0 { costs[1].1 } else { costs[0].1 });
        let simulated = Simulation::run(&schedule);
        let (fetches, leave) = timing::time(&simulated, schedule.recording.len(), device_bytes);
        let totals = simulated.totals;
        (schedule.fetches, schedule.leave, schedule.totals) = (fetches, leave, totals);
        for (at, fetch) in schedule.fetches.iter().enumerate() {
            schedule.fetch_of[fetch.use_at as usize] = at as u32;
        }
        schedule
    }

    /// Events of the step: creations, leases and drops.
    pub fn events(&self) -> u64 {
        self.recording.len() as u64
    }

    /// Bytes of the device it was made for.
    pub fn device_bytes(&self) -> u64 {
        self.device_bytes
    }

    /// Bytes that go up to the device in a step, if it goes as recorded.
    pub fn uploaded(&self) -> u64 {
        self.totals.uploaded
    }

    /// Bytes of dirty victims that are copied down in a step.
    pub fn downloaded(&self) -> u64 {
        self.totals.downloaded
    }

    /// Leases in a step that need a copy which is not on the device unless it is fetched ahead.
    pub fn misses(&self) -> u64 {
        self.totals.misses
    }

    /// The fetches that can begin ahead of their lease, in the order in which they can. The others are those
    /// whose victims are used right up to the lease.
    pub fn fetches(&self) -> impl ExactSizeIterator<Item = PlannedFetch<'_>> {
        self.fetches.iter().map(|fetch| {
            let event = self.event(fetch.use_at);
            let victims = &self.leave[fetch.victims.start as usize..fetch.victims.end as usize];
            PlannedFetch {
                name: &self.recording.names[event.name as usize],
                bytes: event.bytes,
                use_at: u64::from(fetch.use_at),
                earliest: fetch.start,
                victims: victims.iter().map(|&name| &*self.recording.names[name as usize]).collect(),
            }
        })
    }

    pub(super) fn len(&self) -> u32 {
        self.recording.len() as u32
    }

    pub(super) fn names(&self) -> usize {
        self.recording.names.len()
    }

    pub(super) fn find(&self, name: &str) -> Option<u32> {
        self.recording.find(name)
    }

    pub(super) fn event(&self, at: u32) -> Event {
        self.recording.events[at as usize]
    }

    pub(super) fn timed(&self) -> &[Timed] {
        &self.fetches
    }

    /// The fetch planned for the lease at `at`.
    pub(super) fn fetch_of(&self, at: u32) -> Option<usize> {
        Some(self.fetch_of[at as usize]).filter(|&fetch| fetch != NONE).map(|fetch| fetch as usize)
    }

    /// The next lease or awaited drop of the tensor whose event is at `at`; `NONE` if there is none.
    pub(super) fn next(&self, at: u32) -> u32 {
        self.next[at as usize]
    }

    /// The first lease or awaited drop of a tensor that is alive, at `from` or after; `NONE` if there is
    /// none. O(log uses).
    pub(super) fn first_from(&self, name: u32, from: u32) -> u32 {
        let places = self.places_of(name);
        let ahead = &places[places.partition_point(|&at| at < from)..];
        // It is alive, so a creation ahead is one that came early.
        let ahead = match ahead {
            [first, rest @ ..] if self.event(*first).op == Op::Created => rest,
            ahead => ahead,
        };
        let first = ahead.first().or(places.first());
        first.copied().filter(|&at| self.unused.awaits(self.event(at).op)).unwrap_or(NONE)
    }

    /// The lease of `name` nearest to `at` that is at most `reach` events away, and which is the order in
    /// which they count: there, behind, ahead. O(log uses).
    pub(super) fn near(&self, name: u32, at: u32, reach: u32) -> Option<u32> {
        let places = self.places_of(name);
        let (behind, ahead) = places.split_at(places.partition_point(|&place| place < at));
        let ahead = ahead.iter().copied().find(|&place| self.is_lease(place));
        let behind = behind.iter().rev().copied().find(|&place| self.is_lease(place));
        let here = ahead.filter(|&place| place == at);
        let behind = behind.filter(|&place| at - place <= reach);
        here.or(behind).or(ahead.filter(|&place| place - at <= reach))
    }

    pub(super) fn is_lease(&self, at: u32) -> bool {
        matches!(self.event(at).op, Op::Leased(_))
    }

    fn places_of(&self, name: u32) -> &[u32] {
        let name = name as usize;
        &self.places[self.starts[name] as usize..self.starts[name + 1] as usize]
    }

    fn sort_by_name(&mut self) {
        let events = &self.recording.events;
        self.starts = vec![0; self.recording.names.len() + 1];
        events.iter().for_each(|event| self.starts[event.name as usize + 1] += 1);
        for i in 1..self.starts.len() {
            self.starts[i] += self.starts[i - 1];
        }
        self.places = vec![0; events.len()];
        let mut free = self.starts.clone();
        for (at, event) in events.iter().enumerate() {
            let place = &mut free[event.name as usize];
            self.places[*place as usize] = at as u32;
            *place += 1;
        }
    }

    /// Finds each event's successor: once round to see what the next step begins with, and once for good.
    fn link(&mut self, unused: Unused) {
        self.unused = unused;
        let events = &self.recording.events;
        let mut ahead = vec![NONE; self.recording.names.len()];
        self.next = vec![NONE; events.len()];
        for _ in 0..2 {
            for (at, event) in events.iter().enumerate().rev() {
                let ahead = &mut ahead[event.name as usize];
                self.next[at] = *ahead;
                *ahead = if unused.awaits(event.op) { at as u32 } else { NONE };
            }
        }
    }
}
