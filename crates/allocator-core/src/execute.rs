//! Plans carried out as a whole, with a buffer's own copies, or remaps, or the caller's.

use core::ops::Range;

use crate::{AllocError, ApplyError, Arena, ArenaError, CopiesRefused, DeviceBuffer, Move, Placement, Plan};

/// How copies are made one after the other; adds up how many bytes went without one.
pub(crate) type Mover<B> =
    fn(&mut B, &[(Range<u64>, u64)], &mut u64) -> Result<(), CopiesRefused<<B as DeviceBuffer>::Error>>;

/// The [`Mover`] that every buffer has.
pub(crate) fn by_copies<B: DeviceBuffer>(
    buffer: &mut B,
    copies: &[(Range<u64>, u64)],
    _remapped: &mut u64,
) -> Result<(), CopiesRefused<B::Error>> {
    buffer.copies_within(copies)
}

impl<B: DeviceBuffer, P: Placement> Arena<B, P> {
    /// Makes all moves of a plan that was made for the arena as it is: lets `run` enqueue the copies, and records those that it
    /// enqueued.
    ///
    /// `run` gets the buffer and the copies, each a source range and an offset, to be made one after the other, as
    /// [`DeviceBuffer::copies_within`] does; and orders them against whatever else uses those bytes. Blocks that move by the
    /// same distance one after the other are one copy. When it refuses one, the blocks of the copies before it have moved, and
    /// the others are where they were. Should it panic, no move is recorded, whatever it had enqueued. It is not called for a plan
    /// without moves. O(distance) for each move as
    /// [`OffsetAllocator::check_move`](crate::OffsetAllocator::check_move).
    ///
    /// # Errors
    /// [`ApplyError::Alloc`] with [`AllocError::StalePlan`] or [`AllocError::ForeignPlan`], and `run` was not called;
    /// [`ApplyError::Run`] with what `run` returned, `made` being the number of moves.
    #[cfg_attr(feature = "conformance", doc = "```")]
    #[cfg_attr(not(feature = "conformance"), doc = "```ignore")]
    /// use allocator_core::conformance::VecBuffer;
    /// use allocator_core::{Arena, DeviceBuffer, Request};
    ///
    /// let mut arena = Arena::new(VecBuffer::new(100))?;
    /// let blocks: Vec<_> = (0..10).map(|_| arena.allocate(Request::new(10))).collect::<Result<_, _>>()?;
    /// arena.release(blocks[0])?;
    /// arena.release(blocks[4])?;
    /// let plan = arena.plan_compact(u64::MAX);
    /// assert_eq!(plan.moves().len(), 8);
    /// arena.apply_plan(&plan, |buffer, copies| {
    ///     assert_eq!(copies, [(10..40, 0), (50..100, 30)]);
    ///     buffer.copies_within(copies)
    /// })?;
    /// assert_eq!(arena.range(blocks[9])?, 70..80);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn apply_plan<E>(
        &mut self,
        plan: &Plan,
        run: impl FnOnce(&mut B, &[(Range<u64>, u64)]) -> Result<(), CopiesRefused<E>>,
    ) -> Result<(), ApplyError<CopiesRefused<E>>> {
        self.allocator().check_plan(plan)?;
        let mut copies = core::mem::take(&mut self.copies);
        copies.clear();
        copies.extend(Runs(plan.moves()).map(|(src, dst, _)| (src, dst)));
        let outcome = if copies.is_empty() { Ok(()) } else { run(self.buffer_mut(), &copies) };
        self.copies = copies;
        let copied = outcome.as_ref().map_or_else(|refused| refused.made, |()| usize::MAX);
        let made = Runs(plan.moves()).take(copied).map(|(_, _, count)| count).sum();
        for step in &plan.moves()[..made] {
            self.record(step)?;
        }
        outcome.map_err(|CopiesRefused { error, .. }| ApplyError::Run(CopiesRefused { made, error }))
    }

    /// [`apply_plan`](Self::apply_plan) with what the arena moves by itself.
    pub(crate) fn execute(&mut self, plan: &Plan) -> Result<(), ArenaError<B::Error>> {
        let (mover, mut remapped) = (self.mover, 0);
        let applied = self.apply_plan(plan, |buffer, copies| mover(buffer, copies, &mut remapped));
        self.remapped_bytes += remapped;
        applied.map_err(|refused| match refused {
            ApplyError::Alloc(error) => ArenaError::Alloc(error),
            ApplyError::Run(CopiesRefused { error, .. }) => ArenaError::Device(error),
        })
    }

    fn record(&mut self, step: &Move) -> Result<(), AllocError> {
        self.allocator_mut().commit_move(step)?;
        self.observe(|observer| observer.on_move(step));
        Ok(())
    }
}

