//! What went wrong in other allocators, each once, so that it does not go wrong here.
//!
//! A test is named after what must hold; its first comment says whose bug it was.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on stops where it stands")]

use std::ops::Range;

use allocator_core::{AllocError, Handle, Move, OffsetAllocator, Plan, Request, Verdict};

fn filled(size: u64, sizes: &[u64]) -> (OffsetAllocator, Vec<Handle>) {
    let mut offsets = OffsetAllocator::new(size).unwrap();
    let handles = sizes.iter().map(|size| offsets.allocate(Request::new(*size)).unwrap()).collect();
    (offsets, handles)
}

fn holes(offsets: &OffsetAllocator) -> Vec<Range<u64>> {
    offsets.check().unwrap();
    offsets.holes().collect()
}

#[test]
fn growing_extends_the_last_hole_only_where_it_touches_the_end() {
    // range-alloc up to 0.1.3: `grow_to` extended the last hole wherever it was, over the block behind it.
    let (mut offsets, blocks) = filled(10, &[2, 2, 6]);
    offsets.free(blocks[1]).unwrap();
    offsets.resize(16).unwrap();
    assert_eq!(holes(&offsets), [2..4, 10..16]);
    let new = offsets.allocate(Request::new(6)).unwrap();
    assert_eq!(offsets.block(new), offsets.blocks().last().ok_or(AllocError::ZeroSize));
    assert_eq!(offsets.block(new).unwrap().range, 10..16);
    // The other case: the hole at the end grows and stays one.
    offsets.free(new).unwrap();
    offsets.resize(20).unwrap();
    assert_eq!(holes(&offsets), [2..4, 10..20]);
    offsets.resize(10).unwrap();
    assert_eq!(holes(&offsets), [2..4; 1]);
}

#[test]
fn offsets_are_not_cut_to_fewer_bits() {
    // offset-allocator 0.2.0 with u16 indices: the second block of 65,536 came to lie at 0, over the first.
    for unit in [1 << 16, 1 << 31, 1 << 32, 1 << 33, 1 << 61] {
        let (mut offsets, blocks) = filled(7 * unit, &[unit; 7]);
        for (block, start) in blocks.iter().zip((0..).step_by(unit as usize)) {
            assert_eq!(offsets.block(*block).unwrap().range, start..start + unit);
        }
        offsets.free(blocks[5]).unwrap();
        assert_eq!(holes(&offsets), [5 * unit..6 * unit; 1]);
        let again = offsets.allocate(Request::new(unit)).unwrap();
        assert_eq!(offsets.block(again).unwrap().range.start, 5 * unit);
    }
}

#[test]
fn a_stale_handle_frees_nobody_elses_block() {
    // offset-allocator 0.2.0: handles have no generation, a second free hit the next tenant (ABA).
    let (mut offsets, blocks) = filled(64, &[32]);
    let stale = blocks[0];
    offsets.free(stale).unwrap();
    let tenant = offsets.allocate(Request::new(32)).unwrap();
    assert_eq!(tenant.index(), stale.index(), "the slot is used again, or this shows nothing");
    let error = AllocError::StaleHandle { handle: stale };
    assert_eq!(offsets.free(stale), Err(error));
    assert_eq!(offsets.resize_block(stale, 1), Err(error));
    assert_eq!(offsets.lease(stale), Err(error));
    assert_eq!(offsets.check_move(&Move { handle: stale, src: 0..32, dst: 32 }), Err(error));
    let other = offsets.allocate(Request::new(32)).unwrap();
    assert_eq!(offsets.block(tenant).unwrap().range, 0..32);
    assert_eq!(offsets.block(other).unwrap().range, 32..64);
}

