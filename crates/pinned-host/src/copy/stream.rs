//! The copy whose stores go past the caches, where the processor has such stores.

pub(super) use machine::{can_copy, copy};

// The interpreter knows no such stores, and 32-bit x86 need not have SSE2.
#[cfg(all(target_arch = "x86_64", not(miri)))]
mod machine {
    use core::arch::x86_64::{_MM_HINT_NTA, _mm_loadu_si128, _mm_prefetch, _mm_sfence, _mm_stream_si128};

    /// Whether [`copy`] may be called: it goes upwards, so a destination that overlaps must lie below its source.
    pub(in super::super) fn can_copy(src: *const u8, dst: *mut u8, len: usize) -> bool {
        let (src, dst) = (src.addr(), dst.addr());
        // Nearer than this, loads would touch lines whose stores are still on their way: right, and slow.
        dst >= src + len || dst + len.min(NEAR) <= src
    }

    /// Copies `len` bytes upwards, line by line, each loaded whole before it is stored.
    ///
    /// # Safety
    /// `src` is valid for reads of `len` bytes and `dst` for writes, and [`can_copy`] has said yes.
    pub(in super::super) unsafe fn copy(src: *const u8, dst: *mut u8, len: usize) {
        let head = dst.align_offset(LINE).min(len);
        let lines = (len - head) / LINE;
        let tail = head + lines * LINE;
        // SAFETY: the caller's promise. What was stored lies below what is yet to be loaded: `dst` is below `src` or they do
        // not overlap. Prefetching past the end touches nothing. From `head` on `dst` is aligned to a line.
        unsafe {
            core::ptr::copy(src, dst, head);
            for line in 0..lines {
                let from = src.add(head + line * LINE);
                let to = dst.add(head + line * LINE);
                _mm_prefetch::<_MM_HINT_NTA>(from.wrapping_add(AHEAD).cast());
                let one = _mm_loadu_si128(from.cast());
                let two = _mm_loadu_si128(from.add(16).cast());
                let three = _mm_loadu_si128(from.add(32).cast());
                let four = _mm_loadu_si128(from.add(48).cast());
                _mm_stream_si128(to.cast(), one);
                _mm_stream_si128(to.add(16).cast(), two);
                _mm_stream_si128(to.add(32).cast(), three);
                _mm_stream_si128(to.add(48).cast(), four);
            }
            core::ptr::copy(src.add(tail), dst.add(tail), len - tail);
            // Such stores are in no order with others until then.
            _mm_sfence();
        }
    }

    const LINE: usize = 64;
    const NEAR: usize = 4096;
    /// How far ahead the source is fetched, in bytes: half of it and twice of it were slower.
    const AHEAD: usize = 1024;
}

#[cfg(not(all(target_arch = "x86_64", not(miri))))]
mod machine {
    /// Never: there are no such stores.
    pub(in super::super) fn can_copy(_src: *const u8, _dst: *mut u8, _len: usize) -> bool {
        false
    }

    /// A plain copy.
    ///
    /// # Safety
    /// `src` is valid for reads of `len` bytes and `dst` for writes.
    pub(in super::super) unsafe fn copy(src: *const u8, dst: *mut u8, len: usize) {
        // SAFETY: the caller's promise.
        unsafe { core::ptr::copy(src, dst, len) };
    }
}
