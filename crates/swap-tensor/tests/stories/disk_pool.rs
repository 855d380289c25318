//! A pool over a device, host memory and a disk tier: what goes down comes back as it was, whatever fails on the way.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on should stop where it stands")]

use backend_cpu::CpuDevice;
use std::time::Duration;
use swap_tensor::{
    DType, Residency, SwapError, SwapPool, Tensor, TensorSpec,
    disk::{Call, DiskConfig, DiskStore, Fault, FaultPlan},
};

const UNIT: u64 = 320 << 10;

fn store(units: u64) -> DiskConfig {
    DiskConfig::new(std::env::temp_dir(), units * UNIT)
}

fn pool(device: u64, host: u64, store: &DiskStore) -> SwapPool<CpuDevice> {
    SwapPool::builder(CpuDevice::new().unwrap())
        .device_memory(device * UNIT)
        .host_memory(host * UNIT)
        .staging(512 << 10)
        .deadline(Duration::from_secs(20))
        .disk(store.clone())
        .build()
        .unwrap()
}

fn contents(seed: u64, bytes: u64) -> Vec<u8> {
    (0..bytes).map(|i| ((i * 31 + i / 251) as u8).wrapping_add(seed as u8)).collect()
}

fn create(pool: &SwapPool<CpuDevice>, name: u64, bytes: u64) -> Result<Tensor<CpuDevice>, SwapError> {
    let spec = TensorSpec::new(format!("t{name}"), DType::U8, [bytes]).unwrap();
    pool.create(spec, &contents(name, bytes))
}

fn reads(tensor: &Tensor<CpuDevice>, seed: u64) {
    let mut bytes = vec![0; tensor.spec().bytes() as usize];
    tensor.read().unwrap().read_now(&mut bytes).unwrap();
    assert!(bytes == contents(seed, bytes.len() as u64), "{} lost its contents", tensor.spec().name());
}

fn copies(tensor: &Tensor<CpuDevice>, seed: u64) {
    let mut bytes = vec![0; tensor.spec().bytes() as usize];
    tensor.copy_to(&mut bytes).unwrap();
    assert!(bytes == contents(seed, bytes.len() as u64), "{} lost its contents", tensor.spec().name());
}

fn rewrite(tensor: &Tensor<CpuDevice>, seed: u64) {
    tensor.overwrite().unwrap().upload(&contents(seed, tensor.spec().bytes())).unwrap();
}

fn on_disk(tensors: &[Tensor<CpuDevice>]) -> usize {
    tensors.iter().filter(|t| t.residency() == Residency::Disk).count()
}

/// With host memory for two, for one, and for none: then straight from the device.
#[test]
fn more_than_device_and_host_hold_streams_through_them() {
    for host in [2, 1, 0] {
        let store = store(40).open().unwrap();
        let pool = pool(2, host, &store);
        let tensors: Vec<_> = (0..12).map(|i| create(&pool, i, UNIT - i * 977).unwrap()).collect();
        for round in 1..4u64 {
            for (i, tensor) in tensors.iter().enumerate() {
                rewrite(tensor, 100 * round + i as u64);
                pool.check().unwrap();
            }
            for (i, tensor) in tensors.iter().enumerate().rev() {
                reads(tensor, 100 * round + i as u64);
                copies(tensor, 100 * round + i as u64);
                pool.check().unwrap();
            }
        }
        pool.settle().unwrap();
        let stats = pool.stats();
        assert!(stats.spills >= 20 && stats.disk_read_bytes > 20 * UNIT, "host {host}: {stats:?}");
        assert!(on_disk(&tensors) >= 8);
        drop(tensors);
        pool.settle().unwrap();
        assert_eq!((pool.stats().disk_bytes, pool.stats().host_bytes, pool.stats().device_bytes), (0, 0, 0));
        assert_eq!(store.stats().in_flight, 0);
    }
}

/// What is on disk and only read leaves the device without a copy.
#[test]
fn a_clean_copy_on_disk_is_not_written_again() {
    let store = store(40).open().unwrap();
    let pool = pool(2, 1, &store);
    let tensors: Vec<_> = (0..8).map(|i| create(&pool, i, UNIT).unwrap()).collect();
    (0..8).for_each(|i| reads(&tensors[i], i as u64));
    pool.settle().unwrap();
    let before = pool.stats();
    for _ in 0..2 {
        (0..8).for_each(|i| reads(&tensors[i], i as u64));
    }
    let after = pool.stats();
    assert!(after.disk_written_bytes - before.disk_written_bytes <= UNIT, "{before:?} {after:?}");
    assert!(after.disk_read_bytes - before.disk_read_bytes >= 10 * UNIT);
}

