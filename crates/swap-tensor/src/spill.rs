//! Writing tensors to the lower tier: from their host copies, small ones packed into one extent, or straight from the device
//! where host memory cannot take them in between.
//!
//! A spill is begun under the lock, where its victims are chosen, and carried out by a thread of the pool without it.

use crate::{
    SlotState, SwapError,
    books::Books,
    flight::{DEPTH, Flight},
    lower::{Lower, LowerCopy, Piece, Writing},
    pool::Inner,
};
use core::ops::Range;
use pinned_host::{Access, Lane, SliceOf, Transfer};
use std::{collections::VecDeque, time::Instant};

/// Which copy of a tensor is being written to the lower tier.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Spill {
    /// None.
    #[default]
    No,
    /// The host's, whose memory is wanted. The tensor is busy meanwhile.
    Host,
    /// The device's. It can be read meanwhile, not written.
    Device,
}

/// Tensors that are written to the lower tier together.
pub(crate) enum Batch {
    /// The host copy of one.
    Host(u32),
    /// The host copies of several small ones.
    Pack(Vec<u32>),
    /// The device copy of one.
    Device(u32),
}

impl<T: Transfer> Inner<T> {
    /// Begins to write the coldest host copies that nothing else holds to the lower tier, so that `wanted` bytes come free.
    /// `false`: there is no lower tier, or no such copy.
    pub(crate) fn spill_host(&self, books: &mut Books<T>, wanted: u64) -> bool {
        if self.lower.is_none() {
            return false;
        }
        let Some(first) = books.next_to_spill() else { return false };
        books.begin_host_spill(first);
        let mut batch = vec![first];
        let mut bytes = books.entry(first).padded;
        // What is packed is read through staging in one piece.
        let small = SMALL.min(self.piece / 2);
        if bytes < small {
            // Small ones go together: a device takes one large write in the time of a few small ones.
            while bytes < PACK {
                let Some(next) = books.next_to_spill().filter(|&at| books.entry(at).padded < small) else {
                    break;
                };
                books.begin_host_spill(next);
                bytes += books.entry(next).padded;
                batch.push(next);
            }
        }
        debug_assert!(wanted > 0);
        let sent = match batch.len() {
            1 => self.send_out(Batch::Host(first)),
            _ => self.send_out(Batch::Pack(batch)),
        };
        match sent {
            Ok(()) => true,
            Err(Batch::Pack(batch)) => {
                batch.iter().for_each(|&at| books.end_host_spill(at));
                false
            }
            Err(_) => {
                books.end_host_spill(first);
                false
            }
        }
    }

