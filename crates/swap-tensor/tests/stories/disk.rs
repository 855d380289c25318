//! The disk store on every path of I/O there is here: what was written comes back, or an error says why not.
#![cfg(unix)]
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on should stop where it stands")]

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
        mpsc,
    },
    time::{Duration, Instant},
};
use swap_tensor::disk::{
    Call, DiskBuf, DiskConfig, DiskError, DiskStore, ExtentState, Failed, Fault, FaultPlan, IoBuf, IoChoice,
    IoPath, IoTicket,
};

/// Long enough for anything that ends at all.
const AGES: Duration = Duration::from_secs(60);
const CHUNK: u64 = 64 << 10;

/// A way of doing I/O.
#[derive(Debug, Clone, Copy)]
struct Path {
    io: IoChoice,
    direct: bool,
}

const PATHS: [Path; 4] = [
    Path { io: IoChoice::Uring, direct: true },
    Path { io: IoChoice::Uring, direct: false },
    Path { io: IoChoice::Threads, direct: true },
    Path { io: IoChoice::Threads, direct: false },
];

/// Runs `test` on every path that works here; says which do not.
fn on_every_path(test: impl Fn(DiskConfig)) {
    let mut ran = 0;
    for path in PATHS {
        let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        let config = DiskConfig::new(folder.path(), 8 << 20).chunk(CHUNK).io(path.io).direct(path.direct);
        match config.clone().open() {
            Ok(store) if store.path().drives[0].direct == path.direct => test(config),
            Ok(store) => println!("SKIPPED {path:?}: {}", store.path()),
            Err(why) => println!("SKIPPED {path:?}: {why}"),
        }
        ran += 1;
    }
    assert!(ran > 0);
}

fn filled(len: usize, seed: u64) -> DiskBuf {
    let mut buffer = DiskBuf::zeroed(len).unwrap();
    let mut state = seed;
    for byte in buffer.as_mut_slice() {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        *byte = (state >> 33) as u8;
    }
    buffer
}

fn whole<B: IoBuf>(ticket: IoTicket<B>) -> Result<B, Failed<B>> {
    ticket.wait_for(AGES)
}

/// Writes `len` bytes, reads them back, and gives the store and its extent.
fn round_trip(store: &DiskStore, len: usize) {
    let seed = len as u64 + 1;
    let extent = store.reserve(len as u64).unwrap();
    assert_eq!(extent.state(), ExtentState::Empty);
    let expected = filled(len, seed);
    let written = whole(store.write(&extent, filled(len, seed), len as u64)).unwrap();
    assert!(written.as_slice() == expected.as_slice());
    assert_eq!(
        (extent.state(), extent.parts(), extent.part(0)),
        (ExtentState::Written, 1, Some(0..len as u64))
    );
    for room in [len, extent.read_len(0).unwrap() as usize, len + 5000] {
        let ticket = store.read(&extent, 0, filled(room, 0));
        let range = ticket.range();
        let read = whole(ticket).unwrap();
        assert!(read.as_slice()[range] == *expected.as_slice(), "{len} bytes in a buffer of {room}");
    }
}

#[test]
fn what_is_written_comes_back_whatever_its_length() {
    on_every_path(|config| {
        let store = config.open().unwrap();
        let chunk = CHUNK as usize;
        for len in [0, 1, 511, 512, 4095, 4096, 4097, chunk - 1, chunk, chunk + 1, 9 * chunk, 9 * chunk + 77]
        {
            round_trip(&store, len);
        }
        let stats = store.stats();
        assert_eq!((stats.reserved, stats.extents, stats.in_flight, stats.failures), (0, 0, 0, 0));
        assert_eq!((stats.writes, stats.reads), (12, 36));
    });
}

