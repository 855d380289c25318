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
