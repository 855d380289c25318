//! The ear that the other tests rely on hears: what Vulkan forbids and what lacks a barrier is reported, in a process
//! of its own so that nobody else's test fails over it.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on should stop where it stands")]
#![cfg(any(windows, target_os = "linux", target_os = "android", target_os = "freebsd"))]

mod wgpu_support;

use ash::vk;
use backend_vulkan::{WgpuMoves, wgpu};
use wgpu::hal::api::Vulkan;
use wgpu_support::{messages, no_message, small, vulkan};

#[test]
fn the_layer_is_heard() {
    let Some(device) = vulkan(small(WgpuMoves::Raw)) else { return };
    let (native, queue) = device.native();
    let buffer = native.create_buffer(&wgpu::BufferDescriptor {
        label: None,
        size: 4096,
        usage: wgpu::BufferUsages::COPY_SRC | wgpu::BufferUsages::COPY_DST,
        mapped_at_creation: false,
    });
    // SAFETY: nothing is destroyed through the handles.
    let functions = unsafe { native.as_hal::<Vulkan>() }.unwrap().raw_device().clone();
    // SAFETY: as above.
    let handle = unsafe { buffer.as_hal::<Vulkan>().unwrap().raw_handle() };
    let copy = |regions: &[vk::BufferCopy]| {
        let mut encoder = native.create_command_encoder(&Default::default());
        // SAFETY: the ranges lie within the buffer, which lives until the wait below; what is wrong with the copies
        // is wrong on purpose, and this driver forgives it.
        unsafe {
            encoder.as_hal_mut::<Vulkan, _, _>(|encoder| {
                for region in regions {
                    functions.cmd_copy_buffer(
                        encoder.as_ref().unwrap().raw_handle(),
                        handle,
                        handle,
                        &[*region],
                    );
                }
            });
        }
        queue.submit([encoder.finish()]);
        native.poll(wgpu::PollType::wait_indefinitely()).unwrap();
    };
    let region = |src_offset, dst_offset, size| vk::BufferCopy { src_offset, dst_offset, size };

    copy(&[region(0, 1024, 512)]);
    no_message();
    copy(&[region(0, 256, 512)]);
    let heard = messages();
    if heard.is_empty() {
        eprintln!("skipped: no validation layer (Debian, Ubuntu: vulkan-validationlayers)");
        return;
    }
    assert!(heard.iter().any(|line| line.contains("vkCmdCopyBuffer-pRegions-00117")), "{heard:?}");
    let before = heard.len();
    copy(&[region(0, 2048, 512), region(2048, 3072, 512)]);
    let heard = messages().split_off(before);
    assert!(heard.iter().any(|line| line.contains("SYNC-HAZARD-READ-AFTER-WRITE")), "{heard:?}");
}
