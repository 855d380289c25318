//! The original's three tests on CUDA: on the simulated driver, as backend `cuda_sim`. With feature `gpu-tests` on the machine's
//! own driver instead, as backend `cuda`.

#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on should stop where it stands")]

#[path = "../../backend-cuda/tests/common/mod.rs"]
mod common;
#[path = "suite/devices.rs"]
mod devices;
mod suite;

macro_rules! suites {
    ($backend:ident) => {
        mod $backend {
            mod models {
                crate::devices::models_suite!(
                    crate::common::Sim::new(2026),
                    backend_cuda::CudaOptions::new().open().unwrap()
                );
            }
        }
    };
}

#[cfg(not(feature = "gpu-tests"))]
suites!(cuda_sim);
#[cfg(feature = "gpu-tests")]
suites!(cuda);
