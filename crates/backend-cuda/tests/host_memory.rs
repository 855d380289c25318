//! Host memory that the driver pins: which pages, how they are counted, and what a refusal or a fork leaves.

#![cfg(all(target_os = "linux", not(feature = "gpu-tests")))]
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on should stop where it stands")]

mod common;

use backend_cuda::cudarc::driver::sys::CUresult;
use backend_cuda::{CudaDevice, CudaError, CudaOptions, HostMemory};
use common::{Fault, Sim};
use pinned_host::{
    DeviceError, ErrorKind, HostPool, HostRegion, OsLocker, OsMemory, OsRegion, PageLocker, PinnedPages,
    Queue, Transfer,
};
use std::ptr::NonNull;

/// Tests count what the process has pinned, so each has its turn on the simulated device all along.
fn pinned() -> u64 {
    PinnedPages::current().locked
}

fn registering() -> CudaDevice {
    CudaOptions::new().host_memory(HostMemory::Registered).open().unwrap()
}

#[test]
fn what_the_driver_pins_is_counted_and_nothing_else() {
    let _sim = Sim::new(1);
    let start = pinned();
    for kind in [HostMemory::Driver, HostMemory::WriteCombined, HostMemory::Registered] {
        let device = CudaOptions::new().host_memory(kind).open().unwrap();
        let region = device.locker().lock(300 << 10).unwrap();
        assert!(region.is_locked() && pinned() >= start + (300 << 10), "{kind:?}");
        let pageable = device.locker().pageable(300 << 10).unwrap().unwrap();
        assert!(!pageable.is_locked() && pinned() < start + (600 << 10), "{kind:?}");
        drop(region);
        assert_eq!(pinned(), start, "{kind:?}");
    }
}

#[test]
fn memory_of_the_callers_is_registered_and_comes_to_life() {
    let sim = Sim::new(2);
    let device = CudaDevice::new().unwrap();
    let start = pinned();
    for locked in [true, false] {
        let memory = OsMemory::for_drivers();
        let made = if locked { memory.lock(64 << 10) } else { memory.pageable(64 << 10).unwrap() };
        let region = made.unwrap();
        let first = region.base();
        assert_eq!(pinned() - start, if locked { 64 << 10 } else { 0 });
        let region = device.locker().register(region).unwrap();
        assert!(region.is_locked() && region.base() == first);
        assert_eq!(pinned() - start, 64 << 10, "two that pin a page count it once");
        let pool = HostPool::new(vec![region], 64).unwrap();
        let mut slice = pool.allocate(64 << 10).unwrap();
        slice.as_mut_slice().fill(3);
        let mut buffer = device.buffer(64 << 10).unwrap();
        let mut slice = device.upload(slice, &mut buffer, 0).unwrap().wait().unwrap();
        slice.as_mut_slice().fill(0);
        let slice = device.download(&buffer, 0, slice).unwrap().wait().unwrap();
        assert!(slice.as_slice().iter().all(|&byte| byte == 3));
        drop((slice, pool));
        assert_eq!(pinned(), start);
    }
    assert_eq!(sim.calls_of("cuMemHostUnregister"), 2);
}

/// A part of another's memory, in which no two slices share a line of 128 bytes.
struct Part(NonNull<u8>);

// SAFETY: the tests keep the whole region for longer, and reach the bytes through the part alone.
unsafe impl HostRegion for Part {
    fn base(&self) -> NonNull<u8> {
        self.0
    }
    fn len(&self) -> usize {
        4096
    }
    fn atom(&self) -> usize {
        128
    }
}

// SAFETY: the pointer is only given out.
unsafe impl Send for Part {}
// SAFETY: as above.
unsafe impl Sync for Part {}

