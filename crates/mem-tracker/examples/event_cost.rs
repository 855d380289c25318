//! What an event costs: nanoseconds for each allocation or release, with more and more modules, flat and eight deep.
//!
//! `cargo run --release -p mem-tracker --example event_cost [-- --quick]`

#[path = "../tests/naive/mod.rs"]
#[allow(dead_code)]
mod naive;

use std::hint::black_box;
use std::time::Instant;

use allocator_core::{Arena, Block, DeviceBuffer, Observer, OffsetAllocator, RangeError, Request};
use mem_tracker::{Category, ModState, Module, Peaks, Tracker};
use naive::Naive;

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

fn main() -> Result<()> {
    let quick = std::env::args().any(|arg| arg == "--quick");
    let runs = if quick { 3 } else { RUNS };
    let best = |run: &dyn Fn(usize) -> Result<f64>| best(runs, || run(EVENTS));
    println!(
        "ns per event (an allocation or a release); each figure is the least of {runs} runs of {EVENTS} events"
    );
    println!();
    println!(
        "| modules | scopes open | tracker | with scopes opening every {PER_SCOPE} events | walk over a map of strings | walk / tracker |"
    );
    println!("|---|---|---|---|---|---|");
    for deep in [1, 8] {
        for modules in [0, 10, 100, 500] {
            if modules == 0 && deep > 1 {
                continue;
            }
            let ours = best(&|events| events_alone(modules, deep, events))?;
            let scopes = best(&|events| events_and_scopes(modules, deep, events))?;
            let walk = best(&|events| walk(modules, deep, events / 100))?;
            let open = if modules == 0 { 0 } else { deep };
            println!("| {modules} | {open} | {ours:.1} | {scopes:.1} | {walk:.0} | {:.0} |", walk / ours);
        }
    }
    println!();
    let (bare, heard) = (best(&|events| arena(false, events))?, best(&|events| arena(true, events))?);
    println!(
        "arena, half of allocate + release: {bare:.1} ns without an observer, {heard:.1} ns with the tracker's"
    );
    println!("a scope, opened and closed: {:.0} ns", best(&|events| scope(events / 20))?);
    Ok(())
}

/// The least of some short runs: what disturbs a machine only adds, and not to every one.
fn best(runs: usize, mut run: impl FnMut() -> Result<f64>) -> Result<f64> {
    (0..runs).try_fold(f64::MAX, |least, _| Ok(least.min(run()?)))
}

/// Blocks of an arena, as its observer hears of them.
fn blocks() -> Result<Vec<Block>> {
    let mut offsets = OffsetAllocator::new(1 << 40)?;
    let handle = |at| offsets.allocate(Request::new(4096 + 512 * at));
    let handles = (0..LIVE).map(handle).collect::<std::result::Result<Vec<_>, _>>()?;
    Ok(handles.into_iter().map(|handle| offsets.block(handle)).collect::<std::result::Result<_, _>>()?)
}

/// Half of the events raise the peak of all that is open, on and on, and half are releases.
fn hear(observer: &mut impl Observer, blocks: &[Block], events: usize) {
    for _ in 0..events / (2 * blocks.len()) {
        blocks.iter().for_each(|block| observer.on_alloc(black_box(block)));
        blocks.iter().for_each(|block| observer.on_free(black_box(block)));
    }
}

fn net(tracker: &Tracker, modules: usize) -> Result<Vec<Module>> {
    let net: std::result::Result<Vec<_>, _> =
        (0..modules).map(|at| tracker.module(&format!("Net.h.{at}"))).collect();
    let net = net?;
    net.iter().for_each(|module| drop(module.forward()));
    Ok(net)
}

fn events_alone(modules: usize, deep: usize, events: usize) -> Result<f64> {
    let tracker = Tracker::new();
    let mut observer = tracker.device("cuda:0")?.watch(1 << 40)?.observer();
    let blocks = blocks()?;
    let net = net(&tracker, modules)?;
    let _open: Vec<_> = net.iter().take(deep).map(Module::forward).collect();
    hear(&mut observer, &blocks, events / 10);
    let begin = Instant::now();
    hear(&mut observer, &blocks, events);
    Ok(per(begin, events))
}

