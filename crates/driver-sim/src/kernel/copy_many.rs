//! The twin of the kernel that makes many copies: it reads the list as the kernel does, block by block.

use super::{Effect, Launch, number};
use crate::raw;

/// Bytes of the two parameters: the list, and how many copies it has.
pub(super) const COPIES: usize = 170 * EACH;
pub(super) const COUNT: usize = 4;

/// What the blocks of a launch copy; blocks that go on where the one before ended are one effect.
pub(super) fn copied(launch: &Launch) -> Vec<Effect> {
    let mut effects: Vec<Effect> = Vec::new();
    for (dst, src, len) in (0..launch.blocks).filter_map(|block| piece(launch, block)) {
        match effects.last_mut() {
            Some(Effect::Copy { dst: to, src: from, len: before, .. })
                if *to + *before == dst && *from + *before == src && before.is_multiple_of(PIECE) =>
            {
                *before += len;
            }
            _ => effects.push(Effect::Copy { dst, src, len, align: 1 }),
        }
    }
    effects
}

pub(super) unsafe fn copy_many(launch: &Launch) {
    for (dst, src, len) in (0..launch.blocks).filter_map(|block| piece(launch, block)) {
        // SAFETY: the ranges are among those that the twin's effects name.
        unsafe { raw::copy(dst, src, len) }
    }
}

/// Destination, source and length of what one block copies.
fn piece(launch: &Launch, block: u32) -> Option<(u64, u64, u64)> {
    let count = (launch.arg(1) as usize).min(COPIES / EACH);
    let copies = &launch.args[0].as_chunks::<EACH>().0[..count];
    let ends = |copy: &[u8; EACH]| number(&copy[20..24]);
    let copy = copies.get(copies.partition_point(|copy| ends(copy) <= u64::from(block)))?;
    let (src, dst, len) = (number(&copy[..8]), number(&copy[8..16]), number(&copy[16..20]));
    // A list whose pieces do not add up leads anywhere, as it does on a device.
    let before = ends(copy).wrapping_sub(len.div_ceil(PIECE));
    let at = u64::from(block).wrapping_sub(before).wrapping_mul(PIECE);
    Some((dst.wrapping_add(at), src.wrapping_add(at), len.saturating_sub(at).min(PIECE)))
}

/// Bytes of a copy in the list.
const EACH: usize = 24;
/// Bytes of a piece.
const PIECE: u64 = 16 << 10;
