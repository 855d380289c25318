//! What the wgpu backend promises beyond the contracts: limits by name, loss, the user's own work beside ours, one
//! submission for many moves, nothing made per transfer.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on should stop where it stands")]

mod wgpu_support;

use allocator_core::DeviceBuffer;
use backend_vulkan::{WgpuBuffer, WgpuDevice, WgpuError, WgpuMoves, WgpuOptions, wgpu};
use pinned_host::{
    DeviceError, ErrorKind, Event, HostPool, Lane, OsRegion, PageLocker, Queue, SliceOf, Transfer,
};
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use wgpu_support::{direct, no_message, noop, noop_with, small, vulkan, vulkan_without_layer};

/// Every device there is to test: noop, and Vulkan with both ways to move and to copy where there is a driver.
fn each(test: impl Fn(WgpuDevice)) {
    test(noop(small(WgpuMoves::Auto)));
    for options in [small(WgpuMoves::Raw), small(WgpuMoves::Scratch), direct()] {
        if let Some(device) = vulkan(options) {
            test(device);
        }
    }
    no_message();
}

fn host(device: &WgpuDevice, bytes: usize) -> HostPool<OsRegion> {
    HostPool::new(vec![device.locker().pageable(bytes).unwrap().unwrap()], 64).unwrap()
}

fn filled(pool: &HostPool<OsRegion>, len: usize, seed: u8) -> SliceOf<WgpuDevice> {
    let mut slice = pool.allocate(len).unwrap();
    slice.as_mut_slice().copy_from_slice(&pattern(len, seed));
    slice
}

fn pattern(len: usize, seed: u8) -> Vec<u8> {
    (0..len)
        .map(|i| (i as u32).wrapping_mul(2_654_435_761).wrapping_add(u32::from(seed) * 97).to_le_bytes()[2])
        .collect()
}

fn down(
    device: &WgpuDevice,
    pool: &HostPool<OsRegion>,
    buffer: &WgpuBuffer,
    from: u64,
    len: usize,
) -> Vec<u8> {
    device.download(buffer, from, pool.allocate(len).unwrap()).unwrap().wait().unwrap().as_slice().to_vec()
}

#[test]
fn limits_are_named_with_what_was_asked_and_what_is_allowed() {
    let limits = wgpu::Limits {
        max_buffer_size: 1 << 20,
        max_storage_buffer_binding_size: 64 << 10,
        min_storage_buffer_offset_alignment: 256,
        ..wgpu::Limits::default()
    };
    let device = noop_with(WgpuOptions::new().piece(4096).staging(4096), limits);
    assert_eq!(device.binding_alignment(), 256);
    let held = device.memory();
    for asked in [(1 << 20) + 4, u64::MAX, u64::MAX - 3] {
        let error = device.buffer(asked).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::OutOfMemory);
        match error {
            WgpuError::Limit { limit: "max_buffer_size", asked: told, allowed } => {
                assert_eq!((told >= asked, allowed), (true, 1 << 20));
            }
            other => panic!("{other}"),
        }
    }
    assert_eq!(device.memory(), held);

    let buffer = device.buffer(1 << 20).unwrap();
    let view = |range| buffer.view(range).unwrap();
    let bound = view(256..65792);
    let binding = bound.binding().unwrap();
    assert_eq!((binding.offset, binding.size.unwrap().get()), (256, 64 << 10));
    let error = view(0..65540).binding().unwrap_err();
    assert!(
        matches!(
            error,
            WgpuError::Limit { limit: "max_storage_buffer_binding_size", asked: 65540, allowed: 65536 }
        ),
        "{error}"
    );
    assert_eq!(error.kind(), ErrorKind::InvalidUse);
    let error = view(128..256).binding().unwrap_err();
    assert!(
        matches!(
            error,
            WgpuError::Misaligned { limit: "min_storage_buffer_offset_alignment", offset: 128, align: 256 }
        ),
        "{error}"
    );
    assert!(matches!(view(256..256).binding().unwrap_err(), WgpuError::EmptyBinding { offset: 256 }));
}

