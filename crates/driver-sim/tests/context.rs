//! Contexts, and what belongs to them; capture of streams.

#![cfg(all(target_os = "linux", target_pointer_width = "64"))]
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on should stop where it stands")]

mod common;

use common::*;
use driver_sim::CuError;
use driver_sim::abi::{context::*, copy::*, event::*, stream::*};
use std::mem::MaybeUninit;

#[test]
fn an_event_is_recorded_in_streams_of_its_own_context() {
    let device = Device::new(0);
    let (one, here, primary) = (event(), stream(), made(|out| cuCtxGetCurrent(Some(out))));
    let context = made(|out| cuCtxCreate_v4(Some(out), std::ptr::null_mut(), 0, 0));
    let (other, there) = (event(), stream());
    assert_eq!(made(|out| cuStreamGetCtx(here, Some(out))), primary);
    assert_eq!(made(|out| cuStreamGetCtx(there, Some(out))), context);
    ok(cuEventRecord(other, there));
    ok(cuEventRecord(one, here));
    // Waiting crosses contexts, recording does not.
    ok(cuStreamWaitEvent(there, one, 0));
    fails(cuEventRecord(one, there), CuError::INVALID_HANDLE);
    fails(cuEventRecord(other, here), CuError::INVALID_HANDLE);
    expect_undefined(&["belongs to another context", "belongs to another context"]);
    ok(cuCtxSynchronize());
    for (event, stream) in [(one, here), (other, there)] {
        ok(cuEventDestroy_v2(event));
        ok(cuStreamDestroy_v2(stream));
    }
    ok(cuCtxDestroy_v2(context));
    assert_eq!(made(|out| cuCtxGetCurrent(Some(out))), primary);
    device.finish();
}

#[test]
fn what_uses_a_captured_stream_spoils_the_capture() {
    let device = Device::new(0);
    let (a, memory) = (stream(), alloc(64));
    let capturing = || made(|out| cuStreamIsCapturing(a, Some(out)));
    assert_eq!(capturing(), 0);
    ok(cuStreamBeginCapture_v2(a, 0));
    assert_eq!(capturing(), 1);
    assert_eq!(made(|out| cuStreamEndCapture(a, Some(out))), 0);
    ok(cuStreamBeginCapture_v2(a, 0));
    fails(cuMemsetD8Async(memory, 1, 64, a), CuError::STREAM_CAPTURE_UNSUPPORTED);
    assert_eq!(capturing(), 2);
    let end = || cuStreamEndCapture(a, Some(&mut MaybeUninit::uninit()));
    fails(end(), CuError::STREAM_CAPTURE_INVALIDATED);
    fails(end(), CuError::ILLEGAL_STATE);
    ok(cuMemsetD8Async(memory, 1, 64, a));
    synchronize(a);
    free(memory);
    ok(cuStreamDestroy_v2(a));
    device.finish();
}
