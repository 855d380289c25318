//! Memory from the system: for the engines that write headers into what they give out, and for the host buffer.

use rustix::mm::{Advice, MapFlags, ProtFlags, madvise, mmap_anonymous, munmap};
use std::ptr::NonNull;

/// Memory that is reserved and becomes real page by page, when it is touched.
pub(crate) struct Region {
    base: NonNull<u8>,
    len: usize,
}

impl Region {
    pub(crate) fn new(bytes: u64) -> Self {
        let len = usize::try_from(bytes).expect("the address space holds the arena");
        let flags = MapFlags::PRIVATE | MapFlags::NORESERVE;
        // SAFETY: a new mapping at an address of the kernel's choice disturbs no other memory.
        let base =
            unsafe { mmap_anonymous(std::ptr::null_mut(), len, ProtFlags::READ | ProtFlags::WRITE, flags) };
        let base = base.expect("address space for an arena");
        Self { base: NonNull::new(base.cast()).expect("no mapping at address zero"), len }
    }

    /// Asks for huge pages; whether there are any is the system's affair.
    pub(crate) fn huge(self) -> Self {
        #[cfg(target_os = "linux")]
        {
            // SAFETY: the range is the mapping made in `new`, and the advice does not change what it holds.
            let _ = unsafe { madvise(self.base.as_ptr().cast(), self.len, Advice::LinuxHugepage) };
        }
        self
    }

    pub(crate) fn base(&self) -> NonNull<u8> {
        self.base
    }

    pub(crate) fn len(&self) -> usize {
        self.len
    }
}

impl Drop for Region {
    fn drop(&mut self) {
        // SAFETY: the range is the mapping made in `new`, and whoever used it borrowed or owned `self`.
        let unmapped = unsafe { munmap(self.base.as_ptr().cast(), self.len) };
        debug_assert!(unmapped.is_ok(), "{unmapped:?}");
    }
}
