//! The Vulkan instance: the loader, the validation layer, and the devices there are.

use super::{DeviceInfo, DeviceKind, ValidationLog, VulkanError};
use ash::{ext, khr, vk};
use std::any::Any;
use std::ffi::{CStr, c_char};
use std::sync::{Mutex, OnceLock, PoisonError};

/// The process's instance, one of a device's own, or the one a caller's device belongs to.
pub(super) struct Instance {
    raw: ash::Instance,
    /// What is ours to destroy.
    owned: Option<Owned>,
    /// What keeps a caller's handles alive.
    _keep: Option<Box<dyn Any + Send + Sync>>,
}

struct Owned {
    messenger: Option<(ext::debug_utils::Instance, vk::DebugUtilsMessengerEXT)>,
    log: ValidationLog,
}

impl Instance {
    /// The process's instance; with `validation`, one of the caller's own under the validation layer.
    pub(super) fn open(validation: bool) -> Result<Self, VulkanError> {
        let process = process()?;
        if !validation {
            return Ok(Instance { raw: process.plain.clone(), owned: None, _keep: None });
        }
        let log = validation_log(&process.entry)?;
        // SAFETY: the log lives as long as the messenger, both being `Owned`'s.
        let raw = unsafe { make(&process.entry, Some(&log)) }?;
        let mut instance = Instance { raw, owned: Some(Owned { messenger: None, log }), _keep: None };
        instance.listen(&process.entry)?;
        Ok(instance)
    }

    /// The instance of a caller's device; destroyed by its owner, who may leave `keep` to be dropped last.
    pub(super) fn borrowed(raw: ash::Instance, keep: Option<Box<dyn Any + Send + Sync>>) -> Self {
        Instance { raw, owned: None, _keep: keep }
    }

    pub(super) fn raw(&self) -> &ash::Instance {
        &self.raw
    }

    /// What the validation layer said, if it was asked for.
    pub(super) fn log(&self) -> Option<&ValidationLog> {
        Some(&self.owned.as_ref()?.log)
    }

    /// Makes the messenger for what happens after creation.
    fn listen(&mut self, entry: &ash::Entry) -> Result<(), VulkanError> {
        if let Some(owned) = &mut self.owned {
            let utils = ext::debug_utils::Instance::new(entry, &self.raw);
            // SAFETY: the log lives as long as the messenger, both being `Owned`'s.
            let messenger = unsafe { utils.create_debug_utils_messenger(&owned.log.create_info(), None) };
            let messenger = messenger.map_err(VulkanError::call("vkCreateDebugUtilsMessengerEXT"))?;
            owned.messenger = Some((utils, messenger));
        }
        Ok(())
    }

    /// Every device, in the driver's order, with its handle.
    pub(super) fn devices(&self) -> Result<Vec<(vk::PhysicalDevice, DeviceInfo)>, VulkanError> {
        // SAFETY: the instance is valid; the loop is the loader's, retried while the list grows.
        let all = unsafe { self.raw.enumerate_physical_devices() };
        let all = match all {
            Err(result @ vk::Result::ERROR_INITIALIZATION_FAILED) => {
                return Err(VulkanError::NoDriver { result });
            }
            all => all.map_err(VulkanError::call("vkEnumeratePhysicalDevices"))?,
        };
        Ok(all
            .into_iter()
            .enumerate()
            .map(|(index, device)| (device, self.describe(index, device)))
            .collect())
    }

