//! Pages of a sparse buffer, and their exchange.

use ash::vk;
use core::ops::Range;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Which page of memory lies where in a sparse buffer.
pub(super) struct Pages {
    /// Size of a page in bytes, a power of two.
    page: u64,
    /// For each page of the buffer, its memory and the offset there.
    table: Mutex<Vec<At>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct At {
    memory: vk::DeviceMemory,
    offset: u64,
}

impl Pages {
    /// Pages of `page` bytes for a buffer of `size` bytes, taken from `pieces` of memory and their lengths in order.
    pub(super) fn new(page: u64, size: u64, pieces: &[(vk::DeviceMemory, u64)]) -> Self {
        let all = pieces.iter().flat_map(|(memory, bytes)| {
            (0..bytes / page).map(|number| At { memory: *memory, offset: number * page })
        });
        Pages { page, table: Mutex::new(all.take(size.div_ceil(page) as usize).collect()) }
    }

    pub(super) fn page(&self) -> u64 {
        self.page
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, Vec<At>> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What binds each page where the table has it.
    pub(super) fn all(&self, table: &[At]) -> Vec<vk::SparseMemoryBind> {
        let mut binds = Vec::new();
        self.bind(&mut binds, 0, table);
        binds
    }

    /// What exchanges the pages of `src` with those at `dst`; both are whole pages and do not overlap.
    pub(super) fn exchange(&self, table: &[At], src: &Range<u64>, dst: u64) -> Vec<vk::SparseMemoryBind> {
        let mut binds = Vec::new();
        self.bind(&mut binds, dst, &table[self.numbers(src.start, src.end - src.start)]);
        self.bind(&mut binds, src.start, &table[self.numbers(dst, src.end - src.start)]);
        binds
    }

    /// Notes an exchange that was submitted.
    pub(super) fn exchanged(&self, table: &mut [At], src: &Range<u64>, dst: u64) {
        let (from, to) =
            (self.numbers(src.start, src.end - src.start), self.numbers(dst, src.end - src.start));
        for (a, b) in from.zip(to) {
            table.swap(a, b);
        }
    }

    fn numbers(&self, offset: u64, bytes: u64) -> Range<usize> {
        (offset / self.page) as usize..((offset + bytes) / self.page) as usize
    }

    /// Binds the pages `at` from `offset` of the buffer on; neighbours in memory are one binding.
    fn bind(&self, binds: &mut Vec<vk::SparseMemoryBind>, offset: u64, at: &[At]) {
        let first = binds.len();
        for (number, at) in at.iter().enumerate() {
            let place = offset + number as u64 * self.page;
            match binds[first..].last_mut() {
                Some(last) if last.memory == at.memory && last.memory_offset + last.size == at.offset => {
                    last.size += self.page;
                }
                _ => binds.push(
                    vk::SparseMemoryBind::default()
                        .resource_offset(place)
                        .size(self.page)
                        .memory(at.memory)
                        .memory_offset(at.offset),
                ),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ash::vk::Handle;

    fn shown(binds: &[vk::SparseMemoryBind]) -> Vec<(u64, u64, u64, u64)> {
        binds.iter().map(|b| (b.resource_offset, b.size, b.memory.as_raw(), b.memory_offset)).collect()
    }

    #[test]
    fn neighbours_are_one_binding_and_an_exchange_goes_both_ways() {
        let memory = |number| vk::DeviceMemory::from_raw(number);
        let pages = Pages::new(4, 30, &[(memory(1), 16), (memory(2), 16)]);
        let mut table = pages.lock();
        assert_eq!(shown(&pages.all(&table)), [(0, 16, 1, 0), (16, 16, 2, 0)]);
        let src = 12..20;
        assert_eq!(shown(&pages.exchange(&table, &src, 0)), [(0, 4, 1, 12), (4, 4, 2, 0), (12, 8, 1, 0)]);
        pages.exchanged(&mut table, &src, 0);
        assert_eq!(
            shown(&pages.all(&table)),
            [(0, 4, 1, 12), (4, 4, 2, 0), (8, 4, 1, 8), (12, 8, 1, 0), (20, 12, 2, 4)]
        );
    }
}
