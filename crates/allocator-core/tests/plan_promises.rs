//! Random layouts: a plan can be executed in its order, makes the room, and keeps to leases, alignments and budget.
#![expect(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on stops where it stands")]

mod layouts;

use layouts::{Block, Case};
use proptest::prelude::*;

const CASES: u32 = if cfg!(miri) { 2 } else { 1500 };
const BLOCKS: usize = if cfg!(miri) { 6 } else { 40 };

#[test]
fn plans_keep_their_promises_on_any_layout() {
    let settings = ProptestConfig { cases: CASES, failure_persistence: None, ..ProptestConfig::default() };
    let blocks = prop::collection::vec(any::<[u8; 3]>().prop_map(Block::of), 0..BLOCKS);
    let asked = (any::<u16>(), any::<u8>(), 0..1000_u16);
    proptest!(settings, |(grain_log2 in any::<u8>(), blocks in blocks, tail in 0..600_u16, asked in asked)| {
        let (size, align_log2, budget) = (asked.0 % 1500, asked.1, asked.2);
        layouts::check(&Case { grain_log2, blocks, tail, size, align_log2, budget });
    });
}
