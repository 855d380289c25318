//! What is done wrong is an error or a warning with a name, and no figure is wrong because of it.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on should stop where it stands")]

use allocator_core::conformance::VecBuffer;
use allocator_core::{Arena, Block, Observer, OffsetAllocator, Request};
use mem_tracker::{Category, ModState, TrackError, Tracker, Warning, When};

fn total(tracker: &Tracker) -> u64 {
    tracker.snapshot(When::Current).iter().map(|(_, usage)| usage.total()).sum()
}

fn block(offsets: &mut OffsetAllocator, size: u64) -> Block {
    let handle = offsets.allocate(Request::new(size)).unwrap();
    offsets.block(handle).unwrap()
}

#[test]
fn what_is_gone_is_an_error() {
    let tracker = Tracker::new();
    let device = tracker.device("cpu").unwrap();
    let storage = device.add(100).unwrap();
    assert_eq!(tracker.remove(storage), Ok(100));
    let stale = TrackError::StaleStorage { storage };
    // Its slot has another tenant now.
    device.add(7).unwrap();
    assert_eq!(tracker.remove(storage), Err(stale.clone()));
    assert_eq!(tracker.resize(storage, 1), Err(stale.clone()));
    assert_eq!(tracker.retag(storage, Category::Parameter), Err(stale.clone()));
    assert_eq!(tracker.label(storage, "x"), Err(stale.clone()));
    assert_eq!(tracker.storage(storage), Err(stale.clone()));
    let module = tracker.module("A").unwrap();
    assert_eq!(module.parameters(&[storage]), Err(stale.clone()));
    assert_eq!(module.forward_of(&[storage]).err(), Some(stale.clone()));
    assert_eq!(module.forward().end(&[storage]), Err(stale));
    assert_eq!(tracker.modules()[0].snapshots(ModState::PostForward).len(), 1);

    let other = Tracker::new();
    other.device("cpu").unwrap().add(5).unwrap();
    let storage = device.add(9).unwrap();
    assert_eq!(other.remove(storage), Err(TrackError::ForeignStorage { storage }));
    let foreign = other.owner(Category::Buffer, Some("A"), None).unwrap();
    assert_eq!(tracker.assign(storage, &foreign), Err(TrackError::ForeignOwner));
    assert_eq!(device.hold_for(9, &foreign).err(), Some(TrackError::ForeignOwner));
    assert_eq!(tracker.storage(storage).unwrap().category, Category::Activation);
    assert_eq!((total(&tracker), total(&other)), (16, 5));
}

#[test]
fn parameters_are_named_all_or_none() {
    let tracker = Tracker::new();
    let device = tracker.device("cpu").unwrap();
    let (one, gone) = (device.add(100).unwrap(), device.add(100).unwrap());
    tracker.remove(gone).unwrap();
    let module = tracker.module("A").unwrap();
    assert_eq!(module.parameters(&[one, gone]), Err(TrackError::StaleStorage { storage: gone }));
    assert_eq!(tracker.storage(one).unwrap().category, Category::Activation);
    // As often as it is named.
    assert_eq!(module.parameters(&[one, one]), Ok(200));
}

#[test]
fn blocks_that_were_never_told_of() {
    let tracker = Tracker::new();
    let watch = tracker.device("cuda:0").unwrap().watch(1 << 20).unwrap();
    let mut arena = Arena::new(VecBuffer::new(1 << 20)).unwrap();
    let [early, late] = [0; 2].map(|_| arena.allocate(Request::new(100)).unwrap());
    arena.set_observer(Box::new(watch.observer()));
    arena.release(early).unwrap();
    let unknown = Warning::UnknownBlock { device: "cuda:0".to_owned(), handle: early };
    assert_eq!(tracker.warnings(), [(unknown, 1)]);
    arena.resize_block(late, 90).unwrap();
    assert_eq!(tracker.warnings()[0].1, 2);
    let error = TrackError::UnknownBlock { device: "cuda:0".to_owned(), handle: late };
    assert_eq!(watch.storage(late), Err(error));
    assert_eq!(total(&tracker), 0);

    // Unless the blocks that were there are adopted.
    assert_eq!(watch.adopt(arena.allocator().blocks()), 1);
    assert_eq!(watch.adopt(arena.allocator().blocks()), 0);
    arena.resize_block(late, 80).unwrap();
    assert_eq!(total(&tracker), 80);
    arena.release(late).unwrap();
    assert_eq!((total(&tracker), tracker.warnings()[0].1), (0, 2));
}

