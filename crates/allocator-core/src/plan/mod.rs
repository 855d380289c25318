//! Plans: which blocks to move where, as data.

mod exact;
mod layout;
mod room;
mod slide;

use alloc::vec::Vec;
use core::fmt;
use core::ops::Range;

use crate::Handle;
use exact::Exact;
use layout::Layout;
use room::Search;

/// One block changes its place.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Move {
    /// The block.
    pub handle: Handle,
    /// The bytes it occupies before the move, whole.
    pub src: Range<u64>,
    /// The offset it starts at afterwards.
    pub dst: u64,
}

impl Move {
    /// Bytes moved.
    #[must_use]
    #[expect(clippy::len_without_is_empty, reason = "a block is never empty")]
    pub fn len(&self) -> u64 {
        self.src.end.saturating_sub(self.src.start)
    }

    /// The bytes the block occupies after the move.
    #[must_use]
    pub fn dst_range(&self) -> Range<u64> {
        self.dst..self.dst.saturating_add(self.len())
    }

    /// Whether source and destination share bytes, so that the copy needs memmove semantics.
    #[must_use]
    pub fn overlaps(&self) -> bool {
        self.src.start.abs_diff(self.dst) < self.len()
    }
}

/// Moves to be made in order: pure, deterministic data.
///
/// Each move's destination is free (but for the part the block itself covers) when its turn comes and the
/// moves before it have been made. Frees, allocations and leases may happen in between: a move they make
/// impossible is then refused by [`check_move`](crate::OffsetAllocator::check_move), the others stand. Only who carries it out
/// as a whole ([`Arena::apply_plan`](crate::Arena::apply_plan)) needs it fresh.
///
/// A plan keeps its buffers, and those of the search that made it, when it is cleared or filled again:
/// planning into the same plan allocates nothing once it has seen an arena of that size.
///
/// ```
/// use allocator_core::{OffsetAllocator, Plan, Request};
///
/// // Four blocks of 25 bytes; every other one is freed: 50 bytes free, but no hole above 25.
/// let mut offsets = OffsetAllocator::new(100)?;
/// let blocks: Vec<_> = (0..4).map(|_| offsets.allocate(Request::new(25))).collect::<Result<_, _>>()?;
/// offsets.free(blocks[0])?;
/// offsets.free(blocks[2])?;
///
/// let mut plan = Plan::default();
/// offsets.plan_room_into(Request::new(50), &mut plan)?;
/// // Only the block between the two holes moves.
/// assert_eq!((plan.moves().len(), plan.bytes()), (1, 25));
/// let step = &plan.moves()[0];
/// assert_eq!((step.handle, step.src.clone(), step.dst), (blocks[1], 25..50, 0));
///
/// offsets.commit_move(step)?;
/// assert_eq!(offsets.stats().largest_hole, 50);
/// # Ok::<(), allocator_core::AllocError>(())
/// ```
#[derive(Clone, Default)]
pub struct Plan {
    moves: Vec<Move>,
    bytes: u64,
    /// The allocator that made it, by its number, and the epoch at which it did.
    pub(crate) made_at: (u32, u64),
    layout: Layout,
    search: Search,
    exact: Exact,
}

impl Plan {
    /// The moves, in the order they must be made.
    #[must_use]
    pub fn moves(&self) -> &[Move] {
        &self.moves
    }

    /// Bytes moved by all moves together, `u64::MAX` where that is more.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Whether there is nothing to move.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.moves.is_empty()
    }

    /// Forgets the moves and keeps the buffers.
    pub fn clear(&mut self) {
        self.moves.clear();
        self.bytes = 0;
    }

    fn push(&mut self, step: Move) {
        self.bytes = self.bytes.saturating_add(step.len());
        self.moves.push(step);
    }
}

impl fmt::Debug for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Plan").field("moves", &self.moves).field("bytes", &self.bytes).finish()
    }
}

/// Plans are equal when their moves are.
impl PartialEq for Plan {
    fn eq(&self, other: &Self) -> bool {
        self.moves == other.moves
    }
}

impl Eq for Plan {}
