//! Random operations on an arena over the simulated device, against a shadow model with payload tags.
//!
//! Two oracles, because the books can be consistent while two live blocks share a byte: the model knows which ranges
//! must be live, and every block's bytes are a function of a tag of its own, written and checked by kernels that run
//! whenever the simulated device pleases. Handles of freed blocks are tried again and again.
//!
//! `SOAK_OPS` (default 10,000) and `SOAK_SEED` choose the run: `cargo xtask soak arena --ops 1000000`.
//!
//! What it cannot find: a wrong order between queues, since an arena uses only one; see the pool's soak.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "helpers of tests may stop where they stand, as tests may"
)]

use allocator_core::{
    AllocError, Arena, ArenaError, Compaction, DeviceBuffer, Handle, Lifetime, ParamId, Plan, Request,
};
use backend_cpu::sim::{SimBuffer, SimConfig, SimDevice};
use pinned_host::Transfer;
use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

#[test]
fn soak_arena() {
    let ops = setting("SOAK_OPS", 10_000);
    let seed = setting("SOAK_SEED", 0x5EED);
    println!("soak_arena: {ops} operations, seed {seed}");
    let mut total = Counts::default();
    let mut done = 0;
    for program in 0.. {
        // Sixteen kinds of short programs, and then a long one that ages its arena.
        let length = if program % 17 == 16 { LONG_PROGRAM } else { PROGRAM }.min(ops - done);
        if length == 0 {
            break;
        }
        let mut soak = Soak::new(seed.wrapping_add(program), program);
        for op in 0..length {
            soak.step(op);
        }
        total.add(&soak.finish());
        done += length;
    }
    println!("soak_arena: {total:?}");
    // A soak that met none of these has shown nothing.
    assert!(total.full > 0 && total.moved_bytes > 0 && total.refused_handles > 0 && total.payload_checks > 0);
}

/// A block that must be live.
struct Shadow {
    handle: Handle,
    requested: u64,
    align: u64,
    tag: u64,
    leases: u32,
    /// Parts assigned to parameters, relative to the block.
    params: Vec<(ParamId, Range<u64>)>,
}

#[derive(Debug, Default)]
struct Counts {
    allocated: u64,
    released: u64,
    /// Requests for more than was free.
    full: u64,
    /// Requests that only walls, alignment or the policy stood against.
    fragmented: u64,
    moved_bytes: u64,
    refused_handles: u64,
    payload_checks: u64,
}

impl Counts {
    fn add(&mut self, other: &Counts) {
        self.allocated += other.allocated;
        self.released += other.released;
        self.full += other.full;
        self.fragmented += other.fragmented;
        self.moved_bytes += other.moved_bytes;
        self.refused_handles += other.refused_handles;
        self.payload_checks += other.payload_checks;
    }
}

struct Soak {
    device: SimDevice,
    arena: Arena<SimBuffer>,
    policy: Compaction,
    /// Whether requests are aligned, and whether blocks are leased: without either, only a full arena may refuse.
    aligned: bool,
    leases: bool,
    /// Whose handles are nobody's here.
    other: Arena<SimBuffer>,
    stranger: Handle,
    live: Vec<Shadow>,
    /// Handles that must never work again.
    freed: VecDeque<Handle>,
    plan: Plan,
    wrong_bytes: Arc<AtomicU64>,
    random: Random,
    next_tag: u64,
    counts: Counts,
}

impl Soak {
    /// A fresh arena; which kind of program it meets follows from the program's number.
    fn new(seed: u64, program: u64) -> Soak {
        let policy = [Compaction::Minimal, Compaction::SlideDown, Compaction::Minimal, Compaction::Never]
            [program as usize % 4];
        let device = SimDevice::new(SimConfig::seeded(seed));
        let mut arena = Arena::new(device.buffer(ARENA).unwrap()).unwrap();
        arena.set_compaction(policy);
        let mut other = Arena::new(device.buffer(64).unwrap()).unwrap();
        let stranger = other.allocate(Request::new(8)).unwrap();
        Soak {
            device,
            arena,
            policy,
            aligned: program / 4 % 2 == 1,
            leases: program / 8 % 2 == 1,
            other,
            stranger,
            live: Vec::new(),
            freed: VecDeque::new(),
            plan: Plan::default(),
            wrong_bytes: Arc::new(AtomicU64::new(0)),
            random: Random(seed),
            next_tag: 1,
            counts: Counts::default(),
        }
    }

