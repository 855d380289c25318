//! The tracker against the original's algorithm, on random streams of events: several devices, an arena on one of them, scopes
//! opened and closed in any order, recomputation, retagging, resizing, resets.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on should stop where it stands")]

mod naive;

use std::collections::BTreeMap;

use allocator_core::conformance::VecBuffer;
use allocator_core::{Arena, Handle, Request};
use mem_tracker::{
    Category, Device, ModState, Module, Peaks, Phase, Scope, Snapshot, StorageId, TrackError, Tracker, Watch,
    When,
};
use naive::{Naive, Snap};
use proptest::prelude::*;

#[derive(Debug, Clone)]
enum Op {
    Add {
        device: usize,
        bytes: u64,
        told: Option<Category>,
    },
    Remove(usize),
    Retag(usize, Category),
    Resize(usize, u64),
    /// A block of the arena: made, given back, made longer or shorter, its storage removed behind the arena's back.
    Allocate(u64),
    Release(usize),
    ResizeBlock(usize, u64),
    RemoveBlock(usize),
    Forward(usize),
    Backward(usize),
    Close(usize),
    Abandon(usize),
    Phase,
    Operation,
    ResetPeak,
    ResetModules,
    /// Asks for everything, which must change nothing.
    Ask,
}

const DEVICES: [&str; 3] = ["cpu", "cuda:0", "cuda:1"];
/// The device of the arena, and its size.
const ARENA: usize = 1;
const ROOM: u64 = 2000;
const MODULES: [&str; 4] = ["Net", "Net.0", "Net.1", "Net.1.x"];

fn category() -> impl Strategy<Value = Category> {
    (0..7_usize).prop_map(|at| Category::ALL[at])
}

fn op() -> impl Strategy<Value = Op> {
    // Few sizes, so that totals are often equal.
    let bytes = || prop_oneof![1 => Just(0_u64), 9 => (1..5_u64).prop_map(|n| n * 100)];
    prop_oneof![
        12 => (0..3_usize, bytes(), proptest::option::of(category()))
            .prop_map(|(device, bytes, told)| Op::Add { device, bytes, told }),
        8 => any::<usize>().prop_map(Op::Remove),
        4 => (any::<usize>(), category()).prop_map(|(at, to)| Op::Retag(at, to)),
        4 => (any::<usize>(), bytes()).prop_map(|(at, to)| Op::Resize(at, to)),
        6 => (1..5_u64).prop_map(|n| Op::Allocate(n * 100)),
        4 => any::<usize>().prop_map(Op::Release),
        2 => (any::<usize>(), 1..5_u64).prop_map(|(at, n)| Op::ResizeBlock(at, n * 100)),
        1 => any::<usize>().prop_map(Op::RemoveBlock),
        5 => (0..4_usize).prop_map(Op::Forward),
        3 => (0..4_usize).prop_map(Op::Backward),
        7 => any::<usize>().prop_map(Op::Close),
        1 => any::<usize>().prop_map(Op::Abandon),
        1 => Just(Op::Phase),
        8 => Just(Op::Operation),
        1 => Just(Op::ResetPeak),
        1 => Just(Op::ResetModules),
        2 => Just(Op::Ask),
    ]
}

/// Both at once.
struct Pair {
    tracker: Tracker,
    devices: Vec<Device>,
    modules: Vec<Module>,
    naive: Naive,
    watch: Watch,
    arena: Arena<VecBuffer>,
    blocks: Vec<(u64, Handle)>,
    storages: Vec<(u64, StorageId)>,
    /// With the states with which they end.
    scopes: Vec<(u64, Scope, ModState)>,
    phase: Option<Phase>,
    next: u64,
    outlived: bool,
}

impl Pair {
    fn new(peaks: Peaks) -> Self {
        let tracker = Tracker::with_peaks(peaks);
        tracker.keep_calls(usize::MAX);
        let devices = DEVICES.map(|name| tracker.device(name).unwrap()).to_vec();
        let modules = MODULES.map(|name| tracker.module(name).unwrap()).to_vec();
        let mut naive = Naive::new(peaks);
        naive.keep = true;
        let watch = devices[ARENA].watch(ROOM).unwrap();
        let mut arena = Arena::new(VecBuffer::new(ROOM as usize)).unwrap();
        arena.set_observer(Box::new(watch.observer()));
        let (blocks, storages, scopes) = (Vec::new(), Vec::new(), Vec::new());
        Self {
            tracker,
            devices,
            modules,
            naive,
            watch,
            arena,
            blocks,
            storages,
            scopes,
            phase: None,
            next: 0,
            outlived: false,
        }
    }

