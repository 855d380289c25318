//! Arenas: from a block's handle to the storage that stands for it.

use allocator_core::{AllocatorId, Block as ArenaBlock, Handle};

use super::Book;
use super::tenants::{Tenant, Tenants};
use crate::place::Here;
use crate::usage::Bytes;
use crate::{TrackError, Warning};

/// One watched arena; for a while two, when one takes the place of another.
#[derive(Debug)]
pub(crate) struct WatchBook {
    pub(crate) device: u32,
    /// Bytes the arena spans.
    size: u64,
    /// Whether it is taken as there, and in its device's figures: until its last observer has gone.
    counted: bool,
    /// Observers that live.
    ears: Vec<Ear>,
    /// Blocks by allocator. Nearly always one, so a list is quickest.
    tables: Vec<Tenants>,
}

/// An observer.
#[derive(Debug)]
struct Ear {
    number: u64,
    /// The allocators whose blocks it hears of: one, unless two arenas share it.
    hears: Vec<AllocatorId>,
}

impl WatchBook {
    fn new(device: u32, size: u64) -> Self {
        Self { device, size, counted: true, ears: Vec::new(), tables: Vec::new() }
    }

    #[inline]
    fn find(&self, handle: Handle) -> Option<&Tenant> {
        self.tables.iter().find(|table| table.allocator == handle.allocator())?.find(handle)
    }

    #[inline]
    fn take(&mut self, handle: Handle) -> Option<Tenant> {
        self.tables.iter_mut().find(|table| table.allocator == handle.allocator())?.take(handle)
    }

    #[inline]
    fn put(&mut self, tenant: Tenant) -> Option<Tenant> {
        let allocator = tenant.handle.allocator();
        if let Some(table) = self.tables.iter_mut().find(|table| table.allocator == allocator) {
            return table.put(tenant);
        }
        let mut table = Tenants::new(allocator);
        table.put(tenant);
        self.tables.push(table);
        None
    }

    /// Forgets an observer. The tables of the arenas that it alone heard: those are gone; with the last one all are.
    fn deafen(&mut self, ear: u64) -> Vec<Tenants> {
        let Some(at) = self.ears.iter().position(|other| other.number == ear) else { return Vec::new() };
        let gone = self.ears.swap_remove(at);
        if self.ears.is_empty() {
            return std::mem::take(&mut self.tables);
        }
        let heard = |allocator: &AllocatorId| self.ears.iter().any(|ear| ear.hears.contains(allocator));
        let lost: Vec<AllocatorId> = gone.hears.into_iter().filter(|allocator| !heard(allocator)).collect();
        self.tables.extract_if(.., |table| lost.contains(&table.allocator)).collect()
    }
}

impl Book {
    /// A block was allocated.
    #[inline]
    pub(crate) fn on_alloc(&mut self, at: u32, block: &ArenaBlock, here: Here) {
        if self.block(at, block.handle).is_some() {
            return self.told_twice(at, block.handle);
        }
        let device = self.watches[at as usize].device;
        let Ok(slot) = self.add(device, bytes_of(block), here) else {
            return self.not_counted(device, bytes_of(block).allocated);
        };
        let storage = self.blocks.get_mut(slot);
        storage.watched = true;
        let tenant = Tenant { handle: block.handle, slot, born: storage.born };
        if let Some(before) = self.watches[at as usize].put(tenant) {
            self.release_missed(at, before);
        }
    }

    /// A block was released.
    #[inline]
    pub(crate) fn on_free(&mut self, watch: u32, block: &ArenaBlock) {
        match self.watches[watch as usize].take(block.handle) {
            Some(tenant) if self.blocks.is(tenant.slot, tenant.born) => {
                self.remove(tenant.slot);
            }
            _ => self.unknown(watch, block.handle),
        }
    }

    /// A block became longer or shorter.
    pub(crate) fn on_resize(&mut self, watch: u32, after: &ArenaBlock) {
        match self.block(watch, after.handle) {
            Some(slot) => {
                if self.resize(slot, bytes_of(after)).is_err() {
                    // It is not what it was: it leaves the figures rather than staying at a size that it has no more.
                    self.watches[watch as usize].take(after.handle);
                    let device = self.remove(slot).device;
                    self.not_counted(device, bytes_of(after).allocated);
                }
            }
            None => self.unknown(watch, after.handle),
        }
    }

