//! Which process this is: a child of `fork` has copies of its parent's values and none of its locks.

/// A name that a process and the children it forks do not share.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Process(u64);

impl Process {
    /// The process that runs now: two loads once it is known.
    pub(crate) fn current() -> Self {
        Process(imp::number())
    }
}

/// A page that the kernel empties in every child holds the number, so that asking costs no system call.
#[cfg(all(target_os = "linux", not(miri)))]
mod imp {
    use core::ptr::null_mut;
    use core::sync::atomic::Ordering::{AcqRel, Acquire, Relaxed};
    use core::sync::atomic::{AtomicPtr, AtomicU64};
    use rustix::mm::{Advice, MapFlags, ProtFlags, madvise, mmap_anonymous, munmap};

    pub(super) fn number() -> u64 {
        let mark = match MARK.load(Acquire) {
            mark if mark.is_null() => install(),
            mark => mark,
        };
        if core::ptr::eq(mark, &NO_MARK) {
            return rustix::process::getpid().as_raw_nonzero().get() as u64;
        }
        // SAFETY: what `install` publishes is never unmapped, and aligned to a page.
        let mark = unsafe { &*mark };
        match mark.load(Acquire) {
            0 => {
                // `fork` copies the count, so a child's number is none of its ancestors'.
                let new = LAST.fetch_add(1, Relaxed) + 1;
                mark.compare_exchange(0, new, AcqRel, Acquire).map_or_else(|known| known, |_| new)
            }
            known => known,
        }
    }

    /// Whoever is first installs; a lock could be left held for ever by a `fork` in its midst.
    #[cold]
    fn install() -> *mut AtomicU64 {
        let new = page().unwrap_or((&raw const NO_MARK).cast_mut());
        match MARK.compare_exchange(null_mut(), new, AcqRel, Acquire) {
            Ok(_) => new,
            Err(theirs) => {
                if !core::ptr::eq(new, &NO_MARK) {
                    // SAFETY: made by `page` and published to nobody.
                    let _ = unsafe { munmap(new.cast(), rustix::param::page_size()) };
                }
                theirs
            }
        }
    }

    fn page() -> Option<*mut AtomicU64> {
        let size = rustix::param::page_size();
        // SAFETY: a new private mapping at an address of the system's choice touches no memory in use; so does advice on
        // it, and it is unmapped only while nobody else knows it.
        unsafe {
            let page =
                mmap_anonymous(null_mut(), size, ProtFlags::READ | ProtFlags::WRITE, MapFlags::PRIVATE)
                    .ok()?;
            if madvise(page, size, Advice::LinuxWipeOnFork).is_err() {
                let _ = munmap(page, size);
                return None;
            }
            Some(page.cast())
        }
    }

    static MARK: AtomicPtr<AtomicU64> = AtomicPtr::new(null_mut());
    static LAST: AtomicU64 = AtomicU64::new(0);
    /// Stands for a kernel that does not empty pages: older than Linux 4.14.
    static NO_MARK: AtomicU64 = AtomicU64::new(0);
}

#[cfg(all(unix, not(all(target_os = "linux", not(miri)))))]
mod imp {
    pub(super) fn number() -> u64 {
        rustix::process::getpid().as_raw_nonzero().get() as u64
    }
}

/// Nothing forks.
#[cfg(not(unix))]
mod imp {
    pub(super) fn number() -> u64 {
        0
    }
}
