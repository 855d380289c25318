//! Undefined use is found, and what is allowed is not reported.

#![cfg(all(target_os = "linux", target_pointer_width = "64"))]
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on should stop where it stands")]

mod common;

use common::*;
use driver_sim::abi::{context::*, control::*, copy::*, event::*, host::*, memory::*, pool::*, stream::*};
use driver_sim::{CuError, MemLocation, MemcpyAttributes};
use std::ffi::c_void;

const SEEDS: u64 = 30;

#[test]
fn device_copies_that_overlap() {
    for seed in 0..SEEDS {
        let device = Device::new(seed);
        let (a, memory) = (stream(), alloc(4096));
        ok(cuMemsetD8Async(memory, 1, 4096, a));
        ok(cuMemcpyDtoDAsync_v2(memory + 1000, memory, 1000, a));
        expect_undefined(&[]);
        ok(cuMemcpyDtoDAsync_v2(memory + 999, memory, 1000, a));
        ok(cuMemcpyDtoDAsync_v2(memory, memory + 1, 1000, a));
        expect_undefined(&["overlap", "overlap"]);
        synchronize(a);
        free(memory);
        ok(cuStreamDestroy_v2(a));
        device.finish();
    }
}

#[test]
fn ranges_outside_of_live_memory() {
    let device = Device::new(0);
    let (memory, gone) = (alloc(1000), alloc(1000));
    free(gone);
    fails(cuMemsetD8Async(memory, 1, 1001, 0), CuError::INVALID_VALUE);
    expect_undefined(&["0 bytes beyond the end of memory"]);
    fails(cuMemsetD8Async(memory + 1000, 1, 1, 0), CuError::INVALID_VALUE);
    expect_undefined(&["0 bytes beyond the end of memory"]);
    fails(cuMemsetD8Async(memory - 1, 1, 2, 0), CuError::INVALID_VALUE);
    expect_undefined(&["cuMemsetD8Async: 2 bytes"]);
    fails(cuMemcpyDtoDAsync_v2(memory, gone, 10, 0), CuError::INVALID_VALUE);
    expect_undefined(&["was freed by cuMemFree_v2"]);
    fails(cuMemsetD8Async(u64::MAX - 3, 1, 100, 0), CuError::INVALID_VALUE);
    expect_undefined(&["beyond the last address"]);
    fails(cuMemFree_v2(gone), CuError::INVALID_VALUE);
    expect_undefined(&["cannot be freed"]);
    fails(cuMemFree_v2(memory + 8), CuError::INVALID_VALUE);
    expect_undefined(&["it is within memory"]);
    assert_eq!(simPendingWork(), 0, "a refused call enqueues nothing");
    ok(cuMemsetD8Async(memory, 1, 0, 0));
    ok(cuMemFree_v2(0));
    free(memory);
    device.finish();
}

#[test]
fn pointers_of_the_wrong_kind() {
    let device = Device::new(0);
    let (a, memory, pinned) = (stream(), alloc(64), Pinned::new(64));
    let pageable = [0u8; 64];
    let (host, dev) = (pageable.as_ptr(), memory);
    fails(cuMemcpyDtoDAsync_v2(dev, host.expose_provenance() as u64, 64, a), CuError::INVALID_VALUE);
    expect_undefined(&["is no device pointer"]);
    let pretended: *mut c_void = std::ptr::without_provenance_mut(dev as usize);
    // SAFETY: the simulator knows the address, and refuses it.
    fails(unsafe { cuMemcpyHtoDAsync_v2(dev, pretended, 64, a) }, CuError::INVALID_VALUE);
    expect_undefined(&["a device pointer where a host pointer belongs"]);
    // SAFETY: null is refused.
    fails(unsafe { cuMemcpyHtoDAsync_v2(dev, std::ptr::null(), 64, a) }, CuError::INVALID_VALUE);
    expect_undefined(&["null pointer"]);
    let mut out = std::mem::MaybeUninit::uninit();
    let unlocked = pageable.as_ptr().cast_mut().cast();
    fails(cuMemHostGetDevicePointer_v2(Some(&mut out), unlocked, 0), CuError::INVALID_VALUE);
    expect_undefined(&["is not page-locked"]);
    // The device uses page-locked memory at its own address.
    let by_device = made(|out| cuMemHostGetDevicePointer_v2(Some(out), pinned.ptr(), 0));
    ok(cuMemsetD8Async(by_device, 3, 64, a));
    ok(cuMemcpyDtoDAsync_v2(dev, by_device, 64, a));
    synchronize(a);
    assert_eq!(pinned.bytes(), &[3; 64]);
    free(memory);
    pinned.free();
    ok(cuStreamDestroy_v2(a));
    device.finish();
}

