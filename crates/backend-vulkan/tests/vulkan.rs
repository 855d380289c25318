//! What the Vulkan device promises beyond the suites: submissions, objects, limits, imports, a caller's queue.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on should stop where it stands")]

mod support;

use allocator_core::{Arena, DeviceBuffer, Remap, Request};
use ash::vk;
use backend_vulkan::{
    HostMemory, ImportProblem, Select, VulkanBuffer, VulkanDevice, VulkanError, VulkanOptions,
};
use pinned_host::{
    DeviceError, ErrorKind, Event, HostPool, HostRegion, Lane, OsLocker, PageLocker, Queue, QueuedBuffer,
    Transfer,
};
use std::process::Command;
use std::sync::Arc;
use support::hooks::{ATOM, Native};
use support::{Vulkan, under_the_layer, with_layer};

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;

fn pool(device: &VulkanDevice, bytes: usize) -> HostPool<backend_vulkan::VulkanRegion> {
    HostPool::new(vec![device.locker().lock(bytes).unwrap()], 64).unwrap()
}

fn contents(device: &VulkanDevice, buffer: &VulkanBuffer) -> Vec<u8> {
    buffer.queue().drain().unwrap();
    let mut bytes = vec![0; buffer.size() as usize];
    device.read_now(buffer, 0, &mut bytes).unwrap();
    bytes
}

/// `maxMemoryAllocationSize` and `maxStorageBufferRange` of a device.
fn limits(device: &VulkanDevice) -> (u64, u64) {
    let native = device.handle();
    let mut three = vk::PhysicalDeviceMaintenance3Properties::default();
    let mut all = vk::PhysicalDeviceProperties2::default().push_next(&mut three);
    // SAFETY: the handles are the device's; the structure is of Vulkan 1.1.
    unsafe { native.instance().get_physical_device_properties2(native.physical(), &mut all) };
    let storage = all.properties.limits.max_storage_buffer_range;
    (three.max_memory_allocation_size, storage.into())
}

fn counting(len: u64) -> Vec<u8> {
    (0..len).map(|at| ((at * 31) >> 3) as u8).collect()
}

/// That the layer says nothing means something only if it would say something.
#[test]
fn the_layer_is_heard() {
    if !with_layer() {
        eprintln!("skipped: the layer is left out");
        return;
    }
    under_the_layer();
    let device = VulkanOptions::new().validation(true).open().unwrap();
    let log = device.validation().unwrap().clone();
    let buffer = device.buffer(4096).unwrap();
    let native = buffer.native();
    let copy = |from, to| vk::BufferCopy::default().src_offset(from).dst_offset(to).size(1024);
    let said = |record: &dyn Fn(&ash::Device, vk::CommandBuffer)| {
        // SAFETY: wrong on purpose, and harmless on this driver: ranges are within the buffer.
        unsafe { device.queue().commands(&[&buffer], record) }.unwrap();
        device.queue().drain().unwrap();
        log.take().join("\n")
    };
    // SAFETY: as above.
    let overlap = said(&|device, commands| unsafe {
        device.cmd_copy_buffer(commands, native, native, &[copy(0, 512)]);
    });
    assert!(overlap.contains("VUID-vkCmdCopyBuffer-pRegions-00117"), "{overlap}");
    // SAFETY: as above.
    let unordered = said(&|device, commands| unsafe {
        device.cmd_copy_buffer(commands, native, native, &[copy(0, 1024)]);
        device.cmd_copy_buffer(commands, native, native, &[copy(1024, 2048)]);
    });
    assert!(unordered.contains("SYNC-HAZARD-READ-AFTER-WRITE"), "{unordered}");
    assert_eq!(said(&|_, _| ()), "");
}

