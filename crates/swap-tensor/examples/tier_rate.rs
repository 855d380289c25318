//! How fast a pool moves tensors between its tiers on the CPU device: host memory against plain `memcpy` of the same blocks, a
//! disk against `fio` on the same directory, in the same run.
//!
//! `cargo run --release -p swap-tensor --features disk --example tier_rate -- [DIR] [--mib N] [--rounds N]`
//!
//! A round leases every tensor of a set far larger than the device once. Up: for reading, the next ones fetched ahead. Down: for
//! writing anew, so that each must be written out before its room is used again. Rounds of the pool and of the witness alternate
//! and the medians count. With a directory also between device and disk, without host memory between them; fio is given the
//! pool's own pieces and as many of them in flight (`apt-get install fio`). Staging is looked at after each step: never above its
//! bound, or the program fails.

use backend_cpu::CpuDevice;
use pinned_host::Queue;
use std::{
    error::Error,
    path::{Path, PathBuf},
    process::Command,
    time::Instant,
};
use swap_tensor::{
    DType, SwapPool, Tensor, TensorSpec,
    disk::{DiskConfig, DiskStore},
};

type Outcome<T> = Result<T, Box<dyn Error>>;

/// Staging of the pools, both ways together.
const STAGING: u64 = 64 << 20;
/// Tensors on the device at once.
const RESIDENT: u64 = 4;

fn main() -> Outcome<()> {
    let mut plan = Plan { directory: None, bytes: 1 << 30, rounds: 5 };
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        let mut number = || -> Outcome<u64> {
            Ok(arguments.next().ok_or_else(|| format!("{argument} needs a number"))?.parse()?)
        };
        match argument.as_str() {
            "--mib" => plan.bytes = number()? << 20,
            "--rounds" => plan.rounds = number()? as usize,
            directory if !directory.starts_with('-') => plan.directory = Some(directory.into()),
            other => return Err(format!("unknown: {other}").into()),
        }
    }
    println!(
        "{:>9} {:>7} {:>10} {:>12} {:>14} {:>7}",
        "tier", "block", "direction", "pool, GB/s", "witness, GB/s", "ratio"
    );
    for block in [2 << 20, 32 << 20] {
        host(&plan, block)?;
    }
    match plan.directory.clone() {
        Some(directory) => disk(&plan, &directory, 32 << 20)?,
        None => println!("no directory given: no disk is measured"),
    }
    Ok(())
}

/// What is measured. Sizes are bytes.
struct Plan {
    directory: Option<PathBuf>,
    bytes: u64,
    rounds: usize,
}

/// Device and host memory, against memcpy.
fn host(plan: &Plan, block: u64) -> Outcome<()> {
    let count = plan.bytes / 2 / block;
    let pool = SwapPool::builder(CpuDevice::new()?)
        .device_memory(RESIDENT * block)
        .host_memory((count + RESIDENT) * block)
        .staging(STAGING)
        .build()?;
    let tensors = tensors(&pool, count, block)?;
    let (from, mut to) = (touched(plan.bytes / 2)?, touched(plan.bytes / 2)?);
    let [mut up, mut down, mut plain]: [Vec<f64>; 3] = Default::default();
    for round in 0..=plan.rounds {
        let memcpy = timed(count * block, || {
            for (from, to) in from.chunks(block as usize).zip(to.chunks_mut(block as usize)) {
                to.copy_from_slice(from);
            }
            Ok(())
        })?;
        let rates = (
            timed(count * block, || read(&pool, &tensors))?,
            timed(count * block, || write(&pool, &tensors))?,
        );
        // The first touches everything.
        if round > 0 {
            plain.push(memcpy);
            up.push(rates.0);
            down.push(rates.1);
        }
    }
    let plain = median(plain);
    row("host", block, "up", median(up), Some(plain));
    row("host", block, "down", median(down), Some(plain));
    Ok(())
}

/// Device and disk, against fio.
fn disk(plan: &Plan, directory: &Path, block: u64) -> Outcome<()> {
    let (chunk, depth) = (1 << 20, 16);
    let count = plan.bytes / block;
    let config = DiskConfig::new(directory, plan.bytes + 2 * RESIDENT * block).chunk(chunk).depth(depth);
    let store = config.open()?;
    println!("{}", store.path());
    let pool = SwapPool::builder(CpuDevice::new()?)
        .device_memory(RESIDENT * block)
        .staging(STAGING)
        .disk(store.clone())
        .build()?;
    let tensors = tensors(&pool, count, block)?;
    let fio = Fio::find(directory, plan.bytes, chunk, depth)?;
    if fio.is_none() {
        println!("fio is missing (`apt-get install fio`): nothing to compare with");
    }
    let [mut ours, mut theirs]: [[Vec<f64>; 2]; 2] = Default::default();
    for round in 0..=plan.rounds {
        for (at, down) in [(0, true), (1, false)] {
            let walk: fn(&SwapPool<CpuDevice>, &[Tensor<CpuDevice>]) -> Outcome<()> =
                if down { write } else { read };
            let mine = timed(count * block, || walk(&pool, &tensors))?;
            let other = fio.as_ref().map(|fio| fio.walk(down)).transpose()?;
            if round > 0 {
                ours[at].push(mine);
                theirs[at].extend(other);
            }
        }
    }
    let [down, up] = ours.map(median);
    let theirs = theirs.map(|rates| (!rates.is_empty()).then(|| median(rates)));
    row("disk", block, "up", up, theirs[1]);
    row("disk", block, "down", down, theirs[0]);
    println!("{:?}", DiskStore::stats(&store));
    Ok(())
}