#[test]
fn poison_may_be_moved_but_not_brought_to_the_host() {
    for seed in 0..SEEDS {
        let device = Device::new(seed);
        let (a, memory, dst) = (stream(), alloc(100), Pinned::new(20));
        ok(cuMemsetD8Async(memory, 1, 10, a));
        ok(cuMemcpyDtoDAsync_v2(memory + 50, memory, 20, a));
        // SAFETY: the destination has 20 bytes.
        ok(unsafe { cuMemcpyDtoHAsync_v2(dst.ptr(), memory + 50, 10, a) });
        synchronize(a);
        expect_undefined(&[]);
        // SAFETY: the destination has 20 bytes.
        ok(unsafe { cuMemcpyDtoHAsync_v2(dst.ptr(), memory + 50, 11, a) });
        synchronize(a);
        expect_undefined(&["brings bytes 60..61 of memory"]);
        free(memory);
        dst.free();
        ok(cuStreamDestroy_v2(a));
        device.finish();
    }
}

#[test]
fn memory_freed_while_in_use() {
    for seed in 0..SEEDS {
        let device = Device::new(seed);
        let (a, memory, src) = (stream(), alloc(64), Pinned::new(64));
        upload(memory, &src, a);
        free(memory);
        expect_undefined(&["cuMemFree_v2: frees 64 bytes"]);
        src.free();
        // A stream that was waited for is enough, and so is one event behind all of it.
        let (memory, src) = (alloc(64), Pinned::new(64));
        upload(memory, &src, a);
        let done = event();
        ok(cuEventRecord(done, a));
        ok(cuEventSynchronize(done));
        free(memory);
        src.free();
        expect_undefined(&[]);
        let src = Pinned::new(64);
        let memory = alloc(64);
        upload(memory, &src, a);
        src.free();
        expect_undefined(&["cuMemFreeHost: frees 64 bytes"]);
        synchronize(a);
        free(memory);
        ok(cuEventDestroy_v2(done));
        ok(cuStreamDestroy_v2(a));
        device.finish();
    }
}

#[test]
fn the_program_in_the_way_of_a_copy() {
    for seed in 0..SEEDS {
        let device = Device::new(seed);
        let (a, memory) = (stream(), alloc(4096));
        let (src, dst) = (Pinned::filled(4096, 1), Pinned::filled(4096, 2));
        upload(memory, &src, a);
        src.bytes()[4095] = 9;
        synchronize(a);
        expect_undefined(&["the program wrote the 4096 bytes it reads"]);
        download(&dst, memory, a);
        assert_ne!(dst.bytes()[0], 2, "early readers see noise");
        dst.bytes()[7] = 0;
        synchronize(a);
        expect_undefined(&["the program wrote the 4096 bytes it writes"]);
        // Back and forth through the same memory, ordered on the device alone: nobody is in the way.
        download(&dst, memory, a);
        upload(memory, &dst, a);
        ok(cuMemsetD8Async(memory, 4, 4096, a));
        download(&dst, memory, a);
        upload(memory, &dst, a);
        synchronize(a);
        assert_eq!(dst.bytes(), &[4; 4096]);
        free(memory);
        src.free();
        dst.free();
        ok(cuStreamDestroy_v2(a));
        device.finish();
    }
}

#[test]
fn pageable_memory_in_asynchronous_copies() {
    for (mode, wanted) in [(0, None), (1, Some("was reused after the call")), (2, Some("pageable memory at"))]
    {
        let device = Device::new(9);
        simSetPageable(mode);
        let (a, memory) = (stream(), alloc(64));
        let mut src = vec![1u8; 64];
        // SAFETY: the source has that length.
        ok(unsafe { cuMemcpyHtoDAsync_v2(memory, src.as_ptr().cast(), 64, a) });
        src.fill(2);
        std::hint::black_box(&mut src);
        synchronize(a);
        expect_undefined(wanted.as_slice());
        simSetPageable(0);
        let mut dst = vec![0u8; 64];
        // SAFETY: the destination has that length.
        ok(unsafe { cuMemcpyDtoHAsync_v2(dst.as_mut_ptr().cast(), memory, 64, a) });
        assert_eq!(dst, [1; 64], "staged at the call, and here when it returns");
        free(memory);
        ok(cuStreamDestroy_v2(a));
        device.finish();
    }
}

