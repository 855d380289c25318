//! The swap story on CUDA, over the simulated driver, which fails a test for undefined use and for what is left behind.

#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on should stop where it stands")]

#[allow(unexpected_cfgs, reason = "its own crate has a feature that this one has not")]
#[path = "../../backend-cuda/tests/common/mod.rs"]
mod common;

use backend_cuda::{CudaDevice, CudaOptions};
use common::Sim;
use pinned_host::conformance::Harness;

/// Devices on the simulated driver, which is checked when the test is over.
struct Cuda {
    options: CudaOptions,
    _sim: Sim,
}

impl Cuda {
    fn new(virtual_memory: bool) -> Self {
        Cuda { options: CudaOptions::new().virtual_memory(virtual_memory), _sim: Sim::new(2026) }
    }
}

impl Harness for Cuda {
    type Device = CudaDevice;

    fn device(&self) -> CudaDevice {
        self.options.open().unwrap()
    }
}

mod cuda_sim {
    mod swap {
        swap_tensor::swap_suite!(crate::Cuda::new(false));
    }

    mod swap_virtual_memory {
        swap_tensor::swap_suite!(crate::Cuda::new(true));
    }
}
