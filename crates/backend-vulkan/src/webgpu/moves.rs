//! Which copies a move becomes: a plan of steps that depends on ranges and on nothing else.
//!
//! Vulkan forbids a copy whose source and destination overlap, wgpu any copy inside one buffer. So a move goes
//! * *straight* where the device may copy inside a buffer and its ranges are apart, or far enough apart that pieces
//!   as long as the distance are few;
//! * *through the scratch buffer* otherwise, in pieces as long as that is. Several small moves share one filling of
//!   it: all are read before the first is written, as long as none reads what another is still to write.
//!
//! Copies on a queue may run at once unless a barrier is between them. A barrier is planned where a copy touches
//! what one since the last barrier wrote, or writes what one read; no more.

use allocator_core::disjoint_steps;
use std::ops::Range;

/// A copy, or a wait between copies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    /// Inside the buffer; the two ranges are apart.
    Straight { from: u64, to: u64, len: u64 },
    /// From the buffer at `from` to the scratch at `at`.
    Out { from: u64, at: u64, len: u64 },
    /// From the scratch at `at` to the buffer at `to`.
    Back { at: u64, to: u64, len: u64 },
    /// What comes after sees, and does not disturb, what came before.
    Barrier,
}

/// How moves of one buffer are to be made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Rules {
    /// Bytes of the scratch buffer, a multiple of the grain and not zero.
    pub(super) scratch: u64,
    /// Shortest distance in bytes from which overlapping moves go straight; `None`: nothing ever does.
    pub(super) straight_from: Option<u64>,
}

impl Rules {
    /// Whether a move needs the scratch buffer.
    pub(super) fn needs_scratch(&self, src: &Range<u64>, dst: u64) -> bool {
        let (len, distance) = (src.end - src.start, src.start.abs_diff(dst));
        // Two straight pieces copy each byte once, where the scratch copies it twice.
        self.straight_from.is_none_or(|enough| distance < enough && distance.saturating_mul(2) < len)
    }
}

/// Turns moves of one buffer into steps. The vectors are kept between uses.
#[derive(Debug, Default)]
pub(super) struct Planner {
    pub(super) steps: Vec<Step>,
    /// Touched since the last barrier.
    since: Vec<Touch>,
    /// Read into the scratch, to be written to the buffer: `(at, to, len)`.
    owed: Vec<(u64, u64, u64)>,
    /// Bytes of the scratch in use.
    used: u64,
}

impl Planner {
    /// Appends the steps of a move of `src` to `dst`, which have been checked.
    pub(super) fn add(&mut self, rules: Rules, src: Range<u64>, dst: u64) {
        if src.start == dst {
            return;
        }
        if rules.needs_scratch(&src, dst) {
            // Ascending when moving down, descending when moving up, as `disjoint_steps` has it; pieces may be
            // longer than the distance, since each is read whole before it is written.
            let (mut rest, up) = (src.clone(), dst > src.start);
            while !rest.is_empty() {
                let len = self.room(rules).min(rest.end - rest.start);
                let from = if up { rest.end - len } else { rest.start };
                if up {
                    rest.end = from;
                } else {
                    rest.start += len;
                }
                self.bounce(from, dst + (from - src.start), len);
            }
        } else {
            for (piece, to) in disjoint_steps(src, dst, 0) {
                let (from, len) = (piece.start, piece.end - piece.start);
                self.settle_if_owed(&piece);
                self.settle_if_owed(&(to..to + len));
                self.push(Step::Straight { from, to, len });
            }
        }
    }

    /// Ends the plan: nothing is owed any more.
    pub(super) fn finish(&mut self) {
        self.settle();
        self.since.clear();
    }

    pub(super) fn clear(&mut self) {
        self.steps.clear();
        self.since.clear();
        self.owed.clear();
        self.used = 0;
    }

    /// Bytes left in the scratch, after emptying it where there is none.
    fn room(&mut self, rules: Rules) -> u64 {
        if self.used >= rules.scratch {
            self.settle();
        }
        rules.scratch - self.used
    }

    fn bounce(&mut self, from: u64, to: u64, len: u64) {
        self.settle_if_owed(&(from..from + len));
        self.settle_if_owed(&(to..to + len));
        // Emptying the scratch may have made room: it is used from the start then.
        let at = self.used;
        self.push(Step::Out { from, at, len });
        self.owed.push((at, to, len));
        self.used += len;
    }

    fn settle_if_owed(&mut self, touched: &Range<u64>) {
        if self.owed.iter().any(|(_, to, len)| overlap(touched, &(*to..to + len))) {
            self.settle();
        }
    }

    /// Writes what the scratch holds.
    fn settle(&mut self) {
        let mut owed = std::mem::take(&mut self.owed);
        for (at, to, len) in owed.drain(..) {
            self.push(Step::Back { at, to, len });
        }
        self.owed = owed;
        self.used = 0;
    }

    /// Adds a copy, and a barrier before it where it needs one.
    fn push(&mut self, step: Step) {
        let touch = Touch::of(step);
        // A barrier too many costs less than looking through a long list for each of a thousand moves.
        if self.since.len() >= MANY || self.since.iter().any(|earlier| touch.needs_barrier(earlier)) {
            self.steps.push(Step::Barrier);
            self.since.clear();
        }
        self.since.push(touch);
        self.steps.push(step);
    }
}

/// What a copy reads and writes, in the buffer and in the scratch.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Touch {
    read: Range<u64>,
    write: Range<u64>,
    scratch_read: Range<u64>,
    scratch_write: Range<u64>,
}

