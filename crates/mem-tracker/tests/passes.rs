//! Passes through modules: computed again, one iteration after another, for long.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on should stop where it stands")]

use mem_tracker::{Category, ModState, Peaks, Snapshot, Tracker, Units};

/// A block that runs forward once more inside its backward pass: what it makes is activations, and its inner modules note
/// where they are.
#[test]
fn checkpointing() {
    let tracker = Tracker::with_peaks(Peaks::AtOperations);
    let device = tracker.device("cuda:0").unwrap();
    let (block, inner) = (tracker.module("B").unwrap(), tracker.module("B.0").unwrap());
    {
        let _block = block.forward();
        drop(inner.forward());
    }
    let _pass = tracker.backward();
    let backward = block.backward();
    let temporary = device.add(10).unwrap();
    {
        let again = block.forward();
        assert_eq!(again.opened(), ModState::PreForwardAc);
        let _inner = inner.forward();
        let activation = device.add(100).unwrap();
        assert_eq!(tracker.storage(activation).unwrap().category, Category::Activation);
        tracker.operation();
    }
    let after = device.add(1).unwrap();
    assert_eq!(tracker.storage(temporary).unwrap().category, Category::Temp);
    assert_eq!(tracker.storage(after).unwrap().category, Category::Temp);
    drop(backward);
    let stats = tracker.modules();
    assert_eq!(stats[0].local_peak("cuda:0"), 110);
    let post = &stats[1].snapshots(ModState::PostForwardAc)[0];
    assert_eq!(post.device("cuda:0").unwrap().allocated(Category::Activation), 100);
    // It has had no backward pass of its own, so there is no peak to raise.
    assert_eq!(stats[1].snapshots(ModState::PeakBackward), []);
}

/// A module within a checkpointed block computes again before its own backward pass begins. What is held meanwhile is no business
/// of its backward pass of the iteration before.
#[test]
fn a_recomputation_leaves_earlier_iterations_alone() {
    let tracker = Tracker::new();
    let device = tracker.device("cuda:0").unwrap();
    let (block, inner) = (tracker.module("B").unwrap(), tracker.module("B.0").unwrap());
    let peaks = |name: &str| -> Vec<u64> {
        let stats = tracker.modules().into_iter().find(|stats| stats.name == name).unwrap();
        let total = |snapshot: &Snapshot| snapshot.device("cuda:0").map_or(0, |usage| usage.total());
        stats.snapshots(ModState::PeakBackward).iter().map(total).collect()
    };
    for (iteration, bytes) in [100, 1000, 10].into_iter().enumerate() {
        {
            let _block = block.forward();
            drop(inner.forward());
        }
        let _backward = block.backward();
        let kept = {
            let _again = block.forward();
            let _inner = inner.forward();
            drop(device.hold(7 * bytes).unwrap());
            device.hold(bytes).unwrap()
        };
        assert_eq!(peaks("B.0"), [100, 1000][..iteration]);
        drop(inner.backward());
        drop(kept);
        assert_eq!(peaks("B.0"), [100, 1000, 10][..=iteration]);
        assert_eq!(peaks("B"), [700, 7000, 70][..=iteration]);
    }
}

/// What an open backward pass computes again is its own, also when a forward pass has begun meanwhile.
#[test]
fn a_recomputation_within_an_open_backward_pass() {
    let tracker = Tracker::new();
    let device = tracker.device("cuda:0").unwrap();
    let module = tracker.module("A").unwrap();
    drop(module.forward());
    let backward = module.backward();
    let there = tracker.clone();
    std::thread::spawn(move || drop(there.module("A").unwrap().forward())).join().unwrap();
    {
        let again = module.forward();
        assert_eq!(again.opened(), ModState::PreForwardAc);
        drop(backward);
        drop(device.hold(500).unwrap());
    }
    let stats = &tracker.modules()[0];
    assert_eq!(stats.snapshots(ModState::PeakBackward)[0].device("cuda:0").unwrap().total(), 500);
}

#[test]
fn iterations_follow_one_another_without_a_reset() {
    let tracker = Tracker::new();
    let device = tracker.device("cpu").unwrap();
    let module = tracker.module("Net").unwrap();
    for bytes in [100, 300, 200] {
        let _scope = module.forward();
        drop(device.hold(bytes).unwrap());
    }
    let totals = |state| -> Vec<u64> {
        let stats = &tracker.modules()[0];
        let total = |snapshot: &Snapshot| snapshot.device("cpu").map_or(0, |usage| usage.total());
        stats.snapshots(state).iter().map(total).collect()
    };
    assert_eq!(totals(ModState::PeakForward), [100, 300, 200]);
    assert_eq!(totals(ModState::PostForward), [0, 0, 0]);
    assert_eq!(tracker.modules()[0].local_peak("cpu"), 200);
    tracker.reset_mod_stats();
    assert!(tracker.modules().is_empty());
    drop(module.forward());
    assert_eq!(totals(ModState::PeakForward), [0]);
}

