//! The system calls that move pages, and what mends a range when one is refused.

#[cfg(all(target_os = "linux", not(miri)))]
mod system {
    use crate::pages::GRANULE;
    use core::ffi::c_void;
    use core::ptr::NonNull;
    use rustix::io::{Errno, Result};
    use rustix::mm::{self, Advice, MapFlags, MprotectFlags, MremapFlags, ProtFlags};
    use std::sync::OnceLock;

    /// Moves the pages at offset `from` of `base` to offset `to`; `from` stays mapped, without memory.
    ///
    /// What was at `to` is gone, at times also when the call fails. Then each granule is either where it was or has
    /// moved, and [`restore`] and [`settle`] make something whole of that. Where all of `from` is one mapping, as a
    /// single granule always is, either none has moved or all have. O(granules).
    ///
    /// # Errors
    /// The system's; `EINVAL` before Linux 5.7, `ENOMEM` when the process has as many mappings as it may have.
    ///
    /// # Safety
    /// Both ranges are mapped by the caller at addresses of its own, do not overlap, and nobody looks at them meanwhile.
    pub(crate) unsafe fn move_pages(
        base: NonNull<u8>,
        from: usize,
        to: usize,
        len: usize,
    ) -> std::io::Result<()> {
        #[cfg(test)]
        super::seam::strike(base, from, to, len)?;
        // SAFETY: the caller's promise: nothing but its own two ranges changes.
        unsafe { mm::mremap_fixed(at(base, from), len, len, FLAGS, at(base, to)) }?;
        Ok(())
    }

    /// Maps the granules of the range at offset `to` again that are not mapped.
    ///
    /// The process ends where the system has no room to describe a mapping that it had a moment ago: the addresses are
    /// a buffer's, and safe code may look at them.
    ///
    /// # Safety
    /// The range is the caller's, and nobody looks at it meanwhile.
    pub(crate) unsafe fn restore(base: NonNull<u8>, to: usize, len: usize) {
        for granule in (to..to + len).step_by(GRANULE) {
            // SAFETY: the caller's promise; what is mapped stays.
            if unsafe { map_if_missing(at(base, granule), GRANULE) }.is_err() {
                std::process::abort();
            }
        }
    }

    /// Brings to offset `to` whatever of the range at `from` is not zero, granule by granule: by its pages, or by a copy.
    ///
    /// Where `from` is zero, `to` stays. So this completes a move to a range that held nothing, or takes one back: a
    /// granule that reads as zero has moved already, or both places read as zero, which is as good.
    ///
    /// # Safety
    /// As [`move_pages`], but that `to` need not be mapped.
    pub(crate) unsafe fn settle(base: NonNull<u8>, from: usize, to: usize, len: usize) {
        for done in (0..len).step_by(GRANULE) {
            let (from, to) = (from + done, to + done);
            // SAFETY: the caller's promise for one granule. The copy is between ranges that do not overlap and are
            // mapped; the advice is about bytes that were copied.
            unsafe {
                restore(base, to, GRANULE);
                let bytes = std::slice::from_raw_parts(base.as_ptr().add(from), GRANULE);
                if bytes.iter().any(|byte| *byte != 0) && move_pages(base, from, to, GRANULE).is_err() {
                    restore(base, to, GRANULE);
                    core::ptr::copy_nonoverlapping(base.as_ptr().add(from), base.as_ptr().add(to), GRANULE);
                    let _ = mm::madvise(at(base, from), GRANULE, Advice::LinuxDontNeed);
                }
            }
        }
    }

    /// Whether one call moves a range of several mappings (Linux 6.17): tried once, on pages made for it.
    ///
    /// An older kernel would refuse a range of granules that came from several places, after it had unmapped what was at
    /// the destination, where another thread's memory could then appear.
    pub(crate) fn moves_several_mappings() -> bool {
        static ANSWER: OnceLock<bool> = OnceLock::new();
        *ANSWER.get_or_init(|| {
            let page = rustix::param::page_size();
            let access = ProtFlags::READ | ProtFlags::WRITE;
            // SAFETY: a new mapping at an address of the system's choice, which nobody else knows; its first two pages
            // become two mappings and are moved onto the last two. Where that fails, those may be gone already.
            unsafe {
                let Ok(start) =
                    mm::mmap_anonymous(core::ptr::null_mut(), 4 * page, access, MapFlags::PRIVATE)
                else {
                    return false;
                };
                let tried = mm::mprotect(start, page, MprotectFlags::READ).and_then(|()| {
                    mm::mremap_fixed(start, 2 * page, 2 * page, FLAGS, start.wrapping_byte_add(2 * page))
                });
                let _ = mm::munmap(start, if tried.is_ok() { 4 * page } else { 2 * page });
                tried.is_ok()
            }
        })
    }

