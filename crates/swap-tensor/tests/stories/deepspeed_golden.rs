//! The two tests of DeepSpeed's `deepspeed/runtime/zero/test.py`, value by value and line by line.
//!
//! Under the original's policy everything is equal: placement, occupancy lines, norms. Under the default policy the values,
//! norms, total free and high-water mark are, and no more bytes move.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on should stop where it stands")]

use allocator_core::{Compaction, Move, Observer};
use backend_cpu::{CpuBuffer, CpuDevice, CpuQueue};
use half::f16;
use pinned_host::{Event, Queue, QueuedBuffer, Transfer};
use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};
use swap_tensor::{ContiguousAllocator, TensorId};

/// One run of one of the original's tests.
struct Run {
    _device: CpuDevice,
    queue: CpuQueue,
    memory: ContiguousAllocator<CpuBuffer, f16>,
    slide: bool,
    /// By the original's names: a1, a2, …
    live: BTreeMap<u32, (TensorId, f32)>,
    lines: Vec<String>,
    moved: Arc<AtomicU64>,
}

struct CountMoves(Arc<AtomicU64>);

impl Observer for CountMoves {
    fn on_move(&mut self, m: &Move) {
        self.0.fetch_add(m.src.end - m.src.start, Ordering::Relaxed);
    }
}

impl Run {
    fn new(numel: u64, compaction: Compaction) -> Run {
        let device = CpuDevice::new().unwrap();
        let buffer = device.buffer(2 * numel).unwrap();
        let queue = buffer.queue().clone();
        let mut memory = ContiguousAllocator::new(buffer).unwrap();
        let moved = Arc::new(AtomicU64::new(0));
        memory.set_observer(Box::new(CountMoves(Arc::clone(&moved))));
        let slide = compaction == Compaction::SlideDown;
        memory.set_compaction(compaction);
        Run { _device: device, queue, memory, slide, live: BTreeMap::new(), lines: Vec::new(), moved }
    }

    /// Allocates tensor `name` of `numel` elements and fills it with `value`.
    fn alloc(&mut self, name: u32, numel: u64, value: f32) {
        if self.slide && self.memory.largest_contiguous() < numel {
            // What the original prints around its defragmentation.
            self.print();
            self.memory.defragment().unwrap();
            self.print();
        }
        let id = self.memory.allocate_tensor(numel).unwrap();
        self.wait();
        let view = self.memory.view(id).unwrap();
        view.with_mut(|x: &mut [f16]| x.fill(f16::from_f32(value))).unwrap();
        self.live.insert(name, (id, value));
        self.check_values();
    }

    fn free(&mut self, name: u32) {
        let (id, _) = self.live.remove(&name).unwrap();
        self.memory.release_tensor(id).unwrap();
        self.check_values();
    }

    fn print(&mut self) {
        self.lines.push(self.memory.print_allocation(100));
    }

    fn check_values(&self) {
        self.wait();
        for (name, (id, value)) in &self.live {
            let view = self.memory.view(*id).unwrap();
            view.with(|x: &[f16]| assert!(x.iter().all(|x| x.to_f32() == *value), "a{name} lost its values"))
                .unwrap();
        }
    }

    fn wait(&self) {
        self.queue.record().unwrap().synchronize().unwrap();
    }

    /// The sum of the norms of `names`: with sequential f16 accumulation as the original's CPU kernel does, and with f32
    /// accumulation and each norm rounded to f16.
    fn norms(&self, names: &[u32]) -> (f32, f32) {
        self.wait();
        let (mut narrow, mut wide) = (f16::ZERO, f16::ZERO);
        for name in names {
            let view = self.memory.view(self.live[name].0).unwrap();
            view.with(|x: &[f16]| {
                let acc = x.iter().fold(f16::ZERO, |acc, &x| acc + x * x);
                narrow += f16::from_f32(acc.to_f32().sqrt());
                let acc: f32 = x.iter().map(|x| x.to_f32() * x.to_f32()).sum();
                wide += f16::from_f32(acc.sqrt());
            })
            .unwrap();
        }
        (narrow.to_f32(), wide.to_f32())
    }

