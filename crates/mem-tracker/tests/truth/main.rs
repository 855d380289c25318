//! The tracker against PyTorch's own: recorded streams of events go in through the public interface, and every figure and every
//! printed table that came out of PyTorch 2.15 must come out here. `tests/data/README.md` describes the recordings.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on should stop where it stands")]

mod case;
mod compare;
mod feed;
mod place;

use case::Case;
use feed::Fed;
use mem_tracker::{ModState, Peaks, Snapshot, Tracker, Units, When};
use place::{InArena, Told};

fn told(case: &Case, peaks: Peaks) -> Fed {
    let tracker = Tracker::with_peaks(peaks);
    let device = tracker.device_rounding("cpu", case.rounding()).unwrap();
    feed::run(case, tracker.clone(), Told(tracker, device))
}

fn compare(case: &Case, fed: &Fed) {
    let name = &case.name;
    assert_eq!(compare::json(&fed.tracker.snapshot(When::Peak)), case.truth["peak"], "{name}: peak");
    assert_eq!(compare::json(&fed.last), case.truth["final"], "{name}: final");
    let mut modules: Vec<_> = fed.tracker.modules().iter().map(compare::module).collect();
    modules.sort_by_key(compare::name);
    let truth = compare::modules(&case.truth);
    assert_eq!(modules.len(), truth.len(), "{name}");
    for (ours, theirs) in modules.iter().zip(&truth) {
        assert_eq!(ours, theirs, "{name}");
    }
}

#[test]
fn every_figure_is_pytorchs() {
    let (mut chosen, mut changes) = (0, 0);
    for case in case::all() {
        let fed = told(&case, Peaks::AtOperations);
        compare(&case, &fed);
        (chosen, changes) = (chosen + fed.chosen, changes + fed.changes);
    }
    // The tracker chose the category of nearly all storages by itself.
    assert_eq!((chosen, changes), (11_314, 24_899));
}

#[test]
fn every_figure_is_pytorchs_when_an_arena_tells() {
    let mut fed = 0;
    for case in case::all() {
        // A block has at least one byte.
        if case.events.iter().any(|event| event["e"] == "SIZE" || event["mem"] == 0) {
            continue;
        }
        let tracker = Tracker::with_peaks(Peaks::AtOperations);
        let device = tracker.device("cpu").unwrap();
        let arena = InArena::new(&tracker, &device, case.rounding());
        compare(&case, &feed::run(&case, tracker, arena));
        fed += 1;
    }
    assert_eq!(fed, 12);
}

#[test]
fn every_printed_table_is_pytorchs() {
    for case in case::all() {
        let Fed { tracker, last, .. } = told(&case, Peaks::AtOperations);
        for units in [Units::B, Units::KiB, Units::MiB, Units::GiB] {
            let text = |table| tracker.display_snapshot(When::Peak, units, table);
            assert_eq!(text(false) + &text(true), case.table(&format!("peak {units}")), "{}", case.name);
            let text = last.plain(units) + &last.table(units);
            assert_eq!(text, case.table(&format!("final {units}")), "{}", case.name);
        }
        for (depth, units, table, python) in [
            (9, Units::KiB, true, "True"),
            (2, Units::MiB, false, "False"),
            (1, Units::B, true, "True"),
            (9, Units::GiB, true, "True"),
        ] {
            let text = tracker.display_modulewise_snapshots(depth, units, table);
            assert_eq!(text, case.table(&format!("modules {depth} {units} {python}")), "{}", case.name);
        }
    }
}

/// A tracker that looks after every event finds no lower peaks than one that looks after operations, and in these recordings the
/// same: nothing comes and goes within one operation.
#[test]
fn looking_after_every_event_finds_the_same_peaks_here() {
    for case in case::all() {
        let [often, seldom] =
            [Peaks::EveryEvent, Peaks::AtOperations].map(|peaks| told(&case, peaks).tracker);
        let total = |tracker: &Tracker| tracker.snapshot(When::Peak).device("cpu").unwrap().total();
        assert_eq!(total(&often), total(&seldom), "{}", case.name);
        for (often, seldom) in often.modules().iter().zip(seldom.modules()) {
            assert_eq!(often.states(), seldom.states());
            for state in [ModState::PeakForward, ModState::PeakBackward] {
                for (often, seldom) in often.snapshots(state).iter().zip(seldom.snapshots(state)) {
                    let total = |snapshot: &Snapshot| snapshot.device("cpu").unwrap().total();
                    assert_eq!(total(often), total(seldom), "{}", case.name);
                }
            }
        }
    }
}
