//! Locked regions, divided: many slices from few regions, without leaks and without power-of-two waste.

mod config;
mod ground;
mod serve;
mod shelf;
mod state;
mod stats;

pub use config::{PoolConfig, Pressure};
pub(crate) use shelf::Shelf;
pub(crate) use state::Place;
pub use stats::{HostMemoryStats, HostStats, StatCounter, StatTime};

use crate::sync::Arc;
use crate::{HostError, HostRegion, PinnedSlice, Wait};
use config::{OnPressure, Source};
use core::ptr::NonNull;
use serve::Shared;
use shelf::{Counts, Parked};
use state::{Gone, Placed, State, Want};
use std::time::Instant;

/// Host memory that is divided into slices.
///
/// Either of regions that are made once ([`new`](Self::new)), or of regions that are made as they are needed, within a
/// budget, and can be given back ([`PoolConfig`]).
///
/// Cloning is cheap and names the same pool. A region goes back to the system when the pool and the last slice
/// of it are gone, in whatever order.
///
/// Fork: a child that has other threads' locks cannot use its parent's pool, nor drop its slices: it makes a pool of its own.
///
/// ```text
///    region 0 (locked)                      region 1 (pageable)
///    | slice | hole |   slice   |  hole  |  | slice |        hole, never touched           |
///                                                   ^ touched: prepared on first use beyond
/// ```
///
/// Who waits is served in order of arrival and overtaken by nobody, so a large request cannot starve behind small ones.
///
/// Source: DeepSpeed's pinned-tensor manager and PyTorch's host cache do this job with one locked block per
/// request and with powers of two; see the crate's docs.
///
/// ```
/// use pinned_host::{HostError, HostPool, OsLocker, PageLocker};
///
/// let region = OsLocker.pageable(64 << 10).expect("the system locker has pageable memory")?;
/// let pool = HostPool::new(vec![region], 64)?;
/// let mut slice = pool.allocate(1000)?;
/// slice.as_mut_slice().fill(7);
/// assert_eq!((slice.len(), pool.stats().in_use), (1000, 1024));
/// drop(slice);
/// assert_eq!(pool.stats().in_use, 0);
/// # Ok::<(), HostError>(())
/// ```
pub struct HostPool<R: HostRegion> {
    shelves: Arc<Shelves<R>>,
}

/// What the handles of a pool hold, and its slices do not.
struct Shelves<R: HostRegion> {
    /// At least one. Each keeps what they share.
    all: Vec<Arc<Shelf<R>>>,
}

impl<R: HostRegion> HostPool<R> {
    /// A pool over `regions`, whose slices take whole multiples of `grain` bytes, and of every region's
    /// [`atom`](HostRegion::atom). It makes no others.
    ///
    /// Locked regions are used before pageable ones. The end of a region that is no multiple of the grain is not used.
    /// Without regions, every request is [`HostError::TooLarge`].
    ///
    /// # Errors
    /// [`HostError::BadGrain`] unless `grain` is a power of two, at most 2 GiB; [`HostError::ZeroSize`] for a region smaller
    /// than the grain.
    pub fn new(regions: Vec<R>, grain: u64) -> Result<Self, HostError> {
        if !grain.is_power_of_two() {
            return Err(HostError::BadGrain { grain });
        }
        let atoms = regions.iter().map(|region| region.atom() as u64);
        let grain = atoms.filter(|atom| atom.is_power_of_two()).fold(grain, u64::max);
        if regions.iter().any(|region| (region.len() as u64) < grain) {
            return Err(HostError::ZeroSize);
        }
        check_grain(grain)?;
        Ok(Self::with_shared(Shared::new(State::fixed(regions, grain)?, None, None)))
    }

    fn with_source(
        source: Source<R>,
        budget: u64,
        cached: u64,
        grain: u64,
        pressure: Option<OnPressure>,
    ) -> Result<Self, HostError> {
        check_grain(grain)?;
        let state = State::growing(grain, budget, cached, source.max_region())?;
        Ok(Self::with_shared(Shared::new(state, Some(source), pressure)))
    }

    fn with_shared(shared: Shared<R>) -> Self {
        let shared = Arc::new(shared);
        let all = (0..shelf::how_many()).map(|_| Arc::new(Shelf::new(&shared))).collect();
        HostPool { shelves: Arc::new(Shelves { all }) }
    }

    /// A slice of exactly `bytes` bytes, or a refusal at once.
    ///
    /// It starts at a multiple of 16 bytes in its region, of 64 when it has at least 512, of 4 KiB when it has at least
    /// 32 KiB, and of the grain; regions of the operating system start at a page. The contents are whatever was there before.
    ///
    /// O(1) and O(log regions) where a hole fits; O(holes of about the length) where it must be one that is aligned otherwise.
    /// A pool that makes regions makes one where none does, which takes as long as locking it does.
    ///
    /// # Errors
    /// [`HostError::Full`] when there is no room, and also when there is but somebody waits for it: a caller that
    /// does not wait overtakes nobody. [`HostError::TooLarge`], [`HostError::ZeroSize`]. What the locker says, where a region
    /// was to be made, such as [`HostError::LockLimit`].
    #[inline]
    pub fn allocate(&self, bytes: usize) -> Result<PinnedSlice<R>, HostError> {
        self.allocate_aligned(bytes, 1)
    }

