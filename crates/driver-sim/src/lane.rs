//! Streams and events: what is enqueued, and what comes after what.
//!
//! A *lane* is the queue behind a stream. It outlives its stream until its work has run and the host knows it; then
//! the next stream may have it, so that clocks do not grow with the number of streams ever made.

use crate::clock::{Access, Clock, Operation, Use, lane_slot};
use crate::memory::Part;
use crate::result::CuError;
use crate::run::Work;
use crate::sim::{Sim, was_handle};
use crate::types::{Context, Event, LEGACY, PER_THREAD, Stream};
use std::collections::VecDeque;
use std::sync::Arc;

/// A queue of work.
#[derive(Debug)]
pub(crate) struct Lane {
    /// Number of its stream, as reports name it; 0 is the default stream.
    pub(crate) stream: u64,
    pub(crate) kind: LaneKind,
    /// Its stream was destroyed.
    pub(crate) is_free: bool,
    /// Enqueued and not run, oldest first.
    pub(crate) pending: VecDeque<Pending>,
    pub(crate) submitted: u64,
    pub(crate) done: u64,
    /// Its first operation is a host function that runs right now, on some thread.
    pub(crate) busy: bool,
    /// Who goes first among lanes that can run; drawn anew now and then.
    pub(crate) favour: u64,
    /// What has ended before the lane's next operation starts.
    pub(crate) clock: Clock,
}

/// How a lane stands to the default stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum LaneKind {
    /// It is the legacy default stream.
    Legacy,
    /// Ordered with it.
    Blocking,
    /// Knows nothing of it.
    NonBlocking,
}

/// An operation that was enqueued and has not run.
#[derive(Debug)]
pub(crate) struct Pending {
    pub(crate) operation: Operation,
    /// What must have run before, beside what is older in the same lane.
    pub(crate) after: Vec<(usize, u64)>,
    pub(crate) touches: Vec<Touch>,
    pub(crate) work: Work,
    /// How it is to fail.
    pub(crate) fate: Option<CuError>,
}

/// Bytes that an operation uses, and how.
#[derive(Debug, Clone)]
pub(crate) struct Touch {
    pub(crate) part: Part,
    pub(crate) access: Access,
}

/// What is known of a stream.
#[derive(Debug, Clone, Copy)]
pub(crate) struct StreamState {
    pub(crate) lane: usize,
    pub(crate) flags: u32,
    pub(crate) priority: i32,
    /// What was current when it was made.
    pub(crate) context: Context,
    pub(crate) capture: Capture,
}

/// Whether a stream is being captured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Capture {
    #[default]
    None,
    /// Since when some calls are forbidden to this thread; or to all, or to none.
    Active(Forbids),
    /// A call that is not allowed meanwhile has spoilt it.
    Invalidated,
}

/// Whom a capture forbids calls that are not safe beside it, by its mode.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Forbids {
    /// `CU_STREAM_CAPTURE_MODE_GLOBAL`.
    All,
    /// `CU_STREAM_CAPTURE_MODE_THREAD_LOCAL`: who began it.
    Thread(std::thread::ThreadId),
    /// `CU_STREAM_CAPTURE_MODE_RELAXED`.
    Nobody,
}

/// What is known of an event.
#[derive(Debug, Clone)]
pub(crate) struct EventState {
    pub(crate) flags: u32,
    /// What was current when it was made.
    pub(crate) context: Context,
    pub(crate) recorded: Option<Recorded>,
}

/// The point of a stream that an event stands for.
#[derive(Debug, Clone)]
pub(crate) struct Recorded {
    pub(crate) mark: Mark,
    /// In simulated nanoseconds, once it has run.
    pub(crate) time: Option<u64>,
}

/// A point of a lane, and all that is known to have ended before it.
#[derive(Debug, Clone)]
pub(crate) struct Mark {
    pub(crate) lane: usize,
    pub(crate) number: u64,
    pub(crate) clock: Arc<Clock>,
}

impl Lane {
    pub(crate) fn legacy() -> Self {
        Lane::new(0, LaneKind::Legacy, 0)
    }

    fn new(stream: u64, kind: LaneKind, favour: u64) -> Self {
        Lane {
            stream,
            kind,
            is_free: false,
            pending: VecDeque::new(),
            submitted: 0,
            done: 0,
            busy: false,
            favour,
            clock: Clock::default(),
        }
    }
}

impl Sim {
    /// A lane for a new stream.
    pub(crate) fn new_lane(&mut self, blocking: bool) -> usize {
        self.streams_made += 1;
        let (stream, favour) = (self.streams_made, self.rng.next());
        let kind = if blocking { LaneKind::Blocking } else { LaneKind::NonBlocking };
        let host = &self.host;
        let unused = self.lanes.iter_mut().enumerate().find(|(index, lane)| {
            lane.is_free && lane.pending.is_empty() && host.get(lane_slot(*index)) >= lane.submitted
        });
        if let Some((index, lane)) = unused {
            let (submitted, done) = (lane.submitted, lane.done);
            *lane = Lane { submitted, done, ..Lane::new(stream, kind, favour) };
            return index;
        }
        self.lanes.push(Lane::new(stream, kind, favour));
        self.lanes.len() - 1
    }

