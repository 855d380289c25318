//! Row 2: how full an arena gets before a request fails.

use super::Options;
use crate::crowd::Crowd;
use crate::engine::{Engine, Setup, contenders};
use crate::report::{Bar, Findings, Table};
use crate::rng::Rng;
use crate::stream::Lengths;

/// Use at the first failure, in the long run, and with one length that is no size class.
pub(crate) fn run(options: &Options) -> Findings {
    let seeds = if options.quick { 3 } else { 10 };
    let mut contenders = contenders!(measure: Own Core, Packs Offset, #[cfg(feature = "vma")] Packs Vma,
        #[cfg(feature = "vma")] Packs VmaMemory, Packs Rlsf, Packs Talc, Reference Buddy, Reference RangeAlloc,
        Reference BTree);
    if options.full {
        contenders
            .extend(contenders!(measure: Reference Lowest, #[cfg(feature = "vma")] Reference VmaLowest));
    }
    let note = format!(
        "Bytes asked for by live blocks, of the arena. 64 GiB, 256 B to 64 MiB. First failure: an operation allocates \
         with probability 0.52, else frees; {seeds} seeds. Sustained: 100,000 allocations, random blocks freed until \
         each fits, use at each failure in the second half; {} seeds. 2065 B: an arena of 10,000 such blocks, filled, \
         then random blocks freed until the next fits; mean and least use at each failure.",
        seeds.min(5)
    );
    let head = ["engine", "first failure", "least..most", "sustained", "2065 B mean", "2065 B least"];
    let mut table = Table::new("packing", note, &head);
    let mut findings = Findings::default();
    for (at, contender) in contenders.iter().enumerate() {
        let Use { first, sustained, uniform } = (contender.run)(&seeds);
        let mean = |uses: &[f64]| uses.iter().sum::<f64>() / uses.len() as f64;
        let least = |uses: &[f64]| uses.iter().copied().fold(f64::INFINITY, f64::min);
        let most = first.iter().copied().fold(0.0, f64::max);
        table.row([
            contender.name.to_owned(),
            format!("{:.4}", mean(&first)),
            format!("{:.3}..{most:.3}", least(&first)),
            format!("{:.4}", mean(&sustained)),
            format!("{:.4}", mean(&uniform)),
            format!("{:.4}", least(&uniform)),
        ]);
        if at == 0 {
            let bar = |what: &str, uses: &[f64], bar| {
                Bar::at_least(format!("packing, {what}"), mean(uses), bar, "")
            };
            findings.bars.push(bar("use at first failure", &first, 0.95));
            findings.bars.push(bar("sustained use", &sustained, 0.90));
            findings.bars.push(bar("use with 2065 B", &uniform, 1.0));
        }
    }
    findings.tables.push(table);
    findings
}

/// Fractions of the arena.
struct Use {
    /// At the first failure, per seed.
    first: Vec<f64>,
    /// Mean over failures, per seed.
    sustained: Vec<f64>,
    /// At each failure.
    uniform: Vec<f64>,
}

fn measure<E: Engine>(seeds: &u64) -> Use {
    Use {
        first: (0..*seeds).map(first_failure::<E>).collect(),
        sustained: (0..(*seeds).min(5)).map(sustained::<E>).collect(),
        uniform: uniform::<E>(),
    }
}

const LENGTHS: Lengths = Lengths { low: 256, high: 64 << 20, unit: 256 };
const ARENA: Setup = Setup { capacity: 64 << 30, unit: 256, live: 100_000 };

fn first_failure<E: Engine>(seed: u64) -> f64 {
    let mut rng = Rng::new(1_000 + seed);
    let mut crowd = Crowd::<E>::new(ARENA);
    loop {
        if rng.unit() < 0.52 {
            if !crowd.add(LENGTHS.next(&mut rng)) {
                return crowd.in_use();
            }
        } else {
            crowd.evict(&mut rng);
        }
    }
}

fn sustained<E: Engine>(seed: u64) -> f64 {
    const ALLOCATIONS: u64 = 100_000;
    let mut rng = Rng::new(2_000 + seed);
    let mut crowd = Crowd::<E>::new(ARENA);
    let (mut sum, mut failures) = (0.0, 0_u64);
    for done in 0..ALLOCATIONS {
        let bytes = LENGTHS.next(&mut rng);
        while !crowd.add(bytes) {
            if done >= ALLOCATIONS / 2 {
                sum += crowd.in_use();
                failures += 1;
            }
            crowd.evict(&mut rng);
        }
    }
    sum / failures as f64
}

fn uniform<E: Engine>() -> Vec<f64> {
    const BYTES: u32 = 2065;
    const BLOCKS: usize = 10_000;
    let setup = Setup { capacity: BLOCKS as u64 * u64::from(BYTES), unit: 1, live: BLOCKS };
    let mut rng = Rng::new(3_000);
    let mut crowd = Crowd::<E>::new(setup);
    let mut uses = Vec::new();
    // Long enough for the use to settle: each block leaves several times.
    for _ in 0..10 * BLOCKS {
        while !crowd.add(BYTES) {
            uses.push(crowd.in_use());
            crowd.evict(&mut rng);
        }
    }
    uses.split_off(uses.len() / 2)
}
