//! Arenas that are watched.

use allocator_core::{Block, Handle, Move, Observer, OffsetAllocator, Placement, Request};

use crate::{Device, OutOfMemoryReport, Owner, StorageId, TrackError, Tracker, place};

/// A watched arena: from its handles to storages, and what to say when it is full.
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
    pub(crate) tracker: Tracker,
    pub(crate) at: u32,
}

impl Watch {
    /// What the arena is to be given ([`Arena::set_observer`](allocator_core::Arena::set_observer)). When it is dropped, with
    /// the arena or because that got another one, the arena is taken as gone, and its blocks with it.
    #[must_use]
    pub fn observer(&self) -> ArenaObserver {
        self.tracker.book().listen(self.at);
        ArenaObserver { tracker: self.tracker.clone(), at: self.at }
    }

    /// The device.
    #[must_use]
    pub fn device(&self) -> Device {
        let at = self.tracker.book().watches[self.at as usize].device;
        Device { tracker: self.tracker.clone(), at }
    }

    /// The storage that stands for a block. It follows moves and resizes. O(1).
    ///
    /// # Errors
    /// [`TrackError::UnknownBlock`].
    pub fn storage(&self, handle: Handle) -> Result<StorageId, TrackError> {
        let book = self.tracker.book();
        match book.watches[self.at as usize].find(handle) {
            Some(slot) => Ok(book.id(slot)),
            None => Err(TrackError::UnknownBlock { device: book.watched_device(self.at), handle }),
        }
    }

    /// Says whose the storage of a block is from now on. O(1).
    ///
    /// # Errors
    /// [`TrackError::UnknownBlock`], [`TrackError::ForeignOwner`].
    pub fn assign(&self, handle: Handle, owner: &Owner) -> Result<(), TrackError> {
        let mut book = self.tracker.book();
        owner.check(&book)?;
        match book.watches[self.at as usize].find(handle) {
            Some(slot) => {
                book.assign(slot, owner.here, owner.label);
                Ok(())
            }
            None => Err(TrackError::UnknownBlock { device: book.watched_device(self.at), handle }),
        }
    }

    /// Counts blocks that were there before the observer: give it
    /// [`OffsetAllocator::blocks`]. They are of the category of what this thread is doing. Blocks it knows already stay as they
    /// are. How many it did not know.
    pub fn adopt(&self, blocks: impl IntoIterator<Item = Block>) -> usize {
        let here = place::here(self.tracker.shared.number);
        let mut book = self.tracker.book();
        let mut adopted = 0;
        for block in blocks {
            if book.watches[self.at as usize].find(block.handle).is_none() {
                book.on_alloc(self.at, &block, here);
                adopted += 1;
            }
        }
        adopted
    }

    /// The arena is `size` bytes long now: its observer is not told.
    pub fn set_size(&self, size: u64) {
        self.tracker.book().set_size(self.at, size);
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
}

impl Observer for ArenaObserver {
    #[inline]
    fn on_alloc(&mut self, block: &Block) {
        let here = place::here(self.tracker.shared.number);
        self.tracker.book().on_alloc(self.at, block, here);
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
        self.tracker.book().unlisten(self.at);
    }
}
