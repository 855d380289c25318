//! From a wish to a lease: first the claim, which waits and holds nothing; then the room, the bytes and the order.

use crate::{
    SlotState, SwapError,
    books::Books,
    device::{Device, DeviceIndex, Spot},
    entry::Entry,
    fill::{Found, Want},
    hold::Hold,
    lease::Mode,
    lock::Guard,
    policy::Use,
    pool::Inner,
    request::Wanted,
    room::Effort,
    spill::Spill,
};
use core::ops::Range;
use pinned_host::{Access, Queue, Transfer};
use std::time::Instant;

/// One lease that is asked for: what on, where, on which of the device's queues, and for what.
pub(crate) struct Claim<'a, T: Transfer> {
    pub(crate) spot: Spot,
    pub(crate) mode: Mode,
    pub(crate) want: Want,
    pub(crate) queue: &'a T::Queue,
}

impl<T: Transfer> Clone for Claim<'_, T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T: Transfer> Copy for Claim<'_, T> {}

impl<T: Transfer> Inner<T> {
    /// Counts leases on all of `claims`, or on none: waits, holding nothing, until no other lease is in the way and
    /// each device has room for everything leased or pinned on it at once.
    pub(crate) fn claim<'a>(
        &'a self,
        mut books: Guard<'a, T>,
        claims: &[Claim<'_, T>],
        effort: Effort,
    ) -> Result<Guard<'a, T>, SwapError> {
        loop {
            match self.claim_now(&mut books, claims, effort) {
                Ok(()) => return Ok(books),
                Err(refusal) => match effort.wait_until.filter(|_| refusal.may_pass(effort)) {
                    Some(until) => books = self.sleep(books, until),
                    None => return Err(books.name_holders(refusal.error)),
                },
            }
        }
    }

    /// [`claim`](Self::claim) without a wait. On all devices in the same section under the lock: so that no two requests hold each
    /// a part of what the other waits for.
    pub(crate) fn claim_now(
        &self,
        books: &mut Books<T>,
        claims: &[Claim<'_, T>],
        effort: Effort,
    ) -> Result<(), Refusal> {
        books.reap();
        let mut full = None;
        for on in books.devices.indices() {
            match books.refuses_room(on, claims, effort) {
                Some(refusal) if refusal.for_good => return Err(refusal),
                Some(refusal) => full = full.or(Some(refusal)),
                None => {}
            }
        }
        if let Some(&Claim { spot, .. }) = claims.iter().find(|c| books.entry(c.spot.at).refuses(c.mode)) {
            let error = books.entry(spot.at).leased(effort.since.elapsed());
            return Err(Refusal { error, for_good: false });
        }
        if let Some(refusal) = full {
            return Err(refusal);
        }
        for Claim { spot, queue, .. } in claims.iter().filter(|c| c.mode == Mode::Write) {
            if books.devices[spot.on].writers.iter().any(|(_, of)| of.same_queue(queue)) {
                // What failed on the queue before this lease is not this lease's.
                self.record(books, spot.on, queue).map_err(|error| Refusal {
                    error: books.noted(spot.on, SwapError::device("order a lease", error)),
                    for_good: true,
                })?;
            }
        }
        for claim in claims {
            books.grant(claim);
        }
        Ok(())
    }

    /// Gives a claim back, and with the last one the claim on room.
    pub(crate) fn unclaim(&self, books: &mut Books<T>, spot: Spot, mode: Mode) {
        let Spot { at, on } = spot;
        let entry = books.entry_mut(at);
        match mode {
            Mode::Read => entry.devices[on].readers -= 1,
            Mode::Write => entry.writer = None,
        }
        if mode == Mode::Write {
            books.devices[on].writers.retain(|(w, _)| *w != at);
        }
        books.let_room_go(spot);
        self.poke(books, on);
        books.recover(spot);
        self.tell_levels(books, on);
        self.wake(books);
    }

    /// Turns claims into leases, all of them or none: the claims are given back then.
    pub(crate) fn occupy_all<'a>(
        &'a self,
        books: Guard<'a, T>,
        wanted: &[Wanted<T>],
        effort: Effort,
    ) -> Result<Vec<Hold<T>>, SwapError> {
        if let [one] = wanted {
            let claim = one.claim(self);
            let (mut books, range) = self.occupy(books, claim, effort);
            return Ok(vec![Hold::open(&mut books, &one.token, claim, range?, one.place)]);
        }
        let (mut books, gathered) = self.gather(books, wanted, effort);
        let mut holds = Vec::with_capacity(wanted.len());
        let seated = gathered.and_then(|found| {
            wanted.iter().zip(found).try_for_each(|(one, found)| {
                let claim = one.claim(self);
                let range = self.seat(&mut books, claim)?;
                self.count_lease(&mut books, claim.spot, found, effort);
                holds.push(Hold::open(&mut books, &one.token, claim, range, one.place));
                Ok(())
            })
        });
        if let Err(error) = seated {
            for rest in &wanted[holds.len()..] {
                self.unclaim(&mut books, rest.spot(), rest.mode);
            }
            drop(books); // leases that were given end by themselves, and take the lock
            return Err(error);
        }
        Ok(holds)
    }

    fn count_lease(&self, books: &mut Books<T>, spot: Spot, found: Found, effort: Effort) {
        let (hit, probe) = (found == Found::Here, &self.on(spot.on).probe);
        let counters = &mut books.devices[spot.on].counters;
        counters.leases += 1;
        counters.hits += u64::from(hit);
        probe.leased(hit);
        if !hit {
            books.counters.stall += effort.since.elapsed();
            probe.stalled(&books.entry(spot.at).spec, effort.since);
        }
        self.tell_levels(books, spot.on);
    }

    /// Brings all of `wanted` to their devices, where they are all at once when this returns `Ok`: how each was found.
    ///
    /// None is a wall before all are there: one in the middle of an arena might leave the next no hole that is large enough, and
    /// its own lease would be what that one waits for.
    fn gather<'a>(
        &'a self,
        mut books: Guard<'a, T>,
        wanted: &[Wanted<T>],
        effort: Effort,
    ) -> (Guard<'a, T>, Result<Vec<Found>, SwapError>) {
        let mut found = Vec::with_capacity(wanted.len());
        for _ in 0..MOST_ROUNDS {
            for (i, one) in wanted.iter().enumerate() {
                let (guard, here) = self.bring_in(books, one.spot(), one.want, effort);
                books = guard;
                match here {
                    Ok(here) if found.len() == i => found.push(here),
                    Ok(_) => {}
                    Err(error) => return (books, Err(error)),
                }
                if one.mode == Mode::Write {
                    let (guard, landed) = self.land(books, one.spot());
                    books = guard;
                    if let Err(error) = landed {
                        return (books, Err(error));
                    }
                }
            }
            // What came first may have been moved for what came last, or have turned out bad.
            if wanted.iter().all(|w| books.is_at_hand(w.spot(), w.mode)) {
                return (books, Ok(found));
            }
        }
        let unready = wanted.iter().find(|w| !books.is_at_hand(w.spot(), w.mode)).or(wanted.first());
        let error = unready.map_or_else(|| self.lost(DeviceIndex::FIRST), |w| books.bad_copy(w.spot()));
        (books, Err(error))
    }

    /// Turns a claim into a lease: brings the tensor in, makes it a wall, and orders the queue behind what made it.
    /// On an error the claim is given back.
    pub(crate) fn occupy<'a>(
        &'a self,
        books: Guard<'a, T>,
        claim: Claim<'_, T>,
        effort: Effort,
    ) -> (Guard<'a, T>, Result<Range<u64>, SwapError>) {
        let Claim { spot, mode, want, .. } = claim;
        let (mut books, found) = self.bring_in(books, spot, want, effort);
        if want == Want::Room {
            // How the old contents fared no longer matters.
            let block = books.slot(spot).block;
            books.devices[spot.on].changes.retain(|&(_, changed)| Some(changed) != block);
        }
        let blank = matches!(found, Ok(Found::Blank));
        let leased = match found {
            Ok(found) => {
                let (guard, landed) = match (mode, found) {
                    (Mode::Read, _) | (_, Found::Blank) => (books, Ok(())),
                    (Mode::Write, _) => self.land(books, spot),
                };
                books = guard;
                landed
                    .and_then(|()| self.seat(&mut books, claim))
                    .inspect(|_| self.count_lease(&mut books, spot, found, effort))
            }
            Err(error) => Err(error),
        };
        if leased.is_err() {
            // What is Filling otherwise is somebody else's.
            if blank {
                books.spoil(spot); // nothing will write it
            }
            self.unclaim(&mut books, spot, mode);
        }
        (books, leased)
    }

    /// Before the copies elsewhere go stale, the one on the device must be known to be good.
    fn land<'a>(&'a self, mut books: Guard<'a, T>, spot: Spot) -> (Guard<'a, T>, Result<(), SwapError>) {
        loop {
            let (entry, slot) = (books.entry(spot.at), books.slot(spot));
            let here = slot.state == SlotState::Valid;
            if entry.padded == 0 || (here && !(books.is_changing(spot) && books.valid_elsewhere(spot))) {
                return (books, Ok(()));
            }
            let changes = &books.devices[spot.on].changes;
            let change = || changes.iter().find(|(_, b)| Some(*b) == slot.block).map(|(e, _)| e.clone());
            match books.job_of(spot.at).or_else(change) {
                Some(event) => books = self.wait_for(books, &event),
                None => {
                    let error = match slot.state {
                        SlotState::Lost => self.lost(spot.on),
                        _ if !entry.has_source(spot.on) => entry.no_valid_copy(),
                        // Another try brings it in again.
                        _ => books.bad_copy(spot),
                    };
                    return (books, Err(error));
                }
            }
        }
    }

    fn seat(&self, books: &mut Books<T>, claim: Claim<'_, T>) -> Result<Range<u64>, SwapError> {
        let Claim { spot, mode, want, queue } = claim;
        let Spot { at, on } = spot;
        let Some(block) = books.slot(spot).block else { return Ok(0..0) };
        let Device { queue: own, origin, .. } = self.on(on);
        if !queue.same_queue(own) && queue.wait(origin).is_err() {
            return Err(SwapError::ForeignQueue { name: books.entry(at).spec.name().to_owned(), device: on });
        }
        if mode == Mode::Write && books.slot(spot).stuck {
            return Err(SwapError::Stuck { name: books.entry(at).spec.name().to_owned() });
        }
        let range = books.devices[on].arena.range(block)?;
        let access = if mode == Mode::Write { Access::Write } else { Access::Read };
        self.order_one(books, on, (queue, range.clone(), access), "order a lease")?;
        books.devices[on].arena.lease(block)?;
        let how = match (mode, want) {
            (Mode::Read, _) => Use::Read,
            (Mode::Write, Want::Contents) => Use::Write,
            (Mode::Write, Want::Room) => Use::Overwrite,
        };
        books.rules[on].leased(at, how);
        if on != DeviceIndex::FIRST {
            books.rules[DeviceIndex::FIRST].used_elsewhere(at);
        }
        self.poke(books, on);
        let slot = books.slot_mut(spot);
        slot.fetched_ahead = false;
        slot.uses += 1;
        if slot.state == SlotState::Filling && !slot.ordered {
            slot.state.step(SlotState::Valid); // its contents are what this lease will write
        }
        if mode == Mode::Write {
            books.outdate_host(at);
            books.outdate(at, Some(on));
        }
        Ok(range)
    }
}

