//! A range of a buffer, as cudarc's kernels, copies and libraries take it.

use crate::CudaError;
use crate::context::Context;
use crate::memory::Memory;
use core::marker::PhantomData;
use core::ops::Range;
use cudarc::driver as cu;
use cudarc::driver::sys;
use cudarc::driver::{
    DevicePtr, DevicePtrMut, DeviceRepr, DeviceSlice, LaunchArgs, PushKernelArg, SyncOnDrop,
};
use std::sync::Arc;

/// A range of a [`CudaBuffer`](crate::CudaBuffer) as a slice of `T` on the device.
///
/// Implements cudarc's `DeviceSlice`, `DevicePtr` and `DevicePtrMut`, and can be an argument of its kernel launches: so
/// cudarc's copies and its cuBLAS calls take a block as they take a `CudaSlice`.
///
/// Its lifetime guards the handle, not execution, and it orders nothing: who uses the range on a stream holds a lease or
/// waits for events, and records one afterwards ([`CudaDevice::wrap`](crate::CudaDevice::wrap) makes a queue of the
/// stream). In particular cudarc's own waits between streams know nothing of it. Before the buffer's memory goes, everything
/// is waited for in the contexts of the streams that a view was given to; a kernel's stream is taken to be of the buffer's
/// context. What cudarc copies from a view by a stream of **another** context is not seen (it asks the view for its address
/// on the view's own stream): wait for that before the buffer goes.
///
/// ```no_run
/// use allocator_core::DeviceBuffer;
/// use backend_cuda::CudaDevice;
/// use pinned_host::{Queue, Transfer};
///
/// let device = CudaDevice::new()?;
/// let buffer = device.buffer(1 << 20)?;
/// let stream = device.queue().stream();
/// let mut block = buffer.view(4096..8192)?.cast::<f32>()?;
/// stream.memcpy_htod(&[1.0f32; 1024], &mut block)?;
/// assert_eq!(stream.clone_dtoh(&block)?, [1.0; 1024]);
/// let done = device.queue().record()?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// A type with bytes that are no value of it is the caller's to vouch for:
///
/// ```compile_fail,E0277
/// # use allocator_core::DeviceBuffer;
/// # fn of(buffer: &backend_cuda::CudaBuffer) -> Result<(), backend_cuda::CudaError> {
/// let flags = buffer.view(0..16)?.cast::<bool>()?; // `cast_unchecked`, which is unsafe
/// # Ok(())
/// # }
/// ```
pub struct CudaView<'a, T = u8> {
    memory: &'a Arc<Memory>,
    stream: &'a Arc<cu::CudaStream>,
    address: sys::CUdeviceptr,
    /// In bytes; a multiple of `T`'s.
    bytes: u64,
    of: PhantomData<&'a [T]>,
}

impl<'a> CudaView<'a> {
    pub(crate) fn new(memory: &'a Arc<Memory>, stream: &'a Arc<cu::CudaStream>, range: Range<u64>) -> Self {
        let address = memory.base() + range.start;
        CudaView { memory, stream, address, bytes: range.end - range.start, of: PhantomData }
    }
}

