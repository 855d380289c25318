//! What a lease holds, and what can be done under it.

use crate::{
    SlotState, SwapError,
    books::Books,
    claim::Claim,
    device::{Device, DeviceIndex, Spot},
    fill::Want,
    flight::{Flight, Settled},
    lease::Mode,
    leases::LeaseId,
    observe::{Kind, Step},
    room::{Effort, Why},
    tensor::Token,
};
use core::ops::Range;
use pinned_host::{Access, Event, Lane, Queue, QueueError, Transfer};
use std::{panic::Location, sync::Arc, time::Instant};

/// A lease of either kind.
pub(crate) struct Hold<T: Transfer> {
    pub(crate) token: Arc<Token<T>>,
    pub(crate) on: DeviceIndex,
    pub(crate) mode: Mode,
    pub(crate) queue: T::Queue,
    /// The whole block, padding included.
    pub(crate) range: Range<u64>,
    id: LeaseId,
    /// The contents are unspecified, and nothing has been written yet.
    pub(crate) blank: bool,
    pub(crate) ended: bool,
}

impl<T: Transfer> Hold<T> {
    /// Takes a lease. Without a queue it is tied to the device's own.
    pub(crate) fn take(
        token: &Arc<Token<T>>,
        on: DeviceIndex,
        (mode, want): (Mode, Want),
        queue: Option<&T::Queue>,
        place: &'static Location<'static>,
    ) -> Result<Self, SwapError> {
        let inner = &token.inner;
        inner.check_device(on)?;
        let Device { probe, queue: own, .. } = inner.on(on);
        let _span = probe.enter(Step::Lease, token.spec.name(), token.spec.bytes());
        let since = Instant::now();
        let effort = Effort { wait_until: Some(since + inner.deadline), since, why: Why::Lease };
        let claim = Claim { spot: Spot { at: token.at, on }, mode, want, queue: queue.unwrap_or(own) };
        let books = inner.claim(inner.lock(), &[claim], effort)?;
        let (mut books, range) = inner.occupy(books, claim, effort);
        Ok(Hold::open(&mut books, token, claim, range?, place))
    }

    /// A lease that was just given.
    pub(crate) fn open(
        books: &mut Books<T>,
        token: &Arc<Token<T>>,
        claim: Claim<'_, T>,
        range: Range<u64>,
        place: &'static Location<'static>,
    ) -> Self {
        let Claim { spot: Spot { on, .. }, mode, want, queue } = claim;
        let id = books.open.open(&token.spec, (mode, on), Instant::now(), place);
        let (token, queue) = (Arc::clone(token), queue.clone());
        Hold { token, on, mode, queue, range, id, blank: want == Want::Room, ended: false }
    }

    fn spot(&self) -> Spot {
        Spot { at: self.token.at, on: self.on }
    }

    /// The device it is on.
    fn device(&self) -> &Device<T> {
        self.token.inner.on(self.on)
    }

    /// An event behind everything on the lease's queue, as [`Inner::record`](crate::pool::Inner::record) has it.
    fn record(&self) -> Result<Option<T::Event>, QueueError<T::Queue>> {
        let inner = &self.token.inner;
        inner.record(&mut inner.lock(), self.on, &self.queue)
    }

    pub(crate) fn wait(&self) -> Result<(), SwapError> {
        let since = Instant::now();
        let inner = &self.token.inner;
        let waited = self.record().and_then(|event| event.map_or(Ok(()), |event| event.synchronize()));
        let mut books = inner.lock();
        books.counters.stall += since.elapsed();
        self.device().probe.stalled(&self.token.spec, since);
        books.reap();
        self.verdict(&books)?;
        waited.map_err(|error| books.noted(self.on, SwapError::device("wait for a lease", error)))
    }

    /// Whether the copy that was leased is still known to be good.
    fn verdict(&self, books: &Books<T>) -> Result<(), SwapError> {
        match books.slot(self.spot()).state {
            state @ (SlotState::Torn | SlotState::Poisoned | SlotState::Lost) => {
                Err(SwapError::BadCopy { name: self.token.spec.name().to_owned(), state })
            }
            _ => Ok(()),
        }
    }

