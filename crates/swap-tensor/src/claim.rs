//! From a wish to a lease: first the claim, which waits and holds nothing; then the room, the bytes and the order.

use crate::{
    SlotState, SwapError,
    books::{Books, Entry},
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

impl<T: Transfer> Inner<T> {
    /// Counts leases on all of `wanted`, or on none: waits, holding nothing, until no other lease is in the way and
    /// the arena has room for everything leased or pinned at once.
    pub(crate) fn claim<'a>(
        &'a self,
        mut books: Guard<'a, T>,
        wanted: &[(u32, Mode)],
        queue: &T::Queue,
        effort: Effort,
    ) -> Result<Guard<'a, T>, SwapError> {
        loop {
            match self.claim_now(&mut books, wanted, queue, effort) {
                Ok(()) => return Ok(books),
                Err(refusal) => match effort.wait_until.filter(|_| refusal.may_pass(effort)) {
                    Some(until) => books = self.sleep(books, until),
                    None => return Err(books.name_holders(refusal.error)),
                },
            }
        }
    }

    /// [`claim`](Self::claim) without a wait.
    pub(crate) fn claim_now(
        &self,
        books: &mut Books<T>,
        wanted: &[(u32, Mode)],
        queue: &T::Queue,
        effort: Effort,
    ) -> Result<(), Refusal> {
        books.reap();
        let arena = books.budget;
        let (total, new) = books.room_of(wanted);
        let full = |books: &Books<T>| SwapError::DeviceBudget {
            requested: total,
            leased: books.held,
            free: arena.saturating_sub(books.held),
            arena,
            waited: effort.since.elapsed(),
            holders: Vec::new(),
        };
        if new > 0 && total > arena {
            return Err(Refusal { error: full(books), for_good: true });
        }
        if let Some(&(at, _)) = wanted.iter().find(|&&(at, mode)| books.entry(at).refuses(mode)) {
            return Err(Refusal { error: books.entry(at).leased(effort.since.elapsed()), for_good: false });
        }
        if new > 0 && books.held + new > arena {
            return Err(Refusal { error: full(books), for_good: false });
        }
        let writes = wanted.iter().any(|&(_, mode)| mode == Mode::Write);
        if writes && books.writers.iter().any(|(_, of)| of.same_queue(queue)) {
            // What failed on the queue before this lease is not this lease's.
            self.record(books, queue).map_err(|error| Refusal {
                error: SwapError::device("order a lease", error),
                for_good: true,
            })?;
        }
        for &(at, mode) in wanted {
            let entry = books.entry_mut(at);
            let (held, padded) = (entry.held(), entry.padded);
            match mode {
                Mode::Read => entry.readers += 1,
                Mode::Write => {
                    entry.writer = true;
                    books.writers.push((at, queue.clone()));
                }
            }
            if !held {
                books.held += padded;
                books.rule.held(at);
            }
            books.stay(at);
        }
        Ok(())
    }

    /// Gives a claim back, and with the last one the claim on room.
    pub(crate) fn unclaim(&self, books: &mut Books<T>, at: u32, mode: Mode) {
        let entry = books.entry_mut(at);
        match mode {
            Mode::Read => entry.readers -= 1,
            Mode::Write => entry.writer = false,
        }
        if mode == Mode::Write {
            books.writers.retain(|(w, _)| *w != at);
        }
        let entry = books.entry(at);
        let (held, padded) = (entry.held(), entry.padded);
        if !held {
            books.held -= padded;
            books.rule.released(at);
        }
        self.poke(books);
        books.recover(at);
        self.tell_levels(books);
        self.wake(books);
    }

    /// Turns claims into leases, all of them or none: the claims are given back then.
    pub(crate) fn occupy_all<'a>(
        &'a self,
        books: Guard<'a, T>,
        wanted: &[Wanted<T>],
        queue: &T::Queue,
        effort: Effort,
    ) -> Result<Vec<Hold<T>>, SwapError> {
        if let [Wanted { token, mode, want, place }] = wanted {
            let (mut books, range) = self.occupy(books, (token.at, *mode, *want), queue, effort);
            let range = range?;
            let id = books.open.open(&token.spec, *mode, Instant::now(), place);
            return Ok(vec![Hold::new(token, *mode, *want, queue, range, id)]);
        }
        let (mut books, gathered) = self.gather(books, wanted, effort);
        let mut holds = Vec::with_capacity(wanted.len());
        let seated = gathered.and_then(|found| {
            wanted.iter().zip(found).try_for_each(|(Wanted { token, mode, want, place }, found)| {
                let range = self.seat(&mut books, (token.at, *mode, *want), queue)?;
                self.count_lease(&mut books, token.at, found, effort);
                let id = books.open.open(&token.spec, *mode, Instant::now(), place);
                holds.push(Hold::new(token, *mode, *want, queue, range, id));
                Ok(())
            })
        });
        if let Err(error) = seated {
            for rest in &wanted[holds.len()..] {
                self.unclaim(&mut books, rest.token.at, rest.mode);
            }
            drop(books); // leases that were given end by themselves, and take the lock
            return Err(error);
        }
        Ok(holds)
    }

    fn count_lease(&self, books: &mut Books<T>, at: u32, found: Found, effort: Effort) {
        books.counters.leases += 1;
        books.counters.hits += u64::from(found == Found::Here);
        self.probe.leased(found == Found::Here);
        if found != Found::Here {
            books.counters.stall += effort.since.elapsed();
            self.probe.stalled(&books.entry(at).spec, effort.since);
        }
        self.tell_levels(books);
    }

    /// Brings all of `wanted` to the device, where they are all at once when this returns `Ok`: how each was found.
    ///
    /// None is a wall before all are there: one in the middle of the arena might leave the next no hole that is large enough, and
    /// its own lease would be what that one waits for.
    fn gather<'a>(
        &'a self,
        mut books: Guard<'a, T>,
        wanted: &[Wanted<T>],
        effort: Effort,
    ) -> (Guard<'a, T>, Result<Vec<Found>, SwapError>) {
        let mut found = Vec::with_capacity(wanted.len());
        for _ in 0..MOST_ROUNDS {
            for (i, Wanted { token, mode, want, .. }) in wanted.iter().enumerate() {
                let (guard, here) = self.bring_in(books, token.at, *want, effort);
                books = guard;
                match here {
                    Ok(here) if found.len() == i => found.push(here),
                    Ok(_) => {}
                    Err(error) => return (books, Err(error)),
                }
                if *mode == Mode::Write {
                    let (guard, landed) = self.land(books, token.at);
                    books = guard;
                    if let Err(error) = landed {
                        return (books, Err(error));
                    }
                }
            }
            // What came first may have been moved for what came last, or have turned out bad.
            if wanted.iter().all(|w| books.is_ready(w.token.at, w.mode)) {
                return (books, Ok(found));
            }
        }
        let unready = wanted.iter().find(|w| !books.is_ready(w.token.at, w.mode)).map_or(0, |w| w.token.at);
        let entry = books.entry(unready);
        let error = SwapError::BadCopy { name: entry.spec.name().to_owned(), state: entry.device.state };
        (books, Err(error))
    }

    /// Turns a claim into a lease: brings the tensor in, makes it a wall, and orders `queue` behind what made it.
    /// On an error the claim is given back.
    pub(crate) fn occupy<'a>(
        &'a self,
        books: Guard<'a, T>,
        (at, mode, want): (u32, Mode, Want),
        queue: &T::Queue,
        effort: Effort,
    ) -> (Guard<'a, T>, Result<Range<u64>, SwapError>) {
        let (mut books, found) = self.bring_in(books, at, want, effort);
        if want == Want::Room {
            // How the old contents fared no longer matters.
            let block = books.entry(at).device.block;
            books.changes.retain(|&(_, changed)| Some(changed) != block);
        }
        let blank = matches!(found, Ok(Found::Blank));
        let leased = match found {
            Ok(found) => {
                let (guard, landed) = match (mode, found) {
                    (Mode::Read, _) | (_, Found::Blank) => (books, Ok(())),
                    (Mode::Write, _) => self.land(books, at),
                };
                books = guard;
                landed
                    .and_then(|()| self.seat(&mut books, (at, mode, want), queue))
                    .inspect(|_| self.count_lease(&mut books, at, found, effort))
            }
            Err(error) => Err(error),
        };
        if leased.is_err() {
            // What is Filling otherwise is somebody else's.
            if blank {
                books.spoil(at); // nothing will write it
            }
            self.unclaim(&mut books, at, mode);
        }
        (books, leased)
    }

    /// Before the copies below go stale, the one on the device must be known to be good.
    fn land<'a>(&'a self, mut books: Guard<'a, T>, at: u32) -> (Guard<'a, T>, Result<(), SwapError>) {
        loop {
            let entry = books.entry(at);
            let here = entry.device.state == SlotState::Valid;
            if entry.padded == 0 || (here && !(entry.valid_below() && books.is_changing(entry.device.block)))
            {
                return (books, Ok(()));
            }
            let change =
                || books.changes.iter().find(|(_, b)| Some(*b) == entry.device.block).map(|(e, _)| e.clone());
            match books.job_of(at).or_else(change) {
                Some(event) => books = self.wait_for(books, &event),
                None => {
                    let error = match entry.device.state {
                        SlotState::Lost => self.lost(),
                        _ if !entry.valid_below() => entry.no_valid_copy(),
                        // Another try brings it in again.
                        state => SwapError::BadCopy { name: entry.spec.name().to_owned(), state },
                    };
                    return (books, Err(error));
                }
            }
        }
    }

    fn seat(
        &self,
        books: &mut Books<T>,
        (at, mode, want): (u32, Mode, Want),
        queue: &T::Queue,
    ) -> Result<Range<u64>, SwapError> {
        let Some(block) = books.entry(at).device.block else { return Ok(0..0) };
        if !queue.same_queue(&self.queue) && queue.wait(&self.origin).is_err() {
            return Err(SwapError::ForeignQueue { name: books.entry(at).spec.name().to_owned() });
        }
        if mode == Mode::Write && books.entry(at).device.stuck {
            return Err(SwapError::Stuck { name: books.entry(at).spec.name().to_owned() });
        }
        let range = books.arena.range(block)?;
        let access = if mode == Mode::Write { Access::Write } else { Access::Read };
        self.order_one(books, queue, range.clone(), access, "order a lease")?;
        books.arena.lease(block)?;
        books.rule.leased(
            at,
            match (mode, want) {
                (Mode::Read, _) => Use::Read,
                (Mode::Write, Want::Contents) => Use::Write,
                (Mode::Write, Want::Room) => Use::Overwrite,
            },
        );
        self.poke(books);
        let entry = books.entry_mut(at);
        entry.fetched_ahead = false;
        entry.uses += 1;
        if entry.device.state == SlotState::Filling && !entry.device.ordered {
            entry.device.state.step(SlotState::Valid); // its contents are what this lease will write
        }
        if mode == Mode::Write {
            entry.version += 1;
            if entry.host.state == SlotState::Valid {
                entry.host.state.step(SlotState::Stale);
            }
            entry.disk.outdate();
        } else if entry.host.state == SlotState::Valid {
            books.host_lru.touch(at);
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
    /// Bytes that leases on all of `wanted` hold, and how many of them no other lease or pin holds already.
    fn room_of(&self, wanted: &[(u32, Mode)]) -> (u64, u64) {
        let (mut total, mut new) = (0u64, 0u64);
        for (i, &(at, _)) in wanted.iter().enumerate() {
            if !wanted[..i].iter().any(|w| w.0 == at) {
                let entry = self.entry(at);
                total = total.saturating_add(entry.padded);
                new += if entry.held() { 0 } else { entry.padded };
            }
        }
        (total, new)
    }

    /// Whether a claimed tensor's lease can be given: it is there, or on its way with every byte enqueued.
    fn is_ready(&self, at: u32, mode: Mode) -> bool {
        let slot = &self.entry(at).device;
        let ordered = mode == Mode::Read && slot.state == SlotState::Filling && slot.ordered;
        ordered || self.is_at_hand(at, mode)
    }

    /// Whether a claimed tensor can be leased without waiting for anything.
    pub(crate) fn is_at_hand(&self, at: u32, mode: Mode) -> bool {
        let entry = self.entry(at);
        let here = entry.padded == 0 || (entry.device.state == SlotState::Valid && !entry.busy);
        let known = mode == Mode::Read || !(entry.valid_below() && self.is_changing(entry.device.block));
        here && known
    }
}

impl<T: Transfer> Entry<T> {
    /// Whether others' leases are in the way of one in `mode`.
    fn refuses(&self, mode: Mode) -> bool {
        self.writer || (mode == Mode::Write && (self.readers > 0 || self.spill == Spill::Device))
    }
}

/// How often several tensors are looked over before it is given up that all are there at once.
const MOST_ROUNDS: usize = 16;
