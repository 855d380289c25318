//! How a device is chosen, opened, or taken over from the caller.

use super::choose::Jobs;
use super::context::{Abilities, Context, Parts, RawQueue, Roles};
use super::instance::Instance;
use super::{HostMemory, Select, VulkanDevice, VulkanError};
use ash::vk::Handle;
use ash::{ext, khr, vk};
use std::any::Any;
use std::sync::{Arc, Mutex, PoisonError};

/// What kind of [`VulkanDevice`] is wanted.
///
/// ```no_run
/// use backend_vulkan::{Select, VulkanOptions};
///
/// let device = VulkanOptions::new().select(Select::parse("llvmpipe")).sparse(true).open()?;
/// # Ok::<(), backend_vulkan::VulkanError>(())
/// ```
#[derive(Debug, Clone)]
pub struct VulkanOptions {
    select: Select,
    validation: bool,
    pub(super) sparse: bool,
    pub(super) usage: vk::BufferUsageFlags,
    pub(super) scratch: Option<u64>,
    pub(super) barrier_cost: Option<u64>,
    pub(super) host_memory: HostMemory,
    pub(super) plain_through_queue: bool,
}

impl VulkanOptions {
    /// The best device, dense buffers, the host memory that suits it, no validation.
    pub fn new() -> Self {
        VulkanOptions {
            select: Select::Best,
            validation: false,
            sparse: false,
            usage: vk::BufferUsageFlags::empty(),
            scratch: None,
            barrier_cost: None,
            host_memory: HostMemory::Best,
            plain_through_queue: false,
        }
    }

    /// Which device to open.
    #[must_use]
    pub fn select(mut self, select: Select) -> Self {
        self.select = select;
        self
    }

    /// Runs under the validation layer, synchronisation included; [`VulkanDevice::validation`] says what it said.
    ///
    /// The layer of some versions (1.3.239, for one) does not lock its list of instances and devices: with it, open and
    /// drop no device while another thread uses one, or the process may crash. Without it nothing of the kind is asked.
    #[must_use]
    pub fn validation(mut self, on: bool) -> Self {
        self.validation = on;
        self
    }

    /// Makes buffers sparse, so that whole pages of them can be exchanged without a copy (`Remap`), and so that a buffer may
    /// be larger than one allocation may be.
    #[must_use]
    pub fn sparse(mut self, on: bool) -> Self {
        self.sparse = on;
        self
    }

    /// Further uses of buffers beside copies, storage and device addresses: uniform, texel, index, vertex or indirect
    /// buffers. Uses that an extension brings are left out.
    #[must_use]
    pub fn usage(mut self, more: vk::BufferUsageFlags) -> Self {
        self.usage = more & CORE_USAGE;
        self
    }

    /// Bytes of device memory for moves between ranges that overlap: by default 16 MiB, and 1 MiB on
    /// a software device; at least 64 KiB.
    #[must_use]
    pub fn scratch(mut self, bytes: u64) -> Self {
        self.scratch = Some(bytes.max(LEAST_SCRATCH));
        self
    }

    /// How many bytes could be copied in the time a barrier takes, which decides how an overlapping move is made. The
    /// defaults were measured: 768 KiB on an H200, taken for hardware in general, and 32 KiB on Mesa's software driver. At
    /// least 64.
    #[must_use]
    pub fn barrier_cost(mut self, bytes: u64) -> Self {
        self.barrier_cost = Some(bytes.max(LEAST_BARRIER_COST));
        self
    }

    /// Where the host's end of transfers is.
    #[must_use]
    pub fn host_memory(mut self, kind: HostMemory) -> Self {
        self.host_memory = kind;
        self
    }

    /// Lets plain reads and writes go through the queue even where the host sees the device's memory: what they do on a
    /// discrete GPU.
    #[must_use]
    pub fn plain_through_queue(mut self, on: bool) -> Self {
        self.plain_through_queue = on;
        self
    }

