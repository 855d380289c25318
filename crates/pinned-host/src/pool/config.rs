//! How large a pool may become, and where its memory comes from.

use super::HostPool;
use crate::sync::Arc;
use crate::{HostError, HostRegion, LockPolicy, PageLocker, RegionOf, Transfer};

/// A pool that takes its regions as they are needed, within a budget.
///
/// | request, bytes | starts at a multiple of | takes more than asked |
/// |---|---|---|
/// | below 512 | 16 | at most 15 bytes |
/// | from 512 | 64 | at most 63 bytes: 1/8 |
/// | from 32 KiB | 4,096 | at most 15 bytes, and the rest of its last page is left to small ones |
///
/// Where the device's memory has a larger [`atom`](HostRegion::atom), or [`grain`](Self::grain) is larger, that instead.
///
/// A region is made when no hole fits, as far as the budget goes:
/// * as long as the request, in whole pages of 4 KiB, for a slice that is long;
/// * 1/128 of what the pool holds (64 MiB at most) where at least 32 of the slice fit there; for slices below 32 KiB at least
///   256 KiB;
/// * and never less than [`region`](Self::region).
///
/// Regions are made and given back outside the pool's lock; what is being made counts against the budget, and what is being
/// given back does until it is gone.
///
/// ```
/// use pinned_host::{HostError, OsLocker, PoolConfig};
///
/// let pool = PoolConfig::new(1 << 20).build(OsLocker)?;
/// let slice = pool.allocate(100_000)?;
/// assert_eq!(pool.stats().capacity, 102_400); // 25 pages
/// assert!(matches!(pool.allocate(1_000_000), Err(HostError::Full { .. })));
/// drop(slice); // kept for the next one
/// assert_eq!((pool.trim(0), pool.stats().capacity), (102_400, 0));
/// # Ok::<(), HostError>(())
/// ```
#[derive(Clone)]
#[non_exhaustive]
pub struct PoolConfig {
    /// Bytes that the regions may have together. [`HostPool::set_budget`] changes it later.
    pub budget: u64,
    /// What to do about the lock limit. By default everything is locked, or refused.
    pub lock: LockPolicy,
    /// Bytes a region has at least, as far as the budget goes: where regions are dear to make, as with drivers. 0 by default.
    pub region: u64,
    /// Bytes in idle regions that are kept for later; more is given back as soon as it is idle. All by default.
    pub cached: u64,
    /// Lengths of slices are rounded up to so many bytes, a power of two; 16 by default.
    pub grain: u64,
    pressure: Option<OnPressure>,
}

/// Why somebody is asked to release memory of a pool. Sizes are bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Pressure {
    /// What could not be served, for want of room in the budget or because the locker refused; or, when the budget was lowered,
    /// what exceeds it.
    pub asked: u64,
    /// The pool's budget.
    pub budget: u64,
    /// What its regions have.
    pub capacity: u64,
    /// What is in slices.
    pub in_use: u64,
}

pub(super) type OnPressure = Arc<dyn Fn(Pressure) + Send + Sync>;

impl PoolConfig {
    /// A pool of at most `budget` bytes; `u64::MAX`: as much as the locker gives.
    ///
    /// Everything is locked, unlike a [`StagingConfig`](crate::StagingConfig)'s default: see [`lock`](Self::lock).
    pub fn new(budget: u64) -> Self {
        PoolConfig {
            budget,
            lock: LockPolicy::Required,
            region: 0,
            cached: u64::MAX,
            grain: 16,
            pressure: None,
        }
    }

    /// What to do about the lock limit.
    #[must_use]
    pub fn lock(self, lock: LockPolicy) -> Self {
        PoolConfig { lock, ..self }
    }

    /// Bytes a region has at least.
    #[must_use]
    pub fn region(self, region: u64) -> Self {
        PoolConfig { region, ..self }
    }

    /// Bytes in idle regions that are kept.
    #[must_use]
    pub fn cached(self, cached: u64) -> Self {
        PoolConfig { cached, ..self }
    }

    /// What lengths of slices are rounded up to.
    #[must_use]
    pub fn grain(self, grain: u64) -> Self {
        PoolConfig { grain, ..self }
    }

    /// Called when a request cannot be served, before it is refused or waits, once for each; what the callback releases is
    /// looked at again. Also when [`set_budget`](HostPool::set_budget) leaves more than the new budget.
    ///
    /// It runs in the thread that asked, without a lock, and may use the pool; but a request made inside of it is not waited
    /// for, and calls nobody.
    ///
    /// ```
    /// use pinned_host::{LockPolicy, OsLocker, PoolConfig};
    /// use std::sync::{Arc, Mutex};
    ///
    /// let cache = Arc::new(Mutex::new(Vec::new()));
    /// let shrinks = Arc::clone(&cache);
    /// let config = PoolConfig::new(1 << 20).lock(LockPolicy::WithinAllowance);
    /// let pool = config.on_pressure(move |_| drop(shrinks.lock().unwrap().pop())).build(OsLocker)?;
    /// cache.lock().unwrap().push(pool.allocate(1 << 20)?);
    /// let slice = pool.allocate(1 << 20)?; // the cache made way
    /// assert!(cache.lock().unwrap().is_empty());
    /// # Ok::<(), pinned_host::HostError>(())
    /// ```
    #[must_use]
    pub fn on_pressure(self, callback: impl Fn(Pressure) + Send + Sync + 'static) -> Self {
        PoolConfig { pressure: Some(Arc::new(callback)), ..self }
    }

