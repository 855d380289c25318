//! What a pool knows, changed under its lock: rooms, counts, and what is being made and given back.

use super::ground::{Ground, Spot, UNIT};
use super::shelf::{Both, Counts};
use super::stats::HostMemoryStats;
use crate::sync::{Arc, Condvar};
use crate::{HostError, HostRegion, HostStats};
use allocator_core::{Handle, Request};
use std::collections::VecDeque;

/// Where a slice is: what gives it back needs no search.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Place {
    handle: Handle,
    lot: u32,
    tier: Tier,
}

/// Memory is looked for in this order: the better first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Tier {
    Locked,
    Pageable,
}

pub(super) struct State<R> {
    locked: Ground<R>,
    pageable: Ground<R>,
    grain: u64,
    /// No two slices share so many bytes: the largest that a region asked for.
    atom: u64,
    pub(super) budget: u64,
    /// Bytes of regions that are there.
    pub(super) capacity: u64,
    /// Bytes of regions that are being made or given back.
    pending: u64,
    /// Bytes of regions that are idle.
    idle: u64,
    /// Bytes of idle regions that are kept.
    cached: u64,
    /// Bytes of the longest region there can be.
    longest: u64,
    /// Or else there are only those it was made of.
    makes_regions: bool,
    /// Of regions only; slices are counted without the lock.
    pub(super) counts: HostMemoryStats,
    /// What slices had taken when the sums were reset.
    pub(super) taken_before: Both,
    /// Blocks that are no holes: slices, and what is on shelves.
    pub(super) taken: Both,
    /// The most there were of them at once.
    pub(super) peak_taken: Both,
    /// The callers that wait, longest first. Only the first may take room.
    pub(super) queue: VecDeque<(u64, Arc<Condvar>)>,
    next_number: u64,
}

/// Bytes asked for, and the alignment asked for.
#[derive(Debug, Clone, Copy)]
pub(super) struct Want {
    pub(super) bytes: u64,
    pub(super) align: u64,
}

impl Want {
    /// What slices of so many bytes want, and at least an alignment of `align`.
    #[inline]
    pub(super) fn new(bytes: usize, align: u64) -> Self {
        let bytes = bytes as u64;
        let usual = match bytes {
            LARGE.. => PAGE,
            SMALL.. => LINE,
            _ => SCALAR,
        };
        Want { bytes, align: align.max(usual) }
    }
}

/// Room that was found.
pub(super) struct Placed<R> {
    pub(super) place: Place,
    /// Not null.
    pub(super) region: *const R,
    pub(super) offset: u64,
    /// What it takes, rounding included.
    pub(super) bytes: u64,
    /// What of the region is used for the first time, if its pages may be missing.
    pub(super) untouched: Option<(u64, u64)>,
}

/// A region to be made: bytes wished for, and the least that serves; and regions to be given back before.
pub(super) struct Growth<R> {
    pub(super) wished: u64,
    pub(super) least: u64,
    pub(super) victims: Vec<Gone<R>>,
    /// What counts against the budget until the region is there: it, or the victims, whichever are more.
    pub(super) pending: u64,
}

/// A region that left the pool, to be dropped without the lock. Its bytes are pending until they are settled.
pub(super) struct Gone<R> {
    pub(super) region: Arc<R>,
    pub(super) bytes: u64,
}

impl<R: HostRegion> State<R> {
    /// A pool without regions, which makes them: none longer than `longest`.
    pub(super) fn growing(grain: u64, budget: u64, cached: u64, longest: u64) -> Result<Self, HostError> {
        Ok(State {
            locked: Ground::new(grain)?,
            pageable: Ground::new(grain)?,
            grain,
            atom: 1,
            budget,
            capacity: 0,
            pending: 0,
            idle: 0,
            cached,
            longest: longest.min(isize::MAX as u64),
            makes_regions: true,
            counts: HostMemoryStats::default(),
            taken_before: Both::default(),
            taken: Both::default(),
            peak_taken: Both::default(),
            queue: VecDeque::new(),
            next_number: 0,
        })
    }

