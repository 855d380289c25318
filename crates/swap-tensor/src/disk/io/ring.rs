//! A ring of io_uring's, and the pieces it has in flight.

use super::{DiskBuf, flight::Piece, region::Region};
use crate::disk::{
    IoBuf,
    bell::Bell,
    fault::{Call, Faults, Mark},
    request::Direction,
};
use io_uring::{IoUring, opcode, squeue, types};
use rustix::fd::{AsRawFd, BorrowedFd};
use std::{collections::VecDeque, io, sync::Arc};

/// A ring with room for some operations, used by one thread.
///
/// A piece that was sent belongs to the ring until its completion has been taken. Dropping the ring waits for what is in
/// flight; what cannot be waited for is leaked, since the kernel may use it still.
pub(in crate::disk) struct Ring {
    ring: IoUring,
    /// By the number that is the operation's user data.
    flying: Vec<Option<Flying>>,
    vacant: Vec<usize>,
    /// Ended, and not yet to be known of.
    held: Vec<Ended>,
    ready: VecDeque<Ended>,
    /// Operations that the kernel has.
    submitted: usize,
    polling: bool,
    /// Whether there is a table for registered memory.
    table: bool,
    /// Registered memory, by its index in the table.
    fixed: Vec<Fixed>,
    faults: Faults,
}

struct Flying {
    piece: Piece,
    asked: usize,
    mark: Mark,
}

struct Ended {
    slot: usize,
    result: io::Result<usize>,
}

/// A stretch of a registered region.
struct Fixed {
    start: usize,
    end: usize,
    /// Its memory stays mapped as long as the kernel has its pages.
    _region: Arc<Region>,
}

/// A piece whose operation has ended.
pub(in crate::disk) struct Completion {
    pub(in crate::disk) piece: Piece,
    /// Bytes the operation was for.
    pub(in crate::disk) asked: usize,
    pub(in crate::disk) result: io::Result<usize>,
}

impl Ring {
    /// A ring for `depth` operations at once.
    pub(in crate::disk) fn new(depth: usize, faults: &Faults) -> io::Result<Self> {
        faults.refuse(Call::RingSetup)?;
        // And one that listens for the bell.
        let ring = IoUring::new(depth as u32 + 1)?;
        Ok(Ring {
            ring,
            flying: (0..depth).map(|_| None).collect(),
            vacant: (0..depth).rev().collect(),
            held: Vec::new(),
            ready: VecDeque::new(),
            submitted: 0,
            polling: false,
            table: false,
            fixed: Vec::new(),
            faults: faults.clone(),
        })
    }

    /// Registers a region, after which operations on it need not look up and hold its pages each time.
    pub(in crate::disk) fn register(&mut self, region: &Arc<Region>) -> io::Result<()> {
        self.make_table()?;
        let whole = region.addresses();
        for start in whole.clone().step_by(MOST_FIXED) {
            let end = whole.end.min(start + MOST_FIXED);
            let stretch = [libc::iovec { iov_base: region.at(start).as_ptr().cast(), iov_len: end - start }];
            let index = self.fixed.len();
            if index >= TABLE as usize {
                return Err(io::ErrorKind::QuotaExceeded.into());
            }
            // SAFETY: the region's memory is valid, and stays mapped as long as the table has it, for `fixed` goes after
            // the ring: see `drop`.
            unsafe { self.ring.submitter().register_buffers_update(index as u32, &stretch, None)? };
            self.fixed.push(Fixed { start, end, _region: Arc::clone(region) });
        }
        Ok(())
    }

    fn make_table(&mut self) -> io::Result<()> {
        self.faults.refuse(Call::RegisterBuffers)?;
        if !self.table {
            self.ring.submitter().register_buffers_sparse(TABLE)?;
            self.table = true;
        }
        Ok(())
    }

    pub(in crate::disk) fn is_full(&self) -> bool {
        self.vacant.is_empty()
    }

    /// Whether nothing is in flight.
    pub(in crate::disk) fn is_idle(&self) -> bool {
        self.vacant.len() == self.flying.len()
    }

