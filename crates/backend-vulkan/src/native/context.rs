//! What everything on one device shares: its handles, limits, memory account, and whether it is lost.

use super::choose::Jobs;
use super::instance::{Budget, Instance};
use super::{Counters, SubmitLock, VulkanError};
use ash::{ext, vk};
use pinned_host::DeviceMemory;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed, Ordering::SeqCst};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// One logical device.
pub(super) struct Context {
    /// Tells devices apart.
    pub(super) id: u64,
    pub(super) device: ash::Device,
    /// After `device` in use, dropped after it.
    pub(super) instance: Instance,
    pub(super) physical: vk::PhysicalDevice,
    pub(super) name: String,
    pub(super) memory: vk::PhysicalDeviceMemoryProperties,
    pub(super) limits: Limits,
    pub(super) can: Abilities,
    /// Families whose queues use the buffers, each once.
    pub(super) families: Vec<u32>,
    pub(super) queues: Roles,
    /// Whether the device is software on the host.
    pub(super) is_cpu: bool,
    /// Whether the host sees a buffer of the device's: each batch then makes its writes visible there.
    pub(super) host_sees: AtomicBool,
    /// Whether the device is ours to destroy.
    pub(super) owned: bool,
    pub(super) counted: Counted,
    usage: Mutex<DeviceMemory>,
    lost: AtomicBool,
    /// Timeline semaphores that nobody uses any more, and the value each has: for the next queue.
    ///
    /// They are not destroyed before all queues are idle. A driver's own thread may look at one shortly after the last
    /// work that named it has ended (Mesa 25.0's emulated timelines crash then).
    retired: Mutex<Vec<(vk::Semaphore, u64)>>,
}

/// Limits of the device, in bytes.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    /// `maxMemoryAllocationSize`.
    pub(super) allocation: u64,
    /// `maxBufferSize`, where the driver states it.
    pub(super) buffer: Option<u64>,
    /// `maxStorageBufferRange`.
    pub(super) storage_range: u64,
    /// `minStorageBufferOffsetAlignment`.
    pub(super) storage_align: u64,
    /// `nonCoherentAtomSize`.
    pub(super) atom: u64,
    /// `minImportedHostPointerAlignment`.
    pub(super) import_align: u64,
    /// `sparseAddressSpaceSize`.
    pub(super) sparse_space: u64,
}

/// What is enabled on the device beyond the minimum.
#[derive(Clone, Default)]
pub(super) struct Abilities {
    pub(super) device_address: bool,
    pub(super) budget: bool,
    pub(super) sparse: bool,
    pub(super) import: Option<ext::external_memory_host::Device>,
}

/// The queues by their jobs; jobs may share one.
pub(super) struct Roles {
    pub(super) compute: Arc<RawQueue>,
    pub(super) upload: Arc<RawQueue>,
    pub(super) download: Arc<RawQueue>,
}

/// A `VkQueue` and the lock under which it is used.
pub(super) struct RawQueue {
    pub(super) queue: vk::Queue,
    pub(super) family: u32,
    pub(super) lock: Arc<dyn SubmitLock>,
}

/// How much was submitted and made so far.
#[derive(Default)]
pub(super) struct Counted {
    pub(super) submissions: AtomicU64,
    pub(super) objects: AtomicU64,
}

pub(super) struct Parts {
    pub(super) instance: Instance,
    pub(super) physical: vk::PhysicalDevice,
    pub(super) device: ash::Device,
    pub(super) can: Abilities,
    pub(super) families: Vec<u32>,
    pub(super) queues: Roles,
    pub(super) owned: bool,
}

impl Context {
    pub(super) fn new(parts: Parts) -> Arc<Self> {
        let Parts { instance, physical, device, can, families, queues, owned } = parts;
        // SAFETY: the handle is of this instance.
        let basic = unsafe { instance.raw().get_physical_device_properties(physical) };
        let mut three = vk::PhysicalDeviceMaintenance3Properties::default();
        let mut four = vk::PhysicalDeviceMaintenance4Properties::default();
        let mut import = vk::PhysicalDeviceExternalMemoryHostPropertiesEXT::default();
        let mut all = vk::PhysicalDeviceProperties2::default().push_next(&mut three);
        let states_buffer = basic.api_version >= vk::API_VERSION_1_3
            || instance.has_extension(physical, ash::khr::maintenance4::NAME);
        if states_buffer {
            all = all.push_next(&mut four);
        }
        if can.import.is_some() {
            all = all.push_next(&mut import);
        }
        // SAFETY: only structures that this device knows are chained.
        unsafe { instance.raw().get_physical_device_properties2(physical, &mut all) };
        let limits = Limits {
            allocation: three.max_memory_allocation_size,
            buffer: states_buffer.then_some(four.max_buffer_size),
            storage_range: basic.limits.max_storage_buffer_range.into(),
            storage_align: basic.limits.min_storage_buffer_offset_alignment.max(1),
            atom: basic.limits.non_coherent_atom_size.max(1),
            import_align: import.min_imported_host_pointer_alignment.max(1),
            sparse_space: basic.limits.sparse_address_space_size,
        };
        let name = basic.device_name_as_c_str().map(|name| name.to_string_lossy().into_owned());
        let (memory, _) = instance.memory(physical, false);
        Arc::new(Context {
            id: NEXT_ID.fetch_add(1, Relaxed),
            device,
            physical,
            name: name.unwrap_or_default(),
            memory,
            limits,
            can,
            families,
            queues,
            host_sees: AtomicBool::new(false),
            is_cpu: basic.device_type == vk::PhysicalDeviceType::CPU,
            owned,
            counted: Counted::default(),
            usage: Mutex::new(DeviceMemory::default()),
            lost: AtomicBool::new(false),
            retired: Mutex::new(Vec::new()),
            instance,
        })
    }

