//! Programs of operations on an arena over host memory: blocks tagged, parameters assigned, plans applied in part.
//!
//! The first byte chooses placement, compaction and sizes, then six bytes are an operation: kind, four of size, one of index.
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
    let compaction = match choice / 3 % 4 {
        0 | 1 => Compaction::Minimal,
        2 => Compaction::SlideDown,
        _ => Compaction::Never,
    };
    let config = |size, grain, most_align_log2, most_size| Config {
        size,
        grain,
        compaction,
        most_align_log2,
        most_size,
    };
    let config = match choice / 12 % 3 {
        0 => config(256, 1, 0, 40),
        1 => config(1000, 1, 6, 120),
        _ => config(4096, 16, 8, 500),
    };
    match choice % 3 {
        0 => run(Shadow::arena(config, GoodFit), program),
        1 => run(Shadow::arena(config, BestFit), program),
        _ => run(Shadow::arena(config, LowestOffset), program),
    }
});

fn run<P: Placement>(mut shadow: Shadow<P>, program: &[u8]) {
    for op in program::ops(program) {
        shadow.step(&op);
        shadow.verify();
    }
}
