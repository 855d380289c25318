//! What a memory tracker is told of a pool's tiers, and what a refusal for want of room is explained with.
#![cfg(unix)]
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on should stop where it stands")]

use backend_cpu::{
    CpuDevice,
    sim::{Call, Fault, FaultPlan, SimConfig, SimDevice},
};
use mem_tracker::{Category, Tracker, When};
use pinned_host::Transfer;
use std::time::Duration;
use swap_tensor::{
    DType, DeviceIndex, PoolBuilder, SwapError, SwapPool, Tensor, TensorSpec, disk::DiskConfig,
};

const KIB: u64 = 1 << 10;

fn builder() -> PoolBuilder<CpuDevice> {
    SwapPool::builder(CpuDevice::new().unwrap()).deadline(Duration::ZERO).name("cpu")
}

fn tensor<T: Transfer>(pool: &SwapPool<T>, name: &str, bytes: u64) -> Result<Tensor<T>, SwapError> {
    pool.create(TensorSpec::new(name, DType::U8, [bytes]).unwrap(), &vec![7; bytes as usize])
}

fn held(tracker: &Tracker, tier: &str) -> u64 {
    tracker.device(tier).unwrap().usage(When::Current).total()
}

/// Modules with their bytes now.
fn modules(tracker: &Tracker, tier: &str) -> Vec<(String, u64)> {
    let of = tracker.device(tier).unwrap().attribution(When::Current, 0);
    let mut modules: Vec<_> =
        of.modules.into_iter().map(|share| (share.module.unwrap_or_default(), share.usage.total())).collect();
    modules.sort();
    modules
}

#[test]
fn every_tier_is_told_of() {
    let tracker = Tracker::new();
    let store = DiskConfig::new(std::env::temp_dir(), 4 << 20).open().unwrap();
    let builder = builder().device_memory(512 * KIB).host_memory(512 * KIB).disk(store);
    let pool = builder.deadline(Duration::from_secs(30)).tracker(tracker.clone()).build().unwrap();
    let names: Vec<String> = tracker.devices().iter().map(|device| device.name()).collect();
    assert_eq!(names, ["cpu:0", "host", "disk"]);
    assert_eq!(tracker.device("cpu:0").unwrap().memory_stats().reserved_bytes.current, 512 * KIB);

    let at = |name: &str| tensor(&pool, name, 512 * KIB).unwrap();
    let (first, second, third) = (at("h.0.w"), at("h.1.w"), at("w"));
    for one in [&first, &second, &third] {
        one.write().unwrap().write_now(&vec![1; 512 << 10]).unwrap();
    }
    pool.settle().unwrap();
    let all = ["cpu:0", "host", "disk"].map(|tier| modules(&tracker, tier));
    let whole = |module: &str| vec![(module.to_owned(), 512 * KIB)];
    assert_eq!(all, [whole(""), whole("h.1"), whole("h.0")]);
    let largest = &tracker.device("cpu:0").unwrap().attribution(When::Current, 1).largest[0];
    assert_eq!((largest.label.as_deref(), largest.category), (Some("w"), Category::Parameter));
    assert_eq!(held(&tracker, "disk"), pool.stats().disk_bytes);

    // Wherever a copy is.
    for (one, category) in
        [(&first, Category::Optstate), (&second, Category::Gradient), (&third, Category::Buffer)]
    {
        one.set_category(category);
        assert_eq!(one.category(), Some(category));
    }
    let in_tier =
        |tier: &str, category| tracker.device(tier).unwrap().usage(When::Current).allocated(category);
    assert_eq!(in_tier("disk", Category::Optstate), 512 * KIB);
    assert_eq!(in_tier("host", Category::Gradient), 512 * KIB);
    assert_eq!(in_tier("cpu:0", Category::Buffer), 512 * KIB);
    first.read().unwrap().wait().unwrap();
    assert_eq!(in_tier("cpu:0", Category::Optstate), 512 * KIB);
    pool.check().unwrap();

    drop((first, second, third));
    pool.settle().unwrap();
    assert_eq!(["cpu:0", "host", "disk"].map(|tier| held(&tracker, tier)), [0; 3]);
    drop(pool);
    assert_eq!(tracker.device("cpu:0").unwrap().memory_stats().segment.current, 0);
    assert_eq!(tracker.warnings(), []);
}

