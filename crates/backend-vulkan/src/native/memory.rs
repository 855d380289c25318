//! Device and host memory: one buffer over one allocation, or over the pages of a sparse one.

use super::context::Context;
use super::sparse::Pages;
use super::{ImportProblem, VulkanError};
use ash::vk;
use core::ptr::NonNull;
use pinned_host::{HostRegion, OsLocker, PageLocker, PagePin};
use std::sync::Arc;
use std::sync::atomic::Ordering::SeqCst;

/// A buffer and the memory behind it.
pub(super) struct Memory {
    context: Arc<Context>,
    buffer: vk::Buffer,
    /// What backs it: one, unless it is sparse.
    allocations: Vec<vk::DeviceMemory>,
    /// Length of the buffer in bytes.
    size: u64,
    /// Bytes taken from the device's memory, as its account has them.
    counted: u64,
    use_: Use,
    address: Option<vk::DeviceAddress>,
    mapped: Option<Mapped>,
    pages: Option<Pages>,
    /// While the driver of hardware has pages of the host.
    pin: Option<PagePin>,
    /// What was imported: goes last.
    host: Option<Box<dyn HostRegion>>,
}

/// What memory is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Use {
    /// A buffer of the user's.
    Buffer,
    /// Room for moves.
    Scratch,
    /// The host's end of a transfer.
    Host,
}

/// Where the host sees the memory.
#[derive(Debug, Clone, Copy)]
pub(super) struct Mapped {
    pub(super) base: NonNull<u8>,
    pub(super) coherent: bool,
}

// SAFETY: Vulkan handles may be used from any thread; creation and destruction are the value's alone; mapped memory
// is reached through pointers whose users order their accesses.
unsafe impl Send for Memory {}
// SAFETY: as above; through `&Memory` no Vulkan object is changed but the pages, which have a lock.
unsafe impl Sync for Memory {}

impl Memory {
    /// A buffer in memory of the kind that `use_` wants.
    ///
    /// # Errors
    /// A limit of the device, its budget, or its refusal; nothing is left behind.
    pub(super) fn new(
        context: &Arc<Context>,
        size: u64,
        use_: Use,
        usage: vk::BufferUsageFlags,
    ) -> Result<Self, VulkanError> {
        context.check_lost()?;
        check_size(context, size)?;
        let info = context.sharing(vk::BufferCreateInfo::default().size(size).usage(usage));
        let mut memory = Memory::make_buffer(context, size, use_, &info)?;
        // SAFETY: the buffer was just made.
        let needs = unsafe { context.device.get_buffer_memory_requirements(memory.buffer) };
        let kinds = wanted_kinds(use_);
        let Some(kind) = kinds.iter().find_map(|wanted| kind_of(context, needs.memory_type_bits, *wanted))
        else {
            return Err(VulkanError::Unsupported {
                device: context.name.clone(),
                what: "memory for this buffer",
            });
        };
        check_allocation(context, needs.size, kind)?;
        let allocation = memory.allocate(needs.size, kind, usage, None)?;
        // SAFETY: both are new, and the type was chosen among those the buffer accepts.
        let bound = unsafe { context.device.bind_buffer_memory(memory.buffer, allocation, 0) };
        bound.map_err(|e| context.heard(out_of(use_.name(), size)(e)))?;
        let flags = context.memory.memory_types[kind as usize].property_flags;
        if use_ == Use::Host {
            memory.map(allocation, flags.contains(COHERENT))?;
        } else if use_ == Use::Buffer && flags.contains(vk::MemoryPropertyFlags::HOST_VISIBLE | COHERENT) {
            // A convenience: plain access goes through the queue where there is no mapping.
            if memory.map(allocation, true).is_ok() {
                context.host_sees.store(true, SeqCst);
            }
        }
        memory.finish(usage);
        Ok(memory)
    }

