//! Pools that make their regions: what they lock, what they give back, and what they say when they cannot.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on stops where it stands")]

use pinned_host::{
    CancelToken, HostError, HostPool, HostRegion, LockPolicy, OsLocker, OsRegion, PageLocker, PoolConfig,
    Wait,
};
use proptest::prelude::*;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// A locker that only counts: its memory is never touched, so there need not be any.
#[derive(Clone, Default)]
struct Counting {
    books: Arc<Books>,
}

#[derive(Default)]
struct Books {
    locked: AtomicU64,
    peak: AtomicU64,
    regions: AtomicU64,
    /// More is refused; 0: nothing is.
    limit: AtomicU64,
    panics: AtomicBool,
    pageable: AtomicBool,
}

struct Counted {
    bytes: usize,
    locked: bool,
    books: Arc<Books>,
}

// SAFETY: no test reads or writes the bytes of such a region.
unsafe impl HostRegion for Counted {
    fn base(&self) -> NonNull<u8> {
        NonNull::dangling()
    }
    fn len(&self) -> usize {
        self.bytes
    }
    fn is_locked(&self) -> bool {
        self.locked
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        if self.locked {
            self.books.locked.fetch_sub(self.bytes as u64, Ordering::SeqCst);
        }
    }
}

impl PageLocker for Counting {
    type Region = Counted;
    type Error = HostError;

    fn lock(&self, bytes: usize) -> Result<Counted, HostError> {
        let books = &self.books;
        assert!(!books.panics.load(Ordering::SeqCst), "as asked");
        let (asked, limit) = (bytes as u64, books.limit.load(Ordering::SeqCst));
        let locked = books.locked.fetch_add(asked, Ordering::SeqCst);
        if limit > 0 && locked + asked > limit {
            books.locked.fetch_sub(asked, Ordering::SeqCst);
            return Err(HostError::LockLimit { limit, asked, locked });
        }
        books.peak.fetch_max(locked + asked, Ordering::SeqCst);
        books.regions.fetch_add(1, Ordering::SeqCst);
        Ok(Counted { bytes, locked: true, books: Arc::clone(books) })
    }

    fn allowance(&self) -> Option<u64> {
        let limit = self.books.limit.load(Ordering::SeqCst);
        (limit > 0).then(|| limit - self.books.locked.load(Ordering::SeqCst))
    }

    fn pageable(&self, bytes: usize) -> Option<Result<Counted, HostError>> {
        let books = Arc::clone(&self.books);
        self.books.pageable.load(Ordering::SeqCst).then_some(Ok(Counted { bytes, locked: false, books }))
    }
}

impl Counting {
    fn locked(&self) -> u64 {
        self.books.locked.load(Ordering::SeqCst)
    }
}

const MIB: u64 = 1 << 20;

/// Elements of each parameter.
fn gpt2() -> Vec<u64> {
    let layer = [768, 768, 768 * 2304, 2304, 768 * 768, 768, 768, 768, 768 * 3072, 3072, 3072 * 768, 768];
    let layers = std::iter::repeat_n(layer, 12).flatten();
    [50257 * 768, 1024 * 768].into_iter().chain(layers).chain([768, 768]).collect()
}

fn llama_7b() -> Vec<u64> {
    let (wide, ffn) = (4096_u64, 11008_u64);
    let layer = [wide * wide; 4].into_iter().chain([wide * ffn; 3]).chain([wide, wide]);
    let layers = std::iter::repeat_n(layer.collect::<Vec<_>>(), 32).flatten();
    [32000 * wide].into_iter().chain(layers).chain([wide, 32000 * wide]).collect()
}

/// Locks what so many requests ask for, one after the other and without knowing what will follow; returns locked by asked.
fn locked_over_requested(name: &str, requests: impl Iterator<Item = u64>) -> f64 {
    let locker = Counting::default();
    let pool = PoolConfig::new(u64::MAX).build(locker.clone()).unwrap();
    let slices: Vec<_> = requests.map(|bytes| pool.allocate(bytes as usize).unwrap()).collect();
    let asked: u64 = slices.iter().map(|slice| slice.len() as u64).sum();
    let (locked, regions) = (locker.locked(), pool.stats().regions);
    let powers: u64 = slices.iter().map(|slice| slice.len().next_power_of_two() as u64).sum();
    let ratio = locked as f64 / asked as f64;
    println!(
        "{name}: {} slices, {asked} bytes asked, {locked} locked in {regions} regions: {ratio:.4} (powers of two: {:.4})",
        slices.len(),
        powers as f64 / asked as f64
    );
    drop(slices);
    assert_eq!(pool.trim(0), locked);
    assert_eq!((locker.locked(), pool.stats().regions), (0, 0));
    ratio
}

