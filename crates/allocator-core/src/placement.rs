//! Which hole a request gets.

use core::ops::Range;

use crate::bins::{Class, Head};
use crate::nodes::{HoleNode, NIL};
use crate::request::align_down;
use crate::space::Space;
use crate::{Fit, Lifetime};

/// Chooses the spot for a block: a strategy of an [`OffsetAllocator`](crate::OffsetAllocator).
///
/// Implementations must be deterministic in their arguments. A spot that is not inside one hole or not
/// aligned is refused as [`Misplaced`](crate::AllocError::Misplaced), so a faulty placement cannot
/// corrupt an allocator.
///
/// ```
/// use allocator_core::{Fit, Holes, OffsetAllocator, Placement, Request, Spot};
///
/// /// Always from the top of the highest hole that fits.
/// struct Topmost;
///
/// impl Placement for Topmost {
///     fn place(&self, holes: Holes<'_>, fit: &Fit) -> Option<Spot> {
///         holes.by_address().filter_map(|hole| Some(hole.at(fit.highest_in(&hole.range())?))).last()
///     }
/// }
///
/// let mut allocator = OffsetAllocator::with_placement(1024, 1, Topmost)?;
/// let block = allocator.allocate(Request::new(24))?;
/// assert_eq!(allocator.block(block)?.range, 1000..1024);
/// # Ok::<(), allocator_core::AllocError>(())
/// ```
pub trait Placement {
    /// Whether the holes are kept in order of their addresses too, which makes [`Holes::lowest`] O(log n) and every
    /// allocation and release O(log n) as well.
    /// A constant keeps the trait from being used as `dyn Placement`.
    const BY_ADDRESS: bool = false;

    /// Whether its spots need no check: only this crate can say so.
    #[doc(hidden)]
    const TRUST: trust::Trust = trust::Trust::NO;

    /// The spot for a block of `fit`, or `None` when no hole fits.
    fn place(&self, holes: Holes<'_>, fit: &Fit) -> Option<Spot>;
}

/// Out of everybody else's reach, so that nobody else can name what is in here.
mod trust {
    /// Whether the spots of a placement are inside their holes and aligned without a check.
    #[derive(Debug, Clone, Copy)]
    pub struct Trust(pub(crate) bool);

    impl Trust {
        pub(crate) const NO: Trust = Trust(false);
        pub(crate) const YES: Trust = Trust(true);
    }
}

/// Good fit, low addresses first. The default.
///
/// Each size class keeps a low hole at hand: the lowest since it was last taken, not always the lowest there is. Two such
/// holes are compared, that of the request's own class, if it is long enough, and that of the next class, and the lower one
/// is taken; where neither is there, the one of the next longer class that has any. So a block leaves at most about 1/16 of its
/// hole behind, or splits a hole that is much longer anyway, and the upper end of the arena stays free without a search. If
/// the own class has a low hole that is too short, the hole freed last is looked at instead, so that an equal request finds a
/// block that was just freed. On arenas that fill up and churn this packs better than exact best fit, at the price of a free list (the
/// repository's `benches/results/core.md` has both). The block takes the low end of its hole.
///
/// [`Lifetime::Short`] turns it around: of the two holes the higher, and its high end.
///
/// O(1), but when no class above the own one has a hole, or alignment above the grain is in the way: then all holes of the
/// classes in which one might fit are looked at, so a refusal is always true.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct GoodFit;

impl Placement for GoodFit {
    const TRUST: trust::Trust = trust::Trust::YES;

