//! Events: points on the timeline of a queue, each behind a driver event that is used again.

use crate::CudaError;
use crate::context::{Context, Restore};
use cudarc::driver::sys::{self, CUresult};
use pinned_host::Event;
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};

/// A point on the timeline of one [`CudaQueue`](crate::CudaQueue): it fires when the stream has ended the operations
/// submitted before it.
///
/// Asking costs an atomic load once it, or a later event of its queue, was seen to have fired, and a call of the driver
/// before; cloning costs one reference count. Driver events are used again when nobody holds them any more, so a warm
/// queue makes none. Events may outlive queue and device.
///
/// Work on a CUDA device fails only with its context: then every event not yet seen to have fired reports
/// [`CudaError::DeviceLost`]. A copy that was cut half-way is reported by the first event recorded after it, as
/// [`CudaError::Cut`].
///
/// The driver's reference says that a lost context runs nothing further, and not when a copy ends that an engine has begun.
/// So on a lost context only the event of an upload counts as settled, whose slice is read at the worst. The slice of a
/// download is never given out again, and neither this crate nor the driver is asked to free host memory any more.
#[derive(Clone)]
pub struct CudaEvent {
    slot: Arc<Slot>,
}

impl CudaEvent {
    /// The driver's event, recorded: what a stream of the caller's own can wait for.
    ///
    /// Keep this value until that wait was submitted: then the driver event may be recorded again.
    pub fn native(&self) -> sys::CUevent {
        self.slot.raw
    }

    pub(crate) fn context(&self) -> &Arc<Context> {
        &self.slot.track.context
    }

    /// Whether it was recorded on the queue with this track.
    pub(crate) fn is_of(&self, track: &Arc<Track>) -> bool {
        Arc::ptr_eq(&self.slot.track, track)
    }

    /// Whether it was seen to have fired; asks nobody.
    pub(crate) fn has_fired(&self) -> bool {
        self.slot.track.done.load(SeqCst) >= self.slot.number
    }

    /// Whether it has fired.
    fn reached(&self) -> Result<bool, CudaError> {
        if self.has_fired() {
            return Ok(true);
        }
        let context = self.context();
        context.check_lost()?;
        // SAFETY: the event is alive, and recorded since it was made or given out again.
        match context.call_raw(|| unsafe { sys::cuEventQuery(self.slot.raw) }) {
            CUresult::CUDA_SUCCESS => {
                self.fired();
                Ok(true)
            }
            CUresult::CUDA_ERROR_NOT_READY => Ok(false),
            code => Err(context.heard("cuEventQuery", code)),
        }
    }

    fn fired(&self) {
        self.slot.track.done.fetch_max(self.slot.number, SeqCst);
    }

    fn outcome(&self) -> Result<(), CudaError> {
        self.slot.cut.map_or(Ok(()), |cut| Err(cut.error()))
    }
}

impl Event for CudaEvent {
    type Error = CudaError;

    fn query(&self) -> Result<bool, CudaError> {
        if !self.reached()? {
            return Ok(false);
        }
        self.outcome().map(|()| true)
    }

    fn synchronize(&self) -> Result<(), CudaError> {
        if !self.has_fired() {
            let raw = self.slot.raw;
            // SAFETY: as in `reached`.
            self.context().call("cuEventSynchronize", || unsafe { sys::cuEventSynchronize(raw) })?;
            self.fired();
        }
        self.outcome()
    }

    fn covers(&self, earlier: &Self) -> bool {
        earlier.is_of(&self.slot.track) && self.slot.number >= earlier.slot.number
    }

    fn is_settled(&self) -> bool {
        // Asking may notice the loss.
        matches!(self.reached(), Ok(true)) || !self.slot.writes_host && self.context().is_lost()
    }
}

impl core::fmt::Debug for CudaEvent {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("CudaEvent")
            .field("device", &self.context().ordinal())
            .field("number", &self.slot.number)
            .field("fired", &self.has_fired())
            .finish()
    }
}

/// How far a queue was seen to have come.
pub(crate) struct Track {
    pub(crate) context: Arc<Context>,
    /// Number of the last event seen to have fired; events of one queue fire in the order of their numbers.
    done: AtomicU64,
}

impl Track {
    pub(crate) fn new(context: &Arc<Context>) -> Arc<Self> {
        Arc::new(Track { context: Arc::clone(context), done: AtomicU64::new(0) })
    }

    /// Everything up to this number is seen to have ended.
    pub(crate) fn reached(&self, number: u64) {
        self.done.fetch_max(number, SeqCst);
    }
}

