//! Modules of PTX text, and host twins in their place.

#![cfg(all(target_os = "linux", target_pointer_width = "64"))]
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on should stop where it stands")]

mod common;

use common::*;
use driver_sim::abi::{context::*, control::*, copy::*, launch::*, module::*, stream::*};
use driver_sim::{CuError, CuResult, Function, LaunchConfig, Module, Stream};
use std::ffi::{CStr, c_void};

const PTX: &CStr = c"
.version 7.0
.target sm_50
.address_size 64
.visible .entry fill_u32(.param .u64 dst, .param .u64 n, .param .u32 value) { ret; }
.visible .entry add_u32(.param .u64 dst, .param .u64 n, .param .u32 value) { ret; }
.visible .entry copy_u32(.param .u64 dst, .param .u64 src, .param .u64 n) { ret; }
.visible .entry move_bytes(.param .u64 dst, .param .u64 src, .param .u64 n) { ret; }
.visible .entry copy_many(.param .align 8 .b8 copies[4080], .param .u32 count) { ret; }
.visible .entry has_no_twin(.param .u64 dst) { ret; }
";

fn load(text: &CStr) -> Module {
    // SAFETY: the text ends with NUL.
    made(|out| unsafe { cuModuleLoadData(Some(out), text.as_ptr().cast()) })
}

fn function(module: Module, name: &CStr) -> Function {
    // SAFETY: the name ends with NUL.
    made(|out| unsafe { cuModuleGetFunction(Some(out), module, name.as_ptr()) })
}

fn launch(function: Function, blocks: u32, threads: u32, args: [u64; 3], stream: Stream) -> CuResult {
    let params: Vec<*const c_void> = args.iter().map(|arg| (&raw const *arg).cast()).collect();
    let extra = std::ptr::null();
    // SAFETY: each parameter has at most the 8 bytes that its pointer leads to.
    unsafe { cuLaunchKernel(function, blocks, 1, 1, threads, 1, 1, 0, stream, params.as_ptr(), extra) }
}

fn words(pinned: &Pinned) -> Vec<u32> {
    pinned.bytes().chunks(4).map(|word| u32::from_le_bytes(word.try_into().unwrap())).collect()
}

#[test]
fn twins_do_what_the_kernels_would() {
    for seed in 0..30 {
        let device = Device::new(seed);
        let (module, a, memory, dst) = (load(PTX), stream(), alloc(400), Pinned::new(160));
        let [fill, add, copy, shift] =
            [c"fill_u32", c"add_u32", c"copy_u32", c"move_bytes"].map(|name| function(module, name));
        ok(launch(fill, 2, 32, [memory, 40, 7], a));
        ok(launch(add, 1, 16, [memory, 40, u64::from(u32::MAX)], a));
        ok(launch(copy, 1, 32, [memory + 160, memory, 20], a));
        ok(launch(shift, 1, 1, [memory + 40, memory, 120], a));
        download(&dst, memory, a);
        synchronize(a);
        let mut expected = vec![7; 40];
        expected[..16].fill(6);
        expected.copy_within(0..30, 10);
        assert_eq!(words(&dst), expected, "the second grid had threads for 16 words");
        download(&dst, memory + 160, a);
        synchronize(a);
        assert_eq!(words(&dst)[..20], [[6; 16].as_slice(), &[7; 4]].concat());
        expect_undefined(&["bytes 240..320 of memory"]);
        assert_eq!(simCopiedBytes(3), 160 + 64 + 80 + 120);
        free(memory);
        dst.free();
        ok(cuModuleUnload(module));
        ok(cuStreamDestroy_v2(a));
        device.finish();
    }
}

/// Launches `copy_many` over source, destination and length of each copy, with so many blocks of so many threads.
fn launch_many(
    function: Function,
    (blocks, threads): (u32, u32),
    copies: &[(u64, u64, u32)],
    stream: Stream,
) -> CuResult {
    let (mut list, mut pieces) = (Vec::new(), 0);
    for &(src, dst, len) in copies {
        pieces += len.div_ceil(16 << 10);
        list.extend([src.to_le_bytes(), dst.to_le_bytes()].concat());
        list.extend([len.to_le_bytes(), pieces.to_le_bytes()].concat());
    }
    list.resize(4080, 0);
    let count = copies.len() as u32;
    let params: [*const c_void; 2] = [list.as_ptr().cast(), (&raw const count).cast()];
    let extra = std::ptr::null();
    // SAFETY: the parameters have the lengths that the kernel says.
    unsafe { cuLaunchKernel(function, blocks, 1, 1, threads, 1, 1, 0, stream, params.as_ptr(), extra) }
}