    /// Prepares the next operation of a piece, which [`enter`](Self::enter) hands to the kernel. Gives the piece back if the ring
    /// [is full](Self::is_full).
    pub(in crate::disk) fn send(&mut self, piece: Piece) -> Option<Piece> {
        let Some(slot) = self.vacant.pop() else { return Some(piece) };
        let mark = self.faults.strike(piece.direction());
        let operation = piece.operation();
        let asked = operation.len();
        let len = mark.limit(asked, operation.unit());
        let (start, file) = (operation.address(), types::Fd(operation.file()));
        let offset = operation.offset();
        let counters = piece.request().drive().counters();
        if operation.is_buffered() && piece.request().drive().is_direct() {
            counters.buffered();
        }
        let fixed = self.fixed.iter().position(|fixed| {
            let address = start.addr().get();
            fixed.start <= address && address + len <= fixed.end
        });
        if fixed.is_some() {
            counters.registered();
        }
        let (address, length) = (start.as_ptr(), len as u32);
        let entry = match (operation.direction(), fixed) {
            (Direction::Read, None) => opcode::Read::new(file, address, length).offset(offset).build(),
            (Direction::Write, None) => opcode::Write::new(file, address, length).offset(offset).build(),
            (Direction::Read, Some(at)) => {
                opcode::ReadFixed::new(file, address, length, at as u16).offset(offset).build()
            }
            (Direction::Write, Some(at)) => {
                opcode::WriteFixed::new(file, address, length, at as u16).offset(offset).build()
            }
        };
        self.flying[slot] = Some(Flying { piece, asked, mark });
        let sent = match mark.error() {
            Some(error) => Err(error),
            // SAFETY: the piece keeps the memory, and the file open, and `flying` keeps the piece until the kernel says that
            // it has ended.
            None => unsafe { self.push(&entry.user_data(slot as u64)) },
        };
        match sent {
            Ok(()) => self.submitted += 1,
            Err(error) => self.ready.push_back(Ended { slot, result: Err(error) }),
        }
        None
    }

    /// Hands what was sent to the kernel; with `wait`, sleeps until an operation has ended or the bell has rung.
    pub(in crate::disk) fn enter(&mut self, wait: bool, bell: &Bell) -> io::Result<()> {
        if !self.polling {
            let poll = opcode::PollAdd::new(types::Fd(bell.event().as_raw_fd()), POLL_IN).build();
            // SAFETY: it touches no memory. The bell is open for longer than the ring is used.
            self.polling = unsafe { self.push(&poll.user_data(BELL)) }.is_ok();
        }
        let wait = wait && self.ready.is_empty();
        match self.ring.submit_and_wait(usize::from(wait)) {
            Ok(_) => {}
            // Interrupted, or the kernel wants completions to be taken first.
            Err(error) if is_passing(&error) => {}
            Err(error) => return Err(error),
        }
        self.take_completions(bell);
        Ok(())
    }

    /// An operation that has ended, of those known since [`enter`](Self::enter).
    pub(in crate::disk) fn completion(&mut self) -> Option<Completion> {
        let Ended { slot, result } = self.ready.pop_front()?;
        let Flying { piece, asked, .. } = self.flying.get_mut(slot)?.take()?;
        self.vacant.push(slot);
        Some(Completion { piece, asked, result })
    }

    /// Whether a piece is being written whose checksum has not been taken.
    pub(in crate::disk) fn has_unsummed(&self) -> bool {
        self.unsummed().is_some()
    }

    /// Takes the checksum of one piece that is being written, if there is one without.
    pub(in crate::disk) fn checksum_one(&self) {
        if let Some(piece) = self.unsummed() {
            piece.checksum();
        }
    }

    fn unsummed(&self) -> Option<&Piece> {
        let pieces = self.flying.iter().flatten().map(|flying| &flying.piece);
        pieces.filter(|piece| piece.direction() == Direction::Write).find(|piece| !piece.has_sums())
    }

    fn take_completions(&mut self, bell: &Bell) {
        for entry in self.ring.completion() {
            if entry.user_data() == BELL {
                self.polling = false;
                bell.silence();
                continue;
            }
            self.submitted -= 1;
            let (slot, result) = (entry.user_data() as usize, outcome(entry.result()));
            let Some(Some(flying)) = self.flying.get(slot) else { continue };
            if let (true, Ok(moved)) = (flying.mark.flips(), &result) {
                flying.piece.operation().flip(*moved);
            }
            self.held.push(Ended { slot, result });
        }
        let (flying, faults, alone) = (&self.flying, &self.faults, self.submitted == 0);
        let known = |ended: &mut Ended| {
            flying[ended.slot].as_ref().is_none_or(|flying| !faults.holds(flying.mark, alone))
        };
        self.ready.extend(self.held.extract_if(.., known));
    }

