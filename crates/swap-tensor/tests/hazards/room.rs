//! Room: who may take it from whom, and that everybody who waits for it ends.

use crate::support::{
    AGES, UNIT, contents, copied, cpu, cpu_over_disk, leased, rewrite, same, staged, store, tensor,
    tensor_on_disk, until,
};
use backend_cpu::{
    CpuDevice,
    sim::{FaultPlan as SimFaults, SimConfig, SimDevice},
};
use std::{thread, time::Duration};
use swap_tensor::{
    Mode, PoolBuilder, Residency, SwapError, SwapPool,
    disk::{Call, Fault, FaultPlan},
};

/// LMCache #3130: an object was evicted while somebody used it.
/// Rule: only the path that counts users frees.
/// Guards: `is_idle_on` in `entry.rs`, which `evict` (`tensor.rs`) and `victim` (`room.rs`) ask; a lease makes its block a wall besides
/// (`allocator-core`).
#[test]
fn evict_while_in_use() {
    let pool = cpu(3, 8);
    let (a, b, c) = (tensor(&pool, "a", 1, 1), tensor(&pool, "b", 2, 1), tensor(&pool, "c", 3, 2));
    // Pinned, not leased: nothing but the count holds it. It is also the one used longest ago.
    a.pin().unwrap();
    same(leased(&b), &contents(2, 1));
    assert!(!a.evict());
    same(leased(&c), &contents(3, 2));
    assert_eq!((a.residency(), b.residency()), (Residency::Device, Residency::Host));
    assert!(a.unpin());
    let lease = a.read().unwrap();
    let place = lease.range();
    assert!(!a.evict());
    same(leased(&b), &contents(2, 1));
    assert_eq!((a.residency(), lease.range()), (Residency::Device, place));
    drop(lease);
    assert!(a.evict());
    pool.check().unwrap();
}

/// vLLM spans "lookup says hit" and "pin" with one lock, for what was found may be evicted in between.
/// Rule: lookup and pin are one step.
/// Guard: `claim_now` in `claim.rs` counts all leases before any tensor is looked for.
#[test]
fn lookup_then_pin_gap() {
    let pool = cpu(2, 8);
    let (a, b, x) = (tensor(&pool, "a", 1, 1), tensor(&pool, "b", 2, 1), tensor(&pool, "x", 3, 1));
    same(leased(&b), &contents(2, 1));
    same(leased(&x), &contents(3, 1));
    let before = pool.stats();
    // Room for `a` is to be made while `b`, found on the device and used longest ago, has not had its turn.
    drop(pool.lease_all(&[(&a, Mode::Read), (&b, Mode::Read)]).unwrap());
    let after = pool.stats();
    assert_eq!((after.hits - before.hits, after.uploaded_bytes - before.uploaded_bytes), (1, UNIT));
    assert_eq!(x.residency(), Residency::Host);
}

/// LMCache #2942, #3855, SGLang #33862, #9643: everybody holds one and waits for another.
/// Rule: all that is wanted is claimed at once or not at all, in bounded time.
/// Guard: `claim_now` in `claim.rs`, which grants no more than the device has room for.
#[test]
fn pool_exhausted_everybody_ends() {
    let store = store(FaultPlan::seeded(1).randomly(Call::Read, 2, Fault::Delay));
    let pool = cpu_over_disk(2, 0, &store, AGES / 3);
    let tensors: Vec<_> = (0..6).map(|i| tensor_on_disk(&pool, &format!("t{i}"), i, 1)).collect();
    thread::scope(|s| {
        for thread in 0..8 {
            let (pool, tensors) = (&pool, &tensors);
            s.spawn(move || {
                for step in 0..12 {
                    let (a, b) = (&tensors[(thread + step) % 6], &tensors[(thread + step * 5 + 3) % 6]);
                    let one = [(a, Mode::Read)];
                    let two = [(a, Mode::Read), (b, Mode::Write)];
                    let alone = a.spec() == b.spec();
                    let leases = pool.lease_all(if alone { &one } else { &two }).unwrap();
                    // Both are held at once.
                    thread::yield_now();
                    drop(leases);
                }
            });
        }
    });
    assert_eq!(pool.stats().held_bytes, 0);
    tensors.iter().enumerate().for_each(|(i, t)| same(copied(t), &contents(i as u64, 1)));
    pool.check().unwrap();
}

