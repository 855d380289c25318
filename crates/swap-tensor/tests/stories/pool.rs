//! What a pool promises, on the CPU device.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on should stop where it stands")]

use backend_cpu::CpuDevice;
use pinned_host::Queue;
use std::{sync::Barrier, thread, time::Duration};
use swap_tensor::{DType, Mode, Residency, SwapError, SwapPool, Tensor, TensorSpec};

const KIB: u64 = 1 << 10;

fn pool(device: u64, host: u64) -> SwapPool<CpuDevice> {
    SwapPool::builder(CpuDevice::new().unwrap())
        .device_memory(device)
        .host_memory(host)
        .deadline(Duration::from_millis(50))
        .build()
        .unwrap()
}

fn tensor(pool: &SwapPool<CpuDevice>, name: &str, bytes: u64, value: u8) -> Tensor<CpuDevice> {
    pool.create(TensorSpec::new(name, DType::U8, [bytes]).unwrap(), &vec![value; bytes as usize]).unwrap()
}

fn contents(tensor: &Tensor<CpuDevice>) -> Vec<u8> {
    let mut into = vec![0; tensor.spec().bytes() as usize];
    tensor.copy_to(&mut into).unwrap();
    into
}

#[test]
fn more_tensors_than_the_device_holds_keep_their_contents() {
    let pool = pool(64 * KIB, 1 << 20);
    let tensors: Vec<_> = (0..10).map(|i| tensor(&pool, &format!("t{i}"), 20 * KIB, i)).collect();
    for round in 1..=3u8 {
        for tensor in &tensors {
            let mut lease = tensor.write().unwrap();
            let mut now = vec![0; 20 << 10];
            lease.read_now(&mut now).unwrap();
            now.iter_mut().for_each(|x| *x += 10);
            lease.write_now(&now).unwrap();
        }
        for (i, tensor) in tensors.iter().enumerate() {
            assert_eq!(contents(tensor), vec![i as u8 + 10 * round; 20 << 10]);
        }
        pool.check().unwrap();
    }
    let stats = pool.stats();
    assert!(stats.write_backs >= 20 && stats.evictions >= 20, "{stats:?}");
}

#[test]
fn a_clean_tensor_leaves_without_a_copy() {
    let pool = pool(64 * KIB, 1 << 20);
    let (a, b) = (tensor(&pool, "a", 40 * KIB, 1), tensor(&pool, "b", 40 * KIB, 2));
    for _ in 0..4 {
        drop(a.read().unwrap());
        drop(b.read().unwrap());
    }
    let stats = pool.stats();
    assert_eq!((stats.downloaded_bytes, stats.uploaded_bytes), (0, 8 * 40 * KIB));
    assert_eq!((stats.leases, stats.hits, stats.evictions), (8, 0, 7));
}

#[test]
fn a_dirty_tensor_is_copied_down_once_however_often_it_was_written() {
    let pool = pool(64 * KIB, 1 << 20);
    let (a, b) = (tensor(&pool, "a", 40 * KIB, 1), tensor(&pool, "b", 40 * KIB, 2));
    for _ in 0..5 {
        drop(a.write().unwrap());
    }
    drop(b.read().unwrap());
    let stats = pool.stats();
    assert_eq!((stats.write_backs, stats.downloaded_bytes), (1, 40 * KIB));
    assert_eq!(a.residency(), Residency::Host);
}

#[test]
fn a_leased_tensor_stays_where_it_is() {
    let pool = pool(64 * KIB, 1 << 20);
    let (a, b, c) =
        (tensor(&pool, "a", 24 * KIB, 1), tensor(&pool, "b", 24 * KIB, 2), tensor(&pool, "c", 24 * KIB, 3));
    let lease = a.read().unwrap();
    let at = lease.range();
    for _ in 0..3 {
        drop(b.write().unwrap());
        drop(c.write().unwrap());
        assert_eq!(lease.range(), at);
        assert_eq!(a.residency(), Residency::Device);
    }
    assert!(!a.evict());
}

