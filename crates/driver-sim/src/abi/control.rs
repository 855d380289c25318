//! Control: what tests ask and tell the simulator. The table is in the crate's documentation.

use crate::clock::{Access, Operation, Use};
use crate::config::Pageable;
use crate::exit::report;
use crate::fault::{Fault, Faults};
use crate::lane::Touch;
use crate::leak::Leaks;
use crate::memory::Span;
use crate::rng::Rng;
use crate::session::{Session, control};
use crate::sim::Sim;
use std::ffi::{CStr, c_char, c_void};

/// Version of the control functions.
#[unsafe(no_mangle)]
pub extern "C" fn simVersion() -> u32 {
    1
}

/// A fresh device: everything is forgotten, settings and `cuInit` stay.
#[unsafe(no_mangle)]
pub extern "C" fn simReset(seed: u64) {
    control(|sim| {
        let mut config = sim.config.clone();
        config.seed = seed;
        let (epoch, initialized) = (sim.epoch + 1, sim.initialized);
        **sim = Sim { initialized, ..Sim::new(config, Faults::default(), epoch) };
    });
}

/// Draws the order of what follows from `seed`.
#[unsafe(no_mangle)]
pub extern "C" fn simSetSeed(seed: u64) {
    control(|sim| {
        sim.config.seed = seed;
        sim.rng = Rng::new(seed);
    });
}

/// Sets the device's memory in all, in bytes.
#[unsafe(no_mangle)]
pub extern "C" fn simSetMemory(bytes: u64) {
    control(|sim| sim.config.memory = bytes);
}

/// Sets whether the device says that it has memory pools.
#[unsafe(no_mangle)]
pub extern "C" fn simSetPools(present: u32) {
    control(|sim| sim.config.pools = present != 0);
}

/// Sets what an asynchronous copy does with pageable memory: 0 stage, 1 check, 2 report; others change nothing.
#[unsafe(no_mangle)]
pub extern "C" fn simSetPageable(mode: u32) {
    control(|sim| {
        sim.config.pageable = match mode {
            0 => Pageable::Stage,
            1 => Pageable::Check,
            2 => Pageable::Report,
            _ => sim.config.pageable,
        };
    });
}

/// Strikes the `k`-th call from now, from 1. Returns 1 for an unknown kind or a `k` of 0.
#[unsafe(no_mangle)]
pub extern "C" fn simInjectFault(kind: u32, k: u64) -> u32 {
    inject(kind, None, k)
}

/// Strikes the `k`-th call of `function` from now, from 1. Returns 1 for an unknown kind or a `k` of 0.
///
/// # Safety
/// `function` is null, for any, or a string that ends with NUL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn simInjectFaultAt(kind: u32, function: *const c_char, k: u64) -> u32 {
    // SAFETY: by the contract of this function.
    inject(kind, unsafe { name(function) }, k)
}

fn inject(kind: u32, function: Option<String>, k: u64) -> u32 {
    match Fault::numbered(kind) {
        Some(fault) if k > 0 => {
            control(|sim| sim.faults.plan(fault, function, k));
            0
        }
        _ => 1,
    }
}

/// Takes back faults that have not struck.
#[unsafe(no_mangle)]
pub extern "C" fn simClearFaults() {
    control(|sim| sim.faults.clear());
}

/// Faults that have struck.
#[unsafe(no_mangle)]
pub extern "C" fn simFaultsStruck() -> u64 {
    control(|sim| sim.faults.struck)
}

/// Counted calls.
#[unsafe(no_mangle)]
pub extern "C" fn simCallCount() -> u64 {
    control(|sim| sim.faults.calls())
}

/// Counted calls of one function.
///
/// # Safety
/// `function` is null, for all, or a string that ends with NUL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn simCallCountOf(function: *const c_char) -> u64 {
    // SAFETY: by the contract of this function.
    match unsafe { name(function) } {
        Some(function) => control(|sim| sim.faults.calls_of(&function)),
        None => simCallCount(),
    }
}

/// Undefined uses found.
#[unsafe(no_mangle)]
pub extern "C" fn simUndefinedUses() -> u64 {
    control(|sim| sim.undefined.count)
}

