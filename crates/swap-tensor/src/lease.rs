//! Leases: a tensor on the device, at an address that does not change, ordered on a queue.

use crate::{
    SlotState, SwapError, Tensor, TensorSpec,
    books::{Books, DeviceSlot},
    fill::{Flight, Found, Settled, Want},
    pool::{Guard, Inner},
    room::Effort,
    tensor::Token,
};
use allocator_core::DeviceBuffer;
use core::ops::Range;
use pinned_host::{Access, Event, Lane, Queue, Transfer};
use std::{sync::Arc, time::Instant};

/// What a lease is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Mode {
    /// Reading: any number at a time.
    Read,
    /// Reading and writing: alone. The tensor's other copies are stale from the moment the lease is given.
    Write,
}

/// A tensor leased for reading.
///
/// The device copy stays where it is until the lease ends, and work submitted to the lease's queue after the lease
/// was given runs after everything that made the copy. Other queues are not ordered: take a lease per queue.
/// End it with [`finish`](Self::finish) and the event behind your last use, or drop it: then an event is recorded
/// on its queue. The room is not used again before that event.
#[derive(Debug)]
#[must_use = "a lease ends when dropped"]
pub struct ReadLease<T: Transfer>(Hold<T>);

/// A tensor leased for writing, alone. See [`ReadLease`].
#[derive(Debug)]
#[must_use = "a lease ends when dropped"]
pub struct WriteLease<T: Transfer>(Hold<T>);

/// One lease of [`SwapPool::lease_all`](crate::SwapPool::lease_all).
#[derive(Debug)]
#[must_use = "a lease ends when dropped"]
pub enum Lease<T: Transfer> {
    /// For reading.
    Read(ReadLease<T>),
    /// For writing.
    Write(WriteLease<T>),
}

macro_rules! shared_face {
    ($lease:ident) => {
        impl<T: Transfer> $lease<T> {
            /// Name, dtype and shape.
            pub fn spec(&self) -> &TensorSpec {
                &self.0.token.spec
            }

            /// Where the tensor's bytes are in [`buffer`](Self::buffer); fixed until the lease ends.
            pub fn range(&self) -> Range<u64> {
                self.0.range.start..self.0.range.start + self.spec().bytes()
            }

            /// The arena's buffer.
            pub fn buffer(&self) -> &T::Buffer {
                &self.0.token.inner.buffer
            }

            /// The queue this lease is ordered on.
            pub fn queue(&self) -> &T::Queue {
                &self.0.queue
            }

            /// The backend's native view of the tensor, rounded up to the device's grain.
            ///
            /// # Errors
            /// The backend refuses the range.
            pub fn view(&self) -> Result<<T::Buffer as DeviceBuffer>::View<'_>, SwapError> {
                self.buffer().view(self.0.range.clone()).map_err(|e| SwapError::device("view a tensor", e))
            }

            /// Blocks until the tensor's bytes are there and everything submitted to the queue so far is done.
            ///
            /// # Errors
            /// The device failed, or the copy or move that made the device copy did.
            pub fn wait(&self) -> Result<(), SwapError> {
                self.0.wait()
            }

            /// Copies the contents to `into` by a plain synchronous read, after [`wait`](Self::wait): a witness
            /// that shares nothing with the transfers.
            ///
            /// # Errors
            /// As `wait`; a length that is not the tensor's.
            pub fn read_now(&self, into: &mut [u8]) -> Result<(), SwapError> {
                self.0.read_now(into)
            }

            /// Copies the contents to `into` through staging, after everything submitted to the queue so far.
            ///
            /// # Errors
            /// A length that is not the tensor's; the device fails.
            pub fn download(&self, into: &mut [u8]) -> Result<(), SwapError> {
                self.0.download(into)
            }

            /// Ends the lease with the event behind its last use. The event must be of this device and cover every
            /// use made under the lease.
            ///
            /// # Errors
            /// [`SwapError::BadCopy`] if what was leased turned out bad: what was computed from it is worthless.
            pub fn finish(mut self, event: T::Event) -> Result<(), SwapError> {
                self.0.end(Some(event))
            }
        }
    };
}

shared_face!(ReadLease);
shared_face!(WriteLease);

impl<T: Transfer> WriteLease<T> {
    /// Replaces the contents by a plain synchronous write, after [`wait`](Self::wait).
    ///
    /// # Errors
    /// As `wait`; a length that is not the tensor's. Nothing was written then.
    pub fn write_now(&mut self, data: &[u8]) -> Result<(), SwapError> {
        self.0.write_now(data)
    }

    /// Replaces the contents through staging. Work submitted to the queue afterwards sees them.
    ///
    /// # Errors
    /// A length that is not the tensor's. If the device fails half-way, the tensor's device copy is torn.
    pub fn upload(&mut self, data: &[u8]) -> Result<(), SwapError> {
        self.0.upload(data)
    }
}

