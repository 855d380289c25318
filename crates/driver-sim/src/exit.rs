//! The end of the process: what was found and what is left, and the exit status that says so.

use crate::config::{OnLeak, OnUndefined};
use crate::leak::Leaks;
use crate::session::try_control;
use std::ffi::{c_int, c_void};
use std::io::Write;

/// What a process ends with that used the device in an undefined way, or left something.
pub const EXIT_STATUS: i32 = 86;

unsafe extern "C" {
    fn atexit(callback: extern "C" fn()) -> c_int;
    fn fflush(stream: *mut c_void) -> c_int;
    fn _exit(status: c_int) -> !;
}

/// Sees to it that the process ends with a report.
pub(crate) fn at_exit() {
    // SAFETY: `at_end` lives as long as this library, whose handlers the C library runs before it unloads it.
    if unsafe { atexit(at_end) } != 0 {
        eprintln!("driver-sim: no room for a report at exit");
    }
}

extern "C" fn at_end() {
    // A thread that is in a call while the process ends keeps the state: then there is nothing to say.
    let failed = std::panic::catch_unwind(|| {
        try_control(|sim| {
            let leaks = Leaks::of(sim);
            let undefined = sim.undefined.count > 0 && sim.config.on_undefined != OnUndefined::Count;
            let leaked = leaks.count() > 0 && sim.config.on_leak != OnLeak::Ignore;
            if undefined || leaked {
                eprint!("{}", report(sim, &leaks));
            }
            undefined || leaked && sim.config.on_leak == OnLeak::Exit
        })
    });
    if !matches!(failed, Ok(Some(true))) {
        return;
    }
    let _ = std::io::stdout().flush();
    // SAFETY: null flushes all streams of the C library; `_exit` takes any status and ends the process, which is what
    // the caller is about to do, with another status.
    unsafe {
        fflush(std::ptr::null_mut());
        _exit(EXIT_STATUS)
    }
}

/// The whole report in words; empty when there is nothing to say.
pub(crate) fn report(sim: &crate::sim::Sim, leaks: &Leaks) -> String {
    let mut text = String::new();
    if sim.undefined.count > 0 {
        text += &format!("driver-sim: {} undefined uses\n", sim.undefined.count);
        sim.undefined.texts.iter().for_each(|use_| text += &format!("  {use_}\n"));
    }
    if leaks.count() > 0 {
        text += &format!("driver-sim: {} leaks\n{leaks}", leaks.count());
    }
    text
}
