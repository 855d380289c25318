//! The promises of the allocator's methods that no random program states by itself.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on stops where it stands")]

use allocator_core::{
    AllocError, AllocatorId, Arena, Block, DeviceBuffer, Handle, Observer, OffsetAllocator, Request,
    ResizeError, Verdict,
};
use std::sync::{Arc, Mutex};

fn filled(size: u64, sizes: &[u64]) -> (OffsetAllocator, Vec<Handle>) {
    let mut offsets = OffsetAllocator::new(size).unwrap();
    let handles = sizes.iter().map(|size| offsets.allocate(Request::new(*size)).unwrap()).collect();
    (offsets, handles)
}

#[test]
fn sizes_and_grains_that_make_no_arena_are_refused() {
    let error = |size, grain| OffsetAllocator::with_grain(size, grain).unwrap_err();
    assert_eq!(error(0, 1), AllocError::BadSize { size: 0, grain: 1 });
    assert_eq!(error(10, 4), AllocError::BadSize { size: 10, grain: 4 });
    assert_eq!(error(12, 0), AllocError::BadGrain { grain: 0 });
    assert_eq!(error(12, 3), AllocError::BadGrain { grain: 3 });
    assert!(OffsetAllocator::with_grain(u64::MAX - 255, 256).is_ok());
}

#[test]
fn candidates_are_good_once_and_only_here() {
    let (mut offsets, _) = filled(100, &[10]);
    let (mut other, _) = filled(100, &[10]);
    let (found, again) = (offsets.find(Request::new(20)).unwrap(), offsets.find(Request::new(20)).unwrap());
    assert_eq!((found.range(), &found), (10..30, &again));
    assert_eq!(other.commit(found.clone()), Err(AllocError::ForeignCandidate));
    let block = offsets.commit(found).unwrap();
    assert_eq!(offsets.commit(again), Err(AllocError::StaleCandidate { found: 1, now: 2 }));
    for change in 0..3 {
        let candidate = offsets.find(Request::new(5)).unwrap();
        match change {
            0 => assert_eq!(offsets.lease(block), Ok(1)),
            1 => assert_eq!(offsets.unlease(block), Ok(0)),
            _ => assert_eq!(offsets.free(block), Ok(10..30)),
        }
        assert!(matches!(offsets.commit(candidate), Err(AllocError::StaleCandidate { .. })));
    }
}

#[test]
fn the_whole_arena_is_one_block() {
    for size in [1, 12_345, 1 << 40, u64::MAX] {
        let mut offsets = OffsetAllocator::new(size).unwrap();
        let block = offsets.allocate(Request::new(size)).unwrap();
        assert_eq!(offsets.stats().free, 0);
        let refusal = AllocError::OutOfMemory { requested: 1, align: 1, free: 0, largest_hole: 0 };
        assert_eq!(offsets.allocate(Request::new(1)), Err(refusal));
        assert_eq!(offsets.free(block), Ok(0..size));
        offsets.check().unwrap();
    }
}

#[test]
fn an_equal_request_finds_a_freed_block_again() {
    // The flaw of size classes that round requests up: off-class sizes are not found again.
    let (mut offsets, blocks) = filled(2065 * 100, &[2065; 100]);
    for block in blocks.iter().step_by(7) {
        offsets.free(*block).unwrap();
        assert!(offsets.allocate(Request::new(2065)).is_ok());
    }
    assert_eq!(offsets.stats().free, 0);
}

#[test]
fn the_grain_rounds_and_the_block_remembers() {
    let mut offsets = OffsetAllocator::with_grain(1024, 256).unwrap();
    let block = offsets.allocate(Request::new(1)).unwrap();
    let block = offsets.block(block).unwrap();
    assert_eq!((block.range.clone(), block.used(), block.align), (0..256, 0..1, 256));
    let stats = offsets.stats();
    assert_eq!((stats.live, stats.requested, stats.high_water), (256, 1, 256));
}

#[test]
fn explanations_tell_the_cases_apart() {
    let (mut offsets, blocks) = filled(100, &[20, 20, 20, 20, 20]);
    offsets.free(blocks[1]).unwrap();
    offsets.free(blocks[3]).unwrap();
    let verdict = |offsets: &OffsetAllocator, request| offsets.explain(request).verdict;
    assert_eq!(verdict(&offsets, Request::new(20)), Verdict::Fits);
    assert_eq!(verdict(&offsets, Request::new(40)), Verdict::Fragmented { bytes: 20, moves: 1 });
    assert_eq!(verdict(&offsets, Request::new(41)), Verdict::Full { missing: 1 });
    assert_eq!(verdict(&offsets, Request::new(u64::MAX)), Verdict::Full { missing: u64::MAX - 40 });
    assert_eq!(verdict(&offsets, Request::new(0)), Verdict::BadRequest(AllocError::ZeroSize));
    let mut aligned = OffsetAllocator::new(100).unwrap();
    aligned.allocate(Request::new(20).align(64)).unwrap();
    assert_eq!(verdict(&aligned, Request::new(80).align(64)), Verdict::Misaligned);
    for block in [0, 2, 4] {
        offsets.lease(blocks[block]).unwrap();
    }
    let explanation = offsets.explain(Request::new(40));
    assert_eq!(explanation.verdict, Verdict::Leased);
    assert_eq!((explanation.reachable, explanation.reachable_unleased), (20, 40));
    assert_eq!((explanation.leased_blocks, explanation.leased_bytes), (3, 60));
    assert_eq!(
        explanation.to_string(),
        "40 bytes (alignment 1): 40 bytes are free in 2 holes, the largest has 20; 3 leased blocks (60 bytes) \
         stand in the way: moving reaches a hole of 20 bytes, 40 without leases"
    );
}

