//! The virtual block of AMD's Vulkan Memory Allocator: its algorithms without a device.

use super::{Engine, Setup};
use std::ops::Range;
use vk_mem::{
    VirtualAllocation, VirtualAllocationCreateFlags as Flags, VirtualAllocationCreateInfo, VirtualBlock,
    VirtualBlockCreateFlags, VirtualBlockCreateInfo,
};

/// A virtual block whose allocations ask for `STRATEGY`.
pub(crate) struct Block<const STRATEGY: u32>(VirtualBlock);

/// No strategy asked for: two-level segregated fit.
pub(crate) type Vma = Block<0>;
/// The least memory wasted.
pub(crate) type VmaMemory = Block<MIN_MEMORY>;
/// The lowest offset that fits.
pub(crate) type VmaLowest = Block<MIN_OFFSET>;

impl<const STRATEGY: u32> Block<STRATEGY> {
    /// An allocation at the lowest offset that fits, and its offset, whatever the strategy of the others.
    pub(crate) fn alloc_lowest(&mut self, bytes: u64) -> Option<(VirtualAllocation, u64)> {
        let flags = Flags::from_bits_retain(MIN_OFFSET);
        let info = VirtualAllocationCreateInfo { size: bytes, alignment: 0, user_data: 0, flags };
        // SAFETY: rows ask for at least one byte, and the flags are one strategy.
        unsafe { self.0.allocate(info) }.ok()
    }
}

impl<const STRATEGY: u32> Engine for Block<STRATEGY> {
    const NAME: &'static str = match STRATEGY {
        MIN_MEMORY => "VMA MIN_MEMORY",
        MIN_OFFSET => "VMA MIN_OFFSET",
        _ => "VMA",
    };
    type Ticket = VirtualAllocation;

    fn new(setup: &Setup) -> Self {
        let info = VirtualBlockCreateInfo {
            size: setup.capacity,
            flags: VirtualBlockCreateFlags::empty(),
            allocation_callbacks: None,
        };
        Self(VirtualBlock::new(info).expect("memory for a virtual block"))
    }

    fn alloc(&mut self, bytes: u64) -> Option<VirtualAllocation> {
        let flags = Flags::from_bits_retain(STRATEGY);
        let info = VirtualAllocationCreateInfo { size: bytes, alignment: 0, user_data: 0, flags };
        // SAFETY: rows ask for at least one byte, and the flags are one strategy or none.
        unsafe { self.0.allocate(info) }.ok().map(|(allocation, _)| allocation)
    }

    fn free(&mut self, mut allocation: VirtualAllocation) {
        // SAFETY: the allocation is this block's, and a ticket is given back once.
        unsafe { self.0.free(&mut allocation) };
    }

    fn range(&self, allocation: &VirtualAllocation, _: u64) -> Range<u64> {
        // SAFETY: the allocation is this block's and live.
        let info = unsafe { self.0.get_allocation_info(allocation) };
        info.map_or(0..0, |info| info.offset..info.offset + info.size)
    }
}

impl<const STRATEGY: u32> Drop for Block<STRATEGY> {
    fn drop(&mut self) {
        // SAFETY: no ticket is used after its engine; VMA wants a block to be empty when it goes.
        unsafe { self.0.clear() };
    }
}

const MIN_MEMORY: u32 = Flags::VMA_VIRTUAL_ALLOCATION_CREATE_STRATEGY_MIN_MEMORY_BIT.bits();
const MIN_OFFSET: u32 = Flags::VMA_VIRTUAL_ALLOCATION_CREATE_STRATEGY_MIN_OFFSET_BIT.bits();