    #[inline]
    fn place(&self, holes: Holes<'_>, fit: &Fit) -> Option<Spot> {
        let bins = &holes.space.bins;
        let own = holes.space.class_of(fit.size);
        let next = own.above();
        if fit.lifetime == Lifetime::Short {
            let found = [next, own].into_iter().filter_map(|class| in_best(&bins.head(class), fit));
            let spot = found.max_by_key(|spot| spot.offset);
            return spot.or_else(|| further(holes, next, fit));
        }
        // Which of the two is lower cannot be foreseen: selections, no jump.
        let [mut first, second] = bins.two_heads(own);
        let (mut low, lower) = (low_end(&first, fit), low_end(&second, fit));
        if low == NOWHERE && first.rest != NIL {
            let latest = holes.space.nodes.hole(first.rest);
            first = Head { low: latest.offset, len: latest.len, best: first.rest, rest: NIL };
            low = low_end(&first, fit);
        }
        let spot = Spot {
            slot: if lower < low { second.best } else { first.best },
            offset: if lower < low { lower } else { low },
        };
        if spot.offset != NOWHERE { Some(spot) } else { further(holes, next, fit) }
    }
}

/// The spot in a longer class than the next; failing that anywhere.
#[inline]
fn further(holes: Holes<'_>, next: Class, fit: &Fit) -> Option<Spot> {
    let bins = &holes.space.bins;
    let longer = bins.at_or_above(next).and_then(|class| in_best(&bins.head(class), fit));
    longer.or_else(|| look_everywhere(holes, fit))
}

/// The spot in the low hole of a class, if it fits.
#[inline]
fn in_best(head: &Head, fit: &Fit) -> Option<Spot> {
    // An empty class has a hole of no length, in which nothing fits.
    let offset = end_in(head.low..head.low + head.len, fit)?;
    Some(Spot { slot: head.best, offset })
}

/// [`Fit::lowest_in`] the low hole of a class, or [`NOWHERE`].
#[inline]
fn low_end(head: &Head, fit: &Fit) -> u64 {
    let offset = head.low.wrapping_add(fit.align - 1) & !(fit.align - 1);
    // Huge when the sum wrapped around.
    let padding = offset.wrapping_sub(head.low);
    if padding <= head.len && head.len - padding >= fit.size { offset } else { NOWHERE }
}

/// No offset: a block has at least one byte, which would have no room there.
const NOWHERE: u64 = u64::MAX;

/// Where a block goes in a hole.
#[inline]
fn end_in(hole: Range<u64>, fit: &Fit) -> Option<u64> {
    if fit.lifetime == Lifetime::Short { fit.highest_in(&hole) } else { fit.lowest_in(&hole) }
}

/// Any hole that fits, the shortest class first.
#[cold]
fn look_everywhere(holes: Holes<'_>, fit: &Fit) -> Option<Spot> {
    holes.by_size(fit.size).find_map(|class| {
        let spot = |(slot, node): (u32, &HoleNode)| {
            Some(Spot { slot, offset: end_in(node.offset..node.end(), fit)? })
        };
        class.space.in_class(class.class).find_map(spot)
    })
}

/// Best fit: the smallest hole the block fits into, ties to the lowest offset.
///
/// Size classes find the first class that can serve in O(1); inside it up to 64 holes are compared
/// exactly. Only when none of those fits are the rest looked at, so a refusal is always true. The block takes the low end
/// of its hole, or the high end when the request says [`Lifetime::Short`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct BestFit;

impl Placement for BestFit {
    const TRUST: trust::Trust = trust::Trust::YES;

    fn place(&self, holes: Holes<'_>, fit: &Fit) -> Option<Spot> {
        let best = |class: SizeClass<'_>, skip: usize, limit: usize| {
            let fitting = class.space.in_class(class.class).skip(skip).take(limit);
            let spots = fitting
                .filter_map(|(slot, node)| Some((node.len, end_in(node.offset..node.end(), fit)?, slot)));
            spots.min().map(|(_, offset, slot)| Spot { slot, offset })
        };
        holes
            .by_size(fit.size)
            .find_map(|class| best(class, 0, SCAN))
            .or_else(|| holes.by_size(fit.size).find_map(|class| best(class, SCAN, usize::MAX)))
    }
}

/// First fit from below: the lowest offset that fits. O(log holes) whatever the order of requests, and so is every allocation
/// and release; see [`Holes::lowest`] for alignments above the grain.
///
/// Keeps the top of an arena free, at a price: see `benches/results/core.md` in the repository.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct LowestOffset;

impl Placement for LowestOffset {
    const BY_ADDRESS: bool = true;
    const TRUST: trust::Trust = trust::Trust::YES;

    fn place(&self, holes: Holes<'_>, fit: &Fit) -> Option<Spot> {
        holes.lowest(fit)
    }
}

/// The holes of an allocator, by size or by address.
#[derive(Clone, Copy)]
pub struct Holes<'a> {
    space: &'a Space,
}

impl<'a> Holes<'a> {
    pub(crate) fn new(space: &'a Space) -> Self {
        Self { space }
    }

    /// The non-empty size classes, shortest first, from the one that holes of `len` bytes belong to. That
    /// first class may hold shorter ones too; all later classes hold only longer ones. O(1) per class.
    pub fn by_size(self, len: u64) -> impl Iterator<Item = SizeClass<'a>> {
        let space = self.space;
        // No hole is shorter than a grain.
        let mut next =
            space.bins.at_or_above(space.class_of(align_down(len.max(space.grain()), space.grain())));
        core::iter::from_fn(move || {
            let class = next?;
            next = space.bins.at_or_above(class.above());
            Some(SizeClass { space, class })
        })
    }

    /// All holes from the lowest offset up. O(1) per block or hole passed.
    pub fn by_address(self) -> impl Iterator<Item = Hole> + 'a {
        let spans = self.space.upwards(self.space.first());
        spans.filter_map(|span| Some(Hole { slot: span.link.as_hole()?, range: span.range }))
    }

    /// The spot at the lowest offset at which the block fits. O(log holes) for a [`Placement::BY_ADDRESS`], and with
    /// alignment above the grain as much again for each hole that is long enough but not where it would be aligned;
    /// O(blocks and holes below it) for others.
    #[must_use]
    pub fn lowest(self, fit: &Fit) -> Option<Spot> {
        match &self.space.tree {
            Some(tree) => tree.lowest(fit).map(|(slot, offset)| Spot { slot, offset }),
            None => self.by_address().find_map(|hole| Some(hole.at(fit.lowest_in(&hole.range)?))),
        }
    }
}

