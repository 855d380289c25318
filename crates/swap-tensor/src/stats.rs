//! What a pool has done so far.

use crate::{SwapError, SwapPool, device::DeviceBooks, device::DeviceIndex, lower::Lower};
use pinned_host::{DeviceMemory, Transfer};
use std::time::Duration;

/// Counters of a pool since it was made, and what it holds now. Bytes count payload, each time it is copied. What is said of the device
/// is the sum over all devices of the pool; [`DeviceStats`] has them apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Stats {
    /// Leases given.
    pub leases: u64,
    /// Of those, on tensors that were valid on the device when leased.
    pub hits: u64,
    /// Device copies given up for room.
    pub evictions: u64,
    /// Dirty tensors copied down.
    pub write_backs: u64,
    /// Tensors fetched ahead of a lease.
    pub prefetches: u64,
    /// Transfers that were enqueued and failed.
    pub failed_transfers: u64,
    /// Bytes copied from host memory to the device.
    pub uploaded_bytes: u64,
    /// Bytes copied from the device to host memory.
    pub downloaded_bytes: u64,
    /// Bytes moved inside the arena to make room.
    pub moved_bytes: u64,
    /// Bytes read from attached files.
    pub file_bytes: u64,
    /// Tensors written to the disk tier.
    pub spills: u64,
    /// Bytes written to the disk tier.
    pub disk_written_bytes: u64,
    /// Bytes read from the disk tier.
    pub disk_read_bytes: u64,
    /// Reads from the disk tier whose checksum did not hold, twice in a row.
    pub corrupt_reads: u64,
    /// Time callers were blocked in leases.
    pub stall: Duration,
    /// Leases that are open now: [`SwapPool::leases`](crate::SwapPool::leases) names them.
    pub open_leases: u64,
    /// Device bytes under lease or pin now.
    pub held_bytes: u64,
    /// Device bytes of all tensors now.
    pub device_bytes: u64,
    /// Device bytes that tensors may take: [`SwapPool::set_device_budget`](crate::SwapPool::set_device_budget).
    pub device_budget: u64,
    /// Length of the arena in bytes.
    pub arena_bytes: u64,
    /// What the backend has allocated, scratch included.
    pub device_memory: DeviceMemory,
    /// Host bytes of all host copies now.
    pub host_bytes: u64,
    /// Bytes that copies take in the disk tier now, rounded up to its unit.
    pub disk_bytes: u64,
    /// Page-locked bytes: staging, and the host tier where it is locked.
    pub locked_bytes: u64,
    /// Bytes of the host tier and of staging that are pageable because the lock limit has no room for them.
    pub pageable_bytes: u64,
}

/// [`Stats`] of one device of a pool.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct DeviceStats {
    /// Leases given on it.
    pub leases: u64,
    /// Of those, on tensors that were valid there when leased.
    pub hits: u64,
    /// Copies there given up for room.
    pub evictions: u64,
    /// Tensors copied down from it, because they were dirty or another device wanted them.
    pub write_backs: u64,
    /// Tensors fetched there ahead of a lease.
    pub prefetches: u64,
    /// Transfers to and from it that were enqueued and failed.
    pub failed_transfers: u64,
    /// Bytes copied to it.
    pub uploaded_bytes: u64,
    /// Bytes copied from it.
    pub downloaded_bytes: u64,
    /// Bytes moved inside its arena to make room.
    pub moved_bytes: u64,
    /// Bytes under lease or pin now.
    pub held_bytes: u64,
    /// Bytes of all tensors there now.
    pub device_bytes: u64,
    /// Bytes that tensors may take: [`SwapPool::set_device_budget_at`](crate::SwapPool::set_device_budget_at).
    pub device_budget: u64,
    /// Length of its arena in bytes.
    pub arena_bytes: u64,
    /// What its backend has allocated, scratch included.
    pub memory: DeviceMemory,
    /// Whether it is gone, and every copy on it.
    pub lost: bool,
}

