//! The blocks of one allocator, and the storages that stand for them.

use allocator_core::{AllocatorId, Handle};

/// A block of a watched arena, and the storage that stands for it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Tenant {
    pub(super) handle: Handle,
    pub(super) slot: u32,
    /// When the storage was made. A slot alone could be somebody else's by now.
    pub(super) born: u64,
}

/// The blocks of one allocator by number.
#[derive(Debug)]
pub(super) struct Tenants {
    pub(super) allocator: AllocatorId,
    by_number: Vec<Option<Tenant>>,
}

impl Tenants {
    pub(super) fn new(allocator: AllocatorId) -> Self {
        Self { allocator, by_number: Vec::new() }
    }

    #[inline]
    pub(super) fn find(&self, handle: Handle) -> Option<&Tenant> {
        self.by_number.get(handle.index())?.as_ref().filter(|tenant| tenant.handle == handle)
    }

    #[inline]
    pub(super) fn take(&mut self, handle: Handle) -> Option<Tenant> {
        self.by_number.get_mut(handle.index())?.take_if(|tenant| tenant.handle == handle)
    }

    /// Puts a block under its number; the one that had it.
    #[inline]
    pub(super) fn put(&mut self, tenant: Tenant) -> Option<Tenant> {
        let index = tenant.handle.index();
        if let Some(place) = self.by_number.get_mut(index) {
            return place.replace(tenant);
        }
        self.by_number.resize(index + 1, None);
        self.by_number[index] = Some(tenant);
        None
    }

    pub(super) fn into_iter(self) -> impl Iterator<Item = Tenant> {
        self.by_number.into_iter().flatten()
    }
}
