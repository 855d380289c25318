//! Which moves that follow one another go together.

use allocator_core::CopyCost;
use core::ops::Range;

/// A move of a source range to an offset, which were checked.
pub(crate) type Shift = (Range<u64>, u64);

/// How the moves at the front of a list are made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Group {
    /// The first, in its own way.
    Alone,
    /// So many, none of which touches what another writes: in any order.
    Apart(usize),
    /// So many, each of which may write what one before it, or it itself, reads: all to the scratch, and then all from there.
    Through(usize),
}

/// What is chosen by.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Rules {
    pub(crate) cost: CopyCost,
    /// Longest move that goes together with others.
    pub(crate) short: u64,
    /// Most moves of a group.
    pub(crate) most: usize,
}

impl Rules {
    /// The cheapest way to make the moves at the front, of which there is at least one. O(n log n) for a group of n.
    pub(crate) fn next(&self, moves: &[Shift]) -> Group {
        let apart = self.apart(moves);
        let through = self.through(moves);
        if through > apart.max(1) {
            let cost = self.cost_through(&moves[..through]);
            if self.cost_apart(&moves[..through], cost) > cost {
                return Group::Through(through);
            }
        }
        if apart > 1 { Group::Apart(apart) } else { Group::Alone }
    }

    /// How many at the front touch nothing that another of them, or they themselves, write.
    fn apart(&self, moves: &[Shift]) -> usize {
        let (mut reads, mut writes) = (Spans::default(), Spans::default());
        let mut fits = |(src, dst): &Shift| {
            let (len, to) = (src.end - src.start, target(src, *dst));
            let collides = writes.touch(src) || writes.touch(&to) || reads.touch(&to);
            let fits = len <= self.short && !overlaps(src, *dst) && !collides;
            reads.add(src);
            writes.add(&to);
            fits
        };
        moves.iter().take(self.most).take_while(|shift| is_nothing(shift) || fits(shift)).count()
    }

    /// How many at the front can go through the scratch together: none reads or writes what one before it writes.
    fn through(&self, moves: &[Shift]) -> usize {
        let (mut writes, mut room) = (Spans::default(), Room::new(self.cost.scratch));
        let mut fits = |(src, dst): &Shift| {
            let to = target(src, *dst);
            let fits = src.end - src.start <= self.short
                && room.take(src).is_some()
                && !(writes.touch(src) || writes.touch(&to));
            writes.add(&to);
            fits
        };
        moves.iter().take(self.most).take_while(|shift| is_nothing(shift) || fits(shift)).count()
    }

    /// What moves cost in as few groups as need no scratch, or more than `enough`, when that is all there is to know.
    fn cost_apart(&self, mut moves: &[Shift], enough: u64) -> u64 {
        let mut cost = 0u64;
        while let Some((src, dst)) = moves.first().filter(|_| cost <= enough) {
            let together = self.apart(moves);
            let (some, rest) = moves.split_at(together.max(1));
            let group = match together {
                0 => self.cost.of(src.end - src.start, src.start.abs_diff(*dst)),
                _ => self.cost.start.saturating_add(bytes(some)),
            };
            cost = cost.saturating_add(group);
            moves = rest;
        }
        cost
    }

    /// What they cost by way of the scratch: each byte twice, in two launches.
    fn cost_through(&self, moves: &[Shift]) -> u64 {
        self.cost.start.saturating_add(bytes(moves)).saturating_mul(2)
    }
}

/// Places in the scratch, one after the other, each as far from a multiple of 16 as its source: so that the kernel copies wide
/// words.
pub(crate) struct Room {
    taken: u64,
    size: u64,
}

impl Room {
    pub(crate) fn new(size: u64) -> Room {
        Room { taken: 0, size }
    }

    /// Where the bytes of `src` go; `None`: no room is left.
    pub(crate) fn take(&mut self, src: &Range<u64>) -> Option<u64> {
        let at = self.taken.next_multiple_of(WORD) + src.start % WORD;
        let end = at.checked_add(src.end - src.start).filter(|end| *end <= self.size)?;
        self.taken = end;
        Some(at)
    }
}

/// Ranges, in order, none of which touches another.
#[derive(Default)]
struct Spans(Vec<Range<u64>>);

impl Spans {
    /// Whether a byte of `range`, which has one, is in one. O(log n).
    fn touch(&self, range: &Range<u64>) -> bool {
        let next = self.0.get(self.0.partition_point(|span| span.end <= range.start));
        next.is_some_and(|span| span.start < range.end)
    }

    /// Joins `range` with those that it touches or meets. O(n), and O(log n) at the end.
    fn add(&mut self, range: &Range<u64>) {
        let from = self.0.partition_point(|span| span.end < range.start);
        let joined = self.0[from..].iter().take_while(|span| span.start <= range.end).count();
        let mut whole = range.clone();
        for span in self.0.drain(from..from + joined) {
            whole = whole.start.min(span.start)..whole.end.max(span.end);
        }
        self.0.insert(from, whole);
    }
}

fn target(src: &Range<u64>, dst: u64) -> Range<u64> {
    dst..dst + (src.end - src.start)
}

/// Whether a move moves no byte.
pub(crate) fn is_nothing((src, dst): &Shift) -> bool {
    src.is_empty() || src.start == *dst
}

