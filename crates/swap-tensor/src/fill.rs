//! Bringing a tensor to the device, from host memory or from its file. One thread at a time does it for one tensor.

use crate::{
    SlotState, SwapError, TensorSpec,
    books::{Books, Job, JobKind},
    file::FileCopy,
    observe::{Counted, Kind, Step},
    pool::{Guard, Inner},
    room::Effort,
};
use core::ops::Range;
use pinned_host::{Access, Lane, Refused, SliceOf, Ticket, Transfer};
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
                match effort.wait_until {
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
        let entry = books.entry_mut(at);
        entry.device.block = Some(block);
        entry.device.state.step(SlotState::Reserved);
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
        self.fill_from_file(books, at)
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
                books.lru.touch(at);
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
                    }
                }
                let error = SwapError::device("upload", refused.error);
                self.probe.failed(Kind::Upload, &spec, &error);
                books.note(&error);
                Err(error)
            }
        }
    }

    /// Reads the file's copy through staging. Only here is the lock dropped for I/O; the block is a wall meanwhile.
    fn fill_from_file<'a>(
        &'a self,
        mut books: Guard<'a, T>,
        at: u32,
    ) -> (Guard<'a, T>, Result<(), SwapError>) {
        let begun = self.begin_file_fill(&mut books, at);
        let (file, range) = match begun {
            Ok(begun) => begun,
            Err(error) => {
                if books.entry(at).device.state == SlotState::Reserved {
                    books.release_device(at);
                }
                return (books, Err(error));
            }
        };
        books.entry_mut(at).device.state.step(SlotState::Filling);
        let spec = Arc::clone(&books.entry(at).spec);
        let bytes = spec.bytes();
        drop(books);
        let copied = self.copy_file(&file, &spec, range);
        let mut books = self.lock();
        books.counters.file_bytes += bytes;
        let Some(block) = books.entry(at).device.block else { return (books, Err(self.lost())) };
        let settled = !matches!(copied, Err((_, Settled::No)));
        if settled {
            // The copies have ended: the block is an ordinary one again.
            let _ = books.arena.unlease(block);
        }
        let entry = books.entry_mut(at);
        match copied {
            Ok(uploaded) => {
                if entry.device.state == SlotState::Filling {
                    entry.device.state.step(SlotState::Valid);
                    books.lru.touch(at);
                }
                books.counters.uploaded_bytes += uploaded;
                (books, Ok(()))
            }
            Err((error, _)) => {
                if matches!(error, SwapError::Device { .. }) {
                    self.probe.failed(Kind::Upload, &spec, &error);
                }
                if settled && entry.device.state == SlotState::Filling {
                    books.release_device(at);
                } else if entry.device.state == SlotState::Filling {
                    entry.device.state.step(SlotState::Torn);
                }
                (books, Err(error))
            }
        }
    }

    fn begin_file_fill(&self, books: &mut Books<T>, at: u32) -> Result<(FileCopy, Range<u64>), SwapError> {
        let range = books.range(at)?;
        let lane = self.device.lane(Lane::Upload);
        self.order_one(books, lane, range.clone(), Access::Write, "order an upload")?;
        let entry = books.entry(at);
        let (Some(file), Some(block)) = (entry.file.clone(), entry.device.block) else {
            return Err(entry.no_valid_copy());
        };
        books.arena.lease(block)?;
        Ok((file, range))
    }

    /// File → staging → device in pieces, a few in flight. Returns when every piece has landed, with the bytes uploaded.
    fn copy_file(
        &self,
        file: &FileCopy,
        spec: &Arc<TensorSpec>,
        range: Range<u64>,
    ) -> Result<u64, (SwapError, Settled)> {
        let unchanged = || {
            let checked = file.file.check_unchanged();
            checked.inspect_err(|error| self.probe.failed(Kind::FileRead, spec, error))
        };
        unchanged().map_err(|error| (error, Settled::Yes))?;
        let mut flight = Flight::new();
        let mut buffer = self.buffer.clone();
        let (mut done, bytes) = (0, spec.bytes());
        while done < bytes {
            let piece = self.piece.min(bytes - done);
            let padded = piece.next_multiple_of(self.grain());
            let step = self.staging_slice(&mut flight, Lane::Upload, padded).and_then(|mut slice| {
                let into = &mut slice.as_mut_slice()[..piece as usize];
                let read = || file.file.read_exact_at(into, file.offset + done);
                self.probe.io(Kind::FileRead, spec, piece, read)?;
                self.send(spec, &mut flight, slice, &mut buffer, range.start + done, Instant::now())
            });
            if let Err(error) = step {
                return Err((error, flight.finish().1));
            }
            done += piece;
        }
        let (landed, settled) = flight.finish();
        // A file that changed under the reads may have given pieces of two.
        let unchanged = landed.and_then(|()| unchanged());
        unchanged.map(|()| bytes.next_multiple_of(self.grain())).map_err(|error| (error, settled))
    }

    /// Uploads a piece that lies in staging.
    pub(crate) fn send(
        &self,
        spec: &Arc<TensorSpec>,
        flight: &mut Flight<T>,
        slice: SliceOf<T>,
        buffer: &mut T::Buffer,
        at: u64,
        started: Instant,
    ) -> Result<(), SwapError> {
        let bytes = slice.len() as u64;
        let sent = self.device.upload(slice, buffer, at).map(|ticket| {
            let counted = self.probe.transfer(Kind::Upload, spec, bytes, (ticket.event(), started));
            (ticket, counted)
        });
        flight.push(sent, "upload")
    }

    /// Staging memory of `bytes`: a slice this flight has back already, or the ring's.
    ///
    /// A flight waits for its own pieces before it waits for others', and holds no lock: two flights cannot starve
    /// each other.
    pub(crate) fn staging_slice(
        &self,
        flight: &mut Flight<T>,
        lane: Lane,
        bytes: u64,
    ) -> Result<SliceOf<T>, SwapError> {
        loop {
            let wanted = bytes as usize;
            let full = match flight.is_full() {
                true => None,
                false => match self.staging.try_acquire(lane, wanted) {
                    Ok(slice) => return Ok(slice),
                    Err(full) => Some(full),
                },
            };
            match (flight.pop_oldest()?, full) {
                (Some(slice), _) if slice.len() == wanted => return Ok(slice),
                (Some(slice), _) => drop(slice),
                (None, _) => {
                    return self
                        .staging
                        .acquire(lane, wanted, Some(Instant::now() + self.deadline))
                        .map_err(|e| SwapError::Host { purpose: "staging", source: Box::new(e) });
                }
            }
        }
    }
}

