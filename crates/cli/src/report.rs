//! The result of a run, for people and for programs.

use crate::size::Size;
use serde::Serialize;
use std::fmt;

/// What a run did, and how fast. Sizes in bytes, times in seconds, rates in 10^9 bytes per second.
///
/// Checking reads and pattern uploads count in none of the figures.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Report {
    /// Path of the model file.
    pub(crate) model: String,
    /// Number of tensors.
    pub(crate) tensors: usize,
    pub(crate) model_bytes: u64,
    pub(crate) backend: String,
    /// Size of the arena.
    pub(crate) device_bytes: u64,
    pub(crate) passes: u32,
    /// The most the backend had allocated on the device at once, its scratch included.
    pub(crate) peak_device_bytes: u64,
    /// What the backend holds on the device beside the arena; said to people only.
    #[serde(skip)]
    pub(crate) scratch_bytes: u64,
    /// The most page-locked host memory at once.
    pub(crate) peak_pinned_bytes: u64,
    /// Host to device.
    pub(crate) uploaded_bytes: u64,
    /// Device to host.
    pub(crate) downloaded_bytes: u64,
    /// Copied inside the arena to make room.
    pub(crate) moved_bytes: u64,
    /// Leases taken.
    pub(crate) leases: u64,
    /// Leases that found their tensor valid on the device.
    pub(crate) hits: u64,
    /// Tensors that left the device to make room.
    pub(crate) evictions: u64,
    /// Checks that found other bytes than expected.
    pub(crate) mismatches: u64,
    /// The walks.
    pub(crate) seconds: f64,
    /// Time blocked in leases.
    pub(crate) stall_seconds: f64,
    /// Bytes up and down over the union of the times from enqueue to event.
    pub(crate) transfer_gb_per_s: f64,
    /// A plain copy of the same block sizes, measured between the transfers; median of 5.
    pub(crate) memcpy_gb_per_s: f64,
    /// The ratio of the two above.
    pub(crate) transfer_to_memcpy: f64,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let percent = |part: u64, whole: u64| 100.0 * part as f64 / whole.max(1) as f64;
        writeln!(f, "model       {}", at_home(&self.model))?;
        writeln!(f, "            {} tensors, {}", self.tensors, Size(self.model_bytes))?;
        writeln!(
            f,
            "device      {}, arena {} ({:.1} % of the model), peak {} with {} of scratch",
            self.backend,
            Size(self.device_bytes),
            percent(self.device_bytes, self.model_bytes),
            Size(self.peak_device_bytes),
            Size(self.scratch_bytes)
        )?;
        writeln!(f, "pinned      {} at the peak", Size(self.peak_pinned_bytes))?;
        writeln!(
            f,
            "traffic     {} up, {} down, {} moved inside the arena",
            Size(self.uploaded_bytes),
            Size(self.downloaded_bytes),
            Size(self.moved_bytes)
        )?;
        writeln!(
            f,
            "leases      {}, {:.1} % found their tensor on the device, {} evictions",
            self.leases,
            percent(self.hits, self.leases),
            self.evictions
        )?;
        writeln!(
            f,
            "speed       {:.2} GB/s, {:.2} of a plain memcpy ({:.2} GB/s)",
            self.transfer_gb_per_s, self.transfer_to_memcpy, self.memcpy_gb_per_s
        )?;
        writeln!(
            f,
            "time        {:.2} s for {} passes, {:.2} s of it waiting in leases",
            self.seconds, self.passes, self.stall_seconds
        )?;
        write!(f, "mismatches  {}", self.mismatches)
    }
}

/// A path below the home directory as people write it.
fn at_home(path: &str) -> String {
    let home = std::env::var("HOME").unwrap_or_default();
    match path.strip_prefix(&home) {
        Some(rest) if home.len() > 1 && rest.starts_with('/') => format!("~{rest}"),
        _ => path.to_owned(),
    }
}