#[test]
fn unaligned_buffers_go_through_the_page_cache() {
    on_every_path(|config| {
        let direct = config.direct;
        let store = config.open().unwrap();
        let pool = pinned_host::HostPool::new(
            vec![pinned_host::PageLocker::pageable(&pinned_host::OsLocker, 1 << 20).unwrap().unwrap()],
            16,
        )
        .unwrap();
        let _off = pool.allocate(16).unwrap();
        let mut slice = pool.allocate(20_000).unwrap();
        slice.as_mut_slice().copy_from_slice(filled(20_000, 3).as_slice());
        assert!(slice.as_ptr().addr() % 512 != 0);
        let extent = store.reserve(20_000).unwrap();
        let slice = whole(store.write(&extent, slice, 20_000)).unwrap();
        // And past it again: both see the same file.
        let ticket = store.read(&extent, 0, DiskBuf::zeroed(20_480).unwrap());
        let range = ticket.range();
        assert!(whole(ticket).unwrap().as_slice()[range] == *slice.as_slice());
        let ticket = store.read(&extent, 0, slice);
        assert_eq!(ticket.range(), 0..20_000);
        assert!(whole(ticket).unwrap().as_slice() == filled(20_000, 3).as_slice());
        assert_eq!(store.stats().buffered_operations > 0, direct);
    });
}

#[test]
fn parts_of_a_pack_are_read_by_themselves() {
    on_every_path(|config| {
        let store = config.open().unwrap();
        let parts = [0..1, 1..5000, 5000..5000, 5120..70_000, 70_001..150_000, 150_000..150_001];
        let pack = filled(150_001, 9);
        let extent = store.reserve(150_001).unwrap();
        let pack = whole(store.write_parts(&extent, pack, &parts)).unwrap();
        for (at, part) in parts.iter().enumerate() {
            assert_eq!(extent.part(at), Some(part.clone()));
            for room in [(part.end - part.start) as usize, extent.read_len(at).unwrap() as usize] {
                let ticket = store.read(&extent, at, DiskBuf::zeroed(room).unwrap());
                let range = ticket.range();
                let read = whole(ticket).unwrap();
                assert!(
                    read.as_slice()[range] == pack.as_slice()[part.start as usize..part.end as usize],
                    "part {at}"
                );
            }
        }
        assert_eq!(extent.discard(3).unwrap(), 150_001 - 64_880 - 120 - 1);
        assert_eq!(store.stats().dead_bytes, 64_880);
        let failed = whole(store.read(&extent, 3, DiskBuf::zeroed(70_000).unwrap())).unwrap_err();
        assert!(matches!(failed.error, DiskError::NoPart { part: 3, parts: 6 }) && failed.buffer.is_some());
        assert!(extent.discard(3).is_err() && extent.discard(6).is_err());
        drop(extent);
        assert_eq!((store.stats().dead_bytes, store.stats().reserved), (0, 0));
    });
}

#[test]
fn what_cannot_be_is_refused_and_the_buffer_comes_back() {
    on_every_path(|config| {
        let store = config.clone().open().unwrap();
        let extent = store.reserve(8192).unwrap();
        let refused = |ticket: IoTicket<DiskBuf>| {
            assert!(ticket.is_done() && ticket.range().is_empty());
            let failed = whole(ticket).unwrap_err();
            assert!(failed.buffer.is_some(), "{failed}");
            failed.error
        };
        let buffer = || DiskBuf::zeroed(10_000).unwrap();
        assert!(matches!(
            refused(store.read(&extent, 0, buffer())),
            DiskError::State { operation: "read", state: ExtentState::Empty }
        ));
        assert!(matches!(
            refused(store.write(&extent, buffer(), 9000)),
            DiskError::Length { given: 8192, needed: 9000 }
        ));
        assert!(matches!(
            refused(store.write(&extent, buffer(), 10_001)),
            DiskError::Length { given: 10_000, needed: 10_001 }
        ));
        assert!(matches!(
            refused(store.write_parts(&extent, buffer(), &[0..5, 4..9])),
            DiskError::Parts { after: 5, .. }
        ));
        assert_eq!(extent.state(), ExtentState::Empty);
        whole(store.write(&extent, buffer(), 8192)).unwrap();
        assert!(matches!(
            refused(store.write(&extent, buffer(), 1)),
            DiskError::State { operation: "write", state: ExtentState::Written }
        ));
        assert!(matches!(refused(store.read(&extent, 1, buffer())), DiskError::NoPart { part: 1, parts: 1 }));
        assert!(matches!(
            refused(store.read(&extent, 0, DiskBuf::zeroed(8191).unwrap())),
            DiskError::Length { given: 8191, needed: 8192 }
        ));
        let other = config.open().unwrap();
        assert!(matches!(refused(other.read(&extent, 0, buffer())), DiskError::ForeignExtent));
        assert_eq!(store.stats().in_flight, 0);
    });
}