#[test]
fn little_more_is_locked_than_asked_for() {
    // AdamW under ZeRO: a master copy and two moments of each parameter, 4 bytes an element.
    let states = |elements: Vec<u64>| (0..3).flat_map(move |_| elements.clone()).map(|n| n * 4);
    assert!(locked_over_requested("GPT-2 optimizer states", states(gpt2())) <= 1.02);
    assert!(locked_over_requested("Llama-7B optimizer states", states(llama_7b())) <= 1.02);
    assert!(locked_over_requested("a pair", [3_274_752, 658_432].into_iter()) <= 1.02);
    // In the order of the parameters, three states each.
    let by_parameter = gpt2().into_iter().flat_map(|n| [n * 4; 3]);
    assert!(locked_over_requested("GPT-2, state by state", by_parameter) <= 1.02);
}

#[test]
fn small_slices_take_at_most_an_eighth_more() {
    let pool = PoolConfig::new(u64::MAX).build(Counting::default()).unwrap();
    let lengths =
        [128_u64, 129, 500, 512, 513, 600, 1000, 4096, 4097, 5000, 9000, 32_767, 32_768, 33_000, 70_001];
    for bytes in lengths {
        let slices: Vec<_> = (0..1000).map(|_| pool.allocate(bytes as usize).unwrap()).collect();
        let (in_use, asked) = (pool.stats().in_use, bytes * 1000);
        assert!(in_use <= asked + asked / 8, "{bytes}: {in_use} of {asked}");
        // And so does all of it, with what alignment leaves between two, but for the end of the latest region.
        let ends = pool.stats().capacity;
        assert!(ends <= asked + asked / 8 + (256 << 10), "{bytes}: {ends} of {asked}");
        drop(slices);
        pool.trim(0);
    }
}

#[test]
fn a_budget_is_kept_and_idle_regions_make_room() {
    let locker = Counting::default();
    let pool = PoolConfig::new(4 * MIB).build(locker.clone()).unwrap();
    assert_eq!(pool.max_slice() as u64, 4 * MIB);
    let three = pool.allocate(3 << 20).unwrap();
    let refused = pool.allocate(2 << 20).unwrap_err();
    assert!(
        matches!(
            refused,
            HostError::Full {
                asked: 0x20_0000,
                budget: 0x40_0000,
                untaken: 0x10_0000,
                free: 0,
                largest: 0,
                waiters: 0
            }
        ),
        "{refused}"
    );
    let never = pool.allocate((4 << 20) + 1).unwrap_err();
    assert!(matches!(never, HostError::TooLarge { asked: 0x40_0001, capacity: 0x40_0000 }), "{never}");
    // What is left of the budget, but no more.
    let one = pool.allocate(1 << 20).unwrap();
    assert_eq!(locker.locked(), 4 * MIB);
    drop(three);
    assert_eq!((pool.stats().cached, pool.stats().capacity), (3 * MIB, 4 * MIB), "kept for later");
    // Fits no hole: the idle region goes for it, and only now.
    drop(one);
    let four = pool.allocate(4 << 20).unwrap();
    assert_eq!((locker.locked(), pool.stats().regions), (4 * MIB, 1));
    assert_eq!(locker.books.peak.load(Ordering::SeqCst), 4 * MIB, "never more, not even for a moment");
    drop((four, pool));
    assert_eq!(locker.locked(), 0);
}

