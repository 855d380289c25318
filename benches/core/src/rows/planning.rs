//! Row 6: what it takes to plan moves, and what the moves reach.

use super::Options;
use crate::crowd::Crowd;
use crate::engine::{Core, Engine, Setup};
use crate::measure::{Spread, percentile};
use crate::report::{Bar, Findings, Table, number};
use crate::rng::{Rng, log_uniform};
use crate::stream::Lengths;
use allocator_core::{Plan, Request};
use std::time::Instant;

/// Plans for requests that fail, whole compactions, and VMA's way of compacting for comparison.
pub(crate) fn run(options: &Options) -> Findings {
    let mut findings = Findings::default();
    let head = [
        "blocks",
        "holes",
        "up to",
        "plan, median",
        "p99",
        "max",
        "bytes moved / asked for",
        "moves",
        "no plan",
    ];
    let note = "Load 0.75, 256 B to 64 KiB, after the arena was filled and thinned out ten times; requests that no hole can hold, uniform in the logarithm \
                between the largest hole and a part of what is free; milliseconds, into the same plan";
    let mut room = Table::new("plan_room", note, &head);
    let head = [
        "engine",
        "load",
        "blocks",
        "largest hole / free before",
        "after",
        "plan, ms",
        "moves",
        "moved / live",
    ];
    let note = "Everything moved down. VMA's policy, through its virtual block: from the highest block down, each is \
                moved to the lowest offset that holds it whole, until none moves; its time includes the moves of the \
                books, ours is `plan_compact(u64::MAX)`, and the moves are in the last table";
    let mut compact = Table::new("compaction", note, &head);
    let head = ["blocks", "ns per move"];
    let mut commit = Table::new("commit_move, for every move of the compaction", "", &head);
    for (blocks, load) in [(565, 0.50), (788, 0.75), (7_522, 0.75), (100_000, 0.75)] {
        let mut crowd = churned::<Core>(blocks, load);
        if blocks > 1_000 {
            for (up_to, part) in [("a sixteenth of the free bytes", 16), ("all free bytes", 1)] {
                let (cells, p50) = plan_room(&crowd, part, if blocks > 10_000 { 60 } else { 300 }, options);
                room.row(cells);
                if blocks < 10_000 {
                    let what = format!("plan_room at 7.5k blocks, up to {up_to}, median");
                    findings.bars.push(Bar::at_most(what, p50, 1.0, " ms"));
                }
            }
        }
        let own = plan_compact(&mut crowd, load, options);
        if blocks > 1_000 && blocks < 10_000 {
            findings.bars.push(Bar::at_most("plan_compact at 7.5k blocks, median", own.ms, 10.0, " ms"));
            findings.bars.push(Bar::at_least("largest hole / free, all compacted, 7.5k", own.after, 1.0, ""));
        }
        findings.faults.extend(own.faults);
        compact.row(own.cells);
        commit.row([own.blocks.to_string(), number(own.ns_per_move)]);
        #[cfg(feature = "vma")]
        if blocks < 1_000 || (options.full && blocks < 10_000) {
            compact.row(emulated::run(churned(blocks, load), load));
        }
    }
    findings.tables.extend([room, compact, commit]);
    findings
}

/// An arena of about `blocks` blocks that fill it to `load`, after it was full and thinned out again ten times.
fn churned<E: Engine>(blocks: usize, load: f64) -> Crowd<E> {
    let capacity = (blocks as f64 * MEAN / load) as u64;
    let setup = Setup { capacity: capacity.next_multiple_of(4096), unit: LENGTHS.unit, live: 2 * blocks };
    let mut crowd = Crowd::new(setup);
    crowd.churn(&mut Rng::new(5), LENGTHS, load, 10);
    crowd
}

/// The table's line, and the median in milliseconds.
fn plan_room(crowd: &Crowd<Core>, part: u64, requests: usize, options: &Options) -> ([String; 9], f64) {
    let allocator = crowd.engine.allocator();
    let stats = allocator.stats();
    let mut rng = Rng::new(6);
    let mut plan = Plan::default();
    let mut ms = Vec::new();
    let (mut moved, mut asked, mut moves, mut none) = (0, 0, 0, 0);
    for turn in 0..options.scaled(requests) {
        let low = stats.largest_hole + LENGTHS.unit;
        let high = (stats.free / part).max(low);
        let bytes = log_uniform(&mut rng, low, high, LENGTHS.unit).min(stats.free);
        let start = Instant::now();
        let planned = allocator.plan_room_into(Request::new(bytes), &mut plan);
        if turn > 0 {
            ms.push(start.elapsed().as_secs_f64() * 1e3);
        }
        none += usize::from(planned.is_err());
        moved += plan.bytes();
        asked += bytes;
        moves += plan.moves().len();
    }
    ms.sort_by(f64::total_cmp);
    let at = |part| percentile(&ms, part).unwrap_or(f64::NAN);
    let cells = [
        stats.blocks.to_string(),
        stats.holes.to_string(),
        format!("free / {part}"),
        format!("{:.3}", at(0.5)),
        format!("{:.3}", at(0.99)),
        format!("{:.3}", at(1.0)),
        format!("{:.3}", moved as f64 / asked as f64),
        number(moves as f64 / options.scaled(requests) as f64),
        none.to_string(),
    ];
    (cells, at(0.5))
}

