//! Random programs on an arena and on the shadow model, shrunk when they disagree.
#![expect(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on stops where it stands")]

mod shadow;

use allocator_core::{BestFit, Compaction, Lifetime, LowestOffset, Placement};
use proptest::prelude::*;
use shadow::{Config, Op, Shadow};

const CASES: u32 = if cfg!(miri) { 1 } else { 192 };
const LENGTH: usize = if cfg!(miri) { 24 } else { 200 };

fn op() -> impl Strategy<Value = Op> {
    let lifetime = prop_oneof![Just(Lifetime::Unknown), Just(Lifetime::Short), Just(Lifetime::Long)];
    let allocate = (any::<u64>(), any::<u8>(), lifetime, any::<bool>());
    prop_oneof![
        8 => allocate.prop_map(|(size, align_log2, lifetime, moving)| {
            Op::Allocate { size, align_log2, lifetime, moving }
        }),
        5 => any::<usize>().prop_map(Op::Release),
        1 => any::<usize>().prop_map(Op::Lease),
        2 => any::<usize>().prop_map(Op::Unlease),
        2 => (any::<u64>(), any::<u8>(), 0..9_usize)
            .prop_map(|(size, align_log2, steps)| Op::Room { size, align_log2, steps }),
        1 => (0..20_000_u64, 0..9_usize, any::<bool>())
            .prop_map(|(budget, steps, meddle)| Op::Compact { budget, steps, meddle }),
        2 => (any::<usize>(), any::<u64>()).prop_map(|(block, dst)| Op::Move { block, dst }),
        1 => any::<usize>().prop_map(Op::Stale),
        1 => (any::<u64>(), any::<usize>()).prop_map(|(size, block)| Op::StaleCandidate { size, block }),
        1 => (any::<usize>(), any::<u64>(), any::<u64>())
            .prop_map(|(block, from, len)| Op::Assign { block, from, len }),
        1 => any::<usize>().prop_map(Op::Unassign),
    ]
}

fn agrees<P: Placement + Copy>(config: Config, placement: P) {
    let settings = ProptestConfig { cases: CASES, failure_persistence: None, ..ProptestConfig::default() };
    proptest!(settings, |(program in prop::collection::vec(op(), 1..LENGTH))| {
        let mut shadow = Shadow::new(config, placement);
        for op in &program {
            shadow.step(op);
            shadow.verify();
        }
    });
}

#[test]
fn grain_1_best_fit_minimal() {
    let compaction = Compaction::Minimal;
    agrees(Config { size: 256, grain: 1, compaction, most_align_log2: 0, most_size: 40 }, BestFit);
}

#[test]
fn grain_1_best_fit_minimal_aligned() {
    let compaction = Compaction::Minimal;
    agrees(Config { size: 1000, grain: 1, compaction, most_align_log2: 6, most_size: 120 }, BestFit);
}

#[test]
fn grain_4_lowest_offset_minimal_aligned() {
    let compaction = Compaction::Minimal;
    agrees(Config { size: 1024, grain: 4, compaction, most_align_log2: 5, most_size: 100 }, LowestOffset);
}

#[test]
fn grain_4_lowest_offset_slide_down() {
    let compaction = Compaction::SlideDown;
    agrees(Config { size: 512, grain: 4, compaction, most_align_log2: 2, most_size: 64 }, LowestOffset);
}

#[test]
fn grain_256_best_fit_slide_down_aligned() {
    let compaction = Compaction::SlideDown;
    agrees(Config { size: 1 << 14, grain: 256, compaction, most_align_log2: 10, most_size: 2048 }, BestFit);
}

#[test]
fn grain_1_best_fit_never() {
    let compaction = Compaction::Never;
    agrees(Config { size: 777, grain: 1, compaction, most_align_log2: 4, most_size: 90 }, BestFit);
}
