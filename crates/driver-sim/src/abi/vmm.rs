//! Virtual memory: addresses and physical memory apart. The granularity is 2 MiB.

use super::{check_device, given};
use crate::fault::Class;
use crate::memory::{GRANULE, Rights};
use crate::result::{CuError, CuResult};
use crate::session::{Session, call_anywhere};
use crate::sim::new_handle;
use crate::types::{AccessDesc, AllocationHandle, AllocationProp, DevicePtr, In, MemLocation, Out};
use std::ffi::c_void;
use std::ops::Range;

/// Writes the granularity, minimum and recommended alike.
#[unsafe(no_mangle)]
pub extern "C" fn cuMemGetAllocationGranularity(
    granularity: Out<'_, usize>,
    prop: In<'_, AllocationProp>,
    option: u32,
) -> CuResult {
    call_anywhere("cuMemGetAllocationGranularity", Class::Constant, |sim| {
        check_prop(sim, given(prop)?)?;
        if option > 1 {
            return Err(CuError::INVALID_VALUE);
        }
        given(granularity)?.write(GRANULE as usize);
        Ok(())
    })
}

/// Reserves addresses. The wished address is not looked at.
#[unsafe(no_mangle)]
pub extern "C" fn cuMemAddressReserve(
    address: Out<'_, DevicePtr>,
    bytes: usize,
    alignment: usize,
    _wish: DevicePtr,
    flags: u64,
) -> CuResult {
    call_anywhere("cuMemAddressReserve", Class::Allocate, |sim| {
        let address = given(address)?;
        if flags != 0 {
            return Err(CuError::INVALID_VALUE);
        }
        address.write(sim.memory.reserve(bytes as u64, alignment as u64)?);
        Ok(())
    })
}

/// Gives a whole reservation back, in which nothing is mapped.
#[unsafe(no_mangle)]
pub extern "C" fn cuMemAddressFree(address: DevicePtr, bytes: usize) -> CuResult {
    call_anywhere("cuMemAddressFree", Class::Release, |sim| {
        let freed = sim.memory.free_addresses(address, bytes as u64, "cuMemAddressFree");
        refuse_release(sim, freed)
    })
}

/// Makes physical memory of whole granules, whose contents are poison. It goes when it is released and unmapped.
#[unsafe(no_mangle)]
pub extern "C" fn cuMemCreate(
    handle: Out<'_, AllocationHandle>,
    bytes: usize,
    prop: In<'_, AllocationProp>,
    flags: u64,
) -> CuResult {
    call_anywhere("cuMemCreate", Class::Allocate, |sim| {
        let (handle, bytes) = (given(handle)?, bytes as u64);
        check_prop(sim, given(prop)?)?;
        if flags != 0 {
            return Err(CuError::INVALID_VALUE);
        }
        sim.check_room(bytes)?;
        let number = new_handle() as u64;
        sim.memory.create(number, bytes, "cuMemCreate")?;
        handle.write(number);
        Ok(())
    })
}

/// Takes one reference from physical memory.
#[unsafe(no_mangle)]
pub extern "C" fn cuMemRelease(handle: AllocationHandle) -> CuResult {
    call_anywhere("cuMemRelease", Class::Release, |sim| {
        if sim.memory.release(handle) {
            return Ok(());
        }
        let handle = usize::try_from(handle).unwrap_or(usize::MAX);
        sim.bad_handle("cuMemRelease", "physical memory", handle);
        Err(CuError::INVALID_VALUE)
    })
}

/// Puts physical memory, from its first byte, at reserved addresses where nothing is mapped. No access before
/// [`cuMemSetAccess`].
#[unsafe(no_mangle)]
pub extern "C" fn cuMemMap(
    address: DevicePtr,
    bytes: usize,
    offset: usize,
    handle: AllocationHandle,
    flags: u64,
) -> CuResult {
    call_anywhere("cuMemMap", Class::Allocate, |sim| {
        if offset != 0 || flags != 0 {
            return Err(CuError::INVALID_VALUE);
        }
        let mapped = sim.memory.map(address, bytes as u64, handle);
        explain(sim, mapped)
    })
}

/// Takes whole mappings away. The host must know that no work uses them any more.
#[unsafe(no_mangle)]
pub extern "C" fn cuMemUnmap(address: DevicePtr, bytes: usize) -> CuResult {
    call_anywhere("cuMemUnmap", Class::Release, |sim| {
        let range = range(address, bytes)?;
        let whole = sim.memory.check_unmap(&range);
        refuse_release(sim, whole)?;
        sim.settle(range.clone(), "unmaps");
        sim.memory.unmap(&range, "cuMemUnmap");
        Ok(())
    })
}

