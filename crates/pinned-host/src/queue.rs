//! Queues and events: the order of work on a device.

use crate::DeviceError;
use allocator_core::DeviceBuffer;

/// Names work that **has been submitted**, never work to come.
///
/// Cloning is cheap and allocates nothing.
pub trait Event: Clone + Send + Sync + 'static {
    /// What the work, or the device, reports.
    type Error: DeviceError;

    /// Whether the work has ended. Never blocks; makes progress where a device only runs when polled.
    ///
    /// # Errors
    /// The work ended in failure, or the device is gone.
    fn query(&self) -> Result<bool, Self::Error>;

    /// Blocks until the work has ended.
    ///
    /// # Errors
    /// As [`query`](Self::query).
    fn synchronize(&self) -> Result<(), Self::Error>;

    /// Whether this event having fired implies that `earlier` has: saves waits. `false` is always true enough.
    fn covers(&self, earlier: &Self) -> bool {
        let _ = earlier;
        false
    }

    /// Whether the work can touch memory no more, be it done, failed or never to run.
    ///
    /// Decides if memory behind a failed transfer can be used again; when in doubt, `false`.
    fn is_settled(&self) -> bool {
        matches!(self.query(), Ok(true))
    }
}

/// An ordered sequence of device work: a lane, or the user's own stream.
///
/// Cloning is cheap and names the same queue.
pub trait Queue: Clone + Send + Sync + 'static {
    /// The events of this device.
    type Event: Event;

    /// Work submitted to this queue from now on runs after `event`. Does not block.
    ///
    /// # Errors
    /// An event of another device, or the device's refusal; nothing was enqueued.
    fn wait(&self, event: &Self::Event) -> Result<(), QueueError<Self>>;

    /// An event that fires when everything submitted so far has ended.
    ///
    /// # Errors
    /// The device's refusal; the work submitted before is unaffected.
    fn record(&self) -> Result<Self::Event, QueueError<Self>>;

    /// Whether both name the same queue: the first event after a failure reports it, so whoever records on a shared queue
    /// must know who else does.
    fn same_queue(&self, other: &Self) -> bool;

    /// Blocks until everything submitted so far has ended: the way out when [`record`](Self::record) fails.
    ///
    /// # Errors
    /// Work failed that no event has reported yet, as an event recorded now would say; or the device is gone, and whether
    /// the work ran cannot be known.
    fn drain(&self) -> Result<(), QueueError<Self>>;
}

/// The error of a queue is the error of its events, so that `?` works across both.
pub type QueueError<Q> = <<Q as Queue>::Event as Event>::Error;

/// A buffer whose `copy_within` runs on a queue. Cloning is cheap and names the same memory.
pub trait QueuedBuffer: DeviceBuffer<Error: DeviceError> + Clone + Send + Sync + 'static {
    /// The queues of this device.
    type Queue: Queue;

    /// The queue that `copy_within` runs on; also the device's default compute queue.
    fn queue(&self) -> &Self::Queue;
}
