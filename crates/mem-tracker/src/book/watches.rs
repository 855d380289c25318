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
    slots: Vec<Option<(Handle, u32)>>,
    /// Blocks whose number another live block has: only where two arenas share an observer.
    crowd: HashMap<Handle, u32>,
}

impl WatchBook {
    pub(crate) fn new(device: u32, size: u64) -> Self {
        Self { device, size, observers: 0, gone: false, slots: Vec::new(), crowd: HashMap::new() }
    }

    /// The slot of a block's storage.
    #[inline]
    pub(crate) fn find(&self, handle: Handle) -> Option<u32> {
        match self.slots.get(handle.index()) {
            Some(Some((held, slot))) if *held == handle => Some(*slot),
            _ if self.crowd.is_empty() => None,
            _ => self.crowd.get(&handle).copied(),
        }
    }

    #[inline]
    fn take(&mut self, handle: Handle) -> Option<u32> {
        match self.slots.get_mut(handle.index()) {
            Some(held) if held.is_some_and(|(held, _)| held == handle) => held.take().map(|(_, slot)| slot),
            _ => self.crowd.remove(&handle),
        }
    }

    /// Forgets every block and returns their slots.
    pub(crate) fn drain(&mut self) -> Vec<u32> {
        let slots = self.slots.drain(..).flatten().map(|(_, slot)| slot);
        slots.chain(self.crowd.drain().map(|(_, slot)| slot)).collect()
    }
}

impl Book {
    /// A block was allocated.
    #[inline]
    pub(crate) fn on_alloc(&mut self, at: u32, block: &ArenaBlock, here: Here) {
        let watch = &self.watches[at as usize];
        let (device, index) = (watch.device, block.handle.index());
        let vacant = watch.slots.get(index).is_none_or(Option::is_none);
        if !vacant && watch.find(block.handle).is_some() {
            return self.shared_observer(at, block.handle);
        }
        let Ok(slot) = self.add(device, bytes_of(block), here) else {
            return self.not_counted(device, block);
        };
        let watch = &mut self.watches[at as usize];
        match watch.slots.get_mut(index) {
            Some(place) if vacant => *place = Some((block.handle, slot)),
            None => {
                watch.slots.resize(index + 1, None);
                watch.slots[index] = Some((block.handle, slot));
            }
            Some(_) => {
                watch.crowd.insert(block.handle, slot);
                self.shared_observer(at, block.handle);
            }
        }
    }

    /// A block was released.
    #[inline]
    pub(crate) fn on_free(&mut self, watch: u32, block: &ArenaBlock) {
        match self.watches[watch as usize].take(block.handle) {
            Some(slot) => {
                self.remove(slot);
            }
            None => self.unknown(watch, block.handle),
        }
    }

    /// A block became longer or shorter.
    pub(crate) fn on_resize(&mut self, watch: u32, after: &ArenaBlock) {
        match self.watches[watch as usize].find(after.handle) {
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
        for slot in watch.drain() {
            self.remove(slot);
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
