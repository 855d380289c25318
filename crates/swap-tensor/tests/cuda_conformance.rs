//! The swap story on CUDA: on the simulated driver, as backend `cuda_sim`, where a test also fails for undefined use of the
//! driver and for what is left behind. With feature `gpu-tests` on the machine's own driver instead, as backend `cuda`.

#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on should stop where it stands")]

#[path = "../../backend-cuda/tests/common/mod.rs"]
mod common;

use backend_cuda::{CudaDevice, CudaOptions};
use common::Sim;
use pinned_host::conformance::Harness;

/// Opens devices; the simulated one is checked when the test is over.
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

macro_rules! suites {
    ($backend:ident) => {
        mod $backend {
            mod swap {
                swap_tensor::swap_suite!(crate::Cuda::new(false));
            }

            mod swap_virtual_memory {
                swap_tensor::swap_suite!(crate::Cuda::new(true));
            }
        }
    };
}

#[cfg(not(feature = "gpu-tests"))]
suites!(cuda_sim);
#[cfg(feature = "gpu-tests")]
suites!(cuda);
