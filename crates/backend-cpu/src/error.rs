//! What can go wrong on the CPU device.

use allocator_core::RangeError;
use pinned_host::{DeviceError, ErrorKind, HostError};
use std::sync::Arc;

/// An error of the CPU device.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CpuError {
    /// A range that the buffer cannot serve; nothing was touched.
    #[error("the buffer cannot serve it: {0}")]
    Range(#[from] RangeError),
    /// The system gave no memory for a buffer.
    #[error("no memory for a buffer of {bytes} bytes: {source}")]
    Memory {
        /// Size that was asked for, in bytes.
        bytes: u64,
        /// What the system said.
        #[source]
        source: HostError,
    },
    /// A buffer larger than this machine can address.
    #[error("a buffer of {bytes} bytes exceeds the address space")]
    TooLarge {
        /// Size that was asked for, in bytes.
        bytes: u64,
    },
    /// A remap whose ranges share bytes; nothing was touched.
    #[error("cannot exchange the pages of {len} bytes at {src} with those at {dst}: the ranges overlap")]
    Overlap {
        /// First byte of the source.
        src: u64,
        /// First byte of the destination.
        dst: u64,
        /// Length of both in bytes.
        len: u64,
    },
    /// The system did not exchange the pages of two ranges; every byte is where it was.
    #[error("the system did not exchange the pages of {len} bytes at {src} with those at {dst}: {source}")]
    Exchange {
        /// First byte of the source.
        src: u64,
        /// First byte of the destination.
        dst: u64,
        /// Length of both in bytes.
        len: u64,
        /// What the system said; out of memory when the process has as many mappings as it may have.
        #[source]
        source: std::io::Error,
    },
    /// One more exchange would cut the buffers of the process into too many mappings; every byte is where it was.
    #[error(
        "the buffers of this process are cut into {pieces} pieces already, of {most} they may be cut into"
    )]
    Scattered {
        /// Cuts there are now, over all buffers.
        pieces: u64,
        /// The most there may be.
        most: u64,
    },
    /// The system gave no thread for a queue.
    #[error("no thread for the queue `{queue}`: {source}")]
    Thread {
        /// Name of the queue.
        queue: &'static str,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// The device was dropped; its queues take no more work.
    #[error("the device was dropped and takes no more work")]
    Closed,
    /// An event or a buffer that another device made.
    #[error("the {what} belongs to device {theirs}, not to device {ours}")]
    Foreign {
        /// `event` or `buffer`.
        what: &'static str,
        /// Number of the device that made it.
        theirs: u64,
        /// Number of the device it was given to.
        ours: u64,
    },
    /// An operation submitted before the event ended in failure.
    #[error("operation {operation} of its queue failed: {source}")]
    Operation {
        /// Its number on its queue; the first is 1.
        operation: u64,
        /// How it ended.
        #[source]
        source: Arc<CpuError>,
    },
    /// A kernel given to [`CpuQueue::launch`](crate::CpuQueue::launch) panicked.
    #[error("a kernel panicked: {message}")]
    Panicked {
        /// The panic's message, where it was text.
        message: String,
    },
    /// A kernel waits for an event that its own queue can only reach after the kernel.
    #[error("a kernel waits for operation {operation} of its own queue, which comes after it")]
    WaitsForItself {
        /// Number of the operation on the queue.
        operation: u64,
    },
    /// A range is in use, and the thread asking for it already holds another.
    ///
    /// Either the same thread uses overlapping ranges, or nothing orders this access after another one; waiting
    /// could wait in a circle.
    #[error(
        "bytes {start}..{end} are in use and this thread already holds a range; it would wait in a circle"
    )]
    InUse {
        /// First byte asked for.
        start: u64,
        /// End of the range asked for.
        end: u64,
    },
    /// The bytes of a view are no whole, aligned slice of the type asked for.
    #[error("bytes {start}..{end} are no slice of {type_name} ({size} bytes each, aligned to {align})")]
    Cast {
        /// First byte of the view.
        start: u64,
        /// End of the view.
        end: u64,
        /// The type asked for.
        type_name: &'static str,
        /// Its size in bytes.
        size: usize,
        /// Its alignment in bytes.
        align: usize,
    },
}

impl DeviceError for CpuError {
    fn kind(&self) -> ErrorKind {
        match self {
            CpuError::Memory { .. } | CpuError::TooLarge { .. } => ErrorKind::OutOfMemory,
            CpuError::Closed => ErrorKind::DeviceLost,
            CpuError::Range(_)
            | CpuError::Foreign { .. }
            | CpuError::WaitsForItself { .. }
            | CpuError::InUse { .. }
            | CpuError::Overlap { .. }
            | CpuError::Cast { .. } => ErrorKind::InvalidUse,
            CpuError::Thread { .. }
            | CpuError::Exchange { .. }
            | CpuError::Scattered { .. }
            | CpuError::Operation { .. }
            | CpuError::Panicked { .. } => ErrorKind::Failed,
        }
    }
}