#[test]
fn many_read_or_one_writes() {
    let pool = pool(64 * KIB, 1 << 20);
    let a = tensor(&pool, "a", KIB, 1);
    let (first, second) = (a.read().unwrap(), a.read().unwrap());
    assert_eq!(first.range(), second.range());
    assert!(matches!(a.write(), Err(SwapError::Leased { readers: 2, writer: false, .. })));
    drop((first, second));
    let writer = a.write().unwrap();
    assert!(matches!(a.read(), Err(SwapError::Leased { writer: true, .. })));
    drop(writer);
    a.read().unwrap().wait().unwrap();
}

#[test]
fn leases_for_more_than_the_device_holds_are_refused_and_nothing_is_held() {
    let pool = pool(64 * KIB, 1 << 20);
    let tensors: Vec<_> = (0..3).map(|i| tensor(&pool, &format!("t{i}"), 30 * KIB, i)).collect();
    let all: Vec<_> = tensors.iter().map(|t| (t, Mode::Read)).collect();
    assert!(matches!(
        pool.lease_all(&all),
        Err(SwapError::DeviceBudget { requested, arena, .. }) if requested == 90 * KIB && arena == 64 * KIB
    ));
    assert_eq!(pool.stats().held_bytes, 0);
    let two = pool.lease_all(&all[..2]).unwrap();
    assert_eq!(pool.stats().held_bytes, 60 * KIB);
    assert!(matches!(tensors[2].read(), Err(SwapError::DeviceBudget { leased, .. }) if leased == 60 * KIB));
    drop(two);
    drop(tensors[2].read().unwrap());
    let twice = [(&tensors[0], Mode::Read), (&tensors[0], Mode::Write)];
    assert!(matches!(pool.lease_all(&twice), Err(SwapError::LeasedTwice { .. })));
    drop(pool.lease_all(&[(&tensors[0], Mode::Read), (&tensors[0], Mode::Read)]).unwrap());
    pool.check().unwrap();
}

#[test]
fn a_lease_waits_for_room_that_another_thread_gives_back() {
    let pool = SwapPool::builder(CpuDevice::new().unwrap())
        .device_memory(64 * KIB)
        .host_memory(1 << 20)
        .build()
        .unwrap();
    let (a, b) = (tensor(&pool, "a", 40 * KIB, 1), tensor(&pool, "b", 40 * KIB, 2));
    let lease = a.read().unwrap();
    let ready = Barrier::new(2);
    thread::scope(|s| {
        let waiter = s.spawn(|| {
            ready.wait();
            b.read().unwrap().wait().unwrap();
        });
        ready.wait();
        drop(lease);
        waiter.join().unwrap();
    });
    assert_eq!(b.residency(), Residency::Device);
}

#[test]
fn without_host_room_a_dirty_tensor_is_not_dropped() {
    let pool = pool(64 * KIB, 40 * KIB);
    let a = tensor(&pool, "a", 40 * KIB, 1);
    let b = tensor(&pool, "b", 40 * KIB, 2); // no room beside a's host copy: a goes to the device, or b does
    drop(a.write());
    let outcome = [a.write().map(drop), b.write().map(drop)];
    assert!(
        outcome.iter().any(|r| matches!(r, Err(SwapError::HostBudget { .. })))
            || outcome.iter().all(Result::is_ok),
        "{outcome:?}"
    );
    assert_eq!(contents(&a), vec![1; 40 << 10]);
    assert_eq!(contents(&b), vec![2; 40 << 10]);
    pool.check().unwrap();
}

#[test]
fn pinned_tensors_stay_and_count() {
    let pool = pool(64 * KIB, 1 << 20);
    let (a, b) = (tensor(&pool, "a", 40 * KIB, 1), tensor(&pool, "b", 40 * KIB, 2));
    a.pin().unwrap();
    assert_eq!(pool.stats().held_bytes, 40 * KIB);
    assert!(matches!(b.read(), Err(SwapError::DeviceBudget { .. })));
    assert!(a.unpin());
    assert!(!a.unpin());
    drop(b.read().unwrap());
    assert_eq!(pool.stats().held_bytes, 0);
}

