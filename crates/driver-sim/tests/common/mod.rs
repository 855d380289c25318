//! What the tests share: the one device, taken for a test, and short names for calls that must succeed.

#![allow(dead_code, reason = "each test binary uses a part of it")]

use driver_sim::abi::{context::*, control::*, copy::*, device::*, event::*, host::*, memory::*, stream::*};
use driver_sim::{CuError, CuResult, Event, SUCCESS, Stream};
use std::mem::MaybeUninit;
use std::sync::{Mutex, MutexGuard, PoisonError};

static DEVICE: Mutex<()> = Mutex::new(());

/// A fresh device with a current context, for one test at a time.
pub(crate) struct Device {
    _taken: MutexGuard<'static, ()>,
}

impl Device {
    pub(crate) fn new(seed: u64) -> Self {
        let taken = DEVICE.lock().unwrap_or_else(PoisonError::into_inner);
        simReset(seed);
        simSetMemory(1 << 30);
        simSetPools(1);
        simSetPageable(0);
        ok(cuInit(0));
        let context = made(|out| cuDevicePrimaryCtxRetain(Some(out), 0));
        ok(cuCtxSetCurrent(context));
        Device { _taken: taken }
    }

    /// Ends the test: nothing undefined was found, nothing is left.
    pub(crate) fn finish(self) {
        expect_undefined(&[]);
        ok(cuDevicePrimaryCtxRelease_v2(0));
        let left = leaks();
        assert!(left.0 == 0, "{}", left.1);
    }

    /// Ends a test that broke the device.
    pub(crate) fn finish_broken(self) {
        expect_undefined(&[]);
        assert_ne!(cuDevicePrimaryCtxRelease_v2(0), SUCCESS);
        let left = leaks();
        assert!(left.0 == 0, "{}", left.1);
    }
}

/// Page-locked memory of the device's.
pub(crate) struct Pinned {
    at: *mut u8,
    len: usize,
}

impl Pinned {
    pub(crate) fn new(len: usize) -> Self {
        Pinned { at: made(|out| cuMemHostAlloc(Some(out), len, 0)).cast(), len }
    }

    pub(crate) fn filled(len: usize, value: u8) -> Self {
        let pinned = Pinned::new(len);
        pinned.bytes().fill(value);
        pinned
    }

    pub(crate) fn ptr(&self) -> *mut std::ffi::c_void {
        self.at.cast()
    }

    #[allow(clippy::mut_from_ref, reason = "the memory is the device's; a test uses it from one thread")]
    pub(crate) fn bytes(&self) -> &mut [u8] {
        // SAFETY: the device allocated `len` bytes there, and a test holds one slice at a time.
        unsafe { std::slice::from_raw_parts_mut(self.at, self.len) }
    }

    pub(crate) fn free(self) {
        ok(cuMemFreeHost(self.ptr()));
    }
}

pub(crate) fn ok(answer: CuResult) {
    assert_eq!(answer, SUCCESS, "undefined uses: {:?}", undefined());
}

pub(crate) fn fails(answer: CuResult, error: CuError) {
    assert_eq!(answer, error.code(), "undefined uses: {:?}", undefined());
}

/// What a call writes that must succeed.
pub(crate) fn made<T>(call: impl FnOnce(&mut MaybeUninit<T>) -> CuResult) -> T {
    let mut out = MaybeUninit::uninit();
    ok(call(&mut out));
    // SAFETY: a call that succeeds has written its result.
    unsafe { out.assume_init() }
}

pub(crate) fn alloc(bytes: usize) -> u64 {
    made(|out| cuMemAlloc_v2(Some(out), bytes))
}

pub(crate) fn free(address: u64) {
    ok(cuMemFree_v2(address));
}

/// A stream that knows nothing of the default stream.
pub(crate) fn stream() -> Stream {
    made(|out| cuStreamCreate(Some(out), 1))
}

pub(crate) fn event() -> Event {
    made(|out| cuEventCreate(Some(out), 2))
}

pub(crate) fn upload(dst: u64, src: &Pinned, stream: Stream) {
    // SAFETY: the source is page-locked memory of that length.
    ok(unsafe { cuMemcpyHtoDAsync_v2(dst, src.ptr(), src.len, stream) });
}

pub(crate) fn download(dst: &Pinned, src: u64, stream: Stream) {
    // SAFETY: the destination is page-locked memory of that length.
    ok(unsafe { cuMemcpyDtoHAsync_v2(dst.ptr(), src, dst.len, stream) });
}

pub(crate) fn synchronize(stream: Stream) {
    ok(cuStreamSynchronize(stream));
}

/// Makes `later` wait for what is in `earlier`.
pub(crate) fn order(earlier: Stream, later: Stream) {
    let event = event();
    ok(cuEventRecord(event, earlier));
    ok(cuStreamWaitEvent(later, event, 0));
    ok(cuEventDestroy_v2(event));
}

/// The undefined uses found, in words.
pub(crate) fn undefined() -> Vec<String> {
    (0..simUndefinedUses())
        .map(|index| {
            let mut text = vec![0u8; 1024];
            // SAFETY: the text has that capacity.
            let len = unsafe { simUndefinedUse(index, text.as_mut_ptr().cast(), text.len()) };
            text.truncate(len);
            String::from_utf8(text).unwrap()
        })
        .collect()
}

/// Checks that exactly these were found, by words that occur in them, and forgets them.
pub(crate) fn expect_undefined(wanted: &[&str]) {
    let found = undefined();
    simForgiveUndefinedUses();
    assert_eq!(found.len(), wanted.len(), "{found:#?}");
    for (found, wanted) in found.iter().zip(wanted) {
        assert!(found.contains(wanted), "{wanted:?} is not in {found:?}");
    }
}

/// Live objects: how many, and in words.
pub(crate) fn leaks() -> (u64, String) {
    let mut text = vec![0u8; 4096];
    // SAFETY: the text has that capacity.
    let count = unsafe { simLeaks(text.as_mut_ptr().cast(), text.len()) };
    let len = text.iter().position(|&byte| byte == 0).unwrap();
    (count, String::from_utf8(text[..len].to_vec()).unwrap())
}
