//! The CPU device's own promises: kernels, views, failures, and an end without a hang.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on should stop where it stands")]

use allocator_core::DeviceBuffer;
use backend_cpu::{CpuDevice, CpuError};
use pinned_host::{
    DeviceError, ErrorKind, Event, HostPool, Lane, OsRegion, PageLocker, Queue, QueuedBuffer, Transfer,
};
use std::sync::atomic::{AtomicU32, Ordering::SeqCst};
use std::sync::{Arc, mpsc};

fn pool(device: &CpuDevice) -> HostPool<OsRegion> {
    HostPool::new(vec![device.locker().pageable(1 << 20).unwrap().unwrap()], 64).unwrap()
}

#[test]
fn dropping_the_device_ends_its_work_and_closes_its_queues() {
    let device = CpuDevice::new().unwrap();
    let pool = pool(&device);
    let (mut buffer, queue) = (device.buffer(1 << 16).unwrap(), device.new_queue().unwrap());
    let ran = Arc::new(AtomicU32::new(0));
    for queue in [&queue, device.queue()] {
        for _ in 0..100 {
            let ran = ran.clone();
            queue
                .launch(move || {
                    ran.fetch_add(1, SeqCst);
                    Ok(())
                })
                .unwrap();
        }
    }
    let ticket = device.upload(pool.allocate(1 << 16).unwrap(), &mut buffer, 0).unwrap();
    drop(device.upload(pool.allocate(1 << 16).unwrap(), &mut buffer, 0).unwrap());
    let event = queue.record().unwrap();
    drop(device);
    assert_eq!(ran.load(SeqCst), 200);
    assert!(event.query().unwrap());
    ticket.wait().unwrap();
    assert_eq!(pool.stats().in_use, 0);
    assert!(matches!(queue.launch(|| Ok(())), Err(CpuError::Closed)));
    assert_eq!(buffer.copy_within(0..8, 8).unwrap_err().kind(), ErrorKind::DeviceLost);
    queue.drain().unwrap();
    queue.record().unwrap().synchronize().unwrap();
    buffer.view(0..8).unwrap().with_mut(|bytes: &mut [u8]| bytes.fill(1)).unwrap();
}

#[test]
fn a_queue_without_owners_ends_what_it_was_given() {
    let device = CpuDevice::new().unwrap();
    let (tell, told) = mpsc::channel();
    let queue = device.new_queue().unwrap();
    let hold = device.new_queue().unwrap();
    let (release, held) = mpsc::channel::<()>();
    hold.launch(move || {
        let _ = held.recv();
        Ok(())
    })
    .unwrap();
    queue.wait(&hold.record().unwrap()).unwrap();
    queue.launch(move || tell.send(1).map_err(|_| CpuError::Closed)).unwrap();
    drop(queue);
    release.send(()).unwrap();
    assert_eq!(told.recv(), Ok(1));
}

#[test]
fn failures_are_reported_by_the_first_event_after_them() {
    let device = CpuDevice::new().unwrap();
    let queue = device.queue();
    let before = queue.record().unwrap();
    queue.launch(|| panic!("kernel {}", 1)).unwrap();
    let panicked = queue.record().unwrap();
    queue.launch(|| Err(CpuError::Closed)).unwrap();
    let failed = queue.record().unwrap();
    queue.launch(|| Ok(())).unwrap();
    let after = queue.record().unwrap();
    after.synchronize().unwrap();
    before.synchronize().unwrap();
    for event in [&panicked, &panicked.clone()] {
        let error = event.synchronize().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Failed);
        assert_eq!(error.to_string(), "operation 1 of its queue failed: a kernel panicked: kernel 1");
    }
    assert!(matches!(failed.query(), Err(CpuError::Operation { operation: 2, .. })));
    assert!(panicked.is_settled() && failed.is_settled());
    queue.drain().unwrap();

    // A payload that panics in turn takes no thread with it.
    struct Nasty;
    impl Drop for Nasty {
        fn drop(&mut self) {
            panic!("again");
        }
    }
    queue.launch(|| std::panic::panic_any(Nasty)).unwrap();
    assert!(queue.record().unwrap().synchronize().is_err());
    queue.launch(|| Ok(())).unwrap();
    queue.record().unwrap().synchronize().unwrap();
}

