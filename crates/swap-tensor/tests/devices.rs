//! Several devices in one pool: which copies there are, who waits for whom, and what each device has to itself.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on should stop where it stands")]

use backend_cpu::{
    CpuDevice,
    sim::{SimConfig, SimDevice},
};
use futures::executor::block_on;
use pinned_host::{Queue, Transfer};
use std::{
    future::IntoFuture,
    thread,
    time::{Duration, Instant},
};
use swap_tensor::{
    DType, DeviceIndex, Mode, PoolBuilder, Residency, SlotState, SwapError, SwapPool, Tensor, TensorSpec,
    WriteLease, policy::State,
};

const UNIT: u64 = 64 << 10;
const A: DeviceIndex = DeviceIndex::FIRST;
const B: DeviceIndex = DeviceIndex::new(1);
/// Orders of the simulated devices that are tried.
const SEEDS: u64 = 16;

/// Two simulated devices in one host; sizes are units.
fn sim_with(seed: u64, (a, b): (u64, u64), host: u64) -> PoolBuilder<SimDevice> {
    let first = SimDevice::new(SimConfig::seeded(seed));
    let second = first.beside(SimConfig::seeded(!seed));
    let builder = SwapPool::builder(first).device_memory(a * UNIT).add_device(second, b * UNIT);
    builder.host_memory(host * UNIT).staging(2 * UNIT).deadline(Duration::ZERO)
}

fn sim(seed: u64, devices: (u64, u64), host: u64) -> SwapPool<SimDevice> {
    sim_with(seed, devices, host).build().unwrap()
}

fn cpu(devices: (u64, u64), host: u64) -> PoolBuilder<CpuDevice> {
    let builder = SwapPool::builder(CpuDevice::new().unwrap()).device_memory(devices.0 * UNIT);
    let builder = builder.add_device(CpuDevice::new().unwrap(), devices.1 * UNIT);
    builder.host_memory(host * UNIT).deadline(Duration::from_secs(20))
}

fn tensor<T: Transfer>(pool: &SwapPool<T>, name: &str, value: u8) -> Tensor<T> {
    let spec = TensorSpec::new(name, DType::U8, [UNIT]).unwrap();
    pool.create(spec, &[value; UNIT as usize]).unwrap()
}

/// The value that every byte of the tensor has, read on a device.
#[track_caller]
fn value<T: Transfer>(tensor: &Tensor<T>, on: DeviceIndex) -> u8 {
    let mut bytes = vec![0; UNIT as usize];
    tensor.read_at(on).unwrap().read_now(&mut bytes).unwrap();
    assert!(bytes.iter().all(|&byte| byte == bytes[0]), "bytes of several versions");
    bytes[0]
}

#[track_caller]
fn write<T: Transfer>(tensor: &Tensor<T>, on: DeviceIndex, value: u8) {
    tensor.write_at(on).unwrap().upload(&[value; UNIT as usize]).unwrap();
}

fn states<T: Transfer>(tensor: &Tensor<T>) -> [SlotState; 2] {
    [A, B].map(|on| tensor.state_at(on).unwrap())
}

/// A kernel that adds one to every byte. It runs when the host waits, and not before.
fn add_one(lease: &WriteLease<SimDevice>) {
    let view = lease.view().unwrap();
    let kernel = |bytes: &mut [Vec<u8>]| bytes[1] = bytes[0].iter().map(|byte| byte + 1).collect();
    lease.queue().launch(&[view.read(), view.write()], kernel).unwrap();
}

/// The invariants hold, and no device saw a missing wait or a read of poison.
#[track_caller]
fn well(pool: &SwapPool<SimDevice>) {
    pool.check().unwrap();
    pool.devices().for_each(|(_, device)| device.assert_no_hazards());
}

