//! What can go wrong on a CUDA device.

use allocator_core::RangeError;
use cudarc::driver::sys::CUresult;
use pinned_host::{DeviceError, ErrorKind, HostError};

/// An error of the CUDA backend. Sizes are bytes; codes print as the driver names them, without asking it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CudaError {
    /// The driver's library is not installed.
    #[error(
        "no CUDA driver on this machine: neither libcuda.so nor libcuda.so.1 can be opened; \
         install the NVIDIA driver (Debian, Ubuntu: nvidia-driver), or name its folder in LD_LIBRARY_PATH"
    )]
    NoLibrary,
    /// The driver is too old for this.
    #[error("the CUDA driver has no {symbol}; install a newer one")]
    NoSymbol {
        /// The function it lacks.
        symbol: &'static str,
    },
    /// The library is there, but no driver or device that it could use: `CUDA_ERROR_DEVICE_UNAVAILABLE` is one that another
    /// process has for itself.
    #[error("the CUDA driver cannot be used here: {call} said {code:?}")]
    NoDriver {
        /// The function.
        call: &'static str,
        /// What it returned.
        code: CUresult,
    },
    /// No device is the one asked for.
    #[error("no CUDA device {wanted}; there {}", list(found))]
    NoDevice {
        /// What was asked for.
        wanted: String,
        /// Names of the devices there are, in the order of their ordinals.
        found: Vec<String>,
    },
    /// The device cannot do something this needs.
    #[error("{device} has no {what}")]
    Unsupported {
        /// Name of the device.
        device: String,
        /// The ability.
        what: &'static str,
    },
    /// The driver gave no memory.
    #[error("no memory for {what} of {bytes} bytes: {call} said {code:?}, {} of device memory free", told(*free))]
    Memory {
        /// What it was for.
        what: &'static str,
        /// What was asked.
        bytes: u64,
        /// What the device had free just after; `None` where it did not say.
        free: Option<u64>,
        /// The function.
        call: &'static str,
        /// What it returned.
        code: CUresult,
    },
    /// The driver gave no page-locked host memory.
    #[error("no page-locked host memory of {bytes} bytes: {call} said {code:?}, {} of host memory available", told(*available))]
    HostMemory {
        /// What was asked.
        bytes: u64,
        /// What the host had just after; `None` where it does not say.
        available: Option<u64>,
        /// The function.
        call: &'static str,
        /// What it returned.
        code: CUresult,
    },
    /// More than can be asked for at once.
    #[error("{asked} bytes exceed {limit}, {allowed} bytes")]
    Limit {
        /// What limits it.
        limit: &'static str,
        /// What was asked.
        asked: u64,
        /// The most there can be.
        allowed: u64,
    },
    /// Host memory that cannot be had from the operating system.
    #[error("no host memory to register: {0}")]
    Host(#[from] HostError),
    /// A buffer or region of no bytes.
    #[error("a length of zero bytes was asked for")]
    ZeroSize,
    /// A range that the buffer cannot serve; nothing was touched.
    #[error("the buffer cannot serve it: {0}")]
    Range(#[from] RangeError),
    /// Copies of one batch that touch the same bytes; nothing was enqueued.
    #[error("copy {copy} of the batch writes bytes that copy {other} uses")]
    Entangled {
        /// Number of the writing copy in the batch, from 0.
        copy: usize,
        /// Number of the other.
        other: usize,
    },
    /// A remap or a change of size that breaks a rule; nothing was changed.
    #[error("cannot remap {len} bytes from {src} to {dst}: {why}")]
    Remap {
        /// Offset of the source.
        src: u64,
        /// Length.
        len: u64,
        /// Offset of the destination.
        dst: u64,
        /// The rule.
        why: &'static str,
    },
    /// The bytes of a view are no whole, aligned slice of the type asked for.
    #[error(
        "{bytes} bytes at device address {address:#x} are no slice of {type_name} ({size} bytes each, aligned to {align})"
    )]
    Cast {
        /// First byte on the device.
        address: u64,
        /// Length of the view.
        bytes: u64,
        /// The type asked for.
        type_name: &'static str,
        /// Its size.
        size: usize,
        /// Its alignment.
        align: usize,
    },
    /// Something made in another CUDA context.
    #[error("the {what} belongs to another CUDA context (device {theirs}, here device {ours})")]
    Foreign {
        /// `event`, `buffer`, `stream` or `slice`.
        what: &'static str,
        /// Ordinal of the device that made it.
        theirs: usize,
        /// Ordinal of the device it was given to.
        ours: usize,
    },
    /// The per-thread default stream, which cannot be a queue: it is another stream on every thread, and a queue and its
    /// events are used from any.
    #[error("the per-thread default stream is a stream of each thread's own, and no queue")]
    PerThreadStream,
    /// The stream is being captured into a graph, of which this crate's work can be no part; nothing was enqueued.
    #[error("the stream is being captured into a graph")]
    Capturing,
    /// A context that is not the device's could not be waited for; what its streams may use is kept.
    #[error("another CUDA context cannot be waited for: cuCtxSynchronize said {code:?}")]
    Elsewhere {
        /// What it returned.
        code: CUresult,
    },
    /// A copy in several pieces was cut half-way: the bytes at its destination are torn.
    ///
    /// The first event recorded after the copy reports it, each time it is asked.
    #[error("a copy of {asked} bytes was cut after {done} bytes: {call} said {code:?}")]
    Cut {
        /// What was enqueued before.
        done: u64,
        /// Length of the copy.
        asked: u64,
        /// The function.
        call: &'static str,
        /// What it returned.
        code: CUresult,
    },
    /// The pages of a buffer could not be put back after a remap that failed: its contents are gone.
    #[error("the buffer's pages could not be put back after a failed remap; its contents are gone")]
    Broken,
    /// The CUDA context is unusable, and everything in it is gone.
    ///
    /// After such an error the driver answers every call with it; a program that goes on with CUDA has to be started
    /// again.
    #[error("the CUDA context is lost: {call} said {code:?}")]
    DeviceLost {
        /// The first function that said so.
        call: &'static str,
        /// What it returned.
        code: CUresult,
    },
    /// The driver refused a call.
    #[error("{call} failed: {code:?}")]
    Driver {
        /// The function.
        call: &'static str,
        /// What it returned.
        code: CUresult,
    },
}

