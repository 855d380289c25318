//! Moves within the device's memory, against the driver's copy of as many bytes between places that do not overlap.

use crate::race::{Outcome, Step, race};
use crate::raw::{Copy, Ends, Stream};
use crate::table::{Bar, Row, rate, size};
use crate::{Bench, KIB, MIB, check, fill};
use allocator_core::DeviceBuffer;
use backend_cuda::{CudaBuffer, CudaDevice};
use pinned_host::{Event, Queue, QueuedBuffer, Transfer};

pub(crate) fn run(bench: &Bench, device: &CudaDevice) -> Outcome<()> {
    let set = bench.working_set();
    bench.table.section("Within the device's memory");
    // A copy that costs nothing to start makes every overlapping move in steps; one that costs a terabyte, by bounces.
    let steps = bench.options().step_cost(0).open()?;
    let bounces = bench.options().step_cost(1 << 40).open()?;
    let mut sides = Sides {
        device,
        stream: Stream::new(device, 0)?,
        buffers: [device.buffer(2 * set)?, steps.buffer(2 * set)?, bounces.buffer(2 * set)?],
        set,
    };
    for block in [2 * MIB, 64 * MIB] {
        sides.disjoint(bench, bench.bytes(block))?;
    }
    for (block, distance) in [(64 * MIB, MIB), (2 * MIB, 256 * KIB), (64 * MIB, 64 * KIB)] {
        sides.overlapping(bench, bench.bytes(block), bench.bytes(distance))?;
    }
    Ok(())
}

struct Sides<'a> {
    device: &'a CudaDevice,
    stream: Stream,
    /// Of a device that chooses, one that makes steps, and one that bounces.
    buffers: [CudaBuffer; 3],
    set: u64,
}

impl Sides<'_> {
    /// Every block of the second half to its place in the first.
    fn disjoint(&mut self, bench: &Bench, block: u64) -> Outcome<()> {
        let (what, set) = (format!("move {}, disjoint", size(block)), self.set);
        let [ours, raw] = race(bench.rounds(), |peer, step| match step {
            Step::Prepare { checked: false } => Ok(()),
            Step::Prepare { .. } => fill(self.device, &mut self.buffers[0], block, 2 * set),
            Step::Pass if peer == 0 => moves(&mut self.buffers[0], set, block, set),
            Step::Pass => self.raw(set, block),
            Step::Verify => check(self.device, (&self.buffers[0], 0, set), (block, set), &what),
        })?;
        bench.table.row(&Row {
            what,
            ours: rate(set, ours),
            peer: rate(set, raw),
            peer_is: "cuMemcpyDtoDAsync",
            ratio: raw / ours,
            bar: Bar::Ratio(0.95),
        });
        Ok(())
    }

    /// Every block down by a distance shorter than itself, into what the one before it left, as a compaction does.
    fn overlapping(&mut self, bench: &Bench, block: u64, distance: u64) -> Outcome<()> {
        let (what, set) = (format!("move {} by {}", size(block), size(distance)), self.set);
        let seed = block + distance;
        let times: [f64; 4] = race(bench.rounds(), |peer, step| {
            // The driver's copy uses the first buffer too.
            let ours = peer % 3;
            match step {
                Step::Prepare { checked: false } => Ok(()),
                Step::Prepare { .. } => {
                    let used = set + if peer == 3 { set } else { distance };
                    fill(self.device, &mut self.buffers[ours], seed, used)
                }
                Step::Pass if peer == 3 => self.raw(set, block),
                Step::Pass => moves(&mut self.buffers[ours], set, block, distance),
                Step::Verify => {
                    let shift = if peer == 3 { set } else { distance };
                    check(self.device, (&self.buffers[ours], 0, set), (seed, shift), &what)
                }
            }
        })?;
        let [_, _, _, raw] = times;
        for (ours, how) in times.into_iter().zip(["", ", forced steps", ", forced bounce"]) {
            bench.table.row(&Row {
                what: format!("{what}{how}"),
                ours: rate(set, ours),
                peer: rate(set, raw),
                peer_is: "cuMemcpyDtoDAsync, disjoint",
                ratio: raw / ours,
                bar: if how.is_empty() { Bar::Ratio(0.45) } else { Bar::None },
            });
        }
        Ok(())
    }

    /// The first `bytes` of the second half to the first, block by block.
    fn raw(&self, bytes: u64, block: u64) -> Outcome<()> {
        for at in (0..bytes).step_by(block as usize) {
            let copy = Copy { from: self.set + at, to: at, len: block };
            self.stream.copy(Ends::Within(&self.buffers[0]), copy)?;
        }
        self.stream.wait()
    }
}

/// `bytes` in blocks, each down by `distance`.
fn moves(buffer: &mut CudaBuffer, bytes: u64, block: u64, distance: u64) -> Outcome<()> {
    for at in (0..bytes).step_by(block as usize) {
        buffer.copy_within(distance + at..distance + at + block, at)?;
    }
    Ok(buffer.queue().record()?.synchronize()?)
}
