//! Bytes as operations of the shadow model.

use crate::shadow::Op;

/// Six bytes are an operation; a rest of fewer is none. A program ends after 400, so that each is quick.
pub(crate) fn ops(program: &[u8]) -> impl Iterator<Item = Op> {
    program.as_chunks::<6>().0.iter().take(400).map(|[kind, a, b, c, d, index]| {
        // The model takes alignments from the upper half of the size.
        let size = u64::from(u32::from_le_bytes([*a, *b, *c, *d]));
        Op::of(*kind, size | (size ^ size >> 8) << 32, usize::from(*index) * 257)
    })
}