    /// The pool, which has nothing yet. [`build_for`](Self::build_for) makes one of a device's memory.
    ///
    /// # Errors
    /// [`HostError::BadGrain`] unless the grain is a power of two.
    pub fn build<L: PageLocker + 'static>(self, locker: L) -> Result<HostPool<L::Region>, HostError> {
        let source = Source { locker: Box::new(Maker(locker)), lock: self.lock, region: self.region };
        HostPool::with_source(source, self.budget, self.cached, self.grain, self.pressure)
    }
}

impl PoolConfig {
    /// A pool of memory that `device` reaches, for slices that travel.
    ///
    /// # Errors
    /// As [`build`](Self::build).
    pub fn build_for<T: Transfer>(self, device: &Arc<T>) -> Result<HostPool<RegionOf<T>>, HostError> {
        self.build(Through(Arc::clone(device)))
    }
}

/// The locker of a device that others hold too.
struct Through<T>(Arc<T>);

impl<T: Transfer> PageLocker for Through<T> {
    type Region = RegionOf<T>;
    type Error = <T::Locker as PageLocker>::Error;

    fn lock(&self, bytes: usize) -> Result<Self::Region, Self::Error> {
        self.0.locker().lock(bytes)
    }

    fn allowance(&self) -> Option<u64> {
        self.0.locker().allowance()
    }

    fn max_region(&self) -> usize {
        self.0.locker().max_region()
    }

    fn pageable(&self, bytes: usize) -> Option<Result<Self::Region, Self::Error>> {
        self.0.locker().pageable(bytes)
    }
}

impl core::fmt::Debug for PoolConfig {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("PoolConfig")
            .field("budget", &self.budget)
            .field("lock", &self.lock)
            .field("region", &self.region)
            .field("cached", &self.cached)
            .field("grain", &self.grain)
            .finish_non_exhaustive()
    }
}

/// Where a pool's regions come from.
pub(super) struct Source<R> {
    locker: Box<dyn MakeRegion<R>>,
    lock: LockPolicy,
    /// Bytes of a region at least.
    pub(super) region: u64,
}

/// A locker whose error is no type parameter of the pool.
trait MakeRegion<R>: Send + Sync {
    fn lock(&self, bytes: usize) -> Result<R, HostError>;
    fn pageable(&self, bytes: usize) -> Option<Result<R, HostError>>;
    fn allowance(&self) -> Option<u64>;
    fn max_region(&self) -> usize;
}

struct Maker<L>(L);

impl<L: PageLocker> MakeRegion<L::Region> for Maker<L> {
    fn lock(&self, bytes: usize) -> Result<L::Region, HostError> {
        self.0.lock(bytes).map_err(|error| refusal(bytes, error))
    }

    fn pageable(&self, bytes: usize) -> Option<Result<L::Region, HostError>> {
        Some(self.0.pageable(bytes)?.map_err(|error| refusal(bytes, error)))
    }

    fn allowance(&self) -> Option<u64> {
        self.0.allowance()
    }

    fn max_region(&self) -> usize {
        self.0.max_region()
    }
}

/// A locker's error as one of ours: itself if it is one.
fn refusal<E: core::error::Error + Send + Sync + 'static>(bytes: usize, error: E) -> HostError {
    let error: Box<dyn core::error::Error + Send + Sync> = Box::new(error);
    match error.downcast::<HostError>() {
        Ok(ours) => *ours,
        Err(source) => HostError::Locker { bytes: bytes as u64, source },
    }
}

impl<R: HostRegion> Source<R> {
    /// The longest region there can be, in bytes.
    pub(super) fn max_region(&self) -> u64 {
        self.locker.max_region() as u64
    }

    /// A region of `wished` bytes, or of `least` where that is refused. Unless it may be pageable, one that may not be locked is
    /// refused.
    pub(super) fn make(&self, wished: u64, least: u64, may_page: bool) -> Result<R, HostError> {
        let lengths = [wished, least].into_iter().take(if least < wished { 2 } else { 1 });
        let mut refused = None;
        if self.lock != LockPolicy::Never {
            for bytes in lengths.clone() {
                let allowed = match self.lock {
                    LockPolicy::Required => None,
                    _ => self.locker.allowance().filter(|allowed| *allowed < bytes),
                };
                let locked = match allowed {
                    None => self.locker.lock(length(bytes)?),
                    Some(allowed) => Err(HostError::Allowance { asked: bytes, allowed }),
                };
                match locked {
                    Ok(region) => return Ok(region),
                    Err(error) => refused = Some(error),
                }
            }
        }
        if self.lock == LockPolicy::Required || refused.is_some() && !may_page {
            return Err(refused.unwrap_or(HostError::NoPageable));
        }
        for bytes in lengths {
            match self.locker.pageable(length(bytes)?) {
                Some(Ok(region)) => return Ok(region),
                Some(Err(error)) => refused = Some(error),
                None => {}
            }
        }
        Err(refused.unwrap_or(HostError::NoPageable))
    }
}

fn length(bytes: u64) -> Result<usize, HostError> {
    let capacity = isize::MAX as u64;
    usize::try_from(bytes).map_err(|_| HostError::TooLarge { asked: bytes, capacity })
}