    /// What the driver says about a device.
    pub(super) fn describe(&self, index: usize, device: vk::PhysicalDevice) -> DeviceInfo {
        // SAFETY: the handle is of this instance.
        let basic = unsafe { self.raw.get_physical_device_properties(device) };
        let mut id = vk::PhysicalDeviceIDProperties::default();
        let mut driver = vk::PhysicalDeviceDriverProperties::default();
        let mut all = vk::PhysicalDeviceProperties2::default().push_next(&mut id);
        if basic.api_version >= vk::API_VERSION_1_2 {
            all = all.push_next(&mut driver);
        }
        // SAFETY: the structures are chained as the specification allows for this version.
        unsafe { self.raw.get_physical_device_properties2(device, &mut all) };
        let kind = match basic.device_type {
            vk::PhysicalDeviceType::DISCRETE_GPU => DeviceKind::Discrete,
            vk::PhysicalDeviceType::INTEGRATED_GPU => DeviceKind::Integrated,
            vk::PhysicalDeviceType::VIRTUAL_GPU => DeviceKind::Virtual,
            vk::PhysicalDeviceType::CPU => DeviceKind::Cpu,
            _ => DeviceKind::Other,
        };
        let (memory, budget) = self.memory(device, self.has_extension(device, ext::memory_budget::NAME));
        let heaps = memory.memory_heaps_as_slice().iter().enumerate();
        let local = heaps.filter(|(_, heap)| heap.flags.contains(vk::MemoryHeapFlags::DEVICE_LOCAL));
        let largest = local.max_by_key(|(_, heap)| heap.size);
        let (version, text) = (basic.api_version, |text: Option<&CStr>| {
            text.map(|text| text.to_string_lossy().into_owned()).unwrap_or_default()
        });
        DeviceInfo {
            index,
            name: text(basic.device_name_as_c_str().ok()),
            uuid: id.device_uuid,
            kind,
            memory: largest.map_or(0, |(_, heap)| heap.size),
            available: largest.and_then(|(heap, _)| budget.map(|all| all[heap].left())),
            api_version: (
                vk::api_version_major(version),
                vk::api_version_minor(version),
                vk::api_version_patch(version),
            ),
            driver: format!(
                "{} {}",
                text(driver.driver_name_as_c_str().ok()),
                text(driver.driver_info_as_c_str().ok())
            )
            .trim()
            .to_owned(),
        }
    }

    /// The device's memory, and with `budget` what the process may use of each heap and uses already.
    pub(super) fn memory(
        &self,
        device: vk::PhysicalDevice,
        budget: bool,
    ) -> (vk::PhysicalDeviceMemoryProperties, Option<[Budget; vk::MAX_MEMORY_HEAPS]>) {
        let mut budgets = vk::PhysicalDeviceMemoryBudgetPropertiesEXT::default();
        let mut memory = vk::PhysicalDeviceMemoryProperties2::default();
        if budget {
            memory = memory.push_next(&mut budgets);
        }
        // SAFETY: the handle is of this instance, and the chained structure belongs to an extension the device has.
        unsafe { self.raw.get_physical_device_memory_properties2(device, &mut memory) };
        let properties = memory.memory_properties;
        let of = |heap: usize| Budget { budget: budgets.heap_budget[heap], used: budgets.heap_usage[heap] };
        (properties, budget.then(|| std::array::from_fn(of)))
    }

    pub(super) fn has_extension(&self, device: vk::PhysicalDevice, name: &CStr) -> bool {
        // SAFETY: the handle is of this instance.
        let all = unsafe { self.raw.enumerate_device_extension_properties(device) };
        named(&all.unwrap_or_default(), name)
    }
}

impl Drop for Instance {
    fn drop(&mut self) {
        if let Some(owned) = &self.owned {
            // SAFETY: both are ours, and the device was destroyed before: `Context` drops it first.
            unsafe {
                if let Some((utils, messenger)) = &owned.messenger {
                    utils.destroy_debug_utils_messenger(*messenger, None);
                }
                self.raw.destroy_instance(None);
            }
            owned.log.close();
        }
    }
}

/// What a process may use of a heap, in bytes.
#[derive(Debug, Clone, Copy)]
pub(super) struct Budget {
    pub(super) budget: u64,
    pub(super) used: u64,
}

impl Budget {
    pub(super) fn left(&self) -> u64 {
        self.budget.saturating_sub(self.used)
    }
}

/// What the process has of Vulkan, from its first use to its end.
struct Process {
    entry: ash::Entry,
    /// An instance without layers.
    plain: ash::Instance,
}

