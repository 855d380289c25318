//! A device buffer with its allocator: blocks that move so that requests fit.

use alloc::boxed::Box;
use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;
use core::ops::Range;

use crate::execute::{Mover, by_copies};
use crate::params::Params;
use crate::{
    AllocError, ApplyError, ArenaError, Block, DeviceBuffer, Explanation, GoodFit, Handle, Move, Observer,
    OffsetAllocator, ParamId, Placement, Plan, Request, Stats, check_range,
};

/// What an arena does when a request fails only because the free bytes are scattered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Compaction {
    /// Makes the cheapest moves that make room: [`OffsetAllocator::plan_room`].
    #[default]
    Minimal,
    /// Slides every block down, as DeepSpeed does: [`OffsetAllocator::plan_slide`].
    SlideDown,
    /// Moves nothing; the request fails.
    Never,
}

/// One contiguous device buffer that never dies of fragmentation: blocks move when that makes room, and
/// handles and parameters stay valid.
///
/// A block is named by a [`Handle`], a part of one by a [`ParamId`]; both are asked where they are at each
/// use. Whatever is refused leaves the arena as it was. Nothing here prints, panics or blocks.
///
/// # The original's members
/// What became of each member of DeepSpeed's `ContiguousMemoryAllocator`:
///
/// | original | here |
/// |---|---|
/// | `__init__(size, dtype, device)` | [`Arena::new`] over any [`DeviceBuffer`]; bytes instead of elements, so one arena holds every dtype |
/// | `allocate_tensor(size)` | [`allocate`](Self::allocate), moving blocks when needed; [`allocate_in_place`](Self::allocate_in_place) never does |
/// | `assign_to_param(tensor, param, numel, shape)` | [`assign`](Self::assign), any number per block, any part of it |
/// | `release_tensor(tensor)` | [`release`](Self::release) |
/// | `release_tensor_with_id(id)` | [`release`](Self::release): the handle is the id |
/// | `print_allocation(resolution)` | [`occupancy`](Self::occupancy): the same line, returned |
/// | `max_allocated()` | [`high_water`](Self::high_water) |
/// | `total_size`, `total_free`, `largest_contiguous` | [`stats`](Self::stats), [`total_free`](Self::total_free), [`largest_hole`](Self::largest_hole) |
/// | `count` | the observer hears every allocation: [`set_observer`](Self::set_observer) |
/// | `_reset_param_data()` | nothing to reset: [`param`](Self::param) always says where the bytes are now |
/// | `_unassign_params(id)` | [`unassign`](Self::unassign) for one; [`release`](Self::release) drops all of a block's |
/// | `_release_tensor(id)` | [`OffsetAllocator::free`] |
/// | `_consolidate_address(addr, len)` | inside [`OffsetAllocator::free`]: joined with both neighbours in O(1) |
/// | `_defragment_memory()` | [`plan_slide`](OffsetAllocator::plan_slide), under [`Compaction::SlideDown`] or by [`compact`](Self::compact); the default moves less |
/// | `_replace_old_address_with_new(id, addr)` | [`OffsetAllocator::commit_move`]; with the copy, [`apply`](Self::apply) |
/// | `_get_new_tensor_address(size)` | [`OffsetAllocator::find`]; [`GoodFit`] by default, other strategies by [`Placement`] |
/// | `_get_new_tensor(addr, size)`, `_mark_as_occupied(addr, size)` | [`OffsetAllocator::commit`] |
/// | `_largest_contiguous()` | [`largest_hole`](Self::largest_hole) |
/// | `buffer`, `tensor_map[id]` | [`buffer`](Self::buffer), [`view`](Self::view) |
/// | `contiguous_sizes`, `tensor_addresses`, `tensor_sizes`, `tensor_ids` | [`OffsetAllocator::holes`], [`OffsetAllocator::blocks`] in address order |
/// | `id_to_params` | [`params`](Self::params) |
/// | its prints on every call | [`Observer`]; [`explain`](Self::explain) for failures |
///
/// # Order on devices with queues
/// [`allocate`](Self::allocate) and [`compact`](Self::compact) move with the buffer's own `copy_within` and
/// order it against nothing: they are for synchronous buffers, and for queued ones all of whose work runs
/// on the same queue. Whoever has events plans ([`plan_room_into`](Self::plan_room_into)) and executes with
/// [`apply`](Self::apply), ordering each copy in the closure, or with [`apply_plan`](Self::apply_plan), ordering all.
#[cfg_attr(feature = "conformance", doc = "```")]
#[cfg_attr(not(feature = "conformance"), doc = "```ignore")]
/// use allocator_core::conformance::VecBuffer;
/// use allocator_core::{Arena, DeviceBuffer, Request};
///
/// let mut arena = Arena::new(VecBuffer::new(100))?;
/// let blocks: Vec<_> = (0..4).map(|_| arena.allocate(Request::new(25))).collect::<Result<_, _>>()?;
/// let at = arena.range(blocks[1])?;
/// arena.buffer_mut().write(at.start, &[7; 25])?;
/// let bias = arena.assign(blocks[1], 20..25)?;
///
/// arena.release(blocks[0])?;
/// arena.release(blocks[2])?;
/// let large = arena.allocate(Request::new(50))?; // no hole above 25 bytes: one block moves
/// assert_eq!(arena.range(large)?, 25..75);
/// assert_eq!(arena.param(bias)?, 20..25); // was 45..50
/// assert_eq!(arena.view(blocks[1])?, [7; 25]);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct Arena<B: DeviceBuffer, P: Placement = GoodFit> {
    buffer: B,
    allocator: OffsetAllocator<P>,
    params: Params,
    compaction: Compaction,
    observer: Option<Box<dyn Observer + Send>>,
    pub(crate) mover: Mover<B>,
    pub(crate) remapped_bytes: u64,
    /// Kept for its buffers.
    pub(crate) plan: Plan,
    /// The same, for the copies that a plan comes to.
    pub(crate) copies: Vec<(Range<u64>, u64)>,
}

