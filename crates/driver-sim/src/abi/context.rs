//! Contexts. All share the one device: what hangs on a context outlives it here, and is reported at exit.

use super::{check_device, given};
use crate::fault::Class;
use crate::result::{CuError, CuResult};
use crate::session::{
    Session, call, call_anywhere, current_context, pop_context, push_context, set_current_context,
};
use crate::sim::new_handle;
use crate::types::{Context, Device, Out};
use std::ffi::c_void;

/// Writes the primary context, after one more reference to it.
#[unsafe(no_mangle)]
pub extern "C" fn cuDevicePrimaryCtxRetain(context: Out<'_, Context>, device: Device) -> CuResult {
    call_anywhere("cuDevicePrimaryCtxRetain", Class::Allocate, |sim| {
        check_device(device, sim.config.devices)?;
        let context = given(context)?;
        let (handle, references) = sim.contexts.primary.unwrap_or_else(|| (new_handle(), 0));
        sim.contexts.primary = Some((handle, references + 1));
        context.write(handle);
        Ok(())
    })
}

/// Takes one reference from the primary context; one too many is an invalid context.
#[unsafe(no_mangle)]
pub extern "C" fn cuDevicePrimaryCtxRelease_v2(device: Device) -> CuResult {
    call_anywhere("cuDevicePrimaryCtxRelease_v2", Class::Release, |sim| {
        check_device(device, sim.config.devices)?;
        let (handle, references) = sim.contexts.primary.ok_or(CuError::INVALID_CONTEXT)?;
        sim.contexts.primary = (references > 1).then_some((handle, references - 1));
        Ok(())
    })
}

/// Sets the flags of the primary context.
#[unsafe(no_mangle)]
pub extern "C" fn cuDevicePrimaryCtxSetFlags_v2(device: Device, flags: u32) -> CuResult {
    call_anywhere("cuDevicePrimaryCtxSetFlags_v2", Class::Other, |sim| {
        check_device(device, sim.config.devices)?;
        sim.contexts.primary_flags = flags;
        Ok(())
    })
}

/// Writes the flags of the primary context and whether it is retained.
#[unsafe(no_mangle)]
pub extern "C" fn cuDevicePrimaryCtxGetState(
    device: Device,
    flags: Out<'_, u32>,
    active: Out<'_, i32>,
) -> CuResult {
    call_anywhere("cuDevicePrimaryCtxGetState", Class::Constant, |sim| {
        check_device(device, sim.config.devices)?;
        given(flags)?.write(sim.contexts.primary_flags);
        given(active)?.write(i32::from(sim.contexts.primary.is_some()));
        Ok(())
    })
}

/// Makes a context and pushes it on the calling thread's stack.
#[unsafe(no_mangle)]
pub extern "C" fn cuCtxCreate_v2(context: Out<'_, Context>, flags: u32, device: Device) -> CuResult {
    create("cuCtxCreate_v2", context, flags, device)
}

/// The same; execution affinity is not looked at.
#[unsafe(no_mangle)]
pub extern "C" fn cuCtxCreate_v3(
    context: Out<'_, Context>,
    _affinity: *mut c_void,
    _count: i32,
    flags: u32,
    device: Device,
) -> CuResult {
    create("cuCtxCreate_v3", context, flags, device)
}

/// The same; parameters are not looked at.
#[unsafe(no_mangle)]
pub extern "C" fn cuCtxCreate_v4(
    context: Out<'_, Context>,
    _params: *mut c_void,
    flags: u32,
    device: Device,
) -> CuResult {
    create("cuCtxCreate_v4", context, flags, device)
}

fn create(name: &'static str, context: Out<'_, Context>, flags: u32, device: Device) -> CuResult {
    call_anywhere(name, Class::Allocate, |sim| {
        check_device(device, sim.config.devices)?;
        let (context, handle) = (given(context)?, new_handle());
        sim.contexts.made.insert(handle, flags);
        push_context(handle);
        context.write(handle);
        Ok(())
    })
}

/// Ends a context that was made.
#[unsafe(no_mangle)]
pub extern "C" fn cuCtxDestroy_v2(context: Context) -> CuResult {
    call_anywhere("cuCtxDestroy_v2", Class::Release, |sim| {
        if sim.contexts.made.remove(&context).is_none() {
            sim.bad_handle("cuCtxDestroy_v2", "context", context);
            return Err(CuError::INVALID_CONTEXT);
        }
        if current_context() == context {
            pop_context();
        }
        Ok(())
    })
}

/// Writes the calling thread's context, null if it has none.
#[unsafe(no_mangle)]
pub extern "C" fn cuCtxGetCurrent(context: Out<'_, Context>) -> CuResult {
    call_anywhere("cuCtxGetCurrent", Class::Constant, |_| {
        given(context)?.write(current_context());
        Ok(())
    })
}

