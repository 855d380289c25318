//! How fast this machine copies memory with nothing in the way: the measure of the transfers.

use std::fs;
use std::hint::black_box;
use std::time::Instant;

/// Two buffers too large for any cache, and the blocks to copy between them.
pub(crate) struct Memcpy {
    from: Vec<u8>,
    to: Vec<u8>,
    blocks: Vec<usize>,
    /// Where the next block starts; it runs through the buffers and around.
    at: usize,
    /// GB/s of each sample.
    samples: Vec<f64>,
}

impl Memcpy {
    /// How many samples a run takes.
    pub(crate) const SAMPLES: usize = 5;

    /// Buffers larger than four times the last-level cache, with every page present, and `blocks` of these sizes.
    pub(crate) fn new(blocks: impl IntoIterator<Item = usize>) -> Memcpy {
        let mut blocks: Vec<usize> = blocks.into_iter().filter(|bytes| *bytes > 0).collect();
        if blocks.is_empty() {
            blocks.push(1 << 20);
        }
        let largest = blocks.iter().copied().max().unwrap_or_default();
        let bytes = (last_level_cache() * 4 + (1 << 20)).max(largest);
        // Not zeroes: those would be one shared page, read from the cache.
        Memcpy { from: vec![1; bytes], to: vec![2; bytes], blocks, at: 0, samples: Vec::new() }
    }

    /// Copies blocks, from the first on and around, until there are enough, and keeps the rate.
    pub(crate) fn sample(&mut self) {
        let (mut copied, started) = (0, Instant::now());
        for &bytes in self.blocks.iter().cycle().take(SAMPLE_BLOCKS) {
            if self.at + bytes > self.from.len() {
                self.at = 0;
            }
            let range = self.at..self.at + bytes;
            self.to[range.clone()].copy_from_slice(&self.from[range]);
            black_box(&mut self.to);
            // Rounded up, so that copies start aligned, as transfers do.
            self.at += bytes.next_multiple_of(64);
            copied += bytes;
            if copied >= SAMPLE {
                break;
            }
        }
        self.samples.push(copied as f64 / started.elapsed().as_secs_f64().max(1e-9) / 1e9);
    }

    /// The median rate in GB/s (10^9 bytes), of samples taken now if a short run took fewer than all.
    pub(crate) fn gb_per_s(&mut self) -> f64 {
        while self.samples.len() < Self::SAMPLES {
            self.sample();
        }
        let mut sorted = self.samples.clone();
        sorted.sort_by(f64::total_cmp);
        sorted.get(sorted.len() / 2).copied().unwrap_or_default()
    }
}

/// Bytes of the largest cache of the first core; a generous guess where the kernel does not say.
fn last_level_cache() -> usize {
    const GUESS: usize = 32 << 20;
    let caches = fs::read_dir("/sys/devices/system/cpu/cpu0/cache").into_iter().flatten().flatten();
    let sizes = caches.filter_map(|cache| fs::read_to_string(cache.path().join("size")).ok());
    sizes
        .filter_map(|size| size.trim().parse().ok())
        .map(|size: crate::size::Size| size.0 as usize)
        .max()
        .unwrap_or(GUESS)
}

/// Enough for a steady rate, little enough to take five times during a run.
const SAMPLE: usize = 128 << 20;
/// Enough where blocks are tiny.
const SAMPLE_BLOCKS: usize = 1 << 16;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_of_the_samples() {
        let mut memcpy = Memcpy::new([0, 3, 70_000, 5 << 20]);
        assert!(memcpy.gb_per_s() > 0.0);
        assert_eq!(memcpy.samples.len(), Memcpy::SAMPLES);
        assert!(memcpy.from.len() > 4 * last_level_cache());
        memcpy.samples = vec![5.0, 1.0, 3.0, 2.0, 4.0];
        assert_eq!(memcpy.gb_per_s(), 3.0);
    }

    #[test]
    fn blocks_larger_than_the_caches_fit() {
        let large = 4 * last_level_cache() + (3 << 20);
        let mut memcpy = Memcpy::new([large]);
        memcpy.sample();
        assert_eq!(memcpy.to[large - 1], 1);
    }
}
