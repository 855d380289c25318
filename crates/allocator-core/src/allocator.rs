//! The allocator itself: find, commit, allocate, free, lease.

use core::ops::Range;

use crate::blocks::{Kind, NIL, Node};
use crate::handle::next_owner;
use crate::placement::Holes;
use crate::space::Space;
use crate::{AllocError, BestFit, Block, Fit, Handle, Placement, Request};

/// Blocks and holes in a range of offsets that is somebody else's memory. It touches no memory itself.
///
/// ```text
///   0        64     96                         512                  1024      offsets, u64 bytes
///   ├─ block ┼ hole ┼────────── block ─────────┼──────── hole ────────┤       every byte in one node,
///   │ slot 7 │ 2    │ slot 0 · leased          │ 5                    │       no two holes side by side
///   └────▲───┴──┬───┴────▲─────────────────────┴──┬───────────────────┘
///        │      └────────┼────────────────────────┴──► size classes: 32 per power of two, two bit scans
///   Handle(7.0@1)   Handle(0.3@1)                      from a length to a hole that fits
/// ```
///
/// Offsets and lengths are bytes, multiples of the grain. Finding ([`find`](Self::find), `&self`, pure) and
/// taking ([`commit`](Self::commit)) are apart, so that a caller can compare candidates, or do what may
/// fail, before anything changes. Every method that refuses leaves the state as it was.
///
/// Complexity: allocate and free O(1), up to a bounded scan inside one size class; see [`BestFit`]. No
/// method but the growth of the slot table allocates on the heap, and that only until as many slots as
/// there ever are blocks and holes at once exist.
///
/// ```
/// use allocator_core::{AllocError, OffsetAllocator, Request};
///
/// let mut offsets = OffsetAllocator::new(1024)?;
/// let weights = offsets.allocate(Request::new(600).align(64))?;
/// let bias = offsets.allocate(Request::new(100))?;
/// assert_eq!(offsets.block(bias)?.range, 600..700);
///
/// assert_eq!(offsets.free(weights)?, 0..600);
/// assert_eq!(offsets.free(weights), Err(AllocError::StaleHandle { handle: weights }));
///
/// // 924 bytes are free, in two holes. Moving one block of 100 bytes makes room for 900.
/// let request = Request::new(900);
/// assert!(matches!(offsets.allocate(request), Err(AllocError::OutOfMemory { free: 924, largest_hole: 600, .. })));
/// let plan = offsets.plan_room(request)?;
/// assert_eq!((plan.moves().len(), plan.bytes()), (1, 100));
/// for step in plan.moves() {
///     // … copy the bytes of `step.src` to `step.dst` here …
///     offsets.commit_move(step)?;
/// }
/// let room = offsets.allocate(request)?;
/// assert_eq!(offsets.block(room)?.range.start, offsets.block(bias)?.range.end);
/// # Ok::<(), AllocError>(())
/// ```
pub struct OffsetAllocator<P = BestFit> {
    pub(crate) space: Space,
    pub(crate) size: u64,
    pub(crate) grain: u64,
    pub(crate) owner: u32,
    pub(crate) epoch: u64,
    pub(crate) counts: Counts,
    placement: P,
}

/// What [`stats`](OffsetAllocator::stats) reports in O(1).
#[derive(Default)]
pub(crate) struct Counts {
    pub(crate) free: u64,
    pub(crate) requested: u64,
    pub(crate) high_water: u64,
    pub(crate) blocks: u64,
    pub(crate) leased_blocks: u64,
    pub(crate) leased_bytes: u64,
    pub(crate) moves: u64,
    pub(crate) moved_bytes: u64,
}

/// A spot found for a request, good until the allocator changes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Candidate {
    hole: u32,
    offset: u64,
    fit: Fit,
    requested: u64,
    epoch: u64,
    owner: u32,
}

impl Candidate {
    /// The bytes the block would occupy.
    #[must_use]
    pub fn range(&self) -> Range<u64> {
        self.offset..self.offset + self.fit.size
    }
}

impl OffsetAllocator {
    /// An allocator of `size` bytes with grain 1 and best fit.
    ///
    /// # Errors
    /// [`AllocError::BadSize`] when `size` is zero.
    pub fn new(size: u64) -> Result<Self, AllocError> {
        Self::with_grain(size, 1)
    }

    /// An allocator of `size` bytes whose offsets and lengths are multiples of `grain` bytes.
    ///
    /// # Errors
    /// [`AllocError::BadGrain`] when `grain` is not a power of two, [`AllocError::BadSize`] when `size` is
    /// zero or no multiple of it.
    pub fn with_grain(size: u64, grain: u64) -> Result<Self, AllocError> {
        Self::with_placement(size, grain, BestFit)
    }
}