/// The counters among [`Stats`] that are no device's.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    pub(crate) failed_transfers: u64,
    pub(crate) file_bytes: u64,
    pub(crate) spills: u64,
    pub(crate) disk_written_bytes: u64,
    pub(crate) disk_read_bytes: u64,
    pub(crate) corrupt_reads: u64,
    pub(crate) stall: Duration,
}

/// The counters among [`DeviceStats`].
#[derive(Debug, Default)]
pub(crate) struct DeviceCounters {
    pub(crate) leases: u64,
    pub(crate) hits: u64,
    pub(crate) evictions: u64,
    pub(crate) write_backs: u64,
    pub(crate) prefetches: u64,
    pub(crate) failed_transfers: u64,
    pub(crate) uploaded_bytes: u64,
    pub(crate) downloaded_bytes: u64,
    pub(crate) moved_bytes: u64,
}

impl<T: Transfer> SwapPool<T> {
    /// What the pool has done and what it holds. O(devices) beside a look at the transfers in flight.
    pub fn stats(&self) -> Stats {
        let mut books = self.inner.lock();
        books.reap();
        let mut stats = Stats {
            failed_transfers: books.counters.failed_transfers,
            file_bytes: books.counters.file_bytes,
            spills: books.counters.spills,
            disk_written_bytes: books.counters.disk_written_bytes,
            disk_read_bytes: books.counters.disk_read_bytes,
            corrupt_reads: books.counters.corrupt_reads,
            disk_bytes: self.inner.lower.as_ref().map_or(0, Lower::bytes),
            stall: books.counters.stall,
            open_leases: books.open.len() as u64,
            host_bytes: self.inner.host.stats().in_use,
            locked_bytes: self.inner.locked,
            pageable_bytes: self.inner.pageable,
            ..Stats::default()
        };
        for (on, device) in books.devices.iter() {
            stats.add(&device.stats(self.inner.on(on).transfer.memory()));
        }
        stats
    }

    /// [`stats`](Self::stats) of one device.
    ///
    /// # Errors
    /// [`SwapError::NoDevice`].
    pub fn device_stats(&self, device: DeviceIndex) -> Result<DeviceStats, SwapError> {
        self.inner.check_device(device)?;
        let mut books = self.inner.lock();
        books.reap();
        Ok(books.devices[device].stats(self.inner.on(device).transfer.memory()))
    }
}

impl Stats {
    fn add(&mut self, device: &DeviceStats) {
        self.leases += device.leases;
        self.hits += device.hits;
        self.evictions += device.evictions;
        self.write_backs += device.write_backs;
        self.prefetches += device.prefetches;
        self.failed_transfers += device.failed_transfers;
        self.uploaded_bytes += device.uploaded_bytes;
        self.downloaded_bytes += device.downloaded_bytes;
        self.moved_bytes += device.moved_bytes;
        self.held_bytes += device.held_bytes;
        self.device_bytes += device.device_bytes;
        self.device_budget += device.device_budget;
        self.arena_bytes += device.arena_bytes;
        self.device_memory.current += device.memory.current;
        self.device_memory.peak += device.memory.peak;
        self.device_memory.scratch += device.memory.scratch;
    }
}

impl<T: Transfer> DeviceBooks<T> {
    fn stats(&self, memory: DeviceMemory) -> DeviceStats {
        let (c, arena) = (&self.counters, self.arena.stats());
        DeviceStats {
            leases: c.leases,
            hits: c.hits,
            evictions: c.evictions,
            write_backs: c.write_backs,
            prefetches: c.prefetches,
            failed_transfers: c.failed_transfers,
            uploaded_bytes: c.uploaded_bytes,
            downloaded_bytes: c.downloaded_bytes,
            moved_bytes: c.moved_bytes,
            held_bytes: self.held,
            device_bytes: arena.size - arena.free,
            device_budget: self.budget,
            arena_bytes: arena.size,
            memory,
            lost: self.lost,
        }
    }
}
