//! Buffers whose pages come, go and change places while other threads use clones of them.

#![cfg(all(target_os = "linux", not(feature = "gpu-tests")))]
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on should stop where it stands")]

mod common;

use allocator_core::{DeviceBuffer, Remap};
use backend_cuda::{CudaBuffer, CudaDevice, CudaError, CudaOptions};
use common::{Fault, Sim};
use pinned_host::{DeviceError, ErrorKind, Queue, QueuedBuffer, Transfer};

const GRANULE: u64 = 2 << 20;

fn device() -> CudaDevice {
    CudaOptions::new().virtual_memory(true).scratch(0).reserve(6 * GRANULE).open().unwrap()
}

/// What may come of a use of bytes that may be gone.
fn in_time(done: Result<(), CudaError>) {
    if let Err(error) = done {
        assert_eq!(error.kind(), ErrorKind::InvalidUse, "{error}");
    }
}

#[test]
fn clones_go_on_while_pages_come_and_go() {
    let sim = Sim::new(1);
    let device = device();
    let buffer = device.buffer(4 * GRANULE).unwrap();
    let run = |job: fn(&mut CudaBuffer, u64)| {
        let mut clone = buffer.clone();
        move || (0..200).for_each(|round| job(&mut clone, round))
    };
    std::thread::scope(|scope| {
        scope.spawn(run(|buffer, round| buffer.resize((1 + round % 5) * GRANULE).unwrap()));
        scope.spawn(run(|buffer, round| buffer.resize((5 - round % 5) * GRANULE).unwrap()));
        scope.spawn(run(|buffer, _| in_time(buffer.remap(2 * GRANULE..3 * GRANULE, 3 * GRANULE))));
        scope.spawn(run(|buffer, round| in_time(buffer.copy_within(0..64, (round % 5 + 1) * GRANULE - 64))));
        scope.spawn(run(|buffer, round| {
            let at = (round % 5) * GRANULE;
            in_time(buffer.copy_independent(&[(at..at + 64, at + 64), (at + 128..at + 192, at + 192)]));
        }));
        let (device, mut clone) = (&device, buffer.clone());
        scope.spawn(move || {
            for round in 0..200u64 {
                // Ordered with the copies: the first granule's end is nobody else's.
                in_time(device.write_now(&mut clone, GRANULE - 4096, &[round as u8; 64]));
            }
        });
    });
    buffer.queue().drain().unwrap();
    let pages = buffer.size().div_ceil(GRANULE) * GRANULE;
    assert_eq!(device.memory().current, pages, "the account and the size agree");
    assert_eq!(sim.undefined_uses(), 0, "{}", sim.report());
    let mut found = [0; 64];
    device.read_now(&buffer, GRANULE - 4096, &mut found).unwrap();
    assert_eq!(found, [199; 64]);
}

#[test]
fn a_remap_that_could_not_be_taken_back_has_happened() {
    let sim = Sim::new(2);
    let device = device();
    let mut buffer = device.buffer(2 * GRANULE).unwrap();
    for granule in 0..2u8 {
        device.write_now(&mut buffer, u64::from(granule) * GRANULE, &[granule; 64]).unwrap();
    }
    let first = |at: u64| {
        let mut found = [9; 64];
        device.read_now(&buffer, at, &mut found).unwrap();
        found[0]
    };
    let mut clone = buffer.clone();
    // The second page does not go to its new place at once, and the first does not leave its own.
    sim.inject_at(Fault::OutOfMemory, "cuMemMap", 2);
    sim.inject_at(Fault::NotSupported, "cuMemUnmap", 3);
    clone.remap(0..GRANULE, GRANULE).unwrap();
    assert_eq!(sim.faults_struck(), 2);
    assert_eq!((first(0), first(GRANULE)), (1, 0));
    // The same, and what was mapped comes off: nothing has happened.
    sim.inject_at(Fault::OutOfMemory, "cuMemMap", 2);
    assert_eq!(clone.remap(0..GRANULE, GRANULE).unwrap_err().kind(), ErrorKind::OutOfMemory);
    assert_eq!((first(0), first(GRANULE)), (1, 0));
}

#[test]
fn a_shrink_that_is_refused_changes_nothing() {
    let sim = Sim::new(3);
    let device = device();
    let mut buffer = device.buffer(3 * GRANULE).unwrap();
    device.write_now(&mut buffer, 2 * GRANULE, &[7; 64]).unwrap();
    let held = device.memory().current;
    sim.inject_at(Fault::NotSupported, "cuMemUnmap", 1);
    assert!(matches!(buffer.resize(GRANULE), Err(CudaError::Driver { call: "cuMemUnmap", .. })));
    assert_eq!((buffer.size(), device.memory().current), (3 * GRANULE, held));
    let mut found = [0; 64];
    device.read_now(&buffer, 2 * GRANULE, &mut found).unwrap();
    assert_eq!(found, [7; 64]);
    buffer.resize(GRANULE).unwrap();
}
