//! What programs do: train with frozen layers, checkpoint, share storages, run several iterations, use threads.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on should stop where it stands")]

use std::sync::mpsc::channel;

use allocator_core::conformance::VecBuffer;
use allocator_core::{Arena, Request};
use mem_tracker::{Category, ModState, Tracker, When};

/// A scope is `Send` nowhere and a tracker everywhere.
#[test]
fn a_tracker_goes_to_any_thread() {
    fn anywhere<T: Clone + Send + Sync + 'static>(_: &T) {}
    let tracker = Tracker::new();
    anywhere(&tracker);
    anywhere(&tracker.device("cpu").unwrap());
    anywhere(&tracker.module("A").unwrap());
    anywhere(&tracker.device("cpu").unwrap().watch(1).unwrap());
}

/// Two layers, the first of which is frozen: it has no gradients and no backward pass.
#[test]
fn frozen_parameters() {
    let tracker = Tracker::new();
    let device = tracker.device("cuda:0").unwrap();
    let net = tracker.module("Net").unwrap();
    let layers = ["0", "1"].map(|name| net.child(name).unwrap());
    let weights = [device.add(1000).unwrap(), device.add(1000).unwrap()];
    for (layer, weights) in layers.iter().zip(weights) {
        layer.parameters(&[weights]).unwrap();
    }
    net.parameters(&weights).unwrap();
    let input = device.add_as(64, Category::Other).unwrap();
    let mut kept = Vec::new();
    {
        let _net = net.forward_of(&[input]).unwrap();
        for layer in &layers {
            let scope = layer.forward_of(&[input]).unwrap();
            kept.push(device.add(100).unwrap());
            scope.end(&kept[kept.len() - 1..]).unwrap();
        }
    }
    // Only the second layer's weights have a gradient.
    let gradient = {
        let _net = net.backward();
        let _layer = layers[1].backward();
        let gradient = device.add(1000).unwrap();
        assert_eq!(tracker.storage(gradient).unwrap().category, Category::Temp);
        tracker.retag(gradient, Category::Gradient).unwrap();
        gradient
    };
    let stats = tracker.modules();
    assert_eq!(stats.iter().map(|stats| stats.name.as_str()).collect::<Vec<_>>(), ["Net", "Net.0", "Net.1"]);
    assert_eq!((stats[0].parameter_mem, stats[1].parameter_mem), (2000, 1000));
    assert_eq!((stats[0].input_mem, stats[2].output_mem), (64, 100));
    let forward = [ModState::PeakForward, ModState::PreForward, ModState::PostForward];
    assert_eq!(stats[1].states(), forward);
    assert_eq!(stats[2].states().len(), 6);
    let usage = device.usage(When::Current);
    assert_eq!((usage.allocated(Category::Parameter), usage.allocated(Category::Gradient)), (2000, 1000));
    assert_eq!(tracker.storage(gradient).unwrap().module.as_deref(), Some("Net.1"));
}

/// What a model holds, with its parts and without its namesakes.
#[test]
fn modules_and_what_is_below_them() {
    let tracker = Tracker::new();
    let device = tracker.device("cpu").unwrap();
    for (name, bytes) in [("Net", 1), ("Net.h", 2), ("Net.h.0", 4), ("Net.head", 8)] {
        let _scope = tracker.module(name).unwrap().forward();
        device.add(bytes).unwrap();
    }
    device.add(16).unwrap();
    let found = device.attribution(When::Current, 0);
    let below = ["Net", "Net.h", "Net.h.0", "Net.head", "Ne"].map(|name| found.below(name).total());
    assert_eq!(below, [15, 6, 4, 8, 0]);
    let names: Vec<_> = found.modules.iter().map(|share| share.module.as_deref()).collect();
    assert_eq!(names, [None, Some("Net.head"), Some("Net.h.0"), Some("Net.h"), Some("Net")]);
}

/// Any number of parameters, views and names of one block: its bytes are there once.
#[test]
fn a_shared_block_counts_once() {
    let tracker = Tracker::new();
    let watch = tracker.device("cpu").unwrap().watch(1 << 16).unwrap();
    let mut arena = Arena::new(VecBuffer::new(1 << 16)).unwrap();
    arena.set_observer(Box::new(watch.observer()));
    let block = arena.allocate(Request::new(1000)).unwrap();
    for part in [0..1000, 0..500, 500..1000] {
        arena.assign(block, part).unwrap();
    }
    let tied = watch.storage(block).unwrap();
    tracker.module("Net.wte").unwrap().parameters(&[tied]).unwrap();
    tracker.module("Net.head").unwrap().parameters(&[tied]).unwrap();
    let usage = watch.device().usage(When::Current);
    assert_eq!((usage.total(), usage.allocated(Category::Parameter)), (1000, 1000));
}