#[test]
fn swap_out_writes_back_and_evict_does_not() {
    let pool = pool(64 * KIB, 1 << 20);
    let a = tensor(&pool, "a", 40 * KIB, 1);
    a.write().unwrap().write_now(&vec![9; 40 << 10]).unwrap();
    assert!(!a.evict(), "dirty");
    a.swap_out().unwrap();
    assert_eq!(a.residency(), Residency::Host);
    drop(a.read().unwrap());
    pool.settle().unwrap();
    assert!(a.evict());
    assert_eq!(contents(&a), vec![9; 40 << 10]);
}

#[test]
fn load_replaces_the_contents_in_every_tier() {
    let pool = pool(64 * KIB, 1 << 20);
    let a = tensor(&pool, "a", 40 * KIB, 1);
    a.to_device().unwrap();
    a.load(&vec![7; 40 << 10]).unwrap();
    assert_eq!(contents(&a), vec![7; 40 << 10]);
    let lease = a.read().unwrap();
    let mut now = vec![0; 40 << 10];
    lease.download(&mut now).unwrap();
    assert_eq!(now, vec![7; 40 << 10]);
    assert!(
        matches!(a.load(&[1]), Err(SwapError::Length { expected, given: 1, .. }) if expected == 40 * KIB)
    );
}

#[test]
fn prefetched_tensors_are_hits() {
    let pool = pool(64 * KIB, 1 << 20);
    let tensors: Vec<_> = (0..4).map(|i| tensor(&pool, &format!("t{i}"), 30 * KIB, i)).collect();
    pool.prefetch(&[&tensors[0], &tensors[1], &tensors[2]]);
    pool.settle().unwrap();
    // The third is not worth throwing out the first two for.
    let residency: Vec<_> = tensors.iter().map(Tensor::residency).collect();
    assert_eq!(residency, [Residency::Device, Residency::Device, Residency::Host, Residency::Host]);
    drop(tensors[0].read().unwrap());
    drop(tensors[1].read().unwrap());
    let stats = pool.stats();
    assert_eq!((stats.leases, stats.hits, stats.prefetches), (2, 2, 2));
}

#[test]
fn tied_weights_count_once() {
    let pool = pool(64 * KIB, 1 << 20);
    let wte = tensor(&pool, "wte", 40 * KIB, 1);
    pool.alias("lm_head", &wte).unwrap();
    let head = pool.tensor("lm_head").unwrap();
    head.write().unwrap().write_now(&vec![5; 40 << 10]).unwrap();
    assert_eq!(contents(&wte), vec![5; 40 << 10]);
    assert_eq!(pool.stats().device_bytes, 40 * KIB);
    assert!(matches!(pool.alias("wte", &wte), Err(SwapError::DuplicateName { .. })));
    drop((wte, head));
    assert!(pool.tensor("lm_head").is_none());
    assert_eq!((pool.stats().device_bytes, pool.stats().host_bytes), (0, 0));
}

#[test]
fn scalars_and_empty_tensors_are_tensors() {
    let pool = pool(64 * KIB, 1 << 20);
    let empty = pool.create(TensorSpec::new("e", DType::F32, [0, 3]).unwrap(), &[]).unwrap();
    let scalar = pool.create(TensorSpec::new("s", DType::F32, []).unwrap(), &[1, 2, 3, 4]).unwrap();
    let leases = pool.lease_all(&[(&empty, Mode::Write), (&scalar, Mode::Write)]).unwrap();
    assert!(leases[0].range().is_empty());
    assert_eq!(leases[1].range().end - leases[1].range().start, 4);
    drop(leases);
    empty.swap_out().unwrap();
    assert_eq!(contents(&scalar), [1, 2, 3, 4]);
    assert_eq!(contents(&empty), [0; 0]);
}

