//! A second allocator that is too simple to be wrong, run beside the real one.
//!
//! Two oracles: the intervals of a `BTreeMap`, and payload tags in the buffer (bookkeeping can be
//! consistent while two blocks share bytes). Neither sees how good a placement or a plan is.

use std::collections::BTreeMap;
use std::ops::Range;

use allocator_core::conformance::VecBuffer;
use allocator_core::{
    AllocError, ApplyError, Arena, ArenaError, Compaction, DeviceBuffer, Handle, Lifetime, Move, ParamId,
    Placement, Plan, Request,
};

/// One step of a random program. Indices are taken modulo what there is.
#[derive(Debug, Clone)]
pub(crate) enum Op {
    Allocate {
        size: u64,
        align_log2: u8,
        lifetime: Lifetime,
        moving: bool,
    },
    Release(usize),
    Lease(usize),
    Unlease(usize),
    /// Plans room and makes the first few moves.
    Room {
        size: u64,
        align_log2: u8,
        steps: usize,
    },
    /// Plans a compaction and makes the first few moves, allocating and releasing between them.
    Compact {
        budget: u64,
        steps: usize,
        meddle: bool,
    },
    /// Moves a block anywhere.
    Move {
        block: usize,
        dst: u64,
    },
    /// Uses a handle that was freed.
    Stale(usize),
    /// Commits a candidate after something else changed.
    StaleCandidate {
        size: u64,
        block: usize,
    },
    Assign {
        block: usize,
        from: u64,
        len: u64,
    },
    Unassign(usize),
}

/// One kind of arena to test.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Config {
    pub(crate) size: usize,
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

