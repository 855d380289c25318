//! Promises of [`Hazards`] on a real device: with its waits, and no others, the bytes are right.
//!
//! The host waits for a transfer only where the story says so. A device that runs things early proves little here;
//! one that runs them only when asked proves every wait.

use super::{Bench, Harness, Rng, pattern};
use crate::{Access, Event, Hazards, Lane, Queue, QueuedBuffer, SliceOf, Ticket, Transfer};
use allocator_core::DeviceBuffer;
use core::ops::Range;
use std::collections::VecDeque;

/// An upload, a move of what it brought, and a download of what was moved.
pub fn upload_move_download<H: Harness>(harness: &H) {
    let mut story = Story::new(harness, 4 * LEN);
    let up = story.upload(1, 0, LEN);
    story.moves(&[(0..LEN, 2 * LEN)]);
    let down = story.download(2 * LEN, LEN);
    assert_eq!(down.wait().unwrap().as_slice(), pattern(1, LEN));
    up.wait().unwrap();
    story.end();
}

/// Moves onto themselves, both ways and by less than their length, between an upload and a download.
pub fn overlapping_moves<H: Harness>(harness: &H) {
    let mut story = Story::new(harness, 4 * LEN);
    let step = story.bench.grain;
    for (seed, (from, to)) in
        [(0, step), (step, 0), (0, LEN - step), (LEN, LEN), (2 * LEN, LEN)].into_iter().enumerate()
    {
        let up = story.upload(seed as u64, from, 2 * LEN);
        story.moves(&[(from..from + 2 * LEN, to)]);
        let down = story.download(to, 2 * LEN);
        assert!(down.wait().unwrap().as_slice() == pattern(seed as u64, 2 * LEN), "move from {from} to {to}");
        drop(up);
    }
    story.end();
}

/// Moves applied together, each into room the one before it vacated, are ordered by one event.
pub fn moves_together_are_one_operation<H: Harness>(harness: &H) {
    let mut story = Story::new(harness, 4 * LEN);
    let one = story.upload(1, LEN, LEN);
    let two = story.upload(2, 2 * LEN, LEN);
    let three = story.upload(3, 3 * LEN, LEN);
    story.moves(&[(LEN..2 * LEN, 0), (2 * LEN..3 * LEN, LEN), (3 * LEN..4 * LEN, 2 * LEN)]);
    let down = story.download(0, 3 * LEN);
    let expected = [pattern(1, LEN), pattern(2, LEN), pattern(3, LEN)].concat();
    assert!(down.wait().unwrap().as_slice() == expected);
    drop((one, two, three));
    story.end();
}

/// New bytes enter freed room after those who read the old ones, though the host waits for neither.
pub fn room_is_reused_after_its_readers<H: Harness>(harness: &H) {
    let mut story = Story::new(harness, LEN);
    let old = story.upload(1, 0, LEN);
    let evicted = story.download(0, LEN);
    let new = story.upload(2, 0, LEN);
    // The later one first: it may not overtake.
    new.wait().unwrap();
    assert_eq!(evicted.wait().unwrap().as_slice(), pattern(1, LEN));
    assert_eq!(story.download(0, LEN).wait().unwrap().as_slice(), pattern(2, LEN));
    drop(old);
    story.end();
}

/// What a move left behind is overwritten only after the move has read it.
pub fn a_vacated_source_is_written_after_the_move<H: Harness>(harness: &H) {
    let mut story = Story::new(harness, 2 * LEN);
    let old = story.upload(1, 0, LEN);
    story.moves(&[(0..LEN, LEN)]);
    let new = story.upload(2, 0, LEN);
    new.wait().unwrap();
    assert_eq!(story.download(LEN, LEN).wait().unwrap().as_slice(), pattern(1, LEN));
    assert_eq!(story.download(0, LEN).wait().unwrap().as_slice(), pattern(2, LEN));
    drop(old);
    story.end();
}

/// Seeded programs of uploads, downloads and moves against a copy on the host.
pub fn random_programs<H: Harness>(harness: &H) {
    for seed in 0..8 {
        random_program(harness, seed);
    }
}

