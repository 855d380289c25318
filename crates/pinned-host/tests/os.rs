//! Memory of the operating system: what is locked is unlocked again, and a refusal says what to do.
//!
//! A process of its own, and one test: the counts and limits looked at are the whole process's.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on stops where it stands")]
#![cfg(target_os = "linux")]

use pinned_host::{
    HostError, HostPool, HostRegion, HugePages, LockLimit, LockPolicy, MemoryBound, OnFork, OsLocker,
    OsMemory, PageLocker, PagePin, PinnedPages, StagingConfig, StagingError, SystemMemory,
};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use rustix::thread::{CapabilitySet, capabilities, set_capabilities};

#[test]
fn locks_come_back_and_refusals_name_the_limit() {
    what_is_locked_is_unlocked_by_drop();
    large_regions_start_at_a_huge_page();
    preparing_changes_no_contents();
    memory_is_known();
    every_kind_of_memory_is_zeroed_and_counted();
    explicit_pages_are_present_or_refused();
    a_node_that_is_not_there_is_refused();
    lengths_that_cannot_be_are_refused();
    more_than_there_is_is_refused_before_it_is_touched();
    a_page_that_two_pin_counts_once();
    many_regions_leave_nothing();
    match become_unprivileged(256 << 10) {
        Ok(()) => a_refusal_names_the_limit(256 << 10),
        #[allow(clippy::print_stderr)]
        Err(reason) => eprintln!("skipped a_refusal_names_the_limit: {reason}"),
    }
}

fn what_is_locked_is_unlocked_by_drop() {
    let start = LockLimit::current();
    let room = start.soft.is_none_or(|limit| limit >= start.locked_now + (64 << 10));
    if !room && !start.privileged {
        #[allow(clippy::print_stderr)]
        return eprintln!("skipped what_is_locked_is_unlocked_by_drop: not even 64 KiB may be locked");
    }
    let region = OsLocker.lock(50_000).unwrap();
    assert!(region.is_locked() && region.len() >= 50_000);
    assert_eq!(LockLimit::current().locked_now, start.locked_now + region.len() as u64);
    let pool = HostPool::new(vec![region], 64).unwrap();
    assert_eq!((pool.stats().locked, pool.stats().pageable), (pool.stats().capacity, 0));
    let mut slice = pool.allocate(50_000).unwrap();
    assert!(slice.is_locked() && slice.as_slice().iter().all(|&byte| byte == 0));
    slice.as_mut_slice().fill(0xff);
    drop(pool);
    assert!(LockLimit::current().locked_now > start.locked_now, "the slice keeps its region");
    drop(slice);
    assert_eq!(LockLimit::current().locked_now, start.locked_now);
}

fn large_regions_start_at_a_huge_page() {
    for bytes in [2 << 20, (2 << 20) + 1, 7 << 20] {
        let region = OsLocker.pageable(bytes).unwrap().unwrap();
        assert_eq!(region.base().addr().get() % (2 << 20), 0);
        assert!((bytes..bytes + 4096 * 16).contains(&region.len()), "whole pages, not whole huge pages");
        let pool = HostPool::new(vec![region], 64).unwrap();
        pool.allocate(pool.max_slice()).unwrap().as_mut_slice().fill(1);
    }
}

fn preparing_changes_no_contents() {
    let region = OsLocker.pageable(3 << 20).unwrap().unwrap();
    let pool = HostPool::new(vec![region], 64).unwrap();
    let mut slice = pool.allocate(1000).unwrap();
    slice.as_mut_slice().fill(9);
    slice.region().prepare(0, 3 << 20);
    // Beyond the region: a hint that is not taken.
    slice.region().prepare(4096, usize::MAX);
    slice.region().prepare(0, (3 << 20) + (1 << 20));
    assert!(slice.as_slice().iter().all(|&byte| byte == 9));
    // The rest of the region is prepared on its first use.
    assert!(pool.allocate(2 << 20).unwrap().as_slice().iter().all(|&byte| byte == 0));
}

fn memory_is_known() {
    let memory = SystemMemory::current().expect("Linux says how much memory there is");
    assert!(memory.available <= memory.total && memory.total > 0, "{memory:?}");
}

const KINDS: [OsMemory; 5] = [
    OsMemory::new(),
    OsMemory::new().huge_pages(HugePages::Never).touch_threads(0),
    OsMemory::new().touch_threads(3).on_fork(OnFork::Zeros),
    OsMemory::new().numa_node(0),
    OsMemory::for_drivers(),
];