#[test]
fn a_thousand_moves_are_one_submission() {
    let vulkan = Vulkan::new();
    let device = vulkan.open();
    let mut buffer = device.buffer(4 * MIB).unwrap();
    let mut wanted = counting(4 * MIB);
    device.write_now(&mut buffer, 0, &wanted).unwrap();
    let before = device.counters().submissions;
    for number in 0..1000 {
        // Each into what the one before vacated, some by less than their length.
        let (src, dst) = (512 + number * 3000, number * 3000);
        buffer.copy_within(src..src + 1000 + number, dst).unwrap();
        wanted.copy_within(src as usize..(src + 1000 + number) as usize, dst as usize);
    }
    assert_eq!(device.counters().submissions, before);
    buffer.queue().record().unwrap().synchronize().unwrap();
    assert_eq!(device.counters().submissions, before + 1);
    assert!(contents(&device, &buffer) == wanted);
}

#[test]
fn a_warm_device_makes_no_object() {
    let native = Native::new();
    let device = native.adopt(&VulkanOptions::new());
    let pool = pool(&device, 1 << 20);
    let mut buffer = device.buffer(MIB).unwrap();
    let mut work = |rounds: u64| {
        for round in 0..rounds {
            let slice = pool.allocate(4096).unwrap();
            let up = device.upload(slice, &mut buffer, round % 16 * 4096).unwrap();
            buffer.queue().wait(up.event()).unwrap();
            buffer.copy_within(0..64 * KIB, 100).unwrap();
            let moved = buffer.queue().record().unwrap();
            device.lane(Lane::Download).wait(&moved).unwrap();
            let down = device.download(&buffer, 0, pool.allocate(8192).unwrap()).unwrap();
            down.wait().unwrap();
            up.wait().unwrap();
        }
    };
    work(8);
    let (ours, theirs) = (device.counters().objects, native.control.created());
    work(200);
    assert_eq!((device.counters().objects, native.control.created()), (ours, theirs));
    drop(buffer);
}

#[test]
fn recording_nothing_submits_nothing() {
    let vulkan = Vulkan::new();
    let device = vulkan.open();
    let before = device.counters().submissions;
    let one = device.queue().record().unwrap();
    let other = device.lane(Lane::Upload).record().unwrap();
    one.synchronize().unwrap();
    other.synchronize().unwrap();
    device.queue().wait(&other).unwrap();
    device.queue().record().unwrap();
    assert_eq!(device.counters().submissions, before);
}

#[test]
fn limits_and_budgets_are_named() {
    let vulkan = Vulkan::new();
    let device = vulkan.open();
    let refused = |size: u64| device.buffer(size).map(|_| ()).unwrap_err();
    let named = |error: &VulkanError, limit: &str| {
        assert_eq!(error.kind(), ErrorKind::OutOfMemory, "{error}");
        assert!(error.to_string().contains(limit), "{error}");
    };
    named(&refused(u64::MAX), "maxBufferSize");
    let (allocation, storage) = limits(&device);
    // What is beyond both is named by the one that is looked at first.
    let refused_by = |error: &VulkanError| {
        let limit = if error.to_string().contains("maxBufferSize") {
            "maxBufferSize"
        } else {
            "maxMemoryAllocationSize"
        };
        named(error, limit);
    };
    refused_by(&refused(allocation + (1 << 20)));
    assert!(matches!(refused(0), VulkanError::ZeroSize));
    let region = device.locker().lock((allocation + (1 << 20)) as usize).map(|_| ()).unwrap_err();
    refused_by(&region);
    let most = device.locker().max_region() as u64;
    assert!(most <= allocation && most >= allocation.min(1 << 30), "{most} of {allocation}");

    let buffer = device.buffer(256 * MIB).unwrap();
    let view = buffer.view(0..256 * MIB).unwrap();
    if storage < 256 * MIB {
        let error = view.descriptor().unwrap_err();
        assert!(matches!(error, VulkanError::Limit { limit: "maxStorageBufferRange", .. }), "{error}");
    } else {
        assert_eq!(view.descriptor().unwrap().range, 256 * MIB);
    }
    let error = buffer.view(1..100).unwrap().descriptor().unwrap_err();
    assert!(
        matches!(error, VulkanError::Misaligned { limit: "minStorageBufferOffsetAlignment", .. }),
        "{error}"
    );
    assert!(matches!(buffer.view(16..16).unwrap().descriptor(), Err(VulkanError::ZeroSize)));
    let view = buffer.view(256..1024).unwrap();
    let info = view.descriptor().unwrap();
    assert_eq!((info.offset, info.range, info.buffer), (256, 768, buffer.native()));
    let (first, second) =
        (view.device_address().unwrap(), buffer.view(0..1).unwrap().device_address().unwrap());
    assert_eq!(first, second + 256);
    assert_eq!(error.kind(), ErrorKind::InvalidUse);
}

