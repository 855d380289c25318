//! What can go wrong on a Vulkan device.

use allocator_core::RangeError;
use ash::vk;
use pinned_host::{DeviceError, ErrorKind, HostError};

/// An error of the Vulkan backend. Sizes are bytes.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum VulkanError {
    /// The Vulkan loader is not installed.
    #[error(
        "no Vulkan loader on this machine: {source}; install it and a driver (Debian, Ubuntu: libvulkan1 mesa-vulkan-drivers)"
    )]
    NoLoader {
        /// What the dynamic linker said.
        #[source]
        source: ash::LoadingError,
    },
    /// The loader is there, but no driver that it could load.
    #[error(
        "the Vulkan loader found no driver it can use ({result}); install one (Debian, Ubuntu: mesa-vulkan-drivers)"
    )]
    NoDriver {
        /// What the loader said.
        result: vk::Result,
    },
    /// No device is the one asked for.
    #[error("no Vulkan device {wanted}; there {}", list(found))]
    NoDevice {
        /// What was asked for.
        wanted: String,
        /// Names of the devices there are, in the order of their indices.
        found: Vec<String>,
    },
    /// A layer that was asked for is not installed.
    #[error("the layer {name} is not installed (Debian, Ubuntu: vulkan-validationlayers)")]
    NoLayer {
        /// Its name.
        name: &'static str,
    },
    /// The device, or its queue, cannot do something this needs.
    #[error("{device} has no {what}")]
    Unsupported {
        /// Name of the device.
        device: String,
        /// The feature, extension or kind of memory.
        what: &'static str,
    },
    /// A limit of the device is too small for this.
    #[error("{asked} bytes exceed the device's {limit} of {allowed} bytes")]
    Limit {
        /// Vulkan's name of the limit.
        limit: &'static str,
        /// What was asked.
        asked: u64,
        /// What the device allows.
        allowed: u64,
    },
    /// The offset of a range is off the alignment a binding needs.
    #[error("offset {offset} is not a multiple of the device's {limit}, {align} bytes")]
    Misaligned {
        /// Vulkan's name of the limit.
        limit: &'static str,
        /// Offset in the buffer.
        offset: u64,
        /// What it must be a multiple of.
        align: u64,
    },
    /// The memory budget (`VK_EXT_memory_budget`) has no room for this.
    #[error(
        "{asked} bytes exceed what heap {heap} has left: {used} of its budget of {budget} bytes are in use"
    )]
    Budget {
        /// What was asked.
        asked: u64,
        /// Index of the heap.
        heap: u32,
        /// What the process may use of it now.
        budget: u64,
        /// What it uses already.
        used: u64,
    },
    /// The driver gave no memory.
    #[error("no memory for {what} of {bytes} bytes: {result}")]
    Memory {
        /// What it was for.
        what: &'static str,
        /// What was asked.
        bytes: u64,
        /// What the driver said.
        result: vk::Result,
    },
    /// Host memory that the device cannot import.
    #[error("cannot import {bytes} bytes of host memory at {address:#x}: {why}")]
    Import {
        /// First byte.
        address: usize,
        /// Length.
        bytes: usize,
        /// Why not.
        why: ImportProblem,
    },
    /// Host memory that cannot be had from the operating system.
    #[error("no host memory to import: {0}")]
    Host(#[from] HostError),
    /// A buffer or region of no bytes.
    #[error("a length of zero bytes was asked for")]
    ZeroSize,
    /// A range that the buffer cannot serve; nothing was touched.
    #[error("the buffer cannot serve it: {0}")]
    Range(#[from] RangeError),
    /// A remap that breaks a rule; nothing was changed.
    #[error("cannot remap {len} bytes from {src} to {dst}: {why}")]
    Remap {
        /// Offset of the source.
        src: u64,
        /// Length.
        len: u64,
        /// Offset of the destination.
        dst: u64,
        /// The rule.
        why: &'static str,
    },
    /// Something that another device made.
    #[error("the {what} belongs to device {theirs}, not to device {ours}")]
    Foreign {
        /// `event`, `buffer` or `slice`.
        what: &'static str,
        /// Number of the device that made it.
        theirs: u64,
        /// Number of the device it was given to.
        ours: u64,
    },
    /// The device is lost, with everything on it.
    #[error("the Vulkan device was lost")]
    DeviceLost,
    /// The driver refused a call.
    #[error("{call} failed: {result}")]
    Driver {
        /// The function.
        call: &'static str,
        /// What it returned.
        result: vk::Result,
    },
}

/// Why host memory could not be imported.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ImportProblem {
    /// The device has no `VK_EXT_external_memory_host`, or it is not enabled.
    #[error("the device has no VK_EXT_external_memory_host")]
    NoExtension,
    /// Start or length are off `minImportedHostPointerAlignment`.
    #[error("start and length must be multiples of minImportedHostPointerAlignment, {align} bytes")]
    Misaligned {
        /// What they must be multiples of, in bytes.
        align: u64,
    },
    /// It is memory of a Vulkan device, not the host's own.
    #[error("it is memory of a Vulkan device already")]
    NotTheHosts,
    /// No memory type can hold this pointer and a buffer.
    #[error("no memory type of the device fits")]
    NoMemoryType,
    /// The driver refused.
    #[error("the driver refused ({0})")]
    Refused(vk::Result),
}

impl VulkanError {
    /// The error of a call, with the two results that have a meaning of their own told apart.
    pub(crate) fn call(call: &'static str) -> impl Fn(vk::Result) -> VulkanError {
        move |result| match result {
            vk::Result::ERROR_DEVICE_LOST => VulkanError::DeviceLost,
            result => VulkanError::Driver { call, result },
        }
    }
}

impl DeviceError for VulkanError {
    fn kind(&self) -> ErrorKind {
        match self {
            VulkanError::Limit { limit: STORAGE_RANGE, .. } => ErrorKind::InvalidUse,
            VulkanError::Budget { .. }
            | VulkanError::Memory { .. }
            | VulkanError::Limit { .. }
            | VulkanError::Host(_) => ErrorKind::OutOfMemory,
            VulkanError::Driver { result, .. }
                if matches!(
                    *result,
                    vk::Result::ERROR_OUT_OF_DEVICE_MEMORY | vk::Result::ERROR_OUT_OF_HOST_MEMORY
                ) =>
            {
                ErrorKind::OutOfMemory
            }
            VulkanError::DeviceLost => ErrorKind::DeviceLost,
            VulkanError::Range(_)
            | VulkanError::Remap { .. }
            | VulkanError::Misaligned { .. }
            | VulkanError::ZeroSize
            | VulkanError::Foreign { .. }
            | VulkanError::NoDevice { .. } => ErrorKind::InvalidUse,
            _ => ErrorKind::Failed,
        }
    }
}

/// The limit that concerns a view and not memory.
pub(super) const STORAGE_RANGE: &str = "maxStorageBufferRange";

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
