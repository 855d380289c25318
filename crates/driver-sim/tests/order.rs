//! Work runs when the host waits, in an order that respects streams, events and the default stream only.

#![cfg(all(target_os = "linux", target_pointer_width = "64"))]
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on should stop where it stands")]

mod common;

use common::*;
use driver_sim::abi::{context::*, control::*, copy::*, event::*, launch::*, stream::*};
use driver_sim::{CuError, PER_THREAD, SUCCESS};
use std::collections::BTreeSet;
use std::ffi::c_void;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};

const SEEDS: u64 = 100;

#[test]
fn bytes_make_the_round_trip() {
    for seed in 0..SEEDS {
        let device = Device::new(seed);
        let (up, down, memory) = (stream(), stream(), alloc(4096));
        let (src, dst) = (Pinned::filled(4096, 7), Pinned::filled(4096, 1));
        upload(memory, &src, up);
        order(up, down);
        download(&dst, memory, down);
        assert!(simPendingWork() > 0, "nothing runs before the host waits");
        assert!(dst.bytes().iter().all(|&byte| byte != 7));
        synchronize(down);
        assert!(dst.bytes().iter().all(|&byte| byte == 7));
        assert_eq!((simCopiedBytes(0), simCopiedBytes(1), simCopiedBytes(2)), (4096, 4096, 0));
        synchronize(up);
        free(memory);
        src.free();
        dst.free();
        ok(cuStreamDestroy_v2(up));
        ok(cuStreamDestroy_v2(down));
        device.finish();
    }
}

#[test]
fn a_missing_wait_is_found_on_every_seed_where_it_is_enqueued() {
    for seed in 0..SEEDS {
        let device = Device::new(seed);
        let (up, down, memory) = (stream(), stream(), alloc(4096));
        let (src, dst) = (Pinned::filled(4096, 7), Pinned::new(4096));
        upload(memory, &src, up);
        download(&dst, memory, down);
        let found = undefined();
        assert_eq!(found.len(), 1);
        assert!(found[0].contains("read after write: cuMemcpyDtoHAsync_v2"), "{found:?}");
        assert!(found[0].contains("is not ordered after cuMemcpyHtoDAsync_v2"), "{found:?}");
        simForgiveUndefinedUses();
        upload(memory, &src, up);
        let found = undefined();
        assert!(found[0].contains("write after read: cuMemcpyHtoDAsync_v2"), "{found:?}");
        ok(cuCtxSynchronize());
        simForgiveUndefinedUses();
        free(memory);
        src.free();
        dst.free();
        ok(cuStreamDestroy_v2(up));
        ok(cuStreamDestroy_v2(down));
        device.finish();
    }
}

#[test]
fn unordered_streams_run_in_different_orders() {
    let mut orders = BTreeSet::new();
    for seed in 0..SEEDS {
        static RAN: Mutex<Vec<usize>> = Mutex::new(Vec::new());
        unsafe extern "C" fn note(number: *mut c_void) {
            RAN.lock().unwrap().push(number.addr());
        }
        let device = Device::new(seed);
        RAN.lock().unwrap().clear();
        let streams: Vec<_> = (0..3).map(|_| stream()).collect();
        for number in 0..6usize {
            let data = std::ptr::without_provenance_mut(number);
            // SAFETY: the function only looks at the address.
            ok(unsafe { cuLaunchHostFunc(streams[number % 3], Some(note), data) });
        }
        ok(cuCtxSynchronize());
        let ran = RAN.lock().unwrap().clone();
        for first in 0..3 {
            let place = |wanted| ran.iter().position(|&number| number == wanted).unwrap();
            assert!(place(first) < place(first + 3), "the order of one stream: {ran:?}");
        }
        orders.insert(ran);
        streams.into_iter().for_each(|stream| ok(cuStreamDestroy_v2(stream)));
        device.finish();
    }
    assert!(orders.len() > 10, "{}", orders.len());
}

#[test]
fn polling_ends_and_teaches_the_host() {
    for seed in 0..SEEDS {
        let device = Device::new(seed);
        let (a, b, memory) = (stream(), stream(), alloc(64));
        ok(cuMemsetD8Async(memory, 1, 64, a));
        let done = event();
        ok(cuEventRecord(done, a));
        ok(cuStreamWaitEvent(b, done, 0));
        let mut asked = 0;
        while cuStreamQuery(b) != SUCCESS {
            asked += 1;
            assert!(asked < 1000);
        }
        ok(cuEventQuery(done));
        free(memory);
        ok(cuEventDestroy_v2(done));
        ok(cuStreamDestroy_v2(a));
        ok(cuStreamDestroy_v2(b));
        device.finish();
    }
}

