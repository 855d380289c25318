//! Promises of [`StagingRing`] over a real device's memory.

use super::{Harness, pattern};
use crate::{HostError, Lane, LockPolicy, Queue, RegionOf, StagingConfig, StagingRing, Transfer};
use std::time::Instant;

/// Threads that share one slot per direction all finish, each with its own bytes.
pub fn one_slot_serves_many_threads<H: Harness>(harness: &H) {
    let device = harness.device();
    let (ring, slot) = one_slot(&device);
    let (threads, len) = (4, slot as u64);
    let buffer = device.buffer(threads * len).unwrap();
    std::thread::scope(|scope| {
        for thread in 0..threads {
            let (device, ring, mut buffer) = (&device, ring.clone(), buffer.clone());
            scope.spawn(move || {
                for round in 0..8 {
                    let (at, expected) = (thread * len, pattern(100 * thread + round, len));
                    let mut up = ring.acquire(Lane::Upload, slot, None).unwrap();
                    up.as_mut_slice().copy_from_slice(&expected);
                    drop(device.upload(up, &mut buffer, at).unwrap().wait().unwrap());
                    let down = ring.acquire(Lane::Download, slot, None).unwrap();
                    let down = device.download(&buffer, at, down).unwrap().wait().unwrap();
                    assert!(down.as_slice() == expected, "thread {thread}, round {round}");
                }
            });
        }
    });
    let stats = ring.stats();
    assert_eq!((stats.read.in_use, stats.write.in_use), (0, 0));
    assert_eq!((stats.read.peak_in_use, stats.write.peak_in_use), (len, len));
}

/// Who waits in vain is told so, and nothing is lost by it.
pub fn a_deadline_is_typed<H: Harness>(harness: &H) {
    let device = harness.device();
    let (ring, len) = one_slot(&device);
    let mut buffer = device.buffer(len as u64).unwrap();
    let slot = ring.acquire(Lane::Upload, len, Some(Instant::now())).unwrap();
    let ticket = device.upload(slot, &mut buffer, 0).unwrap();
    let late = ring.acquire(Lane::Upload, 1, Some(Instant::now())).unwrap_err();
    assert!(matches!(late, HostError::Timeout { asked: 1, .. }), "{late}");
    assert!(matches!(ring.try_acquire(Lane::Upload, len), Err(HostError::Full { waiters: 0, .. })));
    let large = ring.acquire(Lane::Upload, len + 1, None).unwrap_err();
    assert!(matches!(large, HostError::TooLarge { .. }), "{large}");
    drop(ticket.wait().unwrap());
    assert!(ring.try_acquire(Lane::Upload, len).is_ok());
}

/// Uploads that hold all of their budget leave downloads theirs.
pub fn directions_share_nothing<H: Harness>(harness: &H) {
    let device = harness.device();
    let (ring, len) = one_slot(&device);
    let held = ring.acquire(Lane::Upload, len, None).unwrap();
    let mut buffer = device.buffer(len as u64).unwrap();
    device.write_now(&mut buffer, 0, &vec![0; len]).unwrap();
    let slot = ring.acquire(Lane::Download, len, None).unwrap();
    drop(device.download(&buffer, 0, slot).unwrap().wait().unwrap());
    assert_eq!(ring.stats().read.slices, 1);
    drop(held);
}

/// A slot whose ticket was dropped in flight is free only when the device is done with it.
pub fn a_slot_in_flight_is_not_given_again<H: Harness>(harness: &H) {
    let device = harness.device();
    let (ring, len) = one_slot(&device);
    let mut buffer = device.buffer(len as u64).unwrap();
    let mut slot = ring.acquire(Lane::Upload, len, None).unwrap();
    slot.as_mut_slice().copy_from_slice(&pattern(1, len as u64));
    drop(device.upload(slot, &mut buffer, 0).unwrap());
    if let Ok(mut again) = ring.try_acquire(Lane::Upload, len) {
        again.as_mut_slice().fill(0);
    }
    device.lane(Lane::Upload).drain().unwrap();
    device.parking().sweep();
    assert!(ring.try_acquire(Lane::Upload, len).is_ok());
    let mut bytes = vec![0; len];
    device.read_now(&buffer, 0, &mut bytes).unwrap();
    assert_eq!(bytes, pattern(1, len as u64));
}

/// A ring of one slot per direction, and the slot's length in bytes.
fn one_slot<T: Transfer>(device: &T) -> (StagingRing<RegionOf<T>>, usize) {
    // All of one kind: a ring that is part locked and part pageable has two regions, so two slots.
    let whole = |lock| StagingConfig { read: 4096, write: 4096, lock }.build(device.locker());
    let ring = whole(LockPolicy::Required).or_else(|_| whole(LockPolicy::Never)).unwrap();
    // A locker may round up.
    let len = ring.max_slice(Lane::Upload);
    assert_eq!(len, ring.max_slice(Lane::Download));
    (ring, len)
}