    unsafe fn map_if_missing(at: *mut c_void, len: usize) -> Result<()> {
        let (access, flags) = (ProtFlags::READ | ProtFlags::WRITE, MapFlags::PRIVATE);
        // SAFETY: the flag leaves alone what is mapped there.
        match unsafe { mm::mmap_anonymous(at, len, access, flags | MapFlags::FIXED_NOREPLACE) } {
            // SAFETY: the advice changes no contents of a mapping that is new.
            Ok(_) => unsafe { mm::madvise(at, len, Advice::LinuxHugepage) }.or(Ok(())),
            Err(Errno::EXIST) => Ok(()),
            Err(error) => Err(error),
        }
    }

    fn at(base: NonNull<u8>, offset: usize) -> *mut c_void {
        base.as_ptr().wrapping_add(offset).cast()
    }

    pub(crate) const SUPPORTED: bool = true;
    /// Left behind unmapped, the source could become another thread's memory before the next step fills it.
    const FLAGS: MremapFlags = MremapFlags::MAYMOVE.union(MremapFlags::DONTUNMAP);
}

/// Elsewhere pages stay where they are.
#[cfg(not(all(target_os = "linux", not(miri))))]
mod system {
    use core::ptr::NonNull;

    pub(crate) unsafe fn move_pages(
        _base: NonNull<u8>,
        _from: usize,
        _to: usize,
        _len: usize,
    ) -> std::io::Result<()> {
        Err(std::io::ErrorKind::Unsupported.into())
    }

    pub(crate) unsafe fn restore(_base: NonNull<u8>, _to: usize, _len: usize) {}

    pub(crate) unsafe fn settle(_base: NonNull<u8>, _from: usize, _to: usize, _len: usize) {}

    pub(crate) fn moves_several_mappings() -> bool {
        false
    }

    pub(crate) const SUPPORTED: bool = false;
}

pub(crate) use system::{SUPPORTED, move_pages, moves_several_mappings, restore, settle};

/// Makes chosen steps of this thread fail, in the worst ways the system has: the destination is unmapped, and the first
/// granule of several may have moved.
#[cfg(all(test, target_os = "linux", not(miri)))]
pub(crate) mod seam {
    use crate::pages::GRANULE;
    use core::ffi::c_void;
    use core::ptr::NonNull;
    use rustix::mm::{MremapFlags, mremap_fixed, munmap};
    use std::cell::Cell;
    use std::io::{Error, ErrorKind, Result};

    thread_local! {
        /// Bit n: the n-th step from now on fails.
        pub(crate) static FAILING: Cell<u64> = const { Cell::new(0) };
        /// Whether a step of several granules fails half-way.
        pub(crate) static HALF_WAY: Cell<bool> = const { Cell::new(false) };
    }

    pub(super) fn strike(base: NonNull<u8>, from: usize, to: usize, len: usize) -> Result<()> {
        let failing = FAILING.get();
        FAILING.set(failing >> 1);
        if failing & 1 == 0 {
            return Ok(());
        }
        let at = |offset: usize| base.as_ptr().wrapping_add(offset).cast::<c_void>();
        let flags = MremapFlags::MAYMOVE | MremapFlags::DONTUNMAP;
        // SAFETY: as the step that is to fail: both ranges are the caller's, and what is at the destination counts for
        // nothing.
        unsafe {
            munmap(at(to), len)?;
            if HALF_WAY.get() && len > GRANULE {
                mremap_fixed(at(from), GRANULE, GRANULE, flags, at(to))?;
            }
        }
        Err(Error::from(ErrorKind::OutOfMemory))
    }
}