#[test]
fn a_refused_registration_gives_the_memory_back() {
    let sim = Sim::new(3);
    let device = CudaDevice::new().unwrap();
    let start = pinned();
    let region = OsLocker.lock(8192).unwrap();
    let first = region.base();
    // SAFETY: the test alone has the region.
    unsafe { first.as_ptr().write_bytes(7, 8192) };
    sim.inject_at(Fault::OutOfMemory, "cuMemHostRegister_v2", 1);
    let refused = device.locker().register(region).unwrap_err();
    assert!(matches!(refused.error, CudaError::HostMemory { bytes: 8192, .. }), "{refused}");
    assert_eq!(refused.error.kind(), ErrorKind::OutOfMemory);
    let region: OsRegion = refused.region;
    // SAFETY: as above.
    assert!(region.is_locked() && unsafe { first.read() } == 7);
    assert_eq!(pinned() - start, 8192);

    // Registered twice, as a whole or in part: the first registration stays as it was.
    let code = CUresult::CUDA_ERROR_HOST_MEMORY_ALREADY_REGISTERED;
    let part = Part(first);
    let registered = device.locker().register(region).unwrap();
    let again = device.locker().register(part).unwrap_err();
    assert_eq!((again.error.code(), again.region.0), (Some(code), first));
    let again = device.locker().register(registered).unwrap_err();
    assert_eq!(again.error.code(), Some(code));
    assert!(again.region.is_locked() && pinned() - start == 8192);
    drop(again);
    assert_eq!(pinned(), start);

    // Pageable memory of a locker's is no less memory.
    let pageable = device.locker().pageable(4096).unwrap().unwrap();
    assert!(device.locker().register(pageable).unwrap().is_locked());
    let whole = OsLocker.pageable(4096).unwrap().unwrap();
    assert_eq!(device.locker().register(Part(whole.base())).unwrap().atom(), 128);
    assert_eq!(pinned(), start);

    sim.inject(Fault::DeviceLost, 1);
    device.queue().drain().unwrap_err();
    let refused = device.locker().register(whole).unwrap_err();
    assert!(matches!(refused.error, CudaError::DeviceLost { .. }) && refused.region.len() == 4096);
    assert_eq!(pinned(), start);
}

#[test]
fn registered_pages_are_ordinary_and_stay_on_fork() {
    let _sim = Sim::new(4);
    let device = registering();
    let region = device.locker().lock(6 << 20).unwrap();
    let flags = flags(region.base().addr().get());
    // `nh`: no huge pages; `wf`: emptied in a child.
    for flag in ["nh", "wf"] {
        assert!(flags.split_whitespace().any(|set| set == flag), "{flag} is not among {flags}");
    }
}

/// What the kernel says of the mapping at an address.
fn flags(address: usize) -> String {
    let maps = std::fs::read_to_string("/proc/self/smaps").unwrap();
    let mut lines = maps.lines().skip_while(|line| {
        let range = line.split(' ').next().and_then(|range| range.split_once('-'));
        let ends = range.map(|(start, end)| [start, end].map(|end| usize::from_str_radix(end, 16)));
        !matches!(ends, Some([Ok(start), Ok(end)]) if (start..end).contains(&address))
    });
    lines.find_map(|line| line.strip_prefix("VmFlags:")).unwrap().to_owned()
}

#[test]
fn a_child_of_fork_gives_nothing_back() {
    let sim = Sim::new(6);
    for kind in [HostMemory::Driver, HostMemory::Registered] {
        let device = CudaOptions::new().host_memory(kind).open().unwrap();
        let start = pinned();
        let region = device.locker().lock(4096).unwrap();
        let calls = sim.calls();
        // SAFETY: the child runs this thread alone, and leaves by `_exit`.
        let child = unsafe { libc::fork() };
        assert!(child >= 0);
        if child == 0 {
            // SAFETY: takes a number only.
            unsafe { libc::alarm(60) };
            let before = (region.is_locked(), pinned());
            drop((region, device.locker().clone()));
            let code = i32::from(before != (false, 0)) + 2 * i32::from(sim.calls() != calls);
            // SAFETY: ends this process alone.
            unsafe { libc::_exit(code) };
        }
        let mut status = 0;
        // SAFETY: the child is this test's, the status a value of ours.
        assert_eq!(unsafe { libc::waitpid(child, &raw mut status, 0) }, child);
        assert_eq!(status, 0, "{kind:?}: exit code 1: it is locked in the child; 2: the driver was called");
        assert!(region.is_locked() && pinned() - start == 4096);
        drop(region);
        assert_eq!(pinned(), start);
    }
}
