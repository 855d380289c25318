//! The promises of [`Arena`] over a backend's buffer, one function each: bytes follow their blocks.

use alloc::vec::Vec;

use super::{Harness, fresh, pattern};
use crate::{
    AllocError, ApplyError, Arena, ArenaError, Compaction, CopiesRefused, DeviceBuffer, Handle, Plan, Request,
};

/// A request that only fragmentation refuses is served by moving blocks, and their bytes go with them.
pub fn fragmented_room_is_made_by_moving<H: Harness>(harness: &mut H) {
    for compaction in [Compaction::Minimal, Compaction::SlideDown] {
        let mut bench = Bench::fragmented(harness);
        bench.arena.set_compaction(compaction);
        let free = bench.arena.total_free();
        assert!(bench.arena.largest_hole() < free, "the arena is not fragmented");
        bench.allocate(free);
        assert_eq!((bench.arena.total_free(), bench.arena.largest_hole()), (0, 0));
        bench.verify();
    }
}

/// By default only the cheapest moves are made: one block between two holes moves, the others stay.
pub fn minimal_compaction_moves_no_more_than_needed<H: Harness>(harness: &mut H) {
    let mut bench = Bench::fragmented(harness);
    let unit = bench.unit;
    bench.allocate(2 * unit);
    let stats = bench.arena.stats();
    assert_eq!((stats.moves, stats.moved_bytes), (1, unit));
    bench.verify();
}

/// Sliding down leaves the blocks in order and one hole at the end.
pub fn slide_down_leaves_one_hole<H: Harness>(harness: &mut H) {
    let mut bench = Bench::fragmented(harness);
    let order: Vec<Handle> = bench.arena.allocator().blocks().map(|block| block.handle).collect();
    bench.arena.compact(u64::MAX).expect("the device copies");
    let after: Vec<Handle> = bench.arena.allocator().blocks().map(|block| block.handle).collect();
    assert_eq!(order, after);
    let size = bench.arena.buffer().size();
    let holes: Vec<_> = bench.arena.allocator().holes().collect();
    assert_eq!((holes.len(), holes.first()), (1, Some(&(size - bench.arena.total_free()..size))));
    bench.verify();
}

/// With [`Compaction::Never`] nothing moves, and the request fails.
pub fn never_means_never<H: Harness>(harness: &mut H) {
    let mut bench = Bench::fragmented(harness);
    bench.arena.set_compaction(Compaction::Never);
    let request = Request::new(2 * bench.unit);
    assert!(matches!(bench.arena.allocate(request), Err(ArenaError::Alloc(AllocError::OutOfMemory { .. }))));
    assert_eq!(bench.arena.stats().moves, 0);
    bench.verify();
}

/// Several parameters per block, each naming a part of it, read the same bytes after every move.
pub fn parameters_follow_their_block<H: Harness>(harness: &mut H) {
    let mut bench = Bench::fragmented(harness);
    let grain = bench.arena.buffer().grain();
    let parts = [0..bench.unit, grain..2 * grain, bench.unit - grain..bench.unit];
    let mut params = Vec::new();
    for (handle, tag) in &bench.live {
        for part in &parts {
            let param = bench.arena.assign(*handle, part.clone()).expect("the part is within the block");
            params.push((param, pattern(*tag, bench.unit)[part.start as usize..part.end as usize].to_vec()));
        }
    }
    bench.arena.compact(u64::MAX).expect("the device copies");
    assert!(bench.arena.stats().moves > 0);
    for (param, bytes) in params {
        let range = bench.arena.param(param).expect("the parameter is assigned");
        let found = bench.harness.read(bench.arena.buffer(), range.start, range.end - range.start);
        assert!(found == bytes, "parameter {param} at {range:?} lost its bytes");
    }
}

/// A full arena refuses with the numbers, and stays as it was.
pub fn out_of_memory_is_typed_and_changes_nothing<H: Harness>(harness: &mut H) {
    let mut bench = Bench::fragmented(harness);
    let before = bench.arena.stats();
    let requested = before.free + 1;
    let expected =
        AllocError::OutOfMemory { requested, align: 1, free: before.free, largest_hole: before.largest_hole };
    match bench.arena.allocate(Request::new(requested)) {
        Err(ArenaError::Alloc(error)) => assert_eq!(error, expected),
        other => panic!("{requested} bytes: {other:?}"),
    }
    assert_eq!(bench.arena.stats(), before);
    bench.verify();
}

