//! Addresses and physical memory apart.

#![cfg(all(target_os = "linux", target_pointer_width = "64"))]
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on should stop where it stands")]

mod common;

use common::*;
use driver_sim::abi::{control::*, copy::*, memory::*, stream::*, vmm::*};
use driver_sim::{AccessDesc, AllocationProp, CuError, CuResult, MemLocation};
use std::mem::MaybeUninit;

const G: usize = 2 << 20;
const DEVICE: MemLocation = MemLocation { kind: 1, id: 0 };
const PROP: AllocationProp = AllocationProp {
    kind: 1,
    requested_handle_types: 0,
    location: DEVICE,
    win32_handle_meta_data: std::ptr::null_mut(),
    alloc_flags: [0; 8],
};

fn reserve(bytes: usize) -> u64 {
    made(|out| cuMemAddressReserve(Some(out), bytes, 0, 0, 0))
}

fn create(bytes: usize) -> u64 {
    made(|out| cuMemCreate(Some(out), bytes, Some(&PROP), 0))
}

fn open(address: u64, bytes: usize, flags: u32) -> CuResult {
    // SAFETY: one description is passed.
    unsafe { cuMemSetAccess(address, bytes, &AccessDesc { location: DEVICE, flags }, 1) }
}

#[test]
fn bytes_follow_physical_memory_to_other_addresses() {
    for seed in 0..20 {
        let device = Device::new(seed);
        assert_eq!(made(|out| cuMemGetAllocationGranularity(Some(out), Some(&PROP), 0)), G);
        let (a, space, dst) = (stream(), reserve(8 * G), Pinned::new(4096));
        let granules: Vec<u64> = (0..3).map(|_| create(G)).collect();
        for (index, &granule) in granules.iter().enumerate() {
            ok(cuMemMap(space + (2 * index * G) as u64, G, 0, granule, 0));
            ok(open(space + (2 * index * G) as u64, G, 3));
            ok(cuMemsetD8Async(space + (2 * index * G) as u64, index as u8 + 1, G, a));
        }
        synchronize(a);
        let before = simCopiedBytes(2);
        for index in 1..3u64 {
            let (from, to) = (space + 2 * index * G as u64, space + index * G as u64);
            ok(cuMemUnmap(from, G));
            ok(cuMemMap(to, G, 0, granules[index as usize], 0));
            ok(open(to, G, 3));
        }
        // One range over all three, read across the seams.
        for index in 1..3u64 {
            download(&dst, space + index * G as u64 - 2048, a);
            synchronize(a);
            assert_eq!(dst.bytes()[..2048], [index as u8; 2048]);
            assert_eq!(dst.bytes()[2048..], [index as u8 + 1; 2048]);
        }
        assert_eq!(simCopiedBytes(2), before, "no byte was copied");
        ok(cuMemUnmap(space, 3 * G));
        granules.into_iter().for_each(|granule| ok(cuMemRelease(granule)));
        ok(cuMemAddressFree(space, 8 * G));
        dst.free();
        ok(cuStreamDestroy_v2(a));
        device.finish();
    }
}

#[test]
fn physical_memory_goes_when_it_is_released_and_unmapped() {
    let device = Device::new(0);
    simSetMemory(3 * G as u64);
    let free_bytes = || {
        let mut total = MaybeUninit::uninit();
        made(|free| cuMemGetInfo_v2(Some(free), Some(&mut total)))
    };
    let (space, granule) = (reserve(4 * G), create(2 * G));
    assert_eq!(free_bytes(), G);
    fails(cuMemCreate(Some(&mut MaybeUninit::uninit()), 2 * G, Some(&PROP), 0), CuError::OUT_OF_MEMORY);
    ok(cuMemMap(space, 2 * G, 0, granule, 0));
    ok(cuMemRelease(granule));
    assert_eq!(free_bytes(), G);
    let again = made(|out| {
        cuMemRetainAllocationHandle(Some(out), std::ptr::without_provenance_mut(space as usize + 5))
    });
    assert_eq!(again, granule);
    ok(cuMemUnmap(space, 2 * G));
    assert_eq!(free_bytes(), G);
    ok(cuMemRelease(again));
    assert_eq!(free_bytes(), 3 * G);
    ok(cuMemAddressFree(space, 4 * G));
    device.finish();
}

#[test]
fn access_is_given_and_taken() {
    let device = Device::new(0);
    let (a, space, granule) = (stream(), reserve(G), create(G));
    ok(cuMemMap(space, G, 0, granule, 0));
    fails(cuMemsetD8Async(space, 1, 64, a), CuError::INVALID_VALUE);
    expect_undefined(&["is mapped without access"]);
    ok(open(space, G, 3));
    ok(cuMemsetD8Async(space, 1, 64, a));
    assert_eq!(made(|out| cuMemGetAccess(Some(out), Some(&DEVICE), space)), 3);
    synchronize(a);
    ok(open(space, G, 1));
    fails(cuMemsetD8Async(space, 1, 64, a), CuError::INVALID_VALUE);
    expect_undefined(&["is mapped read-only"]);
    fails(open(space, G, 2), CuError::INVALID_VALUE);
    fails(open(space, G / 2, 3), CuError::INVALID_VALUE);
    ok(cuMemUnmap(space, G));
    fails(cuMemsetD8Async(space, 1, 64, a), CuError::INVALID_VALUE);
    expect_undefined(&["is reserved and not mapped"]);
    ok(cuMemRelease(granule));
    ok(cuMemAddressFree(space, G));
    fails(cuMemsetD8Async(space, 1, 64, a), CuError::INVALID_VALUE);
    expect_undefined(&["was freed by cuMemAddressFree"]);
    ok(cuStreamDestroy_v2(a));
    device.finish();
}