#[test]
fn readers_share_and_a_writer_outdates_every_other_copy() {
    let pool = sim(1, (2, 2), 8);
    let t = tensor(&pool, "t", 7);
    let (on_a, on_b) = (t.read().unwrap(), t.read_at(B).unwrap());
    assert_eq!((on_a.device(), on_b.device()), (A, B));
    assert_eq!((value(&t, A), value(&t, B)), (7, 7));
    assert_eq!(states(&t), [SlotState::Valid; 2]);
    for on in [A, B] {
        let refused = t.write_at(on).map(drop);
        assert!(matches!(refused, Err(SwapError::Leased { readers: 2, .. })), "{refused:?}");
    }
    drop((on_a, on_b));
    write(&t, B, 9);
    assert_eq!(states(&t), [SlotState::Absent, SlotState::Valid], "the old copy gives its room back");
    assert_eq!((value(&t, A), value(&t, B)), (9, 9));
    assert_eq!(states(&t), [SlotState::Valid; 2], "what was drained for another device stays");
    t.load(&[3; UNIT as usize]).unwrap();
    assert_eq!((states(&t), t.residency()), ([SlotState::Absent; 2], Residency::Host));
    assert_eq!(value(&t, B), 3);
    well(&pool);
}

/// Store reads before the producer has finished: the drain for B waits for A's kernel.
#[test]
fn a_fill_waits_for_the_writer_on_the_other_device() {
    for seed in 0..SEEDS {
        let pool = sim(seed, (2, 2), 8);
        let t = tensor(&pool, "t", 1);
        let queue = pool.device().new_queue();
        let lease = t.lease_mut().on(&queue).wait().unwrap();
        add_one(&lease);
        assert!(matches!(t.read_at(B).map(drop), Err(SwapError::Leased { writer: true, .. })));
        pool.prefetch_at(B, &[&t]).unwrap();
        pool.wait_prefetch();
        assert_eq!(t.state_at(B).unwrap(), SlotState::Absent, "what is being written is not fetched");
        lease.finish(queue.record().unwrap()).unwrap(); // nothing of it has run
        assert_eq!(value(&t, B), 2);
        well(&pool);
    }
}

/// A writer on one device waits for a reader on the other, and gets its lease when that ends.
#[test]
fn a_writer_waits_for_readers_on_other_devices() {
    let pool = cpu((2, 2), 8).build().unwrap();
    let t = tensor(&pool, "t", 1);
    let reader = t.read_at(B).unwrap();
    let asked = t.lease_mut().within(Duration::ZERO).wait().map(drop);
    assert!(
        matches!(asked, Err(SwapError::Leased { readers: 1, ref holders, .. }) if holders[0].device == B)
    );
    let writer = t.clone();
    let writer = thread::spawn(move || {
        block_on(writer.lease_mut().into_future()).unwrap().upload(&[2; UNIT as usize])
    });
    let mut bytes = vec![0; UNIT as usize];
    for _ in 0..20 {
        reader.read_now(&mut bytes).unwrap();
        assert!(bytes.iter().all(|&byte| byte == 1), "written under a reader");
    }
    drop(reader);
    writer.join().unwrap().unwrap();
    assert_eq!((value(&t, A), value(&t, B)), (2, 2));
    pool.check().unwrap();
}

/// Freed or used again while its download is in flight: the room that was drained is given to another tensor at once.
#[test]
fn room_is_used_again_after_the_drain_for_another_device() {
    for seed in 0..SEEDS {
        let pool = sim(seed, (1, 2), 8);
        let (t, other) = (tensor(&pool, "t", 1), tensor(&pool, "other", 5));
        let lease = t.write().unwrap();
        add_one(&lease);
        drop(lease);
        let on_b = t.read_at(B).unwrap();
        drop(other.write().unwrap()); // takes the only room there is on the first device
        assert_eq!(states(&t), [SlotState::Absent, SlotState::Valid]);
        drop(on_b);
        assert_eq!((value(&t, B), value(&other, A)), (2, 5));
        well(&pool);
    }
}