/// The same for want of a hole: several leases that fit by their bytes, one of whose tensors lies in the middle.
/// Guard: `gather` in `claim.rs`, which makes no tensor a wall before all are there.
#[test]
fn pool_exhausted_by_its_own_walls() {
    let pool = cpu(4, 8);
    let (x, a, b) = (tensor(&pool, "x", 1, 1), tensor(&pool, "a", 2, 2), tensor(&pool, "b", 3, 2));
    same(leased(&x), &contents(1, 1));
    same(leased(&a), &contents(2, 2));
    assert!(x.evict());
    let wanted = pool.lease_many(&[(&a, Mode::Read), (&b, Mode::Write)]).within(Duration::ZERO);
    let leases = wanted.wait().unwrap();
    assert_eq!(pool.stats().moved_bytes, 2 * UNIT);
    drop(leases);
    same(leased(&a), &contents(2, 2));
    same(leased(&b), &contents(3, 2));
    pool.check().unwrap();
}

/// Whoever had to wait for its room has time left to read what goes there.
/// Guard: `fill_from_below` in `below.rs`, where the disk's time begins with the read.
#[test]
fn pool_exhausted_for_long() {
    let store = store(FaultPlan::seeded(1).always(Call::Read, Fault::Delay));
    let pool = cpu_over_disk(2, 0, &store, LATE);
    let (a, x) = (tensor_on_disk(&pool, "a", 1, 1), tensor(&pool, "x", 2, 2));
    let lease = x.read().unwrap();
    thread::scope(|s| {
        let waiter = s.spawn(|| a.lease().within(AGES).wait().map(drop));
        // Longer than the disk may take.
        thread::sleep(LATE + LATE / 4);
        drop(lease);
        waiter.join().unwrap().unwrap();
    });
    same(leased(&a), &contents(1, 1));
}

/// LMCache #3893: an allocation failed, the function returned, and the lock it had taken was never given back.
/// Rule: what is held is a value that gives it back when dropped.
/// Guard: `occupy` in `claim.rs`, which gives its claim back on every error; slices of staging by their own drop.
#[test]
fn guard_dropped_on_early_return() {
    let store = store(FaultPlan::seeded(1).at(Call::Read, 1, Fault::IO));
    let pool = cpu_over_disk(2, 0, &store, AGES);
    let a = tensor_on_disk(&pool, "a", 1, 1);
    let (before, held) = (staged(&pool), || (pool.stats().held_bytes, pool.stats().device_bytes));
    assert!(matches!(a.write().map(drop), Err(SwapError::Disk { .. })));
    assert_eq!(held(), (0, 0), "after a read that failed");
    // Other pieces that were on their way give theirs back when they land.
    until(|| staged(&pool) == before);
    let foreign = CpuDevice::new().unwrap();
    assert!(matches!(a.write_on(foreign.queue()).map(drop), Err(SwapError::ForeignQueue { .. })));
    assert_eq!((held(), staged(&pool)), ((0, UNIT), before), "after a queue that was refused");
    drop(a.write().unwrap());
    same(copied(&a), &contents(1, 1));
}

/// LMCache #559: the cache had taken the memory that copies needed to get anything out of it.
/// Rule: staging has a budget of its own.
/// Guard: `staging_slice` in `flight.rs` takes from the ring that `builder.rs` sets apart from the host tier.
#[test]
fn staging_apart_from_cache() {
    let pool = cpu(1, 2);
    let (_a, _b) = (tensor(&pool, "a", 1, 1), tensor(&pool, "b", 2, 1));
    assert_eq!(pool.stats().host_bytes, 2 * UNIT, "the host tier is full");
    let spec = swap_tensor::TensorSpec::new("c", swap_tensor::DType::U8, [UNIT]).unwrap();
    let c = pool.create(spec, &contents(3, 1)).unwrap();
    let mut lease = c.write().unwrap();
    lease.upload(&contents(4, 1)).unwrap();
    let mut into = vec![0; UNIT as usize];
    lease.download(&mut into).unwrap();
    assert!(into == contents(4, 1));
    assert_eq!((pool.stats().host_bytes, staged(&pool)), (2 * UNIT, 0));
}

/// SGLang #33862: host copies that mirrored the device's counted as used, and nothing could reclaim them.
/// Rule: a clean duplicate can always go, in either tier, and costs no I/O.
/// Guards: `drop_spare_host_copy` in `room.rs`, which `host_slice` asks; `evict_one` there lets a clean device copy go at once.
#[test]
fn clean_duplicate_is_always_evictable() {
    let pool = cpu(2, 2);
    let (a, b) = (tensor(&pool, "a", 1, 1), tensor(&pool, "b", 2, 1));
    // Both tiers are full of the same two tensors, and these stay where they are.
    let leases = pool.lease_all(&[(&a, Mode::Read), (&b, Mode::Read)]).unwrap();
    let (c, d) = (tensor(&pool, "c", 3, 1), tensor(&pool, "d", 4, 1));
    assert_eq!((c.residency(), d.residency()), (Residency::Host, Residency::Host));
    drop(leases);
    [&a, &b, &c, &d].iter().zip(1..).for_each(|(t, i)| same(copied(t), &contents(i, 1)));

    let pool = cpu(1, 4);
    let (a, b) = (tensor(&pool, "a", 1, 1), tensor(&pool, "b", 2, 1));
    for _ in 0..2 {
        same(leased(&a), &contents(1, 1));
        same(leased(&b), &contents(2, 1));
    }
    let stats = pool.stats();
    assert_eq!((stats.evictions, stats.write_backs, stats.downloaded_bytes), (3, 0, 0));
}

