//! The suites of the two floors below, on Vulkan: `<backend>::<suite>::<promise>`.

#![cfg(feature = "vulkan")]
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on should stop where it stands")]

use allocator_core::conformance::Harness as BufferHarness;
use backend_vulkan::{ValidationLog, VulkanBuffer, VulkanDevice, VulkanOptions};
use pinned_host::conformance::Harness;
use pinned_host::{Queue, QueuedBuffer, Transfer};
use std::sync::Mutex;

/// Opens devices under the validation layer, and fails the test at the end if the layer said anything.
struct Vulkan {
    options: VulkanOptions,
    /// Whether buffers are sparse.
    sparse: bool,
    logs: Mutex<Vec<ValidationLog>>,
}

impl Vulkan {
    fn new() -> Self {
        Self::with(false)
    }

    fn with(sparse: bool) -> Self {
        let options = VulkanOptions::new().sparse(sparse).validation(true);
        Vulkan { options, sparse, logs: Mutex::new(Vec::new()) }
    }

    fn open(&self) -> VulkanDevice {
        let device = self.options.open().unwrap();
        self.logs.lock().unwrap().push(device.validation().unwrap().clone());
        device
    }
}

impl Drop for Vulkan {
    fn drop(&mut self) {
        let mut said: Vec<String> = self.logs.lock().unwrap().iter().flat_map(ValidationLog::take).collect();
        if self.sparse {
            // Layers before 1.3.262 call every copy within one allocation of a sparse buffer an overlap
            // (KhronosGroup/Vulkan-ValidationLayers #6144). The same copies are checked on dense buffers.
            said.retain(|message| !message.contains("VUID-vkCmdCopyBuffer-pRegions-00117"));
        }
        assert!(
            std::thread::panicking() || said.is_empty(),
            "the validation layer said:\n{}",
            said.join("\n")
        );
    }
}

impl Harness for Vulkan {
    type Device = VulkanDevice;

    fn device(&self) -> VulkanDevice {
        self.open()
    }
}

/// A device whose buffers are under test.
struct Buffers {
    device: VulkanDevice,
    /// Dropped after the device: what it says about leaks counts.
    _vulkan: Vulkan,
}

fn buffers(sparse: bool) -> Buffers {
    let vulkan = Vulkan::with(sparse);
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

mod vulkan {
    use super::{Vulkan, buffers};

    mod device_buffer {
        allocator_core::device_buffer_suite!(super::buffers(false));
    }

    mod arena {
        allocator_core::arena_suite!(super::buffers(false));
    }

    mod remap {
        allocator_core::remap_suite!(super::buffers(true));
    }

    pinned_host::transfer_suite!(Vulkan::new());
    pinned_host::queue_suite!(Vulkan::new());
    pinned_host::hazard_suite!(Vulkan::new());
    pinned_host::staging_suite!(Vulkan::new());
}
