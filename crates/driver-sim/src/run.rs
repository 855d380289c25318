//! Running operations: which comes next, and what it does.

use crate::copy::{Copy, Source};
use crate::kernel::{Effect, Launch, Twin};
use crate::lane::{Lane, Pending, Touch};
use crate::memory::{ALL, Part};
use crate::raw;
use crate::sim::Sim;
use crate::types::{Event, HostFn, Module};
use std::ffi::c_void;

/// What an operation does.
#[derive(Debug)]
pub(crate) enum Work {
    /// The copies of one call, in any order.
    Copies(Vec<Copy>),
    Fill {
        at: u64,
        parts: Vec<Part>,
        value: u32,
        width: u64,
        count: u64,
    },
    Kernel {
        module: Module,
        twin: &'static Twin,
        launch: Launch,
        effects: Vec<ResolvedEffect>,
    },
    HostFunction {
        function: HostFn,
        data: HostData,
    },
    Record(Event),
    /// Ends a stream-ordered allocation.
    Free {
        at: u64,
    },
    /// Only waits.
    Nothing,
}

/// The argument of a host function, which the program passed for whatever thread calls it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct HostData(pub(crate) *mut c_void);

// SAFETY: nothing here follows the pointer, and the contract of `cuLaunchHostFunc` lets any thread pass it on.
unsafe impl Send for HostData {}

/// What a kernel does to bytes that were looked up.
#[derive(Debug)]
pub(crate) struct ResolvedEffect {
    pub(crate) effect: Effect,
    /// Of what it reads or, for [`Effect::Write`], writes.
    pub(crate) parts: Vec<Part>,
    /// Of the destination, when it moves bytes.
    pub(crate) into: Vec<Part>,
}

/// How a wait chooses what to run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mood {
    /// As little as it needs.
    Lazy,
    /// Whoever is favoured, for a while.
    Partial,
    /// Anybody, anew each time.
    Random,
}

/// Which lane can get on.
pub(crate) enum Next {
    Lane(usize),
    /// None but what waits for a host function on another thread.
    Busy,
}

impl Sim {
    /// How the next wait chooses.
    pub(crate) fn draw_mood(&mut self) -> Mood {
        match self.rng.below(4) {
            0 | 1 => Mood::Lazy,
            2 => Mood::Partial,
            _ => Mood::Random,
        }
    }

    /// The lane to run next on the way to a point of `target` that is not reached.
    pub(crate) fn next_lane(&mut self, target: usize, mood: Mood) -> Next {
        let needed = self.needed_first(target);
        if mood == Mood::Lazy && self.is_runnable(needed) {
            return Next::Lane(needed);
        }
        if self.rng.one_in(8) {
            let lucky = self.rng.below(self.lanes.len() as u64) as usize;
            self.lanes[lucky].favour = self.rng.next();
        }
        let runnable: Vec<_> = (0..self.lanes.len()).filter(|&lane| self.is_runnable(lane)).collect();
        let chosen = match mood {
            _ if runnable.is_empty() => None,
            Mood::Random => Some(runnable[self.rng.below(runnable.len() as u64) as usize]),
            _ => runnable.into_iter().max_by_key(|&lane| self.lanes[lane].favour),
        };
        chosen.map_or(Next::Busy, Next::Lane)
    }

    /// The lane whose first operation must run before `lane` gets anywhere: itself, or at the end of a chain of
    /// waits. The chain ends, since waits point backwards in the order of the calls.
    fn needed_first(&self, mut lane: usize) -> usize {
        while let Some(blocking) = self.blocked_by(lane) {
            lane = blocking;
        }
        lane
    }

    fn blocked_by(&self, lane: usize) -> Option<usize> {
        let first = self.lanes[lane].pending.front()?;
        first.after.iter().find(|&&(other, number)| !self.reached(other, number)).map(|&(other, _)| other)
    }

    fn is_runnable(&self, lane: usize) -> bool {
        let state = &self.lanes[lane];
        !state.busy && !state.pending.is_empty() && self.blocked_by(lane).is_none()
    }

