//! Hearing what happens in an arena.

use crate::{AllocatorId, Block, Move};

/// Hears allocations, releases and moves of an [`Arena`](crate::Arena), after each was made.
///
/// It is called under whatever lock the arena is under, so it must be quick and must not call back. The
/// empty observer is `()`.
pub trait Observer {
    /// An arena was given this observer, and tells it of its blocks from now on; the observer it had before is still there. An
    /// observer that passes on what it hears passes this on too.
    fn on_attach(&mut self, allocator: AllocatorId) {
        let _ = allocator;
    }

    /// A block was allocated.
    fn on_alloc(&mut self, block: &Block) {
        let _ = block;
    }

    /// A block was released; it is described as it was.
    fn on_free(&mut self, block: &Block) {
        let _ = block;
    }

    /// A block became longer or shorter; it is described as it was and as it is. By default this is heard as a release and
    /// an allocation.
    fn on_resize(&mut self, before: &Block, after: &Block) {
        self.on_free(before);
        self.on_alloc(after);
    }

    /// A block moved.
    fn on_move(&mut self, step: &Move) {
        let _ = step;
    }
}

impl Observer for () {}