/// A leased block neither moves nor leaves; the others move around it.
pub fn leased_blocks_stay_where_they_are<H: Harness>(harness: &mut H) {
    let mut bench = Bench::fragmented(harness);
    let (wall, _) = bench.live[bench.live.len() / 2];
    let place = bench.arena.range(wall);
    bench.arena.lease(wall).expect("the block is live");
    assert_eq!(bench.arena.release(wall), Err(AllocError::Leased { handle: wall, leases: 1 }));
    bench.allocate(2 * bench.unit);
    bench.arena.compact(u64::MAX).expect("the device copies");
    assert_eq!(bench.arena.range(wall), place);
    bench.arena.unlease(wall).expect("the block is leased");
    bench.arena.compact(u64::MAX).expect("the device copies");
    assert_ne!(bench.arena.range(wall), place);
    bench.verify();
}

/// Between the moves of a plan blocks come and go: moves that became impossible are refused, the others
/// are made, and no byte is lost.
pub fn plans_survive_changes_between_moves<H: Harness>(harness: &mut H) {
    let mut bench = Bench::fragmented(harness);
    let plan = bench.arena.plan_compact(u64::MAX);
    for (round, step) in plan.moves().iter().enumerate() {
        match round % 3 {
            1 => bench.release(round),
            2 => drop(bench.arena.allocate_in_place(Request::new(bench.unit / 2)).map(|new| bench.tag(new))),
            _ => {}
        }
        match bench.arena.apply(step, |buffer, step| buffer.copy_within(step.src.clone(), step.dst)) {
            Ok(()) | Err(ApplyError::Alloc(_)) => {}
            Err(ApplyError::Run(error)) => panic!("the device refused {step:?}: {error}"),
        }
        bench.verify();
    }
}

/// A closure that fails commits nothing: the block is where it was.
pub fn refused_copies_commit_nothing<H: Harness>(harness: &mut H) {
    let mut bench = Bench::fragmented(harness);
    let mut plan = Plan::default();
    bench.arena.plan_room_into(Request::new(2 * bench.unit), &mut plan).expect("moving makes room");
    let before = bench.arena.stats();
    for step in plan.moves() {
        let refused = bench.arena.apply(step, |_, _| Err("not today"));
        assert_eq!(refused, Err(ApplyError::Run("not today")));
    }
    assert_eq!(bench.arena.stats(), before);
    bench.verify();
}

/// A plan is carried out in one, by copies that are made together; afterwards it is stale, and refused.
pub fn plans_are_carried_out_together<H: Harness>(harness: &mut H) {
    let mut bench = Bench::fragmented(harness);
    let plan = bench.arena.plan_compact(u64::MAX);
    let carried_out = bench.arena.apply_plan(&plan, |buffer, copies| buffer.copies_within(copies));
    assert!(carried_out.is_ok(), "{:?}", carried_out.err());
    assert_eq!(bench.arena.stats().moves, plan.moves().len() as u64);
    assert_eq!(bench.arena.largest_hole(), bench.arena.total_free());
    bench.verify();
    let again = bench.arena.apply_plan(&plan, |_, _| -> Result<(), CopiesRefused<AllocError>> {
        panic!("copies were asked for by a stale plan");
    });
    assert!(matches!(again, Err(ApplyError::Alloc(AllocError::StalePlan { .. }))), "{again:?}");
    bench.verify();
}

/// When a copy of a plan is refused, the blocks of those before it have moved, and the others are where they were.
pub fn a_plan_ends_where_a_copy_is_refused<H: Harness>(harness: &mut H) {
    for copied in 0..4 {
        let mut bench = Bench::fragmented(harness);
        let plan = bench.arena.plan_compact(u64::MAX);
        let applied = bench.arena.apply_plan(&plan, |buffer, copies| {
            let some = &copies[..copied.min(copies.len())];
            assert!(buffer.copies_within(some).is_ok(), "{some:?}");
            Err(CopiesRefused { made: some.len(), error: AllocError::ZeroSize })
        });
        let Err(ApplyError::Run(CopiesRefused { made, error: AllocError::ZeroSize })) = applied else {
            panic!("{applied:?}");
        };
        assert!(
            made >= copied && (made < plan.moves().len() || copied > 0),
            "{made} moves of {copied} copies"
        );
        for (number, step) in plan.moves().iter().enumerate() {
            let place = bench.arena.block(step.handle).expect("the block is live").range;
            assert_eq!(place, if number < made { step.dst_range() } else { step.src.clone() });
        }
        bench.verify();
        bench.arena.compact(u64::MAX).expect("the device copies");
        bench.verify();
    }
}

