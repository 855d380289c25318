//! Copies between host memory and a device, and who owns the memory meanwhile.

use crate::{DeviceError, Event, PageLocker, Parking, PinnedSlice, Queue, QueueError, QueuedBuffer, Ticket};

/// Direction of a copy queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Lane {
    /// Host to device.
    Upload,
    /// Device to host.
    Download,
}

/// A pinned slice of the memory that `T`'s locker makes.
pub type SliceOf<T> = PinnedSlice<RegionOf<T>>;
/// The kind of region that `T`'s locker makes.
pub type RegionOf<T> = <<T as Transfer>::Locker as PageLocker>::Region;

/// A device: its buffers, its copy lanes and the host memory it reaches.
///
/// # For implementers
/// * A copy runs on its lane, in order with everything submitted to the lane before, after every event the
///   lane was told to [`wait`](Queue::wait) for, and in no other order.
/// * Ranges and grain are checked first. `Err` means nothing was enqueued and gives the slice back.
/// * If recording the event fails after the copy was enqueued: [`drain`](Queue::drain) the lane; if that fails
///   too, leak the slice (`Refused::slice` is `None`).
///
/// # For callers
/// Nothing orders a copy against other queues by itself; see [`Hazards`](crate::Hazards).
pub trait Transfer: Sized + Send + Sync + 'static {
    /// What the device reports when it refuses.
    type Error: DeviceError;
    /// Its events.
    type Event: Event;
    /// Its queues.
    type Queue: Queue<Event = Self::Event>;
    /// Its memory.
    type Buffer: QueuedBuffer<Queue = Self::Queue>;
    /// Makes host memory it can reach.
    type Locker: PageLocker;

    /// The locker for this device.
    fn locker(&self) -> &Self::Locker;

    /// Whether this device copies from and to all memory that `other`'s locker makes, as it does with its own locker's: then the
    /// two can share host memory. `false` is always true enough.
    ///
    /// Nothing orders the copies of two devices but the host, which waits for one before it begins the other.
    fn reaches(&self, other: &Self) -> bool {
        let _ = other;
        false
    }

    /// About how many bytes the device moves within its memory in the time in which it transfers one to or from host memory, at
    /// least 1: what an arena's owner weighs by whether to move blocks, or to let one more go.
    fn moves_per_transfer(&self) -> u32 {
        1
    }

    /// A buffer of `size` bytes; its contents are unspecified.
    ///
    /// # Errors
    /// No memory, or a size the device cannot serve.
    fn buffer(&self, size: u64) -> Result<Self::Buffer, Self::Error>;

    /// The copy queue for one direction. Lanes may alias one another (wgpu, one-queue devices).
    fn lane(&self, direction: Lane) -> &Self::Queue;

    /// Enqueues the copy of all of `src` to `dst` at byte offset `at`, on the upload lane.
    ///
    /// # Errors
    /// A range or the device refuses; the slice comes back.
    fn upload(
        &self,
        src: SliceOf<Self>,
        dst: &mut Self::Buffer,
        at: u64,
    ) -> Result<Ticket<Self>, Refused<Self>>;

    /// Enqueues the copy of `dst.len()` bytes from byte offset `from` of `src`, on the download lane.
    ///
    /// # Errors
    /// A range or the device refuses; the slice comes back.
    fn download(
        &self,
        src: &Self::Buffer,
        from: u64,
        dst: SliceOf<Self>,
    ) -> Result<Ticket<Self>, Refused<Self>>;

    /// Enqueues an upload of a slice that a transfer still in flight fills or reads.
    ///
    /// The default waits for that transfer on the host. A device whose uploads read host memory when they *run*
    /// may order the lane after the ticket's event instead; one that reads it at the call (wgpu) may not.
    ///
    /// # Errors
    /// The earlier transfer failed, or as [`upload`](Self::upload).
    fn upload_after(
        &self,
        earlier: Ticket<Self>,
        dst: &mut Self::Buffer,
        at: u64,
    ) -> Result<Ticket<Self>, ChainError<Self>> {
        let slice = earlier.wait().map_err(ChainError::Earlier)?;
        self.upload(slice, dst, at).map_err(ChainError::Upload)
    }

    /// Where dropped tickets leave their slices until the device is done with them.
    fn parking(&self) -> &Parking<Self>;

    /// Device memory this transfer's buffers hold, scratch included.
    fn memory(&self) -> DeviceMemory;

    /// Reads device memory plainly and synchronously: an independent witness, not the path under test.
    ///
    /// The caller has waited for every write to the range.
    ///
    /// # Errors
    /// A range or the device refuses.
    fn read_now(&self, src: &Self::Buffer, from: u64, dst: &mut [u8]) -> Result<(), Self::Error>;

    /// Writes device memory plainly and synchronously.
    ///
    /// The caller has waited for every use of the range.
    ///
    /// # Errors
    /// The range is refused, and nothing was written; or the device fails, and some of it may have been.
    fn write_now(&self, dst: &mut Self::Buffer, at: u64, src: &[u8]) -> Result<(), Self::Error>;
}

/// Device memory in bytes, as the backend allocated it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct DeviceMemory {
    /// Held now, buffers and scratch together.
    pub current: u64,
    /// The most that was held at once.
    pub peak: u64,
    /// The part of `current` that is the backend's own scratch.
    pub scratch: u64,
}

/// A transfer that was not enqueued, and the memory it was for.
#[derive(thiserror::Error)]
#[error("transfer refused: {error}")]
pub struct Refused<T: Transfer> {
    /// The caller's slice. `None` only when the copy was enqueued, its event could not be recorded and the lane
    /// could not be drained: the memory may still be in use and is leaked.
    pub slice: Option<SliceOf<T>>,
    /// Why.
    #[source]
    pub error: T::Error,
}

/// A transfer that was enqueued and failed.
#[derive(thiserror::Error)]
#[error("transfer failed: {error}")]
pub struct TransferFailed<T: Transfer> {
    /// The slice, if the device is known to be done with it. A download may have filled part of it.
    pub slice: Option<SliceOf<T>>,
    /// What the event reported.
    #[source]
    pub error: QueueError<T::Queue>,
}

/// Why a chained upload did not happen.
#[derive(thiserror::Error)]
pub enum ChainError<T: Transfer> {
    /// The transfer it was chained to failed.
    #[error("the earlier transfer failed: {0}")]
    Earlier(#[source] TransferFailed<T>),
    /// The upload was refused.
    #[error("{0}")]
    Upload(#[source] Refused<T>),
}

impl<T: Transfer> core::fmt::Debug for Refused<T> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Refused").field("slice", &self.slice.is_some()).field("error", &self.error).finish()
    }
}

impl<T: Transfer> core::fmt::Debug for TransferFailed<T> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("TransferFailed")
            .field("slice", &self.slice.is_some())
            .field("error", &self.error)
            .finish()
    }
}

impl<T: Transfer> core::fmt::Debug for ChainError<T> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            ChainError::Earlier(e) => f.debug_tuple("Earlier").field(e).finish(),
            ChainError::Upload(e) => f.debug_tuple("Upload").field(e).finish(),
        }
    }
}
