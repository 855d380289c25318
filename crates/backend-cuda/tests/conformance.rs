//! The suites of the two floors below, on CUDA: `<backend>::<suite>::<promise>`.
//!
//! On the simulated driver, as backend `cuda_sim`, where a test also fails for undefined use of the driver and for what it
//! leaves behind. With feature `gpu-tests` on the machine's own driver instead, as backend `cuda`.

#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on should stop where it stands")]

mod common;

use allocator_core::conformance::Harness as BufferHarness;
use backend_cuda::cudarc::driver::CudaContext;
use backend_cuda::{CudaBuffer, CudaDevice, CudaOptions};
use common::{Fault, SIMULATED, Sim};
use pinned_host::conformance::Harness;
use pinned_host::{Lane, Queue, QueuedBuffer, Transfer};

/// Opens devices; the simulated one is checked when the test is over.
struct Cuda {
    options: CudaOptions,
    sim: Sim,
}

impl Cuda {
    fn new() -> Self {
        Self::with(CudaOptions::new())
    }

    fn with(options: CudaOptions) -> Self {
        Cuda { options: options.scratch(BOUNCE), sim: Sim::new(2024) }
    }

    /// For a promise with this path: one of them leaks a ticket.
    fn promising(promise: &str) -> Self {
        let cuda = Self::new();
        Cuda { sim: cuda.sim.leaking(promise.contains("ticket_forgotten_in_flight_leaks")), ..cuda }
    }

    fn virtual_memory() -> Self {
        Self::with(CudaOptions::new().virtual_memory(true))
    }
}

impl Harness for Cuda {
    type Device = CudaDevice;

    fn device(&self) -> CudaDevice {
        self.options.open().unwrap()
    }

    /// In a context of its own: devices in one context understand one another's events.
    fn other_device(&self) -> Option<CudaDevice> {
        let other = CudaContext::new_non_primary(0, 0).unwrap();
        Some(self.options.over_context(&other).unwrap())
    }

    fn fail_next_record(&self, _device: &CudaDevice, _lane: Lane) -> bool {
        if SIMULATED {
            self.sim.inject_at(Fault::OutOfMemory, "cuEventRecord", 1);
        }
        SIMULATED
    }

    fn lose_device(&self, _device: &CudaDevice) -> bool {
        if SIMULATED {
            self.sim.inject(Fault::DeviceLost, 1);
        }
        SIMULATED
    }
}

/// A device whose buffers are under test.
struct Buffers {
    device: CudaDevice,
    /// Dropped after the device: what it says about leaks counts.
    _cuda: Cuda,
}

fn buffers(cuda: Cuda) -> Buffers {
    Buffers { device: cuda.device(), _cuda: cuda }
}

impl BufferHarness for Buffers {
    type Buffer = CudaBuffer;

    fn make(&mut self, size: u64) -> CudaBuffer {
        self.device.buffer(size).unwrap()
    }

    fn write(&mut self, buffer: &mut CudaBuffer, at: u64, bytes: &[u8]) {
        buffer.queue().drain().unwrap();
        self.device.write_now(buffer, at, bytes).unwrap();
    }

    fn read(&mut self, buffer: &CudaBuffer, at: u64, len: u64) -> Vec<u8> {
        buffer.queue().drain().unwrap();
        let mut bytes = vec![0; len as usize];
        self.device.read_now(buffer, at, &mut bytes).unwrap();
        bytes
    }

    fn bounce(&self) -> u64 {
        BOUNCE
    }
}

macro_rules! suites {
    ($backend:ident) => {
        mod $backend {
            use super::{Cuda, buffers};

            mod device_buffer {
                allocator_core::device_buffer_suite!(super::buffers(super::Cuda::new()));
            }

            mod arena {
                allocator_core::arena_suite!(super::buffers(super::Cuda::new()));
            }

            mod remap {
                allocator_core::remap_suite!(super::buffers(super::Cuda::virtual_memory()));
            }

            // The name of a closure begins with that of the function it stands in.
            pinned_host::transfer_suite!(Cuda::promising(std::any::type_name_of_val(&|| ())));
            pinned_host::queue_suite!(Cuda::new());
            pinned_host::hazard_suite!(Cuda::new());
            pinned_host::staging_suite!(Cuda::new());
            pinned_host::staged_suite!(Cuda::new());
            pinned_host::locker_suite!(Cuda::new());
        }
    };
}

#[cfg(not(feature = "gpu-tests"))]
suites!(cuda_sim);
#[cfg(feature = "gpu-tests")]
suites!(cuda);

const BOUNCE: u64 = 64 << 10;
