//! Promises of [`PageLocker`] and [`HostRegion`], and of a pool that takes its regions from one.

use super::{Harness, pattern};
use crate::{HostPool, HostRegion, LockPolicy, PageLocker, PoolConfig, Transfer};
use allocator_core::DeviceBuffer;
use std::sync::Arc;

/// Regions are as long as was asked for, share no byte, keep what is written to them, and say what they are.
pub fn regions_are_apart_and_keep_their_bytes<H: Harness>(harness: &H) {
    let device = harness.device();
    let locker = device.locker();
    let mut pools = Vec::new();
    for (seed, bytes) in [1_usize, 4096, 5000, 100_000].into_iter().enumerate() {
        let (region, locked) = match locker.lock(bytes) {
            Ok(region) => (region, true),
            Err(refused) => match locker.pageable(bytes) {
                Some(region) => (region.unwrap(), false),
                None => panic!("neither locked memory nor pageable: {refused}"),
            },
        };
        assert!(region.len() >= bytes && !region.is_empty());
        // What is locked may need no lock: a device that runs in host memory, say.
        assert!(locked || !region.is_locked());
        assert!(region.atom().is_power_of_two());
        region.prepare(0, bytes);
        // Beyond its end: a hint that is not taken.
        region.prepare(bytes, usize::MAX);
        let span = region.base().addr().get()..region.base().addr().get() + region.len();
        // The whole of it as one slice, but for what is less than an atom.
        let pool = HostPool::new(vec![region], 1).unwrap();
        let mut slice = pool.allocate(pool.max_slice()).unwrap();
        let expected = pattern(seed as u64, slice.len() as u64);
        slice.as_mut_slice().copy_from_slice(&expected);
        pools.push((span, expected, slice));
    }
    for (at, (span, expected, slice)) in pools.iter().enumerate() {
        assert!(slice.as_slice() == expected, "region {at}");
        let apart = |other: &core::ops::Range<usize>| other.end <= span.start || span.end <= other.start;
        assert!(pools[..at].iter().all(|(other, ..)| apart(other)));
    }
}

/// What can never be had is refused, and the locker is as good as before.
pub fn the_impossible_is_refused<H: Harness>(harness: &H) {
    let device = harness.device();
    let locker = device.locker();
    for bytes in [0, usize::MAX, isize::MAX as usize] {
        assert!(locker.lock(bytes).is_err(), "{bytes} bytes locked");
        assert!(locker.pageable(bytes).is_none_or(|region| region.is_err()), "{bytes} bytes pageable");
    }
    assert!(locker.max_region() > 0);
    let pageable = || locker.pageable(4096).is_some_and(|region| region.is_ok());
    assert!(locker.lock(4096).is_ok() || pageable());
}

/// A pool that makes its regions by this locker keeps its budget, and its slices go to the device and back.
pub fn a_pool_makes_and_gives_back_regions<H: Harness>(harness: &H) {
    const BUDGET: u64 = 1 << 20;
    let device = Arc::new(harness.device());
    let lock = LockPolicy::WithinAllowance;
    let config = PoolConfig::new(BUDGET).lock(lock);
    let pool = config.build_for(&device).unwrap();
    let mut buffer = device.buffer(64 << 10).unwrap();
    let grain = buffer.grain();
    for round in 0..3 {
        let slices: Vec<_> = [40_000, 4096, 60_000].map(|bytes: u64| bytes.next_multiple_of(grain)).into();
        let slices = slices.iter().map(|bytes| match pool.allocate(*bytes as usize) {
            Ok(slice) => slice,
            Err(refused) => panic!("{bytes} bytes of {BUDGET}: {refused}"),
        });
        for (seed, mut slice) in slices.enumerate() {
            let expected = pattern(10 * round + seed as u64, slice.len() as u64);
            slice.as_mut_slice().copy_from_slice(&expected);
            let up = device.upload(slice, &mut buffer, 0).unwrap();
            let mut back = up.wait().unwrap();
            back.as_mut_slice().fill(0);
            let down = device.download(&buffer, 0, back).unwrap();
            assert!(down.wait().unwrap().as_slice() == expected, "round {round}, slice {seed}");
        }
        let stats = pool.stats();
        assert!(stats.capacity <= BUDGET && stats.in_use == 0, "{stats:?}");
        assert_eq!(pool.trim(0), stats.capacity);
        assert_eq!((pool.stats().capacity, pool.stats().regions), (0, 0));
    }
    assert!(pool.memory_stats().num_host_free >= 3);
}