    /// A buffer of `size` bytes over the `bytes` of host memory at `base`, which the device reaches where it is.
    ///
    /// # Safety
    /// `base..base + bytes` stays valid until the value is dropped, and is used only under the order of queues and events.
    ///
    /// # Errors
    /// As [`Memory::new`], and the result of a refused import.
    pub(super) unsafe fn import(
        context: &Arc<Context>,
        (base, bytes): (NonNull<u8>, usize),
        size: u64,
        use_: Use,
        usage: vk::BufferUsageFlags,
    ) -> Result<Self, VulkanError> {
        context.check_lost()?;
        check_size(context, size)?;
        let types = importable(context, base, bytes, usage)?;
        let mut external = vk::ExternalMemoryBufferCreateInfo::default().handle_types(HOST_ALLOCATION);
        let info = vk::BufferCreateInfo::default().size(size).usage(usage).push_next(&mut external);
        let mut memory = Memory::make_buffer(context, size, use_, &context.sharing(info))?;
        // SAFETY: the buffer was just made.
        let needs = unsafe { context.device.get_buffer_memory_requirements(memory.buffer) };
        // Coherent, because what is not would have to be flushed through a mapping, and imported memory has none.
        let bits = needs.memory_type_bits & types;
        let found = wanted_kinds(use_).iter().find_map(|wanted| kind_of(context, bits, *wanted | COHERENT));
        let Some(kind) = found.filter(|_| needs.size <= bytes as u64) else {
            let (address, why) = (base.as_ptr().addr(), ImportProblem::NoMemoryType);
            return Err(VulkanError::Import { address, bytes, why });
        };
        check_allocation(context, bytes as u64, kind)?;
        let allocation = memory.allocate(bytes as u64, kind, usage, Some(base))?;
        // SAFETY: as in `new`.
        let bound = unsafe { context.device.bind_buffer_memory(memory.buffer, allocation, 0) };
        bound.map_err(|e| context.heard(out_of("imported memory", size)(e)))?;
        memory.mapped = Some(Mapped { base, coherent: true });
        if use_ == Use::Buffer {
            context.host_sees.store(true, SeqCst);
        }
        memory.finish(usage);
        Ok(memory)
    }

    /// A buffer on pages of the operating system, huge where there are such: what a software device has anyway, and
    /// copies faster between. `None`: the device is hardware, or imports nothing.
    ///
    /// # Errors
    /// As [`Memory::import`], or the system refuses the memory.
    pub(super) fn of_system(
        context: &Arc<Context>,
        size: u64,
        use_: Use,
        usage: vk::BufferUsageFlags,
    ) -> Option<Result<Self, VulkanError>> {
        if !context.is_cpu || context.can.import.is_none() {
            return None;
        }
        let make = || {
            check_size(context, size)?;
            // Before the system is asked for the pages: it promises more than it has.
            let kind = wanted_kinds(use_).iter().find_map(|wanted| kind_of(context, !0, *wanted));
            kind.map_or(Ok(()), |kind| check_allocation(context, size, kind))?;
            let beyond =
                || VulkanError::Limit { limit: "address space", asked: size, allowed: usize::MAX as u64 };
            let align = context.limits.import_align as usize;
            let bytes = usize::try_from(size).ok().and_then(|bytes| bytes.checked_next_multiple_of(align));
            let bytes = bytes.ok_or_else(beyond)?;
            let region = OsLocker.pageable(bytes).unwrap_or_else(|| OsLocker.lock(bytes))?;
            let pages = (region.base(), region.len());
            // SAFETY: the region goes with the memory, below; its bytes are used as those of any buffer.
            let mut memory = unsafe { Memory::import(context, pages, size, use_, usage) }?;
            // First touch happens here and not inside the first transfer.
            region.prepare(0, region.len());
            memory.host = Some(Box::new(region));
            Ok(memory)
        };
        match make() {
            // What the driver does not import is left to the driver.
            Err(VulkanError::Import { .. }) => None,
            made => Some(made),
        }
    }

