//! Many regions as one range of offsets: one search finds room in any of them.

use crate::sync::Arc;
use allocator_core::{AllocError, Handle, OffsetAllocator, Request};
use core::ops::Range;

/// Regions end to end, a guard between any two, so that no hole reaches from one into the next.
///
/// ```text
///   guard | region 0         | guard | absent (was region 1) | guard | region 2  | guard
///   0     ^ lot 0                    ^ lot 1                         ^ lot 2
/// ```
/// A *lot* is the stretch of offsets that was made for a region. When its region goes it is filled by a block, and a later
/// region that is no longer takes its place; lots at the end go with their regions. Guards and lots are whole units, so an
/// offset has the alignment, up to a unit, that it has in its region.
pub(crate) struct Ground<R> {
    offsets: OffsetAllocator,
    /// In order of their offsets.
    lots: Vec<Lot<R>>,
    unit: u64,
}

struct Lot<R> {
    start: u64,
    /// Offsets it has, whole units.
    extent: u64,
    guard: Handle,
    held: Option<Held<R>>,
    /// What fills the lot behind its region, or all of it.
    filler: Option<Handle>,
}

/// A region that is there.
struct Held<R> {
    region: Arc<R>,
    /// What it counts for, against a budget.
    bytes: u64,
    /// Blocks in it.
    live: usize,
    /// No byte of it at or beyond this offset was ever part of a block.
    touched: u64,
}

/// A block of a region.
pub(crate) struct Spot<R> {
    pub(crate) lot: u32,
    pub(crate) handle: Handle,
    pub(crate) region: *const R,
    /// Where in the region.
    pub(crate) range: Range<u64>,
    /// Part of the region that is used for the first time.
    pub(crate) fresh: Range<u64>,
    /// Whether the region was idle before.
    pub(crate) woken: Option<u64>,
}

impl<R> Ground<R> {
    /// No region yet. `grain` is a power of two.
    pub(crate) fn new(grain: u64) -> Result<Self, AllocError> {
        let unit = grain.max(UNIT);
        let mut offsets = OffsetAllocator::with_grain(unit, grain)?;
        offsets.allocate_at(0, Request::new(unit))?;
        Ok(Ground { offsets, lots: Vec::new(), unit })
    }

    /// Adds a region of which `usable` bytes, whole grains, are to be used, and which counts for `bytes`. O(lots), and
    /// O(blocks) in an old lot.
    pub(crate) fn add(&mut self, region: Arc<R>, usable: u64, bytes: u64) -> Result<(), AllocError> {
        let overflow = AllocError::SizeOverflow { size: usable, grain: self.unit };
        let extent = usable.checked_next_multiple_of(self.unit).ok_or(overflow)?;
        // Far fewer than blocks there can be.
        if self.lots.len() >= u32::MAX as usize {
            return Err(AllocError::TooManyBlocks { limit: u32::MAX });
        }
        let absent = |lot: &&mut Lot<R>| lot.held.is_none() && lot.extent >= extent;
        let lot = match self.lots.iter_mut().filter(absent).min_by_key(|lot| lot.extent) {
            Some(lot) => {
                if let Some(filler) = lot.filler.take() {
                    self.offsets.free(filler)?;
                }
                lot
            }
            None => {
                let start = self.offsets.size();
                let end = start.checked_add(extent).ok_or(overflow)?;
                self.offsets.resize(end.checked_add(self.unit).ok_or(overflow)?)?;
                let guard = self.offsets.allocate_at(end, Request::new(self.unit))?;
                self.lots.push(Lot { start, extent, guard, held: None, filler: None });
                // Just pushed.
                let last = self.lots.len() - 1;
                &mut self.lots[last]
            }
        };
        if lot.extent > usable {
            let behind = Request::new(lot.extent - usable);
            lot.filler = Some(self.offsets.allocate_at(lot.start + usable, behind)?);
        }
        lot.held = Some(Held { region, bytes, live: 0, touched: 0 });
        Ok(())
    }

    /// Takes room in a region; `None` where there is none. O(1) + O(log lots).
    #[inline]
    pub(crate) fn place(&mut self, request: Request) -> Result<Option<Spot<R>>, AllocError> {
        let handle = match self.offsets.allocate(request) {
            Ok(handle) => handle,
            Err(AllocError::OutOfMemory { .. }) => return Ok(None),
            Err(error) => return Err(error),
        };
        let range = self.offsets.block(handle)?.range;
        let lot = self.lots.partition_point(|lot| lot.start <= range.start).wrapping_sub(1);
        let Some(Lot { start, held: Some(held), .. }) = self.lots.get_mut(lot) else {
            // Holes are in regions only.
            self.offsets.free(handle)?;
            return Ok(None);
        };
        let range = range.start - *start..range.end - *start;
        let woken = (held.live == 0).then_some(held.bytes);
        held.live += 1;
        let fresh = held.touched..range.end.max(held.touched);
        held.touched = fresh.end;
        Ok(Some(Spot { lot: lot as u32, handle, region: Arc::as_ptr(&held.region), range, fresh, woken }))
    }

