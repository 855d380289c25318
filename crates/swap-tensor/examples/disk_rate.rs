//! How fast a disk store reads and writes pinned memory, against `fio` on the same directory in the same run.
//!
//! `cargo run --release -p swap-tensor --features disk --example disk_rate -- DIR [--mib N] [--chunk-kib N] [--depth N]
//! [--extent-mib N] [--rounds N] [--threads]`
//!
//! Both walk as many bytes, past the page cache, in operations of one size with as many in flight. Rounds alternate, and the
//! median counts, so that a slow minute of the machine strikes both. Before the first round either has written its file once:
//! neither pays for a file system's first touch. `--threads` measures `pread` and `pwrite` instead of io_uring.
//!
//! The store's memory is in huge pages where the system gives them, fio's is not: an operation with more pages than the drive takes
//! segments (`max_segments` of its queue) is cut in two by the kernel, so that 1 MiB favours the store on a drive that takes fewer
//! than 256. `--chunk-kib 512` is the same for both.
//!
//! fio is asked for `direct=1` and `ioengine=io_uring`, and for registered buffers (`fixedbufs=1`) where the store has them;
//! without it (`apt-get install fio`) only the store is measured.

use pinned_host::{HostPool, OsLocker, OsRegion, PageLocker, PinnedSlice};
use std::{
    collections::VecDeque,
    error::Error,
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};
use swap_tensor::disk::{DiskConfig, DiskStore, Extent, IoChoice, IoTicket};

type Slice = PinnedSlice<OsRegion>;
type Outcome<T> = Result<T, Box<dyn Error>>;

fn main() -> Outcome<()> {
    let plan = Plan::from_arguments(std::env::args().skip(1))?;
    let store = plan.config().open()?;
    println!("{}", store.path());
    println!(
        "{} MiB, operations of {} KiB, {} in flight, extents of {} MiB; medians of {} rounds",
        plan.bytes >> 20,
        plan.chunk >> 10,
        plan.depth,
        plan.extent >> 20,
        plan.rounds
    );
    let mut walker = Walker::new(&plan, store)?;
    let registered = walker.store.path().drives.iter().all(|drive| drive.registered);
    let fio = Fio::find(&plan, registered)?;
    if fio.is_none() {
        println!("fio is missing (`apt-get install fio`): nothing to compare with");
    }
    let [mut ours, mut theirs]: [[Vec<f64>; 2]; 2] = Default::default();
    for write in [true, false] {
        for round in 0..=plan.rounds {
            // Each goes first every other time: what a drive still has to do strikes both.
            let first = if round % 2 == 0 { Some(walker.walk(write)?) } else { None };
            let other = fio.as_ref().map(|fio| fio.walk(write)).transpose()?;
            let mine = first.map_or_else(|| walker.walk(write), Ok)?;
            // The first fills the files.
            if round > 0 {
                ours[usize::from(write)].push(mine);
                theirs[usize::from(write)].extend(other);
            }
        }
    }
    println!("{:>6} {:>12} {:>12} {:>7}", "", "store, GB/s", "fio, GB/s", "ratio");
    for (name, at) in [("write", 1), ("read", 0)] {
        let (mine, other) = (median(&ours[at]), median(&theirs[at]));
        match (mine, other) {
            (Some(mine), Some(other)) => {
                println!("{name:>6} {mine:>12.3} {other:>12.3} {:>7.3}", mine / other);
            }
            (Some(mine), None) => println!("{name:>6} {mine:>12.3} {:>12} {:>7}", "-", "-"),
            _ => {}
        }
    }
    println!("rounds, GB/s: writes {} | {}", list(&ours[1]), list(&theirs[1]));
    println!("              reads {} | {}", list(&ours[0]), list(&theirs[0]));
    println!("{:?}", walker.store.stats());
    Ok(())
}

/// What is measured. Sizes are bytes.
#[derive(Debug, Clone)]
struct Plan {
    directory: PathBuf,
    bytes: u64,
    chunk: u64,
    depth: usize,
    extent: u64,
    rounds: usize,
    io: IoChoice,
}

impl Plan {
    fn from_arguments(mut arguments: impl Iterator<Item = String>) -> Outcome<Self> {
        let mut plan = Plan {
            directory: PathBuf::new(),
            bytes: 1 << 30,
            chunk: 1 << 20,
            depth: 16,
            extent: 32 << 20,
            rounds: 5,
            io: IoChoice::Auto,
        };
        while let Some(argument) = arguments.next() {
            let mut number = || -> Outcome<u64> {
                Ok(arguments.next().ok_or_else(|| format!("{argument} needs a number"))?.parse()?)
            };
            match argument.as_str() {
                "--mib" => plan.bytes = number()? << 20,
                "--chunk-kib" => plan.chunk = number()? << 10,
                "--depth" => plan.depth = number()? as usize,
                "--extent-mib" => plan.extent = number()? << 20,
                "--rounds" => plan.rounds = number()? as usize,
                "--threads" => plan.io = IoChoice::Threads,
                directory if !directory.starts_with('-') => plan.directory = directory.into(),
                other => return Err(format!("unknown: {other}").into()),
            }
        }
        if plan.directory.as_os_str().is_empty() {
            return Err("give the directory to measure in".into());
        }
        if plan.extent == 0 || !plan.bytes.is_multiple_of(plan.extent) || plan.bytes == 0 {
            return Err("the bytes are to be a multiple of an extent's".into());
        }
        Ok(plan)
    }

