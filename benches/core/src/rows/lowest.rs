//! Row 3: the lowest offset that fits, which keeps the top of an arena free.

use super::Options;
use crate::engine::{Engine, Seat, contenders};
use crate::measure::{Spread, rounds};
use crate::report::{Bar, Findings, Table, number};
use crate::stream::{Lengths, Stream, fill, play};
use std::time::Instant;

/// A short stream: VMA looks at every hole for each allocation.
pub(crate) fn run(options: &Options) -> Findings {
    let mut findings = Findings::default();
    let small = Lengths { low: 256, high: 64 << 10, unit: 16 };
    let large = Lengths { low: 256, high: 32 << 20, unit: 256 };
    let shapes = [
        ("10k live, half full, 256 B to 64 KiB", small, None),
        ("10k live in 64 GiB, 256 B to 32 MiB", large, Some(64 << 30)),
    ];
    for (name, lengths, capacity) in shapes {
        let stream = Stream::new(43, lengths, LIVE, WARM + options.scaled(5_000), capacity);
        let contenders =
            contenders!(time: Own Lowest, #[cfg(feature = "vma")] Packs VmaLowest, Reference Core);
        let times = rounds(options.rounds(), &contenders, &stream);
        let spreads: Vec<Spread> = times.into_iter().map(Spread::of).collect();
        let own = spreads.first().map_or(f64::NAN, |spread| spread.median);
        let note = format!(
            "{} timed pairs of one free and one allocation after {WARM} that are not; the last line is best fit",
            stream.pairs.len() - WARM
        );
        let head = ["engine", "ns/pair", "min..max", "times ours"];
        let mut table = Table::new(format!("lowest offset: {name}"), note, &head);
        for (contender, spread) in contenders.iter().zip(&spreads) {
            table.row([
                contender.name.to_owned(),
                number(spread.median),
                format!("{}..{}", number(spread.min), number(spread.max)),
                number(spread.median / own),
            ]);
        }
        findings.tables.push(table);
        findings.bars.push(Bar::at_most(format!("lowest offset, {name}"), own, 500.0, " ns/pair"));
    }
    findings
}

fn time<E: Engine>(stream: &Stream) -> f64 {
    let mut engine = E::new(&stream.setup);
    let mut seats = Seat::row(stream.fill.len());
    fill(&mut engine, &mut seats, &stream.fill);
    let (warm, timed) = stream.pairs.split_at(WARM);
    play(&mut engine, &mut seats, warm);
    let start = Instant::now();
    play(&mut engine, &mut seats, timed);
    start.elapsed().as_nanos() as f64 / timed.len() as f64
}

const LIVE: usize = 10_000;
const WARM: usize = 10_000;