fn every_kind_of_memory_is_zeroed_and_counted() {
    let start = LockLimit::current();
    // With the second, threads touch it.
    let lengths = [4096, if start.privileged { 40 << 20 } else { 3 << 20 }];
    for (memory, bytes) in KINDS.iter().flat_map(|kind| lengths.map(|bytes| (kind, bytes))) {
        let before = PinnedPages::current();
        let region = match memory.lock(bytes) {
            // Where a node may not be chosen (a container without CAP_SYS_NICE).
            Err(HostError::NumaPolicy { node: 0, source }) => {
                #[allow(clippy::print_stderr)]
                return eprintln!("skipped memory of node 0: {source}");
            }
            made => made.unwrap(),
        };
        assert!(region.is_locked() && region.len() == bytes);
        // SAFETY: the test alone has the region.
        let all = unsafe { std::slice::from_raw_parts_mut(region.base().as_ptr(), bytes) };
        assert!(all.iter().all(|&byte| byte == 0), "{memory:?}");
        all.fill(1);
        let now = PinnedPages::current();
        assert_eq!((now.locked - before.locked, now.pins), (bytes as u64, before.pins + 1));
        assert!(now.peak >= now.locked);
        assert_eq!(LockLimit::current().locked_now, start.locked_now + bytes as u64, "{memory:?}");
        drop(region);
        assert_eq!(PinnedPages::current().locked, before.locked);
        let pageable = memory.pageable(bytes).unwrap().unwrap();
        assert!(!pageable.is_locked() && PinnedPages::current().locked == before.locked);
        assert_eq!(LockLimit::current().locked_now, start.locked_now);
    }
}

fn explicit_pages_are_present_or_refused() {
    let explicit = OsMemory::new().huge_pages(HugePages::Explicit);
    let (start, room) = (PinnedPages::current(), explicit.allowance().unwrap());
    let refused = explicit.lock(usize::try_from(room).unwrap() + 1).unwrap_err();
    assert!(matches!(refused, HostError::HugePages { bytes, .. } if bytes == room + (2 << 20)), "{refused}");
    assert!(refused.to_string().contains("vm.nr_hugepages"), "{refused}");
    assert_eq!(PinnedPages::current().locked, start.locked);
    if room == 0 {
        #[allow(clippy::print_stderr)]
        return eprintln!("skipped explicit huge pages: the system's pool has none that are free");
    }
    for lock in [true, false] {
        let region = if lock { explicit.lock(1) } else { explicit.pageable(1).unwrap() }.unwrap();
        assert!(region.is_locked() && region.len() == 2 << 20);
        assert_eq!(explicit.allowance(), Some(room - (2 << 20)));
        assert_eq!(PinnedPages::current().locked - start.locked, 2 << 20);
        // SAFETY: the test alone has the region.
        unsafe { region.base().as_ptr().write_bytes(1, region.len()) };
    }
    assert_eq!(explicit.allowance(), Some(room));
    assert_eq!(PinnedPages::current().locked, start.locked);
}

fn a_node_that_is_not_there_is_refused() {
    for (node, bytes) in [(1023, 4096), (1024, 4096), (u32::MAX, 64 << 20)] {
        match OsMemory::new().numa_node(node).lock(bytes).unwrap_err() {
            HostError::NoNumaNode { node: named, nodes } => assert!(named == node && !nodes.is_empty()),
            // A system that does not list its nodes.
            error => assert!(matches!(error, HostError::NumaPolicy { .. }), "{error}"),
        }
    }
}

fn lengths_that_cannot_be_are_refused() {
    for memory in KINDS.into_iter().chain([OsMemory::new().huge_pages(HugePages::Explicit)]) {
        assert!(matches!(memory.lock(0), Err(HostError::ZeroSize)));
        assert!(matches!(memory.pageable(0), Some(Err(HostError::ZeroSize))));
        for bytes in [usize::MAX, usize::MAX - 4095, isize::MAX as usize + 1] {
            assert!(matches!(memory.lock(bytes), Err(HostError::Map { .. })), "{memory:?} {bytes}");
            assert!(matches!(memory.pageable(bytes), Some(Err(HostError::Map { .. }))));
        }
    }
}

fn more_than_there_is_is_refused_before_it_is_touched() {
    let (start, memory) = (PinnedPages::current(), SystemMemory::current().unwrap());
    let swap = std::fs::read_to_string("/proc/meminfo").unwrap();
    let swap =
        swap.lines().find_map(|line| line.strip_prefix("SwapFree:")?.trim().split(' ').next()?.parse().ok());
    let most = memory.available + swap.unwrap_or(0_u64) * 1024;
    for bytes in [most + most / 8, 1 << 45] {
        let bytes = usize::try_from(bytes).unwrap();
        for refused in [OsLocker.lock(bytes).unwrap_err(), OsLocker.pageable(bytes).unwrap().unwrap_err()] {
            let HostError::MemoryLimit { asked, available, limit, ref bound } = refused else {
                panic!("{refused}")
            };
            assert!(asked >= bytes as u64 && available < asked && limit > 0, "{refused}");
            let by = matches!(bound, MemoryBound::Machine | MemoryBound::ControlGroup(_));
            assert!(by && refused.to_string().contains(&available.to_string()), "{refused}");
        }
    }
    assert_eq!(PinnedPages::current(), start);
}

