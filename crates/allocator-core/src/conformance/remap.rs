//! The promises of [`Remap`], one function each.

use alloc::vec::Vec;
use core::ops::Range;

use super::{Harness, pattern};
use crate::{DeviceBuffer, Remap};

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
