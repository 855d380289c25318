//! How fast host memory is copied, alone and through staging to the CPU device, against plain `memcpy` in the same run.
//!
//! `cargo run --release -p backend-cpu --example staged_rate -- [--quick] [--pieces] [--copies N]`. Ways take turns within a
//! round; rates are medians, and so are ratios, each of two neighbours in a round, so that a slow moment of the machine strikes both. `--pieces` tries lengths of
//! pieces; `--copies N` makes N staged copies by eight threads over one slot and says that they finished. `--quick` copies a
//! 16th: that shows that it works, and no figure means anything.

use backend_cpu::{CpuDevice, PageBuffer};
use pinned_host::{HostCopy, LockPolicy, StagedCopy, StagingConfig, Transfer};
use std::error::Error;
use std::time::Instant;

const MIB: usize = 1 << 20;
const ROUNDS: usize = 9;

fn main() -> Result<(), Box<dyn Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let has = |flag: &str| args.iter().any(|arg| arg == flag);
    if let Some(at) = args.iter().position(|arg| arg == "--copies") {
        return one_slot(args.get(at + 1).ok_or("--copies N")?.parse()?);
    }
    let shrink = if has("--quick") { 16 } else { 1 };
    if !has("--pieces") {
        host_copies(256 * MIB / shrink)?;
        threads(256 * MIB / shrink)?;
    }
    staged(64 * MIB / shrink, has("--pieces"))
}

/// Blocks of several sizes, one after the other, over two buffers that no cache holds.
fn host_copies(set: usize) -> Result<(), Box<dyn Error>> {
    let (from, mut to) = (touched(set)?, touched(set)?);
    println!("cold blocks one after the other; then each is read right after its copy. GB/s");
    println!(
        "{:>10} {:>9} {:>9} {:>7} {:>14} {:>14} {:>7}",
        "block", "memmove", "stream", "ratio", "memmove+read", "stream+read", "ratio"
    );
    for block in [4 << 10, 16 << 10, 64 << 10, 200 << 10, MIB, 4 * MIB, 64 * MIB] {
        if block > set {
            continue;
        }
        let rates = Rates::measure(
            |way: [bool; 2]| {
                let host = if way[0] { HostCopy::streaming() } else { HostCopy::caching() };
                let mut sum = 0_u64;
                for at in (0..set / block).map(|number| number * block) {
                    host.copy(&from.bytes()[at..at + block], &mut to.bytes_mut()[at..at + block]);
                    if way[1] {
                        sum += to.bytes()[at..at + block]
                            .chunks_exact(64)
                            .map(|line| u64::from(line[0]))
                            .sum::<u64>();
                    }
                }
                std::hint::black_box(sum);
                Ok(set / block * block)
            },
            &[[false, false], [true, false], [false, true], [true, true]],
        )?;
        println!(
            "{:>9}K {:>9.2} {:>9.2} {:>7.2} {:>14.2} {:>14.2} {:>7.2}",
            block >> 10,
            rates.median(0),
            rates.median(1),
            rates.ratio(1, 0),
            rates.median(2),
            rates.median(3),
            rates.ratio(3, 2)
        );
    }
    Ok(())
}

/// One long copy on one thread and on all of them.
fn threads(set: usize) -> Result<(), Box<dyn Error>> {
    let (from, mut to) = (touched(set)?, touched(set)?);
    let most = std::thread::available_parallelism()?.get();
    println!("\na copy on 1 and on {most} threads, GB/s");
    println!("{:>10} {:>9} {:>9} {:>7}", "bytes", "one", "all", "ratio");
    for bytes in [MIB, 2 * MIB, 4 * MIB, 8 * MIB, 64 * MIB, 256 * MIB] {
        if bytes > set {
            continue;
        }
        let rates = Rates::measure(
            |threads| {
                let host = HostCopy::streaming().threads(threads);
                for at in (0..set / bytes).map(|number| number * bytes) {
                    host.copy(&from.bytes()[at..at + bytes], &mut to.bytes_mut()[at..at + bytes]);
                }
                Ok(set / bytes * bytes)
            },
            &[1, most],
        )?;
        println!(
            "{:>9}K {:>9.2} {:>9.2} {:>7.2}",
            bytes >> 10,
            rates.median(0),
            rates.median(1),
            rates.ratio(1, 0)
        );
    }
    Ok(())
}