#[test]
fn a_full_store_says_how_full() {
    on_every_path(|config| {
        let store = config.open().unwrap();
        let all: Vec<_> = (0..8).map(|_| store.reserve(1 << 20).unwrap()).collect();
        let Err(DiskError::Full { requested, free, largest, capacity }) = store.reserve(1) else {
            panic!("there was room")
        };
        assert_eq!((requested, free, largest, capacity), (1, 0, 0, 8 << 20));
        drop(all);
        store.reserve(8 << 20).unwrap();
        assert!(matches!(store.reserve(u64::MAX), Err(DiskError::Full { .. })));
    });
}

#[test]
fn extents_are_spread_over_directories() {
    on_every_path(|config| {
        let second = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        let store = config.and(second.path()).open().unwrap();
        let extents: Vec<_> = (0..8).map(|_| store.reserve(100_000).unwrap()).collect();
        let there = extents.iter().filter(|extent| extent.directory() == second.path()).count();
        assert_eq!(there, 4);
        let tickets: Vec<_> =
            extents.iter().zip(1..).map(|(e, seed)| store.write(e, filled(100_000, seed), 100_000)).collect();
        tickets.into_iter().for_each(|ticket| drop(whole(ticket).unwrap()));
        for (extent, seed) in extents.iter().zip(1..) {
            let ticket = store.read(extent, 0, DiskBuf::zeroed(102_400).unwrap());
            let range = ticket.range();
            assert!(whole(ticket).unwrap().as_slice()[range] == *filled(100_000, seed).as_slice());
        }
        // The larger half is not to be had in one piece.
        assert!(matches!(store.reserve(5 << 20), Err(DiskError::Full { .. })));
    });
}

#[test]
fn tickets_dropped_in_flight_leave_their_buffers_to_the_operation() {
    /// Counts how many there are.
    struct Counted(DiskBuf, Arc<AtomicUsize>);
    // SAFETY: as the buffer in it.
    unsafe impl IoBuf for Counted {
        fn memory(&mut self) -> std::ptr::NonNull<[u8]> {
            self.0.memory()
        }
    }
    impl Drop for Counted {
        fn drop(&mut self) {
            self.1.fetch_sub(1, Ordering::SeqCst);
        }
    }
    on_every_path(|config| {
        let plan = FaultPlan::seeded(1).always(Call::Write, Fault::Hang);
        let store = config.faults(plan).open().unwrap();
        let alive = Arc::new(AtomicUsize::new(0));
        let (sender, ended) = mpsc::channel();
        for seed in 1..=4 {
            let extent = store.reserve(300_000).unwrap();
            alive.fetch_add(1, Ordering::SeqCst);
            let ticket = store.write(&extent, Counted(filled(300_000, seed), Arc::clone(&alive)), 300_000);
            let sender = sender.clone();
            ticket.on_done(move || sender.send(()).unwrap());
        }
        // Neither tickets nor extents are left; the operations hang.
        assert_eq!(alive.load(Ordering::SeqCst), 4);
        assert_eq!((store.stats().in_flight, store.stats().extents), (4, 4));
        assert!(store.stats().reserved >= 1_200_000);
        store.clear_faults();
        store.release();
        (0..4).for_each(|_| ended.recv_timeout(AGES).unwrap());
        drop(store); // its threads have ended
        assert_eq!(alive.load(Ordering::SeqCst), 0);
    });
}

#[test]
fn a_hung_operation_keeps_its_buffer_and_room_and_nobody_else() {
    on_every_path(|config| {
        let store = config.faults(FaultPlan::seeded(1).at(Call::Write, 1, Fault::Hang)).open().unwrap();
        let hung = store.reserve(4096).unwrap();
        let ticket = store.write(&hung, filled(4096, 1), 4096);
        assert!(!ticket.wait_until(Instant::now() + Duration::from_millis(20)) && !ticket.is_done());
        let failed = ticket.wait_for(Duration::from_millis(20)).unwrap_err();
        assert!(matches!(failed.error, DiskError::Timeout { operation: "write", bytes: 4096, .. }));
        assert!(failed.buffer.is_none());
        assert_eq!(hung.state(), ExtentState::Writing);
        // Others go on, both ways.
        round_trip(&store, 100_000);
        drop(hung);
        assert_eq!(store.stats().reserved, 4096);
        store.release();
        let deadline = Instant::now() + AGES;
        while store.stats().reserved > 0 {
            assert!(Instant::now() < deadline, "the room did not come back");
            std::thread::yield_now();
        }
    });
}

