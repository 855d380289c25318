//! Vulkan devices for the arena and its transfers: through ash, or through wgpu.

#[cfg(feature = "vulkan")]
mod native;
#[cfg(feature = "wgpu")]
mod webgpu;

/// The version whose handles this crate takes and gives.
#[cfg(feature = "vulkan")]
pub use ash;
#[cfg(feature = "vulkan")]
pub use native::{
    Counters, DeviceInfo, DeviceKind, Enabled, HostMemory, ImportProblem, ImportRefused, NativeDevice,
    NativeQueue, Select, SubmitLock, ValidationLog, VulkanBuffer, VulkanDevice, VulkanError, VulkanEvent,
    VulkanLocker, VulkanOptions, VulkanQueue, VulkanRegion, VulkanView,
};