    /// Gives a block back; says its length, and that of its region if that is idle now.
    #[inline]
    pub(crate) fn free(&mut self, lot: usize, handle: Handle) -> Result<(u64, Option<u64>), AllocError> {
        let range = self.offsets.free(handle)?;
        let bytes = range.end - range.start;
        let Some(Lot { held: Some(held), .. }) = self.lots.get_mut(lot) else { return Ok((bytes, None)) };
        held.live -= 1;
        Ok((bytes, (held.live == 0).then_some(held.bytes)))
    }

    /// Takes the region out of a lot, if it is there and idle, and says what it counted for. O(blocks above it).
    pub(crate) fn remove(&mut self, lot: usize) -> Option<(Arc<R>, u64)> {
        let lots = self.lots.len();
        let lot = self.lots.get_mut(lot)?;
        let held = lot.held.take_if(|held| held.live == 0)?;
        if let Some(filler) = lot.filler.take() {
            let _ = self.offsets.free(filler);
        }
        // Nothing is in the way: the lot is one hole now.
        lot.filler = self.offsets.allocate_at(lot.start, Request::new(lot.extent)).ok();
        while let Some(last) = self.lots.pop_if(|lot| lot.held.is_none()) {
            for block in last.filler.into_iter().chain([last.guard]) {
                let _ = self.offsets.free(block);
            }
        }
        if self.lots.len() < lots {
            let _ = self.offsets.resize(self.offsets.least_size());
        }
        Some((held.region, held.bytes))
    }

    /// The lots whose regions are idle, and what those count for.
    pub(crate) fn idle(&self) -> Vec<(usize, u64)> {
        let held = self.lots.iter().enumerate().filter_map(|(at, lot)| Some((at, lot.held.as_ref()?)));
        held.filter(|(_, held)| held.live == 0).map(|(at, held)| (at, held.bytes)).collect()
    }

    /// Lots begin at multiples of so many bytes: the largest alignment there is.
    pub(crate) fn unit(&self) -> u64 {
        self.unit
    }

    /// Regions there are, and how many of their bytes satisfy a predicate.
    pub(crate) fn regions(&self, which: impl Fn(&R) -> bool) -> (usize, u64) {
        let held = self.lots.iter().filter_map(|lot| lot.held.as_ref());
        held.fold((0, 0), |(count, bytes), held| {
            (count + 1, bytes + if which(&held.region) { held.bytes } else { 0 })
        })
    }

    /// The longest hole, in bytes.
    pub(crate) fn largest_hole(&self) -> u64 {
        self.offsets.stats().largest_hole
    }
}

/// Guards and lots have at least so many bytes: the largest alignment that is promised.
pub(crate) const UNIT: u64 = 4096;

#[cfg(test)]
mod tests {
    use super::*;

    fn ground(lengths: &[u64]) -> Ground<u64> {
        let mut ground = Ground::new(64).unwrap();
        lengths.iter().for_each(|length| ground.add(Arc::new(*length), *length, *length).unwrap());
        ground
    }

    fn take(ground: &mut Ground<u64>, bytes: u64) -> Option<Spot<u64>> {
        ground.place(Request::new(bytes)).unwrap()
    }

    #[test]
    fn no_block_reaches_from_one_region_into_the_next() {
        let mut ground = ground(&[4096, 100 * 64, 8192]);
        assert_eq!((ground.largest_hole(), ground.regions(|_| true).0), (8192, 3));
        assert!(take(&mut ground, 8193).is_none());
        let spots: Vec<_> = [4096, 6400, 8192].map(|bytes| take(&mut ground, bytes).unwrap()).into();
        assert!(spots.iter().all(|spot| spot.range.start == 0 && spot.fresh == spot.range));
        assert_eq!(spots.iter().map(|spot| spot.lot).collect::<Vec<_>>(), [0, 1, 2]);
        assert_eq!(ground.largest_hole(), 0);
        assert!(ground.idle().is_empty());
    }

    #[test]
    fn lots_are_used_again_and_the_last_ones_go() {
        let mut ground = ground(&[4096, 8192, 4096]);
        let size = ground.offsets.size();
        let spots = [8192, 4096, 4096].map(|bytes| take(&mut ground, bytes).unwrap());
        assert_eq!(spots.each_ref().map(|spot| spot.lot), [1, 0, 2]);
        let [_, _, last] = spots;
        assert_eq!(ground.remove(2).map(|(_, bytes)| bytes), None, "it is in use");
        assert_eq!(ground.remove(1).map(|(_, bytes)| bytes), None, "it is in use, too");
        assert_eq!(ground.free(2, last.handle).unwrap(), (4096, Some(4096)));
        assert_eq!(ground.idle(), [(2, 4096)]);
        assert_eq!(ground.remove(2).map(|(_, bytes)| bytes), Some(4096));
        assert!(ground.offsets.size() < size);
        assert_eq!((ground.remove(2).is_none(), ground.remove(9).is_none()), (true, true));

        let mut ground = self::ground(&[8192, 4096]);
        let end = ground.offsets.size();
        ground.remove(0).unwrap();
        assert_eq!((ground.largest_hole(), ground.regions(|_| true).0), (4096, 1));
        // Less than the lot has: the rest of it stays filled.
        ground.add(Arc::new(7), 6400, 6400).unwrap();
        assert_eq!((ground.largest_hole(), ground.offsets.size()), (6400, end));
        assert_eq!((take(&mut ground, 6400).unwrap().lot, take(&mut ground, 4096).unwrap().lot), (0, 1));
    }
}
