//! The address space of device and host: what lies where, who used it, which bytes were written.
//!
//! ```text
//! addresses   ─┬─ mapping ──┬── mapping ──┬─  gap  ─┬─ mapping ─┬─ grave ─    BTreeMap by address
//!              │ rights,uses│             │         │           │ freed by
//!              ▼            ▼             ▼         ▼
//! stores      memory 1     memory 2 ◄────────── memory 2 again    written bytes, last uses of each byte
//! ```
//!
//! A *store* is memory with bytes: device memory, physical memory of the virtual-memory functions, page-locked host
//! memory. A *mapping* puts a range of a store at an address. Plain memory is a store with one mapping.

mod space;
mod vmm;
mod written;

pub(crate) use vmm::GRANULE;
pub(crate) use written::ALL;

use crate::clock::{Clock, Operation, Shadow, Use};
use crate::os::{Pages, Window};
use crate::types::AllocationHandle;
use crate::written::Written;
use std::collections::BTreeMap;
use std::ops::Range;

/// All memory that the device knows.
#[derive(Debug, Default)]
pub(crate) struct Memory {
    /// Where addresses of our own come from; the last is in use up to `next`.
    windows: Vec<Window>,
    next: u64,
    /// Backs physical memory; made with the first.
    pages: Option<Pages>,
    /// By address; they do not overlap.
    maps: BTreeMap<u64, Mapping>,
    stores: BTreeMap<u64, Store>,
    last_store: u64,
    /// Reserved ranges of the virtual-memory functions: address to length.
    reservations: BTreeMap<u64, u64>,
    /// Handles of physical memory that are not released: to store and number of references.
    handles: BTreeMap<AllocationHandle, Handle>,
    /// What was freed where; such addresses are not used again.
    graves: BTreeMap<u64, Grave>,
    /// Device bytes that are taken.
    pub(crate) used: u64,
}

/// Memory with bytes.
#[derive(Debug)]
pub(crate) struct Store {
    bytes: u64,
    /// How reports name it.
    name: String,
    /// `None` for host memory, in which every byte counts as written.
    written: Option<Written>,
    pub(crate) shadow: Shadow,
    /// Mappings and handles that keep it.
    references: u64,
    /// Where its bytes are in the file, for physical memory.
    pages: Option<u64>,
}

/// A range of a store at an address.
#[derive(Debug, Clone)]
pub(crate) struct Mapping {
    pub(crate) len: u64,
    pub(crate) store: u64,
    /// Of its first byte in the store.
    offset: u64,
    pub(crate) rights: Rights,
    pub(crate) origin: Origin,
    /// The last use through these addresses by each thread of work.
    uses: Vec<Use>,
    /// A free that is enqueued: whoever comes later uses it after that.
    pub(crate) freed: Option<Operation>,
}

/// What the device may do with mapped bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Rights {
    None,
    Read,
    Write,
}

/// How memory came to be, which says how it may go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Origin {
    /// `cuMemAlloc`.
    Plain,
    /// From a pool, by its handle.
    Pool(usize),
    /// `cuMemMap` of a handle.
    Physical(AllocationHandle),
    /// `cuMemHostAlloc`, with its flags.
    HostAlloc(u32),
    /// `cuMemHostRegister`, with its flags.
    Registered(u32),
}

impl Origin {
    pub(crate) fn is_host(self) -> bool {
        matches!(self, Origin::HostAlloc(_) | Origin::Registered(_))
    }
}

#[derive(Debug, Clone)]
struct Handle {
    store: u64,
    references: u64,
}

#[derive(Debug)]
struct Grave {
    len: u64,
    by: &'static str,
}

/// A piece of a range of addresses, in one mapping.
#[derive(Debug, Clone)]
pub(crate) struct Part {
    pub(crate) store: u64,
    /// In the store.
    pub(crate) range: Range<u64>,
    /// Address of the mapping it was found in.
    pub(crate) mapping: u64,
}

/// What a range of addresses is.
#[derive(Debug)]
pub(crate) enum Span {
    /// Device memory, or page-locked host memory; in the order of addresses.
    Known { parts: Vec<Part>, host: bool, rights: Rights },
    /// Nothing that the device knows.
    Unknown,
    /// Touches memory that the device knows, in a way that no call may; the text says which.
    Broken(String),
}