impl<T: Transfer> Lease<T> {
    /// Name, dtype and shape.
    pub fn spec(&self) -> &TensorSpec {
        &self.hold().token.spec
    }

    /// Where the tensor's bytes are in the arena's buffer; fixed until the lease ends.
    pub fn range(&self) -> Range<u64> {
        let hold = self.hold();
        hold.range.start..hold.range.start + hold.token.spec.bytes()
    }

    fn hold(&self) -> &Hold<T> {
        match self {
            Lease::Read(lease) => &lease.0,
            Lease::Write(lease) => &lease.0,
        }
    }

    pub(crate) fn read(tensor: &Tensor<T>, queue: &T::Queue) -> Result<ReadLease<T>, SwapError> {
        Hold::take(&tensor.token, Mode::Read, Want::Contents, queue).map(ReadLease)
    }

    pub(crate) fn write(tensor: &Tensor<T>, queue: &T::Queue) -> Result<WriteLease<T>, SwapError> {
        Hold::take(&tensor.token, Mode::Write, Want::Contents, queue).map(WriteLease)
    }

    pub(crate) fn overwrite(tensor: &Tensor<T>, queue: &T::Queue) -> Result<WriteLease<T>, SwapError> {
        Hold::take(&tensor.token, Mode::Write, Want::Room, queue).map(WriteLease)
    }

    /// All of `wanted` or none.
    pub(crate) fn all(
        inner: &Arc<Inner<T>>,
        wanted: &[(&Tensor<T>, Mode)],
        queue: &T::Queue,
    ) -> Result<Vec<Lease<T>>, SwapError> {
        for (i, (tensor, mode)) in wanted.iter().enumerate() {
            let again = wanted[..i]
                .iter()
                .any(|(t, m)| t.at() == tensor.at() && (*m, *mode) != (Mode::Read, Mode::Read));
            if again {
                return Err(SwapError::LeasedTwice { name: tensor.spec().name().to_owned() });
            }
        }
        let claims: Vec<(u32, Mode)> = wanted.iter().map(|(tensor, mode)| (tensor.at(), *mode)).collect();
        let since = Instant::now();
        let effort = Effort { wait_until: Some(since + inner.deadline), since };
        let mut books = inner.claim(inner.lock(), &claims, effort)?;
        let mut leases = Vec::with_capacity(wanted.len());
        for (i, (tensor, mode)) in wanted.iter().enumerate() {
            let (guard, range) = inner.occupy(books, (tensor.at(), *mode, Want::Contents), queue, effort);
            books = guard;
            match range {
                Ok(range) => {
                    let hold = Hold {
                        token: Arc::clone(&tensor.token),
                        mode: *mode,
                        queue: queue.clone(),
                        range,
                        blank: false,
                        ended: false,
                    };
                    leases.push(match mode {
                        Mode::Read => Lease::Read(ReadLease(hold)),
                        Mode::Write => Lease::Write(WriteLease(hold)),
                    });
                }
                Err(error) => {
                    // `occupy` gave its own claim back; the rest never got to it.
                    for &(at, mode) in &claims[i + 1..] {
                        inner.unclaim(&mut books, at, mode);
                    }
                    drop(books);
                    return Err(error);
                }
            }
        }
        Ok(leases)
    }
}

/// A lease of either kind.
struct Hold<T: Transfer> {
    token: Arc<Token<T>>,
    mode: Mode,
    queue: T::Queue,
    /// The whole block, padding included.
    range: Range<u64>,
    /// The contents are unspecified, and nothing has been written yet.
    blank: bool,
    ended: bool,
}

impl<T: Transfer> Hold<T> {
    fn take(token: &Arc<Token<T>>, mode: Mode, want: Want, queue: &T::Queue) -> Result<Self, SwapError> {
        let inner = &token.inner;
        let since = Instant::now();
        let effort = Effort { wait_until: Some(since + inner.deadline), since };
        let books = inner.claim(inner.lock(), &[(token.at, mode)], effort)?;
        let (_books, range) = inner.occupy(books, (token.at, mode, want), queue, effort);
        Ok(Hold {
            token: Arc::clone(token),
            mode,
            queue: queue.clone(),
            range: range?,
            blank: want == Want::Room,
            ended: false,
        })
    }

    fn wait(&self) -> Result<(), SwapError> {
        let since = Instant::now();
        let inner = &self.token.inner;
        let recorded = inner.record(&mut inner.lock(), &self.queue);
        let waited = recorded.and_then(|event| event.map_or(Ok(()), |event| event.synchronize()));
        let mut books = inner.lock();
        books.counters.stall += since.elapsed();
        books.reap();
        self.verdict(&books)?;
        waited.map_err(|error| {
            let error = SwapError::device("wait for a lease", error);
            books.note(&error);
            error
        })
    }

