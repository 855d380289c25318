//! Copies with memmove semantics where the device forbids overlap: which way is cheapest, and in which pieces.

use core::ops::Range;

/// How a copy within one buffer is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CopyWay {
    /// The ranges do not overlap: one copy.
    Once,
    /// Pieces no longer than the distance, one after the other: [`disjoint_steps`].
    Steps,
    /// Pieces as long as a scratch buffer, each copied there and back: [`bounce_pieces`].
    Bounce,
}

/// What copies cost on a device, in bytes that could be copied in the same time.
///
/// ```
/// use allocator_core::{CopyCost, CopyWay};
/// let cost = CopyCost { start: 64 << 10, scratch: 4 << 20 };
/// assert_eq!(cost.way(1 << 20, 1 << 20), CopyWay::Once);
/// assert_eq!(cost.way(1 << 20, 256 << 10), CopyWay::Steps); // 4 starts, each byte once
/// assert_eq!(cost.way(1 << 20, 4 << 10), CopyWay::Bounce); // 256 starts would cost 16 MiB
/// assert_eq!(cost.of(1 << 20, 4 << 10), (2 << 20) + 2 * cost.start);
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CopyCost {
    /// One more copy that has to wait for the one before it: its launch, its barrier.
    pub start: u64,
    /// Length of the scratch buffer; 0: there is none.
    pub scratch: u64,
}

impl CopyCost {
    /// The cheapest way to copy `len` bytes by `distance` bytes. O(1).
    ///
    /// Steps copy each byte once, in `len / distance` copies. A bounce copies it twice, in two copies for each
    /// scratch full.
    #[must_use]
    pub fn way(self, len: u64, distance: u64) -> CopyWay {
        self.cheapest(len, distance).0
    }

    /// What a copy of `len` bytes by `distance` bytes costs the cheapest way, in bytes. O(1).
    #[must_use]
    pub fn of(self, len: u64, distance: u64) -> u64 {
        self.cheapest(len, distance).1
    }

    fn cheapest(self, len: u64, distance: u64) -> (CopyWay, u64) {
        let copies = |bytes: u64, count: u64| bytes.saturating_add(self.start.saturating_mul(count));
        if distance == 0 || len == 0 {
            return (CopyWay::Once, 0);
        }
        if distance >= len {
            return (CopyWay::Once, copies(len, 1));
        }
        let steps = (CopyWay::Steps, copies(len, len.div_ceil(distance)));
        if self.scratch == 0 {
            return steps;
        }
        let fills = len.div_ceil(self.scratch).saturating_mul(2);
        let bounce = (CopyWay::Bounce, copies(len.saturating_mul(2), fills));
        if steps.1 <= bounce.1 { steps } else { bounce }
    }
}

/// Source and destination offset of each piece of a copy by way of a scratch buffer of `scratch` bytes, in the order
/// that overwrites no byte still to be read: ascending when moving down, descending when moving up.
///
/// Each piece is read whole before it is written, so pieces may be longer than the distance. A scratch of 0 bytes
/// yields nothing.
pub fn bounce_pieces(src: Range<u64>, dst: u64, scratch: u64) -> impl Iterator<Item = (Range<u64>, u64)> {
    let count = if scratch == 0 { 0 } else { src.end.saturating_sub(src.start).div_ceil(scratch) };
    let up = dst > src.start;
    (0..count).map(move |number| {
        let number = if up { count - 1 - number } else { number };
        let from = src.start + number * scratch;
        (from..src.end.min(from.saturating_add(scratch)), dst + number * scratch)
    })
}

