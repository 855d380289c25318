//! Calls into wgpu that must neither panic nor reach the user's error handler.

use std::any::Any;
use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::pin::pin;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

/// Result of a future of wgpu's: outside of browsers they are ready when made.
pub(super) fn ready<T>(future: impl Future<Output = T>) -> T {
    let mut future = pin!(future);
    let mut context = Context::from_waker(Waker::noop());
    loop {
        match future.as_mut().poll(&mut context) {
            Poll::Ready(value) => return value,
            Poll::Pending => std::thread::yield_now(),
        }
    }
}

/// Runs `calls` and returns what wgpu reported about them, of any kind but a lost device, which it never reports here.
///
/// Without a scope an error would go to the device's handler, which panics unless the user has set another. Scopes
/// are the thread's own, so this sees nobody else's errors, but for those of callbacks that run inside `calls`.
pub(super) fn scoped<R>(device: &wgpu::Device, calls: impl FnOnce() -> R) -> (R, Option<wgpu::Error>) {
    let internal = device.push_error_scope(wgpu::ErrorFilter::Internal);
    let memory = device.push_error_scope(wgpu::ErrorFilter::OutOfMemory);
    let validation = device.push_error_scope(wgpu::ErrorFilter::Validation);
    let result = calls();
    // In reverse, as wgpu asks.
    let found = [ready(validation.pop()), ready(memory.pop()), ready(internal.pop())];
    (result, found.into_iter().flatten().next())
}

/// What a poll came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Polled {
    /// What was waited for has ended.
    Ended,
    /// It has not, or nothing was waited for.
    NotYet,
    /// It was never submitted: the device did not take it.
    NeverSubmitted,
    /// The driver lost the device.
    Lost,
}

/// Lets callbacks run, and waits for a submission if `wait` names one.
pub(super) fn poll(device: &wgpu::Device, wait: wgpu::PollType) -> Polled {
    // wgpu turns an error of the driver's wait, which is a lost device, into a panic. Callbacks run in here as well:
    // what they panic with is passed on.
    match catch_unwind(AssertUnwindSafe(|| device.poll(wait))) {
        Ok(Ok(status)) if status.wait_finished() => Polled::Ended,
        Ok(Ok(_) | Err(wgpu::PollError::Timeout)) => Polled::NotYet,
        Ok(Err(_)) => Polled::NeverSubmitted,
        Err(panic) if says_lost(&*panic) => Polled::Lost,
        Err(panic) => resume_unwind(panic),
    }
}

fn says_lost(panic: &(dyn Any + Send)) -> bool {
    panic.downcast_ref::<String>().is_some_and(|message| message.starts_with("Error in Device::poll"))
}

/// Locks `mutex` whether or not a holder panicked: every critical section here leaves its data well-formed at each
/// step, also when a callback of the user's panics inside one.
pub(super) fn lock<T: ?Sized>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