#[test]
fn two_arenas_on_one_observer_are_counted_and_said() {
    let tracker = Tracker::new();
    let watch = tracker.device("cuda:0").unwrap().watch(1 << 20).unwrap();
    let mut observer = watch.observer();
    let [mut first, mut second] = [0; 2].map(|_| OffsetAllocator::new(1 << 20).unwrap());
    let (one, two) = (block(&mut first, 100), block(&mut second, 200));
    observer.on_alloc(&one);
    observer.on_alloc(&two);
    assert!(matches!(&tracker.warnings()[..], [(Warning::SharedObserver { .. }, 1)]));
    assert_eq!(total(&tracker), 300);
    assert!(watch.storage(one.handle).is_ok() && watch.storage(two.handle).is_ok());
    observer.on_free(&one);
    assert_eq!(total(&tracker), 200);
    observer.on_free(&two);
    assert_eq!(total(&tracker), 0);
    // The same block once more is one block.
    observer.on_alloc(&one);
    observer.on_alloc(&one);
    assert_eq!((total(&tracker), tracker.warnings()[0].1), (100, 2));
}

#[test]
fn an_arena_that_is_dropped_takes_its_blocks_along() {
    let tracker = Tracker::new();
    let watch = tracker.device("cuda:0").unwrap().watch(1 << 20).unwrap();
    let mut arena = Arena::new(VecBuffer::new(1 << 20)).unwrap();
    arena.set_observer(Box::new(watch.observer()));
    let block = arena.allocate(Request::new(1000)).unwrap();
    let storage = watch.storage(block).unwrap();
    drop(arena);
    assert_eq!((total(&tracker), watch.device().usage(When::Peak).total()), (0, 1000));
    assert_eq!(tracker.storage(storage), Err(TrackError::StaleStorage { storage }));
    assert!(watch.storage(block).is_err());
    assert_eq!(tracker.warnings(), []);
}

#[test]
fn an_arena_that_gets_another_observer() {
    let tracker = Tracker::new();
    let device = tracker.device("cuda:0").unwrap();
    let watch = device.watch(1 << 20).unwrap();
    drop(watch.observer());
    assert_eq!(device.memory_stats().segment.current, 0);
    let mut arena = Arena::new(VecBuffer::new(1 << 20)).unwrap();
    arena.set_observer(Box::new(watch.observer()));
    arena.allocate(Request::new(1000)).unwrap();
    // The second is there before the first goes, so nothing is lost.
    arena.set_observer(Box::new(watch.observer()));
    assert_eq!((total(&tracker), device.memory_stats().reserved_bytes.current), (1000, 1 << 20));
    drop(arena);
    watch.set_size(1 << 21);
    assert_eq!((total(&tracker), device.memory_stats().reserved_bytes.current), (0, 0));
}

#[test]
fn events_after_a_reset() {
    let tracker = Tracker::new();
    let device = tracker.device("cuda:0").unwrap();
    let watch = device.watch(1 << 20).unwrap();
    let mut arena = Arena::new(VecBuffer::new(1 << 20)).unwrap();
    arena.set_observer(Box::new(watch.observer()));
    let block = arena.allocate(Request::new(1000)).unwrap();
    let held = device.hold(10).unwrap();
    let storage = held.id();
    let module = tracker.module("A").unwrap();
    let scope = module.forward();
    tracker.reset();
    assert!(tracker.snapshot(When::Peak).is_empty() && tracker.modules().is_empty());
    assert_eq!(device.memory_stats().reserved_bytes.current, 1 << 20);

    device.add(5).unwrap();
    arena.release(block).unwrap();
    assert_eq!(tracker.remove(storage), Err(TrackError::StaleStorage { storage }));
    drop(held);
    drop(scope);
    let outlived = Warning::ScopeOutlivedReset { module: "A".to_owned(), state: ModState::PreForward };
    let warned: Vec<Warning> = tracker.warnings().into_iter().map(|(warning, _)| warning).collect();
    assert_eq!(warned[1], outlived);
    assert!(matches!(warned[0], Warning::UnknownBlock { .. }));
    assert!(tracker.modules().is_empty());
    assert_eq!((total(&tracker), device.usage(When::Peak).total()), (5, 5));
}

