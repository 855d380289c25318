//! Arenas: from a block's handle to the storage that stands for it.

use std::collections::HashMap;

use allocator_core::{Block as ArenaBlock, Handle};

use super::Book;
use crate::place::Here;
use crate::usage::Bytes;
use crate::{TrackError, Warning};

/// One watched arena.
#[derive(Debug)]
pub(crate) struct WatchBook {
    pub(crate) device: u32,
    /// Bytes the arena spans.
    pub(crate) size: u64,
    /// Observers of it that live.
    observers: u32,
    /// Whether it had an observer and has none any more: then it is taken as gone, and not counted.
    pub(crate) gone: bool,
    /// Slot of the storage of the block with each number.
    slots: Vec<Option<Tenant>>,
    /// Blocks whose number another live block has: only where two arenas share an observer.
    crowd: HashMap<Handle, Tenant>,
}

/// A block of a watched arena, and the storage that stands for it.
#[derive(Debug, Clone, Copy)]
struct Tenant {
    handle: Handle,
    slot: u32,
    /// When the storage was made. A slot alone could be somebody else's by now.
    born: u64,
}

impl WatchBook {
    pub(crate) fn new(device: u32, size: u64) -> Self {
        Self { device, size, observers: 0, gone: false, slots: Vec::new(), crowd: HashMap::new() }
    }

    #[inline]
    fn find(&self, handle: Handle) -> Option<&Tenant> {
        match self.slots.get(handle.index()) {
            Some(Some(tenant)) if tenant.handle == handle => Some(tenant),
            _ if self.crowd.is_empty() => None,
            _ => self.crowd.get(&handle),
        }
    }

    #[inline]
    fn take(&mut self, handle: Handle) -> Option<Tenant> {
        match self.slots.get_mut(handle.index()) {
            Some(tenant) if tenant.is_some_and(|tenant| tenant.handle == handle) => tenant.take(),
            _ => self.crowd.remove(&handle),
        }
    }

    /// Forgets every block.
    pub(crate) fn forget(&mut self) {
        self.slots.clear();
        self.crowd.clear();
    }

    fn drain(&mut self) -> Vec<Tenant> {
        self.slots.drain(..).flatten().chain(self.crowd.drain().map(|(_, tenant)| tenant)).collect()
    }
}

impl Book {
    /// A block was allocated.
    #[inline]
    pub(crate) fn on_alloc(&mut self, at: u32, block: &ArenaBlock, here: Here) {
        let watch = &self.watches[at as usize];
        let (device, index) = (watch.device, block.handle.index());
        let vacant = watch.slots.get(index).is_none_or(Option::is_none);
        if !vacant && self.block(at, block.handle).is_some() {
            return self.shared_observer(at, block.handle);
        }
        let Ok(slot) = self.add(device, bytes_of(block), here) else {
            return self.not_counted(device, block);
        };
        let storage = self.blocks.get_mut(slot);
        storage.watched = true;
        let tenant = Tenant { handle: block.handle, slot, born: storage.born };
        let watch = &mut self.watches[at as usize];
        match watch.slots.get_mut(index) {
            Some(place) if vacant => *place = Some(tenant),
            None => {
                watch.slots.resize(index + 1, None);
                watch.slots[index] = Some(tenant);
            }
            Some(_) => {
                watch.crowd.insert(block.handle, tenant);
                self.shared_observer(at, block.handle);
            }
        }
    }

    /// A block was released.
    #[inline]
    pub(crate) fn on_free(&mut self, watch: u32, block: &ArenaBlock) {
        let tenant = self.watches[watch as usize].take(block.handle);
        match tenant.filter(|tenant| self.blocks.is(tenant.slot, tenant.born)) {
            Some(tenant) => {
                self.remove(tenant.slot);
            }
            None => self.unknown(watch, block.handle),
        }
    }

    /// The slot of the storage that stands for a block.
    #[inline]
    pub(crate) fn block(&self, watch: u32, handle: Handle) -> Option<u32> {
        let tenant = self.watches[watch as usize].find(handle);
        tenant.filter(|tenant| self.blocks.is(tenant.slot, tenant.born)).map(|tenant| tenant.slot)
    }

    /// A block became longer or shorter.
    pub(crate) fn on_resize(&mut self, watch: u32, after: &ArenaBlock) {
        match self.block(watch, after.handle) {
            Some(slot) => {
                if self.resize(slot, bytes_of(after)).is_err() {
                    // It is not what it was: it leaves the figures rather than staying at a size that it has no more.
                    self.watches[watch as usize].take(after.handle);
                    let device = self.remove(slot).device;
                    self.not_counted(device, after);
                }
            }
            None => self.unknown(watch, after.handle),
        }
    }

    /// An arena is watched from now on.
    pub(crate) fn watch(&mut self, device: u32, size: u64) -> Result<u32, TrackError> {
        let at = super::next_number(self.watches.len(), "arenas")?;
        self.watches.push(WatchBook::new(device, size));
        self.devices[device as usize].counts.segment_came(size);
        Ok(at)
    }

    /// A watched arena is longer or shorter.
    pub(crate) fn set_size(&mut self, watch: u32, size: u64) {
        let watch = &mut self.watches[watch as usize];
        if !watch.gone {
            let reserved = &mut self.devices[watch.device as usize].counts.reserved;
            reserved.down(watch.size.saturating_sub(size));
            reserved.up(size.saturating_sub(watch.size));
        }
        watch.size = size;
    }

    /// One more observer of an arena.
    pub(crate) fn listen(&mut self, watch: u32) {
        let watch = &mut self.watches[watch as usize];
        watch.observers += 1;
        if std::mem::replace(&mut watch.gone, false) {
            self.devices[watch.device as usize].counts.segment_came(watch.size);
        }
    }

    /// One observer less. With the last one the arena is taken as gone, and its blocks with it. O(blocks).
    pub(crate) fn unlisten(&mut self, watch: u32) {
        let watch = &mut self.watches[watch as usize];
        watch.observers -= 1;
        if watch.observers > 0 {
            return;
        }
        watch.gone = true;
        let counts = &mut self.devices[watch.device as usize].counts;
        counts.segments.down(1);
        counts.reserved.down(watch.size);
        for Tenant { slot, born, .. } in watch.drain() {
            if self.blocks.is(slot, born) {
                self.remove(slot);
            }
        }
    }

    #[cold]
    fn unknown(&mut self, watch: u32, handle: Handle) {
        let device = self.watched_device(watch);
        self.warnings.note(Warning::UnknownBlock { device, handle });
    }

    #[cold]
    fn shared_observer(&mut self, watch: u32, handle: Handle) {
        let device = self.watched_device(watch);
        self.warnings.note(Warning::SharedObserver { device, handle });
    }

    #[cold]
    fn not_counted(&mut self, device: u32, block: &ArenaBlock) {
        let device = self.devices[device as usize].name.to_string();
        self.warnings.note(Warning::Overflow { device, bytes: bytes_of(block).allocated });
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
            book.listen(watch);
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
                _ => book.unlisten(watch),
            }
            assert_eq!(book.devices[0].now.total(), 7, "way {way}");
        }
        Ok(())
    }
}
