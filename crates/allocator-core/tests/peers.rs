//! The same requests to this allocator and to two others that move nothing.
//!
//! What either of them can place while the same blocks are live, this one can place too, at worst after moves. It
//! says nothing about speed; the benchmarks do.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on stops where it stands")]

use std::collections::BTreeMap;
use std::ops::Range;

use allocator_core::{BestFit, GoodFit, Handle, LowestOffset, OffsetAllocator, Placement, Request};

/// One request, live in all three.
struct Live {
    ours: Handle,
    peer: offset_allocator::Allocation,
    range: Range<u64>,
}

/// How many requests each refused where it stood. Ours had moved blocks before when it had to, the peers never do.
#[derive(Debug, Default, Clone, Copy)]
struct Refusals {
    ours: u32,
    offset_allocator: u32,
    range_alloc: u32,
    placed: u32,
}

fn same_stream<P: Placement>(placement: P, seed: u64, most: u64) -> Refusals {
    const SIZE: u64 = 1 << 18;
    let mut random = Random(seed * 2 + 1);
    let mut ours = OffsetAllocator::with_placement(SIZE, 1, placement).unwrap();
    let mut peer = offset_allocator::Allocator::<u32>::new(SIZE as u32);
    let mut ranges = range_alloc::RangeAllocator::new(0..SIZE);
    let mut live: Vec<Live> = Vec::new();
    let mut refusals = Refusals::default();
    for _ in 0..if cfg!(miri) { 50 } else { 4000 } {
        // Up to where requests are refused, and on from there.
        if !live.is_empty() && random.below(100) < 35 {
            let gone = live.swap_remove(random.below(live.len() as u64) as usize);
            ours.free(gone.ours).unwrap();
            peer.free(gone.peer);
            ranges.free_range(gone.range);
            continue;
        }
        let size = 1 + random.below(most);
        let request = Request::new(size);
        let (placed, range) = (peer.allocate(size as u32), ranges.allocate_range(size));
        let handle = ours.allocate(request).or_else(|refusal| {
            refusals.ours += 1;
            ours.plan_room(request)?.moves().iter().try_for_each(|step| ours.commit_move(step))?;
            ours.allocate(request).map_err(|_| refusal)
        });
        refusals.offset_allocator += u32::from(placed.is_none());
        refusals.range_alloc += u32::from(range.is_err());
        assert!(handle.is_ok() || (placed.is_none() && range.is_err()), "a peer places {size}: {handle:?}");
        // Only what all three have stays, so that all three hold the same.
        match (handle, placed, range) {
            (Ok(handle), Some(peer), Ok(range)) => {
                refusals.placed += 1;
                live.push(Live { ours: handle, peer, range });
            }
            (handle, placed, range) => {
                if let Ok(handle) = handle {
                    ours.free(handle).unwrap();
                }
                placed.into_iter().for_each(|placed| peer.free(placed));
                range.into_iter().for_each(|range| ranges.free_range(range));
            }
        }
        let stats = ours.stats();
        assert_eq!((stats.free, stats.blocks), (ranges.total_available(), live.len() as u64));
    }
    nothing_overlaps(&ours, &live);
    ours.check().unwrap();
    refusals
}

fn nothing_overlaps<P>(ours: &OffsetAllocator<P>, live: &[Live]) {
    let by_start: BTreeMap<u64, u64> = live
        .iter()
        .map(|block| ours.block(block.ours).unwrap().range)
        .map(|range| (range.start, range.end))
        .collect();
    assert_eq!(by_start.len(), live.len());
    let starts = by_start.keys().skip(1);
    assert!(by_start.values().zip(starts).all(|(end, next)| end <= next));
}

/// Over sizes that divide the range into few and into many blocks.
fn over_many_streams<P: Placement + Copy>(placement: P) {
    let mut sum = Refusals::default();
    for seed in 0..if cfg!(miri) { 1 } else { 6 } {
        for most in [60, 3_000, 20_000] {
            let refusals = same_stream(placement, seed, most);
            sum.ours += refusals.ours;
            sum.offset_allocator += refusals.offset_allocator;
            sum.range_alloc += refusals.range_alloc;
            sum.placed += refusals.placed;
        }
    }
    println!("refused where they stood: {sum:?}");
    assert!(sum.placed > 0 && (cfg!(miri) || sum.offset_allocator > 0));
}

#[test]
fn what_a_peer_places_good_fit_places() {
    over_many_streams(GoodFit);
}

#[test]
fn what_a_peer_places_best_fit_places() {
    over_many_streams(BestFit);
}

#[test]
fn what_a_peer_places_the_lowest_offset_places() {
    over_many_streams(LowestOffset);
}

/// The part of a full range that stays in use when blocks of one size come and go.
#[test]
fn equal_sizes_find_freed_blocks_again_as_the_best_peer_does() {
    for size in [2065_u64, 2048, 1000, 33] {
        let count = if cfg!(miri) { 20 } else { 500 };
        let range = size * count;
        let mut ours = OffsetAllocator::new(range).unwrap();
        let mut peer = offset_allocator::Allocator::<u32>::new(range as u32);
        let mut ranges = range_alloc::RangeAllocator::new(0..range);
        let mut live: Vec<_> = (0..count).map(|_| ours.allocate(Request::new(size)).unwrap()).collect();
        let mut others: Vec<_> = std::iter::from_fn(|| peer.allocate(size as u32)).collect();
        let mut third: Vec<_> = std::iter::from_fn(|| ranges.allocate_range(size).ok()).collect();
        let mut random = Random(7);
        for _ in 0..4 * count {
            let at = random.below(u64::MAX) as usize;
            ours.free(live.swap_remove(at % live.len())).unwrap();
            live.push(ours.allocate(Request::new(size)).unwrap());
            if !others.is_empty() {
                peer.free(others.swap_remove(at % others.len()));
            }
            others.extend(std::iter::from_fn(|| peer.allocate(size as u32)));
            ranges.free_range(third.swap_remove(at % third.len()));
            third.extend(std::iter::from_fn(|| ranges.allocate_range(size).ok()));
        }
        println!("{size}: {} of {count} live, peers {} and {}", live.len(), others.len(), third.len());
        assert_eq!(live.len() as u64, count);
        assert!(live.len() >= others.len() && live.len() >= third.len());
    }
}

/// xorshift64*: the same requests on every machine.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 16) % limit
    }
}
