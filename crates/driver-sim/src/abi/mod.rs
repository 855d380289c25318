//! The exported functions: the driver's, a file per section of its reference, and those that control the simulator.
//!
//! A function does what the CUDA driver API reference says of it; its documentation here is one line, and what differs.
//! All answer a [`CuResult`](crate::CuResult). Beside what each says, any may answer `CUDA_ERROR_NOT_INITIALIZED`
//! before [`cuInit`](device::cuInit), `CUDA_ERROR_INVALID_CONTEXT` on a thread without a current context,
//! `CUDA_ERROR_NOT_PERMITTED` inside a host function, `CUDA_ERROR_INVALID_VALUE` for a null pointer or an undefined
//! use, and what an earlier or injected fault left.

#![allow(non_snake_case, reason = "these are the driver's names")]

pub mod context;
pub mod control;
pub mod copy;
pub mod device;
pub mod error;
pub mod event;
pub mod host;
pub mod launch;
pub mod memory;
pub mod module;
pub mod pool;
pub mod stream;
pub mod vmm;

use crate::result::CuError;

/// What a caller passed where null is an error.
fn given<T>(argument: Option<T>) -> Result<T, CuError> {
    argument.ok_or(CuError::INVALID_VALUE)
}

/// Refuses all devices but the one there is.
fn check_device(device: i32, devices: i32) -> Result<(), CuError> {
    if (0..devices).contains(&device) { Ok(()) } else { Err(CuError::INVALID_DEVICE) }
}
