//! What the suites do not ask of every backend: programs that use cudarc already, pages, batches, warmth.
//!
//! With feature `gpu-tests` on the machine's own driver, without what needs a fault or a count of the simulator's.

#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on should stop where it stands")]

mod common;

use allocator_core::{Arena, DeviceBuffer, Remap, Request};
use backend_cuda::cudarc::driver::{self as cu, DeviceSlice};
use backend_cuda::{CudaDevice, CudaError, CudaOptions, CudaPinned, HostMemory, Select, Streams};
use common::{Fault, SIMULATED, Sim};
use pinned_host::{
    DeviceError, ErrorKind, Event, HostPool, HostRegion, Lane, PageLocker, Queue, QueuedBuffer, Transfer,
};
use std::sync::Arc;

#[test]
fn a_device_is_opened_by_what_names_it() {
    let _sim = Sim::new(1);
    let listed = CudaDevice::list().unwrap();
    assert!(if SIMULATED { listed.len() == 1 } else { !listed.is_empty() });
    let selects =
        [Select::Ordinal(0), Select::Name(listed[0].name.to_lowercase()), Select::Uuid(listed[0].uuid)];
    for select in selects {
        let device = CudaOptions::new().select(select).open().unwrap();
        assert_eq!(device.info().unwrap(), listed[0]);
        let (free, total) = device.available().unwrap();
        // A driver may keep some of it from a process.
        assert!(free <= total && total <= listed[0].memory && total > listed[0].memory / 2);
    }
    let beyond = Select::Ordinal(listed.len() + 6);
    let error = CudaOptions::new().select(beyond).open().unwrap_err();
    assert!(matches!(&error, CudaError::NoDevice { found, .. } if found.len() == listed.len()), "{error}");
    assert_eq!(error.kind(), ErrorKind::InvalidUse);
}

#[test]
fn a_block_is_a_device_slice_for_cudarc() {
    let _sim = Sim::new(2);
    let device = CudaDevice::new().unwrap();
    let mut arena = Arena::new(device.buffer(64 << 10).unwrap()).unwrap();
    let block = arena.allocate(Request::new(4096).align(256)).unwrap();
    let stream = device.queue().stream().clone();
    let numbers: Vec<f32> = (0..1024).map(|n| n as f32).collect();
    let mut view = arena.view(block).unwrap().cast::<f32>().unwrap();
    assert_eq!((view.len(), view.num_bytes()), (1024, 4096));
    stream.memcpy_htod(&numbers, &mut view).unwrap();
    assert_eq!(stream.clone_dtoh(&view).unwrap(), numbers);
    // Into a slice of cudarc's, and back into another block.
    let slice = stream.clone_dtod(&view).unwrap();
    let other = arena.allocate(Request::new(4096)).unwrap();
    let mut view = arena.view(other).unwrap().cast::<f32>().unwrap();
    stream.memcpy_dtod(&slice, &mut view).unwrap();
    assert_eq!(stream.clone_dtoh(&view).unwrap(), numbers);
    stream.memset_zeros(&mut view).unwrap();
    assert_eq!(stream.clone_dtoh(&view).unwrap(), [0.0; 1024]);
    assert!(matches!(arena.buffer().view(2..6).unwrap().cast::<f32>(), Err(CudaError::Cast { .. })));
    assert!(matches!(arena.buffer().view(0..6).unwrap().cast::<f32>(), Err(CudaError::Cast { .. })));
}

#[test]
fn a_view_on_a_strange_stream_is_waited_for_before_its_memory_goes() {
    let sim = Sim::new(3);
    let device = CudaDevice::new().unwrap();
    let buffer = device.buffer(4096).unwrap();
    let stream = device.cuda().new_stream().unwrap();
    let queue = device.wrap(&stream).unwrap();
    stream.memset_zeros(&mut buffer.view(0..4096).unwrap()).unwrap();
    assert!(!SIMULATED || sim.pending() == 1);
    drop(buffer);
    queue.record().unwrap().synchronize().unwrap();
}