#[test]
fn a_region_is_kept_within_the_cached_size() {
    let locker = Counting::default();
    let pool = PoolConfig::new(64 * MIB).cached(MIB).build(locker.clone()).unwrap();
    let [small, large] = [1 << 20, 8 << 20].map(|bytes| pool.allocate(bytes).unwrap());
    drop(large);
    assert_eq!(locker.locked(), MIB, "more than is kept");
    drop(small);
    assert_eq!((locker.locked(), pool.stats().cached), (MIB, MIB));
    assert_eq!((pool.trim(MIB), pool.trim(0), pool.trim(0)), (0, MIB, 0));
    let stats = pool.memory_stats();
    assert_eq!((stats.num_host_alloc, stats.num_host_free), (2, 2));
    assert_eq!((stats.allocated_bytes.peak, stats.allocated_bytes.current), (9 * MIB, 0));
    assert_eq!((stats.active_requests.allocated, stats.active_requests.freed), (2, 2));
    assert_eq!(stats.entries().count(), 28);
    pool.reset_accumulated_stats();
    pool.reset_peak_stats();
    assert_eq!(pool.memory_stats(), pinned_host::HostMemoryStats::default());
}

#[test]
fn the_budget_can_change() {
    let locker = Counting::default();
    let pool = PoolConfig::new(2 * MIB).build(locker.clone()).unwrap();
    let held = pool.allocate(2 << 20).unwrap();
    assert!(matches!(pool.allocate(1), Err(HostError::Full { .. })));
    assert_eq!(pool.set_budget(3 * MIB).unwrap(), 0);
    let more = pool.allocate(1 << 20).unwrap();
    assert_eq!(pool.set_budget(MIB).unwrap(), 2 * MIB, "what is in use stays");
    drop(more);
    assert_eq!((locker.locked(), pool.stats().cached), (2 * MIB, 0), "and goes when it is idle");
    assert!(matches!(pool.allocate(4096), Err(HostError::Full { .. })));
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| pool.allocate_until(1 << 20, &Wait::forever()).map(|slice| slice.len()));
        until_waiting(&pool, 1);
        pool.set_budget(MIB / 2).unwrap();
        let refused = waiting.join().unwrap().unwrap_err();
        assert!(matches!(refused, HostError::TooLarge { asked: 0x10_0000, capacity: 0x8_0000 }), "{refused}");
        let waiting = scope.spawn(|| pool.allocate_until(1 << 18, &Wait::forever()).map(|slice| slice.len()));
        until_waiting(&pool, 1);
        pool.set_budget(3 * MIB).unwrap();
        assert_eq!(waiting.join().unwrap().unwrap(), 1 << 18, "a waiter takes what there is now");
    });
    drop(held);
    assert_eq!(pool.set_budget(0).unwrap(), 0);
    assert_eq!(locker.locked(), 0);
    assert!(matches!(pool.allocate(1), Err(HostError::TooLarge { asked: 1, capacity: 0 })));

    let fixed = HostPool::new(vec![locker.lock(4096).unwrap()], 64).unwrap();
    assert!(matches!(fixed.set_budget(1 << 20), Err(HostError::FixedRegions)));
    assert_eq!((fixed.trim(0), fixed.stats().budget), (0, 4096));
}

fn until_waiting<R: HostRegion>(pool: &HostPool<R>, callers: usize) {
    while pool.stats().waiters != callers {
        std::thread::yield_now();
    }
}

#[test]
fn what_the_locker_says_is_said_and_nothing_stays_counted() {
    let locker = Counting::default();
    locker.books.limit.store(2 * MIB, Ordering::SeqCst);
    let pool = PoolConfig::new(u64::MAX).build(locker.clone()).unwrap();
    let kept = pool.allocate(1 << 20).unwrap();
    let refused = pool.allocate(2 << 20).unwrap_err();
    assert!(
        matches!(refused, HostError::LockLimit { limit: 0x20_0000, asked: 0x20_0000, locked: 0x10_0000 }),
        "{refused}"
    );
    // Waiting is worth it while something is in use; then the refusal is said.
    let late = pool.allocate_until(2 << 20, &Wait::until(Instant::now())).unwrap_err();
    assert!(matches!(late, HostError::Timeout { asked: 0x20_0000, .. }), "{late}");
    drop(kept);
    let never = pool.allocate_until(3 << 20, &Wait::forever()).unwrap_err();
    assert!(matches!(never, HostError::LockLimit { .. }), "{never}");
    assert_eq!((pool.stats().capacity, pool.stats().waiters), (MIB, 0));

    let stats = pool.stats();
    locker.books.panics.store(true, Ordering::SeqCst);
    let broken = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| pool.allocate(8 << 20)));
    assert!(broken.is_err());
    locker.books.panics.store(false, Ordering::SeqCst);
    assert_eq!(pool.stats(), stats, "a panic of the locker's leaves nothing pending");
    pool.set_budget(2 * MIB).unwrap();
    assert!(pool.allocate(2 << 20).is_ok(), "neither against the budget");
}