/// The arena and the model.
pub(crate) struct Shadow<P: Placement> {
    arena: Arena<VecBuffer, P>,
    config: Config,
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
    pub(crate) fn new(config: Config, placement: P) -> Self {
        let buffer = VecBuffer::with_grain(config.size, config.grain);
        let mut arena = Arena::with_placement(buffer, placement).unwrap();
        arena.set_compaction(config.compaction);
        Self {
            arena,
            config,
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
        let epoch = self.arena.allocator().epoch();
        match *op {
            Op::Allocate { size, align_log2, lifetime, moving } => {
                let request = self.request(size, align_log2).lifetime(lifetime);
                self.allocate(request, moving);
            }
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
        }
        assert!(self.arena.allocator().epoch() >= epoch);
        self.check();
    }

    /// Reads every block and every parameter.
    pub(crate) fn verify(&self) {
        for (offset, known) in &self.blocks {
            self.verify_bytes(*offset, known);
        }
        for (param, handle, part) in &self.params {
            let offset = self.places[handle];
            assert_eq!(self.arena.param(*param), Ok(offset + part.start..offset + part.end));
        }
        let blocks = self.arena.allocator().blocks().map(|block| (block.handle, block.range));
        assert!(blocks.eq(self.blocks.iter().map(|(offset, known)| (known.handle, *offset..known.end))));
        assert!(self.arena.allocator().holes().eq(self.holes()));
    }

    fn request(&self, size: u64, align_log2: u8) -> Request {
        let align_log2 = align_log2 % (self.config.most_align_log2 + 1);
        Request::new(size % self.config.most_size + 1).align(1 << align_log2)
    }

    fn allocate(&mut self, request: Request, moving: bool) {
        let before = self.arena.stats();
        let placed = if moving {
            self.arena.allocate(request).map_err(|error| match error {
                ArenaError::Alloc(error) => error,
                error => panic!("{error}"),
            })
        } else {
            self.arena.allocate_in_place(request)
        };
        match placed {
            Ok(handle) => {
                if self.arena.stats().moves > before.moves {
                    assert!(moving && self.config.compaction != Compaction::Never);
                    self.refresh(handle);
                }
                self.insert(handle, request);
            }
            Err(error) => {
                let (free, largest_hole) = (before.free, before.largest_hole);
                let Request { size: requested, align, .. } = request;
                assert_eq!(error, AllocError::OutOfMemory { requested, align, free, largest_hole });
                assert_eq!(self.arena.stats(), before, "a refusal changed something");
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

    fn insert(&mut self, handle: Handle, request: Request) {
        let block = self.arena.block(handle).unwrap();
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
        self.arena.buffer_mut().write(start, &payload(self.tags, end - start)).unwrap();
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
            assert_eq!(self.arena.release(handle), Err(AllocError::Leased { handle, leases }));
            return;
        }
        self.verify_bytes(offset, &known);
        assert_eq!(self.arena.release(handle), Ok(offset..known.end));
        self.blocks.remove(&offset);
        self.places.remove(&handle);
        self.live.retain(|live| *live != handle);
        self.freed.push(handle);
        if self.freed.len() > 64 {
            self.freed.remove(0);
        }
        self.params.retain(|(param, of, _)| {
            let gone = *of == handle;
            assert!(!gone || self.arena.param(*param) == Err(AllocError::StaleParam { param: *param }));
            !gone
        });
    }

    fn lease(&mut self, index: usize) {
        let Some(handle) = pick(&self.live, index) else { return };
        let known = self.blocks.get_mut(&self.places[&handle]).unwrap();
        known.leases += 1;
        assert_eq!(self.arena.lease(handle), Ok(known.leases));
    }

    fn unlease(&mut self, index: usize) {
        let Some(handle) = pick(&self.live, index) else { return };
        let known = self.blocks.get_mut(&self.places[&handle]).unwrap();
        match known.leases.checked_sub(1) {
            None => assert_eq!(self.arena.unlease(handle), Err(AllocError::NotLeased { handle })),
            Some(left) => {
                known.leases = left;
                assert_eq!(self.arena.unlease(handle), Ok(left));
            }
        }
    }

    fn room(&mut self, request: Request, steps: usize) {
        let mut plan = std::mem::take(&mut self.plan);
        let planned = self.arena.plan_room_into(request, &mut plan);
        assert_eq!(planned.is_err(), matches!(planned, Err(AllocError::OutOfMemory { .. })));
        assert_eq!(plan.bytes(), plan.moves().iter().map(Move::len).sum::<u64>());
        let again = self.arena.allocator().plan_room(request);
        assert!(again.map_or(planned.is_err(), |again| again == plan), "planning is not deterministic");
        let all = steps >= plan.moves().len();
        for step in plan.moves().iter().take(steps) {
            self.apply(step).expect("a fresh plan can be executed in order");
        }
        if planned.is_ok() && all {
            assert!(self.arena.allocator().find(request).is_ok(), "the plan made no room");
        }
        self.plan = plan;
    }

    fn compact(&mut self, budget: u64, steps: usize, meddle: bool) {
        let plan = self.arena.plan_compact(budget);
        assert!(plan.bytes() <= budget);
        for (index, step) in plan.moves().iter().take(steps).enumerate() {
            let applied = self.apply(step);
            assert!(meddle || applied.is_ok(), "a fresh plan can be executed in order: {applied:?}");
            if meddle && index % 2 == 0 {
                self.allocate(self.request(step.dst, 0), false);
            } else if meddle {
                self.release(index);
            }
        }
    }

    fn move_to(&mut self, block: usize, dst: u64) {
        let Some(handle) = pick(&self.live, block) else { return };
        let offset = self.places[&handle];
        let known = self.blocks[&offset].clone();
        let dst = dst % (self.config.size as u64 + 1);
        let step = Move { handle, src: offset..known.end, dst };
        self.blocks.remove(&offset);
        let free = step.dst_range().end <= self.config.size as u64 && self.is_free(step.dst_range());
        self.blocks.insert(offset, known.clone());
        let expected = free && known.leases == 0 && dst.is_multiple_of(known.align);
        assert_eq!(self.apply(&step).is_ok(), expected, "{step:?}");
    }

    /// Makes a move; the copy inside, and the bytes afterwards, are checked.
    fn apply(&mut self, step: &Move) -> Result<(), AllocError> {
        let applied = self.arena.apply(step, |buffer, step| buffer.copy_within(step.src.clone(), step.dst));
        match applied {
            Ok(()) => {}
            Err(ApplyError::Alloc(error)) => return Err(error),
            Err(ApplyError::Run(error)) => panic!("{step:?}: {error}"),
            Err(error) => panic!("{step:?}: {error}"),
        }
        let mut known = self.blocks.remove(&step.src.start).unwrap();
        assert!(known.leases == 0 && known.handle == step.handle);
        assert!(self.is_free(step.dst_range()), "{step:?} runs over a live block");
        known.end = step.dst_range().end;
        self.verify_bytes(step.dst, &known);
        self.blocks.insert(step.dst, known);
        self.places.insert(step.handle, step.dst);
        Ok(())
    }

    /// Takes over where blocks are after the arena moved some on its own; `but` is not known yet.
    fn refresh(&mut self, but: Handle) {
        let old = std::mem::take(&mut self.blocks);
        for (offset, mut known) in old {
            let range = self.arena.block(known.handle).unwrap().range;
            assert!(known.leases == 0 || range.start == offset, "a leased block moved");
            assert!(range.start.is_multiple_of(known.align));
            assert_eq!(range.end - range.start, known.end - offset);
            assert!(self.is_free(range.clone()), "{range:?} overlaps another block after a move");
            known.end = range.end;
            self.verify_bytes(range.start, &known);
            self.places.insert(known.handle, range.start);
            self.blocks.insert(range.start, known);
        }
        assert!(!self.places.contains_key(&but));
    }

    fn stale(&mut self, index: usize) {
        let Some(handle) = pick(&self.freed, index) else { return };
        let error = AllocError::StaleHandle { handle };
        assert_eq!(self.arena.block(handle), Err(error));
        assert_eq!(self.arena.release(handle), Err(error));
        assert_eq!(self.arena.lease(handle), Err(error));
        assert_eq!(self.arena.unlease(handle), Err(error));
        assert_eq!(self.arena.assign(handle, 0..0), Err(error));
        let step = Move { handle, src: 0..self.config.grain, dst: 0 };
        assert_eq!(self.arena.allocator().check_move(&step), Err(error));
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
        let requested = self.blocks[&self.places[&handle]].requested;
        let part = from % (requested + 2)..from % (requested + 2) + len % (requested + 2);
        match self.arena.assign(handle, part.clone()) {
            Ok(param) => self.params.push((param, handle, part)),
            Err(error) => assert!(matches!(error, AllocError::Range(_)) && part.end > requested),
        }
    }

    fn unassign(&mut self, index: usize) {
        if self.params.is_empty() {
            return;
        }
        let (param, handle, _) = self.params.swap_remove(index % self.params.len());
        assert_eq!(self.arena.unassign(param), Ok(()));
        assert_eq!(self.arena.unassign(param), Err(AllocError::StaleParam { param }));
        let known = self.params.iter().filter(|(_, of, _)| *of == handle).count();
        assert_eq!(self.arena.params(handle).unwrap().count(), known);
    }

    fn check(&self) {
        assert_eq!(self.arena.allocator().check(), Ok(()));
        let stats = self.arena.stats();
        assert_eq!((stats.live, stats.blocks), (self.live_bytes(), self.blocks.len() as u64));
        assert_eq!(stats.requested, self.blocks.values().map(|known| known.requested).sum::<u64>());
        assert_eq!(stats.leased_blocks, self.blocks.values().filter(|known| known.leases > 0).count() as u64);
        assert_eq!(stats.high_water, self.high_water);
        let (mut holes, mut largest) = (0, 0);
        for hole in self.holes() {
            (holes, largest) = (holes + 1, largest.max(hole.end - hole.start));
        }
        assert_eq!((stats.holes, stats.largest_hole), (holes, largest));
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
        let starts = self.blocks.keys().copied().chain(std::iter::once(self.config.size as u64));
        ends.zip(starts).map(|(end, start)| end..start).filter(|hole| !hole.is_empty())
    }

    fn rounded(&self, request: Request) -> u64 {
        request.size.next_multiple_of(self.config.grain)
    }

    fn align(&self, request: Request) -> u64 {
        request.align.max(self.config.grain)
    }

    fn verify_bytes(&self, offset: u64, known: &Known) {
        let found = self.arena.buffer().read(offset..known.end).unwrap();
        let ours = |(at, byte): (usize, &u8)| *byte == payload_byte(known.tag, at);
        assert!(found.iter().enumerate().all(ours), "block {} at {offset} lost its bytes", known.handle);
    }
}

fn payload(tag: u64, len: u64) -> Vec<u8> {
    (0..len as usize).map(|at| payload_byte(tag, at)).collect()
}

fn payload_byte(tag: u64, at: usize) -> u8 {
    (tag.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 40) as u8 ^ (at as u8).wrapping_mul(31)
}

fn fits(hole: &Range<u64>, size: u64, align: u64) -> bool {
    hole.start.next_multiple_of(align) + size <= hole.end
}

fn pick(handles: &[Handle], index: usize) -> Option<Handle> {
    handles.get(index.checked_rem(handles.len())?).copied()
}
