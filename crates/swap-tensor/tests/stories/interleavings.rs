//! Orders of events that went wrong once: what several threads, a full disk or a smaller budget do to each other.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on should stop where it stands")]

use backend_cpu::CpuDevice;
use futures::{executor::block_on, future::join_all};
use std::{
    sync::mpsc,
    thread::{sleep, spawn},
    time::Duration,
};
use swap_tensor::{
    DType, Mode, SwapError, SwapPool, Tensor, TensorSpec,
    disk::{Call, DiskConfig, DiskStore, Fault, FaultPlan},
    policy::State,
};

const UNIT: u64 = 320 << 10;

fn store(units: u64) -> DiskConfig {
    DiskConfig::new(std::env::temp_dir(), units * UNIT)
}

fn pool(device: u64, store: &DiskStore, schedule: bool, deadline: Duration) -> SwapPool<CpuDevice> {
    SwapPool::builder(CpuDevice::new().unwrap())
        .device_memory(device * UNIT)
        .staging(512 << 10)
        .deadline(deadline)
        .disk_deadline(if deadline.is_zero() { SOON } else { deadline })
        .schedule(schedule)
        .disk(store.clone())
        .build()
        .unwrap()
}

fn create(pool: &SwapPool<CpuDevice>, name: &str, seed: u8) -> Tensor<CpuDevice> {
    pool.create(TensorSpec::new(name, DType::U8, [UNIT]).unwrap(), &vec![seed; UNIT as usize]).unwrap()
}

const SOON: Duration = Duration::from_secs(10);

/// A task that settles takes a thread, and waits for a wish that comes after it.
#[test]
fn settling_first_and_wishing_after_ends() {
    for settles in [1, 2, 9] {
        let (done, ended) = mpsc::channel();
        spawn(move || {
            let device = CpuDevice::new().unwrap();
            let pool =
                SwapPool::builder(device).device_memory(4 * UNIT).host_memory(8 * UNIT).build().unwrap();
            let (a, b) = (create(&pool, "a", 1), create(&pool, "b", 2));
            let settling: Vec<_> = (0..settles).map(|_| pool.settle_async()).collect();
            pool.prefetch(&[&a, &b]);
            done.send(block_on(join_all(settling)).into_iter().collect::<Result<(), _>>()).unwrap();
        });
        ended.recv_timeout(Duration::from_secs(60)).expect("it hangs").unwrap();
    }
}

/// With the disk full a dirty tensor cannot leave; a clean one can, and does.
#[test]
fn a_clean_copy_goes_when_the_disk_is_full() {
    let store = store(2).open().unwrap();
    let pool = pool(2, &store, false, SOON);
    let [a, b, c] = [("a", 1), ("b", 2), ("c", 3)].map(|(name, seed)| create(&pool, name, seed));
    for tensor in [&a, &b, &c, &a, &b] {
        drop(tensor.read().unwrap());
    }
    pool.check().unwrap();
}

/// One thread reads a tensor from a disk that hangs; another, which asked earlier for it and more, gives up meanwhile.
#[test]
fn a_waiter_that_gives_up_leaves_anothers_fill_alone() {
    let faults = FaultPlan::seeded(1).always(Call::Read, Fault::Hang);
    let store = store(20).faults(faults).open().unwrap();
    let pool = pool(2, &store, false, Duration::from_secs(2));
    let [t, y, z] = [("t", 1), ("y", 2), ("z", 3)].map(|(name, seed)| create(&pool, name, seed));
    drop(z);
    let writer = y.write().unwrap();
    let (pool2, t2, y2) = (pool.clone(), t.clone(), y.clone());
    let gives_up = spawn(move || pool2.lease_all(&[(&t2, Mode::Read), (&y2, Mode::Read)]).map(drop));
    sleep(Duration::from_millis(1200));
    let t2 = t.clone();
    let reads = spawn(move || t2.read().map(drop));
    sleep(Duration::from_millis(500));
    drop(writer);
    sleep(Duration::from_millis(800));
    store.clear_faults();
    store.release();
    let _ = gives_up.join().unwrap();
    let read = reads.join().unwrap();
    assert!(!matches!(read, Err(SwapError::BadCopy { .. })), "{read:?}");
    let mut bytes = vec![0; UNIT as usize];
    t.read().unwrap().read_now(&mut bytes).unwrap();
    assert!(bytes.iter().all(|&b| b == 1));
}

/// The last handles go while the pool's own thread fetches what they name.
#[test]
fn a_tensor_dropped_amid_a_scheduled_fetch_leaves_nothing() {
    for trial in 0..20u64 {
        let store = store(30).open().unwrap();
        let pool = pool(3, &store, true, SOON);
        let mut tensors: Vec<_> = (0..8u8).map(|i| create(&pool, &format!("t{i}"), i)).collect();
        // A thread of the pool makes the schedule, when it comes to it.
        for step in 0.. {
            pool.mark_step();
            for tensor in &tensors {
                tensor.read().unwrap().wait().unwrap();
                pool.settle().unwrap();
            }
            if step >= 3 && pool.schedule_state() == Some(State::Following) {
                break;
            }
            assert!(step < 10_000, "no schedule comes");
        }
        pool.mark_step();
        tensors[..3].iter().for_each(|tensor| tensor.read().unwrap().wait().unwrap());
        sleep(Duration::from_micros(20 * trial));
        while tensors.pop().is_some() {}
        pool.settle().unwrap();
        let stats = pool.stats();
        assert_eq!((stats.disk_bytes, stats.device_bytes, stats.host_bytes), (0, 0, 0), "trial {trial}");
    }
}

/// A budget below what is held: nothing more comes, but what is there can be leased.
#[test]
fn a_second_lease_on_what_is_held_takes_no_room() {
    let store = store(20).open().unwrap();
    let pool = pool(4, &store, false, Duration::ZERO);
    let tensors: Vec<_> = (0..4u8).map(|i| create(&pool, &format!("t{i}"), i)).collect();
    tensors[..3].iter().for_each(|tensor| tensor.pin().unwrap());
    assert_eq!(pool.set_device_budget(2 * UNIT).unwrap(), UNIT);
    tensors[..3].iter().for_each(|tensor| drop(tensor.read().unwrap()));
    let both: Vec<_> = tensors[..3].iter().map(|tensor| (tensor, Mode::Write)).collect();
    assert_eq!(pool.lease_all(&both).unwrap().len(), 3);
    assert!(matches!(tensors[3].read().map(drop), Err(SwapError::DeviceBudget { .. })));
}
