//! Many moves that come together, as a compaction's do, against the driver's copies of as many bytes one by one.

use crate::race::{Outcome, Step, race};
use crate::raw::{Copy, Ends, Stream};
use crate::table::{Bar, Row, rate, size};
use crate::{Bench, KIB, MIB, check, fill};
use allocator_core::{Arena, DeviceBuffer, Request};
use backend_cuda::{CudaBuffer, CudaDevice};
use core::ops::Range;
use pinned_host::{Event, Queue, QueuedBuffer, Transfer};

pub(crate) fn run(bench: &Bench, device: &CudaDevice) -> Outcome<()> {
    bench.table.section("Many moves within the device's memory");
    let set = bench.working_set();
    // One that leaves every copy to the driver.
    let driver = bench.options().kernel_copies(0).open()?;
    let mut sides = Sides {
        device,
        stream: Stream::new(device, 0)?,
        buffers: [device.buffer(2 * set)?, driver.buffer(2 * set)?],
    };
    for block in [4 * KIB, 64 * KIB] {
        sides.independent(bench, bench.count(1000), bench.bytes(block))?;
    }
    // Where a launch stops being worth it.
    for block in [MIB, 2 * MIB, 4 * MIB, 8 * MIB] {
        let block = bench.bytes(block);
        sides.independent(bench, set / block, block)?;
    }
    for block in [4 * KIB, 64 * KIB] {
        sides.slide(bench, bench.count(1000), bench.bytes(block), bench.bytes(4 * KIB))?;
    }
    sides.compaction(bench, bench.count(1000), bench.bytes(64 * KIB), bench.bytes(4 * KIB))
}

struct Sides<'a> {
    device: &'a CudaDevice,
    stream: Stream,
    /// Of a device as it is opened, and of one without the kernel.
    buffers: [CudaBuffer; 2],
}