impl CudaError {
    /// The driver's code, where there is one.
    pub fn code(&self) -> Option<CUresult> {
        match *self {
            CudaError::NoDriver { code, .. }
            | CudaError::Memory { code, .. }
            | CudaError::HostMemory { code, .. }
            | CudaError::Cut { code, .. }
            | CudaError::Elsewhere { code }
            | CudaError::DeviceLost { code, .. }
            | CudaError::Driver { code, .. } => Some(code),
            _ => None,
        }
    }

    /// The error of a call that was refused while a device was looked for or opened, with those told apart that end a
    /// context and those of a device that is busy (in exclusive mode, say) or does not answer.
    pub(crate) fn of(call: &'static str, code: CUresult) -> CudaError {
        match code {
            CUresult::CUDA_ERROR_DEVICE_UNAVAILABLE | CUresult::CUDA_ERROR_UNKNOWN => {
                CudaError::NoDriver { call, code }
            }
            code if is_loss(code) => CudaError::DeviceLost { call, code },
            code => CudaError::Driver { call, code },
        }
    }
}

impl DeviceError for CudaError {
    fn kind(&self) -> ErrorKind {
        match self {
            CudaError::Memory { .. }
            | CudaError::HostMemory { .. }
            | CudaError::Limit { .. }
            | CudaError::Host(_) => ErrorKind::OutOfMemory,
            CudaError::Driver { code: CUresult::CUDA_ERROR_OUT_OF_MEMORY, .. } => ErrorKind::OutOfMemory,
            CudaError::DeviceLost { .. } | CudaError::Broken => ErrorKind::DeviceLost,
            CudaError::Range(_)
            | CudaError::Entangled { .. }
            | CudaError::Remap { .. }
            | CudaError::Cast { .. }
            | CudaError::ZeroSize
            | CudaError::Foreign { .. }
            | CudaError::PerThreadStream
            | CudaError::Capturing
            | CudaError::NoDevice { .. } => ErrorKind::InvalidUse,
            _ => ErrorKind::Failed,
        }
    }
}