    /// A buffer whose pages can be exchanged, all of them bound.
    ///
    /// # Errors
    /// As [`Memory::new`].
    pub(super) fn sparse(
        context: &Arc<Context>,
        size: u64,
        usage: vk::BufferUsageFlags,
    ) -> Result<Self, VulkanError> {
        context.check_lost()?;
        check_size(context, size)?;
        if size > context.limits.sparse_space {
            let (limit, allowed) = ("sparseAddressSpaceSize", context.limits.sparse_space);
            return Err(VulkanError::Limit { limit, asked: size, allowed });
        }
        let info = vk::BufferCreateInfo::default()
            .size(size)
            .usage(usage)
            .flags(vk::BufferCreateFlags::SPARSE_BINDING);
        let mut memory = Memory::make_buffer(context, size, Use::Buffer, &context.sharing(info))?;
        // SAFETY: the buffer was just made.
        let needs = unsafe { context.device.get_buffer_memory_requirements(memory.buffer) };
        let found = wanted_kinds(Use::Buffer)
            .iter()
            .find_map(|wanted| kind_of(context, needs.memory_type_bits, *wanted));
        let Some(kind) = found else {
            return Err(VulkanError::Unsupported {
                device: context.name.clone(),
                what: "memory for sparse buffers",
            });
        };
        let page = needs.alignment.next_power_of_two();
        check_budget(context, needs.size, kind)?;
        // One allocation if the limit allows, else a few.
        let most = (context.limits.allocation / page * page).max(page);
        let mut rest = needs.size;
        let mut pieces = Vec::new();
        while rest > 0 {
            let bytes = rest.min(most);
            pieces.push((memory.allocate(bytes, kind, usage, None)?, bytes));
            rest -= bytes;
        }
        memory.pages = Some(Pages::new(page, size, &pieces));
        memory.finish(usage);
        Ok(memory)
    }

    fn make_buffer(
        context: &Arc<Context>,
        size: u64,
        use_: Use,
        info: &vk::BufferCreateInfo<'_>,
    ) -> Result<Self, VulkanError> {
        // SAFETY: size and usage were checked, what `info` points to is alive.
        let made = unsafe { context.device.create_buffer(info, None) };
        let buffer = made.map_err(|e| context.heard(out_of(use_.name(), size)(e)))?;
        context.made();
        Ok(Memory {
            context: Arc::clone(context),
            buffer,
            allocations: Vec::new(),
            size,
            counted: 0,
            use_,
            address: None,
            mapped: None,
            pages: None,
            pin: None,
            host: None,
        })
    }

    fn allocate(
        &mut self,
        bytes: u64,
        kind: u32,
        usage: vk::BufferUsageFlags,
        import: Option<NonNull<u8>>,
    ) -> Result<vk::DeviceMemory, VulkanError> {
        let mut flags = vk::MemoryAllocateFlagsInfo::default().flags(vk::MemoryAllocateFlags::DEVICE_ADDRESS);
        let mut host = vk::ImportMemoryHostPointerInfoEXT::default().handle_type(HOST_ALLOCATION);
        let mut info = vk::MemoryAllocateInfo::default().allocation_size(bytes).memory_type_index(kind);
        if usage.contains(vk::BufferUsageFlags::SHADER_DEVICE_ADDRESS) {
            info = info.push_next(&mut flags);
        }
        if let Some(base) = import {
            host = host.host_pointer(base.as_ptr().cast());
            info = info.push_next(&mut host);
        }
        // SAFETY: size and type were checked; an imported range is the caller's promise.
        let made = unsafe { self.context.device.allocate_memory(&info, None) };
        let allocation = made.map_err(|result| {
            let error = match import {
                Some(base) if result == vk::Result::ERROR_INVALID_EXTERNAL_HANDLE => VulkanError::Import {
                    address: base.as_ptr().addr(),
                    bytes: bytes as usize,
                    why: ImportProblem::Refused(result),
                },
                _ => out_of(self.use_.name(), bytes)(result),
            };
            self.context.heard(error)
        })?;
        self.context.made();
        self.allocations.push(allocation);
        Ok(allocation)
    }

