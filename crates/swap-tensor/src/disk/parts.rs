//! The parts of an extent, and the checksum of each, put together from those of the pieces it is transferred in.

use super::DiskError;
use core::ops::Range;
use std::sync::OnceLock;

/// A part of an extent that is read by itself.
#[derive(Debug, Clone)]
pub(super) struct Part {
    /// Where in the extent.
    pub(super) range: Range<u64>,
    /// Of its bytes, as they were written.
    pub(super) crc: u32,
    /// It will not be read again.
    pub(super) dead: bool,
}

impl Part {
    pub(super) fn bytes(&self) -> u64 {
        self.range.end - self.range.start
    }
}

/// Checksums in the making: each piece of a transfer brings those of the stretches of parts that lie in it.
///
/// ```text
///   pieces   |    0    |    1    |    2    |
///   parts    [a][   b      ] [      c     ]
///   sums      a0 b0     b1 c1       c2            a = a0, b = b0·b1, c = c1·c2
/// ```
pub(super) struct Sums {
    /// Within the transfer; in order, without overlap.
    parts: Box<[Range<u64>]>,
    /// Bytes of a piece, but for the last.
    piece: u64,
    /// For each piece the sums of the stretches in it, in the order of the parts.
    sums: Box<[OnceLock<Box<[u32]>>]>,
}

impl Sums {
    pub(super) fn new(parts: Box<[Range<u64>]>, bytes: u64, piece: u64) -> Self {
        let pieces = bytes.div_ceil(piece) as usize;
        Sums { parts, piece, sums: (0..pieces).map(|_| OnceLock::new()).collect() }
    }

    /// Takes the sums of a piece, whose bytes these are, unless it has them.
    pub(super) fn add(&self, piece: usize, bytes: &[u8]) {
        let start = piece as u64 * self.piece;
        let Some(sums) = self.sums.get(piece) else { return };
        sums.get_or_init(|| {
            let stretches = stretches(&self.parts, start..start + bytes.len() as u64);
            let local = |at: u64| (at - start) as usize;
            stretches.map(|(_, s)| crc32c::crc32c(&bytes[local(s.start)..local(s.end)])).collect()
        });
    }

    /// Whether a piece has its sums.
    pub(super) fn has(&self, piece: usize) -> bool {
        self.sums.get(piece).is_none_or(|sums| sums.get().is_some())
    }

    /// The parts' checksums, once every piece has brought its own; `None` before.
    pub(super) fn finish(&self) -> Option<Vec<u32>> {
        let mut whole = vec![0; self.parts.len()];
        for (piece, sums) in self.sums.iter().enumerate() {
            let start = piece as u64 * self.piece;
            let found = stretches(&self.parts, start..start.saturating_add(self.piece));
            for ((part, stretch), sum) in found.zip(sums.get()?) {
                let len = (stretch.end - stretch.start) as usize;
                whole[part] = crc32c::crc32c_combine(whole[part], *sum, len);
            }
        }
        Some(whole)
    }

    pub(super) fn parts(&self) -> &[Range<u64>] {
        &self.parts
    }
}

/// Refuses parts that are out of order, overlap or go backwards; returns where the last one ends.
pub(super) fn check(parts: &[Range<u64>]) -> Result<u64, DiskError> {
    let length = parts.last().map_or(0, |part| part.end);
    let mut after = 0;
    for part in parts {
        if part.start < after || part.end < part.start {
            return Err(DiskError::Parts { part: part.clone(), after, length });
        }
        after = part.end;
    }
    Ok(length)
}

/// What of which part lies in `window`; empty parts have nothing anywhere.
fn stretches(
    parts: &[Range<u64>],
    window: Range<u64>,
) -> impl Iterator<Item = (usize, Range<u64>)> + use<'_> {
    let first = parts.partition_point(|part| part.end <= window.start);
    let end = window.end;
    parts[first..].iter().enumerate().take_while(move |(_, part)| part.start < end).filter_map(
        move |(at, part)| {
            let stretch = part.start.max(window.start)..part.end.min(window.end);
            (stretch.start < stretch.end).then_some((first + at, stretch))
        },
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// However the bytes are cut, a part has the checksum of its bytes.
        #[test]
        fn pieces_make_the_parts_checksums(
            lens in prop::collection::vec((0u64..40, 0u64..5), 0..12),
            piece in 1u64..50,
        ) {
            let mut parts = Vec::new();
            let mut at = 0;
            for (len, gap) in lens {
                parts.push(at + gap..at + gap + len);
                at += gap + len;
            }
            prop_assert_eq!(check(&parts).unwrap(), at);
            let bytes: Vec<u8> = (0..at).map(|i| (i * 7 + i / 13) as u8).collect();
            let sums = Sums::new(parts.clone().into(), at, piece);
            let pieces: Vec<_> = bytes.chunks(piece as usize).enumerate().collect();
            for &(at, bytes) in pieces.iter().rev() {
                prop_assert!(sums.finish().is_none() && !sums.has(at));
                sums.add(at, bytes);
            }
            let expected: Vec<u32> =
                parts.iter().map(|p| crc32c::crc32c(&bytes[p.start as usize..p.end as usize])).collect();
            prop_assert_eq!(sums.finish().unwrap(), expected);
        }
    }

    #[test]
    #[allow(clippy::reversed_empty_ranges, reason = "that is what is refused")]
    fn parts_out_of_order_are_refused() {
        assert!(check(&[0..5, 5..5, 7..9]).is_ok());
        assert!(matches!(check(&[0..5, 4..9]), Err(DiskError::Parts { after: 5, length: 9, .. })));
        assert!(matches!(check(&[3..2, 4..9]), Err(DiskError::Parts { after: 0, .. })));
    }
}
