//! Random work of several threads on the CPU device, ordered by `Hazards`, against a model.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on should stop where it stands")]

use allocator_core::DeviceBuffer;
use backend_cpu::{CpuBuffer, CpuDevice, CpuEvent, CpuQueue};
use pinned_host::{Access, Hazards, HostPool, Lane, OsRegion, PageLocker, Queue, Ticket, Transfer};
use std::ops::Range;
use std::sync::Mutex;

const SIZE: u64 = 64 << 10;
const LONGEST: u64 = 8 << 10;
const THREADS: u64 = 4;
const OPERATIONS: u64 = 1500;

/// What all threads share. Operations are submitted one at a time; they run on four queues.
struct Shared {
    buffer: CpuBuffer,
    hazards: Hazards<CpuEvent>,
    waits: Vec<CpuEvent>,
    /// What the buffer holds once everything submitted has run.
    model: Vec<u8>,
}

impl Shared {
    /// Makes `queue` wait for what must come before these accesses.
    fn order(&mut self, queue: &CpuQueue, accesses: &[(Range<u64>, Access)]) {
        self.waits.clear();
        self.hazards.before(accesses, &mut self.waits);
        for event in &self.waits {
            queue.wait(event).unwrap();
        }
    }
}

struct Rng(u64);

impl Rng {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % bound
    }

    fn range(&mut self) -> Range<u64> {
        let len = 1 + self.below(LONGEST);
        let start = self.below(SIZE - len + 1);
        start..start + len
    }
}

#[test]
fn ordered_by_hazards_every_byte_is_right() {
    let device = CpuDevice::new().unwrap();
    let region = device.locker().pageable(4 << 20).unwrap().unwrap();
    let pool = HostPool::new(vec![region], 64).unwrap();
    let mut buffer = device.buffer(SIZE).unwrap();
    device.write_now(&mut buffer, 0, &vec![0; SIZE as usize]).unwrap();
    let model = vec![0; SIZE as usize];
    let shared = Mutex::new(Shared { buffer, hazards: Hazards::new(), waits: Vec::new(), model });
    let kernels = device.new_queue().unwrap();
    std::thread::scope(|scope| {
        for thread in 0..THREADS {
            let (device, pool, shared, kernels) = (&device, &pool, &shared, &kernels);
            scope.spawn(move || work(Rng(thread + 77), device, pool, shared, kernels));
        }
    });
    for lane in [device.lane(Lane::Upload), device.lane(Lane::Download), device.queue(), &kernels] {
        lane.drain().unwrap();
    }
    let shared = shared.into_inner().unwrap();
    let mut bytes = vec![0; SIZE as usize];
    device.read_now(&shared.buffer, 0, &mut bytes).unwrap();
    assert!(bytes == shared.model);
    assert_eq!(device.parking().sweep(), 0);
    assert_eq!(pool.stats().in_use, 0);
}

fn work(
    mut rng: Rng,
    device: &CpuDevice,
    pool: &HostPool<OsRegion>,
    shared: &Mutex<Shared>,
    kernels: &CpuQueue,
) {
    let mut downloads: Vec<(Ticket<CpuDevice>, Vec<u8>)> = Vec::new();
    for number in 0..OPERATIONS {
        let range = rng.range();
        let (span, len) = (range.start as usize..range.end as usize, (range.end - range.start) as usize);
        let mut state = shared.lock().unwrap();
        let state = &mut *state;
        match rng.below(4) {
            0 => {
                let mut slice = pool.allocate(len).unwrap();
                slice.as_mut_slice().iter_mut().for_each(|byte| *byte = rng.below(256) as u8);
                state.model[span].copy_from_slice(slice.as_slice());
                let accesses = [(range.clone(), Access::Write)];
                state.order(device.lane(Lane::Upload), &accesses);
                let ticket = device.upload(slice, &mut state.buffer, range.start).unwrap();
                state.hazards.after(&accesses, ticket.event());
                // Half of the tickets are dropped in flight.
                if number % 2 == 0 {
                    drop(ticket);
                } else {
                    downloads.push((ticket, Vec::new()));
                }
            }
            1 => {
                let accesses = [(range.clone(), Access::Read)];
                state.order(device.lane(Lane::Download), &accesses);
                let ticket =
                    device.download(&state.buffer, range.start, pool.allocate(len).unwrap()).unwrap();
                state.hazards.after(&accesses, ticket.event());
                downloads.push((ticket, state.model[span].to_vec()));
            }
            2 => {
                let dst = rng.below(SIZE - len as u64 + 1);
                let accesses = [(range.clone(), Access::Read), (dst..dst + len as u64, Access::Write)];
                state.model.copy_within(span, dst as usize);
                state.order(device.queue(), &accesses);
                state.buffer.copy_within(range, dst).unwrap();
                state.hazards.after(&accesses, &device.queue().record().unwrap());
            }
            _ => {
                let accesses = [(range.clone(), Access::Write)];
                state.model[span].iter_mut().for_each(|byte| *byte ^= 0x5a);
                state.order(kernels, &accesses);
                let buffer = state.buffer.clone();
                kernels
                    .launch(move || {
                        buffer
                            .view(range)?
                            .with_mut(|bytes: &mut [u8]| bytes.iter_mut().for_each(|b| *b ^= 0x5a))
                    })
                    .unwrap();
                state.hazards.after(&accesses, &kernels.record().unwrap());
            }
        }
        if downloads.len() > 8 {
            downloads.drain(..).for_each(check);
        }
    }
    downloads.into_iter().for_each(check);
}

fn check((ticket, expected): (Ticket<CpuDevice>, Vec<u8>)) {
    let slice = ticket.wait().unwrap();
    assert!(expected.is_empty() || slice.as_slice() == expected);
}

/// Nothing orders these: the bytes may be anybody's, but each access is kept apart from the others.
#[test]
fn unordered_accesses_are_kept_apart() {
    let device = CpuDevice::new().unwrap();
    let region = device.locker().pageable(1 << 20).unwrap().unwrap();
    let pool = HostPool::new(vec![region], 64).unwrap();
    let mut buffer = device.buffer(8192).unwrap();
    device.write_now(&mut buffer, 0, &[0; 8192]).unwrap();
    for round in 0..300u32 {
        let mut slice = pool.allocate(4096).unwrap();
        slice.as_mut_slice().fill(round as u8);
        let sent = device.upload(slice, &mut buffer, 0).unwrap();
        buffer.copy_within(0..4096, 4096).unwrap();
        let got = device.download(&buffer, 0, pool.allocate(4096).unwrap()).unwrap();
        let whole = |bytes: &[u8]| bytes.iter().all(|&byte| byte == bytes[0]);
        assert!(buffer.view(0..4096).unwrap().with(whole).unwrap());
        assert!(whole(got.wait().unwrap().as_slice()), "a download sees all of an upload or nothing");
        sent.wait().unwrap();
    }
}
