//! Bringing a tensor to the device, from the best valid copy. One thread at a time does it for one tensor.

use crate::{
    SlotState, SwapError,
    books::{Books, Job, JobKind},
    lock::Guard,
    observe::{Kind, Step},
    pool::Inner,
    room::Effort,
};
use pinned_host::{Access, Lane, Transfer};
use std::{sync::Arc, time::Instant};

/// What is wanted on the device.
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
    /// Valid on the device.
    Here,
    /// It had to come in.
    Fetched,
    /// Room for it was taken; the slot is Filling until the caller has ordered what will write it.
    Blank,
}

impl<T: Transfer> Inner<T> {
    /// Makes the device copy of `at` Valid, or Filling with every byte enqueued. May drop the lock and take it again.
    ///
    /// The caller has claimed the tensor (a lease, a pin or a fetch), so its number stays its own.
    pub(crate) fn bring_in<'a>(
        &'a self,
        mut books: Guard<'a, T>,
        at: u32,
        want: Want,
        effort: Effort,
    ) -> (Guard<'a, T>, Result<Found, SwapError>) {
        let patient = Instant::now() + self.patience;
        let mut found = Found::Here;
        let mut fetched_once = false;
        loop {
            books.reap();
            let entry = books.entry(at);
            if entry.padded == 0 {
                return (books, Ok(Found::Here));
            }
            if entry.busy {
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
            match entry.device.state {
                SlotState::Valid => return (books, Ok(found)),
                SlotState::Filling if entry.device.ordered => return (books, Ok(Found::Fetched)),
                SlotState::Absent => {}
                SlotState::Stale if books.is_free_to_go(entry.device.block) => {
                    books.release_device(at);
                    continue;
                }
                SlotState::Lost => {
                    let error = self.lost();
                    return (books, Err(error));
                }
                state if fetched_once => {
                    // What was just brought in turned out bad: trying for ever would help nobody.
                    let name = entry.spec.name().to_owned();
                    return (books, Err(SwapError::BadCopy { name, state }));
                }
                _ => {
                    // Torn or poisoned: replaced from below, unless somebody still uses it.
                    if want == Want::Contents && !entry.valid_below() {
                        let error = entry.no_valid_copy();
                        return (books, Err(error));
                    }
                    let (name, state) = (entry.spec.name().to_owned(), entry.device.state);
                    if entry.jobs == 0 {
                        if want == Want::Room && books.reuse_room(at) {
                            return (books, Ok(Found::Blank));
                        }
                        books.release_device(at);
                    }
                    if books.entry(at).device.block.is_none() {
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
            if want == Want::Contents && !entry.valid_below() {
                let error = entry.no_valid_copy();
                return (books, Err(error));
            }
            found = Found::Fetched;
            fetched_once = true;
            books.entry_mut(at).busy = true;
            let (guard, fetched) = self.fetch(books, at, want, effort);
            books = guard;
            books.entry_mut(at).busy = false;
            self.wake(&books);
            if let Err(error) = fetched {
                books.note(&error);
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
        books: Guard<'a, T>,
        at: u32,
        want: Want,
        effort: Effort,
    ) -> (Guard<'a, T>, Result<(), SwapError>) {
        let bytes = books.entry(at).padded;
        let (mut books, block) = self.room(books, bytes, effort);
        let block = match block {
            Ok(block) => block,
            Err(error) => return (books, Err(error)),
        };
        books.settle_in(at, block);
        let entry = books.entry_mut(at);
        if want == Want::Room {
            entry.device.state.step(SlotState::Filling);
            entry.device.ordered = false;
            return (books, Ok(()));
        }
        if entry.host.state == SlotState::Valid {
            let sent = self.swap_in(&mut books, at);
            if sent.is_err() && books.entry(at).device.state == SlotState::Reserved {
                books.release_device(at);
            }
            return (books, sent);
        }
        self.fill_from_below(books, at)
    }

    /// Enqueues the upload of the host copy. The slice is the ticket's until it has landed.
    fn swap_in(&self, books: &mut Books<T>, at: u32) -> Result<(), SwapError> {
        let range = books.range(at)?;
        let spec = Arc::clone(&books.entry(at).spec);
        let _span = self.probe.enter(Step::SwapIn, spec.name(), range.end - range.start);
        let lane = self.device.lane(Lane::Upload);
        self.order_one(books, lane, range.clone(), Access::Write, "order an upload")?;
        let entry = books.entry_mut(at);
        let Some(slice) = entry.host.slice.take() else { return Err(entry.no_valid_copy()) };
        let started = Instant::now();
        match self.device.upload(slice, books.arena.buffer_mut(), range.start) {
            Ok(ticket) => {
                let entry = books.entry_mut(at);
                entry.device.state.step(SlotState::Filling);
                entry.device.ordered = true;
                entry.jobs += 1;
                let (version, bytes) = (entry.version, entry.padded);
                books.hazards.after(&[(range, Access::Write)], ticket.event());
                let counted = self.probe.transfer(Kind::Upload, &spec, bytes, (ticket.event(), started));
                books.jobs.push(Job { entry: at, kind: JobKind::SwapIn, version, ticket, _counted: counted });
                books.counters.uploaded_bytes += bytes;
                Ok(())
            }
            Err(refused) => {
                let entry = books.entry_mut(at);
                match refused.slice {
                    Some(slice) => entry.host.slice = Some(slice),
                    None => {
                        // It was enqueued all the same and may land at any time.
                        entry.host.state.step(SlotState::Lost);
                        entry.device.state.step(SlotState::Filling);
                        entry.device.state.step(SlotState::Torn);
                        books.wall(at);
                        books.leave_host(at);
                    }
                }
                let error = SwapError::device("upload", refused.error);
                self.probe.failed(Kind::Upload, &spec, &error);
                books.note(&error);
                Err(error)
            }
        }
    }
}
