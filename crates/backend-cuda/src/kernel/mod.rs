//! The kernel that makes many copies within the device's memory in one launch.
//!
//! To start one copy takes the driver some 4.5 µs, as long as 8 MiB take to be copied on an H200; and it starts those of
//! one `cuMemcpyBatchAsync` no faster. A launch costs as much, for up to [`MOST`] copies. They are its parameters, by value:
//! so it needs no memory on the device, and nothing has to outlive the call.
//!
//! The simulated driver runs no PTX. What the text does is tried in `run.rs`, which reads it.

mod list;
#[cfg(test)]
mod run;

use crate::CudaError;
use crate::context::Context;
use crate::driver;
use crate::turn::Piece;
use core::ffi::c_void;
use cudarc::driver::sys;
use list::{List, THREADS};

pub(crate) use list::{MOST, MOST_BYTES};

/// The kernel in a context.
pub(crate) struct CopyKernel {
    module: sys::CUmodule,
    function: sys::CUfunction,
}

// SAFETY: the handles are names that the driver takes on any thread.
unsafe impl Send for CopyKernel {}
// SAFETY: as above.
unsafe impl Sync for CopyKernel {}

impl CopyKernel {
    /// Has the driver compile and load it: some milliseconds, or less where the driver remembers it.
    ///
    /// # Errors
    /// A driver without such functions or without a compiler, or that refuses the text.
    pub(crate) fn load(context: &Context) -> Result<Self, CudaError> {
        driver::require(driver::KERNEL)?;
        beside_captures(|| Self::load_here(context))
    }

    fn load_here(context: &Context) -> Result<Self, CudaError> {
        let (mut module, mut function) = (core::ptr::null_mut(), core::ptr::null_mut());
        // SAFETY: points to a value of ours; the text ends with a NUL.
        context.call("cuModuleLoadData", || unsafe {
            sys::cuModuleLoadData(&raw mut module, TEXT.as_ptr().cast())
        })?;
        // SAFETY: as above; the module is loaded.
        let found = context.call("cuModuleGetFunction", || unsafe {
            sys::cuModuleGetFunction(&raw mut function, module, NAME.as_ptr())
        });
        let kernel = CopyKernel { module, function };
        match found {
            Ok(()) => Ok(kernel),
            Err(error) => {
                kernel.unload(context);
                Err(error)
            }
        }
    }

    /// Enqueues copies on a stream of the context, which is current: at most [`MOST`], each of at most [`MOST_BYTES`], that write none of one
    /// another's bytes, or their own.
    ///
    /// # Errors
    /// The driver refuses; nothing was enqueued.
    pub(crate) fn launch(
        &self,
        context: &Context,
        stream: sys::CUstream,
        pieces: &[Piece],
    ) -> Result<(), CudaError> {
        let list = List::of(pieces);
        if list.blocks() == 0 {
            return Ok(());
        }
        let (copies, count) = list.parameters();
        let mut parameters: [*mut c_void; 2] = [copies.cast_mut(), count.cast_mut()];
        context.call_here("cuLaunchKernel", || {
            // SAFETY: the function is loaded; its parameters are the two, which the driver copies before it returns. Both ends
            // of each copy lie in buffers that outlive it, since their memory waits for this stream before it goes.
            unsafe {
                sys::cuLaunchKernel(
                    self.function,
                    list.blocks(),
                    1,
                    1,
                    THREADS,
                    1,
                    1,
                    0,
                    stream,
                    parameters.as_mut_ptr(),
                    core::ptr::null_mut(),
                )
            }
        })
    }

    /// Gives it back, lost context or not. None of its launches may be under way.
    pub(crate) fn unload(self, context: &Context) {
        // SAFETY: loaded by `load`, and forgotten here.
        let unload = || unsafe { sys::cuModuleUnload(self.module) };
        context.late(beside_captures(|| context.give_back("cuModuleUnload", unload)));
    }
}

/// Runs `f` on a thread to which nothing is forbidden: while any stream is captured, of whoever's, loading a module may be,
/// and would spoil the capture.
fn beside_captures<T>(f: impl FnOnce() -> T) -> T {
    let mut mode = sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_RELAXED;
    let mut exchange = || {
        // SAFETY: points to a value of ours.
        driver::has(driver::CAPTURE_MODE)
            && unsafe { sys::cuThreadExchangeStreamCaptureMode(&raw mut mode) } == DONE
    };
    let exchanged = exchange();
    let done = f();
    if exchanged {
        // The driver wrote what it was before.
        exchange();
    }
    done
}

const DONE: sys::CUresult = sys::CUresult::CUDA_SUCCESS;
const TEXT: &str = concat!(include_str!("copy_many.ptx"), "\0");
const NAME: &core::ffi::CStr = c"copy_many";
