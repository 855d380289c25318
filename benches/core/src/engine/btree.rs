//! The reference for packing: exact best fit, ties to the lowest offset, over two B-trees.

use super::range::Extent;
use super::{Engine, Setup};
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

pub(crate) struct BTree {
    /// Holes: length by offset.
    by_offset: BTreeMap<u64, u64>,
    /// The same holes as (length, offset).
    by_length: BTreeSet<(u64, u64)>,
}

impl Engine for BTree {
    const NAME: &'static str = "best fit over B-trees";
    type Ticket = Extent;

    fn new(setup: &Setup) -> Self {
        let by_offset = BTreeMap::from([(0, setup.capacity)]);
        Self { by_offset, by_length: BTreeSet::from([(setup.capacity, 0)]) }
    }

    fn alloc(&mut self, bytes: u64) -> Option<Extent> {
        let (length, offset) = *self.by_length.range((bytes, 0)..).next()?;
        self.by_length.remove(&(length, offset));
        self.by_offset.remove(&offset);
        if length > bytes {
            self.by_length.insert((length - bytes, offset + bytes));
            self.by_offset.insert(offset + bytes, length - bytes);
        }
        Some(Extent::of(offset, bytes))
    }

    fn free(&mut self, extent: Extent) {
        let Range { mut start, mut end } = extent.range();
        if let Some((&offset, &length)) = self.by_offset.range(..start).next_back()
            && offset + length == start
        {
            self.by_length.remove(&(length, offset));
            self.by_offset.remove(&offset);
            start = offset;
        }
        if let Some(length) = self.by_offset.remove(&end) {
            self.by_length.remove(&(length, end));
            end += length;
        }
        self.by_length.insert((end - start, start));
        self.by_offset.insert(start, end - start);
    }

    fn range(&self, extent: &Extent, _: u64) -> Range<u64> {
        extent.range()
    }
}
