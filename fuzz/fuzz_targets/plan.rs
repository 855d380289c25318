//! Layouts of blocks, holes and leases: what `plan_room`, `plan_compact` and `plan_slide` promise.
//!
//! Eight bytes are what is asked, then three bytes are a block.
#![no_main]
#![allow(clippy::unwrap_used, clippy::panic, reason = "a finding is a panic")]

use layouts::{Block, Case};
use libfuzzer_sys::fuzz_target;

#[path = "../../crates/allocator-core/tests/layouts/mod.rs"]
mod layouts;

fuzz_target!(|data: &[u8]| {
    let Some((asked, rest)) = data.split_first_chunk::<8>() else { return };
    let two = |at: usize| u16::from_le_bytes([asked[at], asked[at + 1]]);
    layouts::check(&Case {
        grain_log2: asked[0],
        align_log2: asked[1],
        size: two(2) % 8192,
        tail: two(4) % 1024,
        budget: two(6) % 2048,
        blocks: rest.as_chunks::<3>().0.iter().take(64).copied().map(Block::of).collect(),
    });
});