/// Hundreds of small tensors share extents, and come back one by one.
#[test]
fn small_tensors_are_packed() {
    let store = store(40).open().unwrap();
    let pool = pool(1, 1, &store);
    let tensors: Vec<_> = (0..400).map(|i| create(&pool, i, 3000 + i * 7).unwrap()).collect();
    pool.settle().unwrap();
    assert!(on_disk(&tensors) > 200);
    assert!(store.stats().extents < 20, "{:?}", store.stats());
    (0..400).for_each(|i| reads(&tensors[i as usize], i));
    (0..400).for_each(|i| copies(&tensors[i as usize], i));
    drop(tensors);
    pool.settle().unwrap();
    assert_eq!((store.stats().extents, store.stats().dead_bytes), (0, 0));
}

/// Small tensors that change one by one leave packs with little alive behind, whose rest moves together: the room they take stays
/// within twice what they are, and nobody who reads them notices.
#[test]
fn packs_that_are_mostly_dead_move_together() {
    let (count, bytes) = (600, 10_000);
    let store = store(80).open().unwrap();
    let pool = pool(1, 1, &store);
    // A pack of two that nobody touches again.
    let cold: Vec<_> = (0..2).map(|i| create(&pool, 9000 + i, 3000).unwrap()).collect();
    let crowd: Vec<_> = (0..3).map(|i| create(&pool, 9100 + i, UNIT - 8192).unwrap()).collect();
    pool.settle().unwrap();
    drop(crowd);
    let tensors: Vec<_> = (0..count).map(|i| create(&pool, i, bytes).unwrap()).collect();
    let mut seeds: Vec<u64> = (0..count).collect();
    let alive = count * bytes;
    let mut rng = 7u64;
    for round in 0..12 {
        // Some of each pack, wherever they are.
        for _ in 0..count / 2 {
            rng = rng.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            let at = (rng >> 33) % count;
            seeds[at as usize] = at + 1000 * round;
            rewrite(&tensors[at as usize], seeds[at as usize]);
            let other = (rng >> 13) % count;
            copies(&tensors[other as usize], seeds[other as usize]);
        }
        pool.settle().unwrap();
        let stats = store.stats();
        // Each a mebibyte at least: the newest pack, and one for what is about to be moved.
        assert!(stats.reserved <= 2 * alive + (3 << 20), "{alive} alive, round {round}: {stats:?}");
    }
    (0..count as usize).for_each(|at| copies(&tensors[at], seeds[at]));
    (0..count as usize).for_each(|at| reads(&tensors[at], seeds[at]));
    pool.check().unwrap();
    (0..2).for_each(|i| copies(&cold[i], 9000 + i as u64));
    drop((tensors, cold));
    pool.settle().unwrap();
    assert_eq!((store.stats().extents, store.stats().dead_bytes), (0, 0));
}

/// No room on disk is an error with figures; nothing that was there is lost.
#[test]
fn a_full_disk_is_an_error_and_loses_nothing() {
    let store = store(4).open().unwrap();
    let pool = pool(1, 1, &store);
    let mut tensors = Vec::new();
    let refused = loop {
        match create(&pool, tensors.len() as u64, UNIT) {
            Ok(tensor) => tensors.push(tensor),
            Err(error) => break error,
        }
        assert!(tensors.len() < 20, "the tiers are full by now");
    };
    assert!(matches!(refused, SwapError::DiskBudget { .. }), "{refused}");
    assert!(tensors.len() >= 5, "{}", tensors.len());
    let _ = pool.settle();
    pool.check().unwrap();
    (0..tensors.len()).for_each(|i| copies(&tensors[i], i as u64));
    tensors.pop();
    let again = create(&pool, 77, UNIT).unwrap();
    copies(&again, 77);
}

/// A write that fails leaves the source as it was, and says so once.
#[test]
fn a_failed_write_leaves_the_source_valid() {
    for host in [2, 0] {
        let faults = FaultPlan::seeded(1).always(Call::Write, Fault::IO);
        let store = store(40).faults(faults).open();
        let Ok(store) = store else { continue }; // the probe met the fault
        let pool = pool(2, host, &store);
        let mut tensors = Vec::new();
        let error = loop {
            match create(&pool, tensors.len() as u64, UNIT) {
                Ok(tensor) => tensors.push(tensor),
                Err(error) => break error,
            }
        };
        assert!(matches!(error, SwapError::Disk { .. }), "{error:?}");
        store.clear_faults();
        (0..tensors.len()).for_each(|i| copies(&tensors[i], i as u64));
        let more: Vec<_> = (20..26).map(|i| create(&pool, i, UNIT).unwrap()).collect();
        (0..tensors.len()).for_each(|i| reads(&tensors[i], i as u64));
        (0..6).for_each(|i| reads(&more[i as usize], 20 + i));
        pool.check().unwrap();
    }
}
