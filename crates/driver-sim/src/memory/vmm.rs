//! Addresses and physical memory apart: reserve, create, map, unmap, release.

use super::{Handle, Memory, Origin, Rights};
use crate::os::Pages;
use crate::result::CuError;
use crate::types::AllocationHandle;
use std::ops::Range;

/// Smallest and recommended unit of physical memory and of its mappings, in bytes.
pub(crate) const GRANULE: u64 = 2 << 20;

impl Memory {
    /// Reserves `len` bytes of addresses.
    pub(crate) fn reserve(&mut self, len: u64, align: u64) -> Result<u64, CuError> {
        let align = align.max(GRANULE);
        if len == 0 || !len.is_multiple_of(GRANULE) || !align.is_power_of_two() {
            return Err(CuError::INVALID_VALUE);
        }
        let at = self.take_addresses(len, align)?;
        self.reservations.insert(at, len);
        Ok(at)
    }

    /// Gives a whole reservation back, in which nothing is mapped.
    pub(crate) fn free_addresses(&mut self, at: u64, len: u64, by: &'static str) -> Result<(), String> {
        match self.reservations.get(&at) {
            Some(&reserved) if reserved == len => {}
            Some(reserved) => {
                return Err(format!("the reservation at {at:#x} has {reserved} bytes, not {len}"));
            }
            None => return Err(self.describe(at)),
        }
        if self.maps.range(at..at + len).next().is_some() {
            return Err(format!("memory is mapped in the reservation at {at:#x}"));
        }
        self.reservations.remove(&at);
        self.graves.insert(at, super::Grave { len, by });
        Ok(())
    }

    /// Makes physical memory behind a handle `handle`, which is new.
    pub(crate) fn create(&mut self, handle: AllocationHandle, bytes: u64, by: &str) -> Result<(), CuError> {
        if bytes == 0 || !bytes.is_multiple_of(GRANULE) {
            return Err(CuError::INVALID_VALUE);
        }
        if self.pages.is_none() {
            self.pages = Some(Pages::new().map_err(|_| CuError::OUT_OF_MEMORY)?);
        }
        let Some(pages) = &mut self.pages else { return Err(CuError::OUT_OF_MEMORY) };
        let from = pages.grow(bytes).map_err(|_| CuError::OUT_OF_MEMORY)?;
        let store = self.new_store(bytes, by, true, Some(from));
        self.handles.insert(handle, Handle { store, references: 1 });
        self.used += bytes;
        Ok(())
    }

    /// Takes one reference from a handle; `false` if there is no such handle.
    pub(crate) fn release(&mut self, handle: AllocationHandle) -> bool {
        let Some(entry) = self.handles.get_mut(&handle) else { return false };
        entry.references -= 1;
        let store = entry.store;
        if entry.references == 0 {
            self.handles.remove(&handle);
            self.drop_store(store, true);
        }
        true
    }

    /// Handle of the memory mapped at `at`, with one more reference.
    pub(crate) fn retain(&mut self, at: u64) -> Option<AllocationHandle> {
        let (_, mapping) = self.mapping_at(at)?;
        let (Origin::Physical(handle), number) = (mapping.origin, mapping.store) else { return None };
        match self.handles.get_mut(&handle) {
            Some(entry) => entry.references += 1,
            // Released while mapped: the memory comes back under its old name.
            None => {
                self.handles.insert(handle, Handle { store: number, references: 1 });
                self.stores.get_mut(&number)?.references += 1;
            }
        }
        Some(handle)
    }

    /// Puts the first `len` bytes of physical memory at `at`, without rights.
    pub(crate) fn map(&mut self, at: u64, len: u64, handle: AllocationHandle) -> Result<(), String> {
        let Some(entry) = self.handles.get(&handle) else {
            return Err(format!("there is no physical memory {handle:#x}"));
        };
        let number = entry.store;
        let (bytes, pages) = self.stores.get(&number).map_or((0, None), |store| (store.bytes, store.pages));
        if len == 0 || !len.is_multiple_of(GRANULE) || !at.is_multiple_of(GRANULE) || len > bytes {
            return Err(format!(
                "{len} bytes at {at:#x} are no whole granules of the {bytes} bytes there are"
            ));
        }
        let end = at.saturating_add(len);
        let inside = self.reservations.range(..=at).next_back();
        if inside.is_none_or(|(start, reserved)| end > start + reserved) {
            return Err(format!("{at:#x}..{end:#x} is not within one reservation"));
        }
        if self.overlapping(at..end).next().is_some() {
            return Err(format!("memory is already mapped within {at:#x}..{end:#x}"));
        }
        let (Ok(window), Some(file)) = (self.window_of(at), &self.pages) else {
            return Err("the reservation is gone".into());
        };
        window
            .map(at..end, file, pages.unwrap_or(0))
            .map_err(|error| format!("the system refused: {error}"))?;
        self.put(at, len, number, 0, Origin::Physical(handle), Rights::None);
        if let Some(store) = self.stores.get_mut(&number) {
            store.references += 1;
        }
        Ok(())
    }

    /// Checks that `range` is made of whole mappings of physical memory.
    pub(crate) fn check_unmap(&self, range: &Range<u64>) -> Result<(), String> {
        let starts = self.whole_mappings(range);
        if starts.is_empty() {
            return Err(format!("{:#x}..{:#x} is not made of whole mappings", range.start, range.end));
        }
        let physical = |start: &u64| matches!(self.maps[start].origin, Origin::Physical(_));
        if starts.iter().all(physical) {
            Ok(())
        } else {
            Err("memory that was not mapped by cuMemMap".into())
        }
    }

    /// Takes the mappings that make up `range` away, which [`check_unmap`](Self::check_unmap) has allowed.
    pub(crate) fn unmap(&mut self, range: &Range<u64>, by: &'static str) {
        for start in self.whole_mappings(range) {
            self.remove(start, by);
        }
    }

    /// The least rights in `range`, if it is made of whole mappings of physical memory.
    pub(crate) fn rights(&self, range: &Range<u64>) -> Option<Rights> {
        self.check_unmap(range).ok()?;
        self.whole_mappings(range).iter().map(|start| self.maps[start].rights).min()
    }

    /// Gives the mappings that make up `range` the rights.
    pub(crate) fn set_rights(&mut self, range: &Range<u64>, rights: Rights) -> Result<(), CuError> {
        self.window_of(range.start)?
            .open(range.clone(), rights != Rights::None)
            .map_err(|_| CuError::OUT_OF_MEMORY)?;
        for start in self.whole_mappings(range) {
            if let Some(mapping) = self.maps.get_mut(&start) {
                mapping.rights = rights;
            }
        }
        Ok(())
    }

    /// Whether physical memory goes by `handle`, and its bytes.
    pub(crate) fn physical(&self, handle: AllocationHandle) -> Option<u64> {
        let entry = self.handles.get(&handle)?;
        self.stores.get(&entry.store).map(|store| store.bytes)
    }

    /// Live reservations: how many, and their bytes.
    pub(crate) fn reserved(&self) -> (u64, u64) {
        (self.reservations.len() as u64, self.reservations.values().sum())
    }

    /// Live handles: how many, and their bytes.
    pub(crate) fn created(&self) -> (u64, u64) {
        let bytes = |entry: &Handle| self.stores.get(&entry.store).map_or(0, |store| store.bytes);
        (self.handles.len() as u64, self.handles.values().map(bytes).sum())
    }
}