#[test]
fn the_budget_is_kept() {
    let mut native = Native::new();
    native.left = 64 * MIB;
    let device = native.adopt(&VulkanOptions::new());
    let before = device.memory();
    let error = device.buffer(65 * MIB).unwrap_err();
    assert!(matches!(error, VulkanError::Budget { asked, .. } if asked == 65 * MIB), "{error}");
    assert_eq!(error.kind(), ErrorKind::OutOfMemory);
    assert_eq!(device.memory(), before);
    device.buffer(63 * MIB).unwrap();
    assert_eq!(device.locker().allowance(), Some(32 * MIB));
}

#[test]
fn an_event_covers_what_the_caller_submitted_himself() {
    let native = Native::new();
    let device = native.adopt(&VulkanOptions::new().sparse(true));
    let mut buffer = device.buffer(MIB).unwrap();
    let granule = buffer.granule();
    let handle = device.handle();
    // SAFETY: plain Vulkan on the test's own device; objects go before it.
    unsafe {
        let raw = handle.device();
        let info = vk::CommandPoolCreateInfo::default().queue_family_index(native.family);
        let pool = raw.create_command_pool(&info, None).unwrap();
        let info = vk::CommandBufferAllocateInfo::default().command_pool(pool).command_buffer_count(1);
        let commands = raw.allocate_command_buffers(&info).unwrap();
        let large = device.buffer(256 * MIB).unwrap();
        raw.begin_command_buffer(commands[0], &vk::CommandBufferBeginInfo::default()).unwrap();
        raw.cmd_fill_buffer(commands[0], large.native(), 0, vk::WHOLE_SIZE, 7);
        raw.end_command_buffer(commands[0]).unwrap();
        let fence = raw.create_fence(&vk::FenceCreateInfo::default(), None).unwrap();
        // Waits of bindings neither pile up nor get lost.
        for _ in 0..50 {
            buffer.remap(0..granule, 2 * granule).unwrap();
        }
        let before = native.control.calls("vkQueueSubmit");
        device
            .queue()
            .with_native(|queue, _| {
                let submit = vk::SubmitInfo::default().command_buffers(&commands);
                raw.queue_submit(queue, &[submit], fence).unwrap();
            })
            .unwrap();
        assert_eq!(native.control.calls("vkQueueSubmit"), before + 2, "one waits for the bindings");
        device.queue().record().unwrap().synchronize().unwrap();
        assert!(raw.get_fence_status(fence).unwrap(), "the event fired before the caller's work had ended");
        raw.destroy_fence(fence, None);
        raw.destroy_command_pool(pool, None);
    }
}

#[test]
fn uses_of_extensions_are_left_out() {
    let vulkan = Vulkan::with(VulkanOptions::new().usage(vk::BufferUsageFlags::from_raw(!0)));
    let device = vulkan.open();
    drop(device.buffer(4096).unwrap());
}