    fn map(&mut self, allocation: vk::DeviceMemory, coherent: bool) -> Result<(), VulkanError> {
        // SAFETY: the memory is host-visible, new and not mapped.
        let at = unsafe {
            self.context.device.map_memory(allocation, 0, vk::WHOLE_SIZE, vk::MemoryMapFlags::empty())
        };
        let at = at.map_err(|e| self.context.heard(out_of("a mapping", self.size)(e)))?;
        self.mapped = NonNull::new(at.cast()).map(|base| Mapped { base, coherent });
        Ok(())
    }

    /// Takes the buffer into the device's account, and its address.
    fn finish(&mut self, usage: vk::BufferUsageFlags) {
        if usage.contains(vk::BufferUsageFlags::SHADER_DEVICE_ADDRESS) {
            self.address = Some(self.ask_address());
        }
        if self.use_ == Use::Host {
            return;
        }
        self.counted = self.size;
        let mut account = self.context.account();
        account.current += self.counted;
        account.peak = account.peak.max(account.current);
        if self.use_ == Use::Scratch {
            account.scratch += self.counted;
        }
    }

    fn ask_address(&self) -> vk::DeviceAddress {
        let info = vk::BufferDeviceAddressInfo::default().buffer(self.buffer);
        // SAFETY: the buffer was made with this usage, on a device with the feature.
        unsafe { self.context.device.get_buffer_device_address(&info) }
    }

    /// Leaves what was imported with the memory that uses it.
    pub(super) fn owns(&mut self, host: Box<dyn HostRegion>) {
        self.host = Some(host);
    }

    /// Counts the host's pages as the driver's until the memory goes: hardware pins them, a software device does not.
    pub(super) fn pin(&mut self, base: NonNull<u8>, len: usize) {
        self.pin = (!self.context.is_cpu).then(|| PagePin::new(base, len));
    }

    /// Whether the driver or the host keeps the pages where they are, for this process.
    pub(super) fn is_locked(&self) -> bool {
        self.pin.as_ref().is_some_and(PagePin::is_ours) || self.host().is_some_and(HostRegion::is_locked)
    }

    pub(super) fn host(&self) -> Option<&dyn HostRegion> {
        self.host.as_deref()
    }

    /// What the process may still use of the heap that the driver's host memory comes from.
    pub(super) fn host_budget(context: &Context) -> Option<u64> {
        let kind = wanted_kinds(Use::Host).iter().find_map(|wanted| kind_of(context, !0, *wanted))?;
        context.budget(context.memory.memory_types[kind as usize].heap_index).map(|now| now.left())
    }

    pub(super) fn context(&self) -> &Arc<Context> {
        &self.context
    }

    pub(super) fn buffer(&self) -> vk::Buffer {
        self.buffer
    }

    pub(super) fn size(&self) -> u64 {
        self.size
    }

    pub(super) fn address(&self) -> Option<vk::DeviceAddress> {
        self.address
    }

    pub(super) fn mapped(&self) -> Option<Mapped> {
        self.mapped
    }

    pub(super) fn pages(&self) -> Option<&Pages> {
        self.pages.as_ref()
    }

    /// Makes what the host wrote to `offset..offset + bytes` visible to the device's later submissions.
    pub(super) fn flush(&self, offset: u64, bytes: u64) -> Result<(), VulkanError> {
        self.ranged(offset, bytes, "vkFlushMappedMemoryRanges", |range| {
            // SAFETY: the range lies in mapped memory, on the atoms.
            unsafe { self.context.device.flush_mapped_memory_ranges(&[range]) }
        })
    }

    /// Makes what the device wrote to `offset..offset + bytes` visible to the host; the work has ended.
    pub(super) fn invalidate(&self, offset: u64, bytes: u64) -> Result<(), VulkanError> {
        self.ranged(offset, bytes, "vkInvalidateMappedMemoryRanges", |range| {
            // SAFETY: as in `flush`.
            unsafe { self.context.device.invalidate_mapped_memory_ranges(&[range]) }
        })
    }

