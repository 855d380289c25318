//! A pool over a disk tier on which everything goes wrong in turn: it errs, fills up, does half, is late, flips bits, hangs.
//!
//! Whatever strikes: a read serves the right bytes or says why not, every wait ends, and when the skies clear every tensor that no
//! bit was flipped of is whole and nothing is left behind. A write that fails for want of staging may cut the device copy that it was
//! to replace; that tensor says so until it is written again.
//!
//! `FAULTS` sets how many faults are to strike (default 300), `SOAK_SEED` the first seed.
#![cfg(unix)]
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on should stop where it stands")]

mod tier;

use std::{
    collections::BTreeMap,
    sync::Mutex,
    time::{Duration, Instant},
};
use swap_tensor::disk::{Call, DiskStore, Fault, FaultPlan};
use tier::{LARGEST, Round, setting, watch::Watch};

/// What is wrong with the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Weather {
    Errors,
    NoSpace,
    Short,
    Interrupted,
    Late,
    Flips,
    Hangs,
    Everything,
}

const ALL: [Weather; 8] = [
    Weather::Errors,
    Weather::NoSpace,
    Weather::Short,
    Weather::Interrupted,
    Weather::Late,
    Weather::Flips,
    Weather::Hangs,
    Weather::Everything,
];

impl Weather {
    fn faults(self, seed: u64) -> FaultPlan {
        let plan = FaultPlan::seeded(seed);
        let both = |plan: FaultPlan, one_in, fault| {
            plan.randomly(Call::Read, one_in, fault).randomly(Call::Write, one_in, fault)
        };
        match self {
            Weather::Errors => both(plan, 8, Fault::IO),
            Weather::NoSpace => plan.randomly(Call::Write, 4, Fault::NO_SPACE),
            Weather::Short => both(plan, 3, Fault::Short),
            Weather::Interrupted => both(both(plan, 4, Fault::INTERRUPTED), 4, Fault::AGAIN),
            Weather::Late => both(plan, 4, Fault::Delay),
            Weather::Flips => {
                plan.randomly(Call::Read, 4, Fault::BitFlip).randomly(Call::Write, 16, Fault::BitFlip)
            }
            Weather::Hangs => both(plan, 12, Fault::Hang),
            Weather::Everything => {
                let lasting = [Fault::IO, Fault::BitFlip, Fault::Hang].into_iter();
                let plan = lasting.fold(plan, |plan, fault| both(plan, 40, fault));
                let passing = [Fault::Short, Fault::INTERRUPTED, Fault::AGAIN, Fault::Delay].into_iter();
                let plan = passing.fold(plan, |plan, fault| both(plan, 12, fault));
                plan.randomly(Call::Write, 20, Fault::NO_SPACE)
            }
        }
    }

    fn round(self, seed: u64) -> Round {
        let hangs = matches!(self, Weather::Hangs | Weather::Everything);
        Round {
            seed,
            threads: THREADS,
            device: 3 * LARGEST,
            host: [0, LARGEST, 3 * LARGEST][seed as usize / 2 % 3],
            disk: if self == Weather::NoSpace { 4 * LARGEST } else { 32 * LARGEST },
            deadline: Duration::from_millis(100),
            // What hangs is to outlast it now and then.
            disk_deadline: if hangs { Duration::from_millis(100) } else { Duration::from_secs(20) },
            faults: self.faults(seed),
            flips: matches!(self, Weather::Flips | Weather::Everything),
            hangs,
        }
    }
}

#[test]
fn every_fault_is_survived() {
    let (wanted, first) = (setting("FAULTS", 300), setting("SOAK_SEED", 0));
    let share = (wanted / (2 * ALL.len() as u64)).clamp(1, 400);
    let (watch, since) = (Watch::over(THREADS), Instant::now());
    let (mut total, mut rounds, mut lost, mut steps, mut refusals) = (0, 0, 0, 0, 0);
    let (mut down, mut up) = (0, 0);
    let mut kinds = BTreeMap::new();
    while total < wanted {
        let (weather, seed) = (ALL[rounds as usize % ALL.len()], first + rounds);
        let share = share.min(wanted - total);
        let struck = Mutex::new(Vec::new());
        let fewer = |store: &DiskStore| {
            let now = store.faults_struck();
            let fewer = count(&now) < share;
            *struck.lock().unwrap() = now;
            fewer
        };
        let outcome = tier::run(&weather.round(seed), &watch, fewer);
        let struck = struck.into_inner().unwrap();
        total += count(&struck);
        for (call, fault, times) in &struck {
            *kinds.entry(format!("{call:?} {}", name(*fault))).or_insert(0) += times;
        }
        rounds += 1;
        lost += outcome.lost;
        steps += outcome.steps;
        refusals += outcome.refusals;
        down += outcome.stats.disk_written_bytes;
        up += outcome.stats.disk_read_bytes;
        let (spilled, read) = (outcome.stats.disk_written_bytes, outcome.stats.disk_read_bytes);
        let (steps_, refused) = (outcome.steps, outcome.refusals);
        println!(
            "{weather:?}, seed {seed}: {steps_} steps, {refused} refused, {spilled} bytes down, {read} up"
        );
    }
    println!(
        "{total} faults in {rounds} rounds, {:.1} s: {steps} steps, {refusals} refused; {lost} losses told; \
         {down} bytes down, {up} up; {kinds:#?}",
        since.elapsed().as_secs_f64()
    );
    assert!(down > 0 && up > 0, "the disk was not used");
}

fn count(struck: &[(Call, Fault, u64)]) -> u64 {
    struck.iter().map(|(_, _, times)| times).sum()
}

fn name(fault: Fault) -> String {
    match fault {
        Fault::IO => "EIO".to_owned(),
        Fault::NO_SPACE => "ENOSPC".to_owned(),
        Fault::INTERRUPTED => "EINTR".to_owned(),
        Fault::AGAIN => "EAGAIN".to_owned(),
        other => format!("{other:?}"),
    }
}

const THREADS: usize = 6;