#[test]
fn a_pinned_slice_is_a_host_slice_for_cudarc() {
    let _sim = Sim::new(4);
    let device = CudaDevice::new().unwrap();
    let pool = HostPool::new(vec![device.locker().lock(64 << 10).unwrap()], 64).unwrap();
    let buffer = device.buffer(4096).unwrap();
    let (own, strange) = (device.queue().stream().clone(), device.cuda().new_stream().unwrap());
    let mut pinned = CudaPinned::new(pool.allocate(4096).unwrap(), device.queue());
    let mut view = buffer.view(0..4096).unwrap();
    for (round, stream) in [&own, &strange, &own].into_iter().enumerate() {
        pinned.as_mut_slice().unwrap().fill(round as u8);
        stream.memcpy_htod(&pinned, &mut view).unwrap();
        // The next write to the pinned bytes waits for the copy, or the simulator complains.
        pinned.as_mut_slice().unwrap().fill(0xff);
        stream.memcpy_dtoh(&view, &mut pinned).unwrap();
        assert!(pinned.as_slice().unwrap().iter().all(|&byte| byte == round as u8), "round {round}");
    }
    own.memcpy_dtoh(&view, &mut pinned).unwrap();
    drop(pinned);
    assert_eq!(pool.stats().in_use, 0);
    let pinned = CudaPinned::new(pool.allocate(64).unwrap(), device.queue());
    assert_eq!(pinned.into_inner().unwrap().len(), 64);
}

#[test]
fn a_program_of_cudarcs_keeps_its_context_streams_and_slice() {
    let _sim = Sim::new(5);
    let context = cu::CudaContext::new(0).unwrap();
    let stream = context.new_stream().unwrap();
    let slice = stream.alloc_zeros::<u8>(64 << 10).unwrap();
    let address = {
        use cu::DevicePtr;
        slice.device_ptr(&stream).0
    };
    let device = CudaOptions::new().over_streams(Streams::from(Arc::clone(&stream))).unwrap();
    assert!(context.is_event_tracking(), "a caller's context stays as it is");
    assert!(Arc::ptr_eq(device.queue().stream(), &stream));
    assert!(device.wrap(&stream).unwrap().same_queue(device.queue()));

    let mut buffer = device.buffer_over(slice).unwrap();
    assert_eq!((buffer.address(), buffer.size()), (address, 64 << 10));
    assert!(device.memory().current >= 64 << 10);
    let pool = HostPool::new(vec![device.locker().lock(4096).unwrap()], 64).unwrap();
    let mut piece = pool.allocate(1000).unwrap();
    piece.as_mut_slice().fill(9);
    let sent = device.upload(piece, &mut buffer, 0).unwrap();
    device.queue().wait(sent.event()).unwrap();
    buffer.copy_within(0..1000, 500).unwrap();
    let clone = buffer.clone();
    let buffer = buffer.into_slice::<u8>().unwrap_err();
    drop(clone);
    let slice = buffer.into_slice::<u8>().unwrap();
    let found = stream.clone_dtoh(&slice).unwrap();
    assert!(found[..1500].iter().all(|&byte| byte == 9) && found[1500..].iter().all(|&byte| byte == 0));
    drop(sent);
    drop(device);
    stream.synchronize().unwrap();

    // And over a context alone.
    let device = CudaOptions::new().over_context(&context).unwrap();
    assert!(device.buffer(64).unwrap().into_slice::<u8>().is_err(), "it was no slice");
    drop(slice);
    assert!(device.take_late_error().is_none());
}

#[test]
#[cfg_attr(feature = "gpu-tests", ignore = "needs a fault of the simulated driver")]
fn a_slice_that_is_refused_comes_back() {
    let sim = Sim::new(14);
    let context = cu::CudaContext::new(0).unwrap();
    let slice = context.new_stream().unwrap().alloc_zeros::<u8>(4096).unwrap();
    let device = CudaOptions::new().over_context(&context).unwrap();
    sim.inject_at(Fault::LaunchFailed, "cuStreamSynchronize", 1);
    let refused = device.buffer_over(slice).unwrap_err();
    assert_eq!((refused.error.kind(), refused.slice.len()), (ErrorKind::DeviceLost, 4096));
}

