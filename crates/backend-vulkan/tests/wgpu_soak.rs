//! Two arenas on one device, two threads on both, and 10,000 random steps: no byte is lost, nobody waits for ever and
//! the validation layer has nothing to say.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on should stop where it stands")]

mod wgpu_support;

use allocator_core::{Arena, Handle, Request};
use backend_vulkan::{WgpuBuffer, WgpuDevice, WgpuMoves, WgpuOptions, wgpu};
use pinned_host::{Event, HostPool, OsRegion, PageLocker, Queue, Ticket, Transfer};
use std::sync::Mutex;
use wgpu_support::{no_message, noop, vulkan};

const STEPS: u64 = 10_000;
const ARENA: u64 = 256 << 10;
const LONGEST: u64 = 24 << 10;

#[test]
fn two_arenas_and_two_threads_raw() {
    vulkan(options(WgpuMoves::Raw)).into_iter().for_each(|device| soak(&device));
}

#[test]
fn two_arenas_and_two_threads_direct() {
    vulkan(options(WgpuMoves::Raw).direct(true)).into_iter().for_each(|device| soak(&device));
}

#[test]
fn two_arenas_and_two_threads_scratch() {
    vulkan(options(WgpuMoves::Scratch)).into_iter().for_each(|device| soak(&device));
}

#[test]
fn two_arenas_and_two_threads_noop() {
    soak(&noop(options(WgpuMoves::Auto)));
}

fn options(moves: WgpuMoves) -> WgpuOptions {
    WgpuOptions::new().piece(8192).staging(24 << 10).scratch(8192).moves(moves).direct(false)
}

fn soak(device: &WgpuDevice) {
    let arenas = [0, 1].map(|_| {
        let arena = Arena::new(device.buffer(ARENA).unwrap()).unwrap();
        Mutex::new(Place { arena, live: Vec::new() })
    });
    let region = device.locker().pageable(2 << 20).unwrap().unwrap();
    let pool = HostPool::new(vec![region], 64).unwrap();
    std::thread::scope(|scope| {
        for seed in [1, 2] {
            let (arenas, pool) = (&arenas, &pool);
            scope.spawn(move || {
                let mut walker = Walker { device, pool, random: seed, flying: Vec::new() };
                for _ in 0..STEPS / 2 {
                    let place = &arenas[walker.below(2) as usize];
                    walker.step(&mut place.lock().unwrap());
                    // Waits hold no arena.
                    if walker.flying.len() > 6 {
                        walker.land();
                    }
                }
                while !walker.flying.is_empty() {
                    walker.land();
                }
            });
        }
    });
    for place in arenas {
        let Place { arena, live } = place.into_inner().unwrap();
        device.queue().drain().unwrap();
        for (handle, seed) in live {
            let range = arena.range(handle).unwrap();
            let mut found = vec![0; (range.end - range.start) as usize];
            device.read_now(arena.buffer(), range.start, &mut found).unwrap();
            assert!(found == pattern(found.len(), seed), "block {handle} lost its bytes");
        }
    }
    assert_eq!(device.parking().sweep(), 0);
    assert_eq!(pool.stats().slices, 0);
    no_message();
}

/// An arena, and the seeds of its blocks' bytes.
struct Place {
    arena: Arena<WgpuBuffer>,
    live: Vec<(Handle, u64)>,
}

struct Walker<'a> {
    device: &'a WgpuDevice,
    pool: &'a HostPool<OsRegion>,
    random: u64,
    /// Downloads and what they must bring; uploads bring nothing.
    flying: Vec<(Ticket<WgpuDevice>, Option<u64>)>,
}

impl Walker<'_> {
    fn step(&mut self, place: &mut Place) {
        match self.below(10) {
            0..=3 => self.fill(place),
            4..=6 => self.read(place),
            7 => {
                if !place.live.is_empty() {
                    let index = self.below(place.live.len() as u64) as usize;
                    place.arena.release(place.live.swap_remove(index).0).unwrap();
                }
            }
            8 => {
                let budget = self.below(ARENA);
                place.arena.compact(budget).unwrap();
                let moved = self.device.queue().record().unwrap();
                if self.below(4) == 0 {
                    moved.synchronize().unwrap();
                }
            }
            _ => {
                // The user's own, in between.
                let (native, queue) = self.device.native();
                let encoder = native.create_command_encoder(&Default::default());
                queue.submit([encoder.finish()]);
                let _ = native.poll(wgpu::PollType::Poll);
            }
        }
    }

    fn fill(&mut self, place: &mut Place) {
        let len = 4 * (1 + self.below(LONGEST / 4));
        // Where only fragmentation is in the way this moves others.
        let Ok(handle) = place.arena.allocate(Request::new(len)) else {
            for (handle, _) in place.live.drain(..place.live.len().min(3)) {
                place.arena.release(handle).unwrap();
            }
            return;
        };
        let (seed, range) = (self.next(), place.arena.range(handle).unwrap());
        let len = (range.end - range.start) as usize;
        let mut slice = self.pool.allocate(len).unwrap();
        slice.as_mut_slice().copy_from_slice(&pattern(len, seed));
        let ticket = self.device.upload(slice, place.arena.buffer_mut(), range.start).unwrap();
        place.live.push((handle, seed));
        // Some tickets are kept, some dropped in flight.
        if self.below(2) == 0 {
            self.flying.push((ticket, None));
        }
    }

    fn read(&mut self, place: &mut Place) {
        if place.live.is_empty() {
            return;
        }
        let (handle, seed) = place.live[self.below(place.live.len() as u64) as usize];
        let range = place.arena.range(handle).unwrap();
        let slice = self.pool.allocate((range.end - range.start) as usize).unwrap();
        let ticket = self.device.download(place.arena.buffer(), range.start, slice).unwrap();
        if self.below(8) == 0 {
            drop(ticket);
        } else {
            self.flying.push((ticket, Some(seed)));
        }
    }

    /// Waits for one of the flying transfers.
    fn land(&mut self) {
        let index = self.below(self.flying.len() as u64) as usize;
        let (ticket, seed) = self.flying.swap_remove(index);
        let slice = ticket.wait().unwrap();
        if let Some(seed) = seed {
            assert!(slice.as_slice() == pattern(slice.len(), seed), "a download brought other bytes");
        }
    }

    fn next(&mut self) -> u64 {
        self.random =
            self.random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        self.random >> 33
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }
}

fn pattern(len: usize, seed: u64) -> Vec<u8> {
    let word = |at: u64| (at ^ seed << 20).wrapping_mul(0x9E37_79B9_7F4A_7C15).to_le_bytes();
    (0..len as u64 / 4).flat_map(|at| word(at)[4..].to_vec()).collect()
}