#[test]
fn plain_access_goes_through_the_queue_where_it_must() {
    let vulkan = Vulkan::with(VulkanOptions::new().plain_through_queue(true));
    let device = vulkan.open();
    let mut buffer = device.buffer(3 * MIB).unwrap();
    // Pieces of a mebibyte; nothing is made for the second access.
    for (len, submissions) in [(300 * KIB, 1), (MIB, 1), (2 * MIB + 7, 3)] {
        device.write_now(&mut buffer, 3, &counting(len)).unwrap();
        let before = device.counters();
        let mut found = vec![0; len as usize];
        device.read_now(&buffer, 3, &mut found).unwrap();
        assert!(found == counting(len));
        let after = device.counters();
        assert_eq!((after.submissions, after.objects), (before.submissions + submissions, before.objects));
    }
}

#[test]
fn devices_are_listed_and_chosen() {
    let all = VulkanDevice::list().unwrap();
    let first = &all[0];
    for select in [Select::Index(0), Select::Uuid(first.uuid), Select::Name(first.name.to_uppercase())] {
        assert_eq!(VulkanOptions::new().select(select).open().unwrap().info().uuid, first.uuid);
    }
    let error = VulkanOptions::new().select(Select::parse("no such device")).open().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidUse);
    assert!(
        error.to_string().contains("no such device") && error.to_string().contains(&first.name),
        "{error}"
    );
}

#[test]
fn imported_memory_is_copied_where_it_is() {
    let vulkan = Vulkan::new();
    let device = vulkan.open();
    let region = OsLocker.pageable(64 << 10).unwrap().unwrap();
    let first = region.base();
    // SAFETY: nobody else has the region.
    unsafe { std::slice::from_raw_parts_mut(first.as_ptr(), 64 << 10) }.copy_from_slice(&counting(64 * KIB));
    region.prepare(0, 64 << 10);
    let imported = device.locker().import(region).unwrap();
    assert_eq!(imported.base(), first);
    let pool = HostPool::new(vec![imported], 64).unwrap();
    let slice = pool.allocate(64 << 10).unwrap();
    let mut buffer = device.buffer(64 * KIB).unwrap();
    let mut slice = device.upload(slice, &mut buffer, 0).unwrap().wait().unwrap();
    slice.as_mut_slice().fill(0);
    let slice = device.download(&buffer, 0, slice).unwrap().wait().unwrap();
    assert!(slice.as_slice() == counting(64 * KIB));

    let locked = VulkanOptions::new().host_memory(HostMemory::Imported).open().unwrap();
    assert!(locked.locker().lock(4096).unwrap().is_locked());
}

/// A region that starts in the middle of a page.
struct Shifted(pinned_host::OsRegion);

// SAFETY: a part of a region.
unsafe impl HostRegion for Shifted {
    fn base(&self) -> core::ptr::NonNull<u8> {
        // SAFETY: the region has more bytes than that.
        unsafe { self.0.base().add(64) }
    }
    fn len(&self) -> usize {
        4096
    }
}

