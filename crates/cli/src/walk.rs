//! The walks of a run: forward with read leases and checks, back with write leases and changes.

use crate::error::{CliError, chain, failed};
use crate::expect::Expected;
use crate::memcpy::Memcpy;
use crate::pattern::Pattern;
use crate::progress::Progress;
use pinned_host::Transfer;
use std::thread;
use std::time::{Duration, Instant};
use swap_tensor::{ReadLease, SwapError, SwapPool, Tensor, TensorSpec, Timeline, WriteLease, policy::State};

/// A tensor, with the number its patterns and checksums go by.
pub(crate) type Numbered<T> = (usize, Tensor<T>);

/// How to walk.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Steps<'a> {
    pub(crate) passes: u32,
    /// How many tensors to fetch before they are leased.
    pub(crate) ahead: usize,
    /// How long to pretend to work under each lease.
    pub(crate) compute: Duration,
    /// Where the work is recorded.
    pub(crate) timeline: Option<&'a Timeline>,
}

/// One run's walks over the tensors, and what they found.
pub(crate) struct Walk<'a, T: Transfer> {
    pool: &'a SwapPool<T>,
    tensors: &'a [Numbered<T>],
    expected: &'a Expected,
    steps: Steps<'a>,
    progress: Progress,
    memcpy: &'a mut Memcpy,
    sample_every: usize,
    scratch: Vec<u8>,
    leased: usize,
    found: Found,
}

/// What the walks found.
#[derive(Debug, Default)]
pub(crate) struct Found {
    /// Time of the walks, without checks, changes and samples.
    pub(crate) elapsed: Duration,
    /// Time spent on those.
    aside: Duration,
    pub(crate) checks: u64,
    pub(crate) mismatches: u64,
    /// Tensor and pass of the first check that did not hold.
    pub(crate) first_mismatch: Option<String>,
}

impl<'a, T: Transfer> Walk<'a, T> {
    /// Walks `passes` times forward and back, and forward once more.
    ///
    /// # Errors
    /// The pool or the device fails. Checks that do not hold are no error here: they are counted.
    pub(crate) fn run(
        pool: &'a SwapPool<T>,
        tensors: &'a [Numbered<T>],
        expected: &'a Expected,
        steps: Steps<'a>,
        memcpy: &'a mut Memcpy,
    ) -> Result<Found, CliError> {
        let walks = 2 * steps.passes as usize + 1;
        let bytes: u64 = tensors.iter().map(|(_, tensor)| tensor.spec().bytes()).sum();
        let mut walk = Walk {
            pool,
            tensors,
            expected,
            steps,
            progress: Progress::new("walking", bytes * walks as u64),
            sample_every: (tensors.len() * walks).div_ceil(Memcpy::SAMPLES).max(1),
            memcpy,
            scratch: vec![0; CHUNK],
            leased: 0,
            found: Found::default(),
        };
        let started = Instant::now();
        for pass in 0..steps.passes {
            pool.mark_step();
            walk.forward(pass)?;
            walk.backward(pass)?;
        }
        pool.mark_step();
        walk.forward(steps.passes)?;
        walk.settle()?;
        let mut found = walk.found;
        found.elapsed = started.elapsed().saturating_sub(found.aside);
        Ok(found)
    }

    /// Leases each tensor for reading and checks it.
    fn forward(&mut self, pass: u32) -> Result<(), CliError> {
        let order: Vec<usize> = (0..self.tensors.len()).collect();
        self.walk(&order, |walk, (number, tensor)| {
            let lease = tensor.read().and_then(|lease| lease.wait().map(|()| lease));
            let lease = lease.map_err(|error| walk.lease_error(tensor, &error))?;
            walk.compute(lease.spec());
            walk.aside(|walk| walk.check(*number, pass, &lease))
        })
    }

    /// Leases each tensor for writing, last to first, and changes every byte of it.
    fn backward(&mut self, pass: u32) -> Result<(), CliError> {
        let order: Vec<usize> = (0..self.tensors.len()).rev().collect();
        self.walk(&order, |walk, (number, tensor)| {
            let lease = tensor.write().and_then(|lease| lease.wait().map(|()| lease));
            let lease = lease.map_err(|error| walk.lease_error(tensor, &error))?;
            walk.compute(lease.spec());
            walk.aside(|walk| walk.change(Pattern::of_pass(pass, *number), &lease))
        })
    }

    fn walk(
        &mut self,
        order: &[usize],
        mut visit: impl FnMut(&mut Self, &Numbered<T>) -> Result<(), CliError>,
    ) -> Result<(), CliError> {
        let tensors = self.tensors;
        for (step, at) in order.iter().enumerate() {
            // At the first step the tensors ahead, then one more at each.
            let ahead = self.steps.ahead;
            let wanted = if step == 0 { 1 } else { ahead.max(1) }..ahead + 1;
            let wanted = wanted.filter_map(|ahead| order.get(step + ahead)).map(|at| &tensors[*at].1);
            if self.pool.schedule_state() != Some(State::Following) {
                self.pool.prefetch(&wanted.collect::<Vec<_>>());
            }
            visit(self, &tensors[*at])?;
            self.progress.advance(tensors[*at].1.spec().bytes());
            self.leased += 1;
            if self.leased % self.sample_every == self.sample_every / 2 {
                // Neither measures the other: the transfers' clock stands still while none is in flight.
                self.settle()?;
                self.aside(|walk| {
                    walk.memcpy.sample();
                    Ok(())
                })?;
            }
        }
        Ok(())
    }

    /// Sleeps as long as the work under a lease would take.
    fn compute(&self, on: &TensorSpec) {
        if self.steps.compute.is_zero() {
            return;
        }
        let _span = self.steps.timeline.map(|timeline| timeline.span(on.name(), "compute").bytes(on.bytes()));
        thread::sleep(self.steps.compute);
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
        self.found.checks += 1;
        if !self.expected.holds(number, pass, crc) {
            self.found.mismatches += 1;
            self.found.first_mismatch.get_or_insert_with(|| format!("`{name}` after {pass} backward walks"));
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

    fn settle(&self) -> Result<(), CliError> {
        self.pool.settle().map_err(|error| self.explained(failed("finish the transfers", &error), &error))
    }

    fn lease_error(&self, tensor: &Tensor<T>, error: &SwapError) -> CliError {
        let doing = format!("lease `{}`", tensor.spec().name());
        let refused = match error {
            SwapError::HostBudget { .. } => CliError::HostFull { doing, why: chain(error) },
            _ => failed(doing, error),
        };
        self.explained(refused, error)
    }

    /// With what the pool knows of why there was no room, if that is what it was, and if somebody asked.
    fn explained(&self, refused: CliError, error: &SwapError) -> CliError {
        match self.pool.explain(error) {
            Some(why) => CliError::OutOfMemory { error: Box::new(refused), explanation: why.to_string() },
            None => refused,
        }
    }

    fn aside(&mut self, work: impl FnOnce(&mut Self) -> Result<(), CliError>) -> Result<(), CliError> {
        let started = Instant::now();
        let done = work(self);
        self.found.aside += started.elapsed();
        done
    }
}

/// What a check reads at once: it stays in the cache until it is summed up.
const CHUNK: usize = 1 << 18;
