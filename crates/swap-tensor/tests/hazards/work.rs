//! Work in flight and who holds what it needs: buffers, leases, descriptors.

use crate::support::{
    AGES, SHORT, UNIT, contents, copied, cpu, cpu_over_disk, hangs, leased, memory, model, rewrite, same,
    staged, store, store_in, tensor, tensor_on_disk, until,
};
use futures::{FutureExt, executor::block_on, future::join_all};
use std::{
    future::IntoFuture,
    sync::mpsc,
    task::{Context, Waker},
    thread,
    time::Duration,
};
use swap_tensor::{
    Residency, SwapError,
    disk::{Call, Fault, FaultPlan},
};

/// A copy that a writer outdates while it is on its way down must not be published as current.
/// Rule: a copy is valid only if it has the tensor's version when it has landed.
/// Guards: `next_to_spill` in `spill.rs`, which leaves tensors alone that a writer has claimed, and `end_host_write` there, which
/// compares versions; `finish_write_back` in `reap.rs` does for copies to host memory.
#[test]
fn stale_copy_published_after_write() {
    let store = store(FaultPlan::seeded(1).at(Call::Write, 1, Fault::Hang));
    let pool = cpu_over_disk(5, 2, &store, AGES);
    let folder = tempfile::tempdir().unwrap();
    model(&folder.path().join("m"), &[3, 1, 1, 2]);
    let files = pool.attach_safetensors(folder.path().join("m")).unwrap();
    // On the device, in this order: a hole, `a`, a hole, and `e`, which is dirty. In host memory: `a` and `w`.
    files[0].to_device().unwrap();
    let e = tensor(&pool, "e", 1, 2);
    rewrite(&e, 2);
    assert!(files[0].evict());
    files[1].to_device().unwrap();
    let a = tensor(&pool, "a", 3, 1);
    a.to_device().unwrap();
    files[2].to_device().unwrap();
    let w = tensor(&pool, "w", 4, 1);
    assert!(files[1].evict() && files[2].evict());
    let (open, gate) = mpsc::channel::<()>();
    let kernel = move || {
        let _ = gate.recv();
        Ok(())
    };
    pool.queue().launch(kernel).unwrap();
    thread::scope(|s| {
        // `a` is to move, after the kernel, and the writer waits for that: only then the copy in host memory may go stale.
        s.spawn(|| files[3].to_device().unwrap());
        until(|| pool.stats().moved_bytes == UNIT);
        let writer = s.spawn(|| a.write().unwrap().write_now(&contents(5, 1)).unwrap());
        let claimed = |error: SwapError| matches!(error, SwapError::Leased { writer: true, .. });
        until(|| a.lease().within(Duration::ZERO).wait().map(drop).is_err_and(claimed));
        // Meanwhile host memory is wanted, and what was used there longest ago goes to the disk.
        w.load(&contents(4, 1)).unwrap();
        s.spawn(|| e.swap_out().unwrap());
        until(|| hangs(&store));
        drop(open);
        writer.join().unwrap();
        store.release();
    });
    pool.settle().unwrap();
    a.swap_out().unwrap();
    [(&a, 5, 1), (&w, 4, 1), (&e, 2, 2)]
        .iter()
        .for_each(|&(t, i, units)| same(copied(t), &contents(i, units)));
    pool.check().unwrap();
}

/// SGLang #31296, and io_uring anywhere: a buffer was freed that an operation in flight still wrote to.
/// Rule: the job owns its buffers, whoever stops waiting for it.
/// Guard: `Flight` in `disk/io/flight.rs`, whose buffer leaves it only with an outcome; `tests/stories/disk.rs` shows the same of the store
/// alone (`tickets_dropped_in_flight_leave_their_buffers_to_the_operation`). Device copies: `Ticket` and `Parking` in `pinned-host`.
#[test]
fn buffer_dropped_during_io() {
    let store = store(FaultPlan::seeded(1).at(Call::Read, 1, Fault::Hang));
    let pool = cpu_over_disk(2, 0, &store, SHORT);
    let (a, b) = (tensor_on_disk(&pool, "a", 1, 1), tensor_on_disk(&pool, "b", 2, 1));
    let before = staged(&pool);
    assert!(matches!(leased(&a), Err(SwapError::Timeout { .. })));
    assert!(staged(&pool) > before, "the read that hangs still writes to its memory");
    // Others find what is left, and never that.
    until(|| leased(&b).is_ok_and(|bytes| bytes == contents(2, 1)));
    store.release();
    until(|| staged(&pool) == before && store.stats().in_flight == 0);
    until(|| leased(&a).is_ok_and(|bytes| bytes == contents(1, 1)));
    pool.check().unwrap();
}

