//! Queues: streams of the driver, with events that know their order.

use crate::CudaError;
use crate::CudaEvent;
use crate::context::{Context, lock};
use crate::event::{Cut, Slots, Track};
use cudarc::driver as cu;
use cudarc::driver::sys;
use pinned_host::Queue;
use std::sync::atomic::Ordering::Relaxed;
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
    name: &'static str,
    track: Arc<Track>,
    state: Mutex<State>,
}

/// A queue, for as long as somebody has it.
pub(crate) struct QueueName(Weak<Shared>);

#[derive(Default)]
struct State {
    slots: Slots,
    /// A copy that was cut, which no event has reported yet.
    cut: Option<Cut>,
}

/// A copy between two places on the device, which do not overlap.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Piece {
    pub(crate) src: sys::CUdeviceptr,
    pub(crate) dst: sys::CUdeviceptr,
    /// Fits `usize`: buffers do.
    pub(crate) len: u64,
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
        Ok(Self::over(context, stream, name))
    }

    /// A stream of the same context: the queue that it is already, or else a new one.
    pub(crate) fn over(context: &Arc<Context>, stream: Arc<cu::CudaStream>, name: &'static str) -> Self {
        let mut known_queues = context.queues();
        let mut known = known_queues.iter().filter_map(|QueueName(queue)| queue.upgrade());
        if let Some(known) = known.find(|queue| Context::is_same_stream(&queue.stream, &stream)) {
            return CudaQueue(known);
        }
        let (track, state) = (Track::new(context), Mutex::new(State::default()));
        let queue = CudaQueue(Arc::new(Shared { stream, name, track, state }));
        // A stream that is gone with its queue may leave its handle to another.
        known_queues.retain(|QueueName(queue)| queue.strong_count() > 0);
        known_queues.push(QueueName(Arc::downgrade(&queue.0)));
        queue
    }

    /// The stream, for kernels, libraries and copies of the caller's.
    ///
    /// Work submitted there from several threads while this queue is used is ordered as the driver happens to see it.
    pub fn stream(&self) -> &Arc<cu::CudaStream> {
        &self.0.stream
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
        self.context().check_capture(stream).map_err(Unrecorded::Refused)?;
        slots.ready(track).map_err(Unrecorded::Refused)?;
        self.context().call(call, || enqueue(stream)).map_err(Unrecorded::Refused)?;
        slots.record(track, stream, cut, writes_host).map_err(Unrecorded::Enqueued)
    }

    /// Enqueues copies that stay together, in order; `asked` is what they add up to.
    ///
    /// # Errors
    /// The first was refused: nothing was enqueued. If a later one is, the queue is emptied and it is tried once more;
    /// if that fails too, the copy is cut: this returns `Ok`, and the first event recorded next reports it.
    pub(crate) fn copies(&self, asked: u64, pieces: impl Iterator<Item = Piece>) -> Result<(), CudaError> {
        let context = self.context();
        context.check_lost()?;
        let stream = self.raw();
        context.check_capture(stream)?;
        let mut state = lock(&self.0.state);
        let mut done = 0;
        for piece in pieces {
            let copy = || {
                context.call(COPY, || {
                    // SAFETY: both ranges lie in buffers that outlive the copy (their memory waits for this stream
                    // before it goes), and do not overlap.
                    unsafe { sys::cuMemcpyDtoDAsync_v2(piece.dst, piece.src, piece.len as usize, stream) }
                })
            };
            match copy() {
                Ok(()) => {}
                Err(error) if done == 0 => return Err(error),
                Err(_) => {
                    if let Err(error) = self.empty().and_then(|()| copy()) {
                        state.cut.get_or_insert(cut(&error, done, asked));
                        return Ok(());
                    }
                }
            }
            done += piece.len;
        }
        Ok(())
    }

    /// Enqueues copies that touch none of one another's bytes, in one call of a driver that takes it.
    ///
    /// # Errors
    /// As [`Self::copies`]. A batch that is refused is made again one by one: the driver does not say what of it was
    /// enqueued, and copies that do not touch one another can be made twice.
    pub(crate) fn batch(&self, pieces: &[Piece]) -> Result<(), CudaError> {
        let context = self.context();
        let asked = pieces.iter().map(|piece| piece.len).sum();
        let default_stream = self.raw().addr() <= LEGACY;
        if !context.batches.load(Relaxed) || default_stream || pieces.len() < 2 {
            return self.copies(asked, pieces.iter().copied());
        }
        context.check_lost()?;
        context.check_capture(self.raw())?;
        let mut dsts: Vec<_> = pieces.iter().map(|piece| piece.dst).collect();
        let mut srcs: Vec<_> = pieces.iter().map(|piece| piece.src).collect();
        let mut sizes: Vec<_> = pieces.iter().map(|piece| piece.len as usize).collect();
        let nowhere =
            sys::CUmemLocation { type_: sys::CUmemLocationType::CU_MEM_LOCATION_TYPE_INVALID, id: 0 };
        let mut how = sys::CUmemcpyAttributes {
            srcAccessOrder: sys::CUmemcpySrcAccessOrder::CU_MEMCPY_SRC_ACCESS_ORDER_STREAM,
            srcLocHint: nowhere,
            dstLocHint: nowhere,
            flags: 0,
        };
        let (mut from, mut failed) = (0, usize::MAX);
        let state = lock(&self.0.state);
        let copied = context.call("cuMemcpyBatchAsync", || {
            // SAFETY: the three lists have the count's length, the attributes apply from copy 0 on; the ranges as in
            // `copies`.
            unsafe {
                sys::cuMemcpyBatchAsync(
                    dsts.as_mut_ptr(),
                    srcs.as_mut_ptr(),
                    sizes.as_mut_ptr(),
                    sizes.len(),
                    &raw mut how,
                    &raw mut from,
                    1,
                    &raw mut failed,
                    self.raw(),
                )
            }
        });
        drop(state);
        let Err(error) = copied else { return Ok(()) };
        context.check_lost()?;
        if self.empty().is_err() {
            lock(&self.0.state).cut.get_or_insert(cut(&error, 0, asked));
            return Ok(());
        }
        let singly = self.copies(asked, pieces.iter().copied());
        // A driver that takes none is not asked again: each refusal costs emptying the queue.
        match error.code() {
            Some(sys::CUresult::CUDA_ERROR_NOT_SUPPORTED) => context.batches.store(false, Relaxed),
            Some(sys::CUresult::CUDA_ERROR_INVALID_VALUE) if singly.is_ok() => {
                context.batches.store(false, Relaxed);
            }
            _ => {}
        }
        singly
    }

    /// Blocks until everything submitted so far has ended; reports nothing that an event will report.
    pub(crate) fn empty(&self) -> Result<(), CudaError> {
        let stream = self.raw();
        self.context().check_capture(stream)?;
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
        self.context().check_capture(stream)?;
        self.context().call("cuStreamWaitEvent", || {
            // SAFETY: stream and event are alive; the wait is for what the event names now, and later uses of the driver
            // event do not change it.
            unsafe { sys::cuStreamWaitEvent(stream, raw, 0) }
        })
    }

    fn record(&self) -> Result<CudaEvent, CudaError> {
        self.context().check_capture(self.raw())?;
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

fn cut(error: &CudaError, done: u64, asked: u64) -> Cut {
    match *error {
        CudaError::DeviceLost { call, code } | CudaError::Driver { call, code } => {
            Cut { done, asked, call, code }
        }
        // A capture may have begun meanwhile.
        _ => Cut { done, asked, call: COPY, code: sys::CUresult::CUDA_ERROR_UNKNOWN },
    }
}

const COPY: &str = "cuMemcpyDtoDAsync";
/// The handles 0 and 1 stand for the legacy default stream.
const LEGACY: usize = 1;
