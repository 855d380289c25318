//! Memory that is registered with rings, kept mapped by a piece of it.

use crate::disk::IoBuf;
use core::{ops::Range, ptr::NonNull};
use std::sync::Mutex;

/// The mapping that a buffer is a piece of. It keeps the buffer, and so the mapping.
pub(in crate::disk) struct Region {
    base: NonNull<[u8]>,
    _keep: Mutex<Box<dyn Send>>,
}

// SAFETY: the address is only given to the kernel, which checks it; the buffer may be sent, and is shared under a lock.
unsafe impl Send for Region {}
// SAFETY: as above.
unsafe impl Sync for Region {}

impl Region {
    pub(in crate::disk) fn new(mut piece: impl IoBuf) -> Self {
        Region { base: piece.region(), _keep: Mutex::new(Box::new(piece)) }
    }

    pub(in crate::disk) fn len(&self) -> usize {
        self.base.len()
    }

    pub(super) fn addresses(&self) -> Range<usize> {
        let start = self.base.addr().get();
        start..start + self.base.len()
    }

    /// The byte at an address of the region's.
    pub(super) fn at(&self, address: usize) -> NonNull<u8> {
        let offset = address.saturating_sub(self.base.addr().get()).min(self.base.len());
        // SAFETY: within the mapping, or one past its end.
        unsafe { self.base.cast::<u8>().add(offset) }
    }
}