/// A compaction moves no more than its budget, and calls add up to a full one.
pub fn compaction_keeps_to_its_budget<H: Harness>(harness: &mut H) {
    let mut bench = Bench::fragmented(harness);
    let budget = 2 * bench.unit;
    loop {
        let moved = bench.arena.compact(budget).expect("the device copies");
        assert!(moved <= budget);
        bench.verify();
        if moved == 0 {
            break;
        }
    }
    assert_eq!(bench.arena.largest_hole(), bench.arena.total_free());
}

/// A block's view can be had wherever the block is, whatever its size.
pub fn views_cover_the_block<H: Harness>(harness: &mut H) {
    let mut bench = Bench::fragmented(harness);
    bench.allocate(1);
    bench.allocate(bench.unit + 1);
    for (handle, _) in &bench.live {
        assert!(bench.arena.view(*handle).is_ok(), "no view of {handle}");
    }
}

/// Random allocations and releases over a small arena: after each, every live block has its bytes.
pub fn churn_loses_no_byte<H: Harness>(harness: &mut H) {
    let mut bench = Bench::fragmented(harness);
    let mut random = 0x2545_F491_4F6C_DD1D_u64;
    for round in 0..if cfg!(miri) { 12 } else { 300 } {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        if random % 5 < 2 && !bench.live.is_empty() {
            bench.release((random >> 8) as usize);
        } else {
            let size = (random >> 8) % (3 * bench.unit) + 1;
            let request = Request::new(size).align(1 << ((random >> 32) % 5));
            match bench.arena.allocate(request) {
                Ok(handle) => bench.tag(handle),
                Err(ArenaError::Alloc(AllocError::OutOfMemory { .. })) => bench.release(round),
                Err(error) => panic!("{request:?}: {error}"),
            }
        }
        bench.verify();
        assert_eq!(bench.arena.allocator().check(), Ok(()));
    }
}

/// An arena whose blocks hold known bytes.
struct Bench<'a, H: Harness> {
    harness: &'a mut H,
    arena: Arena<H::Buffer>,
    /// Bytes of an ordinary block.
    unit: u64,
    /// Live blocks and the seeds of their bytes.
    live: Vec<(Handle, u64)>,
    tags: u64,
}

impl<'a, H: Harness> Bench<'a, H> {
    /// A full arena of ordinary blocks, every other one of which is gone.
    fn fragmented(harness: &'a mut H) -> Self {
        let (buffer, grain) = fresh(harness);
        let unit = (buffer.size() / 16).next_multiple_of(grain);
        let arena = Arena::new(buffer).expect("the buffer is not empty");
        let mut bench = Self { harness, arena, unit, live: Vec::new(), tags: 0 };
        while let Ok(handle) = bench.arena.allocate_in_place(Request::new(unit)) {
            bench.tag(handle);
        }
        // A rest shorter than a block would make the holes unequal: fill it.
        let rest = bench.arena.total_free();
        if rest > 0 {
            bench.allocate(rest);
        }
        for index in (0..8).rev() {
            bench.release(2 * index);
        }
        bench.verify();
        bench
    }

    fn allocate(&mut self, size: u64) {
        match self.arena.allocate(Request::new(size)) {
            Ok(handle) => self.tag(handle),
            Err(error) => panic!("{size} bytes: {error}"),
        }
    }

    fn release(&mut self, index: usize) {
        if !self.live.is_empty() {
            let (handle, _) = self.live.remove(index % self.live.len());
            self.arena.release(handle).expect("the block is live and not leased");
            assert_eq!(self.arena.range(handle), Err(AllocError::StaleHandle { handle }));
        }
    }

    /// Fills a new block with bytes of its own.
    fn tag(&mut self, handle: Handle) {
        self.tags += 1;
        let block = self.arena.block(handle).expect("the block is live");
        let bytes = pattern(self.tags, block.range.end - block.range.start);
        self.harness.write(self.arena.buffer_mut(), block.range.start, &bytes);
        self.live.push((handle, self.tags));
    }

    /// Every live block holds its bytes.
    fn verify(&mut self) {
        for (handle, tag) in &self.live {
            let range = self.arena.block(*handle).expect("the block is live").range;
            let found = self.harness.read(self.arena.buffer(), range.start, range.end - range.start);
            assert!(
                found == pattern(*tag, range.end - range.start),
                "block {handle} at {range:?} lost its bytes"
            );
        }
    }
}
