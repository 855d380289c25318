//! Writing tensors to the lower tier: from their host copies, small ones packed into one extent, or straight from the device
//! where host memory cannot take them in between.
//!
//! A spill is begun under the lock, where its victims are chosen, and carried out by a thread of the pool without it.

use crate::{
    SlotState, SwapError, TensorSpec,
    books::Books,
    device::{Device, DeviceIndex, Spot},
    entry::{Busy, Entry},
    flight::{DEPTH, Flight, Settled},
    lower::{Lower, LowerCopy, Piece, Writing},
    observe::{Io, Kind, Reason},
    pool::Inner,
};
use core::ops::Range;
use pinned_host::{Access, Lane, SliceOf, Transfer};
use std::{collections::VecDeque, sync::Arc, time::Instant};

/// Which copy of a tensor is being written to the lower tier.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Spill {
    /// None.
    #[default]
    No,
    /// The host's, whose memory is wanted. The tensor is busy meanwhile.
    Host,
    /// That on a device. The tensor can be read meanwhile, not written.
    Device(DeviceIndex),
}

/// What becomes of a device copy once it was written to a lower tier.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Then {
    /// Its room is given back, unless somebody uses the tensor first.
    Leave,
    /// It stays: another device wants the tensor.
    Stay,
}

/// Tensors that are written to the lower tier together.
pub(crate) enum Batch {
    /// The host copies of one or of several small ones.
    Host(Vec<u32>),
    /// The device copy of one.
    Device(Spot),
}

impl<T: Transfer> Inner<T> {
    /// Begins to write the coldest host copy that nothing else holds to the lower tier, with others if it is small.
    /// `false`: there is no lower tier, or no such copy.
    pub(crate) fn spill_host(&self, books: &mut Books<T>) -> bool {
        if self.lower.is_none() {
            return false;
        }
        // What is packed is read through staging in one piece.
        let batch = books.next_to_spill(SMALL.min(self.piece / 2));
        if batch.is_empty() {
            return false;
        }
        batch.iter().for_each(|&at| books.begin_host_spill(at));
        let Err(back) = self.send_out(Batch::Host(batch)) else { return true };
        if let Batch::Host(batch) = back {
            for at in batch {
                books.end_host_spill(at);
                books.entry_mut(at).disk.give_up();
            }
        }
        false
    }

    /// Begins to write a device copy that nobody writes to to the lower tier. `false`: there is no lower tier.
    pub(crate) fn spill_device(&self, books: &mut Books<T>, spot: Spot, then: Then) -> bool {
        let (Some(block), true) = (books.slot(spot).block, self.lower.is_some()) else { return false };
        let arena = &mut books.devices[spot.on].arena;
        if books.entries[spot.at as usize].spill != Spill::No || arena.lease(block).is_err() {
            return false;
        }
        let number = books.begin();
        let entry = books.entry_mut(spot.at);
        (entry.spill, entry.spill_number) = (Spill::Device(spot.on), number);
        entry.disk.begin();
        if then == Then::Leave {
            books.leave(spot);
        }
        books.spills += 1;
        if self.send_out(Batch::Device(spot)).is_ok() {
            return true;
        }
        books.stay(spot);
        books.end_device_spill(spot);
        books.entry_mut(spot.at).disk.give_up();
        false
    }

    fn send_out(&self, batch: Batch) -> Result<(), Batch> {
        match self.me.upgrade() {
            Some(me) => self.movers.spill(&me, batch),
            None => Err(batch),
        }
    }

    /// Carries a spill out.
    pub(crate) fn spill_now(&self, batch: Batch) {
        let Some(lower) = &self.lower else { return };
        match batch {
            Batch::Host(batch) => match batch[..] {
                [at] => self.write_host(lower, at),
                _ => {
                    self.write_pack(lower, &batch);
                    lower.tidy();
                }
            },
            Batch::Device(spot) => self.write_device(lower, spot),
        }
    }