/// A fill that a writer on another device outdates is not published, also when nothing of it has run by then.
#[test]
fn a_fill_in_flight_is_not_published_after_a_write_elsewhere() {
    for seed in 0..SEEDS {
        let pool = sim(seed, (2, 2), 8);
        let t = tensor(&pool, "t", 1);
        assert_eq!(value(&t, A), 1);
        drop(t.read_at(B).unwrap()); // the upload is enqueued, and runs when somebody waits
        let lease = t.write().unwrap();
        add_one(&lease);
        drop(lease);
        pool.check().unwrap();
        assert_eq!((value(&t, B), value(&t, A)), (2, 2));
        well(&pool);
    }
}

#[test]
fn a_lost_device_takes_only_its_own_copies() {
    let pool = sim(3, (2, 2), 8);
    let (on_a, on_b, both) = (tensor(&pool, "a", 1), tensor(&pool, "b", 2), tensor(&pool, "both", 3));
    write(&on_a, A, 11);
    write(&on_b, B, 12);
    write(&both, A, 13);
    assert_eq!(value(&both, B), 13);
    assert!(both.evict_at(A), "the other device has it");
    assert_eq!(value(&both, A), 13);
    pool.devices().nth(1).unwrap().1.lose();
    assert!(matches!(on_a.read_at(B).map(drop), Err(error) if error.is_device_lost()));
    assert!(pool.device_stats(B).unwrap().lost && !pool.device_stats(A).unwrap().lost);
    assert_eq!((value(&on_a, A), value(&both, A)), (11, 13));
    assert_eq!(states(&both), [SlotState::Valid, SlotState::Lost]);
    // Its only copy went with the device, and every access says so.
    assert!(matches!(on_b.read().map(drop), Err(SwapError::NoValidCopy { device: SlotState::Lost, .. })));
    on_a.swap_out().unwrap();
    write(&on_a, A, 21);
    assert_eq!(value(&on_a, A), 21);
    pool.check().unwrap();
}

#[test]
fn leases_on_several_devices_are_all_or_nothing() {
    let pool = sim(4, (2, 1), 8);
    let t: Vec<_> = (0..4).map(|i| tensor(&pool, &format!("t{i}"), i)).collect();
    let wide = [(&t[0], Mode::Read, A), (&t[1], Mode::Write, B), (&t[2], Mode::Read, B)];
    let refused = pool.lease_many_at(&wide).wait().map(drop);
    assert!(
        matches!(refused, Err(SwapError::DeviceBudget { device: B, requested, .. }) if requested == 2 * UNIT)
    );
    assert_eq!(pool.stats().held_bytes, 0, "a refusal holds nothing");
    // The same tensor on both, and another: each device has its own account.
    let leases =
        pool.lease_many_at(&[(&t[0], Mode::Read, A), (&t[0], Mode::Read, B), (&t[3], Mode::Write, A)]);
    let leases = leases.wait().unwrap();
    assert_eq!(leases.iter().map(|lease| lease.device()).collect::<Vec<_>>(), [A, B, A]);
    let held = |on| pool.device_stats(on).unwrap().held_bytes;
    assert_eq!((held(A), held(B)), (2 * UNIT, UNIT));
    let full = t[1].lease().at(B).wait().map(drop);
    assert!(
        matches!(full, Err(SwapError::DeviceBudget { device: B, ref holders, .. }) if holders.len() == 1)
    );
    drop(leases);
    let twice = pool.lease_many_at(&[(&t[0], Mode::Read, A), (&t[0], Mode::Write, B)]).wait();
    assert!(matches!(twice, Err(SwapError::LeasedTwice { .. })));
    well(&pool);
}

#[test]
fn a_queue_is_its_devices() {
    let pool = sim(5, (2, 2), 8);
    let t = tensor(&pool, "t", 1);
    let queue = pool.devices().nth(1).unwrap().1.new_queue();
    assert!(matches!(t.read_on(&queue).map(drop), Err(SwapError::ForeignQueue { device: A, .. })));
    let lease = t.lease().at(B).on(&queue).wait().unwrap();
    assert!(lease.queue().same_queue(&queue) && !queue.same_queue(pool.queue_at(B).unwrap()));
    let asked = [(&t, Mode::Read, A), (&t, Mode::Read, B)];
    assert!(matches!(
        pool.lease_many_at(&asked).on(&queue).wait(),
        Err(SwapError::ForeignQueue { device: A, .. })
    ));
    assert_eq!(pool.lease_many_at(&asked).on_at(B, &queue).wait().unwrap().len(), 2);
    let foreign = pool.queue().record().unwrap();
    assert!(matches!(lease.finish(foreign), Err(SwapError::Device { .. })), "an event of the other device");
    well(&pool);
}

