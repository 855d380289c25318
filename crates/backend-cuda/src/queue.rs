//! Queues: streams of the driver, with events that know their order.

use crate::CudaError;
use crate::CudaEvent;
use crate::context::{Context, lock};
use crate::event::{Cut, Slots, Track};
use crate::turn::Turn;
use cudarc::driver as cu;
use cudarc::driver::sys;
use pinned_host::Queue;
use std::sync::atomic::{
    AtomicBool,
    Ordering::{Acquire, Release},
};
use std::sync::{Arc, Mutex, Weak};

/// An ordered sequence of work: a CUDA stream, made here or the caller's own.
///
/// Kernels and copies of the caller's go to [`stream`](Self::stream); an event recorded here then names them too.
/// Cloning names the same queue. Nothing is waited for when the last clone goes: the driver ends what was submitted.
///
/// Recording and waiting allocate nothing once as many events exist as are held at once.
#[derive(Clone)]
pub struct CudaQueue(Arc<Shared>);

struct Shared {
    stream: Arc<cu::CudaStream>,
    /// Whether anybody else may have the stream, and capture it: one made here is nobody's until it is asked for.
    lent: AtomicBool,
    name: &'static str,
    track: Arc<Track>,
    state: Mutex<State>,
}

/// A queue, for as long as somebody has it.
pub(crate) struct QueueName(Weak<Shared>);

#[derive(Default)]
pub(crate) struct State {
    slots: Slots,
    /// A copy that was cut, which no event has reported yet.
    pub(crate) cut: Option<Cut>,
}

/// Why an operation has no event.
pub(crate) enum Unrecorded {
    /// It was not enqueued.
    Refused(CudaError),
    /// It was, and may run yet.
    Enqueued(CudaError),
}

impl CudaQueue {
    /// A stream that does not synchronise with the legacy default stream.
    pub(crate) fn make(context: &Arc<Context>, name: &'static str) -> Result<Self, CudaError> {
        context.check_lost()?;
        // What another call left behind is reported as what it is.
        context.stored()?;
        let made = context.safe().new_stream();
        let stream = made.map_err(|error| context.heard("cuStreamCreate", error.0))?;
        Ok(Self::named(context, stream, false, name))
    }

    /// A stream of the same context that others have: the queue that it is already, or else a new one.
    pub(crate) fn over(context: &Arc<Context>, stream: Arc<cu::CudaStream>, name: &'static str) -> Self {
        Self::named(context, stream, true, name)
    }

    fn named(context: &Arc<Context>, stream: Arc<cu::CudaStream>, lent: bool, name: &'static str) -> Self {
        let mut known_queues = context.queues();
        let mut known = known_queues.iter().filter_map(|QueueName(queue)| queue.upgrade());
        if let Some(known) = known.find(|queue| Context::is_same_stream(&queue.stream, &stream)) {
            known.lent.fetch_or(lent, Release);
            return CudaQueue(known);
        }
        let (track, state) = (Track::new(context), Mutex::new(State::default()));
        let queue = CudaQueue(Arc::new(Shared { stream, lent: lent.into(), name, track, state }));
        // A stream that is gone with its queue may leave its handle to another.
        known_queues.retain(|QueueName(queue)| queue.strong_count() > 0);
        known_queues.push(QueueName(Arc::downgrade(&queue.0)));
        queue
    }

    /// The stream, for kernels, libraries and copies of the caller's.
    ///
    /// Work submitted there from several threads while this queue is used is ordered as the driver happens to see it.
    pub fn stream(&self) -> &Arc<cu::CudaStream> {
        self.0.lent.store(true, Release);
        &self.0.stream
    }

    /// The same, for what does not give it away.
    pub(crate) fn inner(&self) -> &Arc<cu::CudaStream> {
        &self.0.stream
    }

    /// Asks the driver only of a stream that somebody else may have: each question costs a move of 2 MiB some percent.
    ///
    /// # Errors
    /// The stream is being captured.
    fn check_capture(&self) -> Result<(), CudaError> {
        if self.0.lent.load(Acquire) { self.context().check_capture(self.raw()) } else { Ok(()) }
    }