    /// What the process may use of a heap now; `None` where the device does not say.
    pub(super) fn budget(&self, heap: u32) -> Option<Budget> {
        let (_, budgets) = self.instance.memory(self.physical, self.can.budget);
        budgets.map(|all| all[heap as usize])
    }

    pub(super) fn check_lost(&self) -> Result<(), VulkanError> {
        if self.is_lost() { Err(VulkanError::DeviceLost) } else { Ok(()) }
    }

    pub(super) fn is_lost(&self) -> bool {
        self.lost.load(SeqCst)
    }

    /// Notes a loss that `error` speaks of.
    ///
    /// A wait that reports the loss counts as having ended (chapter "Lost Device" of the specification), so once all
    /// our queues were waited for, nothing of ours is in use any more. The caller holds no queue's lock.
    pub(super) fn heard(&self, error: VulkanError) -> VulkanError {
        if matches!(error, VulkanError::DeviceLost) && !self.is_lost() {
            self.wait_idle();
            self.lost.store(true, SeqCst);
        }
        error
    }

    fn wait_idle(&self) {
        for queue in self.queues.each() {
            // SAFETY: the queue is used under its lock, as everywhere. A lost device ends the wait, too.
            let _ = queue.with(|queue| unsafe { self.device.queue_wait_idle(queue) });
        }
    }

    /// A timeline semaphore nobody uses, and its value.
    pub(super) fn semaphore(&self) -> Result<(vk::Semaphore, u64), VulkanError> {
        if let Some(retired) = self.retired().pop() {
            return Ok(retired);
        }
        let mut kind = vk::SemaphoreTypeCreateInfo::default().semaphore_type(vk::SemaphoreType::TIMELINE);
        let info = vk::SemaphoreCreateInfo::default().push_next(&mut kind);
        // SAFETY: the device has timeline semaphores.
        let made = unsafe { self.device.create_semaphore(&info, None) };
        let semaphore = made.map_err(|e| self.heard(VulkanError::call("vkCreateSemaphore")(e)))?;
        self.made();
        Ok((semaphore, 0))
    }

    /// Takes back a semaphore whose signals up to `value` are all that was submitted.
    pub(super) fn retire(&self, semaphore: vk::Semaphore, value: u64) {
        self.retired().push((semaphore, value));
    }

    fn retired(&self) -> MutexGuard<'_, Vec<(vk::Semaphore, u64)>> {
        self.retired.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn account(&self) -> MutexGuard<'_, DeviceMemory> {
        self.usage.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn counters(&self) -> Counters {
        Counters {
            submissions: self.counted.submissions.load(Relaxed),
            objects: self.counted.objects.load(Relaxed),
        }
    }

    /// A Vulkan object was made.
    pub(super) fn made(&self) {
        self.counted.objects.fetch_add(1, Relaxed);
    }

    /// Who may use a buffer: with more than one family all of them at once, so that no range ever has to be handed
    /// over.
    pub(super) fn sharing<'a>(&'a self, info: vk::BufferCreateInfo<'a>) -> vk::BufferCreateInfo<'a> {
        match self.families.len() {
            0 | 1 => info.sharing_mode(vk::SharingMode::EXCLUSIVE),
            _ => info.sharing_mode(vk::SharingMode::CONCURRENT).queue_family_indices(&self.families),
        }
    }
}

impl Drop for Context {
    fn drop(&mut self) {
        // Whoever used a semaphore has waited for it. The queues of a caller's device may have work of his that ends who
        // knows when, so they are left alone but where the driver asks for it (see `retired`).
        if self.owned || self.is_cpu {
            self.wait_idle();
        }
        for (semaphore, _) in self.retired().drain(..) {
            // SAFETY: it is this device's, and nothing submitted is unfinished.
            unsafe { self.device.destroy_semaphore(semaphore, None) };
        }
        if self.owned {
            // SAFETY: everything made from the device holds this context, so all of it is gone.
            unsafe { self.device.destroy_device(None) };
        }
    }
}

impl Roles {
    /// The queues of our own device.
    pub(super) fn own(device: &ash::Device, jobs: &Jobs) -> Self {
        let made: Vec<_> = jobs
            .distinct()
            .into_iter()
            .map(|at| {
                // SAFETY: the device was made with this queue.
                let queue = unsafe { device.get_device_queue(at.family, at.index) };
                (at, Arc::new(RawQueue { queue, family: at.family, lock: Arc::new(Mutex::new(())) }))
            })
            .collect();
        let find = |wanted| {
            let found = made.iter().find(|(at, _)| *at == wanted);
            Arc::clone(&found.unwrap_or(&made[0]).1)
        };
        Roles { compute: find(jobs.compute), upload: find(jobs.upload), download: find(jobs.download) }
    }

    /// Each queue once.
    fn each(&self) -> impl Iterator<Item = &RawQueue> {
        let (upload, download) = (&self.upload, &self.download);
        let second = (!Arc::ptr_eq(upload, &self.compute)).then_some(upload);
        let third =
            (!Arc::ptr_eq(download, &self.compute) && !Arc::ptr_eq(download, upload)).then_some(download);
        [Some(&self.compute), second, third].into_iter().flatten().map(|queue| &**queue)
    }
}

impl RawQueue {
    /// Uses the queue under its lock; `None` if the caller's lock did not let it.
    pub(super) fn with<R>(&self, f: impl FnOnce(vk::Queue) -> R) -> Option<R> {
        let (mut f, mut result) = (Some(f), None);
        self.lock.with(&mut || result = f.take().map(|f| f(self.queue)).or(result.take()));
        result
    }
}

static NEXT_ID: AtomicU64 = AtomicU64::new(1);