#[test]
fn what_cudarc_kept_of_an_earlier_error_is_reported_and_nothing_made() {
    let sim = Sim::new(6);
    let context = cu::CudaContext::new(0).unwrap();
    context.record_err::<()>(Err(cu::DriverError(cu::sys::CUresult::CUDA_ERROR_INVALID_VALUE)));
    let error = CudaOptions::new().over_context(&context).unwrap_err();
    assert!(matches!(error, CudaError::Driver { call: "an earlier call", .. }), "{error}");
    let device = CudaOptions::new().over_context(&context).unwrap();
    // Once the device is there, such an error is the business of cudarc's own calls.
    context.record_err::<()>(Err(cu::DriverError(cu::sys::CUresult::CUDA_ERROR_INVALID_VALUE)));
    let mut buffer = device.buffer(4096).unwrap();
    device.write_now(&mut buffer, 0, &[1; 4096]).unwrap();
    buffer.copy_within(0..64, 128).unwrap();
    device.queue().drain().unwrap();
    assert!(device.new_queue().is_err() && device.new_queue().is_ok());
    assert!(!SIMULATED || sim.undefined_uses() == 0);
}

#[test]
fn pages_change_places_without_a_copy() {
    let sim = Sim::new(7);
    let device = CudaOptions::new().virtual_memory(true).scratch(0).open().unwrap();
    let mut buffer = device.buffer(1).unwrap();
    let granule = buffer.granule();
    assert_eq!((buffer.size(), device.memory().current), (1, granule));
    drop(buffer);
    buffer = device.buffer(8 * granule).unwrap();
    let address = buffer.address();
    for at in 0..8u8 {
        device.write_now(&mut buffer, u64::from(at) * granule, &[at; 64]).unwrap();
    }
    let copied = || if SIMULATED { sim.copied_within() } else { 0 };
    let before = copied();
    buffer.remap(4 * granule..8 * granule, 0).unwrap();
    assert_eq!((copied(), buffer.address()), (before, address));
    for at in 0..8u8 {
        let mut found = [0];
        device.read_now(&buffer, u64::from(at) * granule, &mut found).unwrap();
        assert_eq!(found, [(at + 4) % 8]);
    }
    // A dense buffer has no granule it could hold.
    let mut dense = CudaDevice::new().unwrap().buffer(1 << 20).unwrap();
    assert!(dense.granule() > dense.size() && dense.granule().is_power_of_two());
    assert!(matches!(dense.remap(0..0, 0), Err(CudaError::Remap { .. })));
}

#[test]
fn a_buffer_grows_and_shrinks_in_place() {
    let sim = Sim::new(8);
    let granule = 2 << 20;
    let device = CudaOptions::new().virtual_memory(true).reserve(4 * granule).open().unwrap();
    let mut buffer = device.buffer(granule).unwrap();
    device.write_now(&mut buffer, 0, &[5; 64]).unwrap();
    let (address, held, clone) = (buffer.address(), device.memory().current, buffer.clone());
    buffer.resize(3 * granule - 1).unwrap();
    assert_eq!((clone.size(), clone.address()), (3 * granule - 1, address));
    assert_eq!(device.memory().current, held + 2 * granule);
    device.write_now(&mut buffer, 3 * granule - 65, &[6; 64]).unwrap();
    assert!(device.write_now(&mut buffer, 3 * granule - 64, &[6; 64]).is_err());
    let limit = buffer.resize(4 * granule + 1).unwrap_err();
    assert!(matches!(limit, CudaError::Limit { allowed, .. } if allowed == 4 * granule), "{limit}");
    for k in (1..=3).filter(|_| SIMULATED) {
        sim.inject_at(Fault::OutOfMemory, if k == 3 { "cuMemMap" } else { "cuMemCreate" }, 1);
        assert_eq!(buffer.resize(4 * granule).unwrap_err().kind(), ErrorKind::OutOfMemory);
        assert_eq!(buffer.size(), 3 * granule - 1);
    }
    // Shrinking waits for what uses the end.
    buffer.copy_within(0..64, 2 * granule).unwrap();
    buffer.resize(granule).unwrap();
    assert_eq!(device.memory().current, held);
    let mut found = [0; 64];
    device.read_now(&clone, 0, &mut found).unwrap();
    assert_eq!(found, [5; 64]);
    assert!(device.read_now(&clone, granule, &mut found).is_err());
    let dense = CudaDevice::new().unwrap().buffer(64).unwrap().resize(128).unwrap_err();
    assert_eq!(dense.kind(), ErrorKind::InvalidUse);
}

