//! Row 4: the price of "no" when the free bytes are many and scattered.

use super::Options;
use crate::engine::{Contender, Engine, Role, Setup, contenders};
use crate::measure::{Spread, rounds};
use crate::report::{Bar, Findings, Table, number};
use crate::rng::Rng;
use crate::stream::Lengths;
use std::hint::black_box;
use std::time::{Duration, Instant};

/// Asks for what no hole can hold.
pub(crate) fn run(options: &Options) -> Findings {
    let mut findings = Findings::default();
    for holes in [500, 5_000] {
        for (name, shape) in SHAPES {
            let case = Case::new(holes, *shape);
            let contenders = contenders!(time: Own Core, Packs Offset, #[cfg(feature = "vma")] Packs Vma,
                Packs Rlsf, Packs Talc, Reference BTree, Reference RangeAlloc);
            let runs = rounds(options.rounds(), &contenders, &case);
            report(&mut findings, &format!("{holes} holes, {name}"), &contenders, &runs);
        }
    }
    findings
}

/// What the holes and the request are like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Shape {
    /// Holes of 256 B to 64 KiB, and a request of 1 MiB.
    Far,
    /// The same holes, and a request one unit longer than the largest.
    Near,
    /// All holes are alike, and the request is a little longer: the same size class in most engines.
    Crowded,
}

const SHAPES: &[(&str, Shape)] = &[
    ("request far above the largest", Shape::Far),
    ("request 256 B above the largest", Shape::Near),
    ("all of 1 MiB, request 2.5 KiB above", Shape::Crowded),
];

/// Blocks side by side, of which every other one is freed.
struct Case {
    setup: Setup,
    lengths: Vec<u32>,
    request: u64,
}

impl Case {
    fn new(holes: usize, shape: Shape) -> Case {
        let mut rng = Rng::new(7);
        let lengths = Lengths { low: 256, high: 64 << 10, unit: UNIT };
        let hole = |rng: &mut Rng| match shape {
            Shape::Far | Shape::Near => lengths.next(rng),
            Shape::Crowded => 1 << 20,
        };
        let lengths: Vec<u32> =
            (0..2 * holes).map(|at| if at % 2 == 0 { hole(&mut rng) } else { UNIT as u32 }).collect();
        let largest = u64::from(lengths.iter().copied().max().unwrap_or(0));
        let request = match shape {
            Shape::Far => 1 << 20,
            Shape::Near => largest + UNIT,
            Shape::Crowded => largest + 10 * UNIT,
        };
        let capacity = lengths.iter().map(|bytes| u64::from(*bytes)).sum();
        Case { setup: Setup { capacity, unit: UNIT, live: lengths.len() + 16 }, lengths, request }
    }
}

const UNIT: u64 = 256;

/// One run of one engine.
struct Run {
    ns: f64,
    /// Whether it gave room: its holes are then not what they should be.
    served: bool,
}

fn time<E: Engine>(case: &Case) -> Run {
    // Headers and rounding take room too: a little more for each block, which is used up below.
    let slack = 64 * case.lengths.len() as u64 + (64 << 10);
    let capacity =
        if E::NAME.contains("in-band") { case.setup.capacity + slack } else { case.setup.capacity };
    let mut engine = E::new(&Setup { capacity: capacity.next_multiple_of(4096), ..case.setup });
    let blocks: Vec<_> = case.lengths.iter().map(|bytes| (engine.alloc((*bytes).into()), *bytes)).collect();
    // Whatever is left at the end: in pieces, so that the largest hole is one of ours.
    let mut rest = Vec::new();
    for bytes in [64 << 10, 4096, UNIT] {
        while let Some(ticket) = engine.alloc(bytes) {
            rest.push(ticket);
        }
    }
    let mut placed: Vec<_> = blocks
        .into_iter()
        .filter_map(|(ticket, bytes)| {
            let ticket = ticket?;
            Some((engine.range(&ticket, bytes.into()).start, bytes, ticket))
        })
        .collect();
    placed.sort_by_key(|(start, ..)| *start);
    for (_, bytes, ticket) in placed {
        if u64::from(bytes) > UNIT {
            engine.free(ticket);
        }
    }
    let served = engine.alloc(case.request).is_some();
    let (mut count, mut batch) = (0_u64, 1_000_u64);
    let start = Instant::now();
    loop {
        for _ in 0..batch {
            black_box(engine.alloc(black_box(case.request)).is_some());
        }
        count += batch;
        let spent = start.elapsed();
        if served || spent > Duration::from_millis(10) {
            return Run { ns: spent.as_nanos() as f64 / count as f64, served };
        }
        batch = (batch * 2).min(100_000);
    }
}

fn report(findings: &mut Findings, name: &str, contenders: &[Contender<Case, Run>], runs: &[Vec<Run>]) {
    let head = ["engine", "ns per refusal", "min..max", "of best packing peer"];
    let mut table = Table::new(format!("refusal: {name}"), "", &head);
    let spreads: Vec<Option<Spread>> = runs
        .iter()
        .map(|runs| {
            let refused = runs.iter().all(|run| !run.served);
            refused.then(|| Spread::of(runs.iter().map(|run| run.ns)))
        })
        .collect();
    let peers = contenders.iter().zip(&spreads).filter(|(contender, _)| contender.role == Role::Packs);
    let best = peers.filter_map(|(_, spread)| Some(spread.as_ref()?.median)).min_by(f64::total_cmp);
    let best = best.unwrap_or(f64::NAN);
    for (contender, spread) in contenders.iter().zip(&spreads) {
        match spread {
            Some(spread) => table.row([
                contender.name.to_owned(),
                number(spread.median),
                format!("{}..{}", number(spread.min), number(spread.max)),
                format!("{:.2}", spread.median / best),
            ]),
            None => table.row([contender.name, "served", "", ""]),
        }
    }
    findings.tables.push(table);
    if let Some(Some(own)) = spreads.first() {
        findings.bars.push(Bar::at_most(format!("refusal, {name}"), own.median, 20.0, " ns"));
    } else {
        findings.faults.push(format!("refusal, {name}: room was given where there is none"));
    }
}