#[test]
fn reads_do_not_queue_behind_writes() {
    on_every_path(|config| {
        let plan = FaultPlan::seeded(1);
        let faulty = (2..100).fold(plan, |plan, k| plan.at(Call::Write, k, Fault::Hang));
        let store = config.depth(1).threads(1).faults(faulty).open().unwrap();
        let extent = store.reserve(CHUNK).unwrap();
        whole(store.write(&extent, filled(CHUNK as usize, 1), CHUNK)).unwrap();
        let stuck = store.reserve(20 * CHUNK).unwrap();
        let write = store.write(&stuck, filled(20 * CHUNK as usize, 2), 20 * CHUNK);
        for _ in 0..5 {
            whole(store.read(&extent, 0, DiskBuf::zeroed(CHUNK as usize).unwrap())).unwrap();
        }
        assert!(!write.is_done());
        store.clear_faults();
        store.release();
        whole(write).unwrap();
    });
}

#[test]
fn a_store_dropped_in_flight_ends_every_ticket() {
    on_every_path(|config| {
        let plan = FaultPlan::seeded(1).randomly(Call::Read, 3, Fault::Delay);
        let store = config.depth(2).threads(2).faults(plan).open().unwrap();
        let extent = store.reserve(1 << 20).unwrap();
        let buffer = whole(store.write(&extent, filled(1 << 20, 1), 1 << 20)).unwrap();
        let tickets: Vec<_> =
            (0..10).map(|_| store.read(&extent, 0, DiskBuf::zeroed(1 << 20).unwrap())).collect();
        drop(store);
        for ticket in tickets {
            assert!(ticket.is_done());
            match whole(ticket) {
                Ok(read) => assert!(read.as_slice() == buffer.as_slice()),
                Err(failed) => {
                    assert!(matches!(failed.error, DiskError::Closed { operation: "read" }));
                    assert!(failed.buffer.is_some());
                }
            }
        }
    });
}

#[test]
fn closing_does_not_wait_for_ever() {
    on_every_path(|config| {
        let plan = FaultPlan::seeded(1).always(Call::Write, Fault::Hang);
        let store = config.grace(Duration::from_millis(10)).faults(plan).open().unwrap();
        let extent = store.reserve(4096).unwrap();
        let ticket = store.write(&extent, filled(4096, 1), 4096);
        let releaser = store.clone();
        drop(store);
        let weak = std::thread::spawn(move || drop(releaser));
        weak.join().unwrap();
        assert!(matches!(
            ticket.wait_for(Duration::ZERO).unwrap_err().error,
            DiskError::Timeout { .. } | DiskError::Closed { .. }
        ));
    });
}

#[test]
fn many_threads_at_once() {
    on_every_path(|config| {
        let store = config.open().unwrap();
        std::thread::scope(|scope| {
            for thread in 0..6u64 {
                let store = &store;
                scope.spawn(move || {
                    for round in 0..10u64 {
                        round_trip(store, (1000 + thread * 31_337 + round * 9_973) as usize);
                    }
                });
            }
        });
        let stats = store.stats();
        assert_eq!((stats.writes, stats.reads, stats.reserved, stats.failures), (60, 180, 0, 0));
    });
}

