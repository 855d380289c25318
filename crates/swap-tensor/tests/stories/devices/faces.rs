//! Calls that name a device.

use super::support::{A, B, UNIT, sim, tensor, value, well, write};
use backend_cpu::{
    CpuDevice,
    sim::{SimConfig, SimDevice},
};
use pinned_host::Queue;
use swap_tensor::{DeviceIndex, Mode, SlotState, SwapError, SwapPool};

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