    /// A pool of regions that are all there will be.
    pub(super) fn fixed(regions: Vec<R>, grain: u64) -> Result<Self, HostError> {
        let mut state = State::growing(grain, u64::MAX, u64::MAX, 0)?;
        for region in regions {
            // The end that is no whole grain is nothing to anybody.
            let usable = region.len() as u64 / grain * grain;
            state.add(Arc::new(region), usable)?;
            state.longest = state.longest.max(usable);
        }
        (state.budget, state.makes_regions) = (state.capacity, false);
        Ok(state)
    }

    /// What the allocator is asked for.
    fn request(&self, want: Want) -> Option<Request> {
        let unit = self.unit();
        Some(Request::new(want.bytes.checked_next_multiple_of(unit)?).align(want.align.max(unit)))
    }

    /// Takes room, locked if there is such; `None` where there is none.
    pub(super) fn place(&mut self, want: Want) -> Result<Option<Placed<R>>, HostError> {
        let Some(request) = self.request(want) else { return Ok(None) };
        if let Some(spot) = self.locked.place(request)? {
            return Ok(Some(self.placed(Tier::Locked, spot)));
        }
        let spot = self.pageable.place(request)?;
        Ok(spot.map(|spot| self.placed(Tier::Pageable, spot)))
    }

    fn placed(&mut self, tier: Tier, spot: Spot<R>) -> Placed<R> {
        let Spot { lot, handle, region, range, fresh, woken } = spot;
        self.idle -= woken.unwrap_or(0);
        let untouched = (tier == Tier::Pageable && fresh.start < fresh.end)
            .then(|| (fresh.start, fresh.end - fresh.start));
        let bytes = range.end - range.start;
        self.taken.add(bytes, 1);
        self.peak_taken.raise(self.taken);
        Placed { place: Place { handle, lot, tier }, region, offset: range.start, bytes, untouched }
    }

    /// Takes a block back, and out of the pool its region if it is idle and not to be kept.
    pub(super) fn free(&mut self, place: Place) -> Option<Gone<R>> {
        let freed = self.ground(place.tier).free(place.lot as usize, place.handle);
        debug_assert!(freed.is_ok(), "a slice owns its block: {freed:?}");
        let (bytes, idle) = freed.ok()?;
        self.taken.take(bytes);
        self.idle += idle?;
        let keep = self.idle <= self.cached && self.used() <= self.budget;
        if keep { None } else { self.take_out(place.tier, place.lot as usize) }
    }

    /// Adds a region, which counts as `bytes` against the budget and fits it.
    pub(super) fn add(&mut self, region: Arc<R>, bytes: u64) -> Result<(), HostError> {
        let atom = region.atom() as u64;
        if atom.is_power_of_two() {
            let most = self.locked.unit();
            if atom > most {
                return Err(HostError::Atom { atom, most });
            }
            self.atom = self.atom.max(atom);
        }
        let unit = self.unit();
        let usable = region.len() as u64 / unit * unit;
        if usable == 0 {
            return Err(HostError::ZeroSize);
        }
        let tier = if region.is_locked() { Tier::Locked } else { Tier::Pageable };
        self.ground(tier).add(region, usable, bytes)?;
        self.capacity += bytes;
        self.idle += bytes;
        self.counts.allocations.rise(1);
        self.counts.allocated_bytes.rise(bytes);
        Ok(())
    }

