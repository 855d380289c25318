//! Blocks just given back, kept where the thread that gave them finds them again without the pool's lock.

use super::serve::Shared;
use super::state::Place;
use crate::HostRegion;
use crate::sync::{Arc, Mutex, lock};

/// A few blocks of one pool that nobody uses, on cache lines of their own. Threads have shelves of their own, as long as there
/// are enough of them.
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
    /// What each block takes; 0 where there is none. Apart from them, because it is all that a search looks at.
    lengths: [u64; PLACES],
    blocks: [Option<Parked<R>>; PLACES],
    /// Which one went last to make room for another: they go in turn.
    next: usize,
    counts: Counts,
}

/// Bytes and slices that one shelf's threads took. Each shelf has its own: a count that all threads write costs more than
/// all the rest.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Counts {
    /// Ever.
    pub(super) taken: Both,
    /// And not given back.
    pub(super) now: Both,
    /// The most there were at once.
    pub(super) peak: Both,
}

/// Bytes, and how many slices have them.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Both {
    pub(super) bytes: u64,
    pub(super) slices: u64,
}

impl Both {
    #[inline]
    pub(super) fn add(&mut self, bytes: u64, slices: u64) {
        self.bytes += bytes;
        self.slices += slices;
    }

    #[inline]
    pub(super) fn take(&mut self, bytes: u64) {
        self.bytes -= bytes;
        self.slices -= 1;
    }

    #[inline]
    pub(super) fn raise(&mut self, to: Both) {
        self.bytes = self.bytes.max(to.bytes);
        self.slices = self.slices.max(to.slices);
    }
}

impl Counts {
    #[inline]
    pub(super) fn rise(&mut self, bytes: u64) {
        self.taken.add(bytes, 1);
        self.now.add(bytes, 1);
        self.peak.raise(self.now);
    }

    /// Those of two shelves. Their peaks need not have been at the same time: the sum may be too much.
    pub(super) fn sum(self, other: Counts) -> Counts {
        let add = |mut one: Both, other: Both| {
            one.add(other.bytes, other.slices);
            one
        };
        Counts {
            taken: add(self.taken, other.taken),
            now: add(self.now, other.now),
            peak: add(self.peak, other.peak),
        }
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
        let counts = Counts::default();
        let kept = Kept { lengths: [0; PLACES], blocks: [None; PLACES], next: 0, counts };
        Shelf { shared: Arc::clone(shared), kept: Mutex::new(kept) }
    }

    /// A block of exactly so many bytes at a multiple of `align`, counted as a slice.
    #[inline]
    pub(super) fn take(&self, bytes: u64, align: u64) -> Option<Parked<R>> {
        let mut kept = lock(&self.kept);
        let Kept { lengths, blocks, counts, .. } = &mut *kept;
        let (length, block) = lengths.iter_mut().zip(blocks).find(|(length, block)| {
            **length == bytes && block.is_some_and(|block| block.offset & (align - 1) == 0)
        })?;
        *length = 0;
        counts.rise(bytes);
        block.take()
    }

    /// Keeps a block that a slice gives back, or gives it on to the pool.
    #[inline]
    pub(crate) fn free(&self, place: Place, region: *const R, offset: u64, bytes: u64) {
        let mut kept = lock(&self.kept);
        kept.counts.now.take(bytes);
        // Asked under the lock: whoever closes the shelves empties them afterwards.
        let instead = if bytes <= LONGEST && self.shared.are_shelves_open() {
            let at = kept.lengths.iter().position(|length| *length == 0).unwrap_or_else(|| {
                kept.next = (kept.next + 1) % PLACES;
                kept.next
            });
            kept.lengths[at] = bytes;
            let block = Parked { place, region, offset, bytes };
            kept.blocks[at].replace(block).map(|other| other.place)
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
        lock(&self.kept).counts.rise(bytes);
    }

    pub(super) fn counts(&self) -> Counts {
        lock(&self.kept).counts
    }

    /// Peaks start again at what there is now.
    pub(super) fn reset_peak(&self) {
        let mut kept = lock(&self.kept);
        kept.counts.peak = kept.counts.now;
    }

    /// Empties the shelf.
    pub(super) fn clear(&self) -> impl Iterator<Item = Place> + use<R> {
        let mut kept = lock(&self.kept);
        kept.lengths = [0; PLACES];
        let blocks = core::mem::take(&mut kept.blocks);
        drop(kept);
        blocks.into_iter().flatten().map(|block| block.place)
    }
}

/// The shelf of the calling thread among so many.
#[inline]
pub(super) fn mine(shelves: usize) -> usize {
    thread_local! {
        static MINE: usize = {
            // Not loom's: it is the whole process's.
            static NEXT: std::sync::atomic::AtomicUsize = std::sync::atomic::AtomicUsize::new(0);
            NEXT.fetch_add(1, std::sync::atomic::Ordering::Relaxed)
        };
    }
    MINE.with(|mine| mine % shelves)
}

/// Shelves a pool has: as many as threads run at once, within reason. One where the model checker runs: all of its threads
/// are one of the system's.
pub(super) fn how_many() -> usize {
    if cfg!(loom) { 1 } else { std::thread::available_parallelism().map_or(1, |n| n.get()).clamp(1, 16) }
}

/// Blocks a shelf has places for.
const PLACES: usize = 16;
/// Longer blocks, in bytes, go back at once: to take and use one costs so much that the lock does not count.
const LONGEST: u64 = 4 << 20;
