//! Filling a device copy from what lies below host memory: an attached file, or a lower tier. Only here, and where tensors are
//! written out, is the lock dropped for I/O; the block is a wall meanwhile.

use crate::{
    SlotState, SwapError, TensorSpec,
    books::Books,
    device::{Device, DeviceIndex, Spot},
    file::FileCopy,
    flight::{DEPTH, Flight, Settled},
    host_memory::PAGE,
    lock::Guard,
    lower::{LowerCopy, Reading},
    observe::{Io, Kind},
    pool::Inner,
};
use core::ops::Range;
use pinned_host::{Access, Lane, Transfer};
use std::{collections::VecDeque, sync::Arc, time::Instant};

/// What a copy is made from.
enum Source {
    File(FileCopy),
    Lower(LowerCopy),
}

impl<T: Transfer> Inner<T> {
    /// Reads the best copy below the host's through staging. `Ok` with the slot Absent: that copy was bad, or is old by now;
    /// another may be good.
    pub(crate) fn fill_from_below<'a>(
        &'a self,
        mut books: Guard<'a, T>,
        spot: Spot,
    ) -> (Guard<'a, T>, Result<(), SwapError>) {
        let begun = self.begin_fill(&mut books, spot);
        let (source, range) = match begun {
            Ok(begun) => begun,
            Err(error) => {
                if books.slot(spot).state == SlotState::Reserved {
                    books.release_device(spot);
                }
                return (books, Err(error));
            }
        };
        books.slot_mut(spot).state.step(SlotState::Filling);
        let (spec, version) = (books.entry(spot.at).spec.clone(), books.entry(spot.at).version);
        drop(books);
        let copied = match &source {
            Source::File(file) => self.copy_file(file, &spec, spot.on, range),
            Source::Lower(copy) => {
                // From now on: however long the room took, the disk has its own time.
                let until = Instant::now() + self.patience;
                let copied = self.copy_lower(copy, &spec, (spot.on, range.clone()), until);
                match copied {
                    // The copy may be good and the way up was not: once more.
                    Err((SwapError::Corrupt { .. }, Settled::Yes)) => {
                        self.copy_lower(copy, &spec, (spot.on, range), until)
                    }
                    other => other,
                }
            }
        };
        let mut books = self.lock();
        let read = match source {
            Source::File(_) => &mut books.counters.file_bytes,
            Source::Lower(_) => &mut books.counters.disk_read_bytes,
        };
        *read += spec.bytes();
        let filled = self.end_fill(&mut books, spot, version, copied);
        (books, filled)
    }

    /// Orders the lane behind every use of the room, and makes it a wall.
    fn begin_fill(&self, books: &mut Books<T>, spot: Spot) -> Result<(Source, Range<u64>), SwapError> {
        let range = books.range(spot)?;
        let lane = self.on(spot.on).transfer.lane(Lane::Upload);
        self.order_one(books, spot.on, (lane, range.clone(), Access::Write), "order an upload")?;
        let entry = books.entry(spot.at);
        let source = match (entry.disk.copy(), &entry.file) {
            (Some(copy), _) => Source::Lower(copy.clone()),
            (None, Some(file)) if entry.file_is_valid() => Source::File(file.clone()),
            _ => return Err(entry.no_valid_copy()),
        };
        let Some(block) = books.slot(spot).block else { return Err(entry.no_valid_copy()) };
        books.devices[spot.on].arena.lease(block)?;
        Ok((source, range))
    }

    fn end_fill(
        &self,
        books: &mut Books<T>,
        spot: Spot,
        version: u64,
        copied: Result<u64, (SwapError, Settled)>,
    ) -> Result<(), SwapError> {
        let Spot { at, on } = spot;
        let Some(block) = books.slot(spot).block else { return Err(self.lost(on)) };
        let settled = !matches!(copied, Err((_, Settled::No)));
        if settled {
            // The copies have ended: the block is an ordinary one again.
            let _ = books.devices[on].arena.unlease(block);
        }
        // Another device may have written the tensor meanwhile.
        let current = books.entry(at).version == version;
        let slot = books.slot_mut(spot);
        match copied {
            Ok(uploaded) => {
                if slot.state == SlotState::Filling {
                    slot.state.step(if current { SlotState::Valid } else { SlotState::Stale });
                }
                books.twinned(at);
                books.drop_stale(at);
                books.devices[on].counters.uploaded_bytes += uploaded;
                Ok(())
            }
            Err((error, _)) => {
                if settled && slot.state == SlotState::Filling {
                    books.release_device(spot);
                } else if slot.state == SlotState::Filling {
                    slot.state.step(SlotState::Torn);
                }
                if matches!(error, SwapError::Device { .. }) {
                    self.on(on).probe.failed(Kind::Upload, &books.entry(at).spec, &error);
                    books.note(on, &error);
                }
                if matches!(error, SwapError::Corrupt { .. }) {
                    books.counters.corrupt_reads += 1;
                    let entry = books.entry_mut(at);
                    if current {
                        entry.disk.poison();
                    }
                    if settled && entry.has_source(on) {
                        return Ok(());
                    }
                }
                Err(error)
            }
        }
    }

    /// File → staging → device in pieces, a few in flight. Returns when every piece has landed, with the bytes uploaded.
    fn copy_file(
        &self,
        file: &FileCopy,
        spec: &Arc<TensorSpec>,
        on: DeviceIndex,
        range: Range<u64>,
    ) -> Result<u64, (SwapError, Settled)> {
        let Device { buffer, probe, .. } = self.on(on);
        let unchanged = || {
            let checked = file.file.check_unchanged();
            checked.inspect_err(|error| probe.failed(Kind::FileRead, spec, error))
        };
        unchanged().map_err(|error| (error, Settled::Yes))?;
        let mut flight = Flight::new();
        let mut buffer = buffer.clone();
        let (mut done, bytes) = (0, spec.bytes());
        while done < bytes {
            let piece = self.piece.min(bytes - done);
            let padded = piece.next_multiple_of(self.grain);
            let step = self.staging_slice(&mut flight, Lane::Upload, padded).and_then(|mut slice| {
                let into = &mut slice.as_mut_slice()[..piece as usize];
                let read = || file.file.read_exact_at(into, file.offset + done);
                probe.io(Kind::FileRead, spec, piece, read)?;
                self.send(spec, &mut flight, slice, (on, &mut buffer, range.start + done), Instant::now())
            });
            if let Err(error) = step {
                return Err((error, flight.finish().1));
            }
            done += piece;
        }
        let (landed, settled) = flight.finish();
        // A file that changed under the reads may have given pieces of two.
        let unchanged = landed.and_then(|()| unchanged());
        unchanged.map(|()| bytes.next_multiple_of(self.grain)).map_err(|error| (error, settled))
    }

    /// Lower tier → staging → `into`. Once more if a checksum does not hold.
    pub(crate) fn read_lower(
        &self,
        copy: &LowerCopy,
        spec: &Arc<TensorSpec>,
        into: &mut [u8],
    ) -> Result<(), SwapError> {
        let until = Instant::now() + self.patience;
        let read = match self.read_pieces(copy, spec, into, until) {
            Err(SwapError::Corrupt { .. }) => self.read_pieces(copy, spec, into, until),
            other => other,
        };
        let mut books = self.lock();
        books.counters.disk_read_bytes += into.len() as u64;
        books.counters.corrupt_reads += u64::from(matches!(read, Err(SwapError::Corrupt { .. })));
        read
    }

    /// Staging for one piece of the lower tier: all of it but the page that keeps it registered.
    fn longest_read(&self) -> usize {
        self.staging.max_slice(Lane::Upload) - PAGE as usize
    }

    fn read_pieces(
        &self,
        copy: &LowerCopy,
        spec: &Arc<TensorSpec>,
        into: &mut [u8],
        until: Instant,
    ) -> Result<(), SwapError> {
        let most = self.longest_read();
        let mut rest = into;
        for piece in copy.pieces() {
            let slice = self.staging_slice(
                &mut Flight::new(),
                Lane::Upload,
                piece.buffer_bytes(most, self.grain) as u64,
            )?;
            let read = || piece.read::<T>(slice).wait(until, spec.name());
            let (slice, bytes) = self.probe().io(Kind::DiskRead, spec, piece.bytes(), read)?;
            let (here, after) = rest.split_at_mut(bytes.min(rest.len()));
            here.copy_from_slice(&slice.as_slice()[..here.len()]);
            rest = after;
        }
        Ok(())
    }

    /// Lower tier → staging → device, reading ahead as far as staging allows. Returns when every piece has landed.
    fn copy_lower(
        &self,
        copy: &LowerCopy,
        spec: &Arc<TensorSpec>,
        to: (DeviceIndex, Range<u64>),
        until: Instant,
    ) -> Result<u64, (SwapError, Settled)> {
        let mut flight = Flight::new();
        let copied = self.copy_pieces(&mut flight, copy, spec, to, until);
        let (landed, settled) = flight.finish();
        copied.and_then(|bytes| landed.map(|()| bytes)).map_err(|error| (error, settled))
    }

    fn copy_pieces(
        &self,
        flight: &mut Flight<T>,
        copy: &LowerCopy,
        spec: &Arc<TensorSpec>,
        (on, range): (DeviceIndex, Range<u64>),
        until: Instant,
    ) -> Result<u64, SwapError> {
        let most = self.longest_read();
        let Device { buffer, probe, .. } = self.on(on);
        let mut buffer = buffer.clone();
        let mut pieces = copy.pieces().iter();
        let mut reads: VecDeque<(Io<T::Event>, u64, Reading<T>)> = VecDeque::with_capacity(DEPTH);
        let mut at = range.start;
        loop {
            while reads.len() < DEPTH {
                let Some(piece) = pieces.as_slice().first() else { break };
                let wanted = piece.buffer_bytes(most, self.grain);
                let slice = match self.staging.try_acquire(Lane::Upload, wanted) {
                    Ok(slice) => slice,
                    Err(_) if !reads.is_empty() => break,
                    Err(_) => self.staging_slice(flight, Lane::Upload, wanted as u64)?,
                };
                reads.push_back((probe.begin_io(Kind::DiskRead), piece.bytes(), piece.read(slice)));
                pieces.next();
            }
            let Some(read) = reads.pop_front() else { return Ok(at - range.start) };
            let started = Instant::now();
            let (io, length, read) = read;
            let (mut slice, bytes) = io.end(spec, length, || read.wait(until, spec.name()))?;
            let padded = (bytes as u64).next_multiple_of(self.grain).min(range.end - at);
            slice.truncate(padded as usize);
            if flight.is_full() {
                drop(flight.pop_oldest()?);
            }
            self.send(spec, flight, slice, (on, &mut buffer, at), started)?;
            at += padded;
        }
    }
}