#[test]
fn what_may_not_be_locked_is_pageable_where_that_is_allowed() {
    let locker = Counting::default();
    locker.books.limit.store(MIB, Ordering::SeqCst);
    locker.books.pageable.store(true, Ordering::SeqCst);
    let config = PoolConfig::new(8 * MIB).lock(LockPolicy::WithinAllowance);
    let pool = config.clone().build(locker.clone()).unwrap();
    let slices = [1 << 19, 1 << 20, 1 << 19].map(|bytes| pool.allocate(bytes).unwrap());
    assert_eq!(slices.each_ref().map(|slice| slice.is_locked()), [true, false, true]);
    assert_eq!((pool.stats().locked, pool.stats().pageable), (MIB, MIB));
    let never = config.clone().lock(LockPolicy::Never).build(locker.clone()).unwrap();
    assert!(!never.allocate(10).unwrap().is_locked());
    locker.books.pageable.store(false, Ordering::SeqCst);
    let never = config.lock(LockPolicy::Never).build(locker).unwrap();
    assert!(matches!(never.allocate(10), Err(HostError::NoPageable)));
}

#[test]
fn who_may_release_something_is_asked_once_and_before_a_refusal() {
    let cache = Arc::new(Mutex::new(Vec::new()));
    let calls = Arc::new(Mutex::new(Vec::new()));
    let (inner, seen) = (Arc::clone(&cache), Arc::clone(&calls));
    let own: Arc<Mutex<Option<HostPool<Counted>>>> = Arc::default();
    let inside = Arc::clone(&own);
    let config = PoolConfig::new(2 * MIB).on_pressure(move |pressure| {
        seen.lock().unwrap().push(pressure.asked);
        assert_eq!(pressure.budget, 2 * MIB);
        // It may use the pool, and does not wait for itself.
        if let Some(pool) = &*inside.lock().unwrap() {
            let error = pool.allocate_until(2 << 20, &Wait::forever()).unwrap_err();
            assert!(matches!(error, HostError::Full { .. }), "{error}");
        }
        inner.lock().unwrap().pop();
    });
    let pool = config.build(Counting::default()).unwrap();
    *own.lock().unwrap() = Some(pool.clone());
    cache.lock().unwrap().extend((0..2).map(|_| pool.allocate(1 << 20).unwrap()));
    let got = pool.allocate(1 << 20).unwrap();
    assert_eq!((cache.lock().unwrap().len(), calls.lock().unwrap().clone()), (1, vec![MIB]));
    let also = pool.allocate_until(1 << 20, &Wait::until(Instant::now())).unwrap();
    assert_eq!(calls.lock().unwrap().len(), 2);
    // Nothing is left to release: once for each request, however often it looks.
    let until = Instant::now() + Duration::from_millis(5);
    assert!(pool.allocate_until(1 << 20, &Wait::until(until)).is_err());
    assert!(pool.allocate(1 << 20).is_err());
    assert_eq!(calls.lock().unwrap().len(), 4);
    assert_eq!(pool.set_budget(2 * MIB).unwrap(), 0);
    assert_eq!(calls.lock().unwrap().len(), 4, "nothing exceeds it");
    *own.lock().unwrap() = None;
    drop((got, also));
}

