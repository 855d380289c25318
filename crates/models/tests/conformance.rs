//! The original's three tests on every device this crate can be tested with: `<backend>::models::<test>`.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on should stop where it stands")]

#[path = "suite/devices.rs"]
mod devices;
mod suite;

mod cpu {
    use backend_cpu::CpuDevice;

    mod models {
        crate::devices::models_suite!((), super::CpuDevice::new().unwrap());
    }

    /// With numbers in the tensors.
    mod models_with_numbers {
        use crate::devices::{
            ATTRIBUTION, CHECKPOINTED, Case, EQUIVALENCE, PLAIN, agrees_with_count, tracker,
        };
        use swap_models::Device;

        /// Runs a case and returns its losses, of several iterations, which fall from one to the next.
        fn computes(case: &Case) -> Vec<f32> {
            let device = Device::computing(super::CpuDevice::new().unwrap(), case.room()).unwrap();
            let run = case.run(&device, &tracker());
            agrees_with_count(&run, case);
            assert!(run.losses.len() > 1);
            assert!(run.losses.is_sorted_by(|before, after| after < before), "{:?}", run.losses);
            run.losses
        }

        #[test]
        fn attribution() {
            computes(&Case { iterations: 3, ..ATTRIBUTION });
        }

        #[test]
        fn equivalence() {
            computes(&EQUIVALENCE);
        }

        #[test]
        fn checkpointing_changes_no_loss() {
            assert_eq!(computes(&CHECKPOINTED), computes(&PLAIN));
        }
    }
}

/// The simulated device, which fails the test if it saw a missing wait.
macro_rules! simulated {
    ($name:ident, $config:expr) => {
        mod $name {
            use backend_cpu::sim::{SimConfig, SimDevice};

            fn device() -> SimDevice {
                let config: fn(SimConfig) -> SimConfig = $config;
                SimDevice::new(config(SimConfig::seeded(2026).strict()))
            }

            mod models {
                crate::devices::models_suite!((), super::device());
            }
        }
    };
}

simulated!(sim, |config| config);
simulated!(sim_like_wgpu, |config| config.grain(4).one_queue());

#[cfg(feature = "vulkan")]
mod vulkan {
    mod models {
        crate::devices::models_suite!((), backend_vulkan::VulkanOptions::new().open().unwrap());
    }
}

#[cfg(feature = "wgpu")]
mod wgpu {
    mod models {
        crate::devices::models_suite!((), backend_vulkan::WgpuDevice::open().unwrap());
    }
}
