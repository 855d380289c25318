//! Buffers in memory that host and device share, made with Vulkan and lent to wgpu.

use super::direct::Direct;
use super::native::scoped;
use super::raw::Raw;
use ash::vk;
use std::any::Any;
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use wgpu::hal::api::Vulkan;

impl Raw {
    /// A buffer of zeroes in memory that is the device's own and coherent and cached for the host. `None` where the
    /// device is a discrete GPU or has no such memory, and where the driver refuses.
    pub(super) fn shared_buffer(
        &self,
        device: &wgpu::Device,
        bytes: u64,
        usage: wgpu::BufferUsages,
    ) -> Option<(wgpu::Buffer, Direct)> {
        // Across a bus the host reads such memory slowly, if there is any.
        let kind = device.adapter_info().device_type;
        if !matches!(kind, wgpu::DeviceType::Cpu | wgpu::DeviceType::IntegratedGpu) {
            return None;
        }
        let length = usize::try_from(bytes).ok()?;
        let allocation = Arc::new(self.allocate(device, bytes, flags(usage)?)?);
        // SAFETY: the memory was made with `HOST_VISIBLE` and is mapped once.
        let base = unsafe {
            self.functions.map_memory(allocation.memory, 0, vk::WHOLE_SIZE, vk::MemoryMapFlags::empty())
        };
        let base = NonNull::new(base.ok()?.cast::<u8>())?;
        // SAFETY: as many bytes were just mapped, and nobody else knows of them. What they held may be anything, which
        // is initialised by this.
        unsafe { base.as_ptr().write_bytes(0, length) };

        let gone = Arc::new(AtomicBool::new(false));
        let (told, kept) = (Arc::clone(&gone), Arc::clone(&allocation));
        // wgpu calls this once no submission uses the buffer any more.
        let callback = Box::new(move || {
            told.store(true, SeqCst);
            drop(kept);
        });
        let descriptor =
            wgpu::BufferDescriptor { label: Some("arena"), size: bytes, usage, mapped_at_creation: false };
        // SAFETY: the handle is of this device, made with this size and usage, and lives until the callback is called:
        // that owns a share of it. wgpu never maps it, since its usage has no `MAP`; its bytes are initialised.
        let (buffer, error) = scoped(device, || unsafe {
            let buffer = wgpu::hal::vulkan::Buffer::from_raw_externally_owned(allocation.buffer, callback);
            device.create_buffer_from_hal::<Vulkan>(buffer, &descriptor)
        });
        if error.is_some() {
            return None;
        }
        let allocation: Arc<dyn Any + Send + Sync> = allocation;
        // SAFETY: mapped above, with a length of `bytes`, coherent by its type, and unmapped by freeing.
        let direct = unsafe { Direct::new(base, gone, allocation) };
        Some((buffer, direct))
    }

    fn allocate(&self, device: &wgpu::Device, bytes: u64, usage: vk::BufferUsageFlags) -> Option<Allocation> {
        // SAFETY: only asks.
        let properties = unsafe {
            let device = device.as_hal::<Vulkan>()?;
            let instance = device.shared_instance().raw_instance();
            instance.get_physical_device_memory_properties(device.raw_physical_device())
        };
        let info = vk::BufferCreateInfo::default().size(bytes).usage(usage);
        // SAFETY: the functions are of a device that lives as long as `device`.
        let buffer = unsafe { self.functions.create_buffer(&info, None) }.ok()?;
        let mut allocation =
            Allocation { functions: self.functions.clone(), buffer, memory: vk::DeviceMemory::null() };
        // SAFETY: a handle that was just made.
        let needs = unsafe { self.functions.get_buffer_memory_requirements(buffer) };
        let index = properties.memory_types_as_slice().iter().enumerate().position(|(index, kind)| {
            needs.memory_type_bits & 1 << index != 0 && kind.property_flags.contains(SHARED)
        })?;
        let info =
            vk::MemoryAllocateInfo::default().allocation_size(needs.size).memory_type_index(index as u32);
        // SAFETY: size and type are those that the buffer needs; the memory is bound once.
        unsafe {
            allocation.memory = self.functions.allocate_memory(&info, None).ok()?;
            self.functions.bind_buffer_memory(buffer, allocation.memory, 0).ok()?;
        }
        Some(allocation)
    }
}

/// A buffer and its memory. Whoever has a share keeps wgpu's device: a buffer of wgpu's, or its destruction.
struct Allocation {
    functions: ash::Device,
    buffer: vk::Buffer,
    /// Null if it could not be had.
    memory: vk::DeviceMemory,
}

impl Drop for Allocation {
    fn drop(&mut self) {
        // SAFETY: the last share: wgpu has let go of the buffer, nobody copies, and the device is still there.
        // Freeing unmaps.
        unsafe {
            self.functions.destroy_buffer(self.buffer, None);
            self.functions.free_memory(self.memory, None);
        }
    }
}

/// Vulkan's flags for what an arena can be used for; `None`: not these.
fn flags(usage: wgpu::BufferUsages) -> Option<vk::BufferUsageFlags> {
    let pairs = [
        (wgpu::BufferUsages::COPY_SRC, vk::BufferUsageFlags::TRANSFER_SRC),
        (wgpu::BufferUsages::COPY_DST, vk::BufferUsageFlags::TRANSFER_DST),
        (wgpu::BufferUsages::STORAGE, vk::BufferUsageFlags::STORAGE_BUFFER),
        (wgpu::BufferUsages::UNIFORM, vk::BufferUsageFlags::UNIFORM_BUFFER),
        (wgpu::BufferUsages::INDEX, vk::BufferUsageFlags::INDEX_BUFFER),
        (wgpu::BufferUsages::VERTEX, vk::BufferUsageFlags::VERTEX_BUFFER),
    ];
    let known = pairs.iter().fold(wgpu::BufferUsages::empty(), |known, (usage, _)| known | *usage);
    let wanted = pairs.iter().filter(|(one, _)| usage.contains(*one));
    known.contains(usage).then(|| wanted.fold(vk::BufferUsageFlags::empty(), |all, (_, flag)| all | *flag))
}

/// What memory must be so that both sides use it well.
const SHARED: vk::MemoryPropertyFlags = vk::MemoryPropertyFlags::from_raw(
    vk::MemoryPropertyFlags::DEVICE_LOCAL.as_raw()
        | vk::MemoryPropertyFlags::HOST_VISIBLE.as_raw()
        | vk::MemoryPropertyFlags::HOST_COHERENT.as_raw()
        | vk::MemoryPropertyFlags::HOST_CACHED.as_raw(),
);
