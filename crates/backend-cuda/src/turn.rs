//! Copies within the device's memory: one by one, in one call of the driver, in one launch of a kernel.

use crate::context::Context;
use crate::event::Cut;
use crate::kernel::MOST;
use crate::queue::State;
use crate::{CudaError, CudaQueue};
use cudarc::driver::sys;
use std::sync::MutexGuard;
use std::sync::atomic::Ordering::Relaxed;

/// A queue on which nobody else of this crate's enqueues meanwhile, and which takes work: its context is current on this
/// thread, not known to be lost, and the stream is not being captured.
pub(crate) struct Turn<'a> {
    queue: &'a CudaQueue,
    state: MutexGuard<'a, State>,
}

/// A copy between two places on the device, which do not overlap.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Piece {
    pub(crate) src: sys::CUdeviceptr,
    pub(crate) dst: sys::CUdeviceptr,
    /// Fits `usize`: buffers do.
    pub(crate) len: u64,
}

/// What of two launches was enqueued.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Launched {
    Both,
    First,
    Neither,
}

/// How far something has come that is whole only if all of it is made.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Progress {
    /// Bytes of it that are enqueued.
    pub(crate) done: u64,
    /// Bytes of all of it.
    pub(crate) asked: u64,
}

impl<'a> Turn<'a> {
    pub(crate) fn new(queue: &'a CudaQueue, state: MutexGuard<'a, State>) -> Self {
        Turn { queue, state }
    }