impl Touch {
    fn of(step: Step) -> Self {
        let nothing = Touch { read: 0..0, write: 0..0, scratch_read: 0..0, scratch_write: 0..0 };
        match step {
            Step::Straight { from, to, len } => {
                Touch { read: from..from + len, write: to..to + len, ..nothing }
            }
            Step::Out { from, at, len } => {
                Touch { read: from..from + len, scratch_write: at..at + len, ..nothing }
            }
            Step::Back { at, to, len } => {
                Touch { scratch_read: at..at + len, write: to..to + len, ..nothing }
            }
            Step::Barrier => nothing,
        }
    }

    fn needs_barrier(&self, earlier: &Touch) -> bool {
        overlap(&self.read, &earlier.write)
            || overlap(&self.write, &earlier.write)
            || overlap(&self.write, &earlier.read)
            || overlap(&self.scratch_read, &earlier.scratch_write)
            || overlap(&self.scratch_write, &earlier.scratch_write)
            || overlap(&self.scratch_write, &earlier.scratch_read)
    }
}

fn overlap(one: &Range<u64>, other: &Range<u64>) -> bool {
    one.start < other.end && other.start < one.end
}

/// Copies between two barriers at most.
const MANY: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs steps, and fails where a device that reorders freely between barriers could come to another result.
    fn run(steps: &[Step], buffer: &mut [u8], scratch: &mut [u8]) {
        let mut since: Vec<Touch> = Vec::new();
        for &step in steps {
            let touch = Touch::of(step);
            assert!(!overlap(&touch.read, &touch.write), "{step:?} overlaps itself");
            assert!(!since.iter().any(|earlier| touch.needs_barrier(earlier)), "{step:?} without a barrier");
            let at = |start: u64, len: u64| start as usize..(start + len) as usize;
            match step {
                Step::Straight { from, to, len } => buffer.copy_within(at(from, len), to as usize),
                Step::Out { from, at: place, len } => {
                    scratch[at(place, len)].copy_from_slice(&buffer[at(from, len)]);
                }
                Step::Back { at: place, to, len } => {
                    buffer[at(to, len)].copy_from_slice(&scratch[at(place, len)]);
                }
                Step::Barrier => since.clear(),
            }
            since.push(touch);
        }
    }

    fn same_as_memmove(rules: Rules, moves: &[(Range<u64>, u64)]) -> Vec<Step> {
        let size = moves.iter().map(|(src, dst)| src.end.max(dst + (src.end - src.start))).max().unwrap();
        let mut expected: Vec<u8> = (0..size).map(|i| (i * 31 + i / 256) as u8).collect();
        let mut buffer = expected.clone();
        let mut planner = Planner::default();
        for (src, dst) in moves {
            expected.copy_within(src.start as usize..src.end as usize, *dst as usize);
            planner.add(rules, src.clone(), *dst);
        }
        planner.finish();
        run(&planner.steps, &mut buffer, &mut vec![0; rules.scratch as usize]);
        assert!(buffer == expected, "{rules:?} {moves:?} {:?}", planner.steps);
        planner.steps
    }

    const ALL: [Rules; 4] = [
        Rules { scratch: 64, straight_from: None },
        Rules { scratch: 64, straight_from: Some(32) },
        Rules { scratch: 4, straight_from: Some(u64::MAX) },
        Rules { scratch: 64, straight_from: Some(0) },
    ];

    #[test]
    fn any_move_is_a_memmove() {
        for rules in ALL {
            for len in [4, 8, 60, 64, 68, 200, 1000] {
                for distance in [0, 4, 8, 32, 64, 100, 500, 1000, 2000] {
                    same_as_memmove(rules, &[(distance..distance + len, 0)]);
                    same_as_memmove(rules, &[(0..len, distance)]);
                }
            }
        }
    }

    #[test]
    fn moves_together_are_moves_in_order() {
        let mut random = 7_u64;
        let mut next = |below: u64| {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (random >> 33) % below
        };
        for round in 0..2000 {
            let moves: Vec<_> = (0..1 + next(12))
                .map(|_| {
                    let (len, from) = (4 * (1 + next(40)), 4 * next(100));
                    (from..from + len, 4 * next(100))
                })
                .collect();
            same_as_memmove(ALL[round % ALL.len()], &moves);
        }
    }

    #[test]
    fn a_slide_of_many_small_blocks_shares_the_scratch() {
        // 100 blocks of 16 bytes, each down by 4: four fit the scratch.
        let moves: Vec<_> = (0..100).map(|i| (4 + 32 * i..20 + 32 * i, 32 * i)).collect();
        let steps = same_as_memmove(Rules { scratch: 64, straight_from: Some(1 << 20) }, &moves);
        let barriers = steps.iter().filter(|step| **step == Step::Barrier).count();
        assert!(barriers <= 50, "{barriers} barriers for 25 fillings");
    }

    #[test]
    fn moves_apart_need_no_barrier_and_no_scratch() {
        let moves: Vec<_> = (0..30).map(|i| (1000 + 8 * i..1008 + 8 * i, 8 * i)).collect();
        let rules = Rules { scratch: 64, straight_from: Some(1 << 20) };
        assert!(moves.iter().all(|(src, dst)| !rules.needs_scratch(src, *dst)));
        let steps = same_as_memmove(rules, &moves);
        assert_eq!(steps.len(), 30);
    }
}
