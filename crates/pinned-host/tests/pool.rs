//! The pool and the ring against a shadow model, and under threads.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on stops where it stands")]

use pinned_host::{
    HostError, HostPool, HostRegion, Lane, LockPolicy, OsLocker, OsRegion, PageLocker, PinnedSlice,
    StagingConfig, StagingError, StagingRing,
};
use proptest::prelude::*;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Instant;

fn pool(regions: &[usize], grain: u64) -> HostPool<OsRegion> {
    HostPool::new(regions.iter().map(|&bytes| region(bytes)).collect(), grain).unwrap()
}

fn region(bytes: usize) -> OsRegion {
    OsLocker.pageable(bytes).unwrap().unwrap()
}

#[derive(Debug, Clone)]
enum Op {
    Take(usize),
    Drop(usize),
}

fn op() -> impl Strategy<Value = Op> {
    let len = prop_oneof![1..200usize, 4000..5000usize, 1..20_000usize, 32_000..33_000usize];
    prop_oneof![3 => len.prop_map(Op::Take), 2 => any::<usize>().prop_map(Op::Drop)]
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, cases: 128, ..ProptestConfig::default() })]

    /// Two oracles: addresses say that no two slices overlap, tags say that nobody wrote another's bytes.
    #[test]
    fn slices_never_overlap_and_counts_are_exact(
        ops in proptest::collection::vec(op(), 1..150),
        grain in (0..9u32).prop_map(|power| 1u64 << power),
    ) {
        let regions = [8192, 131_072];
        let pool = pool(&regions, grain);
        let mut live: Vec<(u8, PinnedSlice<OsRegion>)> = Vec::new();
        let (mut in_use, mut peak) = (0, 0);
        for (step, op) in ops.into_iter().enumerate() {
            match op {
                Op::Take(len) => match pool.allocate(len) {
                    Ok(mut slice) => {
                        prop_assert_eq!(slice.len(), len);
                        let align = match len {
                            32_768.. => 4096,
                            512.. => 64,
                            _ => 16,
                        };
                        let align = align.max(grain as usize);
                        prop_assert_eq!(slice.offset() % align, 0);
                        prop_assert_eq!(slice.as_ptr() as usize % align.min(4096), 0);
                        prop_assert!(slice.offset() + len <= slice.region().len());
                        slice.as_mut_slice().fill(step as u8);
                        live.push((step as u8, slice));
                        in_use += (len as u64).next_multiple_of(grain);
                        peak = peak.max(in_use);
                    }
                    Err(HostError::Full { asked, free, waiters, .. }) => {
                        prop_assert_eq!((asked, free, waiters), (len as u64, pool.stats().capacity - in_use, 0));
                    }
                    Err(other) => return Err(TestCaseError::fail(other.to_string())),
                },
                Op::Drop(which) if !live.is_empty() => {
                    let (_, slice) = live.swap_remove(which % live.len());
                    in_use -= (slice.len() as u64).next_multiple_of(grain);
                }
                Op::Drop(_) => {}
            }
            let mut spans: Vec<_> = live.iter().map(|(_, s)| (s.as_ptr() as usize, s.len())).collect();
            spans.sort_unstable();
            prop_assert!(spans.windows(2).all(|pair| pair[0].0 + pair[0].1 <= pair[1].0), "slices overlap");
            for (tag, slice) in &live {
                prop_assert!(slice.as_slice().iter().all(|byte| byte == tag), "somebody wrote another's bytes");
            }
            let stats = pool.stats();
            prop_assert_eq!((stats.in_use, stats.peak_in_use, stats.slices), (in_use, peak, live.len()));
        }
        drop(live);
        let stats = pool.stats();
        prop_assert_eq!((stats.in_use, stats.slices, stats.largest_hole), (0, 0, 131_072));
        prop_assert!(pool.allocate(131_072).is_ok(), "all holes have grown together again");
    }
}

