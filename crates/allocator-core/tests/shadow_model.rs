//! Random programs on an arena and on the shadow model, shrunk when they disagree.
#![expect(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on stops where it stands")]

mod shadow;

use allocator_core::{BestFit, Compaction, GoodFit, LowestOffset, Placement};
use proptest::prelude::*;
use shadow::{Config, Op, Shadow};

const CASES: u32 = if cfg!(miri) { 1 } else { 192 };
const LENGTH: usize = if cfg!(miri) { 24 } else { 200 };

fn agrees<P: Placement>(shadow: impl Fn() -> Shadow<P>) {
    let settings = ProptestConfig { cases: CASES, failure_persistence: None, ..ProptestConfig::default() };
    let op =
        (any::<u8>(), any::<u64>(), any::<usize>()).prop_map(|(kind, size, index)| Op::of(kind, size, index));
    proptest!(settings, |(program in prop::collection::vec(op, 1..LENGTH))| {
        let mut shadow = shadow();
        for op in &program {
            shadow.step(op);
            shadow.verify();
        }
    });
}

fn config(size: u64, grain: u64, most_align_log2: u8, most_size: u64) -> Config {
    Config { size, grain, compaction: Compaction::Minimal, most_align_log2, most_size }
}

#[test]
fn arena_grain_1_good_fit() {
    agrees(|| Shadow::arena(config(256, 1, 0, 40), GoodFit));
}

#[test]
fn arena_grain_16_good_fit_aligned() {
    agrees(|| Shadow::arena(config(4096, 16, 7, 400), GoodFit));
}

#[test]
fn arena_grain_1_best_fit() {
    agrees(|| Shadow::arena(config(256, 1, 0, 40), BestFit));
}

#[test]
fn arena_grain_1_best_fit_aligned() {
    agrees(|| Shadow::arena(config(1000, 1, 6, 120), BestFit));
}

#[test]
fn arena_grain_4_lowest_offset_aligned() {
    agrees(|| Shadow::arena(config(1024, 4, 5, 100), LowestOffset));
}

#[test]
fn arena_grain_4_lowest_offset_slide_down() {
    let compaction = Compaction::SlideDown;
    agrees(|| Shadow::arena(Config { compaction, ..config(512, 4, 2, 64) }, LowestOffset));
}

#[test]
fn arena_grain_256_good_fit_slide_down_aligned() {
    let compaction = Compaction::SlideDown;
    agrees(|| Shadow::arena(Config { compaction, ..config(1 << 14, 256, 10, 2048) }, GoodFit));
}

#[test]
fn arena_grain_1_best_fit_never() {
    let compaction = Compaction::Never;
    agrees(|| Shadow::arena(Config { compaction, ..config(777, 1, 4, 90) }, BestFit));
}

#[test]
fn bare_grain_1_good_fit() {
    agrees(|| Shadow::bare(config(300, 1, 0, 40), GoodFit));
}

#[test]
fn bare_grain_8_good_fit_aligned() {
    agrees(|| Shadow::bare(config(2048, 8, 6, 200), GoodFit));
}

#[test]
fn bare_grain_1_best_fit_aligned() {
    agrees(|| Shadow::bare(config(1000, 1, 5, 120), BestFit));
}

#[test]
fn bare_grain_4_lowest_offset_aligned() {
    agrees(|| Shadow::bare(config(1024, 4, 5, 100), LowestOffset));
}

/// Offsets beyond 2^32, and no bytes to check.
#[test]
fn bare_large_good_fit_aligned() {
    agrees(|| Shadow::bare(config(1 << 48, 256, 40, 1 << 44), GoodFit));
}

#[test]
fn bare_large_lowest_offset() {
    agrees(|| Shadow::bare(config((1 << 40) - 1, 1, 0, 1 << 37), LowestOffset));
}

/// Offsets beyond 2^63.
#[test]
fn bare_huge_good_fit_aligned() {
    agrees(|| Shadow::bare(config(u64::MAX - 255, 256, 63, 1 << 61), GoodFit));
}

#[test]
fn bare_huge_lowest_offset() {
    agrees(|| Shadow::bare(config(u64::MAX, 1, 0, 1 << 60), LowestOffset));
}
