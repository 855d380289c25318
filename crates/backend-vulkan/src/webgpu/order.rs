//! Who may submit: one thread at a time, and no callback that runs inside its submission.

use super::WgpuError;
use super::buffer::Held;
use super::encode::Move;
use super::native::lock;
use std::cell::Cell;
use std::ops::{Deref, DerefMut};
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::{Mutex, MutexGuard};

/// What must happen in one order: moves, submissions, units of the timeline.
#[derive(Default)]
pub(super) struct Order {
    /// Noted and not yet submitted, oldest first.
    pub(super) moves: Vec<Move>,
    /// For moves, made with the first that needs it.
    pub(super) scratch: Option<Scratch>,
    /// The last submission of this device's.
    pub(super) last: Option<wgpu::SubmissionIndex>,
}

/// Where moves go through.
pub(super) struct Scratch {
    pub(super) buffer: wgpu::Buffer,
    pub(super) _held: Held,
}

/// The right to submit, and what goes with it.
#[derive(Default)]
pub(super) struct OrderLock {
    order: Mutex<Order>,
    /// The thread that holds `order`, 0 for none: wgpu runs callbacks inside a submission, and one that submits
    /// here would wait for itself.
    holder: AtomicUsize,
}

impl OrderLock {
    /// Waits for other threads.
    ///
    /// # Errors
    /// [`WgpuError::InsideCallback`].
    pub(super) fn lock(&self) -> Result<OrderGuard<'_>, WgpuError> {
        let me = thread_number();
        if self.holder.load(SeqCst) == me {
            return Err(WgpuError::InsideCallback);
        }
        let order = lock(&self.order);
        self.holder.store(me, SeqCst);
        Ok(OrderGuard { order, holder: &self.holder })
    }
}

/// The right to submit, as long as it lives.
pub(super) struct OrderGuard<'a> {
    order: MutexGuard<'a, Order>,
    holder: &'a AtomicUsize,
}

impl Deref for OrderGuard<'_> {
    type Target = Order;

    fn deref(&self) -> &Order {
        &self.order
    }
}

impl DerefMut for OrderGuard<'_> {
    fn deref_mut(&mut self) -> &mut Order {
        &mut self.order
    }
}

impl Drop for OrderGuard<'_> {
    fn drop(&mut self) {
        self.holder.store(0, SeqCst);
    }
}

/// A number that no other running thread has; not 0.
fn thread_number() -> usize {
    thread_local! {
        static HERE: Cell<u8> = const { Cell::new(0) };
    }
    HERE.with(|here| std::ptr::from_ref(here).addr())
}