#[test]
fn what_can_never_work_is_refused_at_once() {
    let pool = pool(&[4096, 16384], 64);
    assert_eq!(pool.max_slice(), 16384);
    assert!(matches!(pool.allocate(0), Err(HostError::ZeroSize)));
    assert!(matches!(pool.allocate_deadline(0, None), Err(HostError::ZeroSize)));
    let never = pool.allocate_deadline(16385, None).unwrap_err();
    assert!(matches!(never, HostError::TooLarge { asked: 16385, capacity: 16384 }), "{never}");
    assert!(matches!(pool.allocate(usize::MAX), Err(HostError::TooLarge { .. })));
    assert!(matches!(HostPool::new(vec![region(4096)], 48), Err(HostError::BadGrain { grain: 48 })));
    assert!(matches!(HostPool::new(vec![region(4096)], 0), Err(HostError::BadGrain { grain: 0 })));
    assert!(matches!(HostPool::new(vec![region(1)], 1 << 40), Err(HostError::ZeroSize)));
    let none = HostPool::<OsRegion>::new(vec![], 64).unwrap();
    assert!(matches!(none.allocate(1), Err(HostError::TooLarge { asked: 1, capacity: 0 })));
    assert!(matches!(OsLocker.lock(0), Err(HostError::ZeroSize)));
    assert!(matches!(OsLocker.lock(usize::MAX), Err(HostError::Map { .. })));
}

/// Tells when it goes, and what was prepared of it.
struct Watched {
    region: OsRegion,
    gone: Arc<AtomicBool>,
    prepared: Arc<AtomicU64>,
    panics: Arc<AtomicBool>,
}

// SAFETY: all of it is the inner region's.
unsafe impl HostRegion for Watched {
    fn base(&self) -> NonNull<u8> {
        self.region.base()
    }
    fn len(&self) -> usize {
        self.region.len()
    }
    fn is_locked(&self) -> bool {
        false
    }
    fn prepare(&self, offset: usize, bytes: usize) {
        assert!(!self.panics.load(Ordering::Relaxed), "as asked");
        assert!(offset + bytes <= self.len());
        assert_eq!(
            self.prepared.fetch_add(bytes as u64, Ordering::Relaxed),
            offset as u64,
            "prepared in order"
        );
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        self.gone.store(true, Ordering::Relaxed);
    }
}

fn watched(bytes: usize) -> (HostPool<Watched>, Arc<AtomicBool>, Arc<AtomicU64>, Arc<AtomicBool>) {
    let (gone, prepared, panics) = (Arc::default(), Arc::default(), Arc::default());
    let region = Watched {
        region: region(bytes),
        gone: Arc::clone(&gone),
        prepared: Arc::clone(&prepared),
        panics: Arc::clone(&panics),
    };
    (HostPool::new(vec![region], 64).unwrap(), gone, prepared, panics)
}

#[test]
fn a_region_outlives_its_pool_until_the_last_slice_is_gone() {
    let (pool, gone, ..) = watched(8192);
    let mut one = pool.allocate(100).unwrap();
    let two = pool.clone().allocate(100).unwrap();
    drop(pool);
    one.as_mut_slice().fill(1);
    drop(one);
    assert!(!gone.load(Ordering::Relaxed));
    assert_eq!(two.len(), 100);
    drop(two);
    assert!(gone.load(Ordering::Relaxed));
}

#[test]
fn pages_are_prepared_once_and_a_panic_there_loses_nothing() {
    let (pool, _, prepared, _) = watched(8192);
    let count = || prepared.load(Ordering::Relaxed);
    drop(pool.allocate(100).unwrap());
    assert_eq!(count(), 128);
    drop(pool.allocate(128).unwrap());
    assert_eq!(count(), 128, "touched before");
    drop(pool.allocate(8192).unwrap());
    assert_eq!(count(), 8192);

    let (pool, _, _, panics) = watched(8192);
    panics.store(true, Ordering::Relaxed);
    let broken = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| pool.allocate(100)));
    assert!(broken.is_err());
    assert_eq!((pool.stats().slices, pool.stats().in_use), (0, 0));
}

/// Waits, spinning, until that many callers wait for room.
fn until_waiting(pool: &HostPool<OsRegion>, callers: usize) {
    while pool.stats().waiters != callers {
        std::thread::yield_now();
    }
}

#[test]
fn waiters_are_served_in_order_of_arrival() {
    let pool = pool(&[4096], 64);
    let held = pool.allocate(4096).unwrap();
    let served = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for caller in 0..8 {
            let (pool, served) = (&pool, &served);
            scope.spawn(move || {
                // Alternately all of it and little of it: size makes no difference, and no two hold room together.
                let bytes = if caller % 2 == 0 { 4096 } else { 64 };
                let slice = pool.allocate_deadline(bytes, None).unwrap();
                served.lock().unwrap().push(caller);
                drop(slice);
            });
            until_waiting(pool, caller + 1);
        }
        drop(held);
    });
    let served = served.into_inner().unwrap();
    assert_eq!(served, [0, 1, 2, 3, 4, 5, 6, 7]);
    assert_eq!(pool.stats().waiters, 0);
}