    fn open(&self, state: ModState) -> bool {
        self.scopes.iter().any(|(_, scope, _)| scope.opened() == state)
    }

    fn in_backward(&self) -> bool {
        self.phase.is_some() || self.open(ModState::PreBackward)
    }

    fn number(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    fn run(&mut self, op: &Op) {
        match *op {
            Op::Add { device, bytes, told } => self.add(device, bytes, told),
            Op::Remove(at) if !self.storages.is_empty() => {
                let (id, storage) = self.storages.swap_remove(at % self.storages.len());
                self.tracker.remove(storage).unwrap();
                self.naive.remove(id);
            }
            Op::Retag(at, to) if !self.storages.is_empty() => {
                let (id, storage) = self.storages[at % self.storages.len()];
                self.tracker.retag(storage, to).unwrap();
                self.naive.retag(id, to);
            }
            Op::Resize(at, to) if !self.storages.is_empty() => {
                let (id, storage) = self.storages[at % self.storages.len()];
                self.tracker.resize(storage, to).unwrap();
                self.naive.resize(id, to);
            }
            Op::Allocate(bytes) => self.allocate(bytes),
            Op::Release(at) if !self.blocks.is_empty() => {
                let (id, block) = self.blocks.swap_remove(at % self.blocks.len());
                self.arena.release(block).unwrap();
                self.naive.remove(id);
            }
            Op::ResizeBlock(at, to) if !self.blocks.is_empty() => {
                let (id, block) = self.blocks[at % self.blocks.len()];
                if self.arena.resize_block(block, to).is_ok() {
                    self.naive.resize(id, to);
                }
            }
            Op::RemoveBlock(at) if !self.blocks.is_empty() => {
                let storage = self.watch.storage(self.blocks[at % self.blocks.len()].1).unwrap();
                let refused = TrackError::InArena { storage };
                assert_eq!(self.tracker.remove(storage), Err(refused.clone()));
                assert_eq!(self.tracker.resize(storage, 1), Err(refused));
            }
            Op::Forward(at) => {
                let known = self.naive.modules.contains_key(MODULES[at]);
                let again = known && self.in_backward();
                let opened = if again { ModState::PreForwardAc } else { ModState::PreForward };
                let end = if self.in_backward() { ModState::PostForwardAc } else { ModState::PostForward };
                let scope = self.modules[at].forward();
                self.opened(at, scope, opened, end);
            }
            Op::Backward(at) => {
                let scope = self.modules[at].backward();
                self.opened(at, scope, ModState::PreBackward, ModState::PostBackward);
            }
            Op::Close(at) if !self.scopes.is_empty() => {
                let (guard, scope, end) = self.scopes.remove(at % self.scopes.len());
                drop(scope);
                self.naive.close(guard, Some(end));
            }
            Op::Abandon(at) if !self.scopes.is_empty() => {
                let (guard, scope, _) = self.scopes.remove(at % self.scopes.len());
                scope.abandon();
                self.naive.close(guard, None);
            }
            Op::Phase => {
                self.phase = if self.phase.is_some() { None } else { Some(self.tracker.backward()) };
            }
            Op::Operation => {
                self.tracker.operation();
                self.naive.operation();
            }
            Op::ResetPeak => {
                self.tracker.reset_peak();
                self.naive.reset_peak();
            }
            Op::ResetModules => {
                self.outlived |= !self.scopes.is_empty();
                self.tracker.reset_mod_stats();
                self.naive.reset_modules();
            }
            Op::Ask => {
                self.compare();
                self.compare_holders();
            }
            _ => {}
        }
    }

    fn add(&mut self, device: usize, bytes: u64, told: Option<Category>) {
        let id = self.number();
        let storage = match told {
            Some(category) => self.devices[device].add_as(bytes, category).unwrap(),
            None => self.devices[device].add(bytes).unwrap(),
        };
        self.naive.add(id, DEVICES[device], told.unwrap_or(self.chosen()), bytes);
        self.storages.push((id, storage));
    }

    fn allocate(&mut self, bytes: u64) {
        // It is full now and then.
        let Ok(block) = self.arena.allocate(Request::new(bytes)) else { return };
        let id = self.number();
        self.naive.add(id, DEVICES[ARENA], self.chosen(), bytes);
        self.blocks.push((id, block));
    }

    /// What a storage is held for that nobody says it of.
    fn chosen(&self) -> Category {
        let temporary = self.in_backward() && !self.open(ModState::PreForwardAc);
        if temporary { Category::Temp } else { Category::Activation }
    }

    fn opened(&mut self, module: usize, scope: Scope, opened: ModState, end: ModState) {
        assert_eq!(scope.opened(), opened);
        let guard = self.number();
        self.naive.open(guard, MODULES[module], opened);
        self.scopes.push((guard, scope, end));
    }

    fn compare(&self) {
        assert_eq!(snap(&self.tracker.snapshot(When::Current)), self.naive.current);
        assert_eq!(snap(&self.tracker.snapshot(When::Peak)), self.naive.peak);
        let ours = self.tracker.modules();
        assert_eq!(ours.len(), self.naive.modules.len());
        for stats in &ours {
            let naive = &self.naive.modules[&stats.name];
            let states: Vec<ModState> = naive.snapshots.keys().copied().collect();
            assert_eq!(stats.states().len(), states.len());
            for state in states {
                let calls: Vec<Snap> = stats.snapshots(state).iter().map(snap).collect();
                assert_eq!(calls, naive.snapshots[&state], "{} {state}", stats.name);
            }
            let latest = naive.latest.map(|(state, call)| &naive.snapshots[&state][call]);
            for device in DEVICES {
                let total = latest.and_then(|snap| snap.get(device)).map_or(0, |row| row["Total"]);
                assert_eq!(stats.local_peak(device), total, "{} {device}", stats.name);
            }
        }
    }

    /// Who held what at the peak: storage by storage.
    fn compare_holders(&self) {
        let none = std::collections::HashMap::new();
        for (name, device) in DEVICES.iter().zip(&self.devices) {
            for when in [When::Current, When::Peak] {
                let then = match when {
                    When::Current => &self.naive.storages,
                    When::Peak if self.naive.peak.contains_key(*name) => &self.naive.at_peak[*name],
                    When::Peak => &none,
                };
                let of = |(device, category, bytes): &(String, Category, u64)| {
                    (device == name && *bytes > 0).then_some((*bytes, *category))
                };
                let mut theirs: Vec<(u64, Category)> = then.values().filter_map(of).collect();
                let found = device.attribution(when, usize::MAX);
                let mut ours: Vec<_> = found.largest.iter().map(|s| (s.allocated, s.category)).collect();
                assert!(ours.is_sorted_by(|a, b| a.0 >= b.0));
                assert_eq!(found.storages, ours.len() as u64);
                let modules: u64 = found.modules.iter().map(|share| share.usage.total()).sum();
                assert_eq!(modules, found.usage.total());
                ours.sort_unstable();
                theirs.sort_unstable();
                assert_eq!(ours, theirs, "{name} {when:?}");
            }
        }
    }
}

fn snap(snapshot: &Snapshot) -> Snap {
    let row = |usage: &mem_tracker::Usage| -> BTreeMap<&'static str, u64> {
        let row = usage.by_category().map(|(category, bytes)| (category.name(), bytes));
        row.chain([("Total", usage.total())]).collect()
    };
    snapshot.iter().map(|(device, usage)| (device.to_owned(), row(usage))).collect()
}

fn check(peaks: Peaks, ops: &[Op]) {
    let mut pair = Pair::new(peaks);
    for op in ops {
        pair.run(op);
    }
    pair.compare();
    pair.compare_holders();
    pair.scopes.clear();
    pair.phase = None;
    let warned = pair.tracker.warnings();
    assert!(warned.is_empty() || pair.outlived, "{warned:?}");
    pair.tracker.check_closed().unwrap();
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn looking_after_every_event(ops in proptest::collection::vec(op(), 1..120)) {
        check(Peaks::EveryEvent, &ops);
    }

    #[test]
    fn looking_after_operations(ops in proptest::collection::vec(op(), 1..120)) {
        check(Peaks::AtOperations, &ops);
    }
}
