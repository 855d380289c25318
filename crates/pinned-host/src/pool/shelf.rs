//! Blocks just given back, kept where the thread that gave them finds them again without the pool's lock.

use super::serve::Shared;
use super::state::Place;
use crate::HostRegion;
use crate::sync::atomic::{AtomicU64, Ordering};
use crate::sync::{Arc, Mutex, lock};

/// A few blocks of one pool that nobody uses, on a cache line of their own. Threads have shelves of their own, as long as there are enough of them.
///
/// A block on a shelf belongs to nobody but is no hole: whoever finds no hole for a request empties all shelves before it
/// gives up, makes a region or waits; and nothing is put there while somebody waits, or while memory shall go back. So what
/// is on a shelf is never missed.
#[repr(align(128))]
pub(crate) struct Shelf<R> {
    pub(super) shared: Arc<Shared<R>>,
    kept: Mutex<Kept<R>>,
}

struct Kept<R> {
    blocks: [Option<Parked<R>>; PLACES],
    /// Where the next one goes; what is there is the oldest.
    next: usize,
    /// Bytes and slices taken by this shelf's threads, ever.
    taken: (u64, u64),
}

impl<R> Kept<R> {
    #[inline]
    fn count(&mut self, bytes: u64) {
        self.taken.0 += bytes;
        self.taken.1 += 1;
    }
}

/// A block nobody uses.
pub(super) struct Parked<R> {
    pub(super) place: Place,
    pub(super) region: *const R,
    pub(super) offset: u64,
    /// What it takes, rounding included.
    pub(super) bytes: u64,
}

impl<R> Clone for Parked<R> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<R> Copy for Parked<R> {}

// SAFETY: the pointer is to a region, which may be sent and shared, and which the pool keeps.
unsafe impl<R: HostRegion> Send for Parked<R> {}

impl<R: HostRegion> Shelf<R> {
    pub(super) fn new(shared: &Arc<Shared<R>>) -> Self {
        let kept = Kept { blocks: [None; PLACES], next: 0, taken: (0, 0) };
        Shelf { shared: Arc::clone(shared), kept: Mutex::new(kept) }
    }

    /// A block of exactly so many bytes at a multiple of `align`, counted as a slice.
    #[inline]
    pub(super) fn take(&self, bytes: u64, align: u64) -> Option<Parked<R>> {
        let mut kept = lock(&self.kept);
        let fits = |block: &&mut Option<Parked<R>>| {
            block.as_ref().is_some_and(|block| block.bytes == bytes && block.offset & (align - 1) == 0)
        };
        let block = kept.blocks.iter_mut().find(fits)?.take()?;
        kept.count(bytes);
        drop(kept);
        self.shared.active.rise(bytes);
        Some(block)
    }

    /// Keeps a block that a slice gives back, or gives it on to the pool.
    #[inline]
    pub(crate) fn free(&self, place: Place, region: *const R, offset: u64, bytes: u64) {
        self.shared.active.fall(bytes);
        if bytes > LONGEST {
            return self.shared.free(place);
        }
        let mut kept = lock(&self.kept);
        // Asked under the lock: whoever closes the shelves empties them afterwards.
        let instead = if self.shared.are_shelves_open() {
            let next = kept.next;
            kept.next = (next + 1) % PLACES;
            let block = Parked { place, region, offset, bytes };
            kept.blocks[next].replace(block).map(|oldest| oldest.place)
        } else {
            Some(place)
        };
        drop(kept);
        if let Some(place) = instead {
            self.shared.free(place);
        }
    }

    /// Counts a slice of so many bytes that came from elsewhere.
    pub(super) fn count(&self, bytes: u64) {
        lock(&self.kept).count(bytes);
        self.shared.active.rise(bytes);
    }

    /// Bytes and slices counted so far.
    pub(super) fn taken(&self) -> (u64, u64) {
        lock(&self.kept).taken
    }

    /// Empties the shelf.
    pub(super) fn clear(&self) -> impl Iterator<Item = Place> + use<R> {
        let blocks = core::mem::take(&mut lock(&self.kept).blocks);
        blocks.into_iter().flatten().map(|block| block.place)
    }
}

/// The shelf of the calling thread among so many.
#[inline]
pub(super) fn mine(shelves: usize) -> usize {
    thread_local! {
        static MINE: usize = {
            static NEXT: std::sync::atomic::AtomicUsize = std::sync::atomic::AtomicUsize::new(0);
            NEXT.fetch_add(1, Ordering::Relaxed)
        };
    }
    MINE.with(|mine| mine % shelves)
}

/// Shelves a pool has: as many as threads run at once, within reason. One where the model checker runs: all of its threads
/// are one of the system's.
pub(super) fn how_many() -> usize {
    if cfg!(loom) { 1 } else { std::thread::available_parallelism().map_or(1, |n| n.get()).clamp(1, 16) }
}

/// Bytes and slices in use, and the most there were: the one thing that all threads write.
///
/// Counted up after a block was taken and down before it is given back, so a block is never counted twice and every slice that
/// somebody holds is.
#[derive(Default)]
#[repr(align(64))]
pub(super) struct Active {
    bytes: AtomicU64,
    slices: AtomicU64,
    peak_bytes: AtomicU64,
    peak_slices: AtomicU64,
}

impl Active {
    #[inline]
    fn rise(&self, bytes: u64) {
        let rise = |current: &AtomicU64, peak: &AtomicU64, by: u64| {
            let now = current.fetch_add(by, Ordering::Relaxed) + by;
            if now > peak.load(Ordering::Relaxed) {
                peak.fetch_max(now, Ordering::Relaxed);
            }
        };
        rise(&self.bytes, &self.peak_bytes, bytes);
        rise(&self.slices, &self.peak_slices, 1);
    }

    #[inline]
    fn fall(&self, bytes: u64) {
        self.bytes.fetch_sub(bytes, Ordering::Relaxed);
        self.slices.fetch_sub(1, Ordering::Relaxed);
    }

    pub(super) fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    pub(super) fn slices(&self) -> u64 {
        self.slices.load(Ordering::Relaxed)
    }

    pub(super) fn peaks(&self) -> (u64, u64) {
        (self.peak_bytes.load(Ordering::Relaxed), self.peak_slices.load(Ordering::Relaxed))
    }

    pub(super) fn reset_peaks(&self) {
        self.peak_bytes.store(self.bytes(), Ordering::Relaxed);
        self.peak_slices.store(self.slices(), Ordering::Relaxed);
    }
}

/// Blocks a shelf has places for.
const PLACES: usize = 16;
/// Longer blocks, in bytes, go back at once: to take and use one costs so much that the lock does not count.
const LONGEST: u64 = 4 << 20;
