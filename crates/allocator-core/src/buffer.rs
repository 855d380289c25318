//! The contract between an arena and the memory it manages.

use core::ops::Range;

use crate::CopiesRefused;

/// A contiguous piece of device memory that an arena can rearrange.
///
/// Offsets and lengths are bytes. The trait is usable as `dyn` because the one associated type that
/// would forbid it asks for `Self: Sized`.
///
/// # For implementers
/// * Range errors (out of bounds, overflow, off the [`grain`](Self::grain)) come before anything is
///   touched; [`check_range`] and [`check_copy`] do the arithmetic.
/// * On a device with queues `Ok` means *enqueued*; `Err` means *nothing was enqueued* and nothing changed.
/// * The suite in `allocator_core::conformance` (feature `conformance`) has one function per promise.
///
/// # For callers
/// Nothing here orders a copy against work on other queues: whoever has events does that around the call.
pub trait DeviceBuffer {
    /// The backend's native thing over a range: a raw host range, a device pointer, a binding.
    ///
    /// Its lifetime guards the *handle*, not execution; leases and events do that.
    type View<'a>
    where
        Self: 'a + Sized;
    /// What the backend reports when it refuses.
    type Error: core::error::Error + Send + Sync + 'static;

    /// Length of the buffer in bytes.
    fn size(&self) -> u64;

    /// Offsets and lengths are multiples of this many bytes (1 on most backends, 4 on wgpu).
    fn grain(&self) -> u64 {
        1
    }

    /// Copies `src` to the range of the same length that starts at `dst`, with **memmove semantics**:
    /// the two may overlap in any way. [`disjoint_steps`](crate::disjoint_steps) helps where the backend forbids overlap.
    ///
    /// # Errors
    /// A range beyond the buffer or off the grain, or the backend's refusal. Then nothing was enqueued.
    fn copy_within(&mut self, src: Range<u64>, dst: u64) -> Result<(), Self::Error>;

    /// Makes several copies, each of a source range to an offset, as if by [`copy_within`](Self::copy_within) one after the
    /// other: a later one reads what an earlier one wrote.
    ///
    /// Backends on which it takes long to start a copy make many at once, where it makes no difference.
    ///
    /// # Errors
    /// The first copy that is refused, as by `copy_within`. Those before it were enqueued, it and those after it were not.
    fn copies_within(&mut self, copies: &[(Range<u64>, u64)]) -> Result<(), CopiesRefused<Self::Error>> {
        for (made, (src, dst)) in copies.iter().enumerate() {
            self.copy_within(src.clone(), *dst).map_err(|error| CopiesRefused { made, error })?;
        }
        Ok(())
    }

    /// The backend's native view of `range`.
    ///
    /// # Errors
    /// A range beyond the buffer or off the grain.
    fn view(&self, range: Range<u64>) -> Result<Self::View<'_>, Self::Error>
    where
        Self: Sized;
}

/// A buffer whose pages can be exchanged instead of copied: page tables of 2 MiB with `mremap` on the CPU,
/// virtual memory management on CUDA, sparse binding on Vulkan.
///
/// An arena uses it for its own moves after [`Arena::set_remap`](crate::Arena::set_remap);
/// [`remap_or_copy`](crate::remap_or_copy) makes one move of any length and distance, within
/// [`Arena::apply`](crate::Arena::apply) too.
pub trait Remap: DeviceBuffer {
    /// Size and alignment, in bytes, of what can be remapped; a power of two and a multiple of the grain.
    fn granule(&self) -> u64;

    /// Moves the whole granules of `src` to the range of the same length at `dst` without copying a byte.
    ///
    /// The two ranges must not overlap. Afterwards `dst` holds what `src` held; what `src` holds is
    /// unspecified (a granule exchanged with the hole's, or a fresh one).
    ///
    /// # Errors
    /// A range that is off the granule, beyond the buffer or overlapping; the backend's refusal. Then
    /// nothing changed.
    fn remap(&mut self, src: Range<u64>, dst: u64) -> Result<(), Self::Error>;
}

/// A range that a buffer cannot serve.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RangeError {
    /// The range ends beyond the buffer, or its end overflows.
    #[error("range of {len} bytes at offset {start} does not fit a buffer of {size} bytes")]
    OutOfBounds {
        /// First byte of the range.
        start: u64,
        /// Its length in bytes.
        len: u64,
        /// Length of the buffer in bytes.
        size: u64,
    },
    /// The range ends before it starts.
    #[error("range {start}..{end} ends before it starts")]
    Inverted {
        /// Start of the range.
        start: u64,
        /// Its end, which is smaller.
        end: u64,
    },
    /// An offset or length is not a multiple of the grain.
    #[error("range of {len} bytes at offset {start} is not a multiple of the grain, {grain} bytes")]
    OffGrain {
        /// First byte of the range.
        start: u64,
        /// Its length in bytes.
        len: u64,
        /// The buffer's grain in bytes.
        grain: u64,
    },
}

/// Checks that `range` lies within a buffer of `size` bytes and on its `grain`. O(1).
///
/// # Errors
/// The first rule the range breaks.
pub fn check_range(size: u64, grain: u64, range: &Range<u64>) -> Result<(), RangeError> {
    let Range { start, end } = *range;
    if end < start {
        return Err(RangeError::Inverted { start, end });
    }
    check_span(size, grain, start, end - start)
}

/// Checks both ranges of a copy of `src` to `dst`. O(1).
///
/// # Errors
/// The first rule that `src`, then the destination, breaks.
pub fn check_copy(size: u64, grain: u64, src: &Range<u64>, dst: u64) -> Result<(), RangeError> {
    check_range(size, grain, src)?;
    check_span(size, grain, dst, src.end - src.start)
}

fn check_span(size: u64, grain: u64, start: u64, len: u64) -> Result<(), RangeError> {
    if start.checked_add(len).is_none_or(|end| end > size) {
        return Err(RangeError::OutOfBounds { start, len, size });
    }
    if grain > 1 && (!start.is_multiple_of(grain) || !len.is_multiple_of(grain)) {
        return Err(RangeError::OffGrain { start, len, grain });
    }
    Ok(())
}
