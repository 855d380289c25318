//! Plain host memory as a buffer.

use alloc::vec;
use alloc::vec::Vec;
use core::ops::Range;

use crate::{DeviceBuffer, RangeError, Remap, check_copy, check_range};

/// Host memory in a `Vec`, for tests, docs and examples: **synchronous**, every call is done when it
/// returns, so its views can be plain slices. `backend-cpu` has the asynchronous device.
///
/// Grain and granule are the caller's choice, so that the rules of coarse devices can be tested without one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VecBuffer {
    bytes: Vec<u8>,
    grain: u64,
    granule: u64,
}

impl VecBuffer {
    /// `size` zeroed bytes with grain 1 and a remap granule of 16 bytes.
    #[must_use]
    pub fn new(size: usize) -> Self {
        Self::with_grain(size, 1)
    }

    /// `size` zeroed bytes with a grain (a power of two; `size` a multiple of it) and a remap granule of
    /// 16 grains.
    #[must_use]
    pub fn with_grain(size: usize, grain: u64) -> Self {
        Self { bytes: vec![0; size], grain, granule: 16 * grain }
    }

    /// Writes `bytes` at offset `at`, at once and whatever the grain.
    ///
    /// # Errors
    /// A range beyond the buffer.
    pub fn write(&mut self, at: u64, bytes: &[u8]) -> Result<(), RangeError> {
        let range = at..at.saturating_add(bytes.len() as u64);
        check_range(self.size(), 1, &range)?;
        self.bytes[host(&range)].copy_from_slice(bytes);
        Ok(())
    }

    /// The bytes of `range`, whatever the grain.
    ///
    /// # Errors
    /// A range beyond the buffer.
    pub fn read(&self, range: Range<u64>) -> Result<&[u8], RangeError> {
        check_range(self.size(), 1, &range)?;
        Ok(&self.bytes[host(&range)])
    }
}

impl DeviceBuffer for VecBuffer {
    type View<'a> = &'a [u8];
    type Error = RangeError;

    fn size(&self) -> u64 {
        self.bytes.len() as u64
    }

    fn grain(&self) -> u64 {
        self.grain
    }

    fn copy_within(&mut self, src: Range<u64>, dst: u64) -> Result<(), RangeError> {
        check_copy(self.size(), self.grain, &src, dst)?;
        self.bytes.copy_within(host(&src), dst as usize);
        Ok(())
    }

    fn view(&self, range: Range<u64>) -> Result<&[u8], RangeError> {
        check_range(self.size(), self.grain, &range)?;
        Ok(&self.bytes[host(&range)])
    }
}

/// Exchanges the granules byte by byte: the rules of remapping, not its speed.
impl Remap for VecBuffer {
    fn granule(&self) -> u64 {
        self.granule
    }

    fn remap(&mut self, src: Range<u64>, dst: u64) -> Result<(), RangeError> {
        check_copy(self.size(), self.granule, &src, dst)?;
        let len = src.end - src.start;
        let (low, high) = (src.start.min(dst), src.start.max(dst));
        if low + len > high {
            return Err(RangeError::OutOfBounds { start: dst, len, size: self.size() });
        }
        let (below, above) = self.bytes.split_at_mut(high as usize);
        below[host(&(low..low + len))].swap_with_slice(&mut above[..len as usize]);
        Ok(())
    }
}

/// A range that was checked against the buffer, which is host memory, so it fits `usize`.
fn host(range: &Range<u64>) -> Range<usize> {
    range.start as usize..range.end as usize
}
