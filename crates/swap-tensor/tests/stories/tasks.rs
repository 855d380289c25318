//! Leases that tasks wait for, on executors that know nothing of the pool; a budget that changes; fetches that are called off.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on should stop where it stands")]

use backend_cpu::CpuDevice;
use futures::{
    executor::{LocalPool, ThreadPool, block_on},
    future::{FutureExt, join_all, poll_immediate},
    task::{LocalSpawnExt, SpawnExt},
};
use pinned_host::{Lane, Transfer};
use std::{
    future::IntoFuture,
    time::{Duration, Instant},
};
use swap_tensor::{DType, Mode, Residency, SwapError, SwapPool, Tensor, TensorSpec};

const UNIT: u64 = 64 << 10;

fn pool(device: u64, host: u64) -> SwapPool<CpuDevice> {
    let builder = SwapPool::builder(CpuDevice::new().unwrap()).device_memory(device * UNIT);
    builder.host_memory(host * UNIT).staging(64 << 10).deadline(Duration::from_secs(20)).build().unwrap()
}

fn tensor(pool: &SwapPool<CpuDevice>, name: &str, units: u64, value: u8) -> Tensor<CpuDevice> {
    let bytes = units * UNIT;
    pool.create(TensorSpec::new(name, DType::U8, [bytes]).unwrap(), &vec![value; bytes as usize]).unwrap()
}

fn reads(tensor: &Tensor<CpuDevice>, value: u8) {
    let mut bytes = vec![!value; tensor.spec().bytes() as usize];
    tensor.copy_to(&mut bytes).unwrap();
    assert!(bytes.iter().all(|&b| b == value));
}

#[test]
fn what_is_on_the_device_is_leased_at_the_first_look() {
    let pool = pool(2, 8);
    let a = tensor(&pool, "a", 1, 7);
    // Its copy up cannot land yet: a queue is ordered behind it.
    let (open, gate) = std::sync::mpsc::channel::<()>();
    let wait = move || {
        // Until the other end is gone.
        let _ = gate.recv();
        Ok(())
    };
    pool.device().lane(Lane::Upload).launch(wait).unwrap();
    drop(block_on(a.lease().into_future()).unwrap());
    assert_eq!(a.residency(), Residency::SwappingIn);
    let ready = block_on(poll_immediate(a.lease().into_future()));
    assert!(matches!(ready, Some(Ok(_))), "no thread is needed for a hit");
    drop(ready);
    drop(open);
    pool.settle().unwrap(); // before the host copy goes stale, the one on the device must be known to be good
    assert!(matches!(block_on(poll_immediate(a.lease_mut().into_future())), Some(Ok(_))));
}

#[test]
fn a_task_sleeps_until_the_lease_in_its_way_ends() {
    let pool = pool(2, 8);
    let a = tensor(&pool, "a", 1, 7);
    let writer = a.write().unwrap();
    let mut leasing = a.lease().into_future();
    assert!(leasing.poll_unpin(&mut std::task::Context::from_waker(std::task::Waker::noop())).is_pending());
    let waiting = std::thread::spawn(move || block_on(leasing).map(drop));
    std::thread::sleep(Duration::from_millis(20));
    drop(writer);
    waiting.join().unwrap().unwrap();
    assert_eq!(pool.stats().held_bytes, 0);
}

#[test]
fn a_task_is_told_when_its_time_is_over() {
    let pool = pool(2, 8);
    let a = tensor(&pool, "a", 1, 7);
    let writer = a.write().unwrap();
    // Nothing else happens in this pool: only the clock can wake it.
    let refused = block_on(a.lease().within(Duration::from_millis(30)).into_future());
    assert!(matches!(refused.map(drop), Err(SwapError::Leased { readers: 0, writer: true, .. })));
    assert!(matches!(a.lease().within(Duration::ZERO).wait().map(drop), Err(SwapError::Leased { .. })));
    drop(writer);
    drop(a.lease().within(Duration::ZERO).wait().unwrap());
    drop(a.lease().within(Duration::MAX).wait().unwrap());
}