    fn write_host(&self, lower: &Lower, at: u32) {
        let mut books = self.lock();
        let (version, spec) = (books.entry(at).version, Arc::clone(&books.entry(at).spec));
        let slice = books.entry_mut(at).host.slice.take();
        drop(books);
        let Some(slice) = slice else { return };
        let bytes = spec.bytes();
        let mut back = None;
        let written = self.probe().io(Kind::DiskWrite, &spec, bytes, || {
            let (slice, written) = lower.write::<T>(slice, bytes, self.piece);
            back = slice;
            written
        });
        let mut books = self.lock();
        let entry = books.entry_mut(at);
        entry.host.slice = back;
        self.end_host_write(&mut books, (at, version), written);
        self.wake(&books);
    }

    fn write_pack(&self, lower: &Lower, batch: &[u32]) {
        let mut books = self.lock();
        // In whose name the write goes to who listens.
        let Some(first) = batch.first().map(|&at| Arc::clone(&books.entry(at).spec)) else { return };
        let mut slices: Vec<((u32, u64), u64, SliceOf<T>)> = Vec::with_capacity(batch.len());
        for &at in batch {
            let bytes = books.entry(at).spec.bytes();
            let version = books.entry(at).version;
            slices.extend(books.entry_mut(at).host.slice.take().map(|slice| ((at, version), bytes, slice)));
        }
        drop(books);
        let contents: Vec<_> =
            slices.iter().map(|(_, bytes, slice)| &slice.as_slice()[..*bytes as usize]).collect();
        let total = contents.iter().map(|bytes| bytes.len() as u64).sum();
        let written = self.probe().io(Kind::DiskWrite, &first, total, || lower.write_pack(&contents));
        let mut copies = match written {
            Ok(copies) => Ok(copies.into_iter()),
            Err(error) => Err(Some(error)),
        };
        let mut books = self.lock();
        for ((at, version), _, slice) in slices {
            books.entry_mut(at).host.slice = Some(slice);
            let written = match &mut copies {
                Ok(copies) => copies.next().ok_or_else(|| books.entry(at).no_valid_copy()),
                // The first is told why, and through it whoever waits.
                Err(error) => Err(error.take().unwrap_or_else(|| books.entry(at).no_valid_copy())),
            };
            self.end_host_write(&mut books, (at, version), written);
        }
        self.wake(&books);
    }

    fn end_host_write(
        &self,
        books: &mut Books<T>,
        (at, version): (u32, u64),
        written: Result<LowerCopy, SwapError>,
    ) {
        books.end_host_spill(at);
        match written {
            Ok(copy) => {
                let bytes = books.entry(at).spec.bytes();
                let entry = books.entry_mut(at);
                let current = entry.version == version;
                entry.disk.publish(copy, current);
                books.twinned(at);
                let entry = books.entry(at);
                // What it was written for: its memory. The copy that is left is as good.
                if entry.host.state == SlotState::Valid && current {
                    books.drop_host_copy(at);
                }
                books.tell_disk(at);
                books.counters.spills += 1;
                books.counters.disk_written_bytes += bytes;
            }
            Err(error) => {
                books.entry_mut(at).disk.give_up();
                books.fail(None, error);
            }
        }
        books.dispose_if_done(at);
    }

    fn write_device(&self, lower: &Lower, spot: Spot) {
        let Spot { at, on } = spot;
        let mut books = self.lock();
        let (version, spec) = (books.entry(at).version, Arc::clone(&books.entry(at).spec));
        let lane = self.on(on).transfer.lane(Lane::Download);
        let begun = books.range(spot).and_then(|range| {
            let reading = (lane, range.clone(), Access::Read);
            self.order_one(&mut books, on, reading, "order a write-back")?;
            Ok(range)
        });
        drop(books);
        let (written, settled) = match begun {
            Ok(range) => self.send_pieces(lower, &spec, on, range),
            Err(error) => (Err(error), Settled::Yes),
        };
        let mut books = self.lock();
        // What the copies read had been written before they ran: by now that is known to be good or bad.
        books.reap_changes(on);
        if settled == Settled::Yes {
            books.end_device_spill(spot);
        } else {
            books.end_spill(at); // the block stays a wall
            books.slot_mut(spot).stuck = true;
        }
        let leaving = books.slot(spot).leaving;
        books.stay(spot);
        match written {
            Ok(copy) => {
                let good = books.slot(spot).state == SlotState::Valid && books.entry(at).version == version;
                let disk = &mut books.entry_mut(at).disk;
                match good {
                    true => disk.publish(copy, true),
                    false => disk.give_up(),
                }
                books.twinned(at);
                books.tell_disk(at);
                books.counters.spills += 1;
                books.counters.disk_written_bytes += spec.bytes();
                books.devices[on].counters.downloaded_bytes += books.entry(at).padded;
                if leaving
                    && good
                    && books.entry(at).is_idle_on(on)
                    && books.entry(at).jobs == 0
                    && books.release_device(spot)
                {
                    books.count_eviction(spot, Reason::WrittenBack);
                }
            }
            Err(error) => {
                books.entry_mut(at).disk.give_up();
                books.note(on, &error);
                books.fail(Some(on), error);
            }
        }
        books.recover(spot);
        books.drop_stale(at);
        books.dispose_if_done(at);
        self.wake(&books);
    }

