//! A transfer allocates nothing once everything has run once. Alone in its file: the count is the process's.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on should stop where it stands")]

use allocator_core::DeviceBuffer;
use backend_cpu::CpuDevice;
use pinned_host::{
    Event, HostPool, Lane, LockPolicy, PageLocker, Queue, StagedCopy, StagingConfig, Transfer,
};
use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};

/// Counts the allocations of all threads.
struct Counting;

static ALLOCATIONS: AtomicU64 = AtomicU64::new(0);

// SAFETY: passes everything on to the system's allocator.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, SeqCst);
        // SAFETY: the caller's promise, passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, ptr: *mut u8, layout: Layout) {
        // SAFETY: the caller's promise, passed on.
        unsafe { System.dealloc(ptr, layout) }
    }

    unsafe fn realloc(&self, ptr: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, SeqCst);
        // SAFETY: the caller's promise, passed on.
        unsafe { System.realloc(ptr, layout, size) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

#[test]
fn a_warm_transfer_allocates_nothing() {
    staged_copies();
    let device = CpuDevice::new().unwrap();
    let region = device.locker().pageable(1 << 20).unwrap().unwrap();
    let pool = HostPool::new(vec![region], 64).unwrap();
    let mut buffer = device.buffer(1 << 20).unwrap();
    let mut round = |number: u64| {
        let at = (number * 4096) % (1 << 19);
        let sent = device.upload(pool.allocate(4096).unwrap(), &mut buffer, at).unwrap();
        device.queue().wait(sent.event()).unwrap();
        buffer.copy_within(at..at + 4096, at + 2048).unwrap();
        let moved = device.queue().record().unwrap();
        device.lane(Lane::Download).wait(&moved).unwrap();
        let got = device.download(&buffer, at, pool.allocate(4096).unwrap()).unwrap();
        // In turn: dropped in flight, polled, waited for.
        if number.is_multiple_of(2) {
            drop(sent);
        } else {
            sent.wait().unwrap();
        }
        let _ = got.is_done().unwrap();
        got.wait().unwrap();
        moved.synchronize().unwrap();
    };
    (0..2000).for_each(&mut round);
    let before = ALLOCATIONS.load(SeqCst);
    (0..2000).for_each(&mut round);
    assert_eq!(ALLOCATIONS.load(SeqCst) - before, 0);
}

fn staged_copies() {
    let device = CpuDevice::new().unwrap();
    let config = StagingConfig { read: 64 << 10, write: 64 << 10, lock: LockPolicy::Never };
    let ring = config.build(device.locker()).unwrap();
    let mut buffer = device.buffer(1 << 20).unwrap();
    let mut bytes = vec![1; 500_000];
    let mut round = |number: usize| {
        let staged = StagedCopy::new(&device, &ring).piece(16 << 10).depth(1 + number % 8);
        staged.upload(&bytes, &mut buffer, 64).unwrap();
        staged.download(&buffer, 64, &mut bytes).unwrap();
    };
    (0..100).for_each(&mut round);
    let before = ALLOCATIONS.load(SeqCst);
    (0..100).for_each(&mut round);
    assert_eq!(ALLOCATIONS.load(SeqCst) - before, 0);
}