fn a_page_that_two_pin_counts_once() {
    let start = PinnedPages::current();
    let region = OsLocker.lock(64 << 10).unwrap();
    let locked = start.locked + region.len() as u64;
    assert_eq!(PinnedPages::current().locked, locked);
    let driver = PagePin::new(region.base(), region.len());
    let part = PagePin::new(region.base(), 1);
    let now = PinnedPages::current();
    assert_eq!((now.locked, now.pins), (locked, start.pins + 3));
    drop((region, driver));
    // What the other still has.
    let page = rustix::param::page_size() as u64;
    assert!(part.is_ours() && PinnedPages::current().locked == start.locked + page);
    drop(part);
    assert_eq!(PinnedPages::current().locked, start.locked);
}

fn many_regions_leave_nothing() {
    let mappings = || std::fs::read_to_string("/proc/self/maps").unwrap().lines().count();
    let round = |count: usize| {
        let made: Vec<_> = (0..count)
            .map(|number| {
                let memory = KINDS[number % KINDS.len()];
                let bytes = 4096 + number * 1000;
                if number % 3 == 0 {
                    memory.pageable(bytes + (2 << 20)).unwrap()
                } else {
                    OsMemory::lock(&memory.numa_node(0), bytes).or_else(|_| OsLocker.lock(bytes))
                }
            })
            .collect();
        made.into_iter().filter(|region| region.as_ref().is_ok_and(|region| region.is_locked())).count()
    };
    // What the heap takes it has then.
    round(200);
    let start = (mappings(), LockLimit::current().locked_now, PinnedPages::current().locked);
    for _ in 0..20 {
        assert!(round(200) > 0);
    }
    assert_eq!((mappings(), LockLimit::current().locked_now, PinnedPages::current().locked), start);
}

/// Takes the right to lock more than `limit` from this thread.
fn become_unprivileged(limit: u64) -> Result<(), String> {
    let mut sets = capabilities(None).map_err(|error| format!("capabilities cannot be read: {error}"))?;
    sets.effective.remove(CapabilitySet::IPC_LOCK);
    set_capabilities(None, sets).map_err(|error| format!("CAP_IPC_LOCK cannot be given up: {error}"))?;
    let maximum = getrlimit(Resource::Memlock).maximum;
    let lower = Rlimit { current: Some(limit.min(maximum.unwrap_or(limit))), maximum };
    setrlimit(Resource::Memlock, lower).map_err(|error| format!("the limit cannot be lowered: {error}"))?;
    let now = LockLimit::current();
    if now.privileged || now.soft != Some(limit) {
        return Err(format!("the limit of {limit} bytes is not in force: {now:?}"));
    }
    Ok(())
}

/// The most memory this process had at once.
fn peak_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let peak =
        status.lines().find_map(|line| line.strip_prefix("VmHWM:")?.trim().split(' ').next()?.parse().ok());
    peak.unwrap()
}

fn a_refusal_names_the_limit(limit: u64) {
    let start = LockLimit::current().locked_now;
    let (kept, asked) = (64 << 10, 1 << 20);
    let held = OsLocker.lock(kept).unwrap();
    let error = OsLocker.lock(asked).unwrap_err();
    let HostError::LockLimit { limit: named, asked: wanted, locked } = error else { panic!("{error}") };
    assert_eq!((named, wanted, locked), (limit, asked as u64, start + kept as u64));
    assert_eq!(LockLimit::current().locked_now, start + kept as u64, "nothing stays half-locked");
    let message = error.to_string();
    for part in ["262144", "1048576", "65536", "ulimit -l", "limits.conf", "CAP_IPC_LOCK"] {
        assert!(message.contains(part), "{message:?} lacks {part:?}");
    }
    // Gigabytes are refused as soon: none of them is touched.
    let before = peak_kib();
    let error = OsLocker.lock(1 << 30).unwrap_err();
    assert!(matches!(error, HostError::LockLimit { asked: 0x4000_0000, .. }), "{error}");
    assert!(peak_kib() - before < 64 << 10, "{} KiB were touched", peak_kib() - before);
    assert_eq!(PinnedPages::current().locked, start + kept as u64);
    drop(held);
    assert_eq!(LockLimit::current().locked_now, start);

    let staging = StagingConfig::default();
    let ring = staging.build(&OsLocker).unwrap();
    let stats = ring.stats();
    assert_eq!((stats.locked(), stats.pageable()), (limit / 2, (32 << 20) - limit / 2));
    assert_eq!(LockLimit::current().locked_now, start + limit / 2);
    drop(ring);
    let error = StagingConfig { lock: LockPolicy::Required, ..staging }.build(&OsLocker).unwrap_err();
    assert!(matches!(error, StagingError::Locker(HostError::LockLimit { asked: 16_777_216, .. })), "{error}");
    assert_eq!(LockLimit::current().locked_now, start);
}
