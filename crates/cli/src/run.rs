//! `swap-tensor run`: a model walked forward and back through an arena smaller than it, every byte checked.

use crate::args::RunArgs;
use crate::error::{CliError, chain, failed};
use crate::expect::{Expected, Model};
use crate::memcpy::Memcpy;
use crate::progress::Progress;
use crate::report::Report;
use crate::size::Size;
use crate::trace::Trace;
use crate::walk::{Numbered, Steps, Walk};
use crate::{disk, memory, model, output};
use mem_tracker::Tracker;
use pinned_host::{ErrorKind, PageLocker, Transfer};
use std::collections::HashMap;
use std::path::Path;
use std::time::Duration;
use swap_tensor::{SwapError, SwapPool, Timeline, backends, policy};

/// Runs it, and prints what came of it.
///
/// # Errors
/// Wrong arguments or files, work that failed, or a check that did not hold.
pub(crate) fn run(args: &RunArgs) -> Result<(), CliError> {
    if !backends::NAMES.contains(&args.backend.as_str()) {
        let known = backends::NAMES.join(", ");
        return Err(CliError::UnknownBackend { name: args.backend.clone(), known });
    }
    let trace = args.trace.as_deref().map(Trace::create).transpose()?;
    let path = args.model.clone().map_or_else(|| model::cached(args.model_size.map(|size| size.0)), Ok)?;
    let model = Model::open(&path)?;
    trace.as_ref().map_or(Ok(()), |trace| trace.spare(&path))?;
    if let Some(largest) = model.largest().filter(|largest| largest.bytes > args.device_memory.0) {
        let (tensor, needed) = (largest.name.clone(), largest.bytes);
        return Err(CliError::TooSmall { given: args.device_memory, tensor, needed });
    }
    let expected = {
        let progress = Progress::new("reading", model.bytes());
        model.expect(args.passes, |bytes| progress.advance(bytes))?
    };
    let timeline = trace.as_ref().map(Trace::timeline);
    let done = stream(&Job { args, path: &path, model: &model, expected: &expected, timeline });
    // What led to a failure is what a timeline is wanted for.
    let traced = trace.map_or(Ok(()), Trace::write);
    let done = done?;
    traced?;
    if args.json {
        let json = serde_json::to_string(&done.report);
        output::line(json.map_err(|error| failed("write the report", &error))?)?;
    } else {
        output::line(&done.report)?;
        done.memory.map_or(Ok(()), output::line)?;
    }
    match done.first_mismatch {
        None => Ok(()),
        Some(first) => {
            Err(CliError::Mismatches { mismatches: done.report.mismatches, checks: done.checks, first })
        }
    }
}

/// Walks the model on the device that was asked for.
///
/// # Errors
/// The device or the library fails, or the file changed before its last use: neither report nor verdict would mean
/// anything then.
fn stream(job: &Job<'_>) -> Result<Done, CliError> {
    let opened = backends::open_device(&job.args.backend, job.args.device.as_deref(), job);
    let done = opened.map_err(|error| {
        let (name, why) = (job.args.backend.clone(), chain(&error));
        match error {
            SwapError::NoBackend { .. } => CliError::NotCompiled { name, why },
            SwapError::Config { .. } | SwapError::Device { kind: ErrorKind::InvalidUse, .. } => {
                CliError::Usage(why)
            }
            _ => CliError::Unusable { name, why },
        }
    })?;
    match done {
        Ok(Done { first_mismatch: Some(_), .. }) if job.model.changed() => {
            Err(CliError::Changed { path: job.path.to_owned() })
        }
        done => done.map_err(|error| job.model.blame(error)),
    }
}

/// Everything a run needs but the device.
struct Job<'a> {
    args: &'a RunArgs,
    path: &'a Path,
    model: &'a Model,
    expected: &'a Expected,
    timeline: Option<&'a Timeline>,
}

struct Done {
    report: Report,
    checks: u64,
    first_mismatch: Option<String>,
    /// Who held which bytes, for people.
    memory: Option<String>,
}