/// A task that gives up, as any future may be dropped at any time.
/// Rule: cancelling detaches. What was begun goes on to its end on the pool's own memory, and the lease that comes of it ends.
/// Guard: `Leasing` in `request.rs` holds only the promise; the lease in it is a `Hold`, whose drop ends it.
#[test]
fn future_dropped_mid_transfer() {
    let store = store(FaultPlan::seeded(1).at(Call::Read, 1, Fault::Hang));
    let pool = cpu_over_disk(2, 0, &store, AGES);
    let a = tensor_on_disk(&pool, "a", 1, 1);
    let before = staged(&pool);
    let mut leasing = a.lease().into_future();
    assert!(leasing.poll_unpin(&mut Context::from_waker(Waker::noop())).is_pending());
    until(|| hangs(&store));
    drop(leasing);
    assert!(staged(&pool) > before && pool.stats().held_bytes == UNIT, "it goes on");
    store.release();
    until(|| pool.stats().held_bytes == 0 && staged(&pool) == before);
    assert_eq!(a.residency(), Residency::Device, "what was fetched is there");
    a.swap_out().unwrap();
    same(copied(&a), &contents(1, 1));
}

/// KVBM's `PendingTracker`, Strata's "delayed hit": two who miss the same tensor at once must not both fetch it.
/// Rule: single flight.
/// Guard: `busy` in `fill.rs` (`bring_in`).
#[test]
fn double_swap_in() {
    let store = store(FaultPlan::seeded(1).at(Call::Read, 1, Fault::Hang));
    let pool = cpu_over_disk(2, 0, &store, AGES);
    let a = tensor_on_disk(&pool, "a", 1, 1);
    let before = pool.stats();
    thread::scope(|s| {
        let readers = [s.spawn(|| leased(&a)), s.spawn(|| leased(&a))];
        // Both have claimed it, and neither has it: one reads, one waits.
        let both = |error: SwapError| matches!(error, SwapError::Leased { readers: 2, .. });
        until(|| hangs(&store));
        until(|| a.lease_mut().within(Duration::ZERO).wait().map(drop).is_err_and(both));
        store.release();
        readers.into_iter().for_each(|reader| same(reader.join().unwrap(), &contents(1, 1)));
    });
    let after = pool.stats();
    assert_eq!(after.disk_read_bytes - before.disk_read_bytes, UNIT);
    assert_eq!(after.uploaded_bytes - before.uploaded_bytes, UNIT);
    pool.check().unwrap();
}

/// The same before there is room: two who wait for it must not both take some.
#[test]
fn double_swap_in_without_room() {
    // `a` takes four writes to get to the disk; the next is of what is in its way.
    let store = store(FaultPlan::seeded(1).at(Call::Write, 5, Fault::Hang));
    let pool = cpu_over_disk(2, 0, &store, AGES);
    let (a, x) = (tensor_on_disk(&pool, "a", 1, 1), tensor(&pool, "x", 2, 2));
    thread::scope(|s| {
        let readers = [s.spawn(|| leased(&a)), s.spawn(|| leased(&a))];
        let both = |error: SwapError| matches!(error, SwapError::Leased { readers: 2, .. });
        until(|| hangs(&store));
        until(|| a.lease_mut().within(Duration::ZERO).wait().map(drop).is_err_and(both));
        store.release();
        readers.into_iter().for_each(|reader| same(reader.join().unwrap(), &contents(1, 1)));
    });
    same(copied(&x), &contents(2, 2));
    assert_eq!(pool.stats().device_bytes, UNIT);
    pool.check().unwrap();
}

