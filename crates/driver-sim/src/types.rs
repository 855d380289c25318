//! Structures and handles of the driver's ABI, laid out as in `cuda.h` of CUDA 12.8.

use core::ffi::c_void;
use core::mem::MaybeUninit;

/// Where a function writes a result; null is `None`.
pub type Out<'a, T> = Option<&'a mut MaybeUninit<T>>;
/// What a caller passes by pointer; null is `None`.
pub type In<'a, T> = Option<&'a T>;

/// Number of a device.
pub type Device = i32;
/// A context, as an opaque pointer.
pub type Context = usize;
/// A stream, as an opaque pointer: 0 and [`LEGACY`] the legacy default stream, [`PER_THREAD`] the thread's own.
pub type Stream = usize;
/// An event, as an opaque pointer.
pub type Event = usize;
/// A module, as an opaque pointer.
pub type Module = usize;
/// A kernel of a module, as an opaque pointer.
pub type Function = usize;
/// A memory pool, as an opaque pointer.
pub type Pool = usize;
/// Physical memory of the virtual-memory functions.
pub type AllocationHandle = u64;
/// An address on the device.
pub type DevicePtr = u64;
/// A function for `cuLaunchHostFunc`.
pub type HostFn = unsafe extern "C" fn(*mut c_void);

/// `CU_STREAM_LEGACY`.
pub const LEGACY: Stream = 1;
/// `CU_STREAM_PER_THREAD`.
pub const PER_THREAD: Stream = 2;

/// `CUmemLocation`: a kind of place (1: a device) and its number.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MemLocation {
    /// 1 for a device.
    pub kind: u32,
    /// Number of the device.
    pub id: i32,
}

/// `CUmemAllocationProp`: what physical memory is to be.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct AllocationProp {
    /// 1, pinned, is the only kind there is.
    pub kind: u32,
    /// Kinds of handles it may be exported as; 0 is none.
    pub requested_handle_types: u32,
    /// Where it lies.
    pub location: MemLocation,
    /// Not used on this system.
    pub win32_handle_meta_data: *mut c_void,
    /// Compression, RDMA, usage and reserved bytes.
    pub alloc_flags: [u8; 8],
}

/// `CUmemAccessDesc`: who may do what.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct AccessDesc {
    /// Who.
    pub location: MemLocation,
    /// 0 nothing, 1 read, 3 read and write.
    pub flags: u32,
}

/// `CUmemPoolProps`: what a pool is to be.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct PoolProps {
    /// 1, pinned, is the only kind there is.
    pub kind: u32,
    /// Kinds of handles it may be exported as; 0 is none.
    pub handle_types: u32,
    /// Where its memory lies.
    pub location: MemLocation,
    /// Not used on this system.
    pub win32_security_attributes: *mut c_void,
    /// Most bytes it may hold; 0 is no limit of its own.
    pub max_size: usize,
    /// Usage and reserved bytes.
    pub reserved: [u8; 56],
}

/// `CUmemcpyAttributes`: how the copies of a batch treat their sources.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct MemcpyAttributes {
    /// 1 in stream order, 2 during the call, 3 at any time.
    pub src_access_order: u32,
    /// A hint.
    pub src_location_hint: MemLocation,
    /// A hint.
    pub dst_location_hint: MemLocation,
    /// A hint.
    pub flags: u32,
}

/// `CUlaunchConfig`: shape and stream of a launch.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct LaunchConfig {
    /// Blocks in x, y and z.
    pub grid: [u32; 3],
    /// Threads of a block in x, y and z.
    pub block: [u32; 3],
    /// Dynamic shared memory of a block, in bytes.
    pub shared_mem_bytes: u32,
    /// Where it runs.
    pub stream: Stream,
    /// Attributes, of which none are known here.
    pub attrs: *mut c_void,
    /// How many.
    pub num_attrs: u32,
}

#[cfg(test)]
mod tests {
    use super::*;
    use core::mem::size_of;

    #[test]
    fn sizes_are_those_of_the_header() {
        let sizes = [
            size_of::<AllocationProp>(),
            size_of::<AccessDesc>(),
            size_of::<PoolProps>(),
            size_of::<MemcpyAttributes>(),
            size_of::<LaunchConfig>(),
        ];
        assert_eq!(sizes, [32, 12, 88, 24, 56]);
    }
}