impl<'a, T> CudaView<'a, T> {
    /// The same bytes as a slice of another type, of which every pattern of bits is a value.
    ///
    /// # Errors
    /// The bytes are no whole number of `U`, or not aligned to it: ask for blocks with that alignment.
    pub fn cast<U: Plain>(self) -> Result<CudaView<'a, U>, CudaError> {
        // SAFETY: whatever the bytes are, they are values of `U`.
        unsafe { self.cast_unchecked() }
    }

    /// The same for any type that cudarc takes: `half::f16`, `bool`, structures and enumerations of the caller's.
    ///
    /// # Errors
    /// As [`cast`](Self::cast).
    ///
    /// # Safety
    /// Whenever cudarc copies values of `U` from the view to the host, its bytes are valid values of `U`. (cudarc's safe copies
    /// make a `Vec<U>` of them and ask nobody.)
    pub unsafe fn cast_unchecked<U: DeviceRepr>(self) -> Result<CudaView<'a, U>, CudaError> {
        let CudaView { memory, stream, address, bytes, .. } = self;
        let (size, align) = (size_of::<U>(), align_of::<U>());
        if size == 0 || bytes % size as u64 != 0 || address % align as u64 != 0 {
            let type_name = std::any::type_name::<U>();
            return Err(CudaError::Cast { address, bytes, type_name, size, align });
        }
        Ok(CudaView { memory, stream, address, bytes, of: PhantomData })
    }

    /// Address of the first byte on the device.
    pub fn address(&self) -> sys::CUdeviceptr {
        self.address
    }

    /// Length in bytes.
    pub fn size(&self) -> u64 {
        self.bytes
    }

    fn given_to(&self, stream: &cu::CudaStream) -> sys::CUdeviceptr {
        if !Context::is_same_stream(stream, self.stream) {
            self.memory.lend(stream.context());
        }
        self.address
    }
}

/// A type of which every pattern of bits is a value: integers, floats, arrays of them.
///
/// Sealed: [`CudaView::cast_unchecked`] takes other types at the caller's word.
pub trait Plain: DeviceRepr + sealed::Sealed + 'static {}

mod sealed {
    /// Keeps the list in this file.
    pub trait Sealed {}
}

macro_rules! plain {
    ($($number:ty)*) => {
        $(impl sealed::Sealed for $number {}
        impl Plain for $number {})*
    };
}

plain!(u8 u16 u32 u64 u128 usize i8 i16 i32 i64 i128 isize f32 f64);

impl<T: Plain, const N: usize> sealed::Sealed for [T; N] {}
impl<T: Plain, const N: usize> Plain for [T; N] {}

impl<T> Clone for CudaView<'_, T> {
    fn clone(&self) -> Self {
        CudaView { of: PhantomData, ..*self }
    }
}

impl<T> DeviceSlice<T> for CudaView<'_, T> {
    fn len(&self) -> usize {
        // Fits: the buffer's length does.
        self.bytes as usize / size_of::<T>().max(1)
    }

    /// The buffer's stream.
    fn stream(&self) -> &Arc<cu::CudaStream> {
        self.stream
    }
}

impl<T> DevicePtr<T> for CudaView<'_, T> {
    fn device_ptr<'a>(&'a self, stream: &'a cu::CudaStream) -> (sys::CUdeviceptr, SyncOnDrop<'a>) {
        (self.given_to(stream), SyncOnDrop::Record(None))
    }
}

impl<T> DevicePtrMut<T> for CudaView<'_, T> {
    fn device_ptr_mut<'a>(&'a mut self, stream: &'a cu::CudaStream) -> (sys::CUdeviceptr, SyncOnDrop<'a>) {
        (self.given_to(stream), SyncOnDrop::Record(None))
    }
}

// SAFETY: what is pushed is a reference to the device address, which lives as long as the borrow of the view.
unsafe impl<'a, 'b: 'a, T> PushKernelArg<&'b CudaView<'_, T>> for LaunchArgs<'a> {
    #[inline(always)]
    fn arg(&mut self, arg: &'b CudaView<'_, T>) -> &mut Self {
        arg.memory.lend(arg.memory.context().safe());
        self.arg(&arg.address)
    }
}

// SAFETY: as above.
unsafe impl<'a, 'b: 'a, T> PushKernelArg<&'b mut CudaView<'_, T>> for LaunchArgs<'a> {
    #[inline(always)]
    fn arg(&mut self, arg: &'b mut CudaView<'_, T>) -> &mut Self {
        arg.memory.lend(arg.memory.context().safe());
        self.arg(&arg.address)
    }
}

impl<T> core::fmt::Debug for CudaView<'_, T> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("CudaView").field("address", &self.address).field("bytes", &self.bytes).finish()
    }
}
