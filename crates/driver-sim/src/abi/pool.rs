//! Stream-ordered memory and its pools. A pool keeps nothing: what is freed goes back when its turn comes, so what is
//! reserved is what is used.

use super::{check_device, given};
use crate::clock::{Access, Operation};
use crate::fault::Class;
use crate::lane::Touch;
use crate::memory::{Origin, Part, Span};
use crate::result::{CuError, CuResult};
use crate::run::Work;
use crate::session::{Session, call, call_anywhere};
use crate::sim::{PoolState, Sim, new_handle};
use crate::types::{Device, DevicePtr, In, Out, Pool, PoolProps, Stream};
use std::ffi::c_void;

/// Allocates from the device's current pool, for work that comes after this call in the stream.
#[unsafe(no_mangle)]
pub extern "C" fn cuMemAllocAsync(address: Out<'_, DevicePtr>, bytes: usize, stream: Stream) -> CuResult {
    call("cuMemAllocAsync", Class::Enqueue, |sim| {
        let pool = sim.current_pool()?;
        allocate(sim, address, bytes, pool, stream)
    })
}

/// Allocates from a pool, for work that comes after this call in the stream.
#[unsafe(no_mangle)]
pub extern "C" fn cuMemAllocFromPoolAsync(
    address: Out<'_, DevicePtr>,
    bytes: usize,
    pool: Pool,
    stream: Stream,
) -> CuResult {
    call("cuMemAllocFromPoolAsync", Class::Enqueue, |sim| allocate(sim, address, bytes, pool, stream))
}

fn allocate(
    sim: &mut Session,
    address: Out<'_, DevicePtr>,
    bytes: usize,
    pool: Pool,
    stream: Stream,
) -> Result<(), CuError> {
    let (name, address, bytes) = (sim.name, given(address)?, bytes as u64);
    let lane = sim.lane_of(name, stream)?;
    let state = pool_state(sim, pool)?;
    if bytes == 0 {
        return Err(CuError::INVALID_VALUE);
    }
    if state.max_size != 0 && state.used.saturating_add(bytes) > state.max_size {
        return Err(CuError::OUT_OF_MEMORY);
    }
    sim.check_room(bytes)?;
    let at = sim.memory.allocate(bytes, Origin::Pool(pool), name)?;
    let state = pool_state(sim, pool)?;
    state.used += bytes;
    state.used_high = state.used_high.max(state.used);
    // Whoever uses the memory must come after this point of the stream, as after one who writes all of it.
    let touches = whole(sim, at, bytes);
    sim.submit(lane, name, Vec::new(), touches, Work::Nothing);
    address.write(at);
    Ok(())
}

/// Frees memory of a pool, after the work that came before this call in the stream.
#[unsafe(no_mangle)]
pub extern "C" fn cuMemFreeAsync(address: DevicePtr, stream: Stream) -> CuResult {
    call("cuMemFreeAsync", Class::Release, |sim| {
        let name = sim.name;
        let lane = sim.lane_of(name, stream)?;
        let found = sim.memory.mapping(address).filter(|mapping| matches!(mapping.origin, Origin::Pool(_)));
        let Some(len) = found.filter(|mapping| mapping.freed.is_none()).map(|mapping| mapping.len) else {
            let why = match sim.memory.mapping_at(address) {
                Some((_, mapping)) => {
                    format!("{} is no live memory of a pool", sim.memory.name(mapping.store))
                }
                None => sim.memory.describe(address),
            };
            sim.report(format!("{name}: {address:#x} cannot be freed: {why}"));
            return Err(CuError::INVALID_VALUE);
        };
        if sim.broken.is_some() {
            sim.free_from_pool(address, name);
            return Ok(());
        }
        let touches = whole(sim, address, len);
        // Work that is not ordered before is reported by `submit`, and still has to find its memory.
        let users = sim.users(&touches);
        sim.submit(lane, name, users, touches, Work::Free { at: address });
        let by = Operation { number: sim.operations, call: name, stream: Some(sim.lanes[lane].stream) };
        if let Some(mapping) = sim.memory.mapping_mut(address) {
            mapping.freed = Some(by);
        }
        Ok(())
    })
}

/// Writes the device's default pool.
#[unsafe(no_mangle)]
pub extern "C" fn cuDeviceGetDefaultMemPool(pool: Out<'_, Pool>, device: Device) -> CuResult {
    call_anywhere("cuDeviceGetDefaultMemPool", Class::Constant, |sim| {
        check_device(device, sim.config.devices)?;
        given(pool)?.write(sim.default_pool()?);
        Ok(())
    })
}

/// Writes the device's current pool.
#[unsafe(no_mangle)]
pub extern "C" fn cuDeviceGetMemPool(pool: Out<'_, Pool>, device: Device) -> CuResult {
    call_anywhere("cuDeviceGetMemPool", Class::Constant, |sim| {
        check_device(device, sim.config.devices)?;
        given(pool)?.write(sim.current_pool()?);
        Ok(())
    })
}

/// Sets the device's current pool.
#[unsafe(no_mangle)]
pub extern "C" fn cuDeviceSetMemPool(device: Device, pool: Pool) -> CuResult {
    call_anywhere("cuDeviceSetMemPool", Class::Other, |sim| {
        check_device(device, sim.config.devices)?;
        pool_state(sim, pool)?;
        sim.pools.current = Some(pool);
        Ok(())
    })
}

