//! Many copies that are made together: by few launches of a kernel, and by other ways where that is refused.
//!
//! With feature `gpu-tests` on the machine's own driver, without what needs a fault or a count of the simulator's.

#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on should stop where it stands")]

mod common;

use allocator_core::{Arena, DeviceBuffer, Request};
use backend_cuda::cudarc::driver::sys::{CUgraphInstantiate_flags, CUresult, CUstreamCaptureMode};
use backend_cuda::{CudaBuffer, CudaDevice, CudaError, CudaOptions};
use common::{Fault, SIMULATED, Sim};
use pinned_host::{DeviceError, ErrorKind, Event, HostPool, PageLocker, Queue, QueuedBuffer, Transfer};
use std::ops::Range;

type Copies = Vec<(Range<u64>, u64)>;

/// A device with one buffer of known bytes, and what it should hold.
struct Bench {
    device: CudaDevice,
    buffer: CudaBuffer,
    shadow: Vec<u8>,
}

impl Bench {
    fn new(options: &CudaOptions) -> Bench {
        let device = options.open().unwrap();
        let mut buffer = device.buffer(SIZE).unwrap();
        let shadow: Vec<u8> =
            (0..SIZE).map(|at| (at.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 56) as u8).collect();
        device.write_now(&mut buffer, 0, &shadow).unwrap();
        Bench { device, buffer, shadow }
    }

    fn copy_independent(&mut self, copies: &Copies) {
        self.buffer.copy_independent(copies).unwrap();
        self.expect(copies);
    }

    fn copies_within(&mut self, copies: &[(Range<u64>, u64)]) {
        self.buffer.copies_within(copies).unwrap();
        self.expect(copies);
    }

    fn expect(&mut self, copies: &[(Range<u64>, u64)]) {
        for (src, dst) in copies {
            self.shadow.copy_within(src.start as usize..src.end as usize, *dst as usize);
        }
    }

    /// Everything is done, and right.
    fn check(&self) {
        self.buffer.queue().drain().unwrap();
        let mut found = vec![0; SIZE as usize];
        self.device.read_now(&self.buffer, 0, &mut found).unwrap();
        let wrong = found.iter().zip(&self.shadow).position(|(found, expected)| found != expected);
        assert_eq!(wrong, None, "the first wrong byte");
    }
}

/// `count` copies from the lower half to the upper, of all lengths up to some 40 KiB and all phases.
fn independent(count: u64) -> Copies {
    let mut dst = SIZE / 2;
    let copies = (0..count).map(|number| {
        let len = if number % 50 == 7 { 40_000 } else { 1 + number * number % 3000 };
        let src = number * 997 % (SIZE / 2 - len);
        let copy = (src..src + len, dst);
        dst += len + number % 7;
        copy
    });
    let copies: Copies = copies.collect();
    assert!(dst < SIZE, "{dst}");
    copies
}

const SIZE: u64 = 4 << 20;
const LAUNCH: &str = "cuLaunchKernel";
const COPY: &str = "cuMemcpyDtoDAsync_v2";
const BATCH: &str = "cuMemcpyBatchAsync";

#[test]
fn many_copies_are_few_launches() {
    let sim = Sim::new(1);
    let mut bench = Bench::new(&CudaOptions::new());
    bench.copy_independent(&independent(400));
    if SIMULATED {
        assert_eq!((sim.calls_of(LAUNCH), sim.calls_of("cuModuleLoadData")), (3, 1));
        assert_eq!(sim.calls_of(COPY) + sim.calls_of(BATCH), 0);
    }
    bench.check();
    assert!(bench.device.load_kernel().is_ok(), "{:?}", bench.device.load_kernel());
    // Those too long for it go as ever, and so does one by itself.
    let mut bench = Bench::new(&CudaOptions::new().kernel_copies(39_999));
    bench.copy_independent(&independent(400));
    bench.copy_independent(&vec![(0..64, SIZE - 64)]);
    if SIMULATED {
        assert_eq!((sim.calls_of(LAUNCH), sim.calls_of("cuModuleLoadData")), (6, 2));
        assert_eq!((sim.calls_of(BATCH), sim.calls_of(COPY)), (1, 1));
    }
    bench.check();
}

#[test]
fn loading_it_spoils_no_capture() {
    let sim = Sim::new(13);
    let mut bench = Bench::new(&CudaOptions::new());
    let stream = bench.device.cuda().new_stream().unwrap();
    stream.begin_capture(CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_GLOBAL).unwrap();
    bench.copy_independent(&independent(100));
    let none = CUgraphInstantiate_flags::CUDA_GRAPH_INSTANTIATE_FLAG_AUTO_FREE_ON_LAUNCH;
    stream.end_capture(none).unwrap();
    assert!(!SIMULATED || sim.calls_of(LAUNCH) == 1);
    bench.check();
}