fn overlaps(src: &Range<u64>, dst: u64) -> bool {
    src.start.abs_diff(dst) < src.end - src.start
}

fn bytes(moves: &[Shift]) -> u64 {
    moves.iter().filter(|shift| !is_nothing(shift)).map(|(src, _)| src.end - src.start).sum()
}

/// Bytes of the kernel's widest word.
const WORD: u64 = 16;

#[cfg(test)]
mod tests {
    use super::*;

    const RULES: Rules = Rules { cost: CopyCost { start: 40, scratch: 400 }, short: 100, most: 8 };

    #[test]
    fn what_touches_nothing_goes_apart_and_a_slide_through_the_scratch() {
        let far: Vec<Shift> = (0..20).map(|n| (1000 + n * 16..1016 + n * 16, n * 16)).collect();
        assert_eq!(RULES.next(&far), Group::Apart(8));
        // Down by 4 more each time, into what the one before it left.
        let slide: Vec<Shift> = (0..20).map(|n| (4 + n * 20..20 + n * 20, n * 16)).collect();
        assert_eq!(RULES.next(&slide), Group::Through(8));
        // By 16 and no more, each of 16: four are cheaper one by one than copied twice.
        let wide: Vec<Shift> = (0..4).map(|n| (100 + n * 100..200 + n * 100, n * 100)).collect();
        assert_eq!(RULES.next(&wide), Group::Alone);
        // The third reads what the first writes, and no way puts them together.
        let chain = [(0..16, 100), (32..48, 200), (100..116, 300), (400..410, 500)];
        assert_eq!(RULES.next(&chain), Group::Apart(2));
        assert_eq!(RULES.next(&chain[2..]), Group::Apart(2));
        assert_eq!(RULES.next(&[(0..101, 200), (400..410, 500)]), Group::Alone, "a long one");
        assert_eq!(RULES.next(&[(0..10, 5)]), Group::Alone);
        assert_eq!(Rules { short: 0, ..RULES }.next(&far), Group::Alone);
        let none = Rules { cost: CopyCost { scratch: 0, ..RULES.cost }, ..RULES };
        assert_eq!(none.next(&slide), Group::Alone);
    }

    #[test]
    fn a_group_in_any_order_does_what_its_moves_do_in_turn() {
        let mut random = 1u64;
        let mut below = |bound: u64| {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (random >> 33) % bound
        };
        let mut seen = [0; 3];
        for round in 0..3000u64 {
            let moves = moves(round, &mut below);
            let (mut expected, mut found): (Vec<u64>, Vec<u64>) = ((0..300).collect(), (0..300).collect());
            for (src, dst) in &moves {
                expected.copy_within(src.start as usize..src.end as usize, *dst as usize);
            }
            let mut rest = &moves[..];
            while !rest.is_empty() {
                let group = RULES.next(rest);
                let (count, kind) = match group {
                    Group::Alone => (1, 0),
                    Group::Apart(count) => (count, 1),
                    Group::Through(count) => (count, 2),
                };
                seen[kind] += 1;
                let (some, others) = rest.split_at(count);
                make(group, some, &mut found);
                rest = others;
            }
            assert_eq!(found, expected, "round {round}: {moves:?}");
        }
        assert!(seen.iter().all(|count| *count > 500), "{seen:?}");
    }

    /// Moves anywhere, or a slide down.
    fn moves(round: u64, below: &mut impl FnMut(u64) -> u64) -> Vec<Shift> {
        let (mut from, mut to) = (0, 0);
        let any = |below: &mut dyn FnMut(u64) -> u64| {
            let len = below(12);
            let start = below(300 - len);
            (start..start + len, below(300 - len))
        };
        let mut slide = |below: &mut dyn FnMut(u64) -> u64| {
            let len = 1 + below(12);
            from += below(3);
            let shift = (from..from + len, to);
            (from, to) = (from + len, to + len);
            shift
        };
        (0..2 + round % 15).map(|_| if round.is_multiple_of(2) { any(below) } else { slide(below) }).collect()
    }

    /// As the device may: backwards, and what goes through the scratch from a copy.
    fn make(group: Group, moves: &[Shift], memory: &mut [u64]) {
        let before = memory.to_vec();
        let mut room = Room::new(RULES.cost.scratch);
        for (src, dst) in moves.iter().rev().filter(|shift| !is_nothing(shift)) {
            let (from, to) = (src.start as usize..src.end as usize, *dst as usize);
            match group {
                Group::Through(_) => memory[to..to + from.len()].copy_from_slice(&before[from]),
                _ => memory.copy_within(from, to),
            }
        }
        if let Group::Through(_) = group {
            assert!(moves.iter().filter(|shift| !is_nothing(shift)).all(|(src, _)| room.take(src).is_some()));
        }
    }

    #[test]
    fn the_scratch_keeps_the_phase_and_ends() {
        let mut room = Room::new(64);
        assert_eq!(room.take(&(35..55)), Some(3));
        assert_eq!(room.take(&(16..20)), Some(32));
        assert_eq!(room.take(&(15..32)), None, "to 80");
        assert_eq!(room.take(&(0..16)), Some(48));
        assert_eq!(room.take(&(0..1)), None);
    }
}