    /// Plans a region for what no hole holds, within the budget, if need be in place of idle ones; `None` where the budget
    /// has no room for it. What it plans is pending.
    pub(super) fn growth(&mut self, want: Want, at_least: u64) -> Option<Growth<R>> {
        let whole = self.whole();
        let least = self.request(want)?.size.checked_next_multiple_of(whole)?;
        if least > self.longest {
            return None;
        }
        // Whole ones only: less is no use.
        let mut room = self.budget.saturating_sub(self.used()) / whole * whole;
        let (mut victims, mut freed) = (Vec::new(), 0);
        if room < least {
            if room.saturating_add(self.idle) < least {
                return None;
            }
            for (tier, lot) in self.idle_for(least - room) {
                if room < least
                    && let Some(victim) = self.take_out(tier, lot)
                {
                    room += victim.bytes;
                    freed += victim.bytes;
                    victims.push(victim);
                }
            }
            room = room / whole * whole;
        }
        // What is long beside what is made ahead would leave much of it over.
        let share = (self.capacity / SHARE).min(MOST_AHEAD);
        let ahead = match want.bytes {
            LARGE.. if share / MANY < least => 0,
            LARGE.. => share,
            _ => share.max(LEAST_AHEAD),
        };
        let wished = ahead.max(at_least).min(self.longest) / whole * whole;
        let wished = wished.min(room).max(least);
        self.pend(wished.saturating_sub(freed));
        Some(Growth { wished, least, victims, pending: wished.max(freed) })
    }

    /// Idle regions to give back so that `bytes` come free: the shortest that is enough alone, or else the longest first.
    fn idle_for(&self, bytes: u64) -> Vec<(Tier, usize)> {
        let idle = self.idle_regions();
        match idle.iter().rfind(|(_, _, length)| *length >= bytes) {
            Some((tier, lot, _)) => vec![(*tier, *lot)],
            None => idle.into_iter().map(|(tier, lot, _)| (tier, lot)).collect(),
        }
    }

    /// Regions of which nothing is in use, the longest first.
    fn idle_regions(&self) -> Vec<(Tier, usize, u64)> {
        let of = |tier, ground: &Ground<R>| {
            let idle = ground.idle().into_iter();
            idle.map(move |(lot, bytes)| (tier, lot, bytes)).collect::<Vec<_>>()
        };
        let mut idle = of(Tier::Pageable, &self.pageable);
        idle.extend(of(Tier::Locked, &self.locked));
        idle.sort_by_key(|(_, _, bytes)| core::cmp::Reverse(*bytes));
        idle
    }

    /// Takes a region out if it is idle. Its bytes are pending.
    fn take_out(&mut self, tier: Tier, lot: usize) -> Option<Gone<R>> {
        let (region, bytes) = self.ground(tier).remove(lot)?;
        self.idle -= bytes;
        self.capacity -= bytes;
        self.pend(bytes);
        Some(Gone { region, bytes })
    }

    /// Takes idle regions out, the longest first, until no more than `keep` bytes of them are left.
    pub(super) fn take_idle(&mut self, keep: u64) -> Vec<Gone<R>> {
        let mut taken = Vec::new();
        for (tier, lot, _) in self.idle_regions() {
            if self.idle > keep
                && let Some(region) = self.take_out(tier, lot)
            {
                taken.push(region);
            }
        }
        taken
    }

    /// Takes out as much of what is idle as exceeds the budget.
    pub(super) fn take_excess(&mut self) -> Vec<Gone<R>> {
        let over = self.used().saturating_sub(self.budget);
        self.take_idle(self.idle.saturating_sub(over))
    }

    /// Keeps nothing that is idle from now on: the pool is gone, and only slices are left of it.
    pub(super) fn keep_nothing(&mut self) {
        self.cached = 0;
    }

    pub(super) fn has_idle(&self) -> bool {
        self.idle > 0
    }

    /// Counts bytes against the budget that are being made or given back.
    pub(super) fn pend(&mut self, bytes: u64) {
        self.pending += bytes;
    }

    /// The longest slice there can be when nothing is in use.
    pub(super) fn max_slice(&self) -> u64 {
        match self.makes_regions {
            true => self.longest.min(self.budget) / self.whole() * self.whole(),
            false => self.longest,
        }
    }

    /// Regions are made in multiples of so many bytes.
    fn whole(&self) -> u64 {
        self.unit().max(PAGE)
    }

    /// What was pending is so no longer.
    pub(super) fn settle(&mut self, bytes: u64) {
        self.pending -= bytes;
    }

    /// Bytes that count against the budget.
    pub(super) fn used(&self) -> u64 {
        self.capacity + self.pending
    }

    /// Whether anything is in use or on its way that could make room.
    pub(super) fn is_waiting_worth_it(&self) -> bool {
        self.taken.slices > 0 || self.pending > 0
    }