#[test]
fn all_that_is_free_can_be_had_in_one_piece() {
    // offset-allocator 0.2.0: `Allocator::new(12345).allocate(12345)` is `None`; rlsf #15, rounded up to a class.
    for size in (1..300).chain([12_345, (1 << 20) - 1, (1 << 20) + 1, (1 << 53) + 1, u64::MAX - 1]) {
        for spare in 0..size.min(3) {
            let (mut offsets, blocks) = filled(size, &[size - spare]);
            assert_eq!(offsets.stats().free, spare);
            assert!(spare == 0 || offsets.allocate(Request::new(spare)).is_ok());
            offsets.free(blocks[0]).unwrap();
            assert_eq!(offsets.stats().largest_hole, size - spare);
            assert!(offsets.allocate(Request::new(size - spare)).is_ok());
        }
    }
}

#[test]
fn as_many_blocks_fit_as_there_are_grains() {
    // OffsetAllocator #3: with room for four allocations, two could be made.
    for grains in [1, 2, 4, 1000] {
        let mut offsets = OffsetAllocator::with_grain(grains * 16, 16).unwrap();
        let blocks: Vec<_> = (0..grains).map(|_| offsets.allocate(Request::new(16)).unwrap()).collect();
        assert!(matches!(offsets.allocate(Request::new(1)), Err(AllocError::OutOfMemory { free: 0, .. })));
        for block in &blocks {
            offsets.free(*block).unwrap();
        }
        assert_eq!(holes(&offsets), [0..grains * 16; 1]);
    }
}

#[test]
fn survivors_keep_their_names_through_a_cleanup() {
    // cubecl #1384, #1401: `cleanup` renumbered the pages, and handles with the old number hit others.
    let (mut offsets, blocks) = filled(1000, &[10; 100]);
    let survivors: Vec<_> = blocks.iter().copied().skip(3).step_by(7).collect();
    for block in blocks.iter().filter(|block| !survivors.contains(block)) {
        offsets.free(*block).unwrap();
    }
    let indices: Vec<_> = survivors.iter().map(|block| block.index()).collect();
    for step in offsets.plan_slide().moves() {
        offsets.commit_move(step).unwrap();
    }
    offsets.resize(offsets.least_size()).unwrap();
    let newcomers: Vec<_> = (0..5).map(|_| offsets.allocate(Request::new(1))).collect();
    assert!(newcomers.iter().all(Result::is_err), "there is no room left to confuse anything with");
    for (at, (survivor, index)) in (0..).zip(survivors.iter().zip(indices)) {
        let block = offsets.block(*survivor).unwrap();
        assert_eq!((block.handle, block.range), (*survivor, at * 10..at * 10 + 10));
        assert_eq!(survivor.index(), index);
    }
    offsets.check().unwrap();
}

#[test]
fn blocks_beyond_the_budget_never_stop_compaction() {
    // VMA #327: the counter of oversize blocks that were skipped was not reset; later passes ended at once.
    let sizes: Vec<u64> = (0..120).map(|at| if at % 3 == 0 { 100 } else { 4 }).collect();
    let (mut offsets, blocks) = filled(sizes.iter().sum(), &sizes);
    for gone in blocks.iter().skip(1).step_by(3) {
        offsets.free(*gone).unwrap();
    }
    let (mut plan, mut passes) = (Plan::default(), 0);
    loop {
        offsets.plan_compact_into(8, &mut plan);
        if plan.is_empty() {
            break;
        }
        assert!(plan.bytes() <= 8);
        for step in plan.moves() {
            assert_eq!(step.len(), 4, "a block above the budget moved");
            offsets.commit_move(step).unwrap();
        }
        passes += 1;
    }
    // Forty small blocks, each with a hole between it and a large one below: two of them a pass.
    assert_eq!(passes, 20);
    // With a budget that any block fits, nothing is left behind.
    while offsets.plan_compact(100).moves().iter().fold(false, |_, step| offsets.commit_move(step).is_ok()) {}
    assert_eq!(holes(&offsets).len(), 1);
}