#[test]
fn what_a_driver_refuses() {
    let device = Device::new(0);
    let (space, granule) = (reserve(2 * G), create(G));
    let mut out = MaybeUninit::uninit();
    fails(cuMemAddressReserve(Some(&mut out), G + 1, 0, 0, 0), CuError::INVALID_VALUE);
    fails(cuMemCreate(Some(&mut out), G - 1, Some(&PROP), 0), CuError::INVALID_VALUE);
    let shared = AllocationProp { requested_handle_types: 1, ..PROP };
    fails(cuMemCreate(Some(&mut out), G, Some(&shared), 0), CuError::NOT_SUPPORTED);
    let elsewhere = AllocationProp { location: MemLocation { kind: 1, id: 1 }, ..PROP };
    fails(cuMemCreate(Some(&mut out), G, Some(&elsewhere), 0), CuError::INVALID_DEVICE);
    fails(cuMemMap(space + 4096, G, 0, granule, 0), CuError::INVALID_VALUE);
    fails(cuMemMap(space, 2 * G, 0, granule, 0), CuError::INVALID_VALUE);
    fails(cuMemMap(space, G, G, granule, 0), CuError::INVALID_VALUE);
    fails(cuMemMap(space + 2 * G as u64, G, 0, granule, 0), CuError::INVALID_VALUE);
    fails(cuMemMap(space, G, 0, 77, 0), CuError::INVALID_VALUE);
    expect_undefined(&[]);
    ok(cuMemMap(space, G, 0, granule, 0));
    fails(cuMemMap(space, G, 0, granule, 0), CuError::INVALID_VALUE);
    fails(cuMemUnmap(space, 2 * G), CuError::INVALID_VALUE);
    fails(cuMemAddressFree(space, 2 * G), CuError::INVALID_VALUE);
    fails(cuMemFree_v2(space), CuError::INVALID_VALUE);
    expect_undefined(&["not made of whole mappings", "memory is mapped", "goes another way"]);
    ok(cuMemUnmap(space, G));
    fails(cuMemUnmap(space, G), CuError::INVALID_VALUE);
    ok(cuMemRelease(granule));
    fails(cuMemRelease(granule), CuError::INVALID_VALUE);
    ok(cuMemAddressFree(space, 2 * G));
    fails(cuMemAddressFree(space, 2 * G), CuError::INVALID_VALUE);
    expect_undefined(&["not made of whole mappings", "physical memory", "was freed by cuMemAddressFree"]);
    device.finish();
}

#[test]
fn unmapping_what_work_may_still_use() {
    for seed in 0..20 {
        let device = Device::new(seed);
        let (a, space, granule) = (stream(), reserve(2 * G), create(G));
        for at in [space, space + G as u64] {
            ok(cuMemMap(at, G, 0, granule, 0));
            ok(open(at, G, 3));
        }
        ok(cuMemsetD8Async(space, 1, G, a));
        // Work through one address is no use of the other.
        ok(cuMemUnmap(space + G as u64, G));
        expect_undefined(&[]);
        ok(cuMemUnmap(space, G));
        expect_undefined(&["cuMemUnmap: unmaps"]);
        ok(cuMemRelease(granule));
        ok(cuMemAddressFree(space, 2 * G));
        ok(cuStreamDestroy_v2(a));
        device.finish();
    }
}

#[test]
fn the_same_memory_at_two_addresses_is_one_memory() {
    let device = Device::new(0);
    let (a, b, space, granule) = (stream(), stream(), reserve(2 * G), create(G));
    let other = space + G as u64;
    for at in [space, other] {
        ok(cuMemMap(at, G, 0, granule, 0));
        ok(open(at, G, 3));
    }
    ok(cuMemsetD8Async(space, 1, 64, a));
    ok(cuMemsetD8Async(other, 2, 64, b));
    expect_undefined(&["write after write"]);
    ok(cuMemcpyDtoDAsync_v2(other + 10, space, 64, b));
    expect_undefined(&["overlap"]);
    synchronize(a);
    synchronize(b);
    ok(cuMemUnmap(space, 2 * G));
    ok(cuMemRelease(granule));
    ok(cuMemAddressFree(space, 2 * G));
    ok(cuStreamDestroy_v2(a));
    ok(cuStreamDestroy_v2(b));
    device.finish();
}
