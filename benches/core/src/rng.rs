//! A seeded generator: the same numbers on every machine, for every engine.

/// SplitMix64 (Steele, Lea, Flood, OOPSLA 2014): one addition and a mix per number.
#[derive(Debug, Clone)]
pub(crate) struct Rng(u64);

impl Rng {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ 0x5851_f42d_4c95_7f2d)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `bound`, which is not zero (and so far below 2^64 that the bias does not count).
    pub(crate) fn below(&mut self, bound: usize) -> usize {
        ((u128::from(self.next()) * bound as u128) >> 64) as usize
    }

    /// A number in `0.0..1.0`.
    pub(crate) fn unit(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1_u64 << 53) as f64
    }
}

/// A length between `low` and `high` bytes whose logarithm is uniform, rounded up to a multiple of `step`.
pub(crate) fn log_uniform(rng: &mut Rng, low: u64, high: u64, step: u64) -> u64 {
    let (low, high) = (low as f64, high as f64);
    let length = (low.ln() + rng.unit() * (high.ln() - low.ln())).exp();
    (length as u64).max(1).next_multiple_of(step)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_stay_in_range_and_halves_are_equally_likely_in_the_logarithm() {
        let mut rng = Rng::new(1);
        let lengths: Vec<u64> = (0..10_000).map(|_| log_uniform(&mut rng, 256, 65_536, 16)).collect();
        assert!(lengths.iter().all(|length| (256..=65_536).contains(length) && length.is_multiple_of(16)));
        let short = lengths.iter().filter(|length| **length < 4096).count();
        assert!((4_800..5_200).contains(&short), "{short}");
        assert!((0..1_000).all(|_| rng.below(7) < 7));
    }
}