#[test]
fn an_empty_report_divides_by_nothing() {
    // cubecl: the usage of an empty pool was NaN %.
    let (mut offsets, _) = filled(1, &[]);
    let stats = offsets.stats();
    assert_eq!((stats.live, stats.blocks, stats.holes, stats.largest_hole), (0, 0, 1, 1));
    assert_eq!((offsets.occupancy(0), offsets.occupancy(3)), (String::new(), "...".to_owned()));
    assert_eq!(offsets.explain(Request::new(1)).verdict, Verdict::Fits);
    assert!(offsets.plan_slide().is_empty() && offsets.plan_compact(0).is_empty());
    offsets.allocate(Request::new(1)).unwrap();
    let stats = offsets.stats();
    assert_eq!((stats.free, stats.holes, stats.largest_hole), (0, 0, 0));
    let explanation = offsets.explain(Request::new(1));
    assert_eq!((explanation.verdict, explanation.reachable), (Verdict::Full { missing: 1 }, 0));
    assert!(!explanation.to_string().contains("NaN") && offsets.plan_slide().is_empty());
}

#[test]
fn a_block_slides_into_a_gap_shorter_than_itself() {
    // VMA: a destination must be wholly free, so a block longer than the gap below it never moves.
    let (mut offsets, blocks) = filled(100, &[10, 80, 10]);
    offsets.free(blocks[0]).unwrap();
    let plan = offsets.plan_compact(80);
    assert_eq!(plan.moves(), [Move { handle: blocks[1], src: 10..90, dst: 0 }]);
    assert!(plan.moves()[0].overlaps());
    offsets.commit_move(&plan.moves()[0]).unwrap();
    assert_eq!(holes(&offsets), [80..90; 1]);
}

#[test]
fn a_block_freed_during_a_pass_takes_only_its_own_moves_along() {
    // D3D12MA #45: freeing an allocation between the begin and the end of a pass broke the pass.
    let (mut offsets, blocks) = filled(100, &[10; 10]);
    for gone in [0, 3, 6] {
        offsets.free(blocks[gone]).unwrap();
    }
    let plan = offsets.plan_slide();
    assert_eq!(plan.moves().len(), 7);
    offsets.free(blocks[4]).unwrap();
    for step in plan.moves() {
        let expected = if step.handle == blocks[4] {
            Err(AllocError::StaleHandle { handle: blocks[4] })
        } else {
            Ok(())
        };
        assert_eq!(offsets.commit_move(step), expected);
    }
    assert_eq!(holes(&offsets), [20..30, 70..100]);
}

#[test]
fn a_block_grows_in_place_under_the_same_name() {
    // bevy #17793: growing relocated the block, and handles kept elsewhere went stale.
    let (mut offsets, blocks) = filled(100, &[10, 10]);
    assert_eq!(offsets.resize_block(blocks[1], 90), Ok(10..100));
    assert_eq!(offsets.resize_block(blocks[1], 5), Ok(10..15));
    assert_eq!(
        offsets.resize_block(blocks[0], 11).unwrap_err().to_string().matches("room for 10").count(),
        1
    );
    assert_eq!(offsets.block(blocks[1]).unwrap().range, 10..15);
    assert_eq!(holes(&offsets), [15..100; 1]);
}

/// Ours: sums of two lengths of almost 2^64 bytes.
mod near_the_end_of_u64 {
    use super::*;

    const SIZE: u64 = u64::MAX;

    #[test]
    fn the_whole_is_resized() {
        let (mut offsets, _) = filled(SIZE, &[1]);
        offsets.resize(SIZE - 1).unwrap();
        assert_eq!(holes(&offsets), [1..SIZE - 1; 1]);
    }

    #[test]
    fn a_block_is_resized() {
        let (mut offsets, blocks) = filled(SIZE, &[SIZE / 4 * 3, SIZE / 8]);
        offsets.free(blocks[0]).unwrap();
        offsets.resize_block(blocks[1], 10).unwrap();
        assert_eq!(offsets.stats().live, 10);
        offsets.check().unwrap();
    }

    #[test]
    fn moves_are_counted() {
        let (mut offsets, blocks) = filled(SIZE, &[SIZE / 2]);
        for dst in [1, 0, 1, 0] {
            let src = offsets.block(blocks[0]).unwrap().range;
            offsets.commit_move(&Move { handle: blocks[0], src, dst }).unwrap();
        }
        assert_eq!(offsets.stats().moves, 4);
    }
}
