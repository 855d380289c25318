//! How fast this backend is on a GPU, against what the driver itself does in the same run.
//!
//! `cargo run --release -p backend-cuda --example gpu_rates -- [--quick] [--markdown] [DEVICE]`, where `DEVICE` is an ordinal,
//! a name or a UUID. Every peer is the driver's own function, called through cudarc's raw bindings by the pipeline that one
//! would write by hand. Rounds alternate between the peers and the median of seven counts. What the last timed pass wrote is
//! compared with a seeded pattern, over a destination that was spoilt before.
//!
//! `--markdown` prints the tables for a page of results, with `BENCH_DATE` and `BENCH_COMMIT` from the environment, if set.
//! `--quick` divides sizes by 64 and makes three rounds: it shows that the benchmark works, and its figures mean nothing.
//!
//! Exit code 0: measured, bars met or not. 1: a wrong byte or an error. 2: no driver or device, or wrong arguments.

mod allocations;
mod many;
mod moves;
mod pattern;
mod race;
mod raw;
mod remap;
mod table;
mod transfers;

use backend_cuda::cudarc::driver::sys;
use backend_cuda::{CudaBuffer, CudaDevice, CudaOptions, Select};
use race::Outcome;
use std::process::ExitCode;
use table::{Table, size};

fn main() -> ExitCode {
    let mut bench = match Bench::parse(std::env::args().skip(1)) {
        Ok(bench) => bench,
        Err(why) => {
            eprintln!("gpu_rates: {why}; usage: gpu_rates [--quick] [--markdown] [DEVICE]");
            return ExitCode::from(2);
        }
    };
    let device = match bench.options().open() {
        Ok(device) => device,
        Err(error) => {
            eprintln!("gpu_rates: {error}");
            return ExitCode::from(2);
        }
    };
    match bench.run(&device) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("gpu_rates: {error}");
            ExitCode::FAILURE
        }
    }
}

/// What was asked for, and the sizes that follow from it.
struct Bench {
    select: Select,
    quick: bool,
    table: Table,
}

impl Bench {
    fn parse(args: impl Iterator<Item = String>) -> Result<Bench, String> {
        let (mut select, mut quick, mut markdown) = (Select::default(), false, false);
        for arg in args {
            match arg.as_str() {
                "--quick" => quick = true,
                "--markdown" => markdown = true,
                flag if flag.starts_with('-') => return Err(format!("unknown argument `{flag}`")),
                device => select = Select::parse(device),
            }
        }
        Ok(Bench { select, quick, table: Table::new(markdown) })
    }

    /// What the library chooses by itself; where sizes are divided, its own two are too.
    fn options(&self) -> CudaOptions {
        let options = CudaOptions::new().select(self.select.clone());
        if self.quick {
            options.scratch(self.bytes(32 * MIB)).step_cost(self.bytes(2 * MIB))
        } else {
            options
        }
    }

    /// A size of the real benchmark, as it is in this run.
    fn bytes(&self, full: u64) -> u64 {
        if self.quick { full / 64 } else { full }
    }

    /// A number of the real benchmark, as it is in this run.
    fn count(&self, full: u64) -> u64 {
        if self.quick { full / 20 } else { full }
    }

    /// Bytes that one pass copies.
    fn working_set(&self) -> u64 {
        self.bytes(512 * MIB)
    }

    fn rounds(&self) -> usize {
        if self.quick { 3 } else { 7 }
    }

    fn run(&mut self, device: &CudaDevice) -> Outcome<()> {
        self.header(device)?;
        transfers::run(self, device)?;
        moves::run(self, device)?;
        many::run(self, device)?;
        allocations::run(self, device)?;
        remap::run(self, device)
    }

    fn header(&self, device: &CudaDevice) -> Outcome<()> {
        let (info, mut version) = (device.info()?, 0);
        // SAFETY: points to a value of ours.
        raw::ok("cuDriverGetVersion", unsafe { sys::cuDriverGetVersion(&raw mut version) })?;
        let simulated = raw::is_simulated();
        let (major, minor) = info.capability;
        let memory = size(info.memory);
        let mut lines = vec![
            ("backend", if simulated { "cuda-sim".to_owned() } else { "cuda".to_owned() }),
            ("device", format!("{}, compute capability {major}.{minor}, {memory}", info.name)),
            ("driver", format!("CUDA {}.{}", version / 1000, version % 1000 / 10)),
        ];
        for (key, name) in [("date", "BENCH_DATE"), ("commit", "BENCH_COMMIT")] {
            lines.extend(std::env::var(name).ok().map(|value| (key, value)));
        }
        let batches = if device.has_batches() { "yes" } else { "no" };
        lines.push(("batched copies", batches.to_owned()));
        let kernel = device.load_kernel().map_or_else(|why| format!("no: {why}"), |()| "yes".to_owned());
        lines.push(("kernel of copies", kernel));
        lines.push(("measured", format!("median of {} rounds, peers alternating", self.rounds())));
        if simulated {
            let why = "a simulated driver in host memory: nothing here says anything about a GPU";
            lines.push(("note", why.to_owned()));
        }
        if self.quick {
            lines.push(("note", "sizes were divided to be quick: the figures mean nothing".to_owned()));
        }
        self.table.header(&lines);
        Ok(())
    }
}

/// Writes the pattern called `seed` over the first `bytes` of a buffer, by way of plain writes.
fn fill(device: &CudaDevice, buffer: &mut CudaBuffer, seed: u64, bytes: u64) -> Outcome<()> {
    use pinned_host::Transfer;
    let mut chunk = vec![0; bytes.min(CHUNK) as usize];
    for at in (0..bytes).step_by(CHUNK as usize) {
        let chunk = &mut chunk[..(bytes - at).min(CHUNK) as usize];
        pattern::fill(seed, at, chunk);
        device.write_now(buffer, at, chunk)?;
    }
    Ok(())
}

/// Compares `bytes` from offset `at` of a buffer with the pattern called `seed` from its byte `from`.
fn check(
    device: &CudaDevice,
    (buffer, at, bytes): (&CudaBuffer, u64, u64),
    (seed, from): (u64, u64),
    what: &str,
) -> Outcome<()> {
    use pinned_host::Transfer;
    let mut chunk = vec![0; bytes.min(CHUNK) as usize];
    for done in (0..bytes).step_by(CHUNK as usize) {
        let chunk = &mut chunk[..(bytes - done).min(CHUNK) as usize];
        device.read_now(buffer, at + done, chunk)?;
        pattern::check(seed, from + done, chunk, what)?;
    }
    Ok(())
}

const CHUNK: u64 = 32 * MIB;
const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;
