//! What can go wrong in a model.

use allocator_core::AllocError;
use mem_tracker::TrackError;

/// Why a model could not go on. Tensors that were made before stay as they are.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ModelError {
    /// The arena has no room for a tensor.
    #[error("no room for a tensor of {bytes} bytes: {source}")]
    Alloc {
        /// Bytes of the tensor.
        bytes: u64,
        /// What the allocator said.
        #[source]
        source: AllocError,
    },
    /// The device refused to make room for a tensor, or to read or write one.
    #[error("cannot {what} a tensor of {bytes} bytes: {source}")]
    Device {
        /// What was to be done: `make an arena for`, `move blocks for`, `read`, `write`.
        what: &'static str,
        /// Bytes of the tensor.
        bytes: u64,
        /// What the device said.
        #[source]
        source: Box<dyn core::error::Error + Send + Sync>,
    },
    /// A tensor whose shape an operation cannot take.
    #[error("{operation} takes {expected} elements here, not shape {found:?}")]
    Shape {
        /// The operation.
        operation: &'static str,
        /// How many it takes: of a linear layer's input in the last dimension, else in all.
        expected: usize,
        /// The shape it was given.
        found: Vec<usize>,
    },
    /// A shape without elements, or with more bytes than can be counted.
    #[error("no tensor has shape {shape:?}")]
    NoTensor {
        /// The shape.
        shape: Vec<usize>,
    },
    /// Backward found nothing saved: it was called without a forward before it, or twice.
    #[error("nothing was saved for backward: forward comes first, once for each backward")]
    NothingSaved,
    /// The tracker refused.
    #[error("the tracker refused: {0}")]
    Tracker(#[from] TrackError),
    /// A device tells one tracker, and it has one.
    #[error("the device is tracked already")]
    Tracked,
    /// Not a failure: all that backward needs was computed again, so forward stops here. Only the layer that asked for it
    /// sees this.
    #[error("all that backward needs was computed again")]
    Recomputed,
}