    /// Whether a block that is given back may be kept from everybody else for a while: nobody waits, and no region shall go
    /// as soon as it is idle. Not where regions are all there will be: what others take meanwhile lies around the block, and
    /// whoever fills such a pool to the last byte would find the rest in two pieces.
    pub(super) fn may_keep_back(&self) -> bool {
        self.makes_regions && self.queue.is_empty() && self.cached == u64::MAX && self.used() <= self.budget
    }

    /// What lengths of slices are rounded up to.
    pub(super) fn unit(&self) -> u64 {
        self.grain.max(self.atom)
    }

    pub(super) fn full(&self, want: Want) -> HostError {
        HostError::Full {
            asked: want.bytes,
            budget: self.budget,
            untaken: self.budget.saturating_sub(self.used()),
            free: self.capacity - self.taken.bytes,
            largest: self.largest_hole(),
            waiters: self.queue.len(),
        }
    }

    pub(super) fn stats(&self, counts: &Counts) -> HostStats {
        // Asked anew: in a child of `fork` nothing is locked that its parent locked.
        let [good, rest] = [&self.locked, &self.pageable].map(|ground| ground.regions(R::is_locked));
        let locked = good.1 + rest.1;
        HostStats {
            capacity: self.capacity,
            budget: self.budget,
            in_use: counts.now.bytes,
            peak_in_use: self.peak(counts).bytes,
            cached: self.idle,
            locked,
            pageable: self.capacity - locked,
            largest_hole: self.largest_hole(),
            regions: good.0 + rest.0,
            slices: counts.now.slices as usize,
            waiters: self.queue.len(),
        }
    }

    /// The most that was in slices at once: no more than the shelves had at their peaks together, of which there is one if one
    /// thread took all; and no more than ever was no hole.
    pub(super) fn peak(&self, counts: &Counts) -> Both {
        Both {
            bytes: counts.peak.bytes.min(self.peak_taken.bytes),
            slices: counts.peak.slices.min(self.peak_taken.slices),
        }
    }

    pub(super) fn join(&mut self) -> (u64, Arc<Condvar>) {
        let waiter = (self.next_number, Arc::new(Condvar::new()));
        self.next_number += 1;
        self.queue.push_back((waiter.0, Arc::clone(&waiter.1)));
        waiter
    }

    pub(super) fn leave(&mut self, number: u64) {
        self.queue.retain(|(waiting, _)| *waiting != number);
    }

    /// Wakes who is next. To be called whenever there may be room that was not there before, or the queue advanced.
    #[inline]
    pub(super) fn wake_next(&self) {
        if let Some((_, sleeper)) = self.queue.front() {
            sleeper.notify_one();
        }
    }

    fn largest_hole(&self) -> u64 {
        self.locked.largest_hole().max(self.pageable.largest_hole())
    }

    fn ground(&mut self, tier: Tier) -> &mut Ground<R> {
        match tier {
            Tier::Locked => &mut self.locked,
            Tier::Pageable => &mut self.pageable,
        }
    }
}

/// Alignment in bytes of the smallest slices: more than any scalar needs.
const SCALAR: u64 = 16;
/// Bytes from which slices start at a cache line: 63 bytes are then at most an eighth of it.
const SMALL: u64 = 8 * LINE;
const LINE: u64 = 64;
/// Bytes from which slices start at a page, as direct I/O wants it: what that may leave unused is at most an eighth of it.
const LARGE: u64 = 8 * PAGE;
const PAGE: u64 = 4096;
/// A region for short slices has this part of what there is: so there are few regions, and little is unused.
const SHARE: u64 = 128;
/// A slice is short if so many of it fit there.
const MANY: u64 = 32;
/// But no more than so many bytes.
const MOST_AHEAD: u64 = 64 << 20;
/// And no fewer, where slices share pages: what they leave at its end is at most an eighth of it.
const LEAST_AHEAD: u64 = 8 * LARGE;

const _: () =
    assert!(PAGE <= UNIT, "offsets have the alignment that they have in their regions up to a unit");