/// Whether nothing works in the context any more once a call returned `code`.
///
/// The codes of which the driver's documentation says that the process is left in an inconsistent state, or that the
/// context must be destroyed; and those of a context or driver that is gone. `Context::heard` looks closer at
/// `CUDA_ERROR_UNKNOWN`.
pub(crate) fn is_loss(code: CUresult) -> bool {
    use CUresult as C;
    matches!(
        code,
        C::CUDA_ERROR_DEINITIALIZED
            | C::CUDA_ERROR_ECC_UNCORRECTABLE
            | C::CUDA_ERROR_CONTAINED
            | C::CUDA_ERROR_NVLINK_UNCORRECTABLE
            | C::CUDA_ERROR_ILLEGAL_ADDRESS
            | C::CUDA_ERROR_LAUNCH_TIMEOUT
            | C::CUDA_ERROR_CONTEXT_IS_DESTROYED
            | C::CUDA_ERROR_ASSERT
            | C::CUDA_ERROR_HARDWARE_STACK_ERROR
            | C::CUDA_ERROR_ILLEGAL_INSTRUCTION
            | C::CUDA_ERROR_MISALIGNED_ADDRESS
            | C::CUDA_ERROR_INVALID_ADDRESS_SPACE
            | C::CUDA_ERROR_INVALID_PC
            | C::CUDA_ERROR_LAUNCH_FAILED
            | C::CUDA_ERROR_TENSOR_MEMORY_LEAK
            | C::CUDA_ERROR_MPS_CLIENT_TERMINATED
            | C::CUDA_ERROR_EXTERNAL_DEVICE
    )
}

fn told(bytes: Option<u64>) -> String {
    bytes.map_or_else(|| "an unknown part".to_owned(), |bytes| format!("{bytes} bytes"))
}

fn list(found: &[String]) -> String {
    match found {
        [] => "is none".to_owned(),
        [one] => format!("is 0: {one}"),
        all => {
            let each: Vec<_> =
                all.iter().enumerate().map(|(index, name)| format!("{index}: {name}")).collect();
            format!("are {}", each.join(", "))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_print_without_a_driver_and_have_a_kind() {
        let lost = CudaError::of("cuStreamSynchronize", CUresult::CUDA_ERROR_ILLEGAL_ADDRESS);
        assert_eq!(lost.kind(), ErrorKind::DeviceLost);
        assert_eq!(
            lost.to_string(),
            "the CUDA context is lost: cuStreamSynchronize said CUDA_ERROR_ILLEGAL_ADDRESS"
        );
        let refused = CudaError::of("cuMemcpyHtoDAsync", CUresult::CUDA_ERROR_OUT_OF_MEMORY);
        assert_eq!(refused.kind(), ErrorKind::OutOfMemory);
        assert_eq!(CudaError::of("cuMemAlloc", CUresult::CUDA_ERROR_INVALID_VALUE).kind(), ErrorKind::Failed);
        let (bytes, code) = (4096, CUresult::CUDA_ERROR_OUT_OF_MEMORY);
        let memory = CudaError::Memory { what: "a buffer", bytes, free: None, call: "cuMemAlloc", code };
        assert_eq!(
            memory.to_string(),
            "no memory for a buffer of 4096 bytes: cuMemAlloc said CUDA_ERROR_OUT_OF_MEMORY, \
             an unknown part of device memory free"
        );
        assert_eq!(memory.code(), Some(code));
    }

    #[test]
    fn errors_that_end_the_context_are_told_from_those_that_do_not() {
        use CUresult as C;
        assert!([C::CUDA_ERROR_CONTAINED, C::CUDA_ERROR_TENSOR_MEMORY_LEAK].into_iter().all(is_loss));
        // Another process has the device; or nobody knows.
        for code in [C::CUDA_ERROR_DEVICE_UNAVAILABLE, C::CUDA_ERROR_UNKNOWN] {
            let busy = CudaError::of("cuDevicePrimaryCtxRetain", code);
            assert!(!is_loss(code) && matches!(busy, CudaError::NoDriver { .. }), "{busy}");
        }
    }
}