#[test]
fn budgets_pins_and_figures_are_each_devices() {
    let pool = sim(6, (2, 2), 8);
    let (t, other) = (tensor(&pool, "t", 1), tensor(&pool, "other", 2));
    t.pin_at(B).unwrap();
    assert_eq!(pool.set_device_budget_at(B, 0).unwrap(), UNIT, "a pin stays");
    assert!(matches!(other.read_at(B).map(drop), Err(SwapError::DeviceBudget { arena: 0, .. })));
    assert_eq!(value(&other, A), 2);
    write(&t, A, 5);
    assert_eq!(t.state_at(B).unwrap(), SlotState::Stale, "a pin holds room");
    assert!(t.unpin_at(B) && !t.unpin_at(B) && !t.unpin());
    assert_eq!((t.state_at(B).unwrap(), pool.device_stats(B).unwrap().device_bytes), (SlotState::Absent, 0));
    assert_eq!(pool.set_device_budget_at(B, u64::MAX).unwrap(), 0);
    pool.prefetch_at(B, &[&t]).unwrap();
    pool.settle().unwrap();
    let before = pool.device_stats(B).unwrap();
    assert_eq!((before.prefetches, before.device_bytes), (1, UNIT));
    assert_eq!(value(&t, B), 5);
    let (a, b) = (pool.device_stats(A).unwrap(), pool.device_stats(B).unwrap());
    assert_eq!((b.leases - before.leases, b.hits - before.hits), (1, 1));
    let all = pool.stats();
    assert_eq!((a.leases + b.leases, a.uploaded_bytes + b.uploaded_bytes), (all.leases, all.uploaded_bytes));
    assert_eq!((a.write_backs, b.write_backs), (1, 0), "drained once, for the other device");
    assert_eq!((all.arena_bytes, all.device_budget), (4 * UNIT, 4 * UNIT));
    well(&pool);
}

#[test]
fn a_device_that_is_not_there_or_cannot_share_is_refused() {
    let pool = sim(7, (2, 2), 8);
    let (t, c) = (tensor(&pool, "t", 1), DeviceIndex::new(2));
    let there = |refused: Result<(), SwapError>| matches!(refused, Err(SwapError::NoDevice { device, devices: 2 }) if device == c);
    assert!(there(t.read_at(c).map(drop)) && there(t.write_at(c).map(drop)) && there(t.pin_at(c)));
    assert!(there(t.lease().at(c).wait().map(drop)) && there(t.state_at(c).map(drop)));
    assert!(there(pool.lease_many_at(&[(&t, Mode::Read, c)]).wait().map(drop)));
    assert!(there(pool.prefetch_at(c, &[&t])) && there(pool.device_stats(c).map(drop)));
    assert!(there(pool.set_device_budget_at(c, 0).map(drop)) && there(pool.queue_at(c).map(drop)));
    assert!(there(pool.schedule_state_at(c).map(drop)) && there(pool.transfer_time_at(c).map(drop)));
    assert!(!t.evict_at(c) && !t.unpin_at(c));

    let (one, apart) = (SimDevice::new(SimConfig::seeded(1)), SimDevice::new(SimConfig::seeded(2)));
    let builder = SwapPool::builder(one).device_memory(UNIT).add_device(apart, UNIT);
    assert!(matches!(builder.build(), Err(SwapError::Unreachable { device: B })));
    let mut builder = SwapPool::builder(CpuDevice::new().unwrap()).device_memory(UNIT);
    for _ in 0..DeviceIndex::MOST {
        builder = builder.add_device(CpuDevice::new().unwrap(), UNIT);
    }
    assert!(matches!(builder.build(), Err(SwapError::Config { what: "devices", .. })));
    let none = SwapPool::builder(CpuDevice::new().unwrap()).device_memory(UNIT);
    let none = none.add_device(CpuDevice::new().unwrap(), 0).build();
    assert!(matches!(none, Err(SwapError::Config { what: "device memory", .. })));
}