    fn starts(&self) -> Vec<(u32, u64)> {
        self.live.iter().map(|(&name, (id, _))| (name, self.memory.elements(*id).unwrap().start)).collect()
    }
}

fn test1(compaction: Compaction) -> Run {
    let mut r = Run::new(1024, compaction);
    r.print();
    r.alloc(1, 64, 1.0);
    r.print();
    r.free(1);
    r.print();
    r.alloc(2, 64, 2.0);
    r.alloc(3, 256, 3.0);
    r.alloc(4, 128, 4.0);
    r.print();
    r.free(3);
    r.print();
    r.alloc(5, 64, 5.0);
    r.alloc(6, 256, 6.0);
    r.alloc(7, 128, 7.0);
    r.print();
    r.alloc(8, 256, 8.0);
    r.alloc(9, 128, 9.0);
    r.print();
    for name in [9, 6, 2, 5] {
        r.free(name);
    }
    r.alloc(10, 512, 10.0);
    r.print();
    r
}

fn test2(compaction: Compaction) -> Run {
    let mut r = Run::new(512, compaction);
    for name in 1..=8 {
        r.alloc(name, 64, name as f32);
    }
    for name in [2, 4, 6, 8] {
        r.free(name);
    }
    r.print();
    r.alloc(9, 128, 9.0);
    r.alloc(10, 64, 10.0);
    r.alloc(11, 64, 11.0);
    r.free(1);
    r.free(5);
    r.print();
    r.alloc(12, 128, 12.0);
    r.print();
    r
}

/// `"|6 .94"` is six occupied cells and ninety-four free ones.
fn lines(runs: &[&str]) -> Vec<String> {
    let line = |runs: &&str| {
        let cells = runs.split(' ').map(|run| run[..1].repeat(run[1..].parse().unwrap()));
        cells.collect::<String>()
    };
    runs.iter().map(line).collect()
}

#[test]
fn test1_under_the_originals_policy() {
    let r = test1(Compaction::SlideDown);
    assert_eq!(
        r.lines,
        lines(&[
            ".100",
            "|6 .94",
            ".100",
            "|43 .57",
            "|6 .25 |12 .57",
            "|25 .6 |37 .32",
            "|25 .6 |62 .7",
            "|87 .13",
            "|100",
            ".12 |25 .25 |25 .13",
            "|50 .50",
            "|100",
        ])
    );
    assert_eq!(r.starts(), [(4, 128), (7, 0), (8, 256), (10, 512)]);
    assert_eq!(r.norms(&[4, 7, 8, 10]), (474.50, 478.75));
    assert_eq!((r.memory.max_allocated(), r.memory.total_free()), (1024, 0));
}

#[test]
fn test2_under_the_originals_policy() {
    let r = test2(Compaction::SlideDown);
    let holes = "|12 .13 |12 .13 |12 .13 |12 .13";
    let front = ".12 |13 .12 |63";
    assert_eq!(r.lines, lines(&[holes, holes, "|50 .50", front, front, "|75 .25", "|100"]));
    assert_eq!(r.starts(), [(3, 0), (7, 64), (9, 128), (10, 256), (11, 320), (12, 384)]);
    assert_eq!(r.norms(&[7, 9, 10, 11, 12]), (460.75, 461.5));
    assert_eq!((r.memory.max_allocated(), r.memory.total_free()), (512, 0));
}

#[test]
fn the_default_policy_keeps_every_promise_and_moves_no_more() {
    let (mine, original) = (test1(Compaction::Minimal), test1(Compaction::SlideDown));
    assert_eq!(mine.norms(&[4, 7, 8, 10]), (474.50, 478.75));
    assert_eq!((mine.memory.max_allocated(), mine.memory.total_free()), (1024, 0));
    assert!(mine.moved.load(Ordering::Relaxed) <= original.moved.load(Ordering::Relaxed));

    let (mine, original) = (test2(Compaction::Minimal), test2(Compaction::SlideDown));
    assert_eq!(mine.norms(&[7, 9, 10, 11, 12]), (460.75, 461.5));
    assert_eq!((mine.memory.max_allocated(), mine.memory.total_free()), (512, 0));
    assert!(mine.moved.load(Ordering::Relaxed) <= original.moved.load(Ordering::Relaxed));
}
