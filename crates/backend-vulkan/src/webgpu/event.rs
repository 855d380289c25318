//! Events: points on the device's timeline.

use super::WgpuError;
use super::shared::Shared;
use pinned_host::Event;
use std::sync::Arc;

/// A point on the timeline of a [`WgpuDevice`](crate::WgpuDevice): it fires when everything submitted to the wgpu
/// queue before it has ended, and everything downloaded before it lies in its slice.
///
/// **Who polls.** wgpu tells that work has ended only to who polls. [`query`](Event::query) polls once, and
/// [`synchronize`](Event::synchronize) until it is so; both then finish what has ended, copying downloads into their
/// slices on the calling thread, for whomever they are. When the user polls the same device, wgpu's word arrives then,
/// and callbacks of the user's own run inside our polls as ours run inside the user's. Ours are short and take no lock.
/// An event that nobody asks does not fire.
///
/// Events outlive their device and its queues. There is one timeline, so an event [`covers`](Event::covers) every
/// earlier one of its device.
#[derive(Clone)]
pub struct WgpuEvent {
    shared: Arc<Shared>,
    number: u64,
}

impl WgpuEvent {
    pub(super) fn new(shared: &Arc<Shared>, number: u64) -> Self {
        WgpuEvent { shared: Arc::clone(shared), number }
    }

    /// Number of the device that recorded the event.
    pub(super) fn device(&self) -> u64 {
        self.shared.id
    }
}

impl Event for WgpuEvent {
    type Error = WgpuError;

    fn query(&self) -> Result<bool, WgpuError> {
        let flight = &self.shared.flight;
        if flight.ended(self.number) {
            return Ok(true);
        }
        self.shared.progress();
        if flight.ended(self.number) {
            return Ok(true);
        }
        self.shared.alive().map(|()| false)
    }

    fn synchronize(&self) -> Result<(), WgpuError> {
        self.shared.wait_until(|| self.shared.flight.ended(self.number))
    }

    fn covers(&self, earlier: &Self) -> bool {
        Arc::ptr_eq(&self.shared, &earlier.shared) && self.number >= earlier.number
    }

    /// Host memory is only ever touched by the calls that finish downloads; on a lost device none is any more.
    fn is_settled(&self) -> bool {
        let flight = &self.shared.flight;
        if !flight.ended(self.number) {
            self.shared.progress();
        }
        flight.settled(self.number)
    }
}

impl core::fmt::Debug for WgpuEvent {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("WgpuEvent")
            .field("device", &self.shared.id)
            .field("number", &self.number)
            .field("fired", &self.shared.flight.ended(self.number))
            .finish()
    }
}