fn random_program<H: Harness>(harness: &H, seed: u64) {
    let mut rng = Rng::new(seed);
    let size = 16 * LEN;
    let mut story = Story::new(harness, size);
    let mut shadow = vec![0; size as usize];
    let mut downs: VecDeque<(Ticket<H::Device>, Vec<u8>)> = VecDeque::new();
    let mut ups: VecDeque<Ticket<H::Device>> = VecDeque::new();
    let g = story.bench.grain;
    for step in 0..150 {
        let len = story.bench.grains(1 + rng.below(3 * LEN));
        let place = |rng: &mut Rng| rng.below((size - len) / g + 1) * g;
        let at = place(&mut rng);
        let range = at as usize..(at + len) as usize;
        match rng.below(3) {
            0 => {
                let fill = seed << 32 | step;
                shadow[range].copy_from_slice(&pattern(fill, len));
                ups.push_back(story.upload(fill, at, len));
            }
            1 => downs.push_back((story.download(at, len), shadow[range].to_vec())),
            _ => {
                let to = place(&mut rng);
                shadow.copy_within(range, to as usize);
                story.moves(&[(at..at + len, to)]);
            }
        }
        // Bounds host memory, and lets the host wait now and then, for the oldest or for the newest.
        if ups.len() > 8 {
            drop(
                if rng.below(2) == 0 { ups.pop_back() } else { ups.pop_front() }.map(|up| up.wait().unwrap()),
            );
        }
        if downs.len() > 8
            && let Some((down, expected)) =
                if rng.below(2) == 0 { downs.pop_back() } else { downs.pop_front() }
        {
            assert!(down.wait().unwrap().as_slice() == expected, "seed {seed}, before step {step}");
        }
    }
    for (down, expected) in downs {
        assert!(down.wait().unwrap().as_slice() == expected, "seed {seed}, at the end");
    }
    drop(ups);
    story.bench.drain(&story.buffer);
    assert!(story.bench.contents(&story.buffer, 0, size) == shadow, "seed {seed}, the buffer at the end");
    story.end();
}

/// A buffer whose every use goes through [`Hazards`].
struct Story<T: Transfer> {
    bench: Bench<T>,
    buffer: T::Buffer,
    hazards: Hazards<T::Event>,
    waits: Vec<T::Event>,
}

impl<T: Transfer> Story<T> {
    fn new<H: Harness<Device = T>>(harness: &H, size: u64) -> Self {
        let bench = Bench::new(harness.device(), 1 << 20);
        let buffer = bench.buffer(size);
        Story { bench, buffer, hazards: Hazards::new(), waits: Vec::new() }
    }

    fn upload(&mut self, seed: u64, at: u64, len: u64) -> Ticket<T> {
        let slice: SliceOf<T> = self.bench.slice(seed, len);
        let accesses = [(at..at + len, Access::Write)];
        let queue = self.bench.device.lane(Lane::Upload).clone();
        self.order(&queue, &accesses);
        let ticket = self.bench.upload(slice, &mut self.buffer, at);
        self.hazards.after(&accesses, ticket.event());
        ticket
    }

    fn download(&mut self, from: u64, len: u64) -> Ticket<T> {
        let accesses = [(from..from + len, Access::Read)];
        let queue = self.bench.device.lane(Lane::Download).clone();
        self.order(&queue, &accesses);
        let ticket = self.bench.download(&self.buffer, from, len);
        self.hazards.after(&accesses, ticket.event());
        ticket
    }

    /// One operation: all waits, the copies in order, one event.
    fn moves(&mut self, moves: &[(Range<u64>, u64)]) {
        let accesses: Vec<_> = moves
            .iter()
            .flat_map(|(src, dst)| {
                [(src.clone(), Access::Read), (*dst..dst + (src.end - src.start), Access::Write)]
            })
            .collect();
        let queue = self.buffer.queue().clone();
        self.order(&queue, &accesses);
        for (src, dst) in moves {
            self.buffer.copy_within(src.clone(), *dst).unwrap();
        }
        let event = queue.record().unwrap();
        self.hazards.after(&accesses, &event);
    }

    fn order(&mut self, queue: &T::Queue, accesses: &[(Range<u64>, Access)]) {
        self.waits.clear();
        self.hazards.before(accesses, &mut self.waits);
        for event in &self.waits {
            queue.wait(event).unwrap();
        }
    }

    /// Drained, nothing is left to wait for and every slice is back.
    fn end(mut self) {
        self.bench.drain(&self.buffer);
        assert_eq!(self.hazards.prune(), 0, "work has ended and is still waited for");
        assert_eq!(self.bench.device.parking().sweep(), 0);
        assert_eq!(self.bench.pool.stats().slices, 0);
        self.waits.clear();
        self.hazards.before(&[(0..u64::MAX, Access::Write)], &mut self.waits);
        assert!(self.waits.iter().all(|event| event.is_settled()));
    }
}

/// Length of a transfer in bytes: several cache lines, a multiple of every grain so far.
const LEN: u64 = 1024;