impl Sides<'_> {
    /// Moves that have nothing to do with one another, from right behind where they go.
    fn independent(&mut self, bench: &Bench, count: u64, block: u64) -> Outcome<()> {
        let bytes = count * block;
        let what = format!("{count} moves of {}, disjoint", size(block));
        let copies: Vec<_> =
            (0..count).map(|n| (bytes + n * block..bytes + (n + 1) * block, n * block)).collect();
        let times: [f64; 3] = race(bench.rounds(), |peer, step| match step {
            Step::Prepare { checked: false } => Ok(()),
            Step::Prepare { .. } => {
                fill(self.device, &mut self.buffers[peer % 2], block, 2 * bytes)?;
                self.stream.spoil(&self.buffers[peer % 2], bytes)
            }
            Step::Pass if peer < 2 => {
                self.buffers[peer].copy_independent(&copies)?;
                wait(&self.buffers[peer])
            }
            Step::Pass => self.raw(count, block),
            Step::Verify => check(self.device, (&self.buffers[peer % 2], 0, bytes), (block, bytes), &what),
        })?;
        self.rows(bench, &what, bytes, times);
        Ok(())
    }

    /// Blocks with gaps between them, each moved to the end of the one before it.
    fn slide(&mut self, bench: &Bench, count: u64, block: u64, gap: u64) -> Outcome<()> {
        let (what, bytes) = (format!("{count} blocks of {}, slid", size(block)), count * block);
        let copies: Vec<_> = (0..count).map(|n| slid(n, block, gap)).collect();
        let times: [f64; 3] = race(bench.rounds(), |peer, step| match step {
            Step::Prepare { checked: false } => Ok(()),
            Step::Prepare { .. } => {
                let buffer = &mut self.buffers[peer % 2];
                fill(self.device, buffer, block, if peer == 2 { 2 * bytes } else { count * (block + gap) })
            }
            Step::Pass if peer < 2 => {
                self.buffers[peer].copies_within(&copies)?;
                wait(&self.buffers[peer])
            }
            Step::Pass => self.raw(count, block),
            Step::Verify => self.verify(peer, &copies, block, &what),
        })?;
        self.rows(bench, &what, bytes, times);
        Ok(())
    }

    /// The same as an arena does it: the plan, the moves, and what it knows of its blocks.
    fn compaction(&mut self, bench: &Bench, count: u64, block: u64, gap: u64) -> Outcome<()> {
        let (what, bytes) = (format!("Arena::compact of {count} blocks of {}", size(block)), count * block);
        let copies: Vec<_> = (0..count).map(|n| slid(n, block, gap)).collect();
        let mut arena = None;
        let times: [f64; 3] = race(bench.rounds(), |peer, step| match step {
            Step::Prepare { checked } => {
                arena = Some(fragmented(&self.buffers[peer % 2], count, block, gap)?);
                let used = if peer == 2 { 2 * bytes } else { count * (block + gap) };
                if checked { fill(self.device, &mut self.buffers[peer % 2], block, used) } else { Ok(()) }
            }
            Step::Pass if peer < 2 => {
                let Some(arena) = &mut arena else { return Err("a pass without an arena".into()) };
                if arena.compact(u64::MAX)? != bytes {
                    return Err(format!("{what}: other moves than were wanted").into());
                }
                wait(&self.buffers[peer])
            }
            Step::Pass => self.raw(count, block),
            Step::Verify => self.verify(peer, &copies, block, &what),
        })?;
        self.rows(bench, &what, bytes, times);
        Ok(())
    }

    fn rows(&self, bench: &Bench, what: &str, bytes: u64, [kernel, driver, raw]: [f64; 3]) {
        for (how, ours) in [("", kernel), (", no kernel", driver)] {
            bench.table.row(&Row {
                what: format!("{what}{how}"),
                ours: rate(bytes, ours),
                peer: rate(bytes, raw),
                peer_is: "cuMemcpyDtoDAsync, disjoint, one by one",
                ratio: raw / ours,
                bar: Bar::None,
            });
        }
    }

    /// Every block is where it was moved to: each to its place, or by the driver one by one from behind all of them.
    fn verify(&self, peer: usize, copies: &[(Range<u64>, u64)], block: u64, what: &str) -> Outcome<()> {
        if peer == 2 {
            let bytes = copies.len() as u64 * block;
            return check(self.device, (&self.buffers[0], 0, bytes), (block, bytes), what);
        }
        let each = |(src, dst): &(Range<u64>, u64)| {
            check(self.device, (&self.buffers[peer], *dst, src.end - src.start), (block, src.start), what)
        };
        copies.iter().try_for_each(each)
    }

    /// As many blocks, from right behind where they go.
    fn raw(&self, count: u64, len: u64) -> Outcome<()> {
        for n in 0..count {
            let copy = Copy { from: (count + n) * len, to: n * len, len };
            self.stream.copy(Ends::Within(&self.buffers[0]), copy)?;
        }
        self.stream.wait()
    }
}

/// Move number `n` of a slide: where the block is, and where it goes.
fn slid(n: u64, block: u64, gap: u64) -> (Range<u64>, u64) {
    let at = gap + n * (block + gap);
    (at..at + block, n * block)
}

/// An arena over a buffer in which each block has a gap before it.
fn fragmented(buffer: &CudaBuffer, count: u64, block: u64, gap: u64) -> Outcome<Arena<CudaBuffer>> {
    let mut arena = Arena::new(buffer.clone())?;
    let mut gaps = Vec::new();
    for _ in 0..count {
        gaps.push(arena.allocate_in_place(Request::new(gap))?);
        arena.allocate_in_place(Request::new(block))?;
    }
    for gap in gaps {
        arena.release(gap)?;
    }
    Ok(arena)
}

fn wait(buffer: &CudaBuffer) -> Outcome<()> {
    Ok(buffer.queue().record()?.synchronize()?)
}
