//! Memory that comes with an address: device memory, and host memory that the device may use.

use super::{Grave, Mapping, Memory, Origin, Rights, Store};
use crate::clock::Shadow;
use crate::os::Window;
use crate::result::CuError;
use crate::written::Written;
use std::ops::Range;

impl Memory {
    /// Device memory, or host memory of `cuMemHostAlloc`, at an address of our own. `bytes` is not 0.
    pub(crate) fn allocate(&mut self, bytes: u64, origin: Origin, by: &str) -> Result<u64, CuError> {
        let room = round_up(bytes, PAGE).ok_or(CuError::OUT_OF_MEMORY)?;
        let at = self.take_addresses(room, PAGE)?;
        self.window_of(at)?.commit(at..at + room).map_err(|_| CuError::OUT_OF_MEMORY)?;
        let host = origin.is_host();
        if !host && bytes <= MOST_FILLED {
            // SAFETY: just committed, and nobody else has the address.
            unsafe { crate::raw::fill(at, bytes, FRESH) };
        }
        let store = self.new_store(bytes, by, !host, None);
        self.used += if host { 0 } else { bytes };
        self.put(at, bytes, store, 0, origin, Rights::Write);
        Ok(at)
    }

    /// Host memory of the program's.
    pub(crate) fn register(&mut self, at: u64, bytes: u64, flags: u32, by: &str) -> Result<(), CuError> {
        let end = at.checked_add(bytes).ok_or(CuError::INVALID_VALUE)?;
        if self.overlapping(at..end).next().is_some() {
            return Err(CuError::HOST_MEMORY_ALREADY_REGISTERED);
        }
        if self.owns(at..end) {
            return Err(CuError::INVALID_VALUE);
        }
        let store = self.new_store(bytes, by, false, None);
        self.put(at, bytes, store, 0, Origin::Registered(flags), Rights::Write);
        Ok(())
    }

    /// Takes the mapping at `start` away, and its memory when nothing else keeps it.
    pub(crate) fn remove(&mut self, start: u64, by: &'static str) {
        let Some(mapping) = self.maps.remove(&start) else { return };
        let Mapping { len, store, origin, .. } = mapping;
        if let Origin::Registered(_) = origin {
            return self.drop_store(store, false);
        }
        let room = round_up(len, PAGE).unwrap_or(len);
        // Pages that cannot be taken away stay until the window goes; the books know them to be gone.
        let _ = self.window_of(start).map(|window| window.decommit(start..start + room));
        if !matches!(origin, Origin::Physical(_)) {
            self.graves.insert(start, Grave { len, by });
        }
        self.drop_store(store, !origin.is_host());
    }

    pub(super) fn put(&mut self, at: u64, len: u64, store: u64, offset: u64, origin: Origin, rights: Rights) {
        let mapping = Mapping { len, store, offset, rights, origin, uses: Vec::new(), freed: None };
        self.maps.insert(at, mapping);
    }

    pub(super) fn new_store(&mut self, bytes: u64, by: &str, device: bool, pages: Option<u64>) -> u64 {
        self.last_store += 1;
        let number = self.last_store;
        let name = format!("memory {number} ({bytes} bytes of {by})");
        let written = device.then(Written::default);
        let store = Store { bytes, name, written, shadow: Shadow::default(), references: 1, pages };
        self.stores.insert(number, store);
        number
    }

    /// Takes one reference from a store.
    pub(super) fn drop_store(&mut self, number: u64, device: bool) {
        let Some(store) = self.stores.get_mut(&number) else { return };
        store.references -= 1;
        if store.references > 0 {
            return;
        }
        self.used -= if device { store.bytes } else { 0 };
        if let (Some(from), Some(pages)) = (store.pages, &self.pages) {
            // Bytes that cannot be given back now go with the file.
            let _ = pages.punch(from..from + store.bytes);
        }
        self.stores.remove(&number);
    }

    /// Addresses that were never used, with a guard behind them.
    pub(super) fn take_addresses(&mut self, len: u64, align: u64) -> Result<u64, CuError> {
        let fits = |next: u64, window: &Window| {
            let at = round_up(next, align)?;
            let end = at.checked_add(len)?.checked_add(GUARD)?;
            (end <= window.range().end).then_some((at, end))
        };
        if let Some((at, end)) = self.windows.last().and_then(|window| fits(self.next, window)) {
            self.next = end;
            return Ok(at);
        }
        let wanted = len.checked_add(align).and_then(|sum| sum.checked_add(2 * GUARD));
        let wanted = wanted.and_then(|sum| round_up(sum, GUARD)).ok_or(CuError::OUT_OF_MEMORY)?;
        let window = Window::reserve(wanted.max(WINDOW)).map_err(|_| CuError::OUT_OF_MEMORY)?;
        let (at, end) = fits(window.range().start, &window).ok_or(CuError::OUT_OF_MEMORY)?;
        self.windows.push(window);
        self.next = end;
        Ok(at)
    }

    pub(super) fn window_of(&self, at: u64) -> Result<&Window, CuError> {
        let holds = |window: &&Window| window.range().contains(&at);
        self.windows.iter().find(holds).ok_or(CuError::INVALID_VALUE)
    }

    /// The mappings that make up exactly `range`: none missing, none cut. Empty if it is not so.
    pub(super) fn whole_mappings(&self, range: &Range<u64>) -> Vec<u64> {
        let mut cursor = range.start;
        let mut starts = Vec::new();
        for (&start, mapping) in self.maps.range(range.clone()) {
            if start != cursor {
                return Vec::new();
            }
            cursor = start + mapping.len;
            starts.push(start);
        }
        if cursor == range.end { starts } else { Vec::new() }
    }
}

fn round_up(value: u64, to: u64) -> Option<u64> {
    value.checked_next_multiple_of(to)
}

const PAGE: u64 = 4096;
/// Between two ranges, so that running beyond one never lands in the next.
pub(super) const GUARD: u64 = 2 << 20;
/// Addresses cost nothing; a device's whole life rarely needs a second window.
const WINDOW: u64 = 1 << 40;
/// Larger memory is left as the system gives it, since the books know what was written anyway.
const MOST_FILLED: u64 = 16 << 20;
/// What fresh bytes hold.
const FRESH: u8 = 0xdb;
