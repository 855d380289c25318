//! What can go wrong on a wgpu device.

use allocator_core::RangeError;
use pinned_host::{DeviceError, ErrorKind};

/// An error of the wgpu backend. Sizes are bytes.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WgpuError {
    /// No adapter is the one asked for.
    #[error("no wgpu adapter {wanted} on {backends}; there {}{HINT}", list(found))]
    NoAdapter {
        /// What was asked for.
        wanted: String,
        /// wgpu's backends that were looked at: those asked for of those compiled in.
        backends: String,
        /// Names of the adapters there are, in the order of their indices.
        found: Vec<String>,
    },
    /// The adapter gave no device.
    #[error("the adapter `{adapter}` gave no device: {source}")]
    NoDevice {
        /// Its name.
        adapter: String,
        /// What wgpu said.
        #[source]
        source: wgpu::RequestDeviceError,
    },
    /// A limit of the device is too small for this.
    #[error("{asked} bytes exceed the device's {limit} of {allowed} bytes")]
    Limit {
        /// wgpu's name of the limit.
        limit: &'static str,
        /// What was asked.
        asked: u64,
        /// What the device was requested with.
        allowed: u64,
    },
    /// The offset of a binding is off the alignment the device asks for.
    #[error("a binding at offset {offset} is not at a multiple of the device's {limit}, {align} bytes")]
    Misaligned {
        /// wgpu's name of the limit.
        limit: &'static str,
        /// Offset of the binding in the buffer.
        offset: u64,
        /// What it must be a multiple of.
        align: u64,
    },
    /// A binding of no bytes, which wgpu does not know.
    #[error("a binding at offset {offset} has no bytes")]
    EmptyBinding {
        /// Offset of the binding in the buffer.
        offset: u64,
    },
    /// A range that the buffer cannot serve; nothing was touched.
    #[error("the buffer cannot serve it: {0}")]
    Range(#[from] RangeError),
    /// Something that another device made.
    #[error("the {what} belongs to device {theirs}, not to device {ours}")]
    Foreign {
        /// `event` or `buffer`.
        what: &'static str,
        /// Number of the device that made it.
        theirs: u64,
        /// Number of the device it was given to.
        ours: u64,
    },
    /// A setting that cannot work.
    #[error("{setting} of {given} bytes: {rule}")]
    Setting {
        /// Its name in [`WgpuOptions`](crate::WgpuOptions).
        setting: &'static str,
        /// What was given.
        given: u64,
        /// What it must be.
        rule: &'static str,
    },
    /// The device gave no memory.
    #[error("no device memory for {what} of {bytes} bytes: {source}")]
    Memory {
        /// What it was for.
        what: &'static str,
        /// What was asked.
        bytes: u64,
        /// What wgpu said.
        #[source]
        source: wgpu::Error,
    },
    /// wgpu refused an operation; nothing of it was submitted.
    #[error("wgpu refused {operation}: {source}")]
    Refused {
        /// What was to be done.
        operation: &'static str,
        /// What wgpu said.
        #[source]
        source: wgpu::Error,
    },
    /// A call that submits work, from inside a callback that runs while this device submits.
    #[error("a callback that wgpu runs inside a submission of this device cannot submit to it")]
    InsideCallback,
    /// The device is lost, with everything on it.
    #[error("the wgpu device is lost: {reason}")]
    DeviceLost {
        /// How it showed.
        reason: &'static str,
    },
}

impl DeviceError for WgpuError {
    fn kind(&self) -> ErrorKind {
        match self {
            WgpuError::Memory { .. } | WgpuError::Limit { limit: "max_buffer_size", .. } => {
                ErrorKind::OutOfMemory
            }
            WgpuError::DeviceLost { .. } => ErrorKind::DeviceLost,
            WgpuError::NoAdapter { .. }
            | WgpuError::Limit { .. }
            | WgpuError::Misaligned { .. }
            | WgpuError::EmptyBinding { .. }
            | WgpuError::Range(_)
            | WgpuError::Foreign { .. }
            | WgpuError::Setting { .. }
            | WgpuError::InsideCallback => ErrorKind::InvalidUse,
            WgpuError::NoDevice { .. } | WgpuError::Refused { .. } => ErrorKind::Failed,
        }
    }
}

fn list(found: &[String]) -> String {
    match found {
        [] => "is none".to_owned(),
        [one] => format!("is 0: {one}"),
        all => {
            let each: Vec<_> =
                all.iter().enumerate().map(|(index, name)| format!("{index}: {name}")).collect();
            format!("are {}", each.join(", "))
        }
    }
}

/// What helps where there is no adapter.
const HINT: &str = if cfg!(target_os = "linux") {
    " (a driver is a package; one in software, on Debian and Ubuntu: mesa-vulkan-drivers)"
} else {
    ""
};