/// Holes of nearly the same length: within one class they differ by at most 1/32.
#[derive(Clone, Copy)]
pub struct SizeClass<'a> {
    space: &'a Space,
    class: Class,
}

impl<'a> SizeClass<'a> {
    /// Its holes: first a low one, then the others, the latest made first.
    pub fn holes(self) -> impl Iterator<Item = Hole> + 'a {
        self.space.in_class(self.class).map(|(slot, node)| Hole { slot, range: node.offset..node.end() })
    }
}

/// A hole a block may be placed in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hole {
    slot: u32,
    range: Range<u64>,
}

impl Hole {
    /// The free bytes.
    #[must_use]
    pub fn range(&self) -> Range<u64> {
        self.range.clone()
    }

    /// The spot at `offset` (counted from the start of the arena) in this hole.
    #[must_use]
    pub fn at(&self, offset: u64) -> Spot {
        Spot { slot: self.slot, offset }
    }
}

/// A place for a block: an offset in a hole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Spot {
    pub(crate) slot: u32,
    pub(crate) offset: u64,
}

/// Holes compared per size class before a longer class is tried.
const SCAN: usize = 64;

#[cfg(test)]
mod tests {
    use alloc::vec::Vec;

    use super::*;
    use crate::{OffsetAllocator, Request};

    /// An allocator with holes of these lengths, made in this order, a block of one byte between any two.
    fn holes<P: Placement>(lens: &[u64], placement: P) -> OffsetAllocator<P> {
        let size = lens.iter().map(|len| len + 1).sum();
        let mut offsets = OffsetAllocator::with_placement(size, 1, placement).unwrap();
        let mut filled = Vec::new();
        for len in lens {
            filled.push(offsets.allocate(Request::new(*len)).unwrap());
            offsets.allocate(Request::new(1)).unwrap();
        }
        for hole in filled {
            offsets.free(hole).unwrap();
        }
        offsets
    }

    fn start<P: Placement>(offsets: &OffsetAllocator<P>, request: Request) -> u64 {
        offsets.find(request).unwrap().range().start
    }

    #[test]
    fn best_fit_takes_the_tightest_and_of_equal_ones_the_lowest() {
        let offsets = holes(&[100, 40, 50, 40, 1000], BestFit);
        assert_eq!(start(&offsets, Request::new(40)), 101);
        assert_eq!(start(&offsets, Request::new(41)), 142);
        assert_eq!(start(&offsets, Request::new(51)), 0);
        assert_eq!(start(&offsets, Request::new(40).align(64)), 0);
        assert_eq!(start(&offsets, Request::new(101).align(64)), 256);
    }

    #[test]
    fn short_lived_blocks_take_the_high_end() {
        let offsets = holes(&[100], GoodFit);
        assert_eq!(start(&offsets, Request::new(10).lifetime(Lifetime::Short)), 90);
        assert_eq!(start(&offsets, Request::new(10).align(32).lifetime(Lifetime::Short)), 64);
        assert_eq!(start(&offsets, Request::new(10).lifetime(Lifetime::Long)), 0);
    }

    #[test]
    fn a_refusal_is_true_however_many_holes_share_a_class() {
        // More holes of one class than are compared, and one in the middle, neither the lowest nor the latest, is long enough.
        fn check<P: Placement>(placement: P) {
            let count = if cfg!(miri) { SCAN + 6 } else { 200 };
            let mut lens = alloc::vec![8200; count];
            lens[count / 2] = 8300;
            let mut offsets = holes(&lens, placement);
            let at = (count as u64 / 2) * 8201;
            assert_eq!(start(&offsets, Request::new(8300)), at);
            assert!(offsets.find(Request::new(8301)).is_err());
            let taken = offsets.allocate(Request::new(8300)).unwrap();
            assert!(offsets.find(Request::new(8300)).is_err());
            assert!(offsets.allocate(Request::new(8300)).is_err());
            assert_eq!(offsets.free(taken), Ok(at..at + 8300));
            assert_eq!(start(&offsets, Request::new(8300)), at);
            offsets.check().unwrap();
        }
        check(GoodFit);
        check(BestFit);
        check(LowestOffset);
    }

