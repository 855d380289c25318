//! The library as a program finds it: its symbols, its settings, and the status that a process ends with.
//!
//! Each case is a test of this binary that runs in a process of its own, started with settings in its environment.

#![cfg(all(target_os = "linux", target_pointer_width = "64"))]
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on should stop where it stands")]

mod common;

use common::*;
use driver_sim::abi::{context::*, control::*, copy::*, device::*};
use driver_sim::{CuError, EXIT_STATUS};
use std::ffi::{CString, c_char, c_int, c_void};
use std::process::{Command, Output};

/// Runs the case `name` alone, and everything it prints is returned.
fn run(name: &str, settings: &[(&str, &str)]) -> (Option<i32>, String) {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", name, "--ignored", "--nocapture", "--test-threads=1"]);
    command.envs(settings.iter().copied());
    let Output { status, stdout, stderr } = command.output().unwrap();
    let text = [stdout, stderr].concat();
    (status.code(), String::from_utf8_lossy(&text).into_owned())
}

fn begin() {
    ok(cuInit(0));
    ok(cuCtxSetCurrent(made(|out| cuDevicePrimaryCtxRetain(Some(out), 0))));
}

fn end() {
    ok(cuDevicePrimaryCtxRelease_v2(0));
}

#[test]
#[ignore = "a case: run by the tests below"]
fn case_clean() {
    begin();
    free(alloc(100));
    end();
}

#[test]
#[ignore = "a case: run by the tests below"]
fn case_leak() {
    begin();
    alloc(100);
    end();
}

#[test]
#[ignore = "a case: run by the tests below"]
fn case_undefined() {
    begin();
    let memory = alloc(100);
    ok(cuMemcpyDtoDAsync_v2(memory, memory + 10, 20, 0));
    ok(cuCtxSynchronize());
    free(memory);
    end();
}

#[test]
#[ignore = "a case: run by the tests below"]
fn case_fault() {
    begin();
    let memory = alloc(100);
    let answer = cuMemsetD8Async(memory, 1, 100, 0);
    println!("refused: {}", answer == CuError::OUT_OF_MEMORY.code());
    free(memory);
    end();
}

#[test]
#[ignore = "a case: run by the tests below"]
fn case_init() {
    println!("init: {}", cuInit(0));
}

#[test]
fn a_clean_process_ends_well() {
    let (status, text) = run("case_clean", &[]);
    assert_eq!(status, Some(0), "{text}");
}

#[test]
fn a_leak_is_an_exit_status() {
    let (status, text) = run("case_leak", &[]);
    assert_eq!(status, Some(EXIT_STATUS), "{text}");
    assert!(text.contains("1 × device memory, 100 bytes"), "{text}");
    let (status, text) = run("case_leak", &[("CUDA_SIM_ON_LEAK", "report")]);
    assert!(status == Some(0) && text.contains("1 × device memory, 100 bytes"), "{text}");
    let (status, text) = run("case_leak", &[("CUDA_SIM_ON_LEAK", "ignore")]);
    assert!(status == Some(0) && !text.contains("device memory"), "{text}");
}

#[test]
fn an_undefined_use_is_an_exit_status() {
    let (status, text) = run("case_undefined", &[]);
    assert_eq!(status, Some(EXIT_STATUS), "{text}");
    assert!(text.contains("undefined use: cuMemcpyDtoDAsync_v2: the 20 bytes"), "{text}");
    let (status, text) = run("case_undefined", &[("CUDA_SIM_ON_UNDEFINED", "count")]);
    assert_eq!(status, Some(0), "{text}");
    let (status, text) = run("case_undefined", &[("CUDA_SIM_ON_UNDEFINED", "abort")]);
    assert_eq!(status, None, "ended by a signal: {text}");
}

#[test]
fn settings_come_from_the_environment() {
    let (status, text) = run("case_fault", &[("CUDA_SIM_FAULTS", "OUT_OF_MEMORY@cuMemsetD8Async:1")]);
    assert!(status == Some(0) && text.contains("refused: true"), "{text}");
    let (_, text) = run("case_init", &[("CUDA_SIM_DEVICES", "0")]);
    assert!(text.contains("init: 100"), "{text}");
    let (_, text) = run("case_init", &[("CUDA_SIM_SEED", "many")]);
    assert!(text.contains("init: 999") && text.contains("CUDA_SIM_SEED"), "{text}");
    let (_, text) = run("case_clean", &[("CUDA_SIM_TRACE", "1")]);
    assert!(text.contains("driver-sim: cuMemAlloc_v2\n"), "{text}");
}

unsafe extern "C" {
    fn dlopen(path: *const c_char, flags: c_int) -> *mut c_void;
    fn dlsym(library: *mut c_void, name: *const c_char) -> *mut c_void;
}