#[test]
fn waits_can_be_called_off_and_leave_nothing_behind() {
    let pool = PoolConfig::new(MIB).build(Counting::default()).unwrap();
    let held = pool.allocate(1 << 20).unwrap();
    let token = CancelToken::new();
    std::thread::scope(|scope| {
        let waits: Vec<_> = (0..3)
            .map(|_| {
                scope.spawn(|| {
                    let wait = Wait::forever().or_cancelled_by(&token);
                    pool.allocate_until(4096, &wait).map(|slice| slice.len())
                })
            })
            .collect();
        until_waiting(&pool, 3);
        let other = scope.spawn(|| pool.allocate_until(4096, &Wait::forever()).map(|slice| slice.len()));
        until_waiting(&pool, 4);
        token.cancel();
        for wait in waits {
            let error = wait.join().unwrap().unwrap_err();
            assert!(matches!(error, HostError::Cancelled { asked: 4096, .. }), "{error}");
        }
        until_waiting(&pool, 1);
        drop(held);
        assert_eq!(other.join().unwrap().unwrap(), 4096, "who goes by no token waits on");
    });
    assert!(token.is_cancelled());
    let cancelled = Wait::forever().or_cancelled_by(&token);
    assert!(pool.allocate_until(4096, &cancelled).is_ok(), "what needs no wait is had all the same");
    let held = pool.allocate(1 << 20).unwrap();
    assert!(matches!(pool.allocate_until(4096, &cancelled), Err(HostError::Cancelled { .. })));
    drop(held);
}

#[test]
fn alignment_is_what_was_asked_for() {
    let pool = PoolConfig::new(u64::MAX).build(Counting::default()).unwrap();
    let mut slices = Vec::new();
    for align in (0..13).map(|power| 1_usize << power) {
        slices.push(pool.allocate(10).unwrap());
        slices.push(pool.allocate_aligned(24, align).unwrap());
        assert_eq!(slices.last().unwrap().offset() % align.max(16), 0);
    }
    // Kept blocks too: those of 24 bytes that come back have all alignments.
    slices.clear();
    for align in (0..13).map(|power| 1_usize << power) {
        slices.push(pool.allocate_aligned(24, align).unwrap());
        assert_eq!(slices.last().unwrap().offset() % align, 0);
    }
    for align in [0, 3, 8192] {
        assert!(matches!(pool.allocate_aligned(24, align), Err(HostError::BadAlign { .. })));
    }
    assert!(matches!(PoolConfig::new(1).grain(0).build(OsLocker), Err(HostError::BadGrain { grain: 0 })));
}

#[test]
fn the_longest_slice_is_one_that_there_can_be() {
    let config = |budget, grain| PoolConfig::new(budget).grain(grain).build(Counting::default()).unwrap();
    for (budget, grain, most) in
        [(10_000, 16, 8192), (1000, 16, 0), (100_000, 65_536, 65_536), (4096, 16, 4096), (0, 16, 0)]
    {
        let pool = config(budget, grain);
        assert_eq!(pool.max_slice(), most);
        assert!(most == 0 || pool.allocate(most).is_ok());
        let never = pool.allocate_until(most + 1, &Wait::forever()).unwrap_err();
        assert!(matches!(never, HostError::TooLarge { .. }), "{never}");
    }
    let unbounded = config(u64::MAX, 16);
    assert!(unbounded.max_slice() > usize::MAX / 4);
    for bytes in [usize::MAX, isize::MAX as usize] {
        let never = unbounded.allocate_until(bytes, &Wait::forever()).unwrap_err();
        assert!(matches!(never, HostError::TooLarge { .. }), "{never}");
    }
    // The locker that counts gives it, one of the system's says what it has.
    assert!(unbounded.allocate(1 << 60).is_ok());
    let real = PoolConfig::new(u64::MAX).lock(LockPolicy::Never).build(OsLocker).unwrap();
    let refused = real.allocate_until(1 << 60, &Wait::forever()).unwrap_err();
    assert!(matches!(refused, HostError::MemoryLimit { .. } | HostError::Map { .. }), "{refused}");
}

#[test]
fn a_long_grain_counts_whole_regions() {
    for region in [0, 69_632] {
        let locker = Counting::default();
        let pool = PoolConfig::new(64 * MIB).grain(65_536).region(region).build(locker.clone()).unwrap();
        let mut slices = Vec::new();
        while let Ok(slice) = pool.allocate(1) {
            slices.push(slice);
        }
        assert_eq!(slices.len(), 1024);
        assert_eq!((locker.locked(), pool.stats().capacity), (64 * MIB, 64 * MIB));
    }
}

