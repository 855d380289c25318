//! Arenas that are watched.

use std::sync::Arc;

use allocator_core::{AllocatorId, Block, Handle, Move, Observer, OffsetAllocator, Placement, Request};

use crate::{Device, OutOfMemoryReport, Owner, StorageId, TrackError, Tracker, place};

/// A watched arena: from its handles to storages, and what to say when it is full.
///
/// It is taken as there, and counts to its device's `segment` and `reserved_bytes`, until its last observer is dropped, or the last
/// clone of this if it never had one.
///
/// An arena that takes the place of another, because it had to grow, may have the same watch: blocks of both are counted while both
/// are there, each until its own arena goes; [`set_size`](Self::set_size) says how long the second is.
///
/// ```
/// use allocator_core::conformance::VecBuffer; // host memory, for examples
/// use allocator_core::{Arena, Request};
/// use mem_tracker::{Category, Tracker, When};
///
/// let tracker = Tracker::new();
/// let watch = tracker.device("cuda:0")?.watch(1 << 20)?;
/// let mut arena = Arena::new(VecBuffer::new(1 << 20))?;
/// arena.set_observer(Box::new(watch.observer()));
///
/// let weights = arena.allocate(Request::new(4096))?;
/// tracker.retag(watch.storage(weights)?, Category::Parameter)?;
/// assert_eq!(watch.device().usage(When::Current).allocated(Category::Parameter), 4096);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone)]
pub struct Watch {
    watched: Arc<Watched>,
}

/// A watch's number, for as long as somebody names it.
#[derive(Debug)]
struct Watched {
    tracker: Tracker,
    at: u32,
}

impl Drop for Watched {
    fn drop(&mut self) {
        self.tracker.book().unwatch(self.at);
    }
}

impl Watch {
    pub(crate) fn new(tracker: Tracker, at: u32) -> Self {
        Self { watched: Arc::new(Watched { tracker, at }) }
    }

    /// What the arena is to be given ([`Arena::set_observer`](allocator_core::Arena::set_observer)). When it is dropped with the
    /// arena, that is taken as gone, and its blocks with it; they stay when the arena was given another one of this watch.
    ///
    /// An observer knows its arena by [`on_attach`](Observer::on_attach), or else from its first block on.
    #[must_use]
    pub fn observer(&self) -> ArenaObserver {
        let Watched { tracker, at } = &*self.watched;
        let number = tracker.book().listen(*at);
        let watched = Arc::clone(&self.watched);
        ArenaObserver { tracker: tracker.clone(), at: *at, number, hears: None, _watched: watched }
    }

    pub(crate) fn tracker(&self) -> &Tracker {
        &self.watched.tracker
    }

    pub(crate) fn number(&self) -> u32 {
        self.watched.at
    }

    /// The device.
    #[must_use]
    pub fn device(&self) -> Device {
        let at = self.tracker().book().watches[self.number() as usize].device;
        Device { tracker: self.tracker().clone(), at }
    }

    /// The storage that stands for a block. It follows moves and resizes. O(1).
    ///
    /// # Errors
    /// [`TrackError::UnknownBlock`].
    pub fn storage(&self, handle: Handle) -> Result<StorageId, TrackError> {
        let (book, at) = (self.tracker().book(), self.number());
        match book.block(at, handle) {
            Some(slot) => Ok(book.id(slot)),
            None => Err(TrackError::UnknownBlock { device: book.watched_device(at), handle }),
        }
    }

    /// Says whose the storage of a block is from now on. O(1).
    ///
    /// # Errors
    /// [`TrackError::UnknownBlock`], [`TrackError::ForeignOwner`].
    pub fn assign(&self, handle: Handle, owner: &Owner) -> Result<(), TrackError> {
        let (mut book, at) = (self.tracker().book(), self.number());
        owner.check(&book)?;
        match book.block(at, handle) {
            Some(slot) => {
                book.assign(slot, owner.here, owner.label);
                Ok(())
            }
            None => Err(TrackError::UnknownBlock { device: book.watched_device(at), handle }),
        }
    }

    /// Counts blocks that were there before the observer: give it
    /// [`OffsetAllocator::blocks`]. They are of the category of what this thread is doing. Blocks it knows already stay as they
    /// are. How many it did not know.
    pub fn adopt(&self, blocks: impl IntoIterator<Item = Block>) -> usize {
        let here = place::here(self.tracker().shared.number);
        // The iterator is not ours, and may ask the tracker: it runs before the lock is taken.
        let blocks: Vec<Block> = blocks.into_iter().collect();
        let (mut book, at) = (self.tracker().book(), self.number());
        let mut adopted = 0;
        for block in blocks {
            if book.block(at, block.handle).is_none() {
                book.on_alloc(at, &block, here);
                adopted += 1;
            }
        }
        adopted
    }

    /// The arena is `size` bytes long now: its observer is not told.
    ///
    /// # Errors
    /// [`TrackError::Overflow`]: the device's arenas together span more than can be counted.
    pub fn set_size(&self, size: u64) -> Result<(), TrackError> {
        self.tracker().book().set_size(self.number(), size)
    }

    /// What to say when a request failed: who holds what, what is fragmented, what moving and swapping out would free. Counts as
    /// one of `num_ooms`. As [`OffsetAllocator::explain`], and O(blocks).
    #[must_use]
    pub fn out_of_memory<P: Placement>(
        &self,
        allocator: &OffsetAllocator<P>,
        request: Request,
    ) -> OutOfMemoryReport {
        self.out_of_memory_where(allocator, request, |_| true)
    }

    /// [`out_of_memory`](Self::out_of_memory) for who knows more than leases: of the blocks without one, those that `may_leave` says
    /// so of can be swapped out.
    #[must_use]
    pub fn out_of_memory_where<P: Placement>(
        &self,
        allocator: &OffsetAllocator<P>,
        request: Request,
        may_leave: impl FnMut(&Block) -> bool,
    ) -> OutOfMemoryReport {
        crate::oom::collect(self, allocator, request, may_leave)
    }
}

/// Hears an arena for a tracker.
#[derive(Debug)]
pub struct ArenaObserver {
    tracker: Tracker,
    at: u32,
    number: u64,
    /// The allocator that it has heard of last.
    hears: Option<AllocatorId>,
    /// The watch's number is not another's while this is there.
    _watched: Arc<Watched>,
}

impl Observer for ArenaObserver {
    fn on_attach(&mut self, allocator: AllocatorId) {
        self.hears = Some(allocator);
        self.tracker.book().hears(self.at, self.number, allocator, None);
    }

    #[inline]
    fn on_alloc(&mut self, block: &Block) {
        let here = place::here(self.tracker.shared.number);
        let allocator = block.handle.allocator();
        let known = self.hears.replace(allocator) == Some(allocator);
        let mut book = self.tracker.book();
        if !known {
            book.hears(self.at, self.number, allocator, Some(block.handle));
        }
        book.on_alloc(self.at, block, here);
    }

    #[inline]
    fn on_free(&mut self, block: &Block) {
        self.tracker.book().on_free(self.at, block);
    }

    fn on_resize(&mut self, _before: &Block, after: &Block) {
        self.tracker.book().on_resize(self.at, after);
    }

    fn on_move(&mut self, step: &Move) {
        self.tracker.book().on_move(self.at, step.len());
    }
}

impl Drop for ArenaObserver {
    fn drop(&mut self) {
        self.tracker.book().unlisten(self.at, self.number);
    }
}
