//! What a disk store has done so far, and what it holds.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// Counters of a [`DiskStore`](super::DiskStore) since it was opened, and what it holds now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct DiskStats {
    /// Bytes of the store.
    pub capacity: u64,
    /// Bytes of room of all extents now, rounded up to the unit of I/O.
    pub reserved: u64,
    /// Bytes of parts that were discarded, in extents that still have other parts.
    pub dead_bytes: u64,
    /// Extents now.
    pub extents: u64,
    /// Requests that have not ended.
    pub in_flight: u64,
    /// Reads that ended well.
    pub reads: u64,
    /// Writes that ended well.
    pub writes: u64,
    /// Requests that failed, those whose ticket was dropped included.
    pub failures: u64,
    /// Bytes read from files, with what alignment adds.
    pub read_bytes: u64,
    /// Bytes written to files, with what alignment adds.
    pub written_bytes: u64,
    /// Operations begun again because the system said that they were interrupted, or to try again.
    pub retries: u64,
    /// Operations that the system ended early, and that were continued where they stopped.
    pub short_transfers: u64,
    /// Parts that came back with another checksum than they were written with.
    pub checksum_failures: u64,
    /// Operations on memory that was registered with the ring.
    pub registered_operations: u64,
    /// Operations through the page cache, where the rest of the store goes past it.
    pub buffered_operations: u64,
}

/// The counters among them.
#[derive(Debug, Default)]
pub(super) struct Counters {
    dead_bytes: AtomicU64,
    extents: AtomicU64,
    in_flight: AtomicU64,
    reads: AtomicU64,
    writes: AtomicU64,
    failures: AtomicU64,
    read_bytes: AtomicU64,
    written_bytes: AtomicU64,
    retries: AtomicU64,
    short_transfers: AtomicU64,
    checksum_failures: AtomicU64,
    registered_operations: AtomicU64,
    buffered_operations: AtomicU64,
}

impl Counters {
    pub(super) fn reserved_one(&self) {
        self.extents.fetch_add(1, Relaxed);
    }

    pub(super) fn dead(&self, bytes: u64) {
        self.dead_bytes.fetch_add(bytes, Relaxed);
    }

    /// An extent is gone, and so many dead bytes with it.
    pub(super) fn buried(&self, bytes: u64) {
        self.dead_bytes.fetch_sub(bytes, Relaxed);
        self.extents.fetch_sub(1, Relaxed);
    }

    pub(super) fn begun(&self) {
        self.in_flight.fetch_add(1, Relaxed);
    }

    pub(super) fn ended(&self, write: bool, well: bool) {
        self.in_flight.fetch_sub(1, Relaxed);
        let counter = match (well, write) {
            (false, _) => &self.failures,
            (true, true) => &self.writes,
            (true, false) => &self.reads,
        };
        counter.fetch_add(1, Relaxed);
    }

    pub(super) fn moved(&self, write: bool, bytes: u64) {
        if write { &self.written_bytes } else { &self.read_bytes }.fetch_add(bytes, Relaxed);
    }

    pub(super) fn retried(&self) {
        self.retries.fetch_add(1, Relaxed);
    }

    pub(super) fn short(&self) {
        self.short_transfers.fetch_add(1, Relaxed);
    }

    pub(super) fn damaged(&self) {
        self.checksum_failures.fetch_add(1, Relaxed);
    }

    pub(super) fn registered(&self) {
        self.registered_operations.fetch_add(1, Relaxed);
    }

    pub(super) fn buffered(&self) {
        self.buffered_operations.fetch_add(1, Relaxed);
    }

    pub(super) fn stats(&self, capacity: u64, reserved: u64) -> DiskStats {
        DiskStats {
            capacity,
            reserved,
            dead_bytes: self.dead_bytes.load(Relaxed),
            extents: self.extents.load(Relaxed),
            in_flight: self.in_flight.load(Relaxed),
            reads: self.reads.load(Relaxed),
            writes: self.writes.load(Relaxed),
            failures: self.failures.load(Relaxed),
            read_bytes: self.read_bytes.load(Relaxed),
            written_bytes: self.written_bytes.load(Relaxed),
            retries: self.retries.load(Relaxed),
            short_transfers: self.short_transfers.load(Relaxed),
            checksum_failures: self.checksum_failures.load(Relaxed),
            registered_operations: self.registered_operations.load(Relaxed),
            buffered_operations: self.buffered_operations.load(Relaxed),
        }
    }
}
