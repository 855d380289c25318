//! Random operations on a pool and its manager, and nothing of it left in the end: `cargo xtask soak pinned`.
//!
//! A process of its own, and one test: what is locked and mapped is the whole process's.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on stops where it stands")]
#![cfg(target_os = "linux")]

use pinned_host::{
    HostError, LockLimit, LockPolicy, OsLocker, OsRegion, PinnedBuffer, PinnedManager, PoolConfig, Wait,
};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

const BUDGET: u64 = 32 << 20;

struct Rng(u64);

impl Rng {
    fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_mul(0x5851_F42D_4C95_7F2D).wrapping_add(0x1405_7B7E_F767_814F);
        (self.0 >> 33) as usize % bound
    }

    /// Bytes: mostly short, a few long.
    fn length(&mut self) -> usize {
        let most = 1 << (4 + self.below(18));
        1 + self.below(most)
    }
}

fn number(variable: &str, default: u64) -> u64 {
    std::env::var(variable).ok().and_then(|value| value.parse().ok()).unwrap_or(default)
}

#[test]
fn nothing_stays_locked_or_mapped() {
    let (ops, seed) = (number("SOAK_OPS", 20_000), number("SOAK_SEED", 1));
    // The heap grows before what is counted is counted.
    run(2_000, seed);
    let (locked, mapped) = (LockLimit::current().locked_now, mappings());
    let (done, most) = run(ops, seed);
    assert_eq!(LockLimit::current().locked_now, locked);
    assert_eq!(mappings(), mapped);
    println!("{done} operations, seed {seed}: at most {most} bytes were locked, {locked} are, as before");
}

/// Mappings of the size a region has, of memory that belongs to no file.
///
/// The heap and the stacks of threads are mappings as well, and stay; what a region leaves would be writable, private and of
/// whole pages like them. So what is counted is bytes, of those that are none of theirs.
fn mappings() -> u64 {
    let maps = std::fs::read_to_string("/proc/self/smaps").unwrap();
    // What is locked says so (`lo`); what is pageable here asked for huge pages (`hg`). Neither heap nor stacks do.
    let flags = maps.lines().filter_map(|line| line.strip_prefix("VmFlags:"));
    flags.filter(|flags| flags.split_whitespace().any(|flag| matches!(flag, "lo" | "hg"))).count() as u64
}

fn run(ops: u64, seed: u64) -> (u64, u64) {
    let pool = PoolConfig::new(BUDGET).lock(LockPolicy::WithinAllowance).build(OsLocker).unwrap();
    let manager = PinnedManager::new(pool);
    let (done, most) = (AtomicU64::new(0), AtomicU64::new(0));
    std::thread::scope(|scope| {
        for thread in 0..2 {
            let (manager, done, most) = (manager.clone(), &done, &most);
            scope.spawn(move || one(&manager, ops / 2, Rng(seed * 2 + thread), done, most));
        }
    });
    let pool = manager.pool();
    assert_eq!((pool.stats().slices, pool.stats().in_use, manager.managed()), (0, 0, (0, 0)));
    let stats = pool.memory_stats();
    assert_eq!(stats.active_requests.allocated, stats.active_requests.freed);
    assert_eq!(stats.active_bytes.allocated, stats.active_bytes.freed);
    (done.into_inner(), most.into_inner())
}

fn one(manager: &PinnedManager<OsRegion>, ops: u64, mut rng: Rng, done: &AtomicU64, most: &AtomicU64) {
    let pool = manager.pool();
    let mut live: Vec<(u8, PinnedBuffer<OsRegion>)> = Vec::new();
    for op in 0..ops {
        match rng.below(1000) {
            0..500 => {
                let bytes = rng.length();
                let got = if op % 3 == 0 {
                    // In the past: what is not there now is not waited for, but asked for in the queue.
                    manager.allocate_until(bytes, 1, &Wait::until(Instant::now()))
                } else {
                    manager.allocate(bytes, 1)
                };
                match got {
                    Ok(mut buffer) => {
                        let bytes = buffer.get_mut().unwrap();
                        let last = bytes.len() - 1;
                        (bytes[0], bytes[last]) = (op as u8, op as u8);
                        live.push((op as u8, buffer));
                    }
                    Err(HostError::Full { .. } | HostError::Timeout { .. }) => {
                        live.truncate(live.len() / 2);
                    }
                    // The budget is at its lowest just then.
                    Err(HostError::TooLarge { asked, capacity }) => assert!(asked > capacity),
                    Err(error) => panic!("{error}"),
                }
            }
            500..990 if !live.is_empty() => {
                let (tag, buffer) = live.swap_remove(rng.below(live.len()));
                let bytes = buffer.as_slice();
                assert_eq!((bytes[0], bytes[bytes.len() - 1]), (tag, tag));
                match rng.below(3) {
                    0 => drop(buffer),
                    1 => assert!(manager.free(&buffer) && !manager.manages(&buffer)),
                    _ => drop(buffer.into_slice().unwrap()),
                }
            }
            990..995 => drop(pool.trim(rng.below(BUDGET as usize) as u64)),
            995..997 => drop(pool.set_budget(BUDGET / 4 + rng.below(BUDGET as usize) as u64)),
            997 => drop(pool.set_budget(BUDGET)),
            _ => {
                let stats = pool.stats();
                assert!(stats.locked + stats.pageable == stats.capacity && stats.cached <= stats.capacity);
                most.fetch_max(stats.locked, Ordering::Relaxed);
            }
        }
        done.fetch_add(1, Ordering::Relaxed);
    }
}
