//! Once warm, neither an event nor a scope touches the heap.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on should stop where it stands")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

use allocator_core::{Block, Observer, OffsetAllocator, Request};
use mem_tracker::{Category, Peaks, Tracker};

/// Counts this thread's heap allocations.
struct Counting;

thread_local! {
    static COUNT: Cell<u64> = const { Cell::new(0) };
}

// SAFETY: every call is handed to the system allocator unchanged; counting touches no heap.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        COUNT.with(|count| count.set(count.get() + 1));
        // SAFETY: the caller's promises about `layout` are passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: `pointer` came from `alloc` above, so from the system allocator, with this layout.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        COUNT.with(|count| count.set(count.get() + 1));
        // SAFETY: as in `dealloc`; the caller's promises about `size` are passed on.
        unsafe { System.realloc(pointer, layout, size) }
    }
}

#[global_allocator]
static HEAP: Counting = Counting;

#[test]
fn warm_events_and_scopes_do_not_allocate() {
    for peaks in [Peaks::EveryEvent, Peaks::AtOperations] {
        let tracker = Tracker::with_peaks(peaks);
        let device = tracker.device("cuda:0").unwrap();
        let watch = device.watch(1 << 30).unwrap();
        let mut observer = watch.observer();
        let mut offsets = OffsetAllocator::new(1 << 30).unwrap();
        let mut block = |size| {
            let handle = offsets.allocate(Request::new(size * 100)).unwrap();
            offsets.block(handle).unwrap()
        };
        let blocks: Vec<Block> = (1..=64_u64).map(&mut block).collect();
        let modules: Vec<_> = (0..10).map(|at| tracker.module(&format!("M.{at}")).unwrap()).collect();
        let owner = tracker.owner(Category::Buffer, Some("M.3"), Some("mask")).unwrap();
        let mut step = || {
            let before = COUNT.with(Cell::get);
            for module in &modules {
                let _outer = modules[0].forward();
                let _scope = module.backward();
                let _again = module.forward();
                blocks.iter().for_each(|block| observer.on_alloc(block));
                tracker.operation();
                for block in &blocks {
                    tracker.retag(watch.storage(block.handle).unwrap(), Category::Gradient).unwrap();
                    observer.on_resize(block, block);
                    observer.on_free(block);
                }
                drop(device.hold_for(50, &owner).unwrap());
                let storage = device.add(50).unwrap();
                tracker.assign(storage, &owner).unwrap();
                tracker.resize(storage, 70).unwrap();
                tracker.remove(storage).unwrap();
            }
            tracker.reset_mod_stats();
            COUNT.with(Cell::get) - before
        };
        assert!(step() > 0);
        step();
        assert_eq!((0..10).map(|_| step()).sum::<u64>(), 0, "{peaks:?}");
    }
}