/// One undefined use in words; the length of its text, 0 beyond the last.
///
/// # Safety
/// `text` is null or writable for `capacity` bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn simUndefinedUse(index: u64, text: *mut c_char, capacity: usize) -> usize {
    let found = control(|sim| {
        let index = usize::try_from(index).unwrap_or(usize::MAX);
        sim.undefined.texts.get(index).cloned().unwrap_or_default()
    });
    // SAFETY: by the contract of this function.
    unsafe { write_text(&found, text, capacity) }
}

/// Forgets the undefined uses found.
#[unsafe(no_mangle)]
pub extern "C" fn simForgiveUndefinedUses() {
    control(|sim| sim.undefined = Default::default());
}

/// Number of live objects, and a line for each kind.
///
/// # Safety
/// `text` is null or writable for `capacity` bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn simLeaks(text: *mut c_char, capacity: usize) -> u64 {
    let leaks = control(|sim| Leaks::of(sim));
    // SAFETY: by the contract of this function.
    unsafe { write_text(&leaks.to_string(), text, capacity) };
    leaks.count()
}

/// Undefined uses and live objects, as printed at exit; the length of the text.
///
/// # Safety
/// `text` is null or writable for `capacity` bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn simReport(text: *mut c_char, capacity: usize) -> usize {
    let found = control(|sim| report(sim, &Leaks::of(sim)));
    // SAFETY: by the contract of this function.
    unsafe { write_text(&found, text, capacity) }
}

/// Operations enqueued that have not run.
#[unsafe(no_mangle)]
pub extern "C" fn simPendingWork() -> u64 {
    control(|sim| sim.pending())
}

/// Bytes that copies have moved: 0 to the device, 1 to the host, 2 within the device, 3 by kernels.
#[unsafe(no_mangle)]
pub extern "C" fn simCopiedBytes(direction: u32) -> u64 {
    control(|sim| sim.copied.get(direction as usize).copied().unwrap_or(0))
}

/// Declares that the program itself reads or writes page-locked memory now.
#[unsafe(no_mangle)]
pub extern "C" fn simHostAccess(address: *const c_void, bytes: usize, write: u32) {
    control(|sim| host_access(sim, address.addr() as u64, bytes as u64, write != 0));
}

fn host_access(sim: &mut Session, at: u64, len: u64, write: bool) {
    const NAME: &str = "simHostAccess";
    if len == 0 {
        return;
    }
    let Span::Known { parts, host: true, .. } = sim.memory.resolve(at, len) else {
        return sim.report(format!("{NAME}: {len} bytes at {at:#x} are not page-locked"));
    };
    sim.operations += 1;
    let operation = Operation { number: sim.operations, call: NAME, stream: None };
    let time = sim.host.get(crate::clock::HOST) + 1;
    sim.host.set(crate::clock::HOST, time);
    let access = if write { Access::Write } else { Access::Read };
    let touches: Vec<_> = parts.into_iter().map(|part| Touch { part, access }).collect();
    let clock = sim.host.clone();
    sim.check(&touches, &clock, Use { slot: crate::clock::HOST, time, operation });
}

/// Writes what fits of a text, with a NUL behind it if that fits too, and returns the whole text's length.
///
/// # Safety
/// `text` is null or writable for `capacity` bytes.
pub(super) unsafe fn write_text(from: &str, text: *mut c_char, capacity: usize) -> usize {
    if !text.is_null() {
        let len = from.len().min(capacity);
        // SAFETY: by the contract of this function.
        unsafe { std::ptr::copy_nonoverlapping(from.as_ptr(), text.cast::<u8>(), len) };
        if len < capacity {
            // SAFETY: as above.
            unsafe { text.add(len).write(0) };
        }
    }
    from.len()
}

/// # Safety
/// `pointer` is null or a string that ends with NUL.
unsafe fn name(pointer: *const c_char) -> Option<String> {
    if pointer.is_null() {
        return None;
    }
    // SAFETY: by the contract of this function.
    Some(unsafe { CStr::from_ptr(pointer) }.to_string_lossy().into_owned())
}
