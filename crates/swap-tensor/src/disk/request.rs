//! One read or write, but for its memory: where it goes, what is left of it, and what it came to.

use super::{
    DiskError,
    drive::Drive,
    parts::{Part, Sums},
    room::Room,
};
use core::ops::Range;
use std::{
    io,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
};

/// Which way bytes go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Direction {
    Read,
    Write,
}

impl Direction {
    pub(super) fn name(self) -> &'static str {
        match self {
            Direction::Read => "read",
            Direction::Write => "write",
        }
    }
}

/// A request, cut into pieces of one length, but for the last.
pub(super) struct Request {
    direction: Direction,
    drive: Arc<Drive>,
    /// Given up when the request ends, before anybody hears of it: the room may go then.
    room: Mutex<Option<Arc<Room>>>,
    /// First byte in the file.
    start: u64,
    bytes: u64,
    piece: u64,
    sums: Sums,
    /// A read's: the part, with the checksum it was written with.
    part: Option<Part>,
    /// Pieces that have not ended, whether begun or not.
    left: AtomicUsize,
    /// Whether any piece has been begun.
    begun: AtomicBool,
    failed: AtomicBool,
    /// The first error.
    error: Mutex<Option<DiskError>>,
}

impl Request {
    /// A write of `bytes` from the start of `room`, with these parts.
    ///
    /// # Errors
    /// The room is not for writing any more, or too small for the parts.
    pub(super) fn write(
        room: &Arc<Room>,
        bytes: u64,
        parts: Box<[Range<u64>]>,
        piece: u64,
    ) -> Result<Self, DiskError> {
        room.begin_write(parts.last().map_or(0, |part| part.end))?;
        Ok(Self::new(Direction::Write, room, room.start, bytes, Sums::new(parts, bytes, piece), piece))
    }

    /// A read of `window` of the file, in which a part begins after `skip` bytes.
    pub(super) fn read(room: &Arc<Room>, part: Part, window: Range<u64>, skip: u64, piece: u64) -> Self {
        let bytes = window.end - window.start;
        let sums = Sums::new(core::iter::once(skip..skip + part.bytes()).collect(), bytes, piece);
        let mut request = Self::new(Direction::Read, room, window.start, bytes, sums, piece);
        request.part = Some(part);
        request
    }

    fn new(direction: Direction, room: &Arc<Room>, start: u64, bytes: u64, sums: Sums, piece: u64) -> Self {
        room.drive.counters().begun();
        Request {
            direction,
            drive: Arc::clone(&room.drive),
            room: Mutex::new(Some(Arc::clone(room))),
            start,
            bytes,
            piece,
            sums,
            part: None,
            left: AtomicUsize::new(bytes.div_ceil(piece) as usize),
            begun: AtomicBool::new(false),
            failed: AtomicBool::new(false),
            error: Mutex::new(None),
        }
    }

    pub(super) fn direction(&self) -> Direction {
        self.direction
    }

    pub(super) fn drive(&self) -> &Drive {
        &self.drive
    }

    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    pub(super) fn sums(&self) -> &Sums {
        &self.sums
    }

    pub(super) fn pieces(&self) -> usize {
        self.bytes.div_ceil(self.piece) as usize
    }

    /// Where in the request's memory a piece is.
    pub(super) fn piece(&self, index: usize) -> Range<usize> {
        let start = index as u64 * self.piece;
        start as usize..self.bytes.min(start + self.piece) as usize
    }

    /// Where in the file a byte of the request's memory is.
    pub(super) fn offset(&self, at: usize) -> u64 {
        self.start + at as u64
    }

    /// A piece is begun.
    pub(super) fn begin(&self) {
        self.begun.store(true, Ordering::Relaxed);
    }

    /// Whether it has failed: then no piece need be begun.
    pub(super) fn has_failed(&self) -> bool {
        self.failed.load(Ordering::Relaxed)
    }

    /// Takes note of an error, if it is the first.
    pub(super) fn fail(&self, error: DiskError) {
        super::lock(&self.error).get_or_insert(error);
        self.failed.store(true, Ordering::Relaxed);
    }

    /// An operation of a piece failed for good.
    pub(super) fn fail_at(&self, at: usize, requested: usize, done: usize, source: io::Error) {
        let (path, offset) = (self.drive.path().to_owned(), self.offset(at));
        let (requested, done) = (requested as u64, done as u64);
        let full = matches!(source.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded);
        self.fail(match self.direction {
            Direction::Write if full => DiskError::NoSpace { path, offset, requested, done, source },
            _ => DiskError::Io { path, operation: self.direction.name(), offset, requested, done, source },
        });
    }

    /// So many pieces have ended, well or not; whether none is left.
    pub(super) fn end(&self, pieces: usize) -> bool {
        // What each piece did happens before the request is concluded.
        self.left.fetch_sub(pieces, Ordering::AcqRel) == pieces
    }

    /// Every piece has ended: what it comes to. What was written is published, what was read is compared.
    pub(super) fn conclude(&self) -> Result<(), DiskError> {
        let error = super::lock(&self.error).take();
        let outcome = match error {
            Some(error) => Err(error),
            None => self.sums.finish().ok_or(DiskError::Closed { operation: self.direction.name() }),
        };
        let outcome = match (self.direction, outcome) {
            (Direction::Read, Ok(found)) => self.compare(&found),
            (Direction::Read, Err(error)) => Err(error),
            (Direction::Write, outcome) => self.publish(outcome),
        };
        super::lock(&self.room).take();
        self.drive.counters().ended(self.direction == Direction::Write, outcome.is_ok());
        outcome
    }

    fn compare(&self, found: &[u32]) -> Result<(), DiskError> {
        let (Some(part), Some(&found)) = (&self.part, found.first()) else { return Ok(()) };
        if part.crc == found {
            return Ok(());
        }
        self.drive.counters().damaged();
        let room = super::lock(&self.room);
        Err(DiskError::Corrupt {
            path: self.drive.path().to_owned(),
            offset: room.as_ref().map_or(self.start, |room| room.place(&part.range).start),
            length: part.bytes(),
            expected: part.crc,
            found,
        })
    }

    fn publish(&self, outcome: Result<Vec<u32>, DiskError>) -> Result<(), DiskError> {
        let room = super::lock(&self.room);
        let Some(room) = room.as_ref() else { return outcome.map(drop) };
        match outcome {
            Ok(sums) => {
                let parts = self.sums.parts().iter().zip(sums);
                room.end_write(
                    parts.map(|(range, crc)| Part { range: range.clone(), crc, dead: false }).collect(),
                );
                Ok(())
            }
            Err(error) => {
                room.end_write_badly(self.begun.load(Ordering::Relaxed));
                Err(error)
            }
        }
    }
}

impl Drop for Request {
    fn drop(&mut self) {
        // Never sent.
        if super::lock(&self.room).is_some() {
            self.fail(DiskError::Closed { operation: self.direction.name() });
            let _ = self.conclude();
        }
    }
}