    /// Runs the first operation of `lane`; a host function has been called already, or is to fail.
    pub(crate) fn execute_first(&mut self, lane: usize) {
        let Some(pending) = self.lanes[lane].pending.pop_front() else { return };
        self.lanes[lane].done += 1;
        let number = self.lanes[lane].done;
        self.nanoseconds += NANOSECONDS_EACH;
        if let Some(error) = pending.fate {
            self.spoil(&pending.work);
            self.break_with(error);
            return;
        }
        self.execute(pending, lane, number);
    }

    fn execute(&mut self, pending: Pending, lane: usize, number: u64) {
        let operation = pending.operation;
        match pending.work {
            Work::Nothing | Work::HostFunction { .. } => {}
            Work::Free { at } => self.free_from_pool(at, operation.call),
            Work::Record(event) => {
                let now = self.nanoseconds;
                if let Some(recorded) = self.events.get_mut(&event).and_then(|state| state.recorded.as_mut())
                    && (recorded.mark.lane, recorded.mark.number) == (lane, number)
                {
                    recorded.time = Some(now);
                }
            }
            Work::Copies(mut copies) => {
                while !copies.is_empty() {
                    let chosen = self.rng.below(copies.len() as u64) as usize;
                    let copy = copies.swap_remove(chosen);
                    self.execute_copy(operation, copy);
                }
            }
            Work::Fill { at, parts, value, width, count } => {
                let len = width * count;
                // SAFETY: looked up when it was enqueued, writable, and kept since.
                let bytes = unsafe { raw::bytes_mut(at, len) };
                let pattern = value.to_le_bytes();
                bytes
                    .chunks_mut(width as usize)
                    .for_each(|chunk| chunk.copy_from_slice(&pattern[..chunk.len()]));
                self.memory.set_all_written(&parts);
                self.nanoseconds += len / BYTES_PER_NANOSECOND;
            }
            Work::Kernel { twin, launch, effects, .. } => {
                // What is moved is known before the kernel runs: its own writes do not count as what it read.
                for effect in &effects {
                    if let Effect::Read { .. } = effect.effect
                        && let Some((store, range)) = self.memory.first_poison(&effect.parts)
                    {
                        let name = self.memory.name(store);
                        self.report(format!(
                            "{operation}: kernel {} reads bytes {}..{} of {name}, which nobody wrote",
                            twin.name, range.start, range.end
                        ));
                    }
                }
                let moved: Vec<_> = effects.iter().map(|effect| self.memory.written(&effect.parts)).collect();
                // SAFETY: every range that the twin's effects name was looked up when it was enqueued and kept since,
                // and a twin uses no other.
                unsafe { (twin.run)(&launch) };
                for (effect, moved) in effects.iter().zip(moved) {
                    match effect.effect {
                        Effect::Read { .. } => {}
                        Effect::Write { len, .. } => {
                            self.memory.set_all_written(&effect.parts);
                            self.count_bytes(3, len);
                        }
                        Effect::Copy { len, .. } | Effect::Move { len, .. } => {
                            self.memory.set_written(&effect.into, &moved);
                            self.count_bytes(3, len);
                        }
                    }
                }
            }
        }
    }

    pub(crate) fn count_bytes(&mut self, direction: usize, len: u64) {
        self.copied[direction] += len;
        self.nanoseconds += len / BYTES_PER_NANOSECOND;
    }

    /// Does to a destination what work does that fails: noise.
    fn spoil(&mut self, work: &Work) {
        let ranges: Vec<(u64, u64)> = match work {
            Work::Copies(copies) => copies.iter().map(|copy| (copy.dst, copy.len)).collect(),
            Work::Fill { at, width, count, .. } => vec![(*at, width * count)],
            Work::Kernel { effects, .. } => {
                effects.iter().filter_map(|effect| effect.effect.written()).collect()
            }
            _ => Vec::new(),
        };
        for (at, len) in ranges {
            // SAFETY: a destination, looked up when it was enqueued, or one that the waiting caller passed.
            self.rng.fill(unsafe { raw::bytes_mut(at, len) });
        }
    }

    /// Whether work that has not run uses any byte of `parts`, or is a function of the program's that may.
    pub(crate) fn is_pending_on(&self, parts: &[Part], only_writes: bool) -> bool {
        self.lanes.iter().flat_map(|lane| &lane.pending).any(|pending| {
            matches!(pending.work, Work::HostFunction { .. })
                || pending.touches.iter().any(|touch| {
                    (!only_writes || touch.access == crate::clock::Access::Write)
                        && parts.iter().any(|part| overlap(part, &touch.part))
                })
        })
    }

