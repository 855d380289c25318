//! Where a program's storages are: told one by one, or blocks of a watched arena.

use std::collections::HashMap;
use std::ops::Range;

use allocator_core::{Arena, DeviceBuffer, Handle, RangeError, Request};
use mem_tracker::{Category, Device, StorageId, Tracker, Watch};

/// Keeps storages and tells a tracker.
pub(crate) trait Place {
    fn add(&mut self, id: u64, bytes: u64, told: Option<Category>) -> StorageId;
    fn remove(&mut self, id: u64, storage: StorageId);
}

/// The program tells the tracker itself.
pub(crate) struct Told(pub(crate) Tracker, pub(crate) Device);

impl Place for Told {
    fn add(&mut self, _: u64, bytes: u64, told: Option<Category>) -> StorageId {
        match told {
            Some(category) => self.1.add_as(bytes, category).unwrap(),
            None => self.1.add(bytes).unwrap(),
        }
    }

    fn remove(&mut self, _: u64, storage: StorageId) {
        self.0.remove(storage).unwrap();
    }
}

/// An arena whose observer tells the tracker. It is as large as it likes: there is no memory behind it.
pub(crate) struct InArena {
    tracker: Tracker,
    watch: Watch,
    arena: Arena<Nowhere>,
    blocks: HashMap<u64, Handle>,
}

impl InArena {
    pub(crate) fn new(tracker: &Tracker, device: &Device, grain: u64) -> Self {
        let watch = device.watch(SIZE).unwrap();
        let mut arena = Arena::new(Nowhere { grain }).unwrap();
        arena.set_observer(Box::new(watch.observer()));
        Self { tracker: tracker.clone(), watch, arena, blocks: HashMap::new() }
    }
}

impl Place for InArena {
    fn add(&mut self, id: u64, bytes: u64, told: Option<Category>) -> StorageId {
        let _telling = told.map(|category| self.tracker.category(category));
        let block = self.arena.allocate(Request::new(bytes)).unwrap();
        self.blocks.insert(id, block);
        self.watch.storage(block).unwrap()
    }

    fn remove(&mut self, id: u64, _: StorageId) {
        self.arena.release(self.blocks.remove(&id).unwrap()).unwrap();
    }
}

/// A buffer of a size and nothing else.
pub(crate) struct Nowhere {
    grain: u64,
}

impl DeviceBuffer for Nowhere {
    type View<'a> = ();
    type Error = RangeError;

    fn size(&self) -> u64 {
        SIZE
    }

    fn grain(&self) -> u64 {
        self.grain
    }

    fn copy_within(&mut self, _: Range<u64>, _: u64) -> Result<(), RangeError> {
        Ok(())
    }

    fn view(&self, _: Range<u64>) -> Result<(), RangeError> {
        Ok(())
    }
}

const SIZE: u64 = 1 << 40;