#[test]
fn idle_memory_makes_way_when_the_locker_refuses() {
    let locker = Counting::default();
    locker.books.limit.store(8 * MIB, Ordering::SeqCst);
    let pool = PoolConfig::new(64 * MIB).build(locker.clone()).unwrap();
    let idle: Vec<_> = (0..6).map(|_| pool.allocate(1 << 20).unwrap()).collect();
    drop(idle);
    assert_eq!(pool.stats().cached, 6 * MIB);
    let slice = pool.allocate(4 << 20).unwrap();
    assert_eq!((slice.len(), pool.stats().capacity), (4 << 20, 4 * MIB));

    // And it stays locked where it could be pageable.
    let locker = Counting::default();
    locker.books.limit.store(4 * MIB, Ordering::SeqCst);
    locker.books.pageable.store(true, Ordering::SeqCst);
    let config = PoolConfig::new(64 * MIB).lock(LockPolicy::WithinAllowance);
    let pool = config.clone().build(locker.clone()).unwrap();
    drop((0..4).map(|_| pool.allocate(1 << 20).unwrap()).collect::<Vec<_>>());
    assert!(pool.allocate(3 << 20).unwrap().is_locked());
    // What a region was to have beyond the request is given up before its lock is.
    let pool = config.region(64 * MIB).build(locker).unwrap();
    assert!(pool.allocate(1 << 20).unwrap().is_locked());
}

#[test]
fn regions_go_with_their_own_last_slices() {
    let locker = Counting::default();
    let pool = PoolConfig::new(u64::MAX).build(locker.clone()).unwrap();
    let (small, large) = (pool.allocate(16).unwrap(), pool.allocate(512 << 20).unwrap());
    drop(pool.allocate(4096).unwrap());
    drop(pool);
    drop(large);
    assert_eq!(locker.locked(), 256 << 10, "the small one's");
    drop(small);
    assert_eq!(locker.locked(), 0);
}

/// Memory whose cache unit is 64 KiB long.
struct Coarse(Counting);

struct CoarseRegion(Counted);

// SAFETY: all of it is the inner region's.
unsafe impl HostRegion for CoarseRegion {
    fn base(&self) -> NonNull<u8> {
        self.0.base()
    }
    fn len(&self) -> usize {
        self.0.len()
    }
    fn atom(&self) -> usize {
        64 << 10
    }
}

impl PageLocker for Coarse {
    type Region = CoarseRegion;
    type Error = HostError;

    fn lock(&self, bytes: usize) -> Result<CoarseRegion, HostError> {
        self.0.lock(bytes).map(CoarseRegion)
    }
}

#[test]
fn an_atom_that_the_grain_does_not_keep_apart_is_refused() {
    let locker = Counting::default();
    let pool = PoolConfig::new(u64::MAX).build(Coarse(locker.clone())).unwrap();
    let refused = pool.allocate(40_000).unwrap_err();
    assert!(matches!(refused, HostError::Atom { atom: 65_536, most: 4096 }), "{refused}");
    assert_eq!((locker.locked(), pool.stats().capacity), (0, 0));
    let pool = PoolConfig::new(u64::MAX).grain(65_536).build(Coarse(locker)).unwrap();
    let slices = [40_000, 1, 70_000].map(|bytes| pool.allocate(bytes).unwrap());
    assert!(slices.iter().all(|slice| slice.offset() % 65_536 == 0));
}

#[test]
fn regions_are_given_back_the_longest_first() {
    let locker = Counting::default();
    let pool = PoolConfig::new(15 * MIB).build(locker.clone()).unwrap();
    let lengths = [1_usize, 2, 4, 8];
    let take = || lengths.map(|mib| pool.allocate(mib << 20).unwrap());
    drop(take());
    assert_eq!((pool.trim(3 * MIB), pool.stats().cached), (12 * MIB, 3 * MIB));
    drop(take());
    // For want of room in the budget the shortest that is enough goes, or else the longest until it is enough.
    let eight = pool.allocate(8 << 20).unwrap();
    let _five = pool.allocate(5 << 20).unwrap();
    assert_eq!((pool.stats().cached, pool.stats().capacity), (MIB, 14 * MIB));
    drop(eight);
    pool.set_budget(14 * MIB).unwrap();
    let _nine = pool.allocate(9 << 20).unwrap();
    assert_eq!((pool.stats().cached, pool.stats().capacity), (0, 14 * MIB));
}

