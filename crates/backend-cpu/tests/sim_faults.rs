//! Faults of the simulated device: each does what it says, at any call, and nothing is lost or left over.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on should stop where it stands")]

use allocator_core::DeviceBuffer;
use backend_cpu::sim::{Call, Fault, FaultPlan, LeakReport, SimConfig, SimDevice, SimError, SimRegion};
use pinned_host::{DeviceError, ErrorKind, Event, HostPool, Lane, PageLocker, Queue, Transfer};

const ALL_FAULTS: [Fault; 8] = [
    Fault::OutOfMemory,
    Fault::Refuse,
    Fault::DeviceLost,
    Fault::FailRecord,
    Fault::Fail,
    Fault::BitFlip,
    Fault::Delay,
    Fault::Short,
];

fn bench(config: SimConfig) -> (SimDevice, HostPool<SimRegion>) {
    let device = SimDevice::new(config);
    let pool = HostPool::new(vec![device.locker().lock(64 << 10).unwrap()], 64).unwrap();
    (device, pool)
}

/// Up, moved, down. `Ok` with the bytes that came down, or the first error.
fn round(device: &SimDevice, pool: &HostPool<SimRegion>) -> Result<Vec<u8>, SimError> {
    let mut buffer = device.buffer(4096)?;
    let mut slice = pool.allocate(1000).unwrap();
    slice.as_mut_slice().fill(7);
    let sent = device.upload(slice, &mut buffer, 0).map_err(|refused| refused.error)?;
    device.queue().wait(sent.event())?;
    buffer.copy_within(0..1000, 500)?;
    let moved = device.queue().record()?;
    device.lane(Lane::Download).wait(&moved)?;
    let got = device.download(&buffer, 500, pool.allocate(1000).unwrap()).map_err(|refused| refused.error)?;
    sent.wait().map_err(|failed| failed.error)?;
    moved.synchronize()?;
    let slice = got.wait().map_err(|failed| failed.error)?;
    Ok(slice.as_slice().to_vec())
}

#[test]
fn every_fault_at_every_call_ends_with_a_typed_error_or_good_bytes() {
    for fault in ALL_FAULTS {
        // One more than a round makes: the last is a round without a fault.
        for k in 1..=13 {
            for seed in 0..8 {
                let (device, pool) = bench(SimConfig::seeded(seed));
                device.inject(Call::Any, k, fault);
                let outcome = round(&device, &pool);
                match (&outcome, fault) {
                    (Ok(bytes), Fault::BitFlip) => {
                        let wrong: u32 = bytes.iter().map(|byte| (byte ^ 7).count_ones()).sum();
                        assert!(wrong <= 1, "{wrong} bits");
                    }
                    (Ok(bytes), _) => assert!(bytes.iter().all(|&byte| byte == 7), "{fault:?} at {k}"),
                    (Err(SimError::DeviceLost), _) => assert_eq!(fault, Fault::DeviceLost),
                    (Err(error), Fault::Delay) => {
                        assert!(matches!(error, SimError::Refused { .. }), "{error}")
                    }
                    (Err(_), _) => {}
                }
                assert_eq!(device.hazards(), [], "{fault:?} at {k}");
                let _ = device.drain_all();
                device.parking().sweep();
                assert_eq!(pool.stats().in_use, 0, "{fault:?} at {k}: every slice came back");
                drop(pool);
                assert_eq!(device.leaks(), LeakReport::default(), "{fault:?} at {k}, seed {seed}");
            }
        }
    }
}

#[test]
fn a_refused_call_enqueues_nothing_and_gives_the_slice_back() {
    let plan =
        FaultPlan::none().at(Call::Upload, 1, Fault::Refuse).at(Call::CopyWithin, 1, Fault::OutOfMemory);
    let (device, pool) = bench(SimConfig::seeded(0).faults(plan));
    let mut buffer = device.buffer(64).unwrap();
    let refused = device.upload(pool.allocate(64).unwrap(), &mut buffer, 0).unwrap_err();
    assert_eq!(refused.slice.unwrap().len(), 64);
    assert_eq!(refused.error, SimError::Refused { call: Call::Upload, number: 1 });
    assert_eq!(buffer.copy_within(0..8, 8).unwrap_err().kind(), ErrorKind::OutOfMemory);
    assert_eq!(device.leaks().queued, 0);
}

