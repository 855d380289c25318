//! Two-level size classes: which lengths of hole exist, in two bit scans.

use alloc::vec::Vec;
use core::hint::select_unpredictable;

use crate::nodes::{HoleNode, NIL};

/// Bits of a length below its leading one that tell classes apart.
const STEP_BITS: u32 = 5;
/// Classes per power of two: lengths within one class differ by at most 1/32.
const STEPS: usize = 1 << STEP_BITS;
/// Rows: one for each power of two.
const ROWS: usize = 64;

/// Heads of the lists of holes, one list per size class.
///
/// ```text
///        rows ──► bit r set iff steps[r] != 0
///   row 0 … 5:    1 │ 2, 3 │ 4 … 7 │ … │ 32 … 63   exact
///   row 6:        64..66, 66..68 … 126..128        32 steps per power of two from here on
///   row r:        steps[r] ──► bit s set iff list (r, s) is non-empty
/// ```
/// Lengths are in units of the grain. Source: TLSF (Masmano et al., ECRTS 2004).
pub(crate) struct Bins {
    /// Bit `r` is set iff row `r` has a non-empty list.
    rows: u64,
    /// Bit `s` of `steps[r]` is set iff list `(r, s)` is non-empty.
    steps: [u32; ROWS],
    /// As many rows as there are lengths; see [`fit`](Self::fit).
    heads: Vec<Head>,
    scale: Scale,
}

/// The holes of one class.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Head {
    /// Offset of `best`.
    pub(crate) low: u64,
    /// Length of `best`: so a choice between holes looks at none of them.
    pub(crate) len: u64,
    /// A low hole, which is in no list: the lowest of those that came since it was last taken. `NIL` iff there is none.
    pub(crate) best: u32,
    /// The others, the latest first; `NIL` if there are none.
    pub(crate) rest: u32,
}

impl Head {
    /// What the sentinel would be as the only hole: above all others, and of no length.
    const EMPTY: Head = Head { low: u64::MAX, len: 0, best: NIL, rest: NIL };
}

/// A size class; greater means longer holes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Class(u32);

impl Class {
    /// The lowest class.
    pub(crate) const FIRST: Class = Class(0);

    /// The class of holes of `len` bytes, a multiple of the grain and not zero. Never decreases as `len` grows.
    #[inline]
    fn of(len: u64, scale: Scale) -> Self {
        debug_assert!(len > 0);
        if cfg!(target_pointer_width = "64") && len <= i64::MAX as u64 {
            Self::by_float(len, scale)
        } else {
            Self::by_shifts(len, scale)
        }
    }

    /// Exponent and leading bits are what a floating-point number begins with: a conversion, a shift, a subtraction. The grain
    /// is a power of two, so it changes the exponent only.
    ///
    /// From 2^53 grains on, lengths just below the next class are rounded into it: they count as up to 2^-53 longer than they
    /// are.
    #[inline]
    fn by_float(len: u64, scale: Scale) -> Self {
        let bits = (len as i64 as f64).to_bits() >> (f64::MANTISSA_DIGITS - 1 - STEP_BITS);
        Self((bits as u32).wrapping_sub(scale.0))
    }

    /// The same without floating-point numbers, and beyond their reach here.
    fn by_shifts(len: u64, scale: Scale) -> Self {
        let row = len.ilog2();
        let step = (len << (63 - row)) >> (63 - STEP_BITS);
        let class = Self::join(row, step as u32 & (STEPS as u32 - 1));
        Self(class.0.wrapping_add(Scale::new(0).0).wrapping_sub(scale.0))
    }

    #[inline]
    fn index(self) -> usize {
        self.0 as usize
    }

    #[inline]
    fn split(self) -> (usize, usize) {
        (self.index() / STEPS, self.index() % STEPS)
    }

    #[inline]
    fn join(row: u32, step: u32) -> Self {
        Self(row << STEP_BITS | step)
    }

    /// The next longer class; may be one past the last.
    #[inline]
    pub(crate) fn above(self) -> Self {
        Self(self.0.wrapping_add(1))
    }
}

/// What a floating-point number that is one grain begins with.
#[derive(Debug, Clone, Copy)]
struct Scale(u32);

impl Scale {
    const fn new(grain_log2: u32) -> Self {
        Self((f64::MAX_EXP as u32 - 1 + grain_log2) << STEP_BITS)
    }
}