#[test]
fn a_tensor_larger_than_the_arena_is_refused_at_once() {
    let pool = pool(64 * KIB, 1 << 20);
    let spec = TensorSpec::new("big", DType::U8, [65 * KIB]).unwrap();
    assert!(matches!(pool.create(spec, &vec![0; 65 << 10]), Err(SwapError::LargerThanArena { .. })));
    assert!(pool.tensor("big").is_none());
}

#[test]
fn leases_on_other_queues_are_ordered_behind_what_came_before() {
    let pool = pool(64 * KIB, 1 << 20);
    let queue = pool.device().new_queue().unwrap();
    let a = tensor(&pool, "a", 40 * KIB, 1);
    let mut lease = a.write().unwrap();
    lease.upload(&vec![3; 40 << 10]).unwrap();
    let event = lease.queue().record().unwrap();
    lease.finish(event).unwrap();
    let lease = a.read_on(&queue).unwrap();
    let mut now = vec![0; 40 << 10];
    lease.read_now(&mut now).unwrap();
    assert_eq!(now, vec![3; 40 << 10]);
}

#[test]
fn a_foreign_tensor_is_refused() {
    let (one, two) = (pool(64 * KIB, 1 << 20), pool(64 * KIB, 1 << 20));
    let a = tensor(&one, "a", KIB, 1);
    assert!(matches!(two.alias("b", &a), Err(SwapError::ForeignTensor { .. })));
    assert!(matches!(two.lease_all(&[(&a, Mode::Read)]), Err(SwapError::ForeignTensor { .. })));
}

#[test]
fn threads_share_a_pool() {
    let pool = SwapPool::builder(CpuDevice::new().unwrap())
        .device_memory(64 * KIB)
        .host_memory(1 << 20)
        .build()
        .unwrap();
    let tensors: Vec<_> = (0..8).map(|i| tensor(&pool, &format!("t{i}"), 14 * KIB, 0)).collect();
    thread::scope(|s| {
        for thread in 0..4u64 {
            let (pool, tensors) = (&pool, &tensors);
            s.spawn(move || {
                let mut state = thread + 1;
                for _ in 0..200 {
                    state =
                        state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                    let at = (state >> 33) as usize % tensors.len();
                    pool.prefetch(&[&tensors[(at + 1) % tensors.len()]]);
                    let mut lease = tensors[at].write().unwrap();
                    let mut now = vec![0; 14 << 10];
                    lease.read_now(&mut now).unwrap();
                    assert!(now.iter().all(|&x| x == now[0]));
                    lease.write_now(&vec![now[0].wrapping_add(1); 14 << 10]).unwrap();
                }
            });
        }
    });
    pool.check().unwrap();
    let total: u32 = tensors.iter().map(|t| u32::from(contents(t)[0])).sum();
    assert_eq!(total % 256, 800 % 256);
}

#[test]
fn a_failure_on_one_queue_leaves_writers_on_others_alone() {
    let pool = pool(64 * KIB, 1 << 20);
    let queue = pool.device().new_queue().unwrap();
    let (a, b) = (tensor(&pool, "a", KIB, 1), tensor(&pool, "b", KIB, 2));
    let mut writing = a.write().unwrap();
    writing.write_now(&[7; 1 << 10]).unwrap();
    let reading = b.read_on(&queue).unwrap();
    queue.launch(|| panic!("a kernel that fails, as the test wants it to")).unwrap();
    drop(reading);
    drop(writing);
    pool.settle().unwrap();
    assert_eq!(contents(&a), vec![7; 1 << 10]);
}