/// A storage keeps its name when its block moves or changes its length.
#[test]
fn blocks_that_move_and_grow() {
    let tracker = Tracker::new();
    let watch = tracker.device("cpu").unwrap().watch(4096).unwrap();
    let mut arena = Arena::new(VecBuffer::with_grain(4096, 4)).unwrap();
    arena.set_observer(Box::new(watch.observer()));
    let hole = arena.allocate(Request::new(1000)).unwrap();
    let block = arena.allocate(Request::new(1001)).unwrap();
    let storage = watch.storage(block).unwrap();
    tracker.retag(storage, Category::Parameter).unwrap();
    arena.release(hole).unwrap();
    let large = arena.allocate(Request::new(3000)).unwrap();
    assert_eq!(watch.device().memory_stats().num_moves, 1);
    arena.release(large).unwrap();
    arena.resize_block(block, 2001).unwrap();
    assert_eq!(watch.storage(block).unwrap(), storage);
    let found = tracker.storage(storage).unwrap();
    assert_eq!((found.allocated, found.requested, found.category), (2004, 2001, Category::Parameter));
    let usage = watch.device().usage(When::Current);
    assert_eq!((usage.total(), usage.total_requested()), (2004, 2001));
}

/// What a thread is doing is its own; what a pass sees is everybody's.
#[test]
fn threads() {
    let tracker = Tracker::new();
    let device = tracker.device("cuda:0").unwrap();
    let forward = tracker.module("A").unwrap();
    let scope = forward.forward();
    let (go, ready) = channel::<()>();
    let (made, seen) = channel::<()>();
    let there = tracker.clone();
    let other = std::thread::spawn(move || {
        let device = there.device("cuda:0").unwrap();
        let backward = there.module("B").unwrap();
        let _scope = backward.backward();
        let own = device.add(1000).unwrap();
        assert_eq!(there.storage(own).unwrap().category, Category::Temp);
        assert_eq!(there.storage(own).unwrap().module.as_deref(), Some("B"));
        made.send(()).unwrap();
        ready.recv().unwrap();
        there.remove(own).unwrap();
    });
    seen.recv().unwrap();
    let own = device.add(10).unwrap();
    assert_eq!(tracker.storage(own).unwrap().category, Category::Activation);
    assert_eq!(tracker.storage(own).unwrap().module.as_deref(), Some("A"));
    assert_eq!(tracker.open_scopes().len(), 2);
    go.send(()).unwrap();
    other.join().unwrap();
    drop(scope);
    let stats = tracker.modules();
    assert_eq!((stats[0].local_peak("cuda:0"), stats[1].local_peak("cuda:0")), (1010, 1010));
    tracker.check_closed().unwrap();
    assert_eq!(tracker.warnings(), []);
}

/// Many threads at once: nothing is lost or counted twice.
#[test]
fn many_threads() {
    let tracker = Tracker::new();
    tracker.keep_calls(usize::MAX);
    let device = tracker.device("cuda:0").unwrap();
    let keep: u64 = 50;
    std::thread::scope(|threads| {
        for thread in 0..8_u64 {
            let (tracker, device) = (tracker.clone(), device.clone());
            threads.spawn(move || {
                let module = tracker.module(&format!("M.{thread}")).unwrap();
                for round in 0..200_u64 {
                    let _scope = if round % 2 == 0 { module.forward() } else { module.backward() };
                    let storage = device.add(1 + round).unwrap();
                    tracker.retag(storage, Category::ALL[(round % 7) as usize]).unwrap();
                    if round >= keep {
                        tracker.remove(storage).unwrap();
                    }
                }
            });
        }
    });
    let kept = 8 * (1..=keep).sum::<u64>();
    assert_eq!(device.usage(When::Current).total(), kept);
    let found = device.attribution(When::Current, usize::MAX);
    assert_eq!((found.storages, found.modules.len()), (8 * keep, 8));
    assert!(found.modules.iter().all(|share| share.usage.total() == kept / 8));
    let peak = device.attribution(When::Peak, usize::MAX);
    let sum: u64 = peak.largest.iter().map(|share| share.allocated).sum();
    assert_eq!(sum, peak.usage.total());
    for stats in tracker.modules() {
        assert_eq!(stats.snapshots(ModState::PostForward).len(), 100);
        assert!(stats.local_peak("cuda:0") <= peak.usage.total());
    }
    assert_eq!(tracker.warnings(), []);
}

/// What is made counts to the category that the innermost word about it says.
#[test]
fn phases() {
    let tracker = Tracker::new();
    let device = tracker.device("cpu").unwrap();
    let made = || tracker.storage(device.add(1).unwrap()).unwrap().category;
    assert_eq!(made(), Category::Activation);
    let step = tracker.optimizer_step();
    assert_eq!(made(), Category::Optstate);
    let backward = tracker.backward();
    assert_eq!(made(), Category::Optstate);
    // Guards may be dropped in any order.
    drop(step);
    assert_eq!(made(), Category::Temp);
    let told = tracker.category(Category::Buffer);
    assert_eq!(made(), Category::Buffer);
    drop(backward);
    assert_eq!(made(), Category::Buffer);
    drop(told);
    assert_eq!(made(), Category::Activation);
    // Another tracker's phases are not this one's.
    let other = Tracker::new();
    let _backward = other.backward();
    assert_eq!(made(), Category::Activation);
}

