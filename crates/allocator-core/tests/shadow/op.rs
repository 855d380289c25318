//! One step of a random program, and how three numbers name one.

use allocator_core::Lifetime;

/// One step of a random program. Indices are taken modulo what there is.
#[derive(Debug, Clone)]
pub(crate) enum Op {
    Allocate {
        size: u64,
        align_log2: u8,
        lifetime: Lifetime,
        moving: bool,
    },
    /// Takes bytes at an offset.
    At {
        offset: u64,
        size: u64,
        align_log2: u8,
    },
    Release(usize),
    Lease(usize),
    Unlease(usize),
    /// Plans room and makes the first few moves.
    Room {
        size: u64,
        align_log2: u8,
        steps: usize,
    },
    /// Plans a compaction and makes the first few moves, allocating and releasing between them.
    Compact {
        budget: u64,
        steps: usize,
        meddle: bool,
    },
    /// Moves a block anywhere.
    Move {
        block: usize,
        dst: u64,
    },
    /// Uses a handle that was freed.
    Stale(usize),
    /// Commits a candidate after something else changed.
    StaleCandidate {
        size: u64,
        block: usize,
    },
    Assign {
        block: usize,
        from: u64,
        len: u64,
    },
    Unassign(usize),
    /// Makes a block longer or shorter where it is.
    ResizeBlock {
        block: usize,
        size: u64,
    },
    /// Makes the whole range longer or shorter.
    Resize(u64),
}

impl Op {
    /// The operation that a kind and two operands name: what proptest shrinks, soaks draw and fuzzers mutate.
    pub(crate) fn of(kind: u8, size: u64, index: usize) -> Op {
        let (align_log2, steps) = ((size >> 32) as u8 ^ (index >> 8) as u8, index % 9);
        match kind % 64 {
            kind @ 0..24 => {
                let lifetime = [Lifetime::Unknown, Lifetime::Short, Lifetime::Long][index % 3];
                Op::Allocate { size, align_log2, lifetime, moving: kind < 18 }
            }
            24..26 => Op::At { offset: size.rotate_left(17) ^ index as u64, size, align_log2 },
            26..40 => Op::Release(index),
            40..42 => Op::Lease(index),
            42..48 => Op::Unlease(index),
            48..50 => Op::Room { size, align_log2, steps },
            50 => Op::Compact { budget: size % 20_000, steps, meddle: index.is_multiple_of(2) },
            51..54 => Op::Move { block: index, dst: size },
            54 => Op::Stale(index),
            55 => Op::StaleCandidate { size, block: index },
            56..58 => Op::Assign { block: index, from: size >> 8, len: size & 0xFF },
            58 => Op::Unassign(index),
            59..63 => Op::ResizeBlock { block: index, size },
            _ => Op::Resize(size),
        }
    }
}
