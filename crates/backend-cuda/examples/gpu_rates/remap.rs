//! Compaction by pages that change places, against copying the same bytes.

use crate::race::{Outcome, Step, race};
use crate::raw::{Copy, Ends, Stream};
use crate::table::{Bar, Row, milliseconds, size};
use crate::{Bench, MIB, check, fill};
use allocator_core::{Arena, Handle, Move, Remap, Request};
use backend_cuda::{CudaBuffer, CudaDevice};
use pinned_host::{Queue, QueuedBuffer, Transfer};

pub(crate) fn run(bench: &Bench, device: &CudaDevice) -> Outcome<()> {
    bench.table.section("By remapping pages (ratio: how many times as fast as the copy)");
    if !device.info()?.virtual_memory {
        bench.table.absent("compaction by remap", "this device has no virtual memory management");
        return Ok(());
    }
    // Pages are never shorter than 2 MiB, whatever the sizes are divided by.
    let block = bench.bytes(64 * MIB).max(4 * MIB);
    let blocks = if bench.quick { 8 } else { 16 };
    let dense = device.buffer(blocks * block)?;
    let stream = Stream::new(device, 0)?;
    // Pages as short as the device has them, and as long as a block.
    for granule in [0, block] {
        let device = bench.options().virtual_memory(true).granule(granule).open()?;
        let buffer = device.buffer(blocks * block)?;
        let mut sides = Sides { device: &device, dense: &dense, stream: &stream, block, blocks };
        let arena = sides.compaction(bench, buffer)?;
        sides.single(bench, arena)?;
    }
    Ok(())
}

struct Sides<'a> {
    device: &'a CudaDevice,
    /// Where the driver's copies run.
    dense: &'a CudaBuffer,
    stream: &'a Stream,
    block: u64,
    blocks: u64,
}

impl Sides<'_> {
    /// Blocks side by side of which every other one goes, so that half of the buffer is free in pieces.
    fn compaction(&mut self, bench: &Bench, buffer: CudaBuffer) -> Outcome<Arena<CudaBuffer>> {
        let mut arena = Arena::new(buffer)?;
        let pages = size(arena.buffer().granule());
        let (block, blocks) = (self.block, self.blocks);
        let what = format!("compaction by remap, pages of {pages}");
        let (mut kept, mut plan): (Vec<Kept>, Vec<Move>) = (Vec::new(), Vec::new());
        let [ours, raw] = race(bench.rounds(), |peer, step| match step {
            Step::Prepare { checked } => {
                for kept in kept.drain(..) {
                    arena.release(kept.handle)?;
                }
                for number in 0..blocks {
                    let handle = arena.allocate_in_place(Request::new(block).align(block))?;
                    kept.push(Kept { handle, was: number * block });
                }
                for number in (0..blocks as usize).step_by(2).rev() {
                    arena.release(kept.remove(number).handle)?;
                }
                for kept in &kept {
                    if arena.range(kept.handle)?.start != kept.was {
                        return Err("blocks are not placed side by side".into());
                    }
                }
                plan = arena.plan_compact(u64::MAX).moves().to_vec();
                if checked { fill(self.device, arena.buffer_mut(), 3, blocks * block) } else { Ok(()) }
            }
            Step::Pass if peer == 0 => {
                for step in &plan {
                    // No copy stands in where pages cannot change places: that would be an error.
                    arena.apply(step, |buffer, step| buffer.remap(step.src.clone(), step.dst))?;
                }
                Ok(arena.buffer().queue().drain()?)
            }
            Step::Pass => self.copies(&plan),
            Step::Verify if peer == 0 => {
                if arena.largest_hole() != arena.total_free() {
                    return Err("the arena is not compact".into());
                }
                kept.iter().try_for_each(|kept| {
                    let at = arena.range(kept.handle)?.start;
                    check(self.device, (arena.buffer(), at, block), (3, kept.was), &what)
                })
            }
            Step::Verify => Ok(()),
        })?;
        let copied = format!("cuMemcpyDtoDAsync of {}", size(plan.iter().map(Move::len).sum()));
        bench.table.row(&Row {
            what: format!("{what}, 0 B copied"),
            ours: milliseconds(ours),
            peer: milliseconds(raw),
            peer_is: &copied,
            ratio: raw / ours,
            bar: Bar::None,
        });
        for kept in kept {
            arena.release(kept.handle)?;
        }
        Ok(arena)
    }

    /// The first block to the last one's place.
    fn single(&mut self, bench: &Bench, mut arena: Arena<CudaBuffer>) -> Outcome<()> {
        let (block, last) = (self.block, (self.blocks - 1) * self.block);
        let buffer = arena.buffer_mut();
        let what = format!("remap of {}, pages of {}", size(block), size(buffer.granule()));
        let plan = Copy { from: 0, to: last, len: block };
        let [ours, raw] = race(bench.rounds(), |peer, step| match step {
            Step::Prepare { checked: true } if peer == 0 => fill(self.device, buffer, 5, last + block),
            Step::Pass if peer == 0 => {
                buffer.remap(0..block, last)?;
                Ok(buffer.queue().drain()?)
            }
            Step::Pass => {
                self.stream.copy(Ends::Within(self.dense), plan)?;
                self.stream.wait()
            }
            Step::Verify if peer == 0 => check(self.device, (buffer, last, block), (5, 0), &what),
            _ => Ok(()),
        })?;
        bench.table.row(&Row {
            what,
            ours: milliseconds(ours),
            peer: milliseconds(raw),
            peer_is: "cuMemcpyDtoDAsync",
            ratio: raw / ours,
            bar: Bar::None,
        });
        Ok(())
    }

    fn copies(&self, plan: &[Move]) -> Outcome<()> {
        for step in plan {
            let copy = Copy { from: step.src.start, to: step.dst, len: step.len() };
            self.stream.copy(Ends::Within(self.dense), copy)?;
        }
        self.stream.wait()
    }
}

/// A block that stays, and where it was.
struct Kept {
    handle: Handle,
    was: u64,
}