#[test]
fn a_failed_upload_leaves_noise_that_counts_as_poison() {
    let (device, pool) = bench(SimConfig::seeded(3));
    let mut buffer = device.buffer(64).unwrap();
    device.inject(Call::Upload, 1, Fault::Fail);
    let ticket = device.upload(pool.allocate(64).unwrap(), &mut buffer, 0).unwrap();
    let failed = ticket.wait().unwrap_err();
    assert!(matches!(failed.error, SimError::Failed { call: Call::Upload, .. }));
    assert!(failed.slice.is_some(), "the work has ended");
    let mut bytes = [0; 64];
    device.read_now(&buffer, 0, &mut bytes).unwrap();
    assert_ne!(bytes, [0; 64]);
    assert_eq!(device.poison_reads().len(), 1);
    device.upload(pool.allocate(64).unwrap(), &mut buffer, 0).unwrap().wait().unwrap();
    device.read_now(&buffer, 0, &mut bytes).unwrap();
    assert_eq!((bytes, device.poison_reads().len()), ([0; 64], 1));
}

#[test]
fn a_short_download_says_how_far_it_came() {
    let (device, pool) = bench(SimConfig::seeded(3));
    let mut buffer = device.buffer(64).unwrap();
    device.write_now(&mut buffer, 0, &[9; 64]).unwrap();
    device.inject(Call::Download, 1, Fault::Short);
    let failed = device.download(&buffer, 0, pool.allocate(64).unwrap()).unwrap().wait().unwrap_err();
    assert!(matches!(failed.error, SimError::Short { done: 32, asked: 64, .. }));
    assert_eq!(failed.slice.unwrap().as_slice(), [[9; 32], [0; 32]].concat());
}

#[test]
fn a_bit_flip_is_one_bit() {
    let (device, pool) = bench(SimConfig::seeded(3));
    let mut buffer = device.buffer(64).unwrap();
    device.write_now(&mut buffer, 0, &[0; 64]).unwrap();
    device.inject(Call::Download, 1, Fault::BitFlip);
    let slice = device.download(&buffer, 0, pool.allocate(64).unwrap()).unwrap().wait().unwrap();
    assert_eq!(slice.as_slice().iter().map(|byte| byte.count_ones()).sum::<u32>(), 1);
}

#[test]
fn a_delayed_operation_runs_after_all_it_may() {
    for seed in 0..50 {
        let device = SimDevice::new(SimConfig::seeded(seed));
        let order = std::sync::Arc::new(std::sync::Mutex::new(Vec::new()));
        let queues: Vec<_> = (0..4).map(|_| device.new_queue()).collect();
        device.inject(Call::Launch, 1, Fault::Delay);
        for (number, queue) in queues.iter().enumerate() {
            let order = order.clone();
            queue.launch(&[], move |_| order.lock().unwrap().push(number)).unwrap();
        }
        queues[0].drain().unwrap();
        assert_eq!(order.lock().unwrap().last(), Some(&0), "seed {seed}");
    }
}

#[test]
fn a_lost_device_settles_what_is_pending_and_refuses_the_rest() {
    let (device, pool) = bench(SimConfig::seeded(1));
    let mut buffer = device.buffer(64).unwrap();
    let done = device.upload(pool.allocate(8).unwrap(), &mut buffer, 0).unwrap();
    done.event().synchronize().unwrap();
    let pending = device.upload(pool.allocate(8).unwrap(), &mut buffer, 8).unwrap();
    device.lose();
    assert!(done.event().query().unwrap(), "what ended before has ended");
    assert_eq!(pending.event().synchronize(), Err(SimError::DeviceLost));
    assert!(pending.event().is_settled());
    assert!(pending.wait().unwrap_err().slice.is_some());
    assert_eq!(device.queue().record().unwrap_err().kind(), ErrorKind::DeviceLost);
    assert_eq!(device.queue().drain(), Err(SimError::DeviceLost));
    assert_eq!(device.buffer(8).unwrap_err(), SimError::DeviceLost);
    assert_eq!(buffer.copy_within(0..8, 8), Err(SimError::DeviceLost));
    assert_eq!(device.locker().lock(8).unwrap_err(), SimError::DeviceLost);
    assert!(device.read_now(&buffer, 0, &mut [0; 8]).is_err());
}

#[test]
fn a_record_that_fails_drains_and_one_that_cannot_drain_leaks() {
    let (device, pool) = bench(SimConfig::seeded(1));
    let mut buffer = device.buffer(64).unwrap();
    device.inject(Call::Upload, 1, Fault::FailRecord);
    let refused = device.upload(pool.allocate(64).unwrap(), &mut buffer, 0).unwrap_err();
    assert!(refused.slice.is_some());
    assert_eq!(device.leaks().queued, 0, "it was drained");
    drop(refused);

    device.inject(Call::Record, 1, Fault::Refuse);
    device.inject(Call::Drain, 1, Fault::Refuse);
    let refused = device.upload(pool.allocate(64).unwrap(), &mut buffer, 0).unwrap_err();
    assert!(refused.slice.is_none(), "it may still be in use");
    assert_eq!(pool.stats().in_use, 64, "and is leaked");
    device.drain_all().unwrap();
}

