//! Parameters: names for parts of blocks that follow every move.

use alloc::vec::Vec;
use core::fmt;
use core::ops::Range;

use crate::{AllocError, Handle};

/// The name of a block, or part of one, assigned to a parameter of the caller's.
///
/// Ask the arena where it is ([`Arena::param`](crate::Arena::param)) each time: the answer follows the
/// block. Once unassigned, or once its block is released, it is an error for ever.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ParamId {
    index: u32,
    generation: u32,
    owner: u32,
}

impl fmt::Debug for ParamId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ParamId({self})")
    }
}

impl fmt::Display for ParamId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}@{}", self.index, self.generation, self.owner)
    }
}

/// No parameter.
const NIL: u32 = u32::MAX;

/// Every parameter of an arena: a slab, with one doubly linked list per block.
#[derive(Default)]
pub(crate) struct Params {
    entries: Vec<Entry>,
    /// First parameter of the block in each slot of the allocator; shorter than the slots when the blocks
    /// above have none.
    heads: Vec<u32>,
    vacant: Vec<u32>,
}

struct Entry {
    /// The block and the part of it, or `None` when vacant.
    part: Option<(Handle, Range<u64>)>,
    generation: u32,
    prev: u32,
    next: u32,
}

impl Params {
    /// Names `part` of a live block of the allocator `owner`.
    pub(crate) fn assign(&mut self, handle: Handle, part: Range<u64>) -> Result<ParamId, AllocError> {
        let index = match self.vacant.pop() {
            Some(index) => index,
            None if self.entries.len() as u64 >= u64::from(NIL) => {
                return Err(AllocError::TooManyBlocks { limit: NIL });
            }
            None => {
                self.entries.push(Entry { part: None, generation: 0, prev: NIL, next: NIL });
                (self.entries.len() - 1) as u32
            }
        };
        if self.heads.len() <= handle.index() {
            self.heads.resize(handle.index() + 1, NIL);
        }
        let next = core::mem::replace(&mut self.heads[handle.index()], index);
        if let Some(next) = self.entries.get_mut(next as usize) {
            next.prev = index;
        }
        let entry = &mut self.entries[index as usize];
        entry.part = Some((handle, part));
        (entry.prev, entry.next) = (NIL, next);
        Ok(ParamId { index, generation: entry.generation, owner: handle.owner() })
    }

    /// The block and the part a parameter names.
    pub(crate) fn part(&self, param: ParamId) -> Result<(Handle, Range<u64>), AllocError> {
        let entry = self.entries.get(param.index as usize);
        let entry = entry.filter(|entry| entry.generation == param.generation);
        let part = entry.and_then(|entry| entry.part.clone());
        part.filter(|(handle, _)| handle.owner() == param.owner).ok_or(AllocError::StaleParam { param })
    }

    /// Forgets one parameter.
    pub(crate) fn unassign(&mut self, param: ParamId) -> Result<(), AllocError> {
        let (handle, _) = self.part(param)?;
        let Entry { prev, next, .. } = self.entries[param.index as usize];
        match self.entries.get_mut(prev as usize) {
            Some(prev) => prev.next = next,
            None => self.heads[handle.index()] = next,
        }
        if let Some(next) = self.entries.get_mut(next as usize) {
            next.prev = prev;
        }
        self.vacate(param.index);
        Ok(())
    }

    /// Forgets every parameter of the block in a slot.
    pub(crate) fn release(&mut self, handle: Handle) {
        let Some(head) = self.heads.get_mut(handle.index()) else { return };
        let mut index = core::mem::replace(head, NIL);
        while let Some(entry) = self.entries.get(index as usize) {
            let next = entry.next;
            self.vacate(index);
            index = next;
        }
    }

    /// The parameters of the block in a slot, the latest first.
    pub(crate) fn of(&self, handle: Handle) -> impl Iterator<Item = ParamId> {
        let mut index = self.heads.get(handle.index()).copied().unwrap_or(NIL);
        core::iter::from_fn(move || {
            let entry = self.entries.get(index as usize)?;
            let param = ParamId { index, generation: entry.generation, owner: handle.owner() };
            index = entry.next;
            Some(param)
        })
    }

    /// Empties an entry; one whose generations are used up is not used again.
    fn vacate(&mut self, index: u32) {
        let entry = &mut self.entries[index as usize];
        entry.part = None;
        entry.generation = entry.generation.wrapping_add(1);
        if entry.generation != 0 {
            self.vacant.push(index);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nodes::FIRST_BLOCK;

    #[test]
    fn lists_hold_together_in_any_order_of_removal() {
        let blocks = [Handle::new(FIRST_BLOCK, 0, 9), Handle::new(FIRST_BLOCK + 10, 1, 9)];
        for removal in 0..6 {
            let mut params = Params::default();
            let mut ids: Vec<_> = (0..3).map(|at| params.assign(blocks[1], at..4).unwrap()).collect();
            let other = params.assign(blocks[0], 0..1).unwrap();
            ids.swap(0, removal % 3);
            ids.swap(1, 1 + removal / 3);
            while let Some(gone) = ids.pop() {
                params.unassign(gone).unwrap();
                assert_eq!(params.unassign(gone), Err(AllocError::StaleParam { param: gone }));
                let mut left: Vec<_> = params.of(blocks[1]).collect();
                left.sort();
                let mut expected = ids.clone();
                expected.sort();
                assert_eq!(left, expected);
            }
            assert_eq!(params.part(other), Ok((blocks[0], 0..1)));
            params.release(blocks[0]);
            assert_eq!(params.part(other), Err(AllocError::StaleParam { param: other }));
        }
    }

    #[test]
    fn an_entry_with_no_generation_left_is_retired() {
        let mut params = Params::default();
        let block = Handle::new(FIRST_BLOCK, 0, 0);
        let first = params.assign(block, 0..1).unwrap();
        params.entries[0].generation = u32::MAX;
        let last = ParamId { generation: u32::MAX, ..first };
        params.unassign(last).unwrap();
        let next = params.assign(block, 0..1).unwrap();
        assert_eq!(next.index, 1);
        assert_eq!(params.part(first), Err(AllocError::StaleParam { param: first }));
    }
}