    /// As [`allocate`](Self::allocate), but the slice starts at a multiple of `align` bytes in its region as well.
    ///
    /// # Errors
    /// The same; [`HostError::BadAlign`] unless `align` is a power of two up to 4,096.
    pub fn allocate_aligned(&self, bytes: usize, align: usize) -> Result<PinnedSlice<R>, HostError> {
        let want = Want::new(bytes, check_align(align)?);
        let shelf = self.shelf();
        // By way of the own shelf: the first one's cache lines are another thread's.
        let shared = &shelf.shared;
        if shared.are_shelves_open()
            && let Some(block) = shelf.take(shared.rounded(want.bytes), want.align)
        {
            return Ok(self.slice(shelf, block, bytes));
        }
        let placed = shared.take(&self.shelves.all, want)?;
        Ok(self.placed(placed, bytes))
    }

    /// As [`allocate`](Self::allocate), but waits for room until `deadline`; `None` waits for as long as it takes.
    ///
    /// First come, first served. A deadline in the past still gets what is free and wanted by nobody else.
    ///
    /// # Errors
    /// As [`allocate_until`](Self::allocate_until).
    pub fn allocate_deadline(
        &self,
        bytes: usize,
        deadline: Option<Instant>,
    ) -> Result<PinnedSlice<R>, HostError> {
        self.allocate_until(bytes, &deadline.into())
    }

    /// As [`allocate`](Self::allocate), but waits for room: until the deadline, or until somebody calls it off.
    ///
    /// First come, first served.
    ///
    /// # Errors
    /// [`HostError::Timeout`], [`HostError::Cancelled`], [`HostError::TooLarge`] (also while it waits, when the budget
    /// becomes less than was asked for), [`HostError::ZeroSize`]. What the locker says, where a region was to be made and
    /// nothing is in use whose end could be waited for.
    pub fn allocate_until(&self, bytes: usize, wait: &Wait<'_>) -> Result<PinnedSlice<R>, HostError> {
        let placed = self.shared().wait(&self.shelves.all, Want::new(bytes, 1), wait)?;
        Ok(self.placed(placed, bytes))
    }

    /// What the pool holds now. O(regions + threads + holes of the longest class). What threads keep back for themselves becomes
    /// free for all.
    ///
    /// Exact where no other thread takes or gives back a slice at the same moment; `peak_in_use`, where several threads take
    /// slices, may be more by what they keep back: each up to 16 blocks of at most 4 MiB.
    pub fn stats(&self) -> HostStats {
        let mut stats = HostStats::default();
        // What threads keep back is free.
        self.shelves.sweep(
            |_| (),
            |state| {
                stats = state.stats(&self.counts());
                Vec::new()
            },
        );
        stats
    }

    /// What it holds and has done, under PyTorch's names. O(threads).
    pub fn memory_stats(&self) -> HostMemoryStats {
        let shared = self.shared();
        let state = shared.lock();
        let counts = self.counts();
        let (now, peak, before) = (counts.now, state.peak(&counts), state.taken_before);
        let counter = |current, peak, taken: u64, before: u64| {
            let allocated = taken.saturating_sub(before);
            StatCounter { current, peak, allocated, freed: allocated.saturating_sub(current) }
        };
        HostMemoryStats {
            active_bytes: counter(now.bytes, peak.bytes, counts.taken.bytes, before.bytes),
            active_requests: counter(now.slices, peak.slices, counts.taken.slices, before.slices),
            ..state.counts
        }
    }

    /// Peaks start again at what there is now.
    pub fn reset_peak_stats(&self) {
        let mut state = self.shared().lock();
        state.counts.reset_peak();
        state.peak_taken = state.taken;
        self.shelves.all.iter().for_each(|shelf| shelf.reset_peak());
    }

    /// Sums start again: at 0, but for what is in use, which counts as taken.
    pub fn reset_accumulated_stats(&self) {
        let mut state = self.shared().lock();
        let mut counts = self.counts();
        // What is in use counts as if it had been taken afterwards: it will be given back.
        counts.taken.bytes -= counts.now.bytes;
        counts.taken.slices -= counts.now.slices;
        state.taken_before = counts.taken;
        state.counts.reset_accumulated();
    }

    /// The largest slice the pool can give when nothing is in use, in bytes.
    pub fn max_slice(&self) -> usize {
        usize::try_from(self.shared().lock().max_slice()).unwrap_or(usize::MAX)
    }

    /// Callers waiting for room. O(1).
    pub fn waiters(&self) -> usize {
        self.shared().lock().queue.len()
    }

