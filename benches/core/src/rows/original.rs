//! Row 7: what DeepSpeed's `ContiguousMemoryAllocator` is used for, on host memory.

use super::Options;
use crate::host::{HostBuffer, HostMemory};
use crate::measure::Spread;
use crate::report::{Bar, Findings, Table, number};
use crate::rng::{Rng, log_uniform};
use allocator_core::{Arena, Handle, Request};
use backend_cpu::PageBuffer;
use std::time::Instant;

/// Churn in an arena, and whole compactions against one plain memmove of as many bytes.
pub(crate) fn run(options: &Options) -> Findings {
    let mut findings = Findings::default();
    match churn(options, HostBuffer::new(1 << 30)) {
        Ok((spread, used)) => {
            let note = format!(
                "Arena over 1 GiB of host memory, 10,000 blocks of 1 to 128 KiB, {:.0} % in use, {} rounds; ns per \
                 operation. DeepSpeed's, in Python: 128,000",
                used * 100.0,
                options.rounds()
            );
            let mut table = Table::new("the original: churn", note, &["engine", "ns/op", "min..max"]);
            let range = format!("{}..{}", number(spread.min), number(spread.max));
            table.row(["allocator-core Arena".to_owned(), number(spread.median), range]);
            findings.tables.push(table);
            let what = "Arena churn at 10k blocks";
            findings.bars.push(Bar::at_most(what, spread.median, 128.0, " ns/op"));
        }
        Err(why) => {
            findings.faults.push(why);
            return findings;
        }
    }
    let head = [
        "kept",
        "buffer",
        "copies by",
        "moved",
        "ms",
        "of it planning",
        "GB/s",
        "memmove GB/s",
        "ratio",
        "min..max",
        "bare moves, ms",
    ];
    let note = "A buffer full of equal blocks of which a random third is kept, all of it moved down by \
                `Arena::compact`; the yardstick is one memmove of as many bytes in the same buffer right after; *bare \
                moves* are the same copies by memmove once more without an allocator; median of rounds. Every block's bytes \
                are checked. *memmove*: the buffer copies with the C library, which writes past the caches only when a copy is \
                very long; *backend-cpu*: its `PageBuffer::fixed`, which does so in every buffer that no cache holds. DeepSpeed's, \
                in Python: 0.42 GB/s with 5,000 blocks in 1 GiB, 0.027 in 64 MiB";
    let mut table = Table::new("the original: compaction", note, &head);
    let sizes = [(30, 43), (30, 509), (30, 5_000), (26, 43), (26, 509), (26, 5_000)];
    for (size, kept) in sizes {
        let rows = compactions::<HostBuffer>(options, size, kept)
            .and_then(|memmove| Ok([memmove, compactions::<PageBuffer>(options, size, kept)?]));
        let rows = match rows {
            Ok(rows) => rows,
            Err(why) => {
                findings.faults.push(why);
                return findings;
            }
        };
        for (cells, ratio) in &rows {
            table.row(cells.clone());
            if size == 30 && kept == 5_000 {
                let what = format!(
                    "compaction of 5,000 blocks in 1 GiB, copies by {}, of a plain memmove",
                    cells[2]
                );
                findings.bars.push(Bar::at_least(what, *ratio, 0.8, "x"));
            }
        }
    }
    findings.tables.push(table);
    findings
}

/// One row of the table, and the ratio in it.
fn compactions<B: HostMemory>(
    options: &Options,
    size: u32,
    kept: usize,
) -> Result<([String; 11], f64), String> {
    let mut buffer = B::make(1 << size)?;
    let mut runs = Vec::new();
    for round in 0..options.rounds() {
        let (run, back) = compact(buffer, kept, round as u64)?;
        runs.push(run);
        buffer = back;
    }
    let spread = |of: fn(&Compacted) -> f64| Spread::of(runs.iter().map(of));
    let ratio = spread(|run| run.plain / run.seconds);
    let cells = [
        kept.to_string(),
        if size == 30 { "1 GiB".to_owned() } else { "64 MiB".to_owned() },
        B::NAME.to_owned(),
        format!("{:.1} MB", spread(|run| run.moved).median / 1e6),
        format!("{:.2}", spread(|run| run.seconds).median * 1e3),
        format!("{:.3}", spread(|run| run.planning).median * 1e3),
        format!("{:.2}", spread(|run| run.moved / run.seconds).median / 1e9),
        format!("{:.2}", spread(|run| run.moved / run.plain).median / 1e9),
        format!("{:.2}", ratio.median),
        format!("{:.2}..{:.2}", ratio.min, ratio.max),
        format!("{:.2}", spread(|run| run.bare).median * 1e3),
    ];
    Ok((cells, ratio.median))
}