#[test]
fn what_another_device_made_is_refused() {
    let (one, other) = (CpuDevice::new().unwrap(), CpuDevice::new().unwrap());
    let event = other.queue().record().unwrap();
    let error = one.queue().wait(&event).unwrap_err();
    assert_eq!(
        (error.kind(), matches!(error, CpuError::Foreign { what: "event", .. })),
        (ErrorKind::InvalidUse, true)
    );
    let pool = pool(&one);
    let mut buffer = other.buffer(64).unwrap();
    let refused = one.upload(pool.allocate(64).unwrap(), &mut buffer, 0).unwrap_err();
    assert!(matches!(refused.error, CpuError::Foreign { what: "buffer", .. }));
    assert!(refused.slice.is_some());
    assert!(one.read_now(&buffer, 0, &mut [0; 8]).is_err());
}

#[test]
fn a_wait_holds_a_queue_back() {
    let device = CpuDevice::new().unwrap();
    let (release, held) = mpsc::channel::<()>();
    device
        .queue()
        .launch(move || {
            let _ = held.recv();
            Ok(())
        })
        .unwrap();
    let gate = device.queue().record().unwrap();
    let other = device.new_queue().unwrap();
    other.wait(&gate).unwrap();
    let behind = other.record().unwrap();
    assert!(!gate.query().unwrap() && !behind.query().unwrap());
    assert!(!behind.covers(&gate));
    release.send(()).unwrap();
    behind.synchronize().unwrap();
    assert!(gate.query().unwrap());
}

#[test]
fn a_kernel_that_waits_for_its_own_queue_is_told() {
    let device = CpuDevice::new().unwrap();
    let queue = device.queue().clone();
    let (tell, told) = mpsc::channel();
    device
        .queue()
        .launch(move || {
            let synchronized = queue.record()?.synchronize();
            let drained = queue.drain();
            let _ = tell.send((synchronized.map_err(|e| e.kind()), drained.map_err(|e| e.kind())));
            Ok(())
        })
        .unwrap();
    assert_eq!(told.recv().unwrap(), (Err(ErrorKind::InvalidUse), Err(ErrorKind::InvalidUse)));
}

#[test]
fn a_kernel_may_own_the_device() {
    let device = Arc::new(CpuDevice::new().unwrap());
    let (queue, owned) = (device.queue().clone(), device.clone());
    let (release, held) = mpsc::channel::<()>();
    queue
        .launch(move || {
            let _ = held.recv();
            drop(owned);
            Ok(())
        })
        .unwrap();
    let event = queue.record().unwrap();
    drop(device);
    release.send(()).unwrap();
    event.synchronize().unwrap();
}

#[test]
fn views_are_typed_and_never_deadlock_on_themselves() {
    let device = CpuDevice::new().unwrap();
    let buffer = device.buffer(4096).unwrap();
    let view = buffer.view(8..24).unwrap();
    assert_eq!(view.range(), 8..24);
    view.with_mut(|words: &mut [u64]| words.copy_from_slice(&[1, 2])).unwrap();
    assert_eq!(view.with(|words: &[[u32; 2]]| words.to_vec()).unwrap(), [[1, 0], [2, 0]]);
    assert!(matches!(view.with(|_: &[[u8; 7]]| ()), Err(CpuError::Cast { start: 8, end: 24, size: 7, .. })));
    assert!(matches!(buffer.view(9..17).unwrap().with(|_: &[u64]| ()), Err(CpuError::Cast { align: 8, .. })));
    assert_eq!(buffer.view(9..9).unwrap().with(|words: &[u64]| words.len()).unwrap(), 0);
    assert!(buffer.view(4090..4097).is_err());

    let nested = view.with(|_: &[u8]| {
        assert_eq!(view.with(|bytes: &[u8]| bytes[0]).unwrap(), 1, "readers share");
        buffer.view(24..32).unwrap().with_mut(|bytes: &mut [u8]| bytes.fill(3)).unwrap();
        view.with_mut(|_: &mut [u8]| ())
    });
    assert!(matches!(nested.unwrap(), Err(CpuError::InUse { start: 8, end: 24 })));
    assert_eq!(view.as_ptr().addr() % 4096, 8, "buffers start at a page");
}