/// The numbers of calls stay what they are when the first are dropped.
#[test]
fn long_runs_keep_the_last_calls() {
    let tracker = Tracker::new();
    let module = tracker.module("Net").unwrap();
    tracker.keep_calls(3);
    let device = tracker.device("cpu").unwrap();
    for bytes in 1..=100 {
        let _held = device.hold(bytes).unwrap();
        let _scope = module.forward();
        drop(device.hold(1000).unwrap());
    }
    let stats = &tracker.modules()[0];
    for (state, more) in [(ModState::PeakForward, 1000), (ModState::PostForward, 0)] {
        let (kept, dropped) = (stats.snapshots(state), stats.dropped_calls(state));
        assert!((3..=6).contains(&kept.len()) && kept.len() + dropped == 100);
        for (call, snapshot) in (dropped as u64 + 1..).zip(kept) {
            assert_eq!(snapshot.device("cpu").unwrap().total(), call + more);
        }
    }
    assert_eq!(stats.local_peak("cpu"), 1100);
    let text = tracker.display_modulewise_snapshots(1, Units::B, true);
    assert!(text.contains("Post-Forward # 100  cpu"), "{text}");
    // Fewer from now on.
    tracker.keep_calls(0);
    let stats = &tracker.modules()[0];
    assert_eq!((stats.snapshots(ModState::PostForward).len(), stats.local_peak("cpu")), (1, 1100));
    assert_eq!(stats.dropped_calls(ModState::PostForward), 99);
}

/// Calls are numbered anew after a reset, with none dropped.
#[test]
fn a_reset_forgets_which_calls_were_dropped() {
    let tracker = Tracker::new();
    tracker.keep_calls(1);
    let module = tracker.module("A").unwrap();
    (0..10).for_each(|_| drop(module.forward()));
    tracker.reset_mod_stats();
    drop(module.forward());
    let stats = &tracker.modules()[0];
    let calls = (stats.snapshots(ModState::PreForward).len(), stats.dropped_calls(ModState::PreForward));
    assert_eq!(calls, (1, 0));
    drop(module.forward());
    assert_eq!(
        tracker.modules()[0].snapshots(ModState::PeakForward).len(),
        1,
        "two are twice as many as one"
    );
}

/// A call that is dropped while its scope is open raises no other one.
#[test]
fn a_scope_may_outlive_its_call() {
    let tracker = Tracker::new();
    tracker.keep_calls(1);
    let device = tracker.device("cpu").unwrap();
    let module = tracker.module("A").unwrap();
    let outer = module.forward();
    (0..4).for_each(|_| drop(module.forward()));
    drop(device.hold(1000).unwrap());
    drop(outer);
    let stats = &tracker.modules()[0];
    assert_eq!(stats.snapshots(ModState::PeakForward), [Snapshot::default()]);
    assert_eq!(stats.local_peak("cpu"), 0);
}

/// Calls from before a device was made hold nothing there, and keep what they hold elsewhere.
#[test]
fn a_device_that_comes_later() {
    let tracker = Tracker::new();
    let module = tracker.module("A").unwrap();
    let _first = tracker.device("cpu").unwrap().hold(5).unwrap();
    drop(module.forward());
    let _second = tracker.device("cuda:0").unwrap().hold(7).unwrap();
    drop(module.forward());
    let held = |snapshot: &Snapshot| {
        ["cpu", "cuda:0"].map(|name| snapshot.device(name).map_or(0, |usage| usage.total()))
    };
    let stats = &tracker.modules()[0];
    for state in [ModState::PeakForward, ModState::PostForward] {
        assert_eq!(stats.snapshots(state).iter().map(held).collect::<Vec<_>>(), [[5, 0], [5, 7]], "{state}");
    }
}

/// As in the original, a module that is first entered within a backward pass begins a forward pass and ends a recomputation.
#[test]
fn a_module_first_entered_in_a_backward_pass() {
    let tracker = Tracker::new();
    let device = tracker.device("cpu").unwrap();
    let module = tracker.module("A").unwrap();
    let storages = [1, 10].map(|bytes| device.add(bytes).unwrap());
    {
        let _backward = tracker.backward();
        module.forward_of(&storages[..1]).unwrap().end(&storages[1..]).unwrap();
    }
    let stats = &tracker.modules()[0];
    assert_eq!(stats.states(), [ModState::PeakForward, ModState::PreForward, ModState::PostForwardAc]);
    assert_eq!((stats.input_mem, stats.output_mem), (1, 0));
}

/// What goes in and comes out is the forward pass's, not that of what computes it again; a reset forgets it.
#[test]
fn inputs_and_outputs() {
    let tracker = Tracker::new();
    let device = tracker.device("cpu").unwrap();
    let module = tracker.module("A").unwrap();
    let storages = [1, 10, 100, 1000].map(|bytes| device.add(bytes).unwrap());
    module.forward_of(&storages[..1]).unwrap().end(&storages[1..2]).unwrap();
    {
        let _backward = module.backward();
        module.forward_of(&storages[2..3]).unwrap().end(&storages[3..]).unwrap();
    }
    let stats = &tracker.modules()[0];
    assert_eq!((stats.input_mem, stats.output_mem), (1, 10));
    tracker.reset_mod_stats();
    drop(module.forward());
    let stats = &tracker.modules()[0];
    assert_eq!((stats.input_mem, stats.output_mem), (0, 0));
}
