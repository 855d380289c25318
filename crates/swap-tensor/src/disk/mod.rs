//! Bytes in anonymous files: what does not fit in host memory. Ephemeral: nothing outlives the store.
//!
//! A [`DiskStore`] has one file in each of its directories, unlinked and of mode 0600, whose room it sets aside when it is
//! opened. An [`Extent`] is room for bytes that are written once, together, and read in parts: one part for a large tensor, many
//! for a pack of small ones. Requests own their buffers and come back through an [`IoTicket`].
//!
//! ```
//! use std::time::Duration;
//! use swap_tensor::disk::{DiskBuf, DiskConfig};
//!
//! let store = DiskConfig::new(std::env::temp_dir(), 4 << 20).open()?;
//! let mut buffer = DiskBuf::zeroed(100_000)?;
//! buffer.as_mut_slice().fill(7);
//!
//! let extent = store.reserve(100_000)?;
//! let buffer = store.write(&extent, buffer, 100_000).wait_for(Duration::from_secs(10))?;
//!
//! let ticket = store.read(&extent, 0, buffer);
//! let range = ticket.range(); // where in the buffer the bytes will be
//! let buffer = ticket.wait_for(Duration::from_secs(10))?;
//! assert!(buffer.as_slice()[range].iter().all(|byte| *byte == 7));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # Paths
//! On Linux one thread with a ring of io_uring's serves each direction of each directory, past the page cache (`O_DIRECT`) and
//! with [registered](DiskStore::register) memory. Kernels, containers and file systems refuse some of that or all of it: what
//! works is found out by writing and reading a page, and [`DiskStore::path`] says what is used and why nothing better.
//!
//! # What is promised
//! * A read serves the bytes that were written, or an error: each part has a CRC32C, which every read compares. An extent whose write
//!   failed, or has not ended, cannot be read.
//! * A failed write has its source still: the buffer comes back with the error.
//! * Every wait has a deadline. An operation that hangs keeps its buffer, its room and its file until it ends, and nobody else.
//! * Reads do not queue behind writes, nor one directory behind another.
//!
//! # Why not …
//! * *memory mapped from a file*: page faults move 4 KiB at a time, stop a thread each, and an error is a signal.
//! * *the kernel's swap*: it moves what was not used for long, not what will not be used for long, and no device can read it.
//! * *one file for each tensor*: names, journals and directories for what nobody will ever look for.
#![cfg_attr(not(target_os = "linux"), allow(dead_code, reason = "a ring's side of things has no user there"))]

mod bell;
mod config;
mod drive;
mod engine;
mod error;
#[cfg_attr(not(feature = "conformance"), path = "calm.rs")]
mod fault;
mod files;
mod io;
mod lane;
mod parts;
mod pool;
mod probe;
#[cfg(target_os = "linux")]
mod reactor;
mod regions;
mod report;
mod request;
mod room;
mod stats;
mod store;
mod ticket;

pub use config::{DiskConfig, IoChoice};
pub use error::{DiskError, Failed};
#[cfg(feature = "conformance")]
pub use fault::{Call, Fault, FaultPlan};
pub use io::{DiskBuf, IoBuf};
pub use report::{DriveReport, IoPath, IoReport};
pub use room::{Extent, ExtentState};
pub use stats::DiskStats;
pub use store::DiskStore;
pub use ticket::IoTicket;

/// Locks `mutex` whether or not a holder panicked: every critical section here leaves its data well-formed at each step, and
/// calls nothing of the user's.
fn lock<T: ?Sized>(mutex: &std::sync::Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}
