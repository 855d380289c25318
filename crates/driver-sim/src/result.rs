//! The driver's result codes: numbers, names and descriptions.

use std::ffi::CStr;

/// A result that is not success: one of the driver's numbers, never another, since bindings read it into an enum.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct CuError(u32);

/// What a driver function answers: 0 or the number of a [`CuError`].
pub type CuResult = u32;

/// The number of success.
pub const SUCCESS: CuResult = 0;

impl CuError {
    /// The number that the driver answers.
    pub const fn code(self) -> CuResult {
        self.0
    }

    /// The name as in `cuda.h`.
    pub fn name(self) -> &'static CStr {
        name_of(self.0).unwrap_or(c"CUDA_ERROR_UNKNOWN")
    }
}

impl core::fmt::Debug for CuError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str(&self.name().to_string_lossy())
    }
}

/// Name of a result code, `None` for a number that this driver never answers.
pub(crate) fn name_of(code: CuResult) -> Option<&'static CStr> {
    TABLE.iter().find(|row| row.0 == code).map(|row| row.1)
}

/// Description of a result code, `None` for a number that this driver never answers.
pub(crate) fn description_of(code: CuResult) -> Option<&'static CStr> {
    TABLE.iter().find(|row| row.0 == code).map(|row| row.2)
}

macro_rules! codes {
    ($($constant:ident = $code:literal, $name:literal, $text:literal;)*) => {
        impl CuError {
            $(#[doc = concat!("`", stringify!($constant), "`: ", $code, ".")]
            pub const $constant: CuError = CuError($code);)*
        }

        const TABLE: &[(CuResult, &CStr, &CStr)] = &[
            (SUCCESS, c"CUDA_SUCCESS", c"no error"),
            $(($code, $name, $text),)*
        ];
    };
}

codes! {
    INVALID_VALUE = 1, c"CUDA_ERROR_INVALID_VALUE", c"invalid argument";
    OUT_OF_MEMORY = 2, c"CUDA_ERROR_OUT_OF_MEMORY", c"out of memory";
    NOT_INITIALIZED = 3, c"CUDA_ERROR_NOT_INITIALIZED", c"initialization error";
    DEVICE_UNAVAILABLE = 46, c"CUDA_ERROR_DEVICE_UNAVAILABLE", c"CUDA-capable device(s) is/are busy or unavailable";
    NO_DEVICE = 100, c"CUDA_ERROR_NO_DEVICE", c"no CUDA-capable device is detected";
    INVALID_DEVICE = 101, c"CUDA_ERROR_INVALID_DEVICE", c"invalid device ordinal";
    INVALID_CONTEXT = 201, c"CUDA_ERROR_INVALID_CONTEXT", c"invalid device context";
    NO_BINARY_FOR_GPU = 209, c"CUDA_ERROR_NO_BINARY_FOR_GPU", c"no kernel image is available for execution on the device";
    ECC_UNCORRECTABLE = 214, c"CUDA_ERROR_ECC_UNCORRECTABLE", c"uncorrectable ECC error encountered";
    UNSUPPORTED_LIMIT = 215, c"CUDA_ERROR_UNSUPPORTED_LIMIT", c"limit is not supported on this architecture";
    INVALID_PTX = 218, c"CUDA_ERROR_INVALID_PTX", c"a PTX JIT compilation failed";
    CONTAINED = 226, c"CUDA_ERROR_CONTAINED", c"Invalid access of peer GPU memory over nvlink or a hardware error";
    FILE_NOT_FOUND = 301, c"CUDA_ERROR_FILE_NOT_FOUND", c"file not found";
    INVALID_HANDLE = 400, c"CUDA_ERROR_INVALID_HANDLE", c"invalid resource handle";
    NOT_FOUND = 500, c"CUDA_ERROR_NOT_FOUND", c"named symbol not found";
    NOT_READY = 600, c"CUDA_ERROR_NOT_READY", c"device not ready";
    ILLEGAL_ADDRESS = 700, c"CUDA_ERROR_ILLEGAL_ADDRESS", c"an illegal memory access was encountered";
    CONTEXT_IS_DESTROYED = 709, c"CUDA_ERROR_CONTEXT_IS_DESTROYED", c"context is destroyed";
    HOST_MEMORY_ALREADY_REGISTERED = 712, c"CUDA_ERROR_HOST_MEMORY_ALREADY_REGISTERED", c"part or all of the requested memory range is already mapped";
    HOST_MEMORY_NOT_REGISTERED = 713, c"CUDA_ERROR_HOST_MEMORY_NOT_REGISTERED", c"pointer does not correspond to a registered memory region";
    MISALIGNED_ADDRESS = 716, c"CUDA_ERROR_MISALIGNED_ADDRESS", c"misaligned address";
    LAUNCH_FAILED = 719, c"CUDA_ERROR_LAUNCH_FAILED", c"unspecified launch failure";
    TENSOR_MEMORY_LEAK = 721, c"CUDA_ERROR_TENSOR_MEMORY_LEAK", c"tensor memory leak";
    NOT_PERMITTED = 800, c"CUDA_ERROR_NOT_PERMITTED", c"operation not permitted";
    NOT_SUPPORTED = 801, c"CUDA_ERROR_NOT_SUPPORTED", c"operation not supported";
    STREAM_CAPTURE_UNSUPPORTED = 900, c"CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED", c"operation not permitted when stream is capturing";
    STREAM_CAPTURE_INVALIDATED = 901, c"CUDA_ERROR_STREAM_CAPTURE_INVALIDATED", c"operation failed due to a previous error during capture";
    ILLEGAL_STATE = 401, c"CUDA_ERROR_ILLEGAL_STATE", c"the operation cannot be performed in the present state";
    UNKNOWN = 999, c"CUDA_ERROR_UNKNOWN", c"unknown error";
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_has_a_name_of_its_own() {
        for (index, row) in TABLE.iter().enumerate() {
            assert!(TABLE[..index].iter().all(|other| other.0 != row.0 && other.1 != row.1), "{row:?}");
        }
        assert_eq!(name_of(2), Some(c"CUDA_ERROR_OUT_OF_MEMORY"));
        assert_eq!(name_of(3_000), None);
        assert_eq!(format!("{:?}", CuError::NOT_READY), "CUDA_ERROR_NOT_READY");
    }
}