    /// Device → staging → lower tier, a few pieces in flight each way. Whether the device has ended with all of them, too.
    fn send_pieces(
        &self,
        lower: &Lower,
        spec: &Arc<TensorSpec>,
        on: DeviceIndex,
        range: Range<u64>,
    ) -> (Result<LowerCopy, SwapError>, Settled) {
        let bytes = spec.bytes();
        let mut flight = Flight::new();
        let mut writes: VecDeque<Write<T>> = VecDeque::with_capacity(DEPTH);
        let mut pieces = Vec::with_capacity(bytes.div_ceil(self.piece) as usize);
        let sent = self.send_each(lower, &mut flight, &mut writes, &mut pieces, (spec, on, range));
        let (landed, settled) = flight.finish();
        let mut result = sent.and(landed);
        for (io, bytes, write) in writes {
            match io.end(spec, bytes, || write.wait().0) {
                Ok(piece) => pieces.push(piece),
                Err(error) => result = result.and(Err(error)),
            }
        }
        (result.map(|()| lower.copy(pieces)), settled)
    }

    fn send_each(
        &self,
        lower: &Lower,
        flight: &mut Flight<T>,
        writes: &mut VecDeque<Write<T>>,
        pieces: &mut Vec<Piece>,
        (spec, on, range): (&Arc<TensorSpec>, DeviceIndex, Range<u64>),
    ) -> Result<(), SwapError> {
        let Device { transfer, buffer, probe, .. } = self.on(on);
        let bytes = spec.bytes();
        let (mut asked, mut taken) = (0, 0);
        while taken < bytes {
            while asked < bytes && !flight.is_full() && flight.len() + writes.len() < 2 * DEPTH {
                let piece = self.piece.min(bytes - asked).next_multiple_of(self.grain);
                let nothing_comes_back = flight.is_empty() && writes.is_empty();
                let slice = match self.staging.try_acquire(Lane::Download, piece as usize) {
                    Ok(slice) => slice,
                    Err(_) if !nothing_comes_back => break,
                    Err(_) => self.staging_slice(flight, Lane::Download, piece)?,
                };
                let started = Instant::now();
                let sent = transfer.download(buffer, range.start + asked, slice).map(|ticket| {
                    let counted = probe.transfer(Kind::Download, spec, piece, (ticket.event(), started));
                    (ticket, counted)
                });
                flight.push(sent, "write a tensor back")?;
                asked += self.piece.min(bytes - asked);
            }
            match flight.pop_oldest()? {
                Some(slice) => {
                    let piece = self.piece.min(bytes - taken);
                    let io = probe.begin_io(Kind::DiskWrite);
                    writes.push_back((io, piece, lower.write_piece(slice, piece)?));
                    taken += piece;
                }
                None => {
                    // All of staging is with the writes.
                    let Some((io, bytes, write)) = writes.pop_front() else { break };
                    pieces.push(io.end(spec, bytes, || write.wait().0)?);
                }
            }
            while writes.len() > DEPTH {
                let Some((io, bytes, write)) = writes.pop_front() else { break };
                pieces.push(io.end(spec, bytes, || write.wait().0)?);
            }
        }
        Ok(())
    }
}

impl<T: Transfer> Books<T> {
    fn begin_host_spill(&mut self, at: u32) {
        let number = self.begin();
        let entry = self.entry_mut(at);
        (entry.spill, entry.spill_number) = (Spill::Host, number);
        entry.busy = Busy::Host;
        entry.disk.begin();
        let padded = entry.padded;
        self.spills += 1;
        self.spilling += padded;
    }

