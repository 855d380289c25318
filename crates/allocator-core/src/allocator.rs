//! The allocator itself: find, commit, allocate, free, lease.

use core::ops::Range;

use crate::handle::next_owner;
use crate::nodes::{MOST_BLOCKS, MOST_LEASES};
use crate::placement::Holes;
use crate::space::{Space, Span};
use crate::{AllocError, AllocatorId, Block, Fit, GoodFit, Handle, Placement, Request, Spot};

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
/// Complexity: with [`GoodFit`], allocate and free are O(1), but for a request of the longest class of holes, whose holes may
/// all be looked at, and for alignment above the grain; other placements say their own. Refusals are O(1) once one has
/// looked. On the heap, allocations allocate until there are as many slots as there ever are blocks at once; so do plans, whose
/// buffers can be kept, explanations and pictures, and a longer range may. A release, a move and a lease never do.
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
pub struct OffsetAllocator<P = GoodFit> {
    pub(crate) space: Space,
    pub(crate) size: u64,
    pub(crate) grain: u64,
    pub(crate) owner: u32,
    pub(crate) epoch: u64,
    pub(crate) counts: Counts,
    /// Blocks there can be at once.
    limit: u32,
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
    /// An allocator of `size` bytes with grain 1 and [`GoodFit`].
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
        Self::with_placement(size, grain, GoodFit)
    }
}

impl<P: Placement> OffsetAllocator<P> {
    /// An allocator of `size` bytes with a grain and a placement of the caller's choice.
    ///
    /// # Errors
    /// As [`with_grain`](OffsetAllocator::with_grain).
    pub fn with_placement(size: u64, grain: u64, placement: P) -> Result<Self, AllocError> {
        Self::with_limit(size, grain, placement, MOST_BLOCKS)
    }

    pub(crate) fn with_limit(size: u64, grain: u64, placement: P, limit: u32) -> Result<Self, AllocError> {
        if !grain.is_power_of_two() {
            return Err(AllocError::BadGrain { grain });
        }
        check_size(size, grain)?;
        let counts = Counts { free: size, ..Counts::default() };
        let space = Space::new(size, grain, P::BY_ADDRESS);
        Ok(Self { space, size, grain, owner: next_owner(), epoch: 0, counts, limit, placement })
    }
}

impl<P> OffsetAllocator<P> {
    /// What its handles say made them ([`Handle::allocator`]).
    #[must_use]
    pub fn id(&self) -> AllocatorId {
        AllocatorId(self.owner)
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

    /// The placement.
    #[must_use]
    pub fn placement(&self) -> &P {
        &self.placement
    }

    /// Rises with every change: allocations, releases, moves, leases and their ends, resizes.
    #[must_use]
    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    /// Frees a block and returns the bytes it occupied. O(1), allocates nothing.
    ///
    /// # Errors
    /// A stale or foreign handle; [`AllocError::Leased`].
    #[inline]
    pub fn free(&mut self, handle: Handle) -> Result<Range<u64>, AllocError> {
        let slot = self.slot(handle)?;
        let range = self.space.block_range(slot);
        let node = self.space.nodes.block(slot);
        if node.leases() > 0 {
            return Err(AllocError::Leased { handle, leases: node.leases() });
        }
        self.counts.requested -= node.len;
        self.counts.free += range.end - range.start;
        self.counts.blocks -= 1;
        self.space.vacate(slot, range.clone());
        self.space.nodes.give_block(slot);
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
        let len = self.space.rounded(self.space.nodes.block(slot).len);
        let node = self.space.nodes.block_mut(slot);
        let leases = node.leases() + 1;
        if leases > MOST_LEASES {
            return Err(AllocError::TooManyLeases { handle });
        }
        node.share(node.align_log2(), leases);
        if leases == 1 {
            self.counts.leased_blocks += 1;
            self.counts.leased_bytes += len;
        }
        self.epoch += 1;
        Ok(leases)
    }

    /// Ends one lease on a block and returns how many are left. O(1).
    ///
    /// # Errors
    /// A stale or foreign handle; [`AllocError::NotLeased`].
    pub fn unlease(&mut self, handle: Handle) -> Result<u32, AllocError> {
        let slot = self.slot(handle)?;
        let len = self.space.rounded(self.space.nodes.block(slot).len);
        let node = self.space.nodes.block_mut(slot);
        let leases = node.leases().checked_sub(1).ok_or(AllocError::NotLeased { handle })?;
        node.share(node.align_log2(), leases);
        if leases == 0 {
            self.counts.leased_blocks -= 1;
            self.counts.leased_bytes -= len;
        }
        self.epoch += 1;
        Ok(leases)
    }

    /// The live blocks in address order. O(1) per block or hole passed.
    pub fn blocks(&self) -> impl Iterator<Item = Block> {
        self.spans().filter_map(|span| Some(self.block_at(span.link.as_block()?)))
    }

    /// The holes in address order; no two of them touch. O(1) per block or hole passed.
    pub fn holes(&self) -> impl Iterator<Item = Range<u64>> {
        self.spans().filter(|span| span.link.as_hole().is_some()).map(|span| span.range)
    }

    /// Blocks and holes in address order.
    pub(crate) fn spans(&self) -> impl Iterator<Item = Span> {
        self.space.upwards(self.space.first())
    }

    /// The slot of a live block.
    #[inline]
    pub(crate) fn slot(&self, handle: Handle) -> Result<u32, AllocError> {
        if handle.owner() != self.owner {
            return Err(AllocError::ForeignHandle { handle });
        }
        // None has the generation of a vacant slot, or the slot of the sentinel.
        match self.space.nodes.blocks.get(handle.slot() as usize) {
            Some(node) if node.generation == handle.generation() => Ok(handle.slot()),
            _ => Err(AllocError::StaleHandle { handle }),
        }
    }

    pub(crate) fn handle_of(&self, slot: u32) -> Handle {
        Handle::new(slot, self.space.nodes.block(slot).generation, self.owner)
    }

    pub(crate) fn block_at(&self, slot: u32) -> Block {
        let node = self.space.nodes.block(slot);
        Block {
            handle: self.handle_of(slot),
            range: self.space.block_range(slot),
            requested: node.len,
            align: 1 << node.align_log2(),
            leases: node.leases(),
        }
    }

    #[cold]
    pub(crate) fn out_of_memory(&self, request: Request) -> AllocError {
        self.refusal(request, self.space.largest_hole())
    }

    #[inline]
    fn refusal(&self, request: Request, largest_hole: u64) -> AllocError {
        let Request { size: requested, align, .. } = request;
        AllocError::OutOfMemory { requested, align, free: self.counts.free, largest_hole }
    }
}

impl<P: Placement> OffsetAllocator<P> {
    /// Finds room without taking it. Pure: the same state gives the same candidate.
    ///
    /// # Errors
    /// [`AllocError::OutOfMemory`] when no hole fits; [`ZeroSize`](AllocError::ZeroSize),
    /// [`BadAlign`](AllocError::BadAlign), [`SizeOverflow`](AllocError::SizeOverflow) for requests no
    /// allocator could serve; [`Misplaced`](AllocError::Misplaced) when the placement is faulty.
    #[inline]
    pub fn find(&self, request: Request) -> Result<Candidate, AllocError> {
        let fit = request.fit(self.grain)?;
        let Some(Spot { slot: hole, offset }) = self.spot(&fit)? else {
            return Err(self.out_of_memory(request));
        };
        let (requested, epoch, owner) = (request.size, self.epoch, self.owner);
        Ok(Candidate { hole, offset, fit, requested, epoch, owner })
    }