#[test]
fn requests_beyond_the_queue_are_refused_and_can_be_made_again() {
    on_every_path(|config| {
        let plan = FaultPlan::seeded(1).always(Call::Write, Fault::Hang);
        let store = config.depth(1).threads(1).queue(2).faults(plan).open().unwrap();
        let extents: Vec<_> = (0..9).map(|_| store.reserve(4096).unwrap()).collect();
        let mut tickets: Vec<_> =
            extents.iter().map(|e| Some(store.write(e, filled(4096, 1), 4096))).collect();
        let mut refused = 0;
        for (ticket, extent) in tickets.iter_mut().zip(&extents) {
            if ticket.as_ref().unwrap().is_done() {
                let failed = whole(ticket.take().unwrap()).unwrap_err();
                assert!(matches!(failed.error, DiskError::Busy { queued: 2, .. }), "{failed}");
                assert_eq!(extent.state(), ExtentState::Empty);
                refused += 1;
            }
        }
        // One in flight and two that wait, give or take the one being taken.
        assert!((6..=7).contains(&refused), "{refused}");
        store.clear_faults();
        store.release();
        for ticket in tickets.iter_mut().filter_map(Option::take) {
            whole(ticket).unwrap();
        }
        for extent in extents.iter().filter(|extent| extent.state() == ExtentState::Empty) {
            whole(store.write(extent, filled(4096, 1), 4096)).unwrap();
        }
    });
}

#[test]
fn short_and_interrupted_transfers_are_continued() {
    on_every_path(|config| {
        let plan = FaultPlan::seeded(5)
            .randomly(Call::Read, 2, Fault::Short)
            .randomly(Call::Write, 2, Fault::Short)
            .randomly(Call::Read, 5, Fault::INTERRUPTED)
            .randomly(Call::Write, 5, Fault::AGAIN)
            .randomly(Call::Read, 7, Fault::Delay);
        let store = config.faults(plan).open().unwrap();
        for len in [1, 5000, 65_536, 300_001, 1 << 20] {
            round_trip(&store, len);
        }
        let stats = store.stats();
        assert!(stats.short_transfers > 10 && stats.retries > 5, "{stats:?}");
        assert_eq!(stats.failures, 0);
    });
}

#[test]
fn what_never_passes_is_an_error_in_the_end() {
    on_every_path(|config| {
        let plan = FaultPlan::seeded(1).always(Call::Write, Fault::AGAIN);
        let store = config.faults(plan).open().unwrap();
        let extent = store.reserve(4096).unwrap();
        let failed = whole(store.write(&extent, filled(4096, 1), 4096)).unwrap_err();
        assert!(matches!(failed.error, DiskError::Io { operation: "write", offset: _, requested: 4096, .. }));
    });
}

#[test]
fn errors_say_where_and_leave_the_source_valid() {
    on_every_path(|config| {
        let plan = FaultPlan::seeded(1).at(Call::Write, 3, Fault::NO_SPACE).at(Call::Read, 2, Fault::IO);
        let store = config.threads(1).faults(plan).open().unwrap();
        let extent = store.reserve(5 * CHUNK).unwrap();
        let failed = whole(store.write(&extent, filled(5 * CHUNK as usize, 1), 5 * CHUNK)).unwrap_err();
        let DiskError::NoSpace { offset, requested, done: 0, source, .. } = &failed.error else {
            panic!("{failed}")
        };
        assert_eq!((*offset, *requested), (2 * CHUNK, CHUNK));
        assert_eq!(source.kind(), std::io::ErrorKind::StorageFull);
        let buffer = failed.buffer.unwrap();
        assert!(buffer.as_slice() == filled(5 * CHUNK as usize, 1).as_slice());
        // A part of it is there, and nobody will ever take it for the whole.
        assert_eq!((extent.state(), extent.parts()), (ExtentState::Failed, 0));
        let failed = whole(store.read(&extent, 0, buffer)).unwrap_err();
        assert!(matches!(failed.error, DiskError::State { state: ExtentState::Failed, .. }));
        drop(extent);

        let extent = store.reserve(5 * CHUNK).unwrap();
        let buffer = whole(store.write(&extent, failed.buffer.unwrap(), 5 * CHUNK)).unwrap();
        let failed = whole(store.read(&extent, 0, DiskBuf::zeroed(5 * CHUNK as usize).unwrap())).unwrap_err();
        assert!(matches!(failed.error, DiskError::Io { operation: "read", .. }), "{failed}");
        let read = whole(store.read(&extent, 0, failed.buffer.unwrap())).unwrap();
        assert!(read.as_slice() == buffer.as_slice());
        assert_eq!(store.stats().failures, 2);
    });
}