/// A copy that was cut half-way.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Cut {
    pub(crate) done: u64,
    pub(crate) asked: u64,
    pub(crate) call: &'static str,
    pub(crate) code: CUresult,
}

impl Cut {
    pub(crate) fn error(self) -> CudaError {
        let Cut { done, asked, call, code } = self;
        CudaError::Cut { done, asked, call, code }
    }
}

/// A driver event and what it was last recorded for.
struct Slot {
    track: Arc<Track>,
    raw: sys::CUevent,
    /// Its number on the queue; the first is 1.
    number: u64,
    cut: Option<Cut>,
    /// Whether what it stands for may write host memory.
    writes_host: bool,
}

// SAFETY: a driver event may be used from any thread.
unsafe impl Send for Slot {}
// SAFETY: as above; nothing is changed through `&Slot`.
unsafe impl Sync for Slot {}

impl Drop for Slot {
    fn drop(&mut self) {
        let context = &self.track.context;
        let _restored = Restore::new();
        // SAFETY: made by `Slots::ready`, and nobody has it any more. The driver keeps what pending waits need.
        context.late(context.give_back("cuEventDestroy", || unsafe { sys::cuEventDestroy_v2(self.raw) }));
    }
}

/// The events of one queue: those given out, and those that can be given out again.
#[derive(Default)]
pub(crate) struct Slots {
    /// Number of the last event recorded.
    last: u64,
    /// All there are; the first is the one to look at next.
    all: VecDeque<Arc<Slot>>,
    /// How many slots in use may be passed over before a new one is made.
    looks: usize,
}

// SAFETY: see `Slot`.
unsafe impl Send for Slots {}

impl Slots {
    /// Sees to it that the first slot can be recorded, so that what is enqueued next will have its event.
    ///
    /// Amortised O(1): each record pays for looking at a few slots, whether it needs that or not, and a new one is made only
    /// when what was paid for is used up. So there are at most about a third more slots than were held at once.
    pub(crate) fn ready(&mut self, track: &Arc<Track>) -> Result<(), CudaError> {
        self.looks = (self.looks + LOOKS).min(self.all.len().max(LOOKS));
        while self.looks > 0 && !self.all.is_empty() {
            if self.all.front().is_some_and(|slot| Arc::strong_count(slot) == 1) {
                return Ok(());
            }
            self.all.rotate_left(1);
            self.looks -= 1;
        }
        let mut raw = core::ptr::null_mut();
        let mut flags = sys::CUevent_flags::CU_EVENT_DISABLE_TIMING as u32;
        if track.context.blocking {
            flags |= sys::CUevent_flags::CU_EVENT_BLOCKING_SYNC as u32;
        }
        // SAFETY: points to memory of ours.
        track.context.call("cuEventCreate", || unsafe { sys::cuEventCreate(&raw mut raw, flags) })?;
        self.all.push_front(Arc::new(Slot {
            track: Arc::clone(track),
            raw,
            number: 0,
            cut: None,
            writes_host: true,
        }));
        Ok(())
    }

    /// Records the event that [`ready`](Self::ready) found. On an error the next event still reports `cut`.
    pub(crate) fn record(
        &mut self,
        track: &Arc<Track>,
        stream: sys::CUstream,
        cut: &mut Option<Cut>,
        writes_host: bool,
    ) -> Result<CudaEvent, CudaError> {
        self.ready(track)?;
        let number = self.last + 1;
        let Some(mut arc) = self.all.pop_front() else {
            unreachable!("`ready` leaves a slot at the front");
        };
        let Some(slot) = Arc::get_mut(&mut arc) else {
            unreachable!("only the queue has the slot that `ready` found, and the queue is locked");
        };
        slot.number = number;
        slot.cut = *cut;
        slot.writes_host = writes_host;
        let raw = slot.raw;
        // SAFETY: event and stream are of this context, and alive.
        let recorded = track.context.call("cuEventRecord", || unsafe { sys::cuEventRecord(raw, stream) });
        match recorded {
            Ok(()) => {
                self.last = number;
                *cut = None;
                self.all.push_back(Arc::clone(&arc));
                Ok(CudaEvent { slot: arc })
            }
            Err(error) => {
                self.all.push_front(arc);
                Err(error)
            }
        }
    }

    /// Number of the last event recorded.
    pub(crate) fn last(&self) -> u64 {
        self.last
    }

    pub(crate) fn len(&self) -> usize {
        self.all.len()
    }
}

/// What each record adds to `looks`.
const LOOKS: usize = 4;
