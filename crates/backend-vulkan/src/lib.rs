//! Vulkan devices for the arena and its transfers: through ash, or through wgpu.
//!
//! | feature | type | for |
//! |---|---|---|
//! | `vulkan` | `VulkanDevice` | programs of their own, or that use Vulkan themselves: every queue, host memory without a second copy, pages exchanged instead of copied |
//! | `wgpu` | `WgpuDevice` | programs that use wgpu: over their `wgpu::Device` and `Queue`, on whatever backend wgpu runs |
//!
//! Neither is on by default, and neither needs the other. The Vulkan loader is opened when a device is: without it, or
//! without a driver, everything builds and starts, and opening says what is missing.
#![cfg_attr(feature = "vulkan", doc = include_str!("native/about.md"))]
#![cfg_attr(feature = "wgpu", doc = include_str!("webgpu/about.md"))]

#[cfg(feature = "vulkan")]
mod native;
#[cfg(feature = "wgpu")]
mod webgpu;

/// ash itself, in the version whose handles this crate takes and gives.
#[cfg(feature = "vulkan")]
pub use ash;
#[cfg(feature = "vulkan")]
pub use native::{
    Counters, DeviceInfo, DeviceKind, Enabled, HostMemory, ImportProblem, ImportRefused, NativeDevice,
    NativeQueue, Select, SubmitLock, ValidationLog, VulkanBuffer, VulkanDevice, VulkanError, VulkanEvent,
    VulkanHandle, VulkanLocker, VulkanOptions, VulkanQueue, VulkanRegion, VulkanView,
};
#[cfg(feature = "wgpu")]
pub use webgpu::{
    WgpuAdapter, WgpuBuffer, WgpuCounters, WgpuDevice, WgpuError, WgpuEvent, WgpuMoves, WgpuOptions,
    WgpuQueue, WgpuSelect, WgpuView, wgpu_adapters,
};
/// wgpu itself, in the version this crate speaks.
#[cfg(feature = "wgpu")]
pub use wgpu;