#[test]
fn settings_that_cannot_work_are_refused() {
    let over = |options: WgpuOptions| {
        let (device, queue) = wgpu::Device::noop(&Default::default());
        options.over(device, queue)
    };
    for (options, name) in [
        (WgpuOptions::new().piece(0), "piece"),
        (WgpuOptions::new().piece(4098), "piece"),
        (WgpuOptions::new().scratch(2), "scratch"),
        (WgpuOptions::new().piece(8192).staging(8188), "staging"),
    ] {
        match over(options) {
            Err(WgpuError::Setting { setting, .. }) => assert_eq!(setting, name),
            other => panic!("{other:?}"),
        }
    }
    assert!(over(WgpuOptions::new().usage(wgpu::BufferUsages::INDIRECT)).is_ok());
}

#[test]
fn a_thousand_moves_are_one_submission() {
    each(|device| {
        let pool = host(&device, 1 << 20);
        let mut buffer = device.buffer(256 << 10).unwrap();
        let len = 200_000;
        device.upload(filled(&pool, len, 1), &mut buffer, 0).unwrap().wait().unwrap();
        let mut shadow = pattern(len, 1);
        let before = device.counters().submissions;
        for number in 0..1000_u64 {
            // Blocks of 100 bytes, each down by 40: every one overlaps itself, and lands where another was.
            let from = 40 + number * 140;
            buffer.copy_within(from..from + 100, from - 40).unwrap();
            shadow.copy_within(from as usize..from as usize + 100, from as usize - 40);
        }
        assert_eq!(device.counters().submissions, before);
        let moved = device.queue().record().unwrap();
        assert_eq!(device.counters().submissions, before + 1);
        moved.synchronize().unwrap();
        device.queue().record().unwrap().synchronize().unwrap();
        assert_eq!(device.counters().submissions, before + 1, "a record without moves submits nothing");
        assert!(down(&device, &pool, &buffer, 0, len) == shadow);
    });
}

#[test]
fn nothing_is_made_per_transfer_once_warm() {
    each(|device| {
        let pool = host(&device, 256 << 10);
        let mut buffer = device.buffer(64 << 10).unwrap();
        let mut round = |seed| {
            let up = device.upload(filled(&pool, 20_000, seed), &mut buffer, 0).unwrap();
            buffer.copy_within(0..20_000, 1000).unwrap();
            drop(up);
            assert!(down(&device, &pool, &buffer, 1000, 20_000) == pattern(20_000, seed));
            assert!(down(&device, &pool, &buffer, 1000, 4) == pattern(20_000, seed)[..4]);
        };
        (0..3).for_each(&mut round);
        // wgpu's own count: of what lives natively.
        let native = || {
            let hal = device.native().0.get_internal_counters().hal;
            (
                [&hal.buffers, &hal.memory_allocations, &hal.fences].map(|one| one.read()),
                hal.command_encoders.read(),
            )
        };
        let (objects, memory, living) = (device.counters().objects, device.memory(), native());
        (3..50).for_each(&mut round);
        assert_eq!(device.counters().objects, objects);
        assert_eq!(device.memory(), memory);
        let (same, encoders) = native();
        assert_eq!(same, living.0);
        // wgpu's pool of them has as many as were ever in flight at once: by how fast the device happened to be, up
        // to a few for each staging buffer, and not by how many submissions there were, which is above 300 here.
        assert!(encoders <= 16, "{encoders}, at first {}", living.1);
        // Two pieces each way and the scratch.
        assert!(memory.scratch <= 2 * 8192 + 4096, "{memory:?}");
    });
}

#[test]
fn a_device_without_memory_of_its_own_needs_no_submission_and_no_staging() {
    let Some(device) = vulkan(direct()) else { return };
    if !matches!(
        device.native().0.adapter_info().device_type,
        wgpu::DeviceType::Cpu | wgpu::DeviceType::IntegratedGpu
    ) {
        eprintln!("skipped: the device has memory of its own");
        return;
    }
    let pool = host(&device, 256 << 10);
    let mut buffer = device.buffer(64 << 10).unwrap();
    // wgpu has something of its own to submit when a device is new.
    device.queue().drain().unwrap();
    drop(device.upload(filled(&pool, 40_000, 1), &mut buffer, 0).unwrap().wait().unwrap());
    assert!(down(&device, &pool, &buffer, 0, 40_000) == pattern(40_000, 1));
    let none = device.counters();
    assert_eq!((none.submissions, device.memory().scratch), (0, 0));

    // With something in flight the queue's order counts, and nothing is copied past it.
    buffer.copy_within(0..20_000, 20_000).unwrap();
    assert!(down(&device, &pool, &buffer, 20_000, 20_000) == pattern(20_000, 1));
    assert!(device.counters().submissions > 0);
    no_message();
}

