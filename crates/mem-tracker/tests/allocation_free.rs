//! Once warm, neither an event nor a scope touches the heap; and what a tracker takes of it does not grow with the iterations.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on should stop where it stands")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

use allocator_core::conformance::VecBuffer;
use allocator_core::{Arena, Block, Observer, OffsetAllocator, Request};
use mem_tracker::{Category, Peaks, Tracker};

/// Counts this thread's heap allocations, and the bytes it holds.
struct Counting;

thread_local! {
    static COUNT: Cell<u64> = const { Cell::new(0) };
    static HELD: Cell<usize> = const { Cell::new(0) };
}

fn hold(more: usize, less: usize) {
    HELD.with(|held| held.set(held.get().wrapping_add(more).wrapping_sub(less)));
}

// SAFETY: every call is handed to the system allocator unchanged; counting touches no heap.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        COUNT.with(|count| count.set(count.get() + 1));
        hold(layout.size(), 0);
        // SAFETY: the caller's promises about `layout` are passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        hold(0, layout.size());
        // SAFETY: `pointer` came from `alloc` above, so from the system allocator, with this layout.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        COUNT.with(|count| count.set(count.get() + 1));
        hold(size, layout.size());
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

/// Bytes that training takes of the heap: 50 modules, forward and backward.
fn train(tracker: &Tracker, iterations: usize) -> usize {
    let before = HELD.with(Cell::get);
    let modules: Vec<_> = (0..50).map(|at| tracker.module(&format!("M.{at}")).unwrap()).collect();
    for _ in 0..iterations {
        modules.iter().for_each(|module| drop(module.forward()));
        modules.iter().for_each(|module| drop(module.backward()));
    }
    drop(modules);
    HELD.with(Cell::get) - before
}

#[test]
fn a_long_run_takes_no_more_than_a_short_one() {
    let tracker = Tracker::new();
    let _held = tracker.device("cuda:0").unwrap().hold(1);
    let short = train(&tracker, 4 * Tracker::KEPT_CALLS);
    assert_eq!(train(&tracker, 1000), 0, "beside {short} bytes");

    let before = HELD.with(Cell::get);
    tracker.reset();
    assert!(before - HELD.with(Cell::get) > short / 2, "a reset keeps no room for calls");

    // Where all calls are kept, a reset gives their memory back.
    for reset in [Tracker::reset_mod_stats, Tracker::reset] {
        let tracker = Tracker::new();
        tracker.keep_calls(usize::MAX);
        let before = HELD.with(Cell::get);
        let all = train(&tracker, 1000);
        reset(&tracker);
        let left = HELD.with(Cell::get) - before;
        assert!(all > 50 * 6 * 1000 * 100 && left < all / 100, "{left} of {all} bytes are left");
    }

    // Arenas that come and go leave nothing.
    let device = tracker.device("cuda:0").unwrap();
    let arenas = |count: usize| {
        let before = HELD.with(Cell::get);
        for _ in 0..count {
            let mut arena = Arena::new(VecBuffer::new(4096)).unwrap();
            arena.set_observer(Box::new(device.watch(4096).unwrap().observer()));
            for _ in 0..4096 {
                arena.allocate(Request::new(1)).unwrap();
            }
        }
        HELD.with(Cell::get).wrapping_sub(before)
    };
    arenas(2);
    assert_eq!(arenas(100), 0);
}
