//! What went wrong, coarsely enough for generic code to react.

/// The class of a backend's error.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The device has no memory left for this.
    OutOfMemory,
    /// The device is gone, with everything on it.
    DeviceLost,
    /// The caller asked for something that can never work: a range beyond the buffer, another device's event.
    InvalidUse,
    /// This operation failed; others may succeed.
    Failed,
}

/// A backend's error, with its class.
pub trait DeviceError: core::error::Error + Send + Sync + 'static {
    /// The class; the value itself keeps the detail.
    fn kind(&self) -> ErrorKind;
}

/// Why host memory was not to be had. Sizes are bytes.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HostError {
    /// The process may not lock that much memory.
    #[error(
        "cannot lock {asked} bytes: the limit on locked memory (RLIMIT_MEMLOCK) is {limit} bytes, {locked} of them in use; \
         raise the limit (`ulimit -l`, or `memlock` in /etc/security/limits.conf) or give the process CAP_IPC_LOCK"
    )]
    LockLimit {
        /// The soft limit.
        limit: u64,
        /// What was to be locked, whole pages.
        asked: u64,
        /// What the process had locked already.
        locked: u64,
    },
    /// The system gave no address range.
    #[error("cannot map {bytes} bytes: {source}")]
    Map {
        /// What was asked.
        bytes: u64,
        /// What the system said.
        source: std::io::Error,
    },
    /// The system refused to lock memory for a reason other than the limit.
    #[error("cannot lock {bytes} bytes: {source}")]
    Lock {
        /// What was asked, whole pages.
        bytes: u64,
        /// What the system said.
        source: std::io::Error,
    },
    /// There is no room now, or somebody has been waiting for it longer.
    #[error(
        "no room for {asked} bytes now: of the budget of {budget} bytes {untaken} are not taken from the system yet, {free} \
         are free in regions, the largest piece of them {largest}; callers waiting, who are not overtaken: {waiters}"
    )]
    Full {
        /// What was asked.
        asked: u64,
        /// What the pool may have in all.
        budget: u64,
        /// The part of the budget that no region has.
        untaken: u64,
        /// Free in all regions together.
        free: u64,
        /// The largest contiguous piece of it.
        largest: u64,
        /// Callers that wait for room and are not overtaken.
        waiters: usize,
    },
    /// More than the pool can ever give in one slice.
    #[error(
        "{asked} bytes are more than one slice can have: {capacity} bytes, by the budget and the longest region"
    )]
    TooLarge {
        /// What was asked.
        asked: u64,
        /// The largest slice the pool can give when empty.
        capacity: u64,
    },
    /// The deadline passed before there was room.
    #[error("waited {waited:?} in vain: {reason}")]
    Timeout {
        /// What was asked.
        asked: u64,
        /// How long the caller waited.
        waited: core::time::Duration,
        /// What stood in the way at last.
        reason: Box<HostError>,
    },
    /// Somebody called the wait off.
    #[error("the wait was cancelled after {waited:?}: {reason}")]
    Cancelled {
        /// What was asked.
        asked: u64,
        /// How long the caller waited.
        waited: core::time::Duration,
        /// What stood in the way.
        reason: Box<HostError>,
    },
    /// The locker allows less than that to be locked, and the device takes no pageable memory.
    #[error(
        "{asked} bytes are more than the {allowed} bytes that may be locked without taking what others need"
    )]
    Allowance {
        /// What was asked.
        asked: u64,
        /// What the locker allows now.
        allowed: u64,
    },
    /// Memory whose cache unit is longer than what the pool divides its regions by.
    #[error("the memory's atom of {atom} bytes is longer than {most}: the pool needs a grain of that length")]
    Atom {
        /// The region's.
        atom: u64,
        /// The longest that this pool can keep apart.
        most: u64,
    },
    /// A locker made more than it was asked for, and more than the budget has left; the region was given back.
    #[error(
        "asked for {asked} bytes, the locker made {bytes}, and of the budget of {budget} bytes {room} are left"
    )]
    OverBudget {
        /// What the region had.
        bytes: u64,
        /// What was asked of the locker.
        asked: u64,
        /// What the pool may have in all.
        budget: u64,
        /// What was left of it.
        room: u64,
    },
    /// The pool was made of regions it was given and cannot make others, so its budget is what they have.
    #[error(
        "the pool has the regions it was made of and no budget to change; `PoolConfig` makes one that has"
    )]
    FixedRegions,
    /// Only pageable memory was wanted and the device takes none.
    #[error("this device takes page-locked memory only")]
    NoPageable,
    /// A device's locker refused.
    #[error("no region of {bytes} bytes: {source}")]
    Locker {
        /// What was asked.
        bytes: u64,
        /// What it said.
        source: Box<dyn core::error::Error + Send + Sync>,
    },
    /// The alignment of a slice is not a power of two, or more than a page of 4,096 bytes.
    #[error("an alignment of {align} bytes is not a power of two up to 4096")]
    BadAlign {
        /// What was asked.
        align: u64,
    },
    /// A region or slice of no bytes.
    #[error("a length of zero bytes was asked for")]
    ZeroSize,
    /// The grain of a pool is not a power of two, or more than 2 GiB.
    #[error("the grain of {grain} bytes is not a power of two up to 2 GiB")]
    BadGrain {
        /// What was asked.
        grain: u64,
    },
    /// The allocator that divides a region refused for a reason not named above.
    #[error("cannot divide a region: {0}")]
    Alloc(#[from] allocator_core::AllocError),
    /// Neither the machine nor the control group has that much memory; nothing was touched.
    #[error("cannot have {asked} bytes of memory: {bound} has {available} bytes to give, of {limit} in all")]
    MemoryLimit {
        /// What was asked, whole pages.
        asked: u64,
        /// What could be had: free, or made so by dropping cached files and by swapping.
        available: u64,
        /// All that the bound allows.
        limit: u64,
        /// What sets the bound.
        bound: crate::MemoryBound,
    },
    /// The system's pool of huge pages has not enough of them.
    #[error(
        "cannot have {bytes} bytes of explicit huge pages: {source}; \
         reserve some (`sysctl vm.nr_hugepages=N`, pages of 2 MiB) or use transparent ones"
    )]
    HugePages {
        /// What was asked, whole huge pages.
        bytes: u64,
        /// What the system said.
        source: std::io::Error,
    },
    /// The machine has no such NUMA node, or it has no memory.
    #[error("no NUMA node {node} with memory; nodes that have some: {nodes}")]
    NoNumaNode {
        /// What was asked for.
        node: u32,
        /// The nodes with memory, as the kernel lists them: `0-1,4`.
        nodes: String,
    },
    /// The system does not let this process choose a NUMA node.
    #[error("cannot prefer NUMA node {node}: {source}")]
    NumaPolicy {
        /// What was asked for.
        node: u32,
        /// What the system said.
        source: std::io::Error,
    },
}