#[test]
fn a_transfer_longer_than_all_staging_goes_through() {
    each(|device| {
        let pool = host(&device, 4 << 20);
        let mut buffer = device.buffer(1 << 20).unwrap();
        let len = 1_000_004;
        let up = device.upload(filled(&pool, len, 3), &mut buffer, 8).unwrap();
        let back = device.download(&buffer, 8, pool.allocate(len).unwrap()).unwrap();
        // The download ends after the upload, whatever is asked first.
        assert!(back.wait().unwrap().as_slice() == pattern(len, 3));
        assert!(up.is_done().unwrap());
        assert!(device.memory().scratch <= 2 * 8192);
    });
}

#[test]
fn a_new_buffer_is_zero_and_keeps_what_is_moved_where_nobody_wrote() {
    each(|device| {
        let pool = host(&device, 64 << 10);
        let mut buffer = device.buffer(16 << 10).unwrap();
        assert!(down(&device, &pool, &buffer, 0, 16 << 10).iter().all(|&byte| byte == 0));
        // wgpu fills what it believes unwritten when it is first read, and does not see raw moves.
        let mut other = device.buffer(16 << 10).unwrap();
        for buffer in [&mut buffer, &mut other] {
            drop(device.upload(filled(&pool, 4096, 5), buffer, 0).unwrap());
            buffer.copy_within(0..4096, 8192).unwrap();
            assert!(down(&device, &pool, buffer, 8192, 4096) == pattern(4096, 5));
        }
        let odd = device.buffer(4097).unwrap();
        assert_eq!((odd.size(), device.buffer(0).unwrap().size()), (4100, 0));
    });
}

#[test]
fn what_another_device_made_is_refused() {
    each(|device| {
        let stranger = noop(small(WgpuMoves::Auto));
        let pool = host(&device, 64 << 10);
        let mut theirs = stranger.buffer(4096).unwrap();
        let refused = device.upload(filled(&pool, 4096, 1), &mut theirs, 0).unwrap_err();
        assert!(matches!(refused.error, WgpuError::Foreign { what: "buffer", .. }), "{refused}");
        let refused = device.download(&theirs, 0, refused.slice.unwrap()).unwrap_err();
        assert_eq!(refused.error.kind(), ErrorKind::InvalidUse);
        assert!(refused.slice.unwrap().as_slice() == pattern(4096, 1));
        assert!(device.read_now(&theirs, 0, &mut [0; 4]).is_err());
        assert!(device.write_now(&mut theirs, 0, &[0; 4]).is_err());
        let event = stranger.queue().record().unwrap();
        let error = device.lane(Lane::Upload).wait(&event).unwrap_err();
        assert!(matches!(error, WgpuError::Foreign { what: "event", .. }), "{error}");
        assert!(!device.queue().record().unwrap().covers(&event));
        assert!(
            device.queue().same_queue(device.lane(Lane::Download))
                && !device.queue().same_queue(stranger.queue())
        );
    });
}

#[test]
fn a_device_destroyed_in_the_middle_says_so_and_touches_no_host_memory() {
    each(|device| {
        let pool = host(&device, 1 << 20);
        let mut buffer = device.buffer(64 << 10).unwrap();
        let up = device.upload(filled(&pool, 4096, 1), &mut buffer, 0).unwrap();
        let back = device.download(&buffer, 0, pool.allocate(4096).unwrap()).unwrap();
        let dropped = device.download(&buffer, 0, pool.allocate(4096).unwrap()).unwrap();
        let before = device.queue().record().unwrap();
        buffer.copy_within(0..4096, 8192).unwrap();
        device.native().0.destroy();
        drop(dropped);

        let error = device.queue().record().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::DeviceLost, "{error}");
        assert_eq!(device.queue().drain().unwrap_err().kind(), ErrorKind::DeviceLost);
        // It may have ended before.
        for ticket in [up, back] {
            match ticket.wait() {
                Ok(_) => {}
                Err(failed) => {
                    assert_eq!(failed.error.kind(), ErrorKind::DeviceLost);
                    assert!(failed.slice.is_some(), "nobody touches it any more");
                }
            }
        }
        assert!(before.is_settled());
        assert!(before.query().unwrap_or_else(|error| error.kind() == ErrorKind::DeviceLost));
        assert_eq!(buffer.copy_within(0..4, 8).unwrap_err().kind(), ErrorKind::DeviceLost);
        assert_eq!(device.read_now(&buffer, 0, &mut [0; 4]).unwrap_err().kind(), ErrorKind::DeviceLost);
        assert_eq!(device.write_now(&mut buffer, 0, &[0; 4]).unwrap_err().kind(), ErrorKind::DeviceLost);
        assert_eq!(device.parking().sweep(), 0);
        assert_eq!(pool.stats().slices, 0);
        let (native, queue) = device.native();
        match WgpuDevice::new(native.clone(), queue.clone()) {
            Err(error) => assert_eq!(error.kind(), ErrorKind::DeviceLost),
            Ok(device) => panic!("{device:?} over a destroyed device"),
        }
        drop((buffer, device));
    });
}