#[test]
fn each_device_has_a_name() {
    let tracker = Tracker::new();
    let second = CpuDevice::new().unwrap();
    let builder = builder().device_memory(64 * KIB).add_device(second, 128 * KIB).host_memory(512 * KIB);
    let pool = builder.tracker(tracker.clone()).build().unwrap();
    let tensor = tensor(&pool, "w", 32 * KIB).unwrap();
    tensor.read().unwrap().wait().unwrap();
    tensor.read_at(DeviceIndex::new(1)).unwrap().wait().unwrap();
    assert_eq!((held(&tracker, "cpu:0"), held(&tracker, "cpu:1")), (32 * KIB, 32 * KIB));
    let reserved = |tier| tracker.device(tier).unwrap().memory_stats().reserved_bytes.current;
    assert_eq!((reserved("cpu:0"), reserved("cpu:1")), (64 * KIB, 128 * KIB));
}

/// What threads of the program are doing is theirs: a tensor's copies are its own.
#[test]
fn scopes_of_the_program_own_no_copy() {
    let tracker = Tracker::new();
    let pool =
        builder().device_memory(64 * KIB).host_memory(64 * KIB).tracker(tracker.clone()).build().unwrap();
    let module = tracker.module("Net.3").unwrap();
    let _scope = module.forward();
    let tensor = tensor(&pool, "Net.1.weight", 16 * KIB).unwrap();
    tensor.read().unwrap().wait().unwrap();
    for tier in ["cpu:0", "host"] {
        assert_eq!(modules(&tracker, tier), [("Net.1".to_owned(), 16 * KIB)]);
    }
    // But what they see of it is all that there is.
    drop(_scope);
    assert_eq!(tracker.modules()[0].local_peak("cpu:0"), 16 * KIB);
}

#[test]
fn a_full_device_is_explained() {
    let tracker = Tracker::new();
    let builder = builder().device_memory(400 * KIB).host_memory(4 << 20);
    let pool = builder.tracker(tracker.clone()).build().unwrap();
    let at = |name: &str| tensor(&pool, name, 100 * KIB).unwrap();
    let (pinned, leased, dirty, clean) = (at("h.0.w"), at("h.0.b"), at("h.1.w"), at("h.2.w"));
    pinned.pin().unwrap();
    let lease = leased.read().unwrap();
    dirty.write().unwrap().write_now(&vec![1; 100 << 10]).unwrap();
    clean.read().unwrap().wait().unwrap();
    let refusal = tensor(&pool, "big", 250 * KIB).unwrap().read().err().unwrap();
    assert!(matches!(refusal, SwapError::DeviceBudget { .. }), "{refusal}");

    let why = pool.explain(&refusal).unwrap();
    let keepers = why.keepers;
    assert_eq!((keepers.leased, keepers.pinned, keepers.busy), (100 * KIB, 100 * KIB, 0));
    assert_eq!((keepers.dirty, keepers.clean), (100 * KIB, 100 * KIB));
    assert!(!why.swapping_helps(), "250 KiB of 400 KiB, of which 200 KiB stay");
    let arena = why.arena.as_ref().unwrap();
    assert_eq!(arena.swappable.total(), 200 * KIB, "what is pinned is not leased and stays all the same");
    let text = why.to_string();
    let lines: Vec<&str> = text.lines().collect();
    assert!(lines[0].starts_with("cpu:0 out of memory. Tried to allocate 250.00 KiB. "), "{text}");
    assert_eq!(lines[1], "held: 400.00 KiB Parameter");
    assert_eq!(lines[2], "by module: 200.00 KiB h.0, 100.00 KiB h.1, 100.00 KiB h.2");
    assert_eq!(
        lines[6],
        "kept: 100.00 KiB leased, 100.00 KiB pinned, 0 bytes in use by transfers; idle: 100.00 KiB that can go at once, \
         100.00 KiB that has to be written elsewhere first"
    );
    assert_eq!(tracker.device("cpu:0").unwrap().memory_stats().num_ooms, 1);

    // A budget below the arena: it is what is full.
    drop(lease);
    pinned.unpin();
    pool.set_device_budget(150 * KIB).unwrap();
    let _lease = leased.read().unwrap();
    let refusal = dirty.read().err().unwrap();
    let why = pool.explain(&refusal).unwrap();
    assert_eq!((why.budget, why.taken, why.swapping_helps()), (150 * KIB, 100 * KIB, false));
    let budget = "budget: tensors may take 150.00 KiB of the arena, of which 50.00 KiB is free";
    assert!(why.to_string().lines().any(|line| line == budget), "{why}");
}

