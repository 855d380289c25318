//! Vulkan devices for the arena and its transfers: through ash, or through wgpu.
#![cfg_attr(feature = "wgpu", doc = include_str!("webgpu/about.md"))]

#[cfg(feature = "vulkan")]
mod native;
#[cfg(feature = "wgpu")]
mod webgpu;

#[cfg(feature = "wgpu")]
pub use webgpu::{
    WgpuAdapter, WgpuBuffer, WgpuCounters, WgpuDevice, WgpuError, WgpuEvent, WgpuMoves, WgpuOptions,
    WgpuQueue, WgpuSelect, WgpuView, wgpu_adapters,
};

/// wgpu itself, in the version this crate speaks.
#[cfg(feature = "wgpu")]
pub use wgpu;