impl<P> OffsetAllocator<P> {
    /// An allocator of `size` bytes with a grain and a placement of the caller's choice.
    ///
    /// # Errors
    /// As [`with_grain`](OffsetAllocator::with_grain).
    pub fn with_placement(size: u64, grain: u64, placement: P) -> Result<Self, AllocError> {
        Self::with_limit(size, grain, placement, NIL)
    }

    pub(crate) fn with_limit(size: u64, grain: u64, placement: P, limit: u32) -> Result<Self, AllocError> {
        if !grain.is_power_of_two() {
            return Err(AllocError::BadGrain { grain });
        }
        if size == 0 || !size.is_multiple_of(grain) {
            return Err(AllocError::BadSize { size, grain });
        }
        let counts = Counts { free: size, ..Counts::default() };
        let space = Space::new(size, grain, limit);
        Ok(Self { space, size, grain, owner: next_owner(), epoch: 0, counts, placement })
    }

    /// Length of the whole range in bytes.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Offsets and lengths are multiples of this many bytes.
    #[must_use]
    pub fn grain(&self) -> u64 {
        self.grain
    }

    /// Rises with every allocation, release, move and lease.
    #[must_use]
    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    /// Frees a block and returns the bytes it occupied. O(1), allocates nothing.
    ///
    /// # Errors
    /// A stale or foreign handle; [`AllocError::Leased`].
    pub fn free(&mut self, handle: Handle) -> Result<Range<u64>, AllocError> {
        let slot = self.slot(handle)?;
        let node = self.space.blocks.node_mut(slot);
        if node.leases > 0 {
            return Err(AllocError::Leased { handle, leases: node.leases });
        }
        let range = node.range();
        // A live block is never at the last generation: such a slot is retired when it is given back.
        node.generation += 1;
        self.counts.requested -= node.requested;
        self.counts.free += node.len;
        self.counts.blocks -= 1;
        self.space.free(slot);
        self.epoch += 1;
        Ok(range)
    }

    /// A live block as it stands. O(1).
    ///
    /// # Errors
    /// A stale or foreign handle.
    pub fn block(&self, handle: Handle) -> Result<Block, AllocError> {
        Ok(self.block_at(self.slot(handle)?))
    }

    /// Puts one more lease on a block and returns how many it has now. O(1).
    ///
    /// A leased block is a wall: it neither moves nor leaves until every lease is ended.
    ///
    /// # Errors
    /// A stale or foreign handle; [`AllocError::TooManyLeases`].
    pub fn lease(&mut self, handle: Handle) -> Result<u32, AllocError> {
        let slot = self.slot(handle)?;
        let node = self.space.blocks.node_mut(slot);
        node.leases = node.leases.checked_add(1).ok_or(AllocError::TooManyLeases { handle })?;
        if node.leases == 1 {
            self.counts.leased_blocks += 1;
            self.counts.leased_bytes += node.len;
        }
        self.epoch += 1;
        Ok(node.leases)
    }

    /// Ends one lease on a block and returns how many are left. O(1).
    ///
    /// # Errors
    /// A stale or foreign handle; [`AllocError::NotLeased`].
    pub fn unlease(&mut self, handle: Handle) -> Result<u32, AllocError> {
        let slot = self.slot(handle)?;
        let node = self.space.blocks.node_mut(slot);
        node.leases = node.leases.checked_sub(1).ok_or(AllocError::NotLeased { handle })?;
        if node.leases == 0 {
            self.counts.leased_blocks -= 1;
            self.counts.leased_bytes -= node.len;
        }
        self.epoch += 1;
        Ok(node.leases)
    }

    /// The live blocks in address order. O(1) per block or hole passed.
    pub fn blocks(&self) -> impl Iterator<Item = Block> {
        self.nodes(Kind::Block).map(|(slot, _)| self.block_at(slot))
    }

    /// The holes in address order; no two of them touch. O(1) per block or hole passed.
    pub fn holes(&self) -> impl Iterator<Item = Range<u64>> {
        self.nodes(Kind::Hole).map(|(_, node)| node.range())
    }

    pub(crate) fn nodes(&self, kind: Kind) -> impl Iterator<Item = (u32, &Node)> {
        let blocks = &self.space.blocks;
        blocks.upwards(blocks.first()).filter(move |(_, node)| node.kind == kind)
    }

