//! A request and its memory, in flight.
//!
//! ```text
//!   IoTicket<B> ──Arc──► Flight<B> { request, memory: address, cell: { buffer: B, outcome } } ◄──Arc── Pending, Piece
//! ```
//! A [`Pending`] stands for the pieces of a request that nobody has begun, a [`Piece`] for one that somebody has; they are the
//! only way to the memory. Dropping one ends what it stands for, so a request ends whatever becomes of who works at it. With the
//! last the outcome is set, and only then can the buffer leave its flight.

use super::operation::Operation;
use crate::disk::{DiskError, IoBuf, lock, request::Direction, request::Request};
use core::ptr::NonNull;
use std::{
    io,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, Condvar, Mutex},
    time::Instant,
};

/// A request that owns its buffer until it has ended.
pub(in crate::disk) struct Flight<B> {
    request: Request,
    /// Invariant: as long as `outcome` is unset, `request.bytes()` bytes from here on belong to the buffer in `cell`, which
    /// nobody uses.
    memory: Memory,
    cell: Mutex<Cell<B>>,
    ended: Condvar,
}

struct Cell<B> {
    buffer: Option<B>,
    outcome: Option<Result<(), DiskError>>,
    then: Vec<Callback>,
}

/// Called once, when a request has ended.
pub(in crate::disk) type Callback = Box<dyn FnOnce() + Send>;

/// A flight and the pieces it has to make, or a buffer that is not to fly, and why.
pub(in crate::disk) type Launch<B> = Result<(Arc<Flight<B>>, Pending), (B, DiskError)>;

impl<B: IoBuf> Flight<B> {
    /// Lends the first bytes of `buffer` to the request that `make` makes, given the buffer's address and length.
    pub(in crate::disk) fn new(
        mut buffer: B,
        make: impl FnOnce(usize, usize) -> Result<Request, DiskError>,
    ) -> Launch<B> {
        let memory = buffer.memory();
        let request = match make(memory.addr().get(), memory.len()) {
            Ok(request) => request,
            Err(error) => return Err((buffer, error)),
        };
        if request.bytes() > memory.len() as u64 {
            let error = DiskError::Length { given: memory.len() as u64, needed: request.bytes() };
            return Err((buffer, error));
        }
        let cell = Cell { buffer: Some(buffer), outcome: None, then: Vec::new() };
        let memory = Memory(memory.cast());
        let flight = Arc::new(Flight { request, memory, cell: Mutex::new(cell), ended: Condvar::new() });
        let pending = Pending { work: flight.clone(), next: 0 };
        Ok((flight, pending))
    }

    pub(in crate::disk) fn request(&self) -> &Request {
        &self.request
    }

    pub(in crate::disk) fn has_ended(&self) -> bool {
        lock(&self.cell).outcome.is_some()
    }

    /// Sleeps until it has ended or `deadline` has passed; whether it has ended.
    pub(in crate::disk) fn wait_until(&self, deadline: Instant) -> bool {
        let mut cell = lock(&self.cell);
        while cell.outcome.is_none() {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            cell = self.ended.wait_timeout(cell, left).unwrap_or_else(|e| e.into_inner()).0;
        }
        true
    }

    /// Takes the buffer and the outcome once it has ended; `None` if it has not by `deadline`, or they have been taken.
    pub(in crate::disk) fn take(&self, deadline: Instant) -> Option<(B, Result<(), DiskError>)> {
        self.wait_until(deadline);
        let mut cell = lock(&self.cell);
        // While there is no outcome, the buffer stays.
        let outcome = cell.outcome.take()?;
        cell.buffer.take().map(|buffer| (buffer, outcome))
    }

    /// Has `callback` called when it has ended; at once if it has.
    pub(in crate::disk) fn then(&self, callback: Callback) {
        let mut cell = lock(&self.cell);
        if cell.outcome.is_none() {
            cell.then.push(callback);
            return;
        }
        drop(cell);
        callback();
    }
}

/// A flight, whatever its buffer is.
trait Work: Send + Sync {
    fn request(&self) -> &Request;
    fn memory(&self) -> &Memory;
    /// Every piece has ended.
    fn conclude(&self);
}

impl<B: IoBuf> Work for Flight<B> {
    fn request(&self) -> &Request {
        &self.request
    }

    fn memory(&self) -> &Memory {
        &self.memory
    }

    fn conclude(&self) {
        let outcome = self.request.conclude();
        let mut cell = lock(&self.cell);
        cell.outcome = Some(outcome);
        let then = core::mem::take(&mut cell.then);
        drop(cell);
        self.ended.notify_all();
        for callback in then {
            // What a caller's code does must not take down the thread that serves all.
            let _ = catch_unwind(AssertUnwindSafe(callback));
        }
    }
}

/// First byte of a buffer that a flight owns.
struct Memory(NonNull<u8>);

