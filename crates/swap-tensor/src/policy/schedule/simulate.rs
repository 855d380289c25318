//! A step run on paper, whoever is needed farthest ahead being evicted.

use super::{
    agenda::Agenda,
    plan::Schedule,
    recording::{Event, Op, Use},
};
use crate::policy::NONE;
use core::ops::Range;

/// A step run twice under farthest-next-use.
pub(super) struct Simulation<'a> {
    schedule: &'a Schedule,
    copies: Vec<Tracked>,
    agenda: Agenda,
    free: u64,
    pub(super) misses: Vec<Miss>,
    pub(super) victims: Vec<Victim>,
    /// Bytes on the device after each event of both steps.
    pub(super) occupancy: Vec<i64>,
    pub(super) totals: Totals,
}

/// One tensor.
#[derive(Debug, Clone, Copy)]
struct Tracked {
    /// Of the copy on the device; `None` if there is none.
    resident: Option<u64>,
    /// Whether the copy on the device is the only valid one.
    dirty: bool,
    next: u32,
    /// The event that used it last.
    used: usize,
    /// The event that made a fetch possible: its creation, or the eviction before.
    since: usize,
}

/// A lease whose copy must come from below. Events count on from the first step to the second.
pub(super) struct Miss {
    pub(super) at: usize,
    pub(super) bytes: u64,
    /// No fetch can begin before this event is over.
    pub(super) since: usize,
    pub(super) victims: Range<usize>,
}

pub(super) struct Victim {
    pub(super) name: u32,
    pub(super) bytes: u64,
    /// The event that used it last.
    pub(super) used: usize,
}

impl<'a> Simulation<'a> {
    pub(super) fn run(schedule: &'a Schedule) -> Self {
        let absent = Tracked { resident: None, dirty: false, next: NONE, used: 0, since: 0 };
        let mut simulation = Simulation {
            schedule,
            copies: vec![absent; schedule.names()],
            agenda: Agenda::default(),
            free: schedule.device_bytes(),
            misses: Vec::new(),
            victims: Vec::new(),
            occupancy: Vec::with_capacity(2 * schedule.len() as usize),
            totals: Totals::default(),
        };
        simulation.agenda.reset(schedule.len() as usize);
        for _ in 0..2 {
            simulation.totals = Totals::default();
            (0..schedule.len()).for_each(|at| simulation.step(at));
        }
        simulation
    }

    fn step(&mut self, at: u32) {
        let event = self.schedule.event(at);
        match event.op {
            Op::Created | Op::Dropped => {
                self.remove(event.name);
                let copy = &mut self.copies[event.name as usize];
                (copy.dirty, copy.since) = (false, self.occupancy.len());
            }
            Op::Leased(how) if event.bytes <= self.schedule.device_bytes() => self.lease(at, event, how),
            Op::Leased(_) => {}
        }
        self.occupancy.push(signed(self.schedule.device_bytes() - self.free));
    }

    fn lease(&mut self, at: u32, event: Event, how: Use) {
        if self.copies[event.name as usize].resident == Some(event.bytes) {
            self.remove(event.name);
        } else {
            self.remove(event.name);
            self.bring_in(at, event, how);
        }
        self.free -= event.bytes;
        let now = self.occupancy.len();
        let copy = &mut self.copies[event.name as usize];
        copy.resident = Some(event.bytes);
        copy.dirty |= how != Use::Read;
        (copy.next, copy.used) = (self.schedule.next(at), now);
        self.agenda.insert(event.name, copy.next);
    }

    /// Evicts until there is room for a copy that is not on the device.
    fn bring_in(&mut self, at: u32, event: Event, how: Use) {
        let (now, first) = (self.occupancy.len(), self.victims.len());
        while self.free < event.bytes {
            let idle = self.agenda.idle().next();
            let far = self.agenda.farthest_first(at, self.schedule.len()).next();
            let Some(name) = idle.or(far.map(|place| self.schedule.event(place).name)) else { break };
            let copy = self.copies[name as usize];
            let bytes = self.remove(name);
            self.totals.downloaded += if copy.dirty { bytes } else { 0 };
            self.copies[name as usize].dirty = false;
            self.copies[name as usize].since = now;
            self.victims.push(Victim { name, bytes, used: copy.used });
        }
        if how != Use::Overwrite {
            self.totals.uploaded += event.bytes;
            self.totals.misses += 1;
            let since = self.copies[event.name as usize].since;
            let victims = first..self.victims.len();
            self.misses.push(Miss { at: now, bytes: event.bytes, since, victims });
        }
    }

    /// Takes a copy off the device; tells its bytes.
    fn remove(&mut self, name: u32) -> u64 {
        let copy = &mut self.copies[name as usize];
        let Some(bytes) = copy.resident.take() else { return 0 };
        self.agenda.remove(name, copy.next);
        self.free += bytes;
        bytes
    }
}

/// Sizes of what fits a device, as numbers that can be subtracted.
pub(super) fn signed(bytes: u64) -> i64 {
    i64::try_from(bytes).unwrap_or(i64::MAX)
}

/// What one step costs once the start is behind.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(super) struct Totals {
    pub(super) uploaded: u64,
    pub(super) downloaded: u64,
    pub(super) misses: u64,
}

impl Totals {
    pub(super) fn bytes(self) -> u64 {
        self.uploaded.saturating_add(self.downloaded)
    }
}