    /// The lane of a stream, for the calling thread.
    pub(crate) fn lane_of(&mut self, call: &str, stream: Stream) -> Result<usize, CuError> {
        match stream {
            0 | LEGACY => Ok(0),
            PER_THREAD => {
                let thread = std::thread::current().id();
                if let Some(&lane) = self.thread_lanes.get(&thread) {
                    return Ok(lane);
                }
                let lane = self.new_lane(true);
                self.thread_lanes.insert(thread, lane);
                Ok(lane)
            }
            _ => match self.streams.get_mut(&stream) {
                // No graph is made here, so nothing that is submitted can become a part of it.
                Some(StreamState { capture, .. }) if *capture != Capture::None => {
                    *capture = Capture::Invalidated;
                    Err(CuError::STREAM_CAPTURE_UNSUPPORTED)
                }
                Some(state) => Ok(state.lane),
                None => Err(self.bad_handle(call, "stream", stream)),
            },
        }
    }

    /// Reports a stream that belongs to another context than `context`. The default streams are every context's.
    pub(crate) fn check_context_of(
        &mut self,
        call: &str,
        stream: Stream,
        context: Context,
    ) -> Result<(), CuError> {
        if self.streams.get(&stream).is_none_or(|state| state.context == context) {
            return Ok(());
        }
        self.report(format!("{call}: the stream {stream:#x} belongs to another context"));
        Err(CuError::INVALID_HANDLE)
    }

    pub(crate) fn event(&mut self, call: &str, event: Event) -> Result<&mut EventState, CuError> {
        if !self.events.contains_key(&event) {
            return Err(self.bad_handle(call, "event", event));
        }
        self.events.get_mut(&event).ok_or(CuError::INVALID_HANDLE)
    }

    /// Reports a handle that names nothing alive.
    pub(crate) fn bad_handle(&mut self, call: &str, what: &str, handle: usize) -> CuError {
        let why = if was_handle(handle) { "destroyed, or of another kind" } else { "never made" };
        self.report(format!("{call}: the {what} {handle:#x} was {why}"));
        CuError::INVALID_HANDLE
    }

    /// Puts work into a lane, checking its uses against all before. Returns its number there.
    pub(crate) fn submit(
        &mut self,
        lane: usize,
        call: &'static str,
        mut after: Vec<(usize, u64)>,
        touches: Vec<Touch>,
        work: Work,
    ) -> u64 {
        self.join_default_stream(lane, &mut after);
        self.operations += 1;
        let fate = self.fate.take();
        let this = &mut self.lanes[lane];
        let operation = Operation { number: self.operations, call, stream: Some(this.stream) };
        this.submitted += 1;
        this.clock.join(&self.host);
        this.clock.set(lane_slot(lane), this.submitted);
        let by = Use { slot: lane_slot(lane), time: this.submitted, operation };
        let (number, clock) = (this.submitted, this.clock.clone());
        if fate.is_some() {
            self.doomed.get_or_insert((lane, number));
        }
        self.check(&touches, &clock, by);
        self.lanes[lane].pending.push_back(Pending { operation, after, touches, work, fate });
        number
    }

    /// Checks all uses of one operation, then enters them: an operation is in no conflict with itself.
    pub(crate) fn check(&mut self, touches: &[Touch], clock: &Clock, by: Use) {
        let mut found = Vec::new();
        for Touch { part, access } in touches {
            let Some(store) = self.memory.store_mut(part.store) else { continue };
            found.extend(
                store.shadow.conflicts(&part.range, *access, clock).into_iter().map(|c| (part.store, c)),
            );
        }
        found.dedup_by_key(|(_, conflict)| conflict.earlier);
        for (store, conflict) in found {
            let (range, name) = (conflict.range, self.memory.name(store));
            self.report(format!(
                "{}: {} is not ordered after {}, bytes {}..{} of {name}",
                conflict.kind, by.operation, conflict.earlier, range.start, range.end
            ));
        }
        // Reads first: a write of the same operation to the same bytes is the later use.
        for wanted in [Access::Read, Access::Write] {
            for Touch { part, access } in touches.iter().filter(|touch| touch.access == wanted) {
                if let Some(store) = self.memory.store_mut(part.store) {
                    store.shadow.enter(&part.range, *access, by);
                }
                self.memory.enter_use(part.mapping, by);
            }
        }
    }

    /// The point behind everything enqueued in `lane`.
    pub(crate) fn mark(&self, lane: usize) -> Mark {
        let this = &self.lanes[lane];
        Mark { lane, number: this.submitted, clock: Arc::new(this.clock.clone()) }
    }

    pub(crate) fn reached(&self, lane: usize, number: u64) -> bool {
        self.lanes.get(lane).is_none_or(|lane| lane.done >= number)
    }

    /// The legacy default stream waits for all blocking streams, and they for it.
    fn join_default_stream(&mut self, lane: usize, after: &mut Vec<(usize, u64)>) {
        let others: Vec<usize> = match self.lanes[lane].kind {
            LaneKind::NonBlocking => return,
            LaneKind::Blocking => vec![0],
            LaneKind::Legacy => {
                (0..self.lanes.len()).filter(|&other| self.lanes[other].kind == LaneKind::Blocking).collect()
            }
        };
        for other in others {
            let (number, clock) = (self.lanes[other].submitted, self.lanes[other].clock.clone());
            if !self.reached(other, number) {
                after.push((other, number));
            }
            self.lanes[lane].clock.join(&clock);
        }
    }
}