#[test]
fn a_future_that_is_dropped_leaves_nothing_held() {
    let pool = pool(2, 8);
    let (a, b) = (tensor(&pool, "a", 1, 1), tensor(&pool, "b", 1, 2));
    let writer = a.write().unwrap();
    let mut conflict = a.lease().into_future();
    let mut missing = b.lease().into_future();
    let mut cx = std::task::Context::from_waker(std::task::Waker::noop());
    assert!(conflict.poll_unpin(&mut cx).is_pending());
    let _ = missing.poll_unpin(&mut cx).map(drop);
    drop((conflict, missing, writer));
    let until = Instant::now() + Duration::from_secs(20);
    while pool.stats().held_bytes > 0 {
        assert!(Instant::now() < until, "a dropped future's lease was never given back");
        std::thread::yield_now();
    }
    pool.settle().unwrap();
    reads(&a, 1);
    reads(&b, 2);
    pool.check().unwrap();
}

#[test]
fn several_leases_are_awaited_all_or_none() {
    let pool = pool(3, 16);
    let tensors: Vec<_> = (0..4).map(|i| tensor(&pool, &format!("t{i}"), 1, i)).collect();
    let wanted: Vec<_> = tensors.iter().map(|t| (t, Mode::Read)).collect();
    let full = block_on(pool.lease_many(&wanted).into_future()).map(drop);
    assert!(matches!(full, Err(SwapError::DeviceBudget { .. })), "{full:?}");
    assert_eq!(pool.stats().held_bytes, 0);
    let leases = block_on(pool.lease_many(&wanted[..3]).into_future()).unwrap();
    assert_eq!((leases.len(), pool.stats().held_bytes), (3, 3 * UNIT));
    drop(leases);
    let twice = pool.lease_many(&[(&tensors[0], Mode::Read), (&tensors[0], Mode::Write)]);
    assert!(matches!(block_on(twice.into_future()).map(drop), Err(SwapError::LeasedTwice { .. })));
    let other = self::pool(1, 4);
    let foreign = other.lease_many(&[(&tensors[0], Mode::Read)]);
    assert!(matches!(block_on(foreign.into_future()).map(drop), Err(SwapError::ForeignTensor { .. })));
}

/// More tasks than the device has room for, on one thread and on several: each step ends.
#[test]
fn many_tasks_share_a_small_device() {
    let pool = pool(2, 16);
    let tensors: Vec<_> = (0..6).map(|i| tensor(&pool, &format!("t{i}"), 1, i)).collect();
    let work = |task: usize| {
        let (pool, tensors) = (pool.clone(), tensors.clone());
        async move {
            for step in 0..60 {
                let (a, b) = (&tensors[(task + step) % 6], &tensors[(task * 5 + step * 3 + 1) % 6]);
                match step % 3 {
                    0 => drop(a.lease().await?),
                    1 => drop(a.lease_mut().await?),
                    _ if a.spec() != b.spec() => {
                        drop(pool.lease_many(&[(a, Mode::Read), (b, Mode::Write)]).await?);
                    }
                    _ => pool.prefetch(&[a]),
                }
            }
            Ok::<(), SwapError>(())
        }
    };
    let mut local = LocalPool::new();
    let handles: Vec<_> =
        (0..8).map(|task| local.spawner().spawn_local_with_handle(work(task)).unwrap()).collect();
    local.run_until(join_all(handles)).into_iter().collect::<Result<(), _>>().unwrap();
    let threads = ThreadPool::builder().pool_size(3).create().unwrap();
    let handles: Vec<_> = (0..8).map(|task| threads.spawn_with_handle(work(task)).unwrap()).collect();
    block_on(join_all(handles)).into_iter().collect::<Result<(), _>>().unwrap();
    block_on(pool.settle_async()).unwrap();
    assert_eq!(pool.stats().held_bytes, 0);
    tensors.iter().enumerate().for_each(|(i, t)| reads(t, i as u8));
    pool.check().unwrap();
}

