//! Events: a storage comes, goes, changes its size or its category. Each is O(1).

use std::sync::Arc;

use super::{Block, Blocks, Book, DeviceBook, NONE};
use crate::place::Here;
use crate::usage::Bytes;
use crate::warning::Warnings;
use crate::{Category, Peaks, StorageId, TrackError};

impl Book {
    /// A storage comes.
    #[inline]
    pub(crate) fn add(&mut self, at: u32, bytes: Bytes, here: Here) -> Result<u32, TrackError> {
        let Here { module, category } = here;
        let device = &mut self.devices[at as usize];
        if !device.now.add(category, bytes) {
            return Err(self.overflow(at, bytes.allocated));
        }
        self.clock += 1;
        let born = self.clock;
        let block =
            Block { born, changed: born, bytes, device: at, module, label: NONE, category, watched: false };
        let Some(slot) = self.blocks.put(block) else {
            device.now.sub(category, bytes);
            return Err(TrackError::TooMany { what: "storages", limit: u64::from(NONE) });
        };
        device.counts.came(bytes);
        if self.peaks == Peaks::EveryEvent {
            device.look(Peaks::EveryEvent, born);
            self.levels.look(at as usize, &device.now, born);
        }
        Ok(slot)
    }

    /// The storage of a slot goes; what it was.
    #[inline]
    pub(crate) fn remove(&mut self, slot: u32) -> Block {
        self.clock += 1;
        let block = self.blocks.take(slot);
        let device = &mut self.devices[block.device as usize];
        device.keep_as_it_was(slot, &block);
        device.now.sub(block.category, block.bytes);
        device.counts.went(block.bytes);
        block
    }

    /// The storage of a slot becomes longer or shorter.
    pub(crate) fn resize(&mut self, slot: u32, bytes: Bytes) -> Result<(), TrackError> {
        let block = *self.blocks.get(slot);
        let device = &mut self.devices[block.device as usize];
        device.now.sub(block.category, block.bytes);
        if !device.now.add(block.category, bytes) {
            device.now.add(block.category, block.bytes);
            return Err(self.overflow(block.device, bytes.allocated));
        }
        self.clock += 1;
        device.keep_as_it_was(slot, &block);
        device.counts.went(block.bytes);
        device.counts.came(bytes);
        let clock = self.clock;
        let block = self.blocks.get_mut(slot);
        (block.bytes, block.changed) = (bytes, clock);
        let device = block.device;
        self.look(device);
        Ok(())
    }

    /// The storage of a slot is held for something else.
    #[inline]
    pub(crate) fn retag(&mut self, slot: u32, category: Category) {
        let Block { module, label, .. } = *self.blocks.get(slot);
        self.assign(slot, Here { module, category }, label);
    }

    /// The storage of a slot is somebody's from now on.
    #[inline]
    pub(crate) fn assign(&mut self, slot: u32, here: Here, label: u32) {
        let Here { module, category } = here;
        let block = *self.blocks.get(slot);
        if (block.module, block.label, block.category) == (module, label, category) {
            return;
        }
        self.clock += 1;
        let device = &mut self.devices[block.device as usize];
        device.keep_as_it_was(slot, &block);
        device.now.sub(block.category, block.bytes);
        // It held as much before.
        device.now.add(category, block.bytes);
        let changed = self.clock;
        *self.blocks.get_mut(slot) = Block { changed, module, label, category, ..block };
        self.look(block.device);
    }

    /// The name of the storage in a slot.
    #[inline]
    pub(crate) fn id(&self, slot: u32) -> StorageId {
        StorageId { tracker: self.number, slot, born: self.blocks.get(slot).born }
    }

    /// An operation ended: looks at every device. O(devices).
    pub(crate) fn operation(&mut self) {
        for (at, device) in self.devices.iter_mut().enumerate() {
            device.look(Peaks::AtOperations, self.clock);
            self.levels.look(at, &device.now, self.clock);
        }
    }

    /// A block of a watched arena moved.
    pub(crate) fn on_move(&mut self, watch: u32, bytes: u64) {
        let device = self.watches[watch as usize].device;
        let counts = &mut self.devices[device as usize].counts;
        counts.moves = counts.moves.saturating_add(1);
        counts.moved_bytes = counts.moved_bytes.saturating_add(bytes);
    }

    /// Forgets everything but devices, modules' names and watched arenas. O(everything).
    pub(crate) fn reset(&mut self) {
        self.reset_modules();
        self.modules.iter_mut().for_each(super::Record::give_back);
        // Names of storages stay errors: no later one is born when an earlier one was.
        self.blocks = Blocks::default();
        self.warnings = Warnings::default();
        for device in &mut self.devices {
            *device = DeviceBook::new(Arc::clone(&device.name), device.rounding);
        }
        self.forget_blocks();
    }

    /// What is held now is the peak.
    pub(crate) fn reset_peak(&mut self) {
        self.devices.iter_mut().for_each(|device| device.set_peak(self.clock));
    }

    /// Looks whether a device holds more than ever.
    #[inline]
    fn look(&mut self, device: u32) {
        if self.peaks == Peaks::EveryEvent {
            let at = device as usize;
            self.devices[at].look(Peaks::EveryEvent, self.clock);
            self.levels.look(at, &self.devices[at].now, self.clock);
        }
    }

    #[cold]
    fn overflow(&self, device: u32, bytes: u64) -> TrackError {
        let device = &self.devices[device as usize];
        TrackError::Overflow { device: device.name.to_string(), bytes, held: device.now.total() }
    }
}
