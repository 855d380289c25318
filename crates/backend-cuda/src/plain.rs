//! Plain copies between the host and device memory, which wait: for a witness, and for what is not worth a transfer.

use crate::context::Context;
use crate::memory::Memory;
use crate::{CudaError, CudaQueue};
use cudarc::driver::sys;
use std::sync::{Arc, OnceLock};

/// Copies on a stream of its own, which is made when the first is wanted.
///
/// Who calls has checked the range, and holds the memory's size until it returns.
pub(crate) struct PlainCopies {
    context: Arc<Context>,
    queue: OnceLock<CudaQueue>,
}

impl PlainCopies {
    pub(crate) fn new(context: &Arc<Context>) -> Self {
        PlainCopies { context: Arc::clone(context), queue: OnceLock::new() }
    }

    /// Fills `dst`, which is not empty, from the device address `from` in `memory`.
    ///
    /// Page-locked bytes are filled from a pageable copy of their size: should the wait fail, what is borrowed cannot be kept
    /// from its owner.
    pub(crate) fn read(
        &self,
        memory: &Memory,
        from: sys::CUdeviceptr,
        dst: &mut [u8],
    ) -> Result<(), CudaError> {
        if self.is_registered(dst)? {
            let mut pageable = vec![0; dst.len()];
            self.read_pageable(memory, from, &mut pageable)?;
            dst.copy_from_slice(&pageable);
            return Ok(());
        }
        self.read_pageable(memory, from, dst)
    }

    /// The same, the other way.
    pub(crate) fn write(&self, memory: &Memory, to: sys::CUdeviceptr, src: &[u8]) -> Result<(), CudaError> {
        if self.is_registered(src)? {
            let pageable = src.to_vec();
            return self.write_pageable(memory, to, &pageable);
        }
        self.write_pageable(memory, to, src)
    }

    fn read_pageable(
        &self,
        memory: &Memory,
        from: sys::CUdeviceptr,
        dst: &mut [u8],
    ) -> Result<(), CudaError> {
        let (to, bytes) = (dst.as_mut_ptr().cast(), dst.len());
        self.copy(memory, "cuMemcpyDtoHAsync", |stream| {
            // SAFETY: the caller checked the range and holds it; `dst` outlives the call, which for pageable memory returns
            // once all of it has been written.
            unsafe { sys::cuMemcpyDtoHAsync_v2(to, from, bytes, stream) }
        })
    }

    fn write_pageable(&self, memory: &Memory, to: sys::CUdeviceptr, src: &[u8]) -> Result<(), CudaError> {
        let (from, bytes) = (src.as_ptr().cast(), src.len());
        self.copy(memory, "cuMemcpyHtoDAsync", |stream| {
            // SAFETY: as in `read_pageable`; the call returns once all of `src` has been read.
            unsafe { sys::cuMemcpyHtoDAsync_v2(to, from, bytes, stream) }
        })
    }

    /// Enqueues a copy and waits for it.
    fn copy(
        &self,
        memory: &Memory,
        call: &'static str,
        copy: impl FnOnce(sys::CUstream) -> sys::CUresult,
    ) -> Result<(), CudaError> {
        let queue = self.queue()?;
        self.context.call(call, || copy(queue.raw()))?;
        // What cannot be waited for here is waited for before the memory goes.
        self.context.wait_out(queue.raw()).inspect_err(|_| memory.lend(self.context.safe()))
    }

    fn queue(&self) -> Result<&CudaQueue, CudaError> {
        if let Some(queue) = self.queue.get() {
            return Ok(queue);
        }
        // What cudarc has kept of an earlier call is the business of its own calls, and not of a plain copy.
        let safe = self.context.safe();
        let kept = safe.check_err();
        let made = CudaQueue::make(&self.context, "plain");
        safe.record_err(kept);
        let made = made?;
        Ok(self.queue.get_or_init(|| made))
    }

    /// Whether the device may copy from and to these bytes of the host by itself, and go on after an error: memory that the
    /// driver made or registered.
    fn is_registered(&self, bytes: &[u8]) -> Result<bool, CudaError> {
        for byte in [bytes.first(), bytes.last()].into_iter().flatten() {
            let (mut kind, at) = (0u32, (&raw const *byte).addr() as u64);
            let which = sys::CUpointer_attribute::CU_POINTER_ATTRIBUTE_MEMORY_TYPE;
            let known = self.context.call("cuPointerGetAttribute", || {
                // SAFETY: the attribute has the type of `kind`; any address may be asked about.
                unsafe { sys::cuPointerGetAttribute((&raw mut kind).cast(), which, at) }
            });
            match known {
                // Some drivers know pageable memory too, as of no kind.
                Ok(()) if kind == 0 => {}
                Ok(()) => return Ok(true),
                Err(error) if error.code() == Some(sys::CUresult::CUDA_ERROR_INVALID_VALUE) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(false)
    }
}