impl Memory {
    /// What lies at `at..at + len`; `len` is not 0. O(log mappings + mappings in the range).
    pub(crate) fn resolve(&self, at: u64, len: u64) -> Span {
        let Some(end) = at.checked_add(len) else {
            return Span::Broken("the range ends beyond the last address".into());
        };
        let (mut parts, mut hosts, mut rights) = (Vec::new(), 0, Rights::Write);
        let mut cursor = at;
        for (&start, mapping) in self.overlapping(at..end) {
            if start > cursor {
                return Span::Broken(self.describe(cursor));
            }
            let Mapping { store, offset, origin, .. } = *mapping;
            if let Some(by) = &mapping.freed {
                return Span::Broken(format!("{} was freed by {by}", self.name(store)));
            }
            let stop = (start + mapping.len).min(end);
            let from = offset + (cursor - start);
            parts.push(Part { store, range: from..from + (stop - cursor), mapping: start });
            hosts += usize::from(origin.is_host());
            rights = rights.min(mapping.rights);
            cursor = stop;
        }
        match hosts {
            _ if parts.is_empty() && !self.owns(at..end) => Span::Unknown,
            _ if cursor < end => Span::Broken(self.describe(cursor)),
            hosts if hosts != 0 && hosts != parts.len() => {
                Span::Broken("the range is partly device memory and partly host memory".into())
            }
            hosts => Span::Known { host: hosts != 0, parts, rights },
        }
    }

    pub(crate) fn mapping(&self, start: u64) -> Option<&Mapping> {
        self.maps.get(&start)
    }

    pub(crate) fn mapping_mut(&mut self, start: u64) -> Option<&mut Mapping> {
        self.maps.get_mut(&start)
    }

    /// The mapping that holds `at`, and its address.
    pub(crate) fn mapping_at(&self, at: u64) -> Option<(u64, &Mapping)> {
        let (&start, mapping) = self.maps.range(..=at).next_back()?;
        (at - start < mapping.len).then_some((start, mapping))
    }

    pub(crate) fn store_mut(&mut self, store: u64) -> Option<&mut Store> {
        self.stores.get_mut(&store)
    }

    /// How reports name a store.
    pub(crate) fn name(&self, store: u64) -> &str {
        self.stores.get(&store).map_or("memory that is gone", |store| &store.name)
    }

    pub(crate) fn mappings(&self) -> impl Iterator<Item = &Mapping> {
        self.maps.values()
    }

    /// Enters that work uses the mapping at `start`.
    pub(crate) fn enter_use(&mut self, start: u64, by: Use) {
        let Some(mapping) = self.maps.get_mut(&start) else { return };
        match mapping.uses.iter_mut().find(|earlier| earlier.slot == by.slot) {
            Some(earlier) => *earlier = by,
            None => mapping.uses.push(by),
        }
    }

    /// A use of the mappings in `range` that `clock` does not know to have ended.
    pub(crate) fn in_use(&self, range: Range<u64>, clock: &Clock) -> Option<Operation> {
        let mut uses = self.overlapping(range).flat_map(|(_, mapping)| &mapping.uses);
        uses.find(|used| !used.is_known_to(clock)).map(|used| used.operation)
    }

    /// Whether any of the addresses are from a window of ours.
    fn owns(&self, range: Range<u64>) -> bool {
        self.windows.iter().any(|window| window.range().start < range.end && range.start < window.range().end)
    }

    /// Why nothing may be used at `at`, which no mapping holds.
    pub(crate) fn describe(&self, at: u64) -> String {
        if let Some((_, grave)) =
            self.graves.range(..=at).next_back().filter(|(start, g)| at - **start < g.len)
        {
            return format!("address {at:#x} was freed by {}", grave.by);
        }
        if self.reservations.range(..=at).next_back().is_some_and(|(start, len)| at - start < *len) {
            return format!("address {at:#x} is reserved and not mapped");
        }
        match self.maps.range(..=at).next_back() {
            Some((start, mapping)) if at - start - mapping.len < space::GUARD => {
                let beyond = at - start - mapping.len;
                format!("{beyond} bytes beyond the end of {}", self.name(mapping.store))
            }
            _ => format!("nothing was allocated at address {at:#x}"),
        }
    }

    fn overlapping(&self, range: Range<u64>) -> impl Iterator<Item = (&u64, &Mapping)> {
        let first = match self.maps.range(..=range.start).next_back() {
            Some((&start, mapping)) if start + mapping.len > range.start => start,
            _ => range.start,
        };
        self.maps.range(first..range.end.max(first))
    }
}