#[test]
fn an_event_stands_for_what_was_there_when_it_was_recorded() {
    let device = Device::new(1);
    let (a, b, memory) = (stream(), stream(), alloc(64));
    let done = event();
    ok(cuEventQuery(done));
    ok(cuEventSynchronize(done));
    ok(cuStreamWaitEvent(b, done, 0));
    ok(cuEventRecord(done, a));
    ok(cuMemsetD8Async(memory, 1, 64, a));
    ok(cuStreamWaitEvent(b, done, 0));
    ok(cuMemsetD8Async(memory, 2, 64, b));
    expect_undefined(&["write after write"]);
    ok(cuCtxSynchronize());
    free(memory);
    ok(cuEventDestroy_v2(done));
    ok(cuStreamDestroy_v2(a));
    ok(cuStreamDestroy_v2(b));
    device.finish();
}

#[test]
fn the_default_stream_waits_for_blocking_streams_only() {
    for seed in 0..SEEDS {
        let device = Device::new(seed);
        let (blocking, other) = (made(|out| cuStreamCreate(Some(out), 0)), stream());
        let (memory, dst) = (alloc(64), Pinned::new(64));
        ok(cuMemsetD8Async(memory, 1, 64, blocking));
        ok(cuMemsetD8_v2(memory, 2, 64));
        ok(cuMemsetD8Async(memory, 3, 64, blocking));
        download(&dst, memory, 0);
        synchronize(0);
        assert_eq!(dst.bytes(), &[3; 64]);
        expect_undefined(&[]);
        ok(cuMemsetD8Async(memory, 1, 64, blocking));
        ok(cuMemsetD8Async(memory, 4, 64, other));
        expect_undefined(&["write after write"]);
        synchronize(other);
        // That the host waited for `other` says nothing about `blocking`, but the default stream comes after it.
        // SAFETY: the destination is page-locked memory of that length.
        ok(unsafe { cuMemcpyDtoH_v2(dst.ptr(), memory, 64) });
        expect_undefined(&[]);
        free(memory);
        dst.free();
        ok(cuStreamDestroy_v2(blocking));
        ok(cuStreamDestroy_v2(other));
        device.finish();
    }
}

#[test]
fn a_plain_copy_from_pageable_memory_may_still_be_under_way() {
    let device = Device::new(3);
    let (memory, other, dst) = (alloc(64), stream(), Pinned::new(64));
    let src = [5u8; 64];
    // SAFETY: the source has that length.
    ok(unsafe { cuMemcpyHtoD_v2(memory, src.as_ptr().cast(), 64) });
    download(&dst, memory, other);
    expect_undefined(&["read after write"]);
    ok(cuCtxSynchronize());
    simForgiveUndefinedUses();
    download(&dst, memory, other);
    synchronize(other);
    assert_eq!(dst.bytes(), &[5; 64]);
    free(memory);
    dst.free();
    ok(cuStreamDestroy_v2(other));
    device.finish();
}

#[test]
fn each_thread_has_a_default_stream_of_its_own() {
    let device = Device::new(4);
    let memory = alloc(64);
    ok(cuMemsetD8Async(memory, 1, 64, PER_THREAD));
    let context = made(|out| cuCtxGetCurrent(Some(out)));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            fails(cuStreamSynchronize(PER_THREAD), CuError::INVALID_CONTEXT);
            ok(cuCtxSetCurrent(context));
            ok(cuMemsetD8Async(memory, 1, 64, PER_THREAD));
            ok(cuStreamSynchronize(PER_THREAD));
        });
    });
    expect_undefined(&["write after write"]);
    ok(cuCtxSynchronize());
    free(memory);
    device.finish();
}

#[test]
fn time_passes_with_work() {
    let device = Device::new(5);
    let (a, memory) = (stream(), alloc(1 << 20));
    let (start, end) = (made(|out| cuEventCreate(Some(out), 0)), made(|out| cuEventCreate(Some(out), 0)));
    let untimed = event();
    ok(cuEventRecord(start, a));
    ok(cuMemsetD8Async(memory, 1, 1 << 20, a));
    ok(cuEventRecord(end, a));
    ok(cuEventRecord(untimed, a));
    let mut out = std::mem::MaybeUninit::uninit();
    fails(cuEventElapsedTime(Some(&mut out), start, end), CuError::NOT_READY);
    synchronize(a);
    assert!(made(|out| cuEventElapsedTime_v2(Some(out), start, end)) > 0.0);
    fails(cuEventElapsedTime(Some(&mut out), start, untimed), CuError::INVALID_HANDLE);
    free(memory);
    [start, end, untimed].into_iter().for_each(|event| ok(cuEventDestroy_v2(event)));
    ok(cuStreamDestroy_v2(a));
    device.finish();
}

