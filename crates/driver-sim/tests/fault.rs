//! Faults strike the call they were told to, and behave as a driver's do.

#![cfg(all(target_os = "linux", target_pointer_width = "64"))]
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on should stop where it stands")]

mod common;

use common::*;
use driver_sim::abi::{context::*, control::*, copy::*, event::*, host::*, memory::*, stream::*};
use driver_sim::{CuError, CuResult, SUCCESS};
use std::mem::MaybeUninit;

const OUT_OF_MEMORY: u32 = 1;
const STICKY: [(u32, CuError); 5] = [
    (2, CuError::ILLEGAL_ADDRESS),
    (3, CuError::LAUNCH_FAILED),
    (4, CuError::ECC_UNCORRECTABLE),
    (6, CuError::CONTAINED),
    (7, CuError::TENSOR_MEMORY_LEAK),
];
const DEVICE_LOST: u32 = 5;

#[test]
fn out_of_memory_refuses_one_call_and_changes_nothing() {
    let device = Device::new(0);
    let (a, memory, pinned) = (stream(), alloc(64), Pinned::filled(64, 1));
    let (mut address, mut handle, mut pointer) =
        (MaybeUninit::uninit(), MaybeUninit::uninit(), MaybeUninit::uninit());
    let refused = |call: &mut dyn FnMut() -> CuResult| {
        let before = (leaks(), simPendingWork(), free_bytes());
        assert_eq!(simInjectFault(OUT_OF_MEMORY, 1), 0);
        fails(call(), CuError::OUT_OF_MEMORY);
        assert_eq!((leaks(), simPendingWork(), free_bytes()), before);
    };
    refused(&mut || cuMemAlloc_v2(Some(&mut address), 64));
    refused(&mut || cuEventCreate(Some(&mut handle), 0));
    refused(&mut || cuMemHostAlloc(Some(&mut pointer), 64, 0));
    refused(&mut || cuMemsetD8Async(memory, 1, 64, a));
    // SAFETY: the memory has that length.
    refused(&mut || unsafe { cuMemcpyHtoDAsync_v2(memory, pinned.ptr(), 64, a) });
    // SAFETY: the memory has that length.
    refused(&mut || unsafe { cuMemcpyDtoHAsync_v2(pinned.ptr(), memory, 64, a) });
    assert_eq!(pinned.bytes(), &[1; 64], "a refused download leaves its destination");
    // A call that cannot say so is spared, and the next that can is struck.
    simInjectFault(OUT_OF_MEMORY, 1);
    synchronize(a);
    fails(cuMemsetD8Async(memory, 1, 64, a), CuError::OUT_OF_MEMORY);
    ok(cuMemsetD8Async(memory, 1, 64, a));
    assert_eq!(simFaultsStruck(), 7);
    synchronize(a);
    free(memory);
    pinned.free();
    ok(cuStreamDestroy_v2(a));
    device.finish();
}

#[test]
fn the_device_is_full_when_its_memory_is_taken() {
    let device = Device::new(0);
    simSetMemory(1000);
    let a = alloc(600);
    fails(cuMemAlloc_v2(Some(&mut MaybeUninit::uninit()), 401), CuError::OUT_OF_MEMORY);
    let b = alloc(400);
    assert_eq!(free_bytes(), 0);
    free(a);
    free(b);
    assert_eq!(free_bytes(), 1000);
    device.finish();
}

#[test]
fn a_sticky_fault_surfaces_later_and_stays() {
    for (kind, error) in STICKY {
        let mut surfaced = [0; 3];
        for seed in 0..100 {
            let device = Device::new(seed);
            let (a, memory) = (stream(), alloc(64));
            simInjectFault(kind, 1);
            ok(cuMemsetD8Async(memory, 1, 64, a));
            let calls: [&dyn Fn() -> CuResult; 3] = [
                &|| cuMemsetD8Async(memory, 2, 64, a),
                &|| match cuStreamQuery(a) {
                    answer if answer == CuError::NOT_READY.code() => SUCCESS,
                    answer => answer,
                },
                &|| cuStreamSynchronize(a),
            ];
            let first = calls.iter().position(|call| call() != SUCCESS).unwrap();
            surfaced[first] += 1;
            fails(cuStreamSynchronize(a), error);
            fails(cuMemsetD8Async(memory, 2, 64, a), error);
            fails(cuMemAlloc_v2(Some(&mut MaybeUninit::uninit()), 64), error);
            fails(cuMemFree_v2(memory), error);
            fails(cuStreamDestroy_v2(a), error);
            assert_eq!(simPendingWork(), 0);
            device.finish_broken();
        }
        assert!(surfaced.iter().all(|&times| times > 0), "{surfaced:?}");
    }
}

