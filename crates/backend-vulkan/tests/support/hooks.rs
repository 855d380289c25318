//! A caller's device for `VulkanOptions::adopt`, made with plain ash under the validation layer if tests have it, some of whose driver
//! calls are counted and can be made to fail.
//!
//! The library under test is given an `ash::Device` with functions of ours in the place of a few; they call the real ones.

use ash::vk::{self, Handle};
use ash::{ext, vk::Result as VkResult};
use backend_vulkan::{Enabled, NativeDevice, NativeQueue, VulkanDevice, VulkanOptions};
use std::collections::HashMap;
use std::ffi::{CStr, c_char, c_void};
use std::mem::transmute;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex, OnceLock};

/// A Vulkan device the test owns.
pub(crate) struct Native {
    pub(crate) control: Arc<Control>,
    /// Serialises the one queue: the library's submissions and the test's.
    pub(crate) lock: Arc<Mutex<()>>,
    pub(crate) queue: vk::Queue,
    pub(crate) family: u32,
    pub(crate) device: ash::Device,
    pub(crate) instance: ash::Instance,
    pub(crate) physical: vk::PhysicalDevice,
    messenger: (ext::debug_utils::Instance, vk::DebugUtilsMessengerEXT),
    _entry: ash::Entry,
    said: Arc<Mutex<Vec<String>>>,
    coherent: bool,
    /// Whether the library is told that host memory can be imported.
    pub(crate) import: bool,
    /// Whether the library is told that this is no software device.
    pub(crate) hardware: bool,
    /// Bytes that the library is told are left of each heap's budget; 0: the truth.
    pub(crate) left: u64,
    /// Whether the library is asked for sparse buffers.
    pub(crate) sparse: bool,
    /// Another is kept by each device over this one.
    kept: Arc<()>,
}

