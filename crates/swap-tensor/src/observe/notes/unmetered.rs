//! The face of the metrics without them: nothing is kept, and nothing happens.

use super::{Kind, Levels, Reason};
use crate::DeviceIndex;
use std::{sync::Arc, time::Duration};

/// Something that would count while it lasts.
#[must_use]
pub(crate) struct Counted;

impl Counted {
    pub(super) fn none() -> Self {
        Counted
    }
}

pub(crate) struct Metered;

impl Metered {
    pub(super) fn new(_: &Arc<str>, _: Option<DeviceIndex>, _: Levels) -> Self {
        Metered
    }

    pub(super) fn enqueued(&self, _: Kind, _: u64, _: u64) {}

    pub(super) fn flying(&self, _: Kind) -> Counted {
        Counted
    }

    pub(super) fn took(&self, _: Kind, _: Duration) {}

    pub(super) fn failed(&self, _: Kind) {}

    pub(super) fn leased(&self, _: bool) {}

    pub(super) fn stalled(&self, _: Duration) {}

    pub(super) fn evicted(&self, _: u64, _: Reason) {}

    pub(super) fn prefetched(&self) {}

    pub(super) fn wished(&self) -> Counted {
        Counted
    }

    pub(super) fn levels(&self, _: Levels) {}
}
