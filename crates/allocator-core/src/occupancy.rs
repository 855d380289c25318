//! A picture of an arena in one line.

use alloc::string::String;
use alloc::vec;

use crate::OffsetAllocator;

impl<P> OffsetAllocator<P> {
    /// The arena as `resolution` characters: `.` for a cell that is free, `|` for one that is not.
    ///
    /// The cells of a hole `start..end` run from `start * resolution / size` to just before
    /// `end * resolution / size`, both rounded down: a cell in which a hole starts is `.`, the one in which
    /// it ends is `|`, and a hole within one cell does not show. Source: DeepSpeed's
    /// `ContiguousMemoryAllocator.print_allocation(resolution)`, which computes in floating point; this is
    /// exact. O(resolution + blocks + holes).
    ///
    /// # Panics
    /// As any `String` does, when `resolution` characters are more than memory can hold.
    ///
    /// ```
    /// # use allocator_core::{OffsetAllocator, Request};
    /// let mut offsets = OffsetAllocator::new(1024)?;
    /// let first = offsets.allocate(Request::new(256))?;
    /// offsets.allocate(Request::new(512))?;
    /// offsets.free(first)?;
    /// assert_eq!(offsets.occupancy(16), "....||||||||....");
    /// # Ok::<(), allocator_core::AllocError>(())
    /// ```
    #[must_use]
    pub fn occupancy(&self, resolution: usize) -> String {
        let cell = |offset: u64| (u128::from(offset) * resolution as u128 / u128::from(self.size)) as usize;
        let mut cells = vec!['|'; resolution];
        for hole in self.holes() {
            cells[cell(hole.start)..cell(hole.end)].fill('.');
        }
        cells.into_iter().collect()
    }
}

#[cfg(test)]
mod tests {
    use crate::{OffsetAllocator, Request};

    #[test]
    fn cells_round_as_the_original_does() {
        let mut offsets = OffsetAllocator::new(1000).unwrap();
        assert_eq!(offsets.occupancy(0), "");
        assert_eq!(offsets.occupancy(3), "...");
        let first = offsets.allocate(Request::new(150)).unwrap();
        offsets.allocate(Request::new(400)).unwrap();
        assert_eq!(offsets.occupancy(10), "|||||.....");
        offsets.free(first).unwrap();
        assert_eq!(offsets.occupancy(10), ".||||.....");
        assert_eq!(offsets.occupancy(1), ".");
    }

    #[test]
    fn more_cells_than_bytes_and_huge_arenas() {
        let mut offsets = OffsetAllocator::new(2).unwrap();
        offsets.allocate(Request::new(1)).unwrap();
        assert_eq!(offsets.occupancy(5), "||...");
        let mut offsets = OffsetAllocator::new(u64::MAX).unwrap();
        offsets.allocate(Request::new(u64::MAX / 2 + 1)).unwrap();
        assert_eq!(offsets.occupancy(4), "||..");
    }
}