#[test]
fn many_copies_go_piece_by_piece() {
    const K: u64 = 1 << 10;
    let device = Device::new(1);
    let (module, a, src, dst) = (load(PTX), stream(), alloc(64 << 10), alloc(64 << 10));
    let (all, wanted) = (Pinned::new(64 << 10), Pinned::new(64 << 10));
    wanted.bytes().iter_mut().enumerate().for_each(|(at, byte)| *byte = (at / 100) as u8);
    upload(src, &wanted, a);
    upload(dst, &all, a);
    synchronize(a);
    let many = function(module, c"copy_many");
    let copies = [(src + 1, dst, 7), (src + 8 * K, dst + 8 * K, 40 << 10), (src + 50 * K, dst + 50 * K, 100)];
    fails(launch_many(many, (5, 128), &copies, a), CuError::INVALID_VALUE);
    // The last piece of the second copy and all of the third are left out.
    ok(launch_many(many, (3, 256), &copies, a));
    download(&all, dst, a);
    synchronize(a);
    let expect = |all: &Pinned, ranges: &[(std::ops::Range<usize>, usize)]| {
        let mut expected = vec![0; 64 << 10];
        for (to, from) in ranges {
            expected[to.clone()].copy_from_slice(&wanted.bytes()[*from..][..to.len()]);
        }
        assert!(all.bytes() == expected);
    };
    expect(&all, &[(0..7, 1), (8 << 10..40 << 10, 8 << 10)]);
    assert_eq!(simCopiedBytes(3), 7 + (32 << 10));
    // As many as it takes, and one too many.
    ok(launch_many(many, (6, 256), &copies, a));
    download(&all, dst, a);
    synchronize(a);
    expect(&all, &[(0..7, 1), (8 << 10..48 << 10, 8 << 10), (50 << 10..(50 << 10) + 100, 50 << 10)]);
    // The second reads what the first writes; both write the same; one overlaps itself.
    ok(launch_many(many, (2, 256), &[(src, dst, 100), (dst + 99, dst + 200, 100)], a));
    ok(launch_many(many, (2, 256), &[(src, dst, 100), (src + 100, dst + 99, 100)], a));
    ok(launch_many(many, (1, 256), &[(src, src + 50, 100)], a));
    expect_undefined(&["touch the same bytes", "touch the same bytes", "overlaps itself"]);
    synchronize(a);
    free(src);
    free(dst);
    all.free();
    wanted.free();
    ok(cuModuleUnload(module));
    ok(cuStreamDestroy_v2(a));
    device.finish();
}

#[test]
fn launches_are_ordered_like_any_work() {
    for seed in 0..30 {
        let device = Device::new(seed);
        let (module, a, b, memory) = (load(PTX), stream(), stream(), alloc(400));
        let fill = function(module, c"fill_u32");
        ok(launch(fill, 1, 100, [memory, 50, 7], a));
        ok(launch(fill, 1, 100, [memory + 200, 50, 7], b));
        expect_undefined(&[]);
        ok(launch(fill, 1, 100, [memory + 196, 1, 7], b));
        expect_undefined(&["write after write: cuLaunchKernel"]);
        ok(cuModuleUnload(module));
        expect_undefined(&["a kernel of the module has not run"]);
        ok(cuCtxSynchronize());
        free(memory);
        ok(cuStreamDestroy_v2(a));
        ok(cuStreamDestroy_v2(b));
        device.finish();
    }
}

