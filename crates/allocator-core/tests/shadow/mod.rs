//! A second allocator that is too simple to be wrong, run beside the real one.
//!
//! Two oracles: the intervals of a `BTreeMap`, and payload tags in the buffer (bookkeeping can be
//! consistent while two blocks share bytes). Neither sees how good a placement or a plan is.

//!
//! `shadow_model.rs` and `soak.rs` run it, and the fuzz targets of the repository's `fuzz/`.

mod moves;
mod op;
mod subject;

use std::collections::BTreeMap;
use std::ops::Range;

use allocator_core::{
    AllocError, Compaction, Handle, Move, OffsetAllocator, ParamId, Placement, Plan, Request,
};

pub(crate) use op::Op;
use subject::Subject;

/// One kind of arena or allocator to test.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Config {
    pub(crate) size: u64,
    pub(crate) grain: u64,
    pub(crate) compaction: Compaction,
    /// The largest alignment asked for.
    pub(crate) most_align_log2: u8,
    /// Sizes asked for are below this many bytes.
    pub(crate) most_size: u64,
}

#[derive(Debug, Clone)]
struct Known {
    handle: Handle,
    end: u64,
    requested: u64,
    align: u64,
    leases: u32,
    tag: u64,
}

/// The subject and the model.
pub(crate) struct Shadow<P: Placement> {
    subject: Subject<P>,
    config: Config,
    /// Length of the whole range; changes where it can.
    size: u64,
    /// By offset.
    blocks: BTreeMap<u64, Known>,
    /// By handle: where it is.
    places: BTreeMap<Handle, u64>,
    live: Vec<Handle>,
    freed: Vec<Handle>,
    params: Vec<(ParamId, Handle, Range<u64>)>,
    tags: u64,
    high_water: u64,
    plan: Plan,
}

impl<P: Placement> Shadow<P> {
    /// Beside an arena.
    pub(crate) fn arena(config: Config, placement: P) -> Self {
        Self::over(Subject::arena(config, placement), config)
    }

    /// Beside an allocator alone: with other lengths of blocks and of the whole, without parameters.
    pub(crate) fn bare(config: Config, placement: P) -> Self {
        Self::over(Subject::bare(config, placement), config)
    }

    fn over(subject: Subject<P>, config: Config) -> Self {
        Self {
            subject,
            config,
            size: config.size,
            blocks: BTreeMap::new(),
            places: BTreeMap::new(),
            live: Vec::new(),
            freed: Vec::new(),
            params: Vec::new(),
            tags: 0,
            high_water: 0,
            plan: Plan::default(),
        }
    }

    /// Makes one step in both and compares what can be compared cheaply.
    pub(crate) fn step(&mut self, op: &Op) {
        let epoch = self.offsets().epoch();
        match *op {
            Op::Allocate { size, align_log2, lifetime, moving } => {
                let request = self.request(size, align_log2).lifetime(lifetime);
                self.allocate(request, moving);
            }
            Op::At { offset, size, align_log2 } => self.allocate_at(offset, self.request(size, align_log2)),
            Op::Release(index) => self.release(index),
            Op::Lease(index) => self.lease(index),
            Op::Unlease(index) => self.unlease(index),
            Op::Room { size, align_log2, steps } => self.room(self.request(size, align_log2), steps),
            Op::Compact { budget, steps, meddle } => self.compact(budget, steps, meddle),
            Op::Move { block, dst } => self.move_to(block, dst),
            Op::Stale(index) => self.stale(index),
            Op::StaleCandidate { size, block } => self.stale_candidate(size, block),
            Op::Assign { block, from, len } => self.assign(block, from, len),
            Op::Unassign(index) => self.unassign(index),
            Op::ResizeBlock { block, size } => self.resize_block(block, size),
            Op::Resize(size) => self.resize(size),
        }
        assert!(self.offsets().epoch() >= epoch);
        self.check();
    }

    /// Reads every block and every parameter.
    pub(crate) fn verify(&self) {
        for (offset, known) in &self.blocks {
            self.verify_bytes(*offset, known);
        }
        if let Subject::Arena(arena) = &self.subject {
            for (param, handle, part) in &self.params {
                let offset = self.places[handle];
                assert_eq!(arena.param(*param), Ok(offset + part.start..offset + part.end));
            }
        }
        let blocks = self.offsets().blocks().map(|block| (block.handle, block.range));
        assert!(blocks.eq(self.blocks.iter().map(|(offset, known)| (known.handle, *offset..known.end))));
        assert!(self.offsets().holes().eq(self.holes()));
    }

