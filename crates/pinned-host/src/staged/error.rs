//! Why a staged copy stopped, and how far it had come.

use crate::{HostError, Lane, QueueError, Transfer};
use allocator_core::RangeError;

/// A staged copy that did not happen, or not all of it. Lengths are bytes.
#[derive(thiserror::Error)]
#[error("{} of {asked} bytes through staging stopped after {copied}: {cause}", match lane { Lane::Upload => "upload", Lane::Download => "download" })]
#[non_exhaustive]
pub struct StagedError<T: Transfer> {
    /// Its direction.
    pub lane: Lane,
    /// What was to be copied.
    pub asked: u64,
    /// The first so many have arrived. What lies beyond may have been written in part.
    pub copied: u64,
    pub(super) settled: bool,
    /// Why it stopped.
    pub cause: StagedCause<T>,
}

/// Why a staged copy stopped.
#[derive(thiserror::Error)]
#[non_exhaustive]
pub enum StagedCause<T: Transfer> {
    /// The range does not lie in the buffer, or not on its grain; nothing was sent.
    #[error(transparent)]
    Range(RangeError),
    /// The lane could not be told to wait for an event; nothing was sent.
    #[error("the lane takes no order: {0}")]
    Order(QueueError<T::Queue>),
    /// No staging memory, for instance within the deadline ([`HostError::Timeout`]).
    #[error("staging: {0}")]
    Staging(HostError),
    /// The device took no more pieces.
    #[error("a piece was refused: {0}")]
    Refused(T::Error),
    /// A piece failed on its way.
    #[error("a piece failed: {0}")]
    Failed(QueueError<T::Queue>),
    /// The caller wanted no more of it.
    #[error("cancelled")]
    Cancelled,
}

impl<T: Transfer> StagedError<T> {
    /// Whether all that was sent has ended, so that the buffer's bytes may be used again. `false` only where the device
    /// cannot say, as when it is gone; the staging memory concerned is parked then, or leaked.
    #[must_use]
    pub fn is_settled(&self) -> bool {
        self.settled
    }
}

impl<T: Transfer> core::fmt::Debug for StagedError<T> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("StagedError")
            .field("lane", &self.lane)
            .field("asked", &self.asked)
            .field("copied", &self.copied)
            .field("settled", &self.settled)
            .field("cause", &self.cause)
            .finish()
    }
}

impl<T: Transfer> core::fmt::Debug for StagedCause<T> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            StagedCause::Range(error) => f.debug_tuple("Range").field(error).finish(),
            StagedCause::Order(error) => f.debug_tuple("Order").field(error).finish(),
            StagedCause::Staging(error) => f.debug_tuple("Staging").field(error).finish(),
            StagedCause::Refused(error) => f.debug_tuple("Refused").field(error).finish(),
            StagedCause::Failed(error) => f.debug_tuple("Failed").field(error).finish(),
            StagedCause::Cancelled => f.write_str("Cancelled"),
        }
    }
}
