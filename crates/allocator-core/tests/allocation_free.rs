//! Once warm, nothing on the path of a request touches the heap.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

use allocator_core::{
    BestFit, GoodFit, Handle, LowestOffset, Move, OffsetAllocator, Placement, Plan, Request,
};

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

/// A program of requests over `live`, whose heap use is counted. The same seed does the same.
fn churn(offsets: &mut OffsetAllocator, live: &mut Vec<Handle>, plan: &mut Plan, rounds: u64) -> u64 {
    let before = COUNT.with(Cell::get);
    let mut random = 7_u64;
    for _ in 0..rounds {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let (size, pick) = ((random >> 40) % 4000 + 1, (random >> 20) as usize);
        let request = Request::new(size).align(1 << (pick % 4));
        let handle = offsets.allocate(request).ok().or_else(|| {
            offsets.plan_room_into(request, plan).ok()?;
            plan.moves().iter().for_each(|step| offsets.commit_move(step).expect("the plan holds"));
            offsets.allocate(request).ok()
        });
        match handle {
            Some(handle) => live.push(handle),
            None => drop(offsets.free(live.swap_remove(pick % live.len()))),
        }
        if pick % 16 == 0 {
            offsets.plan_compact_into(10_000, plan);
            plan.moves().iter().for_each(|step| offsets.commit_move(step).expect("the plan holds"));
        }
    }
    COUNT.with(Cell::get) - before
}

#[test]
fn warm_requests_and_plans_do_not_allocate() {
    let (rounds, size) = if cfg!(miri) { (40, 20_000) } else { (20_000, 100_000) };
    let mut offsets = OffsetAllocator::new(size).unwrap();
    let (mut live, mut plan) = (Vec::with_capacity(4096), Plan::default());
    let cold = churn(&mut offsets, &mut live, &mut plan, rounds);
    assert!(cold > 0 && offsets.stats().moves > 0);
    // Back to an empty arena, and the same again.
    for handle in live.drain(..) {
        offsets.free(handle).unwrap();
    }
    assert_eq!(churn(&mut offsets, &mut live, &mut plan, rounds), 0);
}

/// Releases and moves allocate nothing, even in an allocator that has never seen so many holes.
#[test]
fn releases_and_moves_never_allocate() {
    fn check<P: Placement>(placement: P) {
        let count = if cfg!(miri) { 40 } else { 2000_u64 };
        let mut offsets = OffsetAllocator::with_placement(16 * count + 8, 1, placement).unwrap();
        let blocks: Vec<_> = (0..count).map(|_| offsets.allocate(Request::new(16)).unwrap()).collect();
        let before = COUNT.with(Cell::get);
        for block in blocks.iter().step_by(2) {
            offsets.free(*block).unwrap();
        }
        for (at, block) in blocks.iter().enumerate().skip(1).step_by(2) {
            let src = 16 * at as u64..16 * at as u64 + 16;
            offsets.commit_move(&Move { handle: *block, dst: src.start - 8, src }).unwrap();
        }
        assert_eq!(COUNT.with(Cell::get) - before, 0);
        assert_eq!(offsets.check(), Ok(()));
    }
    check(GoodFit);
    check(BestFit);
    check(LowestOffset);
}
