//! Vulkan through ash.

mod buffer;
mod choose;
mod context;
mod counters;
mod device;
mod error;
mod event;
mod host;
mod instance;
mod memory;
mod options;
mod queue;
mod record;
mod sparse;
mod validation;

pub use buffer::{VulkanBuffer, VulkanView};
pub use choose::{DeviceInfo, DeviceKind, Select};
pub use counters::Counters;
pub use device::{VulkanDevice, VulkanHandle};
pub use error::{ImportProblem, VulkanError};
pub use event::VulkanEvent;
pub use host::{HostMemory, ImportRefused, VulkanLocker, VulkanRegion};
pub use options::{Enabled, NativeDevice, NativeQueue, SubmitLock, VulkanOptions};
pub use queue::VulkanQueue;
pub use validation::ValidationLog;
