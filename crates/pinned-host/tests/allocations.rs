//! What must not touch the heap once warm: taking and giving back slices, and ordering operations.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on stops where it stands")]

use pinned_host::{Access, DeviceError, ErrorKind, Event, Hazards, HostPool, OsLocker, PageLocker};
use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

struct Counting;

thread_local! {
    static CALLS: Cell<u64> = const { Cell::new(0) };
}

// SAFETY: the system's allocator does the work; counting allocates nothing.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        CALLS.set(CALLS.get() + 1);
        // SAFETY: the caller's promise.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, ptr: *mut u8, layout: Layout) {
        // SAFETY: the caller's promise.
        unsafe { System.dealloc(ptr, layout) }
    }

    unsafe fn realloc(&self, ptr: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        CALLS.set(CALLS.get() + 1);
        // SAFETY: the caller's promise.
        unsafe { System.realloc(ptr, layout, size) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

fn calls(work: impl FnOnce()) -> u64 {
    let start = CALLS.get();
    work();
    CALLS.get() - start
}

#[test]
fn slices_come_and_go_without_the_heap() {
    let pool = HostPool::new(vec![OsLocker.pageable(1 << 20).unwrap().unwrap()], 64).unwrap();
    let mut slices = Vec::with_capacity(64);
    let round = |slices: &mut Vec<_>| {
        slices.extend((1..=64).map(|i| pool.allocate(i * 100).unwrap()));
        // Every second first: leaves holes on both sides of the rest.
        let mut i = 0;
        slices.retain(|_| {
            i += 1;
            i % 2 == 0
        });
        slices.clear();
    };
    round(&mut slices);
    assert_eq!(calls(|| (0..100).for_each(|_| round(&mut slices))), 0);
}

#[derive(Clone, Debug)]
struct Fired(u64);

#[derive(Debug, thiserror::Error)]
#[error("never")]
struct Never;

impl DeviceError for Never {
    fn kind(&self) -> ErrorKind {
        ErrorKind::Failed
    }
}

impl Event for Fired {
    type Error = Never;

    fn query(&self) -> Result<bool, Never> {
        Ok(self.0.is_multiple_of(3))
    }

    fn synchronize(&self) -> Result<(), Never> {
        Ok(())
    }

    fn covers(&self, earlier: &Self) -> bool {
        self.0 % 3 == earlier.0 % 3 && self.0 >= earlier.0
    }
}

#[test]
fn hazards_need_no_heap_once_warm() {
    let mut hazards = Hazards::new();
    let mut waits = Vec::new();
    let mut pass = |from: u64| {
        for number in from..from + 3000 {
            let at = number * 37 % 4096;
            let accesses = [(at..at + 100, Access::Read), (at + 50..at + 300, Access::Write)];
            waits.clear();
            hazards.before(&accesses, &mut waits);
            hazards.after(&accesses, &Fired(number));
        }
    };
    pass(0);
    assert_eq!(calls(|| pass(3000 * 37 * 4096)), 0);
}
