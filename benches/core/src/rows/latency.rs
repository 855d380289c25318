//! Row 5: the slowest single operations.

use super::Options;
use crate::clock;
use crate::engine::{Contender, Engine, Seat, contenders};
use crate::measure::{percentile, rounds};
use crate::report::{Findings, Table, number};
use crate::stream::{Lengths, Stream, fill, play};
use std::hint::black_box;

/// Each operation on its own, with warm and with cold caches.
pub(crate) fn run(options: &Options) -> Findings {
    let lengths = Lengths { low: 256, high: 32 << 20, unit: 256 };
    let stream = Stream::new(44, lengths, 10_000, options.scaled(500_000), Some(64 << 30));
    let short = Stream { pairs: stream.pairs[..options.scaled(5_000)].to_vec(), ..stream.clone() };
    let ns = clock::ns_per_tick();
    let warm =
        contenders!(warm: Own Core, Packs Offset, #[cfg(feature = "vma")] Packs Vma, Packs Rlsf, Packs Talc);
    let cold =
        contenders!(cold: Own Core, Packs Offset, #[cfg(feature = "vma")] Packs Vma, Packs Rlsf, Packs Talc);
    let note = |stream: &Stream, what| {
        format!(
            "{} operations at 10k live in 64 GiB, 256 B to 32 MiB, {what}; nanoseconds by {}, with nothing subtracted \
             (the first line is the clock alone); median over rounds, `max` the least of the rounds' greatest",
            2 * stream.pairs.len(),
            clock::NAME
        )
    };
    let mut findings = Findings::default();
    let title = "latency of one operation, caches warm";
    findings.tables.push(table(title, note(&stream, "back to back"), &stream, &warm, ns, options));
    let title = "latency of one operation, caches cold";
    let what = "4 MiB of other memory read before each";
    findings.tables.push(table(title, note(&short, what), &short, &cold, ns, options));
    findings
}

/// Ticks of each free and each allocation, in two sorted lists.
type Ticks = [Vec<u32>; 2];

fn table(
    title: &str,
    note: String,
    stream: &Stream,
    contenders: &[Contender<Stream, Ticks>],
    ns: f64,
    options: &Options,
) -> Table {
    let head = ["engine", "operation", "p50", "p99", "p99.9", "max"];
    let mut table = Table::new(title, note, &head);
    let mut idle: Vec<u32> = (0..100_000).map(|_| since(clock::ticks())).collect();
    idle.sort_unstable();
    table.row(cells("(nothing)", "clock", &[&idle], ns));
    let runs = rounds(options.rounds().min(3), contenders, stream);
    for (contender, runs) in contenders.iter().zip(&runs) {
        for (kind, name) in ["free", "alloc"].into_iter().enumerate() {
            let lists: Vec<&Vec<u32>> = runs.iter().map(|run| &run[kind]).collect();
            table.row(cells(contender.name, name, &lists, ns));
        }
    }
    table
}

fn cells(engine: &str, operation: &str, lists: &[&Vec<u32>], ns: f64) -> [String; 6] {
    let at = |part: f64| {
        let mut all: Vec<u32> = lists.iter().filter_map(|list| percentile(list, part)).collect();
        all.sort_unstable();
        // The greatest is whatever interrupted the process: the least of them says most about the engine.
        let chosen = if part < 1.0 { percentile(&all, 0.5) } else { all.first().copied() };
        chosen.map_or(String::new(), |ticks| number(f64::from(ticks) * ns))
    };
    [engine.to_owned(), operation.to_owned(), at(0.5), at(0.99), at(0.999), at(1.0)]
}

fn since(start: u64) -> u32 {
    u32::try_from(clock::ticks() - start).unwrap_or(u32::MAX)
}

fn warm<E: Engine>(stream: &Stream) -> Ticks {
    record::<E>(stream, || ())
}

fn cold<E: Engine>(stream: &Stream) -> Ticks {
    let other = vec![1_u64; (4 << 20) / 8];
    record::<E>(stream, || {
        let sum = black_box(&other).iter().step_by(8).fold(0_u64, |sum, word| sum.wrapping_add(*word));
        black_box(sum);
    })
}

fn record<E: Engine>(stream: &Stream, before: impl Fn()) -> Ticks {
    let mut engine = E::new(&stream.setup);
    let mut seats = Seat::row(stream.fill.len());
    fill(&mut engine, &mut seats, &stream.fill);
    play(&mut engine, &mut seats, &stream.pairs);
    let mut engine = engine.renew(&stream.setup);
    let mut seats: Vec<Seat<E::Ticket>> = Seat::row(stream.fill.len());
    fill(&mut engine, &mut seats, &stream.fill);
    // Written to, so that no page of them is new when an operation is timed.
    let mut ticks: Ticks = [vec![1; stream.pairs.len()], vec![1; stream.pairs.len()]];
    for (at, pair) in stream.pairs.iter().enumerate() {
        let seat = &mut seats[pair.seat as usize];
        if let Some(ticket) = seat.0.take() {
            before();
            let start = clock::ticks();
            engine.free(ticket);
            ticks[0][at] = since(start);
        }
        before();
        let start = clock::ticks();
        seat.0 = engine.alloc(pair.bytes.into());
        ticks[1][at] = since(start);
    }
    ticks.iter_mut().for_each(|list| list.sort_unstable());
    ticks
}