#[test]
fn a_flipped_bit_is_never_served() {
    on_every_path(|config| {
        let plan = FaultPlan::seeded(1).at(Call::Write, 2, Fault::BitFlip).at(Call::Read, 3, Fault::BitFlip);
        let store = config.threads(1).faults(plan).open().unwrap();
        let bad = store.reserve(CHUNK).unwrap();
        let good = store.reserve(CHUNK).unwrap();
        whole(store.write(&good, filled(CHUNK as usize, 1), CHUNK)).unwrap();
        whole(store.write(&bad, filled(CHUNK as usize, 2), CHUNK)).unwrap();
        let read = |extent| whole(store.read(extent, 0, DiskBuf::zeroed(CHUNK as usize).unwrap()));
        let failed = read(&bad).unwrap_err();
        let DiskError::Corrupt { length, expected, found, .. } = failed.error else { panic!("{failed}") };
        assert!(length == CHUNK && expected != found);
        assert!(read(&good).is_ok());
        assert!(matches!(read(&good).unwrap_err().error, DiskError::Corrupt { .. }));
        // That one was flipped on its way; what is in the file is still good.
        assert!(read(&good).unwrap().as_slice() == filled(CHUNK as usize, 1).as_slice());
        assert_eq!(store.stats().checksum_failures, 2);
    });
}

/// What is refused, what is used instead, and the word of the report that says so.
#[test]
fn each_refusal_has_a_fallback_and_a_name() {
    type Check = fn(&swap_tensor::disk::DriveReport) -> bool;
    let threads: Check = |drive| drive.path == IoPath::Threads;
    let cached: Check = |drive| !drive.direct;
    let cases: [(Call, Fault, Check, &str); 11] = [
        (Call::RingSetup, Fault::NOT_PERMITTED, threads, "io_uring was refused"),
        (Call::RingSetup, Fault::UNKNOWN_CALL, threads, "io_uring was refused"),
        (Call::RingSetup, Fault::NO_MEMORY, threads, "io_uring was refused"),
        (Call::ProbeRing, Fault::INVALID, threads, "io_uring was refused"),
        (Call::OpenDirect, Fault::INVALID, cached, "O_DIRECT was refused"),
        (Call::ProbeDirect, Fault::INVALID, cached, "O_DIRECT was refused"),
        (
            Call::RegisterBuffers,
            Fault::NO_MEMORY,
            |drive| !drive.registered,
            "registering memory was refused",
        ),
        (Call::Temporary, Fault::NOT_SUPPORTED, |_| true, "O_TMPFILE was refused"),
        (Call::Temporary, Fault::INVALID, |_| true, "O_TMPFILE was refused"),
        (Call::Allocate, Fault::NOT_SUPPORTED, |drive| !drive.reserved, "fallocate was refused"),
        (Call::Allocate, Fault::UNKNOWN_CALL, |drive| !drive.reserved, "fallocate was refused"),
    ];
    for (call, fault, check, word) in cases {
        let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        let config = DiskConfig::new(folder.path(), 4 << 20).chunk(CHUNK);
        let calm = config.clone().open().unwrap().path();
        let usual = calm.drives[0].refusals.len();
        let store = config.clone().faults(FaultPlan::seeded(0).always(call, fault)).open().unwrap();
        let report = store.path();
        assert!(check(&report.drives[0]), "{call:?}: {report}");
        // Where the real thing is refused too, the report has that already.
        let said = report.to_string().contains(word) || report.drives[0].refusals.len() == usual;
        assert!(said, "{call:?}: {report}");
        round_trip(&store, 200_000);
        if check as usize == threads as usize {
            let demanded = config.io(IoChoice::Uring).faults(FaultPlan::seeded(0).always(call, fault));
            assert!(matches!(demanded.open(), Err(DiskError::Setup { operation: "use io_uring", .. })));
        }
    }
}

#[test]
fn a_ring_refused_later_leaves_the_work_to_threads() {
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let plan = FaultPlan::seeded(0).at(Call::RingSetup, 2, Fault::NO_MEMORY);
    let store = DiskConfig::new(folder.path(), 4 << 20).chunk(CHUNK).faults(plan).open().unwrap();
    if store.path().drives[0].path != IoPath::Uring {
        println!("SKIPPED: {}", store.path());
        return;
    }
    round_trip(&store, 200_000);
    assert!(store.path().to_string().contains("threads write"), "{}", store.path());
}