// SAFETY: it is an address; who dereferences it says why that may be.
unsafe impl Send for Memory {}
// SAFETY: as above.
unsafe impl Sync for Memory {}

/// The pieces of a request that have not been begun.
pub(in crate::disk) struct Pending {
    work: Arc<dyn Work>,
    next: usize,
}

impl Pending {
    /// Begins the next piece; `None` when all have been, or need not be because the request has failed.
    pub(in crate::disk) fn next(&mut self) -> Option<Piece> {
        let request = self.work.request();
        if self.next == request.pieces() || request.has_failed() {
            return None;
        }
        request.begin();
        let piece = Piece { work: Arc::clone(&self.work), index: self.next, done: 0, tries: 0 };
        self.next += 1;
        Some(piece)
    }

    /// Refuses what has not been begun.
    pub(in crate::disk) fn refuse(self, error: DiskError) {
        self.work.request().fail(error);
    }

    pub(in crate::disk) fn is_exhausted(&self) -> bool {
        let request = self.work.request();
        self.next == request.pieces() || request.has_failed()
    }
}

impl Drop for Pending {
    fn drop(&mut self) {
        let request = self.work.request();
        let left = request.pieces() - self.next;
        if left > 0 {
            request.fail(DiskError::Closed { operation: request.direction().name() });
        }
        // A request of no pieces ends here too.
        if (left > 0 || request.pieces() == 0) && request.end(left) {
            self.work.conclude();
        }
    }
}

/// A piece of a request that is being worked at, by its one owner.
pub(in crate::disk) struct Piece {
    work: Arc<dyn Work>,
    index: usize,
    /// Bytes of it that are transferred.
    done: usize,
    /// Operations in a row that brought nothing.
    tries: u32,
}

impl Piece {
    pub(in crate::disk) fn request(&self) -> &Request {
        self.work.request()
    }

    pub(in crate::disk) fn direction(&self) -> Direction {
        self.request().direction()
    }

    /// What is to be asked of the system next.
    pub(in crate::disk) fn operation(&self) -> Operation<'_> {
        let request = self.request();
        let range = request.piece(self.index);
        let at = range.start + self.done;
        // SAFETY: `at` lies within the request's bytes, which belong to the buffer.
        let address = unsafe { self.work.memory().0.add(at) };
        let way = request.drive().way(request.offset(at), address.addr().get(), range.end - at);
        Operation::new(request.direction(), address, request.offset(at), way)
    }

    /// Takes note of what an operation on `asked` bytes came to; whether there is more to be done.
    pub(in crate::disk) fn settle(&mut self, asked: usize, result: io::Result<usize>) -> bool {
        let request = self.work.request();
        let counters = request.drive().counters();
        let range = request.piece(self.index);
        let write = request.direction() == Direction::Write;
        let error = match result {
            Ok(0) if write => io::ErrorKind::WriteZero.into(),
            Ok(0) => io::ErrorKind::UnexpectedEof.into(),
            Ok(moved) => {
                let moved = moved.min(asked);
                counters.moved(write, moved as u64);
                if moved < asked {
                    counters.short();
                }
                self.done += moved;
                self.tries = 0;
                return self.done < range.len();
            }
            Err(error) if is_passing(&error) && self.tries < MOST_TRIES => {
                counters.retried();
                self.tries += 1;
                std::thread::yield_now();
                return true;
            }
            Err(error) => error,
        };
        request.fail_at(range.start + self.done, asked, self.done, error);
        false
    }

    /// Takes the checksums of its bytes, unless that has been done; of a read only once it is there.
    pub(in crate::disk) fn checksum(&self) {
        let request = self.request();
        let range = request.piece(self.index);
        let there = request.direction() == Direction::Write || self.is_whole();
        if !there || self.has_sums() {
            return;
        }
        // SAFETY: the range lies within the request's bytes, which belong to the buffer. Nobody writes to them: the
        // buffer's owner has lent them, and a read of this piece, which only its owner makes, has ended.
        let bytes = unsafe {
            let first = self.work.memory().0.add(range.start);
            core::slice::from_raw_parts(first.as_ptr(), range.len())
        };
        request.sums().add(self.index, bytes);
    }

    /// Whether all of it has been transferred.
    pub(in crate::disk) fn is_whole(&self) -> bool {
        self.done == self.request().piece(self.index).len()
    }

    pub(in crate::disk) fn has_sums(&self) -> bool {
        self.request().sums().has(self.index)
    }
}

impl Drop for Piece {
    fn drop(&mut self) {
        let request = self.work.request();
        if !self.is_whole() {
            // Unless it failed already, whoever worked at it gave up.
            request.fail(DiskError::Closed { operation: request.direction().name() });
        }
        if request.end(1) {
            self.work.conclude();
        }
    }
}

/// Whether the same may well succeed the next time.
fn is_passing(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::Interrupted | io::ErrorKind::WouldBlock)
}

/// Operations in a row that the system puts off before that counts as failure.
const MOST_TRIES: u32 = 1000;