#[test]
fn nobody_overtakes_a_waiter_not_even_where_there_is_room() {
    let pool = pool(&[8192], 64);
    let held = pool.allocate(4096).unwrap();
    std::thread::scope(|scope| {
        let large = scope.spawn(|| pool.allocate_deadline(8192, None).map(|slice| slice.len()));
        until_waiting(&pool, 1);
        let refused = pool.allocate(64).unwrap_err();
        assert!(
            matches!(
                refused,
                HostError::Full {
                    asked: 64,
                    budget: 8192,
                    untaken: 0,
                    free: 4096,
                    largest: 4096,
                    waiters: 1
                }
            ),
            "{refused}"
        );
        let late = pool.allocate_deadline(64, Some(Instant::now())).unwrap_err();
        assert!(matches!(late, HostError::Timeout { asked: 64, .. }), "{late}");
        assert_eq!(pool.stats().waiters, 1, "who gave up has left the queue");
        drop(held);
        assert_eq!(large.join().unwrap().unwrap(), 8192);
    });
    assert!(pool.allocate(64).is_ok());
}

#[test]
fn a_waiter_that_gives_up_lets_the_next_one_through() {
    let pool = pool(&[8192], 64);
    let held = pool.allocate(4096).unwrap();
    std::thread::scope(|scope| {
        // It can only time out: `held` stays until the end. Who stands behind it fits beside `held`.
        let large = scope.spawn(|| {
            let deadline = Instant::now() + std::time::Duration::from_millis(100);
            pool.allocate_deadline(8192, Some(deadline)).map(|slice| slice.len())
        });
        while pool.stats().waiters == 0 && !large.is_finished() {
            std::thread::yield_now();
        }
        let small = scope.spawn(|| pool.allocate_deadline(64, None).map(|slice| slice.len()));
        assert!(matches!(large.join().unwrap(), Err(HostError::Timeout { asked: 8192, .. })));
        assert_eq!(small.join().unwrap().unwrap(), 64);
    });
    drop(held);
}

#[test]
fn eight_threads_share_one_slot_and_all_finish() {
    let ring = StagingRing::new(pool(&[4096], 64), pool(&[4096], 64));
    let alone = [AtomicBool::new(false), AtomicBool::new(false)];
    std::thread::scope(|scope| {
        for thread in 0..8u8 {
            let (ring, alone) = (ring.clone(), &alone);
            scope.spawn(move || {
                for round in 0..500u32 {
                    let lane = if (u32::from(thread) + round).is_multiple_of(2) {
                        Lane::Upload
                    } else {
                        Lane::Download
                    };
                    let mut slot = ring.acquire(lane, 4096, None).unwrap();
                    let flag = &alone[usize::from(lane == Lane::Upload)];
                    assert!(!flag.swap(true, Ordering::Acquire), "two hold one slot");
                    slot.as_mut_slice()[..64].fill(thread);
                    assert!(slot.as_slice()[..64].iter().all(|&byte| byte == thread));
                    flag.store(false, Ordering::Release);
                }
            });
        }
    });
    let stats = ring.stats();
    assert_eq!(
        (stats.read.in_use, stats.write.in_use, stats.read.waiters, stats.write.waiters),
        (0, 0, 0, 0)
    );
}

/// A locker that only counts: allows so much, and has pageable memory or not.
struct Counting {
    allowance: u64,
    refuses: bool,
    pageable: bool,
}

/// Says it is locked.
struct Said(OsRegion, bool);

// SAFETY: all of it is the inner region's.
unsafe impl HostRegion for Said {
    fn base(&self) -> NonNull<u8> {
        self.0.base()
    }
    fn len(&self) -> usize {
        self.0.len()
    }
    fn is_locked(&self) -> bool {
        self.1
    }
}

impl PageLocker for Counting {
    type Region = Said;
    type Error = HostError;

