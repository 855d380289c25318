//! Two-level size classes: which lengths of hole exist, in two bit scans.

use alloc::boxed::Box;
use alloc::vec;

use crate::nodes::NIL;

/// Bits of a length below its leading one that tell classes apart.
const STEP_BITS: u32 = 5;
/// Classes per power of two: lengths within one class differ by at most 1/32.
const STEPS: usize = 1 << STEP_BITS;
/// Rows: one for lengths below `STEPS`, one for each power of two from there to 2^63.
const ROWS: usize = 64 - STEP_BITS as usize + 1;
/// Lists.
const CLASSES: usize = ROWS * STEPS;

/// Heads of the lists of holes, one list per size class.
///
/// ```text
///        rows ──► bit r set iff steps[r] != 0
///   row 0:        lengths 0, 1, 2 … 31            exact
///   row 1:        32, 33, 34 … 63                 exact
///   row 2:        64..66, 66..68 … 126..128       32 steps per power of two from here on
///   row r:        steps[r] ──► bit s set iff list (r, s) is non-empty
/// ```
/// Lengths are in units of the grain. Source: TLSF (Masmano et al., ECRTS 2004).
pub(crate) struct Bins {
    /// Bit `r` is set iff row `r` has a non-empty list.
    rows: u64,
    /// Bit `s` of `steps[r]` is set iff list `(r, s)` is non-empty.
    steps: [u32; ROWS],
    /// First hole of each list, `NIL` iff the list is empty.
    heads: Box<[u32]>,
    /// Offset of the first hole of each list that is not empty.
    lows: Box<[u64]>,
}

/// A size class; greater means longer holes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Class(u16);

impl Class {
    /// The class of holes of `units`. Never decreases as `units` grows.
    #[inline]
    pub(crate) fn of(units: u64) -> Self {
        if units < STEPS as u64 {
            return Self(units as u16);
        }
        let exponent = units.ilog2();
        let row = exponent - STEP_BITS + 1;
        let step = (units >> (exponent - STEP_BITS)) as usize & (STEPS - 1);
        Self((row as usize * STEPS + step) as u16)
    }

    #[inline]
    fn index(self) -> usize {
        self.0.into()
    }

    #[inline]
    fn split(self) -> (usize, usize) {
        (self.index() / STEPS, self.index() % STEPS)
    }

    #[inline]
    fn join(row: u32, step: u32) -> Self {
        Self((row as usize * STEPS + step as usize) as u16)
    }

    /// The next longer class; may be one past the last.
    #[inline]
    pub(crate) fn above(self) -> Self {
        Self(self.0 + 1)
    }
}

impl Bins {
    pub(crate) fn new() -> Self {
        let (heads, lows) = (vec![NIL; CLASSES].into_boxed_slice(), vec![0; CLASSES].into_boxed_slice());
        Self { rows: 0, steps: [0; ROWS], heads, lows }
    }

    #[inline]
    pub(crate) fn head(&self, class: Class) -> u32 {
        self.heads[class.index()]
    }

    /// Offset of the first hole of a list that is not empty.
    #[inline]
    pub(crate) fn low(&self, class: Class) -> u64 {
        self.lows[class.index()]
    }

    /// Makes the hole `slot` at `offset` the first of its list.
    #[inline]
    pub(crate) fn set_head(&mut self, class: Class, slot: u32, offset: u64) {
        let (row, step) = class.split();
        self.heads[class.index()] = slot;
        self.lows[class.index()] = offset;
        self.steps[row] |= 1 << step;
        self.rows |= 1 << row;
    }

    /// Empties a list.
    #[inline]
    pub(crate) fn clear_head(&mut self, class: Class) {
        let (row, step) = class.split();
        self.heads[class.index()] = NIL;
        self.steps[row] &= !(1 << step);
        if self.steps[row] == 0 {
            self.rows &= !(1 << row);
        }
    }

    /// The shortest non-empty class at or above `from`. O(1).
    #[inline]
    pub(crate) fn at_or_above(&self, from: Class) -> Option<Class> {
        let (row, step) = from.split();
        let here = self.steps.get(row)? & (u32::MAX << step);
        if here != 0 {
            return Some(Class::join(row as u32, here.trailing_zeros()));
        }
        let rows = self.rows & (u64::MAX << row << 1);
        if rows == 0 {
            return None;
        }
        let row = rows.trailing_zeros();
        Some(Class::join(row, self.steps[row as usize].trailing_zeros()))
    }

    /// The longest non-empty class. O(1).
    #[inline]
    pub(crate) fn longest(&self) -> Option<Class> {
        let row = self.rows.checked_ilog2()?;
        Some(Class::join(row, self.steps[row as usize].ilog2()))
    }

    /// Whether the bits tell the truth about the heads. O(classes).
    pub(crate) fn bits_hold(&self) -> bool {
        let list = |row: usize, step: usize| self.heads[row * STEPS + step] != NIL;
        (0..ROWS).all(|row| {
            (self.rows >> row & 1 == 1) == (self.steps[row] != 0)
                && (0..STEPS).all(|step| (self.steps[row] >> step & 1 == 1) == list(row, step))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn classes_grow_with_length_and_are_tight() {
        let mut last = Class::of(1);
        for units in 2..if cfg!(miri) { 300 } else { 20_000 } {
            let class = Class::of(units);
            assert!(class >= last && class <= last.above());
            last = class;
        }
        for units in (0..64).map(|bit| 1_u64 << bit) {
            assert!(Class::of(units - 1) <= Class::of(units));
            assert_ne!(Class::of(units.max(2) - 1), Class::of(units.max(2)));
            if units >= 32 {
                assert_eq!(Class::of(units), Class::of(units + units / 32 - 1));
                assert_ne!(Class::of(units), Class::of(units + units / 32));
            }
        }
        assert_eq!(Class::of(u64::MAX).index(), ROWS * STEPS - 1);
    }

    #[test]
    fn bits_follow_the_heads() {
        let mut bins = Bins::new();
        assert_eq!((bins.longest(), bins.at_or_above(Class::of(0))), (None, None));
        let lengths = [3, 40, 5_000, u64::MAX];
        for (slot, units) in lengths.into_iter().enumerate() {
            bins.set_head(Class::of(units), slot as u32, 0);
        }
        assert!(bins.bits_hold());
        assert_eq!(bins.at_or_above(Class::of(4)), Some(Class::of(40)));
        assert_eq!(bins.at_or_above(Class::of(41)), Some(Class::of(5_000)));
        assert_eq!(bins.at_or_above(Class::of(6_000)), Some(Class::of(u64::MAX)));
        assert_eq!(bins.at_or_above(Class::of(u64::MAX).above()), None);
        bins.clear_head(Class::of(u64::MAX));
        assert_eq!(bins.longest(), Some(Class::of(5_000)));
        assert_eq!(bins.at_or_above(Class::of(6_000)), None);
        assert!(bins.bits_hold());
    }
}
