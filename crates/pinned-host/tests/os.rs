//! Memory of the operating system: what is locked is unlocked again, and a refusal says what to do.
//!
//! A process of its own, and one test: the counts and limits looked at are the whole process's.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on stops where it stands")]
#![cfg(target_os = "linux")]

use pinned_host::{
    HostError, HostPool, HostRegion, LockLimit, LockPolicy, OsLocker, PageLocker, StagingConfig,
    StagingError, SystemMemory,
};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use rustix::thread::{CapabilitySet, capabilities, set_capabilities};

#[test]
fn locks_come_back_and_refusals_name_the_limit() {
    what_is_locked_is_unlocked_by_drop();
    large_regions_start_at_a_huge_page();
    preparing_changes_no_contents();
    memory_is_known();
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
