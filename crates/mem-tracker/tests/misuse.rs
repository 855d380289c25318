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

/// What happens to a block is the arena's word: nobody else ends its storage or says how long it is.
#[test]
fn blocks_are_their_arenas() {
    let tracker = Tracker::new();
    let device = tracker.device("cuda:0").unwrap();
    let watch = device.watch(1 << 20).unwrap();
    let mut arena = Arena::new(VecBuffer::new(1 << 20)).unwrap();
    arena.set_observer(Box::new(watch.observer()));
    let block = arena.allocate(Request::new(4096)).unwrap();
    let storage = watch.storage(block).unwrap();
    assert_eq!(tracker.remove(storage), Err(TrackError::InArena { storage }));
    assert_eq!(tracker.resize(storage, 1), Err(TrackError::InArena { storage }));
    let other = device.add_as(100, Category::Parameter).unwrap();
    assert_eq!((total(&tracker), watch.storage(block).unwrap()), (4196, storage));
    arena.release(block).unwrap();
    assert_eq!((total(&tracker), tracker.storage(other).unwrap().allocated), (100, 100));
    assert_eq!(tracker.remove(storage), Err(TrackError::StaleStorage { storage }));
    assert_eq!(tracker.warnings(), []);
    // The slot of a block is a storage's of the program's own next, which may go.
    let [one, two] = [1, 2].map(|bytes| device.add(bytes).unwrap());
    assert_eq!((tracker.remove(one), tracker.remove(two)), (Ok(1), Ok(2)));
}

/// Blocks may come from something that asks the tracker meanwhile.
#[test]
fn adopting_calls_out_without_the_lock() {
    let tracker = Tracker::new();
    let watch = tracker.device("cuda:0").unwrap().watch(1 << 20).unwrap();
    let block = block(&mut OffsetAllocator::new(1 << 20).unwrap(), 100);
    let (done, adopted) = std::sync::mpsc::channel();
    let (asked, _kept) = (watch.clone(), watch.clone());
    std::thread::spawn(move || {
        let blocks = [block].into_iter().inspect(|_| assert_eq!(asked.device().name(), "cuda:0"));
        done.send(watch.adopt(blocks)).unwrap();
    });
    // Only to end a test that hangs.
    assert_eq!(adopted.recv_timeout(std::time::Duration::from_secs(60)), Ok(1));
    assert_eq!(total(&tracker), 100);
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
    observer.on_alloc(&one);
    observer.on_alloc(&two);
    assert_eq!((total(&tracker), tracker.warnings()[0].1), (300, 1));
    drop(observer);
    assert_eq!(total(&tracker), 0);
}

#[test]
fn a_block_that_is_told_of_twice_is_one_block() {
    let tracker = Tracker::new();
    let watch = tracker.device("cuda:0").unwrap().watch(1 << 20).unwrap();
    let mut observer = watch.observer();
    let [mut first, mut second] = [0; 2].map(|_| OffsetAllocator::new(1 << 20).unwrap());
    let (one, two) = (block(&mut first, 100), block(&mut second, 200));
    [&one, &two].into_iter().for_each(|block| observer.on_alloc(block));
    observer.on_free(&one);
    observer.on_alloc(&two);
    let twice = Warning::ToldTwice { device: "cuda:0".to_owned(), handle: two.handle };
    assert_eq!((total(&tracker), tracker.warnings()[1].clone()), (200, (twice, 1)));
}

/// A number that another block has says that the one before is gone.
#[test]
fn a_release_that_was_not_heard() {
    let tracker = Tracker::new();
    let watch = tracker.device("cuda:0").unwrap().watch(1 << 20).unwrap();
    let mut observer = watch.observer();
    let mut offsets = OffsetAllocator::new(1 << 20).unwrap();
    let one = block(&mut offsets, 100);
    observer.on_alloc(&one);
    offsets.free(one.handle).unwrap();
    let two = block(&mut offsets, 30);
    assert_eq!(one.handle.index(), two.handle.index());
    observer.on_alloc(&two);
    let missed = Warning::ReleaseMissed { device: "cuda:0".to_owned(), handle: one.handle };
    assert_eq!((total(&tracker), tracker.warnings()), (30, vec![(missed, 1)]));
    assert!(watch.storage(one.handle).is_err() && watch.storage(two.handle).is_ok());
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

/// A phase that is forgotten makes everything of its kind: it is named until its thread ends, and then.
#[test]
fn phases_that_are_left_open() {
    let tracker = Tracker::new();
    let there = tracker.clone();
    let thread = std::thread::spawn(move || {
        std::mem::forget(there.optimizer_step());
        let _told = there.category(Category::Other);
        let error = there.check_closed().unwrap_err();
        let thread = std::thread::current().id();
        assert_eq!(error, TrackError::PhasesOpen { open: 2, phase: "an optimizer's step", thread });
        let text = format!("2 phases are open; the oldest is an optimizer's step on {thread:?}");
        assert_eq!(error.to_string(), text);
        thread
    });
    let thread = thread.join().unwrap();
    let left = Warning::PhaseLeftOpen { phase: "an optimizer's step", thread };
    assert_eq!((tracker.warnings(), tracker.check_closed()), (vec![(left, 1)], Ok(())));
    // One that is ended is none.
    drop(tracker.backward());
    tracker.check_closed().unwrap();
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
