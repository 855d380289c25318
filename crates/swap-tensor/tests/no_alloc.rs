//! Once warm, a swap allocates nothing: a counting allocator watches a whole pass of swap-ins, write-backs and moves.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on should stop where it stands")]

use backend_cpu::CpuDevice;
use std::{
    alloc::{GlobalAlloc, Layout, System},
    sync::atomic::{AtomicU64, Ordering},
};
use swap_tensor::{DType, SwapPool, Tensor, TensorSpec};

struct Counting;

static ALLOCATIONS: AtomicU64 = AtomicU64::new(0);

// SAFETY: every call goes to the system allocator unchanged; counting touches no memory of the caller's.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        // SAFETY: the caller's promise, passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, ptr: *mut u8, layout: Layout) {
        // SAFETY: the caller's promise, passed on.
        unsafe { System.dealloc(ptr, layout) }
    }

    unsafe fn realloc(&self, ptr: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        // SAFETY: the caller's promise, passed on.
        unsafe { System.realloc(ptr, layout, new_size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

#[test]
fn a_warm_pass_allocates_nothing() {
    let builder = || SwapPool::builder(CpuDevice::new().unwrap()).device_memory(1 << 20).host_memory(8 << 20);
    until_quiet(&builder().build().unwrap());
    // One after the other: the count is the process's.
    #[cfg(feature = "track")]
    {
        let tracker = mem_tracker::Tracker::new();
        let pool = builder().tracker(tracker.clone()).build().unwrap();
        until_quiet(&pool);
        let moves = tracker.device("pool:0").unwrap().memory_stats().num_moves;
        assert!(moves > 0, "nothing moved");
    }
}

fn until_quiet(pool: &SwapPool<CpuDevice>) {
    let sizes = [300_000u64, 1_000, 500_000, 70_001, 250_000, 8, 400_000, 123_456];
    let tensors: Vec<_> = (0..24)
        .map(|i| {
            let bytes = sizes[i % sizes.len()];
            let spec = TensorSpec::new(format!("t{i}"), DType::U8, [bytes]).unwrap();
            pool.create(spec, &vec![i as u8; bytes as usize]).unwrap()
        })
        .collect();
    // Scratch grows to what the work needs, which depends on what is in flight at a time; then it stays. One allocation per
    // transfer, or per pass, would never let a pass end without any.
    let mut quiet = 0;
    for _ in 0..60 {
        let before = (ALLOCATIONS.load(Ordering::SeqCst), pool.stats().write_backs);
        pass(pool, &tensors);
        pool.settle().unwrap();
        let after = (ALLOCATIONS.load(Ordering::SeqCst), pool.stats().write_backs);
        assert!(after.1 - before.1 >= 20, "the pass must swap to mean something");
        quiet = if after.0 == before.0 { quiet + 1 } else { 0 };
        if quiet == 3 {
            return;
        }
    }
    panic!("no three passes in a row without a heap allocation");
}

fn pass(pool: &SwapPool<CpuDevice>, tensors: &[Tensor<CpuDevice>]) {
    for tensor in tensors {
        tensor.read().unwrap().wait().unwrap();
    }
    for (i, tensor) in tensors.iter().enumerate().rev() {
        if let Some(next) = i.checked_sub(1) {
            pool.prefetch(&[&tensors[next]]);
        }
        tensor.write().unwrap().wait().unwrap();
    }
}
