//! Bounded memory between tiers.

use crate::{HostError, HostPool, HostRegion, HostStats, Lane, PageLocker, PinnedSlice, Wait};
use std::time::Instant;

/// Memory for copies on their way to and from a device, bounded per direction.
///
/// All bytes of an operation are taken at once, before it is queued, and go back when its slice is dropped.
/// The two directions share nothing, so writes back cannot starve reads. Waiting is first come, first served.
/// Whoever waits while holding something others need gives a deadline; so does whoever drops tickets in flight,
/// whose slices come back only when the device's [`Parking`](crate::Parking) is swept.
///
/// Source: the shared pools of LMCache and SGLang hang when every holder waits for more
/// (LMCache #2942, SGLang #33862).
///
/// ```
/// use pinned_host::{HostError, Lane, LockPolicy, OsLocker, StagingConfig};
///
/// let config = StagingConfig { read: 64 << 10, write: 64 << 10, lock: LockPolicy::Never };
/// let ring = config.build(&OsLocker)?;
/// let all = ring.try_acquire(Lane::Upload, 64 << 10)?;
/// assert!(matches!(ring.try_acquire(Lane::Upload, 1), Err(HostError::Full { .. })));
/// assert!(ring.try_acquire(Lane::Download, 1).is_ok());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct StagingRing<R: HostRegion> {
    read: HostPool<R>,
    write: HostPool<R>,
}

/// What a ring holds, per direction.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct StagingStats {
    /// Memory for uploads.
    pub read: HostStats,
    /// Memory for downloads.
    pub write: HostStats,
}

impl StagingStats {
    /// Page-locked bytes, both directions.
    pub fn locked(&self) -> u64 {
        self.read.locked + self.write.locked
    }

    /// Pageable bytes, both directions: what did not fit the lock limit.
    pub fn pageable(&self) -> u64 {
        self.read.pageable + self.write.pageable
    }
}

impl<R: HostRegion> StagingRing<R> {
    /// A ring over two pools: `read` for uploads, `write` for downloads. [`StagingConfig`] makes the pools too.
    pub fn new(read: HostPool<R>, write: HostPool<R>) -> Self {
        StagingRing { read, write }
    }

    /// Waits for `bytes` bytes of one direction's budget, until `deadline` if there is one.
    ///
    /// # Errors
    /// As [`HostPool::allocate_deadline`]: [`HostError::Timeout`], [`HostError::TooLarge`] for more than
    /// [`max_slice`](Self::max_slice), [`HostError::ZeroSize`].
    pub fn acquire(
        &self,
        lane: Lane,
        bytes: usize,
        deadline: Option<Instant>,
    ) -> Result<PinnedSlice<R>, HostError> {
        self.pool(lane).allocate_deadline(bytes, deadline)
    }

    /// As [`acquire`](Self::acquire), but somebody may call the wait off.
    ///
    /// # Errors
    /// As [`HostPool::allocate_until`]: [`HostError::Cancelled`], and as `acquire`.
    pub fn acquire_until(
        &self,
        lane: Lane,
        bytes: usize,
        wait: &Wait<'_>,
    ) -> Result<PinnedSlice<R>, HostError> {
        self.pool(lane).allocate_until(bytes, wait)
    }

    /// Takes `bytes` bytes if they are free and nobody waits for them.
    ///
    /// # Errors
    /// As [`HostPool::allocate`]: [`HostError::Full`], [`HostError::TooLarge`], [`HostError::ZeroSize`].
    pub fn try_acquire(&self, lane: Lane, bytes: usize) -> Result<PinnedSlice<R>, HostError> {
        self.pool(lane).allocate(bytes)
    }

    /// One direction's bytes in all.
    pub fn budget(&self, lane: Lane) -> u64 {
        self.pool(lane).stats().capacity
    }

    /// The most that one acquisition can get, in bytes: less than the budget where part of it is pageable.
    pub fn max_slice(&self, lane: Lane) -> usize {
        self.pool(lane).max_slice()
    }

    /// Callers waiting for one direction's memory.
    pub fn waiters(&self, lane: Lane) -> usize {
        self.pool(lane).waiters()
    }

    /// What both directions hold now.
    pub fn stats(&self) -> StagingStats {
        StagingStats { read: self.read.stats(), write: self.write.stats() }
    }

    fn pool(&self, lane: Lane) -> &HostPool<R> {
        match lane {
            Lane::Upload => &self.read,
            Lane::Download => &self.write,
        }
    }
}