#[test]
fn a_full_host_tier_is_explained() {
    let pool =
        builder().device_memory(100 * KIB).host_memory(200 * KIB).tracker(Tracker::new()).build().unwrap();
    let kept: Vec<_> = (0..3).map(|i| tensor(&pool, &format!("h.{i}.w"), 100 * KIB).unwrap()).collect();
    let refusal = kept[0].read().err().unwrap();
    assert!(matches!(refusal, SwapError::HostBudget { .. }), "{refusal}");
    let why = pool.explain(&refusal).unwrap();
    assert_eq!((&*why.tier, why.requested, why.budget, why.taken), ("host", 100 * KIB, 200 * KIB, 200 * KIB));
    assert_eq!((why.keepers.dirty, why.keepers.idle()), (200 * KIB, 200 * KIB));
    let text = "host out of memory. Tried to allocate 100.00 KiB. Tensors may take 200.00 KiB there, of which 0 bytes is free.\n\
                held: 200.00 KiB Parameter\n\
                by module: 100.00 KiB h.0, 100.00 KiB h.1\n";
    assert!(why.to_string().starts_with(text), "{why}");
}

#[test]
fn a_full_disk_is_explained() {
    let store = DiskConfig::new(std::env::temp_dir(), 400 * KIB).open().unwrap();
    let builder = builder().device_memory(400 * KIB).disk(store).deadline(Duration::from_secs(30));
    let pool = builder.tracker(Tracker::new()).build().unwrap();
    let mut kept = Vec::new();
    let refusal = (0..4).find_map(|i| match tensor(&pool, &format!("h.{i}.w"), 300 * KIB) {
        Ok(made) => {
            kept.push(made);
            None
        }
        Err(error) => Some(error),
    });
    let why = pool.explain(&refusal.unwrap()).unwrap();
    assert_eq!((&*why.tier, why.requested, why.budget), ("disk", 300 * KIB, 400 * KIB));
    assert_eq!((why.taken, why.keepers.dirty, why.holders.usage.total()), (300 * KIB, 300 * KIB, 300 * KIB));
}

#[test]
fn what_is_not_for_want_of_room_is_not_explained() {
    let tracked = builder().device_memory(64 * KIB).tracker(Tracker::new()).build().unwrap();
    let plain = builder().device_memory(64 * KIB).build().unwrap();
    let other = SwapError::Stuck { name: "w".to_owned() };
    let full = |device| SwapError::DeviceBudget {
        device,
        requested: 1,
        leased: 0,
        free: 0,
        arena: 0,
        waited: Duration::ZERO,
        holders: Vec::new(),
    };
    assert!(tracked.explain(&other).is_none());
    assert!(tracked.explain(&full(DeviceIndex::new(3))).is_none(), "another pool's refusal");
    assert!(tracked.explain(&full(DeviceIndex::FIRST)).is_some());
    assert!(plain.explain(&full(DeviceIndex::FIRST)).is_none());
    let tensor = tensor(&plain, "w", KIB).unwrap();
    tensor.set_category(Category::Buffer);
    assert_eq!(tensor.category(), None);
}

/// A device that cannot say whether it still writes to host memory keeps it, and the tracker says so.
#[test]
fn memory_that_no_transfer_gives_back_is_told_apart() {
    let tracker = Tracker::new();
    let plan = FaultPlan::none().randomly(Call::Download, 1, Fault::FailRecord).randomly(
        Call::Drain,
        1,
        Fault::Refuse,
    );
    let device = SimDevice::new(SimConfig::seeded(3).faults(plan));
    let builder =
        SwapPool::builder(device).device_memory(16 * KIB).host_memory(64 * KIB).deadline(Duration::ZERO);
    let pool = builder.tracker(tracker.clone()).build().unwrap();
    let tensor = tensor(&pool, "w", 8 * KIB).unwrap();
    drop(tensor.write().unwrap());
    assert!(tensor.swap_out().is_err());
    assert_eq!(pool.stats().host_bytes, 8 * KIB);
    let host = tracker.device("host").unwrap().usage(When::Current);
    assert_eq!((host.total(), host.allocated(Category::Other)), (8 * KIB, 8 * KIB));
    pool.check().unwrap();
}

#[test]
fn a_tracker_may_be_reset() {
    let tracker = Tracker::new();
    let pool =
        builder().device_memory(64 * KIB).host_memory(256 * KIB).tracker(tracker.clone()).build().unwrap();
    let tensors: Vec<_> = (0..3).map(|i| tensor(&pool, &format!("t.{i}"), 32 * KIB).unwrap()).collect();
    tensors.iter().for_each(|one| drop(one.write().unwrap()));
    pool.settle().unwrap();
    tracker.reset();
    for one in &tensors {
        one.set_category(Category::Gradient);
        one.read().unwrap().wait().unwrap();
        pool.check().unwrap();
    }
    drop(tensors);
    pool.settle().unwrap();
    pool.check().unwrap();
    assert_eq!((held(&tracker, "cpu:0"), held(&tracker, "host")), (0, 0));
}
