//! Many random operations on an arena against the shadow model.
//!
//! `SOAK_OPS` sets how many (default 10,000), `SOAK_SEED` where they start.
#![expect(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on stops where it stands")]

mod shadow;

use allocator_core::{BestFit, Compaction, Lifetime};
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
    for (grain, compaction, most_align_log2, size) in configs {
        let config = Config { size, grain, compaction, most_align_log2, most_size: size as u64 / 24 };
        let mut shadow = Shadow::new(config, BestFit);
        for round in 0..ops / configs.len() as u64 {
            shadow.step(&random.op());
            if round % 64 == 0 {
                shadow.verify();
            }
        }
        shadow.verify();
    }
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
        let (kind, size, index) = (self.next() % 64, self.next(), self.next() as usize);
        let (align_log2, steps) = ((size >> 32) as u8, index % 7);
        match kind {
            0..28 => {
                let lifetime = [Lifetime::Unknown, Lifetime::Short, Lifetime::Long][index % 3];
                Op::Allocate { size, align_log2, lifetime, moving: kind < 20 }
            }
            28..44 => Op::Release(index),
            44..46 => Op::Lease(index),
            46..52 => Op::Unlease(index),
            52..54 => Op::Room { size, align_log2, steps },
            54 => Op::Compact { budget: size % 4096, steps, meddle: index % 2 == 0 },
            55..58 => Op::Move { block: index, dst: size },
            58..60 => Op::Stale(index),
            60 => Op::StaleCandidate { size, block: index },
            61..63 => Op::Assign { block: index, from: size >> 8, len: size & 0xFF },
            _ => Op::Unassign(index),
        }
    }
}
