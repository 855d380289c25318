//! Spans and events through `tracing`.

use super::{Kind, Reason, Step};
use crate::{OpenLease, SwapError};
use tracing::{debug, debug_span, span::EnteredSpan, warn};

/// A span that ends when this is dropped.
#[must_use]
pub(crate) struct Entered {
    _span: EnteredSpan,
}

pub(super) fn enter(step: Step, tensor: &str, bytes: u64) -> Entered {
    let span = match step {
        Step::Lease => debug_span!(target: TARGET, "lease", tensor, bytes, tier = "device"),
        Step::SwapIn => debug_span!(target: TARGET, "swap_in", tensor, bytes, tier = "device"),
        Step::WriteBack => debug_span!(target: TARGET, "write_back", tensor, bytes, tier = "host"),
        Step::Move => debug_span!(target: TARGET, "move", bytes, tier = "device"),
        Step::Io(Kind::DiskRead) => debug_span!(target: TARGET, "disk_read", tensor, bytes, tier = "disk"),
        Step::Io(Kind::DiskWrite) => debug_span!(target: TARGET, "disk_write", tensor, bytes, tier = "disk"),
        Step::Io(_) => debug_span!(target: TARGET, "file_read", tensor, bytes, tier = "file"),
    };
    Entered { _span: span.entered() }
}

pub(super) fn failed(kind: Kind, tensor: Option<&str>, error: &SwapError) {
    warn!(target: TARGET, tensor, tier = kind.tier(), error = %error, "{} failed", kind.title());
}

pub(super) fn evicted(tensor: &str, bytes: u64, reason: Reason) {
    debug!(target: TARGET, tensor, bytes, tier = "device", reason = reason.as_str(), "evicted");
}

const TARGET: &str = "swap_tensor";

pub(super) fn leaked(open: &[OpenLease]) {
    for lease in open {
        let (tensor, place) = (lease.tensor.name(), lease.taken_at);
        tracing::warn!(tensor, bytes = lease.tensor.bytes(), %place, "a lease outlives its pool's handles");
    }
}
