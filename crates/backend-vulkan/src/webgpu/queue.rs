//! The queue of a wgpu device.

use super::shared::Shared;
use super::{WgpuError, WgpuEvent};
use pinned_host::{Event, Queue};
use std::sync::Arc;

/// The one queue of a [`WgpuDevice`](crate::WgpuDevice): both lanes, moves, and the user's own submissions to the
/// same `wgpu::Queue`.
///
/// wgpu runs submissions in their order, so [`wait`](Queue::wait) costs nothing. [`record`](Queue::record) submits
/// moves that were noted, all of them as one submission, and nothing else: without any it only leaves a callback.
///
/// A callback that wgpu runs while this device submits (`on_submitted_work_done`, `map_async`) may query events and
/// must not submit to the device, which is an error, nor take a lock that another thread holds while it submits.
#[derive(Clone)]
pub struct WgpuQueue(Arc<Shared>);

impl WgpuQueue {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        WgpuQueue(shared)
    }

    pub(super) fn shared(&self) -> &Arc<Shared> {
        &self.0
    }
}

impl Queue for WgpuQueue {
    type Event = WgpuEvent;

    fn wait(&self, event: &WgpuEvent) -> Result<(), WgpuError> {
        let (theirs, ours) = (event.device(), self.0.id);
        if theirs == ours { Ok(()) } else { Err(WgpuError::Foreign { what: "event", theirs, ours }) }
    }

    fn record(&self) -> Result<WgpuEvent, WgpuError> {
        self.0.record().map(|number| WgpuEvent::new(&self.0, number))
    }

    fn same_queue(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    fn drain(&self) -> Result<(), WgpuError> {
        match self.record() {
            Ok(event) => event.synchronize(),
            Err(error) => {
                // Said twice now: by `record` and here. Moves that wgpu refuses must not stand in the way of all
                // later work.
                if matches!(error, WgpuError::Refused { .. }) {
                    self.0.forget_moves();
                }
                Err(error)
            }
        }
    }
}

impl core::fmt::Debug for WgpuQueue {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("WgpuQueue").field("device", &self.0.id).finish_non_exhaustive()
    }
}