/// Nanoseconds per operation and the part in use.
fn churn(options: &Options, buffer: HostBuffer) -> Result<(Spread, f64), String> {
    let mut rng = Rng::new(8);
    let mut length = || Request::new(log_uniform(&mut rng, 1 << 10, 128 << 10, 16));
    let requests: Vec<Request> = (0..10_000).map(|_| length()).collect();
    let again: Vec<Request> = (0..options.scaled(200_000)).map(|_| length()).collect();
    let seats: Vec<usize> = again.iter().map(|_| rng.below(requests.len())).collect();
    let mut arena = Arena::new(buffer).map_err(|why| why.to_string())?;
    let mut blocks: Vec<Handle> = requests
        .iter()
        .map(|request| arena.allocate(*request))
        .collect::<Result<_, _>>()
        .map_err(|why| why.to_string())?;
    let mut rounds = Vec::new();
    for _ in 0..options.rounds() {
        let start = Instant::now();
        for (request, seat) in again.iter().zip(&seats) {
            arena.release(blocks[*seat]).map_err(|why| why.to_string())?;
            blocks[*seat] = arena.allocate(*request).map_err(|why| why.to_string())?;
        }
        rounds.push(start.elapsed().as_nanos() as f64 / (2 * again.len()) as f64);
    }
    let stats = arena.stats();
    Ok((Spread::of(rounds), stats.live as f64 / stats.size as f64))
}

/// One compaction; seconds and bytes.
struct Compacted {
    seconds: f64,
    planning: f64,
    plain: f64,
    bare: f64,
    moved: f64,
}

fn compact<B: HostMemory>(buffer: B, kept: usize, seed: u64) -> Result<(Compacted, B), String> {
    let mut rng = Rng::new(9 + seed);
    let size = buffer.all().len() as u64;
    let bytes = size / (3 * kept as u64) / 16 * 16;
    let mut arena = Arena::new(buffer).map_err(|why| why.to_string())?;
    let mut blocks = Vec::new();
    while let Ok(handle) = arena.allocate_in_place(Request::new(bytes)) {
        blocks.push(handle);
    }
    while blocks.len() > kept {
        let gone = blocks.swap_remove(rng.below(blocks.len()));
        arena.release(gone).map_err(|why| why.to_string())?;
    }
    for (tag, handle) in blocks.iter().enumerate() {
        let range = arena.range(*handle).map_err(|why| why.to_string())?;
        let block = &mut arena.buffer_mut().all_mut()[range.start as usize..range.end as usize];
        for (at, word) in block.chunks_exact_mut(8).enumerate() {
            word.copy_from_slice(&mark(tag, at).to_ne_bytes());
        }
    }
    let start = Instant::now();
    let plan = arena.plan_compact(u64::MAX);
    let planning = start.elapsed().as_secs_f64();
    let start = Instant::now();
    let moved = arena.compact(u64::MAX).map_err(|why| why.to_string())?;
    let seconds = start.elapsed().as_secs_f64();
    for (tag, handle) in blocks.iter().enumerate() {
        let range = arena.range(*handle).map_err(|why| why.to_string())?;
        let block = &arena.buffer().all()[range.start as usize..range.end as usize];
        let mut words = block.chunks_exact(8).enumerate();
        if !words.all(|(at, word)| word == mark(tag, at).to_ne_bytes()) {
            return Err(format!("block {tag} of {kept} has other bytes after the compaction"));
        }
    }
    let mut buffer = arena.into_buffer();
    let from = (size - moved) as usize;
    let start = Instant::now();
    buffer.all_mut().copy_within(from.., 0);
    let plain = start.elapsed().as_secs_f64();
    let start = Instant::now();
    for step in plan.moves() {
        buffer.all_mut().copy_within(step.src.start as usize..step.src.end as usize, step.dst as usize);
    }
    let bare = start.elapsed().as_secs_f64();
    Ok((Compacted { seconds, planning, plain, bare, moved: moved as f64 }, buffer))
}

/// A word that says which block it is in and where.
fn mark(tag: usize, at: usize) -> u64 {
    (tag as u64) << 32 | at as u64
}