/// What is done to the driver's calls.
#[derive(Default)]
pub(crate) struct Control {
    /// Calls so far, by function.
    calls: Mutex<HashMap<&'static str, usize>>,
    /// The n-th next call of a function returns a result without being made.
    faults: Mutex<Vec<(&'static str, usize, VkResult)>>,
    lost: AtomicBool,
    /// Ranges flushed and invalidated: function, offset, size.
    pub(crate) ranges: Mutex<Vec<(&'static str, u64, u64)>>,
    pub(crate) submissions: AtomicUsize,
}

impl Control {
    /// Makes the `nth` next call of `function` (1 is the next) return `result`.
    pub(crate) fn fail(&self, function: &'static str, nth: usize, result: VkResult) {
        self.faults.lock().unwrap().push((function, nth, result));
    }

    /// From now on the device is lost, as far as the library can see.
    pub(crate) fn lose(&self) {
        self.lost.store(true, SeqCst);
    }

    /// Calls that make a Vulkan object.
    pub(crate) fn created(&self) -> usize {
        let calls = self.calls.lock().unwrap();
        calls
            .iter()
            .filter(|(name, _)| name.contains("Create") || name.contains("Allocate"))
            .map(|(_, n)| n)
            .sum()
    }

    pub(crate) fn calls(&self, function: &str) -> usize {
        self.calls.lock().unwrap().get(function).copied().unwrap_or(0)
    }

    /// Faults that were asked for and have not happened.
    pub(crate) fn pending(&self) -> usize {
        self.faults.lock().unwrap().len()
    }

    fn enter(&self, function: &'static str) -> Option<VkResult> {
        *self.calls.lock().unwrap().entry(function).or_default() += 1;
        let mut hit = None;
        self.faults.lock().unwrap().retain_mut(|(name, left, result)| {
            if *name == function {
                *left -= 1;
                if *left == 0 {
                    hit = Some(*result);
                    return false;
                }
            }
            true
        });
        hit.or_else(|| self.lost.load(SeqCst).then_some(VkResult::ERROR_DEVICE_LOST))
    }
}

/// The real functions and the control, by device and by queue.
struct Real {
    control: Arc<Control>,
    get: vk::PFN_vkGetDeviceProcAddr,
    device: vk::Device,
}

fn table() -> &'static Mutex<HashMap<u64, Arc<Real>>> {
    static TABLE: OnceLock<Mutex<HashMap<u64, Arc<Real>>>> = OnceLock::new();
    TABLE.get_or_init(Mutex::default)
}

fn real(handle: u64) -> Arc<Real> {
    Arc::clone(&table().lock().unwrap()[&handle])
}

macro_rules! hook {
    ($hook:ident, $name:literal, $type:ty, ($first:ident : $of:ty $(, $arg:ident : $arg_type:ty)*)) => {
        unsafe extern "system" fn $hook($first: $of $(, $arg: $arg_type)*) -> VkResult {
            let real = real($first.as_raw());
            let name = concat!($name, "\0");
            if let Some(result) = real.control.enter($name) {
                return result;
            }
            // SAFETY: the loader's function of that name has that type, and the arguments are the caller's.
            unsafe {
                let found = (real.get)(real.device, name.as_ptr().cast()).unwrap();
                transmute::<unsafe extern "system" fn(), $type>(found)($first $(, $arg)*)
            }
        }
    };
}

type Callbacks = *const vk::AllocationCallbacks<'static>;

hook!(submit, "vkQueueSubmit", vk::PFN_vkQueueSubmit, (queue: vk::Queue, count: u32, infos: *const vk::SubmitInfo<'_>, fence: vk::Fence));
hook!(bind, "vkQueueBindSparse", vk::PFN_vkQueueBindSparse, (queue: vk::Queue, count: u32, infos: *const vk::BindSparseInfo<'_>, fence: vk::Fence));
hook!(allocate, "vkAllocateMemory", vk::PFN_vkAllocateMemory, (device: vk::Device, info: *const vk::MemoryAllocateInfo<'_>, callbacks: Callbacks, out: *mut vk::DeviceMemory));
hook!(buffer, "vkCreateBuffer", vk::PFN_vkCreateBuffer, (device: vk::Device, info: *const vk::BufferCreateInfo<'_>, callbacks: Callbacks, out: *mut vk::Buffer));
hook!(bind_buffer, "vkBindBufferMemory", vk::PFN_vkBindBufferMemory, (device: vk::Device, buffer: vk::Buffer, memory: vk::DeviceMemory, offset: vk::DeviceSize));
hook!(map, "vkMapMemory", vk::PFN_vkMapMemory, (device: vk::Device, memory: vk::DeviceMemory, offset: vk::DeviceSize, size: vk::DeviceSize, flags: vk::MemoryMapFlags, out: *mut *mut c_void));
hook!(semaphore, "vkCreateSemaphore", vk::PFN_vkCreateSemaphore, (device: vk::Device, info: *const vk::SemaphoreCreateInfo<'_>, callbacks: Callbacks, out: *mut vk::Semaphore));
hook!(pool, "vkCreateCommandPool", vk::PFN_vkCreateCommandPool, (device: vk::Device, info: *const vk::CommandPoolCreateInfo<'_>, callbacks: Callbacks, out: *mut vk::CommandPool));
hook!(commands, "vkAllocateCommandBuffers", vk::PFN_vkAllocateCommandBuffers, (device: vk::Device, info: *const vk::CommandBufferAllocateInfo<'_>, out: *mut vk::CommandBuffer));
hook!(wait, "vkWaitSemaphores", vk::PFN_vkWaitSemaphores, (device: vk::Device, info: *const vk::SemaphoreWaitInfo<'_>, timeout: u64));
hook!(counter, "vkGetSemaphoreCounterValue", vk::PFN_vkGetSemaphoreCounterValue, (device: vk::Device, semaphore: vk::Semaphore, out: *mut u64));
hook!(flush, "vkFlushMappedMemoryRanges", vk::PFN_vkFlushMappedMemoryRanges, (device: vk::Device, count: u32, ranges: *const vk::MappedMemoryRange<'_>));
hook!(invalidate, "vkInvalidateMappedMemoryRanges", vk::PFN_vkInvalidateMappedMemoryRanges, (device: vk::Device, count: u32, ranges: *const vk::MappedMemoryRange<'_>));

/// Notes the range, then flushes.
unsafe extern "system" fn noted_flush(
    device: vk::Device,
    count: u32,
    ranges: *const vk::MappedMemoryRange<'_>,
) -> VkResult {
    // SAFETY: the library passes one range.
    unsafe {
        real(device.as_raw()).control.ranges.lock().unwrap().push((
            "flush",
            (*ranges).offset,
            (*ranges).size,
        ));
        flush(device, count, ranges)
    }
}

/// Notes the range, then invalidates.
unsafe extern "system" fn noted_invalidate(
    device: vk::Device,
    count: u32,
    ranges: *const vk::MappedMemoryRange<'_>,
) -> VkResult {
    // SAFETY: as above.
    unsafe {
        real(device.as_raw()).control.ranges.lock().unwrap().push(("see", (*ranges).offset, (*ranges).size));
        invalidate(device, count, ranges)
    }
}

/// Waits really: a lost device's work ends too, and the real device is well.
unsafe extern "system" fn idle(queue: vk::Queue) -> VkResult {
    let real = real(queue.as_raw());
    // SAFETY: as in `hook`.
    let waited = unsafe {
        let found = (real.get)(real.device, c"vkQueueWaitIdle".as_ptr()).unwrap();
        transmute::<unsafe extern "system" fn(), vk::PFN_vkQueueWaitIdle>(found)(queue)
    };
    if real.control.lost.load(SeqCst) { VkResult::ERROR_DEVICE_LOST } else { waited }
}

fn hooked(name: &CStr) -> Option<*const c_void> {
    Some(match name.to_str().unwrap() {
        "vkQueueSubmit" => submit as *const c_void,
        "vkQueueBindSparse" => bind as *const c_void,
        "vkAllocateMemory" => allocate as *const c_void,
        "vkCreateBuffer" => buffer as *const c_void,
        "vkBindBufferMemory" => bind_buffer as *const c_void,
        "vkMapMemory" => map as *const c_void,
        "vkCreateSemaphore" => semaphore as *const c_void,
        "vkCreateCommandPool" => pool as *const c_void,
        "vkAllocateCommandBuffers" => commands as *const c_void,
        "vkWaitSemaphores" => wait as *const c_void,
        "vkGetSemaphoreCounterValue" => counter as *const c_void,
        "vkFlushMappedMemoryRanges" => noted_flush as *const c_void,
        "vkInvalidateMappedMemoryRanges" => noted_invalidate as *const c_void,
        "vkQueueWaitIdle" => idle as *const c_void,
        _ => return None,
    })
}

/// Shows memory without coherence, atoms of 256 bytes, another kind of device, or another budget.
mod incoherent {
    use super::*;

    /// The real functions. Those of one instance are gone with it, its layers being unloaded.
    #[derive(Clone, Copy)]
    pub(crate) struct Real {
        pub(crate) memory: vk::PFN_vkGetPhysicalDeviceMemoryProperties2,
        pub(crate) properties: vk::PFN_vkGetPhysicalDeviceProperties,
        pub(crate) coherent: bool,
        pub(crate) hardware: bool,
        pub(crate) left: u64,
    }

    pub(crate) fn table() -> &'static Mutex<HashMap<u64, Real>> {
        static TABLE: OnceLock<Mutex<HashMap<u64, Real>>> = OnceLock::new();
        TABLE.get_or_init(Mutex::default)
    }

    fn real(physical: vk::PhysicalDevice) -> Real {
        table().lock().unwrap()[&physical.as_raw()]
    }

    pub(crate) unsafe extern "system" fn memory(
        physical: vk::PhysicalDevice,
        out: *mut vk::PhysicalDeviceMemoryProperties2<'_>,
    ) {
        // SAFETY: the real function, and what it filled.
        unsafe {
            let real = real(physical);
            (real.memory)(physical, out);
            for kind in &mut (*out).memory_properties.memory_types {
                if !real.coherent {
                    kind.property_flags &= !vk::MemoryPropertyFlags::HOST_COHERENT;
                }
            }
            let next = (*out).p_next.cast::<vk::PhysicalDeviceMemoryBudgetPropertiesEXT<'_>>();
            if real.left > 0
                && let Some(budget) = next.as_mut()
                && budget.s_type == vk::StructureType::PHYSICAL_DEVICE_MEMORY_BUDGET_PROPERTIES_EXT
            {
                for (budget, used) in budget.heap_budget.iter_mut().zip(budget.heap_usage) {
                    *budget = used + real.left;
                }
            }
        }
    }

    pub(crate) unsafe extern "system" fn properties(
        physical: vk::PhysicalDevice,
        out: *mut vk::PhysicalDeviceProperties,
    ) {
        // SAFETY: as above.
        unsafe {
            let real = real(physical);
            (real.properties)(physical, out);
            if !real.coherent {
                (*out).limits.non_coherent_atom_size = super::ATOM;
            }
            if real.hardware {
                (*out).device_type = vk::PhysicalDeviceType::DISCRETE_GPU;
            }
        }
    }
}

/// What the library is told the atom is.
pub(crate) const ATOM: u64 = 256;

impl Native {
    pub(crate) fn new() -> Self {
        Self::make(true)
    }

    /// A device that claims to have no coherent memory.
    pub(crate) fn incoherent() -> Self {
        Self::make(false)
    }

    fn make(coherent: bool) -> Self {
        super::under_the_layer();
        let said: Arc<Mutex<Vec<String>>> = Arc::default();
        // SAFETY: plain Vulkan, checked by the validation layer.
        unsafe {
            let entry = ash::Entry::load().unwrap();
            let app = vk::ApplicationInfo::default().api_version(vk::API_VERSION_1_2);
            let layers = [c"VK_LAYER_KHRONOS_validation".as_ptr()];
            let layers = if super::with_layer() { &layers[..] } else { &[] };
            let extensions = [ext::debug_utils::NAME.as_ptr()];
            let mut messenger = messenger(&said);
            let enabled = [vk::ValidationFeatureEnableEXT::SYNCHRONIZATION_VALIDATION];
            let mut features = vk::ValidationFeaturesEXT::default().enabled_validation_features(&enabled);
            let info = vk::InstanceCreateInfo::default()
                .application_info(&app)
                .enabled_layer_names(layers)
                .enabled_extension_names(&extensions)
                .push_next(&mut messenger);
            let info = if layers.is_empty() { info } else { info.push_next(&mut features) };
            let instance = entry.create_instance(&info, None).unwrap();
            let utils = ext::debug_utils::Instance::new(&entry, &instance);
            let listener = utils.create_debug_utils_messenger(&self::messenger(&said), None).unwrap();
            // The one that the library would take: no software beside hardware.
            let rank = |physical: &vk::PhysicalDevice| match instance
                .get_physical_device_properties(*physical)
                .device_type
            {
                vk::PhysicalDeviceType::DISCRETE_GPU => 0,
                vk::PhysicalDeviceType::INTEGRATED_GPU => 1,
                vk::PhysicalDeviceType::VIRTUAL_GPU => 2,
                vk::PhysicalDeviceType::CPU => 3,
                _ => 4,
            };
            let all = instance.enumerate_physical_devices().unwrap();
            let physical = all.into_iter().min_by_key(rank).unwrap();
            let families = instance.get_physical_device_queue_family_properties(physical);
            let family =
                families.iter().position(|f| f.queue_flags.contains(vk::QueueFlags::COMPUTE)).unwrap() as u32;
            let priorities = [1.0];
            let queues = [vk::DeviceQueueCreateInfo::default()
                .queue_family_index(family)
                .queue_priorities(&priorities)];
            let extensions: [*const c_char; 2] =
                [ext::external_memory_host::NAME.as_ptr(), ext::memory_budget::NAME.as_ptr()];
            let mut features12 = vk::PhysicalDeviceVulkan12Features::default()
                .timeline_semaphore(true)
                .buffer_device_address(true);
            let features = vk::PhysicalDeviceFeatures::default().sparse_binding(true);
            let info = vk::DeviceCreateInfo::default()
                .queue_create_infos(&queues)
                .enabled_extension_names(&extensions)
                .enabled_features(&features)
                .push_next(&mut features12);
            let device = instance.create_device(physical, &info, None).unwrap();
            let queue = device.get_device_queue(family, 0);
            let control: Arc<Control> = Arc::default();
            let get = instance.fp_v1_0().get_device_proc_addr;
            let entry_of = Arc::new(Real { control: Arc::clone(&control), get, device: device.handle() });
            table().lock().unwrap().insert(device.handle().as_raw(), Arc::clone(&entry_of));
            table().lock().unwrap().insert(queue.as_raw(), entry_of);
            let lock = Arc::default();
            Native {
                control,
                lock,
                queue,
                family,
                device,
                instance,
                physical,
                messenger: (utils, listener),
                _entry: entry,
                said,
                coherent,
                import: coherent,
                hardware: false,
                left: 0,
                sparse: false,
                kept: Arc::new(()),
            }
        }
    }

    /// What the caller hands over.
    pub(crate) fn handed(&self) -> NativeDevice {
        let (get, handle) = (self.instance.fp_v1_0().get_device_proc_addr, self.device.handle());
        // SAFETY: each function is the loader's, or one of ours with the same type.
        let device = unsafe {
            ash::Device::load_with(
                |name| match hooked(name) {
                    Some(ours) => ours,
                    None => transmute::<vk::PFN_vkVoidFunction, *const c_void>(get(handle, name.as_ptr())),
                },
                handle,
            )
        };
        NativeDevice {
            instance: if self.coherent && self.left == 0 && !self.hardware {
                self.instance.clone()
            } else {
                self.hooked_instance()
            },
            physical: self.physical,
            device,
            enabled: Enabled {
                device_address: true,
                external_memory_host: self.import,
                memory_budget: true,
                sparse_binding: true,
            },
            compute: NativeQueue {
                queue: self.queue,
                family: self.family,
                lock: Arc::clone(&self.lock) as Arc<_>,
            },
            upload: None,
            download: None,
            families: Vec::new(),
            keep: Some(Box::new(Arc::clone(&self.kept))),
        }
    }

    fn hooked_instance(&self) -> ash::Instance {
        let real = incoherent::Real {
            memory: self.instance.fp_v1_1().get_physical_device_memory_properties2,
            properties: self.instance.fp_v1_0().get_physical_device_properties,
            coherent: self.coherent,
            hardware: self.hardware,
            left: self.left,
        };
        incoherent::table().lock().unwrap().insert(self.physical.as_raw(), real);
        // SAFETY: as in `handed`.
        unsafe {
            ash::Instance::load_with(
                |name| match name.to_str().unwrap() {
                    "vkGetPhysicalDeviceProperties" => incoherent::properties as *const c_void,
                    "vkGetPhysicalDeviceMemoryProperties2" => incoherent::memory as *const c_void,
                    _ => transmute::<vk::PFN_vkVoidFunction, *const c_void>(
                        self._entry.get_instance_proc_addr(self.instance.handle(), name.as_ptr()),
                    ),
                },
                self.instance.handle(),
            )
        }
    }

    pub(crate) fn adopt(&self, options: &VulkanOptions) -> VulkanDevice {
        // SAFETY: the handles are valid and outlive the device: tests drop it before `self`.
        unsafe { options.adopt(self.handed()) }.unwrap()
    }
}

impl Drop for Native {
    fn drop(&mut self) {
        let gone = Arc::strong_count(&self.kept) == 1;
        super::all_gone(gone);
        if !gone {
            return;
        }
        // Before the device goes: from then on another test's may have its handles.
        let mut table = table().lock().unwrap();
        table.remove(&self.device.handle().as_raw());
        table.remove(&self.queue.as_raw());
        drop(table);
        // SAFETY: the library's device is gone; the layer reports what it left behind.
        unsafe {
            self.device.destroy_device(None);
            self.messenger.0.destroy_debug_utils_messenger(self.messenger.1, None);
            self.instance.destroy_instance(None);
        }
        let mut said = std::mem::take(&mut *self.said.lock().unwrap());
        if self.sparse {
            super::without_false_alarms(&mut said);
        }
        super::clean(said);
    }
}

fn messenger(said: &Arc<Mutex<Vec<String>>>) -> vk::DebugUtilsMessengerCreateInfoEXT<'static> {
    type Severity = vk::DebugUtilsMessageSeverityFlagsEXT;
    vk::DebugUtilsMessengerCreateInfoEXT::default()
        .message_severity(Severity::WARNING | Severity::ERROR)
        .message_type(vk::DebugUtilsMessageTypeFlagsEXT::VALIDATION)
        .pfn_user_callback(Some(hear))
        .user_data(Arc::as_ptr(said).cast_mut().cast())
}

unsafe extern "system" fn hear(
    _: vk::DebugUtilsMessageSeverityFlagsEXT,
    _: vk::DebugUtilsMessageTypeFlagsEXT,
    data: *const vk::DebugUtilsMessengerCallbackDataEXT<'_>,
    said: *mut c_void,
) -> vk::Bool32 {
    // SAFETY: the list outlives the messenger; the layer's data is valid.
    unsafe {
        let said = &*said.cast::<Mutex<Vec<String>>>();
        said.lock().unwrap().push(CStr::from_ptr((*data).p_message).to_string_lossy().into_owned());
    }
    vk::FALSE
}
