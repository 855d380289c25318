//! What a lease costs with few tensors in the pool and with many: nanoseconds for each, on the CPU device.
//!
//! `cargo run --release -p swap-tensor --example lease_cost [-- --quick]`
//!
//! Tensors of 4 KiB, so that the copies are short and what is left is the pool's own work and the hand-over to the device's
//! threads, which a copy costs in any case (the row *copy*: an upload of one tensor and the wait for it, without a pool). The
//! device has room for 64 tensors; a miss makes one leave.
//!
//! | case | what a lease does |
//! |---|---|
//! | hit | finds its tensor on the device |
//! | clean miss | brings its tensor in; the one that leaves has a copy in host memory |
//! | dirty miss | the same for writing: the one that leaves is written back over its old host copy |
//! | full host | the same with host memory for all but 32 of the tensors: each write-back takes the memory of a copy that can be spared |
//!
//! Then tasks that wait for one another's leases, on one thread: what each of them costs when few wait, and when many do.

use backend_cpu::CpuDevice;
use futures::{StreamExt, executor::block_on, future::poll_immediate, stream::FuturesUnordered};
use pinned_host::{HostPool, PageLocker, Transfer};
use std::{
    error::Error,
    future::IntoFuture,
    time::{Duration, Instant},
};
use swap_tensor::{DType, SwapPool, Tensor, TensorSpec};

type Outcome<T> = Result<T, Box<dyn Error>>;

const BYTES: u64 = 4 << 10;
const RESIDENT: u64 = 64;

fn main() -> Outcome<()> {
    let quick = std::env::args().any(|arg| arg == "--quick");
    let (counts, leases, runs): (&[u64], u64, u32) =
        if quick { (&[100, 400], 400, 1) } else { (&[1_000, 10_000, 100_000], 20_000, 5) };
    println!("ns per lease; each figure is the least of {runs} runs of {leases} leases");
    println!("| tensors | create | hit | clean miss | dirty miss | full host |");
    println!("|---|---|---|---|---|---|");
    let mut first = None;
    for &tensors in counts {
        row(tensors, costs(tensors, leases, runs)?, &mut first);
    }
    println!("in brackets: how many times the first row's");
    println!("copy: {:.0} ns", least_of(runs, || copy(leases))?);
    println!();
    println!(
        "| tasks that wait at a time | hit on one tensor, all to write it | room for one of their tensors |"
    );
    println!("|---|---|---|");
    let mut first = None;
    for tasks in if quick { [2, 8, 32] } else { [10, 100, 1_000] } {
        let costs = [least_of(runs, || crowd(tasks, true))?, least_of(runs, || crowd(tasks, false))?];
        row(tasks, costs, &mut first);
    }
    Ok(())
}

/// A row of nanoseconds, each beside its ratio to the first row's.
fn row<const N: usize>(what: u64, costs: [f64; N], first: &mut Option<[f64; N]>) {
    let first = first.get_or_insert(costs);
    let cell = |(cost, first): (&f64, &mut f64)| format!("{cost:.0} ({:.2})", cost / *first);
    let cells: Vec<String> = costs.iter().zip(first).map(cell).collect();
    println!("| {what} | {} |", cells.join(" | "));
}

/// Nanoseconds of a lease for which as many tasks as `tasks` wait at first, and one less after each.
fn crowd(tasks: u64, same: bool) -> Outcome<f64> {
    let pool = SwapPool::builder(CpuDevice::new()?).device_memory(BYTES).host_memory(2 * tasks * BYTES);
    let pool = pool.build()?;
    let create =
        |i| Ok(pool.create(TensorSpec::new(format!("t{i}"), DType::U8, [BYTES])?, &[1; BYTES as usize])?);
    let tensors = (0..tasks).map(create).collect::<Outcome<Vec<_>>>()?;
    let first = tensors[0].write()?;
    let mut waiting: FuturesUnordered<_> = (0..tasks as usize)
        .map(|i| tensors[if same { 0 } else { i }].lease_mut().within(Duration::from_secs(600)).into_future())
        .collect();
    block_on(async {
        let turn = poll_immediate(waiting.next()).await;
        assert!(turn.is_none(), "the first lease is in the way of all");
        let since = Instant::now();
        drop(first);
        while let Some(lease) = waiting.next().await {
            drop(lease?);
        }
        Ok(since.elapsed().as_nanos() as f64 / tasks as f64)
    })
}

fn costs(count: u64, leases: u64, runs: u32) -> Outcome<[f64; 5]> {
    let since = Instant::now();
    let (_pool, tensors) = pool(count, count)?;
    let create = since.elapsed().as_nanos() as f64 / count as f64;
    let hot = &tensors[..RESIDENT as usize / 2];
    let read = |tensor: &Tensor<CpuDevice>| tensor.read().map(drop);
    let write = |tensor: &Tensor<CpuDevice>| tensor.write().map(drop);
    let hit = least_of(runs, || cycle(hot, leases, read))?;
    let clean = least_of(runs, || cycle(&tensors, leases, read))?;
    let dirty = least_of(runs, || cycle(&tensors, leases, write))?;
    drop((tensors, _pool));
    let (_pool, tensors) = pool(count, count - RESIDENT / 2)?;
    let full = least_of(runs, || cycle(&tensors, leases, write))?;
    Ok([create, hit, clean, dirty, full])
}

/// A pool, and tensors of which the last were written on the device if host memory has no room for them.
fn pool(count: u64, in_host: u64) -> Outcome<(SwapPool<CpuDevice>, Vec<Tensor<CpuDevice>>)> {
    let pool =
        SwapPool::builder(CpuDevice::new()?).device_memory(RESIDENT * BYTES).host_memory(in_host * BYTES);
    let pool = pool.build()?;
    let contents = [1; BYTES as usize];
    let create = |i| Ok(pool.create(TensorSpec::new(format!("t{i}"), DType::U8, [BYTES])?, &contents)?);
    let tensors = (0..count).map(create).collect::<Outcome<Vec<_>>>()?;
    Ok((pool, tensors))
}

/// Nanoseconds of a lease, one tensor after the other and round again; goes on where the last call ended.
fn cycle(
    tensors: &[Tensor<CpuDevice>],
    leases: u64,
    lease: impl Fn(&Tensor<CpuDevice>) -> Result<(), swap_tensor::SwapError>,
) -> Outcome<f64> {
    let since = Instant::now();
    for tensor in tensors.iter().cycle().take(leases as usize) {
        lease(tensor)?;
    }
    Ok(since.elapsed().as_nanos() as f64 / leases as f64)
}

/// Nanoseconds of a copy to the device and the wait for it.
fn copy(times: u64) -> Outcome<f64> {
    let device = CpuDevice::new()?;
    let mut buffer = device.buffer(BYTES)?;
    let pool = HostPool::new(vec![device.locker().lock(64 << 10)?], 64)?;
    let mut slice = pool.allocate(BYTES as usize)?;
    let since = Instant::now();
    for _ in 0..times {
        let ticket = device.upload(slice, &mut buffer, 0).map_err(|refused| refused.error)?;
        slice = ticket.wait()?;
    }
    Ok(since.elapsed().as_nanos() as f64 / times as f64)
}

fn least_of(runs: u32, mut run: impl FnMut() -> Outcome<f64>) -> Outcome<f64> {
    (0..runs).try_fold(f64::MAX, |least, _| Ok(run()?.min(least)))
}