#[test]
fn a_refused_import_gives_the_memory_back() {
    let native = Native::new();
    let device = native.adopt(&VulkanOptions::new());
    let region = || OsLocker.pageable(8192).unwrap().unwrap();
    let refused = device.locker().import(Shifted(region())).unwrap_err();
    assert!(matches!(
        refused.error,
        VulkanError::Import { why: ImportProblem::Misaligned { .. }, bytes: 4096, .. }
    ));
    let back = refused.region;

    native.control.fail("vkAllocateMemory", 1, vk::Result::ERROR_INVALID_EXTERNAL_HANDLE);
    // SAFETY: the test alone has the region.
    unsafe { back.base().write(7) };
    let refused = device.locker().import(back.0).unwrap_err();
    let why = ImportProblem::Refused(vk::Result::ERROR_INVALID_EXTERNAL_HANDLE);
    assert!(
        matches!(&refused.error, VulkanError::Import { why: found, .. } if *found == why),
        "{}",
        refused.error
    );
    // SAFETY: as above.
    assert_eq!(unsafe { refused.region.base().add(64).read() }, 7);
    drop(device);

    // Imported memory has no mapping to flush through, so it must be coherent.
    let mut incoherent = Native::incoherent();
    incoherent.import = true;
    let device = incoherent.adopt(&VulkanOptions::new());
    let refused = device.locker().import(region()).unwrap_err();
    assert!(matches!(refused.error, VulkanError::Import { why: ImportProblem::NoMemoryType, .. }));
    let theirs = device.locker().lock(4096).unwrap();
    let refused = device.locker().import(theirs).unwrap_err();
    assert!(matches!(refused.error, VulkanError::Import { why: ImportProblem::NotTheHosts, .. }));
    drop((refused, device));

    let plain = Native::incoherent();
    let device = plain.adopt(&VulkanOptions::new());
    let refused = device.locker().import(region()).unwrap_err();
    assert!(matches!(refused.error, VulkanError::Import { why: ImportProblem::NoExtension, .. }));
    assert!(refused.to_string().contains("VK_EXT_external_memory_host"), "{refused}");
}

#[test]
fn memory_that_is_not_coherent_is_flushed_in_whole_atoms() {
    let native = Native::incoherent();
    let device = native.adopt(&VulkanOptions::new());
    let pool = pool(&device, 64 << 10);
    let mut buffer = device.buffer(4096).unwrap();
    // Two slices never share an atom, or one's bytes would be thrown away with the other's.
    let (one, two) = (pool.allocate(100).unwrap(), pool.allocate(100).unwrap());
    assert!(one.offset().abs_diff(two.offset()) as u64 >= ATOM);
    native.control.ranges.lock().unwrap().clear();
    let at = one.offset() as u64;
    let one = device.upload(one, &mut buffer, 0).unwrap().wait().unwrap();
    assert_eq!(*native.control.ranges.lock().unwrap(), [("flush", at, ATOM)]);
    native.control.ranges.lock().unwrap().clear();
    let ticket = device.download(&buffer, 0, one).unwrap();
    let event = ticket.event().clone();
    assert_eq!(*native.control.ranges.lock().unwrap(), [("flush", at, ATOM)]);
    ticket.wait().unwrap();
    assert!(event.query().unwrap());
    assert_eq!(*native.control.ranges.lock().unwrap(), [("flush", at, ATOM), ("see", at, ATOM)], "once");
}