/// A locker whose regions are slow to go: others ask meanwhile.
#[derive(Clone)]
struct Slow(Counting, Arc<dyn Fn() + Send + Sync>);

struct SlowRegion(Option<Counted>, Arc<dyn Fn() + Send + Sync>);

// SAFETY: nothing of it is read or written.
unsafe impl HostRegion for SlowRegion {
    fn base(&self) -> NonNull<u8> {
        NonNull::dangling()
    }
    fn len(&self) -> usize {
        self.0.as_ref().map_or(1, |region| region.len())
    }
}

impl Drop for SlowRegion {
    fn drop(&mut self) {
        (self.1)();
        self.0 = None;
    }
}

impl PageLocker for Slow {
    type Region = SlowRegion;
    type Error = HostError;

    fn lock(&self, bytes: usize) -> Result<SlowRegion, HostError> {
        Ok(SlowRegion(Some(self.0.lock(bytes)?), Arc::clone(&self.1)))
    }
}

#[test]
fn what_is_on_its_way_out_counts_and_counts_once() {
    let locker = Counting::default();
    let inside: Arc<Mutex<Option<HostPool<SlowRegion>>>> = Arc::default();
    let (own, seen) = (Arc::clone(&inside), Arc::new(Mutex::new(Vec::new())));
    let noted = Arc::clone(&seen);
    let going = move || {
        let Some(pool) = own.lock().unwrap().take() else { return };
        // In the midst of another's giving back: what would exceed the budget is refused, what does not is given, and the
        // rest that is idle stays.
        let two = pool.allocate(11 << 20).map(|slice| slice.len());
        noted.lock().unwrap().push((two.is_ok(), pool.set_budget(40 * MIB).unwrap()));
    };
    let pool = PoolConfig::new(40 * MIB).build(Slow(locker.clone(), Arc::new(going))).unwrap();
    let slices = [20_usize, 10].map(|mib| pool.allocate(mib << 20).unwrap());
    let [twenty, ten] = slices;
    drop(twenty);
    *inside.lock().unwrap() = Some(pool.clone());
    let thirty = pool.allocate(30 << 20).unwrap();
    assert_eq!(seen.lock().unwrap().clone(), [(false, 0)]);
    assert!(locker.books.peak.load(Ordering::SeqCst) <= 40 * MIB);
    drop((thirty, ten));
    assert_eq!(pool.stats().cached, 40 * MIB, "nothing was thrown away");
}

#[derive(Debug, Clone)]
enum Op {
    Take(usize),
    Drop(usize),
    Trim(u64),
    Budget(u64),
}

fn op() -> impl Strategy<Value = Op> {
    let len = prop_oneof![1..200usize, 1000..5000usize, 1..100_000usize];
    prop_oneof![
        12 => len.prop_map(Op::Take),
        8 => any::<usize>().prop_map(Op::Drop),
        1 => (0..200_000u64).prop_map(Op::Trim),
        1 => (0..500_000u64).prop_map(Op::Budget),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, cases: 96, ..ProptestConfig::default() })]

    /// Real memory, and tags in it: whatever is locked, given back and made again, a slice's bytes stay its own.
    #[test]
    fn slices_keep_their_bytes_and_the_budget_is_kept(
        ops in proptest::collection::vec(op(), 1..120),
        cached in prop_oneof![Just(u64::MAX), 0..100_000u64],
    ) {
        let pool = PoolConfig::new(300_000).lock(LockPolicy::Never).cached(cached).build(OsLocker).unwrap();
        let mut live: Vec<(u8, pinned_host::PinnedSlice<OsRegion>)> = Vec::new();
        let mut budget = 300_000;
        for (step, op) in ops.into_iter().enumerate() {
            match op {
                Op::Take(len) => match pool.allocate(len) {
                    Ok(mut slice) => {
                        slice.as_mut_slice().fill(step as u8);
                        live.push((step as u8, slice));
                    }
                    Err(HostError::Full { largest, .. }) => prop_assert!(largest < len as u64 + 4096),
                    Err(HostError::TooLarge { asked, capacity }) => prop_assert!(asked > capacity),
                    Err(other) => return Err(TestCaseError::fail(other.to_string())),
                },
                Op::Drop(which) if !live.is_empty() => drop(live.swap_remove(which % live.len())),
                Op::Drop(_) => {}
                Op::Trim(keep) => {
                    pool.trim(keep);
                    prop_assert!(pool.stats().cached <= keep);
                }
                Op::Budget(bytes) => {
                    let over = pool.set_budget(bytes).unwrap();
                    budget = bytes;
                    prop_assert_eq!(over, pool.stats().capacity.saturating_sub(bytes));
                }
            }
            let stats = pool.stats();
            prop_assert!(stats.capacity <= budget || stats.cached == 0, "{:?}", stats);
            prop_assert!(stats.cached <= cached.min(stats.capacity - stats.in_use));
            prop_assert_eq!(stats.slices, live.len());
            let asked: u64 = live.iter().map(|(_, slice)| slice.len() as u64).sum();
            prop_assert!(asked <= stats.in_use && stats.in_use <= asked + 15 * live.len() as u64);
            for (tag, slice) in &live {
                prop_assert!(slice.as_slice().iter().all(|byte| byte == tag), "somebody wrote another's bytes");
            }
        }
        live.clear();
        pool.trim(0);
        prop_assert_eq!((pool.stats().capacity, pool.stats().regions, pool.stats().in_use), (0, 0, 0));
    }
}

