//! A read or write in flight.

use super::{DiskError, Failed, IoBuf, io::flight::Flight};
use core::ops::Range;
use std::{
    sync::Arc,
    time::{Duration, Instant},
};

/// A read or write in flight, which owns its buffer until it has ended.
///
/// Dropping or forgetting it leaves buffer and room with the operation, which frees them when it ends.
#[must_use = "a dropped ticket cannot say whether its request succeeded"]
pub struct IoTicket<B> {
    state: State<B>,
    bytes: Range<usize>,
    begun: Instant,
}

enum State<B> {
    Flying(Arc<Flight<B>>),
    Refused(Failed<B>),
}

impl<B: IoBuf> IoTicket<B> {
    pub(super) fn flying(flight: Arc<Flight<B>>, bytes: Range<usize>) -> Self {
        IoTicket { state: State::Flying(flight), bytes, begun: Instant::now() }
    }

    pub(super) fn refused(buffer: B, error: DiskError) -> Self {
        let failed = Failed { buffer: Some(buffer), error };
        IoTicket { state: State::Refused(failed), bytes: 0..0, begun: Instant::now() }
    }

    /// Where in the buffer the bytes of a read's part are, or of a write: known before they are there. Empty if the request was
    /// refused.
    pub fn range(&self) -> Range<usize> {
        self.bytes.clone()
    }

    /// Whether it has ended, well or not. Never blocks.
    pub fn is_done(&self) -> bool {
        match &self.state {
            State::Flying(flight) => flight.has_ended(),
            State::Refused(_) => true,
        }
    }

    /// Sleeps until it has ended or `deadline` has passed; whether it has ended.
    pub fn wait_until(&self, deadline: Instant) -> bool {
        match &self.state {
            State::Flying(flight) => flight.wait_until(deadline),
            State::Refused(_) => true,
        }
    }

    /// Has `callback` called once it has ended, by the thread that saw it end; at once, if it has ended by now.
    ///
    /// It is to be quick and not to wait: other requests of the store wait for that thread. Waking a task or sending a message is
    /// what it is for.
    pub fn on_done(&self, callback: impl FnOnce() + Send + 'static) {
        match &self.state {
            State::Flying(flight) => flight.then(Box::new(callback)),
            State::Refused(_) => callback(),
        }
    }

    /// Sleeps until it has ended and returns its buffer.
    ///
    /// # Errors
    /// What went wrong, with the buffer. After [`DiskError::Timeout`] the operation has it still: to go on waiting, use
    /// [`wait_until`](Self::wait_until) first.
    pub fn wait(self, deadline: Instant) -> Result<B, Failed<B>> {
        let flight = match self.state {
            State::Flying(flight) => flight,
            State::Refused(failed) => return Err(failed),
        };
        match flight.take(deadline) {
            Some((buffer, Ok(()))) => Ok(buffer),
            Some((buffer, Err(error))) => Err(Failed { buffer: Some(buffer), error }),
            None => {
                let request = flight.request();
                let error = DiskError::Timeout {
                    path: request.drive().path().to_owned(),
                    operation: request.direction().name(),
                    bytes: request.bytes(),
                    waited: self.begun.elapsed(),
                };
                Err(Failed { buffer: None, error })
            }
        }
    }

    /// Sleeps for no longer than `timeout`, as [`wait`](Self::wait).
    ///
    /// # Errors
    /// As there.
    pub fn wait_for(self, timeout: Duration) -> Result<B, Failed<B>> {
        // Beyond what the clock can tell is long enough.
        let now = Instant::now();
        self.wait(now.checked_add(timeout).unwrap_or(now + FAR))
    }
}

impl<B> core::fmt::Debug for IoTicket<B> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("IoTicket").field("range", &self.bytes).finish_non_exhaustive()
    }
}

const FAR: Duration = Duration::from_secs(100 * 365 * 24 * 3600);