/// Nothing here may reach the device's own error handler, which panics.
#[test]
fn a_buffer_that_the_user_destroyed_harms_nobody_else() {
    each(|device| {
        let pool = host(&device, 64 << 10);
        let (mut gone, mut other) = (device.buffer(8192).unwrap(), device.buffer(8192).unwrap());
        gone.copy_within(0..1000, 4).unwrap();
        gone.view(0..8192).unwrap().buffer().destroy();

        let refused = device.upload(filled(&pool, 4096, 1), &mut other, 0).unwrap_err();
        assert_eq!(refused.error.kind(), ErrorKind::Failed, "{refused}");
        assert!(refused.slice.is_some(), "the moves before it could not be submitted, so neither was it");
        let error = device.queue().record().unwrap_err();
        assert!(matches!(error, WgpuError::Refused { operation: "a move", .. }), "{error}");
        assert!(std::error::Error::source(&error).is_some());
        assert!(device.queue().drain().is_err(), "the moves are still owed, and never made");
        device.queue().drain().unwrap();

        let refused = device.upload(refused.slice.unwrap(), &mut gone, 0).unwrap_err();
        assert_eq!(refused.error.kind(), ErrorKind::Failed);
        let refused = device.download(&gone, 0, refused.slice.unwrap()).unwrap_err();
        assert_eq!(refused.error.kind(), ErrorKind::Failed);
        assert!(device.read_now(&gone, 0, &mut [0; 4]).is_err());
        drop(device.upload(refused.slice.unwrap(), &mut other, 0).unwrap().wait().unwrap());
        assert!(down(&device, &pool, &other, 0, 4096) == pattern(4096, 1));
    });
}

#[test]
fn the_users_own_work_runs_in_its_place() {
    each(|device| {
        let pool = host(&device, 256 << 10);
        let mut buffer = device.buffer(64 << 10).unwrap();
        let (native, queue) = device.native();
        let own = native.create_buffer(&wgpu::BufferDescriptor {
            label: Some("the user's"),
            size: 4096,
            usage: wgpu::BufferUsages::COPY_SRC | wgpu::BufferUsages::COPY_DST,
            mapped_at_creation: false,
        });
        for seed in 0..50 {
            // Up, out and back elsewhere by the user, down by a move, and home: no wait anywhere.
            let up = device.upload(filled(&pool, 4096, seed), &mut buffer, 0).unwrap();
            let mut encoder = native.create_command_encoder(&Default::default());
            let view = buffer.view(0..4096).unwrap();
            encoder.copy_buffer_to_buffer(view.buffer(), 0, &own, 0, Some(4096));
            encoder.copy_buffer_to_buffer(&own, 0, view.buffer(), 32 << 10, Some(4096));
            queue.submit([encoder.finish()]);
            let ended = Arc::new(AtomicBool::new(false));
            let told = Arc::clone(&ended);
            queue.on_submitted_work_done(move || told.store(true, SeqCst));
            let after = device.queue().record().unwrap();
            buffer.copy_within(32 << 10..36 << 10, 30 << 10).unwrap();
            let back = device.download(&buffer, 30 << 10, pool.allocate(4096).unwrap()).unwrap();
            after.synchronize().unwrap();
            assert!(ended.load(SeqCst), "an event speaks of the user's work as well");
            assert!(back.wait().unwrap().as_slice() == pattern(4096, seed));
            drop(up);
        }
    });
}

