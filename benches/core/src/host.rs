//! Host memory as a device buffer: synchronous, huge pages where the system has them. Copies by the C library's memmove, or
//! by the CPU backend.

use crate::region::Region;
use allocator_core::{DeviceBuffer, RangeError, check_copy, check_range};
use backend_cpu::PageBuffer;
use std::ops::Range;

/// A buffer whose bytes the host sees.
pub(crate) trait HostMemory: DeviceBuffer + Sized {
    /// Who copies.
    const NAME: &'static str;

    /// `bytes` of memory, all of it touched.
    fn make(bytes: u64) -> Result<Self, String>;
    fn all(&self) -> &[u8];
    fn all_mut(&mut self) -> &mut [u8];
}

impl HostMemory for HostBuffer {
    const NAME: &'static str = "memmove";

    fn make(bytes: u64) -> Result<Self, String> {
        Ok(Self::new(bytes))
    }

    fn all(&self) -> &[u8] {
        self.bytes()
    }

    fn all_mut(&mut self) -> &mut [u8] {
        self.bytes_mut()
    }
}

impl HostMemory for PageBuffer {
    const NAME: &'static str = "backend-cpu";

    fn make(bytes: u64) -> Result<Self, String> {
        let mut buffer = Self::fixed(bytes).map_err(|why| why.to_string())?;
        buffer.bytes_mut().fill(1);
        Ok(buffer)
    }

    fn all(&self) -> &[u8] {
        self.bytes()
    }

    fn all_mut(&mut self) -> &mut [u8] {
        self.bytes_mut()
    }
}

pub(crate) struct HostBuffer(Region);

impl HostBuffer {
    /// `bytes` of memory, all of it touched.
    pub(crate) fn new(bytes: u64) -> Self {
        let mut buffer = Self(Region::new(bytes).huge());
        buffer.bytes_mut().fill(1);
        buffer
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        // SAFETY: the region is `len` readable bytes, and nobody writes to them while `self` is borrowed.
        unsafe { std::slice::from_raw_parts(self.0.base().as_ptr(), self.0.len()) }
    }

    pub(crate) fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: the region is `len` writable bytes that nobody else sees while `self` is borrowed mutably.
        unsafe { std::slice::from_raw_parts_mut(self.0.base().as_ptr(), self.0.len()) }
    }
}

impl DeviceBuffer for HostBuffer {
    type View<'a> = &'a [u8];
    type Error = RangeError;

    fn size(&self) -> u64 {
        self.0.len() as u64
    }

    fn copy_within(&mut self, src: Range<u64>, dst: u64) -> Result<(), RangeError> {
        check_copy(self.size(), 1, &src, dst)?;
        // Within the buffer, so within the address space.
        self.bytes_mut().copy_within(src.start as usize..src.end as usize, dst as usize);
        Ok(())
    }

    fn view(&self, range: Range<u64>) -> Result<&[u8], RangeError> {
        check_range(self.size(), 1, &range)?;
        Ok(&self.bytes()[range.start as usize..range.end as usize])
    }
}
