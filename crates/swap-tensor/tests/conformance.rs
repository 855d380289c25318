//! The swap story on every device this crate can be tested with.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on should stop where it stands")]

use pinned_host::conformance::Harness;

struct Cpu;

impl Harness for Cpu {
    type Device = backend_cpu::CpuDevice;

    fn device(&self) -> Self::Device {
        backend_cpu::CpuDevice::new().unwrap()
    }
}

/// The simulated device, which fails the test if it saw a missing wait or a read of poison.
struct Sim {
    one_queue: bool,
}

impl Harness for Sim {
    type Device = backend_cpu::sim::SimDevice;

    fn device(&self) -> Self::Device {
        let config = backend_cpu::sim::SimConfig::seeded(1).strict();
        backend_cpu::sim::SimDevice::new(if self.one_queue { config.grain(4).one_queue() } else { config })
    }

    fn device_beside(&self, device: &Self::Device) -> Option<Self::Device> {
        Some(device.beside(backend_cpu::sim::SimConfig::seeded(2).strict()))
    }
}

/// The tests of `backend-vulkan` say whether the validation layer is on, and how they take turns under it.
#[cfg(feature = "vulkan")]
#[path = "../../backend-vulkan/tests/support/turn.rs"]
mod turn;

/// A driver under the validation layer, which fails the test if it says anything.
#[cfg(feature = "vulkan")]
struct Vulkan {
    said: std::sync::Mutex<Vec<backend_vulkan::ValidationLog>>,
}

#[cfg(feature = "vulkan")]
impl Vulkan {
    fn new() -> Self {
        turn::under_the_layer();
        Vulkan { said: std::sync::Mutex::default() }
    }
}

#[cfg(feature = "vulkan")]
impl Harness for Vulkan {
    type Device = backend_vulkan::VulkanDevice;

    fn device(&self) -> Self::Device {
        let device = backend_vulkan::VulkanOptions::new().validation(turn::with_layer()).open().unwrap();
        self.said.lock().unwrap().extend(device.validation().cloned());
        device
    }
}

#[cfg(feature = "vulkan")]
impl Drop for Vulkan {
    fn drop(&mut self) {
        for log in self.said.lock().unwrap().iter() {
            let said = log.take();
            assert!(std::thread::panicking() || said.is_empty(), "the layer said:\n{}", said.join("\n"));
            assert!(std::thread::panicking() || log.is_closed(), "something of the device was leaked");
        }
    }
}

mod cpu {
    mod swap {
        swap_tensor::swap_suite!(crate::Cpu);
    }
}

mod sim {
    mod swap {
        swap_tensor::swap_suite!(crate::Sim { one_queue: false });
    }
}

mod sim_like_wgpu {
    mod swap {
        swap_tensor::swap_suite!(crate::Sim { one_queue: true });
    }
}

#[cfg(feature = "vulkan")]
mod vulkan {
    mod swap {
        swap_tensor::swap_suite!(crate::Vulkan::new());
    }
}

/// wgpu on Mesa's software driver; its own tests listen to the validation layer.
#[cfg(feature = "wgpu")]
struct Wgpu;

#[cfg(feature = "wgpu")]
impl Harness for Wgpu {
    type Device = backend_vulkan::WgpuDevice;

    fn device(&self) -> Self::Device {
        backend_vulkan::WgpuDevice::open().unwrap()
    }
}

#[cfg(feature = "wgpu")]
mod wgpu {
    mod swap {
        swap_tensor::swap_suite!(crate::Wgpu);
    }
}