    fn context(&self) -> &'a Context {
        self.queue.context()
    }

    /// Enqueues copies in order, the rest of what has come so far.
    ///
    /// # Errors
    /// The first was refused, and nothing was enqueued before. If a later one is, the queue is emptied and it is tried once
    /// more; if that fails too, the copy is cut: this returns `Ok`, and the first event recorded next reports it.
    pub(crate) fn copies(
        &mut self,
        mut so_far: Progress,
        pieces: impl Iterator<Item = Piece>,
    ) -> Result<(), CudaError> {
        let (context, stream) = (self.context(), self.queue.raw());
        for piece in pieces {
            let copy = || {
                context.call_here(COPY, || {
                    // SAFETY: both ranges lie in buffers that outlive the copy (their memory waits for this stream
                    // before it goes), and do not overlap.
                    unsafe { sys::cuMemcpyDtoDAsync_v2(piece.dst, piece.src, piece.len as usize, stream) }
                })
            };
            match copy() {
                Ok(()) => {}
                Err(error) if so_far.done == 0 => return Err(error),
                Err(_) => {
                    if let Err(error) = self.queue.empty().and_then(|()| copy()) {
                        self.cut(&error, so_far);
                        return Ok(());
                    }
                }
            }
            so_far.done += piece.len;
        }
        Ok(())
    }

    /// Enqueues copies that touch none of one another's bytes, in one call of a driver that takes it; the rest of what has
    /// come so far.
    ///
    /// # Errors
    /// As [`Self::copies`]. A batch that is refused is made again one by one: the driver does not say what of it was
    /// enqueued, and copies that do not touch one another can be made twice.
    pub(crate) fn batch(&mut self, so_far: Progress, pieces: &[Piece]) -> Result<(), CudaError> {
        let context = self.context();
        let default_stream = self.queue.raw().addr() <= LEGACY;
        if !context.batches.load(Relaxed) || default_stream || pieces.len() < 2 {
            return self.copies(so_far, pieces.iter().copied());
        }
        let Err(error) = self.in_one_call(pieces) else { return Ok(()) };
        context.check_lost()?;
        if self.queue.empty().is_err() {
            self.cut(&error, so_far);
            return Ok(());
        }
        let singly = self.copies(so_far, pieces.iter().copied());
        // A driver that takes none is not asked again: each refusal costs emptying the queue.
        match error.code() {
            Some(sys::CUresult::CUDA_ERROR_NOT_SUPPORTED) => context.batches.store(false, Relaxed),
            Some(sys::CUresult::CUDA_ERROR_INVALID_VALUE) if singly.is_ok() => {
                context.batches.store(false, Relaxed);
            }
            _ => {}
        }
        singly
    }

    fn in_one_call(&self, pieces: &[Piece]) -> Result<(), CudaError> {
        let mut dsts: Vec<_> = pieces.iter().map(|piece| piece.dst).collect();
        let mut srcs: Vec<_> = pieces.iter().map(|piece| piece.src).collect();
        let mut sizes: Vec<_> = pieces.iter().map(|piece| piece.len as usize).collect();
        let nowhere =
            sys::CUmemLocation { type_: sys::CUmemLocationType::CU_MEM_LOCATION_TYPE_INVALID, id: 0 };
        let mut how = sys::CUmemcpyAttributes {
            srcAccessOrder: sys::CUmemcpySrcAccessOrder::CU_MEMCPY_SRC_ACCESS_ORDER_STREAM,
            srcLocHint: nowhere,
            dstLocHint: nowhere,
            flags: 0,
        };
        let (mut from, mut failed) = (0, usize::MAX);
        self.context().call_here("cuMemcpyBatchAsync", || {
            // SAFETY: the three lists have the count's length, the attributes apply from copy 0 on; the ranges as in
            // `copies`.
            unsafe {
                sys::cuMemcpyBatchAsync(
                    dsts.as_mut_ptr(),
                    srcs.as_mut_ptr(),
                    sizes.as_mut_ptr(),
                    sizes.len(),
                    &raw mut how,
                    &raw mut from,
                    1,
                    &raw mut failed,
                    self.queue.raw(),
                )
            }
        })
    }

    /// Enqueues copies that touch none of one another's bytes: those of at most `short` bytes by launches, the others, and all
    /// where there is no kernel, as a [`batch`](Self::batch).
    ///
    /// # Errors
    /// As [`batch`](Self::batch).
    pub(crate) fn independent(&mut self, pieces: &[Piece], short: u64) -> Result<(), CudaError> {
        let mut so_far = Progress::none(total(pieces));
        let (short, long): (Vec<_>, Vec<_>) = pieces.iter().partition(|piece| piece.len <= short);
        if short.len() < 2 || !self.has_kernel() {
            return self.batch(so_far, pieces);
        }
        for some in short.chunks(MOST) {
            if !self.launch(some)? {
                self.batch(so_far, some)?;
            }
            so_far.done += total(some);
        }
        if long.is_empty() { Ok(()) } else { self.batch(so_far, &long) }
    }

    /// Enqueues at most [`MOST`] copies that touch none of one another's bytes as one launch. `false`: it was refused, and
    /// nothing was enqueued; unless it was for want of memory, no other is tried.
    ///
    /// # Errors
    /// The context is lost.
    pub(crate) fn launch(&mut self, pieces: &[Piece]) -> Result<bool, CudaError> {
        let context = self.context();
        let Ok(kernel) = context.kernel() else { return context.check_lost().map(|()| false) };
        let Err(error) = kernel.launch(context, self.queue.raw(), pieces) else { return Ok(true) };
        context.check_lost()?;
        if error.code() != Some(sys::CUresult::CUDA_ERROR_OUT_OF_MEMORY) {
            context.refuse_kernel(error);
        }
        Ok(false)
    }

    /// Enqueues at most [`MOST`] copies that touch none of one another's bytes, and as many more that read what these wrote, as
    /// two launches.
    ///
    /// # Errors
    /// The context is lost.
    pub(crate) fn launch_twice(&mut self, first: &[Piece], second: &[Piece]) -> Result<Launched, CudaError> {
        match self.launch(first)? {
            true if self.launch(second)? => Ok(Launched::Both),
            true => Ok(Launched::First),
            false => Ok(Launched::Neither),
        }
    }

    /// Blocks until what was enqueued has ended, as far as the driver lets it.
    pub(crate) fn empty(&mut self) {
        // It waited, or the context is lost, or nothing more can be done.
        let _ = self.queue.empty();
    }

    /// Whether there is the kernel, as far as is known.
    pub(crate) fn has_kernel(&self) -> bool {
        self.context().kernel().is_ok()
    }

    /// Notes that something was cut, for the next event.
    fn cut(&mut self, error: &CudaError, Progress { done, asked }: Progress) {
        self.state.cut.get_or_insert(match *error {
            CudaError::DeviceLost { call, code } | CudaError::Driver { call, code } => {
                Cut { done, asked, call, code }
            }
            // A capture may have begun meanwhile.
            _ => Cut { done, asked, call: COPY, code: sys::CUresult::CUDA_ERROR_UNKNOWN },
        });
    }
}

impl Progress {
    /// None of so many bytes.
    pub(crate) fn none(asked: u64) -> Progress {
        Progress { done: 0, asked }
    }
}

/// Bytes of all together.
fn total(pieces: &[Piece]) -> u64 {
    pieces.iter().map(|piece| piece.len).sum()
}

const COPY: &str = "cuMemcpyDtoDAsync";
/// The handles 0 and 1 stand for the legacy default stream.
const LEGACY: usize = 1;
