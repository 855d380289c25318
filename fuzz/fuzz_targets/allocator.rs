//! Programs of operations on an allocator alone, for each placement, against the shadow model of its tests.
//!
//! The first byte chooses placement and sizes, then six bytes are an operation: kind, four of size, one of index.
#![no_main]
#![allow(clippy::unwrap_used, clippy::panic, reason = "a finding is a panic")]

use allocator_core::{BestFit, Compaction, GoodFit, LowestOffset, Placement};
use libfuzzer_sys::fuzz_target;
use shadow::{Config, Shadow};

#[path = "../program.rs"]
mod program;
#[path = "../../crates/allocator-core/tests/shadow/mod.rs"]
#[allow(dead_code, reason = "each target uses a part of it")]
mod shadow;

fuzz_target!(|data: &[u8]| {
    let Some((choice, program)) = data.split_first() else { return };
    let config = |size, grain, most_align_log2, most_size| Config {
        size,
        grain,
        compaction: Compaction::Minimal,
        most_align_log2,
        most_size,
    };
    let config = match choice / 3 % 4 {
        0 => config(256, 1, 0, 40),
        1 => config(1000, 1, 6, 120),
        2 => config(4096, 16, 8, 500),
        // Longer than any memory, and operands have 32 bits of which most matter.
        _ => config(1 << 38, 256, 30, 1 << 31),
    };
    match choice % 3 {
        0 => run(Shadow::bare(config, GoodFit), program),
        1 => run(Shadow::bare(config, BestFit), program),
        _ => run(Shadow::bare(config, LowestOffset), program),
    }
});

fn run<P: Placement>(mut shadow: Shadow<P>, program: &[u8]) {
    for op in program::ops(program) {
        shadow.step(&op);
    }
    shadow.verify();
}