/// A compaction, carried out in the books.
struct Compacted {
    cells: [String; 8],
    blocks: u64,
    ms: f64,
    ns_per_move: f64,
    after: f64,
    faults: Vec<String>,
}

fn plan_compact(crowd: &mut Crowd<Core>, load: f64, options: &Options) -> Compacted {
    let before = crowd.engine.allocator().stats();
    let time = |_| {
        let start = Instant::now();
        let plan = crowd.engine.allocator().plan_compact(u64::MAX);
        (start.elapsed().as_secs_f64() * 1e3, plan)
    };
    let (ms, mut plans): (Vec<f64>, Vec<Plan>) = (0..4 * options.rounds()).map(time).unzip();
    let plan = plans.pop().unwrap_or_default();
    let allocator = crowd.engine.allocator_mut();
    let mut faults = Vec::new();
    let start = Instant::now();
    for step in plan.moves() {
        if let Err(why) = allocator.commit_move(step) {
            faults.push(format!("a move of a compaction was refused: {why}"));
            break;
        }
    }
    let ns_per_move = start.elapsed().as_nanos() as f64 / plan.moves().len() as f64;
    let stats = allocator.stats();
    let after = stats.largest_hole as f64 / stats.free as f64;
    let ms = Spread::of(ms).median;
    let cells = [
        Core::NAME.to_owned(),
        format!("{load:.2}"),
        before.blocks.to_string(),
        format!("{:.3}", before.largest_hole as f64 / before.free as f64),
        format!("{after:.3}"),
        format!("{ms:.3}"),
        plan.moves().len().to_string(),
        format!("{:.2}", plan.bytes() as f64 / before.live as f64),
    ];
    Compacted { cells, blocks: before.blocks, ms, ns_per_move, after, faults }
}

/// VMA's in-block defragmentation, through the virtual block.
#[cfg(feature = "vma")]
mod emulated {
    use crate::crowd::Crowd;
    use crate::engine::{Engine, Vma};
    use std::time::Instant;

    /// Compacts and fills in a line. Source: `ReallocWithinBlock` and `ComputeDefragmentation_Full` of VMA.
    pub(super) fn run(crowd: Crowd<Vma>, load: f64) -> [String; 8] {
        let capacity = crowd.capacity;
        let mut engine = crowd.engine;
        let mut blocks: Vec<_> = crowd
            .blocks
            .into_iter()
            .filter_map(|(seat, bytes)| {
                let ticket = seat.0?;
                Some((engine.range(&ticket, bytes.into()).start, u64::from(bytes), ticket))
            })
            .collect();
        let shape = |ranges: &mut dyn Iterator<Item = (u64, u64)>| {
            let mut ranges: Vec<(u64, u64)> = ranges.collect();
            ranges.sort_unstable();
            let (mut end, mut largest, mut free) = (0, 0, 0);
            for (start, bytes) in ranges.into_iter().chain([(capacity, 0)]) {
                let hole = start - end;
                (end, largest, free) = (start + bytes, hole.max(largest), free + hole);
            }
            largest as f64 / free as f64
        };
        let before = shape(&mut blocks.iter().map(|(start, bytes, _)| (*start, *bytes)));
        let live: u64 = blocks.iter().map(|(_, bytes, _)| bytes).sum();
        let (mut moves, mut moved) = (0, 0);
        let began = Instant::now();
        loop {
            blocks.sort_by_key(|(start, ..)| std::cmp::Reverse(*start));
            let moves_before = moves;
            for (start, bytes, ticket) in &mut blocks {
                let Some((better, lower)) = engine.alloc_lowest(*bytes) else { continue };
                if lower < *start {
                    engine.free(std::mem::replace(ticket, better));
                    (*start, moves, moved) = (lower, moves + 1, moved + *bytes);
                } else {
                    engine.free(better);
                }
            }
            if moves == moves_before {
                break;
            }
        }
        let ms = began.elapsed().as_secs_f64() * 1e3;
        let after = shape(&mut blocks.iter().map(|(start, bytes, _)| (*start, *bytes)));
        [
            "VMA's policy".to_owned(),
            format!("{load:.2}"),
            blocks.len().to_string(),
            format!("{before:.3}"),
            format!("{after:.3}"),
            format!("{ms:.3}"),
            moves.to_string(),
            format!("{:.2}", moved as f64 / live as f64),
        ]
    }
}

const LENGTHS: Lengths = Lengths { low: 256, high: 64 << 10, unit: 16 };
/// Mean of those lengths in bytes: (high - low) / ln(high / low).
const MEAN: f64 = 11_772.0;
