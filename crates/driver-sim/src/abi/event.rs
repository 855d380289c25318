//! Events.

use super::given;
use crate::fault::Class;
use crate::lane::{EventState, Recorded};
use crate::result::{CuError, CuResult};
use crate::run::Work;
use crate::session::{call, current_context};
use crate::sim::new_handle;
use crate::types::{Event, Out, Stream};

/// Makes an event. With flag 2 it has no time.
#[unsafe(no_mangle)]
pub extern "C" fn cuEventCreate(event: Out<'_, Event>, flags: u32) -> CuResult {
    call("cuEventCreate", Class::Allocate, |sim| {
        let (event, handle) = (given(event)?, new_handle());
        // One for other processes must not have a time, and there are no other processes here.
        if flags & !(BLOCKING_SYNC | DISABLE_TIMING) != 0 {
            return Err(if flags & INTERPROCESS != 0 {
                CuError::NOT_SUPPORTED
            } else {
                CuError::INVALID_VALUE
            });
        }
        sim.events.insert(handle, EventState { flags, context: current_context(), recorded: None });
        event.write(handle);
        Ok(())
    })
}

/// Ends an event; who waits for it still does.
#[unsafe(no_mangle)]
pub extern "C" fn cuEventDestroy_v2(event: Event) -> CuResult {
    call("cuEventDestroy_v2", Class::Release, |sim| match sim.events.remove(&event) {
        Some(_) => Ok(()),
        None => Err(sim.bad_handle("cuEventDestroy_v2", "event", event)),
    })
}

/// Makes an event stand for all work that is in a stream of its context now.
#[unsafe(no_mangle)]
pub extern "C" fn cuEventRecord(event: Event, stream: Stream) -> CuResult {
    record("cuEventRecord", event, stream)
}

/// The same; flags are not looked at.
#[unsafe(no_mangle)]
pub extern "C" fn cuEventRecordWithFlags(event: Event, stream: Stream, _flags: u32) -> CuResult {
    record("cuEventRecordWithFlags", event, stream)
}

fn record(name: &'static str, event: Event, stream: Stream) -> CuResult {
    call(name, Class::Enqueue, |sim| {
        let lane = sim.lane_of(name, stream)?;
        let context = sim.event(name, event)?.context;
        sim.check_context_of(name, stream, context)?;
        sim.submit(lane, name, Vec::new(), Vec::new(), Work::Record(event));
        let mark = sim.mark(lane);
        sim.event(name, event)?.recorded = Some(Recorded { mark, time: None });
        Ok(())
    })
}

/// Whether the work that an event stands for has run: `CUDA_ERROR_NOT_READY` if not. Asking runs some, so that polling
/// ends.
#[unsafe(no_mangle)]
pub extern "C" fn cuEventQuery(event: Event) -> CuResult {
    call("cuEventQuery", Class::Other, |sim| {
        let Some(recorded) = sim.event("cuEventQuery", event)?.recorded.clone() else { return Ok(()) };
        if sim.poll(&recorded.mark)? { Ok(()) } else { Err(CuError::NOT_READY) }
    })
}

/// Waits for the work that an event stands for.
#[unsafe(no_mangle)]
pub extern "C" fn cuEventSynchronize(event: Event) -> CuResult {
    call("cuEventSynchronize", Class::Other, |sim| {
        let Some(recorded) = sim.event("cuEventSynchronize", event)?.recorded.clone() else { return Ok(()) };
        sim.wait(&[recorded.mark])
    })
}

/// Writes the simulated milliseconds between two events.
#[unsafe(no_mangle)]
pub extern "C" fn cuEventElapsedTime(milliseconds: Out<'_, f32>, start: Event, end: Event) -> CuResult {
    elapsed("cuEventElapsedTime", milliseconds, start, end)
}

/// The same, as CUDA 12.8 has it.
#[unsafe(no_mangle)]
pub extern "C" fn cuEventElapsedTime_v2(milliseconds: Out<'_, f32>, start: Event, end: Event) -> CuResult {
    elapsed("cuEventElapsedTime_v2", milliseconds, start, end)
}

fn elapsed(name: &'static str, milliseconds: Out<'_, f32>, start: Event, end: Event) -> CuResult {
    call(name, Class::Other, |sim| {
        let milliseconds = given(milliseconds)?;
        let mut time = |event| {
            let state = sim.event(name, event)?;
            let recorded = state.recorded.as_ref().filter(|_| state.flags & DISABLE_TIMING == 0);
            recorded.ok_or(CuError::INVALID_HANDLE)?.time.ok_or(CuError::NOT_READY)
        };
        let (start, end) = (time(start)?, time(end)?);
        milliseconds.write((end as f64 - start as f64) as f32 / 1e6);
        Ok(())
    })
}

const BLOCKING_SYNC: u32 = 1;
const DISABLE_TIMING: u32 = 2;
const INTERPROCESS: u32 = 4;