    /// Opens the device, its queues and its scratch.
    ///
    /// # Errors
    /// No loader, driver or device; a device without Vulkan 1.2, timeline semaphores or a compute queue; its refusal.
    pub fn open(&self) -> Result<VulkanDevice, VulkanError> {
        let instance = Instance::open(self.validation)?;
        let (handles, infos): (Vec<_>, Vec<_>) = instance.devices()?.into_iter().unzip();
        let index = self.select.pick(&infos)?;
        let (physical, info) = (handles[index], &infos[index]);
        let lacks = |what| VulkanError::Unsupported { device: info.name.clone(), what };
        if (info.api_version.0, info.api_version.1) < (1, 2) {
            return Err(lacks("Vulkan 1.2"));
        }
        // SAFETY: the handle is of this instance, which is valid.
        let families = unsafe { instance.raw().get_physical_device_queue_family_properties(physical) };
        let jobs = Jobs::assign(&families).ok_or_else(|| lacks("compute queue"))?;

        let mut has12 = vk::PhysicalDeviceVulkan12Features::default();
        let mut has = vk::PhysicalDeviceFeatures2::default().push_next(&mut has12);
        // SAFETY: as above; the device has Vulkan 1.2, so it knows the structure.
        unsafe { instance.raw().get_physical_device_features2(physical, &mut has) };
        let binds =
            families[jobs.compute.family as usize].queue_flags.contains(vk::QueueFlags::SPARSE_BINDING);
        let sparse = has.features.sparse_binding == vk::TRUE && binds;
        if has12.timeline_semaphore == vk::FALSE {
            return Err(lacks("timeline semaphores"));
        }
        let device_address = has12.buffer_device_address == vk::TRUE;

        let mut extensions = Vec::new();
        let mut enable = |name: &'static std::ffi::CStr| {
            let there = instance.has_extension(physical, name);
            if there {
                extensions.push(name.as_ptr());
            }
            there
        };
        let budget = enable(ext::memory_budget::NAME);
        let import = enable(ext::external_memory_host::NAME);
        enable(khr::portability_subset::NAME);

        let priorities = [1.0; 16];
        let distinct = jobs.distinct();
        let mut of: Vec<u32> = distinct.iter().map(|at| at.family).collect();
        of.dedup();
        let queues: Vec<_> = of
            .iter()
            .map(|&family| {
                let last = distinct.iter().filter(|at| at.family == family).map(|at| at.index).max();
                let count = (last.unwrap_or(0) as usize + 1).min(priorities.len());
                vk::DeviceQueueCreateInfo::default()
                    .queue_family_index(family)
                    .queue_priorities(&priorities[..count])
            })
            .collect();
        let mut features12 = vk::PhysicalDeviceVulkan12Features::default()
            .timeline_semaphore(true)
            .buffer_device_address(device_address);
        let features = vk::PhysicalDeviceFeatures::default().sparse_binding(sparse);
        let create = vk::DeviceCreateInfo::default()
            .queue_create_infos(&queues)
            .enabled_extension_names(&extensions)
            .enabled_features(&features)
            .push_next(&mut features12);
        // SAFETY: queues, extensions and features are among those the device reported.
        let made = unsafe { instance.raw().create_device(physical, &create, None) };
        let device = made.map_err(VulkanError::call("vkCreateDevice"))?;
        let queues = Roles::own(&device, &jobs);
        let import = import.then(|| ext::external_memory_host::Device::new(instance.raw(), &device));
        let can = Abilities { device_address, budget, sparse, import };
        let parts = Parts { instance, physical, device, can, families: of, queues, owned: true };
        VulkanDevice::assemble(Context::new(parts), self)
    }

    /// Takes a device that the caller has and goes on using.
    ///
    /// The choice of device and validation, both made already, are ignored. Nothing of the caller's is destroyed.
    ///
    /// # Safety
    /// The handles are valid and belong together; instance and device are of Vulkan 1.2 or newer; the device has timeline
    /// semaphores enabled, and whatever [`NativeDevice::enabled`] says; instance and device stay until the returned device and all that it made are gone
    /// (or are kept alive by [`NativeDevice::keep`]). Each queue is used elsewhere only under its lock.
    ///
    /// # Errors
    /// A device older than Vulkan 1.2; it refuses semaphores, command pools or scratch.
    pub unsafe fn adopt(&self, native: NativeDevice) -> Result<VulkanDevice, VulkanError> {
        let NativeDevice { instance, physical, device, enabled, compute, upload, download, families, keep } =
            native;
        // SAFETY: the handle is of this instance.
        let version = unsafe { instance.get_physical_device_properties(physical) }.api_version;
        if version < vk::API_VERSION_1_2 {
            let device = Instance::borrowed(instance, keep).describe(0, physical).name;
            return Err(VulkanError::Unsupported { device, what: "Vulkan 1.2" });
        }
        let compute = compute.shared(None);
        let upload = upload.map_or_else(|| Arc::clone(&compute), |queue| queue.shared(Some(&[&compute])));
        let download =
            download.map_or_else(|| Arc::clone(&upload), |queue| queue.shared(Some(&[&compute, &upload])));
        let mut all = vec![compute.family, upload.family, download.family];
        all.extend(families);
        all.sort_unstable();
        all.dedup();
        let import =
            enabled.external_memory_host.then(|| ext::external_memory_host::Device::new(&instance, &device));
        let can = Abilities {
            device_address: enabled.device_address,
            budget: enabled.memory_budget,
            sparse: enabled.sparse_binding,
            import,
        };
        let instance = Instance::borrowed(instance, keep);
        let queues = Roles { compute, upload, download };
        let parts = Parts { instance, physical, device, can, families: all, queues, owned: false };
        VulkanDevice::assemble(Context::new(parts), self)
    }
}