#[test]
fn registered_memory_is_page_locked_until_it_is_unregistered() {
    let device = Device::new(0);
    simSetPageable(2);
    let (a, memory) = (stream(), alloc(64));
    let mut host = vec![1u8; 128];
    let at = host.as_mut_ptr();
    ok(cuMemHostRegister_v2(at.cast(), 64, 0));
    fails(cuMemHostRegister_v2(at.cast(), 128, 0), CuError::HOST_MEMORY_ALREADY_REGISTERED);
    // SAFETY: the source has that length.
    ok(unsafe { cuMemcpyHtoDAsync_v2(memory, at.cast(), 64, a) });
    expect_undefined(&[]);
    synchronize(a);
    // SAFETY: the source has that length; a part of it is not registered.
    fails(unsafe { cuMemcpyHtoDAsync_v2(memory, at.add(1).cast(), 64, a) }, CuError::INVALID_VALUE);
    expect_undefined(&["beyond the end of memory"]);
    // Pieces side by side are one range.
    // SAFETY: within the vector.
    let second = unsafe { at.add(64) };
    ok(cuMemHostRegister_v2(second.cast(), 64, 0));
    // SAFETY: the source has that length.
    ok(unsafe { cuMemcpyHtoDAsync_v2(memory, at.add(1).cast(), 64, a) });
    ok(cuMemHostUnregister(second.cast()));
    expect_undefined(&["cuMemHostUnregister: frees 64 bytes"]);
    ok(cuMemHostUnregister(at.cast()));
    fails(cuMemHostUnregister(at.cast()), CuError::HOST_MEMORY_NOT_REGISTERED);
    expect_undefined(&["cannot be freed"]);
    free(memory);
    ok(cuStreamDestroy_v2(a));
    device.finish();
}

#[test]
fn handles_that_name_nothing_alive() {
    let device = Device::new(0);
    let (a, gone) = (stream(), event());
    ok(cuStreamDestroy_v2(a));
    ok(cuEventDestroy_v2(gone));
    fails(cuStreamSynchronize(a), CuError::INVALID_HANDLE);
    fails(cuEventRecord(gone, 0), CuError::INVALID_HANDLE);
    fails(cuEventDestroy_v2(gone), CuError::INVALID_HANDLE);
    fails(cuStreamDestroy_v2(1234), CuError::INVALID_HANDLE);
    expect_undefined(&["destroyed", "destroyed", "destroyed", "never made"]);
    device.finish();
}

#[test]
fn declared_accesses_of_the_program() {
    let device = Device::new(0);
    let (a, memory, pinned) = (stream(), alloc(64), Pinned::new(64));
    upload(memory, &pinned, a);
    simHostAccess(pinned.ptr(), 64, 0);
    expect_undefined(&[]);
    simHostAccess(pinned.ptr(), 64, 1);
    expect_undefined(&["write after read: simHostAccess"]);
    synchronize(a);
    simHostAccess(pinned.ptr(), 64, 1);
    upload(memory, &pinned, a);
    expect_undefined(&[]);
    synchronize(a);
    free(memory);
    pinned.free();
    ok(cuStreamDestroy_v2(a));
    device.finish();
}

#[test]
fn copies_of_one_batch() {
    for seed in 0..SEEDS {
        let device = Device::new(seed);
        let (a, memory) = (stream(), alloc(4096));
        let (src, dst) = (Pinned::filled(1024, 1), Pinned::new(1024));
        let upload_to = |offset| (memory + offset, src.ptr().addr() as u64);
        ok(batch(&[upload_to(0), upload_to(1024), upload_to(2048)], 1024, a));
        ok(batch(&[(memory + 3072, memory), (dst.ptr().addr() as u64, memory + 2048)], 1024, a));
        synchronize(a);
        assert_eq!(dst.bytes(), src.bytes());
        expect_undefined(&[]);
        ok(batch(&[(memory + 1024, memory), (memory + 2048, memory + 1024)], 1024, a));
        expect_undefined(&["copies 0 and 1 of the batch touch the same bytes"]);
        fails(batch(&[(memory, memory + 1024), (memory + 8192, memory)], 1024, a), CuError::INVALID_VALUE);
        fails(batch(&[(memory, memory + 1024)], 1024, 0), CuError::INVALID_VALUE);
        simForgiveUndefinedUses();
        synchronize(a);
        free(memory);
        src.free();
        dst.free();
        ok(cuStreamDestroy_v2(a));
        device.finish();
    }
}

