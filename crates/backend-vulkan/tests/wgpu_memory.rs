//! A device that has no memory left says so and loses nothing. In a process of its own: what wgpu logs here is no
//! failure.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on should stop where it stands")]

mod wgpu_support;

use allocator_core::DeviceBuffer;
use backend_vulkan::{WgpuError, WgpuMoves, wgpu};
use pinned_host::{DeviceError, ErrorKind, HostPool, PageLocker, Transfer};
use std::task::{Context, Poll, Waker};
use wgpu_support::small;

#[test]
fn no_memory_is_typed_and_costs_nothing() {
    let Some((native, queue)) = nearly_full() else {
        eprintln!("skipped: no Vulkan adapter that tells its memory budget");
        return;
    };
    let device = small(WgpuMoves::Raw).over(native, queue).unwrap();
    let pool = HostPool::new(vec![device.locker().pageable(64 << 10).unwrap().unwrap()], 64).unwrap();
    let mut buffer = device.buffer(4096).unwrap();
    let mut slice = pool.allocate(4096).unwrap();
    slice.as_mut_slice().fill(7);
    // Makes the staging of both directions, which is there from now on.
    slice = device.upload(slice, &mut buffer, 0).unwrap().wait().unwrap();
    slice = device.download(&buffer, 0, slice).unwrap().wait().unwrap();
    let held = device.memory();

    // As large as a buffer can be, so that no limit is in the way.
    let asked = device.native().0.limits().max_buffer_size & !3;
    match device.buffer(asked) {
        Ok(_) => eprintln!("skipped: {asked} bytes are less than three hundredths of the memory budget"),
        Err(error) => {
            assert_eq!(error.kind(), ErrorKind::OutOfMemory);
            assert!(
                matches!(error, WgpuError::Memory { what: "arena", bytes, .. } if bytes == asked),
                "{error}"
            );
            assert!(std::error::Error::source(&error).is_some());
            assert_eq!(device.memory(), held);
        }
    }
    // What there was is intact, and the device takes work.
    buffer.copy_within(0..1024, 2048).unwrap();
    slice.as_mut_slice().fill(0);
    slice = device.download(&buffer, 0, slice).unwrap().wait().unwrap();
    assert!(slice.as_slice().iter().all(|&byte| byte == 7));
}

/// A device of the user's that wgpu lets fill the memory budget only a little further than it is filled now.
fn nearly_full() -> Option<(wgpu::Device, wgpu::Queue)> {
    (1..=97).find_map(|hundredths| {
        let instance = wgpu::Instance::new(wgpu::InstanceDescriptor {
            backends: wgpu::Backends::VULKAN,
            memory_budget_thresholds: wgpu::MemoryBudgetThresholds {
                // Above what is in use, since other processes may use more in a moment.
                for_resource_creation: Some(hundredths + 3),
                ..Default::default()
            },
            flags: wgpu::InstanceFlags::empty(),
            ..wgpu::InstanceDescriptor::new_without_display_handle()
        });
        let adapter = now(instance.request_adapter(&Default::default())).ok()?;
        let limits = wgpu::DeviceDescriptor { required_limits: adapter.limits(), ..Default::default() };
        now(adapter.request_device(&limits)).ok()
    })
}

/// wgpu's futures are ready when made.
fn now<T>(future: impl Future<Output = T>) -> T {
    match std::pin::pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(value) => value,
        Poll::Pending => panic!("a future of wgpu's that is not ready"),
    }
}