#[test]
fn a_callers_queue_is_used_under_its_lock_and_beside_his_work() {
    let native = Native::new();
    let device = native.adopt(&VulkanOptions::new());
    let mut buffer = device.buffer(64 * KIB).unwrap();
    let pool = pool(&device, 64 << 10);
    // SAFETY: plain Vulkan on the caller's own device, checked by the layer; objects go before the device.
    unsafe {
        let raw = &native.device;
        let mut kind = vk::SemaphoreTypeCreateInfo::default().semaphore_type(vk::SemaphoreType::TIMELINE);
        let semaphore =
            raw.create_semaphore(&vk::SemaphoreCreateInfo::default().push_next(&mut kind), None).unwrap();
        let info = vk::CommandPoolCreateInfo::default().queue_family_index(native.family);
        let commands_pool = raw.create_command_pool(&info, None).unwrap();
        let info =
            vk::CommandBufferAllocateInfo::default().command_pool(commands_pool).command_buffer_count(1);
        let commands = raw.allocate_command_buffers(&info).unwrap()[0];
        raw.begin_command_buffer(commands, &vk::CommandBufferBeginInfo::default()).unwrap();
        raw.cmd_fill_buffer(commands, buffer.native(), 0, 64 * KIB, 0x0505_0505);
        raw.end_command_buffer(commands).unwrap();

        // The caller's fill between our upload and our download.
        let mut slice = pool.allocate(4096).unwrap();
        slice.as_mut_slice().fill(1);
        let up = device.upload(slice, &mut buffer, 0).unwrap();
        let (waits, signals) = ([up.event().native().0], [semaphore]);
        let (wait_values, signal_values) = ([up.event().native().1], [1]);
        let mut values = vk::TimelineSemaphoreSubmitInfo::default()
            .wait_semaphore_values(&wait_values)
            .signal_semaphore_values(&signal_values);
        let (stages, buffers) = ([vk::PipelineStageFlags::ALL_COMMANDS], [commands]);
        let submit = vk::SubmitInfo::default()
            .wait_semaphores(&waits)
            .wait_dst_stage_mask(&stages)
            .command_buffers(&buffers)
            .signal_semaphores(&signals)
            .push_next(&mut values);
        {
            let _turn = native.lock.lock().unwrap();
            raw.queue_submit(native.queue, &[submit], vk::Fence::null()).unwrap();
        }
        let filled = device.event_of(semaphore, 1);
        device.lane(Lane::Download).wait(&filled).unwrap();
        let down = device.download(&buffer, 0, pool.allocate(4096).unwrap()).unwrap();
        assert!(down.wait().unwrap().as_slice().iter().all(|&byte| byte == 5));
        up.wait().unwrap();
        assert!(filled.query().unwrap());
        drop((filled, buffer, pool, device));
        // The driver's thread may look at a semaphore after its last use (see `Context::retired`).
        raw.queue_wait_idle(native.queue).unwrap();
        raw.destroy_command_pool(commands_pool, None);
        raw.destroy_semaphore(semaphore, None);
    }
}

#[test]
fn commands_run_in_order_with_moves() {
    let vulkan = Vulkan::new();
    let device = vulkan.open();
    let mut buffer = device.buffer(3 * 4096).unwrap();
    for value in 1..20u32 {
        let (data, clone) = (value * 0x0101_0101, buffer.clone());
        // SAFETY: a fill of a range of the buffer, which is among the uses.
        unsafe {
            let fill = |device: &ash::Device, commands| {
                device.cmd_fill_buffer(commands, clone.native(), 0, 4096, data);
            };
            buffer.queue().commands(&[&buffer], fill).unwrap();
        }
        buffer.copy_within(0..4096, 4096).unwrap();
        buffer.copy_within(4096..8192, 8192).unwrap();
    }
    let submissions = || {
        let before = device.counters().submissions;
        assert!(contents(&device, &buffer).iter().all(|&byte| byte == 19));
        device.counters().submissions - before
    };
    // Reading alone takes one where the host does not see the device's memory.
    let (all, reading) = (submissions(), submissions());
    assert_eq!(all, reading + 1);
}

/// Without the layer, which could not stand it (see `under_the_layer`).
#[test]
fn devices_come_and_go_on_several_threads_at_once() {
    let come_and_go = |thread: u64| {
        for round in 0..6 {
            let device = VulkanOptions::new().open().unwrap();
            let pool = pool(&device, 64 << 10);
            let mut buffer = device.buffer(64 * KIB).unwrap();
            let wanted = counting(40 * KIB + thread * 100 + round);
            let mut slice = pool.allocate(wanted.len()).unwrap();
            slice.as_mut_slice().copy_from_slice(&wanted);
            let up = device.upload(slice, &mut buffer, 8).unwrap();
            buffer.queue().wait(up.event()).unwrap();
            buffer.copy_within(8..8 + wanted.len() as u64, 0).unwrap();
            assert!(contents(&device, &buffer).starts_with(&wanted));
            up.wait().unwrap();
        }
    };
    std::thread::scope(|scope| (0..4).for_each(|thread| drop(scope.spawn(move || come_and_go(thread)))));
}

/// 10,000 steps by two threads, each with an arena of its own on the same device and queues.
#[test]
fn two_arenas_and_two_threads_share_a_device() {
    let vulkan = Vulkan::new();
    let device = Arc::new(vulkan.open());
    std::thread::scope(|scope| {
        for thread in 0..2u64 {
            let device = Arc::clone(&device);
            scope.spawn(move || wander(&device, thread));
        }
    });
}

