//! Rounds in which the engines take turns, and what they leave.

use crate::engine::Contender;

/// A figure of several rounds.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Spread {
    pub(crate) median: f64,
    pub(crate) min: f64,
    pub(crate) max: f64,
}

impl Spread {
    /// The spread of at least one figure; of none, all is "not a number".
    pub(crate) fn of(figures: impl IntoIterator<Item = f64>) -> Spread {
        let mut sorted: Vec<f64> = figures.into_iter().collect();
        sorted.sort_by(f64::total_cmp);
        let at = |index: usize| sorted.get(index).copied().unwrap_or(f64::NAN);
        Spread { median: at(sorted.len() / 2), min: at(0), max: at(sorted.len().saturating_sub(1)) }
    }
}

/// Runs every contender once per round, each round starting with another of them; per contender, its rounds.
pub(crate) fn rounds<I, O>(count: usize, contenders: &[Contender<I, O>], input: &I) -> Vec<Vec<O>> {
    let mut all: Vec<Vec<O>> = contenders.iter().map(|_| Vec::new()).collect();
    for round in 0..count {
        for turn in 0..contenders.len() {
            let who = (turn + round) % contenders.len();
            all[who].push((contenders[who].run)(input));
        }
    }
    all
}

/// The figure below which `part` (0 to 1) of the sorted figures lie.
pub(crate) fn percentile<T: Copy>(sorted: &[T], part: f64) -> Option<T> {
    let last = sorted.len().checked_sub(1)?;
    sorted.get((part * last as f64).round() as usize).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_of_few_and_none() {
        assert_eq!(Spread::of([3.0, 1.0, 2.0]), Spread { median: 2.0, min: 1.0, max: 3.0 });
        assert!(Spread::of([]).median.is_nan());
        assert_eq!(percentile(&[1, 2, 3, 4, 5], 0.5), Some(3));
        assert_eq!(percentile(&[1, 2], 1.0), Some(2));
        assert_eq!(percentile::<u32>(&[], 0.5), None);
    }
}
