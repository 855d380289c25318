//! What the Vulkan tests share: devices under the validation layer, and a device whose driver calls can be made to fail.

#![allow(dead_code, reason = "each test program uses its part")]

pub(crate) mod hooks;
mod turn;

use backend_vulkan::{ValidationLog, VulkanDevice, VulkanOptions};
use std::sync::Mutex;
pub(crate) use turn::{under_the_layer, with_layer};

/// Opens devices under the validation layer, unless it is to be left out, and fails the test at the end if the layer said anything.
pub(crate) struct Vulkan {
    options: VulkanOptions,
    /// Whether buffers are sparse.
    sparse: bool,
    logs: Mutex<Vec<ValidationLog>>,
}

impl Vulkan {
    pub(crate) fn new() -> Self {
        Self::with(VulkanOptions::new())
    }

    pub(crate) fn sparse() -> Self {
        let mut vulkan = Self::with(VulkanOptions::new().sparse(true));
        vulkan.sparse = true;
        vulkan
    }

    pub(crate) fn with(options: VulkanOptions) -> Self {
        under_the_layer();
        Vulkan { options: options.validation(with_layer()), sparse: false, logs: Mutex::new(Vec::new()) }
    }

    pub(crate) fn open(&self) -> VulkanDevice {
        let device = self.options.open().unwrap();
        self.logs.lock().unwrap().extend(device.validation().cloned());
        device
    }
}

impl Drop for Vulkan {
    fn drop(&mut self) {
        for log in self.logs.lock().unwrap().iter() {
            all_gone(log.is_closed());
        }
        let mut said: Vec<String> = self.logs.lock().unwrap().iter().flat_map(ValidationLog::take).collect();
        if self.sparse {
            without_false_alarms(&mut said);
        }
        clean(said);
    }
}

/// Leaves out what the layer says wrongly of sparse buffers.
///
/// Before 1.3.262 it calls every copy within one allocation of a sparse buffer an overlap
/// (KhronosGroup/Vulkan-ValidationLayers #6144). The same copies are checked on dense buffers.
pub(crate) fn without_false_alarms(said: &mut Vec<String>) {
    said.retain(|message| !message.contains("VUID-vkCmdCopyBuffer-pRegions-00117"));
}

/// Fails the test if the validation layer said anything.
pub(crate) fn clean(said: Vec<String>) {
    assert!(std::thread::panicking() || said.is_empty(), "the validation layer said:\n{}", said.join("\n"));
}

/// Fails the test if something of the device is still there, though the test has dropped all it had.
pub(crate) fn all_gone(gone: bool) {
    // That one leaks on purpose.
    let leaks =
        std::thread::current().name().is_some_and(|test| test.ends_with("ticket_forgotten_in_flight_leaks"));
    assert!(std::thread::panicking() || gone != leaks, "something of the device was leaked: {}", !gone);
}