    /// Takes the room a candidate names. O(1).
    ///
    /// # Errors
    /// [`AllocError::StaleCandidate`] when anything changed since it was found,
    /// [`AllocError::ForeignCandidate`], [`AllocError::TooManyBlocks`].
    #[inline]
    pub fn commit(&mut self, candidate: Candidate) -> Result<Handle, AllocError> {
        let Candidate { hole, offset, fit, requested, epoch, owner } = candidate;
        if owner != self.owner {
            return Err(AllocError::ForeignCandidate);
        }
        if epoch != self.epoch {
            return Err(AllocError::StaleCandidate { found: epoch, now: self.epoch });
        }
        self.take(Spot { slot: hole, offset }, &fit, requested)
    }

    /// Finds room and takes it. Never moves a block.
    ///
    /// # Errors
    /// As [`find`](Self::find) and [`commit`](Self::commit).
    #[inline]
    pub fn allocate(&mut self, request: Request) -> Result<Handle, AllocError> {
        let fit = request.fit(self.grain)?;
        if let Some(spot) = self.spot(&fit)? {
            return self.take(spot, &fit, request.size);
        }
        // What was looked for in vain is remembered, so that the next refusal need not look.
        let largest_hole = self.space.tighten();
        Err(self.refusal(request, largest_hole))
    }

    /// The spot for a request, which is inside one hole and aligned; `None` when there is none.
    #[inline]
    fn spot(&self, fit: &Fit) -> Result<Option<Spot>, AllocError> {
        if fit.size > self.space.longest_bound() {
            return Ok(None);
        }
        let spot = self.placement.place(Holes::new(&self.space), fit);
        if P::TRUST.0 {
            return Ok(spot);
        }
        match spot {
            Some(spot) if !self.is_inside(&spot, fit) => {
                Err(AllocError::Misplaced { offset: spot.offset, size: fit.size })
            }
            spot => Ok(spot),
        }
    }
}

impl<P> OffsetAllocator<P> {
    /// Whether a spot lies in one hole and is aligned.
    fn is_inside(&self, spot: &Spot, fit: &Fit) -> bool {
        let Some(node) = self.space.nodes.holes.get(spot.slot as usize) else { return false };
        // A vacant slot has no length.
        spot.offset >= node.offset
            && spot.offset.is_multiple_of(fit.align)
            && spot.offset.checked_add(fit.size).is_some_and(|end| end <= node.end())
    }

    #[inline]
    pub(crate) fn take(&mut self, spot: Spot, fit: &Fit, requested: u64) -> Result<Handle, AllocError> {
        let slot = match self.space.nodes.take_block() {
            Some(slot) => slot,
            None => self.grow()?,
        };
        let node = self.space.occupy(spot.slot, spot.offset, slot, fit.size);
        node.len = requested;
        node.share(fit.align.trailing_zeros(), 0);
        let handle = Handle::new(slot, node.generation, self.owner);
        self.counts.free -= fit.size;
        self.counts.requested += requested;
        self.counts.blocks += 1;
        self.counts.high_water = self.counts.high_water.max(self.size - self.counts.free);
        self.epoch += 1;
        Ok(handle)
    }

    /// One more slot for a block, where all are taken: else there are fewer blocks than the limit anyway.
    #[cold]
    fn grow(&mut self) -> Result<u32, AllocError> {
        if self.counts.blocks >= u64::from(self.limit) {
            return Err(AllocError::TooManyBlocks { limit: self.limit });
        }
        Ok(self.space.grow())
    }
}

pub(crate) fn check_size(size: u64, grain: u64) -> Result<(), AllocError> {
    if size == 0 || !size.is_multiple_of(grain) {
        return Err(AllocError::BadSize { size, grain });
    }
    Ok(())
}

impl<P> core::fmt::Debug for OffsetAllocator<P> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("OffsetAllocator").field("stats", &self.stats()).field("epoch", &self.epoch).finish()
    }
}
