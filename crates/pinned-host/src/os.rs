//! Host memory from the operating system: what kind of pages, where, and by how many threads.

mod numa;
mod region;
#[cfg_attr(not(unix), path = "os/heap.rs")]
mod system;

use crate::{HostError, LockLimit, PageLocker, memory};
use core::num::NonZeroUsize;

pub use region::OsRegion;

/// Makes memory of the operating system: for devices that reach all host memory, and for drivers that pin it.
///
/// On Unix an anonymous mapping and `mlock`. On Linux locked pages are made present by several threads at once, and memory
/// that the lock limit, the machine or a control group does not have is refused before any page is touched. Elsewhere
/// memory comes from the heap, cannot be locked, and nothing is tested.
///
/// Fork: a child has the memory, and none of the locks. There [`OsRegion::is_locked`](crate::HostRegion::is_locked) says
/// `false`, [`PinnedPages`](crate::PinnedPages) starts at zero, dropping an inherited region gives back the child's
/// addresses only, and fresh memory is made and locked as in any process. What the child reads in inherited memory is the
/// choice of [`OnFork`].
///
/// ```
/// use pinned_host::{HostRegion, HugePages, OsMemory, PageLocker};
///
/// let memory = OsMemory::new().huge_pages(HugePages::Never).numa_node(0);
/// let region = memory.lock(64 << 10)?;
/// assert!(region.is_locked());
/// # Ok::<(), pinned_host::HostError>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct OsMemory {
    huge_pages: HugePages,
    on_fork: OnFork,
    touch_threads: Option<NonZeroUsize>,
    numa_node: Option<u32>,
}

/// Which pages lie behind memory of 2 MiB and more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub enum HugePages {
    /// Ordinary pages only (`MADV_NOHUGEPAGE`): for what a driver pins for long, since the kernel joins and splits transparent
    /// huge pages, and pages that are pinned stand in its way.
    Never,
    /// Transparent ones where the system has them (`MADV_HUGEPAGE`), aligned to 2 MiB: fewer faults at first touch.
    #[default]
    Transparent,
    /// Pages of 2 MiB from the system's pool (`MAP_HUGETLB`), lengths rounded up to them. All are present at once; they are
    /// never swapped, so they count as locked, and not against the lock limit. Without enough of them in the pool
    /// (`/proc/sys/vm/nr_hugepages`) the request is refused.
    ///
    /// A child of `fork` has **nothing** at their addresses, whatever [`OnFork`] says: a copy would need pages of the pool
    /// that nobody reserved, and lacking one kills. It must not touch them, and dropping the region there does nothing.
    Explicit,
}

/// What a child of `fork` finds in memory that it inherits. Linux; elsewhere always a copy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub enum OnFork {
    /// A private copy, as of all memory. Parent and child share pages until one of them writes, and the parent that writes
    /// goes on with **another page**: not for memory that a device reaches by its physical address.
    #[default]
    Copy,
    /// Zeros (`MADV_WIPEONFORK`): the parent's pages stay its own and stay where they are. On kernels without that
    /// (before 4.14) nothing, as for [`HugePages::Explicit`].
    Zeros,
}

/// [`OsMemory`] with its defaults.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct OsLocker;

impl OsMemory {
    /// Transparent huge pages, copied on fork, touched by as many threads as are worth it, on any node.
    pub const fn new() -> Self {
        OsMemory {
            huge_pages: HugePages::Transparent,
            on_fork: OnFork::Copy,
            touch_threads: None,
            numa_node: None,
        }
    }

    /// For memory that a driver pins after the system made it (`cuMemHostRegister`, `VK_EXT_external_memory_host`): ordinary
    /// pages, which stay the parent's on `fork`.
    pub const fn for_drivers() -> Self {
        Self::new().huge_pages(HugePages::Never).on_fork(OnFork::Zeros)
    }

    /// Which pages: [`HugePages::Transparent`] unless said otherwise.
    pub const fn huge_pages(mut self, pages: HugePages) -> Self {
        self.huge_pages = pages;
        self
    }

    /// What a child of `fork` finds: [`OnFork::Copy`] unless said otherwise.
    pub const fn on_fork(mut self, found: OnFork) -> Self {
        self.on_fork = found;
        self
    }

    /// The most threads that make pages present, the caller's included; 0 counts as 1.
    ///
    /// Unless said otherwise as many as the process may run at once, at most 16. No thread is made for less than 16 MiB.
    pub const fn touch_threads(mut self, most: usize) -> Self {
        self.touch_threads = match NonZeroUsize::new(most) {
            None => Some(NonZeroUsize::MIN),
            some => some,
        };
        self
    }