impl Bins {
    /// Empty lists for holes of up to `size` bytes.
    pub(crate) fn new(size: u64, grain: u64) -> Self {
        let scale = Scale::new(grain.trailing_zeros());
        let mut bins = Self { rows: 0, steps: [0; ROWS], heads: Vec::new(), scale };
        bins.fit(size);
        bins
    }

    /// Has lists for holes of up to `size` bytes from now on.
    pub(crate) fn fit(&mut self, size: u64) {
        let (row, _) = self.class_of(size).split();
        // One more, so that there is one above each class that a hole can have.
        let lists = (row + 1) * STEPS + 1;
        if lists > self.heads.len() {
            self.heads.resize(lists, Head::EMPTY);
        }
    }

    /// The class of holes of so many bytes.
    #[inline]
    pub(crate) fn class_of(&self, len: u64) -> Class {
        Class::of(len, self.scale)
    }

    /// The holes of a class of which one can be.
    #[inline]
    pub(crate) fn head(&self, class: Class) -> Head {
        self.heads.get(class.index()).copied().unwrap_or(Head::EMPTY)
    }

    /// The holes of a class and those of the next longer one.
    #[inline]
    pub(crate) fn two_heads(&self, class: Class) -> [Head; 2] {
        let found = self.heads.get(class.index()..).and_then(<[Head]>::first_chunk);
        // Only a placement of the user's asks for lengths that no hole can have.
        found.copied().unwrap_or([Head::EMPTY; 2])
    }

    /// The same, to change all but whether there is any.
    #[inline]
    pub(crate) fn head_mut(&mut self, class: Class) -> &mut Head {
        &mut self.heads[class.index()]
    }

    /// Puts a hole into its class: the lower of it and the best becomes the best, the other the first of the rest.
    #[inline(always)]
    pub(crate) fn put(&mut self, holes: &mut [HoleNode], class: Class, slot: u32, offset: u64, len: u64) {
        let (row, step) = class.split();
        let steps = self.steps[row];
        self.steps[row] = steps | 1 << step;
        if steps == 0 {
            self.rows |= 1 << row;
        }
        let head = self.head_mut(class);
        let Head { low, len: length, best, rest } = *head;
        // Which of the two is lower cannot be foreseen: selections, no jump. Where there is none, this one is.
        let lower = offset < low;
        let other = select_unpredictable(lower, best, slot);
        *head = Head {
            low: select_unpredictable(lower, offset, low),
            len: select_unpredictable(lower, len, length),
            best: select_unpredictable(lower, slot, best),
            rest: other,
        };
        // Without another or a rest these go to the sentinel, and leave it as it is or in a field that it has no use for.
        holes[other as usize].after = rest;
        holes[rest as usize].before = other;
    }