    fn request(&self, size: u64, align_log2: u8) -> Request {
        let align_log2 = align_log2 % (self.config.most_align_log2 + 1);
        Request::new(size % self.config.most_size + 1).align(1 << align_log2)
    }

    fn allocate(&mut self, request: Request, moving: bool) {
        let before = self.offsets().stats();
        match self.subject.allocate(request, moving) {
            Ok(handle) => {
                if self.offsets().stats().moves > before.moves {
                    assert!(moving && self.config.compaction != Compaction::Never);
                    self.refresh(handle);
                }
                self.insert(handle, request);
            }
            Err(error) => {
                let (free, largest_hole) = (before.free, before.largest_hole);
                let Request { size: requested, align, .. } = request;
                assert_eq!(error, AllocError::OutOfMemory { requested, align, free, largest_hole });
                assert_eq!(self.offsets().stats(), before, "a refusal changed something");
                assert!(!self.holes().any(|hole| fits(&hole, self.rounded(request), self.align(request))));
                let simple =
                    self.blocks.values().all(|known| known.leases == 0 && known.align <= self.config.grain);
                if moving
                    && simple
                    && self.config.compaction != Compaction::Never
                    && align <= self.config.grain
                {
                    assert!(free < self.rounded(request), "refused although moving makes room");
                }
            }
        }
    }

    fn allocate_at(&mut self, offset: u64, request: Request) {
        // One in eight is anywhere, most are aligned, and a few lie beyond the end.
        let align = if offset.is_multiple_of(8) { 1 } else { self.align(request) };
        let offset = offset % self.size.saturating_add(self.config.most_size) / align * align;
        let (align, size) = (self.align(request), self.rounded(request));
        let before = self.offsets().stats();
        let expected = match offset.checked_add(size) {
            _ if !offset.is_multiple_of(align) => Err(AllocError::Unaligned { offset, align }),
            Some(end) if self.holes().any(|hole| hole.start <= offset && end <= hole.end) => Ok(()),
            _ => Err(AllocError::Occupied { offset, size }),
        };
        match self.subject.allocate_at(offset, request) {
            Ok(handle) => {
                assert_eq!((Ok(()), self.subject.block(handle).unwrap().range.start), (expected, offset));
                self.insert(handle, request);
            }
            Err(error) => {
                assert_eq!((Err(error), self.offsets().stats()), (expected, before));
            }
        }
    }

    fn insert(&mut self, handle: Handle, request: Request) {
        let block = self.subject.block(handle).unwrap();
        let Range { start, end } = block.range;
        assert_eq!(end - start, self.rounded(request));
        assert!(start.is_multiple_of(self.align(request)));
        assert_eq!((block.requested, block.align, block.leases), (request.size, self.align(request), 0));
        assert!(self.is_free(start..end), "{start}..{end} overlaps a live block");
        self.tags += 1;
        let known = Known {
            handle,
            end,
            requested: request.size,
            align: self.align(request),
            leases: 0,
            tag: self.tags,
        };
        let tag = self.tags;
        self.subject.write(start..end, |at| payload_byte(tag, at - start));
        self.blocks.insert(start, known);
        self.places.insert(handle, start);
        self.live.push(handle);
        self.high_water = self.high_water.max(self.live_bytes());
    }

    fn release(&mut self, index: usize) {
        let Some(handle) = pick(&self.live, index) else { return };
        let offset = self.places[&handle];
        let known = self.blocks[&offset].clone();
        if known.leases > 0 {
            let leases = known.leases;
            assert_eq!(self.subject.free(handle), Err(AllocError::Leased { handle, leases }));
            return;
        }
        self.verify_bytes(offset, &known);
        assert_eq!(self.subject.free(handle), Ok(offset..known.end));
        self.blocks.remove(&offset);
        self.places.remove(&handle);
        self.live.retain(|live| *live != handle);
        self.freed.push(handle);
        if self.freed.len() > 64 {
            self.freed.remove(0);
        }
        let Subject::Arena(arena) = &self.subject else { return };
        self.params.retain(|(param, of, _)| {
            let gone = *of == handle;
            assert!(!gone || arena.param(*param) == Err(AllocError::StaleParam { param: *param }));
            !gone
        });
    }

