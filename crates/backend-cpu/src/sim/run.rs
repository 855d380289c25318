//! Running operations: which comes next, and what it does.

use super::buffer::Owner;
use super::state::{Failure, Fate, MAX_REPORTS, Mark, Sim, Store};
use super::{Operation, Place, PoisonRead, SimError};
use crate::host_bytes::HostBytes;
use pinned_host::Access;
use std::cell::Cell;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

/// An operation that was submitted and has not run.
pub(crate) struct Pending {
    pub(crate) operation: Operation,
    pub(crate) work: Work,
    pub(crate) fate: Fate,
}

/// What an operation does.
pub(crate) enum Work {
    Upload { src: HostBytes, dst: Arc<Owner>, at: u64 },
    Download { src: Arc<Owner>, from: u64, dst: HostBytes },
    Move { buffer: Arc<Owner>, src: Range<u64>, dst: u64 },
    Wait(Mark),
    Kernel { touches: Vec<(Arc<Owner>, Range<u64>, Access)>, run: Kernel },
}

/// A user's kernel over copies of the ranges it declared.
pub(crate) type Kernel = Box<dyn FnOnce(&mut [Vec<u8>]) + Send>;

thread_local! {
    static IN_KERNEL: Cell<bool> = const { Cell::new(false) };
}

/// Whether a simulated kernel runs on this thread, which then holds a device's state.
pub(crate) fn in_kernel() -> bool {
    IN_KERNEL.get()
}

impl Sim {
    /// Runs operations until `mark` is reached or the device is lost. The order is adversarial: half of the time
    /// as little as the mark needs, half of the time whoever the seed favours.
    pub(crate) fn run_until(&mut self, mark: &Mark) {
        let lazy = self.rng.one_in(2);
        while !self.lost && !self.reached(mark) {
            let queue = self.next_queue(mark.queue, lazy);
            self.step(queue);
        }
    }

    /// Runs up to two operations, so that polling `mark` ends: each time one of them may be one it needs.
    pub(crate) fn poll(&mut self, mark: &Mark) {
        for _ in 0..self.rng.below(3) {
            if self.lost || self.reached(mark) {
                return;
            }
            let lazy = self.rng.one_in(2);
            let queue = self.next_queue(mark.queue, lazy);
            self.step(queue);
        }
    }

    /// The queue to run next on the way to a point of `target` that is not reached.
    fn next_queue(&mut self, target: usize, lazy: bool) -> usize {
        let needed = self.needed_first(target);
        if lazy && !self.is_delayed(needed) {
            return needed;
        }
        if self.rng.one_in(8) {
            let lucky = self.rng.below(self.queues.len() as u64) as usize;
            self.queues[lucky].favour = self.rng.next();
        }
        (0..self.queues.len())
            .filter(|&queue| self.is_runnable(queue) && !self.is_delayed(queue))
            .max_by_key(|&queue| self.queues[queue].favour)
            .unwrap_or(needed)
    }

    /// The queue whose head must run before `queue` gets anywhere: itself, or at the end of a chain of waits.
    /// The chain ends, since waits point backwards in the order of submission.
    fn needed_first(&self, mut queue: usize) -> usize {
        while let Some(Pending { work: Work::Wait(mark), .. }) = self.queues[queue].pending.front() {
            if self.reached(mark) {
                break;
            }
            queue = mark.queue;
        }
        queue
    }

    fn is_runnable(&self, queue: usize) -> bool {
        match self.queues[queue].pending.front() {
            None => false,
            Some(Pending { work: Work::Wait(mark), .. }) => self.reached(mark),
            Some(_) => true,
        }
    }

    fn is_delayed(&self, queue: usize) -> bool {
        self.queues[queue].pending.front().is_some_and(|pending| pending.fate == Fate::Delay)
    }

    /// Runs the head of `queue`.
    fn step(&mut self, queue: usize) {
        let Some(pending) = self.queues[queue].pending.pop_front() else { return };
        let transfer = matches!(pending.work, Work::Upload { .. } | Work::Download { .. });
        let outcome = self.execute(pending);
        let lane = &mut self.queues[queue];
        lane.done += 1;
        if let Err(error) = outcome {
            lane.failures.push(Failure { operation: lane.done, transfer, error });
        }
    }

    fn execute(&mut self, pending: Pending) -> Result<(), SimError> {
        let Pending { operation, work, fate } = pending;
        match work {
            Work::Wait(_) => Ok(()),
            Work::Upload { src, dst, at } => {
                let len = src.as_slice().len();
                let (done, outcome) = cut(fate, operation, len);
                let Some(store) = self.buffers.get_mut(&dst.number) else { return outcome };
                let (start, all) = (at as usize, at..at + len as u64);
                store.bytes[start..start + done].copy_from_slice(&src.as_slice()[..done]);
                store.written.insert(&(at..at + done as u64));
                self.spoil(dst.number, &all, fate);
                outcome
            }
            Work::Download { src, from, mut dst } => {
                let len = dst.as_slice().len();
                let (done, outcome) = cut(fate, operation, len);
                let range = from..from + len as u64;
                self.note_poison(operation, src.number, &range);
                let Some(store) = self.buffers.get(&src.number) else { return outcome };
                let start = from as usize;
                dst.as_mut_slice()[..done].copy_from_slice(&store.bytes[start..start + done]);
                self.spoil_bytes(dst.as_mut_slice(), fate);
                outcome
            }
            Work::Move { buffer, src, dst } => {
                let len = (src.end - src.start) as usize;
                let (done, outcome) = cut(fate, operation, len);
                let Some(store) = self.buffers.get_mut(&buffer.number) else { return outcome };
                let part = src.start..src.start + done as u64;
                store.bytes.copy_within(part.start as usize..part.end as usize, dst as usize);
                store.written.copy(&part, dst);
                self.spoil(buffer.number, &(dst..dst + len as u64), fate);
                outcome
            }
            Work::Kernel { touches, run } => self.execute_kernel(operation, fate, touches, run),
        }
    }

