//! What can go wrong on the simulated device.

use super::Call;
use allocator_core::RangeError;
use pinned_host::{DeviceError, ErrorKind};

/// An error of the simulated device.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SimError {
    /// A range that the buffer cannot serve; nothing was touched.
    #[error("the buffer cannot serve it: {0}")]
    Range(#[from] RangeError),
    /// A region of host memory has at least one byte.
    #[error("a region of zero bytes was asked for")]
    ZeroSize,
    /// The simulated device's memory is used up, or a fault says so.
    #[error("simulated device is out of memory: {asked} bytes asked for, {held} held, limit {limit:?}")]
    OutOfMemory {
        /// Bytes asked for.
        asked: u64,
        /// Bytes its buffers hold.
        held: u64,
        /// The limit it was configured with.
        limit: Option<u64>,
    },
    /// The simulated lock limit is used up, or a fault says so.
    #[error("simulated lock limit: {asked} bytes asked for, {locked} locked, limit {limit:?}")]
    LockLimit {
        /// Bytes asked for.
        asked: u64,
        /// Bytes locked.
        locked: u64,
        /// The limit it was configured with.
        limit: Option<u64>,
    },
    /// A fault refused the call; nothing was enqueued.
    #[error("simulated fault: {call} number {number} is refused")]
    Refused {
        /// What was called.
        call: Call,
        /// The how-manieth call of its kind it was; the first is 1.
        number: u64,
    },
    /// A fault, or a kernel's panic, made an operation fail when it ran; its destination holds noise.
    #[error("simulated fault: {call}, operation {operation}, failed while running")]
    Failed {
        /// What it was.
        call: Call,
        /// Number of the operation on its device.
        operation: u64,
    },
    /// A fault cut a transfer short: the bytes up to `done` are right, the rest is as before.
    #[error("simulated fault: {call}, operation {operation}, ended after {done} of {asked} bytes")]
    Short {
        /// What it was.
        call: Call,
        /// Number of the operation on its device.
        operation: u64,
        /// Bytes transferred.
        done: u64,
        /// Bytes asked for.
        asked: u64,
    },
    /// A fault took the device away, with everything on it.
    #[error("the simulated device is lost")]
    DeviceLost,
    /// An event or a buffer of another simulated device.
    #[error("the {what} belongs to another simulated device")]
    Foreign {
        /// `event` or `buffer`.
        what: &'static str,
    },
}

impl DeviceError for SimError {
    fn kind(&self) -> ErrorKind {
        match self {
            SimError::OutOfMemory { .. } | SimError::LockLimit { .. } => ErrorKind::OutOfMemory,
            SimError::DeviceLost => ErrorKind::DeviceLost,
            SimError::Range(_) | SimError::ZeroSize | SimError::Foreign { .. } => ErrorKind::InvalidUse,
            SimError::Refused { .. } | SimError::Failed { .. } | SimError::Short { .. } => ErrorKind::Failed,
        }
    }
}
