//! Eight threads on a pool with room for two tensors over a disk tier, for as long as asked: nothing locks up, and no lease, no
//! staging, no descriptor and no locked byte is left over.
//!
//! `SOAK_SECONDS` sets for how long (default 3), `SOAK_SEED` the first seed.
#![cfg(unix)]
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on should stop where it stands")]

mod tier;

use std::time::{Duration, Instant};
use swap_tensor::disk::FaultPlan;
use tier::{LARGEST, Round, setting, watch::Watch};

#[test]
fn nothing_locks_up_and_nothing_leaks() {
    let (wanted, mut seed) = (Duration::from_secs(setting("SOAK_SECONDS", 3)), setting("SOAK_SEED", 0));
    let (watch, since) = (Watch::over(THREADS), Instant::now());
    let (mut steps, mut refusals, mut spills) = (0, 0, 0);
    while since.elapsed() < wanted {
        let begun = Instant::now();
        let outcome =
            tier::run(&round(seed), &watch, |_| begun.elapsed() < A_ROUND && since.elapsed() < wanted);
        assert_eq!(outcome.lost, 0, "nothing went wrong with the disk");
        seed += 1;
        steps += outcome.steps;
        refusals += outcome.refusals;
        spills += outcome.stats.spills;
    }
    println!("{steps} steps in {:.0} s, {refusals} refused, {spills} spills", since.elapsed().as_secs_f64());
    assert!(steps > 0);
}

fn round(seed: u64) -> Round {
    Round {
        seed,
        threads: THREADS,
        device: 2 * LARGEST,
        host: [0, LARGEST][seed as usize / 2 % 2],
        disk: 32 * LARGEST,
        deadline: Duration::from_secs(20),
        disk_deadline: Duration::from_secs(20),
        faults: FaultPlan::seeded(seed),
        flips: false,
        hangs: false,
    }
}

const THREADS: usize = 8;
/// After which everything is looked over.
const A_ROUND: Duration = Duration::from_secs(20);