/// Sets the calling thread's context, or takes it away with null.
#[unsafe(no_mangle)]
pub extern "C" fn cuCtxSetCurrent(context: Context) -> CuResult {
    call_anywhere("cuCtxSetCurrent", Class::Constant, |sim| {
        check_context(sim, context)?;
        set_current_context(context);
        Ok(())
    })
}

/// Makes a context the calling thread's, above the one it has.
#[unsafe(no_mangle)]
pub extern "C" fn cuCtxPushCurrent_v2(context: Context) -> CuResult {
    call_anywhere("cuCtxPushCurrent_v2", Class::Constant, |sim| {
        check_context(sim, context)?;
        push_context(context);
        Ok(())
    })
}

/// Takes the calling thread's context away and writes it, if asked.
#[unsafe(no_mangle)]
pub extern "C" fn cuCtxPopCurrent_v2(context: Out<'_, Context>) -> CuResult {
    call_anywhere("cuCtxPopCurrent_v2", Class::Constant, |_| {
        let popped = pop_context().ok_or(CuError::INVALID_CONTEXT)?;
        if let Some(context) = context {
            context.write(popped);
        }
        Ok(())
    })
}

/// Writes the device of the current context.
#[unsafe(no_mangle)]
pub extern "C" fn cuCtxGetDevice(device: Out<'_, Device>) -> CuResult {
    call("cuCtxGetDevice", Class::Constant, |_| {
        given(device)?.write(0);
        Ok(())
    })
}

/// Waits for all work.
#[unsafe(no_mangle)]
pub extern "C" fn cuCtxSynchronize() -> CuResult {
    call("cuCtxSynchronize", Class::Other, |sim| {
        let marks: Vec<_> = (0..sim.lanes.len()).map(|lane| sim.mark(lane)).collect();
        sim.wait(&marks)
    })
}

/// Sets the flags of the current context.
#[unsafe(no_mangle)]
pub extern "C" fn cuCtxSetFlags(flags: u32) -> CuResult {
    call("cuCtxSetFlags", Class::Other, |sim| {
        match sim.contexts.made.get_mut(&current_context()) {
            Some(of_made) => *of_made = flags,
            None => sim.contexts.primary_flags = flags,
        }
        Ok(())
    })
}

/// Writes the flags of the current context.
#[unsafe(no_mangle)]
pub extern "C" fn cuCtxGetFlags(flags: Out<'_, u32>) -> CuResult {
    call("cuCtxGetFlags", Class::Constant, |sim| {
        let of_made = sim.contexts.made.get(&current_context()).copied();
        given(flags)?.write(of_made.unwrap_or(sim.contexts.primary_flags));
        Ok(())
    })
}

/// Writes the range of stream priorities, 0 down to -5.
#[unsafe(no_mangle)]
pub extern "C" fn cuCtxGetStreamPriorityRange(least: Out<'_, i32>, greatest: Out<'_, i32>) -> CuResult {
    call("cuCtxGetStreamPriorityRange", Class::Constant, |_| {
        if let Some(least) = least {
            least.write(LEAST_PRIORITY);
        }
        if let Some(greatest) = greatest {
            greatest.write(GREATEST_PRIORITY);
        }
        Ok(())
    })
}

/// Sets a limit, which limits nothing here.
#[unsafe(no_mangle)]
pub extern "C" fn cuCtxSetLimit(limit: u32, value: usize) -> CuResult {
    call("cuCtxSetLimit", Class::Other, |sim| {
        check_limit(limit)?;
        sim.contexts.limits.insert(limit, value);
        Ok(())
    })
}

/// Writes a limit as it was set, at first 0.
#[unsafe(no_mangle)]
pub extern "C" fn cuCtxGetLimit(value: Out<'_, usize>, limit: u32) -> CuResult {
    call("cuCtxGetLimit", Class::Constant, |sim| {
        check_limit(limit)?;
        given(value)?.write(sim.contexts.limits.get(&limit).copied().unwrap_or(0));
        Ok(())
    })
}

fn check_limit(limit: u32) -> Result<(), CuError> {
    if limit < LIMITS { Ok(()) } else { Err(CuError::UNSUPPORTED_LIMIT) }
}

fn check_context(sim: &mut Session, context: Context) -> Result<(), CuError> {
    let primary = sim.contexts.primary.is_some_and(|primary| primary.0 == context);
    if context == 0 || primary || sim.contexts.made.contains_key(&context) {
        return Ok(());
    }
    let name = sim.name;
    sim.bad_handle(name, "context", context);
    Err(CuError::INVALID_CONTEXT)
}

pub(super) const LEAST_PRIORITY: i32 = 0;
pub(super) const GREATEST_PRIORITY: i32 = -5;
const LIMITS: u32 = 10;
