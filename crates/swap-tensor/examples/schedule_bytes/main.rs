//! Bytes that recorded training steps would swap under each policy, on a device of half of what they need.
//!
//! `cargo run --release -p swap-tensor --example schedule_bytes`

mod oracle;
mod simulator;
mod trace;

use oracle::{End, oracle};
use simulator::{Bytes, Simulator};
use std::process::ExitCode;
use swap_tensor::policy::{self, Lru};
use trace::{Trace, Writes};

fn main() -> ExitCode {
    let files = trace::files();
    if files.is_empty() {
        eprintln!("SKIPPED: no access traces beside the repository (shared/data/access)");
        return ExitCode::SUCCESS;
    }
    println!("| trace | writes | device | policy | up | down | of farthest-next-use | leases that wait |");
    println!("|---|---|---|---|---|---|---|---|");
    for file in files {
        for writes in [Writes::InPlace, Writes::First, Writes::All] {
            match Trace::read(&file, writes) {
                Ok(trace) => table(&trace, writes),
                Err(error) => {
                    eprintln!("{}: {error}", file.display());
                    return ExitCode::FAILURE;
                }
            }
        }
    }
    ExitCode::SUCCESS
}

fn table(trace: &Trace, writes: Writes) {
    let best = oracle(trace, End::Never);
    let row = |policy: &str, bytes: Bytes| {
        let (gib, ratio) =
            (|b: u64| b as f64 / f64::from(1 << 30), bytes.total() as f64 / best.total() as f64);
        println!(
            "| {} | {writes:?} | {:.2} GiB | {policy} | {:.2} GiB | {:.2} GiB | {ratio:.4} | {} |",
            trace.name,
            gib(trace.device_bytes()),
            gib(bytes.up),
            gib(bytes.down),
            bytes.waits,
        );
    };
    row("farthest next use", best);
    row("farthest next use or drop", oracle(trace, End::AtDrop));
    for name in policy::NAMES {
        if let Ok(policy) = policy::by_name(name) {
            row(name, Simulator::new(trace, policy, 0).run(false));
        }
    }
    for look_ahead in [0, 64 << 20, 256 << 20, 1 << 30, u64::MAX] {
        let name = match look_ahead {
            0 => "scheduled, no fetch ahead".to_owned(),
            u64::MAX => "scheduled, any ahead".to_owned(),
            bytes => format!("scheduled, {} MiB ahead", bytes >> 20),
        };
        row(&name, Simulator::new(trace, Box::new(Lru::default()), look_ahead).run(true));
    }
}
