//! Which copies go past the caches.

use pinned_host::HostCopy;

/// How bytes are copied into a buffer of `size` bytes: what fits the caches stays in them.
///
/// In a buffer that does not fit, the destination is most likely cold, and then streaming costs nothing even if it is read
/// right after ([`HostCopy`]).
pub(crate) fn into_buffer(size: u64) -> HostCopy {
    if size > CACHE { HostCopy::streaming() } else { HostCopy::caching() }
}

/// How `len` bytes are copied out of a buffer: whoever asked for them reads them next.
pub(crate) fn out_of_buffer(len: usize) -> HostCopy {
    if len as u64 > CACHE { HostCopy::streaming() } else { HostCopy::caching() }
}

/// About the part of the last cache that one user of the machine may count on, in bytes.
const CACHE: u64 = 8 << 20;
