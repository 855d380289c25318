//! The peers: the driver's own functions, with no more around them than a program written by hand would have.

use crate::race::Outcome;
use allocator_core::{DeviceBuffer, check_range};
use backend_cuda::cudarc::driver::sys::{self, CUresult};
use backend_cuda::{CudaBuffer, CudaDevice};

/// # Errors
/// The driver refused.
pub(crate) fn ok(call: &'static str, code: CUresult) -> Outcome<()> {
    if code == CUresult::CUDA_SUCCESS { Ok(()) } else { Err(format!("{call} said {code:?}").into()) }
}

/// Whether the driver is the simulated one, which has a function that no driver has. Call once a device is open.
pub(crate) fn is_simulated() -> bool {
    // SAFETY: the library is present, since a device is open; the symbol is looked up and not called.
    unsafe { sys::culib().get::<unsafe extern "C" fn()>(b"simVersion\0").is_ok() }
}

/// A stream that does not synchronise with the default one, and events to know how far it is.
pub(crate) struct Stream {
    stream: sys::CUstream,
    marks: Vec<sys::CUevent>,
}

/// Page-locked memory of the driver's.
pub(crate) struct Pinned {
    base: *mut u8,
    len: usize,
}

/// A copy, by offsets into both ends.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Copy {
    pub(crate) from: u64,
    pub(crate) to: u64,
    pub(crate) len: u64,
}

/// Where copies go.
#[derive(Clone, Copy)]
pub(crate) enum Ends<'a> {
    Up(&'a Pinned, &'a CudaBuffer),
    Down(&'a CudaBuffer, &'a Pinned),
    Within(&'a CudaBuffer),
}

impl Stream {
    /// A stream with `depth` events, in the context of the device, which is made current.
    pub(crate) fn new(device: &CudaDevice, depth: usize) -> Outcome<Stream> {
        device.cuda().bind_to_thread()?;
        let mut made = Stream { stream: core::ptr::null_mut(), marks: Vec::new() };
        let non_blocking = sys::CUstream_flags::CU_STREAM_NON_BLOCKING as u32;
        // SAFETY: points to a value of ours.
        ok("cuStreamCreate", unsafe { sys::cuStreamCreate(&raw mut made.stream, non_blocking) })?;
        let untimed = sys::CUevent_flags::CU_EVENT_DISABLE_TIMING as u32;
        for _ in 0..depth {
            let mut event = core::ptr::null_mut();
            // SAFETY: as above.
            ok("cuEventCreate", unsafe { sys::cuEventCreate(&raw mut event, untimed) })?;
            made.marks.push(event);
        }
        Ok(made)
    }

    pub(crate) fn raw(&self) -> sys::CUstream {
        self.stream
    }

    /// Enqueues a copy.
    pub(crate) fn copy(&self, ends: Ends<'_>, Copy { from, to, len }: Copy) -> Outcome<()> {
        let bytes = len as usize;
        match ends {
            Ends::Up(host, device) => {
                let (src, dst) = (host.at(from, len)?, at(device, to, len)?);
                // SAFETY: both ranges were checked; passes wait for the stream before either end goes or is used.
                ok("cuMemcpyHtoDAsync", unsafe {
                    sys::cuMemcpyHtoDAsync_v2(dst, src.cast(), bytes, self.stream)
                })
            }
            Ends::Down(device, host) => {
                let (src, dst) = (at(device, from, len)?, host.at(to, len)?);
                // SAFETY: as above.
                ok("cuMemcpyDtoHAsync", unsafe {
                    sys::cuMemcpyDtoHAsync_v2(dst.cast(), src, bytes, self.stream)
                })
            }
            Ends::Within(device) => {
                let (src, dst) = (at(device, from, len)?, at(device, to, len)?);
                // SAFETY: as above; the two do not overlap in any row that uses this.
                ok("cuMemcpyDtoDAsync", unsafe { sys::cuMemcpyDtoDAsync_v2(dst, src, bytes, self.stream) })
            }
        }
    }

    /// Copy number `number` of a pipeline as deep as there are events: waits for the one whose turn it was that many copies
    /// ago.
    pub(crate) fn copy_in_turn(&self, number: usize, ends: Ends<'_>, copy: Copy) -> Outcome<()> {
        let mark = self.marks[number % self.marks.len()];
        if number >= self.marks.len() {
            // SAFETY: the event is alive and was recorded.
            ok("cuEventSynchronize", unsafe { sys::cuEventSynchronize(mark) })?;
        }
        self.copy(ends, copy)?;
        // SAFETY: event and stream are alive.
        ok("cuEventRecord", unsafe { sys::cuEventRecord(mark, self.stream) })
    }

    /// Fills bytes of a buffer with one value, and waits.
    pub(crate) fn spoil(&self, buffer: &CudaBuffer, bytes: u64) -> Outcome<()> {
        let dst = at(buffer, 0, bytes)?;
        // SAFETY: the range was checked; the wait is the next call.
        ok("cuMemsetD8Async", unsafe { sys::cuMemsetD8Async(dst, SPOILT, bytes as usize, self.stream) })?;
        self.wait()
    }

    pub(crate) fn wait(&self) -> Outcome<()> {
        // SAFETY: the stream is alive.
        ok("cuStreamSynchronize", unsafe { sys::cuStreamSynchronize(self.stream) })
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        for event in self.marks.drain(..) {
            // SAFETY: made by `new`, and given back once.
            let _ = unsafe { sys::cuEventDestroy_v2(event) };
        }
        if !self.stream.is_null() {
            // SAFETY: as above.
            let _ = unsafe { sys::cuStreamDestroy_v2(self.stream) };
        }
    }
}

impl Pinned {
    /// `bytes` of memory, zeroed. A context is current on this thread.
    pub(crate) fn new(bytes: u64) -> Outcome<Pinned> {
        let (mut base, len) = (core::ptr::null_mut(), bytes as usize);
        // SAFETY: points to a value of ours.
        ok("cuMemHostAlloc", unsafe { sys::cuMemHostAlloc(&raw mut base, len, 0) })?;
        let base = base.cast::<u8>();
        // SAFETY: the driver gave `len` bytes, which nobody else has seen.
        unsafe { base.write_bytes(0, len) };
        Ok(Pinned { base, len })
    }

    /// The bytes, when no copy of them is in flight.
    pub(crate) fn as_mut_slice(&mut self) -> &mut [u8] {
        // SAFETY: initialised memory of that length; every pass waits for its copies before it returns.
        unsafe { core::slice::from_raw_parts_mut(self.base, self.len) }
    }

    fn at(&self, offset: u64, len: u64) -> Outcome<*mut u8> {
        check_range(self.len as u64, 1, &(offset..offset + len))?;
        // SAFETY: within the allocation, as was just checked.
        Ok(unsafe { self.base.add(offset as usize) })
    }
}

impl Drop for Pinned {
    fn drop(&mut self) {
        // SAFETY: from `cuMemHostAlloc`; no copy is in flight.
        let _ = unsafe { sys::cuMemFreeHost(self.base.cast()) };
    }
}

fn at(buffer: &CudaBuffer, offset: u64, len: u64) -> Outcome<sys::CUdeviceptr> {
    check_range(buffer.size(), 1, &(offset..offset + len))?;
    Ok(buffer.address() + offset)
}

/// What a destination holds before a pass that is checked.
pub(crate) const SPOILT: u8 = 0xEE;