#[test]
fn the_shared_library_exports_every_function() {
    // Cargo puts it beside the tests' folder or, under its other name, into the folder of this binary.
    let folder = std::env::current_exe().unwrap().parent().unwrap().to_path_buf();
    let path = folder.join("libdriver_sim.so");
    assert!(path.exists(), "{} was not built", path.display());
    let path = CString::new(path.to_str().unwrap()).unwrap();
    // SAFETY: the path ends with NUL; the library runs nothing when it is loaded.
    let library = unsafe { dlopen(path.as_ptr(), 2) };
    assert!(!library.is_null());
    let names = SYMBOLS.split_whitespace();
    let missing: Vec<_> = names
        .filter(|name| {
            let name = CString::new(*name).unwrap();
            // SAFETY: the library is loaded, and the name ends with NUL.
            unsafe { dlsym(library, name.as_ptr()) }.is_null()
        })
        .collect();
    assert!(missing.is_empty(), "{missing:?}");
    // SAFETY: the library is loaded, and the function is its `simVersion`.
    let version: extern "C" fn() -> u32 =
        unsafe { std::mem::transmute(dlsym(library, c"simVersion".as_ptr())) };
    assert_eq!(version(), simVersion());
}

const SYMBOLS: &str = "
    cuInit cuDriverGetVersion cuDeviceGetCount cuDeviceGet cuDeviceGetName cuDeviceGetUuid cuDeviceGetUuid_v2
    cuDeviceTotalMem_v2 cuDeviceGetAttribute cuDeviceComputeCapability cuGetErrorName cuGetErrorString
    cuDevicePrimaryCtxRetain cuDevicePrimaryCtxRelease_v2 cuDevicePrimaryCtxSetFlags_v2 cuDevicePrimaryCtxGetState
    cuCtxCreate_v2 cuCtxCreate_v3 cuCtxCreate_v4 cuCtxDestroy_v2 cuCtxGetCurrent cuCtxSetCurrent
    cuCtxPushCurrent_v2 cuCtxPopCurrent_v2 cuCtxGetDevice cuCtxSynchronize cuCtxSetFlags cuCtxGetFlags
    cuCtxGetStreamPriorityRange cuCtxSetLimit cuCtxGetLimit
    cuMemAlloc_v2 cuMemFree_v2 cuMemAllocAsync cuMemFreeAsync cuMemGetInfo_v2 cuMemAllocManaged
    cuMemGetAddressRange_v2 cuPointerGetAttribute
    cuDeviceGetDefaultMemPool cuDeviceGetMemPool cuDeviceSetMemPool cuMemPoolCreate cuMemPoolDestroy cuMemPoolTrimTo
    cuMemPoolGetAttribute cuMemPoolSetAttribute cuMemAllocFromPoolAsync
    cuMemcpyHtoD_v2 cuMemcpyDtoH_v2 cuMemcpyDtoD_v2 cuMemcpy cuMemcpyHtoDAsync_v2 cuMemcpyDtoHAsync_v2
    cuMemcpyDtoDAsync_v2 cuMemcpyPeerAsync cuMemcpyAsync cuMemcpyBatchAsync cuMemcpyBatchAsync_v2
    cuMemsetD8_v2 cuMemsetD32_v2 cuMemsetD8Async cuMemsetD16Async cuMemsetD32Async
    cuStreamCreate cuStreamCreateWithPriority cuStreamDestroy_v2 cuStreamSynchronize cuStreamQuery cuStreamWaitEvent
    cuStreamGetCtx cuStreamGetFlags cuStreamGetPriority cuStreamBeginCapture_v2 cuStreamEndCapture cuStreamIsCapturing
    cuEventCreate cuEventDestroy_v2 cuEventRecord cuEventRecordWithFlags cuEventQuery cuEventSynchronize
    cuEventElapsedTime cuEventElapsedTime_v2
    cuMemHostAlloc cuMemAllocHost_v2 cuMemFreeHost cuMemHostRegister_v2 cuMemHostUnregister
    cuMemHostGetDevicePointer_v2 cuMemHostGetFlags
    cuMemGetAllocationGranularity cuMemAddressReserve cuMemAddressFree cuMemCreate cuMemRelease cuMemMap cuMemUnmap
    cuMemSetAccess cuMemGetAccess cuMemRetainAllocationHandle cuMemGetAllocationPropertiesFromHandle
    cuMemExportToShareableHandle cuMemImportFromShareableHandle
    cuModuleLoad cuModuleLoadData cuModuleLoadDataEx cuModuleUnload cuModuleGetFunction cuModuleGetGlobal_v2
    cuFuncGetAttribute cuFuncSetAttribute cuLaunchKernel cuLaunchKernelEx cuLaunchHostFunc
    simVersion simReset simSetSeed simSetMemory simSetPools simSetPageable simInjectFault simInjectFaultAt
    simClearFaults simFaultsStruck simCallCount simCallCountOf simUndefinedUses simUndefinedUse
    simForgiveUndefinedUses simLeaks simReport simPendingWork simCopiedBytes simHostAccess";