#[test]
fn work_that_fails_leaves_noise_and_a_call_without_work_fails_the_next() {
    for (kind, error) in STICKY {
        let device = Device::new(0);
        let (memory, pinned) = (alloc(64), Pinned::filled(64, 1));
        ok(cuMemsetD8_v2(memory, 2, 64));
        simInjectFault(kind, 1);
        // SAFETY: the destination has that length.
        fails(unsafe { cuMemcpyDtoH_v2(pinned.ptr(), memory, 64) }, error);
        assert!([1, 2].iter().all(|value| pinned.bytes() != [*value; 64]), "neither the old nor the new");
        fails(cuMemFreeHost(pinned.ptr()), error);
        fails(cuMemFree_v2(memory), error);
        device.finish_broken();

        let device = Device::new(0);
        let memory = alloc(64);
        simInjectFault(kind, 1);
        ok(cuMemsetD8Async(memory, 2, 0, 0));
        fails(cuMemFree_v2(memory), error);
        device.finish_broken();
    }
}

#[test]
fn a_fault_at_a_call_of_one_function() {
    let device = Device::new(0);
    let name = c"cuMemAlloc_v2".as_ptr();
    // SAFETY: the name ends with NUL.
    assert_eq!(unsafe { simInjectFaultAt(OUT_OF_MEMORY, name, 2) }, 0);
    let (a, memory) = (stream(), alloc(64));
    fails(cuMemAlloc_v2(Some(&mut MaybeUninit::uninit()), 64), CuError::OUT_OF_MEMORY);
    // SAFETY: the name ends with NUL.
    assert_eq!(unsafe { simCallCountOf(name) }, 2);
    assert_eq!(simInjectFault(77, 1), 1);
    assert_eq!(simInjectFault(1, 0), 1);
    // SAFETY: the name ends with NUL.
    assert_eq!(unsafe { simInjectFaultAt(DEVICE_LOST, name, 1) }, 0);
    simClearFaults();
    free(alloc(64));
    free(memory);
    ok(cuStreamDestroy_v2(a));
    device.finish();
}

#[test]
fn a_lost_device_answers_nothing_else() {
    let device = Device::new(0);
    let (a, memory, pinned) = (stream(), alloc(64), Pinned::new(64));
    upload(memory, &pinned, a);
    simInjectFault(DEVICE_LOST, 1);
    fails(cuStreamQuery(a), CuError::UNKNOWN);
    assert_eq!(simPendingWork(), 0);
    fails(cuCtxSynchronize(), CuError::UNKNOWN);
    ok(cuCtxSetCurrent(made(|out| cuCtxGetCurrent(Some(out)))));
    // Nothing is in use any more, and giving back is accounted though it is answered with the error.
    fails(cuMemFree_v2(memory), CuError::UNKNOWN);
    fails(cuMemFreeHost(pinned.ptr()), CuError::UNKNOWN);
    fails(cuStreamDestroy_v2(a), CuError::UNKNOWN);
    device.finish_broken();
}

#[test]
fn host_memory_that_a_broken_device_may_write_is_not_given_back() {
    let device = Device::new(0);
    let (a, memory, pinned) = (stream(), alloc(64), Pinned::new(64));
    ok(cuMemsetD8Async(memory, 1, 64, a));
    download(&pinned, memory, a);
    simInjectFault(DEVICE_LOST, 1);
    fails(cuCtxSynchronize(), CuError::UNKNOWN);
    fails(cuMemFree_v2(memory), CuError::UNKNOWN);
    fails(cuStreamDestroy_v2(a), CuError::UNKNOWN);
    assert_eq!(leaks().0, 0, "keeping it is no leak");
    fails(cuMemFreeHost(pinned.ptr()), CuError::UNKNOWN);
    expect_undefined(&["may write which was in flight when the device broke"]);
    device.finish_broken();
}