    /// Whether the copy that was leased is still known to be good.
    fn verdict(&self, books: &Books<T>) -> Result<(), SwapError> {
        match books.entry(self.token.at).device.state {
            state @ (SlotState::Torn | SlotState::Poisoned | SlotState::Lost) => {
                Err(SwapError::BadCopy { name: self.token.spec.name().to_owned(), state })
            }
            _ => Ok(()),
        }
    }

    fn read_now(&self, into: &mut [u8]) -> Result<(), SwapError> {
        self.token.check_length(into.len())?;
        self.wait()?;
        let inner = &self.token.inner;
        let read = |bytes: &mut [u8]| inner.device.read_now(&inner.buffer, self.range.start, bytes);
        let done = match self.padding() {
            _ if into.is_empty() => Ok(()),
            0 => read(into),
            more => {
                let mut padded = vec![0; into.len() + more];
                read(&mut padded).map(|()| into.copy_from_slice(&padded[..into.len()]))
            }
        };
        done.map_err(|e| SwapError::device("read a tensor", e))
    }

    fn write_now(&mut self, data: &[u8]) -> Result<(), SwapError> {
        self.token.check_length(data.len())?;
        self.wait()?;
        let inner = &self.token.inner;
        let write = |bytes: &[u8]| inner.device.write_now(&mut inner.buffer.clone(), self.range.start, bytes);
        let done = match self.padding() {
            _ if data.is_empty() => Ok(()),
            0 => write(data),
            more => {
                let mut padded = data.to_vec();
                padded.resize(data.len() + more, 0);
                write(&padded)
            }
        };
        done.map_err(|e| SwapError::device("write a tensor", e))
    }

    /// Bytes between the tensor's end and its block's.
    fn padding(&self) -> usize {
        (self.range.end - self.range.start - self.token.spec.bytes()) as usize
    }

    fn download(&self, into: &mut [u8]) -> Result<(), SwapError> {
        self.token.check_length(into.len())?;
        let inner = &self.token.inner;
        self.order_lane(inner.device.lane(Lane::Download))?;
        let mut flight = Flight::new();
        let copied = self.download_pieces(&mut flight, into);
        let (landed, settled) = flight.finish();
        let mut books = inner.lock();
        if settled == Settled::No {
            books.wall(self.token.at);
        }
        copied.and(landed)?;
        books.counters.downloaded_bytes += self.range.end - self.range.start;
        books.reap();
        self.verdict(&books)
    }

    fn download_pieces(&self, flight: &mut Flight<T>, into: &mut [u8]) -> Result<(), SwapError> {
        let inner = &self.token.inner;
        let (mut asked, mut got, total) = (0u64, 0u64, into.len() as u64);
        let piece_at = |at: u64| inner.piece.min(total - at);
        while got < total {
            // Keep the lane busy: ask ahead as far as the flight and the ring allow without waiting.
            while asked < total && !flight.is_full() {
                let padded = piece_at(asked).next_multiple_of(inner.grain());
                let slice = match inner.staging.try_acquire(Lane::Download, padded as usize) {
                    Ok(slice) => slice,
                    Err(_) if asked > got => break,
                    Err(_) => inner.staging_slice(flight, Lane::Download, padded)?,
                };
                let started = Instant::now();
                let sent = inner.device.download(&inner.buffer, self.range.start + asked, slice);
                let sent = sent.inspect(|ticket| inner.meter_begin(ticket.event(), padded, started));
                flight.push(sent, "download")?;
                asked += piece_at(asked);
            }
            let Some(slice) = flight.pop_oldest()? else { break };
            let piece = piece_at(got);
            into[got as usize..(got + piece) as usize].copy_from_slice(&slice.as_slice()[..piece as usize]);
            got += piece;
        }
        Ok(())
    }

    fn upload(&mut self, data: &[u8]) -> Result<(), SwapError> {
        self.token.check_length(data.len())?;
        let inner = &self.token.inner;
        if let Err(error) = self.order_lane(inner.device.lane(Lane::Upload)) {
            if self.blank {
                inner.lock().spoil(self.token.at);
            }
            return Err(error);
        }
        let mut flight = Flight::new();
        let uploaded = self.upload_pieces(&mut flight, data);
        // Every piece has landed when this returns: the queue needs no event to be ordered behind them.
        let (landed, settled) = flight.finish();
        let result = uploaded.and(landed);
        let mut books = inner.lock();
        books.counters.uploaded_bytes += self.range.end - self.range.start;
        if settled == Settled::No {
            books.wall(self.token.at);
        }
        if let Err(error) = &result {
            books.note(error);
            books.spoil(self.token.at);
        }
        drop(books);
        self.blank &= result.is_err();
        result
    }

