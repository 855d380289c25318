//! Bringing a tensor to a device, from the best valid copy. One thread at a time does it for one tensor.

use crate::{
    SlotState, SwapError,
    books::{Books, Job, JobKind},
    device::{Device, Spot},
    entry::Busy,
    lock::Guard,
    observe::{Kind, Step},
    pool::Inner,
    room::Effort,
};
use pinned_host::{Access, Lane, Transfer};
use std::{sync::Arc, time::Instant};

/// What is wanted on a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Want {
    /// The tensor's current contents.
    Contents,
    /// Room for new contents: the old ones are not brought in.
    Room,
}

/// How a tensor was found when it was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Found {
    /// Valid on its device.
    Here,
    /// It had to come in.
    Fetched,
    /// Room for it was taken; the slot is Filling until the caller has ordered what will write it.
    Blank,
}

impl<T: Transfer> Inner<T> {
    /// Makes the copy at `spot` Valid, or Filling with every byte enqueued. May drop the lock and take it again.
    ///
    /// The caller has claimed the tensor (a lease, a pin or a fetch), so its number stays its own.
    pub(crate) fn bring_in<'a>(
        &'a self,
        mut books: Guard<'a, T>,
        spot: Spot,
        want: Want,
        effort: Effort,
    ) -> (Guard<'a, T>, Result<Found, SwapError>) {
        let Spot { at, on } = spot;
        let patient = Instant::now() + self.patience;
        let mut found = Found::Here;
        let mut fetched_once = false;
        loop {
            books.reap();
            let (entry, slot) = (books.entry(at), books.slot(spot));
            if entry.padded == 0 {
                return (books, Ok(Found::Here));
            }
            if entry.is_busy_for(on) {
                // Single flight: somebody else is at it.
                found = Found::Fetched;
                match effort.wait_until.map(|until| until.max(patient)) {
                    Some(until) if Instant::now() < until => books = self.sleep(books, until),
                    _ => {
                        let error = books.entry(at).leased(effort.since.elapsed());
                        return (books, Err(error));
                    }
                }
                continue;
            }
            match slot.state {
                SlotState::Valid => return (books, Ok(found)),
                SlotState::Filling if slot.ordered => return (books, Ok(Found::Fetched)),
                SlotState::Absent => {}
                SlotState::Stale if books.is_free_to_go(spot) && entry.jobs == 0 => {
                    books.release_device(spot);
                    continue;
                }
                SlotState::Lost => {
                    let error = self.lost(on);
                    return (books, Err(error));
                }
                state if fetched_once => {
                    // What was just brought in turned out bad: trying for ever would help nobody.
                    let name = entry.spec.name().to_owned();
                    return (books, Err(SwapError::BadCopy { name, state }));
                }
                _ => {
                    // Torn or poisoned: replaced from elsewhere, unless somebody still uses it.
                    if want == Want::Contents && !entry.has_source(on) {
                        let error = entry.no_valid_copy();
                        return (books, Err(error));
                    }
                    let (name, state) = (entry.spec.name().to_owned(), slot.state);
                    if entry.jobs == 0 {
                        if want == Want::Room && books.reuse_room(spot) {
                            return (books, Ok(Found::Blank));
                        }
                        books.release_device(spot);
                    }
                    if books.slot(spot).block.is_none() {
                        continue;
                    }
                    if let Some(event) = books.job_of(at) {
                        books = self.wait_for(books, &event);
                        continue;
                    }
                    match effort.wait_until {
                        Some(until) if Instant::now() < until => books = self.sleep(books, until),
                        _ => return (books, Err(SwapError::BadCopy { name, state })),
                    }
                    continue;
                }
            }
            if want == Want::Contents && !entry.has_source(on) {
                let error = entry.no_valid_copy();
                return (books, Err(error));
            }
            found = Found::Fetched;
            fetched_once = true;
            books.entry_mut(at).busy = Busy::Fetch(on);
            let (guard, fetched) = self.fetch(books, spot, want, effort);
            books = guard;
            books.entry_mut(at).busy = Busy::No;
            self.wake(&books);
            if let Err(error) = fetched {
                return (books, Err(error));
            }
            if want == Want::Room {
                return (books, Ok(Found::Blank));
            }
        }
    }

    /// Takes room and fills it.
    fn fetch<'a>(
        &'a self,
        mut books: Guard<'a, T>,
        spot: Spot,
        want: Want,
        effort: Effort,
    ) -> (Guard<'a, T>, Result<(), SwapError>) {
        if want == Want::Contents {
            // Before there is room: what waits for a copy down holds none.
            let (guard, below) = self.bring_down(books, spot, effort);
            books = guard;
            if let Err(error) = below {
                return (books, Err(error));
            }
        }
        let bytes = books.entry(spot.at).padded;
        let (mut books, block) = self.room(books, spot.on, bytes, effort);
        let block = match block {
            Ok(block) => block,
            Err(error) => return (books, Err(error)),
        };
        books.settle_in(spot, block);
        if want == Want::Room {
            let slot = books.slot_mut(spot);
            slot.state.step(SlotState::Filling);
            slot.ordered = false;
            return (books, Ok(()));
        }
        if books.entry(spot.at).host.state == SlotState::Valid {
            let sent = self.swap_in(&mut books, spot);
            if sent.is_err() && books.slot(spot).state == SlotState::Reserved {
                books.release_device(spot);
            }
            return (books, sent);
        }
        self.fill_from_below(books, spot)
    }

    /// Enqueues the upload of the host copy. The slice is the ticket's until it has landed.
    fn swap_in(&self, books: &mut Books<T>, spot: Spot) -> Result<(), SwapError> {
        let Spot { at, on } = spot;
        let range = books.range(spot)?;
        let spec = Arc::clone(&books.entry(at).spec);
        let Device { transfer, probe, .. } = self.on(on);
        let _span = probe.enter(Step::SwapIn, spec.name(), range.end - range.start);
        let writing = (transfer.lane(Lane::Upload), range.clone(), Access::Write);
        self.order_one(books, on, writing, "order an upload")?;
        let entry = books.entry_mut(at);
        let Some(slice) = entry.host.slice.take() else { return Err(entry.no_valid_copy()) };
        let started = Instant::now();
        match transfer.upload(slice, books.devices[on].arena.buffer_mut(), range.start) {
            Ok(ticket) => {
                let entry = books.entry_mut(at);
                let slot = &mut entry.devices[on];
                slot.state.step(SlotState::Filling);
                slot.ordered = true;
                entry.jobs += 1;
                let (version, bytes) = (entry.version, entry.padded);
                let device = &mut books.devices[on];
                device.hazards.after(&[(range, Access::Write)], ticket.event());
                device.counters.uploaded_bytes += bytes;
                let counted = probe.transfer(Kind::Upload, &spec, bytes, (ticket.event(), started));
                let (number, kind) = (books.begin(), JobKind::SwapIn);
                books.jobs.push(Job { number, spot, kind, version, ticket, _counted: counted });
                Ok(())
            }
            Err(refused) => {
                let entry = books.entry_mut(at);
                match refused.slice {
                    Some(slice) => entry.host.slice = Some(slice),
                    None => {
                        // It was enqueued all the same and may land at any time.
                        entry.host.state.step(SlotState::Lost);
                        let slot = &mut entry.devices[on];
                        slot.state.step(SlotState::Filling);
                        slot.state.step(SlotState::Torn);
                        books.wall(spot);
                        books.leave_host(at);
                    }
                }
                let error = SwapError::device("upload", refused.error);
                probe.failed(Kind::Upload, &spec, &error);
                books.note(on, &error);
                Err(error)
            }
        }
    }
}