/// A simulated device that can lock so much memory, with what goes wrong there.
fn limited(limit: u64, faults: SimFaults) -> PoolBuilder<SimDevice> {
    SwapPool::builder(SimDevice::new(SimConfig::seeded(1).lock_limit(limit).faults(faults)))
        .device_memory(2 * UNIT)
        .staging(2 * UNIT)
        .deadline(Duration::ZERO)
}

/// vLLM #51080: a registration that the driver refused left an error behind that the next call, of something else, reported.
/// Rule: a refusal is dealt with where it is met, and memory is locked in chunks.
/// Guard: `tier` in `host_memory.rs`, which goes on with pageable memory; a region's length is bounded by `PageLocker::max_region`
/// (unit test there). What a real driver keeps is `backend-cuda`'s to clear.
#[test]
fn sticky_error_after_failed_lock() {
    // Staging is locked in two calls; the third, for the host tier, is refused.
    let refused = SimFaults::none().at(backend_cpu::sim::Call::Lock, 3, backend_cpu::sim::Fault::Refuse);
    let pool = limited(u64::MAX, refused).host_memory(4 * UNIT).build().unwrap();
    assert_eq!((pool.stats().locked_bytes, pool.stats().pageable_bytes), (2 * UNIT, 4 * UNIT));
    let (a, b) = (tensor(&pool, "a", 1, 2), tensor(&pool, "b", 2, 2));
    for value in 3..6 {
        rewrite(&a, value);
        same(leased(&b), &contents(2, 2));
        same(leased(&a), &contents(value, 2));
    }
    pool.settle().unwrap();
    pool.device().assert_no_hazards();
}

/// Memory that two lock (a driver and io_uring, or staging and the host tier) against one limit; a container's limit is not `free`.
/// Rule: what there is counts once, and what does not fit is pageable or refused when the pool is built, never later.
/// Guard: `build` in `builder.rs` asks the locker what is left once staging is locked. That pages pinned twice count once is
/// `PagePin`'s in `pinned-host` (`tests/os.rs`); that a ring's refusal costs only the gain, `tests/stories/disk.rs` shows.
#[test]
fn two_pins_of_one_page() {
    // Six units may be locked, two of which staging has.
    let fits = limited(6 * UNIT, SimFaults::none()).host_memory(4 * UNIT).build().unwrap();
    assert_eq!((fits.stats().locked_bytes, fits.stats().pageable_bytes), (6 * UNIT, 0));
    let does_not = limited(6 * UNIT, SimFaults::none()).host_memory(5 * UNIT).build().unwrap();
    assert_eq!((does_not.stats().locked_bytes, does_not.stats().pageable_bytes), (2 * UNIT, 5 * UNIT));
    let staging = limited(UNIT, SimFaults::none()).build().map(drop);
    assert!(matches!(staging, Err(SwapError::Host { purpose: "staging", .. })), "{staging:?}");
}

/// TensorRT-LLM #15431: registering memory stalled in the kernel, in the middle of serving.
/// Rule: memory is touched and locked ahead, in chunks, and never on the way of a transfer.
/// Guard: `builder.rs` has all memory locked when the pool is built, and `host_slice` (`room.rs`) and `staging_slice` (`flight.rs`)
/// take from it. How pages are touched and kept from being joined (`MADV_NOHUGEPAGE`) is `pinned-host`'s, with tests there.
#[test]
fn registration_on_the_hot_path() {
    let pool = limited(u64::MAX, SimFaults::none()).host_memory(4 * UNIT).build().unwrap();
    (1..1000)
        .for_each(|k| pool.device().inject(backend_cpu::sim::Call::Lock, k, backend_cpu::sim::Fault::Refuse));
    let (a, b) = (tensor(&pool, "a", 1, 2), tensor(&pool, "b", 2, 2));
    for value in 3..6 {
        rewrite(&a, value);
        rewrite(&b, value);
        same(copied(&a), &contents(value, 2));
    }
    assert_eq!(pool.stats().locked_bytes, 6 * UNIT);
}

/// How long a call waits for a disk with which nothing is wrong.
const LATE: Duration = Duration::from_secs(1);