#[test]
fn a_failing_kernel_spoils_what_it_was_to_write() {
    let pool = pool(64 * KIB, 1 << 20);
    let a = tensor(&pool, "a", KIB, 1);
    let lease = a.write().unwrap();
    lease.queue().launch(|| panic!("a kernel that fails, as the test wants it to")).unwrap();
    drop(lease);
    assert!(matches!(a.to_device(), Err(SwapError::BadCopy { .. } | SwapError::NoValidCopy { .. })));
    assert!(matches!(a.copy_to(&mut [0; 1 << 10]), Err(SwapError::NoValidCopy { .. })));
    a.load(&[5; 1 << 10]).unwrap();
    assert_eq!(contents(&a), vec![5; 1 << 10]);
}

#[test]
fn events_and_queues_of_another_device_are_refused_and_harm_nothing() {
    let (pool, other) = (pool(64 * KIB, 1 << 20), CpuDevice::new().unwrap());
    let (a, b) = (tensor(&pool, "a", 40 * KIB, 1), tensor(&pool, "b", 40 * KIB, 2));
    let foreign = other.queue().record().unwrap();
    assert!(matches!(a.read().unwrap().finish(foreign), Err(SwapError::Device { .. })));
    assert!(matches!(a.read_on(other.queue()), Err(SwapError::ForeignQueue { .. })));
    for _ in 0..3 {
        b.read().unwrap().wait().unwrap();
        a.read().unwrap().wait().unwrap();
    }
    assert_eq!(pool.stats().held_bytes, 0);
}

#[test]
fn a_blank_copy_that_nobody_wrote_is_never_served() {
    let pool = pool(64 * KIB, 1 << 20);
    let a = tensor(&pool, "a", KIB, 1);
    drop(a.overwrite().unwrap());
    assert!(matches!(a.copy_to(&mut [0; 1 << 10]), Err(SwapError::NoValidCopy { .. })));
    let mut lease = a.overwrite().unwrap();
    assert!(matches!(lease.write_now(&[1]), Err(SwapError::Length { .. })));
    drop(lease);
    assert!(matches!(a.read(), Err(SwapError::NoValidCopy { .. })));
    a.overwrite().unwrap().write_now(&[8; 1 << 10]).unwrap();
    assert_eq!(contents(&a), vec![8; 1 << 10]);
    let lease = a.overwrite().unwrap();
    lease.view().unwrap().with_mut(|bytes: &mut [u8]| bytes.fill(9)).unwrap();
    let event = lease.queue().record().unwrap();
    lease.finish(event).unwrap();
    assert_eq!(contents(&a), vec![9; 1 << 10]);
}

#[test]
fn settings_beyond_all_bounds_are_errors_or_bounds() {
    let builder = || SwapPool::builder(CpuDevice::new().unwrap()).device_memory(64 * KIB);
    assert!(builder().host_memory(u64::MAX).build().is_err());
    let pool = builder().host_memory(1 << 20).deadline(Duration::MAX).build().unwrap();
    drop(tensor(&pool, "a", KIB, 1).read().unwrap());
}

#[test]
fn a_fetch_gives_up_when_write_backs_fail_and_the_failure_is_told() {
    use backend_cpu::sim::{Call, Fault, FaultPlan, SimConfig, SimDevice};
    let faults = FaultPlan::none().randomly(Call::Download, 1, Fault::Fail);
    let pool = SwapPool::builder(SimDevice::new(SimConfig::seeded(1).faults(faults)))
        .device_memory(64 * KIB)
        .host_memory(1 << 20)
        .build()
        .unwrap();
    let create = |name, value| {
        pool.create(TensorSpec::new(name, DType::U8, [40 * KIB]).unwrap(), &[value; 40 << 10]).unwrap()
    };
    let (a, b) = (create("a", 1), create("b", 2));
    a.write().unwrap().write_now(&[7; 40 << 10]).unwrap();
    pool.prefetch(&[&b]);
    pool.wait_prefetch();
    assert!(matches!(pool.settle(), Err(SwapError::Device { .. })));
    let mut into = vec![0; 40 << 10];
    a.read().unwrap().read_now(&mut into).unwrap();
    assert_eq!(into, [7; 40 << 10], "the source stays valid");
}
