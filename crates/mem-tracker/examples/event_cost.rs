//! What an event costs: nanoseconds for each allocation or release, with more and more modules, flat and eight deep; with many
//! blocks live at once; on two threads.
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

/// How many modules there are, and how many of them have scopes open at once.
const CASES: [(usize, usize); 7] = [(0, 0), (10, 1), (100, 1), (500, 1), (10, 8), (100, 8), (500, 8)];

fn main() -> Result<()> {
    let quick = std::env::args().any(|arg| arg == "--quick");
    let runs = if quick { 3 } else { RUNS };
    // The least of some short runs, all in turn: what disturbs a machine only adds, and neither to every run nor to one alone.
    let (mut cases, mut rest) = ([[f64::MAX; 3]; CASES.len()], [f64::MAX; 4]);
    for _ in 0..runs {
        for ((modules, deep), least) in CASES.iter().zip(&mut cases) {
            lower(&mut least[0], events_alone(*modules, *deep, EVENTS)?);
            lower(&mut least[1], events_and_scopes(*modules, *deep, EVENTS)?);
            lower(&mut least[2], walk(*modules, *deep, EVENTS / 100)?);
        }
        lower(&mut rest[0], arena(false, EVENTS)?);
        lower(&mut rest[1], arena(true, EVENTS)?);
        lower(&mut rest[2], scope(EVENTS / 20)?);
        lower(&mut rest[3], owned(EVENTS / 3)?);
    }
    println!(
        "ns per event (an allocation or a release); each figure is the least of {runs} runs of {EVENTS} events"
    );
    println!();
    println!(
        "| modules | scopes open | tracker | with scopes opening every {PER_SCOPE} events | walk over a map of strings | walk / tracker |"
    );
    println!("|---|---|---|---|---|---|");
    for ((modules, deep), [ours, scopes, walk]) in CASES.iter().zip(&cases) {
        println!("| {modules} | {deep} | {ours:.1} | {scopes:.1} | {walk:.0} | {:.0} |", walk / ours);
    }
    println!();
    for (what, column) in [("alone", 0), ("with scopes", 1)] {
        let figures = || cases[1..].iter().map(|least| least[column]);
        let (least, most) = (figures().fold(f64::MAX, f64::min), figures().fold(0.0, f64::max));
        println!(
            "events {what}: the dearest of these with modules costs {:.2} of the cheapest",
            most / least
        );
    }
    let [bare, heard, scope, owned] = rest;
    println!(
        "arena, half of allocate + release: {bare:.1} ns without an observer, {heard:.1} ns with the tracker's"
    );
    println!("a scope, opened and closed: {scope:.0} ns");
    println!("a block that comes, is given an owner and goes, as a pool's do: {owned:.0} ns");
    println!();
    for live in [LIVE as usize, 10_000, 200_000] {
        let least = least_of(if quick { 3 } else { 20 }, || scattered(live))?;
        println!("{live} blocks live, released in random order: {least:.1} ns per event");
    }
    for threads in [1, 2] {
        let least = least_of(if quick { 3 } else { 20 }, || side_by_side(threads, 10 * EVENTS))?;
        println!("{threads} threads with a device each: {least:.1} ns per event of a thread");
    }
    Ok(())
}

fn least_of(runs: usize, mut run: impl FnMut() -> Result<f64>) -> Result<f64> {
    (0..runs).try_fold(f64::MAX, |least, _| Ok(run()?.min(least)))
}

fn lower(least: &mut f64, figure: f64) {
    *least = least.min(figure);
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
        for group in net.chunks(deep.max(1)).chain(net.is_empty().then_some(&[][..])) {
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

/// As many blocks as there are, then none, in an order that no cache foresees.
fn scattered(live: usize) -> Result<f64> {
    let mut observer = Tracker::new().device("cuda:0")?.watch(1 << 40)?.observer();
    let mut offsets = OffsetAllocator::new(1 << 40)?;
    let mut blocks = Vec::with_capacity(live);
    for at in 0..live as u64 {
        let handle = offsets.allocate(Request::new(4096 + 512 * (at % 64)))?;
        blocks.push(offsets.block(handle)?);
    }
    let mut shuffled = blocks.clone();
    let mut random = 1_u64;
    for at in (1..live).rev() {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        shuffled.swap(at, (random >> 33) as usize % (at + 1));
    }
    let mut round = || {
        blocks.iter().for_each(|block| observer.on_alloc(black_box(block)));
        shuffled.iter().for_each(|block| observer.on_free(black_box(block)));
    };
    round();
    let rounds = EVENTS.div_ceil(2 * live);
    let begin = Instant::now();
    (0..rounds).for_each(|_| round());
    Ok(per(begin, rounds * 2 * live))
}

/// Threads that share a tracker, each with a device of its own: the one lock is all they share.
fn side_by_side(threads: usize, events: usize) -> Result<f64> {
    let tracker = Tracker::new();
    let mut observers = Vec::new();
    for thread in 0..threads {
        observers.push(tracker.device(&format!("cuda:{thread}"))?.watch(1 << 40)?.observer());
    }
    let blocks = blocks()?;
    let begin = Instant::now();
    std::thread::scope(|scope| {
        for observer in &mut observers {
            scope.spawn(|| hear(observer, &blocks, events));
        }
    });
    Ok(per(begin, events))
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

/// What a pool tells of a copy on a device.
fn owned(copies: usize) -> Result<f64> {
    let tracker = Tracker::new();
    let watch = tracker.device("cuda:0")?.watch(1 << 40)?;
    let mut observer = watch.observer();
    let blocks = blocks()?;
    let owner = |at| tracker.owner(Category::Parameter, Some(&format!("Net.h.{}", at / 2)), Some("weight"));
    let owners = (0..blocks.len()).map(owner).collect::<std::result::Result<Vec<_>, _>>()?;
    let rounds = copies / blocks.len();
    let begin = Instant::now();
    for _ in 0..rounds {
        for (block, owner) in blocks.iter().zip(&owners) {
            observer.on_alloc(black_box(block));
            watch.assign(block.handle, owner)?;
        }
        blocks.iter().for_each(|block| observer.on_free(black_box(block)));
    }
    Ok(per(begin, rounds * blocks.len()))
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
