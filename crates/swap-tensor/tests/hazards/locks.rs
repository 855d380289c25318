//! The pool's lock: nobody waits for anything while holding it.

use crate::support::{
    AGES, contents, cpu, cpu_over_disk, hangs, leased, returns, same, store, tensor, tensor_on_disk, until,
};
use backend_cpu::CpuDevice;
use futures::FutureExt;
use pinned_host::Queue;
use std::{
    future::IntoFuture,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
        mpsc,
    },
    task::{Context, Wake},
    thread,
};
use swap_tensor::{
    ReadLease, SwapPool,
    disk::{Call, Fault, FaultPlan},
};

/// KVBM's first version held its lock across awaits and in drops.
/// Rule: a synchronous core, short sections, no wait and no I/O under the lock.
/// Guards: `fill_from_below` in `below.rs`, which drops it for I/O; `wait_for` in `room.rs`, which drops it for the device.
#[test]
fn no_lock_across_wait() {
    let store = store(FaultPlan::seeded(1).at(Call::Read, 1, Fault::Hang));
    let pool = cpu_over_disk(3, 0, &store, AGES);
    let (a, b) = (tensor_on_disk(&pool, "a", 1, 1), tensor(&pool, "b", 2, 1));
    let reader = thread::spawn(move || leased(&a));
    until(|| hangs(&store));
    let free = returns(move || {
        pool.check().unwrap();
        same(leased(&b), &contents(2, 1));
        assert_eq!(pool.stats().failed_transfers, 0);
    });
    store.release();
    assert!(free, "a read that hangs keeps everybody out");
    same(reader.join().unwrap(), &contents(1, 1));
}

/// The same of a wait for the device.
#[test]
fn no_lock_across_wait_for_the_device() {
    let pool = cpu(1, 4);
    let (a, b) = (tensor(&pool, "a", 1, 1), tensor(&pool, "b", 2, 1));
    let (go_on, gate) = mpsc::channel::<()>();
    let lease = a.write().unwrap();
    let kernel = move || {
        let _ = gate.recv();
        Ok(())
    };
    lease.queue().launch(kernel).unwrap();
    let kernel = lease.queue().record().unwrap();
    lease.finish(kernel).unwrap();
    // It leaves only after the kernel: whoever wants its room waits.
    let waiter = thread::spawn(move || leased(&b));
    let free = returns(move || {
        until(|| pool.stats().write_backs > 0);
        pool.check().unwrap();
    });
    drop(go_on);
    assert!(free, "a kernel that hangs keeps everybody out");
    same(waiter.join().unwrap(), &contents(2, 1));
}

/// An executor may drop what a task held when it is woken, a lease among it, and that takes the lock.
/// Guard: `WakeAfter` in `lock.rs`, which calls tasks once the lock is free.
#[test]
fn no_lock_while_waking() {
    let pool = cpu(2, 4);
    let (a, b) = (tensor(&pool, "a", 1, 1), tensor(&pool, "b", 2, 1));
    let writer = a.write().unwrap();
    let waker =
        Arc::new(DropsLease { held: Mutex::new(Some(b.read().unwrap())), woken: AtomicUsize::new(0) });
    let mut leasing = a.lease().into_future();
    assert!(leasing.poll_unpin(&mut Context::from_waker(&waker.clone().into())).is_pending());
    assert!(returns(move || drop(writer)), "woken under the lock");
    until(|| waker.woken.load(Ordering::Relaxed) > 0);
    check(&pool);
}

fn check(pool: &SwapPool<CpuDevice>) {
    assert_eq!(pool.stats().held_bytes, 0);
    pool.check().unwrap();
}

/// What an executor does that gives up on a task.
struct DropsLease {
    held: Mutex<Option<ReadLease<CpuDevice>>>,
    woken: AtomicUsize,
}

impl Wake for DropsLease {
    fn wake(self: Arc<Self>) {
        let held = self.held.lock().unwrap().take();
        drop(held);
        self.woken.fetch_add(1, Ordering::Relaxed);
    }
}
