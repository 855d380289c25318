//! Work that is a program's own: kernels, and functions of the host.

use super::copy::collision;
use crate::clock::Access;
use crate::fault::Class;
use crate::kernel::{Effect, Launch, Twin};
use crate::lane::Touch;
use crate::memory::Part;
use crate::result::{CuError, CuResult};
use crate::run::{HostData, ResolvedEffect, Work, overlap};
use crate::session::{Session, call, current_context};
use crate::types::{Function, HostFn, In, LaunchConfig, Stream};
use std::ffi::c_void;

/// Enqueues the twin of a kernel.
///
/// # Safety
/// `params` points to as many pointers as the kernel has parameters, each to a value of the parameter's size.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuLaunchKernel(
    function: Function,
    grid_x: u32,
    grid_y: u32,
    grid_z: u32,
    block_x: u32,
    block_y: u32,
    block_z: u32,
    shared_mem_bytes: u32,
    stream: Stream,
    params: *const *const c_void,
    extra: *const *const c_void,
) -> CuResult {
    let config = LaunchConfig {
        grid: [grid_x, grid_y, grid_z],
        block: [block_x, block_y, block_z],
        shared_mem_bytes,
        stream,
        attrs: std::ptr::null_mut(),
        num_attrs: 0,
    };
    // SAFETY: by the contract of this function.
    call("cuLaunchKernel", Class::Enqueue, |sim| unsafe { launch(sim, &config, function, params, extra) })
}

/// The same. A launch with attributes is `CUDA_ERROR_NOT_SUPPORTED`.
///
/// # Safety
/// As for [`cuLaunchKernel`].
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuLaunchKernelEx(
    config: In<'_, LaunchConfig>,
    function: Function,
    params: *const *const c_void,
    extra: *const *const c_void,
) -> CuResult {
    call("cuLaunchKernelEx", Class::Enqueue, |sim| {
        // SAFETY: by the contract of this function.
        unsafe { launch(sim, super::given(config)?, function, params, extra) }
    })
}

/// Enqueues a function of the program's, which must not call the driver.
///
/// # Safety
/// `function` may be called with `data` on any thread, until it has been.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuLaunchHostFunc(
    stream: Stream,
    function: Option<HostFn>,
    data: *mut c_void,
) -> CuResult {
    call("cuLaunchHostFunc", Class::Enqueue, |sim| {
        let function = super::given(function)?;
        let lane = sim.lane_of("cuLaunchHostFunc", stream)?;
        let work = Work::HostFunction { function, data: HostData(data) };
        sim.submit(lane, "cuLaunchHostFunc", Vec::new(), Vec::new(), work);
        Ok(())
    })
}

/// # Safety
/// As for [`cuLaunchKernel`].
unsafe fn launch(
    sim: &mut Session,
    config: &LaunchConfig,
    function: Function,
    params: *const *const c_void,
    extra: *const *const c_void,
) -> Result<(), CuError> {
    let name = sim.name;
    let lane = sim.lane_of(name, config.stream)?;
    sim.check_context_of(name, config.stream, current_context())?;
    let Some(&(module, twin)) = sim.functions.get(&function) else {
        return Err(sim.bad_handle(name, "function", function));
    };
    if !extra.is_null() || config.num_attrs > 0 {
        return Err(CuError::NOT_SUPPORTED);
    }
    let threads: u64 = config.block.iter().map(|&side| u64::from(side)).product();
    let sides = config.grid.iter().chain(&config.block);
    let wrong_block = twin.block != 0 && config.block != [twin.block, 1, 1];
    if sides.into_iter().any(|&side| side == 0) || threads > MOST_THREADS || params.is_null() || wrong_block {
        return Err(CuError::INVALID_VALUE);
    }
    let blocks = config.grid[0];
    let threads = u64::from(blocks) * u64::from(config.block[0]);
    // SAFETY: by the contract of this function.
    let launch = Launch { args: unsafe { arguments(twin, params)? }, blocks, threads };
    let effects = match resolve(sim, twin, &launch) {
        Ok(effects) => effects,
        Err(error) => {
            // As on a device: the launch goes through, and the kernel dies of it.
            sim.fate.get_or_insert(error);
            Vec::new()
        }
    };
    let touch = |access| move |part: &Part| Touch { part: part.clone(), access };
    let touches = effects.iter().flat_map(|ResolvedEffect { effect, parts, into }| {
        let first = if let Effect::Write { .. } = effect { Access::Write } else { Access::Read };
        parts.iter().map(touch(first)).chain(into.iter().map(touch(Access::Write)))
    });
    let touches = touches.collect();
    sim.submit(lane, name, Vec::new(), touches, Work::Kernel { module, twin, launch, effects });
    Ok(())
}