#[test]
fn memory_is_counted_until_the_last_use() {
    let device = CpuDevice::new().unwrap();
    assert_eq!(device.memory().current, 0);
    let buffer = device.buffer(5000).unwrap();
    let twin = buffer.clone();
    assert_eq!(twin.queue().record().unwrap().query().ok(), Some(true));
    drop(buffer);
    assert_eq!(device.memory().current, 5000);
    let (release, held) = mpsc::channel::<()>();
    device
        .queue()
        .launch(move || {
            let _ = held.recv();
            Ok(())
        })
        .unwrap();
    let mut twin = twin;
    twin.copy_within(0..100, 50).unwrap();
    drop(twin);
    assert_eq!(device.memory().current, 5000, "the move in the queue holds it");
    release.send(()).unwrap();
    device.queue().record().unwrap().synchronize().unwrap();
    let memory = device.memory();
    assert_eq!((memory.current, memory.peak, memory.scratch), (0, 5000, 0));
    assert_eq!(device.buffer(0).unwrap().size(), 0);
    assert_eq!(device.buffer(u64::MAX).unwrap_err().kind(), ErrorKind::OutOfMemory);
}

#[test]
fn lanes_are_queues_of_their_own() {
    let device = CpuDevice::new().unwrap();
    let (release, held) = mpsc::channel::<()>();
    let upload = device.lane(Lane::Upload);
    upload
        .launch(move || {
            let _ = held.recv();
            Ok(())
        })
        .unwrap();
    let pool = pool(&device);
    let buffer = device.buffer(64).unwrap();
    device.write_now(&mut buffer.clone(), 0, &[4; 64]).unwrap();
    let got = device.download(&buffer, 0, pool.allocate(64).unwrap()).unwrap().wait().unwrap();
    assert_eq!(got.as_slice(), [4; 64]);
    release.send(()).unwrap();
    upload.drain().unwrap();
}

#[test]
fn whoever_waits_may_do_the_copies_and_keeps_their_order() {
    let device = CpuDevice::new().unwrap();
    let pool = pool(&device);
    let mut buffer = device.buffer(64).unwrap();
    for round in 0..500u32 {
        // Two threads wait for two ends of one lane while its own thread works on it too.
        let tickets: Vec<_> = (0..4)
            .map(|step| {
                let mut slice = pool.allocate(64).unwrap();
                slice.as_mut_slice().fill((round * 4 + step) as u8);
                device.upload(slice, &mut buffer, 0).unwrap()
            })
            .collect();
        std::thread::scope(|scope| {
            scope.spawn(|| tickets[1].event().synchronize().unwrap());
            tickets[3].event().synchronize().unwrap();
            let mut bytes = [0; 64];
            device.read_now(&buffer, 0, &mut bytes).unwrap();
            assert_eq!(bytes, [(round * 4 + 3) as u8; 64]);
        });
    }
}

#[test]
fn waiting_inside_a_view_leaves_the_copy_to_the_queue() {
    let device = CpuDevice::new().unwrap();
    let pool = pool(&device);
    let mut buffer = device.buffer(4096).unwrap();
    let twin = buffer.clone();
    let done = twin
        .view(0..64)
        .unwrap()
        .with(|_: &[u8]| device.upload(pool.allocate(64).unwrap(), &mut buffer, 64).unwrap().wait().is_ok());
    assert!(done.unwrap());
}
