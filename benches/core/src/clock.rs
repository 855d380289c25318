//! The finest clock at hand, for single operations.

use std::time::Instant;

/// What the clock is, for the report.
pub(crate) const NAME: &str =
    if cfg!(target_arch = "x86_64") { "rdtsc between two lfence" } else { "std::time::Instant" };

/// Ticks since some moment. Everything before it has been done, nothing after it has begun.
#[cfg(target_arch = "x86_64")]
pub(crate) fn ticks() -> u64 {
    use std::arch::x86_64::{_mm_lfence, _rdtsc};
    // SAFETY: both instructions are part of every x86-64 processor and touch no memory.
    unsafe {
        _mm_lfence();
        let ticks = _rdtsc();
        _mm_lfence();
        ticks
    }
}

/// Nanoseconds since the first call.
#[cfg(not(target_arch = "x86_64"))]
pub(crate) fn ticks() -> u64 {
    static START: std::sync::OnceLock<Instant> = std::sync::OnceLock::new();
    START.get_or_init(Instant::now).elapsed().as_nanos() as u64
}

/// Nanoseconds per tick, from 20 ms of both clocks.
pub(crate) fn ns_per_tick() -> f64 {
    let (start, first) = (Instant::now(), ticks());
    while start.elapsed().as_millis() < 20 {}
    start.elapsed().as_nanos() as f64 / (ticks() - first) as f64
}
