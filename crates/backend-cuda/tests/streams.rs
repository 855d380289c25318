//! Streams of the caller's as queues: which may be, which are the same, and what of other contexts is refused.

#![cfg(all(target_os = "linux", not(feature = "gpu-tests")))]
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on should stop where it stands")]

mod common;

use allocator_core::DeviceBuffer;
use backend_cuda::cudarc::driver::{self as cu, sys};
use backend_cuda::{CudaDevice, CudaError, CudaOptions, Streams};
use common::{Fault, Sim};
use pinned_host::{DeviceError, ErrorKind, Event, HostPool, Lane, PageLocker, Queue, QueuedBuffer, Transfer};
use std::sync::Arc;

#[test]
fn the_per_thread_default_stream_is_no_queue() {
    let _sim = Sim::new(1);
    let context = cu::CudaContext::new(0).unwrap();
    let (threads, own) = (context.per_thread_stream(), context.new_stream().unwrap());
    let device = CudaOptions::new().over_context(&context).unwrap();
    let refused = |error: CudaError| {
        assert!(matches!(error, CudaError::PerThreadStream), "{error}");
        assert_eq!(error.kind(), ErrorKind::InvalidUse);
    };
    refused(device.wrap(&threads).unwrap_err());
    for place in 0..3 {
        let at = |this| Some(if this == place { Arc::clone(&threads) } else { Arc::clone(&own) });
        let streams = Streams { compute: at(0).unwrap(), upload: at(1), download: at(2) };
        refused(CudaOptions::new().over_streams(streams).unwrap_err());
    }
}

#[test]
fn a_slice_of_a_per_thread_stream_is_waited_for_on_every_thread() {
    let sim = Sim::new(2);
    let device = CudaDevice::new().unwrap();
    // As candle has it; else cudarc's events order the threads.
    // SAFETY: the one slice is not shared before it is waited for.
    unsafe { device.cuda().disable_event_tracking() };
    let threads = device.cuda().per_thread_stream();
    // Made and filled by another thread, on its own stream of that name.
    let slice =
        std::thread::scope(|scope| scope.spawn(|| threads.alloc_zeros::<u8>(4096).unwrap()).join().unwrap());
    assert!(sim.pending() > 0);
    let buffer = device.buffer_over(slice).unwrap();
    assert_eq!(sim.pending(), 0);
    drop(buffer);
    device.cuda().synchronize().unwrap();
}

#[test]
fn a_stream_is_one_queue() {
    let _sim = Sim::new(3);
    let device = CudaDevice::new().unwrap();
    let stream = device.cuda().new_stream().unwrap();
    let (one, two) = (device.wrap(&stream).unwrap(), device.wrap(&stream).unwrap());
    assert!(one.same_queue(&two) && !one.same_queue(device.queue()));
    let (first, second) = (one.record().unwrap(), two.record().unwrap());
    assert!(second.covers(&first) && !first.covers(&second));
    for queue in [device.lane(Lane::Upload), device.lane(Lane::Download), &device.new_queue().unwrap()] {
        assert!(device.wrap(queue.stream()).unwrap().same_queue(queue));
    }
    // Two devices of one context: not the same value, and yet the same queue.
    let other = CudaOptions::new().over_context(device.cuda()).unwrap();
    assert!(other.wrap(&stream).unwrap().same_queue(&one));
    assert!(!other.queue().same_queue(device.queue()));
    let event = other.wrap(&stream).unwrap().record().unwrap();
    device.queue().wait(&event).unwrap();
    event.synchronize().unwrap();
}

#[test]
fn what_belongs_to_another_context_is_refused() {
    let sim = Sim::new(4);
    let (context, other) =
        (cu::CudaContext::new(0).unwrap(), cu::CudaContext::new_non_primary(0, 0).unwrap());
    let (stream, strange) = (context.new_stream().unwrap(), other.new_stream().unwrap());
    let device = CudaOptions::new().over_context(&context).unwrap();
    let foreign = CudaOptions::new().over_context(&other).unwrap();
    let refused = |error: CudaError, wanted: &str| {
        assert!(matches!(error, CudaError::Foreign { what, .. } if what == wanted), "{error}");
        assert_eq!(error.kind(), ErrorKind::InvalidUse);
    };
    refused(device.wrap(&strange).unwrap_err(), "stream");
    for (upload, download) in [(&strange, &stream), (&stream, &strange)] {
        let (upload, download) = (Some(Arc::clone(upload)), Some(Arc::clone(download)));
        let streams = Streams { compute: Arc::clone(&stream), upload, download };
        refused(CudaOptions::new().over_streams(streams).unwrap_err(), "stream");
    }
    refused(device.queue().wait(&foreign.queue().record().unwrap()).unwrap_err(), "event");
    // The default streams have one handle and are two.
    assert!(
        !device
            .wrap(&context.default_stream())
            .unwrap()
            .same_queue(&foreign.wrap(&other.default_stream()).unwrap())
    );

    let slice = strange.alloc_zeros::<u8>(4096).unwrap();
    let back = device.buffer_over(slice).unwrap_err();
    refused(back.error, "slice");
    let mut buffer = foreign.buffer_over(back.slice).unwrap();
    let pool = HostPool::new(vec![device.locker().lock(4096).unwrap()], 64).unwrap();
    let up = device.upload(pool.allocate(64).unwrap(), &mut buffer, 0).unwrap_err();
    refused(up.error, "buffer");
    let down = device.download(&buffer, 0, up.slice.unwrap()).unwrap_err();
    refused(down.error, "buffer");
    assert_eq!(down.slice.unwrap().len(), 64);
    refused(device.read_now(&buffer, 0, &mut [0; 8]).unwrap_err(), "buffer");
    drop(buffer);
    other.synchronize().unwrap();
    assert_eq!(sim.undefined_uses(), 0, "{}", sim.report());
}

