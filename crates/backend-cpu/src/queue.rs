//! Queues of the CPU device: a list of operations and the thread that works it off.

use crate::CpuError;
use crate::event::{CpuEvent, Timeline};
use crate::range_lock::held_here;
use crate::sync::{lock, spin_until};
use crate::work::Work;
use pinned_host::{Event, Queue};
use std::cell::Cell;
use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::JoinHandle;

/// An ordered sequence of work with a thread of its own.
///
/// Kernels run on that thread. A copy that nobody has begun may also be done by whoever waits for it.
///
/// Cloning names the same queue. When the last clone of a queue made by
/// [`CpuDevice::new_queue`](crate::CpuDevice::new_queue) goes, its thread ends the work submitted and stops.
/// Submitting a copy, a move or a wait allocates nothing once the list has grown.
#[derive(Clone)]
pub struct CpuQueue(Arc<Handle>);

impl CpuQueue {
    /// Enqueues `kernel`, to run on the queue's thread in order with everything else on the queue.
    ///
    /// An error it returns, or its panic, is reported by the first event recorded after it; later work runs. A kernel
    /// may submit work anywhere. It must not wait for work that comes after it: on its own queue that is an error,
    /// on another one it never ends.
    ///
    /// ```
    /// use allocator_core::DeviceBuffer;
    /// use backend_cpu::CpuDevice;
    /// use pinned_host::{Event, Queue, Transfer};
    ///
    /// let device = CpuDevice::new()?;
    /// let buffer = device.buffer(1024)?;
    /// let kernel_buffer = buffer.clone();
    /// device.queue().launch(move || kernel_buffer.view(0..1024)?.with_mut(|words: &mut [u32]| words.fill(7)))?;
    /// device.queue().record()?.synchronize()?;
    /// assert!(buffer.view(0..1024)?.with(|words: &[u32]| words.iter().all(|&w| w == 7))?);
    /// # Ok::<(), backend_cpu::CpuError>(())
    /// ```
    ///
    /// # Errors
    /// The device was dropped.
    pub fn launch(
        &self,
        kernel: impl FnOnce() -> Result<(), CpuError> + Send + 'static,
    ) -> Result<(), CpuError> {
        self.submit(Work::Run(Box::new(kernel)))
    }

    /// A queue and its thread.
    pub(crate) fn spawn(name: &'static str, device: u64) -> Result<(Self, Worker), CpuError> {
        let shared = Shared::new(name, device);
        let mine = Arc::clone(&shared);
        let thread = std::thread::Builder::new()
            .name(format!("cpu-{name}"))
            .spawn(move || mine.run())
            .map_err(|source| CpuError::Thread { queue: name, source })?;
        Ok((CpuQueue(Arc::new(Handle { shared: Arc::clone(&shared) })), Worker { shared, thread }))
    }

    pub(crate) fn submit(&self, work: Work) -> Result<(), CpuError> {
        self.shared().submit(work, |_, _| ())
    }

    /// Submits `work` and records behind it in one step, so that the event speaks of nobody else's work.
    pub(crate) fn submit_recorded(&self, work: Work) -> Result<CpuEvent, CpuError> {
        self.shared().submit(work, Shared::record)
    }

    fn shared(&self) -> &Arc<Shared> {
        &self.0.shared
    }
}

impl Queue for CpuQueue {
    type Event = CpuEvent;

    fn wait(&self, event: &CpuEvent) -> Result<(), CpuError> {
        let (theirs, ours) = (event.device(), self.shared().device);
        if theirs != ours {
            return Err(CpuError::Foreign { what: "event", theirs, ours });
        }
        if event.has_fired() {
            return Ok(());
        }
        self.submit(Work::Wait(event.clone()))
    }

    fn record(&self) -> Result<CpuEvent, CpuError> {
        let shared = self.shared();
        let mut list = lock(&shared.list);
        Ok(shared.record(&mut list))
    }

    fn same_queue(&self, other: &Self) -> bool {
        Arc::ptr_eq(self.shared(), other.shared())
    }

    fn drain(&self) -> Result<(), CpuError> {
        self.record()?.synchronize()
    }
}

impl core::fmt::Debug for CpuQueue {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        let submitted = self.shared().submitted.load(SeqCst);
        f.debug_struct("CpuQueue").field("name", &self.shared().name).field("submitted", &submitted).finish()
    }
}

/// The user's end of a queue: closes it when the last clone goes.
struct Handle {
    shared: Arc<Shared>,
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.shared.close();
    }
}

/// The device's end of a queue: closes it and waits for its thread.
pub(crate) struct Worker {
    shared: Arc<Shared>,
    thread: JoinHandle<()>,
}

impl Worker {
    pub(crate) fn close(&self) {
        self.shared.close();
    }

    pub(crate) fn is_finished(&self) -> bool {
        self.thread.is_finished()
    }

    pub(crate) fn is_this_thread(&self) -> bool {
        self.shared.is_mine()
    }

    pub(crate) fn join(self) {
        // A worker catches the panics of kernels and has none of its own; if it had, the work left would be
        // lost either way.
        let _ = self.thread.join();
    }
}