    fn config(&self) -> DiskConfig {
        let config = DiskConfig::new(&self.directory, self.bytes).chunk(self.chunk).io(self.io);
        config.depth(self.depth).threads(self.depth)
    }
}

/// Walks the extents of a store with a few requests in flight, so that its queue is never empty.
struct Walker {
    store: DiskStore,
    extents: Vec<Extent>,
    slices: VecDeque<Slice>,
    bytes: u64,
    extent: u64,
    /// Writes so far.
    stamp: u64,
}

impl Walker {
    fn new(plan: &Plan, store: DiskStore) -> Outcome<Self> {
        let page = 4096;
        let bytes = plan.extent as usize;
        let region = OsLocker.lock(bytes * AHEAD + page)?;
        let pool = HostPool::new(vec![region], page as u64)?;
        let mut slices = (0..AHEAD).map(|_| pool.allocate(bytes)).collect::<Result<VecDeque<_>, _>>()?;
        slices.iter_mut().enumerate().for_each(|(seed, slice)| fill(slice.as_mut_slice(), seed as u64));
        store.register(pool.allocate(page)?);
        Ok(Walker { store, extents: Vec::new(), slices, bytes: plan.bytes, extent: plan.extent, stamp: 0 })
    }

    /// Writes or reads everything once; GB/s.
    fn walk(&mut self, write: bool) -> Outcome<f64> {
        if write {
            // An extent is written once.
            self.extents.clear();
            let count = self.bytes / self.extent;
            self.extents = (0..count).map(|_| self.store.reserve(self.extent)).collect::<Result<_, _>>()?;
        }
        let start = Instant::now();
        let mut flying: VecDeque<IoTicket<Slice>> = VecDeque::new();
        for (number, extent) in self.extents.iter().enumerate() {
            if self.slices.is_empty() {
                let oldest = flying.pop_front().ok_or("no slice is left")?;
                self.slices.push_back(oldest.wait_for(AGES).map_err(|failed| failed.error)?);
            }
            let Some(mut slice) = self.slices.pop_front() else { continue };
            if write {
                self.stamp += 1;
                scramble(slice.as_mut_slice(), self.stamp << 32 | number as u64);
            }
            flying.push_back(match write {
                true => self.store.write(extent, slice, self.extent),
                false => self.store.read(extent, 0, slice),
            });
        }
        for ticket in flying {
            self.slices.push_back(ticket.wait_for(AGES).map_err(|failed| failed.error)?);
        }
        Ok(self.bytes as f64 / start.elapsed().as_secs_f64() / 1e9)
    }
}

/// The other program, and a file for it.
struct Fio {
    arguments: Vec<String>,
    file: PathBuf,
}

impl Fio {
    /// `None` where it is not installed.
    fn find(plan: &Plan, registered: bool) -> Outcome<Option<Self>> {
        if Command::new("fio").arg("--version").output().is_err() {
            return Ok(None);
        }
        let file = plan.directory.join(format!("fio-{}", std::process::id()));
        let arguments = [
            "--name=rate".to_owned(),
            "--direct=1".to_owned(),
            "--ioengine=io_uring".to_owned(),
            "--overwrite=1".to_owned(),
            "--thread=1".to_owned(),
            format!("--fixedbufs={}", u8::from(registered)),
            "--output-format=terse".to_owned(),
            "--terse-version=3".to_owned(),
            format!("--size={}", plan.bytes),
            format!("--bs={}", plan.chunk),
            format!("--iodepth={}", plan.depth),
            format!("--filename={}", file.display()),
        ];
        Ok(Some(Fio { arguments: arguments.to_vec(), file }))
    }

    /// Writes or reads everything once; GB/s.
    fn walk(&self, write: bool) -> Outcome<f64> {
        let mode = if write { "--rw=write" } else { "--rw=read" };
        let output = Command::new("fio").args(&self.arguments).arg(mode).output()?;
        let text = String::from_utf8(output.stdout)?;
        let fields: Vec<&str> = text.trim().split(';').collect();
        // Version 3: bandwidth in KiB/s of reads is the 7th field, of writes the 48th.
        let field = fields.get(if write { 47 } else { 6 }).ok_or_else(|| format!("fio said: {text}"))?;
        Ok(field.parse::<f64>()? * 1024.0 / 1e9)
    }
}

impl Drop for Fio {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(Path::new(&self.file));
    }
}

/// Bytes as fio writes them: what lies below a drive may know better than to store zeros.
fn fill(bytes: &mut [u8], seed: u64) {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    for chunk in bytes.chunks_mut(8) {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        chunk.copy_from_slice(&state.to_le_bytes()[..chunk.len()]);
    }
}

/// Makes each block one that was never written before, as fio does.
fn scramble(bytes: &mut [u8], stamp: u64) {
    for (at, block) in bytes.chunks_exact_mut(512).enumerate() {
        block[..8].copy_from_slice(&(stamp << 24 ^ at as u64).to_le_bytes());
        block[8..16].copy_from_slice(&stamp.to_le_bytes());
    }
}

fn median(rates: &[f64]) -> Option<f64> {
    let mut rates = rates.to_vec();
    rates.sort_by(f64::total_cmp);
    rates.get(rates.len() / 2).copied()
}

fn list(rates: &[f64]) -> String {
    rates.iter().map(|rate| format!("{rate:.3}")).collect::<Vec<_>>().join(" ")
}

/// Requests in flight.
const AHEAD: usize = 4;
const AGES: Duration = Duration::from_secs(300);
