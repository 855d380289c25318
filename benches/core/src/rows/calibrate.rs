//! Row 0: how steady the machine is. If these figures move, so do all others.

use super::Options;
use crate::measure::Spread;
use crate::report::{Findings, Table, number};
use std::hint::black_box;
use std::time::Instant;

/// A loop that only computes, and a copy, several times.
pub(crate) fn run(options: &Options) -> Findings {
    let rounds = 3 * options.rounds();
    let mut from = vec![1_u8; 64 << 20];
    let mut to = vec![0_u8; 64 << 20];
    let (mut spins, mut copies) = (Vec::new(), Vec::new());
    for round in 0..rounds {
        let start = Instant::now();
        let mut x = black_box(round as u64);
        for _ in 0..STEPS {
            x = (x ^ (x >> 29)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        }
        black_box(x);
        spins.push(start.elapsed().as_nanos() as f64 / f64::from(STEPS));
        from[round] = round as u8;
        let start = Instant::now();
        to.copy_from_slice(black_box(&from));
        copies.push(from.len() as f64 / start.elapsed().as_nanos() as f64);
        black_box(&mut to);
    }
    let head = ["what", "median", "min..max", "max / min"];
    let note = format!("{rounds} times each; the spread is the machine's noise");
    let mut table = Table::new("calibration", note, &head);
    let lines = [("dependent multiply and shift, ns a step", spins), ("memcpy of 64 MiB, GB/s", copies)];
    for (what, figures) in lines {
        let spread = Spread::of(figures);
        table.row([
            what.to_owned(),
            number(spread.median),
            format!("{}..{}", number(spread.min), number(spread.max)),
            format!("{:.2}", spread.max / spread.min),
        ]);
    }
    Findings { tables: vec![table], ..Findings::default() }
}

const STEPS: u32 = 5_000_000;
