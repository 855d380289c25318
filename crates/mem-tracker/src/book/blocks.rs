//! The live storages: a slab whose names outlive them.

use super::NONE;
use crate::usage::Bytes;
use crate::{Category, StorageId, TrackError};

/// A live storage.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Block {
    /// The clock when it was made; 0 when vacant.
    pub(crate) born: u64,
    /// The clock when its owner or size last changed.
    pub(crate) changed: u64,
    pub(crate) bytes: Bytes,
    pub(crate) device: u32,
    pub(crate) module: u32,
    pub(crate) label: u32,
    pub(crate) category: Category,
    /// Whether it is a block of a watched arena: then only what the arena tells ends or resizes it.
    pub(crate) watched: bool,
}

/// Every live storage.
#[derive(Debug, Default)]
pub(crate) struct Blocks {
    slots: Vec<Block>,
    vacant: Vec<u32>,
}

impl Blocks {
    /// Puts a block into a slot. `None` when there are no more numbers for slots.
    #[inline]
    pub(crate) fn put(&mut self, block: Block) -> Option<u32> {
        if let Some(slot) = self.vacant.pop() {
            self.slots[slot as usize] = block;
            return Some(slot);
        }
        let slot = u32::try_from(self.slots.len()).ok().filter(|slot| *slot != NONE)?;
        self.slots.push(block);
        Some(slot)
    }

    /// Empties the slot of a live block.
    #[inline]
    pub(crate) fn take(&mut self, slot: u32) -> Block {
        let block = self.slots[slot as usize];
        self.slots[slot as usize].born = 0;
        self.vacant.push(slot);
        block
    }

    /// The slot of a storage that is held.
    #[inline]
    pub(crate) fn find(&self, tracker: u32, storage: StorageId) -> Result<u32, TrackError> {
        if storage.tracker != tracker {
            return Err(TrackError::ForeignStorage { storage });
        }
        // A vacant slot was born at 0, and no storage was.
        match self.slots.get(storage.slot as usize) {
            Some(block) if block.born == storage.born => Ok(storage.slot),
            _ => Err(TrackError::StaleStorage { storage }),
        }
    }

    /// The slot of a storage that the program itself told of, and may end or resize.
    #[inline]
    pub(crate) fn find_own(&self, tracker: u32, storage: StorageId) -> Result<u32, TrackError> {
        let slot = self.find(tracker, storage)?;
        if self.get(slot).watched { Err(TrackError::InArena { storage }) } else { Ok(slot) }
    }

    /// Whether the storage in a slot is the one made then.
    #[inline]
    pub(crate) fn is(&self, slot: u32, born: u64) -> bool {
        self.slots.get(slot as usize).is_some_and(|block| block.born == born)
    }

    /// A live block by its slot.
    #[inline]
    pub(crate) fn get(&self, slot: u32) -> &Block {
        &self.slots[slot as usize]
    }

    #[inline]
    pub(crate) fn get_mut(&mut self, slot: u32) -> &mut Block {
        &mut self.slots[slot as usize]
    }

    /// Every live block with its slot.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (u32, &Block)> {
        self.slots
            .iter()
            .enumerate()
            .filter(|(_, block)| block.born > 0)
            .map(|(at, block)| (at as u32, block))
    }
}
