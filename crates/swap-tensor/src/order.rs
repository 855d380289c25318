//! The order of work on the device: what must wait for what, the events that mark where it ends, and moves, which need both.

use crate::{SwapError, books::Books, observe::Step, pool::Inner};
use allocator_core::{ApplyError, DeviceBuffer, Move, Plan, Request};
use core::ops::Range;
use pinned_host::{Access, Queue, QueueError, Transfer};
use std::time::Instant;

impl<T: Transfer> Inner<T> {
    /// Moves blocks so that `request` finds one hole. `false`: no plan, leased blocks are in the way.
    pub(crate) fn move_for(&self, books: &mut Books<T>, request: Request) -> Result<bool, SwapError> {
        let mut plan = core::mem::take(&mut books.plan);
        let planned = books.arena.plan_room_into(request, &mut plan).is_ok() && !plan.is_empty();
        let moved = if planned { self.apply(books, &plan) } else { Ok(()) };
        books.plan = plan;
        moved.map(|()| planned)
    }

    /// Runs a plan as one operation on the buffer's queue: all waits, the copies in order, one event.
    fn apply(&self, books: &mut Books<T>, plan: &Plan) -> Result<(), SwapError> {
        let queue = &self.queue;
        let started = Instant::now();
        let bytes = |moves: &[Move]| moves.iter().map(|m| m.src.end - m.src.start).sum::<u64>();
        let _span = self.probe.enter(Step::Move, "", bytes(plan.moves()));
        if books.writers.iter().any(|(_, of)| of.same_queue(queue)) {
            // What failed before the moves is then reported by this event, and not blamed on the blocks they move.
            self.record(books, queue).map_err(|error| SwapError::device("order a move", error))?;
        }
        books.list_accesses(plan.moves());
        self.order(books, queue, "order a move")?;
        let mut refused = None;
        let mut done = 0;
        for m in plan.moves() {
            let applied = books.arena.apply(m, |buffer, m| buffer.copy_within(m.src.clone(), m.dst));
            match applied {
                Ok(()) => done += 1,
                Err(ApplyError::Alloc(error)) => refused = Some(SwapError::from(error)),
                Err(ApplyError::Run(error)) => refused = Some(SwapError::device("move a block", error)),
                Err(_) => refused = Some(self.lost()),
            }
            if refused.is_some() {
                break;
            }
            books.counters.moved_bytes += m.src.end - m.src.start;
        }
        if done > 0 {
            let made = &plan.moves()[..done];
            books.list_accesses(made);
            let event = self.seal_moves(books, made)?;
            self.probe.moved(done, bytes(made), event.as_ref(), started);
        }
        match refused {
            Some(error) => {
                self.probe.moves_failed(&error);
                books.note(&error);
                Err(error)
            }
            None => Ok(()),
        }
    }

    /// Records the event behind enqueued moves; `None`: they have ended. If none is to be had, and waiting fails too, they
    /// are torn.
    fn seal_moves(&self, books: &mut Books<T>, moves: &[Move]) -> Result<Option<T::Event>, SwapError> {
        match self.record(books, &self.queue) {
            Ok(Some(event)) => {
                let accesses = core::mem::take(&mut books.accesses);
                books.hazards.after(&accesses, &event);
                books.accesses = accesses;
                for m in moves {
                    books.changes.push((event.clone(), m.handle));
                }
                Ok(Some(event))
            }
            Ok(None) => Ok(None),
            Err(error) => {
                let error = SwapError::device("wait for a move", error);
                self.probe.moves_failed(&error);
                books.note(&error);
                let accesses = core::mem::take(&mut books.accesses);
                books.unsealed.extend_from_slice(&accesses);
                books.accesses = accesses;
                for m in moves {
                    books.tear(m.handle);
                }
                Err(error)
            }
        }
    }

    /// An event behind everything on `queue`. If none can be recorded the work is waited for here: `None` says that it is
    /// done, and went well.
    pub(crate) fn record(
        &self,
        books: &mut Books<T>,
        queue: &T::Queue,
    ) -> Result<Option<T::Event>, QueueError<T::Queue>> {
        match queue.record() {
            Ok(event) => {
                books.witness(&event, queue);
                Ok(Some(event))
            }
            Err(_) => match queue.drain() {
                Ok(()) => Ok(None),
                Err(error) => {
                    books.spoil_writers(queue);
                    Err(error)
                }
            },
        }
    }

    /// Marks the end of moves that could not be marked when they were made.
    fn seal(&self, books: &mut Books<T>) -> Result<(), SwapError> {
        if books.unsealed.is_empty() {
            return Ok(());
        }
        let event = self.queue.record().map_err(|error| SwapError::device("wait for a move", error))?;
        books.witness(&event, &self.queue);
        let unsealed = core::mem::take(&mut books.unsealed);
        books.hazards.after(&unsealed, &event);
        Ok(())
    }

    /// Makes `queue` wait for everything that must come before `books.accesses`.
    pub(crate) fn order(
        &self,
        books: &mut Books<T>,
        queue: &T::Queue,
        operation: &'static str,
    ) -> Result<(), SwapError> {
        self.seal(books)?;
        books.waits.clear();
        let mut waits = core::mem::take(&mut books.waits);
        books.hazards.before(&books.accesses, &mut waits);
        let ordered = waits.iter().try_for_each(|event| queue.wait(event));
        waits.clear();
        books.waits = waits;
        ordered.map_err(|error| {
            let error = SwapError::device(operation, error);
            books.note(&error);
            error
        })
    }

    /// [`order`](Self::order) for one range.
    pub(crate) fn order_one(
        &self,
        books: &mut Books<T>,
        queue: &T::Queue,
        range: Range<u64>,
        access: Access,
        operation: &'static str,
    ) -> Result<(), SwapError> {
        books.accesses.clear();
        books.accesses.push((range, access));
        self.order(books, queue, operation)
    }
}

impl<T: Transfer> Books<T> {
    /// Makes `accesses` what one operation of these moves reads and writes, in as few ranges as possible.
    fn list_accesses(&mut self, moves: &[Move]) {
        self.accesses.clear();
        for m in moves {
            self.accesses.push((m.src.clone(), Access::Read));
            self.accesses.push((m.dst..m.dst + (m.src.end - m.src.start), Access::Write));
        }
        self.accesses.sort_unstable_by_key(|(range, access)| (*access == Access::Write, range.start));
        self.accesses.dedup_by(|next, kept| {
            let joins = next.1 == kept.1 && next.0.start <= kept.0.end;
            if joins {
                kept.0.end = kept.0.end.max(next.0.end);
            }
            joins
        });
    }
}