#[test]
fn scopes_that_are_left_open() {
    let tracker = Tracker::new();
    let device = tracker.device("cpu").unwrap();
    let there = tracker.clone();
    let thread = std::thread::spawn(move || {
        let module = there.module("A.b").unwrap();
        std::mem::forget(module.backward());
        let error = there.check_closed().unwrap_err();
        assert_eq!(error.to_string(), "1 scopes are open; the oldest is Pre-Backward of module A.b");
        std::thread::current().id()
    });
    let thread = thread.join().unwrap();
    let left = Warning::ScopeLeftOpen { module: "A.b".to_owned(), state: ModState::PreBackward, thread };
    assert_eq!(tracker.warnings(), [(left, 1)]);
    tracker.check_closed().unwrap();
    // What comes later is no business of that scope.
    device.add(1000).unwrap();
    let stats = &tracker.modules()[0];
    assert_eq!((stats.local_peak("cpu"), stats.snapshots(ModState::PostBackward).len()), (0, 0));
}

/// A pass that a panic cuts short is closed, and has no state of an end that it did not reach.
#[test]
fn a_panic_in_a_pass() {
    let tracker = Tracker::new();
    let there = tracker.clone();
    let cut = std::thread::spawn(move || {
        let module = there.module("A").unwrap();
        let _scope = module.forward();
        let _phase = there.backward();
        panic!("on purpose");
    });
    assert!(cut.join().is_err());
    tracker.check_closed().unwrap();
    assert_eq!(tracker.modules()[0].states(), [ModState::PeakForward, ModState::PreForward]);
    assert_eq!(tracker.warnings(), []);
}

#[test]
fn more_than_can_be_counted() {
    let tracker = Tracker::new();
    let device = tracker.device_rounding("cpu", 512).unwrap();
    let storage = device.add(u64::MAX - 1023).unwrap();
    let overflow = |bytes| TrackError::Overflow { device: "cpu".to_owned(), bytes, held: u64::MAX - 1023 };
    assert_eq!(device.add(513), Err(overflow(1024)));
    assert_eq!(device.add(u64::MAX), Err(overflow(u64::MAX)));
    let small = device.add(512).unwrap();
    assert!(matches!(tracker.resize(small, 1024), Err(TrackError::Overflow { .. })));
    assert_eq!(device.usage(When::Current).total(), u64::MAX - 511);
    tracker.remove(storage).unwrap();
    tracker.resize(small, 1).unwrap();
    assert_eq!(device.usage(When::Current).total(), 512);
    assert_eq!(device.usage(When::Current).total_requested(), 1);
}

#[test]
fn blocks_that_cannot_be_counted_leave_the_figures() {
    let tracker = Tracker::new();
    let device = tracker.device("cpu").unwrap();
    let watch = device.watch(1 << 20).unwrap();
    let mut observer = watch.observer();
    let mut offsets = OffsetAllocator::new(1 << 20).unwrap();
    let (before, much) = (block(&mut offsets, 10), block(&mut offsets, 1000));
    let most = device.add(u64::MAX - 100).unwrap();
    observer.on_alloc(&before);
    observer.on_alloc(&much);
    assert_eq!(total(&tracker), u64::MAX - 90);
    offsets.free(much.handle).unwrap();
    offsets.resize_block(before.handle, 500).unwrap();
    let after = offsets.block(before.handle).unwrap();
    observer.on_resize(&before, &after);
    assert_eq!(total(&tracker), u64::MAX - 100);
    assert_eq!(tracker.warnings(), [(Warning::Overflow { device: "cpu".to_owned(), bytes: 500 }, 2)]);
    tracker.remove(most).unwrap();
    // Gone from the figures, so its release is not counted either.
    observer.on_free(&after);
    assert_eq!(total(&tracker), 0);
}

#[test]
fn a_device_keeps_its_rounding() {
    let tracker = Tracker::new();
    let device = tracker.device_rounding("cuda:0", 512).unwrap();
    let rounding = |rounding, asked| TrackError::Rounding { device: "cuda:0".to_owned(), rounding, asked };
    assert_eq!(tracker.device_rounding("cuda:0", 1).unwrap_err(), rounding(512, 1));
    assert_eq!(tracker.device("cuda:0").unwrap().rounding(), 512);
    device.add(1).unwrap();
    assert_eq!(total(&tracker), 512);
    assert!(matches!(tracker.device_rounding("x", 0), Err(TrackError::Rounding { asked: 0, .. })));
    assert_eq!(tracker.devices().len(), 1);
}