/// One who waits for another's fetch and gives up leaves it alone.
/// Guard: `occupy` in `claim.rs` spoils only room that it took itself.
#[test]
fn double_swap_in_given_up() {
    let faults = FaultPlan::seeded(1).at(Call::Write, 5, Fault::Hang).at(Call::Read, 1, Fault::Hang);
    let store = store(faults);
    let pool = cpu_over_disk(2, 0, &store, 20 * SHORT);
    let (a, _x) = (tensor_on_disk(&pool, "a", 1, 1), tensor(&pool, "x", 2, 2));
    thread::scope(|s| {
        let readers = [s.spawn(|| leased(&a)), s.spawn(|| leased(&a))];
        // One waits for room, and has all its time for the read that follows; the other has waited since then.
        until(|| store.faults_struck().len() == 1);
        thread::sleep(5 * SHORT);
        store.release();
        until(|| readers.iter().any(|reader| reader.is_finished()));
        store.release();
        for reader in readers {
            let read = reader.join().unwrap();
            let gave_up = matches!(read, Err(SwapError::Leased { .. } | SwapError::Timeout { .. }));
            assert!(gave_up || read.is_ok_and(|bytes| bytes == contents(1, 1)), "its copy was spoilt");
        }
    });
    until(|| leased(&a).is_ok_and(|bytes| bytes == contents(1, 1)));
    pool.check().unwrap();
}

/// KVBM: cancelling is free before the commitment boundary and does nothing after it.
/// Rule: cancel after commit is no operation.
/// Guard: `unwish` in `movers.rs` takes only wishes that no thread has taken.
#[test]
fn cancel_after_commit_is_no_op() {
    let store = store(FaultPlan::seeded(1).at(Call::Read, 1, Fault::Hang));
    let pool = cpu_over_disk(2, 0, &store, AGES);
    let (a, b) = (tensor_on_disk(&pool, "a", 1, 1), tensor_on_disk(&pool, "b", 2, 1));
    pool.prefetch(&[&a]);
    until(|| hangs(&store));
    assert_eq!(pool.cancel_prefetch(&[&a, &b]), 0, "it has room, and a read on the way");
    store.release();
    pool.settle().unwrap();
    assert_eq!((a.residency(), b.residency()), (Residency::Device, Residency::Disk));
    same(leased(&a), &contents(1, 1));
}

/// LMCache #3022, Mooncake #3465: a batch of which a part had failed was returned as a whole one.
/// Rule: what is not filled is not valid.
/// Guards: `end_fill` in `below.rs` publishes only what all pieces have landed of; `send_pieces` in `spill.rs` makes a copy only of
/// pieces that were all written; `occupy_all` in `claim.rs` gives all leases or none.
#[test]
fn partial_batch_is_no_batch() {
    // The third of four pieces fails, on the way up and on the way down.
    let faults = FaultPlan::seeded(1).at(Call::Read, 3, Fault::IO).at(Call::Write, 7, Fault::IO);
    let store = store(faults);
    let pool = cpu_over_disk(3, 0, &store, AGES);
    let a = tensor_on_disk(&pool, "a", 1, 1);
    assert!(matches!(leased(&a), Err(SwapError::Disk { .. })));
    assert_eq!((a.residency(), pool.stats().device_bytes), (Residency::Disk, 0));
    same(leased(&a), &contents(1, 1));

    let b = tensor(&pool, "b", 2, 1);
    assert!(matches!(b.swap_out(), Err(SwapError::Disk { .. })));
    assert_eq!(b.residency(), Residency::Device);
    same(copied(&b), &contents(2, 1));
    b.swap_out().unwrap();
    same(copied(&b), &contents(2, 1));
}

/// A write of which no part was sent leaves what there was.
/// Guard: `Hold::upload` in `hold.rs` spoils the copy only once something was sent.
#[test]
fn write_that_never_began() {
    let store = store(FaultPlan::seeded(1).at(Call::Read, 1, Fault::Hang).at(Call::Read, 2, Fault::Hang));
    let pool = cpu_over_disk(2, 0, &store, SHORT);
    let (a, b) = (tensor_on_disk(&pool, "a", 1, 1), tensor(&pool, "b", 2, 1));
    assert!(leased(&a).is_err(), "two reads hang, with all of staging");
    let refused = b.write().unwrap().upload(&contents(3, 1));
    assert!(matches!(refused, Err(SwapError::Host { purpose: "staging", .. })), "{refused:?}");
    let mut bytes = vec![0; UNIT as usize];
    b.read().unwrap().read_now(&mut bytes).unwrap();
    assert!(bytes == contents(2, 1));
    store.release();
    until(|| store.stats().in_flight == 0);
    until(|| leased(&a).is_ok_and(|bytes| bytes == contents(1, 1)));
}

