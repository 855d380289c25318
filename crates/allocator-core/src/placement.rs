//! Which hole a request gets.

use core::ops::Range;

use crate::bins::{Class, Head};
use crate::nodes::Node;
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
    const BY_ADDRESS: bool = false;

    /// The spot for a block of `fit`, or `None` when no hole fits.
    fn place(&self, holes: Holes<'_>, fit: &Fit) -> Option<Spot>;
}

/// Good fit, low addresses first. The default.
///
/// Two holes are compared: the lowest one known of the request's own size class, if it is long enough, and the lowest one
/// known of the next class; where neither is there, the one of the next longer class that has any. So a block leaves at most
/// about 1/16 of its hole behind, or splits a hole that is much longer anyway, and the upper end of the arena stays free
/// without a search. On arenas that fill up and churn this packs better than exact best fit, at the price of a free list (the
/// repository's `benches/results/core.md` has both). The block takes the low end of its hole.
///
/// [`Lifetime::Short`] turns it around: of the two holes the higher, and its high end.
///
/// O(1). Only when nothing else fits, or alignment above the grain is in the way, are all holes of the classes looked at in
/// which one might fit, so a refusal is always true.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct GoodFit;

impl Placement for GoodFit {
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
        let (first, second) = (bins.head(own), bins.head(next));
        let (low, lower) = (low_end(&first, fit), low_end(&second, fit));
        let spot = Spot {
            slot: if lower < low { second.best } else { first.best },
            offset: if lower < low { lower } else { low },
            checked: true,
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

/// The spot in the lowest hole known of a class, if it fits.
#[inline]
fn in_best(head: &Head, fit: &Fit) -> Option<Spot> {
    // An empty class has a hole of no length, in which nothing fits.
    let offset = end_in(head.low..head.low + head.len, fit)?;
    Some(Spot { slot: head.best, offset, checked: true })
}

/// [`Fit::lowest_in`] the lowest hole known of a class, or [`NOWHERE`].
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
        let spot = |(slot, node): (u32, &Node)| {
            Some(Spot { slot, offset: end_in(node.offset..node.end(), fit)?, checked: true })
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
    fn place(&self, holes: Holes<'_>, fit: &Fit) -> Option<Spot> {
        let best = |class: SizeClass<'_>, skip: usize, limit: usize| {
            let fitting = class.space.in_class(class.class).skip(skip).take(limit);
            let spots = fitting
                .filter_map(|(slot, node)| Some((node.len, end_in(node.offset..node.end(), fit)?, slot)));
            spots.min().map(|(_, offset, slot)| Spot { slot, offset, checked: true })
        };
        holes
            .by_size(fit.size)
            .find_map(|class| best(class, 0, SCAN))
            .or_else(|| holes.by_size(fit.size).find_map(|class| best(class, SCAN, usize::MAX)))
    }
}

/// First fit from below: the lowest offset that fits. O(log holes), and so is every allocation and release.
///
/// Keeps the top of an arena free, at a price: see `benches/results/core.md` in the repository.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct LowestOffset;

impl Placement for LowestOffset {
    const BY_ADDRESS: bool = true;

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
        let mut next = space.bins.at_or_above(space.class_of(len));
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
    /// alignment above the grain O(1) more for each hole that is long enough but not where it would be aligned;
    /// O(blocks and holes below it) for others.
    #[must_use]
    pub fn lowest(self, fit: &Fit) -> Option<Spot> {
        match &self.space.tree {
            Some(tree) => tree.lowest(fit).map(|(slot, offset)| Spot { slot, offset, checked: true }),
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
    /// Its holes: first the lowest known, then the latest made first.
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
        Spot { slot: self.slot, offset, checked: false }
    }
}

/// A place for a block: an offset in a hole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Spot {
    pub(crate) slot: u32,
    pub(crate) offset: u64,
    /// Found here: inside its hole and aligned.
    pub(crate) checked: bool,
}

/// Holes compared per size class before a longer class is tried.
const SCAN: usize = 64;

#[cfg(test)]
mod tests {
    use alloc::vec::Vec;

    use super::*;
    use crate::{OffsetAllocator, Request};

    /// An allocator with holes of these lengths, made in this order, a block of one byte between any two.
    fn holes(lens: &[u64]) -> OffsetAllocator {
        let mut offsets = OffsetAllocator::new(lens.iter().map(|len| len + 1).sum()).unwrap();
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

    fn start(offsets: &OffsetAllocator, request: Request) -> u64 {
        offsets.find(request).unwrap().range().start
    }

    #[test]
    fn best_fit_takes_the_tightest_and_of_equal_ones_the_lowest() {
        let offsets = holes(&[100, 40, 50, 40, 1000]);
        assert_eq!(start(&offsets, Request::new(40)), 101);
        assert_eq!(start(&offsets, Request::new(41)), 142);
        assert_eq!(start(&offsets, Request::new(51)), 0);
        assert_eq!(start(&offsets, Request::new(40).align(64)), 0);
        assert_eq!(start(&offsets, Request::new(101).align(64)), 256);
    }

    #[test]
    fn short_lived_blocks_take_the_high_end() {
        let offsets = holes(&[100]);
        assert_eq!(start(&offsets, Request::new(10).lifetime(Lifetime::Short)), 90);
        assert_eq!(start(&offsets, Request::new(10).align(32).lifetime(Lifetime::Short)), 64);
        assert_eq!(start(&offsets, Request::new(10).lifetime(Lifetime::Long)), 0);
    }

    #[test]
    fn a_refusal_is_true_however_many_holes_share_a_class() {
        // 200 holes of one class, and only the first made (so the last looked at) is long enough.
        let mut lens = alloc::vec![8300];
        lens.resize(200, 8200);
        let mut offsets = holes(&lens);
        assert_eq!(start(&offsets, Request::new(8300)), 0);
        assert!(offsets.find(Request::new(8301)).is_err());
        let taken = offsets.allocate(Request::new(8300)).unwrap();
        assert!(offsets.find(Request::new(8300)).is_err());
        assert_eq!(offsets.free(taken), Ok(0..8300));
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
