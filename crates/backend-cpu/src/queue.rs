//! Queues of the CPU device: a list of operations and the thread that works it off.

use crate::CpuError;
use crate::buffer::Memory;
use crate::event::{CpuEvent, Timeline};
use crate::sync::{lock, spin_until};
use pinned_host::Queue;
use std::any::Any;
use std::collections::VecDeque;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::JoinHandle;

/// An ordered sequence of work with a thread of its own.
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

    pub(crate) fn spawn(name: &'static str, device: u64) -> Result<(Self, Worker), CpuError> {
        let shared = Arc::new(Shared {
            name,
            timeline: Timeline::new(device),
            submitted: AtomicU64::new(0),
            list: Mutex::new(List {
                work: VecDeque::with_capacity(64),
                recorded: 0,
                closed: false,
                parked: false,
            }),
            arrived: Condvar::new(),
        });
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

    fn shared(&self) -> &Shared {
        &self.0.shared
    }
}

impl Queue for CpuQueue {
    type Event = CpuEvent;

    fn wait(&self, event: &CpuEvent) -> Result<(), CpuError> {
        let (theirs, ours) = (event.device(), self.shared().timeline.device());
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

    fn drain(&self) -> Result<(), CpuError> {
        let shared = self.shared();
        let target = shared.submitted.load(SeqCst);
        if !shared.timeline.reached(target) {
            if shared.timeline.is_mine() {
                return Err(CpuError::WaitsForItself { operation: target });
            }
            shared.timeline.await_value(target);
        }
        Ok(())
    }
}

impl core::fmt::Debug for CpuQueue {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        let submitted = self.shared().submitted.load(SeqCst);
        f.debug_struct("CpuQueue").field("name", &self.shared().name).field("submitted", &submitted).finish()
    }
}

/// What a queue's thread does.
pub(crate) enum Work {
    /// Host memory to a buffer.
    Upload { src: HostBytes, dst: Arc<Memory>, at: u64 },
    /// A buffer to host memory.
    Download { src: Arc<Memory>, from: u64, dst: HostBytes },
    /// Within a buffer, with memmove semantics.
    Move { memory: Arc<Memory>, src: Range<u64>, dst: u64 },
    /// Nothing, until an event has fired.
    Wait(CpuEvent),
    /// A user's kernel.
    Run(Box<dyn FnOnce() -> Result<(), CpuError> + Send>),
}

/// Bytes of a pinned slice that a transfer uses.
pub(crate) struct HostBytes {
    ptr: *mut u8,
    len: usize,
}

// SAFETY: the bytes belong to a slice that nobody else touches while the transfer is in flight (see `new`), and
// the regions slices come from may be used on any thread.
unsafe impl Send for HostBytes {}

impl HostBytes {
    /// # Safety
    /// `ptr..ptr + len` stays valid and untouched by others until the work it goes into has run.
    pub(crate) unsafe fn new(ptr: *mut u8, len: usize) -> Self {
        HostBytes { ptr, len }
    }
}

impl Work {
    fn run(self) -> Result<(), CpuError> {
        match self {
            Work::Upload { src, dst, at } => {
                let _guard = dst.acquire(&[(at..at + src.len as u64, true)])?;
                // SAFETY: the device checked the range against the buffer; the guard keeps others from these
                // bytes; the host bytes are valid by `HostBytes::new` and no part of a buffer.
                unsafe { std::ptr::copy_nonoverlapping(src.ptr, dst.at(at), src.len) };
            }
            Work::Download { src, from, dst } => {
                let _guard = src.acquire(&[(from..from + dst.len as u64, false)])?;
                // SAFETY: as above, the other way round; the guard keeps writers away.
                unsafe { std::ptr::copy_nonoverlapping(src.at(from), dst.ptr, dst.len) };
            }
            Work::Move { memory, src, dst } => {
                let len = src.end - src.start;
                let from = src.start;
                let _guard = memory.acquire(&[(src, false), (dst..dst + len, true)])?;
                // SAFETY: the buffer checked both ranges; the guard keeps others from them; `copy` allows overlap.
                unsafe { std::ptr::copy(memory.at(from), memory.at(dst), len as usize) };
            }
            Work::Wait(event) => event.await_fired(),
            Work::Run(kernel) => return run_kernel(kernel),
        }
        Ok(())
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
        self.shared.timeline.is_mine()
    }

    pub(crate) fn join(self) {
        // A worker catches the panics of kernels and has none of its own; if it had, the work left would be
        // lost either way.
        let _ = self.thread.join();
    }
}

struct Shared {
    name: &'static str,
    timeline: Arc<Timeline>,
    /// Operations submitted so far; changes under `list` only, read outside by the spinning worker.
    submitted: AtomicU64,
    list: Mutex<List>,
    arrived: Condvar,
}

struct List {
    /// What has not been started, oldest first.
    work: VecDeque<Work>,
    /// Number of the last operation that a recorded event speaks of.
    recorded: u64,
    /// No more work is taken.
    closed: bool,
    /// The worker sleeps on `arrived`.
    parked: bool,
}

impl Shared {
    /// Adds `work`, does `then` before anybody else can add more, and wakes the worker.
    fn submit<R>(&self, work: Work, then: impl FnOnce(&Self, &mut List) -> R) -> Result<R, CpuError> {
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

    fn record(&self, list: &mut List) -> CpuEvent {
        let value = self.submitted.load(SeqCst);
        let from = std::mem::replace(&mut list.recorded, value);
        CpuEvent::new(&self.timeline, from, value)
    }

    fn close(&self) {
        lock(&self.list).closed = true;
        self.arrived.notify_one();
    }

    /// The worker: ends everything submitted, then ends itself once the queue is closed.
    fn run(&self) {
        self.timeline.adopt();
        let mut done = 0;
        while let Some(work) = self.next(done) {
            done += 1;
            // What the work holds (a buffer, perhaps its last clone) goes before the event fires, so that whoever
            // waited finds the memory freed.
            if let Err(error) = work.run() {
                self.timeline.fail(done, error);
            }
            self.timeline.complete(done);
        }
    }

    fn next(&self, done: u64) -> Option<Work> {
        spin_until(|| self.submitted.load(SeqCst) > done);
        let mut list = lock(&self.list);
        loop {
            if let Some(work) = list.work.pop_front() {
                return Some(work);
            }
            if list.closed {
                return None;
            }
            list.parked = true;
            list = self.arrived.wait(list).unwrap_or_else(PoisonError::into_inner);
            list.parked = false;
        }
    }
}

fn run_kernel(kernel: Box<dyn FnOnce() -> Result<(), CpuError> + Send>) -> Result<(), CpuError> {
    match catch_unwind(AssertUnwindSafe(kernel)) {
        Ok(outcome) => outcome,
        Err(payload) => {
            let message = message_of(payload.as_ref());
            // A payload may panic when dropped, which would take the worker with it.
            if let Err(second) = catch_unwind(AssertUnwindSafe(|| drop(payload))) {
                std::mem::forget(second);
            }
            Err(CpuError::Panicked { message })
        }
    }
}

/// The text a panic was raised with.
pub(crate) fn message_of(payload: &(dyn Any + Send)) -> String {
    if let Some(text) = payload.downcast_ref::<&str>() {
        (*text).to_owned()
    } else if let Some(text) = payload.downcast_ref::<String>() {
        text.clone()
    } else {
        "no message".to_owned()
    }
}
