//! Views of buffers as cudarc takes them: their types, their lives, and whose streams are waited for.

#![cfg(all(target_os = "linux", not(feature = "gpu-tests")))]
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on should stop where it stands")]

mod common;

use allocator_core::DeviceBuffer;
use backend_cuda::cudarc::driver::{self as cu, DeviceSlice};
use backend_cuda::{CudaDevice, CudaError, CudaOptions};
use common::Sim;
use pinned_host::{HostPool, PageLocker, Transfer};

#[test]
fn bytes_are_cast_to_what_every_byte_is_a_value_of() {
    let _sim = Sim::new(1);
    let device = CudaDevice::new().unwrap();
    let mut buffer = device.buffer(4096).unwrap();
    device.write_now(&mut buffer, 0, &[1; 4096]).unwrap();
    let stream = device.queue().stream();
    let view = buffer.view(0..64).unwrap();
    assert_eq!(stream.clone_dtoh(&view.clone().cast::<[u16; 2]>().unwrap()).unwrap(), [[0x101; 2]; 16]);
    // SAFETY: every byte there is 1, which is `true`.
    let flags = unsafe { view.clone().cast_unchecked::<bool>() }.unwrap();
    assert_eq!(stream.clone_dtoh(&flags).unwrap(), [true; 64]);
    assert_eq!(flags.len(), 64);
    assert!(matches!(view.cast::<[u8; 0]>(), Err(CudaError::Cast { .. })), "no bytes make no slice");
}

#[test]
fn a_buffer_waits_for_the_lanes_of_every_device_that_used_it() {
    let sim = Sim::new(2);
    let (one, two) = (CudaDevice::new().unwrap(), CudaDevice::new().unwrap());
    let pool = HostPool::new(vec![two.locker().lock(8192).unwrap()], 64).unwrap();
    let mut buffer = one.buffer(4096).unwrap();
    let sent = two.upload(pool.allocate(4096).unwrap(), &mut buffer, 0).unwrap();
    drop(buffer);
    assert_eq!(sim.undefined_uses(), 0, "{}", sim.report());
    sent.wait().unwrap();

    let mut buffer = one.buffer(4096).unwrap();
    one.write_now(&mut buffer, 0, &[5; 4096]).unwrap();
    let got = two.download(&buffer, 0, pool.allocate(4096).unwrap()).unwrap();
    drop(buffer);
    assert!(got.wait().unwrap().as_slice().iter().all(|&byte| byte == 5));
    // With the device's own lanes alone there is no need for more than those.
    let (mut buffer, waits) = (one.buffer(4096).unwrap(), sim.calls_of("cuCtxSynchronize"));
    one.write_now(&mut buffer, 0, &[6; 4096]).unwrap();
    drop(buffer);
    assert_eq!(sim.calls_of("cuCtxSynchronize"), waits);
}

#[test]
fn default_streams_of_two_contexts_are_two_users() {
    let sim = Sim::new(3);
    let context = cu::CudaContext::new(0).unwrap();
    let device = CudaOptions::new().over_streams(context.default_stream().into()).unwrap();
    let other = cu::CudaContext::new_non_primary(0, 0).unwrap();
    let buffer = device.buffer(4096).unwrap();
    // The default stream has the same handle in both, and is waited for in both.
    other.default_stream().memset_zeros(&mut buffer.view(0..4096).unwrap()).unwrap();
    let waits = sim.calls_of("cuCtxSynchronize");
    drop(buffer);
    assert_eq!(sim.calls_of("cuCtxSynchronize"), waits + 1);
    assert_eq!(sim.pending(), 0);
}