#[test]
fn independent_copies_go_in_one_call_where_the_driver_takes_it() {
    let sim = Sim::new(9);
    let device = CudaOptions::new().kernel_copies(0).open().unwrap();
    let mut buffer = device.buffer(64 << 10).unwrap();
    let mut expected: Vec<u8> = (0..64 << 10).map(|at: u32| (at / 256) as u8).collect();
    device.write_now(&mut buffer, 0, &expected).unwrap();
    let copies: Vec<_> = (0..16u64).map(|n| (n * 1024..n * 1024 + 512, (32 << 10) + n * 1024)).collect();
    let calls = || if SIMULATED { sim.calls() } else { 0 };
    let before = calls();
    buffer.copy_independent(&copies).unwrap();
    if SIMULATED && device.has_batches() {
        assert_eq!(calls() - before, 1);
    }
    for (src, dst) in &copies {
        expected.copy_within(src.start as usize..src.end as usize, *dst as usize);
    }
    buffer.queue().drain().unwrap();
    let mut found = vec![0; 64 << 10];
    device.read_now(&buffer, 0, &mut found).unwrap();
    assert!(found == expected);

    // Refused as a whole, it is made one by one.
    if SIMULATED {
        sim.inject_at(Fault::OutOfMemory, "cuMemcpyBatchAsync", 1);
    }
    buffer.copy_independent(&copies).unwrap();
    buffer.queue().drain().unwrap();
    device.read_now(&buffer, 0, &mut found).unwrap();
    assert!(found == expected);

    let entangled = buffer.copy_independent(&[(0..64, 128), (128..192, 256)]).unwrap_err();
    assert_eq!(entangled.kind(), ErrorKind::InvalidUse, "{entangled}");
    assert!(buffer.copy_independent(&[(0..64, 64 << 10)]).is_err());
    buffer.copy_independent(&[]).unwrap();
}

#[test]
fn every_kind_of_host_memory_carries_bytes() {
    let sim = Sim::new(10);
    for kind in [HostMemory::Driver, HostMemory::WriteCombined, HostMemory::Registered] {
        let device = CudaOptions::new().host_memory(kind).open().unwrap();
        let region = device.locker().lock(300 << 10).unwrap();
        assert!(region.is_locked() && region.len() >= 300 << 10);
        let pool = HostPool::new(vec![region], 64).unwrap();
        let mut buffer = device.buffer(300 << 10).unwrap();
        let mut slice = pool.allocate(300 << 10).unwrap();
        assert!(slice.as_slice().iter().all(|&byte| byte == 0), "{kind:?}: a region is initialised");
        slice.as_mut_slice().fill(3);
        let slice = device.upload(slice, &mut buffer, 0).unwrap().wait().unwrap();
        let slice = device.download(&buffer, 0, slice).unwrap().wait().unwrap();
        assert!(slice.as_slice().iter().all(|&byte| byte == 3), "{kind:?}");
        assert!(matches!(device.locker().lock(0), Err(CudaError::ZeroSize)));
        let limit = device.locker().lock(device.locker().max_region() + 1).unwrap_err();
        assert!(matches!(limit, CudaError::Limit { .. }), "{limit}");
        if SIMULATED {
            sim.inject_at(Fault::OutOfMemory, "cuMemHostRegister_v2", 1);
            sim.inject_at(Fault::OutOfMemory, "cuMemHostAlloc", 1);
            assert_eq!(device.locker().lock(4096).unwrap_err().kind(), ErrorKind::OutOfMemory);
            sim.clear_faults();
        }
        assert!(device.locker().allowance().is_some());
    }
}