/// Pageable memory to the device and back, against one `memcpy` and one streamed copy of as many bytes.
fn staged(bytes: usize, pieces: bool) -> Result<(), Box<dyn Error>> {
    let device = CpuDevice::new()?;
    let ring = StagingConfig::default().build(device.locker())?;
    let mut buffer = device.buffer(bytes as u64)?;
    let (from, mut to) = (touched(bytes)?, touched(bytes)?);
    let lengths: &[usize] = match pieces {
        true => &[64 << 10, 128 << 10, 256 << 10, 512 << 10, MIB, 2 * MIB, 4 * MIB],
        false => &[StagedCopy::<CpuDevice>::PIECE],
    };
    println!(
        "\n{} MiB of pageable memory, staging of which {} bytes are locked, GB/s",
        bytes / MIB,
        ring.stats().locked()
    );
    println!(
        "{:>10} {:>9} {:>9} {:>9} {:>9} {:>7} {:>9} {:>7}",
        "piece", "memcpy", "stream", "one core", "up", "ratio", "down", "ratio"
    );
    for &piece in lengths {
        let rates = Rates::measure(
            |way| {
                let staged = StagedCopy::new(&device, &ring).piece(piece);
                match way {
                    Way::Memcpy => to.bytes_mut().copy_from_slice(from.bytes()),
                    Way::Stream => {
                        HostCopy::streaming().copy(from.bytes(), to.bytes_mut());
                    }
                    Way::OneCore => two_steps(&from, &mut to, piece),
                    Way::Up => staged.upload(from.bytes(), &mut buffer, 0)?,
                    Way::Down => staged.download(&buffer, 0, to.bytes_mut())?,
                }
                Ok(bytes)
            },
            &[Way::Memcpy, Way::Up, Way::Stream, Way::Down, Way::OneCore],
        )?;
        let [plain, up, stream, down, one] = [0, 1, 2, 3, 4].map(|way| rates.median(way));
        let (up_ratio, down_ratio) = (rates.ratio(1, 0), rates.ratio(3, 0));
        println!(
            "{:>9}K {plain:>9.2} {stream:>9.2} {one:>9.2} {up:>9.2} {up_ratio:>7.2} {down:>9.2} {down_ratio:>7.2}",
            piece >> 10
        );
        // What `--quick` copies is too short to mean anything.
        if !pieces && bytes >= 64 * MIB {
            for (what, ratio) in [("up", up_ratio), ("down", down_ratio)] {
                let verdict = if ratio >= 0.9 { "ok" } else { "BELOW" };
                println!(
                    "{verdict}: staged {what} of {} MiB, of a memcpy: {ratio:.2} (bar >= 0.90)",
                    bytes / MIB
                );
            }
        }
    }
    // The bytes went up, and come down again.
    to.bytes_mut().fill(0);
    StagedCopy::new(&device, &ring).download(&buffer, 0, to.bytes_mut())?;
    let mut there = vec![0; bytes];
    device.read_now(&buffer, 0, &mut there)?;
    match there == from.bytes() && to.bytes() == from.bytes() {
        true => Ok(()),
        false => Err("a staged copy brought other bytes".into()),
    }
}

#[derive(Clone, Copy)]
enum Way {
    Memcpy,
    Stream,
    /// The two copies of a staged one, by one thread: what a machine without a free core can give.
    OneCore,
    Up,
    Down,
}