/// Sets what the device may do with whole mappings: 0 nothing, 1 read, 3 read and write.
///
/// # Safety
/// `descs` has `count` elements.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemSetAccess(
    address: DevicePtr,
    bytes: usize,
    descs: *const AccessDesc,
    count: usize,
) -> CuResult {
    call_anywhere("cuMemSetAccess", Class::Allocate, |sim| {
        let range = range(address, bytes)?;
        if descs.is_null() || count == 0 {
            return Err(CuError::INVALID_VALUE);
        }
        // SAFETY: by the contract of this function.
        for desc in unsafe { std::slice::from_raw_parts(descs, count) } {
            check_location(sim, &desc.location)?;
            let rights = match desc.flags {
                0 => Rights::None,
                1 => Rights::Read,
                3 => Rights::Write,
                _ => return Err(CuError::INVALID_VALUE),
            };
            let whole = sim.memory.check_unmap(&range);
            explain(sim, whole)?;
            if sim.memory.rights(&range).is_some_and(|before| rights < before) {
                sim.settle(range.clone(), "closes");
            }
            sim.memory.set_rights(&range, rights)?;
        }
        Ok(())
    })
}

/// Writes what a device may do at an address.
#[unsafe(no_mangle)]
pub extern "C" fn cuMemGetAccess(
    flags: Out<'_, u64>,
    location: In<'_, MemLocation>,
    address: DevicePtr,
) -> CuResult {
    call_anywhere("cuMemGetAccess", Class::Other, |sim| {
        check_location(sim, given(location)?)?;
        let (_, mapping) = sim.memory.mapping_at(address).ok_or(CuError::INVALID_VALUE)?;
        given(flags)?.write(match mapping.rights {
            Rights::None => 0,
            Rights::Read => 1,
            Rights::Write => 3,
        });
        Ok(())
    })
}

/// Writes the handle of what is mapped at an address, after one more reference to it.
#[unsafe(no_mangle)]
pub extern "C" fn cuMemRetainAllocationHandle(
    handle: Out<'_, AllocationHandle>,
    address: *mut c_void,
) -> CuResult {
    call_anywhere("cuMemRetainAllocationHandle", Class::Allocate, |sim| {
        let handle = given(handle)?;
        handle.write(sim.memory.retain(address.addr() as u64).ok_or(CuError::INVALID_VALUE)?);
        Ok(())
    })
}

/// Writes what physical memory was made as.
#[unsafe(no_mangle)]
pub extern "C" fn cuMemGetAllocationPropertiesFromHandle(
    prop: Out<'_, AllocationProp>,
    handle: AllocationHandle,
) -> CuResult {
    call_anywhere("cuMemGetAllocationPropertiesFromHandle", Class::Other, |sim| {
        sim.memory.physical(handle).ok_or(CuError::INVALID_VALUE)?;
        given(prop)?.write(AllocationProp {
            kind: 1,
            requested_handle_types: 0,
            location: MemLocation { kind: 1, id: 0 },
            win32_handle_meta_data: std::ptr::null_mut(),
            alloc_flags: [0; 8],
        });
        Ok(())
    })
}

/// Sharing is not there: `CUDA_ERROR_NOT_SUPPORTED`.
#[unsafe(no_mangle)]
pub extern "C" fn cuMemExportToShareableHandle(
    _shareable: *mut c_void,
    _handle: AllocationHandle,
    _kind: u32,
    _flags: u64,
) -> CuResult {
    call_anywhere("cuMemExportToShareableHandle", Class::Other, |_| Err(CuError::NOT_SUPPORTED))
}

/// Sharing is not there: `CUDA_ERROR_NOT_SUPPORTED`.
#[unsafe(no_mangle)]
pub extern "C" fn cuMemImportFromShareableHandle(
    _handle: Out<'_, AllocationHandle>,
    _shareable: *mut c_void,
    _kind: u32,
) -> CuResult {
    call_anywhere("cuMemImportFromShareableHandle", Class::Other, |_| Err(CuError::NOT_SUPPORTED))
}

fn check_prop(sim: &Session, prop: &AllocationProp) -> Result<(), CuError> {
    check_location(sim, &prop.location)?;
    match (prop.kind, prop.requested_handle_types) {
        (1, 0) => Ok(()),
        (1, _) => Err(CuError::NOT_SUPPORTED),
        _ => Err(CuError::INVALID_VALUE),
    }
}

fn check_location(sim: &Session, location: &MemLocation) -> Result<(), CuError> {
    if location.kind != 1 {
        return Err(CuError::INVALID_VALUE);
    }
    check_device(location.id, sim.config.devices)
}

fn range(address: u64, bytes: usize) -> Result<Range<u64>, CuError> {
    let end = address.checked_add(bytes as u64).ok_or(CuError::INVALID_VALUE)?;
    Ok(address..end)
}

/// An argument that the driver refuses; why is said when calls are traced.
fn explain(sim: &Session, checked: Result<(), String>) -> Result<(), CuError> {
    checked.map_err(|why| {
        if sim.config.trace {
            eprintln!("driver-sim: {}: {why}", sim.name);
        }
        CuError::INVALID_VALUE
    })
}

/// The same for a call that gives back: what was not there was given back twice, or never taken.
fn refuse_release(sim: &mut Session, checked: Result<(), String>) -> Result<(), CuError> {
    checked.map_err(|why| {
        let name = sim.name;
        sim.report(format!("{name}: {why}"));
        CuError::INVALID_VALUE
    })
}
