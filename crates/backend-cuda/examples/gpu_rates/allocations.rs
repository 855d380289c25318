//! What it costs to take and give back a block, against the driver's two allocators, among as many live blocks.

use crate::race::{Outcome, Step, race};
use crate::raw::{self, Stream};
use crate::table::{Bar, Row, nanoseconds};
use crate::{Bench, KIB, MIB};
use allocator_core::{Arena, Handle, Request};
use backend_cuda::cudarc::driver::sys;
use backend_cuda::{CudaBuffer, CudaDevice};
use pinned_host::Transfer;

pub(crate) fn run(bench: &Bench, device: &CudaDevice) -> Outcome<()> {
    let live = bench.count(1000) as usize;
    bench.table.section("Giving back a block and taking one of another size");
    // The arena has twice the room that the blocks need on average.
    let arena = Arena::new(device.buffer(bench.bytes(1024 * MIB))?)?;
    let mut ours = Ours { arena, live: Vec::new() };
    let mut plain = Plain { live: Vec::new() };
    let mut pooled = Pooled { stream: Stream::new(device, 0)?, live: Vec::new() };
    keep_freed_memory(device)?;
    // As many as make a time worth measuring: the driver's plain functions are slow.
    let counts = [bench.count(200_000), bench.count(1000), bench.count(10_000)];
    let mut sizes = [1, 1, 1].map(|seed| Sizes { state: seed, unit: bench.bytes(4 * KIB).max(512) });
    for _ in 0..live {
        ours.take(sizes[0].next())?;
        plain.take(sizes[1].next())?;
        pooled.take(sizes[2].next())?;
    }
    let times: [f64; 3] = race(bench.rounds(), |peer, step| match step {
        Step::Prepare { .. } => Ok(()),
        Step::Pass => {
            let sizes = &mut sizes[peer];
            for _ in 0..counts[peer] {
                let (victim, bytes) = (sizes.random() as usize % live, sizes.next());
                match peer {
                    0 => {
                        ours.give(victim)?;
                        ours.take(bytes)?;
                    }
                    1 => {
                        plain.give(victim)?;
                        plain.take(bytes)?;
                    }
                    _ => {
                        pooled.give(victim)?;
                        pooled.take(bytes)?;
                    }
                }
            }
            if peer == 2 { pooled.stream.wait() } else { Ok(()) }
        }
        Step::Verify if peer == 0 => ours.verify(live),
        Step::Verify => Ok(()),
    })?;
    let mut each = [0.0; 3];
    for ((each, time), count) in each.iter_mut().zip(times).zip(counts) {
        *each = time / count as f64;
    }
    let [ours, plain, pooled] = each;
    let peers = [("cuMemFree + cuMemAlloc", plain), ("cuMemFreeAsync + cuMemAllocAsync", pooled)];
    for (peer_is, peer) in peers {
        bench.table.row(&Row {
            what: format!("release + allocate, {live} live, / {}", peer_is.split(' ').next().unwrap_or("")),
            ours: nanoseconds(ours),
            peer: nanoseconds(peer),
            peer_is,
            ratio: peer / ours,
            bar: Bar::Nanoseconds(ours * 1e9, 1000.0),
        });
    }
    Ok(())
}

/// The driver's pool gives nothing back to the system while it has blocks that could be used again, as a program that
/// cares would set it.
fn keep_freed_memory(device: &CudaDevice) -> Outcome<()> {
    let (mut pool, mut threshold) = (core::ptr::null_mut(), u64::MAX);
    let attribute = sys::CUmemPool_attribute::CU_MEMPOOL_ATTR_RELEASE_THRESHOLD;
    // SAFETY: points to a value of ours; the device is alive.
    raw::ok("cuDeviceGetDefaultMemPool", unsafe {
        sys::cuDeviceGetDefaultMemPool(&raw mut pool, device.cuda().cu_device())
    })?;
    // SAFETY: the attribute is a `u64`.
    raw::ok("cuMemPoolSetAttribute", unsafe {
        sys::cuMemPoolSetAttribute(pool, attribute, (&raw mut threshold).cast())
    })
}

struct Ours {
    arena: Arena<CudaBuffer>,
    live: Vec<Handle>,
}

impl Ours {
    fn take(&mut self, bytes: u64) -> Outcome<()> {
        self.live.push(self.arena.allocate_in_place(Request::new(bytes).align(256))?);
        Ok(())
    }

    fn give(&mut self, victim: usize) -> Outcome<()> {
        self.arena.release(self.live.swap_remove(victim))?;
        Ok(())
    }

    /// # Errors
    /// Blocks are missing, or share bytes.
    fn verify(&self, live: usize) -> Outcome<()> {
        let mut ranges = Vec::new();
        for handle in &self.live {
            let range = self.arena.range(*handle)?;
            ranges.push((range.start, range.end));
        }
        ranges.sort_unstable();
        let apart = ranges.windows(2).all(|pair| pair[0].1 <= pair[1].0);
        if apart && ranges.len() == live { Ok(()) } else { Err("blocks of the arena share bytes".into()) }
    }
}

/// Memory by `cuMemAlloc`.
struct Plain {
    live: Vec<sys::CUdeviceptr>,
}

impl Plain {
    fn take(&mut self, bytes: u64) -> Outcome<()> {
        let mut at = 0;
        // SAFETY: points to a value of ours.
        raw::ok("cuMemAlloc", unsafe { sys::cuMemAlloc_v2(&raw mut at, bytes as usize) })?;
        self.live.push(at);
        Ok(())
    }

    fn give(&mut self, victim: usize) -> Outcome<()> {
        // SAFETY: from `cuMemAlloc`, and nothing uses it.
        raw::ok("cuMemFree", unsafe { sys::cuMemFree_v2(self.live.swap_remove(victim)) })
    }
}

impl Drop for Plain {
    fn drop(&mut self) {
        while !self.live.is_empty() && self.give(0).is_ok() {}
    }
}

/// Memory of the driver's pool, by `cuMemAllocAsync`.
struct Pooled {
    stream: Stream,
    live: Vec<sys::CUdeviceptr>,
}

impl Pooled {
    fn take(&mut self, bytes: u64) -> Outcome<()> {
        let (mut at, stream) = (0, self.stream.raw());
        // SAFETY: points to a value of ours; the stream is alive.
        raw::ok("cuMemAllocAsync", unsafe { sys::cuMemAllocAsync(&raw mut at, bytes as usize, stream) })?;
        self.live.push(at);
        Ok(())
    }

    fn give(&mut self, victim: usize) -> Outcome<()> {
        let (at, stream) = (self.live.swap_remove(victim), self.stream.raw());
        // SAFETY: from `cuMemAllocAsync` on the same stream, and nothing uses it.
        raw::ok("cuMemFreeAsync", unsafe { sys::cuMemFreeAsync(at, stream) })
    }
}

impl Drop for Pooled {
    fn drop(&mut self) {
        while !self.live.is_empty() && self.give(0).is_ok() {}
        let _ = self.stream.wait();
    }
}

/// The same sizes for everybody: 1 to 256 units.
struct Sizes {
    state: u64,
    unit: u64,
}

impl Sizes {
    fn next(&mut self) -> u64 {
        self.unit * (1 + self.random() % 256)
    }

    fn random(&mut self) -> u64 {
        self.state =
            self.state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        self.state >> 33
    }
}
