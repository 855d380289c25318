//! How fast a backend copies between host and device, against plain `memcpy` of the same blocks in the same run.
//!
//! `cargo run --release -p swap-tensor --example copy_rate -- [--quick] [--no-small] [BACKEND]`, with the backend's feature. Both sides
//! walk buffers larger than four times a usual last-level cache, touched beforehand. Rounds alternate and the median of five
//! counts, so that a slow minute of the machine strikes both. `deep` keeps eight transfers in flight, `alone` waits for each.
//! `--quick` walks a 64th of it: that shows that it works, and no figure means anything. `--no-small` leaves out blocks of
//! 4 KiB, which take minutes where a submission takes long.

use pinned_host::{HostPool, HostRegion, OsLocker, OsRegion, PageLocker, SliceOf, Ticket, Transfer};
use std::collections::VecDeque;
use std::error::Error;
use std::time::Instant;
use swap_tensor::backends::{self, Visitor};

const WORKING_SET: usize = 256 << 20;
const ROUNDS: usize = 5;

fn main() -> Result<(), Box<dyn Error>> {
    let (flags, names): (Vec<_>, Vec<_>) = std::env::args().skip(1).partition(|arg| arg.starts_with('-'));
    let quick = flags.iter().any(|flag| flag == "--quick");
    let backend = names.first().map_or("cpu", String::as_str);
    let least = if flags.iter().any(|flag| flag == "--no-small") { 64 << 10 } else { 4 << 10 };
    println!("backend {backend}");
    backends::open(backend, Rates { set: if quick { WORKING_SET / 64 } else { WORKING_SET }, least })?
}

/// Measures and prints.
struct Rates {
    /// Bytes that one walk copies.
    set: usize,
    /// Bytes of the smallest blocks.
    least: usize,
}

impl Visitor for Rates {
    type Output = Result<(), Box<dyn Error>>;

    fn visit<T: Transfer>(self, device: T) -> Self::Output {
        rates(&device, self.least, self.set)
    }
}

fn rates<T: Transfer>(device: &T, least: usize, set: usize) -> Result<(), Box<dyn Error>> {
    let mut buffer = device.buffer(set as u64)?;
    let (from, to) = (touched(set)?, touched(set)?);
    println!("{:>8} {:>10} {:>7} {:>12} {:>9}", "block", "direction", "depth", "GB/s", "/ memcpy");
    let blocks = [4 << 10, 64 << 10, 2 << 20, 64 << 20].into_iter();
    for block in blocks.filter(|block| (least..=set).contains(block)) {
        let region = device.locker().lock(set)?;
        region.prepare(0, set);
        let pool = HostPool::new(vec![region], 4096)?;
        let count = set / block;
        let mut slices: VecDeque<SliceOf<T>> =
            (0..count).map(|_| pool.allocate(block)).collect::<Result<_, _>>()?;
        let mut rates: [Vec<f64>; 5] = Default::default();
        for _ in 0..ROUNDS {
            rates[0].push(memcpy(&from, &to, set, block));
            for (index, (up, depth)) in [(true, 8), (true, 1), (false, 8), (false, 1)].into_iter().enumerate()
            {
                let start = Instant::now();
                walk(count, depth, &mut slices, |number, slice| {
                    let at = (number * block) as u64;
                    let sent = if up {
                        device.upload(slice, &mut buffer, at)
                    } else {
                        device.download(&buffer, at, slice)
                    };
                    sent.map_err(|refused| refused.error.into())
                })?;
                rates[index + 1].push(gigabytes_per_second(set, start));
            }
        }
        let [plain, transfers @ ..] = rates.map(median);
        for (rate, (direction, depth)) in transfers.into_iter().zip([
            ("upload", "deep"),
            ("upload", "alone"),
            ("download", "deep"),
            ("download", "alone"),
        ]) {
            println!("{:>7}K {direction:>10} {depth:>7} {rate:>12.2} {:>9.2}", block >> 10, rate / plain);
        }
        println!("{:>7}K {:>10} {:>7} {plain:>12.2} {:>9.2}", block >> 10, "memcpy", "", 1.0);
    }
    Ok(())
}

/// Runs `count` transfers, at most `depth` at once; every slice is used in turn.
fn walk<T: Transfer>(
    count: usize,
    depth: usize,
    slices: &mut VecDeque<SliceOf<T>>,
    mut start: impl FnMut(usize, SliceOf<T>) -> Result<Ticket<T>, Box<dyn Error>>,
) -> Result<(), Box<dyn Error>> {
    let mut flying: VecDeque<Ticket<T>> = VecDeque::with_capacity(depth);
    for number in 0..count {
        if flying.len() == depth.min(slices.len() + flying.len()) {
            slices.extend(flying.pop_front().map(Ticket::wait).transpose()?);
        }
        let Some(slice) = slices.pop_front() else { continue };
        flying.push_back(start(number, slice)?);
    }
    for ticket in flying {
        slices.push_back(ticket.wait()?);
    }
    Ok(())
}

/// Copies the working set block by block on this thread.
fn memcpy(from: &OsRegion, to: &OsRegion, set: usize, block: usize) -> f64 {
    let start = Instant::now();
    for at in (0..set).step_by(block) {
        // SAFETY: both regions hold the working set, blocks divide it, and no reference into either exists.
        unsafe {
            std::ptr::copy_nonoverlapping(from.base().as_ptr().add(at), to.base().as_ptr().add(at), block);
        }
    }
    gigabytes_per_second(set, start)
}

fn touched(set: usize) -> Result<OsRegion, Box<dyn Error>> {
    let region = OsLocker.pageable(set).ok_or("no pageable memory")??;
    region.prepare(0, set);
    Ok(region)
}

fn gigabytes_per_second(set: usize, start: Instant) -> f64 {
    set as f64 / start.elapsed().as_secs_f64() / 1e9
}

fn median(mut rates: Vec<f64>) -> f64 {
    rates.sort_by(f64::total_cmp);
    rates[rates.len() / 2]
}