#[test]
fn threads_share_the_scratch() {
    let _sim = Sim::new(14);
    let device = CudaDevice::new().unwrap();
    std::thread::scope(|scope| {
        for seed in 0..3u8 {
            let device = &device;
            scope.spawn(move || {
                let mut buffer = device.buffer(64 << 10).unwrap();
                let mut shadow: Vec<u8> = (0..64u32 << 10).map(|at| (at / 100) as u8 ^ seed).collect();
                for round in 0..if SIMULATED { 40 } else { 400 } {
                    device.write_now(&mut buffer, 0, &shadow).unwrap();
                    for (src, dst) in slide(12, 4000, 96 + round % 7) {
                        shadow.copy_within(src.start as usize..src.end as usize, dst as usize);
                    }
                    buffer.copies_within(&slide(12, 4000, 96 + round % 7)).unwrap();
                    buffer.queue().record().unwrap().synchronize().unwrap();
                    let mut found = vec![0; shadow.len()];
                    device.read_now(&buffer, 0, &mut found).unwrap();
                    assert!(found == shadow, "thread {seed}, round {round}");
                }
            });
        }
    });
}

#[test]
fn without_it_no_kernel_is_loaded() {
    let sim = Sim::new(2);
    let mut bench = Bench::new(&CudaOptions::new().kernel_copies(0));
    bench.copy_independent(&independent(100));
    bench.check();
    assert!(!SIMULATED || sim.calls_of("cuModuleLoadData") + sim.calls_of(LAUNCH) == 0);
}

#[test]
#[cfg_attr(feature = "gpu-tests", ignore = "needs a fault of the simulated driver")]
fn a_kernel_that_is_refused_is_not_asked_for_again() {
    let sim = Sim::new(3);
    let faults = [Fault::NotSupported, Fault::InvalidValue, Fault::OutOfMemory];
    for function in ["cuModuleLoadData", "cuModuleGetFunction", LAUNCH] {
        for fault in faults.into_iter().filter(|fault| function != LAUNCH || *fault != Fault::OutOfMemory) {
            sim.reset(3);
            let mut bench = Bench::new(&CudaOptions::new());
            sim.inject_at(fault, function, 1);
            for _ in 0..3 {
                bench.copy_independent(&independent(300));
            }
            assert_eq!(sim.faults_struck(), 1);
            assert_eq!(sim.calls_of("cuModuleLoadData"), 1, "{function}");
            assert_eq!(sim.calls_of(LAUNCH), u64::from(function == LAUNCH), "{function}");
            bench.check();
            assert!(!bench.device.is_lost() && bench.device.take_late_error().is_none());
            let why = bench.device.load_kernel().unwrap_err();
            assert!(matches!(why, CudaError::Driver { call, .. } if function.starts_with(*call)), "{why}");
            drop(bench);
            sim.check();
        }
    }
}

#[test]
#[cfg_attr(feature = "gpu-tests", ignore = "needs a fault of the simulated driver")]
fn a_launch_without_memory_is_made_another_way_this_time() {
    let sim = Sim::new(4);
    let mut bench = Bench::new(&CudaOptions::new());
    sim.inject_at(Fault::OutOfMemory, LAUNCH, 2);
    bench.copy_independent(&independent(400));
    assert_eq!((sim.calls_of(LAUNCH), sim.calls_of(BATCH)), (3, 1));
    bench.copy_independent(&independent(400));
    assert_eq!((sim.calls_of(LAUNCH), sim.calls_of(BATCH)), (6, 1));
    bench.check();
}

/// The launch to the scratch is taken, the launch back and the copy of the first move are refused: no move is made, and nobody
/// orders anything behind it. So the reads must be over, too.
#[test]
#[cfg_attr(feature = "gpu-tests", ignore = "needs a fault of the simulated driver")]
fn moves_that_are_refused_half_way_are_not_being_read() {
    for seed in 0..20 {
        let sim = Sim::new(seed);
        let mut bench = Bench::new(&CudaOptions::new());
        bench.device.load_kernel().unwrap();
        let (step, len) = (4608, 4096);
        let moves: Vec<_> = (0..100).map(|n| (512 + n * step..512 + n * step + len, n * len)).collect();
        sim.inject_at(Fault::OutOfMemory, LAUNCH, 2);
        sim.inject_at(Fault::OutOfMemory, COPY, 1);
        assert_eq!(bench.buffer.copies_within(&moves).unwrap_err().made, 0);
        assert_eq!(sim.faults_struck(), 2);
        let pool = HostPool::new(vec![bench.device.locker().lock(1 << 16).unwrap()], 64).unwrap();
        let mut slice = pool.allocate(len as usize).unwrap();
        slice.as_mut_slice().fill(9);
        let to = 512 + 99 * step;
        drop(bench.device.upload(slice, &mut bench.buffer, to).unwrap().wait().unwrap());
        bench.shadow[to as usize..(to + len) as usize].fill(9);
        bench.check();
        drop((pool, bench));
        sim.check();
    }
}