fn row(tier: &str, block: u64, direction: &str, rate: f64, witness: Option<f64>) {
    let block = format!("{}M", block >> 20);
    match witness {
        Some(plain) => {
            println!("{tier:>9} {block:>7} {direction:>10} {rate:>12.3} {plain:>14.3} {:>7.3}", rate / plain);
        }
        None => println!("{tier:>9} {block:>7} {direction:>10} {rate:>12.3} {:>14} {:>7}", "-", "-"),
    }
}

fn tensors(pool: &SwapPool<CpuDevice>, count: u64, block: u64) -> Outcome<Vec<Tensor<CpuDevice>>> {
    let contents = vec![7; block as usize];
    let one = |i| Ok(pool.create(TensorSpec::new(format!("t{i}"), DType::U8, [block])?, &contents)?);
    (0..count).map(one).collect()
}

/// Leases each for reading, the next ones on their way.
fn read(pool: &SwapPool<CpuDevice>, tensors: &[Tensor<CpuDevice>]) -> Outcome<()> {
    for (at, tensor) in tensors.iter().enumerate() {
        let ahead: Vec<_> = tensors.iter().skip(at + 1).take(RESIDENT as usize - 2).collect();
        pool.prefetch(&ahead);
        tensor.read()?.wait()?;
        bounded(pool)?;
    }
    Ok(pool.settle()?)
}

/// Leases each for writing all of it, so that another must be written out.
fn write(pool: &SwapPool<CpuDevice>, tensors: &[Tensor<CpuDevice>]) -> Outcome<()> {
    for tensor in tensors {
        let lease = tensor.overwrite()?;
        let event = lease.queue().record()?;
        lease.finish(event)?; // as a kernel would that writes everything
        bounded(pool)?;
    }
    Ok(pool.settle()?)
}

fn bounded(pool: &SwapPool<CpuDevice>) -> Outcome<()> {
    let staging = pool.staging();
    for side in [staging.read, staging.write] {
        if side.in_use > side.capacity || side.capacity > STAGING / 2 + (64 << 10) {
            return Err(format!("staging is above its bound: {side:?}").into());
        }
    }
    Ok(())
}

fn timed(bytes: u64, work: impl FnOnce() -> Outcome<()>) -> Outcome<f64> {
    let started = Instant::now();
    work()?;
    Ok(bytes as f64 / started.elapsed().as_secs_f64() / 1e9)
}

fn median(mut rates: Vec<f64>) -> f64 {
    rates.sort_by(f64::total_cmp);
    rates[rates.len() / 2]
}

fn touched(bytes: u64) -> Outcome<Vec<u8>> {
    Ok(vec![1; usize::try_from(bytes)?])
}

/// fio over a file of its own in the same directory.
struct Fio {
    file: PathBuf,
    bytes: u64,
    chunk: u64,
    depth: usize,
}

impl Fio {
    fn find(directory: &Path, bytes: u64, chunk: u64, depth: usize) -> Outcome<Option<Self>> {
        if Command::new("fio").arg("--version").output().is_err() {
            return Ok(None);
        }
        let file = directory.join(format!("tier_rate.{}.fio", std::process::id()));
        Ok(Some(Fio { file, bytes, chunk, depth }))
    }

    fn walk(&self, write: bool) -> Outcome<f64> {
        let ran = Command::new("fio")
            .args(["--name=walk", "--direct=1", "--ioengine=io_uring", "--output-format=json"])
            .arg(format!("--filename={}", self.file.display()))
            .arg(format!("--rw={}", if write { "write" } else { "read" }))
            .arg(format!("--bs={}", self.chunk))
            .arg(format!("--iodepth={}", self.depth))
            .arg(format!("--size={}", self.bytes))
            .output()?;
        if !ran.status.success() {
            return Err(format!("fio: {}", String::from_utf8_lossy(&ran.stderr)).into());
        }
        let report: serde_json::Value = serde_json::from_slice(&ran.stdout)?;
        let rate = &report["jobs"][0][if write { "write" } else { "read" }]["bw_bytes"];
        Ok(rate.as_f64().ok_or("fio said no rate")? / 1e9)
    }
}

impl Drop for Fio {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.file);
    }
}