#[test]
fn an_event_recorded_again_has_the_time_of_the_later_record() {
    let mut not_ready = 0;
    for seed in 0..SEEDS {
        let device = Device::new(seed);
        let (a, b, memory) = (stream(), stream(), alloc(64));
        let [again, between] = [0; 2].map(|flags| made(|out| cuEventCreate(Some(out), flags)));
        ok(cuEventRecord(again, a));
        ok(cuEventRecord(between, a));
        ok(cuMemsetD8Async(memory, 1, 64, b));
        ok(cuEventRecord(again, b));
        ok(cuEventSynchronize(between));
        let mut out = std::mem::MaybeUninit::uninit();
        if simPendingWork() > 0 {
            not_ready += 1;
            fails(cuEventElapsedTime(Some(&mut out), between, again), CuError::NOT_READY);
        }
        ok(cuCtxSynchronize());
        ok(cuEventElapsedTime(Some(&mut out), between, again));
        free(memory);
        [again, between].into_iter().for_each(|event| ok(cuEventDestroy_v2(event)));
        ok(cuStreamDestroy_v2(a));
        ok(cuStreamDestroy_v2(b));
        device.finish();
    }
    assert!(not_ready > 0);
}

#[test]
fn host_functions_run_in_order_and_may_not_call_the_driver() {
    static ANSWER: Mutex<u32> = Mutex::new(0);
    unsafe extern "C" fn calls_back(_: *mut c_void) {
        *ANSWER.lock().unwrap() = cuCtxSynchronize();
    }
    let device = Device::new(6);
    let a = stream();
    // SAFETY: the function uses no data.
    ok(unsafe { cuLaunchHostFunc(a, Some(calls_back), std::ptr::null_mut()) });
    synchronize(a);
    fails(*ANSWER.lock().unwrap(), CuError::NOT_PERMITTED);
    expect_undefined(&["called from a host function"]);
    ok(cuStreamDestroy_v2(a));
    device.finish();
}

#[test]
fn a_host_function_may_wait_for_a_thread_that_calls_the_driver() {
    static GO: AtomicBool = AtomicBool::new(false);
    unsafe extern "C" fn waits(_: *mut c_void) {
        while !GO.load(SeqCst) {
            std::thread::yield_now();
        }
    }
    for seed in 0..20 {
        let device = Device::new(seed);
        GO.store(false, SeqCst);
        let (a, b) = (stream(), stream());
        // SAFETY: the function uses no data.
        ok(unsafe { cuLaunchHostFunc(a, Some(waits), std::ptr::null_mut()) });
        order(a, b);
        let context = made(|out| cuCtxGetCurrent(Some(out)));
        std::thread::scope(|scope| {
            scope.spawn(|| {
                ok(cuCtxSetCurrent(context));
                synchronize(b);
            });
            let memory = alloc(64);
            free(memory);
            GO.store(true, SeqCst);
            synchronize(b);
        });
        ok(cuStreamDestroy_v2(a));
        ok(cuStreamDestroy_v2(b));
        device.finish();
    }
}

#[test]
fn a_host_function_never_holds_up_the_caller_it_waits_for() {
    static ALLOWED: Mutex<()> = Mutex::new(());
    unsafe extern "C" fn needs_the_lock(_: *mut c_void) {
        drop(ALLOWED.lock().unwrap());
    }
    for seed in 0..20 {
        let device = Device::new(seed);
        let (a, b) = (stream(), stream());
        let held = ALLOWED.lock().unwrap();
        // SAFETY: the function uses no data.
        ok(unsafe { cuLaunchHostFunc(a, Some(needs_the_lock), std::ptr::null_mut()) });
        synchronize(b);
        for _ in 0..5 {
            fails(cuStreamQuery(a), CuError::NOT_READY);
        }
        drop(held);
        synchronize(a);
        ok(cuStreamDestroy_v2(a));
        ok(cuStreamDestroy_v2(b));
        device.finish();
    }
}

#[test]
fn lanes_of_destroyed_streams_are_used_again_without_mixing_up_their_order() {
    let device = Device::new(7);
    let memory = alloc(64);
    for round in 0..200 {
        let (a, b) = (stream(), stream());
        ok(cuMemsetD8Async(memory, 1, 64, a));
        ok(cuMemsetD8Async(memory, 1, 64, b));
        expect_undefined(&["write after write"]);
        if round % 3 != 0 {
            ok(cuCtxSynchronize());
        }
        ok(cuStreamDestroy_v2(a));
        ok(cuStreamDestroy_v2(b));
        ok(cuCtxSynchronize());
        // A stream that is gone with work in it, and one made after it, know nothing of one another.
        let gone = stream();
        ok(cuMemsetD8Async(memory, 1, 64, gone));
        ok(cuStreamDestroy_v2(gone));
        let fresh = stream();
        ok(cuMemsetD8Async(memory, 1, 64, fresh));
        expect_undefined(&["write after write"]);
        ok(cuStreamDestroy_v2(fresh));
        ok(cuCtxSynchronize());
    }
    free(memory);
    device.finish();
}