/// A thread that works for another does what that one does, and what it does itself comes on top.
#[test]
fn working_for_another_thread() {
    let tracker = Tracker::new();
    let device = tracker.device("cpu").unwrap();
    let made = move |tracker: &Tracker| {
        let made = tracker.storage(device.add(1).unwrap()).unwrap();
        (made.category, made.module)
    };
    let (outer, inner) = (tracker.module("A").unwrap(), tracker.module("A.0").unwrap());
    drop(inner.forward());
    let _backward = outer.backward();
    let context = tracker.context();
    let a = || Some("A".to_owned());
    std::thread::scope(|threads| {
        threads.spawn(|| {
            assert_eq!(made(&tracker), (Category::Activation, None));
            let working = context.enter();
            assert_eq!(made(&tracker), (Category::Temp, a()));
            {
                // It is in that thread's backward pass, so this computes once more.
                let again = inner.forward();
                assert_eq!(again.opened(), ModState::PreForwardAc);
                assert_eq!(made(&tracker), (Category::Activation, Some("A.0".to_owned())));
            }
            {
                let _step = tracker.optimizer_step();
                assert_eq!(made(&tracker), (Category::Optstate, a()));
            }
            let told = tracker.category(Category::Buffer);
            let both = tracker.context();
            drop(told);
            drop(working);
            assert_eq!(made(&tracker), (Category::Activation, None));
            let _both = both.enter();
            assert_eq!(made(&tracker), (Category::Buffer, a()));
        });
    });
    assert_eq!(made(&tracker), (Category::Temp, a()));
    assert_eq!(tracker.warnings(), []);
}

/// A block that gets its category right after it was made is at the peak with it.
/// Who makes a storage and whose it is are two things; what held the peak is told as it was then.
#[test]
fn owners_come_before_scopes_and_peaks_keep_the_old_ones() {
    let tracker = Tracker::new();
    let (device, worker) = (tracker.device("cuda:0").unwrap(), tracker.module("Worker").unwrap());
    let one = tracker.owner(Category::Parameter, Some("A"), Some("weight")).unwrap();
    let other = tracker.owner(Category::Optstate, Some("B"), Some("moment")).unwrap();
    let working = worker.forward();
    let made = device.add(100).unwrap();
    tracker.assign(made, &one).unwrap();
    let held = device.hold_for(60, &one.with_category(Category::Buffer)).unwrap();
    drop(working);
    let seen = |when| {
        let of = device.attribution(when, 2);
        let first = &of.largest[0];
        let modules: Vec<_> = of.modules.iter().map(|share| share.module.clone().unwrap()).collect();
        (modules.join(","), first.category, first.label.clone().unwrap(), of.usage.total())
    };
    let before = ("A".to_owned(), Category::Parameter, "weight".to_owned(), 160);
    assert_eq!((seen(When::Current), seen(When::Peak)), (before.clone(), before.clone()));
    assert_eq!(device.usage(When::Peak).allocated(Category::Buffer), 60);

    drop(held);
    tracker.assign(made, &other).unwrap();
    tracker.assign(made, &other).unwrap();
    assert_eq!(seen(When::Current), ("B".to_owned(), Category::Optstate, "moment".to_owned(), 100));
    assert_eq!(seen(When::Peak), before);
}

#[test]
fn a_peak_knows_the_category_that_was_said_next() {
    let tracker = Tracker::new();
    let device = tracker.device("cpu").unwrap();
    let module = tracker.module("A").unwrap();
    let scope = module.forward();
    let storage = device.add(100).unwrap();
    tracker.label(storage, "bias").unwrap();
    tracker.retag(storage, Category::Parameter).unwrap();
    tracker.remove(storage).unwrap();
    drop(scope);
    // Another one has its slot, and a later category, and was not there.
    let later = device.add(50).unwrap();
    tracker.retag(later, Category::Buffer).unwrap();
    assert_eq!(device.usage(When::Peak).allocated(Category::Parameter), 100);
    let peak = device.attribution(When::Peak, 9);
    assert_eq!(peak.largest.len(), 1);
    let share = &peak.largest[0];
    assert_eq!((share.id, share.category, share.allocated), (storage, Category::Parameter, 100));
    assert_eq!((share.label.as_deref(), share.module.as_deref()), (Some("bias"), Some("A")));
    let row = tracker.modules()[0].snapshots(ModState::PeakForward)[0].device("cpu").copied();
    assert_eq!(row.map(|usage| usage.allocated(Category::Parameter)), Some(100));
}
