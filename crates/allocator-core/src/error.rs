//! What can go wrong, with the numbers.

use crate::{Handle, ParamId, RangeError};

/// Why an allocator refused. Its state is then as it was before the call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AllocError {
    /// No hole fits. With `free >= requested` the arena is fragmented, not full: moving blocks may help
    /// ([`plan_room`](crate::OffsetAllocator::plan_room)), and
    /// [`explain`](crate::OffsetAllocator::explain) says how far.
    #[error(
        "no room for {requested} bytes (alignment {align}): {free} bytes are free, the largest hole has {largest_hole}"
    )]
    OutOfMemory {
        /// Bytes asked for.
        requested: u64,
        /// Alignment asked for, in bytes.
        align: u64,
        /// Bytes free in all holes together.
        free: u64,
        /// Length of the largest hole in bytes.
        largest_hole: u64,
    },
    /// A block has at least one byte.
    #[error("a block needs at least one byte")]
    ZeroSize,
    /// An alignment must be a power of two.
    #[error("alignment {align} is not a power of two")]
    BadAlign {
        /// The alignment asked for.
        align: u64,
    },
    /// The size overflows when it is rounded up to the grain.
    #[error("{size} bytes overflow when rounded up to the grain, {grain} bytes")]
    SizeOverflow {
        /// Bytes asked for.
        size: u64,
        /// The allocator's grain in bytes.
        grain: u64,
    },
    /// An arena must have a size, and it must be a multiple of the grain.
    #[error("an arena of {size} bytes is empty or no multiple of its grain, {grain} bytes")]
    BadSize {
        /// The size asked for, in bytes.
        size: u64,
        /// The grain asked for, in bytes.
        grain: u64,
    },
    /// The grain must be a power of two.
    #[error("grain {grain} is not a power of two")]
    BadGrain {
        /// The grain asked for, in bytes.
        grain: u64,
    },
    /// The offset that a block was to have is not a multiple of its alignment, which is at least the grain.
    #[error("offset {offset} is not a multiple of {align}")]
    Unaligned {
        /// The offset asked for, in bytes.
        offset: u64,
        /// The alignment asked for or the grain, whichever is larger, in bytes.
        align: u64,
    },
    /// Not all of the bytes that a block was to have are free.
    #[error("of the {size} bytes from offset {offset} on, not all are free")]
    Occupied {
        /// The offset asked for, in bytes.
        offset: u64,
        /// The size asked for, rounded up to the grain, in bytes.
        size: u64,
    },
    /// The allocator changed after the candidate was found.
    #[error("the candidate was found at epoch {found}; the allocator is at epoch {now}")]
    StaleCandidate {
        /// Epoch at which the candidate was found.
        found: u64,
        /// Epoch of the allocator now.
        now: u64,
    },
    /// The allocator changed after the plan was made, which is to be carried out as a whole.
    #[error("the plan was made at epoch {made}; the allocator is at epoch {now}")]
    StalePlan {
        /// Epoch at which the plan was made.
        made: u64,
        /// Epoch of the allocator now.
        now: u64,
    },
    /// The plan was made by another allocator.
    #[error("the plan comes from another allocator")]
    ForeignPlan,
    /// The candidate was found by another allocator.
    #[error("the candidate comes from another allocator")]
    ForeignCandidate,
    /// The block was freed.
    #[error("block {handle} was freed")]
    StaleHandle {
        /// The handle that was given.
        handle: Handle,
    },
    /// The handle was made by another allocator.
    #[error("block {handle} belongs to another allocator")]
    ForeignHandle {
        /// The handle that was given.
        handle: Handle,
    },
    /// The block is leased: it may not move or leave now.
    #[error("block {handle} is leased ({leases} leases) and may not move or leave")]
    Leased {
        /// The block.
        handle: Handle,
        /// How many leases are on it.
        leases: u32,
    },
    /// A lease was ended that was not there.
    #[error("block {handle} is not leased")]
    NotLeased {
        /// The block.
        handle: Handle,
    },
    /// The block has as many leases as can be counted.
    #[error("block {handle} has {} leases, one more cannot be counted", crate::nodes::MOST_LEASES)]
    TooManyLeases {
        /// The block.
        handle: Handle,
    },
    /// The allocator has no slot left for one more block.
    #[error("all {limit} slots for blocks are taken")]
    TooManyBlocks {
        /// How many blocks there can be.
        limit: u32,
    },
    /// The block cannot become so long where it is: another block, or the end, is in the way.
    #[error("block {handle} cannot grow to {requested} bytes where it is: there is room for {most}")]
    CannotGrow {
        /// The block.
        handle: Handle,
        /// Bytes asked for.
        requested: u64,
        /// Bytes it could have there at most.
        most: u64,
    },
    /// The range cannot become so short: a block is in the way.
    #[error("{size} bytes are not enough: the last block ends at {least}")]
    CannotShrink {
        /// The size asked for, in bytes.
        size: u64,
        /// The end of the last block.
        least: u64,
    },
    /// The move cannot be made as things stand.
    #[error("block {handle} cannot move from {from} to {to} ({len} bytes): {fault}")]
    BadMove {
        /// The block to be moved.
        handle: Handle,
        /// Offset the move starts from.
        from: u64,
        /// Offset it leads to.
        to: u64,
        /// Bytes it would move.
        len: u64,
        /// The rule it breaks.
        fault: MoveFault,
    },
    /// The placement chose a spot that is not inside one hole, or not aligned.
    #[error("the placement put {size} bytes at {offset}, which is no spot inside a hole")]
    Misplaced {
        /// Offset it chose.
        offset: u64,
        /// Bytes it was to place.
        size: u64,
    },
    /// The parameter was unassigned, or its block released.
    #[error("parameter {param} was unassigned or its block released")]
    StaleParam {
        /// The parameter that was given.
        param: ParamId,
    },
    /// A part that does not lie within its block.
    #[error(transparent)]
    Range(#[from] RangeError),
}

