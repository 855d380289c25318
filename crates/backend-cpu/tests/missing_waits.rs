//! Each wait of a small pipeline, removed: the vector clocks find it on every seed, and find nothing when all are
//! kept.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on should stop where it stands")]

use allocator_core::DeviceBuffer;
use backend_cpu::sim::{Call, Hazard, HazardKind, SimConfig, SimDevice};
use pinned_host::{HostPool, Lane, PageLocker, Queue, Transfer};

/// The waits of [`pipeline`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wait {
    KernelAfterUpload,
    MoveAfterUpload,
    DownloadAfterKernel,
    UploadAfterDownload,
    UploadAfterMove,
    DownloadAfterMove,
}

const WAITS: [Wait; 6] = [
    Wait::KernelAfterUpload,
    Wait::MoveAfterUpload,
    Wait::DownloadAfterKernel,
    Wait::UploadAfterDownload,
    Wait::UploadAfterMove,
    Wait::DownloadAfterMove,
];

/// What a removed wait is found as: the operation that should have waited, for which, and why.
fn expected(wait: Wait) -> (Call, Call, HazardKind) {
    use HazardKind::{ReadAfterWrite, WriteAfterRead};
    match wait {
        Wait::KernelAfterUpload => (Call::Launch, Call::Upload, ReadAfterWrite),
        Wait::MoveAfterUpload => (Call::CopyWithin, Call::Upload, ReadAfterWrite),
        Wait::DownloadAfterKernel => (Call::Download, Call::Launch, ReadAfterWrite),
        Wait::UploadAfterDownload => (Call::Upload, Call::Download, WriteAfterRead),
        Wait::UploadAfterMove => (Call::Upload, Call::CopyWithin, WriteAfterRead),
        Wait::DownloadAfterMove => (Call::Download, Call::CopyWithin, ReadAfterWrite),
    }
}

const K: u64 = 1024;

/// Two blocks go up; the first is changed by a kernel, comes down and is overwritten; the second moves, comes down
/// from its new place, and its old place is overwritten. Returns whether the bytes that came down are right.
fn pipeline(device: &SimDevice, removed: Option<Wait>) -> bool {
    let pool = HostPool::new(vec![device.locker().lock(64 << 10).unwrap()], 64).unwrap();
    let mut buffer = device.buffer(8 * K).unwrap();
    let (upload, download, compute) =
        (device.lane(Lane::Upload), device.lane(Lane::Download), device.queue());
    let filled = |byte: u8| {
        let mut slice = pool.allocate(K as usize).unwrap();
        slice.as_mut_slice().fill(byte);
        slice
    };
    let keep = |wait: Wait| removed != Some(wait);

    let first = device.upload(filled(1), &mut buffer, 0).unwrap();
    let second = device.upload(filled(2), &mut buffer, 4 * K).unwrap();

    if keep(Wait::KernelAfterUpload) {
        compute.wait(first.event()).unwrap();
    }
    let block = buffer.view(0..K).unwrap();
    compute
        .launch(&[block.read(), block.write()], |bytes| {
            bytes[1] = bytes[0].iter().map(|byte| byte + 10).collect();
        })
        .unwrap();
    let kernel = compute.record().unwrap();

    if keep(Wait::MoveAfterUpload) {
        compute.wait(second.event()).unwrap();
    }
    buffer.copy_within(4 * K..5 * K, 6 * K).unwrap();
    let moved = compute.record().unwrap();

    if keep(Wait::DownloadAfterKernel) {
        download.wait(&kernel).unwrap();
    }
    let down_first = device.download(&buffer, 0, filled(0)).unwrap();
    if keep(Wait::UploadAfterDownload) {
        upload.wait(down_first.event()).unwrap();
    }
    let third = device.upload(filled(3), &mut buffer, 0).unwrap();

    if keep(Wait::UploadAfterMove) {
        upload.wait(&moved).unwrap();
    }
    let fourth = device.upload(filled(4), &mut buffer, 4 * K).unwrap();
    if keep(Wait::DownloadAfterMove) {
        download.wait(&moved).unwrap();
    }
    let down_second = device.download(&buffer, 6 * K, filled(0)).unwrap();

    let right_second = down_second.wait().unwrap().as_slice().iter().all(|&byte| byte == 2);
    let right_first = down_first.wait().unwrap().as_slice().iter().all(|&byte| byte == 11);
    for ticket in [first, second, third, fourth] {
        ticket.wait().unwrap();
    }
    right_first && right_second
}