    fn execute_kernel(
        &mut self,
        operation: Operation,
        fate: Fate,
        touches: Vec<(Arc<Owner>, Range<u64>, Access)>,
        run: Kernel,
    ) -> Result<(), SimError> {
        let mut copies = Vec::with_capacity(touches.len());
        for (owner, range, access) in &touches {
            if *access == Access::Read {
                self.note_poison(operation, owner.number, range);
            }
            copies.push(
                self.buffers.get(&owner.number).map_or(Vec::new(), |store| store.slice(range).to_vec()),
            );
        }
        IN_KERNEL.set(true);
        let ran = catch_unwind(AssertUnwindSafe(|| run(&mut copies)));
        IN_KERNEL.set(false);
        let fate = match ran {
            Ok(()) if fate == Fate::Short => Fate::Fail,
            Ok(()) => fate,
            Err(payload) => {
                // Dropping a payload may panic, and this is no place to unwind through.
                std::mem::forget(payload);
                Fate::Fail
            }
        };
        for ((owner, range, _), copy) in
            touches.iter().zip(copies).filter(|(touch, _)| touch.2 == Access::Write)
        {
            let Some(store) = self.buffers.get_mut(&owner.number) else { continue };
            let target = store.slice_mut(range);
            let kept = copy.len().min(target.len());
            target[..kept].copy_from_slice(&copy[..kept]);
            store.written.insert(range);
            self.spoil(owner.number, range, fate);
        }
        cut(fate, operation, 0).1
    }

    /// Does to a range of a buffer what a fault does to a destination.
    fn spoil(&mut self, buffer: u64, range: &Range<u64>, fate: Fate) {
        let Some(mut store) = self.buffers.remove(&buffer) else { return };
        self.spoil_bytes(store.slice_mut(range), fate);
        if fate == Fate::Fail {
            store.written.remove(range);
        }
        self.buffers.insert(buffer, store);
    }

    fn spoil_bytes(&mut self, bytes: &mut [u8], fate: Fate) {
        match fate {
            Fate::Fail => self.rng.fill(bytes),
            Fate::BitFlip if !bytes.is_empty() => {
                let bit = self.rng.below(8 * bytes.len() as u64);
                bytes[(bit / 8) as usize] ^= 1 << (bit % 8);
            }
            _ => {}
        }
    }

    pub(crate) fn note_poison(&mut self, operation: Operation, buffer: u64, range: &Range<u64>) {
        let poison = self.buffers.get(&buffer).and_then(|store| store.written.first_poison(range));
        if let Some(range) = poison
            && self.poison_reads.len() < MAX_REPORTS
        {
            self.poison_reads.push(PoisonRead { operation, place: Place::Buffer(buffer), range });
        }
    }
}

impl Store {
    pub(crate) fn slice(&self, range: &Range<u64>) -> &[u8] {
        &self.bytes[range.start as usize..range.end as usize]
    }

    pub(crate) fn slice_mut(&mut self, range: &Range<u64>) -> &mut [u8] {
        &mut self.bytes[range.start as usize..range.end as usize]
    }
}

/// How many of `len` bytes an operation gets done, and what its event will say.
fn cut(fate: Fate, operation: Operation, len: usize) -> (usize, Result<(), SimError>) {
    let Operation { number, call, .. } = operation;
    match fate {
        Fate::Good | Fate::BitFlip | Fate::Delay => (len, Ok(())),
        Fate::Fail => (0, Err(SimError::Failed { call, operation: number })),
        Fate::Short => {
            let done = len / 2;
            (done, Err(SimError::Short { call, operation: number, done: done as u64, asked: len as u64 }))
        }
    }
}

/// What a call asks for that is about no bytes.
pub(crate) const NO_BYTES: u64 = 0;

#[cfg(test)]
mod tests {
    use super::super::Call;
    use super::*;

    #[test]
    fn a_short_operation_ends_half_way() {
        let operation = Operation { number: 4, call: Call::Upload, queue: Some(0) };
        assert_eq!(cut(Fate::Good, operation, 9), (9, Ok(())));
        let short = SimError::Short { call: Call::Upload, operation: 4, done: 4, asked: 9 };
        assert_eq!(cut(Fate::Short, operation, 9), (4, Err(short)));
        assert_eq!(cut(Fate::Fail, operation, 9).0, 0);
    }
}
