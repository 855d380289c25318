//! A transfer in flight, and where its memory waits when nobody else does.

use crate::sync::{Arc, Mutex, MutexGuard, PoisonError, lock};
use crate::{Event, QueueError, SliceOf, Transfer, TransferFailed};

/// A transfer in flight that owns its pinned slice until its event fires.
///
/// Dropping it parks the slice until then; forgetting it leaks the slice. Neither frees memory in flight.
#[must_use = "a dropped ticket cannot say whether its transfer succeeded"]
pub struct Ticket<T: Transfer> {
    /// `Some` until `wait` takes it.
    slice: Option<SliceOf<T>>,
    event: T::Event,
    parking: Parking<T>,
}

impl<T: Transfer> Ticket<T> {
    /// For backends: a copy that was enqueued, the slice it uses and the event recorded behind it.
    pub fn new(slice: SliceOf<T>, event: T::Event, parking: &Parking<T>) -> Self {
        Ticket { slice: Some(slice), event, parking: parking.clone() }
    }

    /// Fires when the transfer has ended.
    pub fn event(&self) -> &T::Event {
        &self.event
    }

    /// Whether the transfer has ended. Never blocks.
    ///
    /// # Errors
    /// It ended in failure; [`wait`](Self::wait) then gives the slice back.
    pub fn is_done(&self) -> Result<bool, QueueError<T::Queue>> {
        self.event.query()
    }

    /// Blocks until the transfer has ended and returns its slice.
    ///
    /// # Errors
    /// The transfer failed. The slice comes with the error when the device can no longer touch it, and is parked until
    /// then otherwise.
    pub fn wait(mut self) -> Result<SliceOf<T>, TransferFailed<T>> {
        let done = self.event.synchronize();
        let slice = self.slice.take();
        match (done, slice) {
            (Ok(()), Some(slice)) => Ok(slice),
            (Ok(()), None) => unreachable!("only `wait` takes the slice, and it consumes the ticket"),
            (Err(error), slice) => {
                let settled = self.event.is_settled();
                let slice = slice.and_then(|slice| {
                    if settled {
                        return Some(slice);
                    }
                    self.parking.park(self.event.clone(), slice);
                    None
                });
                Err(TransferFailed { slice, error })
            }
        }
    }
}

impl<T: Transfer> Drop for Ticket<T> {
    fn drop(&mut self) {
        if let Some(slice) = self.slice.take()
            && !self.event.is_settled()
        {
            self.parking.park(self.event.clone(), slice);
        }
    }
}

impl<T: Transfer> core::fmt::Debug for Ticket<T> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Ticket").field("bytes", &self.slice.as_ref().map(|s| s.len())).finish_non_exhaustive()
    }
}

/// Slices whose tickets were dropped while the device still used them.
///
/// A backend keeps one and calls [`sweep`](Self::sweep) when it starts a transfer. When the last clone goes, it
/// waits for what is left; memory whose work cannot be waited for is leaked.
pub struct Parking<T: Transfer>(Arc<Parked<T>>);

struct Parked<T: Transfer>(Mutex<Vec<(T::Event, SliceOf<T>)>>);

impl<T: Transfer> Parking<T> {
    /// An empty one.
    pub fn new() -> Self {
        Parking(Arc::new(Parked(Mutex::new(Vec::new()))))
    }

    /// Frees the slices the device is done with; returns how many it still uses. O(parked).
    pub fn sweep(&self) -> usize {
        let mut parked = self.lock();
        parked.retain(|(event, _)| !event.is_settled());
        parked.len()
    }

    /// How many slices are parked.
    pub fn len(&self) -> usize {
        self.lock().len()
    }

    /// Whether none is parked.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn park(&self, event: T::Event, slice: SliceOf<T>) {
        self.lock().push((event, slice));
    }

    fn lock(&self) -> MutexGuard<'_, Vec<(T::Event, SliceOf<T>)>> {
        // A panic while the lock is held leaves a well-formed list: every change to it is one call.
        lock(&self.0.0)
    }
}

impl<T: Transfer> Drop for Parked<T> {
    fn drop(&mut self) {
        let parked = self.0.get_mut().unwrap_or_else(PoisonError::into_inner);
        for (event, slice) in parked.drain(..) {
            let _ = event.synchronize();
            if !event.is_settled() {
                core::mem::forget(slice);
            }
        }
    }
}

impl<T: Transfer> Clone for Parking<T> {
    fn clone(&self) -> Self {
        Parking(Arc::clone(&self.0))
    }
}

impl<T: Transfer> Default for Parking<T> {
    fn default() -> Self {
        Self::new()
    }
}

impl<T: Transfer> core::fmt::Debug for Parking<T> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_tuple("Parking").field(&self.len()).finish()
    }
}