fn run(seed: u64, removed: Option<Wait>) -> (bool, Vec<Hazard>, usize) {
    let device = SimDevice::new(SimConfig::seeded(seed));
    let right = pipeline(&device, removed);
    (right, device.hazards(), device.poison_reads().len())
}

#[test]
fn all_waits_kept_nothing_is_found() {
    for seed in 0..100 {
        assert_eq!(run(seed, None), (true, vec![], 0), "seed {seed}");
    }
}

#[test]
fn each_wait_removed_is_found_on_every_seed() {
    for wait in WAITS {
        let (later, earlier, kind) = expected(wait);
        for seed in 0..100 {
            let (_, hazards, _) = run(seed, Some(wait));
            let is_it = |h: &Hazard| (h.operation.call, h.earlier.call, h.kind) == (later, earlier, kind);
            assert!(hazards.iter().any(is_it), "{wait:?}, seed {seed}: {hazards:?}");
        }
    }
}

#[test]
fn what_is_found_does_not_depend_on_the_seed() {
    for wait in WAITS {
        let found = run(0, Some(wait)).1;
        assert!((1..100).all(|seed| run(seed, Some(wait)).1 == found), "{wait:?}");
    }
}

/// The order of the run is adversarial enough that the other two checks see most mistakes as well.
#[test]
fn content_or_poison_shows_each_removed_wait_on_some_seed() {
    for wait in WAITS {
        let shown = (0..100).filter(|&seed| {
            let (right, _, poison_reads) = run(seed, Some(wait));
            !right || poison_reads > 0
        });
        let shown = shown.count();
        // A removed wait on the upload of a move's old place harms what the move reads, and so on: each has some
        // order in which it shows.
        assert!(shown > 0, "{wait:?} never showed");
    }
}

#[test]
fn the_host_must_wait_too() {
    for seed in 0..20 {
        let device = SimDevice::new(SimConfig::seeded(seed));
        let pool = HostPool::new(vec![device.locker().lock(8192).unwrap()], 64).unwrap();
        let mut buffer = device.buffer(K).unwrap();
        let sent = device.upload(pool.allocate(K as usize).unwrap(), &mut buffer, 0).unwrap();
        let mut bytes = [0; 16];
        device.read_now(&buffer, 0, &mut bytes).unwrap();
        let found = device.hazards();
        assert_eq!(found.len(), 1);
        assert_eq!((found[0].operation.call, found[0].operation.queue), (Call::ReadNow, None));
        assert_eq!((found[0].kind, found[0].range.clone()), (HazardKind::ReadAfterWrite, 0..16));

        sent.wait().unwrap();
        device.read_now(&buffer, 0, &mut bytes).unwrap();
        device.write_now(&mut buffer, 0, &bytes).unwrap();
        assert_eq!(device.hazards().len(), 1, "after the wait nothing is wrong");
    }
}

#[test]
fn a_wait_for_a_later_event_of_the_same_queue_is_enough() {
    let device = SimDevice::new(SimConfig::seeded(5));
    let pool = HostPool::new(vec![device.locker().lock(8192).unwrap()], 64).unwrap();
    let mut buffer = device.buffer(2 * K).unwrap();
    let _first = device.upload(pool.allocate(K as usize).unwrap(), &mut buffer, 0).unwrap();
    let second = device.upload(pool.allocate(K as usize).unwrap(), &mut buffer, K).unwrap();
    // Through a third queue: order is transitive.
    let queue = device.new_queue();
    queue.wait(second.event()).unwrap();
    device.lane(Lane::Download).wait(&queue.record().unwrap()).unwrap();
    device.download(&buffer, 0, pool.allocate(2 * K as usize).unwrap()).unwrap().wait().unwrap();
    device.assert_no_hazards();
}

#[test]
fn one_queue_hides_every_missing_wait() {
    for wait in WAITS {
        let device = SimDevice::new(SimConfig::seeded(1).one_queue());
        assert!(pipeline(&device, Some(wait)));
        device.assert_no_hazards();
    }
}

#[test]
#[should_panic(expected = "is not ordered after upload")]
fn a_strict_device_fails_when_dropped() {
    let device = SimDevice::new(SimConfig::seeded(1).strict());
    pipeline(&device, Some(Wait::KernelAfterUpload));
}