#[test]
fn a_window_is_evacuated_when_that_is_cheaper_than_sliding() {
    // Sliding must push the 50 aside; evacuating moves the 5 into the hole of 5 at the far end.
    let (mut offsets, blocks) = filled(100, &[10, 5, 10, 50, 5, 20]);
    for gone in [0, 2, 4] {
        offsets.free(blocks[gone]).unwrap();
    }
    let plan = offsets.plan_room(Request::new(25)).unwrap();
    assert_eq!((plan.moves().len(), plan.bytes()), (1, 5));
    assert_eq!((plan.moves()[0].handle, plan.moves()[0].dst), (blocks[1], 75));
}

#[test]
fn blocks_beyond_the_budget_are_passed_over() {
    let (mut offsets, blocks) = filled(100, &[10, 50, 10, 10, 20]);
    offsets.free(blocks[0]).unwrap();
    offsets.free(blocks[2]).unwrap();
    let plan = offsets.plan_compact(15);
    let moves: Vec<_> = plan.moves().iter().map(|step| (step.handle, step.dst)).collect();
    assert_eq!(moves, [(blocks[3], 60)]);
    let slide = offsets.plan_slide();
    let moves: Vec<_> = slide.moves().iter().map(|step| (step.handle, step.dst)).collect();
    assert_eq!(moves, [(blocks[1], 0), (blocks[3], 50), (blocks[4], 60)]);
    assert_eq!(slide, offsets.plan_compact(80));
}

#[test]
fn leases_are_walls_for_every_plan() {
    let (mut offsets, blocks) = filled(100, &[20, 20, 20, 20, 20]);
    offsets.free(blocks[0]).unwrap();
    offsets.free(blocks[2]).unwrap();
    assert_eq!(offsets.lease(blocks[1]), Ok(1));
    assert_eq!(offsets.lease(blocks[1]), Ok(2));
    assert_eq!(offsets.unlease(blocks[1]), Ok(1));
    let slide = offsets.plan_slide();
    assert_eq!(slide.moves().iter().map(|step| step.dst).collect::<Vec<_>>(), [40, 60]);
    // Room for 40: one of the upper blocks goes below the wall.
    let plan = offsets.plan_room(Request::new(40)).unwrap();
    assert_eq!((plan.moves().len(), plan.moves()[0].dst), (1, 0));
    assert_eq!(offsets.unlease(blocks[1]), Ok(0));
    assert_eq!(offsets.unlease(blocks[1]), Err(AllocError::NotLeased { handle: blocks[1] }));
}

#[test]
fn handles_show_slot_generation_and_owner() {
    let (mut offsets, blocks) = filled(10, &[5]);
    offsets.free(blocks[0]).unwrap();
    let again = offsets.allocate(Request::new(5)).unwrap();
    assert_ne!(blocks[0], again);
    assert!(format!("{again:?}").starts_with("Handle(") && again.to_string().contains('@'));
}

/// A buffer without bytes.
struct Nothing(u64);

impl DeviceBuffer for Nothing {
    type View<'a> = ();
    type Error = core::convert::Infallible;

    fn size(&self) -> u64 {
        self.0
    }

    fn copy_within(&mut self, _: core::ops::Range<u64>, _: u64) -> Result<(), Self::Error> {
        Ok(())
    }

    fn view(&self, _: core::ops::Range<u64>) -> Result<(), Self::Error> {
        Ok(())
    }
}

/// Live bytes as an observer hears of them.
#[derive(Clone, Default)]
struct Counts(Arc<Mutex<(u64, u64)>>);

impl Observer for Counts {
    fn on_alloc(&mut self, block: &Block) {
        self.0.lock().unwrap().0 += block.requested;
    }

    fn on_free(&mut self, block: &Block) {
        self.0.lock().unwrap().1 += block.requested;
    }
}

