//! Which copies go past the caches.

use pinned_host::HostCopy;

/// How bytes are moved within a buffer of `size` bytes: what fits the caches stays in them, and in a longer one the
/// destination is most likely cold.
pub(crate) fn moving(size: u64) -> HostCopy {
    if size > CACHE { HostCopy::streaming() } else { HostCopy::caching() }
}

/// How `len` bytes are written to a buffer of `size` bytes: as above, but what is short may be read next.
pub(crate) fn writing(size: u64, len: usize) -> HostCopy {
    if len >= SHORT { moving(size) } else { HostCopy::caching() }
}

/// How `len` bytes are copied out of a buffer: whoever asked for them reads them next.
pub(crate) fn reading(len: usize) -> HostCopy {
    moving(len as u64)
}

/// About the part of the last cache that one user of the machine may count on, in bytes.
const CACHE: u64 = 8 << 20;
/// From so many bytes on, a streamed copy that is read right after takes about as long as a cached one, and any other two
/// thirds of it.
const SHORT: usize = 256 << 10;