impl<B: DeviceBuffer> Arena<B> {
    /// An arena over all of `buffer`, with its grain and [`GoodFit`].
    ///
    /// # Errors
    /// As [`OffsetAllocator::with_grain`].
    pub fn new(buffer: B) -> Result<Self, AllocError> {
        Self::with_placement(buffer, GoodFit)
    }
}

impl<B: DeviceBuffer, P: Placement> Arena<B, P> {
    /// An arena with a placement of the caller's choice.
    ///
    /// # Errors
    /// As [`OffsetAllocator::with_grain`].
    pub fn with_placement(buffer: B, placement: P) -> Result<Self, AllocError> {
        let allocator = OffsetAllocator::with_placement(buffer.size(), buffer.grain(), placement)?;
        let (params, plan, copies) = (Params::default(), Plan::default(), Vec::new());
        let (compaction, observer, mover) = (Compaction::default(), None, by_copies as Mover<B>);
        Ok(Self { buffer, allocator, params, compaction, observer, mover, remapped_bytes: 0, plan, copies })
    }

    /// What happens when only fragmentation is in the way.
    pub fn set_compaction(&mut self, compaction: Compaction) {
        self.compaction = compaction;
    }

    /// Who hears every allocation, release and move from now on; `Box::new(())` for nobody. It hears first whom it will hear
    /// ([`Observer::on_attach`]); then the one before is dropped.
    pub fn set_observer(&mut self, mut observer: Box<dyn Observer + Send>) {
        observer.on_attach(self.allocator.id());
        self.observer = Some(observer);
    }

    /// Bytes that the arena's own moves have remapped instead of copied, of [`Stats::moved_bytes`] in all. O(1).
    #[must_use]
    pub fn remapped_bytes(&self) -> u64 {
        self.remapped_bytes
    }

    /// Makes room, moving blocks when only fragmentation is in the way, and takes it.
    ///
    /// The bytes of the new block are whatever was there. O(1) when a hole fits, else a plan and its copies.
    ///
    /// # Errors
    /// [`ArenaError::Alloc`] as [`OffsetAllocator::find`], and when moving cannot make room either.
    /// [`ArenaError::Device`] when the device refuses a copy: the moves before it stand, nothing is lost.
    pub fn allocate(&mut self, request: Request) -> Result<Handle, ArenaError<B::Error>> {
        let refused = match self.allocate_in_place(request) {
            Ok(handle) => return Ok(handle),
            Err(error @ AllocError::OutOfMemory { .. }) => error,
            Err(error) => return Err(error.into()),
        };
        let mut plan = core::mem::take(&mut self.plan);
        let planned = match self.compaction {
            Compaction::Minimal => self.allocator.plan_room_into(request, &mut plan),
            Compaction::SlideDown => self.allocator.plan_slide_for(request, &mut plan),
            Compaction::Never => Err(refused),
        };
        let moved = planned.map_err(ArenaError::from).and_then(|()| self.execute(&plan));
        self.plan = plan;
        moved?;
        Ok(self.allocate_in_place(request)?)
    }