#[test]
fn resized_blocks_are_heard_and_keep_their_parameters() {
    let mut arena = Arena::new(Nothing(100)).unwrap();
    let counts = Counts::default();
    arena.set_observer(Box::new(counts.clone()));
    let block = arena.allocate(Request::new(10)).unwrap();
    let part = arena.assign(block, 4..10).unwrap();
    assert_eq!(arena.resize_block(block, 30), Ok(0..30));
    assert!(
        matches!(arena.resize_block(block, 9), Err(AllocError::Range(_))),
        "a parameter names those bytes"
    );
    assert_eq!(arena.param(part), Ok(4..10));
    arena.unassign(part).unwrap();
    assert_eq!(arena.resize_block(block, 9), Ok(0..9));
    assert_eq!(*counts.0.lock().unwrap(), (10 + 30 + 9, 10 + 30));
}

/// Whom an observer hears, and that the one before is there until it knows.
struct Attached(Arc<Mutex<Vec<String>>>, &'static str);

impl Observer for Attached {
    fn on_attach(&mut self, allocator: AllocatorId) {
        self.0.lock().unwrap().push(format!("{} hears {allocator}", self.1));
    }
}

impl Drop for Attached {
    fn drop(&mut self) {
        self.0.lock().unwrap().push(format!("{} goes", self.1));
    }
}

#[test]
fn an_observer_knows_its_arena_before_the_last_one_goes() {
    let log = Arc::new(Mutex::new(Vec::new()));
    let mut arena = Arena::new(Nothing(100)).unwrap();
    arena.set_observer(Box::new(Attached(Arc::clone(&log), "one")));
    arena.set_observer(Box::new(Attached(Arc::clone(&log), "two")));
    let id = arena.allocator().id();
    let told = [format!("one hears {id}"), format!("two hears {id}"), "one goes".to_owned()];
    assert_eq!(*log.lock().unwrap(), told);
}

#[test]
fn an_arena_is_as_long_as_its_buffer_came_out() {
    let mut arena = Arena::new(Nothing(100)).unwrap();
    let block = arena.allocate(Request::new(50)).unwrap();
    let to = |buffer: &mut Nothing, size| -> Result<(), &str> {
        buffer.0 = size;
        Ok(())
    };
    arena.resize(200, to).unwrap();
    assert_eq!(arena.stats().size, 200);
    assert!(arena.resize(60, |_, _| Err("refused")).is_err());
    assert!(arena.resize(49, |_, _| -> Result<(), ()> { panic!("not called") }).is_err());
    assert_eq!((arena.stats().size, arena.range(block)), (200, Ok(0..50)));
    let differs = |told, found, kept| Err(ResizeError::Differs { told, found, kept });
    assert_eq!(arena.resize(60, |buffer, size| to(buffer, size + 20)), differs(60, 80, 80));
    assert_eq!(arena.stats().size, 80, "what the buffer is counts");
    assert_eq!(arena.resize(60, |buffer, _| to(buffer, 7)), differs(60, 7, 50));
    assert_eq!(arena.stats().size, 50, "never less than the blocks need");
    arena.allocator().check().unwrap();
}

#[test]
fn a_fixed_block_takes_its_bytes_or_nothing() {
    let mut offsets = OffsetAllocator::with_grain(1024, 8).unwrap();
    let at = |offsets: &mut OffsetAllocator, offset, size| offsets.allocate_at(offset, Request::new(size));
    // In the middle, at the bottom, at the top, and a hole filled to the last byte.
    let middle = at(&mut offsets, 512, 60).unwrap();
    assert_eq!(offsets.block(middle).unwrap().range, 512..576);
    let bottom = at(&mut offsets, 0, 8).unwrap();
    let top = at(&mut offsets, 1016, 1).unwrap();
    let whole = at(&mut offsets, 576, 440).unwrap();
    assert_eq!(offsets.holes().collect::<Vec<_>>(), vec![8..512]);
    offsets.check().unwrap();

    let before = offsets.stats();
    for (offset, size) in [(0, 8), (504, 16), (568, 8), (576, 8), (1016, 8), (1024, 8), (4096, 8), (0, 1024)]
    {
        assert_eq!(at(&mut offsets, offset, size), Err(AllocError::Occupied { offset, size }));
    }
    let last = u64::MAX - 7;
    assert_eq!(at(&mut offsets, last, 8), Err(AllocError::Occupied { offset: last, size: 8 }));
    assert_eq!(at(&mut offsets, 12, 8), Err(AllocError::Unaligned { offset: 12, align: 8 }));
    let aligned = Request::new(8).align(64);
    assert_eq!(offsets.allocate_at(72, aligned), Err(AllocError::Unaligned { offset: 72, align: 64 }));
    assert_eq!(at(&mut offsets, 16, 0), Err(AllocError::ZeroSize));
    assert_eq!(offsets.stats(), before);

    assert!(offsets.allocate_at(64, aligned).is_ok());
    for handle in [middle, bottom, top, whole] {
        offsets.free(handle).unwrap();
    }
    offsets.check().unwrap();
    assert_eq!(offsets.stats().largest_hole, 1024 - 72);
}
