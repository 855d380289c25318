//! What ends a context and what does not, and what is kept of a context that has ended.

#![cfg(all(target_os = "linux", not(feature = "gpu-tests")))]
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on should stop where it stands")]

mod common;

use allocator_core::DeviceBuffer;
use backend_cuda::cudarc::driver::{self as cu, sys::CUresult};
use backend_cuda::{CudaDevice, CudaError, CudaOptions, HostMemory};
use common::{Fault, Sim};
use pinned_host::{DeviceError, ErrorKind, Event, HostPool, PageLocker, Queue, Transfer};

#[test]
fn an_unknown_error_is_a_loss_if_the_context_says_it_again() {
    let sim = Sim::new(1);
    let device = CudaDevice::new().unwrap();
    let mut buffer = device.buffer(4096).unwrap();
    sim.inject_at(Fault::Unknown, "cuMemcpyDtoDAsync_v2", 1);
    let error = buffer.copy_within(0..64, 128).unwrap_err();
    assert!(matches!(error, CudaError::Driver { code: CUresult::CUDA_ERROR_UNKNOWN, .. }), "{error}");
    assert!(!device.is_lost());
    device.write_now(&mut buffer, 0, &[1; 4096]).unwrap();
    buffer.copy_within(0..64, 128).unwrap();
    sim.inject(Fault::DeviceLost, 1);
    let error = device.queue().drain().unwrap_err();
    assert_eq!((error.kind(), error.code()), (ErrorKind::DeviceLost, Some(CUresult::CUDA_ERROR_UNKNOWN)));
    assert!(device.is_lost());
}

#[test]
fn a_device_that_does_not_answer_is_not_opened_and_not_lost() {
    let sim = Sim::new(2);
    sim.inject_at(Fault::Unknown, "cuDevicePrimaryCtxRetain", 1);
    let error = CudaDevice::new().unwrap_err();
    assert!(matches!(error, CudaError::NoDriver { call: "cuDevicePrimaryCtxRetain", .. }), "{error}");
    CudaDevice::new().unwrap();
}

#[test]
fn a_slice_that_a_lost_device_may_write_is_never_given_again() {
    let sim = Sim::new(3);
    for kind in [HostMemory::Driver, HostMemory::Registered] {
        for fault in [Fault::DeviceLost, Fault::IllegalAddress, Fault::Contained, Fault::TensorMemoryLeak] {
            sim.reset(3);
            let device = CudaOptions::new().host_memory(kind).open().unwrap();
            let pool = HostPool::new(vec![device.locker().lock(64 << 10).unwrap()], 64).unwrap();
            let mut buffer = device.buffer(4096).unwrap();
            device.write_now(&mut buffer, 0, &[1; 4096]).unwrap();
            let down = device.download(&buffer, 0, pool.allocate(4096).unwrap()).unwrap();
            let dropped = device.download(&buffer, 0, pool.allocate(4096).unwrap()).unwrap();
            let (mut other, idle) = (device.buffer(4096).unwrap(), device.locker().lock(4096).unwrap());
            let up = device.upload(pool.allocate(4096).unwrap(), &mut other, 0).unwrap();
            sim.inject(fault, 1);
            let error = device.queue().drain().unwrap_err();
            assert_eq!(error.kind(), ErrorKind::DeviceLost);
            // Some of it may have ended before.
            let fired = [down.event(), dropped.event()].map(|event| event.query().is_ok());
            drop(dropped);
            assert_eq!(down.wait().is_ok(), fired[0]);
            assert!(up.wait().map_or_else(|failed| failed.slice.is_some(), |_| true), "it is only read");
            assert_eq!(pool.stats().slices, fired.into_iter().filter(|fired| !fired).count());
            // Whatever is left of them, the driver gets no host memory back, or the simulator complains.
            drop((device, buffer, other, pool, idle));
            assert_eq!(sim.undefined_uses(), 0, "{}", sim.report());
            assert_eq!(sim.leaks(), 0, "{}", sim.report());
            assert_eq!(sim.calls_of("cuMemFreeHost") + sim.calls_of("cuMemHostUnregister"), 0);
        }
    }
}

#[test]
fn a_download_whose_event_is_lost_with_the_device_keeps_its_slice() {
    let sim = Sim::new(4);
    let device = CudaDevice::new().unwrap();
    let pool = HostPool::new(vec![device.locker().lock(64 << 10).unwrap()], 64).unwrap();
    let mut buffer = device.buffer(4096).unwrap();
    device.write_now(&mut buffer, 0, &[1; 4096]).unwrap();
    sim.inject_at(Fault::DeviceLost, "cuEventRecord", 1);
    let refused = device.download(&buffer, 0, pool.allocate(4096).unwrap()).unwrap_err();
    assert!(refused.slice.is_none(), "it was enqueued");
    assert_eq!(pool.stats().slices, 1);
}

#[test]
fn what_was_given_back_is_not_given_back_again() {
    let sim = Sim::new(5).leaking(true);
    let device = CudaOptions::new().scratch(0).open().unwrap();
    let buffer = device.buffer(4096).unwrap();
    let frees = sim.calls_of("cuMemFree_v2");
    sim.inject_at(Fault::NotSupported, "cuMemFree_v2", 1);
    drop(buffer);
    assert_eq!(sim.calls_of("cuMemFree_v2"), frees + 1);
    assert_eq!(device.take_late_error().unwrap().code(), Some(CUresult::CUDA_ERROR_NOT_SUPPORTED));
}

#[test]
fn slices_of_the_callers_are_ordered_by_cudarc() {
    let _sim = Sim::new(6);
    let device = CudaDevice::new().unwrap();
    assert!(device.cuda().is_event_tracking());
    let (one, two) = (device.cuda().new_stream().unwrap(), device.cuda().new_stream().unwrap());
    // Safe code only: were they not tracked, the simulator would find the missing waits.
    let mut slice = one.alloc_zeros::<u8>(4096).unwrap();
    two.memcpy_htod(&[1; 4096], &mut slice).unwrap();
    assert_eq!(one.clone_dtoh(&slice).unwrap(), [1; 4096]);
    drop(slice);
    device.cuda().synchronize().unwrap();
}

#[test]
fn dropping_leaves_a_thread_the_context_it_had() {
    let _sim = Sim::new(7);
    let device = CudaDevice::new().unwrap();
    let pool = HostPool::new(vec![device.locker().lock(4096).unwrap()], 64).unwrap();
    let (buffer, event) = (device.buffer(4096).unwrap(), device.queue().record().unwrap());
    let other = cu::CudaContext::new_non_primary(0, 0).unwrap();
    other.bind_to_thread().unwrap();
    let current = || cu::result::ctx::get_current().unwrap();
    drop((buffer, event, pool));
    assert_eq!(current(), Some(other.cu_ctx()));
}

#[test]
fn a_reserve_beyond_all_addresses_is_refused() {
    let _sim = Sim::new(8);
    for reserve in [u64::MAX, u64::MAX / 2, isize::MAX as u64] {
        let device = CudaOptions::new().virtual_memory(true).reserve(reserve).open().unwrap();
        let error = device.buffer(4096).unwrap_err();
        assert!(matches!(error, CudaError::Limit { asked, .. } if asked == reserve), "{error}");
    }
}
