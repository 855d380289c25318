//! Devices over a disk tier.

use super::support::{A, B, SEEDS, UNIT, cpu, sim_with, states, tensor, value, well, write};
use std::{
    path::PathBuf,
    thread,
    time::{Duration, Instant},
};
use swap_tensor::{
    Residency, SlotState,
    disk::{Call, DiskConfig, DiskStore, Fault, FaultPlan, IoChoice},
};

/// A disk store in memory, if there is a file system of it.
fn store(faults: FaultPlan) -> DiskStore {
    let memory = PathBuf::from("/dev/shm");
    let folder = if memory.is_dir() { memory } else { std::env::temp_dir() };
    DiskConfig::new(folder, 64 * UNIT).io(IoChoice::Threads).faults(faults).open().unwrap()
}

/// Where host memory has no room, the way to another device is the disk, and the copy that was read stays.
#[test]
fn what_has_no_host_room_goes_to_another_device_by_disk() {
    for seed in 0..SEEDS {
        let builder = sim_with(seed, (2, 2), 0).disk_deadline(Duration::from_secs(20));
        let pool = builder.disk(store(FaultPlan::seeded(seed))).build().unwrap();
        let t = tensor(&pool, "t", 1);
        write(&t, A, 2);
        assert_eq!((value(&t, B), states(&t)), (2, [SlotState::Valid; 2]));
        assert_eq!(pool.stats().spills, 1);
        write(&t, B, 3);
        t.swap_out().unwrap();
        assert_eq!((t.residency(), value(&t, A)), (Residency::Disk, 3));
        pool.settle().unwrap();
        well(&pool);
    }
}

/// A fill from disk that a writer on another device outdates is not published.
#[test]
fn a_fill_from_disk_is_not_published_after_a_write_elsewhere() {
    let store = store(FaultPlan::seeded(1).at(Call::Read, 2, Fault::Hang));
    let pool = cpu((2, 2), 0).disk(store.clone()).build().unwrap();
    let t = tensor(&pool, "t", 1);
    t.swap_out().unwrap();
    assert_eq!((value(&t, A), t.residency()), (1, Residency::Device));
    pool.prefetch_at(B, &[&t]).unwrap();
    let until = Instant::now() + Duration::from_secs(20);
    while !store.faults_struck().iter().any(|(_, fault, _)| *fault == Fault::Hang) {
        assert!(Instant::now() < until, "it never came to that");
        thread::yield_now();
    }
    // The fetch to the second device is under way, and keeps nobody from the copy on the first.
    assert_eq!((value(&t, A), t.state_at(B).unwrap()), (1, SlotState::Filling));
    write(&t, A, 2);
    store.release();
    pool.settle().unwrap();
    pool.check().unwrap();
    assert_eq!((value(&t, B), value(&t, A)), (2, 2));
}
