//! Vulkan devices for the arena and its transfers: through ash, or through wgpu.
//!
//! | feature | type | for |
//! |---|---|---|
//! | `vulkan` | [`VulkanDevice`] | programs of their own, or that use Vulkan themselves: every queue, host memory without a second copy, pages exchanged instead of copied |
//! | `wgpu` | [`WgpuDevice`] | programs that use wgpu: over their `wgpu::Device` and `Queue`, on whatever backend wgpu runs |
//!
//! Neither is on by default, and neither needs the other. The Vulkan loader is opened when a device is: without it, or
//! without a driver, everything builds and starts, and opening says what is missing.
//!
//! # Through ash
//! * **Queues.** A lane for each direction: on copy engines where the hardware has them, on spare queues where not, and
//!   else on the queue there is. Each [`VulkanQueue`] has a timeline semaphore; an event is a point on it. Operations are
//!   collected and submitted together when an event is recorded. A caller's device is taken by
//!   [`VulkanOptions::adopt`], whose queues are used under the caller's lock alone.
//! * **Memory.** Buffers are device-local. Their size is checked against `maxBufferSize`, `maxMemoryAllocationSize` and
//!   the budget of `VK_EXT_memory_budget`, a view against `maxStorageBufferRange` and
//!   `minStorageBufferOffsetAlignment`; the error names the limit. Host memory is the driver's, or the caller's,
//!   imported ([`VulkanLocker::import`]). A software device's memory is taken from the operating system, on huge pages.
//! * **Moves.** Vulkan forbids overlap within a copy. A move by less than its length is made in pieces as long as the
//!   distance, or by way of a scratch buffer, whichever costs less; between copies that touch the same bytes stands a
//!   barrier.
//! * **Families.** Buffers that queues of several families use are shared by them (`VK_SHARING_MODE_CONCURRENT`), so no
//!   range is ever handed from one family to another. For buffers this costs nothing that is known of.
//! * **Pages.** With [`VulkanOptions::sparse`], whole pages change places by `vkQueueBindSparse` (`Remap`).
//!
//! # What was proven, and where
//! | | on Mesa's software driver, under the validation layer | unproven on hardware |
//! |---|---|---|
//! | contracts | every conformance suite, on an opened device and on a caller's | |
//! | failure of each driver call, a lost device | by functions put between library and driver: typed, nothing leaked | how a real loss looks |
//! | memory that is not coherent | the ranges flushed and invalidated, on memory that claims not to be coherent | that the ranges suffice |
//! | several queues | that device has one; the order of work is proven on the simulated device of `backend-cpu` | copy engines, queues of several families |
//! | cost of a barrier | measured (`compaction_rate`) | the default for hardware is the same figure, and a guess |
//!
//! The validation layer of Debian 12 (1.3.239) calls any copy within one allocation of a *sparse* buffer an overlap; the
//! tests leave out this one message for sparse buffers, whose copies are those of dense ones.

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
