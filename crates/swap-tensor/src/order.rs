//! The order of work on the device: what must wait for what, the events that mark where it ends, and moves, which need both.

use crate::{
    SwapError,
    books::Books,
    device::{DeviceBooks, DeviceIndex},
    observe::Step,
    pool::Inner,
};
use allocator_core::{AllocError, ApplyError, CopiesRefused, DeviceBuffer, Move, Plan, Request};
use core::ops::Range;
use pinned_host::{Access, Queue, QueueError, Transfer};
use std::time::Instant;

/// What came of an attempt to make one hole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Moved {
    /// There is one, or there may be: another look.
    Made,
    /// It would take more than it is worth.
    NotWorth,
    /// Leased blocks are in the way.
    NoPlan,
}

impl<T: Transfer> Inner<T> {
    /// Moves blocks of a device so that `request` finds one hole, if so many bytes are `worth` it.
    pub(crate) fn move_for(
        &self,
        books: &mut Books<T>,
        on: DeviceIndex,
        request: Request,
        worth: impl FnOnce(&mut Books<T>, u64) -> bool,
    ) -> Result<Moved, SwapError> {
        let device = &mut books.devices[on];
        let mut plan = core::mem::take(&mut device.plan);
        let planned = device.arena.plan_room_into(request, &mut plan).is_ok() && !plan.is_empty();
        let moved = match planned {
            true if worth(books, plan.bytes()) => self.apply(books, on, &plan).map(|()| Moved::Made),
            true => Ok(Moved::NotWorth),
            false => Ok(Moved::NoPlan),
        };
        books.devices[on].plan = plan;
        moved
    }

    /// Runs a plan as one operation on the buffer's queue: all waits, the copies in order, one event.
    fn apply(&self, books: &mut Books<T>, on: DeviceIndex, plan: &Plan) -> Result<(), SwapError> {
        let (queue, probe) = (&self.on(on).queue, &self.on(on).probe);
        let started = Instant::now();
        let bytes = |moves: &[Move]| moves.iter().map(|m| m.src.end - m.src.start).sum::<u64>();
        let _span = probe.enter(Step::Move, "", bytes(plan.moves()));
        if books.devices[on].writers.iter().any(|(_, of)| of.same_queue(queue)) {
            // What failed before the moves is then reported by this event, and not blamed on the blocks they move.
            if let Err(error) = self.record(books, on, queue) {
                return Err(books.noted(on, SwapError::device("order a move", error)));
            }
        }
        books.devices[on].list_accesses(plan.moves());
        self.order(books, on, queue, "order a move")?;
        let arena = &mut books.devices[on].arena;
        let applied = arena.apply_plan(plan, |buffer, copies| buffer.copies_within(copies));
        let (done, refused) = match applied {
            Ok(()) => (plan.moves().len(), None),
            Err(ApplyError::Run(CopiesRefused { made, error })) => {
                (made, Some(SwapError::device("move a block", error)))
            }
            // What was found out while it was ordered gave a block back: there is more room, and another plan.
            Err(ApplyError::Alloc(AllocError::StalePlan { .. })) => return Ok(()),
            Err(ApplyError::Alloc(error)) => (0, Some(SwapError::from(error))),
            Err(_) => (0, Some(self.lost(on))),
        };
        books.devices[on].counters.moved_bytes += bytes(&plan.moves()[..done]);
        if done > 0 {
            let made = &plan.moves()[..done];
            books.devices[on].list_accesses(made);
            let event = self.seal_moves(books, on, made)?;
            probe.moved(done, bytes(made), event.as_ref(), started);
        }
        match refused {
            Some(error) => {
                probe.moves_failed(&error);
                books.note(on, &error);
                Err(error)
            }
            None => Ok(()),
        }
    }

    /// Records the event behind enqueued moves; `None`: they have ended. If none is to be had, and waiting fails too, they
    /// are torn.
    fn seal_moves(
        &self,
        books: &mut Books<T>,
        on: DeviceIndex,
        moves: &[Move],
    ) -> Result<Option<T::Event>, SwapError> {
        match self.record(books, on, &self.on(on).queue) {
            Ok(Some(event)) => {
                let DeviceBooks { hazards, accesses, changes, .. } = &mut books.devices[on];
                hazards.after(accesses, &event);
                changes.extend(moves.iter().map(|m| (event.clone(), m.handle)));
                Ok(Some(event))
            }
            Ok(None) => Ok(None),
            Err(error) => {
                let error = SwapError::device("wait for a move", error);
                self.on(on).probe.moves_failed(&error);
                books.note(on, &error);
                let DeviceBooks { unsealed, accesses, .. } = &mut books.devices[on];
                unsealed.extend_from_slice(accesses);
                moves.iter().for_each(|m| books.tear(on, m.handle));
                Err(error)
            }
        }
    }

