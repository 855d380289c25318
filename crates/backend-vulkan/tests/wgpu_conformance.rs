//! The suites of the two floors below on wgpu: over a Vulkan driver with its validation layer, where any message is a
//! failure, and over wgpu's noop backend, which needs no driver.
//!
//! `wgpu` is as devices are opened by default, with arenas that the host reaches where the device has no memory of its
//! own; `wgpu_staged` copies everything through staging; `wgpu_scratch` makes moves with wgpu's own copies as well.

mod wgpu_support;

/// The suites over devices that `$device` opens; where it gives none, a test has said so and passes.
macro_rules! suites {
    ($name:ident, $device:expr) => {
        mod $name {
            use crate::wgpu_support::{self, Buffers, Wgpu};
            use backend_vulkan::WgpuDevice;

            fn device() -> Option<WgpuDevice> {
                let open: fn() -> Option<WgpuDevice> = $device;
                open()
            }

            fn harness() -> Option<Wgpu> {
                device().map(|_| Wgpu(|| device().unwrap()))
            }

            mod device_buffer {
                allocator_core::device_buffer_suite!(match super::device() {
                    Some(device) => super::Buffers(device),
                    None => return,
                });
            }

            mod arena {
                allocator_core::arena_suite!(match super::device() {
                    Some(device) => super::Buffers(device),
                    None => return,
                });
            }

            pinned_host::transfer_suite!(match harness() {
                Some(harness) => harness,
                None => return,
            });
            pinned_host::queue_suite!(match harness() {
                Some(harness) => harness,
                None => return,
            });
            pinned_host::hazard_suite!(match harness() {
                Some(harness) => harness,
                None => return,
            });
            pinned_host::staging_suite!(match harness() {
                Some(harness) => harness,
                None => return,
            });
        }
    };
}

suites!(wgpu, || wgpu_support::vulkan(wgpu_support::direct()));
suites!(wgpu_staged, || wgpu_support::vulkan(wgpu_support::small(backend_vulkan::WgpuMoves::Raw)));
suites!(wgpu_scratch, || wgpu_support::vulkan(wgpu_support::small(backend_vulkan::WgpuMoves::Scratch)));
suites!(wgpu_noop, || Some(wgpu_support::noop(wgpu_support::small(backend_vulkan::WgpuMoves::Auto))));
