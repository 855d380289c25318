//! What a pool has done so far.

use pinned_host::DeviceMemory;
use std::time::Duration;

/// Counters of a pool since it was made, and what it holds now. Bytes count payload, each time it is copied.
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

/// The counters among them.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    pub(crate) leases: u64,
    pub(crate) hits: u64,
    pub(crate) evictions: u64,
    pub(crate) write_backs: u64,
    pub(crate) prefetches: u64,
    pub(crate) failed_transfers: u64,
    pub(crate) uploaded_bytes: u64,
    pub(crate) downloaded_bytes: u64,
    pub(crate) moved_bytes: u64,
    pub(crate) file_bytes: u64,
    pub(crate) spills: u64,
    pub(crate) disk_written_bytes: u64,
    pub(crate) disk_read_bytes: u64,
    pub(crate) corrupt_reads: u64,
    pub(crate) stall: Duration,
}
