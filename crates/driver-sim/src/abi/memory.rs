//! Device memory.

use super::given;
use crate::fault::Class;
use crate::memory::{Mapping, Origin};
use crate::result::{CuError, CuResult};
use crate::session::{Session, call, current_context};
use crate::types::{DevicePtr, Out};
use std::ffi::c_void;

/// Allocates `bytes`, more than 0, whose contents are poison.
#[unsafe(no_mangle)]
pub extern "C" fn cuMemAlloc_v2(address: Out<'_, DevicePtr>, bytes: usize) -> CuResult {
    call("cuMemAlloc_v2", Class::Allocate, |sim| {
        let (address, bytes) = (given(address)?, bytes as u64);
        if bytes == 0 {
            return Err(CuError::INVALID_VALUE);
        }
        sim.check_room(bytes)?;
        address.write(sim.memory.allocate(bytes, Origin::Plain, "cuMemAlloc_v2")?);
        Ok(())
    })
}

/// Frees what `cuMemAlloc` or a pool gave; null is nothing. The host must know that nothing uses it any more.
#[unsafe(no_mangle)]
pub extern "C" fn cuMemFree_v2(address: DevicePtr) -> CuResult {
    call("cuMemFree_v2", Class::Release, |sim| {
        if address == 0 {
            return Ok(());
        }
        let wanted = |origin| matches!(origin, Origin::Plain | Origin::Pool(_));
        sim.retire(address, wanted)?;
        sim.free_from_pool(address, "cuMemFree_v2");
        Ok(())
    })
}

/// Writes the free bytes and all bytes of the device.
#[unsafe(no_mangle)]
pub extern "C" fn cuMemGetInfo_v2(free: Out<'_, usize>, total: Out<'_, usize>) -> CuResult {
    call("cuMemGetInfo_v2", Class::Other, |sim| {
        let all = sim.config.memory;
        let left = all.saturating_sub(sim.memory.used);
        given(free)?.write(usize::try_from(left).unwrap_or(usize::MAX));
        given(total)?.write(usize::try_from(all).unwrap_or(usize::MAX));
        Ok(())
    })
}

/// Managed memory is not there: `CUDA_ERROR_NOT_SUPPORTED`.
#[unsafe(no_mangle)]
pub extern "C" fn cuMemAllocManaged(_address: Out<'_, DevicePtr>, _bytes: usize, _flags: u32) -> CuResult {
    call("cuMemAllocManaged", Class::Other, |_| Err(CuError::NOT_SUPPORTED))
}

/// Writes address and length of the allocation that holds an address; either may be null.
#[unsafe(no_mangle)]
pub extern "C" fn cuMemGetAddressRange_v2(
    base: Out<'_, DevicePtr>,
    size: Out<'_, usize>,
    address: DevicePtr,
) -> CuResult {
    call("cuMemGetAddressRange_v2", Class::Other, |sim| {
        let (start, mapping) = sim.memory.mapping_at(address).ok_or(CuError::INVALID_VALUE)?;
        if let Some(base) = base {
            base.write(start);
        }
        if let Some(size) = size {
            size.write(mapping.len as usize);
        }
        Ok(())
    })
}

/// Writes an attribute of an address: context, kind of memory, device and host pointer, ordinal, whether it is managed,
/// start and size of its range.
///
/// # Safety
/// `data` is writable for the attribute's type.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuPointerGetAttribute(
    data: *mut c_void,
    attribute: u32,
    address: DevicePtr,
) -> CuResult {
    call("cuPointerGetAttribute", Class::Other, |sim| {
        let (start, mapping) = sim.memory.mapping_at(address).ok_or(CuError::INVALID_VALUE)?;
        let host = mapping.origin.is_host();
        let len = mapping.len as usize;
        if data.is_null() {
            return Err(CuError::INVALID_VALUE);
        }
        // SAFETY: by the contract of this function, `data` is valid for the type that goes with the attribute.
        unsafe {
            match attribute {
                CONTEXT => data.cast::<usize>().write(current_context()),
                MEMORY_TYPE => data.cast::<u32>().write(if host { TYPE_HOST } else { TYPE_DEVICE }),
                DEVICE_POINTER => data.cast::<u64>().write(address),
                HOST_POINTER if host => data.cast::<u64>().write(address),
                IS_MANAGED => data.cast::<u32>().write(0),
                DEVICE_ORDINAL => data.cast::<i32>().write(0),
                RANGE_START_ADDR => data.cast::<u64>().write(start),
                RANGE_SIZE => data.cast::<usize>().write(len),
                _ => return Err(CuError::INVALID_VALUE),
            }
        }
        Ok(())
    })
}

impl Session {
    /// Checks that memory at `address` may go: that it is alive, came to be in one of the `wanted` ways and begins
    /// there, and that the host knows that nothing uses it any more. If something does, that is reported, and done
    /// first. On a broken device the last is asked of copies to the host alone.
    pub(super) fn retire(
        &mut self,
        address: u64,
        wanted: impl Fn(Origin) -> bool,
    ) -> Result<Mapping, CuError> {
        let name = self.name;
        let found = self.memory.mapping(address).filter(|mapping| wanted(mapping.origin)).cloned();
        let Some(mapping) = found.filter(|mapping| mapping.freed.is_none()) else {
            let why = match self.memory.mapping_at(address) {
                Some((_, Mapping { freed: Some(by), store, .. })) => {
                    format!("{} was freed by {by}", self.memory.name(*store))
                }
                Some((start, Mapping { store, .. })) => {
                    format!("it is within {} at {start:#x}, which goes another way", self.memory.name(*store))
                }
                None => self.memory.describe(address),
            };
            self.report(format!("{name}: {address:#x} cannot be freed: {why}"));
            return Err(CuError::INVALID_VALUE);
        };
        self.settle(address..address + mapping.len, "frees");
        Ok(mapping)
    }

    /// Reports work that may still use addresses that are about to go, and has it done.
    pub(super) fn settle(&mut self, range: std::ops::Range<u64>, verb: &str) {
        if self.broken.is_some() {
            if self.doubtful.iter().any(|used| used.start < range.end && range.start < used.end) {
                let (name, bytes) = (self.name, range.end - range.start);
                self.report(format!(
                    "{name}: {verb} {bytes} bytes at {:#x} that a copy may write which was in flight when the device broke",
                    range.start
                ));
            }
            return;
        }
        let host = self.host.clone();
        if let Some(operation) = self.memory.in_use(range.clone(), &host) {
            let (name, bytes) = (self.name, range.end - range.start);
            let text =
                format!("{name}: {verb} {bytes} bytes at {:#x} that {operation} may still use", range.start);
            self.report(text);
            self.drain();
        }
    }
}

const CONTEXT: u32 = 1;
const MEMORY_TYPE: u32 = 2;
const DEVICE_POINTER: u32 = 3;
const HOST_POINTER: u32 = 4;
const IS_MANAGED: u32 = 8;
const DEVICE_ORDINAL: u32 = 9;
const RANGE_START_ADDR: u32 = 11;
const RANGE_SIZE: u32 = 12;
const TYPE_HOST: u32 = 1;
const TYPE_DEVICE: u32 = 2;