/// The same of several leases at once: one whose tensor cannot come leaves none behind.
/// Guard: `occupy_all` in `claim.rs`.
#[test]
fn partial_batch_of_leases_is_no_batch() {
    let store = store(FaultPlan::seeded(1).at(Call::Read, 6, Fault::IO));
    let pool = cpu_over_disk(3, 0, &store, AGES);
    let tensors: Vec<_> = (0..3).map(|i| tensor_on_disk(&pool, &format!("t{i}"), i, 1)).collect();
    let all: Vec<_> = tensors.iter().map(|t| (t, swap_tensor::Mode::Write)).collect();
    assert!(matches!(pool.lease_all(&all), Err(SwapError::Disk { .. })));
    assert_eq!(pool.stats().held_bytes, 0);
    let leases = pool.lease_all(&all).unwrap();
    assert_eq!(leases.len(), 3);
    drop(leases);
    (0..3).for_each(|i| same(copied(&tensors[i]), &contents(i as u64, 1)));
}

/// LMCache's `PinMonitor`, which frees pins past a timeout because nobody knows who leaked them.
/// Rule: a lease ends when it is dropped; one that is leaked shows in a figure. Timeouts are for remote holders only.
/// Guards: `Drop` of `Hold` in `hold.rs`; `held` in `device.rs`, as `Stats::held_bytes`.
#[test]
fn leaked_leases_show_and_dropped_ones_end() {
    let pool = cpu(2, 4);
    let (a, b, c) = (tensor(&pool, "a", 1, 1), tensor(&pool, "b", 2, 1), tensor(&pool, "c", 3, 1));
    let both = (a.read().unwrap(), b.lease_mut());
    let both = (both.0, both.1.wait().unwrap());
    assert_eq!(pool.stats().held_bytes, 2 * UNIT);
    drop(both);
    assert_eq!(pool.stats().held_bytes, 0);
    std::mem::forget(a.read().unwrap());
    std::mem::forget(b.read().unwrap());
    let refused = c.lease().within(Duration::ZERO).wait().map(drop);
    assert!(
        matches!(refused, Err(SwapError::DeviceBudget { leased, .. }) if leased == 2 * UNIT),
        "{refused:?}"
    );
    let tasks = join_all([a.lease().into_future(), b.lease().into_future()]);
    assert!(block_on(tasks).iter().all(Result::is_ok), "others may still read them");
}

/// vLLM's disk backend leaks a descriptor rather than close it under an I/O thread, which would write to whatever gets its number.
/// Rule: the I/O ends before the descriptor is closed, or it stays open.
/// Guards: `Drive` in `disk/drive.rs`, which whoever does I/O owns; `Drop` of `Engine` in `disk/engine.rs`, which joins its threads.
#[cfg(target_os = "linux")]
#[test]
fn descriptor_reused() {
    for hangs in [false, true] {
        let folder = tempfile::tempdir_in(memory()).unwrap();
        let faults =
            if hangs { FaultPlan::seeded(1).at(Call::Read, 1, Fault::Hang) } else { FaultPlan::default() };
        let store = store_in(folder.path(), faults).grace(SHORT).open().unwrap();
        let pool = cpu_over_disk(2, 0, &store, SHORT);
        let a = tensor_on_disk(&pool, "a", 1, 1);
        assert_eq!(leased(&a).is_err(), hangs);
        let open = descriptors(folder.path());
        assert!(open > 0);
        drop((a, pool, store));
        assert_eq!(descriptors(folder.path()), if hangs { open } else { 0 });
    }
}

/// Descriptors of files that were made in `folder`.
#[cfg(target_os = "linux")]
fn descriptors(folder: &std::path::Path) -> usize {
    let open = std::fs::read_dir("/proc/self/fd").unwrap().flatten();
    open.filter(|entry| std::fs::read_link(entry.path()).is_ok_and(|file| file.starts_with(folder))).count()
}
