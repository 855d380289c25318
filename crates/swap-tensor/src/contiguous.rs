//! The face of DeepSpeed's `ContiguousMemoryAllocator` over an arena: tensors and parameters counted in elements.

use crate::{Element, SwapError};
use allocator_core::{
    ApplyError, Arena, ArenaError, Compaction, DeviceBuffer, Handle, Observer, ParamId, Request,
};
use core::{marker::PhantomData, ops::Range};
use pinned_host::ErrorKind;
use std::collections::HashMap;

/// Tensors of one element type in one contiguous buffer, which is compacted when fragmentation is in the way.
///
/// For programs written against the original (`deepspeed/runtime/zero/contiguous_memory_allocator.py`): the same calls
/// with the same meaning, in elements of `E`. What it does below is [`Arena`]'s, whose documentation names the
/// counterpart of every member; a tensor here is never swapped out, for that there is [`SwapPool`](crate::SwapPool).
///
/// | original | here |
/// |---|---|
/// | `__init__(size, dtype, device)` | [`new`](Self::new) over a buffer; the dtype is `E` |
/// | `allocate_tensor(size)` | [`allocate_tensor`](Self::allocate_tensor) |
/// | `assign_to_param(tensor, param, numel, shape)` | [`assign_to_param`](Self::assign_to_param), any number of times |
/// | `release_tensor(tensor)`, `release_tensor_with_id(id)` | [`release_tensor`](Self::release_tensor): the id *is* the handle |
/// | `_defragment_memory()` | [`defragment`](Self::defragment) |
/// | `print_allocation(resolution)` | [`print_allocation`](Self::print_allocation), returned rather than printed |
/// | `max_allocated()` | [`max_allocated`](Self::max_allocated), which can be called |
/// | `total_free`, `largest_contiguous` | [`total_free`](Self::total_free), [`largest_contiguous`](Self::largest_contiguous) |
/// | `param.data` after a move | [`param`](Self::param): always where the bytes are now |
///
/// ```
/// use allocator_core::conformance::VecBuffer;
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use swap_tensor::ContiguousAllocator;
///
/// let mut memory = ContiguousAllocator::<_, f32>::new(VecBuffer::new(1024 * 4))?;
/// let a = memory.allocate_tensor(512)?;
/// let b = memory.allocate_tensor(256)?;
/// let weight = memory.assign_to_param(b, 256, [16, 16])?;
/// memory.release_tensor(a)?;
/// memory.allocate_tensor(768)?; // fits only after `b` has moved
/// assert_eq!(memory.param(weight)?.elements, 0..256);
/// assert_eq!(memory.print_allocation(8), "||||||||");
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct ContiguousAllocator<B: DeviceBuffer, E: Element> {
    arena: Arena<B>,
    shapes: HashMap<ParamId, Vec<u64>>,
    element: PhantomData<E>,
}

/// Names a tensor of a [`ContiguousAllocator`]. A stale one is refused, never somebody else's tensor.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct TensorId(Handle);

/// Where a parameter's elements are now, and its shape.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ParamView {
    /// First and one past the last element in the buffer.
    pub elements: Range<u64>,
    /// Its dimensions.
    pub shape: Vec<u64>,
}

impl<B: DeviceBuffer, E: Element> ContiguousAllocator<B, E> {
    /// Manages all of `buffer`. It is not zeroed.
    ///
    /// # Errors
    /// A buffer that no arena can manage (empty, or not a multiple of its grain).
    pub fn new(buffer: B) -> Result<Self, SwapError> {
        Ok(ContiguousAllocator { arena: Arena::new(buffer)?, shapes: HashMap::new(), element: PhantomData })
    }

    /// How to make room when it is fragmented; by default as few bytes as possible move, the original slides everything
    /// down ([`Compaction::SlideDown`]).
    pub fn set_compaction(&mut self, compaction: Compaction) {
        self.arena.set_compaction(compaction);
    }

    /// Hears every allocation, release and move. See [`Observer`].
    pub fn set_observer(&mut self, observer: Box<dyn Observer + Send>) {
        self.arena.set_observer(observer);
    }

    /// Moves every tensor down until all free room is one hole at the end: the original's `_defragment_memory`. Returns the
    /// elements moved. [`allocate_tensor`](Self::allocate_tensor) moves by itself when it must.
    ///
    /// # Errors
    /// A move that the device refuses; what was moved before stays moved and valid.
    pub fn defragment(&mut self) -> Result<u64, SwapError> {
        let plan = self.arena.allocator().plan_slide();
        let applied = self.arena.apply_plan(&plan, |buffer, copies| buffer.copies_within(copies));
        applied.map_err(|error| match error {
            ApplyError::Run(refused) => device_error(refused.error),
            ApplyError::Alloc(error) => error.into(),
            other => device_error(other),
        })?;
        Ok(plan.bytes() / width::<E>())
    }

