//! Vulkan devices for the arena and its transfers: through ash, or through wgpu.

#[cfg(feature = "vulkan")]
mod native;
#[cfg(feature = "wgpu")]
mod webgpu;