    fn lease(&mut self, index: usize) {
        let Some(handle) = pick(&self.live, index) else { return };
        let known = self.blocks.get_mut(&self.places[&handle]).unwrap();
        known.leases += 1;
        assert_eq!(self.subject.lease(handle), Ok(known.leases));
    }

    fn unlease(&mut self, index: usize) {
        let Some(handle) = pick(&self.live, index) else { return };
        let known = self.blocks.get_mut(&self.places[&handle]).unwrap();
        match known.leases.checked_sub(1) {
            None => assert_eq!(self.subject.unlease(handle), Err(AllocError::NotLeased { handle })),
            Some(left) => {
                known.leases = left;
                assert_eq!(self.subject.unlease(handle), Ok(left));
            }
        }
    }

    fn stale(&mut self, index: usize) {
        let Some(handle) = pick(&self.freed, index) else { return };
        let error = AllocError::StaleHandle { handle };
        assert_eq!(self.subject.block(handle), Err(error));
        assert_eq!(self.subject.free(handle), Err(error));
        assert_eq!(self.subject.lease(handle), Err(error));
        assert_eq!(self.subject.unlease(handle), Err(error));
        match &mut self.subject {
            Subject::Arena(arena) => assert_eq!(arena.assign(handle, 0..0), Err(error)),
            Subject::Bare { offsets, .. } => assert_eq!(offsets.resize_block(handle, 1), Err(error)),
        }
        let step = Move { handle, src: 0..self.config.grain, dst: 0 };
        assert_eq!(self.offsets().check_move(&step), Err(error));
    }

    fn stale_candidate(&mut self, size: u64, block: usize) {
        // Committing needs the allocator alone: a twin plays the arena's last state.
        let mut twin = allocator_core::OffsetAllocator::with_grain(1 << 20, self.config.grain).unwrap();
        let request = Request::new(size % 1000 + 1);
        let (first, second) = (twin.find(request).unwrap(), twin.find(request).unwrap());
        assert_eq!(first, second);
        twin.commit(first).unwrap();
        assert_eq!(twin.commit(second), Err(AllocError::StaleCandidate { found: 0, now: 1 }));
        if let Some(handle) = pick(&self.live, block) {
            assert_eq!(twin.block(handle), Err(AllocError::ForeignHandle { handle }));
            assert_eq!(twin.free(handle), Err(AllocError::ForeignHandle { handle }));
        }
    }

    fn assign(&mut self, block: usize, from: u64, len: u64) {
        let Some(handle) = pick(&self.live, block) else { return };
        let Subject::Arena(arena) = &mut self.subject else { return };
        let requested = self.blocks[&self.places[&handle]].requested;
        let part = from % (requested + 2)..from % (requested + 2) + len % (requested + 2);
        match arena.assign(handle, part.clone()) {
            Ok(param) => self.params.push((param, handle, part)),
            Err(error) => assert!(matches!(error, AllocError::Range(_)) && part.end > requested),
        }
    }

    fn unassign(&mut self, index: usize) {
        let Subject::Arena(arena) = &mut self.subject else { return };
        if self.params.is_empty() {
            return;
        }
        let (param, handle, _) = self.params.swap_remove(index % self.params.len());
        assert_eq!(arena.unassign(param), Ok(()));
        assert_eq!(arena.unassign(param), Err(AllocError::StaleParam { param }));
        let known = self.params.iter().filter(|(_, of, _)| *of == handle).count();
        assert_eq!(arena.params(handle).unwrap().count(), known);
    }