    /// The slot of the storage that stands for a block.
    #[inline]
    pub(crate) fn block(&self, watch: u32, handle: Handle) -> Option<u32> {
        let tenant = self.watches[watch as usize].find(handle);
        tenant.filter(|tenant| self.blocks.is(tenant.slot, tenant.born)).map(|tenant| tenant.slot)
    }

    /// An arena is watched from now on.
    pub(crate) fn watch(&mut self, device: u32, size: u64) -> Result<u32, TrackError> {
        let vacant = self.vacant_watches.pop();
        let at = vacant.map_or_else(|| super::next_number(self.watches.len(), "arenas"), Ok)?;
        let counts = &mut self.devices[device as usize].counts;
        if !counts.segment_came(size) {
            self.vacant_watches.extend(vacant);
            return Err(self.more_reserved(device, size));
        }
        let watch = WatchBook::new(device, size);
        match self.watches.get_mut(at as usize) {
            Some(place) => *place = watch,
            None => self.watches.push(watch),
        }
        Ok(at)
    }

    /// Nobody names a watch any more: its number may be another's.
    pub(crate) fn unwatch(&mut self, at: u32) {
        let watch = &mut self.watches[at as usize];
        let tables = std::mem::take(&mut watch.tables);
        self.end(tables);
        self.uncount(at);
        self.vacant_watches.push(at);
    }

    /// A watched arena is longer or shorter.
    pub(crate) fn set_size(&mut self, watch: u32, size: u64) -> Result<(), TrackError> {
        let WatchBook { device, size: before, counted, .. } = self.watches[watch as usize];
        if counted && !self.devices[device as usize].counts.reserve_instead(before, size) {
            return Err(self.more_reserved(device, size.saturating_sub(before)));
        }
        self.watches[watch as usize].size = size;
        Ok(())
    }

    /// One more observer of an arena, which hears nobody yet; its number.
    pub(crate) fn listen(&mut self, watch: u32) -> u64 {
        let number = self.next_guard();
        let WatchBook { device, size, ref mut counted, ref mut ears, .. } = self.watches[watch as usize];
        ears.push(Ear { number, hears: Vec::new() });
        if !*counted {
            *counted = self.devices[device as usize].counts.segment_came(size);
            if !*counted {
                self.not_counted(device, size);
            }
        }
        number
    }

    /// An observer hears of an allocator's blocks; `handle` is the first of them if it has heard one.
    #[cold]
    pub(crate) fn hears(&mut self, watch: u32, ear: u64, allocator: AllocatorId, handle: Option<Handle>) {
        let device = self.watched_device(watch);
        let mut ears = self.watches[watch as usize].ears.iter_mut();
        let Some(ear) = ears.find(|other| other.number == ear) else { return };
        if ear.hears.contains(&allocator) {
            return;
        }
        ear.hears.push(allocator);
        if let (true, Some(handle)) = (ear.hears.len() > 1, handle) {
            self.warnings.note(Warning::SharedObserver { device, handle });
        }
    }

    /// One observer less. An arena that nobody hears any more is taken as gone, and its blocks with it. O(blocks).
    pub(crate) fn unlisten(&mut self, at: u32, ear: u64) {
        let watch = &mut self.watches[at as usize];
        let tables = watch.deafen(ear);
        let last = watch.ears.is_empty();
        self.end(tables);
        if last {
            self.uncount(at);
        }
    }

    /// Ends the storages of blocks whose arena is gone.
    fn end(&mut self, tables: Vec<Tenants>) {
        for Tenant { slot, born, .. } in tables.into_iter().flat_map(Tenants::into_iter) {
            if self.blocks.is(slot, born) {
                self.remove(slot);
            }
        }
    }

    fn uncount(&mut self, at: u32) {
        let watch = &mut self.watches[at as usize];
        if std::mem::take(&mut watch.counted) {
            self.devices[watch.device as usize].counts.segment_went(watch.size);
        }
    }

