//! Names of blocks that outlive the block without ever naming another.

use core::fmt;
use core::sync::atomic::{AtomicU32, Ordering};

use crate::nodes::FIRST_BLOCK;

/// The name of a live block: stays valid while the block moves, and is refused once it is freed.
///
/// A handle is a slot number, the slot's generation when the block was made, and the number of the
/// allocator that made it. Freeing a block raises the slot's generation, and a slot whose generations are
/// used up is never used again: a stale handle is an error for ever, never someone else's block. A
/// handle of another allocator is an error too (allocators are numbered by a 32-bit counter per process).
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Handle {
    slot: u32,
    generation: u32,
    owner: u32,
}

impl Handle {
    /// The block's number: small, dense and reused after the block is freed. Use it to index a table beside
    /// the allocator, and store the whole handle in the table to tell a number's tenants apart.
    #[must_use]
    pub const fn index(self) -> usize {
        (self.slot - FIRST_BLOCK) as usize
    }

    /// The allocator that made it: for who hears blocks of several.
    #[must_use]
    #[inline]
    pub const fn allocator(self) -> AllocatorId {
        AllocatorId(self.owner)
    }

    #[inline]
    pub(crate) const fn new(slot: u32, generation: u32, owner: u32) -> Self {
        Self { slot, generation, owner }
    }

    #[inline]
    pub(crate) const fn slot(self) -> u32 {
        self.slot
    }

    #[inline]
    pub(crate) const fn generation(self) -> u32 {
        self.generation
    }

    #[inline]
    pub(crate) const fn owner(self) -> u32 {
        self.owner
    }
}

/// Tells allocators apart, of one process, by a 32-bit counter. Its text is what follows the `@` in that of a [`Handle`].
///
/// ```
/// use allocator_core::{OffsetAllocator, Request};
///
/// let (mut one, other) = (OffsetAllocator::new(64)?, OffsetAllocator::new(64)?);
/// let block = one.allocate(Request::new(8))?;
/// assert_eq!(block.allocator(), one.id());
/// assert_ne!(block.allocator(), other.id());
/// # Ok::<(), allocator_core::AllocError>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct AllocatorId(pub(crate) u32);

impl fmt::Display for AllocatorId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Debug for Handle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Handle({self})")
    }
}

/// `number.generation@allocator`, short enough for a log line.
impl fmt::Display for Handle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}@{}", self.index(), self.generation, self.owner)
    }
}

/// A number for a new allocator; repeats only after 2^32 of them.
pub(crate) fn next_owner() -> u32 {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    NEXT.fetch_add(1, Ordering::Relaxed)
}