    pub(crate) fn read_now(&self, into: &mut [u8]) -> Result<(), SwapError> {
        self.token.check_length(into.len())?;
        self.wait()?;
        let Device { transfer, buffer, .. } = self.device();
        let read = |bytes: &mut [u8]| transfer.read_now(buffer, self.range.start, bytes);
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

    pub(crate) fn write_now(&mut self, data: &[u8]) -> Result<(), SwapError> {
        self.token.check_length(data.len())?;
        self.wait()?;
        let Device { transfer, buffer, .. } = self.device();
        let write = |bytes: &[u8]| transfer.write_now(&mut buffer.clone(), self.range.start, bytes);
        let done = match self.padding() {
            _ if data.is_empty() => Ok(()),
            0 => write(data),
            more => {
                let mut padded = data.to_vec();
                padded.resize(data.len() + more, 0);
                write(&padded)
            }
        };
        self.blank &= done.is_err();
        done.map_err(|e| SwapError::device("write a tensor", e))
    }

    /// Bytes between the tensor's end and its block's.
    fn padding(&self) -> usize {
        (self.range.end - self.range.start - self.token.spec.bytes()) as usize
    }

    pub(crate) fn download(&self, into: &mut [u8]) -> Result<(), SwapError> {
        self.token.check_length(into.len())?;
        let Device { transfer, probe, .. } = self.device();
        self.order_lane(transfer.lane(Lane::Download))?;
        let mut flight = Flight::new();
        let copied = self.download_pieces(&mut flight, into);
        let (landed, settled) = flight.finish();
        let mut books = self.token.inner.lock();
        if settled == Settled::No {
            books.wall(self.spot());
        }
        let failed = |error: &SwapError| probe.failed(Kind::Download, &self.token.spec, error);
        copied.and(landed).inspect_err(failed)?;
        books.devices[self.on].counters.downloaded_bytes += self.range.end - self.range.start;
        books.reap();
        self.verdict(&books)
    }

    fn download_pieces(&self, flight: &mut Flight<T>, into: &mut [u8]) -> Result<(), SwapError> {
        let inner = &self.token.inner;
        let Device { transfer, buffer, probe, .. } = self.device();
        let (mut asked, mut got, total) = (0u64, 0u64, into.len() as u64);
        let piece_at = |at: u64| inner.piece.min(total - at);
        while got < total {
            // Keep the lane busy: ask ahead as far as the flight and the ring allow without waiting.
            while asked < total && !flight.is_full() {
                let padded = piece_at(asked).next_multiple_of(inner.grain);
                let slice = match inner.staging.try_acquire(Lane::Download, padded as usize) {
                    Ok(slice) => slice,
                    Err(_) if asked > got => break,
                    Err(_) => inner.staging_slice(flight, Lane::Download, padded)?,
                };
                let started = Instant::now();
                let sent = transfer.download(buffer, self.range.start + asked, slice);
                let sent = sent.map(|ticket| {
                    let told = (ticket.event(), started);
                    let counted = probe.transfer(Kind::Download, &self.token.spec, padded, told);
                    (ticket, counted)
                });
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

    pub(crate) fn upload(&mut self, data: &[u8]) -> Result<(), SwapError> {
        self.token.check_length(data.len())?;
        let (inner, spot) = (&self.token.inner, self.spot());
        if let Err(error) = self.order_lane(self.device().transfer.lane(Lane::Upload)) {
            if self.blank {
                inner.lock().spoil(spot);
            }
            return Err(error);
        }
        let mut flight = Flight::new();
        let uploaded = self.upload_pieces(&mut flight, data);
        let changed = flight.was_used() || self.blank;
        // Every piece has landed when this returns: the queue needs no event to be ordered behind them.
        let (landed, settled) = flight.finish();
        let result = uploaded.and(landed);
        let mut books = inner.lock();
        books.devices[self.on].counters.uploaded_bytes += self.range.end - self.range.start;
        if settled == Settled::No {
            books.wall(spot);
        }
        if let Err(error) = &result {
            self.device().probe.failed(Kind::Upload, &self.token.spec, error);
            books.note(self.on, error);
            if changed {
                books.spoil(spot);
            }
        }
        drop(books);
        self.blank &= result.is_err();
        result
    }

    fn upload_pieces(&self, flight: &mut Flight<T>, data: &[u8]) -> Result<(), SwapError> {
        let inner = &self.token.inner;
        let mut buffer = self.device().buffer.clone();
        let mut at = self.range.start;
        for piece in data.chunks(inner.piece as usize) {
            let padded = (piece.len() as u64).next_multiple_of(inner.grain);
            let mut slice = inner.staging_slice(flight, Lane::Upload, padded)?;
            let started = Instant::now();
            slice.as_mut_slice()[..piece.len()].copy_from_slice(piece);
            inner.send(&self.token.spec, flight, slice, (self.on, &mut buffer, at), started)?;
            at += padded;
        }
        Ok(())
    }

    /// Orders a lane behind the lease's queue, which is ordered behind everything that made the copy.
    fn order_lane(&self, lane: &T::Queue) -> Result<(), SwapError> {
        let ordered = self.record().and_then(|event| event.map_or(Ok(()), |event| lane.wait(&event)));
        ordered.map_err(|e| SwapError::device("order a copy behind a lease", e))
    }

    pub(crate) fn end(&mut self, event: Option<T::Event>) -> Result<(), SwapError> {
        self.ended = true;
        let inner = &*self.token.inner;
        let spot = self.spot();
        let mut books = inner.lock();
        books.open.close(self.id);
        let mut refused = None;
        let recorded = match event {
            // The queue must understand the event, or nobody could wait for it later.
            Some(event) => match self.queue.wait(&event) {
                Ok(()) => {
                    books.witness(self.on, &event, &self.queue);
                    self.blank = false;
                    Ok(Some(event))
                }
                Err(error) => {
                    refused = Some(SwapError::device("end a lease with an event", error));
                    inner.record(&mut books, self.on, &self.queue)
                }
            },
            None if self.range.is_empty() => Ok(None),
            None => inner.record(&mut books, self.on, &self.queue),
        };
        if self.blank {
            books.spoil(spot); // nothing that this crate knows of was written
        }
        match recorded {
            Ok(event) => {
                if let (Some(event), false) = (event, self.range.is_empty()) {
                    let access = if self.mode == Mode::Write { Access::Write } else { Access::Read };
                    books.devices[self.on].hazards.after(&[(self.range.clone(), access)], &event);
                }
            }
            Err(error) => {
                // Nobody knows when the work ends, and what was written counts as torn.
                books.note(self.on, &SwapError::device("end a lease", error));
                books.wall(spot);
                if self.mode == Mode::Write {
                    books.spoil(spot);
                }
            }
        }
        if let Some(block) = books.slot(spot).block {
            let _ = books.devices[self.on].arena.unlease(block);
        }
        let verdict = self.verdict(&books);
        inner.unclaim(&mut books, spot, self.mode);
        refused.map_or(verdict, Err)
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
            .field("device", &self.on)
            .field("mode", &self.mode)
            .field("range", &self.range)
            .finish_non_exhaustive()
    }
}