    /// Takes room that is there now. Never moves a block.
    ///
    /// # Errors
    /// As [`OffsetAllocator::allocate`].
    pub fn allocate_in_place(&mut self, request: Request) -> Result<Handle, AllocError> {
        let handle = self.allocator.allocate(request)?;
        if let Some(observer) = &mut self.observer {
            observer.on_alloc(&self.allocator.block_at(handle.slot()));
        }
        Ok(handle)
    }

    /// Frees a block and forgets its parameters; returns the bytes it occupied. O(1 + parameters).
    ///
    /// # Errors
    /// As [`OffsetAllocator::free`].
    pub fn release(&mut self, handle: Handle) -> Result<Range<u64>, AllocError> {
        let block = self.allocator.block(handle)?;
        let range = self.allocator.free(handle)?;
        self.params.release(handle);
        if let Some(observer) = &mut self.observer {
            observer.on_free(&block);
        }
        Ok(range)
    }

    /// A live block as it stands. O(1).
    ///
    /// # Errors
    /// A stale or foreign handle.
    pub fn block(&self, handle: Handle) -> Result<Block, AllocError> {
        self.allocator.block(handle)
    }

    /// Where the bytes that were asked for are now. O(1).
    ///
    /// # Errors
    /// A stale or foreign handle.
    pub fn range(&self, handle: Handle) -> Result<Range<u64>, AllocError> {
        Ok(self.allocator.block(handle)?.used())
    }

