//! The original's algorithm as it stands: maps of strings, and a walk over all modules after every operation.
//!
//! It shares no code with the tracker. Two things differ from the original, as they do in the tracker: a peak belongs to the
//! call during which it was reached, not to the latest call of the module; and peaks may be looked for after every event.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on should stop where it stands")]

use std::collections::{BTreeMap, HashMap, HashSet};

use mem_tracker::{Category, ModState, Peaks};

/// Bytes by category on each device, with `Total`.
pub(crate) type Snap = HashMap<String, BTreeMap<&'static str, u64>>;

/// A module's calls by state.
#[derive(Default)]
pub(crate) struct ModStats {
    pub(crate) snapshots: HashMap<ModState, Vec<Snap>>,
    /// The call whose peak is the local one.
    pub(crate) latest: Option<(ModState, usize)>,
    /// The backward calls since the latest forward call.
    since_forward: Vec<(ModState, usize)>,
}

/// An open scope.
struct Open {
    guard: u64,
    module: String,
    opened: ModState,
    raises: Option<(ModState, usize)>,
    /// Opened before the modules were reset.
    stale: bool,
}

pub(crate) struct Naive {
    pub(crate) peaks: Peaks,
    pub(crate) current: Snap,
    pub(crate) peak: Snap,
    pub(crate) modules: HashMap<String, ModStats>,
    /// Storages: device, category, bytes.
    pub(crate) storages: HashMap<u64, (String, Category, u64)>,
    /// The storages at each device's peak.
    pub(crate) at_peak: HashMap<String, HashMap<u64, (String, Category, u64)>>,
    /// Keep `at_peak`: a copy at every peak.
    pub(crate) keep: bool,
    open: Vec<Open>,
    parents: HashSet<String>,
}

impl Naive {
    pub(crate) fn new(peaks: Peaks) -> Self {
        Self {
            peaks,
            current: Snap::new(),
            peak: Snap::new(),
            modules: HashMap::new(),
            storages: HashMap::new(),
            at_peak: HashMap::new(),
            keep: false,
            open: Vec::new(),
            parents: HashSet::new(),
        }
    }

    pub(crate) fn add(&mut self, id: u64, device: &str, category: Category, bytes: u64) {
        self.storages.insert(id, (device.to_owned(), category, bytes));
        self.change(device, category, bytes as i64);
        self.after_event();
    }

    pub(crate) fn remove(&mut self, id: u64) {
        let (device, category, bytes) = self.storages.remove(&id).unwrap();
        self.change(&device, category, -(bytes as i64));
        self.after_event();
    }

    pub(crate) fn retag(&mut self, id: u64, to: Category) {
        let (device, category, bytes) = self.storages[&id].clone();
        self.storages.insert(id, (device.clone(), to, bytes));
        self.change(&device, category, -(bytes as i64));
        self.change(&device, to, bytes as i64);
        if category != to {
            self.after_event();
        }
    }

    pub(crate) fn resize(&mut self, id: u64, to: u64) {
        let (device, category, bytes) = self.storages[&id].clone();
        self.storages.insert(id, (device.clone(), category, to));
        self.change(&device, category, to as i64 - bytes as i64);
        self.after_event();
    }

    /// What follows an operation.
    pub(crate) fn operation(&mut self) {
        self.look();
    }

    pub(crate) fn reset_peak(&mut self) {
        self.peak = self.current.clone();
        for device in self.current.keys() {
            self.at_peak.insert(device.clone(), self.storages.clone());
        }
    }

    pub(crate) fn reset_modules(&mut self) {
        self.modules.clear();
        self.open.iter_mut().for_each(|open| open.stale = true);
    }

    pub(crate) fn open(&mut self, guard: u64, module: &str, opened: ModState) {
        let now = self.current.clone();
        let stats = self.modules.entry(module.to_owned()).or_default();
        let peak = match opened {
            ModState::PreForward => Some(ModState::PeakForward),
            ModState::PreBackward => Some(ModState::PeakBackward),
            _ => None,
        };
        let mut raises = None;
        if let Some(peak) = peak {
            let calls = stats.snapshots.entry(peak).or_default();
            calls.push(now.clone());
            raises = Some((peak, calls.len() - 1));
            stats.latest = raises;
            stats.since_forward.retain(|_| peak == ModState::PeakBackward);
            stats.since_forward.extend(raises.filter(|(peak, _)| *peak == ModState::PeakBackward));
        }
        let of_this = |other: &&mut Open| other.module == module && !other.stale;
        if opened == ModState::PreForwardAc {
            // It counts to a backward call that is open or came after the latest forward call.
            let running =
                self.open.iter_mut().filter(of_this).filter(|other| other.opened == ModState::PreBackward);
            raises =
                running.filter_map(|other| other.raises).chain(stats.since_forward.iter().copied()).max();
        }
        if opened == ModState::PreBackward {
            let again =
                self.open.iter_mut().filter(of_this).filter(|other| other.opened == ModState::PreForwardAc);
            again.for_each(|other| other.raises = raises);
        }
        stats.snapshots.entry(opened).or_default().push(now);
        self.open.push(Open { guard, module: module.to_owned(), opened, raises, stale: false });
        self.parents.insert(module.to_owned());
        self.after_event();
    }

    /// `end` is the state of its end, `None` when it has none.
    pub(crate) fn close(&mut self, guard: u64, end: Option<ModState>) {
        let at = self.open.iter().position(|open| open.guard == guard).unwrap();
        let Open { module, stale, .. } = self.open.remove(at);
        if !self.open.iter().any(|other| other.module == module) {
            self.parents.remove(&module);
        }
        if let Some(end) = end.filter(|_| !stale) {
            let now = self.current.clone();
            self.modules.get_mut(&module).unwrap().snapshots.entry(end).or_default().push(now);
        }
    }

    fn after_event(&mut self) {
        if self.peaks == Peaks::EveryEvent {
            self.look();
        }
    }

    fn change(&mut self, device: &str, category: Category, by: i64) {
        if by == 0 {
            return;
        }
        let row = self.current.entry(device.to_owned()).or_insert_with(|| {
            Category::ALL.iter().map(|category| (category.name(), 0)).chain([("Total", 0)]).collect()
        });
        for key in [category.name(), "Total"] {
            let bytes = row.get_mut(key).unwrap();
            *bytes = bytes.checked_add_signed(by).unwrap();
        }
        // While a storage changes its category the total may be zero for a moment.
        if row.values().all(|bytes| *bytes == 0) {
            self.current.remove(device);
        }
    }

    fn look(&mut self) {
        let more = |now: u64, most: u64| match self.peaks {
            Peaks::EveryEvent => now >= most,
            Peaks::AtOperations => now > most,
        };
        // The walk: every module there is, at every operation.
        for (name, stats) in &mut self.modules {
            if !self.parents.contains(name) {
                continue;
            }
            for open in self.open.iter().filter(|open| open.module == *name && !open.stale) {
                let Some((state, call)) = open.raises else { continue };
                let Some(peak) = stats.snapshots.get_mut(&state).and_then(|calls| calls.get_mut(call)) else {
                    continue;
                };
                for (device, row) in &self.current {
                    if more(row["Total"], peak.get(device).map_or(0, |peak| peak["Total"])) {
                        peak.insert(device.clone(), row.clone());
                    }
                }
            }
        }
        for (device, row) in &self.current {
            if more(row["Total"], self.peak.get(device).map_or(0, |peak| peak["Total"])) {
                self.peak.insert(device.clone(), row.clone());
                if self.keep {
                    self.at_peak.insert(device.clone(), self.storages.clone());
                }
            }
        }
    }
}