#[test]
fn limits_are_typed() {
    let device = SimDevice::new(SimConfig::seeded(0).memory_limit(100).lock_limit(5000));
    let buffer = device.buffer(60).unwrap();
    let full = device.buffer(41).unwrap_err();
    assert_eq!(full, SimError::OutOfMemory { asked: 41, held: 60, limit: Some(100) });
    drop(buffer);
    drop(device.buffer(100).unwrap());
    assert_eq!((device.memory().current, device.memory().peak), (0, 100));

    let region = device.locker().lock(4096).unwrap();
    assert_eq!(device.locker().allowance(), Some(904));
    let refused = device.locker().lock(4096).unwrap_err();
    assert_eq!(refused, SimError::LockLimit { asked: 4096, locked: 4096, limit: Some(5000) });
    let pageable = device.locker().pageable(4096).unwrap().unwrap();
    assert_eq!(device.leaks().regions, 2);
    drop((region, pageable));
    assert_eq!(device.leaks(), LeakReport::default());
}

#[test]
fn equal_seeds_give_equal_runs_and_others_differ() {
    let trace = |seed: u64| {
        let plan =
            FaultPlan::none().randomly(Call::Any, 20, Fault::Refuse).randomly(Call::Launch, 5, Fault::Fail);
        let device = SimDevice::new(SimConfig::seeded(seed).faults(plan));
        let order = std::sync::Arc::new(std::sync::Mutex::new(Vec::new()));
        let queues: Vec<_> = (0..4).map(|_| device.new_queue()).collect();
        let mut outcomes = Vec::new();
        for number in 0..40 {
            let order = order.clone();
            let queue = &queues[number % 4];
            let launched = queue.launch(&[], move |_| order.lock().unwrap().push(number));
            outcomes.push(launched.and_then(|()| queue.record()).map(drop));
        }
        let drained: Vec<_> = queues.iter().map(Queue::drain).collect();
        let order = order.lock().unwrap().clone();
        (order, outcomes, drained)
    };
    let orders: std::collections::BTreeSet<Vec<usize>> = (0..50).map(|seed| trace(seed).0).collect();
    assert!(orders.len() > 40, "{} orders of 50 seeds", orders.len());
    for seed in 0..50 {
        let (order, ..) = trace(seed);
        assert_eq!(trace(seed), trace(seed));
        for queue in 0..4 {
            let of_queue: Vec<_> = order.iter().filter(|number| **number % 4 == queue).collect();
            assert!(of_queue.is_sorted(), "each queue keeps its order");
        }
    }
}

#[test]
fn polling_ends() {
    for seed in 0..50 {
        let (device, pool) = bench(SimConfig::seeded(seed));
        let mut buffer = device.buffer(64).unwrap();
        let ticket = device.upload(pool.allocate(64).unwrap(), &mut buffer, 0).unwrap();
        assert!((0..1000).any(|_| ticket.is_done().unwrap()), "seed {seed}");
        drop(device.upload(pool.allocate(64).unwrap(), &mut buffer, 0).unwrap());
        assert!((0..1000).any(|_| device.parking().sweep() == 0), "seed {seed}");
    }
}

#[test]
fn a_kernel_that_panics_or_uses_its_device_fails() {
    let (device, _pool) = bench(SimConfig::seeded(1));
    let buffer = device.buffer(64).unwrap();
    let queue = device.queue().clone();
    device.queue().launch(&[], move |_| drop(queue.record())).unwrap();
    let event = device.queue().record().unwrap();
    assert!(matches!(event.synchronize(), Err(SimError::Failed { call: Call::Launch, .. })));
    assert!(event.is_settled());
    // Whatever a kernel captured may go with it.
    let captured = buffer.clone();
    drop(buffer);
    device.queue().launch(&[], move |_| drop(captured)).unwrap();
    device.queue().drain().unwrap();
    assert_eq!(device.leaks().buffers, 0);
}

#[test]
fn moves_carry_poison_and_vacate_without_it() {
    let (device, pool) = bench(SimConfig::seeded(1));
    let mut buffer = device.buffer(64).unwrap();
    device.write_now(&mut buffer, 0, &[5; 8]).unwrap();
    buffer.copy_within(0..16, 32).unwrap();
    device.queue().drain().unwrap();
    device.download(&buffer, 32, pool.allocate(8).unwrap()).unwrap().wait().unwrap();
    device.download(&buffer, 0, pool.allocate(8).unwrap()).unwrap().wait().unwrap();
    assert_eq!(device.poison_reads(), [], "moved and vacated bytes are good");
    device.download(&buffer, 32, pool.allocate(16).unwrap()).unwrap().wait().unwrap();
    assert_eq!(device.poison_reads()[0].range, 40..48);
}