    fn end_host_spill(&mut self, at: u32) {
        self.end_spill(at);
        let entry = self.entry_mut(at);
        entry.busy = Busy::No;
        let padded = entry.padded;
        self.spilling -= padded;
    }

    fn end_spill(&mut self, at: u32) {
        let entry = self.entry_mut(at);
        entry.spill = Spill::No;
        self.spills -= 1;
    }

    /// How many tensors are being written to the lower tier since before number `end`. O(tensors).
    pub(crate) fn spills_before(&self, end: u64) -> usize {
        let before = |entry: &&Entry<T>| entry.spill != Spill::No && entry.spill_number < end;
        if self.spills == 0 { 0 } else { self.entries.iter().filter(before).count() }
    }

    fn end_device_spill(&mut self, spot: Spot) {
        self.end_spill(spot.at);
        if let Some(block) = self.slot(spot).block {
            let _ = self.devices[spot.on].arena.unlease(block);
        }
    }
}

/// A piece on its way to the lower tier, and its bytes.
type Write<T> = (Io<<T as Transfer>::Event>, u64, Writing<T>);

/// Tensors smaller than this are packed with others.
const SMALL: u64 = 256 << 10;

#[cfg(all(test, feature = "cpu"))]
#[allow(clippy::unwrap_used, reason = "a test that cannot go on should stop where it stands")]
mod tests {
    use crate::{DType, SwapPool, Tensor, TensorSpec};
    use backend_cpu::CpuDevice;
    use std::time::Duration;

    fn two(host: u64) -> (SwapPool<CpuDevice>, [Tensor<CpuDevice>; 2]) {
        let builder = SwapPool::builder(CpuDevice::new().unwrap()).device_memory(1 << 16);
        let pool = builder.host_memory(host).build().unwrap();
        let make = |name| pool.create(TensorSpec::new(name, DType::U8, [64]).unwrap(), &[1; 64]).unwrap();
        let tensors = [make("a"), make("b")];
        (pool, tensors)
    }

    /// A spill that nobody carries out, and its end.
    fn end(pool: &SwapPool<CpuDevice>, at: u32) {
        let mut books = pool.inner.lock();
        books.end_host_spill(at);
        books.entry_mut(at).disk.give_up();
        pool.inner.wake(&books);
    }

    #[test]
    fn writes_are_told_apart_by_when_they_began_and_not_by_the_tensor() {
        let (pool, [a, b]) = two(1 << 16);
        let mut books = pool.inner.lock();
        books.begin_host_spill(a.at());
        let now = books.begun;
        books.begin_host_spill(b.at());
        assert_eq!((books.spills_before(now), books.spills_before(books.begun)), (1, 2));
        drop(books);
        end(&pool, a.at());
        pool.inner.lock().begin_host_spill(a.at());
        assert_eq!(pool.inner.lock().spills_before(now), 0, "another write of the same");
        end(&pool, a.at());
        let at = a.at();
        drop(a);
        let c = pool.create(TensorSpec::new("c", DType::U8, [64]).unwrap(), &[1; 64]).unwrap();
        assert_eq!(c.at(), at, "the number is used again");
        pool.inner.lock().begin_host_spill(at);
        assert_eq!(pool.inner.lock().spills_before(now), 0, "a write of another tensor");
        end(&pool, at);
        end(&pool, b.at());
    }

    #[test]
    fn settling_waits_for_what_is_being_written_and_not_for_what_comes_then() {
        let (pool, [a, b]) = two(1 << 16);
        pool.inner.lock().begin_host_spill(a.at());
        let (settled, ended) = std::sync::mpsc::channel();
        let waiting = SwapPool::clone(&pool);
        let thread = std::thread::spawn(move || settled.send(waiting.settle()));
        while pool.inner.lock().sleepers == 0 {
            std::thread::yield_now();
        }
        pool.inner.lock().begin_host_spill(b.at());
        assert!(ended.try_recv().is_err(), "`a` is being written");
        end(&pool, a.at());
        ended.recv_timeout(Duration::from_secs(20)).expect("it does not wait for `b`").unwrap();
        thread.join().unwrap().unwrap();
        end(&pool, b.at());
    }
}