    /// Forgets every block; the arenas are still there.
    pub(super) fn forget_blocks(&mut self) {
        for watch in &mut self.watches {
            watch.tables = Vec::new();
            // It fitted before.
            watch.counted =
                watch.counted && self.devices[watch.device as usize].counts.segment_came(watch.size);
        }
    }

    #[cold]
    fn unknown(&mut self, watch: u32, handle: Handle) {
        let device = self.watched_device(watch);
        self.warnings.note(Warning::UnknownBlock { device, handle });
    }

    #[cold]
    fn told_twice(&mut self, watch: u32, handle: Handle) {
        let device = self.watched_device(watch);
        self.warnings.note(Warning::ToldTwice { device, handle });
    }

    /// A block's number has another tenant, so the block is gone.
    #[cold]
    fn release_missed(&mut self, watch: u32, before: Tenant) {
        if self.blocks.is(before.slot, before.born) {
            self.remove(before.slot);
            let device = self.watched_device(watch);
            self.warnings.note(Warning::ReleaseMissed { device, handle: before.handle });
        }
    }

    #[cold]
    fn not_counted(&mut self, device: u32, bytes: u64) {
        let device = self.devices[device as usize].name.to_string();
        self.warnings.note(Warning::Overflow { device, bytes });
    }

    #[cold]
    fn more_reserved(&self, device: u32, bytes: u64) -> TrackError {
        let device = &self.devices[device as usize];
        let held = device.counts.reserved.stat().current;
        TrackError::Overflow { device: device.name.to_string(), bytes, held }
    }

    pub(crate) fn watched_device(&self, watch: u32) -> String {
        self.devices[self.watches[watch as usize].device as usize].name.to_string()
    }
}

#[inline]
fn bytes_of(block: &ArenaBlock) -> Bytes {
    Bytes { allocated: block.range.end - block.range.start, requested: block.requested }
}

#[cfg(test)]
mod tests {
    use allocator_core::{OffsetAllocator, Request};

    use super::*;
    use crate::book::NONE;
    use crate::{Category, Peaks};

    /// A storage that went without its arena's word is not taken a second time: its slot is somebody else's by then.
    #[test]
    fn a_slot_alone_names_nobody() -> Result<(), Box<dyn std::error::Error>> {
        for way in 0..3 {
            let mut book = Book::new(0, Peaks::EveryEvent);
            let device = book.device("cuda:0", None)?;
            let watch = book.watch(device, 4096)?;
            let ear = book.listen(watch);
            let mut offsets = OffsetAllocator::new(4096)?;
            let handle = offsets.allocate(Request::new(1000))?;
            let (block, here) = (offsets.block(handle)?, Here { module: NONE, category: Category::Temp });
            book.on_alloc(watch, &block, here);
            let slot = book.block(watch, handle).ok_or("not counted")?;
            book.remove(slot);
            assert_eq!(book.add(device, Bytes { allocated: 7, requested: 7 }, here), Ok(slot));
            assert_eq!(book.block(watch, handle), None);
            match way {
                0 => book.on_free(watch, &block),
                1 => book.on_resize(watch, &block),
                _ => book.unlisten(watch, ear),
            }
            assert_eq!(book.devices[0].now.total(), 7, "way {way}");
        }
        Ok(())
    }

    /// Arenas that come and go leave no number and no table behind.
    #[test]
    fn numbers_of_watches_are_used_again() -> Result<(), Box<dyn std::error::Error>> {
        let mut book = Book::new(0, Peaks::EveryEvent);
        let device = book.device("cuda:0", None)?;
        for _ in 0..10 {
            let watch = book.watch(device, 4096)?;
            let ear = book.listen(watch);
            let mut offsets = OffsetAllocator::new(4096)?;
            let handle = offsets.allocate(Request::new(1000))?;
            book.on_alloc(watch, &offsets.block(handle)?, Here { module: NONE, category: Category::Temp });
            book.unlisten(watch, ear);
            assert!(book.watches[watch as usize].tables.is_empty());
            book.unwatch(watch);
        }
        assert_eq!((book.watches.len(), book.vacant_watches.len()), (1, 1));
        Ok(())
    }
}
