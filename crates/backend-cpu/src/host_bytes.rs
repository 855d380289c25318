//! The host's end of a transfer in flight, on both devices.

/// Bytes of a pinned slice that a transfer uses.
pub(crate) struct HostBytes {
    ptr: *mut u8,
    len: usize,
}

// SAFETY: the bytes belong to a slice that nobody else touches while the transfer is in flight (see `new`), and the
// regions slices come from may be used on any thread.
unsafe impl Send for HostBytes {}

impl HostBytes {
    /// # Safety
    /// `ptr..ptr + len` stays valid, initialised and untouched by others until the work it goes into has run or was
    /// discarded.
    pub(crate) unsafe fn new(ptr: *mut u8, len: usize) -> Self {
        HostBytes { ptr, len }
    }

    pub(crate) fn as_slice(&self) -> &[u8] {
        // SAFETY: by `new`; the reference borrows `self`, which lives only until the work has run.
        unsafe { std::slice::from_raw_parts(self.ptr, self.len) }
    }

    pub(crate) fn as_mut_slice(&mut self) -> &mut [u8] {
        // SAFETY: as above, and `&mut self` is the only way to the bytes.
        unsafe { std::slice::from_raw_parts_mut(self.ptr, self.len) }
    }
}