    /// Begins to write a device copy that nobody uses to the lower tier; its room is given back after that, unless somebody uses
    /// the tensor first. `false`: there is no lower tier.
    pub(crate) fn spill_device(&self, books: &mut Books<T>, at: u32) -> bool {
        let entry = books.entry(at);
        let (Some(block), true) = (entry.device.block, self.lower.is_some()) else { return false };
        if entry.spill != Spill::No || books.arena.lease(block).is_err() {
            return false;
        }
        let entry = books.entry_mut(at);
        entry.spill = Spill::Device;
        entry.disk.begin();
        entry.device.leaving = true;
        books.leaving += books.entry(at).padded;
        books.spills += 1;
        if self.send_out(Batch::Device(at)).is_ok() {
            return true;
        }
        books.stay(at);
        books.end_device_spill(at);
        books.entry_mut(at).disk.give_up();
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
            Batch::Host(at) => self.write_host(lower, at),
            Batch::Pack(batch) => self.write_pack(lower, &batch),
            Batch::Device(at) => self.write_device(lower, at),
        }
    }

    fn write_host(&self, lower: &Lower, at: u32) {
        let mut books = self.lock();
        let (bytes, version) = (books.entry(at).spec.bytes(), books.entry(at).version);
        let slice = books.entry_mut(at).host.slice.take();
        drop(books);
        let Some(slice) = slice else { return };
        let (slice, written) = lower.write::<T>(slice, bytes, self.piece);
        let mut books = self.lock();
        let entry = books.entry_mut(at);
        entry.host.slice = slice;
        self.end_host_write(&mut books, at, version, written);
        self.wake(&books);
    }

    fn write_pack(&self, lower: &Lower, batch: &[u32]) {
        let mut books = self.lock();
        let mut slices: Vec<(u32, u64, u64, SliceOf<T>)> = Vec::with_capacity(batch.len());
        for &at in batch {
            let (bytes, version) = (books.entry(at).spec.bytes(), books.entry(at).version);
            slices.extend(books.entry_mut(at).host.slice.take().map(|slice| (at, version, bytes, slice)));
        }
        drop(books);
        let contents: Vec<_> =
            slices.iter().map(|(_, _, bytes, slice)| &slice.as_slice()[..*bytes as usize]).collect();
        let mut copies = match lower.write_pack(&contents) {
            Ok(copies) => Ok(copies.into_iter()),
            Err(error) => Err(Some(error)),
        };
        let mut books = self.lock();
        for (at, version, _, slice) in slices {
            books.entry_mut(at).host.slice = Some(slice);
            let written = match &mut copies {
                Ok(copies) => copies.next().ok_or_else(|| self.lost()),
                // The first is told why, and through it whoever waits.
                Err(error) => Err(error.take().unwrap_or_else(|| books.entry(at).no_valid_copy())),
            };
            self.end_host_write(&mut books, at, version, written);
        }
        self.wake(&books);
    }

    fn end_host_write(
        &self,
        books: &mut Books<T>,
        at: u32,
        version: u64,
        written: Result<LowerCopy, SwapError>,
    ) {
        books.end_host_spill_of(at);
        match written {
            Ok(copy) => {
                let bytes = books.entry(at).spec.bytes();
                let entry = books.entry_mut(at);
                entry.disk.publish(copy, entry.version == version);
                // What it was written for: its memory. The copy that is left is as good.
                if entry.host.state == SlotState::Valid {
                    entry.host.slice = None;
                    entry.host.state.step(SlotState::Absent);
                    books.host_lru.remove(at);
                }
                books.counters.spills += 1;
                books.counters.disk_written_bytes += bytes;
            }
            Err(error) => {
                books.entry_mut(at).disk.give_up();
                books.fail(error);
            }
        }
        books.dispose_if_done(at);
    }

    fn write_device(&self, lower: &Lower, at: u32) {
        let mut books = self.lock();
        let (version, bytes) = (books.entry(at).version, books.entry(at).spec.bytes());
        let lane = self.device.lane(Lane::Download);
        let begun = books.range(at).and_then(|range| {
            self.order_one(&mut books, lane, range.clone(), Access::Read, "order a write-back")?;
            Ok(range)
        });
        drop(books);
        let (written, settled) = match begun {
            Ok(range) => self.send_pieces(lower, range, bytes),
            Err(error) => (Err(error), true),
        };
        let mut books = self.lock();
        // What the copies read had been written before they ran: by now that is known to be good or bad.
        books.reap_changes();
        if settled {
            books.end_device_spill(at);
        } else {
            books.entry_mut(at).spill = Spill::No; // the block stays a wall
            books.entry_mut(at).device.stuck = true;
            books.spills -= 1;
        }
        let leaving = books.entry(at).device.leaving;
        books.stay(at);
        match written {
            Ok(copy) => {
                let entry = books.entry_mut(at);
                let good = entry.device.state == SlotState::Valid && entry.version == version;
                match good {
                    true => entry.disk.publish(copy, true),
                    false => entry.disk.give_up(),
                }
                books.counters.spills += 1;
                books.counters.disk_written_bytes += bytes;
                books.counters.downloaded_bytes += books.entry(at).padded;
                if leaving
                    && good
                    && books.entry(at).idle()
                    && books.entry(at).jobs == 0
                    && books.release_device(at)
                {
                    books.counters.evictions += 1;
                }
            }
            Err(error) => {
                books.entry_mut(at).disk.give_up();
                books.fail(error);
            }
        }
        books.recover(at);
        books.dispose_if_done(at);
        self.wake(&books);
    }

    /// Device → staging → lower tier, a few pieces in flight each way. Whether the device has ended with all of them, too.
    fn send_pieces(
        &self,
        lower: &Lower,
        range: Range<u64>,
        bytes: u64,
    ) -> (Result<LowerCopy, SwapError>, bool) {
        let mut flight = Flight::new();
        let mut writes: VecDeque<Writing<T>> = VecDeque::with_capacity(DEPTH);
        let mut pieces = Vec::with_capacity(bytes.div_ceil(self.piece) as usize);
        let sent = self.send_each(lower, &mut flight, &mut writes, &mut pieces, (range, bytes));
        let (landed, settled) = flight.finish();
        let mut result = sent.and(landed);
        for write in writes {
            match write.wait() {
                (Ok(piece), _) => pieces.push(piece),
                (Err(error), _) => result = result.and(Err(error)),
            }
        }
        (result.map(|()| lower.copy(pieces)), settled == crate::flight::Settled::Yes)
    }

    fn send_each(
        &self,
        lower: &Lower,
        flight: &mut Flight<T>,
        writes: &mut VecDeque<Writing<T>>,
        pieces: &mut Vec<Piece>,
        (range, bytes): (Range<u64>, u64),
    ) -> Result<(), SwapError> {
        let (mut asked, mut taken) = (0, 0);
        while taken < bytes {
            while asked < bytes && !flight.is_full() && flight.len() + writes.len() < 2 * DEPTH {
                let piece = self.piece.min(bytes - asked).next_multiple_of(self.grain());
                let nothing_comes_back = flight.is_empty() && writes.is_empty();
                let slice = match self.staging.try_acquire(Lane::Download, piece as usize) {
                    Ok(slice) => slice,
                    Err(_) if !nothing_comes_back => break,
                    Err(_) => self.staging_slice(flight, Lane::Download, piece)?,
                };
                let started = Instant::now();
                let sent = self.device.download(&self.buffer, range.start + asked, slice);
                let sent = sent.inspect(|ticket| self.meter_begin(ticket.event(), piece, started));
                flight.push(sent, "write a tensor back")?;
                asked += self.piece.min(bytes - asked);
            }
            match flight.pop_oldest()? {
                Some(slice) => {
                    let piece = self.piece.min(bytes - taken);
                    writes.push_back(lower.write_piece(slice, piece)?);
                    taken += piece;
                }
                None => {
                    // All of staging is with the writes.
                    let Some(write) = writes.pop_front() else { break };
                    pieces.push(write.wait().0?);
                }
            }
            while writes.len() > DEPTH {
                let Some(write) = writes.pop_front() else { break };
                pieces.push(write.wait().0?);
            }
        }
        Ok(())
    }
}