impl backends::Visitor for &Job<'_> {
    type Output = Result<Done, CliError>;

    fn visit<T: Transfer>(self, device: T) -> Self::Output {
        let needed = self.room_for_all(device.locker().max_region());
        let beside_disk = self.args.disk.as_ref().map(|_| self.args.device_memory);
        let host_memory = self.args.host_memory.or(beside_disk).unwrap_or(needed);
        let tier =
            self.args.disk.as_deref().map(|directory| disk::Tier::open(directory, needed)).transpose()?;
        let tracker = self.args.memory_report.then(Tracker::new);
        let pool = self.pool(device, host_memory, tier.as_ref(), tracker.as_ref())?;
        let tensors = self.attach(&pool)?;
        let mut memcpy = Memcpy::new(self.model.places.iter().map(|place| place.bytes as usize));
        let steps = Steps {
            passes: self.args.passes,
            ahead: self.args.prefetch as usize,
            compute: self.args.compute_ms,
            timeline: self.timeline,
        };
        let found = Walk::run(&pool, &tensors, self.expected, steps, &mut memcpy)
            .map_err(|error| too_small(error, host_memory, needed))?;

        let (stats, transfers) = (pool.stats(), pool.transfer_time().unwrap_or_default());
        let (transfer, memcpy) = (transfers.gb_per_s(), memcpy.gb_per_s());
        let report = Report {
            model: self.path.display().to_string(),
            tensors: tensors.len(),
            model_bytes: self.model.bytes(),
            backend: self.args.backend.clone(),
            device_bytes: stats.arena_bytes,
            passes: self.args.passes,
            compute_ms: self.args.compute_ms.as_secs_f64() * 1e3,
            peak_device_bytes: stats.device_memory.peak,
            scratch_bytes: stats.device_memory.scratch,
            peak_pinned_bytes: stats.locked_bytes,
            pageable_bytes: stats.pageable_bytes,
            uploaded_bytes: stats.uploaded_bytes,
            downloaded_bytes: stats.downloaded_bytes,
            moved_bytes: stats.moved_bytes,
            leases: stats.leases,
            hits: stats.hits,
            evictions: stats.evictions,
            policy: self.args.policy.clone(),
            schedule: self.args.schedule,
            disk: tier.as_ref().map(disk::Tier::path),
            disk_written_bytes: stats.disk_written_bytes,
            disk_read_bytes: stats.disk_read_bytes,
            mismatches: found.mismatches,
            seconds: found.elapsed.as_secs_f64(),
            stall_seconds: stats.stall.as_secs_f64(),
            stall: share(stats.stall, found.elapsed),
            fill_ms_per_lease: per_lease(transfers.fill, stats.leases),
            write_back_ms_per_lease: per_lease(transfers.write_back, stats.leases),
            transfer_gb_per_s: transfer,
            memcpy_gb_per_s: memcpy,
            transfer_to_memcpy: if memcpy > 0.0 { transfer / memcpy } else { 0.0 },
            memory_report: tracker.as_ref().filter(|_| self.args.json).map(memory::json),
        };
        let memory = tracker.as_ref().filter(|_| !self.args.json).map(memory::text);
        Ok(Done { report, checks: found.checks, first_mismatch: found.first_mismatch, memory })
    }
}