#[test]
fn a_kernel_that_reads_what_nobody_wrote() {
    let device = Device::new(0);
    let (module, a, memory) = (load(PTX), stream(), alloc(400));
    let add = function(module, c"add_u32");
    ok(cuMemsetD32Async(memory, 1, 99, a));
    ok(launch(add, 1, 100, [memory, 100, 7], a));
    synchronize(a);
    expect_undefined(&["kernel add_u32 reads bytes 396..400"]);
    // Moved poison stays poison, and a copy may not overlap itself.
    let (fresh, dst) = (alloc(400), Pinned::new(4));
    ok(launch(function(module, c"move_bytes"), 1, 1, [fresh, fresh + 100, 100], a));
    download(&dst, fresh, a);
    synchronize(a);
    expect_undefined(&["brings bytes 0..4 of memory"]);
    ok(launch(function(module, c"copy_u32"), 1, 10, [memory + 4, memory, 2], a));
    expect_undefined(&["overlaps itself"]);
    synchronize(a);
    free(fresh);
    dst.free();
    free(memory);
    ok(cuModuleUnload(module));
    ok(cuStreamDestroy_v2(a));
    device.finish();
}

#[test]
fn a_kernel_out_of_bounds_breaks_the_context() {
    for (offset, count, error, words) in [
        (0, 101, CuError::ILLEGAL_ADDRESS, "beyond the end of memory"),
        (2, 10, CuError::MISALIGNED_ADDRESS, "is not aligned"),
    ] {
        let device = Device::new(0);
        let (module, a, memory) = (load(PTX), stream(), alloc(400));
        ok(launch(function(module, c"fill_u32"), 1, 128, [memory + offset, count, 7], a));
        expect_undefined(&[words]);
        fails(cuStreamSynchronize(a), error);
        fails(cuStreamSynchronize(a), error);
        fails(cuModuleUnload(module), error);
        fails(cuStreamDestroy_v2(a), error);
        fails(driver_sim::abi::memory::cuMemFree_v2(memory), error);
        device.finish_broken();
    }
}

#[test]
fn what_cannot_be_loaded_or_launched() {
    let device = Device::new(0);
    let mut out = std::mem::MaybeUninit::uninit();
    let mut load_fails = |text: &CStr, error| {
        // SAFETY: the text ends with NUL.
        fails(unsafe { cuModuleLoadData(Some(&mut out), text.as_ptr().cast()) }, error);
    };
    load_fails(c"\x7fELF", CuError::NO_BINARY_FOR_GPU);
    load_fails(c"int main() {}", CuError::INVALID_PTX);
    load_fails(c".version 7.0 .entry fill_u32(.param .u64 a) { ret; }", CuError::INVALID_PTX);
    let (module, a, memory) = (load(PTX), stream(), alloc(400));
    for name in [c"has_no_twin", c"not_there"] {
        // SAFETY: the name ends with NUL.
        fails(unsafe { cuModuleGetFunction(Some(&mut out), module, name.as_ptr()) }, CuError::NOT_FOUND);
    }
    let fill = function(module, c"fill_u32");
    fails(launch(fill, 0, 1, [memory, 1, 1], a), CuError::INVALID_VALUE);
    fails(launch(fill, 1, 1025, [memory, 1, 1], a), CuError::INVALID_VALUE);
    ok(launch(fill, 1, 1, [memory, 0, 1], a));
    let config = LaunchConfig {
        grid: [1; 3],
        block: [1; 3],
        shared_mem_bytes: 0,
        stream: a,
        attrs: std::ptr::null_mut(),
        num_attrs: 1,
    };
    let launch_ex = |config: &LaunchConfig| {
        let args = [memory, 1, 1];
        let params: Vec<*const c_void> = args.iter().map(|arg| (&raw const *arg).cast()).collect();
        // SAFETY: each parameter has at most the 8 bytes that its pointer leads to.
        unsafe { cuLaunchKernelEx(Some(config), fill, params.as_ptr(), std::ptr::null()) }
    };
    fails(launch_ex(&config), CuError::NOT_SUPPORTED);
    ok(launch_ex(&LaunchConfig { num_attrs: 0, ..config }));
    synchronize(a);
    ok(cuModuleUnload(module));
    fails(launch(fill, 1, 1, [memory, 1, 1], a), CuError::INVALID_HANDLE);
    expect_undefined(&["the function"]);
    free(memory);
    ok(cuStreamDestroy_v2(a));
    device.finish();
}
