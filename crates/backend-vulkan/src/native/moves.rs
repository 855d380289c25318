//! How a copy within one buffer is made where source and destination may not overlap.

use allocator_core::disjoint_steps;
use core::ops::Range;

/// A way to copy within a buffer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Way {
    /// The ranges do not overlap: one copy.
    Once,
    /// Pieces as long as the distance, a barrier after each.
    Steps,
    /// Pieces as long as the scratch, each copied there and back.
    Bounce,
}

/// What a copy costs, in bytes that could be copied in the same time.
#[derive(Debug, Clone, Copy)]
pub(super) struct Cost {
    /// A barrier between two copies.
    pub(super) barrier: u64,
    /// Length of the scratch.
    pub(super) scratch: u64,
}

impl Cost {
    /// The cheapest way to copy `len` bytes by `distance`.
    ///
    /// Steps copy each byte once, with `len / distance` barriers. A bounce copies it twice, with two barriers for each
    /// scratch full.
    pub(super) fn way(self, len: u64, distance: u64) -> Way {
        if distance >= len {
            return Way::Once;
        }
        let times = |count: u64| self.barrier.saturating_mul(count);
        let steps = len.saturating_add(times(len.div_ceil(distance)));
        let bounce = len.saturating_mul(2).saturating_add(times(2 * len.div_ceil(self.scratch.max(1))));
        if steps <= bounce { Way::Steps } else { Way::Bounce }
    }
}

/// Source, destination offset of each copy of [`Way::Once`] and [`Way::Steps`], in order.
pub(super) fn direct(src: Range<u64>, dst: u64) -> impl Iterator<Item = (Range<u64>, u64)> {
    disjoint_steps(src, dst, 0)
}

/// Source and destination offset of each piece of [`Way::Bounce`], in an order that overwrites no byte still to be
/// read.
pub(super) fn pieces(src: Range<u64>, dst: u64, scratch: u64) -> impl Iterator<Item = (Range<u64>, u64)> {
    let count = (src.end - src.start).div_ceil(scratch);
    let up = dst > src.start;
    (0..count).map(move |number| {
        let number = if up { count - 1 - number } else { number };
        let from = src.start + number * scratch;
        (from..(from + scratch).min(src.end), dst + number * scratch)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_distance_decides() {
        let cost = Cost { barrier: 100, scratch: 1000 };
        assert_eq!(cost.way(500, 500), Way::Once);
        assert_eq!(cost.way(500, 499), Way::Steps);
        assert_eq!(cost.way(10_000, 1), Way::Bounce);
        // 10 000 + 100 × 100 = 20 000 against 20 000 + 20 × 100.
        assert_eq!(cost.way(10_000, 100), Way::Steps);
        assert_eq!(cost.way(10_000, 50), Way::Bounce);
        assert_eq!(cost.way(u64::MAX / 2, 1), Way::Steps, "saturates");
    }

    /// Both ways, over a model of memory that forbids overlap.
    #[test]
    fn every_way_is_a_memmove() {
        for (src, dst) in [(10..90u64, 0), (0..80, 10), (5..77, 6), (6..78, 5), (0..20, 60), (30..31, 0)] {
            let before: Vec<u8> = (0..100).collect();
            let mut wanted = before.clone();
            wanted.copy_within(src.start as usize..src.end as usize, dst as usize);
            let mut memory = before.clone();
            for (from, to) in direct(src.clone(), dst) {
                assert!(
                    from.end <= to || to + (from.end - from.start) <= from.start,
                    "{from:?} to {to} overlaps"
                );
                memory.copy_within(from.start as usize..from.end as usize, to as usize);
            }
            assert_eq!(memory, wanted, "steps from {src:?} to {dst}");
            let mut memory = before;
            for (from, to) in pieces(src.clone(), dst, 7) {
                memory.copy_within(from.start as usize..from.end as usize, to as usize);
            }
            assert_eq!(memory, wanted, "bounce from {src:?} to {dst}");
        }
    }
}
