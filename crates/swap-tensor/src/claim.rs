//! From a wish to a lease: first the claim, which waits and holds nothing; then the room, the bytes and the order.

use crate::{
    SlotState, SwapError,
    books::{Books, DeviceSlot},
    fill::{Found, Want},
    lease::Mode,
    pool::{Guard, Inner},
    room::Effort,
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
        let arena = books.arena.allocator().size();
        loop {
            books.reap();
            let conflict = wanted.iter().find(|&&(at, mode)| {
                let entry = books.entry(at);
                entry.writer || (mode == Mode::Write && entry.readers > 0)
            });
            let distinct = |i: usize| !wanted[..i].iter().any(|w| w.0 == wanted[i].0);
            let all = (0..wanted.len()).filter(|&i| distinct(i)).map(|i| books.entry(wanted[i].0));
            let (mut total, mut new) = (0u64, 0u64);
            for entry in all {
                total = total.saturating_add(entry.padded);
                new += if entry.held() { 0 } else { entry.padded };
            }
            let waited = effort.since.elapsed();
            let full = SwapError::DeviceBudget {
                requested: total,
                leased: books.held,
                free: arena - books.held,
                arena,
                waited,
            };
            if total > arena {
                return Err(full);
            }
            if conflict.is_none() && books.held + new <= arena {
                let writes = wanted.iter().any(|&(_, mode)| mode == Mode::Write);
                if writes && books.writers.iter().any(|(_, of)| of.same_queue(queue)) {
                    // What failed on the queue before this lease is not this lease's.
                    self.record(&mut books, queue)
                        .map_err(|error| SwapError::device("order a lease", error))?;
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
                    books.held += if held { 0 } else { padded };
                    books.stay(at);
                }
                return Ok(books);
            }
            match effort.wait_until {
                Some(until) if Instant::now() < until => books = self.sleep(books, until),
                _ => {
                    return Err(match conflict {
                        Some(&(at, _)) => books.entry(at).leased(waited),
                        None => full,
                    });
                }
            }
        }
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
        books.held -= if held { 0 } else { padded };
        books.recover(at);
        self.tell_levels(books);
        self.wake(books);
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
        let leased = match found {
            Ok(found) => {
                let (guard, landed) = match (mode, found) {
                    (Mode::Read, _) | (_, Found::Blank) => (books, Ok(())),
                    (Mode::Write, _) => self.land(books, at),
                };
                books = guard;
                landed.and_then(|()| self.seat(&mut books, at, mode, queue)).inspect(|_| {
                    books.counters.leases += 1;
                    books.counters.hits += u64::from(found == Found::Here);
                    self.probe.leased(found == Found::Here);
                    if found != Found::Here {
                        books.counters.stall += effort.since.elapsed();
                        self.probe.stalled(&books.entry(at).spec, effort.since);
                    }
                    self.tell_levels(&books);
                })
            }
            Err(error) => Err(error),
        };
        if leased.is_err() {
            if matches!(books.entry(at).device, DeviceSlot { state: SlotState::Filling, ordered: false, .. })
            {
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
        at: u32,
        mode: Mode,
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
        books.lru.touch(at);
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
        }
        Ok(range)
    }
}
