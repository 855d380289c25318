//! Page-locked host memory, and the contracts of queues, events and transfers.
//!
//! A device copies fastest, and without the CPU, between its own memory and host memory whose pages cannot move.
//! Such memory is scarce, slow to make and easily leaked. This crate makes it once, divides it without rounding to
//! powers of two, bounds what is in flight, and never frees what a device still uses. It also says what a device
//! is: the traits every backend implements, and the suites that prove it did.
//!
//! # Which
//! | to | use |
//! |---|---|
//! | take slices of page-locked memory within a budget | [`PoolConfig`], [`HostPool`], [`PinnedSlice`] |
//! | the same with views, and know which addresses are managed | [`PinnedManager`], [`PinnedBuffer`] |
//! | see what is held | [`HostStats`], [`HostMemoryStats`] (PyTorch's names) |
//! | wait with a deadline, or until called off | [`Wait`], [`CancelToken`] |
//! | bound the memory of copies in flight | [`StagingRing`], [`StagingConfig`], [`LockPolicy`] |
//! | copy between ordinary memory and a device | [`StagedCopy`], [`StagedError`] |
//! | copy host memory past its caches | [`HostCopy`] |
//! | choose pages, NUMA node, threads and what a child of `fork` sees | [`OsLocker`], [`OsMemory`], [`OsRegion`] |
//! | know how much there is and may be locked | [`LockLimit`], [`SystemMemory`] |
//! | know how much is pinned, by whomever | [`PinnedPages`], [`PagePin`] |
//! | touch much memory by several threads | [`in_pieces`] |
//! | order operations on a buffer | [`Hazards`], [`Access`] |
//! | copy, and own the memory meanwhile | [`Transfer`], [`Ticket`], [`Lane`] |
//! | write a backend | [`Event`], [`Queue`], [`QueuedBuffer`], [`Transfer`], [`HostRegion`], [`PageLocker`], [`Parking`] |
//! | prove it | `conformance` (feature `conformance`) |
//!
//! # Memory
//! ```
//! use pinned_host::{HostError, LockPolicy, OsLocker, PoolConfig};
//!
//! // At most 64 MiB, taken from the system as it is needed; pageable where the lock limit does not allow more.
//! let pool = PoolConfig::new(64 << 20).lock(LockPolicy::WithinAllowance).build(OsLocker)?;
//! let mut slice = pool.allocate(3_274_752)?;
//! slice.as_mut_slice().fill(1);
//! drop(slice); // its memory stays with the pool for the next one
//! pool.trim(0); // and now it goes back
//! assert_eq!(pool.stats().capacity, 0);
//! # Ok::<(), HostError>(())
//! ```
//! Why not a locked block per request, as DeepSpeed's pinned-tensor manager has it? Locking is the first touch
//! of every page, and whoever forgets to free leaks locked pages. Why not powers of two, as PyTorch's host cache? Up to
//! half of what is locked is never used: for GPT-2's optimizer states 1.66 bytes are locked for each byte asked for, here 1.0005.
//!
//! # Staging
//! ```
//! use pinned_host::{HostError, LockPolicy, Lane, OsLocker, StagingConfig};
//!
//! // 1 MiB each way; what the lock limit does not allow is pageable, and `stats` says how much.
//! let config = StagingConfig { read: 1 << 20, write: 1 << 20, lock: LockPolicy::WithinAllowance };
//! let ring = config.build(&OsLocker)?;
//! let stats = ring.stats();
//! assert_eq!(stats.locked() + stats.pageable(), 2 << 20);
//! let mut chunk = ring.acquire(Lane::Upload, 256 << 10, None)?;
//! chunk.as_mut_slice().fill(1);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! Units are bytes: `usize` for lengths of host memory, `u64` for everything else.

#[cfg(feature = "conformance")]
pub mod conformance;
mod copy;
mod error;
mod hazards;
mod ledger;
mod limits;
mod manager;
mod memory;
mod os;
mod pieces;
mod pool;
mod process;
mod queue;
mod region;
mod slice;
mod staged;
mod staging;
mod sync;
mod ticket;
mod transfer;
mod wait;

pub use copy::HostCopy;
pub use error::{DeviceError, ErrorKind, HostError};
pub use hazards::{Access, Hazards};
pub use ledger::{PagePin, PinnedPages};
pub use limits::LockLimit;
pub use manager::{PinnedBuffer, PinnedManager};
pub use memory::{MemoryBound, SystemMemory};
pub use os::{HugePages, OnFork, OsLocker, OsMemory, OsRegion};
pub use pieces::in_pieces;
pub use pool::{HostMemoryStats, HostPool, HostStats, PoolConfig, Pressure, StatCounter, StatTime};
pub use queue::{Event, Queue, QueueError, QueuedBuffer};
pub use region::{HostRegion, PageLocker};
pub use slice::PinnedSlice;
pub use staged::{StagedCause, StagedCopy, StagedError};
pub use staging::{LockPolicy, StagingConfig, StagingError, StagingRing, StagingStats};
pub use ticket::{Parking, Ticket};
pub use transfer::{ChainError, DeviceMemory, Lane, Refused, RegionOf, SliceOf, Transfer, TransferFailed};
pub use wait::{CancelToken, Wait};