/// The loader, opened once, and an instance that keeps the drivers loaded and that all devices without the layer share.
///
/// It is never destroyed. A driver does not stand being loaded and unloaded time and again: NVIDIA's (580) takes static
/// thread-local storage each time, of which a process has little and gets none back, so that after some thirty devices, one
/// after the other, the loader finds no driver any more.
fn process() -> Result<&'static Process, VulkanError> {
    static PROCESS: OnceLock<Process> = OnceLock::new();
    static MAKING: Mutex<()> = Mutex::new(());
    let _making = MAKING.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(process) = PROCESS.get() {
        return Ok(process);
    }
    // What failed is tried anew the next time: a driver may have been installed.
    // SAFETY: the library of that name is the Vulkan loader, whose initialisers are safe to run.
    let entry = unsafe { ash::Entry::load() }.map_err(|source| VulkanError::NoLoader { source })?;
    // SAFETY: no log.
    let plain = unsafe { make(&entry, None) }?;
    Ok(PROCESS.get_or_init(|| Process { entry, plain }))
}

/// An instance; with a log, under the validation layer.
///
/// # Safety
/// The log stays where it is until the instance is destroyed.
unsafe fn make(entry: &ash::Entry, log: Option<&ValidationLog>) -> Result<ash::Instance, VulkanError> {
    let portability = has_extension(entry, khr::portability_enumeration::NAME);
    let mut extensions: Vec<*const c_char> = Vec::new();
    let mut flags = vk::InstanceCreateFlags::empty();
    if portability {
        extensions.push(khr::portability_enumeration::NAME.as_ptr());
        flags |= vk::InstanceCreateFlags::ENUMERATE_PORTABILITY_KHR;
    }
    let mut layers: Vec<*const c_char> = Vec::new();
    if log.is_some() {
        extensions.push(ext::debug_utils::NAME.as_ptr());
        layers.push(LAYER.as_ptr());
    }
    let app = vk::ApplicationInfo::default()
        .application_name(c"swap-tensor")
        .engine_name(c"backend-vulkan")
        .api_version(vk::API_VERSION_1_2);
    let mut messenger = log.map(ValidationLog::create_info).unwrap_or_default();
    let mut features = vk::ValidationFeaturesEXT::default().enabled_validation_features(SYNCHRONIZATION);
    let mut info = vk::InstanceCreateInfo::default()
        .flags(flags)
        .application_info(&app)
        .enabled_extension_names(&extensions)
        .enabled_layer_names(&layers);
    if log.is_some() {
        info = info.push_next(&mut messenger).push_next(&mut features);
    }
    // SAFETY: everything `info` points to lives until the call returns, and the log as long as the instance.
    let made = unsafe { entry.create_instance(&info, None) };
    made.map_err(|result| match result {
        vk::Result::ERROR_INCOMPATIBLE_DRIVER => VulkanError::NoDriver { result },
        result => VulkanError::Driver { call: "vkCreateInstance", result },
    })
}

fn validation_log(entry: &ash::Entry) -> Result<ValidationLog, VulkanError> {
    // SAFETY: the entry is loaded.
    let layers = unsafe { entry.enumerate_instance_layer_properties() };
    let layers = layers.map_err(VulkanError::call("vkEnumerateInstanceLayerProperties"))?;
    if layers.iter().any(|layer| layer.layer_name_as_c_str() == Ok(LAYER)) {
        Ok(ValidationLog::default())
    } else {
        Err(VulkanError::NoLayer { name: "VK_LAYER_KHRONOS_validation" })
    }
}

fn has_extension(entry: &ash::Entry, name: &CStr) -> bool {
    // SAFETY: the entry is loaded.
    let all = unsafe { entry.enumerate_instance_extension_properties(None) };
    named(&all.unwrap_or_default(), name)
}

fn named(all: &[vk::ExtensionProperties], name: &CStr) -> bool {
    all.iter().any(|extension| extension.extension_name_as_c_str() == Ok(name))
}

const LAYER: &CStr = c"VK_LAYER_KHRONOS_validation";
const SYNCHRONIZATION: &[vk::ValidationFeatureEnableEXT] =
    &[vk::ValidationFeatureEnableEXT::SYNCHRONIZATION_VALIDATION];