    fn step(&mut self, op: u64) {
        match self.random.below(100) {
            0..=39 => self.allocate(),
            40..=68 => self.release(),
            69..=74 => self.lease(),
            75..=81 => self.unlease(),
            82..=85 => self.compact(),
            86..=89 => self.assign(),
            90..=94 => self.try_dead_handles(),
            _ => self.check_payload(),
        }
        self.check_ranges(op.is_multiple_of(16));
        if self.random.below(32) == 0 {
            self.device.drain_all().unwrap();
        }
        if op.is_multiple_of(1024) {
            self.check_everything();
        }
    }

    fn allocate(&mut self) {
        let power = self.random.below(LARGEST_LOG + 1);
        let requested = 1 + self.random.below(1 << power);
        let align = if self.aligned { 1 << self.random.below(9) } else { 1 };
        let lifetime = [Lifetime::Unknown, Lifetime::Short, Lifetime::Long][self.random.below(3) as usize];
        let request = Request::new(requested).align(align).lifetime(lifetime);
        let before = self.arena.stats();
        let in_place = self.random.below(8) == 0;
        let allocated = match in_place {
            true => self.arena.allocate_in_place(request).map_err(ArenaError::Alloc),
            false => self.arena.allocate(request),
        };
        match allocated {
            Ok(handle) => {
                self.counts.allocated += 1;
                let tag = self.next_tag;
                self.next_tag += 1;
                self.live.push(Shadow { handle, requested, align, tag, leases: 0, params: Vec::new() });
                self.fill(self.live.len() - 1);
            }
            Err(ArenaError::Alloc(AllocError::OutOfMemory {
                requested: asked, free, largest_hole, ..
            })) => {
                assert_eq!((asked, free), (requested, before.free));
                assert!(largest_hole <= free);
                let full = free < requested;
                self.counts.full += u64::from(full);
                self.counts.fragmented += u64::from(!full);
                // With nothing in the way and nothing to align, fragmentation is no excuse.
                let compacts = !in_place && self.policy != Compaction::Never;
                let excuse = self.aligned || self.leases || !compacts;
                assert!(full || excuse, "{free} bytes are free and movable, {requested} are refused");
            }
            Err(other) => panic!("allocate {request:?}: {other}"),
        }
    }

    fn release(&mut self) {
        let Some(at) = self.pick() else { return };
        let block = &self.live[at];
        if block.leases > 0 {
            let refused = self.arena.release(block.handle);
            assert!(
                matches!(refused, Err(AllocError::Leased { leases, .. }) if leases == block.leases),
                "{refused:?}"
            );
            return;
        }
        self.check_payload_of(at);
        let block = self.live.swap_remove(at);
        let expected = self.arena.block(block.handle).unwrap().range;
        assert_eq!(self.arena.release(block.handle), Ok(expected));
        for (param, _) in block.params {
            assert!(self.arena.param(param).is_err(), "a parameter outlived its block");
        }
        self.counts.released += 1;
        self.freed.push_back(block.handle);
        if self.freed.len() > REMEMBERED {
            self.freed.pop_front();
        }
    }

    fn lease(&mut self) {
        let Some(at) = self.pick() else { return };
        // Few at a time, or nothing can move.
        if self.leases && self.live.iter().filter(|block| block.leases > 0).count() < 4 {
            let block = &mut self.live[at];
            block.leases += 1;
            assert_eq!(self.arena.lease(block.handle), Ok(block.leases));
        }
    }