/// Splits a copy with memmove semantics into copies whose source and destination never overlap.
///
/// Each piece is at most as long as the distance moved (and at most `max_piece`), and pieces come in the
/// order that overwrites no byte still to be read: ascending when moving down, descending when moving up.
/// Source: the chunked slide of DeepSpeed's `ContiguousMemoryAllocator._defragment_memory`, in both
/// directions. Yields nothing when the distance or the length is zero. `max_piece` of zero means no bound; another is a
/// multiple of the device's grain. Both ranges lie in one buffer: see [`check_copy`](crate::check_copy).
///
/// ```
/// use allocator_core::disjoint_steps;
/// // 10 bytes move down by 4: three pieces, none of which overlaps itself.
/// let steps: Vec<_> = disjoint_steps(4..14, 0, 0).collect();
/// assert_eq!(steps, [(4..8, 0), (8..12, 4), (12..14, 8)]);
/// // Up by 4: from the top.
/// let steps: Vec<_> = disjoint_steps(0..10, 4, 0).collect();
/// assert_eq!(steps, [(6..10, 10), (2..6, 6), (0..2, 4)]);
/// ```
pub fn disjoint_steps(src: Range<u64>, dst: u64, max_piece: u64) -> DisjointSteps {
    let distance = src.start.abs_diff(dst);
    let piece = if max_piece == 0 { distance } else { distance.min(max_piece) };
    let up = dst > src.start;
    let rest = if distance == 0 { src.start..src.start } else { src.clone() };
    DisjointSteps { rest, origin: src.start, dst, piece, up }
}

/// Iterator over `(source range, destination offset)`; see [`disjoint_steps`].
#[derive(Debug, Clone)]
pub struct DisjointSteps {
    rest: Range<u64>,
    origin: u64,
    dst: u64,
    piece: u64,
    up: bool,
}

impl Iterator for DisjointSteps {
    type Item = (Range<u64>, u64);

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        let len = self.piece.min(self.rest.end - self.rest.start);
        let src = if self.up {
            let from = self.rest.end - len;
            self.rest.end = from;
            from..from + len
        } else {
            let from = self.rest.start;
            self.rest.start += len;
            from..from + len
        };
        let dst = self.dst + (src.start - self.origin);
        Some((src, dst))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec::Vec;

    #[test]
    fn the_distance_decides() {
        let cost = CopyCost { start: 100, scratch: 1000 };
        assert_eq!(cost.way(500, 500), CopyWay::Once);
        assert_eq!(cost.way(500, 499), CopyWay::Steps);
        assert_eq!(cost.way(10_000, 1), CopyWay::Bounce);
        // 10 000 + 100 × 100 = 20 000 against 20 000 + 20 × 100.
        assert_eq!(cost.way(10_000, 100), CopyWay::Steps);
        assert_eq!(cost.way(10_000, 50), CopyWay::Bounce);
        assert_eq!(CopyCost { scratch: 0, ..cost }.way(10_000, 1), CopyWay::Steps);
        assert_eq!(cost.way(u64::MAX / 2, 1), CopyWay::Steps, "saturates");
        assert_eq!(cost.way(1000, 0), CopyWay::Once, "no copy at all");
        assert_eq!([cost.of(1000, 0), cost.of(500, 500), cost.of(10_000, 100)], [0, 600, 20_000]);
        assert_eq!(cost.of(10_000, 50), 22_000);
    }

    /// Both ways, over a model of memory that forbids overlap.
    #[test]
    fn every_way_is_a_memmove() {
        for (src, dst) in [(10..90u64, 0), (0..80, 10), (5..77, 6), (6..78, 5), (0..20, 60), (30..31, 0)] {
            let before: Vec<u8> = (0..100).collect();
            let mut wanted = before.clone();
            wanted.copy_within(src.start as usize..src.end as usize, dst as usize);
            let mut memory = before.clone();
            for (from, to) in disjoint_steps(src.clone(), dst, 0) {
                let apart = from.end <= to || to + (from.end - from.start) <= from.start;
                assert!(apart, "{from:?} to {to} overlaps");
                memory.copy_within(from.start as usize..from.end as usize, to as usize);
            }
            assert_eq!(memory, wanted, "steps from {src:?} to {dst}");
            let mut memory = before;
            for (from, to) in bounce_pieces(src.clone(), dst, 7) {
                memory.copy_within(from.start as usize..from.end as usize, to as usize);
            }
            assert_eq!(memory, wanted, "bounce from {src:?} to {dst}");
        }
        assert_eq!(bounce_pieces(0..10, 5, 0).count(), 0);
    }
}
