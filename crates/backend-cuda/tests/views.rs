//! Views of buffers as cudarc takes them: their types, their lives, and whose streams are waited for.

#![cfg(all(target_os = "linux", not(feature = "gpu-tests")))]
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on should stop where it stands")]

mod common;

use allocator_core::DeviceBuffer;
use backend_cuda::cudarc::driver::{self as cu, DeviceSlice};
use backend_cuda::{CudaDevice, CudaError, CudaOptions, HostMemory};
use common::{Fault, Sim};
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

#[test]
fn a_slice_of_any_plain_type_becomes_a_buffer_and_a_slice_again() {
    let _sim = Sim::new(4);
    let context = cu::CudaContext::new(0).unwrap();
    let stream = context.new_stream().unwrap();
    let device = CudaOptions::new().over_streams(stream.clone().into()).unwrap();
    let slice = stream.clone_htod(&[1.0f32, 2.0, 3.0, 4.0]).unwrap();
    let mut buffer = device.buffer_over(slice).unwrap();
    assert_eq!(buffer.size(), 16);
    buffer.copy_within(0..8, 8).unwrap();
    // Its own type, and no other.
    let buffer = buffer.into_slice::<u32>().unwrap_err();
    let slice = buffer.into_slice::<f32>().unwrap();
    assert_eq!(stream.clone_dtoh(&slice).unwrap(), [1.0, 2.0, 1.0, 2.0]);
    drop(slice);
    stream.synchronize().unwrap();
}

#[test]
fn plain_reads_leave_no_copy_in_borrowed_memory() {
    let sim = Sim::new(5);
    let device = CudaDevice::new().unwrap();
    let pool = HostPool::new(vec![device.locker().lock(8192).unwrap()], 64).unwrap();
    let mut buffer = device.buffer(4096).unwrap();
    let mut pinned = pool.allocate(4096).unwrap();
    pinned.as_mut_slice().fill(3);
    device.write_now(&mut buffer, 0, pinned.as_slice()).unwrap();
    pinned.as_mut_slice().fill(4);
    device.read_now(&buffer, 0, pinned.as_mut_slice()).unwrap();
    assert!(pinned.as_slice().iter().all(|&byte| byte == 3));
    // Nor if the copy cannot be waited for.
    pinned.as_mut_slice().fill(4);
    for reads in [true, false] {
        for k in 1..=2 {
            sim.inject_at(Fault::NotSupported, "cuStreamSynchronize", k);
        }
        let done = if reads {
            device.read_now(&buffer, 0, pinned.as_mut_slice())
        } else {
            device.write_now(&mut buffer, 0, pinned.as_slice())
        };
        assert!(done.is_err());
        pinned.as_mut_slice().fill(5);
    }
    drop((pinned, pool, buffer));
    assert_eq!(sim.undefined_uses(), 0, "{}", sim.report());
}

#[test]
fn a_driver_that_takes_no_batches_is_asked_once() {
    for fault in [Fault::NotSupported, Fault::InvalidValue] {
        let sim = Sim::new(6);
        let device = CudaOptions::new().kernel_copies(0).open().unwrap();
        let mut buffer = device.buffer(4096).unwrap();
        device.write_now(&mut buffer, 0, &[1; 4096]).unwrap();
        let copies = [(0..64, 64), (128..192, 192)];
        sim.inject_at(fault, "cuMemcpyBatchAsync", 1);
        assert!(device.has_batches());
        (0..3).for_each(|_| buffer.copy_independent(&copies).unwrap());
        assert_eq!((device.has_batches(), sim.calls_of("cuMemcpyBatchAsync")), (false, 1), "{fault:?}");
        assert_eq!(sim.calls_of("cuMemcpyDtoDAsync_v2"), 6);
    }
}

#[test]
fn no_host_memory_says_how_much_there_is_of_it() {
    let sim = Sim::new(7);
    for kind in [HostMemory::Driver, HostMemory::Registered] {
        let device = CudaOptions::new().host_memory(kind).open().unwrap();
        for function in ["cuMemHostAlloc", "cuMemHostRegister_v2"] {
            sim.inject_at(Fault::OutOfMemory, function, 1);
        }
        let error = device.locker().lock(4096).unwrap_err();
        assert!(matches!(error, CudaError::HostMemory { available: Some(_), .. }), "{error}");
        sim.clear_faults();
    }
}
