//! The backends compiled in: the one place that turns a cargo feature into a type.

use crate::SwapError;
use pinned_host::Transfer;

/// Host memory as a device.
#[cfg(feature = "cpu")]
pub use backend_cpu::CpuDevice;
/// A Vulkan device.
#[cfg(feature = "vulkan")]
pub use backend_vulkan::{VulkanDevice, VulkanOptions};

/// One backend this crate knows, and whether it can be used here.
#[derive(Debug)]
#[non_exhaustive]
pub struct BackendStatus {
    /// Its name, which is also its cargo feature.
    pub name: &'static str,
    /// Whether the feature was on when this was built.
    pub compiled: bool,
    /// `Ok`, or why a device cannot be opened: the feature is off, or something is missing on this machine.
    pub usable: Result<(), String>,
    /// Bytes of device memory that can be had now, where that can be told.
    pub memory: Option<u64>,
}

/// Something that can be done with any device.
pub trait Visitor {
    /// What it comes to.
    type Output;
    /// Does it.
    fn visit<T: Transfer>(self, device: T) -> Self::Output;
}

/// Every backend, compiled in or not.
pub fn list() -> Vec<BackendStatus> {
    vec![
        BackendStatus {
            name: "cpu",
            compiled: cfg!(feature = "cpu"),
            usable: open("cpu", Probe).map_err(|e| e.to_string()),
            // This device's memory is the host's.
            memory: pinned_host::SystemMemory::current().map(|memory| memory.available),
        },
        BackendStatus {
            name: "vulkan",
            compiled: cfg!(feature = "vulkan"),
            usable: open("vulkan", Probe).map_err(|e| e.to_string()),
            memory: None,
        },
    ]
}

/// Opens the default device of the backend called `name` and does something with it.
///
/// # Errors
/// [`SwapError::NoBackend`] if there is none of that name in this build; the backend's error if it cannot be opened.
pub fn open<V: Visitor>(name: &str, visitor: V) -> Result<V::Output, SwapError> {
    match name {
        #[cfg(feature = "cpu")]
        "cpu" => {
            let device =
                backend_cpu::CpuDevice::new().map_err(|e| SwapError::device("open the CPU device", e))?;
            Ok(visitor.visit(device))
        }
        #[cfg(feature = "vulkan")]
        "vulkan" => {
            let device = backend_vulkan::VulkanDevice::new();
            let device = device.map_err(|e| SwapError::device("open the Vulkan device", e))?;
            Ok(visitor.visit(device))
        }
        _ => {
            let _ = visitor;
            let compiled: &[&str] = &[
                #[cfg(feature = "cpu")]
                "cpu",
                #[cfg(feature = "vulkan")]
                "vulkan",
            ];
            let available = if compiled.is_empty() { "none".into() } else { compiled.join(", ") };
            Err(SwapError::NoBackend { name: name.to_owned(), available })
        }
    }
}

/// Opens and closes.
struct Probe;

impl Visitor for Probe {
    type Output = ();
    fn visit<T: Transfer>(self, _: T) {}
}
