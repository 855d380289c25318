//! Names and descriptions of results.

use super::given;
use crate::fault::Class;
use crate::result::{CuError, CuResult, description_of, name_of};
use crate::session::call_anywhere;
use crate::types::Out;
use std::ffi::{CStr, c_char};

/// Writes the name of a result, as `CUDA_ERROR_INVALID_VALUE`; an unknown one is an invalid value.
#[unsafe(no_mangle)]
pub extern "C" fn cuGetErrorName(error: u32, text: Out<'_, *const c_char>) -> CuResult {
    look_up("cuGetErrorName", text, name_of(error))
}

/// Writes the description of a result; an unknown one is an invalid value.
#[unsafe(no_mangle)]
pub extern "C" fn cuGetErrorString(error: u32, text: Out<'_, *const c_char>) -> CuResult {
    look_up("cuGetErrorString", text, description_of(error))
}

fn look_up(name: &'static str, text: Out<'_, *const c_char>, found: Option<&'static CStr>) -> CuResult {
    call_anywhere(name, Class::Always, |_| {
        given(text)?.write(found.map_or(std::ptr::null(), CStr::as_ptr));
        found.map(|_| ()).ok_or(CuError::INVALID_VALUE)
    })
}
