//! Streams.

use super::context::{GREATEST_PRIORITY, LEAST_PRIORITY};
use super::given;
use crate::fault::Class;
use crate::lane::{Capture, Forbids, StreamState};
use crate::result::{CuError, CuResult};
use crate::run::Work;
use crate::session::{Session, call, current_context};
use crate::sim::new_handle;
use crate::types::{Context, Event, Out, Stream};
use std::cell::Cell;

/// Makes a stream. With flag 1 it knows nothing of the default stream.
#[unsafe(no_mangle)]
pub extern "C" fn cuStreamCreate(stream: Out<'_, Stream>, flags: u32) -> CuResult {
    create("cuStreamCreate", stream, flags, 0)
}

/// Makes a stream with a priority, which changes nothing here.
#[unsafe(no_mangle)]
pub extern "C" fn cuStreamCreateWithPriority(stream: Out<'_, Stream>, flags: u32, priority: i32) -> CuResult {
    create("cuStreamCreateWithPriority", stream, flags, priority)
}

fn create(name: &'static str, stream: Out<'_, Stream>, flags: u32, priority: i32) -> CuResult {
    call(name, Class::Allocate, |sim| {
        let stream = given(stream)?;
        if flags > NON_BLOCKING {
            return Err(CuError::INVALID_VALUE);
        }
        let lane = sim.new_lane(flags != NON_BLOCKING);
        let priority = priority.clamp(GREATEST_PRIORITY, LEAST_PRIORITY);
        let handle = new_handle();
        let (context, capture) = (current_context(), Capture::None);
        sim.streams.insert(handle, StreamState { lane, flags, priority, context, capture });
        stream.write(handle);
        Ok(())
    })
}

/// Ends a stream; work in it still runs.
#[unsafe(no_mangle)]
pub extern "C" fn cuStreamDestroy_v2(stream: Stream) -> CuResult {
    call("cuStreamDestroy_v2", Class::Release, |sim| match sim.streams.remove(&stream) {
        Some(state) => {
            sim.lanes[state.lane].is_free = true;
            Ok(())
        }
        None => Err(sim.bad_handle("cuStreamDestroy_v2", "stream", stream)),
    })
}

/// Waits for all work of a stream.
#[unsafe(no_mangle)]
pub extern "C" fn cuStreamSynchronize(stream: Stream) -> CuResult {
    call("cuStreamSynchronize", Class::Other, |sim| {
        let lane = sim.lane_of("cuStreamSynchronize", stream)?;
        let mark = sim.mark(lane);
        sim.wait(&[mark])
    })
}

/// Whether all work of a stream has run: `CUDA_ERROR_NOT_READY` if not. Asking runs some, so that polling ends.
#[unsafe(no_mangle)]
pub extern "C" fn cuStreamQuery(stream: Stream) -> CuResult {
    call("cuStreamQuery", Class::Other, |sim| {
        let lane = sim.lane_of("cuStreamQuery", stream)?;
        let mark = sim.mark(lane);
        if sim.poll(&mark)? { Ok(()) } else { Err(CuError::NOT_READY) }
    })
}

/// Makes what comes next in a stream wait for an event as it was last recorded; one that never was is no wait.
#[unsafe(no_mangle)]
pub extern "C" fn cuStreamWaitEvent(stream: Stream, event: Event, _flags: u32) -> CuResult {
    call("cuStreamWaitEvent", Class::Enqueue, |sim| {
        let name = sim.name;
        let lane = sim.lane_of(name, stream)?;
        let Some(recorded) = sim.event(name, event)?.recorded.clone() else { return Ok(()) };
        let mark = recorded.mark;
        sim.lanes[lane].clock.join(&mark.clock);
        sim.submit(lane, name, vec![(mark.lane, mark.number)], Vec::new(), Work::Nothing);
        Ok(())
    })
}

/// Writes the context of a stream: the one it was made in, the current one for a default stream.
#[unsafe(no_mangle)]
pub extern "C" fn cuStreamGetCtx(stream: Stream, context: Out<'_, Context>) -> CuResult {
    call("cuStreamGetCtx", Class::Constant, |sim| {
        sim.lane_of("cuStreamGetCtx", stream)?;
        let made_in = sim.streams.get(&stream).map(|state| state.context);
        given(context)?.write(made_in.unwrap_or_else(current_context));
        Ok(())
    })
}