#[test]
fn a_stream_that_is_captured_takes_nothing() {
    let _sim = Sim::new(5);
    let context = cu::CudaContext::new(0).unwrap();
    let stream = context.new_stream().unwrap();
    let all = Some(Arc::clone(&stream));
    let streams = Streams { compute: Arc::clone(&stream), upload: all.clone(), download: all };
    let device = CudaOptions::new().over_streams(streams).unwrap();
    let pool = HostPool::new(vec![device.locker().lock(4096).unwrap()], 64).unwrap();
    let mut buffer = device.buffer(4096).unwrap();
    device.write_now(&mut buffer, 0, &[1; 4096]).unwrap();
    let strange = device.new_queue().unwrap().record().unwrap();
    let captured = |error: CudaError| {
        assert!(matches!(error, CudaError::Capturing), "{error}");
        assert_eq!(error.kind(), ErrorKind::InvalidUse);
    };
    stream.begin_capture(sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL).unwrap();
    captured(device.upload(pool.allocate(64).unwrap(), &mut buffer, 0).unwrap_err().error);
    captured(device.download(&buffer, 0, pool.allocate(64).unwrap()).unwrap_err().error);
    captured(buffer.copy_within(0..64, 64).unwrap_err());
    captured(buffer.copy_independent(&[(0..64, 64), (128..192, 192)]).unwrap_err());
    captured(buffer.queue().record().unwrap_err());
    captured(buffer.queue().wait(&strange).unwrap_err());
    captured(buffer.queue().drain().unwrap_err());
    // Nothing of it has spoilt the capture.
    let none = sys::CUgraphInstantiate_flags::CUDA_GRAPH_INSTANTIATE_FLAG_AUTO_FREE_ON_LAUNCH;
    assert!(stream.end_capture(none).unwrap().is_none());
    buffer.copy_within(0..64, 64).unwrap();
    buffer.queue().record().unwrap().synchronize().unwrap();
}

/// Of streams that were made here nobody asks whether they are captured, until somebody else has them.
#[test]
fn a_stream_made_here_may_be_captured_once_it_was_given_out() {
    let sim = Sim::new(8);
    for way in 0..3 {
        sim.reset(8);
        let device = CudaDevice::new().unwrap();
        let mut buffer = device.buffer(4096).unwrap();
        device.write_now(&mut buffer, 0, &[1; 4096]).unwrap();
        buffer.copy_within(0..64, 64).unwrap();
        let view = buffer.view(0..64).unwrap();
        let stream = match way {
            0 => Arc::clone(device.queue().stream()),
            1 => Arc::clone(cu::DeviceSlice::stream(&view)),
            _ => Arc::clone(device.lane(Lane::Upload).stream()),
        };
        let mode = sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL;
        stream.begin_capture(mode).unwrap();
        let pool = HostPool::new(vec![device.locker().lock(4096).unwrap()], 64).unwrap();
        let error = if way == 2 {
            device.upload(pool.allocate(64).unwrap(), &mut buffer, 0).unwrap_err().error
        } else {
            buffer.copies_within(&[(0..64, 64), (128..192, 192)]).unwrap_err().error
        };
        assert!(matches!(error, CudaError::Capturing), "{error}");
        let none = sys::CUgraphInstantiate_flags::CUDA_GRAPH_INSTANTIATE_FLAG_AUTO_FREE_ON_LAUNCH;
        assert!(stream.end_capture(none).unwrap().is_none());
        drop((pool, buffer, stream, device));
        sim.check();
    }
}

#[test]
fn a_device_over_three_streams_makes_a_fourth_when_it_needs_one() {
    let sim = Sim::new(6);
    let context = cu::CudaContext::new(0).unwrap();
    let mut three = (0..3).map(|_| context.new_stream().unwrap());
    let streams = Streams { compute: three.next().unwrap(), upload: three.next(), download: three.next() };
    let device = CudaOptions::new().over_streams(streams).unwrap();
    let mut buffer = device.buffer(4096).unwrap();
    assert_eq!(sim.calls_of("cuStreamCreate"), 3);
    device.write_now(&mut buffer, 0, &[1; 64]).unwrap();
    device.read_now(&buffer, 0, &mut [0; 64]).unwrap();
    assert_eq!(sim.calls_of("cuStreamCreate"), 4);
    // A plain copy that could not be waited for is waited for before its buffer goes.
    sim.inject_at(Fault::NotSupported, "cuStreamSynchronize", 1);
    sim.inject_at(Fault::NotSupported, "cuStreamSynchronize", 2);
    assert!(device.write_now(&mut buffer, 0, &[2; 64]).is_err());
    drop(buffer);
    assert_eq!(sim.undefined_uses(), 0, "{}", sim.report());
}

#[test]
fn waits_may_sleep() {
    let _sim = Sim::new(7);
    let device = CudaOptions::new().blocking_waits(true).open().unwrap();
    device.queue().record().unwrap().synchronize().unwrap();
}
