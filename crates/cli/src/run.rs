//! `swap-tensor run`: a model walked forward and back through an arena smaller than it, every byte checked.

use crate::args::RunArgs;
use crate::error::{CliError, chain};
use crate::expect::{Expected, Model};
use crate::memcpy::Memcpy;
use crate::pattern::Pattern;
use crate::progress::Progress;
use crate::report::Report;
use crate::size::Size;
use crate::{model, output};
use pinned_host::Transfer;
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use swap_tensor::{ReadLease, Stats, SwapError, SwapPool, Tensor, TransferTime, WriteLease, backends};

/// Runs it, and prints what came of it.
///
/// # Errors
/// Wrong arguments or files, work that failed, or a check that did not hold.
pub(crate) fn run(args: &RunArgs) -> Result<(), CliError> {
    let known = backends::list();
    if !known.iter().any(|backend| backend.name == args.backend) {
        let known = known.iter().map(|backend| backend.name).collect::<Vec<_>>().join(", ");
        return Err(CliError::UnknownBackend { name: args.backend.clone(), known });
    }
    let path = args.model.clone().map_or_else(model::cached, Ok)?;
    let model = Model::open(&path)?;
    if let Some(largest) = model.largest().filter(|largest| largest.bytes > args.device_memory.0) {
        let (tensor, needed) = (largest.name.clone(), largest.bytes);
        return Err(CliError::TooSmall {
            flag: "--device-memory",
            given: args.device_memory,
            tensor,
            needed,
        });
    }
    let expected = {
        let progress = Progress::new("reading", model.bytes());
        model.expect(&path, args.passes, |bytes| progress.advance(bytes))?
    };
    let job = Job { args, path, model, expected };
    let done = backends::with(&args.backend, job).map_err(|error| match error {
        SwapError::NoBackend { .. } => CliError::Usage(error.to_string()),
        error => CliError::Unusable { name: args.backend.clone(), why: chain(&error) },
    })??;

    if args.json {
        let json = serde_json::to_string(&done.report);
        output::line(json.map_err(|error| failed("write the report", &error))?)?;
    } else {
        output::line(&done.report)?;
    }
    match done.first_mismatch {
        None => Ok(()),
        Some(first) => {
            Err(CliError::Mismatches { mismatches: done.report.mismatches, checks: done.checks, first })
        }
    }
}

/// Everything a walk needs but the device.
struct Job<'a> {
    args: &'a RunArgs,
    path: PathBuf,
    model: Model,
    expected: Expected,
}

struct Done {
    report: Report,
    checks: u64,
    /// Tensor and pass of the first check that did not hold.
    first_mismatch: Option<String>,
}

impl backends::Visitor for Job<'_> {
    type Output = Result<Done, CliError>;

    fn visit<T: Transfer>(self, device: T) -> Self::Output {
        let host_memory = self.args.host_memory.unwrap_or_else(|| self.room_for_all());
        let pool = SwapPool::builder(device)
            .device_memory(self.args.device_memory.0)
            .host_memory(host_memory.0)
            .measure_transfers(true)
            .build()
            .map_err(|error| match error {
                SwapError::Config { .. } => CliError::Usage(chain(&error)),
                error => failed("set up the pool", &error),
            })?;
        let attached =
            pool.attach_safetensors(&self.path).map_err(|error| attach_error(&self.path, &error))?;
        let number: HashMap<&str, usize> = self
            .model
            .places
            .iter()
            .enumerate()
            .map(|(number, place)| (place.name.as_str(), number))
            .collect();
        let tensors: Vec<(usize, Tensor<T>)> = attached
            .into_iter()
            .filter_map(|tensor| number.get(tensor.spec().name()).map(|number| (*number, tensor)))
            .collect();
        if tensors.len() != self.model.places.len() {
            let why = format!("{} of {} tensors were attached", tensors.len(), self.model.places.len());
            return Err(CliError::Failed { doing: "attach the model".into(), why });
        }

        let leases = tensors.len() * (2 * self.args.passes as usize + 1);
        let walks = u64::from(2 * self.args.passes + 1);
        let mut walk = Walk {
            pool: &pool,
            tensors: &tensors,
            expected: &self.expected,
            ahead: self.args.prefetch as usize,
            progress: Progress::new("walking", self.model.bytes() * walks),
            memcpy: Memcpy::new(self.model.places.iter().map(|place| place.bytes as usize)),
            sample_every: leases.div_ceil(SAMPLES).max(1),
            scratch: vec![0; CHUNK],
            aside: Duration::ZERO,
            leased: 0,
            checks: 0,
            mismatches: 0,
            first_mismatch: None,
        };
        let started = Instant::now();
        for pass in 0..self.args.passes {
            walk.forward(pass)?;
            walk.backward(pass)?;
        }
        walk.forward(self.args.passes)?;
        pool.settle().map_err(|error| failed("finish the transfers", &error))?;
        let seconds = started.elapsed().saturating_sub(walk.aside);
        while walk.memcpy.samples() < SAMPLES {
            walk.memcpy.sample();
        }
        let transfers = pool.transfer_time().unwrap_or_default();
        let Walk { memcpy, mismatches, checks, first_mismatch, .. } = walk;
        let report = self.report(&pool.stats(), transfers, memcpy.gb_per_s(), seconds, mismatches);
        Ok(Done { report, checks, first_mismatch })
    }
}