fn two_steps(from: &PageBuffer, to: &mut PageBuffer, piece: usize) {
    let mut staging = vec![0; piece];
    for (from, to) in from.bytes().chunks(piece).zip(to.bytes_mut().chunks_mut(piece)) {
        HostCopy::caching().copy(from, &mut staging);
        HostCopy::streaming().copy(&staging, to);
    }
}

/// `copies` staged copies by eight threads, all through one slot for each direction.
fn one_slot(copies: usize) -> Result<(), Box<dyn Error>> {
    const SLOT: usize = 4096;
    const THREADS: usize = 8;
    let device = CpuDevice::new()?;
    let ring = StagingConfig { read: SLOT, write: SLOT, lock: LockPolicy::Never }.build(device.locker())?;
    let buffer = device.buffer((THREADS * 3 * SLOT) as u64)?;
    let start = Instant::now();
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..THREADS)
            .map(|thread| {
                let (device, ring, mut buffer) = (&device, &ring, buffer.clone());
                scope.spawn(move || {
                    let staged = StagedCopy::new(device, ring).piece(SLOT);
                    let at = thread * 3 * SLOT;
                    let mut back = vec![0; 3 * SLOT];
                    for number in (thread..copies / 2).step_by(THREADS) {
                        let bytes = vec![(number % 251) as u8; 1 + number * 977 % (3 * SLOT)];
                        staged.upload(&bytes, &mut buffer, at as u64).map_err(|why| why.to_string())?;
                        let back = &mut back[..bytes.len()];
                        staged.download(&buffer, at as u64, back).map_err(|why| why.to_string())?;
                        if back != bytes {
                            return Err(format!("thread {thread}, copy {number}: other bytes"));
                        }
                    }
                    Ok(())
                })
            })
            .collect();
        workers
            .into_iter()
            .try_for_each(|worker| worker.join().map_err(|_| "a thread panicked".to_owned())?)
    })?;
    let stats = ring.stats();
    println!(
        "ok: {} staged copies by {THREADS} threads over one slot of {SLOT} bytes in {:.1} s; {} bytes in use after, {} at most",
        copies / 2 * 2,
        start.elapsed().as_secs_f64(),
        stats.read.in_use + stats.write.in_use,
        stats.read.peak_in_use
    );
    Ok(())
}

/// GB/s of each way in each round; the ways take turns.
struct Rates(Vec<Vec<f64>>);

impl Rates {
    /// `run` returns how many bytes it copied.
    fn measure<W: Copy>(
        mut run: impl FnMut(W) -> Result<usize, Box<dyn Error>>,
        ways: &[W],
    ) -> Result<Self, Box<dyn Error>> {
        let mut rates = vec![Vec::new(); ways.len()];
        for round in 0..=ROUNDS {
            for (way, rates) in ways.iter().zip(&mut rates) {
                let start = Instant::now();
                let bytes = run(*way)?;
                // The first round warms up.
                if round > 0 {
                    rates.push(bytes as f64 / start.elapsed().as_secs_f64() / 1e9);
                }
            }
        }
        Ok(Rates(rates))
    }

    fn median(&self, way: usize) -> f64 {
        median(self.0[way].clone())
    }

    /// Of one way to another.
    fn ratio(&self, way: usize, of: usize) -> f64 {
        median(self.0[way].iter().zip(&self.0[of]).map(|(way, of)| way / of).collect())
    }
}

fn median(mut figures: Vec<f64>) -> f64 {
    figures.sort_by(f64::total_cmp);
    figures[figures.len() / 2]
}

/// Memory of which every page was written to.
fn touched(bytes: usize) -> Result<PageBuffer, Box<dyn Error>> {
    let mut buffer = PageBuffer::fixed(bytes as u64)?;
    for (word, at) in buffer.bytes_mut().chunks_exact_mut(8).zip(0_u64..) {
        word.copy_from_slice(&(at.wrapping_mul(0x9e37_79b9_7f4a_7c15)).to_ne_bytes());
    }
    Ok(buffer)
}
