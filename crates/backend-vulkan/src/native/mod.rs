//! Vulkan through ash.
