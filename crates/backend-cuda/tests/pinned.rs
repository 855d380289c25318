//! Pinned slices under cudarc's copies: who waits for them, whatever else happens.

#![cfg(all(target_os = "linux", not(feature = "gpu-tests")))]
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on should stop where it stands")]

mod common;

use allocator_core::DeviceBuffer;
use backend_cuda::cudarc::driver as cu;
use backend_cuda::cudarc::driver::{DevicePtr, DeviceSlice, HostSlice, SyncOnDrop, sys};
use backend_cuda::{CudaDevice, CudaPinned, CudaView};
use common::{Fault, Sim};
use pinned_host::{HostPool, PageLocker, Transfer};
use std::sync::Arc;

fn pinned(device: &CudaDevice) -> CudaPinned {
    let pool = HostPool::new(vec![device.locker().lock(64 << 10).unwrap()], 64).unwrap();
    CudaPinned::new(pool.allocate(4096).unwrap(), device.queue())
}

/// A view during whose use another thread leaves an error on the context.
struct Unlucky<'a>(CudaView<'a>);

impl DeviceSlice<u8> for Unlucky<'_> {
    fn len(&self) -> usize {
        self.0.len()
    }

    fn stream(&self) -> &Arc<cu::CudaStream> {
        self.0.stream()
    }
}

impl DevicePtr<u8> for Unlucky<'_> {
    fn device_ptr<'a>(&'a self, stream: &'a cu::CudaStream) -> (sys::CUdeviceptr, SyncOnDrop<'a>) {
        stream.context().record_err::<()>(Err(cu::DriverError(sys::CUresult::CUDA_ERROR_INVALID_VALUE)));
        self.0.device_ptr(stream)
    }
}

#[test]
fn an_error_of_somebody_elses_skips_no_wait() {
    let _sim = Sim::new(1);
    let device = CudaDevice::new().unwrap();
    let mut buffer = device.buffer(4096).unwrap();
    device.write_now(&mut buffer, 0, &[7; 4096]).unwrap();
    let strange = device.cuda().new_stream().unwrap();
    let mut pinned = pinned(&device);
    let view = Unlucky(buffer.view(0..4096).unwrap());
    strange.memcpy_dtoh(&view, &mut pinned).unwrap();
    assert!(pinned.as_slice().unwrap().iter().all(|&byte| byte == 7));
    assert!(device.cuda().check_err().is_err(), "the error is still cudarc's to report");
}

#[test]
fn who_shares_a_slice_strikes_no_copy_off() {
    let _sim = Sim::new(2);
    let device = CudaDevice::new().unwrap();
    let mut buffer = device.buffer(4096).unwrap();
    let stream = device.queue().stream();
    let mut pinned = pinned(&device);
    pinned.as_mut_slice().unwrap().fill(3);
    // As `memcpy_htod` does: entered, and only then enqueued. Meanwhile another thread reads the bytes.
    // SAFETY: the slice is used with this stream.
    let (bytes, sync) = unsafe { pinned.stream_synced_slice(stream) };
    let from = bytes.as_ptr().cast();
    std::thread::scope(|scope| {
        let seen = scope.spawn(|| pinned.as_slice().unwrap()[0]);
        assert_eq!(seen.join().unwrap(), 3);
    });
    // SAFETY: the slice is waited for before it changes, and the buffer before it goes.
    let code = unsafe { sys::cuMemcpyHtoDAsync_v2(buffer.address(), from, 4096, stream.cu_stream()) };
    assert_eq!(code, sys::CUresult::CUDA_SUCCESS);
    drop(sync);
    // Waits for the copy, or the simulator complains that its source has changed.
    pinned.as_mut_slice().unwrap().fill(4);
    let mut found = [0; 4096];
    device.read_now(&buffer, 0, &mut found).unwrap();
    assert_eq!(found, [3; 4096]);
    buffer.copy_within(0..64, 64).unwrap();
}

#[test]
fn default_streams_of_two_contexts_are_two_streams() {
    let sim = Sim::new(3);
    let context = cu::CudaContext::new(0).unwrap();
    let device = backend_cuda::CudaOptions::new().over_streams(context.default_stream().into()).unwrap();
    let other = cu::CudaContext::new_non_primary(0, 0).unwrap();
    let mut pinned = pinned(&device);
    let slice = other.default_stream().alloc_zeros::<u8>(4096).unwrap();
    other.default_stream().memcpy_dtoh(&slice, &mut pinned).unwrap();
    let waits = sim.calls_of("cuCtxSynchronize");
    assert!(pinned.as_slice().unwrap().iter().all(|&byte| byte == 0));
    assert_eq!(sim.calls_of("cuCtxSynchronize"), waits + 1, "of the other context, not of our stream");
    drop((slice, pinned));
    other.synchronize().unwrap();
}

#[test]
fn what_a_lost_context_may_write_is_kept() {
    let sim = Sim::new(4);
    let device = CudaDevice::new().unwrap();
    let mut buffer = device.buffer(4096).unwrap();
    device.write_now(&mut buffer, 0, &[7; 4096]).unwrap();
    let pool = HostPool::new(vec![device.locker().lock(4096).unwrap()], 64).unwrap();
    let mut pinned = CudaPinned::new(pool.allocate(4096).unwrap(), device.queue());
    device.queue().stream().memcpy_dtoh(&buffer.view(0..4096).unwrap(), &mut pinned).unwrap();
    sim.inject(Fault::DeviceLost, 1);
    let pinned = pinned.into_inner().unwrap_err();
    drop(pinned);
    assert_eq!(pool.stats().slices, 1, "a slice under a copy that nobody can wait for is never given again");
}