#[test]
fn registered_memory_is_used_as_such() {
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let store = DiskConfig::new(folder.path(), 4 << 20).chunk(CHUNK).open().unwrap();
    if !store.path().drives[0].registered {
        println!("SKIPPED: {}", store.path());
        return;
    }
    let region = pinned_host::PageLocker::pageable(&pinned_host::OsLocker, 1 << 20).unwrap().unwrap();
    let pool = pinned_host::HostPool::new(vec![region], 4096).unwrap();
    store.register(pool.allocate(4096).unwrap());
    let mut slice = pool.allocate(200_704).unwrap();
    slice.as_mut_slice().copy_from_slice(filled(200_704, 1).as_slice());
    let extent = store.reserve(200_704).unwrap();
    let mut slice = whole(store.write(&extent, slice, 200_704)).unwrap();
    slice.as_mut_slice().fill(0);
    let slice = whole(store.read(&extent, 0, slice)).unwrap();
    assert!(slice.as_slice() == filled(200_704, 1).as_slice());
    assert_eq!(store.stats().registered_operations, 8);
    // Other memory is no worse.
    round_trip(&store, 200_000);
    assert_eq!(store.stats().registered_operations, 8);
}

#[test]
fn a_lock_limit_costs_only_the_gain() {
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    // The probe's is allowed.
    let plan = FaultPlan::seeded(0).at(Call::RegisterBuffers, 2, Fault::NO_MEMORY).at(
        Call::RegisterBuffers,
        3,
        Fault::NO_MEMORY,
    );
    let store = DiskConfig::new(folder.path(), 4 << 20).chunk(CHUNK).faults(plan).open().unwrap();
    if !store.path().drives[0].registered {
        println!("SKIPPED: {}", store.path());
        return;
    }
    store.register(DiskBuf::zeroed(1 << 20).unwrap());
    round_trip(&store, 200_000);
    assert!(store.path().to_string().contains("registering 1048576 bytes"), "{}", store.path());
}

#[test]
fn what_cannot_be_opened_says_why() {
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let config = DiskConfig::new(folder.path(), 1 << 20);
    let refused = |config: DiskConfig| config.open().unwrap_err();
    assert!(matches!(refused(DiskConfig::new(folder.path(), 0)), DiskError::Config { what: "capacity", .. }));
    for chunk in [0, 1000, 2 << 30] {
        assert!(matches!(refused(config.clone().chunk(chunk)), DiskError::Config { what: "chunk", .. }));
    }
    assert!(matches!(refused(config.clone().depth(0)), DiskError::Config { what: "depth", .. }));
    assert!(matches!(refused(config.clone().threads(0)), DiskError::Config { what: "threads", .. }));
    assert!(matches!(refused(config.clone().queue(0)), DiskError::Config { what: "queue", .. }));
    let absent = DiskConfig::new(folder.path().join("absent"), 1 << 20);
    let DiskError::Setup { path, source, .. } = refused(absent) else { panic!("it is absent") };
    assert!(path.ends_with("absent") && source.kind() == std::io::ErrorKind::NotFound);
    // More than any file system here has; nothing stays behind.
    let vast = DiskConfig::new(folder.path(), 1 << 50);
    let error = refused(vast.clone());
    assert!(matches!(error, DiskError::FileSystemFull { .. } | DiskError::Setup { .. }), "{error}");
    let unreserved = FaultPlan::seeded(0).always(Call::Allocate, Fault::NOT_SUPPORTED);
    let error = refused(vast.faults(unreserved));
    assert!(matches!(error, DiskError::FileSystemFull { .. } | DiskError::Setup { .. }), "{error}");
    assert_eq!(folder.path().read_dir().unwrap().count(), 0);
}

#[cfg(target_os = "linux")]
#[test]
fn a_callback_may_drop_the_store() {
    on_every_path(|config| {
        let store = config.open().unwrap();
        let extent = store.reserve(CHUNK).unwrap();
        let ticket = store.write(&extent, filled(CHUNK as usize, 1), CHUNK);
        let (sender, ended) = mpsc::channel();
        ticket.on_done(move || {
            drop(store);
            sender.send(()).unwrap();
        });
        ended.recv_timeout(AGES).unwrap();
        whole(ticket).unwrap();
    });
}
