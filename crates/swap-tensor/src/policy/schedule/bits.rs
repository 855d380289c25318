//! A set of positions that finds the nearest one below.

/// Positions below a fixed length. Each step is O(log64 of the length), three words for 200,000 positions.
///
/// ```text
/// levels[0]: bit p is set iff p is in the set
/// levels[1]: bit w is set iff word w of levels[0] is not zero, and so on up to a level of one word
/// ```
#[derive(Debug, Default)]
pub(super) struct Bits {
    levels: Vec<Vec<u64>>,
}

impl Bits {
    /// Empties the set and makes it one of positions below `len`; keeps what memory it has.
    pub(super) fn reset(&mut self, len: usize) {
        let mut words = len / 64 + 1; // `len` itself may be asked below
        let mut height = 0;
        loop {
            if self.levels.len() == height {
                self.levels.push(Vec::new());
            }
            self.levels[height].clear();
            self.levels[height].resize(words, 0);
            height += 1;
            if words == 1 {
                break;
            }
            words = words.div_ceil(64);
        }
        self.levels.truncate(height);
    }

    /// Adds a position below the length.
    pub(super) fn insert(&mut self, position: u32) {
        let mut at = position as usize;
        for level in &mut self.levels {
            let word = &mut level[at / 64];
            let was_empty = *word == 0;
            *word |= 1 << (at % 64);
            if !was_empty {
                return;
            }
            at /= 64;
        }
    }

    /// Takes a position out, if it is there.
    pub(super) fn remove(&mut self, position: u32) {
        let mut at = position as usize;
        for level in &mut self.levels {
            let word = &mut level[at / 64];
            *word &= !(1 << (at % 64));
            if *word != 0 {
                return;
            }
            at /= 64;
        }
    }

    /// The greatest position of the set below `end`, which is at most the length.
    pub(super) fn last_below(&self, end: u32) -> Option<u32> {
        let mut end = end as usize;
        for (height, level) in self.levels.iter().enumerate() {
            let below = level.get(end / 64).map_or(0, |word| word & ((1 << (end % 64)) - 1));
            if below != 0 {
                let mut at = end / 64 * 64 + top(below);
                for lower in self.levels[..height].iter().rev() {
                    at = at * 64 + top(lower[at]);
                }
                return Some(at as u32);
            }
            end /= 64;
        }
        None
    }
}

/// The number of the highest bit set; `word` is not zero.
fn top(word: u64) -> usize {
    63 - word.leading_zeros() as usize
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]
        #[test]
        fn it_finds_what_an_ordered_set_finds(
            len in 1u32..9000,
            ops in prop::collection::vec((any::<bool>(), any::<u32>(), any::<u32>()), 0..200),
        ) {
            let (mut bits, mut model) = (Bits::default(), BTreeSet::new());
            bits.reset(len as usize);
            for (insert, position, end) in ops {
                let position = position % len;
                if insert {
                    bits.insert(position);
                    model.insert(position);
                } else {
                    bits.remove(position);
                    model.remove(&position);
                }
                let end = end % (len + 1);
                prop_assert_eq!(bits.last_below(end), model.range(..end).next_back().copied());
                prop_assert_eq!(bits.last_below(len), model.last().copied());
            }
            bits.reset(len as usize / 2 + 1);
            prop_assert_eq!(bits.last_below(len / 2 + 1), None);
        }
    }
}
