//! Initialization, and what the device is.

use super::{check_device, given};
use crate::fault::Class;
use crate::result::{CuError, CuResult};
use crate::session::call_anywhere;
use crate::types::{Device, Out};
use std::ffi::c_char;

/// Begins everything. `CUDA_ERROR_NO_DEVICE` where the settings say that there is none.
#[unsafe(no_mangle)]
pub extern "C" fn cuInit(flags: u32) -> CuResult {
    call_anywhere("cuInit", Class::Always, |sim| {
        if let Some(mistake) = &sim.config.mistake {
            eprintln!("driver-sim: {mistake}");
            return Err(CuError::UNKNOWN);
        }
        if flags != 0 {
            return Err(CuError::INVALID_VALUE);
        }
        if sim.config.devices == 0 {
            return Err(CuError::NO_DEVICE);
        }
        sim.initialized = true;
        Ok(())
    })
}

/// Writes the version of the driver's ABI, 12080.
#[unsafe(no_mangle)]
pub extern "C" fn cuDriverGetVersion(version: Out<'_, i32>) -> CuResult {
    call_anywhere("cuDriverGetVersion", Class::Always, |_| {
        given(version)?.write(VERSION);
        Ok(())
    })
}

/// Writes the number of devices.
#[unsafe(no_mangle)]
pub extern "C" fn cuDeviceGetCount(count: Out<'_, i32>) -> CuResult {
    call_anywhere("cuDeviceGetCount", Class::Constant, |sim| {
        given(count)?.write(sim.config.devices);
        Ok(())
    })
}

/// Writes the device of an ordinal.
#[unsafe(no_mangle)]
pub extern "C" fn cuDeviceGet(device: Out<'_, Device>, ordinal: i32) -> CuResult {
    call_anywhere("cuDeviceGet", Class::Constant, |sim| {
        check_device(ordinal, sim.config.devices)?;
        given(device)?.write(ordinal);
        Ok(())
    })
}

/// Writes the device's name, cut to `len` bytes with its NUL.
///
/// # Safety
/// `name` is null or writable for `len` bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuDeviceGetName(name: *mut c_char, len: i32, device: Device) -> CuResult {
    call_anywhere("cuDeviceGetName", Class::Constant, |sim| {
        check_device(device, sim.config.devices)?;
        let capacity = usize::try_from(len).map_err(|_| CuError::INVALID_VALUE)?;
        if name.is_null() || capacity == 0 {
            return Err(CuError::INVALID_VALUE);
        }
        // SAFETY: by the contract of this function.
        unsafe { super::control::write_text(NAME, name, capacity) };
        // SAFETY: as above; the last byte is within what was passed.
        unsafe { name.add(NAME.len().min(capacity - 1)).write(0) };
        Ok(())
    })
}

/// Writes the device's 16 bytes of identity.
#[unsafe(no_mangle)]
pub extern "C" fn cuDeviceGetUuid(uuid: Out<'_, [u8; 16]>, device: Device) -> CuResult {
    write_uuid("cuDeviceGetUuid", uuid, device)
}

/// Writes the device's 16 bytes of identity.
#[unsafe(no_mangle)]
pub extern "C" fn cuDeviceGetUuid_v2(uuid: Out<'_, [u8; 16]>, device: Device) -> CuResult {
    write_uuid("cuDeviceGetUuid_v2", uuid, device)
}

fn write_uuid(name: &'static str, uuid: Out<'_, [u8; 16]>, device: Device) -> CuResult {
    call_anywhere(name, Class::Constant, |sim| {
        check_device(device, sim.config.devices)?;
        given(uuid)?.write(*b"driver-sim 00000");
        Ok(())
    })
}

/// Writes the device's memory in bytes.
#[unsafe(no_mangle)]
pub extern "C" fn cuDeviceTotalMem_v2(bytes: Out<'_, usize>, device: Device) -> CuResult {
    call_anywhere("cuDeviceTotalMem_v2", Class::Constant, |sim| {
        check_device(device, sim.config.devices)?;
        given(bytes)?.write(usize::try_from(sim.config.memory).unwrap_or(usize::MAX));
        Ok(())
    })
}

/// Writes an attribute of the device. Known ones that mean nothing here are 0.
#[unsafe(no_mangle)]
pub extern "C" fn cuDeviceGetAttribute(value: Out<'_, i32>, attribute: u32, device: Device) -> CuResult {
    call_anywhere("cuDeviceGetAttribute", Class::Constant, |sim| {
        check_device(device, sim.config.devices)?;
        if !(1..LAST_ATTRIBUTE).contains(&attribute) {
            return Err(CuError::INVALID_VALUE);
        }
        let found = match attribute {
            MEMORY_POOLS_SUPPORTED => i32::from(sim.config.pools),
            _ => ATTRIBUTES.iter().find(|row| row.0 == attribute).map_or(0, |row| row.1),
        };
        given(value)?.write(found);
        Ok(())
    })
}

/// Writes the compute capability, 9.0.
#[unsafe(no_mangle)]
pub extern "C" fn cuDeviceComputeCapability(
    major: Out<'_, i32>,
    minor: Out<'_, i32>,
    device: Device,
) -> CuResult {
    call_anywhere("cuDeviceComputeCapability", Class::Constant, |sim| {
        check_device(device, sim.config.devices)?;
        given(major)?.write(9);
        given(minor)?.write(0);
        Ok(())
    })
}

const VERSION: i32 = 12_080;
const NAME: &str = "driver-sim (runs in host memory, no GPU)";
const MEMORY_POOLS_SUPPORTED: u32 = 115;
/// Attributes from here on are unknown to CUDA 12.8.
const LAST_ATTRIBUTE: u32 = 145;
const ATTRIBUTES: &[(u32, i32)] = &[
    (1, 1024),       // threads in a block
    (2, 1024),       // block x
    (3, 1024),       // block y
    (4, 64),         // block z
    (5, i32::MAX),   // grid x
    (6, 65_535),     // grid y
    (7, 65_535),     // grid z
    (8, 49_152),     // shared memory in a block
    (10, 32),        // warp
    (13, 1_000_000), // clock in kHz
    (15, 1),         // copies beside kernels
    (16, 1),         // multiprocessors
    (19, 1),         // maps host memory
    (31, 1),         // concurrent kernels
    (32, 1),         // ECC
    (39, 2048),      // threads in a multiprocessor
    (40, 2),         // copy engines
    (41, 1),         // unified addressing
    (75, 9),         // compute capability, major
    (76, 0),         // and minor
    (78, 1),         // stream priorities
    (91, 1),         // host pointers of registered memory are device pointers
    (99, 1),         // registers host memory
    (102, 1),        // virtual-memory functions
];