    /// A tensor of `numel` elements, contents unspecified. Moves others if only fragmentation is in the way.
    ///
    /// # Errors
    /// Too little free in all, zero elements, or a move that the device refuses. What was allocated stays valid.
    pub fn allocate_tensor(&mut self, numel: u64) -> Result<TensorId, SwapError> {
        let request = Request::new(bytes::<E>(numel)?).align(width::<E>());
        self.arena.allocate(request).map(TensorId).map_err(arena_error)
    }

    /// Lets a parameter of `shape` live in the first `numel` elements of a tensor. Any number may share one. Contents are
    /// not touched.
    ///
    /// # Errors
    /// A shape of another number of elements, more than the tensor has, or a tensor that is gone.
    pub fn assign_to_param(
        &mut self,
        tensor: TensorId,
        numel: u64,
        shape: impl Into<Vec<u64>>,
    ) -> Result<ParamId, SwapError> {
        let shape = shape.into();
        if shape.iter().try_fold(1u64, |n, &d| n.checked_mul(d)) != Some(numel) {
            return Err(SwapError::Shape { name: "parameter".into(), dtype: E::DTYPE, shape });
        }
        let param = self.arena.assign(tensor.0, 0..bytes::<E>(numel)?)?;
        self.shapes.insert(param, shape);
        Ok(param)
    }

    /// Where a parameter's elements are now.
    ///
    /// # Errors
    /// The parameter was unassigned, or its tensor released.
    pub fn param(&self, param: ParamId) -> Result<ParamView, SwapError> {
        let elements = elements::<E>(self.arena.param(param)?);
        Ok(ParamView { elements, shape: self.shapes.get(&param).cloned().unwrap_or_default() })
    }

    /// Takes a parameter out of its tensor, which stays.
    ///
    /// # Errors
    /// There is no such parameter.
    pub fn unassign_param(&mut self, param: ParamId) -> Result<(), SwapError> {
        self.arena.unassign(param)?;
        self.shapes.remove(&param);
        Ok(())
    }

    /// Gives a tensor's room back. Its parameters go with it: using one afterwards is an error, not somebody else's data.
    ///
    /// # Errors
    /// A tensor that is gone already. Nothing changed.
    pub fn release_tensor(&mut self, tensor: TensorId) -> Result<(), SwapError> {
        self.arena.release(tensor.0)?;
        let arena = &self.arena;
        self.shapes.retain(|&param, _| arena.param(param).is_ok());
        Ok(())
    }

    /// The elements a tensor occupies now.
    ///
    /// # Errors
    /// A tensor that is gone.
    pub fn elements(&self, tensor: TensorId) -> Result<Range<u64>, SwapError> {
        Ok(elements::<E>(self.arena.range(tensor.0)?))
    }

    /// The backend's view of a tensor.
    ///
    /// # Errors
    /// A tensor that is gone, or the backend's refusal.
    pub fn view(&self, tensor: TensorId) -> Result<B::View<'_>, SwapError> {
        self.arena.view(tensor.0).map_err(arena_error)
    }

    /// The occupancy map of the original: `resolution` cells, `|` in use, `.` free.
    pub fn print_allocation(&self, resolution: usize) -> String {
        self.arena.occupancy(resolution)
    }

    /// The most elements that were ever in use at once.
    pub fn max_allocated(&self) -> u64 {
        self.arena.high_water() / width::<E>()
    }

    /// Elements not in use.
    pub fn total_free(&self) -> u64 {
        self.arena.total_free() / width::<E>()
    }

    /// The largest tensor that fits without a move, in elements.
    pub fn largest_contiguous(&self) -> u64 {
        self.arena.largest_hole() / width::<E>()
    }

    /// The arena below.
    pub fn arena(&self) -> &Arena<B> {
        &self.arena
    }
}

/// Bytes of an element.
const fn width<E>() -> u64 {
    size_of::<E>() as u64
}

fn bytes<E: Element>(numel: u64) -> Result<u64, SwapError> {
    let overflow = || SwapError::Shape { name: "tensor".into(), dtype: E::DTYPE, shape: vec![numel] };
    numel.checked_mul(width::<E>()).ok_or_else(overflow)
}

fn elements<E>(bytes: Range<u64>) -> Range<u64> {
    bytes.start / width::<E>()..bytes.end / width::<E>()
}

fn arena_error<D: std::error::Error + Send + Sync + 'static>(error: ArenaError<D>) -> SwapError {
    match error {
        ArenaError::Alloc(error) => error.into(),
        ArenaError::Device(error) => device_error(error),
        other => device_error(other),
    }
}

fn device_error(error: impl std::error::Error + Send + Sync + 'static) -> SwapError {
    SwapError::Device { operation: "move a block", kind: ErrorKind::Failed, source: Box::new(error) }
}
