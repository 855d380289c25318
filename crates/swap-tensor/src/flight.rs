//! Pieces of one copy through staging, a few in flight at a time.

use crate::{
    SwapError, TensorSpec,
    device::{Device, DeviceIndex},
    observe::{Counted, Kind},
    pool::Inner,
};
use pinned_host::{Lane, Refused, SliceOf, Ticket, Transfer};
use std::{sync::Arc, time::Instant};

impl<T: Transfer> Inner<T> {
    /// Uploads a piece that lies in staging to a device.
    pub(crate) fn send(
        &self,
        spec: &Arc<TensorSpec>,
        flight: &mut Flight<T>,
        slice: SliceOf<T>,
        (on, buffer, at): (DeviceIndex, &mut T::Buffer, u64),
        started: Instant,
    ) -> Result<(), SwapError> {
        let bytes = slice.len() as u64;
        let Device { transfer, probe, .. } = self.on(on);
        let sent = transfer.upload(slice, buffer, at).map(|ticket| {
            let counted = probe.transfer(Kind::Upload, spec, bytes, (ticket.event(), started));
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
                        .acquire(lane, wanted, Some(Instant::now() + self.patience))
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
    /// Whether the device was asked for any piece.
    used: bool,
}

impl<T: Transfer> Flight<T> {
    pub(crate) fn new() -> Self {
        Flight { tickets: [const { None }; DEPTH], oldest: 0, len: 0, settled: Settled::Yes, used: false }
    }

    pub(crate) fn len(&self) -> usize {
        self.len
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.len == 0
    }

    pub(crate) fn is_full(&self) -> bool {
        self.len == DEPTH
    }

    /// Whether its copy may have changed anything.
    pub(crate) fn was_used(&self) -> bool {
        self.used
    }

    /// Adds a piece that was sent; there is room, because whoever takes staging first makes some.
    pub(crate) fn push(
        &mut self,
        sent: Result<(Ticket<T>, Counted), Refused<T>>,
        operation: &'static str,
    ) -> Result<(), SwapError> {
        debug_assert!(!self.is_full());
        // A refusal, too, may be of what was enqueued and has been waited for.
        self.used = true;
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