    pub(crate) fn context(&self) -> &Arc<Context> {
        &self.0.track.context
    }

    pub(crate) fn raw(&self) -> sys::CUstream {
        self.0.stream.cu_stream()
    }

    /// How many driver events the queue has made.
    pub(crate) fn events(&self) -> usize {
        lock(&self.0.state).slots.len()
    }

    /// Enqueues one operation and records behind it in one step, so that the event names it and not what others add.
    ///
    /// Whatever can be refused is asked for before: the event is there when the operation is enqueued. `writes_host`: whether
    /// it may write host memory.
    pub(crate) fn submit(
        &self,
        call: &'static str,
        writes_host: bool,
        enqueue: impl FnOnce(sys::CUstream) -> sys::CUresult,
    ) -> Result<CudaEvent, Unrecorded> {
        let Shared { track, state, .. } = &*self.0;
        let mut state = lock(state);
        let State { slots, cut } = &mut *state;
        let stream = self.raw();
        self.check_capture().map_err(Unrecorded::Refused)?;
        slots.ready(track).map_err(Unrecorded::Refused)?;
        self.context().call(call, || enqueue(stream)).map_err(Unrecorded::Refused)?;
        slots.record(track, stream, cut, writes_host).map_err(Unrecorded::Enqueued)
    }

    /// The right to enqueue several operations with nothing of this crate's in between.
    ///
    /// # Errors
    /// The context is lost, or the stream is being captured.
    pub(crate) fn turn(&self) -> Result<Turn<'_>, CudaError> {
        self.context().enter()?;
        self.check_capture()?;
        Ok(Turn::new(self, lock(&self.0.state)))
    }

    /// Blocks until everything submitted so far has ended; reports nothing that an event will report.
    pub(crate) fn empty(&self) -> Result<(), CudaError> {
        let stream = self.raw();
        self.check_capture()?;
        // SAFETY: the stream is alive.
        self.context().call("cuStreamSynchronize", || unsafe { sys::cuStreamSynchronize(stream) })
    }
}

impl Queue for CudaQueue {
    type Event = CudaEvent;

    fn wait(&self, event: &CudaEvent) -> Result<(), CudaError> {
        self.context().check_same("event", event.context().safe())?;
        if event.has_fired() || event.is_of(&self.0.track) {
            return Ok(());
        }
        let (stream, raw) = (self.raw(), event.native());
        self.check_capture()?;
        self.context().call("cuStreamWaitEvent", || {
            // SAFETY: stream and event are alive; the wait is for what the event names now, and later uses of the driver
            // event do not change it.
            unsafe { sys::cuStreamWaitEvent(stream, raw, 0) }
        })
    }

    fn record(&self) -> Result<CudaEvent, CudaError> {
        self.check_capture()?;
        let Shared { track, state, .. } = &*self.0;
        let State { slots, cut } = &mut *lock(state);
        // Who knows what it stands for.
        slots.record(track, self.raw(), cut, true)
    }

    fn same_queue(&self, other: &Self) -> bool {
        // Two devices of one context may have been given the same stream.
        Arc::ptr_eq(&self.0, &other.0) || Context::is_same_stream(&self.0.stream, &other.0.stream)
    }

    fn drain(&self) -> Result<(), CudaError> {
        let (last, cut) = {
            let mut state = lock(&self.0.state);
            (state.slots.last(), state.cut.take())
        };
        if let Err(error) = self.empty() {
            if let Some(cut) = cut {
                lock(&self.0.state).cut.get_or_insert(cut);
            }
            return Err(error);
        }
        self.0.track.reached(last);
        cut.map_or(Ok(()), |cut| Err(cut.error()))
    }
}

impl core::fmt::Debug for CudaQueue {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("CudaQueue")
            .field("name", &self.0.name)
            .field("device", &self.context().ordinal())
            .field("stream", &self.raw())
            .finish()
    }
}
