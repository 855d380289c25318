//! The queue of one direction of one directory: reads never wait behind writes.

use super::bell::Bell;
use super::io::flight::{Pending, Piece};
use super::{DiskError, request::Direction};
use std::{
    collections::VecDeque,
    io,
    path::Path,
    sync::{Condvar, Mutex, MutexGuard},
};

/// Requests in the order they came, cut into pieces for whoever does the I/O.
pub(super) struct Lane {
    pub(super) direction: Direction,
    /// Which directory.
    pub(super) drive: usize,
    /// Requests that may wait.
    limit: usize,
    queue: Mutex<Queue>,
    /// For threads that sleep here.
    wake: Condvar,
    /// For a thread that sleeps in the kernel.
    bell: Bell,
}

#[derive(Default)]
struct Queue {
    pending: VecDeque<Pending>,
    closed: bool,
    /// Threads were started for it.
    started: bool,
}

/// What a lane has to do.
pub(super) enum Next {
    Piece(Piece),
    /// Nothing now.
    Nothing,
    /// Nothing any more.
    Closed,
}

impl Lane {
    pub(super) fn new(direction: Direction, drive: usize, limit: usize) -> io::Result<Self> {
        Ok(Lane {
            direction,
            drive,
            limit,
            queue: Mutex::default(),
            wake: Condvar::new(),
            bell: Bell::new()?,
        })
    }

    /// Adds a request. The caller starts the threads if that is its answer.
    pub(super) fn push(&self, pending: Pending) -> Result<MustStart, (Pending, Refusal)> {
        let mut queue = self.queue();
        if queue.closed {
            return Err((pending, Refusal::Closed));
        }
        let queued = queue.pending.len();
        if queued >= self.limit {
            return Err((pending, Refusal::Busy { queued }));
        }
        queue.pending.push_back(pending);
        let must_start = !core::mem::replace(&mut queue.started, true);
        drop(queue);
        self.wake.notify_all();
        self.bell.ring();
        Ok(MustStart(must_start))
    }

    /// A piece, if there is one; never blocks.
    pub(super) fn try_next(&self) -> Next {
        let mut spent = Vec::new();
        let next = self.queue().take(&mut spent);
        // A request that has failed may end here: not under the lock, for it calls its waiters.
        drop(spent);
        next
    }

    /// A piece; sleeps until there is one, and `None` when there will be none.
    pub(super) fn next(&self) -> Option<Piece> {
        loop {
            match self.try_next() {
                Next::Piece(piece) => return Some(piece),
                Next::Closed => return None,
                Next::Nothing => {
                    let idle = |queue: &mut Queue| queue.pending.is_empty() && !queue.closed;
                    drop(self.wake.wait_while(self.queue(), idle));
                }
            }
        }
    }

    /// Refuses what has not been begun, and everything to come.
    pub(super) fn close(&self) {
        let mut queue = self.queue();
        queue.closed = true;
        let refused = core::mem::take(&mut queue.pending);
        drop(queue);
        drop(refused);
        self.wake.notify_all();
        self.bell.ring();
    }

    /// Refuses what waits, since no thread could be started for it; the next request tries again.
    pub(super) fn refuse(&self, path: &Path, why: &io::Error) {
        let mut queue = self.queue();
        queue.started = false;
        let refused = core::mem::take(&mut queue.pending);
        drop(queue);
        for pending in refused {
            let source = io::Error::new(why.kind(), why.to_string());
            pending.refuse(DiskError::Setup { path: path.to_owned(), operation: "start a thread", source });
        }
    }

    /// Has its thread look whether there is something else to do, if it sleeps in the kernel.
    pub(super) fn ring(&self) {
        self.bell.ring();
    }

    /// Wakes who sleeps in the kernel.
    #[cfg(target_os = "linux")]
    pub(super) fn bell(&self) -> &Bell {
        &self.bell
    }

    fn queue(&self) -> MutexGuard<'_, Queue> {
        super::lock(&self.queue)
    }
}

/// Whether the caller is the first, and is to start the threads.
pub(super) struct MustStart(pub(super) bool);

/// Why a request was not taken.
pub(super) enum Refusal {
    Closed,
    Busy { queued: usize },
}

impl Queue {
    /// The next piece of the oldest request. Requests that have none left come out, to be dropped by the caller.
    fn take(&mut self, spent: &mut Vec<Pending>) -> Next {
        while let Some(oldest) = self.pending.front_mut() {
            let piece = oldest.next();
            if oldest.is_exhausted() {
                spent.extend(self.pending.pop_front());
            }
            if let Some(piece) = piece {
                return Next::Piece(piece);
            }
        }
        if self.closed { Next::Closed } else { Next::Nothing }
    }
}

impl Refusal {
    pub(super) fn into_error(self, path: &Path, direction: Direction) -> DiskError {
        match self {
            Refusal::Closed => DiskError::Closed { operation: direction.name() },
            Refusal::Busy { queued } => DiskError::Busy { path: path.to_owned(), queued },
        }
    }
}
