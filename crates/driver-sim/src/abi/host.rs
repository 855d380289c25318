//! Page-locked host memory. The device uses it at the host's address.

use super::given;
use crate::fault::Class;
use crate::memory::Origin;
use crate::result::{CuError, CuResult};
use crate::session::call;
use crate::types::{DevicePtr, Out};
use std::ffi::c_void;

/// Allocates page-locked memory, zeroed.
#[unsafe(no_mangle)]
pub extern "C" fn cuMemHostAlloc(pointer: Out<'_, *mut c_void>, bytes: usize, flags: u32) -> CuResult {
    allocate("cuMemHostAlloc", pointer, bytes, flags)
}

/// Allocates page-locked memory without flags.
#[unsafe(no_mangle)]
pub extern "C" fn cuMemAllocHost_v2(pointer: Out<'_, *mut c_void>, bytes: usize) -> CuResult {
    allocate("cuMemAllocHost_v2", pointer, bytes, 0)
}

fn allocate(name: &'static str, pointer: Out<'_, *mut c_void>, bytes: usize, flags: u32) -> CuResult {
    call(name, Class::Allocate, |sim| {
        let pointer = given(pointer)?;
        if bytes == 0 || flags & !ALLOC_FLAGS != 0 {
            return Err(CuError::INVALID_VALUE);
        }
        let at = sim.memory.allocate(bytes as u64, Origin::HostAlloc(flags), name)?;
        pointer.write(std::ptr::with_exposed_provenance_mut(at as usize));
        Ok(())
    })
}

/// Frees what `cuMemHostAlloc` gave. The host must know that no work uses it any more.
#[unsafe(no_mangle)]
pub extern "C" fn cuMemFreeHost(pointer: *mut c_void) -> CuResult {
    call("cuMemFreeHost", Class::Release, |sim| {
        let at = pointer.addr() as u64;
        sim.retire(at, |origin| matches!(origin, Origin::HostAlloc(_)))?;
        sim.memory.remove(at, "cuMemFreeHost");
        Ok(())
    })
}

/// Page-locks memory of the program's. Any of it that is registered already is an error.
#[unsafe(no_mangle)]
pub extern "C" fn cuMemHostRegister_v2(pointer: *mut c_void, bytes: usize, flags: u32) -> CuResult {
    call("cuMemHostRegister_v2", Class::Allocate, |sim| {
        if pointer.is_null() || bytes == 0 || flags & !REGISTER_FLAGS != 0 {
            return Err(CuError::INVALID_VALUE);
        }
        let at = pointer.expose_provenance() as u64;
        sim.memory.register(at, bytes as u64, flags, "cuMemHostRegister_v2")
    })
}

/// Ends a registration, by its first address. The host must know that no work uses the memory any more.
#[unsafe(no_mangle)]
pub extern "C" fn cuMemHostUnregister(pointer: *mut c_void) -> CuResult {
    call("cuMemHostUnregister", Class::Release, |sim| {
        let at = pointer.addr() as u64;
        sim.retire(at, |origin| matches!(origin, Origin::Registered(_)))
            .map_err(|_| CuError::HOST_MEMORY_NOT_REGISTERED)?;
        sim.memory.remove(at, "cuMemHostUnregister");
        Ok(())
    })
}

/// Writes the address by which the device uses page-locked memory: the same.
#[unsafe(no_mangle)]
pub extern "C" fn cuMemHostGetDevicePointer_v2(
    address: Out<'_, DevicePtr>,
    pointer: *mut c_void,
    flags: u32,
) -> CuResult {
    call("cuMemHostGetDevicePointer_v2", Class::Other, |sim| {
        let (address, at) = (given(address)?, pointer.addr() as u64);
        if flags != 0 {
            return Err(CuError::INVALID_VALUE);
        }
        if !sim.memory.mapping_at(at).is_some_and(|(_, mapping)| mapping.origin.is_host()) {
            sim.report(format!("cuMemHostGetDevicePointer_v2: {at:#x} is not page-locked"));
            return Err(CuError::INVALID_VALUE);
        }
        address.write(at);
        Ok(())
    })
}

/// Writes the flags that `cuMemHostAlloc` was given.
#[unsafe(no_mangle)]
pub extern "C" fn cuMemHostGetFlags(flags: Out<'_, u32>, pointer: *mut c_void) -> CuResult {
    call("cuMemHostGetFlags", Class::Other, |sim| {
        let found = sim.memory.mapping_at(pointer.addr() as u64).map(|(_, mapping)| mapping.origin);
        match found {
            Some(Origin::HostAlloc(given_flags) | Origin::Registered(given_flags)) => {
                given(flags)?.write(given_flags);
                Ok(())
            }
            _ => Err(CuError::INVALID_VALUE),
        }
    })
}

/// Portable, device-mapped, write-combined.
const ALLOC_FLAGS: u32 = 7;
/// Portable, device-mapped, I/O memory, read-only.
const REGISTER_FLAGS: u32 = 15;
