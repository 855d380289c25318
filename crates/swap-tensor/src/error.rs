//! Everything that can go wrong, with what, how much and where.

use crate::{DType, DeviceIndex, OpenLease, SlotState};
use allocator_core::AllocError;
use pinned_host::{DeviceError, ErrorKind, HostError};
use std::{path::PathBuf, time::Duration};

/// A backend's own error, kept whole as the source.
pub type BoxedError = Box<dyn std::error::Error + Send + Sync + 'static>;

/// The error of this crate.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SwapError {
    /// A shape whose size overflows or is no whole number of bytes.
    #[error("tensor {name:?}: shape {shape:?} of {dtype} has no size in whole bytes below 2^64")]
    Shape {
        /// The tensor.
        name: String,
        /// Its element type.
        dtype: DType,
        /// Its dimensions.
        shape: Vec<u64>,
    },
    /// Bytes given or asked for that are not exactly the tensor's.
    #[error("tensor {name:?} has {expected} bytes, not {given}")]
    Length {
        /// The tensor.
        name: String,
        /// Its size in bytes.
        expected: u64,
        /// What the caller brought.
        given: u64,
    },
    /// A tensor that the whole device budget could not hold.
    #[error("tensor {name:?} needs {bytes} bytes of device memory, the arena has {arena}")]
    LargerThanArena {
        /// The tensor.
        name: String,
        /// Bytes it needs on the device.
        bytes: u64,
        /// Bytes of the arena.
        arena: u64,
    },
    /// Leases and pins hold so much of the arena that this one does not fit, and none ended in time.
    #[error(
        "no room for {requested} bytes on device {device} within {waited:?}: {leased} of {arena} bytes are leased or pinned, {free} are free{}",
        held_by(holders)
    )]
    DeviceBudget {
        /// The device.
        device: DeviceIndex,
        /// Bytes wanted.
        requested: u64,
        /// Bytes under lease or pin.
        leased: u64,
        /// Free bytes.
        free: u64,
        /// Bytes that tensors may have of the arena.
        arena: u64,
        /// How long it waited.
        waited: Duration,
        /// The leases that have been open for longest.
        holders: Vec<OpenLease>,
    },
    /// The host tier has no room for a copy that must not be dropped.
    #[error("no host room for {requested} bytes: {source}")]
    HostBudget {
        /// Bytes wanted.
        requested: u64,
        /// What the host pool said.
        source: HostError,
    },
    /// Another lease on the tensor did not end in time.
    #[error(
        "tensor {name:?} stayed leased for {waited:?}: {readers} readers, writer: {writer}{}",
        held_by(holders)
    )]
    Leased {
        /// The tensor.
        name: String,
        /// Read leases on it.
        readers: u32,
        /// Whether a write lease is on it.
        writer: bool,
        /// How long this one waited.
        waited: Duration,
        /// The leases on it that have been open for longest.
        holders: Vec<OpenLease>,
    },
    /// No valid copy of the tensor is left: a move or write was cut half-way, a checksum failed, or a device is gone.
    #[error("tensor {name:?} has no valid copy left (device: {device}, host: {host}, disk: {disk})")]
    NoValidCopy {
        /// The tensor.
        name: String,
        /// State of its device copy.
        device: SlotState,
        /// State of its host copy.
        host: SlotState,
        /// State of its copy on disk.
        disk: SlotState,
    },
    /// The tier below host memory has no room for a copy that must not be dropped.
    #[error("no disk room for {requested} bytes: {source}")]
    DiskBudget {
        /// Bytes wanted.
        requested: u64,
        /// What the tier said.
        source: BoxedError,
    },
    /// A read or write of the tier below host memory failed. A source that was being written is as good as before.
    #[error("{operation}: {source}")]
    Disk {
        /// What was being done.
        operation: &'static str,
        /// What the tier said.
        source: BoxedError,
    },
    /// What was read for a tensor is not what was written, twice in a row.
    #[error("tensor {name:?} is damaged on disk: {source}")]
    Corrupt {
        /// The tensor.
        name: String,
        /// What the tier said.
        source: BoxedError,
    },
    /// Work in flight did not end in time. It goes on; nothing is lost.
    #[error("{operation}: not done within {waited:?}")]
    Timeout {
        /// What was waited for.
        operation: &'static str,
        /// How long.
        waited: Duration,
    },
    /// The contents this lease was given turned out bad: the copy or move that made them failed.
    #[error("the device copy of tensor {name:?} is {state}: the copy or move that made it failed")]
    BadCopy {
        /// The tensor.
        name: String,
        /// State of the copy.
        state: SlotState,
    },
    /// Work that nobody can wait for still uses the tensor's device copy: it can be read, not written.
    #[error("the device copy of tensor {name:?} is in use by work whose end the device cannot tell")]
    Stuck {
        /// The tensor.
        name: String,
    },
    /// Two tensors of one name.
    #[error("the pool already has a tensor called {name:?}")]
    DuplicateName {
        /// The name.
        name: String,
    },
    /// A queue of another device than the one the lease is for.
    #[error("tensor {name:?} was asked for on device {device}, on a queue of another one")]
    ForeignQueue {
        /// The tensor.
        name: String,
        /// The device of the lease.
        device: DeviceIndex,
    },
    /// A device that the pool has not.
    #[error("the pool has no device {device}: it has {devices}")]
    NoDevice {
        /// What was asked for.
        device: DeviceIndex,
        /// How many there are, the first being device 0.
        devices: usize,
    },
    /// A device that does not copy from and to the host memory of the pool's first one, which all devices of a pool share.
    #[error("device {device} of the pool does not reach the host memory of its first device")]
    Unreachable {
        /// The device.
        device: DeviceIndex,
    },
    /// A tensor of another pool.
    #[error("tensor {name:?} belongs to another pool")]
    ForeignTensor {
        /// The tensor.
        name: String,
    },
    /// The same tensor twice in one request for leases, at least once for writing.
    #[error("tensor {name:?} is asked for twice at once, and not only for reading")]
    LeasedTwice {
        /// The tensor.
        name: String,
    },
    /// The device or its driver refused or failed.
    #[error("{operation}: {source}")]
    Device {
        /// What was being done.
        operation: &'static str,
        /// The class of the error.
        kind: ErrorKind,
        /// The backend's error.
        source: BoxedError,
    },
    /// Page-locked or pageable host memory could not be had.
    #[error("host memory for {purpose}: {source}")]
    Host {
        /// What it was for.
        purpose: &'static str,
        /// The locker's or pool's error.
        source: BoxedError,
    },
    /// The arena refused; its books and the pool's disagree, or a configuration is out of range.
    #[error("arena: {0}")]
    Arena(#[from] AllocError),
    /// A file could not be opened or read.
    #[error("{}: cannot {operation}{}: {source}", path.display(), place(*offset))]
    File {
        /// The file.
        path: PathBuf,
        /// What was being done.
        operation: &'static str,
        /// Where in the file.
        offset: u64,
        /// The system's error.
        source: std::io::Error,
    },
    /// A file that is no safetensors file, or a damaged one.
    #[error("{}: not a valid safetensors file: {reason}", path.display())]
    Format {
        /// The file.
        path: PathBuf,
        /// The rule it breaks.
        reason: String,
    },
    /// An attached file is no longer the one that was attached.
    #[error("{}: the file changed while attached ({expected} bytes then, {len} now)", path.display())]
    FileChanged {
        /// The file.
        path: PathBuf,
        /// Its length when attached.
        expected: u64,
        /// Its length now.
        len: u64,
    },
    /// A backend that is not compiled in, or unknown.
    #[error("no backend {name:?}; compiled in: {available}")]
    NoBackend {
        /// What was asked for.
        name: String,
        /// What there is.
        available: String,
    },
    /// The memory tracker has no number left for a device, a module or a name.
    #[cfg(feature = "track")]
    #[error("memory tracker: {0}")]
    Track(#[from] mem_tracker::TrackError),
    /// A configuration that cannot work.
    #[error("{what}: {why}")]
    Config {
        /// The setting.
        what: &'static str,
        /// What is wrong with it.
        why: String,
    },
}

impl SwapError {
    /// A backend's error, met while doing `operation`.
    pub(crate) fn device<E: DeviceError>(operation: &'static str, source: E) -> Self {
        SwapError::Device { operation, kind: source.kind(), source: Box::new(source) }
    }

    /// Whether the device is gone.
    pub fn is_device_lost(&self) -> bool {
        matches!(self, SwapError::Device { kind: ErrorKind::DeviceLost, .. })
    }
}

/// Who has what was wanted, if anybody is known to.
fn held_by(holders: &[OpenLease]) -> String {
    let names: Vec<String> = holders.iter().map(OpenLease::to_string).collect();
    if names.is_empty() { String::new() } else { format!("; leased longest: {}", names.join(", ")) }
}

/// Where in a file, if not at its start.
fn place(offset: u64) -> String {
    if offset == 0 { String::new() } else { format!(" at byte {offset}") }
}
