//! One staged copy under way: which pieces are in flight, and where memory for the next one comes from.

use super::{StagedCause, StagedCopy, StagedError};
use crate::{HostError, Lane, Refused, SliceOf, Ticket, Transfer};
use core::ops::Range;

/// The pieces of one copy, oldest first. Dropped, as by a panic of the caller's closure, it waits for them: others may be
/// waiting for their memory, and nobody need look for what tickets leave behind.
///
/// Invariant: whoever waits in the ring's queue has nothing in flight and no spare.
pub(super) struct Run<'a, T: Transfer> {
    copy: &'a StagedCopy<'a, T>,
    lane: Lane,
    piece: usize,
    len: usize,
    tickets: [Option<Ticket<T>>; DEPTH],
    oldest: usize,
    flying: usize,
    depth: usize,
    /// Memory of a piece that has ended.
    spare: Option<SliceOf<T>>,
    /// The first so many bytes were sent.
    sent: usize,
    /// The first so many bytes have arrived.
    landed: usize,
    /// Bytes sent since this copy last looked whether others wait.
    turn: usize,
    settled: bool,
}

impl<'a, T: Transfer> Run<'a, T> {
    pub(super) fn new(copy: &'a StagedCopy<'a, T>, lane: Lane, piece: usize, len: usize) -> Self {
        Run {
            copy,
            lane,
            piece,
            len,
            tickets: [const { None }; DEPTH],
            oldest: 0,
            flying: 0,
            depth: copy.depth.clamp(1, DEPTH),
            spare: None,
            sent: 0,
            landed: 0,
            turn: 0,
            settled: true,
        }
    }

    /// The bytes of the next piece to be sent; `None` when all were.
    pub(super) fn next_piece(&self) -> Option<Range<usize>> {
        (self.sent < self.len).then(|| self.sent..self.sent + self.piece.min(self.len - self.sent))
    }

    /// Memory for a piece of `bytes`. `None`: only a piece of this copy can give it, so wait for the oldest.
    pub(super) fn staging(&mut self, bytes: usize) -> Result<Option<SliceOf<T>>, StagedCause<T>> {
        let called_off = self.copy.wait.cancel.is_some_and(|token| token.is_cancelled());
        if called_off || self.copy.cancelled.is_some_and(|cancelled| cancelled()) {
            return Err(StagedCause::Cancelled);
        }
        let spare = self.spare.take().filter(|spare| spare.len() == bytes);
        if self.is_others_turn() {
            drop(spare);
        } else if spare.is_some() {
            return Ok(spare);
        } else if self.flying < self.depth {
            match self.copy.ring.try_acquire(self.lane, bytes) {
                Ok(slice) => return Ok(Some(slice)),
                Err(HostError::Full { .. }) => {}
                // Whatever stands in the way of more: a piece of this copy will do.
                Err(_) if self.flying > 0 => {}
                Err(error) => return Err(StagedCause::Staging(error)),
            }
        }
        if self.flying > 0 {
            return Ok(None);
        }
        self.turn = 0;
        // Memory of tickets that others dropped comes back only when somebody looks.
        self.copy.device.parking().sweep();
        match self.copy.ring.acquire_until(self.lane, bytes, &self.copy.wait) {
            Ok(slice) => Ok(Some(slice)),
            Err(HostError::Cancelled { .. }) => Err(StagedCause::Cancelled),
            Err(error) => Err(StagedCause::Staging(error)),
        }
    }

    /// Notes a piece that was sent.
    pub(super) fn sent(&mut self, sent: Result<Ticket<T>, Refused<T>>) -> Result<(), StagedCause<T>> {
        let bytes = self.next_piece().map_or(0, |bytes| bytes.len());
        match sent {
            Ok(ticket) => {
                self.tickets[(self.oldest + self.flying) % DEPTH] = Some(ticket);
                self.flying += 1;
                self.sent += bytes;
                self.turn += bytes;
                Ok(())
            }
            Err(refused) => {
                // Without its slice it was enqueued all the same.
                self.settled &= refused.slice.is_some();
                Err(StagedCause::Refused(refused.error))
            }
        }
    }

    /// Waits for the oldest piece, hands its place and bytes to `arrived`, and keeps its memory for the next.
    pub(super) fn recycle(&mut self, arrived: impl FnOnce(usize, &[u8])) -> Result<(), StagedCause<T>> {
        self.spare = self.land_oldest(arrived)?;
        Ok(())
    }

    /// Waits for every piece.
    pub(super) fn land(&mut self, mut arrived: impl FnMut(usize, &[u8])) -> Result<(), StagedCause<T>> {
        self.spare = None;
        while self.flying > 0 {
            self.land_oldest(&mut arrived)?;
        }
        Ok(())
    }

    /// The end of the copy. After an error everything that is still in flight is waited for.
    pub(super) fn finish(mut self, copied: Result<(), StagedCause<T>>) -> Result<(), StagedError<T>> {
        let Err(cause) = copied else { return Ok(()) };
        self.spare = None;
        let mut whole = self.lane == Lane::Upload && !matches!(cause, StagedCause::Failed(_));
        while self.flying > 0 {
            let landed = self.landed;
            whole &= self.land_oldest(|_, _| ()).is_ok();
            if !whole {
                self.landed = landed;
            }
        }
        let (asked, copied) = (self.len as u64, self.landed as u64);
        Err(StagedError { lane: self.lane, asked, copied, settled: self.settled, cause })
    }

    fn land_oldest(
        &mut self,
        arrived: impl FnOnce(usize, &[u8]),
    ) -> Result<Option<SliceOf<T>>, StagedCause<T>> {
        let Some(ticket) = self.tickets[self.oldest].take() else { return Ok(None) };
        self.oldest = (self.oldest + 1) % DEPTH;
        self.flying -= 1;
        match ticket.wait() {
            Ok(slice) => {
                arrived(self.landed, slice.as_slice());
                self.landed += slice.len();
                Ok(Some(slice))
            }
            Err(failed) => {
                self.settled &= failed.slice.is_some();
                Err(StagedCause::Failed(failed.error))
            }
        }
    }

    /// Whether this copy has had its share and somebody waits.
    fn is_others_turn(&mut self) -> bool {
        if self.turn < StagedCopy::<T>::TURN {
            return false;
        }
        let waiters = self.copy.ring.waiters(self.lane);
        if waiters == 0 {
            self.turn = 0;
        }
        waiters > 0
    }
}

impl<T: Transfer> Drop for Run<'_, T> {
    fn drop(&mut self) {
        self.spare = None;
        while self.flying > 0 {
            let _ = self.land_oldest(|_, _| ());
        }
    }
}

/// The most pieces one copy has in flight.
const DEPTH: usize = 8;