    /// The last operation of each lane that has not run and uses any byte of `touches`.
    pub(crate) fn users(&self, touches: &[Touch]) -> Vec<(usize, u64)> {
        let uses = |pending: &Pending| {
            pending.touches.iter().any(|a| touches.iter().any(|b| overlap(&a.part, &b.part)))
        };
        let last = |(lane, state): (usize, &Lane)| {
            let at = state.pending.iter().rposition(uses)?;
            Some((lane, state.done + at as u64 + 1))
        };
        self.lanes.iter().enumerate().filter_map(last).collect()
    }

    /// Whether a kernel of `module` has not run.
    pub(crate) fn is_pending_in(&self, module: Module) -> bool {
        let mut pending = self.lanes.iter().flat_map(|lane| &lane.pending);
        pending.any(|pending| matches!(&pending.work, Work::Kernel { module: of, .. } if *of == module))
    }

    /// Ends a stream-ordered allocation whose turn has come.
    pub(crate) fn free_from_pool(&mut self, at: u64, by: &'static str) {
        let Some(mapping) = self.memory.mapping(at) else { return };
        let (len, origin) = (mapping.len, mapping.origin);
        if let crate::memory::Origin::Pool(pool) = origin
            && let Some(state) = self.pools.all.get_mut(&pool)
        {
            state.used -= len;
        }
        self.memory.remove(at, by);
    }

    fn execute_copy(&mut self, operation: crate::clock::Operation, copy: Copy) {
        let Copy { dst, into, source, len, direction, digest, noise } = copy;
        if let (Source::Memory { at, .. }, Some(digest)) = (&source, digest)
            // SAFETY: looked up when the copy was enqueued, and kept since.
            && raw::digest(unsafe { raw::bytes(*at, len) }) != digest
        {
            self.report(format!(
                "{operation}: the program wrote the {len} bytes it reads at {at:#x} meanwhile"
            ));
        }
        if let Some(noise) = noise
            // SAFETY: as above.
            && !raw::are_all(unsafe { raw::bytes(dst, len) }, noise)
        {
            self.report(format!(
                "{operation}: the program wrote the {len} bytes it writes at {dst:#x} meanwhile"
            ));
        }
        let mut written = vec![ALL];
        match &source {
            Source::Staged { bytes, from } => {
                if let Some(from) = from
                    && raw::still_holds(*from, bytes) != Some(true)
                {
                    let what = "pageable memory was reused after the call, before the copy's turn";
                    self.report(format!("{operation}: {what}: {len} bytes at {from:#x}"));
                }
                // SAFETY: the destination was looked up, and kept since.
                unsafe { raw::bytes_mut(dst, len) }.copy_from_slice(bytes);
            }
            Source::Memory { at, parts } => {
                written = self.memory.written(parts);
                if let (1, Some((store, range))) = (direction, self.memory.first_poison(parts)) {
                    let name = self.memory.name(store);
                    self.report(format!(
                        "{operation}: brings bytes {}..{} of {name} to the host, which nobody wrote",
                        range.start, range.end
                    ));
                }
                // SAFETY: both ends were looked up when the copy was enqueued and kept since, or the destination is
                // what the waiting caller passed.
                unsafe { raw::copy(dst, *at, len) };
                if at.abs_diff(dst) < len {
                    // Reported when it was enqueued; no order of bytes is the right one.
                    // SAFETY: as above.
                    self.rng.fill(unsafe { raw::bytes_mut(dst, len) });
                }
            }
        }
        self.memory.set_written(&into, &written);
        self.count_bytes(direction, len);
    }
}

/// Whether two parts share bytes.
pub(crate) fn overlap(a: &Part, b: &Part) -> bool {
    a.store == b.store && a.range.start < b.range.end && b.range.start < a.range.end
}

/// What every operation takes, and how fast bytes go. The clock is for programs that want one; it says nothing about
/// a device.
const NANOSECONDS_EACH: u64 = 1_000;
const BYTES_PER_NANOSECOND: u64 = 16;