fn batch(copies: &[(u64, u64)], size: usize, stream: usize) -> u32 {
    let (dsts, srcs): (Vec<_>, Vec<_>) = copies.iter().copied().unzip();
    let sizes = vec![size; copies.len()];
    let place = MemLocation { kind: 0, id: 0 };
    let attrs = MemcpyAttributes {
        src_access_order: 1,
        src_location_hint: place,
        dst_location_hint: place,
        flags: 0,
    };
    let (dsts, srcs, sizes, count) = (dsts.as_ptr(), srcs.as_ptr(), sizes.as_ptr(), copies.len());
    let mut failed = std::mem::MaybeUninit::uninit();
    // SAFETY: the arrays have these lengths.
    unsafe { cuMemcpyBatchAsync(dsts, srcs, sizes, count, &attrs, &0, 1, Some(&mut failed), stream) }
}

#[test]
fn memory_of_a_pool_lives_between_two_points_of_its_stream() {
    for seed in 0..SEEDS {
        let device = Device::new(seed);
        let (a, b, dst) = (stream(), stream(), Pinned::new(64));
        let memory = made(|out| cuMemAllocAsync(Some(out), 64, a));
        ok(cuMemsetD8Async(memory, 1, 64, b));
        expect_undefined(&["is not ordered after cuMemAllocAsync"]);
        synchronize(b);
        synchronize(a);
        ok(cuMemsetD8Async(memory, 1, 64, a));
        ok(cuMemFreeAsync(memory, b));
        expect_undefined(&["cuMemFreeAsync"]);
        fails(cuMemsetD8Async(memory, 1, 64, a), CuError::INVALID_VALUE);
        expect_undefined(&["was freed by cuMemFreeAsync"]);
        fails(cuMemFreeAsync(memory, a), CuError::INVALID_VALUE);
        expect_undefined(&["cannot be freed"]);
        ok(cuCtxSynchronize());
        let memory = made(|out| cuMemAllocAsync(Some(out), 64, a));
        ok(cuMemsetD8Async(memory, 6, 64, a));
        download(&dst, memory, a);
        ok(cuMemFreeAsync(memory, a));
        let pool = made(|out| cuDeviceGetDefaultMemPool(Some(out), 0));
        let mut used = 0u64;
        // SAFETY: the attribute is a `uint64_t`.
        ok(unsafe { cuMemPoolGetAttribute(pool, 7, (&raw mut used).cast()) });
        assert_eq!(used, 64, "freed when its turn comes");
        synchronize(a);
        // SAFETY: the attribute is a `uint64_t`.
        ok(unsafe { cuMemPoolGetAttribute(pool, 7, (&raw mut used).cast()) });
        assert_eq!((used, dst.bytes()[0]), (0, 6));
        dst.free();
        ok(cuStreamDestroy_v2(a));
        ok(cuStreamDestroy_v2(b));
        device.finish();
    }
}

#[test]
fn what_is_left_is_listed() {
    let device = Device::new(0);
    let memory = [alloc(100), alloc(200)];
    let (a, e, pinned) = (stream(), event(), Pinned::new(300));
    let (count, text) = leaks();
    assert_eq!(count, 6);
    for line in ["2 × device memory, 300 bytes", "1 × host memory, 300 bytes", "1 × stream\n", "1 × event\n"]
    {
        assert!(text.contains(line), "{line:?} is not in {text:?}");
    }
    let mut report = [0; 2048];
    // SAFETY: the text has that capacity.
    let len = unsafe { simReport(report.as_mut_ptr(), report.len()) };
    assert!(len > text.len());
    memory.into_iter().for_each(free);
    pinned.free();
    ok(cuStreamDestroy_v2(a));
    ok(cuEventDestroy_v2(e));
    device.finish();
}
