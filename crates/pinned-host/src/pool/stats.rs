//! What a pool holds and has done.

use std::time::Duration;

/// What a pool holds, in bytes unless said otherwise.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct HostStats {
    /// All regions together.
    pub capacity: u64,
    /// The most that regions may have together.
    pub budget: u64,
    /// In slices now, rounding included.
    pub in_use: u64,
    /// The most that was in slices at once.
    pub peak_in_use: u64,
    /// In regions of which nothing is in use: what [`trim`](crate::HostPool::trim) can give back.
    pub cached: u64,
    /// The part of `capacity` that is page-locked.
    pub locked: u64,
    /// The part of `capacity` that is pageable.
    pub pageable: u64,
    /// The largest piece that is free in one region.
    pub largest_hole: u64,
    /// Regions there are, a count.
    pub regions: usize,
    /// Slices alive, a count.
    pub slices: usize,
    /// Callers waiting for room, a count.
    pub waiters: usize,
}

/// The same under the names of PyTorch's `torch.cuda.host_memory_stats`.
///
/// `allocations` and `allocated_bytes` are regions: what is taken from the system. `active_requests` and `active_bytes` are
/// slices. PyTorch adds up the peaks of its size classes, which is more than there ever was; these are the peaks.
///
/// Source: `CachingHostAllocator.h` and `torch/cuda/memory.py`.
///
/// ```
/// use pinned_host::{OsLocker, PoolConfig};
///
/// let pool = PoolConfig::new(1 << 20).build(OsLocker)?;
/// drop(pool.allocate(1000)?);
/// let stats = pool.memory_stats();
/// assert_eq!((stats.num_host_alloc, stats.active_requests.allocated, stats.active_requests.current), (1, 1, 0));
/// let (name, value) = stats.entries().next().unwrap();
/// assert_eq!((name, value), ("allocations.current", 1));
/// # Ok::<(), pinned_host::HostError>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct HostMemoryStats {
    /// Regions, a count.
    pub allocations: StatCounter,
    /// Bytes of regions.
    pub allocated_bytes: StatCounter,
    /// Slices, a count.
    pub active_requests: StatCounter,
    /// Bytes of slices, rounding included.
    pub active_bytes: StatCounter,
    /// Time to make a region, locking included, in microseconds.
    pub host_alloc_time: StatTime,
    /// Time to give a region back, in microseconds.
    pub host_free_time: StatTime,
    /// Regions made so far.
    pub num_host_alloc: u64,
    /// Regions given back so far.
    pub num_host_free: u64,
}

/// A quantity that rises and falls.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct StatCounter {
    /// Now.
    pub current: u64,
    /// The most since the last [`reset_peak_stats`](crate::HostPool::reset_peak_stats).
    pub peak: u64,
    /// All that was added since the last [`reset_accumulated_stats`](crate::HostPool::reset_accumulated_stats).
    pub allocated: u64,
    /// All that was taken away since then.
    pub freed: u64,
}

/// How long something took, in microseconds; 0 throughout where it never happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct StatTime {
    /// All of it.
    pub total: u64,
    /// The longest.
    pub max: u64,
    /// The shortest.
    pub min: u64,
    /// How often.
    pub count: u64,
    /// `total / count`.
    pub avg: u64,
}

impl HostMemoryStats {
    /// Names and values, as PyTorch's dictionary has them.
    pub fn entries(&self) -> impl Iterator<Item = (&'static str, u64)> {
        let [requests, bytes] = [self.allocations, self.allocated_bytes];
        let [active, active_bytes] = [self.active_requests, self.active_bytes];
        let (made, freed) = (self.host_alloc_time, self.host_free_time);
        [
            ("allocations.current", requests.current),
            ("allocations.peak", requests.peak),
            ("allocations.allocated", requests.allocated),
            ("allocations.freed", requests.freed),
            ("allocated_bytes.current", bytes.current),
            ("allocated_bytes.peak", bytes.peak),
            ("allocated_bytes.allocated", bytes.allocated),
            ("allocated_bytes.freed", bytes.freed),
            ("active_requests.current", active.current),
            ("active_requests.peak", active.peak),
            ("active_requests.allocated", active.allocated),
            ("active_requests.freed", active.freed),
            ("active_bytes.current", active_bytes.current),
            ("active_bytes.peak", active_bytes.peak),
            ("active_bytes.allocated", active_bytes.allocated),
            ("active_bytes.freed", active_bytes.freed),
            ("host_alloc_time.total", made.total),
            ("host_alloc_time.max", made.max),
            ("host_alloc_time.min", made.min),
            ("host_alloc_time.count", made.count),
            ("host_alloc_time.avg", made.avg),
            ("host_free_time.total", freed.total),
            ("host_free_time.max", freed.max),
            ("host_free_time.min", freed.min),
            ("host_free_time.count", freed.count),
            ("host_free_time.avg", freed.avg),
            ("num_host_alloc", self.num_host_alloc),
            ("num_host_free", self.num_host_free),
        ]
        .into_iter()
    }

    pub(crate) fn reset_peak(&mut self) {
        for counter in self.counters() {
            counter.peak = counter.current;
        }
    }

    pub(crate) fn reset_accumulated(&mut self) {
        for counter in self.counters() {
            (counter.allocated, counter.freed) = (0, 0);
        }
        (self.host_alloc_time, self.host_free_time) = Default::default();
        (self.num_host_alloc, self.num_host_free) = (0, 0);
    }

    fn counters(&mut self) -> [&mut StatCounter; 4] {
        [&mut self.allocations, &mut self.allocated_bytes, &mut self.active_requests, &mut self.active_bytes]
    }
}

impl StatCounter {
    #[inline]
    pub(crate) fn rise(&mut self, by: u64) {
        self.current += by;
        self.allocated += by;
        self.peak = self.peak.max(self.current);
    }

    #[inline]
    pub(crate) fn fall(&mut self, by: u64) {
        self.current -= by;
        self.freed += by;
    }
}

impl StatTime {
    pub(crate) fn add(&mut self, took: Duration) {
        let took = took.as_micros().try_into().unwrap_or(u64::MAX);
        self.min = if self.count == 0 { took } else { self.min.min(took) };
        self.max = self.max.max(took);
        self.total = self.total.saturating_add(took);
        self.count += 1;
        self.avg = self.total / self.count;
    }
}