impl<T: Transfer> Books<T> {
    /// The coldest host copy that is the only one of its tensor and that nobody works with.
    fn next_to_spill(&self) -> Option<u32> {
        self.host_lru.iter().find(|&at| {
            let entry = self.entry(at);
            let alone = entry.host.state == SlotState::Valid && entry.host.slice.is_some();
            // Whose writer has its lease yet to come will have another version soon.
            let free = !entry.busy && !entry.writer && entry.jobs == 0 && entry.spill == Spill::No;
            alone && free && entry.disk.copy().is_none() && entry.live
        })
    }

    fn begin_host_spill(&mut self, at: u32) {
        let entry = self.entry_mut(at);
        entry.spill = Spill::Host;
        entry.busy = true;
        entry.disk.begin();
        let padded = entry.padded;
        self.spills += 1;
        self.spilling += padded;
    }

    fn end_host_spill_of(&mut self, at: u32) {
        let entry = self.entry_mut(at);
        entry.spill = Spill::No;
        entry.busy = false;
        let padded = entry.padded;
        self.spills -= 1;
        self.spilling -= padded;
    }

    /// A spill that could not be begun after all.
    fn end_host_spill(&mut self, at: u32) {
        self.end_host_spill_of(at);
        self.entry_mut(at).disk.give_up();
    }

    fn end_device_spill(&mut self, at: u32) {
        self.entry_mut(at).spill = Spill::No;
        self.spills -= 1;
        if let Some(block) = self.entry(at).device.block {
            let _ = self.arena.unlease(block);
        }
    }

    /// A transfer down failed; its source is as good as before.
    pub(crate) fn fail(&mut self, error: SwapError) {
        self.counters.failed_transfers += 1;
        self.note(&error);
        self.fault.get_or_insert(error);
    }
}

/// Tensors smaller than this are packed with others.
const SMALL: u64 = 256 << 10;
/// Bytes of a pack, about.
const PACK: u64 = 1 << 20;
