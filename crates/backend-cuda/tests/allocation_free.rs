//! A transfer allocates nothing in this process once everything has run once; what the driver allocates, simulated or not,
//! is its own. Alone in its file: the count is the process's.

#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on should stop where it stands")]

mod common;

use allocator_core::DeviceBuffer;
use backend_cuda::CudaOptions;
use pinned_host::{Event, HostPool, Lane, PageLocker, Queue, Transfer};
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
    let _sim = common::Sim::new(1);
    let device = CudaOptions::new().scratch(1024).step_cost(512).open().unwrap();
    let region = device.locker().lock(1 << 20).unwrap();
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
    (0..500).for_each(&mut round);
    let before = ALLOCATIONS.load(SeqCst);
    (0..500).for_each(&mut round);
    assert_eq!(ALLOCATIONS.load(SeqCst) - before, 0);
}