#[test]
fn a_warm_device_makes_no_events() {
    let _sim = Sim::new(11);
    let device = CudaDevice::new().unwrap();
    let pool = HostPool::new(vec![device.locker().lock(64 << 10).unwrap()], 64).unwrap();
    let mut buffer = device.buffer(64 << 10).unwrap();
    let mut round = || {
        let up = device.upload(pool.allocate(4096).unwrap(), &mut buffer, 0).unwrap();
        device.queue().wait(up.event()).unwrap();
        buffer.copy_within(0..4096, 8192).unwrap();
        device.lane(Lane::Download).wait(&device.queue().record().unwrap()).unwrap();
        let down = device.download(&buffer, 8192, pool.allocate(4096).unwrap()).unwrap();
        drop(up);
        down.wait().unwrap();
    };
    round();
    let made = device.events();
    assert!((3..=6).contains(&made), "{made} events");
    (0..100).for_each(|_| round());
    assert_eq!(device.events(), made);
}

#[test]
fn an_event_that_was_held_long_is_still_the_same_event() {
    let _sim = Sim::new(12);
    let device = CudaDevice::new().unwrap();
    let queue = device.queue();
    let held: Vec<_> = (0..20).map(|_| queue.record().unwrap()).collect();
    for _ in 0..100 {
        queue.record().unwrap().synchronize().unwrap();
    }
    for pair in held.windows(2) {
        assert!(pair[1].covers(&pair[0]) && !pair[0].covers(&pair[1]));
    }
    assert!(held.iter().all(|event| event.query().unwrap()));
    assert!(device.events() <= 26, "{} events", device.events());
}

#[test]
#[cfg_attr(feature = "gpu-tests", ignore = "needs a fault of the simulated driver")]
fn a_lost_context_is_lost_for_all_that_was_made_in_it() {
    let sim = Sim::new(13);
    let device = CudaDevice::new().unwrap();
    let pool = HostPool::new(vec![device.locker().lock(4096).unwrap()], 64).unwrap();
    let mut buffer = device.buffer(4096).unwrap();
    let fired = device.upload(pool.allocate(64).unwrap(), &mut buffer, 0).unwrap();
    fired.event().synchronize().unwrap();
    let pending = device.upload(pool.allocate(64).unwrap(), &mut buffer, 64).unwrap();
    sim.inject(Fault::IllegalAddress, 1);
    let error = pending.event().synchronize().unwrap_err();
    assert_eq!(error.code(), Some(cu::sys::CUresult::CUDA_ERROR_ILLEGAL_ADDRESS));
    assert!(device.is_lost() && fired.is_done().unwrap(), "what ended before has ended");
    assert!(pending.wait().unwrap_err().slice.is_some());
    assert_eq!(buffer.copy_within(0..8, 8).unwrap_err().kind(), ErrorKind::DeviceLost);
    assert_eq!(device.buffer(8).unwrap_err().kind(), ErrorKind::DeviceLost);
    assert_eq!(device.locker().lock(8).unwrap_err().kind(), ErrorKind::DeviceLost);
    assert_eq!(device.queue().drain().unwrap_err().kind(), ErrorKind::DeviceLost);
    assert_eq!(device.new_queue().unwrap_err().kind(), ErrorKind::DeviceLost);
    drop((fired, pool, buffer));
    assert!(device.take_late_error().is_none(), "that a lost context takes nothing back is no news");
}
