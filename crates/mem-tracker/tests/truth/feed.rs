//! Gives a recorded stream of events to a tracker, as a program that trains a model would.

use std::collections::HashMap;

use mem_tracker::{Category, ModState, Phase, Scope, Snapshot, StorageId, Tracker, When};
use serde_json::Value;

use crate::case::Case;
use crate::place::Place;

/// What came of a stream.
pub(crate) struct Fed {
    pub(crate) tracker: Tracker,
    /// What was held at the end of the recording.
    pub(crate) last: Snapshot,
    /// Storages whose category the tracker chose.
    pub(crate) chosen: usize,
    /// Events that changed a figure.
    pub(crate) changes: usize,
}

/// A program at work.
struct Program<'a, P> {
    case: &'a Case,
    tracker: Tracker,
    place: P,
    storages: HashMap<u64, StorageId>,
    scopes: Vec<(String, Scope)>,
    backward: Option<Phase>,
    optimizer: Option<Phase>,
    chosen: usize,
    changes: usize,
    marks: usize,
}

/// Runs a case through a tracker whose storages are kept by `place`. Compares every mark on the way.
pub(crate) fn run<P: Place>(case: &Case, tracker: Tracker, place: P) -> Fed {
    tracker.keep_calls(usize::MAX);
    let mut program = Program {
        case,
        tracker,
        place,
        storages: HashMap::new(),
        scopes: Vec::new(),
        backward: None,
        optimizer: None,
        chosen: 0,
        changes: 0,
        marks: 0,
    };
    let mut last = None;
    for (at, event) in case.events.iter().enumerate() {
        match text(event, "e") {
            "enter" => program.tracker.reset_peak(),
            "op" => program.phase_of(at),
            "ADD" => program.add(at),
            "DEL" => program.remove(event),
            "REF" => program.retag(event),
            "SIZE" => program.resize(event),
            "peak" => program.operation(event),
            "hook" => program.in_backward(event["is_bw"].as_bool().unwrap()),
            "hook_end" => program.hook(event),
            "mark" => program.mark(event),
            "reset_mod_stats" => program.tracker.reset_mod_stats(),
            "end" => last = Some(program.tracker.snapshot(When::Current)),
            "track" | "setcat" => {}
            other => panic!("{}: event {at} is a {other}", case.name),
        }
    }
    assert_eq!(program.marks, case.truth["marks"].as_array().unwrap().len());
    program.tracker.check_closed().unwrap();
    assert_eq!(program.tracker.warnings(), []);
    let Program { tracker, chosen, changes, .. } = program;
    Fed { tracker, last: last.unwrap(), chosen, changes }
}

impl<P: Place> Program<'_, P> {
    /// The operation that begins at an event: whether it is part of a backward pass or of an optimizer's step is written where
    /// it ends.
    fn phase_of(&mut self, at: usize) {
        let end = self.case.events[at..].iter().find(|event| event["e"] == "peak").unwrap();
        self.in_backward(end["state"] == "Peak-Backward");
        let stepping = end["in_opt"].as_bool().unwrap();
        if stepping != self.optimizer.is_some() {
            self.optimizer = stepping.then(|| self.tracker.optimizer_step());
        }
    }

    fn in_backward(&mut self, is: bool) {
        if is != self.backward.is_some() {
            self.backward = is.then(|| self.tracker.backward());
        }
    }

    /// A storage comes: within an operation the tracker knows what it is, else the program says so.
    fn add(&mut self, at: usize) {
        let event = &self.case.events[at];
        let (id, next) = (number(event, "id"), &self.case.events[at + 1]);
        let size = next["st"].as_array().and_then(|all| all.iter().find(|st| st[0] == id));
        let bytes = size.map_or(number(event, "mem"), |st| st[1].as_u64().unwrap());
        let told = (next["e"] == "setcat").then(|| category(event, "cat"));
        let storage = self.place.add(id, bytes, told);
        if told.is_none() {
            self.chosen += 1;
        }
        let made = self.tracker.storage(storage).unwrap();
        assert_eq!(made.category, category(event, "cat"), "{}: event {at}", self.case.name);
        assert_eq!(made.allocated, number(event, "mem"), "{}: event {at}", self.case.name);
        self.storages.insert(id, storage);
        self.changes += 1;
    }

    fn remove(&mut self, event: &Value) {
        let storage = self.storages.remove(&number(event, "id")).unwrap();
        assert_eq!(self.tracker.storage(storage).unwrap().category, category(event, "cat"));
        self.place.remove(number(event, "id"), storage);
        self.changes += 1;
    }

    fn retag(&mut self, event: &Value) {
        self.tracker.retag(self.storages[&number(event, "id")], category(event, "cat")).unwrap();
        self.changes += 1;
    }

    fn resize(&mut self, event: &Value) {
        self.tracker.resize(self.storages[&number(event, "id")], number(event, "mem")).unwrap();
        self.changes += 1;
    }

    fn operation(&mut self, event: &Value) {
        let mut open: Vec<&str> = self.scopes.iter().map(|(name, _)| name.as_str()).collect();
        open.push("Global");
        open.sort_unstable();
        open.dedup();
        let parents: Vec<&str> =
            event["parents"].as_array().unwrap().iter().map(|p| p.as_str().unwrap()).collect();
        assert_eq!(open, parents);
        self.tracker.operation();
    }

    fn hook(&mut self, event: &Value) {
        let module = self.tracker.module(text(event, "fqn")).unwrap();
        let name = module.name();
        match text(event, "k") {
            "pre_fw" => {
                if event.get("params").is_some() {
                    module.parameters(&self.known(event, "params")).unwrap();
                    module.buffers(&self.known(event, "buffers")).unwrap();
                }
                self.scopes.push((name, module.forward_of(&self.known(event, "io")).unwrap()));
            }
            "pre_bw" => self.scopes.push((name, module.backward())),
            "post_fw" => self.take(&name, false).end(&self.known(event, "io")).unwrap(),
            _ => drop(self.take(&name, true)),
        }
    }

    /// The scope opened last of a module's in a direction. PyTorch's backward hooks do not nest.
    fn take(&mut self, name: &str, backward: bool) -> Scope {
        let of = |(module, scope): &(String, Scope)| {
            module == name && (scope.opened() == ModState::PreBackward) == backward
        };
        let at = self.scopes.iter().rposition(of).unwrap();
        self.scopes.remove(at).1
    }

    fn known(&self, event: &Value, key: &str) -> Vec<StorageId> {
        let ids = event[key].as_array().unwrap().iter();
        ids.map(|id| self.storages[&id.as_u64().unwrap()]).collect()
    }

    fn mark(&mut self, event: &Value) {
        let mark = &self.case.truth["marks"][self.marks];
        assert_eq!(mark["label"], event["label"]);
        let at = format!("{}: {}", self.case.name, event["label"]);
        assert_eq!(crate::compare::json(&self.tracker.snapshot(When::Current)), mark["snapshot"], "{at}");
        self.marks += 1;
    }
}

fn category(event: &Value, key: &str) -> Category {
    text(event, key).parse().unwrap()
}

fn text<'a>(event: &'a Value, key: &str) -> &'a str {
    event[key].as_str().unwrap()
}

fn number(event: &Value, key: &str) -> u64 {
    event[key].as_u64().unwrap()
}