    /// An event behind everything on `queue`. If none can be recorded the work is waited for here: `None` says that it is
    /// done, and went well.
    pub(crate) fn record(
        &self,
        books: &mut Books<T>,
        on: DeviceIndex,
        queue: &T::Queue,
    ) -> Result<Option<T::Event>, QueueError<T::Queue>> {
        match queue.record() {
            Ok(event) => {
                books.witness(on, &event, queue);
                Ok(Some(event))
            }
            Err(_) => match queue.drain() {
                Ok(()) => Ok(None),
                Err(error) => {
                    books.spoil_writers(on, queue);
                    Err(error)
                }
            },
        }
    }

    /// Marks the end of moves that could not be marked when they were made.
    fn seal(&self, books: &mut Books<T>, on: DeviceIndex) -> Result<(), SwapError> {
        if books.devices[on].unsealed.is_empty() {
            return Ok(());
        }
        let queue = &self.on(on).queue;
        let recorded = queue.record().map_err(|error| SwapError::device("wait for a move", error));
        let event = recorded.map_err(|error| books.noted(on, error))?;
        books.witness(on, &event, queue);
        let DeviceBooks { hazards, unsealed, .. } = &mut books.devices[on];
        hazards.after(&core::mem::take(unsealed), &event);
        Ok(())
    }

    /// Makes `queue`, one of the device's, wait for everything that must come before its `accesses`.
    pub(crate) fn order(
        &self,
        books: &mut Books<T>,
        on: DeviceIndex,
        queue: &T::Queue,
        operation: &'static str,
    ) -> Result<(), SwapError> {
        self.seal(books, on)?;
        let DeviceBooks { hazards, accesses, waits, .. } = &mut books.devices[on];
        waits.clear();
        hazards.before(accesses, waits);
        let ordered = waits.iter().try_for_each(|event| queue.wait(event));
        waits.clear();
        ordered.map_err(|error| books.noted(on, SwapError::device(operation, error)))
    }

    /// [`order`](Self::order) for one range.
    pub(crate) fn order_one(
        &self,
        books: &mut Books<T>,
        on: DeviceIndex,
        (queue, range, access): (&T::Queue, Range<u64>, Access),
        operation: &'static str,
    ) -> Result<(), SwapError> {
        let accesses = &mut books.devices[on].accesses;
        accesses.clear();
        accesses.push((range, access));
        self.order(books, on, queue, operation)
    }
}

impl<T: Transfer> DeviceBooks<T> {
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

#[cfg(all(test, feature = "cpu"))]
mod tests {
    use super::Moved;
    use crate::{DType, DeviceIndex, SwapPool, TensorSpec, device::Spot};
    use allocator_core::Request;
    use backend_cpu::CpuDevice;
    use pinned_host::Queue;

    /// A change that is found to have failed when the order of a plan is made gives a block back: the plan is stale then.
    #[test]
    fn a_block_that_goes_while_a_plan_is_ordered_costs_nobody_a_lease() {
        let unit = 1u64 << 12;
        let builder = SwapPool::builder(CpuDevice::new().unwrap()).device_memory(8 * unit);
        let pool = builder.host_memory(64 * unit).build().unwrap();
        let make = |name: &str, n: u64| {
            let spec = TensorSpec::new(name, DType::U8, [n * unit]).unwrap();
            pool.create(spec, &vec![1; (n * unit) as usize]).unwrap()
        };
        let ts: Vec<_> = (0..8).map(|i| make(&format!("t{i}"), 1)).collect();
        for t in &ts {
            t.read().unwrap().wait().unwrap();
        }
        pool.settle().unwrap();
        // t7 is leased for writing on the pool's own queue, t6 is idle and clean; holes where t1 and t3 were.
        let writer = ts[7].write().unwrap();
        assert!(ts[1].evict() && ts[3].evict());
        pool.settle().unwrap();
        let inner = &pool.inner;
        let on = DeviceIndex::FIRST;
        let mut books = inner.lock();
        // Work on t6 that failed, which nobody has looked at yet.
        inner.on(on).queue.launch(|| Err(backend_cpu::CpuError::TooLarge { bytes: 1 })).unwrap();
        let event = inner.on(on).queue.record().unwrap();
        while matches!(pinned_host::Event::query(&event), Ok(false)) {
            std::thread::yield_now();
        }
        let block = books.slot(Spot { at: ts[6].at(), on }).block.unwrap();
        books.devices[on].changes.push((event, block));
        books.devices[on].look_at = 0; // as with 64 changes under way
        let moved = inner.move_for(&mut books, on, Request::new(2 * unit), |_, _| true);
        drop(books);
        drop(writer);
        assert_eq!(moved.unwrap(), Moved::Made, "another look");
        drop(make("t8", 2).read().unwrap());
        pool.check().unwrap();
    }
}