impl Job<'_> {
    fn pool<T: Transfer>(
        &self,
        device: T,
        host_memory: Size,
        tier: Option<&disk::Tier>,
        tracker: Option<&Tracker>,
    ) -> Result<SwapPool<T>, CliError> {
        let policy =
            policy::by_name(&self.args.policy).map_err(|error| CliError::Usage(error.to_string()))?;
        let device_memory = self.args.device_memory;
        let builder = SwapPool::builder(device)
            .device_memory(device_memory.0)
            .host_memory(host_memory.0)
            .name(&*self.args.backend)
            .policy(policy)
            .schedule(self.args.schedule)
            .measure_transfers(true);
        let builder = match self.timeline {
            Some(timeline) => builder.timeline(timeline.clone()),
            None => builder,
        };
        let builder = match tracker {
            Some(tracker) => builder.tracker(tracker.clone()),
            None => builder,
        };
        let builder = match tier {
            Some(tier) => tier.add_to(builder),
            None => builder,
        };
        builder.build().map_err(|error| match error {
            SwapError::Config { .. } | SwapError::Arena(_) => CliError::Usage(chain(&error)),
            SwapError::Device { kind: ErrorKind::OutOfMemory, .. } => {
                CliError::NoMemory { option: "--device-memory", size: device_memory, why: chain(&error) }
            }
            SwapError::Host { .. } => {
                CliError::NoMemory { option: "--host-memory", size: host_memory, why: chain(&error) }
            }
            error => failed("set up the pool", &error),
        })
    }

    /// The library's tensors in its order, each with the number the witness gave it.
    fn attach<T: Transfer>(&self, pool: &SwapPool<T>) -> Result<Vec<Numbered<T>>, CliError> {
        let attached = pool.attach_safetensors(self.path).map_err(|error| match error {
            // Something else than the system's refusal to read is a file this library and the witness disagree on.
            SwapError::Format { .. } | SwapError::File { .. } | SwapError::FileChanged { .. } => {
                CliError::Usage(chain(&error))
            }
            error => failed("attach the model", &error),
        })?;
        let places = self.model.places.iter().enumerate();
        let numbers: HashMap<&str, usize> =
            places.map(|(number, place)| (place.name.as_str(), number)).collect();
        let number = |tensor: &swap_tensor::Tensor<T>| numbers.get(tensor.spec().name()).copied();
        let tensors: Vec<Numbered<T>> =
            attached.into_iter().filter_map(|tensor| Some((number(&tensor)?, tensor))).collect();
        if tensors.len() == numbers.len() {
            return Ok(tensors);
        }
        let why = format!("{} of {} tensors were attached", tensors.len(), numbers.len());
        Err(CliError::Failed { doing: "attach the model".into(), why })
    }

    /// The model's size, each tensor rounded up to where the host tier may have to place it. Where a device bounds the
    /// regions of a tier, each may have an end too short for the largest tensor.
    fn room_for_all(&self, region: usize) -> Size {
        let rounded = |bytes: u64| bytes.next_multiple_of(if bytes < PAGE { CACHE_LINE } else { PAGE });
        let sizes = || self.model.places.iter().map(|place| rounded(place.bytes));
        let (all, largest, region) = (sizes().sum::<u64>(), sizes().max().unwrap_or(0), region as u64);
        let ends = if all <= region { 0 } else { all.div_ceil(region.saturating_sub(largest).max(1)) };
        Size(all.saturating_add(ends.saturating_mul(largest)).max(PAGE))
    }
}

/// A part of a time; nothing of nothing.
fn share(part: Duration, whole: Duration) -> f64 {
    if whole.is_zero() { 0.0 } else { part.as_secs_f64() / whole.as_secs_f64() }
}

/// The mean in milliseconds; zero without leases.
fn per_lease(time: Duration, leases: u64) -> f64 {
    if leases == 0 { 0.0 } else { time.as_secs_f64() * 1e3 / leases as f64 }
}

/// What ended the walk: a host tier too small is for the user to mend.
fn too_small(error: CliError, given: Size, needed: Size) -> CliError {
    match error {
        CliError::HostFull { why, .. } if given < needed => {
            CliError::HostTooSmall { given, needed: needed.0, why }
        }
        CliError::OutOfMemory { error, explanation } => {
            let error = Box::new(too_small(*error, given, needed));
            CliError::OutOfMemory { error, explanation }
        }
        error => error,
    }
}

const PAGE: u64 = 4096;
const CACHE_LINE: u64 = 64;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::args::{Cli, Command};
    use clap::Parser;
    use safetensors::tensor::{Dtype, TensorView};
    use std::fs::{self, File};
    use std::time::SystemTime;

    fn write(path: &Path, byte: u8, modified: SystemTime) {
        let bytes = [byte; 5000];
        let tensor = TensorView::new(Dtype::U8, vec![5000], &bytes);
        fs::write(path, safetensors::serialize([("t", tensor.unwrap())], None).unwrap()).unwrap();
        File::options().write(true).open(path).unwrap().set_modified(modified).unwrap();
    }

    #[test]
    fn a_file_that_changes_between_its_two_readers_is_called_that() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("m.safetensors");
        let Command::Run(args) = Cli::try_parse_from(["swap-tensor", "run"]).unwrap().command else {
            panic!("not run")
        };
        let before = SystemTime::now() - Duration::from_secs(60);
        write(&path, 1, before);
        let model = Model::open(&path).unwrap();
        let expected = model.expect(args.passes, |_| ()).unwrap();
        let job = Job { args: &args, path: &path, model: &model, expected: &expected, timeline: None };
        assert_eq!(stream(&job).unwrap().report.mismatches, 0);
        let changed = || {
            let error = stream(&job).err().unwrap();
            assert!(matches!(error, CliError::Changed { .. }), "{error}");
            assert_eq!(error.exit_code(), 1);
        };
        write(&path, 2, SystemTime::now());
        changed();
        fs::write(&path, "cut").unwrap();
        changed();
        fs::remove_file(&path).unwrap();
        changed();
        // Wrong bytes in a file that looks the same are what the checks are for.
        write(&path, 3, before);
        assert!(stream(&job).unwrap().first_mismatch.is_some());
    }
}