/// As of a copy in pieces: once something is enqueued, what is refused for good is told by the next event.
#[test]
#[cfg_attr(feature = "gpu-tests", ignore = "needs a fault of the simulated driver")]
fn copies_of_which_the_rest_is_refused_are_cut() {
    let sim = Sim::new(5);
    for first in [1, 2] {
        sim.reset(5);
        let mut bench = Bench::new(&CudaOptions::new());
        let copies = independent(200);
        sim.inject_at(Fault::OutOfMemory, LAUNCH, first);
        sim.inject_at(Fault::OutOfMemory, BATCH, 1);
        sim.inject_at(Fault::OutOfMemory, COPY, 1);
        sim.inject_at(Fault::OutOfMemory, COPY, 2);
        let copied = bench.buffer.copy_independent(&copies);
        if first == 1 {
            // Nothing was enqueued before, so all is refused and nothing changed.
            assert_eq!(copied.unwrap_err().kind(), ErrorKind::OutOfMemory);
            sim.clear_faults();
            bench.check();
        } else {
            copied.unwrap();
            let cut = bench.buffer.queue().record().unwrap().synchronize().unwrap_err();
            assert!(matches!(cut, CudaError::Cut { done, asked, .. } if 0 < done && done < asked), "{cut}");
        }
    }
}

#[test]
#[cfg_attr(feature = "gpu-tests", ignore = "needs a fault of the simulated driver")]
fn a_context_lost_at_a_launch_is_lost() {
    let sim = Sim::new(6);
    for fault in [Fault::DeviceLost, Fault::LaunchFailed, Fault::IllegalAddress] {
        for function in ["cuModuleLoadData", "cuModuleGetFunction", LAUNCH] {
            sim.reset(6);
            let mut bench = Bench::new(&CudaOptions::new());
            sim.inject_at(fault, function, 1);
            let copied = bench.buffer.copy_independent(&independent(200));
            let error = copied.and_then(|()| bench.buffer.queue().drain()).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::DeviceLost, "{fault:?} at {function}: {error}");
            assert!(bench.device.is_lost());
            drop(bench);
            assert_eq!((sim.undefined_uses(), sim.leaks()), (0, 0), "{}", sim.report());
        }
    }
}

/// Blocks of `len` bytes with `gap` bytes between them, slid together.
fn slide(count: u64, len: u64, gap: u64) -> Copies {
    let each = |number: u64| (gap + number * (len + gap), number * len);
    (0..count).map(each).map(|(src, dst)| (src..src + len, dst)).collect()
}

#[test]
fn a_compaction_goes_through_the_scratch_in_few_launches() {
    let sim = Sim::new(8);
    let mut bench = Bench::new(&CudaOptions::new());
    // 400 blocks, each of which moves into what the one before it left.
    let moves = slide(400, 4096, 512);
    bench.copies_within(&moves);
    if SIMULATED {
        assert_eq!(sim.calls_of(LAUNCH), 6, "170, 170 and 60, there and back");
        assert_eq!(sim.calls_of(COPY), 0);
    }
    bench.check();
    // Little scratch: as many as fit it, and each byte at the phase it had.
    let mut bench = Bench::new(&CudaOptions::new().scratch(40 << 10));
    bench.copies_within(&slide(45, 4091, 77));
    assert!(!SIMULATED || sim.calls_of(LAUNCH) == 6 + 2 * 5, "nine at a time");
    bench.check();
    // None: one by one, in steps where they overlap themselves.
    let mut bench = Bench::new(&CudaOptions::new().scratch(0));
    bench.copies_within(&slide(10, 4096, 4096));
    assert!(!SIMULATED || sim.calls_of(LAUNCH) == 16 + 3);
    bench.check();
}

#[test]
fn moves_of_all_kinds_take_effect_in_order() {
    let sim = Sim::new(9);
    for (seed, scratch) in [(0, 0), (1, 3000), (2, 1 << 20)] {
        if SIMULATED {
            sim.reset(seed);
        }
        let mut bench = Bench::new(&CudaOptions::new().scratch(scratch).step_cost(2000).kernel_copies(5000));
        for round in 0..30u64 {
            let mut moves = slide(10 + round * 5, 100 + 50 * (round % 7), 16 + round);
            if round % 3 == 0 {
                // Up, the last one first.
                moves.iter_mut().for_each(|(src, dst)| {
                    let (len, from) = (src.end - src.start, *dst);
                    (*dst, *src) = (src.start, from..from + len);
                });
                moves.reverse();
            }
            // Something long, something that reads what was just written, something of nothing.
            moves.insert(moves.len() / 2, (10_000..20_000, 4000));
            moves.insert(moves.len() / 3, (0..300, 150));
            moves.push((500..500, 7));
            bench.copies_within(&moves);
        }
        bench.check();
        drop(bench);
    }
}

