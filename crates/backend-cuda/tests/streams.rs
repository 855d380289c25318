//! Streams of the caller's as queues: which may be, which are the same, and what of other contexts is refused.

#![cfg(all(target_os = "linux", not(feature = "gpu-tests")))]
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on should stop where it stands")]

mod common;

use backend_cuda::cudarc::driver as cu;
use backend_cuda::{CudaDevice, CudaError, CudaOptions, Streams};
use common::Sim;
use pinned_host::{DeviceError, ErrorKind};
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