/// # Safety
/// `params` points to as many pointers as the twin has parameters, each to a value of the parameter's size.
unsafe fn arguments(twin: &Twin, params: *const *const c_void) -> Result<Vec<Vec<u8>>, CuError> {
    let mut args = Vec::with_capacity(twin.params.len());
    for (index, &size) in twin.params.iter().enumerate() {
        let mut bytes = vec![0; size];
        // SAFETY: by the contract of this function.
        let at = unsafe { *params.add(index) };
        if at.is_null() {
            return Err(CuError::INVALID_VALUE);
        }
        // SAFETY: by the contract of this function.
        unsafe { std::ptr::copy_nonoverlapping(at.cast::<u8>(), bytes.as_mut_ptr(), size) };
        args.push(bytes);
    }
    Ok(args)
}

/// Looks up what a launch uses, and how the kernel would die of it.
fn resolve(sim: &mut Session, twin: &Twin, launch: &Launch) -> Result<Vec<ResolvedEffect>, CuError> {
    let call = format!("kernel {}", twin.name);
    let mut resolved = Vec::new();
    for effect in (twin.effects)(launch) {
        if effect.is_empty() {
            continue;
        }
        if effect.is_misaligned() {
            sim.report(format!("{call}: {effect:?} is not aligned"));
            return Err(CuError::MISALIGNED_ADDRESS);
        }
        let mut find =
            |at, len, access| sim.find_device(&call, at, len, access).map_err(|_| CuError::ILLEGAL_ADDRESS);
        let (parts, into) = match effect {
            Effect::Read { at, len, .. } => (find(at, len, Access::Read)?, Vec::new()),
            Effect::Write { at, len, .. } => (find(at, len, Access::Write)?, Vec::new()),
            Effect::Copy { dst, src, len, .. } | Effect::Move { dst, src, len, .. } => {
                (find(src, len, Access::Read)?, find(dst, len, Access::Write)?)
            }
        };
        if matches!(effect, Effect::Copy { .. }) && parts.iter().any(|a| into.iter().any(|b| overlap(a, b))) {
            sim.report(format!("{call}: {effect:?} overlaps itself"));
        }
        resolved.push(ResolvedEffect { effect, parts, into });
    }
    if let Some((first, second)) = collision(touched(&resolved)) {
        let (first, second) = (resolved[first].effect, resolved[second].effect);
        sim.report(format!("{call}: {first:?} and {second:?} touch the same bytes"));
    }
    Ok(resolved)
}

/// What the copies of a launch touch, each with its number.
fn touched(effects: &[ResolvedEffect]) -> impl Iterator<Item = (usize, Touch)> {
    let copies = effects.iter().enumerate();
    let copies = copies.filter(|(_, resolved)| matches!(resolved.effect, Effect::Copy { .. }));
    copies.flat_map(|(index, ResolvedEffect { parts, into, .. })| {
        let touch = move |access| move |part: &Part| (index, Touch { part: part.clone(), access });
        parts.iter().map(touch(Access::Read)).chain(into.iter().map(touch(Access::Write)))
    })
}

/// Most threads of a block.
pub(super) const MOST_THREADS: u64 = 1024;
