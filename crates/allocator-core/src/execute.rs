//! Plans carried out with a buffer's own copies, or remaps.

use core::ops::Range;

use crate::{AllocError, Arena, ArenaError, DeviceBuffer, Move, Placement, Plan};

/// How a range moves to an offset; returns how many bytes did so without a copy.
pub(crate) type Mover<B> = fn(&mut B, Range<u64>, u64) -> Result<u64, <B as DeviceBuffer>::Error>;

/// The [`Mover`] that every buffer has.
pub(crate) fn by_copy<B: DeviceBuffer>(buffer: &mut B, src: Range<u64>, dst: u64) -> Result<u64, B::Error> {
    buffer.copy_within(src, dst).map(|()| 0)
}

impl<B: DeviceBuffer, P: Placement> Arena<B, P> {
    /// Makes the moves of a plan that was made for the arena as it is.
    ///
    /// Neighbours that move by the same distance one after the other are one copy: a compaction moves whole runs of blocks,
    /// and one long copy is faster than many short ones.
    pub(crate) fn execute(&mut self, plan: &Plan) -> Result<(), ArenaError<B::Error>> {
        let mut rest = plan.moves();
        while let Some(first) = rest.first() {
            let (src, dst, count) = run(rest);
            let (steps, others) = rest.split_at(count);
            rest = others;
            self.allocator().check_move(first)?;
            let mover = self.mover;
            self.remapped_bytes += mover(self.buffer_mut(), src, dst).map_err(ArenaError::Device)?;
            for step in steps {
                self.record(step)?;
            }
        }
        Ok(())
    }

    fn record(&mut self, step: &Move) -> Result<(), AllocError> {
        self.allocator_mut().commit_move(step)?;
        self.observe(|observer| observer.on_move(step));
        Ok(())
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