/// Host memory has no room for what is on its way from one device to another.
#[test]
fn without_host_room_there_is_no_way_between_devices() {
    let pool = sim(8, (2, 2), 1);
    let (t, other) = (tensor(&pool, "t", 1), tensor(&pool, "other", 2)); // the second lies on the first device, for want of room
    assert_eq!(other.residency(), Residency::Device);
    assert!(matches!(other.read_at(B).map(drop), Err(SwapError::HostBudget { .. })));
    assert_eq!((value(&t, B), value(&other, A)), (1, 2));
    drop(t);
    assert_eq!((value(&other, B), states(&other)), (2, [SlotState::Valid; 2]));
    well(&pool);
}

/// Each device records its own leases, and follows them.
#[test]
fn each_device_replays_its_own_order() {
    let pool = cpu((2, 3), 16).schedule(true).build().unwrap();
    let tensors: Vec<_> = (0..6).map(|i| tensor(&pool, &format!("t{i}"), i)).collect();
    let step = || {
        pool.mark_step();
        for (i, t) in tensors.iter().enumerate() {
            assert_eq!(value(t, A), i as u8);
            assert_eq!(value(&tensors[5 - i], B), 5 - i as u8);
        }
    };
    (0..2).for_each(|_| step());
    let until = Instant::now() + Duration::from_secs(20);
    let follows = |on| pool.schedule_state_at(on).unwrap() == Some(State::Following);
    while !(follows(A) && follows(B)) {
        assert!(Instant::now() < until, "it never came to that");
        thread::yield_now();
    }
    (0..4).for_each(|_| step());
    assert!(follows(A) && follows(B), "the leases of one device are no disorder of the other's");
    pool.settle().unwrap();
    let prefetched = |on| pool.device_stats(on).unwrap().prefetches;
    assert!(prefetched(A) > 0 && prefetched(B) > 0);
    pool.check().unwrap();
}

/// Threads that read and write on both devices see whole tensors, and never an older one than they have seen.
#[test]
fn threads_on_both_devices_see_whole_tensors() {
    let pool = cpu((3, 2), 12).build().unwrap();
    let tensors: Vec<_> = (0..6).map(|i| tensor(&pool, &format!("t{i}"), 0)).collect();
    thread::scope(|scope| {
        for worker in 0..4u64 {
            let (pool, tensors) = (&pool, &tensors);
            scope.spawn(move || {
                let mut seen = [0u8; 6];
                for step in 0..300u64 {
                    let draw =
                        (step * 6_364_136_223 + worker * 1_442_695_041).wrapping_mul(0x9E37_79B9) >> 11;
                    let (at, on) = ((draw % 6) as usize, [A, B][(draw / 6 % 2) as usize]);
                    match draw / 12 % 4 {
                        0 => {
                            let mut lease = tensors[at].write_at(on).unwrap();
                            let mut bytes = vec![0; UNIT as usize];
                            lease.read_now(&mut bytes).unwrap();
                            bytes.iter_mut().for_each(|byte| *byte = byte.saturating_add(1));
                            lease.upload(&bytes).unwrap();
                        }
                        1 => pool.prefetch_at(on, &[&tensors[at], &tensors[(at + 1) % 6]]).unwrap(),
                        _ => {
                            let now = value(&tensors[at], on);
                            assert!(now >= seen[at], "{now} after {}", seen[at]);
                            seen[at] = now;
                        }
                    }
                }
            });
        }
    });
    pool.settle().unwrap();
    pool.check().unwrap();
    tensors.iter().for_each(|t| assert_eq!(value(t, A), value(t, B)));
}
