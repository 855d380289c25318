//! The operations of the model that move blocks.

use allocator_core::{AllocError, Handle, Move, Placement, Request, Verdict};

use super::{Shadow, pick};

impl<P: Placement> Shadow<P> {
    pub(super) fn room(&mut self, request: Request, steps: usize) {
        let mut plan = std::mem::take(&mut self.plan);
        let planned = self.offsets().plan_room_into(request, &mut plan);
        assert_eq!(planned.is_err(), matches!(planned, Err(AllocError::OutOfMemory { .. })));
        assert_eq!(plan.bytes(), plan.moves().iter().map(Move::len).fold(0, u64::saturating_add));
        let again = self.offsets().plan_room(request);
        assert!(again.map_or(planned.is_err(), |again| again == plan), "planning is not deterministic");
        let all = steps >= plan.moves().len();
        let explained = match self.offsets().explain(request).verdict {
            Verdict::Fits => planned.is_ok() && plan.is_empty(),
            Verdict::Fragmented { bytes, moves } => (bytes, moves) == (plan.bytes(), plan.moves().len()),
            Verdict::Full { .. } | Verdict::Leased | Verdict::Misaligned => planned.is_err(),
            _ => false,
        };
        assert!(explained, "the explanation is of something else: {planned:?}");
        for step in plan.moves().iter().take(steps) {
            self.apply(step).expect("a fresh plan can be executed in order");
        }
        if planned.is_ok() && all {
            assert!(self.offsets().find(request).is_ok(), "the plan made no room");
        }
        self.plan = plan;
    }

    pub(super) fn compact(&mut self, budget: u64, steps: usize, meddle: bool) {
        let plan = self.offsets().plan_compact(budget);
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

    pub(super) fn move_to(&mut self, block: usize, dst: u64) {
        let Some(handle) = pick(&self.live, block) else { return };
        let offset = self.places[&handle];
        let known = self.blocks[&offset].clone();
        let dst = dst % self.size.saturating_add(1);
        let step = Move { handle, src: offset..known.end, dst };
        self.blocks.remove(&offset);
        let free =
            dst.checked_add(step.len()).is_some_and(|end| end <= self.size) && self.is_free(step.dst_range());
        self.blocks.insert(offset, known.clone());
        let expected = free && known.leases == 0 && dst.is_multiple_of(known.align);
        assert_eq!(self.apply(&step).is_ok(), expected, "{step:?}");
    }

    /// Makes a move; the copy inside, and the bytes afterwards, are checked.
    fn apply(&mut self, step: &Move) -> Result<(), AllocError> {
        self.subject.apply(step)?;
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
    pub(super) fn refresh(&mut self, but: Handle) {
        let old = std::mem::take(&mut self.blocks);
        for (offset, mut known) in old {
            let range = self.subject.block(known.handle).unwrap().range;
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
}
