//! The suites of the two floors below on wgpu: over a Vulkan driver with its validation layer, where any message is a
//! failure, and over wgpu's noop backend, which needs no driver.
//!
//! `wgpu` is as devices are opened by default, with arenas that the host reaches where the device has no memory of its
//! own; `wgpu_staged` copies everything through staging; `wgpu_scratch` makes moves with wgpu's own copies as well.

mod wgpu_support;

/// The suites over devices that `$device` opens, that of arenas, which reads after every step, over those of `$many`;
/// where there are none, a test has said so and passes.
macro_rules! suites {
    ($name:ident, $device:expr, $many:expr) => {
        mod $name {
            #[allow(unused_imports, reason = "each opens its devices in its own way")]
            use crate::wgpu_support::{Buffers, Wgpu, direct, noop, small, vulkan, vulkan_without_layer};
            #[allow(unused_imports, reason = "as above")]
            use backend_vulkan::{WgpuDevice, WgpuMoves::*};

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
                use super::*;

                fn device() -> Option<WgpuDevice> {
                    let open: fn() -> Option<WgpuDevice> = $many;
                    open()
                }

                allocator_core::arena_suite!(match device() {
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
            pinned_host::staged_suite!(match harness() {
                Some(harness) => harness,
                None => return,
            });
            pinned_host::locker_suite!(match harness() {
                Some(harness) => harness,
                None => return,
            });
        }
    };
}

suites!(wgpu, || vulkan(direct()), || vulkan(direct()));
suites!(wgpu_staged, || vulkan(small(Raw)), || vulkan_without_layer(small(Raw)));
suites!(wgpu_scratch, || vulkan(small(Scratch)), || vulkan_without_layer(small(Scratch)));
suites!(wgpu_noop, || Some(noop(small(Auto))), || Some(noop(small(Auto))));