    /// The slot of a live block.
    pub(crate) fn slot(&self, handle: Handle) -> Result<u32, AllocError> {
        if handle.owner() != self.owner {
            return Err(AllocError::ForeignHandle { handle });
        }
        match self.space.blocks.get(handle.slot()) {
            Some(node) if node.kind == Kind::Block && node.generation == handle.generation() => {
                Ok(handle.slot())
            }
            _ => Err(AllocError::StaleHandle { handle }),
        }
    }

    pub(crate) fn block_at(&self, slot: u32) -> Block {
        let node = self.space.blocks.node(slot);
        Block {
            handle: Handle::new(slot, node.generation, self.owner),
            range: node.range(),
            requested: node.requested,
            align: node.align(),
            leases: node.leases,
        }
    }

    pub(crate) fn out_of_memory(&self, request: Request) -> AllocError {
        AllocError::OutOfMemory {
            requested: request.size,
            align: request.align,
            free: self.counts.free,
            largest_hole: self.space.largest_hole(),
        }
    }
}

impl<P: Placement> OffsetAllocator<P> {
    /// Finds room without taking it. Pure: the same state gives the same candidate.
    ///
    /// # Errors
    /// [`AllocError::OutOfMemory`] when no hole fits; [`ZeroSize`](AllocError::ZeroSize),
    /// [`BadAlign`](AllocError::BadAlign), [`SizeOverflow`](AllocError::SizeOverflow) for requests no
    /// allocator could serve; [`Misplaced`](AllocError::Misplaced) when the placement is faulty.
    pub fn find(&self, request: Request) -> Result<Candidate, AllocError> {
        let fit = request.fit(self.grain)?;
        if fit.size > self.counts.free {
            return Err(self.out_of_memory(request));
        }
        let holes = Holes::new(&self.space);
        let spot = self.placement.place(holes, &fit).ok_or_else(|| self.out_of_memory(request))?;
        let offset = spot.offset;
        let hole = self.space.blocks.get(spot.slot).filter(|node| {
            let end = offset.checked_add(fit.size);
            node.kind == Kind::Hole
                && offset >= node.offset
                && offset.is_multiple_of(fit.align)
                && end.is_some_and(|end| end <= node.end())
        });
        if hole.is_none() {
            return Err(AllocError::Misplaced { offset, size: fit.size });
        }
        let (requested, epoch, owner) = (request.size, self.epoch, self.owner);
        Ok(Candidate { hole: spot.slot, offset, fit, requested, epoch, owner })
    }

    /// Takes the room a candidate names. O(1).
    ///
    /// # Errors
    /// [`AllocError::StaleCandidate`] when anything changed since it was found,
    /// [`AllocError::ForeignCandidate`], [`AllocError::TooManyBlocks`].
    pub fn commit(&mut self, candidate: Candidate) -> Result<Handle, AllocError> {
        let Candidate { hole, offset, fit, requested, epoch, owner } = candidate;
        if owner != self.owner {
            return Err(AllocError::ForeignCandidate);
        }
        if epoch != self.epoch {
            return Err(AllocError::StaleCandidate { found: epoch, now: self.epoch });
        }
        self.check_slots()?;
        let slot = self.space.blocks.take();
        self.space.occupy(hole, offset, slot, fit.size);
        let node = self.space.blocks.node_mut(slot);
        node.requested = requested;
        node.align_log2 = fit.align.trailing_zeros() as u8;
        node.leases = 0;
        let handle = Handle::new(slot, node.generation, self.owner);
        self.counts.free -= fit.size;
        self.counts.requested += requested;
        self.counts.blocks += 1;
        self.counts.high_water = self.counts.high_water.max(self.size - self.counts.free);
        self.epoch += 1;
        Ok(handle)
    }

    /// Finds room and takes it. Never moves a block.
    ///
    /// # Errors
    /// As [`find`](Self::find) and [`commit`](Self::commit).
    pub fn allocate(&mut self, request: Request) -> Result<Handle, AllocError> {
        self.commit(self.find(request)?)
    }
}

impl<P> OffsetAllocator<P> {
    /// Whether the two slots that an allocation or a move may take are there.
    pub(crate) fn check_slots(&self) -> Result<(), AllocError> {
        let blocks = &self.space.blocks;
        if blocks.can_take(2) { Ok(()) } else { Err(AllocError::TooManyBlocks { limit: blocks.limit() }) }
    }
}

impl<P> core::fmt::Debug for OffsetAllocator<P> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("OffsetAllocator").field("stats", &self.stats()).field("epoch", &self.epoch).finish()
    }
}