    fn unlease(&mut self) {
        let Some(at) = self.pick() else { return };
        let leased = self.live.iter().position(|block| block.leases > 0).unwrap_or(at);
        let block = &mut self.live[leased];
        if block.leases == 0 {
            let refused = self.arena.unlease(block.handle);
            assert!(matches!(refused, Err(AllocError::NotLeased { .. })), "{refused:?}");
            return;
        }
        block.leases -= 1;
        assert_eq!(self.arena.unlease(block.handle), Ok(block.leases));
    }

    /// Makes the moves of a plan one by one, and now and then leaves some out.
    fn compact(&mut self) {
        if self.policy == Compaction::Never {
            return;
        }
        let budget = self.random.below(ARENA / 4);
        let plan = match self.random.below(2) {
            0 => self.arena.plan_compact(budget),
            _ => {
                let planned = self.arena.plan_room_into(Request::new(1 + budget), &mut self.plan);
                if planned.is_err() {
                    return;
                }
                self.plan.clone()
            }
        };
        let total: u64 = plan.moves().iter().map(|step| step.len()).sum();
        assert_eq!(plan.bytes(), total);
        let stop = self.random.below(2 * plan.moves().len() as u64 + 1) as usize;
        for step in plan.moves().iter().take(stop.max(1)) {
            let leased = self.live.iter().any(|block| block.handle == step.handle && block.leases > 0);
            assert!(!leased, "a plan moves a leased block");
            let run = |buffer: &mut SimBuffer, step: &allocator_core::Move| {
                buffer.copy_within(step.src.clone(), step.dst)
            };
            self.arena.apply(step, run).unwrap();
            assert_eq!(self.arena.block(step.handle).unwrap().range, step.dst_range());
        }
    }

    fn assign(&mut self) {
        let Some(at) = self.pick() else { return };
        let block = &mut self.live[at];
        if block.params.len() >= 4 {
            let (param, _) = block.params.swap_remove(0);
            self.arena.unassign(param).unwrap();
            assert!(self.arena.param(param).is_err());
            return;
        }
        let start = self.random.below(block.requested);
        let part = start..start + 1 + self.random.below(block.requested - start);
        let param = self.arena.assign(block.handle, part.clone()).unwrap();
        block.params.push((param, part));
    }

    fn try_dead_handles(&mut self) {
        for _ in 0..4 {
            if self.freed.is_empty() {
                return;
            }
            let handle = self.freed[self.random.below(self.freed.len() as u64) as usize];
            let stale = |outcome: Result<(), AllocError>| {
                assert!(matches!(outcome, Err(AllocError::StaleHandle { .. })), "{outcome:?}");
            };
            stale(self.arena.block(handle).map(drop));
            stale(self.arena.range(handle).map(drop));
            stale(self.arena.release(handle).map(drop));
            stale(self.arena.lease(handle).map(drop));
            stale(self.arena.unlease(handle).map(drop));
            stale(self.arena.assign(handle, 0..1).map(drop));
            assert!(self.arena.view(handle).is_err());
            self.counts.refused_handles += 1;
        }
        let foreign = self.arena.release(self.stranger);
        assert!(matches!(foreign, Err(AllocError::ForeignHandle { .. })), "{foreign:?}");
        assert!(self.other.block(self.stranger).is_ok());
    }

    /// Writes the block's payload, by a kernel that runs later.
    fn fill(&mut self, at: usize) {
        let block = &self.live[at];
        let tag = block.tag;
        let view = self.arena.view(block.handle).unwrap();
        let write = view.write();
        let fill = move |bytes: &mut [Vec<u8>]| {
            bytes[0].iter_mut().enumerate().for_each(|(at, byte)| *byte = payload(tag, at));
        };
        self.device.queue().launch(&[write], fill).unwrap();
    }

    fn check_payload(&mut self) {
        if let Some(at) = self.pick() {
            self.check_payload_of(at);
        }
    }

    /// Compares the block's bytes with its payload, by a kernel that runs later; what it finds shows in the end.
    fn check_payload_of(&mut self, at: usize) {
        let block = &self.live[at];
        let (tag, wrong) = (block.tag, Arc::clone(&self.wrong_bytes));
        let view = self.arena.view(block.handle).unwrap();
        let read = view.read();
        let check = move |bytes: &mut [Vec<u8>]| {
            let found = bytes[0].iter().enumerate().filter(|(at, byte)| **byte != payload(tag, *at)).count();
            wrong.fetch_add(found as u64, Ordering::Relaxed);
        };
        self.device.queue().launch(&[read], check).unwrap();
        self.counts.payload_checks += 1;
    }