/// wgpu keeps what `Queue::write_buffer` brings for the next submission: it comes in its place all the same.
#[test]
fn what_the_user_writes_through_the_queue_comes_in_its_place() {
    each(|device| {
        let pool = host(&device, 64 << 10);
        let mut buffer = device.buffer(8192).unwrap();
        let other = buffer.clone();
        let users = |seed| {
            let view = other.view(0..8192).unwrap();
            device.native().1.write_buffer(view.buffer(), 0, &pattern(4096, seed));
        };
        for seed in 0..20 {
            users(seed);
            assert!(
                down(&device, &pool, &buffer, 0, 4096) == pattern(4096, seed),
                "a download comes after it"
            );
            users(200);
            drop(device.upload(filled(&pool, 4096, 100 + seed), &mut buffer, 0).unwrap());
            device.queue().drain().unwrap();
            assert!(down(&device, &pool, &buffer, 0, 4096) == pattern(4096, 100 + seed), "so does an upload");
        }
    });
}

#[test]
fn the_user_may_poll_too() {
    each(|device| {
        let pool = host(&device, 256 << 10);
        let mut buffer = device.buffer(64 << 10).unwrap();
        let stop = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let native = device.native().0;
            scope.spawn(|| {
                while !stop.load(SeqCst) {
                    let _ = native.poll(wgpu::PollType::Poll);
                    std::thread::yield_now();
                }
            });
            // Also when something below panics: the scope waits for the poller.
            let _stopped = SetOnDrop(&stop);
            for seed in 0..100 {
                drop(device.upload(filled(&pool, 10_000, seed), &mut buffer, 0).unwrap());
                assert!(down(&device, &pool, &buffer, 0, 10_000) == pattern(10_000, seed));
            }
            // Each asks whether the device is alive. What the poller does to that question in the meantime was once
            // taken for a lost device, in one of a hundred thousand.
            for _ in 0..30_000 {
                device.queue().record().unwrap();
            }
            device.queue().drain().unwrap();
        });
    });
}

/// Without the layer, which could not stand it (see `under_the_layer`).
#[test]
fn devices_come_and_go_on_several_threads_at_once() {
    let come_and_go = |thread: u8| {
        for round in 0..6 {
            let Some(device) = vulkan_without_layer(small(WgpuMoves::Raw)) else { return };
            let pool = host(&device, 64 << 10);
            let mut buffer = device.buffer(64 << 10).unwrap();
            drop(device.upload(filled(&pool, 20_000, thread * 10 + round), &mut buffer, 0).unwrap());
            buffer.copy_within(0..20_000, 1000).unwrap();
            assert!(down(&device, &pool, &buffer, 1000, 20_000) == pattern(20_000, thread * 10 + round));
        }
    };
    std::thread::scope(|scope| (0..4).for_each(|thread| drop(scope.spawn(move || come_and_go(thread)))));
}

struct SetOnDrop<'a>(&'a AtomicBool);

impl Drop for SetOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, SeqCst);
    }
}

/// wgpu runs callbacks inside a submission. One that submits here again is told so, and does not wait for itself.
#[test]
fn a_callback_inside_a_submission_cannot_submit() {
    // On noop, work has ended when it is submitted, so the next submission runs the callback.
    let device = noop(small(WgpuMoves::Auto));
    let mut buffer = device.buffer(4096).unwrap();
    let event = device.queue().record().unwrap();
    let heard = Arc::new(Mutex::new(None));
    let (told, queue) = (Arc::clone(&heard), device.queue().clone());
    let mut inner = buffer.clone();
    device.native().1.on_submitted_work_done(move || {
        let moved = inner.copy_within(0..4, 8);
        *told.lock().unwrap() = Some((queue.record(), moved, event.query()));
    });
    buffer.copy_within(0..4, 8).unwrap();
    device.queue().record().unwrap().synchronize().unwrap();
    let (record, moved, queried) = heard.lock().unwrap().take().unwrap();
    assert!(matches!(record, Err(WgpuError::InsideCallback)), "{record:?}");
    assert!(matches!(moved, Err(WgpuError::InsideCallback)), "{moved:?}");
    assert!(queried.is_ok());
}

#[test]
fn what_was_looked_for_is_in_the_error() {
    let error = WgpuOptions::new().backends(wgpu::Backends::NOOP).open().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidUse);
    match &error {
        WgpuError::NoAdapter { wanted, backends, found } => {
            assert_eq!((wanted.as_str(), backends.as_str(), found.len()), ("of any kind", "noop", 0));
        }
        other => panic!("{other}"),
    }
    assert!(error.to_string().starts_with("no wgpu adapter of any kind on noop; there is none"), "{error}");
}