    /// Gives idle regions back to the system, those of which nothing is in use, the longest first, until at most `keep` bytes of
    /// them are left; returns the bytes given back. Nothing of a pool that makes no regions.
    ///
    /// O(blocks) for each region.
    pub fn trim(&self, keep: u64) -> u64 {
        if !self.shared().makes_regions() {
            return 0;
        }
        self.shelves.sweep(|_| (), |state| state.take_idle(keep))
    }

    /// Changes the budget; returns the bytes by which regions in use still exceed it: nothing new is made until they went.
    ///
    /// What is idle goes at once where it must; then who was to be called under pressure is. A region in use that exceeds the
    /// budget goes with its last slice. Whoever waits for more than the new budget is told so.
    ///
    /// # Errors
    /// [`HostError::FixedRegions`] for a pool that makes no regions.
    ///
    /// ```
    /// use pinned_host::{HostError, OsLocker, PoolConfig};
    ///
    /// let pool = PoolConfig::new(1 << 20).build(OsLocker)?;
    /// let slice = pool.allocate(65_536)?;
    /// assert_eq!(pool.set_budget(16_384)?, 49_152);
    /// drop(slice);
    /// assert_eq!(pool.stats().capacity, 0);
    /// # Ok::<(), HostError>(())
    /// ```
    pub fn set_budget(&self, bytes: u64) -> Result<u64, HostError> {
        if !self.shared().makes_regions() {
            return Err(HostError::FixedRegions);
        }
        // Where the budget is exceeded, nothing is put on shelves any more.
        self.shelves.sweep(|state| state.budget = bytes, State::take_excess);
        crate::wait::Wake::wake_all(&**self.shared());
        let over = || self.shared().lock().used().saturating_sub(bytes);
        if over() > 0 {
            self.shared().press_for(over());
        }
        Ok(over())
    }

    #[inline]
    fn shared(&self) -> &Arc<Shared<R>> {
        &self.shelves.all[0].shared
    }

    #[inline]
    fn shelf(&self) -> &Arc<Shelf<R>> {
        &self.shelves.all[shelf::mine(self.shelves.all.len())]
    }

    /// What the slices of all threads come to.
    fn counts(&self) -> Counts {
        self.shelves.all.iter().map(|shelf| shelf.counts()).fold(Counts::default(), Counts::sum)
    }

    /// Makes the slice, then the pages it is the first to use: if that panics, the slice goes back.
    #[inline]
    fn placed(&self, placed: Placed<R>, len: usize) -> PinnedSlice<R> {
        let Placed { place, region, offset, bytes, untouched } = placed;
        let shelf = self.shelf();
        shelf.count(bytes);
        let slice = self.slice(shelf, Parked { place, region, offset, bytes }, len);
        if let Some((from, bytes)) = untouched {
            slice.region().prepare(from as usize, bytes as usize);
        }
        slice
    }

    #[inline]
    fn slice(&self, shelf: &Arc<Shelf<R>>, block: Parked<R>, len: usize) -> PinnedSlice<R> {
        let Parked { place, region, offset, bytes } = block;
        // SAFETY: it comes from an `Arc`, so it is not null; and the region stays where it is until no block is in it.
        let region = unsafe { NonNull::new_unchecked(region.cast_mut()) };
        PinnedSlice::new(Arc::clone(shelf), region, place, offset as usize, len, bytes)
    }
}

impl<R: HostRegion> Shelves<R> {
    /// Changes something, makes holes of what is on shelves, and gives the regions back that `which` takes out; returns their
    /// bytes and those of the regions that became too much by it.
    fn sweep(
        &self,
        change: impl FnOnce(&mut State<R>),
        which: impl FnOnce(&mut State<R>) -> Vec<Gone<R>>,
    ) -> u64 {
        let shared = &self.all[0].shared;
        let mut state = shared.lock();
        change(&mut state);
        shared.publish(&state);
        let mut gone = shared.clear(&self.all, &mut state);
        gone.extend(which(&mut state));
        drop(state);
        let bytes = gone.iter().map(|gone| gone.bytes).sum();
        gone.into_iter().for_each(|gone| shared.release(gone));
        bytes
    }
}

impl<R: HostRegion> Drop for Shelves<R> {
    /// The pool's last handle is gone: no region stays but for slices that are in it.
    fn drop(&mut self) {
        self.sweep(State::keep_nothing, |state| state.take_idle(0));
    }
}

impl<R: HostRegion> Clone for HostPool<R> {
    fn clone(&self) -> Self {
        HostPool { shelves: Arc::clone(&self.shelves) }
    }
}

impl<R: HostRegion> core::fmt::Debug for HostPool<R> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_tuple("HostPool").field(&self.stats()).finish()
    }
}

/// The rest of a slice's last grain is a 32-bit number.
fn check_grain(grain: u64) -> Result<(), HostError> {
    let good = grain.is_power_of_two() && grain <= 1 << 31;
    if good { Ok(()) } else { Err(HostError::BadGrain { grain }) }
}

fn check_align(align: usize) -> Result<u64, HostError> {
    let align = align as u64;
    let good = align.is_power_of_two() && align <= ground::UNIT;
    if good { Ok(align) } else { Err(HostError::BadAlign { align }) }
}
