//! How fast blocks move by exchanging pages, against memmove of the same bytes in the same run.
//!
//! `cargo run --release -p backend-cpu --example remap_rate [small-pages]`; with `small-pages` the process does without huge
//! pages (Linux). Rounds alternate between the two; the median of seven counts.
//! *with touch* adds reading a byte of every 4 KiB page of both ranges after the exchange, so that what it leaves to be
//! faulted in would show; memmove is given no such addition. The ratio is memmove over *with touch*, and the bar is for
//! blocks of 64 MiB whose pages are exchanged. Exit code 1 says that a bar was missed.

use allocator_core::{Arena, DeviceBuffer, Handle, Remap, Request, remap_or_copy};
use backend_cpu::{CpuDevice, PageBuffer};
use pinned_host::{Event, Queue, QueuedBuffer, Transfer};
use std::error::Error;
use std::hint::black_box;
use std::process::ExitCode;
use std::time::Instant;

const MIB: u64 = 1 << 20;
const PAGE: usize = 4096;
const ROUNDS: usize = 7;
const BAR: f64 = 10.0;

type Outcome<T> = Result<T, Box<dyn Error>>;

fn main() -> Outcome<ExitCode> {
    #[cfg(target_os = "linux")]
    if std::env::args().any(|argument| argument == "small-pages") {
        rustix::thread::disable_transparent_huge_pages(true)?;
        println!("without huge pages");
    }
    let mut buffer = PageBuffer::new(512 * MIB)?;
    let mut fixed = PageBuffer::fixed(512 * MIB)?;
    println!("pages are exchanged: {}", if buffer.exchanges_pages() { "yes" } else { "no, remaps copy" });
    println!(
        "{:<52} {:>9} {:>11} {:>9} {:>7}",
        "64 MiB in all, but for the arena", "remap ms", "with touch", "memmove", "ratio"
    );
    let mut met = true;
    for block in [2, 8, 64] {
        let what = format!("blocks of {block} MiB, apart");
        met &= moves(&mut buffer, &what, block * MIB, (256 * MIB, 0), (block == 64).then_some(BAR))?;
    }
    for distance in [2, 8, 32] {
        let what = format!("a block of 64 MiB, down by {distance} MiB");
        moves(&mut buffer, &what, 64 * MIB, (256 * MIB, 256 * MIB - distance * MIB), None)?;
    }
    let start = 256 * MIB + 12_288;
    moves(
        &mut buffer,
        "a block of 64 MiB, off the granule, by 128 MiB",
        64 * MIB,
        (start, start - 128 * MIB),
        None,
    )?;
    moves(&mut buffer, "a block of 64 MiB, by 127 MiB (a copy)", 64 * MIB, (256 * MIB, 129 * MIB), None)?;
    moves(&mut fixed, "pages that stay: a block of 64 MiB, apart", 64 * MIB, (256 * MIB, 0), None)?;
    moves(&mut fixed, "pages that stay: down by 2 MiB", 64 * MIB, (256 * MIB, 254 * MIB), None)?;
    drop((buffer, fixed));
    queued()?;
    met &= arena()?;
    Ok(if met { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// 64 MiB in blocks from one place to another, each round both ways.
fn moves(
    buffer: &mut PageBuffer,
    what: &str,
    block: u64,
    (from, to): (u64, u64),
    bar: Option<f64>,
) -> Outcome<bool> {
    let mut times = Times::default();
    let moves: Vec<_> =
        (0..64 * MIB / block).map(|n| (from + n * block..from + (n + 1) * block, to + n * block)).collect();
    for round in 0..ROUNDS as u64 {
        fill(&mut buffer.bytes_mut()[from as usize..][..64 * MIB as usize], round);
        times.memmove(|| moves.iter().try_for_each(|(src, dst)| buffer.copy_within(src.clone(), *dst)))?;
        check(&buffer.bytes()[to as usize..][..64 * MIB as usize], round)?;

        fill(&mut buffer.bytes_mut()[from as usize..][..64 * MIB as usize], round + 100);
        let start = Instant::now();
        for (src, dst) in &moves {
            remap_or_copy(buffer, src.clone(), *dst)?;
        }
        times.remap(start, || {
            touch(&buffer.bytes()[from as usize..][..64 * MIB as usize]);
            touch(&buffer.bytes()[to as usize..][..64 * MIB as usize]);
        });
        check(&buffer.bytes()[to as usize..][..64 * MIB as usize], round + 100)?;
    }
    Ok(times.row(what, bar))
}

/// The same through the compute queue of a device, each move waited for.
fn queued() -> Outcome<()> {
    let device = CpuDevice::new()?;
    let mut buffer = device.buffer(256 * MIB)?;
    let mut times = Times::default();
    for _ in 0..ROUNDS {
        times.memmove(|| {
            buffer.copy_within(0..64 * MIB, 128 * MIB)?;
            buffer.queue().record()?.synchronize()
        })?;
        let start = Instant::now();
        buffer.remap(0..64 * MIB, 128 * MIB)?;
        buffer.queue().record()?.synchronize()?;
        let views = [buffer.view(0..64 * MIB)?, buffer.view(128 * MIB..192 * MIB)?];
        let mut touched = Ok(());
        times.remap(start, || touched = views.iter().try_for_each(|view| view.with(touch)));
        touched?;
    }
    times.row("a device's buffer: a block of 64 MiB, apart", None);
    Ok(())
}

/// 1 GiB full of blocks of 64 MiB, of which every other one goes.
fn arena() -> Outcome<bool> {
    let mut arena = Arena::new(PageBuffer::new(1024 * MIB)?)?;
    let mut times = Times::default();
    for round in 0..ROUNDS as u64 {
        for remap in [false, true] {
            let mut blocks = Vec::new();
            for number in 0..16 {
                let block =
                    arena.allocate_in_place(Request::new(64 * MIB).align(arena.buffer().granule()))?;
                let range = arena.range(block)?;
                fill(
                    &mut arena.buffer_mut().bytes_mut()[range.start as usize..range.end as usize],
                    round + number,
                );
                blocks.push((block, round + number));
            }
            for number in (0..8).rev() {
                arena.release(blocks.remove(2 * number).0)?;
            }
            arena.set_remap(remap);
            let before = arena.remapped_bytes();
            if remap {
                let start = Instant::now();
                let moved = arena.compact(u64::MAX)?;
                times.remap(start, || touch(arena.buffer().bytes()));
                if moved != 512 * MIB || (arena.remapped_bytes() - before != moved) {
                    return Err("not all blocks were remapped".into());
                }
            } else {
                times.memmove(|| arena.compact(u64::MAX))?;
            }
            verify(&mut arena, blocks)?;
        }
    }
    Ok(times.row("compaction of 1 GiB: 8 blocks of 64 MiB, 512 MiB", Some(BAR)))
}

/// Every block has its bytes; they all go.
fn verify(arena: &mut Arena<PageBuffer>, blocks: Vec<(Handle, u64)>) -> Outcome<()> {
    for (block, seed) in blocks {
        check(arena.view(block)?, seed)?;
        arena.release(block)?;
    }
    Ok(())
}

fn fill(bytes: &mut [u8], seed: u64) {
    for (number, page) in bytes.chunks_mut(PAGE).enumerate() {
        page[..8].copy_from_slice(&(number as u64 * 1000 + seed).to_le_bytes());
    }
}

fn check(bytes: &[u8], seed: u64) -> Outcome<()> {
    let right = |(number, page): (usize, &[u8])| page[..8] == (number as u64 * 1000 + seed).to_le_bytes();
    if bytes.chunks(PAGE).enumerate().all(right) { Ok(()) } else { Err("bytes were lost".into()) }
}

fn touch(bytes: &[u8]) {
    black_box(bytes.iter().step_by(PAGE).map(|byte| u64::from(*byte)).sum::<u64>());
}

/// Milliseconds, one of each per round.
#[derive(Default)]
struct Times {
    remap: Vec<f64>,
    touched: Vec<f64>,
    memmove: Vec<f64>,
}

impl Times {
    fn memmove<T, E>(&mut self, run: impl FnOnce() -> Result<T, E>) -> Result<(), E> {
        let start = Instant::now();
        run()?;
        self.memmove.push(milliseconds(start));
        Ok(())
    }

    fn remap(&mut self, start: Instant, touch: impl FnOnce()) {
        self.remap.push(milliseconds(start));
        touch();
        self.touched.push(milliseconds(start));
    }

    /// Prints the medians; whether the bar, if there is one, was met.
    fn row(self, what: &str, bar: Option<f64>) -> bool {
        let [remap, touched, memmove] = [self.remap, self.touched, self.memmove].map(median);
        let ratio = memmove / touched;
        let met = bar.is_none_or(|bar| ratio >= bar);
        let verdict =
            bar.map(|bar| format!("bar {bar}: {}", if met { "ok" } else { "BELOW" })).unwrap_or_default();
        println!("{what:<52} {remap:>9.3} {touched:>11.3} {memmove:>9.3} {ratio:>7.2}  {verdict}");
        met
    }
}

fn milliseconds(start: Instant) -> f64 {
    start.elapsed().as_secs_f64() * 1e3
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}
