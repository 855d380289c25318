//! Buffers whose pages change places, under random programs and beside threads that look on.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on should stop where it stands")]

use allocator_core::{AllocError, Arena, ArenaError, DeviceBuffer, Handle, Remap, Request, remap_or_copy};
use backend_cpu::{CpuDevice, CpuError, PageBuffer};
use pinned_host::{Event, Queue, QueuedBuffer, Transfer};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

const MIB: u64 = 1 << 20;
const GRANULE: u64 = 2 * MIB;
/// Bytes between two tags within a block.
const STRIDE: usize = 512;

#[test]
fn churn_with_remapping_compaction_loses_no_byte() {
    for fixed in [false, true] {
        for seed in 1..=3 {
            let size = 48 * MIB + 12_288;
            let buffer = if fixed { PageBuffer::fixed(size) } else { PageBuffer::new(size) };
            let arena = churn(buffer.unwrap(), seed);
            assert!(arena.remapped_bytes() > 0, "seed {seed}: nothing was remapped");
        }
    }
}

/// Blocks of a few bytes to 8 MiB come and go; whatever moves them, they keep their tags.
fn churn(buffer: PageBuffer, seed: u64) -> Arena<PageBuffer> {
    let mut arena = Arena::new(buffer).unwrap();
    arena.set_remap(true);
    let mut live: Vec<(Handle, u64)> = Vec::new();
    let mut random = Random(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15));
    for round in 0..250 {
        let size = match random.below(4) {
            0 => 1 + random.below(64 << 10),
            1 => 1 + random.below(2 * MIB),
            _ => 1 + random.below(8 * MIB),
        };
        let align = [1, 4096, GRANULE, GRANULE][random.below(4) as usize];
        match arena.allocate(Request::new(size).align(align)) {
            Ok(handle) => {
                tag(arena_bytes(&mut arena, handle), round);
                live.push((handle, round));
            }
            Err(ArenaError::Alloc(AllocError::OutOfMemory { .. })) => {
                for _ in 0..=random.below(3).min(live.len() as u64 - 1) {
                    let (handle, _) = live.remove(random.below(live.len() as u64) as usize);
                    arena.release(handle).unwrap();
                }
                let budget = [4 * MIB, 16 * MIB, u64::MAX][random.below(3) as usize];
                if random.below(2) == 0 { arena.compact(budget) } else { arena.compact_pages(budget) }
                    .unwrap();
            }
            Err(error) => panic!("{size} bytes: {error}"),
        }
        for (handle, round) in &live {
            check(arena_bytes(&mut arena, *handle), *round);
        }
        arena.allocator().check().unwrap();
    }
    arena
}

fn arena_bytes(arena: &mut Arena<PageBuffer>, handle: Handle) -> &mut [u8] {
    let range = arena.range(handle).unwrap();
    &mut arena.buffer_mut().bytes_mut()[range.start as usize..range.end as usize]
}

fn tag(bytes: &mut [u8], round: u64) {
    for (number, piece) in bytes.chunks_mut(STRIDE).enumerate() {
        let tag = (round << 32 | number as u64).to_le_bytes();
        let len = piece.len().min(8);
        piece[..len].copy_from_slice(&tag[..len]);
    }
    *bytes.last_mut().unwrap() = round as u8;
}

fn check(bytes: &[u8], round: u64) {
    let (last, bytes) = bytes.split_last().unwrap();
    assert_eq!(*last, round as u8);
    for (number, piece) in bytes.chunks(STRIDE).enumerate() {
        let tag = (round << 32 | number as u64).to_le_bytes();
        let len = piece.len().min(8);
        assert_eq!(piece[..len], tag[..len], "tag {number} of the block of round {round}");
    }
}