impl Default for VulkanOptions {
    fn default() -> Self {
        VulkanOptions::new()
    }
}

/// A Vulkan device of the caller's, for [`VulkanOptions::adopt`].
pub struct NativeDevice {
    /// The instance it belongs to.
    pub instance: ash::Instance,
    /// The physical device.
    pub physical: vk::PhysicalDevice,
    /// The device.
    pub device: ash::Device,
    /// What was enabled when it was made.
    pub enabled: Enabled,
    /// A queue with compute, for moves; the lanes' as well if they have none.
    pub compute: NativeQueue,
    /// The queue for uploads.
    pub upload: Option<NativeQueue>,
    /// The queue for downloads; `None`: the one for uploads.
    pub download: Option<NativeQueue>,
    /// Further families whose queues will use the buffers.
    pub families: Vec<u32>,
    /// Dropped after the last use of the handles: an owner of them, say.
    pub keep: Option<Box<dyn Any + Send + Sync>>,
}

/// Features and extensions that were enabled on a caller's device, beside timeline semaphores.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Enabled {
    /// `bufferDeviceAddress`: buffers have device addresses.
    pub device_address: bool,
    /// `VK_EXT_external_memory_host`: host memory can be imported.
    pub external_memory_host: bool,
    /// `VK_EXT_memory_budget`: budgets are checked.
    pub memory_budget: bool,
    /// `sparseBinding`, and a compute queue that has it: buffers can be sparse.
    pub sparse_binding: bool,
}

/// A queue of a caller's device.
pub struct NativeQueue {
    /// The queue.
    pub queue: vk::Queue,
    /// Its family.
    pub family: u32,
    /// The lock under which everybody uses it.
    pub lock: Arc<dyn SubmitLock>,
}

/// A lock under which a `VkQueue` is used: Vulkan wants its users to take turns.
///
/// The library takes it for each submission, when a device turns out to be lost and, on software devices, when the last
/// value of the device is dropped. Whoever holds it calls nothing of the library meanwhile, and drops nothing of it.
pub trait SubmitLock: Send + Sync {
    /// Runs `submit` once, while nobody else uses the queue. Must not panic.
    fn with(&self, submit: &mut dyn FnMut());
}

impl SubmitLock for Mutex<()> {
    fn with(&self, submit: &mut dyn FnMut()) {
        let _turn = self.lock().unwrap_or_else(PoisonError::into_inner);
        submit();
    }
}

impl NativeQueue {
    /// The queue as one of those known already, if it is.
    fn shared(self, known: Option<&[&Arc<RawQueue>]>) -> Arc<RawQueue> {
        let same = known.unwrap_or_default().iter().find(|other| other.queue == self.queue);
        same.map_or_else(
            || Arc::new(RawQueue { queue: self.queue, family: self.family, lock: self.lock }),
            |same| Arc::clone(same),
        )
    }
}

impl std::fmt::Debug for NativeDevice {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("NativeDevice")
            .field("device", &self.device.handle().as_raw())
            .field("enabled", &self.enabled)
            .field("compute", &self.compute)
            .field("upload", &self.upload)
            .field("download", &self.download)
            .field("families", &self.families)
            .finish_non_exhaustive()
    }
}

impl std::fmt::Debug for NativeQueue {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("NativeQueue")
            .field("queue", &self.queue.as_raw())
            .field("family", &self.family)
            .finish_non_exhaustive()
    }
}

/// The uses that every device knows.
const CORE_USAGE: vk::BufferUsageFlags = vk::BufferUsageFlags::from_raw(0x1ff);
/// With less, and with barriers for nothing, a move by one byte would be a copy for each byte.
const LEAST_SCRATCH: u64 = 64 << 10;
const LEAST_BARRIER_COST: u64 = 64;