    fn ranged(
        &self,
        offset: u64,
        bytes: u64,
        call: &'static str,
        run: impl FnOnce(vk::MappedMemoryRange<'_>) -> Result<(), vk::Result>,
    ) -> Result<(), VulkanError> {
        let (Some(Mapped { coherent: false, .. }), Some(&memory)) = (self.mapped, self.allocations.first())
        else {
            return Ok(());
        };
        let (offset, size) = atoms(offset, bytes, self.context.limits.atom, self.size);
        let range = vk::MappedMemoryRange::default().memory(memory).offset(offset).size(size);
        run(range).map_err(|e| self.context.heard(VulkanError::call(call)(e)))
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        if self.pin.as_ref().is_some_and(|pin| !pin.is_ours()) {
            // In a child of `fork`, where the driver's handles are the parent's.
            return core::mem::forget(Arc::clone(&self.context));
        }
        // SAFETY: whoever uses the buffer holds this value, the submissions in flight included; nulls are allowed.
        unsafe {
            self.context.device.destroy_buffer(self.buffer, None);
            for allocation in &self.allocations {
                self.context.device.free_memory(*allocation, None);
            }
        }
        let mut account = self.context.account();
        account.current -= self.counted;
        if self.use_ == Use::Scratch {
            account.scratch -= self.counted;
        }
    }
}

impl Use {
    fn name(self) -> &'static str {
        match self {
            Use::Buffer => "a buffer",
            Use::Scratch => "scratch",
            Use::Host => "host memory",
        }
    }
}

/// The whole atoms around a range of memory of `size` bytes: offset, and length or `VK_WHOLE_SIZE` at the end.
fn atoms(offset: u64, bytes: u64, atom: u64, size: u64) -> (u64, u64) {
    let start = offset / atom * atom;
    match (offset + bytes).checked_next_multiple_of(atom) {
        Some(end) if end <= size => (start, end - start),
        _ => (start, vk::WHOLE_SIZE),
    }
}

/// Kinds of memory by what they have and have not; the first that there is, is taken.
fn wanted_kinds(use_: Use) -> &'static [vk::MemoryPropertyFlags] {
    type Kind = vk::MemoryPropertyFlags;
    const VISIBLE: u32 = Kind::HOST_VISIBLE.as_raw();
    const CACHED: u32 = Kind::HOST_CACHED.as_raw();
    // Reading memory that is not cached is slower by orders of magnitude than invalidating what is.
    const HOST: &[Kind] = &[
        Kind::from_raw(VISIBLE | CACHED | COHERENT.as_raw()),
        Kind::from_raw(VISIBLE | CACHED),
        Kind::from_raw(VISIBLE | COHERENT.as_raw()),
    ];
    const DEVICE: &[Kind] = &[Kind::DEVICE_LOCAL, Kind::empty()];
    match use_ {
        Use::Buffer | Use::Scratch => DEVICE,
        Use::Host => HOST,
    }
}

fn kind_of(context: &Context, bits: u32, wanted: vk::MemoryPropertyFlags) -> Option<u32> {
    let kinds = context.memory.memory_types_as_slice().iter().enumerate();
    let mut fits = kinds.filter(|(index, _)| bits >> index & 1 == 1);
    fits.find(|(_, kind)| kind.property_flags.contains(wanted)).map(|(index, _)| index as u32)
}

fn check_size(context: &Context, size: u64) -> Result<(), VulkanError> {
    match context.limits.buffer {
        _ if size == 0 => Err(VulkanError::ZeroSize),
        Some(allowed) if size > allowed => {
            Err(VulkanError::Limit { limit: "maxBufferSize", asked: size, allowed })
        }
        _ => Ok(()),
    }
}

fn check_allocation(context: &Context, bytes: u64, kind: u32) -> Result<(), VulkanError> {
    let allowed = context.limits.allocation;
    if bytes > allowed {
        return Err(VulkanError::Limit { limit: "maxMemoryAllocationSize", asked: bytes, allowed });
    }
    check_budget(context, bytes, kind)
}