/// A settle that a task asked for does not keep the wishes it waits for from being served.
#[test]
fn settling_tasks_and_wishes_do_not_wait_for_each_other() {
    let pool = pool(4, 16);
    let tensors: Vec<_> = (0..4).map(|i| tensor(&pool, &format!("t{i}"), 1, i)).collect();
    for _ in 0..50 {
        pool.prefetch(&tensors.iter().collect::<Vec<_>>());
        let settled = (0..12).map(|_| pool.settle_async()).collect::<Vec<_>>();
        assert!(block_on(join_all(settled)).iter().all(Result::is_ok));
        assert!(tensors.iter().all(|t| t.residency() == Residency::Device));
        tensors.iter().for_each(|t| assert!(t.evict()));
    }
}

#[test]
fn a_fetch_is_called_off_before_it_begins_and_not_after() {
    let pool = pool(4, 16);
    let tensors: Vec<_> = (0..4).map(|i| tensor(&pool, &format!("t{i}"), 1, i)).collect();
    pool.prefetch(&[&tensors[0]]);
    pool.settle().unwrap();
    assert_eq!(pool.cancel_prefetch(&[&tensors[0]]), 0, "it is there already");
    // However far the thread is: what is called off never comes, and the rest does.
    for _ in 0..50 {
        pool.prefetch(&tensors.iter().collect::<Vec<_>>());
        let called_off = pool.cancel_prefetch(&[&tensors[2], &tensors[3]]);
        pool.settle().unwrap();
        let there = tensors.iter().filter(|t| t.residency() == Residency::Device).count();
        assert_eq!(there, 4 - called_off);
        tensors.iter().for_each(|t| assert!(t.residency() != Residency::Device || t.evict()));
    }
}

#[test]
fn the_budget_shrinks_and_grows_while_tensors_are_in_use() {
    let pool = pool(4, 16);
    let tensors: Vec<_> = (0..4).map(|i| tensor(&pool, &format!("t{i}"), 1, i)).collect();
    tensors.iter().for_each(|t| drop(t.write().unwrap()));
    let lease = tensors[3].read().unwrap();
    assert_eq!(pool.set_device_budget(2 * UNIT).unwrap(), 0, "three can go, dirty as they are");
    assert!(pool.stats().device_bytes <= 2 * UNIT);
    assert_eq!(pool.stats().device_budget, 2 * UNIT);
    for (i, t) in tensors.iter().enumerate().take(3) {
        let read = t.read().unwrap();
        assert!(pool.stats().device_bytes <= 2 * UNIT);
        drop(read);
        reads(t, i as u8);
    }
    // A lease that was given stays; the budget holds for what comes.
    assert_eq!(pool.set_device_budget(0).unwrap(), UNIT);
    assert!(matches!(
        tensors[0].read().map(drop),
        Err(SwapError::DeviceBudget { arena: 0, requested: UNIT, .. })
    ));
    drop(lease);
    assert_eq!(pool.set_device_budget(0).unwrap(), 0);
    assert_eq!(pool.set_device_budget(u64::MAX).unwrap(), 0);
    assert_eq!(pool.stats().device_budget, 4 * UNIT);
    tensors.iter().enumerate().for_each(|(i, t)| {
        drop(t.read().unwrap());
        reads(t, i as u8);
    });
    pool.check().unwrap();
}