#[test]
fn a_refusal_strikes_any_call_and_changes_nothing() {
    for (kind, error) in [(8, CuError::NOT_SUPPORTED), (9, CuError::INVALID_VALUE), (10, CuError::UNKNOWN)] {
        let device = Device::new(0);
        let (a, memory) = (stream(), alloc(64));
        for call in [&|| cuMemFree_v2(memory), &|| cuStreamSynchronize(a)] as [&dyn Fn() -> CuResult; 2] {
            simInjectFault(kind, 1);
            fails(call(), error);
        }
        free(memory);
        ok(cuStreamDestroy_v2(a));
        device.finish();
    }
}

/// A program of many kinds of calls that releases all it has whatever happens, as a careful one does.
fn script() -> Result<(), CuResult> {
    let check = |answer: CuResult| if answer == SUCCESS { Ok(()) } else { Err(answer) };
    let mut owned: Vec<Box<dyn FnOnce() -> CuResult>> = Vec::new();
    let outcome = (|| {
        let (mut a, mut b) = (MaybeUninit::uninit(), MaybeUninit::uninit());
        check(cuStreamCreate(Some(&mut a), 1))?;
        // SAFETY: the call has succeeded.
        let a = unsafe { a.assume_init() };
        owned.push(Box::new(move || cuStreamDestroy_v2(a)));
        check(cuStreamCreate(Some(&mut b), 1))?;
        // SAFETY: the call has succeeded.
        let b = unsafe { b.assume_init() };
        owned.push(Box::new(move || cuStreamDestroy_v2(b)));
        let mut pointer = MaybeUninit::uninit();
        check(cuMemHostAlloc(Some(&mut pointer), 64, 0))?;
        // SAFETY: the call has succeeded.
        let host = unsafe { pointer.assume_init() };
        owned.push(Box::new(move || match cuCtxSynchronize() {
            SUCCESS => cuMemFreeHost(host),
            // A copy may still write it, so it stays.
            lost => lost,
        }));
        for value in 0..4 {
            let mut address = MaybeUninit::uninit();
            check(cuMemAlloc_v2(Some(&mut address), 64))?;
            // SAFETY: the call has succeeded.
            let address = unsafe { address.assume_init() };
            owned.push(Box::new(move || cuMemFree_v2(address)));
            let mut event = MaybeUninit::uninit();
            check(cuEventCreate(Some(&mut event), 2))?;
            // SAFETY: the call has succeeded.
            let event = unsafe { event.assume_init() };
            owned.push(Box::new(move || cuEventDestroy_v2(event)));
            check(cuMemsetD8Async(address, value, 64, a))?;
            check(cuEventRecord(event, a))?;
            check(cuStreamWaitEvent(b, event, 0))?;
            // SAFETY: the memory has that length.
            check(unsafe { cuMemcpyDtoHAsync_v2(host, address, 64, b) })?;
            check(cuStreamSynchronize(b))?;
            // SAFETY: nothing uses the memory after the wait.
            let bytes = unsafe { std::slice::from_raw_parts(host.cast::<u8>(), 64) };
            assert!(bytes.iter().all(|&byte| byte == value), "a wrong byte after a wait that succeeded");
        }
        Ok(())
    })();
    // What was enqueued and not waited for must have run before what it uses goes.
    let _ = cuCtxSynchronize();
    owned.into_iter().rev().for_each(|release| {
        release();
    });
    outcome
}

#[test]
fn every_fault_at_every_call_of_a_script() {
    let device = Device::new(0);
    let before = simCallCount();
    assert_eq!(script(), Ok(()));
    let calls = simCallCount() - before;
    drop(device);
    for kind in 1..=7 {
        for k in 1..=calls {
            let device = Device::new(k);
            assert_eq!(simInjectFault(kind, k), 0);
            let outcome = script();
            if kind == OUT_OF_MEMORY {
                assert!(outcome == Ok(()) || outcome == Err(CuError::OUT_OF_MEMORY.code()), "{outcome:?}");
                simClearFaults();
                assert_eq!(script(), Ok(()), "the program can go on");
                device.finish();
            } else {
                let broken = cuCtxSynchronize() != SUCCESS;
                assert!(outcome.is_err() || broken, "fault {kind} at call {k}");
                device.finish_broken();
            }
        }
    }
}

fn free_bytes() -> usize {
    let mut total = MaybeUninit::uninit();
    made(|free| cuMemGetInfo_v2(Some(free), Some(&mut total)))
}
