//! The promises of [`Remap`], one function each.

use alloc::vec::Vec;
use core::ops::Range;

use super::{Harness, pattern};
use crate::{AllocError, Arena, ArenaError, DeviceBuffer, Handle, Remap, Request, remap_or_copy};

/// The granule is a power of two and a multiple of the grain.
pub fn granule_is_a_power_of_two_of_grains<H: Harness<Buffer: Remap>>(harness: &mut H) {
    let buffer = harness.make(4096);
    assert!(buffer.granule().is_power_of_two());
    assert_eq!(buffer.granule() % buffer.grain(), 0);
}

/// Granules arrive whole at a destination apart from the source; every other granule is untouched.
pub fn whole_granules_move_up_and_down<H: Harness<Buffer: Remap>>(harness: &mut H) {
    moves(harness, &[(0..1, 5), (6..7, 1), (0..3, 4), (5..8, 1)]);
}

/// Source and destination may touch.
pub fn neighbouring_granules_move<H: Harness<Buffer: Remap>>(harness: &mut H) {
    moves(harness, &[(0..1, 1), (1..2, 0), (0..4, 4), (4..8, 0)]);
}

/// Copies see what remapping brought, and remapping brings what copies wrote.
pub fn copies_work_after_a_remap<H: Harness<Buffer: Remap>>(harness: &mut H) {
    let (mut buffer, granule, before) = fresh(harness);
    let grain = buffer.grain();
    let granules = |range: Range<u64>| range.start * granule..range.end * granule;
    buffer.remap(granules(0..1), 2 * granule).expect("a whole granule moves");
    buffer.copy_within(granules(2..3), 3 * granule - grain).expect("a copy within bounds");
    buffer.remap(granules(3..4), 6 * granule).expect("a whole granule moves");
    let found = harness.read(&buffer, 6 * granule, granule - grain);
    assert!(found == before[grain as usize..granule as usize], "the copied bytes did not arrive");
}

/// A move that begins and ends within granules is made by both means, also where the ranges overlap.
pub fn ragged_moves_are_remapped_and_copied<H: Harness<Buffer: Remap>>(harness: &mut H) {
    let (mut buffer, granule, before) = fresh(harness);
    let grain = buffer.grain();
    let src = 3 * granule - grain..6 * granule + grain;
    let len = src.end - src.start;
    let host = |range: Range<u64>| range.start as usize..range.end as usize;
    // Down by one granule, and up again by two.
    for (from, dst) in [(src.start, src.start - granule), (src.start - granule, src.start + granule)] {
        let moved = remap_or_copy(&mut buffer, from..from + len, dst).expect("a move within bounds");
        assert_eq!(moved, 3 * granule, "{len} bytes from {from} to {dst}");
        assert!(harness.read(&buffer, dst, len) == before[host(src.clone())], "{from} to {dst}: bytes lost");
    }
    let moved = remap_or_copy(&mut buffer, granule..4 * granule, grain).expect("a move within bounds");
    assert_eq!(moved, 0, "no granule takes the place of a granule");
}

/// Random allocations and releases over an arena whose moves remap: every live block keeps its bytes, and blocks
/// aligned to the granule are remapped.
pub fn arena_that_remaps_loses_no_byte<H: Harness<Buffer: Remap>>(harness: &mut H) {
    let (buffer, granule, _) = fresh(harness);
    let mut arena = Arena::new(buffer).expect("the buffer is not empty");
    arena.set_remap(true);
    let mut live: Vec<(Handle, u64)> = Vec::new();
    let mut random = 0x2545_F491_4F6C_DD1D_u64;
    for round in 0..if cfg!(miri) { 8 } else { 40 } {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        let size = (random >> 8) % (2 * granule) + granule / 2 + 1;
        let request =
            if random.is_multiple_of(4) { Request::new(size) } else { Request::new(size).align(granule) };
        match arena.allocate(request) {
            Ok(handle) => {
                let range = arena.block(handle).expect("the block is live").range;
                let bytes = pattern(round, range.end - range.start);
                harness.write(arena.buffer_mut(), range.start, &bytes);
                live.push((handle, round));
            }
            Err(ArenaError::Alloc(AllocError::OutOfMemory { .. })) if !live.is_empty() => {
                let (handle, _) = live.remove((random >> 40) as usize % live.len());
                arena.release(handle).expect("the block is live");
                let compacted = if random.is_multiple_of(3) {
                    arena.compact_pages(u64::MAX)
                } else {
                    arena.compact(u64::MAX)
                };
                compacted.expect("the device moves");
            }
            Err(error) => panic!("{request:?}: {error}"),
        }
        for (handle, tag) in &live {
            let range = arena.block(*handle).expect("the block is live").range;
            let len = range.end - range.start;
            let found = harness.read(arena.buffer(), range.start, len);
            assert!(found == pattern(*tag, len), "block {handle} at {range:?} lost its bytes");
        }
    }
    assert!(cfg!(miri) || arena.remapped_bytes() > 0, "nothing was remapped");
    assert!(arena.remapped_bytes() <= arena.stats().moved_bytes);
}

