//! Which bytes of a piece of memory hold something that was written.

use std::collections::BTreeMap;
use std::ops::Range;

/// A set of bytes as disjoint, non-adjacent ranges: start to end. The rest is poison.
#[derive(Debug, Clone, Default)]
pub(crate) struct Written(BTreeMap<u64, u64>);

impl Written {
    pub(crate) fn insert(&mut self, range: &Range<u64>) {
        if range.is_empty() {
            return;
        }
        let (mut start, mut end) = (range.start, range.end);
        while let Some((&s, &e)) = self.0.range(..=end).next_back() {
            if e < start {
                break;
            }
            self.0.remove(&s);
            start = start.min(s);
            end = end.max(e);
        }
        self.0.insert(start, end);
    }

    pub(crate) fn remove(&mut self, range: &Range<u64>) {
        if range.is_empty() {
            return;
        }
        while let Some((&s, &e)) = self.0.range(..range.end).next_back() {
            if e <= range.start {
                break;
            }
            self.0.remove(&s);
            if s < range.start {
                self.0.insert(s, range.start);
            }
            if e > range.end {
                self.0.insert(range.end, e);
            }
        }
    }

    /// The first part of `range` that was never written.
    pub(crate) fn first_poison(&self, range: &Range<u64>) -> Option<Range<u64>> {
        if range.is_empty() {
            return None;
        }
        let start = match self.0.range(..=range.start).next_back() {
            Some((_, &e)) if e > range.start => e,
            _ => range.start,
        };
        if start >= range.end {
            return None;
        }
        let end = self.0.range(start..).next().map_or(range.end, |(&s, _)| s.min(range.end));
        Some(start..end)
    }

    /// The parts of `range` that were written.
    pub(crate) fn within(&self, range: &Range<u64>) -> Vec<Range<u64>> {
        let first = self.0.range(..range.start).next_back().map_or(range.start, |(&s, _)| s);
        self.0
            .range(first..range.end.max(first))
            .map(|(&s, &e)| s.max(range.start)..e.min(range.end))
            .filter(|part| part.start < part.end)
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::Rng;

    #[test]
    fn agrees_with_a_bit_per_byte() {
        let mut rng = Rng::new(11);
        let (mut set, mut model) = (Written::default(), [false; 64]);
        for _ in 0..20_000 {
            let start = rng.below(64);
            let len = rng.below(65 - start);
            let (range, span) = (start..start + len, start as usize..(start + len) as usize);
            match rng.below(4) {
                0 => {
                    set.insert(&range);
                    model[span.clone()].fill(true);
                }
                1 => {
                    set.remove(&range);
                    model[span.clone()].fill(false);
                }
                _ => {
                    let inside = set.within(&range);
                    let mut expected = [false; 64];
                    inside
                        .iter()
                        .for_each(|part| expected[part.start as usize..part.end as usize].fill(true));
                    assert!(span.clone().all(|i| expected[i] == model[i]));
                    assert!(inside.iter().all(|part| part.start >= range.start && part.end <= range.end));
                }
            }
            let expected = span.clone().find(|&i| !model[i]).map(|from| {
                let to = (from..span.end).find(|&i| model[i]).unwrap_or(span.end);
                from as u64..to as u64
            });
            assert_eq!(set.first_poison(&range), expected);
        }
        let ranges: Vec<_> = set.0.iter().collect();
        assert!(ranges.windows(2).all(|pair| pair[0].1 < pair[1].0), "adjacent ranges are merged");
    }
}
