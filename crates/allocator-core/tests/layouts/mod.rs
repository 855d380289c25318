//! What every plan promises, checked on any layout of blocks, holes and leases.
//!
//! `plan_promises.rs` runs it on random layouts, the fuzz target `plan` of the repository's `fuzz/` on mutated ones. It does
//! not say how good a plan is: `plan_optimum.rs` does.

use allocator_core::{AllocError, GoodFit, OffsetAllocator, Placement, Plan, Request};

/// A layout and what is asked of it.
#[derive(Debug, Clone)]
pub(crate) struct Case {
    pub(crate) grain_log2: u8,
    pub(crate) blocks: Vec<Block>,
    /// Bytes behind the last block.
    pub(crate) tail: u16,
    pub(crate) size: u16,
    pub(crate) align_log2: u8,
    pub(crate) budget: u16,
}

/// A block, or what was one.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Block {
    pub(crate) len: u16,
    pub(crate) align_log2: u8,
    pub(crate) freed: bool,
    pub(crate) leased: bool,
}

impl Block {
    /// From two bytes of length and one of everything else.
    pub(crate) fn of([low, high, rest]: [u8; 3]) -> Block {
        let len = u16::from_le_bytes([low, high]) % 512 + 1;
        Block { len, align_log2: rest % 8 % 6, freed: rest >> 3 & 7 < 3, leased: rest >> 6 == 0 }
    }
}

/// Checks every promise of `plan_room` and `plan_compact` on one layout.
pub(crate) fn check(case: &Case) {
    let Some(offsets) = layout(case) else { return };
    let most = 1 << (case.align_log2 % 10);
    let request = Request::new(u64::from(case.size) + 1).align(most);
    room(&offsets(), offsets(), request);
    compact(offsets(), u64::from(case.budget));
    slide(offsets());
}

/// Makes the layout as often as asked; `None` when it is empty. All are made of the same calls, so they are equal but for
/// their handles' owner.
fn layout(case: &Case) -> Option<impl Fn() -> OffsetAllocator> {
    let grain = 1_u64 << (case.grain_log2 % 7);
    let lengths = case.blocks.iter().map(|block| u64::from(block.len).next_multiple_of(grain) + (1 << 9));
    let size = (lengths.sum::<u64>() + u64::from(case.tail)).next_multiple_of(grain);
    let case = case.clone();
    (size > 0).then_some(move || {
        let mut offsets = OffsetAllocator::with_placement(size, grain, GoodFit).unwrap();
        let mut gone = Vec::new();
        for block in &case.blocks {
            let request = Request::new(u64::from(block.len)).align(1 << block.align_log2);
            let handle = offsets.allocate(request).unwrap();
            if block.freed {
                gone.push(handle);
            } else if block.leased {
                offsets.lease(handle).unwrap();
            }
        }
        for handle in gone {
            offsets.free(handle).unwrap();
        }
        // No more room at the end than the case asks for.
        let least = offsets.least_size();
        let end = (least + u64::from(case.tail)).next_multiple_of(grain).min(size);
        offsets.resize(end).unwrap();
        offsets
    })
}

fn room(before: &OffsetAllocator, mut offsets: OffsetAllocator, request: Request) {
    let mut plan = Plan::default();
    let planned = offsets.plan_room_into(request, &mut plan);
    let fits = offsets.find(request).is_ok();
    match planned {
        Ok(()) => {
            assert_eq!(plan.is_empty(), fits, "moves exactly when they are needed");
            execute(&mut offsets, &plan);
            assert!(offsets.find(request).is_ok(), "the plan made no room");
            assert_eq!(offsets.stats().moved_bytes, plan.bytes());
            walls_stand(before, &offsets);
        }
        Err(AllocError::OutOfMemory { free, requested, .. }) => {
            assert!(plan.is_empty() && !fits);
            let grain = offsets.grain();
            let simple = offsets.blocks().all(|block| block.leases == 0 && block.align <= grain);
            let enough = free >= requested.next_multiple_of(grain);
            assert!(!(simple && request.align <= grain && enough), "a plan exists and was not found");
        }
        Err(error) => panic!("{error}"),
    }
}

fn compact(mut offsets: OffsetAllocator, budget: u64) {
    let before = offsets.blocks().map(|block| block.handle).collect::<Vec<_>>();
    let mut plan = Plan::default();
    // Each pass lowers some block, so it comes to an end.
    let passes = (0_u32..).take_while(|_| {
        offsets.plan_compact_into(budget, &mut plan);
        assert!(plan.bytes() <= budget);
        assert!(plan.moves().iter().all(|step| step.dst < step.src.start), "down and nowhere else");
        execute(&mut offsets, &plan);
        !plan.is_empty()
    });
    assert!(passes.count() < 100_000);
    let longest = offsets.blocks().map(|block| block.range.end - block.range.start).max();
    if longest.is_some_and(|longest| longest <= budget) {
        assert!(offsets.plan_slide().is_empty(), "a budget that any block fits ends where the slide does");
    }
    let after = offsets.blocks().map(|block| block.handle).collect::<Vec<_>>();
    assert_eq!(before, after, "compaction keeps the order");
}

fn slide(mut offsets: OffsetAllocator) {
    let plan = offsets.plan_slide();
    execute(&mut offsets, &plan);
    assert!(offsets.plan_slide().is_empty());
    let mut end = 0;
    for block in offsets.blocks() {
        let lowest = u64::next_multiple_of(end, block.align);
        assert!(block.leases > 0 || block.range.start == lowest, "it could lie lower");
        end = block.range.end;
    }
}

/// Makes every move; what `commit_move` checks (aligned, free, not leased) is checked here a second time.
fn execute<P: Placement>(offsets: &mut OffsetAllocator<P>, plan: &Plan) {
    for step in plan.moves() {
        let block = offsets.block(step.handle).unwrap();
        assert_eq!((block.leases, block.range.clone()), (0, step.src.clone()));
        assert!(step.dst.is_multiple_of(block.align) && step.dst_range().end <= offsets.size());
        let others = offsets.blocks().filter(|other| other.handle != step.handle);
        let apart = |other: &allocator_core::Block| {
            other.range.end <= step.dst || step.dst_range().end <= other.range.start
        };
        assert!(others.into_iter().all(|other| apart(&other)), "{step:?} runs over a block");
        offsets.commit_move(step).unwrap();
        offsets.check().unwrap();
    }
}

fn walls_stand(before: &OffsetAllocator, after: &OffsetAllocator) {
    let walls = |offsets: &OffsetAllocator| {
        let leased = offsets.blocks().filter(|block| block.leases > 0);
        leased.map(|block| (block.handle.index(), block.range)).collect::<Vec<_>>()
    };
    assert_eq!(walls(before), walls(after));
}