    /// Takes a hole out of its class.
    #[inline(always)]
    pub(crate) fn take(&mut self, holes: &mut [HoleNode], class: Class, slot: u32) {
        let head = self.head_mut(class);
        let first = head.rest;
        if head.best != slot {
            let HoleNode { before, after, .. } = holes[slot as usize];
            // The first one may name any before it: so what makes another the first need not touch it.
            if first == slot {
                head.rest = after;
            } else {
                holes[before as usize].after = after;
                holes[after as usize].before = before;
            }
            return;
        }
        // The sentinel, if there is no rest: a class in which it is the best is empty. No jump: it cannot be foreseen.
        let HoleNode { offset, len, after, .. } = holes[first as usize];
        *head = Head { low: offset, len, best: first, rest: after };
        let (row, step) = class.split();
        self.steps[row] &= !(u32::from(first == NIL) << step);
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
        let list = |row: usize, step: usize| {
            let head = self.head(Class::join(row as u32, step as u32));
            (head.best != NIL, head.rest == NIL || head.best != NIL)
        };
        (0..ROWS).all(|row| {
            (self.rows >> row & 1 == 1) == (self.steps[row] != 0)
                && (0..STEPS).all(|step| (self.steps[row] >> step & 1 == 1, true) == list(row, step))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nodes::Nodes;

    fn of(units: u64) -> Class {
        Class::of(units, Scale::new(0))
    }

    #[test]
    fn classes_count_in_grains() {
        let (step, most) = if cfg!(miri) { (9, 40) } else { (1, 200) };
        for grain_log2 in (0..64).step_by(step) {
            for units in (1..most)
                .chain([1 << 40, u64::MAX >> 12])
                .take_while(|units| *units <= u64::MAX >> grain_log2)
            {
                assert_eq!(Class::of(units << grain_log2, Scale::new(grain_log2)), of(units));
            }
        }
    }

    #[test]
    fn classes_grow_with_length_and_are_tight() {
        let mut last = Class::FIRST;
        assert_eq!(of(1), last);
        for units in 2..if cfg!(miri) { 100 } else { 20_000_u64 } {
            let class = of(units);
            assert!(class >= last && (units > 64 || class > last));
            assert_eq!(class, Class::by_shifts(units, Scale::new(0)));
            last = class;
        }
        for units in (1..64).map(|bit| 1_u64 << bit) {
            // Beyond, the last ones are rounded up.
            assert!(of(units - 1) < of(units) || units > 1 << 53);
            if units >= 32 {
                assert_eq!(of(units), of(units + (units / 32 - 1).min(units >> 6)));
                assert_ne!(of(units), of(units + units / 32));
            }
        }
        assert_eq!(of(u64::MAX).index(), ROWS * STEPS - 1);
        assert!(of(i64::MAX as u64) <= of(1 << 63));
    }

    /// The table of holes with these, from slot 1 on.
    fn table(holes: &[(u64, u64)]) -> Vec<HoleNode> {
        let nodes = Nodes::new();
        let hole = |&(offset, len)| HoleNode { offset, len, ..nodes.holes[0].clone() };
        [(u64::MAX, 0)].iter().chain(holes).map(hole).collect()
    }

    #[test]
    fn bits_follow_the_heads() {
        let mut bins = Bins::new(u64::MAX, 1);
        assert_eq!((bins.longest(), bins.at_or_above(Class::FIRST)), (None, None));
        let lengths = [3, 40, 5_000, u64::MAX];
        let mut holes = table(&lengths.map(|len| (0, len)));
        for (slot, units) in (1..).zip(lengths) {
            bins.put(&mut holes, of(units), slot, 0, units);
        }
        assert!(bins.bits_hold());
        assert_eq!(bins.at_or_above(of(4)), Some(of(40)));
        assert_eq!(bins.at_or_above(of(41)), Some(of(5_000)));
        assert_eq!(bins.at_or_above(of(6_000)), Some(of(u64::MAX)));
        assert_eq!(bins.at_or_above(of(u64::MAX).above()), None);
        bins.take(&mut holes, of(u64::MAX), 4);
        assert_eq!(bins.longest(), Some(of(5_000)));
        assert_eq!(bins.at_or_above(of(6_000)), None);
        assert!(bins.bits_hold());
    }

    /// The sentinel stands in for what is not there, in whatever order holes come and go, and comes out of it unchanged.
    #[test]
    fn a_class_fills_and_empties_in_any_order() {
        let class = of(5_000);
        // Seven apart, every order of three is among those in which they come, and among those in which they go.
        for order in (0..36).step_by(if cfg!(miri) { 7 } else { 1 }) {
            let mut bins = Bins::new(18_000, 1);
            let (mut put, mut gone) = ([1, 2, 3], [1, 2, 3]);
            for (slots, order) in [(&mut put, order / 6), (&mut gone, order % 6)] {
                slots.swap(0, order % 3);
                slots.swap(1, 1 + order / 3);
            }
            let mut holes = table(&[(0, 5_000), (6_000, 5_001), (12_000, 5_002)]);
            for slot in put {
                let HoleNode { offset, len, .. } = holes[slot as usize];
                bins.put(&mut holes, class, slot, offset, len);
            }
            for (left, slot) in (0..3).rev().zip(gone) {
                bins.take(&mut holes, class, slot);
                let head = bins.head(class);
                let mut listed = 0;
                let mut at = if head.best == NIL {
                    NIL
                } else {
                    listed = 1;
                    head.rest
                };
                while at != NIL {
                    (listed, at) = (listed + 1, holes[at as usize].after);
                }
                let best = &holes[head.best as usize];
                assert_eq!((listed, head.low, head.len), (left, best.offset, best.len));
                assert!(
                    bins.bits_hold() && (holes[0].offset, holes[0].len, holes[0].after) == (u64::MAX, 0, NIL)
                );
            }
        }
    }

    #[test]
    fn small_ranges_have_few_lists_and_grow() {
        let mut bins = Bins::new(40, 1);
        assert_eq!(bins.heads.len(), 6 * STEPS + 1);
        assert_eq!(bins.head(of(1000)).best, NIL);
        bins.fit(1000);
        bins.put(&mut table(&[(8, 1000)]), of(1000), 1, 8, 1000);
        assert_eq!((bins.head(of(1000)).best, bins.longest()), (1, Some(of(1000))));
        assert!(bins.bits_hold());
    }
}