fn check_budget(context: &Context, asked: u64, kind: u32) -> Result<(), VulkanError> {
    let heap = context.memory.memory_types[kind as usize].heap_index;
    match context.budget(heap) {
        Some(now) if asked > now.left() => {
            Err(VulkanError::Budget { asked, heap, budget: now.budget, used: now.used })
        }
        _ => Ok(()),
    }
}

/// Kinds of memory, as bits, that the host memory can be imported as.
fn importable(
    context: &Context,
    base: NonNull<u8>,
    bytes: usize,
    usage: vk::BufferUsageFlags,
) -> Result<u32, VulkanError> {
    let (address, align) = (base.as_ptr().addr(), context.limits.import_align);
    let refused = |why| VulkanError::Import { address, bytes, why };
    let Some(extension) = &context.can.import else { return Err(refused(ImportProblem::NoExtension)) };
    if !(address as u64).is_multiple_of(align) || !(bytes as u64).is_multiple_of(align) {
        return Err(refused(ImportProblem::Misaligned { align }));
    }
    let mut properties = vk::MemoryHostPointerPropertiesEXT::default();
    // SAFETY: the extension is enabled; the pointer is only looked at.
    let asked = unsafe {
        (extension.fp().get_memory_host_pointer_properties_ext)(
            extension.device(),
            HOST_ALLOCATION,
            base.as_ptr().cast(),
            &mut properties,
        )
    };
    asked.result().map_err(|result| refused(ImportProblem::Refused(result)))?;
    let info = vk::PhysicalDeviceExternalBufferInfo::default().usage(usage).handle_type(HOST_ALLOCATION);
    let mut external = vk::ExternalBufferProperties::default();
    // SAFETY: the physical device is the instance's, and the usage has core bits only.
    unsafe {
        context.instance.raw().get_physical_device_external_buffer_properties(
            context.physical,
            &info,
            &mut external,
        );
    }
    let features = external.external_memory_properties.external_memory_features;
    let importable = features.contains(vk::ExternalMemoryFeatureFlags::IMPORTABLE)
        && !features.contains(vk::ExternalMemoryFeatureFlags::DEDICATED_ONLY);
    if importable { Ok(properties.memory_type_bits) } else { Err(refused(ImportProblem::NoMemoryType)) }
}

/// The error of a call that makes memory.
fn out_of(what: &'static str, bytes: u64) -> impl Fn(vk::Result) -> VulkanError {
    move |result| match result {
        vk::Result::ERROR_DEVICE_LOST => VulkanError::DeviceLost,
        result => VulkanError::Memory { what, bytes, result },
    }
}

/// What a buffer needs to be copied from and to.
pub(super) const COPY_USAGE: vk::BufferUsageFlags = vk::BufferUsageFlags::from_raw(
    vk::BufferUsageFlags::TRANSFER_SRC.as_raw() | vk::BufferUsageFlags::TRANSFER_DST.as_raw(),
);
const HOST_ALLOCATION: vk::ExternalMemoryHandleTypeFlags =
    vk::ExternalMemoryHandleTypeFlags::HOST_ALLOCATION_EXT;
const COHERENT: vk::MemoryPropertyFlags = vk::MemoryPropertyFlags::HOST_COHERENT;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_grow_to_whole_atoms_and_no_further_than_the_end() {
        assert_eq!(atoms(0, 256, 256, 1024), (0, 256));
        assert_eq!(atoms(1, 255, 256, 1024), (0, 256));
        assert_eq!(atoms(255, 2, 256, 1024), (0, 512));
        assert_eq!(atoms(512, 100, 256, 1000), (512, 256));
        assert_eq!(atoms(768, 232, 256, 1000), (768, vk::WHOLE_SIZE));
        assert_eq!(atoms(8, 16, 1, 1000), (8, 16));
    }
}