/// Writes the flags that a stream was made with.
#[unsafe(no_mangle)]
pub extern "C" fn cuStreamGetFlags(stream: Stream, flags: Out<'_, u32>) -> CuResult {
    call("cuStreamGetFlags", Class::Constant, |sim| {
        sim.lane_of("cuStreamGetFlags", stream)?;
        given(flags)?.write(sim.streams.get(&stream).map_or(0, |state| state.flags));
        Ok(())
    })
}

/// Writes the priority that a stream was made with.
#[unsafe(no_mangle)]
pub extern "C" fn cuStreamGetPriority(stream: Stream, priority: Out<'_, i32>) -> CuResult {
    call("cuStreamGetPriority", Class::Constant, |sim| {
        sim.lane_of("cuStreamGetPriority", stream)?;
        given(priority)?.write(sim.streams.get(&stream).map_or(0, |state| state.priority));
        Ok(())
    })
}

/// Begins a capture, in which nothing can be captured: what is submitted spoils it.
#[unsafe(no_mangle)]
pub extern "C" fn cuStreamBeginCapture_v2(stream: Stream, mode: u32) -> CuResult {
    call("cuStreamBeginCapture_v2", Class::Other, |sim| {
        let name = sim.name;
        sim.lane_of(name, stream)?;
        match sim.streams.get_mut(&stream) {
            Some(state) if mode <= RELAXED => {
                let thread = std::thread::current().id();
                let forbids = [Forbids::All, Forbids::Thread(thread), Forbids::Nobody][mode as usize];
                state.capture = Capture::Active(forbids);
            }
            Some(_) => return Err(CuError::INVALID_VALUE),
            // The legacy default stream cannot be captured; of a thread's own it is not there.
            None => return Err(CuError::STREAM_CAPTURE_UNSUPPORTED),
        }
        Ok(())
    })
}

/// Ends a capture and writes no graph.
#[unsafe(no_mangle)]
pub extern "C" fn cuStreamEndCapture(stream: Stream, graph: Out<'_, usize>) -> CuResult {
    call("cuStreamEndCapture", Class::Other, |sim| {
        let capture = sim.streams.get_mut(&stream).map(|state| std::mem::take(&mut state.capture));
        given(graph)?.write(0);
        match capture {
            Some(Capture::Active(_)) => Ok(()),
            Some(Capture::Invalidated) => Err(CuError::STREAM_CAPTURE_INVALIDATED),
            _ => Err(CuError::ILLEGAL_STATE),
        }
    })
}

/// Writes whether a stream is being captured.
#[unsafe(no_mangle)]
pub extern "C" fn cuStreamIsCapturing(stream: Stream, status: Out<'_, u32>) -> CuResult {
    call("cuStreamIsCapturing", Class::Constant, |sim| {
        let capture = match sim.streams.get(&stream) {
            Some(state) => state.capture,
            None => sim.lane_of("cuStreamIsCapturing", stream).map(|_| Capture::None)?,
        };
        given(status)?.write(match capture {
            Capture::None => 0,
            Capture::Active(_) => 1,
            Capture::Invalidated => 2,
        });
        Ok(())
    })
}

/// Exchanges the mode in which this thread stands beside captures: with 2, relaxed, nothing is forbidden to it.
#[unsafe(no_mangle)]
pub extern "C" fn cuThreadExchangeStreamCaptureMode(mode: Option<&mut u32>) -> CuResult {
    call("cuThreadExchangeStreamCaptureMode", Class::Constant, |_| {
        let mode = mode.ok_or(CuError::INVALID_VALUE)?;
        if *mode > RELAXED {
            return Err(CuError::INVALID_VALUE);
        }
        *mode = THREAD_MODE.replace(*mode);
        Ok(())
    })
}

/// A call that is not safe beside a capture: it spoils those that forbid it to this thread.
pub(super) fn unsafe_beside_captures(sim: &mut Session) -> Result<(), CuError> {
    if THREAD_MODE.get() == RELAXED {
        return Ok(());
    }
    let thread = std::thread::current().id();
    let forbidden = |capture| match capture {
        Capture::Active(Forbids::All) => true,
        Capture::Active(Forbids::Thread(other)) => other == thread,
        _ => false,
    };
    let mut spoilt = false;
    for state in sim.streams.values_mut().filter(|state| forbidden(state.capture)) {
        (state.capture, spoilt) = (Capture::Invalidated, true);
    }
    if spoilt { Err(CuError::STREAM_CAPTURE_UNSUPPORTED) } else { Ok(()) }
}

std::thread_local! {
    /// The mode of this thread; global at first.
    static THREAD_MODE: Cell<u32> = const { Cell::new(0) };
}

/// The last mode of a capture, and of a thread.
const RELAXED: u32 = 2;
const NON_BLOCKING: u32 = 1;
