//! The suites of the two floors below, on both devices: `<device>::<suite>::<promise>`.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on should stop where it stands")]

use allocator_core::conformance::Harness as BufferHarness;
use backend_cpu::{CpuError, PageBuffer};
use pinned_host::{Queue, QueuedBuffer, Transfer};

/// A device whose buffers are under test.
struct Buffers<T>(T);

impl<T: Transfer> BufferHarness for Buffers<T> {
    type Buffer = T::Buffer;

    fn make(&mut self, size: u64) -> T::Buffer {
        self.0.buffer(size).unwrap()
    }

    fn write(&mut self, buffer: &mut T::Buffer, at: u64, bytes: &[u8]) {
        buffer.queue().drain().unwrap();
        self.0.write_now(buffer, at, bytes).unwrap();
    }

    fn read(&mut self, buffer: &T::Buffer, at: u64, len: u64) -> Vec<u8> {
        buffer.queue().drain().unwrap();
        let mut bytes = vec![0; len as usize];
        self.0.read_now(buffer, at, &mut bytes).unwrap();
        bytes
    }
}

/// Makes the synchronous buffers under test.
struct SyncBuffers(fn(u64) -> Result<PageBuffer, CpuError>);

impl BufferHarness for SyncBuffers {
    type Buffer = PageBuffer;

    fn make(&mut self, size: u64) -> PageBuffer {
        (self.0)(size).unwrap()
    }

    fn write(&mut self, buffer: &mut PageBuffer, at: u64, bytes: &[u8]) {
        buffer.bytes_mut()[at as usize..][..bytes.len()].copy_from_slice(bytes);
    }

    fn read(&mut self, buffer: &PageBuffer, at: u64, len: u64) -> Vec<u8> {
        buffer.bytes()[at as usize..][..len as usize].to_vec()
    }
}

mod cpu {
    use super::{Buffers, SyncBuffers};
    use backend_cpu::CpuDevice;
    use pinned_host::conformance::Harness;

    struct Cpu;

    impl Harness for Cpu {
        type Device = CpuDevice;

        fn device(&self) -> CpuDevice {
            CpuDevice::new().unwrap()
        }
    }

    /// A suite of the floor below over the device's buffers, the synchronous ones, and those whose pages stay.
    macro_rules! buffers {
        ($suite:ident, $tests:ident) => {
            mod $suite {
                allocator_core::$tests!(super::Buffers(backend_cpu::CpuDevice::new().unwrap()));

                mod pages {
                    allocator_core::$tests!(super::super::SyncBuffers(backend_cpu::PageBuffer::new));
                }

                mod fixed_pages {
                    allocator_core::$tests!(super::super::SyncBuffers(backend_cpu::PageBuffer::fixed));
                }
            }
        };
    }

    buffers!(device_buffer, device_buffer_suite);
    buffers!(arena, arena_suite);
    buffers!(remap, remap_suite);

    pinned_host::transfer_suite!(Cpu);
    pinned_host::queue_suite!(Cpu);
    pinned_host::hazard_suite!(Cpu);
    pinned_host::staging_suite!(Cpu);
    pinned_host::staged_suite!(Cpu);
    pinned_host::locker_suite!(Cpu);
}

/// A simulated device for the suites. Strict: a suite's own order is checked too, when its device goes.
macro_rules! simulated {
    ($name:ident, $config:expr) => {
        mod $name {
            use super::Buffers;
            use backend_cpu::sim::{Call, Fault, SimConfig, SimDevice};
            use pinned_host::Lane;
            use pinned_host::conformance::Harness;

            fn device() -> SimDevice {
                let config: fn(SimConfig) -> SimConfig = $config;
                SimDevice::new(config(SimConfig::seeded(2024).strict()))
            }

            struct Sim;

            impl Harness for Sim {
                type Device = SimDevice;

                fn device(&self) -> SimDevice {
                    device()
                }

                fn device_beside(&self, device: &SimDevice) -> Option<SimDevice> {
                    let config: fn(SimConfig) -> SimConfig = $config;
                    Some(device.beside(config(SimConfig::seeded(7).strict())))
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

            mod device_buffer {
                allocator_core::device_buffer_suite!(super::Buffers(super::device()));
            }

            mod arena {
                allocator_core::arena_suite!(super::Buffers(super::device()));
            }

            pinned_host::transfer_suite!(Sim);
            pinned_host::queue_suite!(Sim);
            pinned_host::hazard_suite!(Sim);
            pinned_host::staging_suite!(Sim);
            pinned_host::staged_suite!(Sim);
            pinned_host::locker_suite!(Sim);
        }
    };
}

simulated!(sim, |config| config);
// What other backends are like: offsets in steps of 4, and one queue for everything.
simulated!(sim_like_wgpu, |config| config.grain(4).one_queue());
