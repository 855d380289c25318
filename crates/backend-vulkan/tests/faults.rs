//! Every driver call that can fail, failing in turn: a typed error, nothing leaked, the bytes as they were.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on should stop where it stands")]

mod support;

use allocator_core::{DeviceBuffer, Remap};
use ash::vk;
use backend_vulkan::{VulkanDevice, VulkanError, VulkanOptions};
use pinned_host::{DeviceError, ErrorKind, HostPool, PageLocker, Queue, QueuedBuffer, Transfer};
use support::hooks::Native;

const LEN: u64 = 64 << 10;

/// A scripted use of everything; errors end it, except where the script goes on to look at what is left.
fn script(device: &VulkanDevice) -> Result<(), VulkanError> {
    let pool = HostPool::new(vec![device.locker().lock(2 * LEN as usize)?], 64).unwrap();
    let mut buffer = device.buffer(2 * LEN)?;
    let mut slice = pool.allocate(LEN as usize).unwrap();
    slice.as_mut_slice().iter_mut().enumerate().for_each(|(at, byte)| *byte = at as u8);
    let wanted = slice.as_slice().to_vec();
    let slice = match device.upload(slice, &mut buffer, 0) {
        Ok(ticket) => ticket.wait().map_err(|failed| failed.error)?,
        Err(refused) => {
            let slice = refused.slice.expect("the slice comes back");
            assert!(slice.as_slice() == wanted, "the source is intact");
            return Err(refused.error);
        }
    };
    buffer.copy_within(0..LEN, LEN / 2)?;
    let moved = buffer.queue().record();
    if moved.is_err() {
        // What was added is still there: the next submission carries it.
        buffer.queue().drain()?;
        check(device, &buffer, LEN / 2, &wanted)?;
    }
    moved?;
    buffer.queue().drain()?;
    let back = device.download(&buffer, LEN / 2, slice).map_err(|refused| refused.error)?;
    let back = back.wait().map_err(|failed| failed.error)?;
    assert!(back.as_slice() == wanted);
    check(device, &buffer, LEN / 2, &wanted)?;
    if buffer.is_sparse() {
        let granule = buffer.granule();
        let mut before = vec![0; granule as usize];
        device.read_now(&buffer, LEN, &mut before)?;
        let remapped = buffer.remap(LEN..LEN + granule, 0);
        let at = if remapped.is_ok() { 0 } else { LEN };
        buffer.queue().drain()?;
        check(device, &buffer, at, &before)?;
        remapped?;
    }
    Ok(())
}

fn check(
    device: &VulkanDevice,
    buffer: &backend_vulkan::VulkanBuffer,
    at: u64,
    wanted: &[u8],
) -> Result<(), VulkanError> {
    let mut bytes = vec![0; wanted.len()];
    device.read_now(buffer, at, &mut bytes)?;
    assert!(bytes == wanted, "wrong bytes at {at}");
    Ok(())
}

/// Runs the script with the `nth` call of `function` failing; `None` once there is no such call.
fn run(native: &Native, options: &VulkanOptions) -> Option<Result<(), VulkanError>> {
    // SAFETY: the handles are valid, and the device goes before `native`.
    let outcome = unsafe { options.adopt(native.handed()) }.and_then(|device| script(&device));
    (native.control.pending() == 0).then_some(outcome)
}

#[test]
fn each_refused_call_is_typed_and_leaks_nothing() {
    let functions = [
        ("vkAllocateMemory", vk::Result::ERROR_OUT_OF_DEVICE_MEMORY, ErrorKind::OutOfMemory),
        ("vkCreateBuffer", vk::Result::ERROR_OUT_OF_HOST_MEMORY, ErrorKind::OutOfMemory),
        ("vkBindBufferMemory", vk::Result::ERROR_OUT_OF_DEVICE_MEMORY, ErrorKind::OutOfMemory),
        ("vkMapMemory", vk::Result::ERROR_MEMORY_MAP_FAILED, ErrorKind::OutOfMemory),
        ("vkCreateSemaphore", vk::Result::ERROR_OUT_OF_HOST_MEMORY, ErrorKind::OutOfMemory),
        ("vkCreateCommandPool", vk::Result::ERROR_OUT_OF_DEVICE_MEMORY, ErrorKind::OutOfMemory),
        ("vkAllocateCommandBuffers", vk::Result::ERROR_OUT_OF_DEVICE_MEMORY, ErrorKind::OutOfMemory),
        ("vkQueueSubmit", vk::Result::ERROR_OUT_OF_DEVICE_MEMORY, ErrorKind::OutOfMemory),
        ("vkQueueBindSparse", vk::Result::ERROR_OUT_OF_DEVICE_MEMORY, ErrorKind::OutOfMemory),
        ("vkWaitSemaphores", vk::Result::ERROR_OUT_OF_HOST_MEMORY, ErrorKind::OutOfMemory),
        ("vkGetSemaphoreCounterValue", vk::Result::ERROR_OUT_OF_HOST_MEMORY, ErrorKind::OutOfMemory),
    ];
    let mut failed = 0;
    for sparse in [false, true] {
        let options = VulkanOptions::new().sparse(sparse);
        for (function, result, kind) in functions {
            for nth in 1.. {
                let mut native = Native::new();
                native.sparse = sparse;
                native.control.fail(function, nth, result);
                let Some(outcome) = run(&native, &options) else { break };
                failed += 1;
                match outcome {
                    Err(error) => assert_eq!(error.kind(), kind, "call {nth} of {function}: {error}"),
                    // A look at a semaphore is taken again, a mapping of device memory is done without, and what waits
                    // when everything is over has nobody to tell.
                    Ok(()) => assert!(
                        ["vkGetSemaphoreCounterValue", "vkMapMemory", "vkWaitSemaphores"].contains(&function),
                        "call {nth} of {function} failed, and nobody said so"
                    ),
                }
            }
        }
    }
    assert!(failed > 60, "only {failed} calls failed");
}

#[test]
fn a_device_lost_at_any_submission_is_typed_and_leaks_nothing() {
    let options = VulkanOptions::new().sparse(true);
    let functions = [
        "vkQueueSubmit",
        "vkQueueBindSparse",
        "vkWaitSemaphores",
        "vkGetSemaphoreCounterValue",
        "vkAllocateMemory",
        "vkCreateBuffer",
    ];
    for function in functions {
        for nth in 1.. {
            let mut native = Native::new();
            native.sparse = true;
            native.control.fail(function, nth, vk::Result::ERROR_DEVICE_LOST);
            let Some(outcome) = run(&native, &options) else { break };
            let error = outcome.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::DeviceLost, "call {nth} of {function}: {error}");
        }
    }
}
