//! The suites of the two floors below, on both devices: `<device>::<suite>::<promise>`.

mod cpu {
    use backend_cpu::CpuDevice;
    use pinned_host::conformance::Harness;

    struct Cpu;

    impl Harness for Cpu {
        type Device = CpuDevice;

        fn device(&self) -> CpuDevice {
            CpuDevice::new().unwrap()
        }
    }

    pinned_host::transfer_suite!(Cpu);
    pinned_host::queue_suite!(Cpu);
    pinned_host::hazard_suite!(Cpu);
    pinned_host::staging_suite!(Cpu);
}

mod sim {
    use backend_cpu::sim::{Call, Fault, SimConfig, SimDevice};
    use pinned_host::Lane;
    use pinned_host::conformance::Harness;

    /// Strict: a suite's own order is checked too, when its device goes.
    struct Sim;

    impl Harness for Sim {
        type Device = SimDevice;

        fn device(&self) -> SimDevice {
            SimDevice::new(SimConfig::seeded(2024).strict())
        }

        fn fail_next_record(&self, device: &SimDevice, _lane: Lane) -> bool {
            device.inject(Call::Record, 1, Fault::Refuse);
            true
        }

        fn lose_device(&self, device: &SimDevice) -> bool {
            device.lose();
            true
        }
    }

    pinned_host::transfer_suite!(Sim);
    pinned_host::queue_suite!(Sim);
    pinned_host::hazard_suite!(Sim);
    pinned_host::staging_suite!(Sim);
}