fn events_and_scopes(modules: usize, deep: usize, events: usize) -> Result<f64> {
    let tracker = Tracker::new();
    let mut observer = tracker.device("cuda:0")?.watch(1 << 40)?.observer();
    let blocks = blocks()?;
    let net = net(&tracker, modules)?;
    let mut heard = 0;
    let begin = Instant::now();
    while heard < events {
        for group in net.chunks(deep).chain(net.is_empty().then_some(&[][..])) {
            let open: Vec<_> = group.iter().map(Module::forward).collect();
            hear(&mut observer, &blocks, PER_SCOPE * open.len().max(1));
            heard += PER_SCOPE * open.len().max(1);
        }
        tracker.reset_mod_stats();
    }
    Ok(per(begin, heard))
}

/// The original's algorithm, in Rust.
fn walk(modules: usize, deep: usize, events: usize) -> Result<f64> {
    let mut naive = Naive::new(Peaks::EveryEvent);
    let names: Vec<String> = (0..modules).map(|at| format!("Net.h.{at}")).collect();
    for (at, name) in names.iter().enumerate() {
        naive.open(at as u64, name, ModState::PreForward);
        naive.close(at as u64, Some(ModState::PostForward));
    }
    for (at, name) in names.iter().take(deep).enumerate() {
        naive.open((modules + at) as u64, name, ModState::PreForward);
    }
    let begin = Instant::now();
    for _ in 0..events / (2 * LIVE as usize) {
        (0..LIVE).for_each(|at| naive.add(at, "cuda:0", Category::Activation, 4096 + 512 * at));
        (0..LIVE).for_each(|at| naive.remove(at));
    }
    Ok(per(begin, events / (2 * LIVE as usize) * 2 * LIVE as usize))
}

fn arena(heard: bool, events: usize) -> Result<f64> {
    let mut arena = Arena::new(Nowhere)?;
    if heard {
        let watch = Tracker::new().device("cuda:0")?.watch(1 << 40)?;
        arena.set_observer(Box::new(watch.observer()));
    }
    let mut blocks = Vec::with_capacity(LIVE as usize);
    let rounds = events / (2 * LIVE as usize);
    let begin = Instant::now();
    for _ in 0..rounds {
        for at in 0..LIVE {
            blocks.push(arena.allocate(Request::new(4096 + 512 * at))?);
        }
        for block in blocks.drain(..) {
            arena.release(block)?;
        }
    }
    Ok(per(begin, rounds * 2 * LIVE as usize))
}

fn scope(times: usize) -> Result<f64> {
    let tracker = Tracker::new();
    let _held = tracker.device("cuda:0")?.hold(1000)?;
    let module = tracker.module("Net")?;
    let begin = Instant::now();
    for time in 0..times {
        drop(black_box(module.forward()));
        if time % 1000 == 0 {
            tracker.reset_mod_stats();
        }
    }
    Ok(per(begin, times))
}

fn per(begin: Instant, events: usize) -> f64 {
    begin.elapsed().as_secs_f64() * 1e9 / events.max(1) as f64
}

/// A buffer of a size and nothing else.
struct Nowhere;

impl DeviceBuffer for Nowhere {
    type View<'a> = ();
    type Error = RangeError;

    fn size(&self) -> u64 {
        1 << 40
    }

    fn copy_within(&mut self, _: std::ops::Range<u64>, _: u64) -> std::result::Result<(), RangeError> {
        Ok(())
    }

    fn view(&self, _: std::ops::Range<u64>) -> std::result::Result<(), RangeError> {
        Ok(())
    }
}

const RUNS: usize = 100;
/// Events of a run: about a millisecond.
const EVENTS: usize = 20_000;
/// Blocks live at once.
const LIVE: u64 = 16;
/// Events in each scope, in the column with scopes: 16 allocations and 16 releases.
const PER_SCOPE: usize = 32;