/// A tensor three times as large as the device, from memory and from a file.
#[test]
fn a_tensor_larger_than_the_device_is_leased_in_tiles() {
    let pool = pool(2, 16);
    let bytes = 6 * UNIT;
    let contents: Vec<u8> = (0..bytes).map(|i| (i / 1000) as u8).collect();
    let spec = TensorSpec::new("big", DType::F16, [bytes / 2 / 512, 512]).unwrap();
    let refused = pool.create(spec.clone(), &contents).map(drop);
    assert!(matches!(refused, Err(SwapError::LargerThanArena { .. })));
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("m.safetensors");
    let shape = vec![bytes as usize / 2 / 512, 512];
    let view = safetensors::tensor::TensorView::new(safetensors::Dtype::F16, shape, &contents).unwrap();
    std::fs::write(&path, safetensors::serialize([("file", view)], None).unwrap()).unwrap();
    let attached = pool.attach_safetensors_tiled(&path, UNIT).unwrap().pop().unwrap();
    for whole in [pool.create_tiled(spec, UNIT, &contents).unwrap(), attached] {
        assert_eq!((whole.tiles().len(), whole.spec().bytes()), (6, bytes));
        assert_eq!(whole.find(UNIT / 2), Some((1, 0)));
        assert_eq!(whole.find(bytes / 2), None);
        assert_eq!(whole.elements(6), 0..0);
        for (at, tile) in whole.tiles().iter().enumerate() {
            let mut into = vec![0; UNIT as usize];
            let lease = tile.read().unwrap();
            assert_eq!(lease.spec().shape(), [UNIT / 1024, 512]);
            lease.read_now(&mut into).unwrap();
            let elements = whole.elements(at);
            assert!(into == contents[2 * elements.start as usize..2 * elements.end as usize]);
        }
        let mut all = vec![0; bytes as usize];
        whole.copy_to(&mut all).unwrap();
        assert!(all == contents);
        let changed: Vec<u8> = contents.iter().map(|x| !x).collect();
        whole.load(&changed).unwrap();
        whole.copy_to(&mut all).unwrap();
        assert!(all == changed);
        assert!(matches!(whole.load(&changed[1..]), Err(SwapError::Length { .. })));
    }
    assert!(pool.tensor("big[0..32768]").is_none(), "the tiles went with the whole");
}

/// Leases that nobody ends are named: in the list, in refusals, and when the pool goes.
#[test]
fn leaked_leases_are_reported_by_name_and_place() {
    use std::sync::{Arc, Mutex};
    let heard = Arc::new(Mutex::new(Vec::new()));
    let told = Arc::clone(&heard);
    let pool = SwapPool::builder(CpuDevice::new().unwrap())
        .device_memory(2 * UNIT)
        .host_memory(8 * UNIT)
        .deadline(Duration::ZERO)
        .on_leak(move |open| told.lock().unwrap().extend(open.iter().map(ToString::to_string)))
        .build()
        .unwrap();
    let (a, b) = (tensor(&pool, "a", 1, 1), tensor(&pool, "b", 2, 2));
    drop(a.read().unwrap());
    assert!(pool.leases().is_empty());
    std::mem::forget(a.read().unwrap());
    let line = line!() - 1;
    let awaited = block_on(a.lease().into_future()).unwrap();
    let open = pool.leases();
    assert_eq!((open.len(), pool.stats().open_leases), (2, 2));
    assert_eq!((open[0].tensor.name(), open[0].mode, open[0].taken_at.line()), ("a", Mode::Read, line));
    assert_eq!(open[0].taken_at.file(), file!());
    drop(awaited);
    for refused in [a.write().map(drop), b.read().map(drop), block_on(b.lease().into_future()).map(drop)] {
        let said = refused.unwrap_err().to_string();
        assert!(said.contains("\"a\" (read lease of 65536 bytes"), "{said}");
        assert!(said.contains(&format!("tasks.rs:{line}:")), "{said}");
    }
    drop(pool);
    let heard = heard.lock().unwrap();
    assert_eq!(heard.len(), 1);
    assert!(heard[0].contains("\"a\"") && heard[0].contains("tasks.rs"), "{heard:?}");
}