/// Why a claim was not granted.
pub(crate) struct Refusal {
    pub(crate) error: SwapError,
    /// Whether no lease that ends would help.
    for_good: bool,
}

impl Refusal {
    /// Whether it may be granted yet within the time that is left.
    pub(crate) fn may_pass(&self, effort: Effort) -> bool {
        !self.for_good && effort.wait_until.is_some_and(|until| Instant::now() < until)
    }
}

impl<T: Transfer> Books<T> {
    /// Why a device has no room for all `claims` on it at once.
    fn refuses_room(&self, on: DeviceIndex, claims: &[Claim<'_, T>], effort: Effort) -> Option<Refusal> {
        let (total, new) = self.room_of(on, claims);
        let (held, budget) = (self.devices[on].held, self.devices[on].budget);
        let for_good = new > 0 && total > budget;
        if !for_good && (new == 0 || held + new <= budget) {
            return None;
        }
        let error = SwapError::DeviceBudget {
            device: on,
            requested: total,
            leased: held,
            free: budget.saturating_sub(held),
            arena: budget,
            waited: effort.since.elapsed(),
            holders: Vec::new(),
        };
        Some(Refusal { error, for_good })
    }

    /// Bytes that leases on all `claims` hold on a device, and how many of them no other lease or pin holds already.
    fn room_of(&self, on: DeviceIndex, claims: &[Claim<'_, T>]) -> (u64, u64) {
        let (mut total, mut new) = (0u64, 0u64);
        for (i, claim) in claims.iter().enumerate().filter(|(_, claim)| claim.spot.on == on) {
            if !claims[..i].iter().any(|c| c.spot == claim.spot) {
                let entry = self.entry(claim.spot.at);
                total = total.saturating_add(entry.padded);
                new += if entry.is_held_on(on) { 0 } else { entry.padded };
            }
        }
        (total, new)
    }

    fn grant(&mut self, claim: &Claim<'_, T>) {
        let Spot { at, on } = claim.spot;
        let entry = self.entry_mut(at);
        let held = entry.is_held_on(on);
        match claim.mode {
            Mode::Read => entry.devices[on].readers += 1,
            Mode::Write => {
                entry.writer = Some(on);
                self.devices[on].writers.push((at, claim.queue.clone()));
            }
        }
        if !held {
            self.hold_room(claim.spot);
        }
        self.stay(claim.spot);
    }

    fn bad_copy(&self, spot: Spot) -> SwapError {
        let name = self.entry(spot.at).spec.name().to_owned();
        SwapError::BadCopy { name, state: self.slot(spot).state }
    }

    /// Whether a claimed tensor's lease can be given without waiting for anything: it is there or, to be read, on its way with every
    /// byte enqueued.
    pub(crate) fn is_at_hand(&self, spot: Spot, mode: Mode) -> bool {
        let (entry, slot) = (self.entry(spot.at), self.slot(spot));
        let known = mode == Mode::Read || !(self.is_changing(spot) && self.valid_elsewhere(spot));
        let valid = slot.state == SlotState::Valid && known;
        let ordered = mode == Mode::Read && slot.state == SlotState::Filling && slot.ordered;
        entry.padded == 0 || ((valid || ordered) && !entry.is_busy_for(spot.on))
    }
}

impl<T: Transfer> Entry<T> {
    /// Whether others' leases are in the way of one in `mode`.
    fn refuses(&self, mode: Mode) -> bool {
        let spilled = matches!(self.spill, Spill::Device(_));
        self.writer.is_some() || (mode == Mode::Write && (self.readers() > 0 || spilled))
    }
}

/// How often several tensors are looked over before it is given up that all are there at once.
const MOST_ROUNDS: usize = 16;
