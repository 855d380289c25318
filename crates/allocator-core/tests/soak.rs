//! Many random operations on an arena against the shadow model.
//!
//! `SOAK_OPS` sets how many (default 10,000), `SOAK_SEED` where they start.
#![expect(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on stops where it stands")]

mod shadow;

use allocator_core::{BestFit, Compaction, GoodFit, LowestOffset, Placement};
use shadow::{Config, Op, Shadow};

#[test]
fn soak() {
    let from_env = |name: &str, default: u64| {
        std::env::var(name).map_or(default, |text| text.parse().unwrap_or_else(|_| panic!("{name}={text}")))
    };
    let ops = if cfg!(miri) { 60 } else { from_env("SOAK_OPS", 10_000) };
    let mut random = Random(from_env("SOAK_SEED", 1).wrapping_mul(2) + 1);
    let configs = [
        (1, Compaction::Minimal, 0, 1 << 12),
        (1, Compaction::Minimal, 5, 1 << 13),
        (4, Compaction::Minimal, 7, 1 << 13),
        (256, Compaction::SlideDown, 9, 1 << 16),
    ];
    let each = ops / (3 * configs.len() as u64) + 1;
    for (grain, compaction, most_align_log2, size) in configs {
        let config = Config { size, grain, compaction, most_align_log2, most_size: size / 24 };
        run(Shadow::arena(config, GoodFit), each, &mut random);
        run(Shadow::bare(config, GoodFit), each, &mut random);
        match grain {
            1 => run(Shadow::arena(config, BestFit), each, &mut random),
            _ => run(Shadow::bare(config, LowestOffset), each, &mut random),
        }
    }
}

fn run<P: Placement>(mut shadow: Shadow<P>, ops: u64, random: &mut Random) {
    for round in 0..ops {
        shadow.step(&random.op());
        if round % 64 == 0 {
            shadow.verify();
        }
    }
    shadow.verify();
}

/// xorshift64*: the same operations on every machine.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 20
    }

    fn op(&mut self) -> Op {
        Op::of(self.next() as u8, self.next(), self.next() as usize)
    }
}