    fn upload_pieces(&self, flight: &mut Flight<T>, data: &[u8]) -> Result<(), SwapError> {
        let inner = &self.token.inner;
        let mut buffer = inner.buffer.clone();
        let mut at = self.range.start;
        for piece in data.chunks(inner.piece as usize) {
            let padded = (piece.len() as u64).next_multiple_of(inner.grain());
            let mut slice = inner.staging_slice(flight, Lane::Upload, padded)?;
            let started = Instant::now();
            slice.as_mut_slice()[..piece.len()].copy_from_slice(piece);
            inner.send(flight, slice, &mut buffer, at, started)?;
            at += padded;
        }
        Ok(())
    }

    /// Orders a lane behind the lease's queue, which is ordered behind everything that made the copy.
    fn order_lane(&self, lane: &T::Queue) -> Result<(), SwapError> {
        let inner = &self.token.inner;
        let recorded = inner.record(&mut inner.lock(), &self.queue);
        let ordered = recorded.and_then(|event| event.map_or(Ok(()), |event| lane.wait(&event)));
        ordered.map_err(|e| SwapError::device("order a copy behind a lease", e))
    }

    fn end(&mut self, event: Option<T::Event>) -> Result<(), SwapError> {
        self.ended = true;
        let inner = &*self.token.inner;
        let at = self.token.at;
        let mut books = inner.lock();
        let recorded = match event {
            Some(event) => {
                books.witness(&event);
                Ok(Some(event))
            }
            None if self.range.is_empty() => Ok(None),
            None => inner.record(&mut books, &self.queue),
        };
        match recorded {
            Ok(event) => {
                if let (Some(event), false) = (event, self.range.is_empty()) {
                    let access = if self.mode == Mode::Write { Access::Write } else { Access::Read };
                    books.hazards.after(&[(self.range.clone(), access)], &event);
                }
            }
            Err(error) => {
                // Nobody knows when the work ends, and what was written counts as torn.
                let error = SwapError::device("end a lease", error);
                books.note(&error);
                books.wall(at);
                if self.mode == Mode::Write {
                    books.spoil(at);
                }
            }
        }
        if let Some(block) = books.entry(at).device.block {
            let _ = books.arena.unlease(block);
        }
        let verdict = self.verdict(&books);
        inner.unclaim(&mut books, at, self.mode);
        verdict
    }
}

impl<T: Transfer> Drop for Hold<T> {
    fn drop(&mut self) {
        if !self.ended {
            // A bad copy is reported to the next who wants the tensor; `finish` reports it at once.
            let _ = self.end(None);
        }
    }
}

impl<T: Transfer> core::fmt::Debug for Hold<T> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Hold")
            .field("tensor", &self.token.spec.name())
            .field("mode", &self.mode)
            .field("range", &self.range)
            .finish_non_exhaustive()
    }
}

impl<T: Transfer> Inner<T> {
    /// Counts leases on all of `wanted`, or on none: waits, holding nothing, until no other lease is in the way and
    /// the arena has room for everything leased or pinned at once.
    fn claim<'a>(
        &'a self,
        mut books: Guard<'a, T>,
        wanted: &[(u32, Mode)],
        effort: Effort,
    ) -> Result<Guard<'a, T>, SwapError> {
        let arena = books.arena.stats().size;
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
                for &(at, mode) in wanted {
                    let entry = books.entry_mut(at);
                    let (held, padded) = (entry.held(), entry.padded);
                    match mode {
                        Mode::Read => entry.readers += 1,
                        Mode::Write => {
                            entry.writer = true;
                            books.writers.push(at);
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
    fn unclaim(&self, books: &mut Books<T>, at: u32, mode: Mode) {
        let entry = books.entry_mut(at);
        match mode {
            Mode::Read => entry.readers -= 1,
            Mode::Write => entry.writer = false,
        }
        if mode == Mode::Write {
            books.writers.retain(|&w| w != at);
        }
        let entry = books.entry(at);
        let (held, padded) = (entry.held(), entry.padded);
        books.held -= if held { 0 } else { padded };
        books.recover(at);
        self.wake(books);
    }

    /// Turns a claim into a lease: brings the tensor in, makes it a wall, and orders `queue` behind what made it.
    /// On an error the claim is given back.
    fn occupy<'a>(
        &'a self,
        books: Guard<'a, T>,
        (at, mode, want): (u32, Mode, Want),
        queue: &T::Queue,
        effort: Effort,
    ) -> (Guard<'a, T>, Result<Range<u64>, SwapError>) {
        let (mut books, found) = self.bring_in(books, at, want, effort);
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
                    if found != Found::Here {
                        books.counters.stall += effort.since.elapsed();
                    }
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
