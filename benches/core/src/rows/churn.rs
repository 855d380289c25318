//! Row 1: the price of a free and an allocation among many live blocks.

use super::Options;
use crate::engine::{Contender, Engine, Role, Seat, contenders};
use crate::measure::{Spread, rounds};
use crate::report::{Bar, Findings, Table, number};
use crate::shadow::check;
use crate::stream::{Lengths, Stream, fill, play};
use std::time::Instant;

/// Times every shape in rounds.
pub(crate) fn run(options: &Options) -> Findings {
    let mut findings = Findings::default();
    for shape in SHAPES {
        let pairs = options.scaled(if shape.live >= 100_000 { 200_000 } else { 500_000 });
        let stream = Stream::new(42, shape.lengths, shape.live, pairs, shape.capacity);
        if shape.live <= 10_000 {
            let short = Stream { pairs: stream.pairs[..pairs.min(60_000)].to_vec(), ..stream.clone() };
            let checks = contenders!(check: Own Core, Own Lowest, Packs Offset, #[cfg(feature = "vma")] Packs Vma,
                Packs Rlsf, Packs Talc, Reference Buddy, Reference RangeAlloc, Reference BTree);
            let faults = checks.iter().filter_map(|check| (check.run)(&short).err());
            findings.faults.extend(faults);
        }
        let mut contenders = contenders!(time: Own Core, Own Located, Packs Offset,
            #[cfg(feature = "vma")] Packs Vma, Packs Rlsf, Packs Talc, Reference Buddy, Reference BTree);
        if shape.live <= 1_000 {
            contenders.extend(contenders!(time: Reference RangeAlloc));
        }
        let times = rounds(options.rounds(), &contenders, &stream);
        report(&mut findings, shape, &stream, &contenders, &times);
    }
    findings
}

/// One run of one engine.
struct Run {
    ns_per_pair: f64,
    failed: u64,
}

/// The stream once for its memory, then again on an empty engine with the clock on.
fn time<E: Engine>(stream: &Stream) -> Run {
    let mut engine = E::new(&stream.setup);
    let mut seats = Seat::row(stream.fill.len());
    fill(&mut engine, &mut seats, &stream.fill);
    play(&mut engine, &mut seats, &stream.pairs);
    let mut engine = engine.renew(&stream.setup);
    let mut seats = Seat::row(stream.fill.len());
    let mut failed = fill(&mut engine, &mut seats, &stream.fill);
    let start = Instant::now();
    failed += play(&mut engine, &mut seats, &stream.pairs);
    let ns = start.elapsed().as_nanos() as f64;
    Run { ns_per_pair: ns / stream.pairs.len() as f64, failed }
}

fn report(
    findings: &mut Findings,
    shape: &Shape,
    stream: &Stream,
    contenders: &[Contender<Stream, Run>],
    times: &[Vec<Run>],
) {
    let spreads: Vec<Spread> =
        times.iter().map(|runs| Spread::of(runs.iter().map(|run| run.ns_per_pair))).collect();
    let peers = contenders.iter().zip(&spreads).filter(|(contender, _)| contender.role == Role::Packs);
    let best = peers.min_by(|a, b| a.1.median.total_cmp(&b.1.median));
    let Some((peer, best)) = best.map(|(contender, spread)| (contender.name, spread.median)) else { return };
    let note = format!(
        "{} pairs of one free (random block) and one allocation, {} rounds; ns per pair, and per operation (half)",
        stream.pairs.len(),
        times.first().map_or(0, Vec::len)
    );
    let head = ["engine", "ns/pair", "min..max", "ns/op", "of best packing peer", "failed"];
    let mut table = Table::new(format!("churn: {}", shape.name), note, &head);
    for ((contender, spread), runs) in contenders.iter().zip(&spreads).zip(times) {
        table.row([
            contender.name.to_owned(),
            number(spread.median),
            format!("{}..{}", number(spread.min), number(spread.max)),
            number(spread.median / 2.0),
            format!("{:.2}", spread.median / best),
            runs.iter().map(|run| run.failed).max().unwrap_or(0).to_string(),
        ]);
    }
    findings.tables.push(table);
    let own = spreads.first().map_or(f64::NAN, |spread| spread.median);
    let what = format!("churn, {}, of {peer}", shape.name);
    findings.bars.push(Bar::at_most(what, own / best, 1.10, "x"));
}

struct Shape {
    name: &'static str,
    live: usize,
    lengths: Lengths,
    /// Bytes; `None` is twice what is live and 4 MiB.
    capacity: Option<u64>,
}

const fn large(name: &'static str, live: usize, high: u64) -> Shape {
    Shape { name, live, lengths: Lengths { low: 256, high, unit: 256 }, capacity: Some(64 << 30) }
}

const fn small(name: &'static str, live: usize) -> Shape {
    Shape { name, live, lengths: Lengths { low: 256, high: 64 << 10, unit: 16 }, capacity: None }
}

const SHAPES: &[Shape] = &[
    large("1k live in 64 GiB, 256 B to 64 MiB", 1_000, 64 << 20),
    large("10k live in 64 GiB, 256 B to 32 MiB", 10_000, 32 << 20),
    large("100k live in 64 GiB, 256 B to 2 MiB", 100_000, 2 << 20),
    small("1k live, half full, 256 B to 64 KiB", 1_000),
    small("10k live, half full, 256 B to 64 KiB", 10_000),
    small("100k live, half full, 256 B to 64 KiB", 100_000),
];