    fn resize_block(&mut self, block: usize, size: u64) {
        let Some(handle) = pick(&self.live, block) else { return };
        let Subject::Bare { offsets, .. } = &mut self.subject else { return };
        let size = size % (2 * self.config.most_size);
        let resized = offsets.resize_block(handle, size);
        let start = self.places[&handle];
        let behind = self.blocks.range(start + 1..).next().map_or(self.size, |(next, _)| *next);
        let most = behind - start;
        let rounded = size.next_multiple_of(self.config.grain);
        let known = self.blocks.get_mut(&start).unwrap();
        let leases = known.leases;
        let expected = if size == 0 {
            Err(AllocError::ZeroSize)
        } else if size < known.requested && leases > 0 {
            Err(AllocError::Leased { handle, leases })
        } else if rounded > most {
            Err(AllocError::CannotGrow { handle, requested: size, most })
        } else {
            Ok(start..start + rounded)
        };
        assert_eq!(resized, expected);
        if resized.is_ok() {
            let (end, tag) = (known.end, known.tag);
            (known.end, known.requested) = (start + rounded, size);
            self.subject.write(end.min(start + rounded)..start + rounded, |at| payload_byte(tag, at - start));
            self.high_water = self.high_water.max(self.live_bytes());
        }
    }

    fn resize(&mut self, size: u64) {
        let (grain, most) = (self.config.grain, self.config.size.saturating_mul(2));
        // One in eight is off the grain, where there is one.
        let size = if size.is_multiple_of(8) { size % most } else { size % most / grain * grain };
        let Some(resized) = self.subject.resize(size) else { return };
        let least = self.blocks.values().next_back().map_or(grain, |known| known.end);
        let expected = if size == 0 || !size.is_multiple_of(grain) {
            Err(AllocError::BadSize { size, grain })
        } else if size < least {
            Err(AllocError::CannotShrink { size, least })
        } else {
            self.size = size;
            Ok(())
        };
        assert_eq!(resized, expected);
    }

    fn offsets(&self) -> &OffsetAllocator<P> {
        self.subject.offsets()
    }

    fn check(&self) {
        assert_eq!(self.offsets().check(), Ok(()));
        let stats = self.offsets().stats();
        assert_eq!((stats.live, stats.blocks), (self.live_bytes(), self.blocks.len() as u64));
        assert_eq!(stats.requested, self.blocks.values().map(|known| known.requested).sum::<u64>());
        assert_eq!(stats.leased_blocks, self.blocks.values().filter(|known| known.leases > 0).count() as u64);
        assert_eq!(stats.high_water, self.high_water);
        let (mut holes, mut largest) = (0, 0);
        for hole in self.holes() {
            (holes, largest) = (holes + 1, largest.max(hole.end - hole.start));
        }
        assert_eq!((stats.holes, stats.largest_hole), (holes, largest));
        let least = self.blocks.values().next_back().map_or(self.config.grain, |known| known.end);
        assert_eq!((stats.size, self.offsets().least_size()), (self.size, least));
    }

    fn live_bytes(&self) -> u64 {
        self.blocks.iter().map(|(offset, known)| known.end - offset).sum()
    }

    fn is_free(&self, range: Range<u64>) -> bool {
        let below = self.blocks.range(..range.end).next_back();
        below.is_none_or(|(_, known)| known.end <= range.start)
    }

    fn holes(&self) -> impl Iterator<Item = Range<u64>> {
        let ends = std::iter::once(0).chain(self.blocks.values().map(|known| known.end));
        let starts = self.blocks.keys().copied().chain(std::iter::once(self.size));
        ends.zip(starts).map(|(end, start)| end..start).filter(|hole| !hole.is_empty())
    }

    fn rounded(&self, request: Request) -> u64 {
        request.size.next_multiple_of(self.config.grain)
    }

    fn align(&self, request: Request) -> u64 {
        request.align.max(self.config.grain)
    }

    fn verify_bytes(&self, offset: u64, known: &Known) {
        let Some(found) = self.subject.read(offset..known.end) else { return };
        let ours = |(at, byte): (u64, &u8)| *byte == payload_byte(known.tag, at);
        assert!((0..).zip(found).all(ours), "block {} at {offset} lost its bytes", known.handle);
    }
}

fn payload_byte(tag: u64, at: u64) -> u8 {
    (tag.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 40) as u8 ^ (at as u8).wrapping_mul(31)
}

fn fits(hole: &Range<u64>, size: u64, align: u64) -> bool {
    let start = hole.start.checked_next_multiple_of(align);
    start.and_then(|start| start.checked_add(size)).is_some_and(|end| end <= hole.end)
}

fn pick(handles: &[Handle], index: usize) -> Option<Handle> {
    handles.get(index.checked_rem(handles.len())?).copied()
}