    /// The backend's native view of a block: the bytes asked for, up to the next multiple of the grain.
    ///
    /// # Errors
    /// A stale or foreign handle; [`ArenaError::Device`] as [`DeviceBuffer::view`].
    pub fn view(&self, handle: Handle) -> Result<B::View<'_>, ArenaError<B::Error>> {
        // A block is its request rounded up to the grain, and nothing else.
        let range = self.allocator.block(handle)?.range;
        self.buffer.view(range).map_err(ArenaError::Device)
    }

    /// Puts one more lease on a block: it neither moves nor leaves until all are ended. Returns how many
    /// it has now. O(1).
    ///
    /// # Errors
    /// As [`OffsetAllocator::lease`].
    pub fn lease(&mut self, handle: Handle) -> Result<u32, AllocError> {
        self.allocator.lease(handle)
    }

    /// Ends one lease on a block. Returns how many are left. O(1).
    ///
    /// # Errors
    /// As [`OffsetAllocator::unlease`].
    pub fn unlease(&mut self, handle: Handle) -> Result<u32, AllocError> {
        self.allocator.unlease(handle)
    }

    /// Plans the cheapest moves that make room; see [`OffsetAllocator::plan_room_into`].
    ///
    /// # Errors
    /// As [`OffsetAllocator::plan_room_into`].
    pub fn plan_room_into(&self, request: Request, plan: &mut Plan) -> Result<(), AllocError> {
        self.allocator.plan_room_into(request, plan)
    }

    /// Plans a compaction of at most `budget` bytes; see [`OffsetAllocator::plan_compact`].
    #[must_use]
    pub fn plan_compact(&self, budget: u64) -> Plan {
        self.allocator.plan_compact(budget)
    }

    /// Makes one move: checks it, lets `run` enqueue the copy, and records it iff `run` returned `Ok`.
    ///
    /// `run` gets the buffer and the move, and orders the copy against whatever else uses those bytes. It
    /// returns `Err` only if nothing was enqueued: then the block is where it was. O(distance) as
    /// [`OffsetAllocator::check_move`].
    ///
    /// # Errors
    /// [`ApplyError::Alloc`] as [`OffsetAllocator::check_move`], and `run` was not called;
    /// [`ApplyError::Run`] with what `run` returned.
    pub fn apply<E>(
        &mut self,
        step: &Move,
        run: impl FnOnce(&mut B, &Move) -> Result<(), E>,
    ) -> Result<(), ApplyError<E>> {
        self.allocator.check_move(step)?;
        run(&mut self.buffer, step).map_err(ApplyError::Run)?;
        self.allocator.commit_move(step)?;
        if let Some(observer) = &mut self.observer {
            observer.on_move(step);
        }
        Ok(())
    }

    /// Compacts, moving at most `budget` bytes with the buffer's own copies (or remaps, see
    /// [`set_remap`](Self::set_remap)); returns how many moved.
    ///
    /// # Errors
    /// [`ArenaError::Device`] when the device refuses a copy: the moves before it stand.
    pub fn compact(&mut self, budget: u64) -> Result<u64, ArenaError<B::Error>> {
        let mut plan = core::mem::take(&mut self.plan);
        self.allocator.plan_compact_into(budget, &mut plan);
        let moved = self.execute(&plan).map(|()| plan.bytes());
        self.plan = plan;
        moved
    }

    /// Names `part` of a block (counted from its start, within what was asked for) for a parameter. Any
    /// number of parameters may name the same bytes. O(1).
    ///
    /// # Errors
    /// A stale or foreign handle; [`AllocError::Range`] when the part is not within the block.
    pub fn assign(&mut self, handle: Handle, part: Range<u64>) -> Result<ParamId, AllocError> {
        let block = self.allocator.block(handle)?;
        check_range(block.requested, 1, &part)?;
        self.params.assign(handle, part)
    }

    /// Where a parameter's bytes are now, counted from the start of the buffer. O(1).
    ///
    /// # Errors
    /// [`AllocError::StaleParam`].
    pub fn param(&self, param: ParamId) -> Result<Range<u64>, AllocError> {
        let (handle, part) = self.params.part(param)?;
        let start = self.allocator.block(handle)?.range.start;
        Ok(start + part.start..start + part.end)
    }

    /// Forgets a parameter; its block stays. O(1).
    ///
    /// # Errors
    /// [`AllocError::StaleParam`].
    pub fn unassign(&mut self, param: ParamId) -> Result<(), AllocError> {
        self.params.unassign(param)
    }

    /// The parameters of a block, the latest first.
    ///
    /// # Errors
    /// A stale or foreign handle.
    pub fn params(&self, handle: Handle) -> Result<impl Iterator<Item = ParamId>, AllocError> {
        self.allocator.block(handle)?;
        Ok(self.params.of(handle))
    }

    /// The arena in numbers; see [`OffsetAllocator::stats`].
    #[must_use]
    pub fn stats(&self) -> Stats {
        self.allocator.stats()
    }

    /// Bytes in holes. O(1).
    #[must_use]
    pub fn total_free(&self) -> u64 {
        self.allocator.counts.free
    }

    /// Length of the largest hole in bytes. O(holes in its size class).
    #[must_use]
    pub fn largest_hole(&self) -> u64 {
        self.allocator.space.largest_hole()
    }

    /// The most bytes that were ever live at once. O(1).
    #[must_use]
    pub fn high_water(&self) -> u64 {
        self.allocator.counts.high_water
    }

    /// The arena as one line of `resolution` characters; see [`OffsetAllocator::occupancy`].
    #[must_use]
    pub fn occupancy(&self, resolution: usize) -> String {
        self.allocator.occupancy(resolution)
    }

    /// Why a request fits or fails; see [`OffsetAllocator::explain`].
    #[must_use]
    pub fn explain(&self, request: Request) -> Explanation {
        self.allocator.explain(request)
    }

    /// The allocator: everything that only looks is there.
    #[must_use]
    pub fn allocator(&self) -> &OffsetAllocator<P> {
        &self.allocator
    }

    /// The buffer.
    #[must_use]
    pub fn buffer(&self) -> &B {
        &self.buffer
    }

    pub(crate) fn allocator_mut(&mut self) -> &mut OffsetAllocator<P> {
        &mut self.allocator
    }

    pub(crate) fn observe(&mut self, tell: impl FnOnce(&mut (dyn Observer + Send))) {
        if let Some(observer) = &mut self.observer {
            tell(&mut **observer);
        }
    }

    /// The end of the last part of a block that a parameter names.
    pub(crate) fn params_end(&self, handle: Handle) -> Option<u64> {
        let parts = self.params.of(handle).filter_map(|param| Some(self.params.part(param).ok()?.1));
        parts.filter(|part| !part.is_empty()).map(|part| part.end).max()
    }

    /// The buffer, to write to. The allocator does not see what is done to it.
    pub fn buffer_mut(&mut self) -> &mut B {
        &mut self.buffer
    }

    /// Gives the buffer back; every handle is void.
    #[must_use]
    pub fn into_buffer(self) -> B {
        self.buffer
    }
}

impl<B: DeviceBuffer, P: Placement> fmt::Debug for Arena<B, P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Arena").field("stats", &self.stats()).finish_non_exhaustive()
    }
}