    /// # Safety
    /// What the entry names stays valid until its completion has been taken.
    unsafe fn push(&mut self, entry: &squeue::Entry) -> io::Result<()> {
        // SAFETY: the caller's promise.
        if unsafe { self.ring.submission().push(entry) }.is_ok() {
            return Ok(());
        }
        // Full: what is in it may be handed over.
        match self.ring.submit() {
            Err(error) if !is_passing(&error) => return Err(error),
            _ => {}
        }
        // SAFETY: the caller's promise.
        let pushed = unsafe { self.ring.submission().push(entry) };
        pushed.map_err(|_| io::ErrorKind::WouldBlock.into())
    }

    /// Reads or writes a buffer at the start of a file and waits for it: for probing, with a ring that is used for nothing
    /// else. With `fixed`, the buffer is registered first.
    ///
    /// A buffer of which nobody can say that the kernel is done with it is leaked.
    pub(in crate::disk) fn blocking(
        &mut self,
        direction: Direction,
        file: BorrowedFd<'_>,
        mut buffer: DiskBuf,
        fixed: bool,
    ) -> (io::Result<usize>, Option<DiskBuf>) {
        let file = types::Fd(file.as_raw_fd());
        let (address, len) = (buffer.memory().cast::<u8>().as_ptr(), buffer.memory().len() as u32);
        if fixed {
            let whole = [libc::iovec { iov_base: address.cast(), iov_len: len as usize }];
            // SAFETY: the memory is valid, and once it is gone no operation names this entry.
            let registered = self
                .make_table()
                .and_then(|()| unsafe { self.ring.submitter().register_buffers_update(0, &whole, None) });
            if let Err(error) = registered {
                return (Err(error), Some(buffer));
            }
        }
        let entry = match (direction, fixed) {
            (Direction::Read, false) => opcode::Read::new(file, address, len).build(),
            (Direction::Write, false) => opcode::Write::new(file, address, len).build(),
            (Direction::Read, true) => opcode::ReadFixed::new(file, address, len, 0).build(),
            (Direction::Write, true) => opcode::WriteFixed::new(file, address, len, 0).build(),
        };
        // SAFETY: the buffer is kept until its completion has been taken, and leaked if that does not come; the kernel keeps
        // a file open that it has been given.
        if let Err(error) = unsafe { self.push(&entry) } {
            return (Err(error), Some(buffer));
        }
        loop {
            if let Err(error) = self.ring.submit_and_wait(1)
                && !is_passing(&error)
            {
                core::mem::forget(buffer);
                return (Err(error), None);
            }
            if let Some(entry) = self.ring.completion().next() {
                return (outcome(entry.result()), Some(buffer));
            }
        }
    }
}

impl Drop for Ring {
    fn drop(&mut self) {
        while self.submitted > 0 {
            match self.ring.submit_and_wait(1) {
                Err(error) if !is_passing(&error) => {
                    self.flying.iter_mut().filter_map(Option::take).for_each(core::mem::forget);
                    core::mem::take(&mut self.fixed).into_iter().for_each(core::mem::forget);
                    return;
                }
                _ => {
                    self.submitted -= self.ring.completion().filter(|entry| entry.user_data() != BELL).count()
                }
            }
        }
    }
}

/// Whether the same may well succeed the next time.
fn is_passing(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::Interrupted | io::ErrorKind::WouldBlock | io::ErrorKind::ResourceBusy
    )
}

/// What an operation came to, as a system call says it.
fn outcome(result: i32) -> io::Result<usize> {
    usize::try_from(result).map_err(|_| io::Error::from_raw_os_error(result.saturating_neg()))
}

/// User data of the operation that listens for the bell.
const BELL: u64 = u64::MAX;
const POLL_IN: u32 = 1;
/// Entries in the table of registered memory.
const TABLE: u32 = 256;
/// The most that one entry can have, in bytes.
const MOST_FIXED: usize = 1 << 30;