impl Job<'_> {
    /// The model's size, each tensor rounded up to where the host tier may have to place it.
    fn room_for_all(&self) -> Size {
        let rounded = |bytes: u64| bytes.next_multiple_of(if bytes < PAGE { CACHE_LINE } else { PAGE });
        Size(self.model.places.iter().map(|place| rounded(place.bytes)).sum::<u64>().max(PAGE))
    }

    fn report(
        &self,
        stats: &Stats,
        transfers: TransferTime,
        memcpy: f64,
        seconds: Duration,
        mismatches: u64,
    ) -> Report {
        let transfer = transfers.gb_per_s();
        Report {
            model: self.path.display().to_string(),
            tensors: self.model.places.len(),
            model_bytes: self.model.bytes(),
            backend: self.args.backend.clone(),
            device_bytes: stats.arena_bytes,
            passes: self.args.passes,
            peak_device_bytes: stats.device_memory.peak,
            peak_pinned_bytes: stats.locked_bytes,
            uploaded_bytes: stats.uploaded_bytes,
            downloaded_bytes: stats.downloaded_bytes,
            moved_bytes: stats.moved_bytes,
            leases: stats.leases,
            hits: stats.hits,
            evictions: stats.evictions,
            mismatches,
            seconds: seconds.as_secs_f64(),
            stall_seconds: stats.stall.as_secs_f64(),
            transfer_gb_per_s: transfer,
            memcpy_gb_per_s: memcpy,
            transfer_to_memcpy: if memcpy > 0.0 { transfer / memcpy } else { 0.0 },
        }
    }
}

/// One run's walk over the tensors.
struct Walk<'a, T: Transfer> {
    pool: &'a SwapPool<T>,
    /// With the number its patterns and checksums go by.
    tensors: &'a [(usize, Tensor<T>)],
    expected: &'a Expected,
    /// How many tensors to fetch before they are leased.
    ahead: usize,
    progress: Progress,
    memcpy: Memcpy,
    sample_every: usize,
    scratch: Vec<u8>,
    /// Time spent on checks, patterns and samples, which no figure counts.
    aside: Duration,
    leased: usize,
    checks: u64,
    mismatches: u64,
    first_mismatch: Option<String>,
}

