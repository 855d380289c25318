//! Vulkan, Metal and the rest through wgpu, over the user's device.

mod adapters;
mod buffer;
mod copy;
mod device;
mod direct;
mod encode;
mod error;
mod event;
mod flight;
mod moves;
mod native;
mod options;
mod order;
mod plain;
mod queue;
mod raw;
#[cfg(any(windows, target_os = "linux", target_os = "android", target_os = "freebsd"))]
mod raw_memory;
mod shared;
mod staging;

pub use adapters::{WgpuAdapter, WgpuSelect, wgpu_adapters};
pub use buffer::{WgpuBuffer, WgpuView};
pub use device::{WgpuCounters, WgpuDevice};
pub use error::WgpuError;
pub use event::WgpuEvent;
pub use options::{WgpuMoves, WgpuOptions};
pub use queue::WgpuQueue;