    #[test]
    fn good_fit_takes_the_lower_of_two_and_a_block_just_freed_again() {
        // 330 and 334 are of one class, 340 of the next.
        let offsets = holes(&[340, 330, 5000], GoodFit);
        assert_eq!(start(&offsets, Request::new(330)), 0);
        assert_eq!(start(&offsets, Request::new(330).lifetime(Lifetime::Short)), 341);
        let mut offsets = holes(&[330, 334, 5000], GoodFit);
        let again = offsets.allocate(Request::new(334)).unwrap();
        assert_eq!(offsets.free(again), Ok(331..665));
        assert_eq!(start(&offsets, Request::new(334)), 331);
    }

    #[test]
    fn every_class_can_be_asked_for() {
        let offsets = OffsetAllocator::with_grain(64, 64).unwrap();
        for len in [0, 1, 63, 64] {
            assert_eq!(Holes::new(&offsets.space).by_size(len).count(), 1);
        }
        assert_eq!(Holes::new(&offsets.space).by_size(u64::MAX).count(), 0);
    }

    /// What a placement of the user's may do with the spots of those here, and must not get away with.
    #[test]
    fn spots_of_other_placements_are_checked() {
        struct Wraps(u64, u64);
        impl Placement for Wraps {
            fn place(&self, holes: Holes<'_>, fit: &Fit) -> Option<Spot> {
                GoodFit.place(holes, &Fit { size: self.0, align: self.1, ..*fit })
            }
        }
        let misplaced = |size| Err(crate::AllocError::Misplaced { offset: 3, size });
        let mut offsets = OffsetAllocator::with_placement(64, 1, Wraps(1, 1)).unwrap();
        assert!(offsets.allocate(Request::new(3)).is_ok());
        assert_eq!(offsets.allocate(Request::new(8).align(16)), misplaced(8));
        assert!(offsets.allocate(Request::new(61)).is_ok());
        assert!(matches!(offsets.allocate(Request::new(1)), Err(crate::AllocError::OutOfMemory { .. })));
        offsets.check().unwrap();
    }

    #[test]
    fn lowest_offset_takes_the_first_that_fits() {
        let mut offsets = OffsetAllocator::with_placement(64, 1, LowestOffset).unwrap();
        let first = offsets.allocate(Request::new(20)).unwrap();
        offsets.allocate(Request::new(10)).unwrap();
        offsets.free(first).unwrap();
        assert_eq!(offsets.find(Request::new(5)).unwrap().range(), 0..5);
        assert_eq!(offsets.find(Request::new(21)).unwrap().range(), 30..51);
    }

    #[test]
    fn a_hole_kept_from_before_is_found_out() {
        /// Always the first hole it ever saw.
        #[derive(Default)]
        struct Keeps(core::cell::RefCell<Option<Hole>>);
        impl Placement for Keeps {
            fn place(&self, holes: Holes<'_>, _: &Fit) -> Option<Spot> {
                let mut kept = self.0.borrow_mut();
                let hole = kept.get_or_insert(holes.by_address().next()?);
                Some(hole.at(hole.range.start))
            }
        }
        let mut offsets = OffsetAllocator::with_placement(64, 1, Keeps::default()).unwrap();
        let first = offsets.allocate(Request::new(8)).unwrap();
        let misplaced = Err(crate::AllocError::Misplaced { offset: 0, size: 8 });
        assert_eq!(offsets.allocate(Request::new(8)), misplaced);
        offsets.free(first).unwrap();
        offsets.check().unwrap();
        // A hole of another allocator.
        let other = OffsetAllocator::with_placement(64, 1, Keeps(offsets.placement().0.clone())).unwrap();
        let mut grown = other;
        assert!(grown.allocate(Request::new(8)).is_ok());
        assert_eq!(grown.allocate(Request::new(8)), misplaced);
        grown.check().unwrap();
    }

    #[test]
    fn a_faulty_placement_is_found_out() {
        struct Anywhere(u64);
        impl Placement for Anywhere {
            fn place(&self, holes: Holes<'_>, _: &Fit) -> Option<Spot> {
                Some(holes.by_address().next()?.at(self.0))
            }
        }
        for offset in [0, 4, 8, 12, 16, 61, u64::MAX] {
            let mut offsets = OffsetAllocator::with_placement(64, 4, Anywhere(offset)).unwrap();
            let found = offsets.allocate(Request::new(8).align(8));
            assert_eq!(found.is_ok(), [0, 8, 16].contains(&offset), "{offset}");
            assert!(found.is_ok() || found == Err(crate::AllocError::Misplaced { offset, size: 8 }));
            offsets.check().unwrap();
        }
    }
}