#[test]
fn threads_that_take_give_and_trim_keep_the_budget_and_their_bytes() {
    let locker = Watched::default();
    let pool = PoolConfig::new(2 * MIB).build(locker.clone()).unwrap();
    let most = 3 * 4 * (64 << 10);
    std::thread::scope(|scope| {
        for thread in 0..4_u64 {
            let pool = pool.clone();
            scope.spawn(move || {
                let mut state = thread + 1;
                let mut live: Vec<(u8, pinned_host::PinnedSlice<WatchedRegion>)> = Vec::new();
                for round in 0..3000_u32 {
                    state = state.wrapping_mul(0x5851_F42D_4C95_7F2D).wrapping_add(0x1405_7B7E_F767_814F);
                    let bytes = 1 + (state >> 33) as usize % (64 << 10);
                    if live.len() == 3 {
                        let (tag, slice) = live.swap_remove((state >> 20) as usize % 3);
                        assert!(slice.as_slice().iter().all(|&byte| byte == tag));
                    }
                    // Nobody holds so much that the others' three do not fit.
                    let mut slice = pool.allocate_until(bytes, &Wait::forever()).unwrap();
                    let tag = (round as u8) ^ (thread as u8) << 6;
                    slice.as_mut_slice().fill(tag);
                    live.push((tag, slice));
                    if round % 100 == thread as u32 {
                        pool.trim(0);
                    }
                }
            });
        }
    });
    assert!(most < 2 * MIB);
    assert!(locker.peak.load(Ordering::SeqCst) <= 2 * MIB, "{}", locker.peak.load(Ordering::SeqCst));
    let stats = pool.stats();
    assert_eq!((stats.in_use, stats.slices, stats.waiters), (0, 0, 0));
    assert_eq!(pool.trim(0), stats.capacity);
    assert_eq!(locker.now.load(Ordering::SeqCst), 0);
}

/// Real memory, counted.
#[derive(Clone, Default)]
struct Watched {
    now: Arc<AtomicU64>,
    peak: Arc<AtomicU64>,
}

struct WatchedRegion(OsRegion, Arc<AtomicU64>);

// SAFETY: all of it is the inner region's.
unsafe impl HostRegion for WatchedRegion {
    fn base(&self) -> NonNull<u8> {
        self.0.base()
    }
    fn len(&self) -> usize {
        self.0.len()
    }
}

impl Drop for WatchedRegion {
    fn drop(&mut self) {
        self.1.fetch_sub(self.0.len() as u64, Ordering::SeqCst);
    }
}

impl PageLocker for Watched {
    type Region = WatchedRegion;
    type Error = HostError;

    fn lock(&self, bytes: usize) -> Result<WatchedRegion, HostError> {
        let region = OsLocker.pageable(bytes).unwrap()?;
        let now = self.now.fetch_add(region.len() as u64, Ordering::SeqCst) + region.len() as u64;
        self.peak.fetch_max(now, Ordering::SeqCst);
        Ok(WatchedRegion(region, Arc::clone(&self.now)))
    }
}
