//! The driver's library: whether it is there, and whether it has what is needed.
//!
//! cudarc loads the library and each function at first use, and panics where one is missing. Everything here asks first.

use crate::CudaError;
use cudarc::driver::sys;
use std::sync::OnceLock;

/// Whether the CUDA driver's library can be opened. Asked once for the life of the process; never panics.
pub fn is_present() -> bool {
    static PRESENT: OnceLock<bool> = OnceLock::new();
    // SAFETY: opens the library of that name, if there is one, and closes it again; the driver's initialisers are safe
    // to run.
    *PRESENT.get_or_init(|| unsafe { sys::is_culib_present() })
}

/// Opens and initialises the driver.
///
/// # Errors
/// No library, one that lacks a function this crate calls, or no driver behind it.
pub(crate) fn init() -> Result<(), CudaError> {
    if !is_present() {
        return Err(CudaError::NoLibrary);
    }
    require(ALWAYS)?;
    // SAFETY: the function exists; it may be called any number of times.
    match unsafe { sys::cuInit(0) } {
        sys::CUresult::CUDA_SUCCESS => Ok(()),
        code => Err(CudaError::NoDriver { call: "cuInit", code }),
    }
}

/// Whether the driver has all of `symbols`, which end in a NUL. Call after [`is_present`] said yes.
///
/// # Errors
/// The first it lacks.
pub(crate) fn require(symbols: &[&'static str]) -> Result<(), CudaError> {
    match symbols.iter().find(|symbol| !has(symbol)) {
        None => Ok(()),
        Some(symbol) => Err(CudaError::NoSymbol { symbol: symbol.trim_end_matches('\0') }),
    }
}

/// Whether the driver has a function; the name ends in a NUL.
pub(crate) fn has(symbol: &str) -> bool {
    // SAFETY: the library is present, so this does not panic; the symbol is looked up and not called.
    unsafe { sys::culib().get::<unsafe extern "C" fn()>(symbol.as_bytes()).is_ok() }
}

/// What virtual memory management needs.
pub(crate) const VIRTUAL: &[&str] = &[
    "cuMemGetAllocationGranularity\0",
    "cuMemAddressReserve\0",
    "cuMemAddressFree\0",
    "cuMemCreate\0",
    "cuMemRelease\0",
    "cuMemMap\0",
    "cuMemUnmap\0",
    "cuMemSetAccess\0",
];

/// Many copies in one call: since CUDA 12.8.
pub(crate) const BATCH: &str = "cuMemcpyBatchAsync\0";

/// What a kernel needs.
pub(crate) const KERNEL: &[&str] =
    &["cuModuleLoadData\0", "cuModuleGetFunction\0", "cuModuleUnload\0", "cuLaunchKernel\0"];

/// Whether a stream is being captured: since CUDA 10.
pub(crate) const CAPTURE: &str = "cuStreamIsCapturing\0";

/// What the calling thread may do while streams are captured: since CUDA 10.1.
pub(crate) const CAPTURE_MODE: &str = "cuThreadExchangeStreamCaptureMode\0";

/// The identity of a device, or of the part of one that the process sees: since CUDA 11.4, and before that.
pub(crate) const UUID: [&str; 2] = ["cuDeviceGetUuid_v2\0", "cuDeviceGetUuid\0"];

/// What every device needs, the functions that cudarc calls for us included.
const ALWAYS: &[&str] = &[
    "cuInit\0",
    "cuDriverGetVersion\0",
    "cuGetErrorString\0",
    "cuDeviceGet\0",
    "cuDeviceGetAttribute\0",
    "cuDeviceGetCount\0",
    "cuDeviceGetName\0",
    "cuDeviceTotalMem_v2\0",
    "cuDevicePrimaryCtxRetain\0",
    "cuDevicePrimaryCtxRelease_v2\0",
    "cuCtxGetCurrent\0",
    "cuCtxSetCurrent\0",
    "cuCtxSynchronize\0",
    "cuStreamCreate\0",
    "cuStreamDestroy_v2\0",
    "cuStreamSynchronize\0",
    "cuStreamWaitEvent\0",
    "cuEventCreate\0",
    "cuEventDestroy_v2\0",
    "cuEventRecord\0",
    "cuEventQuery\0",
    "cuEventSynchronize\0",
    "cuMemAlloc_v2\0",
    "cuMemFree_v2\0",
    "cuMemFreeAsync\0",
    "cuMemGetInfo_v2\0",
    "cuMemHostAlloc\0",
    "cuMemFreeHost\0",
    "cuMemHostRegister_v2\0",
    "cuMemHostUnregister\0",
    "cuPointerGetAttribute\0",
    "cuMemcpyHtoDAsync_v2\0",
    "cuMemcpyDtoHAsync_v2\0",
    "cuMemcpyDtoDAsync_v2\0",
];
