//! The result of a run, for people and for programs.

use crate::output::visible;
use crate::size::Size;
use serde::Serialize;
use serde_json::Value;
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
    /// Work pretended under each lease, in milliseconds.
    pub(crate) compute_ms: f64,
    /// The most the backend had allocated on the device at once, its scratch included.
    pub(crate) peak_device_bytes: u64,
    /// What the backend holds on the device beside the arena; said to people only.
    #[serde(skip)]
    pub(crate) scratch_bytes: u64,
    /// The most page-locked host memory at once.
    pub(crate) peak_pinned_bytes: u64,
    /// Host memory that is not locked, of the host tier and of staging; said to people only.
    #[serde(skip)]
    pub(crate) pageable_bytes: u64,
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
    /// Who left first.
    pub(crate) policy: String,
    /// Whether a recorded order was replayed.
    pub(crate) schedule: bool,
    /// How the disk tier is read and written; `null` without one.
    pub(crate) disk: Option<String>,
    /// Host memory or device to disk.
    pub(crate) disk_written_bytes: u64,
    /// Disk to device.
    pub(crate) disk_read_bytes: u64,
    /// Checks that found other bytes than expected.
    pub(crate) mismatches: u64,
    /// The walks.
    pub(crate) seconds: f64,
    /// Time blocked in leases.
    pub(crate) stall_seconds: f64,
    /// The share of `seconds` that was.
    pub(crate) stall: f64,
    /// Time during which tensors were on their way to the device, reads of the file included, over the leases; milliseconds.
    pub(crate) fill_ms_per_lease: f64,
    /// Time during which tensors were on their way from the device, over the leases; milliseconds.
    pub(crate) write_back_ms_per_lease: f64,
    /// Bytes up and down over the union of the times from enqueue to event.
    pub(crate) transfer_gb_per_s: f64,
    /// A plain copy of the same block sizes, measured between the transfers; median of 5.
    pub(crate) memcpy_gb_per_s: f64,
    /// The ratio of the two above.
    pub(crate) transfer_to_memcpy: f64,
    /// Who held which bytes, by tier; absent unless it was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) memory_report: Option<Value>,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let percent = |part: u64, whole: u64| 100.0 * part as f64 / whole as f64;
        writeln!(f, "model       {}", visible(&at_home(&self.model)))?;
        writeln!(f, "            {} tensors, {}", self.tensors, Size(self.model_bytes))?;
        write!(f, "device      {}, arena {}", self.backend, Size(self.device_bytes))?;
        if self.model_bytes > 0 {
            write!(f, " ({:.1} % of the model)", percent(self.device_bytes, self.model_bytes))?;
        }
        let (peak, scratch) = (Size(self.peak_device_bytes), Size(self.scratch_bytes));
        writeln!(f, ", peak {peak} with {scratch} of scratch")?;
        let (locked, pageable) = (Size(self.peak_pinned_bytes), Size(self.pageable_bytes));
        writeln!(f, "host        {locked} pinned at the peak, {pageable} pageable")?;
        writeln!(
            f,
            "traffic     {} up, {} down, {} moved inside the arena",
            Size(self.uploaded_bytes),
            Size(self.downloaded_bytes),
            Size(self.moved_bytes)
        )?;
        if let Some(path) = &self.disk {
            let (written, read) = (Size(self.disk_written_bytes), Size(self.disk_read_bytes));
            writeln!(f, "disk        {written} written, {read} read; {}", visible(path))?;
        }
        write!(f, "leases      {}", self.leases)?;
        if self.leases > 0 {
            write!(f, ", {:.1} % found their tensor on the device", percent(self.hits, self.leases))?;
        }
        writeln!(f, ", {} evictions", self.evictions)?;
        if self.uploaded_bytes + self.downloaded_bytes > 0 {
            let (rate, ratio) = (self.transfer_gb_per_s, self.transfer_to_memcpy);
            writeln!(
                f,
                "speed       {rate:.2} GB/s, {ratio:.2} of a plain memcpy ({:.2} GB/s)",
                self.memcpy_gb_per_s
            )?;
        } else {
            writeln!(f, "speed       nothing was transferred")?;
        }
        let (seconds, passes, stalled) = (self.seconds, self.passes, self.stall_seconds);
        write!(f, "time        {seconds:.2} s for {passes} passes, {stalled:.2} s ")?;
        if self.leases > 0 {
            write!(f, "({:.1} %) ", 100.0 * self.stall)?;
        }
        writeln!(f, "of it waiting in leases")?;
        if self.leases > 0 {
            let (fill, back) = (self.fill_ms_per_lease, self.write_back_ms_per_lease);
            let work = self.compute_ms;
            writeln!(f, "per lease   {fill:.3} ms of fill, {back:.3} ms of write-back, {work} ms of work")?;
        }
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