    /// The NUMA node whose memory is preferred: another's is taken where it has none left (`MPOL_PREFERRED`).
    ///
    /// Preferred and not strict, because a strict node that is full calls the OOM killer while others have memory. Shown on
    /// machines with one node; that pages really lie on a second one is unproven.
    pub const fn numa_node(mut self, node: u32) -> Self {
        self.numa_node = Some(node);
        self
    }

    fn make(&self, bytes: usize, lock: bool) -> Result<OsRegion, HostError> {
        let explicit = self.huge_pages == HugePages::Explicit;
        let len = region::whole_pages(bytes, explicit)?;
        if let Some(node) = self.numa_node {
            numa::check(node)?;
        }
        // The pool of explicit pages is apart from the memory that is free, and refuses at once.
        if !explicit && len >= WORTH_A_LOOK {
            memory::check(len as u64)?;
        }
        let mut region = OsRegion::map(len, self.huge_pages, self.touch_threads)?;
        if let Some(node) = self.numa_node {
            region.prefer(node)?;
        }
        if explicit || self.on_fork == OnFork::Zeros {
            region.keep_from_children();
        }
        match (explicit, lock) {
            (true, _) => region.fill()?,
            (false, true) => region = locked(region)?,
            (false, false) => {}
        }
        Ok(region)
    }
}

impl PageLocker for OsMemory {
    type Region = OsRegion;
    type Error = HostError;

    /// A locked, zeroed region: `bytes` rounded up to whole pages.
    ///
    /// The first touch of every page: slow, and best done once. What the limits do not allow is refused before that.
    ///
    /// # Errors
    /// [`HostError::LockLimit`] when the process may not lock that much; [`HostError::MemoryLimit`] from 16 MiB on when
    /// neither the machine nor the control group has as much; [`HostError::HugePages`], [`HostError::NoNumaNode`],
    /// [`HostError::NumaPolicy`]; [`HostError::Map`] and [`HostError::Lock`] when the system refuses for other reasons;
    /// [`HostError::ZeroSize`]. Nothing stays mapped or locked.
    fn lock(&self, bytes: usize) -> Result<OsRegion, HostError> {
        self.make(bytes, true)
    }

    /// [`LockLimit::allowance`], half of what could be locked; of explicit huge pages all that nobody has.
    fn allowance(&self) -> Option<u64> {
        Some(match self.huge_pages {
            HugePages::Explicit => memory::free_huge_pages(),
            HugePages::Never | HugePages::Transparent => LockLimit::current().allowance(),
        })
    }

    /// Not locked and not touched; explicit huge pages are present at once, and never swapped either.
    fn pageable(&self, bytes: usize) -> Option<Result<OsRegion, HostError>> {
        Some(self.make(bytes, false))
    }
}

impl PageLocker for OsLocker {
    type Region = OsRegion;
    type Error = HostError;

    /// As [`OsMemory::lock`](PageLocker::lock) with the defaults.
    ///
    /// # Errors
    /// The same.
    fn lock(&self, bytes: usize) -> Result<OsRegion, HostError> {
        OsMemory::new().lock(bytes)
    }

    fn allowance(&self) -> Option<u64> {
        OsMemory::new().allowance()
    }

    fn pageable(&self, bytes: usize) -> Option<Result<OsRegion, HostError>> {
        OsMemory::new().pageable(bytes)
    }
}

/// The region, locked; or why not, and what the limit had to do with it.
fn locked(mut region: OsRegion) -> Result<OsRegion, HostError> {
    let asked = crate::HostRegion::len(&region) as u64;
    let Err(source) = region.lock() else { return Ok(region) };
    // Gives back what a half-done lock holds, so that `locked` below is what others hold.
    drop(region);
    let LockLimit { soft, locked_now: locked, privileged, .. } = LockLimit::current();
    match soft {
        Some(limit) if !privileged && locked.saturating_add(asked) > limit => {
            Err(HostError::LockLimit { limit, asked, locked })
        }
        _ => Err(HostError::Lock { bytes: asked, source }),
    }
}

/// Bytes from which on it is asked whether the memory is there: four small files, a few tenths of a millisecond, where
/// touching as much takes milliseconds. What is smaller is in the noise of what others take meanwhile.
const WORTH_A_LOOK: usize = 16 << 20;
