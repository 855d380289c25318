//! Copies of host memory at the speed of memory: past the caches, and on several threads.

mod stream;

use allocator_core::{RangeError, check_copy};
use core::ops::Range;

/// How bytes of host memory are copied: where they shall end up, and on how many threads.
///
/// | the destination | use | why |
/// |---|---|---|
/// | is in a cache, or short and read at once: staging, a small buffer | [`caching`](Self::caching) | a plain `memcpy`; the bytes stay at hand |
/// | is long memory that nobody has looked at lately | [`streaming`](Self::streaming) | a cached store reads the line it overwrites and writes it back later: three bytes travel for each one copied, and two when the store goes past the caches |
///
/// Streamed are copies of at least [`STREAM_FROM`](Self::STREAM_FROM) bytes on x86-64, with SSE2 (AVX gained nothing);
/// everything else is a plain copy. A C library streams too, but only copies that fill most of the last cache: a thousand
/// copies of 100 KiB each are cached.
///
/// Measured on an AMD EPYC with 32 MiB of last cache (`crates/backend-cpu/examples/staged_rate.rs`), of glibc's `memmove`:
/// 1.4 to 1.9 times as fast into cold memory. If every block is read right after its copy: half as fast at 4 KiB, 0.6 to 0.9
/// times at 16 to 64 KiB, about even from 200 KiB on.
///
/// ```
/// use pinned_host::HostCopy;
///
/// let (from, mut to) = (vec![7; 1 << 20], vec![0; 1 << 20]);
/// assert_eq!(HostCopy::streaming().copy(&from, &mut to), 1 << 20);
/// assert_eq!(from, to);
/// // Within one buffer, overlap and all.
/// to[0] = 1;
/// HostCopy::streaming().copy_within(&mut to, 0..600_000, 300_000)?;
/// assert_eq!((to[299_999], to[300_000], to[300_001]), (7, 1, 7));
/// # Ok::<(), allocator_core::RangeError>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HostCopy {
    streams: bool,
    threads: usize,
}

impl HostCopy {
    /// Shorter copies are never streamed, in bytes: at half of it the two were equal when measured.
    pub const STREAM_FROM: usize = 4 << 10;

    /// A thread of its own is worth it from so many bytes on: starting and joining it takes as long as copying some hundred
    /// KiB where a core is free, and several MiB where it has to wait for one.
    pub const PART: usize = 8 << 20;

    /// Past the caches, on the calling thread.
    #[must_use]
    pub const fn streaming() -> Self {
        HostCopy { streams: true, threads: 1 }
    }

    /// Into the caches, on the calling thread: a plain `memcpy`.
    #[must_use]
    pub const fn caching() -> Self {
        HostCopy { streams: false, threads: 1 }
    }

    /// On up to so many threads, the calling one among them: each gets at least [`PART`](Self::PART) bytes, so a short copy
    /// stays on the calling thread. Copies whose ranges overlap do too.
    ///
    /// For memory that one core cannot saturate: on the two cores it was measured on, two threads were 0.8 to 1.2 times as fast.
    #[must_use]
    pub const fn threads(self, threads: usize) -> Self {
        HostCopy { threads, ..self }
    }

    /// Copies as many bytes as both have, from the beginning of `src` to that of `dst`; returns how many.
    pub fn copy(&self, src: &[u8], dst: &mut [u8]) -> usize {
        let len = src.len().min(dst.len());
        // SAFETY: both slices have `len` bytes.
        unsafe { self.copy_raw(src.as_ptr(), dst.as_mut_ptr(), len) };
        len
    }

    /// Copies a range of `bytes` to where `dst` says; the two may overlap.
    ///
    /// # Errors
    /// Source or destination do not lie in `bytes`; nothing was copied.
    pub fn copy_within(&self, bytes: &mut [u8], src: Range<usize>, dst: usize) -> Result<(), RangeError> {
        check_copy(bytes.len() as u64, 1, &(src.start as u64..src.end as u64), dst as u64)?;
        let base = bytes.as_mut_ptr();
        // SAFETY: both ranges lie in the slice, which is borrowed mutably.
        unsafe { self.copy_raw(base.add(src.start), base.add(dst), src.len()) };
        Ok(())
    }

    /// Copies `len` bytes; the two ranges may overlap, as with `memmove`.
    ///
    /// When it returns, the bytes are in order with whatever the calling thread does next, streamed or not.
    ///
    /// # Safety
    /// `src` is valid for reads of `len` bytes and `dst` for writes; nobody else writes to the one or touches the other
    /// meanwhile.
    pub unsafe fn copy_raw(&self, src: *const u8, dst: *mut u8, len: usize) {
        let parts = self.threads.min(len / Self::PART);
        if parts > 1 && src.addr().abs_diff(dst.addr()) >= len {
            // SAFETY: the caller's promise, and the ranges do not overlap.
            unsafe { self.copy_parts(src, dst, len, parts) };
        } else {
            // SAFETY: the caller's promise.
            unsafe { self.copy_here(src, dst, len) };
        }
    }

    /// Copies on the calling thread.
    ///
    /// # Safety
    /// As [`copy_raw`](Self::copy_raw).
    unsafe fn copy_here(&self, src: *const u8, dst: *mut u8, len: usize) {
        if self.streams && len >= Self::STREAM_FROM && stream::can_copy(src, dst, len) {
            // SAFETY: the caller's promise, and the kernel can serve these places.
            unsafe { stream::copy(src, dst, len) };
        } else {
            // SAFETY: the caller's promise.
            unsafe { core::ptr::copy(src, dst, len) };
        }
    }

    /// Copies `parts` pieces beside one another, the last of them here.
    ///
    /// # Safety
    /// As [`copy_raw`](Self::copy_raw), and the ranges do not overlap.
    unsafe fn copy_parts(&self, src: *const u8, dst: *mut u8, len: usize, parts: usize) {
        let each = len.div_ceil(parts).next_multiple_of(LINE);
        std::thread::scope(|scope| {
            let mut at = 0;
            while at < len {
                let part =
                    Part { src: src.wrapping_add(at), dst: dst.wrapping_add(at), len: each.min(len - at) };
                at += part.len;
                let copy = move || {
                    // All of it, which may go to a thread, and not its pointers, which may not.
                    let Part { src, dst, len } = { part };
                    // SAFETY: the caller's promise for a piece of the ranges, and no two pieces share a byte.
                    unsafe { self.copy_here(src, dst, len) };
                };
                // A system that gives no more threads has this one.
                if at == len || std::thread::Builder::new().spawn_scoped(scope, copy).is_err() {
                    copy();
                }
            }
        });
    }
}

/// A piece of a copy, for the thread that makes it.
#[derive(Clone, Copy)]
struct Part {
    src: *const u8,
    dst: *mut u8,
    len: usize,
}

// SAFETY: plain bytes that `copy_raw`'s caller lets it read and write; its scope ends before the call does.
unsafe impl Send for Part {}

/// Bytes that a processor's caches hold together.
const LINE: usize = 64;