    /// The model and the arena agree, and no two live blocks share a byte.
    fn check_ranges(&self, all: bool) {
        let mut blocks: Vec<(Range<u64>, usize)> = Vec::with_capacity(self.live.len());
        for (at, shadow) in self.live.iter().enumerate() {
            let block = self.arena.block(shadow.handle).unwrap();
            assert_eq!((block.requested, block.leases), (shadow.requested, shadow.leases));
            assert!(block.range.start.is_multiple_of(shadow.align), "{block:?}");
            assert!(block.range.end - block.range.start >= shadow.requested && block.range.end <= ARENA);
            blocks.push((block.range, at));
        }
        blocks.sort_by_key(|(range, _)| range.start);
        for pair in blocks.windows(2) {
            assert!(pair[0].0.end <= pair[1].0.start, "live blocks overlap: {pair:?}");
        }
        if !all {
            return;
        }
        let live: u64 = blocks.iter().map(|(range, _)| range.end - range.start).sum();
        assert_eq!(self.arena.stats().free, ARENA - live, "bytes were lost");
        let listed: Vec<Range<u64>> = self.arena.allocator().blocks().map(|block| block.range).collect();
        assert_eq!(listed, blocks.iter().map(|(range, _)| range.clone()).collect::<Vec<_>>());
        for (range, at) in &blocks {
            for (param, part) in &self.live[*at].params {
                let expected = range.start + part.start..range.start + part.end;
                assert_eq!(self.arena.param(*param), Ok(expected), "a parameter did not follow its block");
            }
        }
    }

    fn check_everything(&mut self) {
        for at in 0..self.live.len() {
            self.check_payload_of(at);
        }
        self.device.drain_all().unwrap();
        assert_eq!(self.wrong_bytes.load(Ordering::Relaxed), 0, "bytes of live blocks changed");
        self.arena.allocator().check().unwrap();
        self.device.assert_no_hazards();
    }

    /// Every block is given back, and then the arena is one hole.
    fn finish(mut self) -> Counts {
        self.check_everything();
        self.counts.moved_bytes = self.arena.stats().moved_bytes;
        for block in std::mem::take(&mut self.live) {
            for left in (0..block.leases).rev() {
                assert_eq!(self.arena.unlease(block.handle), Ok(left));
            }
            self.arena.release(block.handle).unwrap();
        }
        self.device.drain_all().unwrap();
        assert_eq!(self.wrong_bytes.load(Ordering::Relaxed), 0);
        assert_eq!(self.arena.largest_hole(), ARENA);
        self.arena.allocator().check().unwrap();
        self.counts
    }

    fn pick(&mut self) -> Option<usize> {
        let count = self.live.len() as u64;
        (count > 0).then(|| self.random.below(count) as usize)
    }
}

/// Byte `at` of the block with this tag.
fn payload(tag: u64, at: usize) -> u8 {
    tag.wrapping_mul(0x9E37_79B9_7F4A_7C15).to_le_bytes()[at % 8] ^ (at / 8) as u8
}

/// SplitMix64.
struct Random(u64);

impl Random {
    fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        (mixed ^ (mixed >> 31)) % end
    }
}

fn setting(name: &str, default: u64) -> u64 {
    match std::env::var(name) {
        Ok(text) => text.parse().unwrap_or_else(|_| panic!("{name}={text} is not a number")),
        Err(_) => default,
    }
}

const ARENA: u64 = 32 << 10;
/// Requests are up to 2 to this power; sizes are spread evenly over the powers below.
const LARGEST_LOG: u64 = 13;
const REMEMBERED: usize = 4096;
/// Operations between two fresh arenas: enough to fill one, and to grow one old.
const PROGRAM: u64 = 600;
const LONG_PROGRAM: u64 = 20_000;
