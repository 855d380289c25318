//! Printed forms against what PyTorch printed: `tests/data/display_sample.txt`.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on should stop where it stands")]

use std::collections::HashMap;

use mem_tracker::{Category, Device, Module, Peaks, Scope, StorageId, Tracker, Units, When};

/// A device that can be made to hold given amounts.
struct Scene {
    tracker: Tracker,
    device: Device,
    held: Vec<StorageId>,
}

impl Scene {
    fn new() -> Self {
        let tracker = Tracker::with_peaks(Peaks::AtOperations);
        let device = tracker.device("cpu").unwrap();
        let held = Category::ALL.iter().map(|category| device.add_as(0, *category).unwrap()).collect();
        Self { tracker, device, held }
    }

    fn hold(&self, amounts: &[u64]) {
        assert_eq!(amounts.len(), 7);
        self.held.iter().zip(amounts).for_each(|(held, bytes)| self.tracker.resize(*held, *bytes).unwrap());
    }
}

fn sample() -> &'static str {
    include_str!("data/display_sample.txt")
}

/// What follows a line that begins with `##### ` and a title.
fn section(title: &str) -> &'static str {
    let (_, after) = sample().split_once(&format!("##### {title}\n")).unwrap();
    after.split_once("##### ").map_or(after, |(section, _)| section)
}

/// The amounts of a plain block, without the total.
fn amounts(lines: &mut impl Iterator<Item = &'static str>) -> Vec<u64> {
    assert_eq!(lines.next(), Some("Device: cpu"));
    let amount = |line: &str| {
        let (_, amount) = line.split_once(": ").unwrap();
        let (number, unit) = amount.split_once(' ').unwrap();
        let unit: Units = unit.parse().unwrap();
        (number.parse::<f64>().unwrap() * unit.bytes() as f64).round() as u64
    };
    lines.take(7).map(amount).collect()
}

#[test]
fn snapshots_print_as_pytorchs() {
    let block = |which: &str| {
        let title = format!("display_snapshot('{which}', units='B', tabulate=False)");
        amounts(&mut section(&title).lines())
    };
    let scene = Scene::new();
    scene.hold(&block("peak"));
    scene.tracker.operation();
    scene.hold(&block("current"));
    let mut compared = 0;
    for (when, name) in [(When::Current, "current"), (When::Peak, "peak")] {
        for units in [Units::B, Units::KiB, Units::MiB] {
            for (table, python) in [(false, "False"), (true, "True")] {
                let title = format!("display_snapshot('{name}', units='{units}', tabulate={python})");
                assert_eq!(scene.tracker.display_snapshot(when, units, table), section(&title), "{title}");
                compared += 1;
            }
        }
    }
    assert_eq!(compared, sample().matches("##### display_snapshot").count());
}

/// Replays what the sample says of each module, and prints it again.
#[test]
fn modules_print_as_pytorchs() {
    let scene = Scene::new();
    let plain = section("display_modulewise_snapshots(depth=3, units=\"KiB\", tabulate=False)");
    for text in plain.split("\n\n").filter(|text| !text.trim().is_empty()) {
        replay(&scene, text);
    }
    let shown = |table| scene.tracker.display_modulewise_snapshots(3, Units::KiB, table);
    assert_eq!(shown(false), plain);
    assert_eq!(shown(true), section("display_modulewise_snapshots(depth=3, units=\"KiB\", tabulate=True)"));
}

fn replay(scene: &Scene, text: &'static str) {
    let mut lines = text.lines();
    let name = lines.next().unwrap().strip_prefix("Module:  ").unwrap();
    let mut states = HashMap::new();
    while let Some(state) = lines.next() {
        assert_eq!(lines.next(), Some("# 1:"));
        states.insert(state, amounts(&mut lines));
        lines.next();
    }
    let module = scene.tracker.module(name).unwrap();
    let pass = |open: fn(&Module) -> Scope, pre: &str, between: &dyn Fn(), post: &str| {
        scene.hold(&states[pre]);
        let scope = open(&module);
        between();
        scene.hold(&states[post]);
        drop(scope);
    };
    let peak = |state: &str| {
        scene.hold(&states[state]);
        scene.tracker.operation();
    };
    pass(Module::forward, "Pre-Forward", &|| peak("Peak-Forward"), "Post-Forward");
    let recompute = || {
        if states.contains_key("Pre-Forward-AC") {
            pass(Module::forward, "Pre-Forward-AC", &|| {}, "Post-Forward-AC");
        }
        peak("Peak-Backward");
    };
    pass(Module::backward, "Pre-Backward", &recompute, "Post-Backward");
}

/// As Python's `tabulate` prints it: a first cell that is empty is `..`.
#[test]
fn tables_of_several_devices() {
    let scene = Scene::new();
    let other = scene.tracker.device("cuda:0").unwrap();
    let module = scene.tracker.module("A").unwrap();
    let (_one, _two) = (scene.device.hold(1024).unwrap(), other.hold(3000).unwrap());
    scene.tracker.module("A.b").unwrap().forward().abandon();
    drop(module.forward());
    let text = "\
Module:  A
================  ========  ===========  ========  ==========  ============  =======  ==========  =======  ========
State & Call      Device    Parameter    Buffer    Gradient    Activation    Temp     Optstate    Other    Total
================  ========  ===========  ========  ==========  ============  =======  ==========  =======  ========
Peak-Forward # 1  cpu       0.0 KiB      0.0 KiB   0.0 KiB     1.0 KiB       0.0 KiB  0.0 KiB     0.0 KiB  1.0 KiB
..                cuda:0    0.0 KiB      0.0 KiB   0.0 KiB     2.93 KiB      0.0 KiB  0.0 KiB     0.0 KiB  2.93 KiB
Pre-Forward # 1   cpu       0.0 KiB      0.0 KiB   0.0 KiB     1.0 KiB       0.0 KiB  0.0 KiB     0.0 KiB  1.0 KiB
..                cuda:0    0.0 KiB      0.0 KiB   0.0 KiB     2.93 KiB      0.0 KiB  0.0 KiB     0.0 KiB  2.93 KiB
Post-Forward # 1  cpu       0.0 KiB      0.0 KiB   0.0 KiB     1.0 KiB       0.0 KiB  0.0 KiB     0.0 KiB  1.0 KiB
..                cuda:0    0.0 KiB      0.0 KiB   0.0 KiB     2.93 KiB      0.0 KiB  0.0 KiB     0.0 KiB  2.93 KiB
================  ========  ===========  ========  ==========  ============  =======  ==========  =======  ========
";
    assert_eq!(scene.tracker.display_modulewise_snapshots(1, Units::KiB, true), text);
}

#[test]
fn nothing_prints_as_nothing() {
    let tracker = Tracker::new();
    for table in [false, true] {
        assert_eq!(tracker.display_snapshot(When::Peak, Units::GiB, table), "No memory tracked.\n");
        assert_eq!(tracker.display_modulewise_snapshots(9, Units::B, table), "");
    }
}
