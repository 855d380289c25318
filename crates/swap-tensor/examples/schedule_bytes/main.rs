//! Bytes that recorded training steps would swap under each policy, on a device of half of what they need.
//!
//! `cargo run --release -p swap-tensor --example schedule_bytes [-- --pool]`. By arithmetic over the policies themselves; with
//! `--pool` by a real pool on the CPU device, sizes divided so that a step needs a quarter of a GiB at most.

mod oracle;
mod pool;
mod simulator;
mod trace;

use oracle::{End, oracle};
use simulator::{Bytes, STEADY, Simulator};
use std::{error::Error, process::ExitCode, time::Instant};
use swap_tensor::policy::{self, Lru, Recording, Schedule};
use trace::{Op, Trace, Writes};

fn main() -> ExitCode {
    let files = trace::files();
    if files.is_empty() {
        eprintln!("SKIPPED: no access traces beside the repository (shared/data/access)");
        return ExitCode::SUCCESS;
    }
    println!(
        "Steps 3 and 4 of a trace that is repeated, and the ratio of step 2, the first that is followed. \"Of\" the"
    );
    println!(
        "farthest next use. A fetch ahead is of so many bytes, and a lease waits if it needs bytes that are not there.\n"
    );
    println!("| trace | writes | device | policy | up | down | ratio | ratio, step 2 | leases that wait |");
    println!("|---|---|---|---|---|---|---|---|---|");
    let on_a_pool = std::env::args().any(|argument| argument == "--pool");
    for file in &files {
        for writes in [Writes::InPlace, Writes::First, Writes::All] {
            match Trace::read(file, writes) {
                Ok(trace) if on_a_pool => {
                    if let Err(error) = table_of_pools(&pool::divided(trace), writes) {
                        eprintln!("{}: {error}", file.display());
                        return ExitCode::FAILURE;
                    }
                }
                Ok(trace) => table(&trace, writes),
                Err(error) => {
                    eprintln!("{}: {error}", file.display());
                    return ExitCode::FAILURE;
                }
            }
        }
    }
    if !on_a_pool {
        files
            .iter()
            .filter_map(|file| Trace::read(file, Writes::InPlace).ok())
            .for_each(|trace| plan(&trace));
    }
    ExitCode::SUCCESS
}

/// How long it takes to plan a step.
fn plan(trace: &Trace) {
    let mut step = Recording::new();
    for &op in &trace.again {
        match op {
            Op::Create { tensor } => step.created(&tensor.to_string(), trace.bytes[tensor]),
            Op::Lease { tensor, how } => step.leased(&tensor.to_string(), trace.bytes[tensor], how),
            Op::Drop { tensor } => step.dropped(&tensor.to_string()),
        }
    }
    let start = Instant::now();
    let schedule = Schedule::new(step, trace.device_bytes());
    let (events, ahead, misses) = (schedule.events(), schedule.fetches().len(), schedule.misses());
    println!(
        "\n{}: {events} events planned in {:.1?}; {ahead} of {misses} fetches ahead",
        trace.name,
        start.elapsed()
    );
}

/// A row of the table: what a policy moved in the steps that repeat themselves, and how much that is of the `best`.
fn row(trace: &Trace, writes: Writes, best: &[Bytes], policy: &str, steps: &[Bytes]) {
    let gib = |bytes: u64| bytes as f64 / f64::from(1 << 30);
    let sum = |steps: &[Bytes]| steps[STEADY].iter().copied().sum::<Bytes>();
    let (bytes, ratio) = (sum(steps), |a: Bytes, b: Bytes| a.total() as f64 / b.total() as f64);
    println!(
        "| {} | {writes:?} | {:.2} GiB | {policy} | {:.2} GiB | {:.2} GiB | {:.4} | {:.4} | {} |",
        trace.name,
        gib(trace.device_bytes()),
        gib(bytes.up),
        gib(bytes.down),
        ratio(bytes, sum(best)),
        ratio(steps[FOLLOWED], best[FOLLOWED]),
        bytes.waits,
    );
}

/// What real pools moved, which have to make contiguous room.
fn table_of_pools(trace: &Trace, writes: Writes) -> Result<(), Box<dyn Error>> {
    let best = oracle(trace, End::Never);
    row(trace, writes, &best, "farthest next use", &best);
    row(trace, writes, &best, "a pool, lru", &pool::run(trace, false)?);
    row(trace, writes, &best, "a pool, scheduled", &pool::run(trace, true)?);
    Ok(())
}

fn table(trace: &Trace, writes: Writes) {
    let best = oracle(trace, End::Never);
    let row = |policy: &str, steps: &[Bytes]| row(trace, writes, &best, policy, steps);
    row("farthest next use", &best);
    row("farthest next use or drop", &oracle(trace, End::AtDrop));
    for name in policy::NAMES {
        if let Ok(policy) = policy::by_name(name) {
            row(name, &Simulator::new(trace, policy, 0).run(false));
        }
    }
    for look_ahead in [0, 64 << 20, 256 << 20, 1 << 30, u64::MAX] {
        let name = match look_ahead {
            0 => "scheduled, no fetch ahead".to_owned(),
            u64::MAX => "scheduled, any ahead".to_owned(),
            bytes => format!("scheduled, {} MiB ahead", bytes >> 20),
        };
        row(&name, &Simulator::new(trace, Box::new(Lru::default()), look_ahead).run(true));
    }
}

/// The second step, the first that is followed.
const FOLLOWED: usize = 1;