/// Makes a pool of device memory. One that could be exported is not supported.
#[unsafe(no_mangle)]
pub extern "C" fn cuMemPoolCreate(pool: Out<'_, Pool>, props: In<'_, PoolProps>) -> CuResult {
    call_anywhere("cuMemPoolCreate", Class::Allocate, |sim| {
        let (pool, props) = (given(pool)?, given(props)?);
        sim.check_pools()?;
        check_device(props.location.id, sim.config.devices)?;
        if props.kind != 1 || props.location.kind != 1 {
            return Err(CuError::INVALID_VALUE);
        }
        if props.handle_types != 0 {
            return Err(CuError::NOT_SUPPORTED);
        }
        let handle = new_handle();
        sim.pools.all.insert(handle, PoolState { max_size: props.max_size as u64, ..PoolState::default() });
        pool.write(handle);
        Ok(())
    })
}

/// Ends a pool that was made. Memory from it lives on until it is freed.
#[unsafe(no_mangle)]
pub extern "C" fn cuMemPoolDestroy(pool: Pool) -> CuResult {
    call_anywhere("cuMemPoolDestroy", Class::Release, |sim| {
        pool_state(sim, pool)?;
        if sim.pools.default == Some(pool) {
            return Err(CuError::INVALID_VALUE);
        }
        sim.pools.all.remove(&pool);
        if sim.pools.current == Some(pool) {
            sim.pools.current = None;
        }
        Ok(())
    })
}

/// Gives back what a pool keeps, which is nothing.
#[unsafe(no_mangle)]
pub extern "C" fn cuMemPoolTrimTo(pool: Pool, _keep: usize) -> CuResult {
    call_anywhere("cuMemPoolTrimTo", Class::Other, |sim| pool_state(sim, pool).map(|_| ()))
}

/// Writes an attribute of a pool.
///
/// # Safety
/// `value` is writable for the attribute's type: `int` for the first three, else `uint64_t`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemPoolGetAttribute(pool: Pool, attribute: u32, value: *mut c_void) -> CuResult {
    call_anywhere("cuMemPoolGetAttribute", Class::Other, |sim| {
        let state = pool_state(sim, pool)?.clone();
        if value.is_null() {
            return Err(CuError::INVALID_VALUE);
        }
        let found = match attribute {
            1..=3 => {
                // SAFETY: by the contract of this function.
                unsafe { value.cast::<i32>().write(state.reuse[attribute as usize - 1]) };
                return Ok(());
            }
            RELEASE_THRESHOLD => state.release_threshold,
            RESERVED_CURRENT | USED_CURRENT => state.used,
            RESERVED_HIGH | USED_HIGH => state.used_high,
            _ => return Err(CuError::INVALID_VALUE),
        };
        // SAFETY: by the contract of this function.
        unsafe { value.cast::<u64>().write(found) };
        Ok(())
    })
}

/// Sets an attribute of a pool; the high-water marks can only be set to 0.
///
/// # Safety
/// `value` is readable for the attribute's type: `int` for the first three, else `uint64_t`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemPoolSetAttribute(pool: Pool, attribute: u32, value: *const c_void) -> CuResult {
    call_anywhere("cuMemPoolSetAttribute", Class::Other, |sim| {
        let state = pool_state(sim, pool)?;
        if value.is_null() {
            return Err(CuError::INVALID_VALUE);
        }
        if let 1..=3 = attribute {
            // SAFETY: by the contract of this function.
            state.reuse[attribute as usize - 1] = unsafe { value.cast::<i32>().read() };
            return Ok(());
        }
        // SAFETY: by the contract of this function.
        match (attribute, unsafe { value.cast::<u64>().read() }) {
            (RELEASE_THRESHOLD, bytes) => state.release_threshold = bytes,
            (RESERVED_HIGH | USED_HIGH, 0) => state.used_high = state.used,
            _ => return Err(CuError::INVALID_VALUE),
        }
        Ok(())
    })
}

impl Sim {
    fn check_pools(&self) -> Result<(), CuError> {
        if self.config.pools { Ok(()) } else { Err(CuError::NOT_SUPPORTED) }
    }

    fn default_pool(&mut self) -> Result<Pool, CuError> {
        self.check_pools()?;
        let pool = *self.pools.default.get_or_insert_with(new_handle);
        self.pools.all.entry(pool).or_default();
        Ok(pool)
    }

    fn current_pool(&mut self) -> Result<Pool, CuError> {
        match self.pools.current {
            Some(pool) => Ok(pool),
            None => self.default_pool(),
        }
    }
}

fn pool_state(sim: &mut Session, pool: Pool) -> Result<&mut PoolState, CuError> {
    if !sim.pools.all.contains_key(&pool) {
        let name = sim.name;
        return Err(sim.bad_handle(name, "memory pool", pool));
    }
    sim.pools.all.get_mut(&pool).ok_or(CuError::INVALID_HANDLE)
}

/// A write of all of an allocation.
fn whole(sim: &Sim, at: u64, len: u64) -> Vec<Touch> {
    let Span::Known { parts, .. } = sim.memory.resolve(at, len) else { return Vec::new() };
    parts.into_iter().map(|part: Part| Touch { part, access: Access::Write }).collect()
}

const RELEASE_THRESHOLD: u32 = 4;
const RESERVED_CURRENT: u32 = 5;
const RESERVED_HIGH: u32 = 6;
const USED_CURRENT: u32 = 7;
const USED_HIGH: u32 = 8;
