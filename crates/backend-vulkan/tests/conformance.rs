//! The suites of the two floors below, on Vulkan: `<backend>::<suite>::<promise>`.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on should stop where it stands")]

mod support;

use allocator_core::conformance::Harness as BufferHarness;
use ash::vk;
use backend_vulkan::{HostMemory, VulkanBuffer, VulkanDevice, VulkanOptions};
use pinned_host::conformance::Harness;
use pinned_host::{Lane, Queue, QueuedBuffer, Transfer};
use support::Vulkan;
use support::hooks::Native;

/// A device whose buffers are under test.
struct Buffers {
    device: VulkanDevice,
    /// Dropped after the device: what the layer says about leaks counts.
    _vulkan: Vulkan,
}

fn buffers(vulkan: Vulkan) -> Buffers {
    Buffers { device: vulkan.open(), _vulkan: vulkan }
}

impl BufferHarness for Buffers {
    type Buffer = VulkanBuffer;

    fn make(&mut self, size: u64) -> VulkanBuffer {
        self.device.buffer(size).unwrap()
    }

    fn write(&mut self, buffer: &mut VulkanBuffer, at: u64, bytes: &[u8]) {
        buffer.queue().drain().unwrap();
        self.device.write_now(buffer, at, bytes).unwrap();
    }

    fn read(&mut self, buffer: &VulkanBuffer, at: u64, len: u64) -> Vec<u8> {
        buffer.queue().drain().unwrap();
        let mut bytes = vec![0; len as usize];
        self.device.read_now(buffer, at, &mut bytes).unwrap();
        bytes
    }

    fn bounce(&self) -> u64 {
        1 << 20
    }
}

impl Harness for Vulkan {
    type Device = VulkanDevice;

    fn device(&self) -> VulkanDevice {
        self.open()
    }
}

/// Devices of the caller's, adopted, whose driver calls can be made to fail.
struct Adopted {
    options: VulkanOptions,
    /// Dropped last, and each after the device over it.
    natives: std::sync::Mutex<Vec<Native>>,
    coherent: bool,
    import: bool,
}

impl Adopted {
    fn new(coherent: bool) -> Self {
        Adopted { options: VulkanOptions::new(), natives: Default::default(), coherent, import: coherent }
    }

    /// All memory is the driver's, mapped where it can be.
    fn of_the_driver() -> Self {
        let options = VulkanOptions::new().host_memory(HostMemory::Driver);
        Adopted { options, import: false, ..Adopted::new(true) }
    }
}

impl Harness for Adopted {
    type Device = VulkanDevice;

    fn device(&self) -> VulkanDevice {
        let mut native = if self.coherent { Native::new() } else { Native::incoherent() };
        native.import = self.import;
        let device = native.adopt(&self.options);
        self.natives.lock().unwrap().push(native);
        device
    }

    fn fail_next_record(&self, device: &VulkanDevice, lane: Lane) -> bool {
        // An event costs a submission, which can fail, where there is something to submit.
        let no_commands = |_: &ash::Device, _: vk::CommandBuffer| {};
        // SAFETY: nothing is recorded.
        unsafe { device.lane(lane).commands(&[], no_commands) }.unwrap();
        let natives = self.natives.lock().unwrap();
        let native = natives.iter().find(|native| native.device.handle() == device.native().handle());
        native.unwrap().control.fail("vkQueueSubmit", 1, vk::Result::ERROR_OUT_OF_DEVICE_MEMORY);
        true
    }

    fn lose_device(&self, device: &VulkanDevice) -> bool {
        let natives = self.natives.lock().unwrap();
        let native = natives.iter().find(|native| native.device.handle() == device.native().handle());
        native.unwrap().control.lose();
        // A driver tells of a loss when it is called, and an idle queue has nothing to call it for.
        assert!(device.buffer(4096).is_err());
        true
    }
}

mod vulkan {
    use super::{Vulkan, buffers};

    mod device_buffer {
        allocator_core::device_buffer_suite!(super::buffers(super::Vulkan::new()));
    }

    mod arena {
        allocator_core::arena_suite!(super::buffers(super::Vulkan::new()));
    }

    mod remap {
        allocator_core::remap_suite!(super::buffers(super::Vulkan::sparse()));
    }

    pinned_host::transfer_suite!(Vulkan::new());
    pinned_host::queue_suite!(Vulkan::new());
    pinned_host::hazard_suite!(Vulkan::new());
    pinned_host::staging_suite!(Vulkan::new());
    pinned_host::staged_suite!(Vulkan::new());
    pinned_host::locker_suite!(Vulkan::new());
}

/// The same on a caller's device, with failures.
mod vulkan_adopted {
    use super::Adopted;

    pinned_host::transfer_suite!(Adopted::new(true));
    pinned_host::queue_suite!(Adopted::new(true));
    pinned_host::hazard_suite!(Adopted::new(true));
}

/// The same in the driver's memory, which the host sees on this device, as on one that shares the host's memory.
mod vulkan_mapped {
    use super::Adopted;

    pinned_host::transfer_suite!(Adopted::of_the_driver());
    pinned_host::queue_suite!(Adopted::of_the_driver());
    pinned_host::hazard_suite!(Adopted::of_the_driver());
}

/// The same where no memory is coherent and the host does not see the device's.
mod vulkan_incoherent {
    use super::Adopted;

    pinned_host::transfer_suite!(Adopted::new(false));
    pinned_host::queue_suite!(Adopted::new(false));
    pinned_host::hazard_suite!(Adopted::new(false));
}
