//! Operations of the CPU device: what they hold and what they do.

use crate::CpuError;
use crate::buffer::Memory;
use crate::caches::{moving, reading, writing};
use crate::event::CpuEvent;
use crate::host_bytes::HostBytes;
use std::any::Any;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

/// An operation of a queue.
pub(crate) enum Work {
    /// Host memory to a buffer.
    Upload { src: HostBytes, dst: Arc<Memory>, at: u64 },
    /// A buffer to host memory.
    Download { src: Arc<Memory>, from: u64, dst: HostBytes },
    /// Within a buffer, with memmove semantics.
    Move { memory: Arc<Memory>, src: Range<u64>, dst: u64 },
    /// Within a buffer, by exchanging the pages of two ranges that do not overlap.
    Remap { memory: Arc<Memory>, src: Range<u64>, dst: u64 },
    /// Nothing, until an event has fired.
    Wait(CpuEvent),
    /// A user's kernel.
    Run(Kernel),
}

/// A user's code.
pub(crate) type Kernel = Box<dyn FnOnce() -> Result<(), CpuError> + Send>;

impl Work {
    /// Whether it copies bytes and does nothing else: it runs no foreign code and waits for no event.
    pub(crate) fn is_copy(&self) -> bool {
        matches!(self, Work::Upload { .. } | Work::Download { .. } | Work::Move { .. } | Work::Remap { .. })
    }

    /// Does it, on the calling thread, which holds no range.
    pub(crate) fn run(self) -> Result<(), CpuError> {
        match self {
            Work::Upload { src, dst, at } => {
                let src = src.as_slice();
                let _guard = dst.acquire(&[(at..at + src.len() as u64, true)])?;
                // SAFETY: the device checked the range against the buffer; the guard keeps others from these
                // bytes; the host bytes are valid by `HostBytes::new` and no part of a buffer.
                unsafe { writing(dst.size(), src.len()).copy_raw(src.as_ptr(), dst.at(at), src.len()) };
            }
            Work::Download { src, from, mut dst } => {
                let dst = dst.as_mut_slice();
                let _guard = src.acquire(&[(from..from + dst.len() as u64, false)])?;
                // SAFETY: as above, the other way round; the guard keeps writers away.
                unsafe { reading(dst.len()).copy_raw(src.at(from), dst.as_mut_ptr(), dst.len()) };
            }
            Work::Move { memory, src, dst } => {
                let len = src.end - src.start;
                let from = src.start;
                let _guard = memory.acquire(&[(src, false), (dst..dst + len, true)])?;
                // SAFETY: the buffer checked both ranges; the guard keeps others from them; they may overlap.
                unsafe { moving(memory.size()).copy_raw(memory.at(from), memory.at(dst), len as usize) };
            }
            Work::Remap { memory, src, dst } => {
                let len = src.end - src.start;
                let from = src.start;
                let _guard = memory.acquire(&[(src.clone(), true), (dst..dst + len, true)])?;
                // SAFETY: the buffer checked both ranges; the guard keeps readers and writers from them.
                if unsafe { memory.pages().exchange(src, dst) }.is_err() {
                    // SAFETY: as above; a refused exchange has left every byte where it was.
                    unsafe { moving(memory.size()).copy_raw(memory.at(from), memory.at(dst), len as usize) };
                }
            }
            Work::Wait(event) => event.await_fired(),
            Work::Run(kernel) => return run_kernel(kernel),
        }
        Ok(())
    }
}

fn run_kernel(kernel: Kernel) -> Result<(), CpuError> {
    match catch_unwind(AssertUnwindSafe(kernel)) {
        Ok(outcome) => outcome,
        Err(payload) => {
            let message = message_of(payload.as_ref());
            // A payload may panic when dropped, which would take the worker with it.
            if let Err(second) = catch_unwind(AssertUnwindSafe(|| drop(payload))) {
                std::mem::forget(second);
            }
            Err(CpuError::Panicked { message })
        }
    }
}

/// The text a panic was raised with.
fn message_of(payload: &(dyn Any + Send)) -> String {
    if let Some(text) = payload.downcast_ref::<&str>() {
        (*text).to_owned()
    } else if let Some(text) = payload.downcast_ref::<String>() {
        text.clone()
    } else {
        "no message".to_owned()
    }
}