fn wander(device: &VulkanDevice, seed: u64) {
    const STEPS: usize = 5000;
    let pool = pool(device, 256 << 10);
    let buffer = device.buffer(256 * KIB).unwrap();
    let mut arena = Arena::new(buffer.clone()).unwrap();
    let mut live: Vec<(allocator_core::Handle, u8)> = Vec::new();
    let mut state = seed + 1;
    let mut random = |bound: u64| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) % bound
    };
    for step in 0..STEPS {
        match random(4) {
            0 | 1 => {
                let size = 1 + random(16 * KIB);
                // Moves blocks where only fragmentation is in the way; they run on the shared queue.
                let Ok(handle) = arena.allocate(Request::new(size)) else { continue };
                let fill = step as u8;
                let mut slice = pool.allocate(size as usize).unwrap();
                slice.as_mut_slice().fill(fill);
                let moved = buffer.queue().record().unwrap();
                device.lane(Lane::Upload).wait(&moved).unwrap();
                let at = arena.range(handle).unwrap().start;
                let up = device.upload(slice, arena.buffer_mut(), at).unwrap();
                buffer.queue().wait(up.event()).unwrap();
                live.push((handle, fill));
                if random(2) == 0 {
                    up.wait().unwrap();
                }
            }
            2 if !live.is_empty() => {
                let (handle, _) = live.swap_remove(random(live.len() as u64) as usize);
                arena.release(handle).unwrap();
            }
            _ if !live.is_empty() => {
                let (handle, fill) = live[random(live.len() as u64) as usize];
                let range = arena.range(handle).unwrap();
                let ready = buffer.queue().record().unwrap();
                device.lane(Lane::Download).wait(&ready).unwrap();
                let Ok(slice) = pool.allocate((range.end - range.start) as usize) else { continue };
                let down = device.download(&buffer, range.start, slice).unwrap();
                // Whatever moves this block next waits for it.
                buffer.queue().wait(down.event()).unwrap();
                device.lane(Lane::Upload).wait(down.event()).unwrap();
                let slice = down.wait().unwrap();
                assert!(slice.as_slice().iter().all(|&byte| byte == fill), "thread {seed}, step {step}");
            }
            _ => {}
        }
    }
}

/// Opens a device and prints what came of it, in a process whose environment is the test's.
#[test]
#[ignore = "run by `what_is_missing_is_named` in another environment"]
fn child_opens() {
    match VulkanDevice::new() {
        Ok(device) => println!("opened {device:?}"),
        Err(error) => println!("refused {error:?} / {error}"),
    }
}

#[test]
fn what_is_missing_is_named() {
    let child = |key: &str, value: &std::path::Path| {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["child_opens", "--exact", "--ignored", "--nocapture"]).env(key, value);
        let output = command.output().unwrap();
        assert!(output.status.success());
        String::from_utf8(output.stdout).unwrap()
    };
    let dir = std::env::temp_dir().join(format!("no-vulkan-{}", std::process::id()));
    std::fs::create_dir_all(&dir).unwrap();
    std::fs::write(dir.join("libvulkan.so.1"), "no library").unwrap();
    let said = child("LD_LIBRARY_PATH", &dir);
    assert!(said.contains("NoLoader") && said.contains("libvulkan1"), "{said}");
    let said = child("VK_DRIVER_FILES", &dir.join("none.json"));
    let older = child("VK_ICD_FILENAMES", &dir.join("none.json"));
    // The variable's name depends on the loader's age.
    assert!(
        [&said, &older].iter().any(|s| s.contains("NoDriver") && s.contains("mesa-vulkan-drivers")),
        "{older}"
    );
    std::fs::remove_dir_all(&dir).unwrap();
}