/// Offsets or lengths that are no multiples of the granule are refused, and nothing changes.
pub fn off_the_granule_is_refused<H: Harness<Buffer: Remap>>(harness: &mut H) {
    refused(harness, |granule, grain| {
        let cases =
            [(grain..granule + grain, 2 * granule), (0..grain, granule), (0..granule, 2 * granule + grain)];
        if granule == grain { Vec::new() } else { Vec::from(cases) }
    });
}

/// Overlapping ranges are refused, and nothing changes.
pub fn overlap_is_refused<H: Harness<Buffer: Remap>>(harness: &mut H) {
    refused(harness, |granule, _| {
        Vec::from([(0..2 * granule, granule), (granule..3 * granule, 0), (0..granule, 0)])
    });
}

/// Ranges beyond the end, overflowing or inverted are refused, and nothing changes.
pub fn out_of_bounds_is_refused<H: Harness<Buffer: Remap>>(harness: &mut H) {
    refused(harness, |granule, _| {
        let (end, last) = (1 << 40, u64::MAX - (granule - 1));
        let inverted = Range { start: 2 * granule, end: granule };
        Vec::from([(0..granule, end), (end..end + granule, 0), (0..granule, last), (inverted, 4 * granule)])
    });
}

/// A buffer of at least eight granules that holds a pattern; its granule; the pattern.
fn fresh<H: Harness<Buffer: Remap>>(harness: &mut H) -> (H::Buffer, u64, Vec<u8>) {
    let granule = harness.make(4096).granule();
    let mut buffer = harness.make(8 * granule);
    let before = pattern(4, buffer.size());
    harness.write(&mut buffer, 0, &before);
    (buffer, granule, before)
}

fn moves<H: Harness<Buffer: Remap>>(harness: &mut H, cases: &[(Range<u64>, u64)]) {
    for (src, dst) in cases {
        let (mut buffer, granule, before) = fresh(harness);
        let (src, dst) = (src.start * granule..src.end * granule, dst * granule);
        let moved = buffer.remap(src.clone(), dst);
        assert!(moved.is_ok(), "remap of {src:?} to {dst}: {:?}", moved.err());
        let after = harness.read(&buffer, 0, buffer.size());
        let len = src.end - src.start;
        for (at, (after, before_here)) in after.iter().zip(&before).enumerate() {
            let at = at as u64;
            let expected = match () {
                () if (dst..dst + len).contains(&at) => before[(at - dst + src.start) as usize],
                () if src.contains(&at) => continue,
                () => *before_here,
            };
            assert_eq!(*after, expected, "remap of {src:?} to {dst}: byte {at}");
        }
    }
}

fn refused<H: Harness<Buffer: Remap>>(harness: &mut H, cases: impl Fn(u64, u64) -> Vec<(Range<u64>, u64)>) {
    let (mut buffer, granule, before) = fresh(harness);
    for (src, dst) in cases(granule, buffer.grain()) {
        assert!(buffer.remap(src.clone(), dst).is_err(), "remap of {src:?} to {dst} was not refused");
    }
    assert!(harness.read(&buffer, 0, buffer.size()) == before, "a refused remap changed bytes");
}