/// The queue itself: its list, and whoever works it off.
///
/// That is the queue's thread, and besides it anybody who waits for a copy that has not been started: instead
/// of sleeping until the thread wakes up, the waiter does the copy. At any time one of them runs an operation.
pub(crate) struct Shared {
    pub(crate) device: u64,
    pub(crate) timeline: Timeline,
    name: &'static str,
    /// Operations submitted so far; changes under `list` only.
    submitted: AtomicU64,
    /// Operations taken off the list so far; changes under `list` only.
    taken: AtomicU64,
    list: Mutex<List>,
    /// For the sleeping worker: there is work, or the end.
    arrived: Condvar,
}

struct List {
    /// What has not been started, oldest first.
    work: VecDeque<Work>,
    /// Number of the last operation that a recorded event speaks of.
    recorded: u64,
    /// An operation was taken off and has not ended.
    running: bool,
    /// No more work is taken in.
    closed: bool,
    /// The worker sleeps on `arrived`.
    parked: bool,
}

thread_local! {
    /// Address of the queue whose thread this is, 0 on every other thread.
    static WORKS_FOR: Cell<usize> = const { Cell::new(0) };
}

impl Shared {
    fn new(name: &'static str, device: u64) -> Arc<Self> {
        Arc::new(Shared {
            device,
            timeline: Timeline::new(),
            name,
            submitted: AtomicU64::new(0),
            taken: AtomicU64::new(0),
            list: Mutex::new(List {
                work: VecDeque::with_capacity(64),
                recorded: 0,
                running: false,
                closed: false,
                parked: false,
            }),
            arrived: Condvar::new(),
        })
    }

    /// A queue without a thread, whose timeline moves by hand.
    #[cfg(test)]
    pub(crate) fn unattended() -> Arc<Self> {
        Self::new("unattended", 0)
    }

    /// Whether the calling thread is this queue's.
    pub(crate) fn is_mine(&self) -> bool {
        WORKS_FOR.get() == std::ptr::from_ref(self).addr()
    }

    /// Blocks until operation `value` has ended, doing copies that stand before it and that nobody has begun.
    pub(crate) fn await_value(&self, value: u64) {
        while !self.timeline.reached(value) && self.help() {}
        self.timeline.await_value(value);
    }

    /// Adds `work`, does `then` before anybody else can add more, and wakes the worker.
    fn submit<R>(
        self: &Arc<Self>,
        work: Work,
        then: impl FnOnce(&Arc<Self>, &mut List) -> R,
    ) -> Result<R, CpuError> {
        let mut list = lock(&self.list);
        if list.closed {
            return Err(CpuError::Closed);
        }
        list.work.push_back(work);
        self.submitted.fetch_add(1, SeqCst);
        let result = then(self, &mut list);
        let wake = list.parked;
        drop(list);
        if wake {
            self.arrived.notify_one();
        }
        Ok(result)
    }

    fn record(self: &Arc<Self>, list: &mut List) -> CpuEvent {
        let value = self.submitted.load(SeqCst);
        let from = std::mem::replace(&mut list.recorded, value);
        CpuEvent::new(self, from, value)
    }

    fn close(&self) {
        lock(&self.list).closed = true;
        self.arrived.notify_one();
    }

    /// The worker: ends everything submitted, then ends itself once the queue is closed.
    fn run(&self) {
        WORKS_FOR.set(std::ptr::from_ref(self).addr());
        while let Some((work, number)) = self.next() {
            self.execute(work, number);
            lock(&self.list).running = false;
        }
    }

    /// The worker's next operation, once there is one and nobody else runs another; `None` at the end.
    fn next(&self) -> Option<(Work, u64)> {
        loop {
            spin_until(|| self.submitted.load(SeqCst) > self.taken.load(SeqCst));
            let mut list = lock(&self.list);
            if let Some(taken) = self.take(&mut list, |_| true) {
                return Some(taken);
            }
            if list.closed && !list.running {
                return None;
            }
            list.parked = true;
            list = self.arrived.wait(list).unwrap_or_else(PoisonError::into_inner);
            list.parked = false;
        }
    }

    /// Runs the oldest operation on the calling thread, if it is a copy nobody has begun; returns whether it did.
    fn help(&self) -> bool {
        // A copy takes ranges, and a thread that holds one must not wait for others.
        if held_here() {
            return false;
        }
        let taken = self.take(&mut lock(&self.list), Work::is_copy);
        let Some((work, number)) = taken else { return false };
        self.execute(work, number);
        let mut list = lock(&self.list);
        list.running = false;
        let wake = list.parked && (list.closed || !list.work.is_empty());
        drop(list);
        if wake {
            self.arrived.notify_one();
        }
        true
    }

    fn take(&self, list: &mut List, which: impl FnOnce(&Work) -> bool) -> Option<(Work, u64)> {
        if list.running || !list.work.front().is_some_and(which) {
            return None;
        }
        let work = list.work.pop_front()?;
        list.running = true;
        Some((work, self.taken.fetch_add(1, SeqCst) + 1))
    }

    fn execute(&self, work: Work, number: u64) {
        // What the work holds (a buffer, perhaps its last clone) goes before the event fires, so that whoever waited
        // finds the memory freed.
        if let Err(error) = work.run() {
            self.timeline.fail(number, error);
        }
        self.timeline.complete(number);
    }
}