#[test]
fn an_arena_compacts_in_few_launches() {
    let sim = Sim::new(10);
    let device = CudaDevice::new().unwrap();
    let mut arena = Arena::new(device.buffer(SIZE).unwrap()).unwrap();
    let request = |number: u64| Request::new(4096 + number % 3 * 256).align(256);
    let blocks: Vec<_> = (0..900).map_while(|number| arena.allocate(request(number)).ok()).collect();
    for (number, block) in blocks.iter().enumerate() {
        let at = arena.range(*block).unwrap().start;
        device.write_now(arena.buffer_mut(), at, &[number as u8; 4096]).unwrap();
    }
    for block in blocks.iter().step_by(5) {
        arena.release(*block).unwrap();
    }
    let moves = arena.plan_compact(u64::MAX).moves().len();
    assert!(moves > 600, "{moves}");
    arena.compact(u64::MAX).unwrap();
    if SIMULATED {
        let calls = sim.calls_of(LAUNCH) + sim.calls_of(COPY) + sim.calls_of(BATCH);
        assert!(calls < 20, "{calls} calls for {moves} moves");
    }
    device.queue().drain().unwrap();
    for (number, block) in blocks.iter().enumerate().filter(|(number, _)| number % 5 != 0) {
        let (at, mut found) = (arena.range(*block).unwrap().start, [0; 4096]);
        device.read_now(arena.buffer(), at, &mut found).unwrap();
        assert!(found == [number as u8; 4096], "block {number}");
    }
}

#[test]
#[cfg_attr(feature = "gpu-tests", ignore = "needs a fault of the simulated driver")]
fn a_launch_refused_there_or_back_loses_nothing() {
    let sim = Sim::new(11);
    for fault in [Fault::OutOfMemory, Fault::NotSupported, Fault::InvalidValue] {
        for k in 1..=6 {
            sim.reset(k);
            let mut bench = Bench::new(&CudaOptions::new());
            sim.inject_at(fault, LAUNCH, k);
            bench.copies_within(&slide(400, 4096, 512));
            assert_eq!(sim.faults_struck(), 1);
            bench.check();
        }
    }
}

#[test]
#[cfg_attr(feature = "gpu-tests", ignore = "needs a fault of the simulated driver")]
fn moves_that_are_refused_say_how_many_were_made() {
    let sim = Sim::new(12);
    // No launch after the third, and no copy after the seventh.
    let mut bench = Bench::new(&CudaOptions::new());
    let moves = slide(400, 4096, 512);
    sim.inject_at(Fault::NotSupported, LAUNCH, 3);
    // One copy each: moves there by more than their length.
    for k in 8..=30 {
        sim.inject_at(Fault::OutOfMemory, COPY, k);
    }
    let refused = bench.buffer.copies_within(&moves).unwrap_err();
    assert_eq!((refused.made, refused.error.kind()), (177, ErrorKind::OutOfMemory));
    sim.clear_faults();
    bench.expect(&moves[..177]);
    bench.check();
    bench.copies_within(&moves[177..]);
    bench.check();
    // And when the context is lost.
    sim.inject(Fault::DeviceLost, 1);
    let refused = bench.buffer.copies_within(&moves).unwrap_err();
    assert_eq!((refused.made, refused.error.kind()), (0, ErrorKind::DeviceLost));
}

#[test]
#[cfg_attr(feature = "gpu-tests", ignore = "needs a fault of the simulated driver")]
fn a_kernel_that_may_still_run_stays_loaded() {
    let sim = Sim::new(7).leaking(true);
    // Nothing but the buffer waits for the stream.
    let mut bench = Bench::new(&CudaOptions::new().scratch(0));
    bench.copy_independent(&independent(10));
    let error = CUresult::CUDA_ERROR_NOT_SUPPORTED;
    sim.inject_at(Fault::NotSupported, "cuStreamSynchronize", 1);
    sim.inject_at(Fault::NotSupported, "cuStreamSynchronize", 2);
    drop(bench.buffer);
    assert_eq!(bench.device.take_late_error().unwrap().code(), Some(error));
    sim.clear_faults();
    drop(bench.device);
    assert_eq!((sim.calls_of("cuModuleUnload"), sim.undefined_uses()), (0, 0), "{}", sim.report());
}