impl<R: HostRegion> Clone for StagingRing<R> {
    fn clone(&self) -> Self {
        StagingRing { read: self.read.clone(), write: self.write.clone() }
    }
}

impl<R: HostRegion> core::fmt::Debug for StagingRing<R> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("StagingRing").field("read", &self.read).field("write", &self.write).finish()
    }
}

/// How large a [`StagingRing`] shall be, and of what memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StagingConfig {
    /// Bytes for uploads, at least 1 if there are to be any; a locker may make whole pages of it.
    pub read: usize,
    /// Bytes for downloads; likewise.
    pub write: usize,
    /// What to do about the lock limit.
    pub lock: LockPolicy,
}

/// How much of some memory shall be page-locked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Hash)]
pub enum LockPolicy {
    /// As much as the locker allows ([`PageLocker::allowance`]); the rest is pageable, if the device takes
    /// pageable memory, and left out if not.
    #[default]
    WithinAllowance,
    /// All of it, or an error.
    Required,
    /// None of it.
    Never,
}

/// Why there is no ring. `E` is the locker's error.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StagingError<E: core::error::Error + 'static> {
    /// The locker refused; for [`OsLocker`](crate::OsLocker) a [`HostError`] such as [`HostError::LockLimit`].
    #[error(transparent)]
    Locker(E),
    /// The memory could not be divided.
    #[error(transparent)]
    Pool(#[from] HostError),
    /// Only pageable memory was wanted and the device takes none.
    #[error("this device takes page-locked memory only")]
    NoPageable,
}

impl Default for StagingConfig {
    /// 16 MiB per direction, as much of it locked as the locker allows: four chunks of 4 MiB in flight.
    fn default() -> Self {
        StagingConfig { read: 16 << 20, write: 16 << 20, lock: LockPolicy::default() }
    }
}

impl StagingConfig {
    /// Gets the memory from `locker` and makes the ring; [`StagingRing::stats`] says how much of it is locked.
    ///
    /// Under [`LockPolicy::WithinAllowance`] each direction gets a share of the allowance in proportion to its
    /// size, in whole 4 KiB, as its first region; a refusal to lock makes that part pageable too.
    ///
    /// # Errors
    /// The locker refuses the memory ([`StagingError::Locker`]), or the device takes no pageable memory when
    /// nothing is to be locked. What was made before goes back.
    pub fn build<L: PageLocker>(&self, locker: &L) -> Result<StagingRing<L::Region>, StagingError<L::Error>> {
        let total = self.read as u128 + self.write as u128;
        let allowed = match self.lock {
            LockPolicy::WithinAllowance => locker.allowance().map_or(total, u128::from).min(total),
            LockPolicy::Required => total,
            LockPolicy::Never => 0,
        };
        // Both shares are at most the direction's own size, so they fit `usize`.
        let share = |bytes: usize| match allowed {
            all if all == total => bytes,
            part => (part * bytes as u128 / total) as usize / PAGE * PAGE,
        };
        let (read, write) = (share(self.read), share(self.write));
        Ok(StagingRing::new(self.pool(locker, self.read, read)?, self.pool(locker, self.write, write)?))
    }

    /// A pool of `bytes` bytes, the first `locked` of them page-locked.
    fn pool<L: PageLocker>(
        &self,
        locker: &L,
        bytes: usize,
        locked: usize,
    ) -> Result<HostPool<L::Region>, StagingError<L::Error>> {
        let mut regions = Vec::new();
        let mut rest = bytes;
        let mut refused = None;
        if locked > 0 {
            match locker.lock(locked) {
                Ok(region) => {
                    regions.push(region);
                    rest -= locked;
                }
                Err(error) if self.lock == LockPolicy::Required => return Err(StagingError::Locker(error)),
                Err(error) => refused = Some(error),
            }
        }
        if rest > 0 {
            match locker.pageable(rest) {
                Some(region) => regions.push(region.map_err(StagingError::Locker)?),
                // Less memory than wished for, but some.
                None if !regions.is_empty() => {}
                None => return Err(refused.map_or(StagingError::NoPageable, StagingError::Locker)),
            }
        }
        Ok(HostPool::new(regions, GRAIN)?)
    }
}

/// Lengths of staging slices are rounded up to a cache line; a multiple of every device's grain so far.
const GRAIN: u64 = 64;
/// The locked share is whole pages, so that rounding does not exceed the allowance.
const PAGE: usize = 4096;