    fn lock(&self, bytes: usize) -> Result<Said, HostError> {
        let asked = bytes as u64;
        if self.refuses || asked > self.allowance {
            return Err(HostError::LockLimit { limit: self.allowance, asked, locked: 0 });
        }
        Ok(Said(region(bytes), true))
    }

    fn allowance(&self) -> Option<u64> {
        Some(self.allowance)
    }

    fn pageable(&self, bytes: usize) -> Option<Result<Said, HostError>> {
        self.pageable.then(|| Ok(Said(region(bytes), false)))
    }
}

#[test]
fn staging_locks_what_it_may_and_reports_the_rest() {
    let mib = 1u64 << 20;
    let locker = Counting { allowance: 4 * mib, refuses: false, pageable: true };
    let config = StagingConfig { read: 12 << 20, write: 4 << 20, lock: LockPolicy::WithinAllowance };
    let ring = config.build(&locker).unwrap();
    let stats = ring.stats();
    assert_eq!((stats.locked(), stats.pageable()), (4 * mib, 12 * mib));
    assert_eq!((stats.read.locked, stats.write.locked), (3 * mib, mib), "in proportion");
    assert_eq!((ring.budget(Lane::Upload), ring.budget(Lane::Download)), (12 * mib, 4 * mib));
    assert_eq!((ring.max_slice(Lane::Upload), ring.max_slice(Lane::Download)), (9 << 20, 3 << 20));

    let ample = Counting { allowance: 64 * mib, ..locker };
    let stats = config.build(&ample).unwrap().stats();
    assert_eq!((stats.locked(), stats.pageable()), (16 * mib, 0));
    let refusing = Counting { refuses: true, ..ample };
    let stats = config.build(&refusing).unwrap().stats();
    assert_eq!((stats.locked(), stats.pageable()), (0, 16 * mib), "a refusal is soft");
}

/// Memory with a cache unit of 256 bytes that the device does not see.
struct Cached(pinned_host::OsRegion);

// SAFETY: as the region it is.
unsafe impl HostRegion for Cached {
    fn base(&self) -> core::ptr::NonNull<u8> {
        self.0.base()
    }
    fn len(&self) -> usize {
        self.0.len()
    }
    fn atom(&self) -> usize {
        256
    }
}

#[test]
fn slices_never_share_an_atom() {
    let region = Cached(OsLocker.pageable(8192).unwrap().unwrap());
    let pool = HostPool::new(vec![region], 4).unwrap();
    let slices: Vec<_> = [1, 100, 256, 257].map(|bytes| pool.allocate(bytes).unwrap()).into();
    for slice in &slices {
        assert_eq!(slice.offset() % 256, 0);
    }
    let mut used: Vec<_> =
        slices.iter().map(|slice| (slice.offset(), slice.offset() + slice.len())).collect();
    used.sort_unstable();
    assert!(used.windows(2).all(|pair| pair[0].1.next_multiple_of(256) <= pair[1].0), "{used:?}");
}

#[test]
fn staging_that_must_be_locked_says_why_it_cannot_be() {
    let locker = Counting { allowance: 4 << 20, refuses: false, pageable: true };
    let config = StagingConfig { read: 16 << 20, write: 16 << 20, lock: LockPolicy::Required };
    let error = config.build(&locker).unwrap_err();
    let StagingError::Locker(HostError::LockLimit { limit, asked, .. }) = &error else { panic!("{error}") };
    assert_eq!((*limit, *asked), (4 << 20, 16 << 20));
    let message = error.to_string();
    for part in ["4194304", "16777216", "ulimit -l", "limits.conf", "CAP_IPC_LOCK"] {
        assert!(message.contains(part), "{message:?} lacks {part:?}");
    }
    let only_locked = Counting { allowance: 4 << 20, refuses: false, pageable: false };
    let less = StagingConfig { lock: LockPolicy::WithinAllowance, ..config }.build(&only_locked).unwrap();
    assert_eq!((less.stats().locked(), less.stats().pageable()), (4 << 20, 0), "less, but some");
    let none = StagingConfig { lock: LockPolicy::Never, ..config }.build(&only_locked);
    assert!(matches!(none, Err(StagingError::NoPageable)));
    let refused = Counting { refuses: true, ..only_locked };
    let error = StagingConfig { lock: LockPolicy::WithinAllowance, ..config }.build(&refused).unwrap_err();
    assert!(matches!(error, StagingError::Locker(HostError::LockLimit { .. })), "{error}");
}
