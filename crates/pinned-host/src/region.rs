//! Memory that a device can reach: what a region is, and who makes one.

use core::ptr::NonNull;

/// A piece of host memory that stays where it is until dropped.
///
/// # Safety
/// `base..base + len` is valid for reads and writes, initialised, does not move and is owned by the value
/// until it is dropped; no reference into it exists that this value did not hand out.
pub unsafe trait HostRegion: Send + Sync + 'static {
    /// First byte.
    fn base(&self) -> NonNull<u8>;

    /// Length in bytes, at least 1.
    fn len(&self) -> usize;

    /// A region has at least one byte.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether the pages are locked: `false` for pageable memory used where locked memory was not to be had.
    fn is_locked(&self) -> bool {
        true
    }

    /// Makes the pages of `offset..offset + bytes` present ahead of their first use, where that is not done yet.
    ///
    /// A hint: contents never change and failure is silent. Locked regions are present by definition.
    fn prepare(&self, offset: usize, bytes: usize) {
        let _ = (offset, bytes);
    }

    /// Two slices never share a unit of this many bytes, a power of two: what a cache that the device does not see is
    /// written back and thrown away in (Vulkan's `nonCoherentAtomSize`).
    fn atom(&self) -> usize {
        1
    }
}

/// Makes regions that one kind of device can reach.
pub trait PageLocker: Send + Sync {
    /// The memory it makes.
    type Region: HostRegion;
    /// Why it could not.
    type Error: core::error::Error + Send + Sync + 'static;

    /// A page-locked region of at least `bytes` bytes.
    ///
    /// # Errors
    /// The lock limit, the memory or the driver refuses; nothing stays half-locked.
    fn lock(&self, bytes: usize) -> Result<Self::Region, Self::Error>;

    /// How many more bytes may be locked now without being refused and without taking what others need, as far as
    /// is known; `None`: no known limit.
    fn allowance(&self) -> Option<u64> {
        None
    }

    /// The most that one region can have, in bytes: more takes several, and one slice lies in one of them.
    fn max_region(&self) -> usize {
        usize::MAX
    }

    /// A region of pageable memory that this device's transfers also accept.
    ///
    /// # Errors
    /// The system refuses the memory.
    ///
    /// Returns `None` where the device reaches locked memory only.
    fn pageable(&self, bytes: usize) -> Option<Result<Self::Region, Self::Error>> {
        let _ = bytes;
        None
    }
}
