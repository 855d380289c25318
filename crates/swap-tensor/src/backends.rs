//! The backends compiled in: the one place that turns a cargo feature into a type.

use crate::SwapError;
use pinned_host::Transfer;

/// Host memory as a device.
#[cfg(feature = "cpu")]
pub use backend_cpu::CpuDevice;
/// A CUDA device, and how it is opened or made over what the program has.
#[cfg(feature = "cuda")]
pub use backend_cuda::{CudaDevice, CudaOptions};
/// A Vulkan device, and how it is opened.
#[cfg(feature = "vulkan")]
pub use backend_vulkan::{VulkanDevice, VulkanOptions};
/// A device of wgpu's, and how it is opened or taken from the program.
#[cfg(feature = "wgpu")]
pub use backend_vulkan::{WgpuDevice, WgpuOptions};

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
    /// The devices it could open, in the order of their indices.
    pub devices: Vec<DeviceStatus>,
}

/// A device of a backend.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct DeviceStatus {
    /// Its name; [`open_device`] takes it, or a part of it.
    pub name: String,
    /// Name and version of its driver, where the backend tells them.
    pub driver: Option<String>,
    /// Its UUID, where it has one; [`open_device`] takes it as well.
    pub uuid: Option<String>,
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

/// The backends this crate knows, compiled in or not; asks no device.
pub const NAMES: &[&str] = &["cpu", "cuda", "vulkan", "wgpu"];

/// Every backend, compiled in or not, and its devices: opens each.
pub fn list() -> Vec<BackendStatus> {
    let status = |name, compiled, devices| {
        let usable = open(name, Probe).map_err(|error| error.to_string());
        BackendStatus { name, compiled, usable, devices }
    };
    vec![
        status("cpu", cfg!(feature = "cpu"), cpu_devices()),
        status("cuda", cfg!(feature = "cuda"), cuda_devices()),
        status("vulkan", cfg!(feature = "vulkan"), vulkan_devices()),
        status("wgpu", cfg!(feature = "wgpu"), wgpu_devices()),
    ]
}

/// Opens the default device of the backend called `name` and does something with it.
///
/// # Errors
/// [`SwapError::NoBackend`] if there is none of that name in this build; the backend's error if it cannot be opened.
pub fn open<V: Visitor>(name: &str, visitor: V) -> Result<V::Output, SwapError> {
    open_device(name, None, visitor)
}

/// Opens a device of the backend called `name` and does something with it.
///
/// `device` is an index, a UUID or a part of a name, as far as the backend has them; `None` is the default one.
///
/// # Errors
/// As [`open`]; [`SwapError::Config`] or [`SwapError::Device`] with
/// [`ErrorKind::InvalidUse`](pinned_host::ErrorKind::InvalidUse) if no device is the one asked for.
pub fn open_device<V: Visitor>(name: &str, device: Option<&str>, visitor: V) -> Result<V::Output, SwapError> {
    match name {
        #[cfg(feature = "cpu")]
        "cpu" => {
            if let Some(index) = device.filter(|device| !matches!(*device, "0" | CPU_DEVICE)) {
                let why = format!("no device `{index}`: this backend has one, `{CPU_DEVICE}`");
                return Err(SwapError::Config { what: "device", why });
            }
            let device = CpuDevice::new().map_err(|e| SwapError::device("open the CPU device", e))?;
            Ok(visitor.visit(device))
        }
        #[cfg(feature = "cuda")]
        "cuda" => {
            let select = device.map(backend_cuda::Select::parse).unwrap_or_default();
            let device = CudaOptions::new().select(select).open();
            let device = device.map_err(|e| SwapError::device("open the CUDA device", e))?;
            // Now, and not in somebody's lease; without it moves are made in other ways.
            let _ = device.load_kernel();
            Ok(visitor.visit(device))
        }
        #[cfg(feature = "vulkan")]
        "vulkan" => {
            let select = device.map(backend_vulkan::Select::parse).unwrap_or_default();
            let device = VulkanOptions::new().select(select).open();
            Ok(visitor.visit(device.map_err(|e| SwapError::device("open the Vulkan device", e))?))
        }
        #[cfg(feature = "wgpu")]
        "wgpu" => {
            let select = device.map(backend_vulkan::WgpuSelect::parse).unwrap_or_default();
            let device = WgpuOptions::new().select(select).open();
            Ok(visitor.visit(device.map_err(|e| SwapError::device("open the wgpu device", e))?))
        }
        _ => {
            let _ = (device, visitor);
            let compiled: &[&str] = &[
                #[cfg(feature = "cpu")]
                "cpu",
                #[cfg(feature = "cuda")]
                "cuda",
                #[cfg(feature = "vulkan")]
                "vulkan",
                #[cfg(feature = "wgpu")]
                "wgpu",
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

/// This device's memory is the host's.
fn cpu_devices() -> Vec<DeviceStatus> {
    let memory = pinned_host::SystemMemory::current().map(|memory| memory.available);
    vec![DeviceStatus { name: CPU_DEVICE.to_owned(), driver: None, uuid: None, memory }]
}

#[cfg(feature = "cuda")]
fn cuda_devices() -> Vec<DeviceStatus> {
    let status = |info: backend_cuda::DeviceInfo| DeviceStatus {
        memory: Some(info.memory),
        uuid: Some(hex(info.uuid)),
        driver: None,
        name: info.name,
    };
    CudaDevice::list().unwrap_or_default().into_iter().map(status).collect()
}

#[cfg(not(feature = "cuda"))]
fn cuda_devices() -> Vec<DeviceStatus> {
    Vec::new()
}

#[cfg(any(feature = "cuda", feature = "vulkan"))]
fn hex(bytes: [u8; 16]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(feature = "vulkan")]
fn vulkan_devices() -> Vec<DeviceStatus> {
    let status = |info: backend_vulkan::DeviceInfo| DeviceStatus {
        memory: info.available.or(Some(info.memory)),
        uuid: Some(hex(info.uuid)),
        driver: Some(info.driver).filter(|driver| !driver.is_empty()),
        name: info.name,
    };
    VulkanDevice::list().unwrap_or_default().into_iter().map(status).collect()
}

#[cfg(not(feature = "vulkan"))]
fn vulkan_devices() -> Vec<DeviceStatus> {
    Vec::new()
}

/// wgpu does not say how much memory there is.
#[cfg(feature = "wgpu")]
fn wgpu_devices() -> Vec<DeviceStatus> {
    let adapters = backend_vulkan::wgpu_adapters(backend_vulkan::wgpu::Backends::all()).into_iter();
    let status = |adapter: backend_vulkan::WgpuAdapter| DeviceStatus {
        name: adapter.name,
        driver: Some(adapter.driver).filter(|driver| !driver.is_empty()),
        uuid: None,
        memory: None,
    };
    adapters.map(status).collect()
}

#[cfg(not(feature = "wgpu"))]
fn wgpu_devices() -> Vec<DeviceStatus> {
    Vec::new()
}

const CPU_DEVICE: &str = "host memory";
