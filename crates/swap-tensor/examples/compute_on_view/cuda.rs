//! The kernel through cudarc: a view of ours is an argument of a launch like any slice of cudarc's.

use crate::{AddKernel, Done};
use allocator_core::DeviceBuffer;
use backend_cuda::cudarc::driver::{CudaFunction, LaunchConfig, PushKernelArg};
use backend_cuda::cudarc::nvrtc::Ptx;
use backend_cuda::{CudaBuffer, CudaDevice, CudaQueue};
use core::ops::Range;
use std::error::Error;

/// Opens a device and loads the kernel there.
pub(crate) fn open() -> Result<(CudaDevice, Add), Box<dyn Error>> {
    let device = CudaDevice::new()?;
    println!("{:?}", device.cuda().name()?);
    let module = device.cuda().load_module(Ptx::from_src(PTX))?;
    let kernel = Add(module.load_function("add_u32")?);
    Ok((device, kernel))
}

/// The loaded kernel; keeps its module.
pub(crate) struct Add(CudaFunction);

impl AddKernel<CudaDevice> for Add {
    fn align(&self) -> u64 {
        // What `cuMemAlloc` promises, so that vector loads work.
        256
    }

    fn add(&self, queue: &CudaQueue, buffer: &CudaBuffer, range: Range<u64>, addend: u32) -> Done {
        let numbers = buffer.view(range)?.cast::<u32>()?;
        let count = numbers.size() / 4;
        let grid = LaunchConfig::for_num_elems(u32::try_from(count)?);
        let mut launch = queue.stream().launch_builder(&self.0);
        // SAFETY: the arguments are those of the kernel, which touches `numbers` alone; their buffer outlives the launch,
        // because its memory is waited for before it goes.
        unsafe { launch.arg(&numbers).arg(&count).arg(&addend).launch(grid) }?;
        Ok(())
    }
}

/// `numbers[i] += value` for `i < count`, for whatever device: the driver compiles it.
const PTX: &str = include_str!("../../../backend-cuda/examples/add_u32.ptx");
