//! Arenas that come, go, grow, and take one another's place under a watch.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on should stop where it stands")]

use allocator_core::conformance::VecBuffer;
use allocator_core::{Arena, Handle, Request};
use mem_tracker::{Category, Device, TrackError, Tracker, Warning, Watch, When};

fn total(tracker: &Tracker) -> u64 {
    tracker.snapshot(When::Current).iter().map(|(_, usage)| usage.total()).sum()
}

/// Arenas on a device, and the bytes they span.
fn segments(device: &Device) -> (u64, u64) {
    let stats = device.memory_stats();
    (stats.segment.current, stats.reserved_bytes.current)
}

fn heard(watch: &Watch, size: usize) -> Arena<VecBuffer> {
    let mut arena = Arena::new(VecBuffer::new(size)).unwrap();
    arena.set_observer(Box::new(watch.observer()));
    arena
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
    watch.set_size(1 << 21).unwrap();
    assert_eq!((total(&tracker), device.memory_stats().reserved_bytes.current), (0, 0));
}

/// A dead arena's blocks are gone, whoever else is heard under its watch and whether that has said anything yet.
#[test]
fn of_two_arenas_under_one_watch_each_takes_its_own_along() {
    for speaks in [false, true] {
        let tracker = Tracker::new();
        let device = tracker.device("cuda:0").unwrap();
        let watch = device.watch(1 << 20).unwrap();
        let [mut one, mut two] = [0; 2].map(|_| heard(&watch, 1 << 20));
        let first = one.allocate(Request::new(4096)).unwrap();
        let second = speaks.then(|| two.allocate(Request::new(100)).unwrap());
        let rest = if speaks { 100 } else { 0 };
        assert_eq!(total(&tracker), 4096 + rest);
        assert!(watch.storage(first).is_ok());
        drop(one);
        assert_eq!((total(&tracker), segments(&device).0), (rest, 1));
        assert!(watch.storage(first).is_err() && second.is_none_or(|block| watch.storage(block).is_ok()));
        drop(two);
        assert_eq!((total(&tracker), segments(&device)), (0, (0, 0)));
        assert_eq!(tracker.warnings(), []);
    }
}

/// A program whose arena is too short makes a longer one, brings the blocks over, and goes on under the same watch.
#[test]
fn an_arena_hands_over_to_a_longer_one() {
    let tracker = Tracker::new();
    let device = tracker.device("cuda:0").unwrap();
    let watch = device.watch(1 << 20).unwrap();
    let mut arena = heard(&watch, 1 << 20);
    let old: Vec<Handle> = (1..=3).map(|n| arena.allocate(Request::new(1000 * n)).unwrap()).collect();
    let mut longer = heard(&watch, 2 << 20);
    watch.set_size(2 << 20).unwrap();
    let new = {
        let _kept = tracker.category(Category::Parameter);
        longer.allocate(Request::new(3000)).unwrap()
    };
    assert_eq!(total(&tracker), 9000);
    arena = longer;
    assert_eq!((total(&tracker), segments(&device)), (3000, (1, 2 << 20)));
    assert!(old.iter().all(|block| watch.storage(*block).is_err()));
    assert_eq!(device.usage(When::Current).allocated(Category::Parameter), 3000);
    arena.release(new).unwrap();
    assert_eq!((total(&tracker), tracker.warnings()), (0, vec![]));
}

/// Blocks that were adopted are the arena's like all others.
#[test]
fn adopted_blocks_go_with_their_arena() {
    let tracker = Tracker::new();
    let watch = tracker.device("cuda:0").unwrap().watch(1 << 20).unwrap();
    let mut arena = Arena::new(VecBuffer::new(1 << 20)).unwrap();
    arena.allocate(Request::new(1000)).unwrap();
    let other = heard(&watch, 1 << 20);
    arena.set_observer(Box::new(watch.observer()));
    assert_eq!(watch.adopt(arena.allocator().blocks()), 1);
    drop(arena);
    assert_eq!(total(&tracker), 0);
    drop(other);
}

/// What nobody names any more is not there, whether or not an arena was ever heard.
#[test]
fn a_watch_that_no_arena_ever_had() {
    let tracker = Tracker::new();
    let device = tracker.device("cuda:0").unwrap();
    let watch = device.watch(1 << 20).unwrap();
    let other = watch.clone();
    drop(watch);
    assert_eq!(segments(&device), (1, 1 << 20));
    drop(other);
    assert_eq!(segments(&device), (0, 0));
    // The observer names it as well.
    let mut arena = heard(&device.watch(1 << 10).unwrap(), 1 << 10);
    let kept = device.watch(1 << 20).unwrap();
    arena.allocate(Request::new(100)).unwrap();
    assert_eq!((segments(&device), total(&tracker)), ((2, (1 << 10) + (1 << 20)), 100));
    drop(arena);
    assert_eq!((segments(&device), total(&tracker)), ((1, 1 << 20), 0));
    drop(kept);
    assert_eq!(segments(&device), (0, 0));
}

#[test]
fn arenas_that_span_more_than_can_be_counted() {
    let tracker = Tracker::new();
    let device = tracker.device("cuda:0").unwrap();
    let overflow = |bytes, held| TrackError::Overflow { device: "cuda:0".to_owned(), bytes, held };
    let watch = device.watch(u64::MAX - 100).unwrap();
    assert_eq!(device.watch(101).unwrap_err(), overflow(101, u64::MAX - 100));
    let small = device.watch(50).unwrap();
    assert_eq!(small.set_size(101), Err(overflow(51, u64::MAX - 50)));
    assert_eq!(segments(&device), (2, u64::MAX - 50));
    small.set_size(100).unwrap();
    // One that is gone may be as long as it likes, until it is heard again.
    drop(watch.observer());
    watch.set_size(u64::MAX).unwrap();
    assert_eq!(segments(&device), (1, 100));
    let observer = watch.observer();
    let told = Warning::Overflow { device: "cuda:0".to_owned(), bytes: u64::MAX };
    assert_eq!((segments(&device), tracker.warnings()), ((1, 100), vec![(told, 1)]));
    drop(observer);
    drop(watch);
    assert_eq!(segments(&device), (1, 100));
}