#[test]
fn errors_say_what_is_wrong() {
    let mut buffer = PageBuffer::new(16 * MIB + 1).unwrap();
    assert_eq!((buffer.size(), buffer.granule()), (16 * MIB + 1, GRANULE));
    assert!(matches!(buffer.remap(0..MIB, 4 * MIB), Err(CpuError::Range(_))));
    assert!(matches!(buffer.remap(0..GRANULE, 16 * MIB), Err(CpuError::Range(_))));
    let overlap = buffer.remap(0..2 * GRANULE, GRANULE);
    assert!(matches!(overlap, Err(CpuError::Overlap { src: 0, dst: GRANULE, len: 4_194_304 })));
    assert!(matches!(PageBuffer::new(u64::MAX), Err(CpuError::Memory { .. } | CpuError::TooLarge { .. })));
    let small = PageBuffer::new(GRANULE + 5).unwrap();
    assert!(!small.exchanges_pages(), "there is only one granule");
    assert!(PageBuffer::new(0).unwrap().bytes().is_empty());
}

#[cfg(target_os = "linux")]
#[test]
fn a_buffer_of_two_granules_or_more_exchanges_pages_on_linux() {
    let mut buffer = PageBuffer::new(2 * GRANULE).unwrap();
    assert!(buffer.exchanges_pages());
    buffer.bytes_mut()[0] = 1;
    buffer.bytes_mut()[GRANULE as usize] = 2;
    buffer.remap(0..GRANULE, GRANULE).unwrap();
    assert_eq!((buffer.bytes()[0], buffer.bytes()[GRANULE as usize]), (2, 1));
}

/// Threads that read and write through views see whole granules, never one on its way.
#[test]
fn views_are_kept_from_ranges_whose_pages_move() {
    const GRANULES: u64 = 6;
    let device = CpuDevice::new().unwrap();
    let mut buffer = device.buffer(GRANULES * GRANULE).unwrap();
    for number in 0..GRANULES {
        let view = buffer.view(number * GRANULE..(number + 1) * GRANULE).unwrap();
        view.with_mut(|words: &mut [u64]| words.fill(number + 1)).unwrap();
    }
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for thread in 0..2_u64 {
            let (buffer, done) = (buffer.clone(), &done);
            scope.spawn(move || {
                let mut random = Random(thread + 7);
                while !done.load(Relaxed) {
                    let start = random.below(GRANULES) * GRANULE;
                    let view = buffer.view(start..start + GRANULE).unwrap();
                    let whole = |words: &[u64]| words.iter().step_by(97).all(|word| *word == words[0]);
                    if thread == 0 {
                        let same = view.with(|words: &[u64]| words[0] != 0 && whole(words));
                        assert!(same.unwrap(), "a granule in pieces");
                    } else {
                        let stamp = 100 + random.below(1000);
                        view.with_mut(|words: &mut [u64]| {
                            assert!(words[0] != 0 && whole(words), "a granule in pieces");
                            words.iter_mut().step_by(97).for_each(|word| *word = stamp);
                        })
                        .unwrap();
                    }
                }
            });
        }
        let mut random = Random(3);
        for _ in 0..500 {
            let (a, b) = (random.below(GRANULES), random.below(GRANULES));
            if a != b {
                buffer.remap(a * GRANULE..(a + 1) * GRANULE, b * GRANULE).unwrap();
            }
            buffer.queue().record().unwrap().synchronize().unwrap();
        }
        done.store(true, Relaxed);
    });
}

/// Moves by both means on one queue keep their order.
#[test]
fn remaps_and_copies_of_a_device_run_in_order() {
    let device = CpuDevice::new().unwrap();
    let mut buffer = device.buffer(8 * GRANULE).unwrap();
    device.write_now(&mut buffer, 3 * GRANULE - 100, b"the first bytes").unwrap();
    device.write_now(&mut buffer, 5 * GRANULE - 100, b"the last bytes").unwrap();
    let (src, len) = (3 * GRANULE - 100, 2 * GRANULE + 50);
    assert_eq!(remap_or_copy(&mut buffer, src..src + len, src - GRANULE).unwrap(), GRANULE);
    assert_eq!(remap_or_copy(&mut buffer, src - GRANULE..src - GRANULE + len, 7).unwrap(), 0);
    buffer.queue().drain().unwrap();
    let mut found = [0; 15];
    device.read_now(&buffer, 7, &mut found).unwrap();
    assert_eq!(&found, b"the first bytes");
    device.read_now(&buffer, 7 + 2 * GRANULE, &mut found[..14]).unwrap();
    assert_eq!(&found[..14], b"the last bytes");
}

struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) % bound
    }
}