impl<T: Transfer> Walk<'_, T> {
    /// Leases each tensor for reading and checks it.
    fn forward(&mut self, pass: u32) -> Result<(), CliError> {
        let order: Vec<usize> = (0..self.tensors.len()).collect();
        self.walk(&order, |walk, (number, tensor)| {
            let lease = tensor.read().and_then(|lease| lease.wait().map(|()| lease));
            let lease = lease.map_err(|error| lease_error(tensor, &error))?;
            walk.aside(|walk| walk.check(*number, pass, &lease))
        })
    }

    /// Leases each tensor for writing, last to first, and changes every byte of it.
    fn backward(&mut self, pass: u32) -> Result<(), CliError> {
        let order: Vec<usize> = (0..self.tensors.len()).rev().collect();
        self.walk(&order, |walk, (number, tensor)| {
            let lease = tensor.write().and_then(|lease| lease.wait().map(|()| lease));
            let lease = lease.map_err(|error| lease_error(tensor, &error))?;
            walk.aside(|walk| walk.change(Pattern::of_pass(pass, *number), &lease))
        })
    }

    fn walk(
        &mut self,
        order: &[usize],
        mut visit: impl FnMut(&mut Self, &(usize, Tensor<T>)) -> Result<(), CliError>,
    ) -> Result<(), CliError> {
        let tensors = self.tensors;
        let wanted = |from: usize, to: usize| -> Vec<&Tensor<T>> {
            order[from.min(order.len())..to.min(order.len())].iter().map(|at| &tensors[*at].1).collect()
        };
        self.pool.prefetch(&wanted(1, self.ahead));
        for (step, at) in order.iter().enumerate() {
            if self.ahead > 0 {
                self.pool.prefetch(&wanted(step + self.ahead, step + self.ahead + 1));
            }
            visit(self, &tensors[*at])?;
            self.progress.advance(tensors[*at].1.spec().bytes());
            self.leased += 1;
            if self.leased % self.sample_every == self.sample_every / 2 {
                // Neither measures the other: the transfers stop their clock while they rest.
                self.pool.settle().map_err(|error| failed("finish the transfers", &error))?;
                self.aside(|walk| {
                    walk.memcpy.sample();
                    Ok(())
                })?;
            }
        }
        Ok(())
    }

    fn aside(&mut self, work: impl FnOnce(&mut Self) -> Result<(), CliError>) -> Result<(), CliError> {
        let started = Instant::now();
        let done = work(self);
        self.aside += started.elapsed();
        done
    }

    /// Reads the tensor back piece by piece, by the device's plain synchronous read, and compares its CRC32C.
    fn check(&mut self, number: usize, pass: u32, lease: &ReadLease<T>) -> Result<(), CliError> {
        let (range, name) = (lease.range(), lease.spec().name());
        let mut crc = 0;
        for at in range.clone().step_by(CHUNK) {
            let piece = &mut self.scratch[..CHUNK.min((range.end - at) as usize)];
            let read = self.pool.device().read_now(lease.buffer(), at, piece);
            read.map_err(|error| failed(format!("read `{name}` back"), &error))?;
            crc = crc32c::crc32c_append(crc, piece);
        }
        self.checks += 1;
        if !self.expected.holds(number, pass, crc) {
            self.mismatches += 1;
            self.first_mismatch.get_or_insert_with(|| format!("`{name}` after {pass} backward walks"));
        }
        Ok(())
    }

    /// XORs the pattern into the tensor, piece by piece, through the device's plain synchronous access.
    fn change(&mut self, pattern: Pattern, lease: &WriteLease<T>) -> Result<(), CliError> {
        let (range, device) = (lease.range(), self.pool.device());
        let mut buffer = lease.buffer().clone();
        for at in range.clone().step_by(CHUNK) {
            let piece = &mut self.scratch[..CHUNK.min((range.end - at) as usize)];
            let changed = device.read_now(&buffer, at, piece).and_then(|()| {
                pattern.xor(at - range.start, piece);
                device.write_now(&mut buffer, at, piece)
            });
            changed.map_err(|error| failed(format!("change `{}`", lease.spec().name()), &error))?;
        }
        Ok(())
    }
}

fn failed(doing: impl Into<String>, error: &dyn std::error::Error) -> CliError {
    CliError::Failed { doing: doing.into(), why: chain(error) }
}

fn lease_error<T: Transfer>(tensor: &Tensor<T>, error: &SwapError) -> CliError {
    failed(format!("lease `{}`", tensor.spec().name()), error)
}

/// A file the library cannot attach is wrong input; anything else it meets there is failed work.
fn attach_error(path: &Path, error: &SwapError) -> CliError {
    match error {
        SwapError::File { .. }
        | SwapError::Format { .. }
        | SwapError::FileChanged { .. }
        | SwapError::LargerThanArena { .. }
        | SwapError::DuplicateName { .. } => CliError::input(path, chain(error)),
        error => failed("attach the model", error),
    }
}

/// Samples of a plain copy; the report gives their median.
const SAMPLES: usize = 5;
/// What a check reads at once: it stays in the cache until it is summed up.
const CHUNK: usize = 1 << 18;
const PAGE: u64 = 4096;
const CACHE_LINE: u64 = 64;