/// The runs of moves that are one copy each: source, destination, how many moves.
///
/// A compaction moves whole runs of blocks, and one long copy is faster than many short ones.
struct Runs<'a>(&'a [Move]);

impl Iterator for Runs<'_> {
    type Item = (Range<u64>, u64, usize);

    fn next(&mut self) -> Option<Self::Item> {
        self.0.first()?;
        let (src, dst, count) = run(self.0);
        self.0 = &self.0[count..];
        Some((src, dst, count))
    }
}

/// The longest run of moves at the front that are one: source, destination, how many. There is at least one move.
fn run(moves: &[Move]) -> (Range<u64>, u64, usize) {
    let mut count = 0;
    let (mut src, mut dst) = (0..0, 0);
    for step in moves {
        let len = src.end - src.start;
        if count == 0 {
            (src, dst) = (step.src.clone(), step.dst);
        } else if step.src.start < dst + len && dst < step.src.end {
            // It reads what the run has written: a block that moves a second time.
            break;
        } else if step.src.start == src.end && step.dst == dst + len {
            src.end = step.src.end;
        } else if step.src.end == src.start && step.dst_range().end == dst {
            (src.start, dst) = (step.src.start, step.dst);
        } else {
            break;
        }
        count += 1;
    }
    (src, dst, count)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{OffsetAllocator, Request};
    use alloc::vec::Vec;

    /// A buffer that remembers its copies.
    struct Copies(u64, Vec<(Range<u64>, u64)>);

    impl DeviceBuffer for Copies {
        type View<'a> = ();
        type Error = core::convert::Infallible;

        fn size(&self) -> u64 {
            self.0
        }

        fn copy_within(&mut self, src: Range<u64>, dst: u64) -> Result<(), Self::Error> {
            self.1.push((src, dst));
            Ok(())
        }

        fn view(&self, _: Range<u64>) -> Result<(), Self::Error> {
            Ok(())
        }
    }

    #[test]
    fn a_compaction_copies_runs() {
        let mut arena = Arena::new(Copies(100, Vec::new())).unwrap();
        let blocks: Vec<_> = (0..10).map(|_| arena.allocate(Request::new(10)).unwrap()).collect();
        for gone in [0, 4, 5] {
            arena.release(blocks[gone]).unwrap();
        }
        assert_eq!(arena.compact(u64::MAX), Ok(70));
        assert_eq!(arena.buffer().1, [(10..40, 0), (60..100, 30)]);
        assert_eq!(arena.stats().moves, 7);
        arena.allocator().check().unwrap();
    }

    #[test]
    fn runs_go_up_as_well_as_down_and_end_where_the_distance_changes() {
        let mut offsets = OffsetAllocator::new(100).unwrap();
        let blocks: Vec<_> = (0..4).map(|_| offsets.allocate(Request::new(10)).unwrap()).collect();
        let step =
            |at: usize, dst| Move { handle: blocks[at], src: at as u64 * 10..at as u64 * 10 + 10, dst };
        assert_eq!(run(&[step(3, 90), step(2, 80), step(0, 50)]), (20..40, 80, 2));
        assert_eq!(run(&[step(0, 50), step(1, 60), step(2, 71)]), (0..20, 50, 2));
        assert_eq!(run(&[step(1, 50)]), (10..20, 50, 1));
    }

    #[test]
    fn a_block_that_moves_twice_is_in_two_runs() {
        let mut arena = Arena::new(Copies(72, Vec::new())).unwrap();
        let _below = arena.allocate(Request::new(8)).unwrap();
        let gone = arena.allocate(Request::new(24)).unwrap();
        let _aligned = arena.allocate(Request::new(8).align(16)).unwrap();
        let twice = arena.allocate(Request::new(8)).unwrap();
        arena.release(gone).unwrap();
        arena.allocate(Request::new(48)).unwrap();
        assert_eq!(arena.range(twice), Ok(8..16));
        assert_eq!(arena.buffer().1, [(32..48, 16), (24..32, 8)]);
    }
}