/// The rule a move breaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum MoveFault {
    /// The source is not where the block is now: the plan is out of date.
    #[error("the block is not at the source")]
    NotAtSource,
    /// The destination ends beyond the arena.
    #[error("the destination ends beyond the arena")]
    OutOfBounds,
    /// The destination is not a multiple of the block's alignment and the grain.
    #[error("the destination is not aligned")]
    Misaligned,
    /// Another block is in the way.
    #[error("another block is in the way")]
    Occupied,
}

/// Why an arena could not do what it was asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ArenaError<E> {
    /// The allocator refused; nothing changed.
    #[error(transparent)]
    Alloc(#[from] AllocError),
    /// The device refused. Moves made before stand; the one refused was not made.
    #[error("the device refused")]
    Device(#[source] E),
}

/// Why a move was not applied. The block is where it was.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ApplyError<E> {
    /// The allocator refused the move; the closure did not run.
    #[error(transparent)]
    Alloc(#[from] AllocError),
    /// The closure failed; nothing was committed.
    #[error("the copy was not enqueued")]
    Run(#[source] E),
}

/// Why several copies ([`DeviceBuffer::copies_within`](crate::DeviceBuffer::copies_within)), or the moves of a plan
/// ([`Arena::apply_plan`](crate::Arena::apply_plan)), were not all made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("number {made} was refused, and none after it was made")]
pub struct CopiesRefused<E> {
    /// How many were made: all those before the one that was refused.
    pub made: usize,
    /// Why it was refused.
    #[source]
    pub error: E,
}

/// Why an arena did not become as long as it was told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ResizeError<E> {
    /// The allocator refused; the closure did not run.
    #[error(transparent)]
    Alloc(#[from] AllocError),
    /// The closure failed; nothing changed.
    #[error("the buffer was not resized")]
    Run(#[source] E),
    /// The closure made the buffer another size than it was told.
    #[error("the buffer came out at {found} bytes, not {told}; the arena has {kept}")]
    Differs {
        /// Bytes the closure was told.
        told: u64,
        /// Bytes the buffer has.
        found: u64,
        /// Bytes the arena has now: as many as the buffer, down to the grain, but never fewer than its blocks need.
        kept: u64,
    },
}

/// A broken invariant found by [`OffsetAllocator::check`](crate::OffsetAllocator::check): a bug here, not
/// in the caller.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("inconsistent at offset {at}: {rule}")]
pub struct Inconsistency {
    /// The rule that does not hold.
    pub rule: &'static str,
    /// Offset (or slot number, where there is no offset) at which it was seen.
    pub at: u64,
}