/// Whether work that failed can still touch its memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Settled {
    /// It has ended.
    Yes,
    /// Nobody can say.
    No,
}

/// The last few pieces of one copy, oldest first.
pub(crate) struct Flight<T: Transfer> {
    tickets: [Option<(Ticket<T>, Counted)>; DEPTH],
    oldest: usize,
    len: usize,
    settled: Settled,
}

impl<T: Transfer> Flight<T> {
    pub(crate) fn new() -> Self {
        Flight { tickets: [const { None }; DEPTH], oldest: 0, len: 0, settled: Settled::Yes }
    }

    pub(crate) fn is_full(&self) -> bool {
        self.len == DEPTH
    }

    /// Adds a piece that was sent; there is room, because whoever takes staging first makes some.
    pub(crate) fn push(
        &mut self,
        sent: Result<(Ticket<T>, Counted), Refused<T>>,
        operation: &'static str,
    ) -> Result<(), SwapError> {
        debug_assert!(!self.is_full());
        match sent {
            Ok(ticket) => {
                self.tickets[(self.oldest + self.len) % DEPTH] = Some(ticket);
                self.len += 1;
                Ok(())
            }
            Err(refused) => {
                if refused.slice.is_none() {
                    self.settled = Settled::No; // enqueued all the same
                }
                Err(SwapError::device(operation, refused.error))
            }
        }
    }

    /// Waits for the oldest piece and returns its memory; `None` if none is in flight.
    pub(crate) fn pop_oldest(&mut self) -> Result<Option<SliceOf<T>>, SwapError> {
        let Some((ticket, _counted)) = self.tickets[self.oldest].take() else { return Ok(None) };
        self.oldest = (self.oldest + 1) % DEPTH;
        self.len -= 1;
        ticket.wait().map(Some).map_err(|failed| {
            if failed.slice.is_none() {
                self.settled = Settled::No;
            }
            SwapError::device("copy through staging", failed.error)
        })
    }

    /// Waits for every piece. The first error, and whether all work has ended for certain.
    pub(crate) fn finish(mut self) -> (Result<(), SwapError>, Settled) {
        let mut result = Ok(());
        while self.len > 0 {
            if let Err(error) = self.pop_oldest() {
                result = result.and(Err(error));
            }
        }
        (result, self.settled)
    }
}

/// Pieces in flight at once: one being filled while others travel.
pub(crate) const DEPTH: usize = 4;
